"""Whatever ends a run, what was drawn comes back."""

import shutil
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.distributions import Bernoulli, HalfNormal, Normal

import hiertorch as ht
from hiertorch import fitting
from hiertorch.draws.judgement import Judgement
from hiertorch.errors import InterruptedRunError, SamplingWarning
from hiertorch.monitors import Monitor, Window
from hiertorch.posterior import Posterior
from hiertorch.run.ending import Ending, keep
from hiertorch.run.independence import Independence
from hiertorch.run.ordinary import Ordinary
from hiertorch.runtime.interruption import Signals, ended_by

pytestmark = pytest.mark.filterwarnings("ignore:R-hat is above", "ignore:(Bulk|Tail) ESS is below")

SIGNALS = {"SIGTERM": 143, "SIGHUP": 129}
RUN: dict[str, Any] = {"seed": 1, "chains": 4, "warmup": 40, "draws": 60, "thin": 1, "progress": False}


class Coins(ht.Model):
    """Not Gaussian, so that ordinary moves run."""

    mu = ht.Latent(Normal(0.0, 1.0))
    tau = ht.Latent(HalfNormal(1.0))
    a = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="g")

    def likelihood(self, v, d):
        return Bernoulli(logits=v.a[:, d.g])


class Heights(Coins):
    """Collapsed."""

    def likelihood(self, v, d):
        return Normal(v.a[:, d.g], 0.5 + 0 * d.y)


def data() -> ht.Data:
    y = torch.randint(2, (40,), generator=torch.Generator().manual_seed(0)).double()
    return ht.Data(y, groups={"g": torch.arange(40) % 5})


class Meets(Monitor):
    """Does something once some draws are there, or at the end."""

    def __init__(self, what: Any, *, at_end: bool = False, phase: str = "sampling") -> None:
        self.what, self.at_end, self.phase = what, at_end, phase
        self.met, self.told = False, list[str]()

    def window(self, window: Window) -> None:
        if not self.at_end and window.phase == self.phase and not self.met:
            self.met = True
            self.what()

    def stop(self, status: str, posterior: Posterior | None = None) -> None:
        self.told.append(status)
        assert posterior is not None
        if self.at_end:
            self.what()


def raises(error: BaseException) -> Any:
    def act() -> None:
        raise error

    return act


def sent(name: str) -> Any:
    return lambda: signal.raise_signal(getattr(signal, name))


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Every test leaves the handlers as they were."""
    before = {name: signal.getsignal(getattr(signal, name)) for name in ("SIGINT", *SIGNALS)}
    yield
    assert before == {name: signal.getsignal(getattr(signal, name)) for name in before}


@pytest.fixture(autouse=True, scope="module")
def short() -> Iterator[None]:
    """Windows of 20 sweeps, so that short runs have several."""
    with pytest.MonkeyPatch.context() as patch:
        for engine in (Independence, Ordinary):
            patch.setattr(engine, "window", lambda self, *, warming: 20)
        yield


@pytest.fixture(scope="module")
def plain(short) -> dict[type, Posterior]:
    return {model: ht.sample(model(), data(), **RUN) for model in (Coins, Heights)}


def is_a_part(part: Posterior, of: Posterior) -> None:
    assert 0 < part.n_draws < of.n_draws and part.interrupted
    for name, x in part.draws.items():
        assert torch.equal(x, of.draws[name][:, : part.n_draws])


@pytest.mark.parametrize("model", [Coins, Heights])
@pytest.mark.parametrize("name", SIGNALS)
def test_signals_end_the_process_with_the_draws(name, model, plain, tmp_path):
    watching = Meets(sent(name))
    with pytest.raises(SystemExit) as ended:
        ht.sample(model(), data(), **RUN, monitors=[watching], log_dir=tmp_path / "new")
    assert ended.value.code == SIGNALS[name] and watching.told == ["interrupted"]
    is_a_part(ended.value.posterior, plain[model])
    assert ended.value.posterior.run["ended_by"] == name
    assert any(f"stopped by {name} after" in sentence for sentence in ended.value.posterior.warnings())
    (kept,) = (tmp_path / "new").glob("draws.*")
    saved = Posterior.load(kept)
    is_a_part(saved, plain[model])
    assert saved.run["ended_by"] == name


@pytest.mark.parametrize("error", [ValueError("no such row\nat all"), SystemExit("enough"), MemoryError()])
def test_an_error_brings_the_draws_along(error, plain, monkeypatch):
    advance = Independence.advance

    def fails(self, done, *arguments):
        if done == 80:
            raise error
        advance(self, done, *arguments)

    monkeypatch.setattr("hiertorch.run.independence.Independence.advance", fails)
    with pytest.raises(type(error)) as ended:
        ht.sample(Heights(), data(), **RUN)
    is_a_part(ended.value.posterior, plain[Heights])
    assert ended.value is error and ended.value.posterior.run["status"] == "failed"
    assert ended.value.posterior.run["ended_by"] == ended_by(error)


def test_an_error_in_the_users_likelihood():
    """Of a model that branches on values, so that its own code runs in every sweep."""
    passes = 0

    class Fails(Coins):
        def likelihood(self, v, d):
            nonlocal passes
            if bool((v.a > -1e9).all()):  # keeps the pass from being recorded
                passes += 1
            if passes > 160:
                raise ZeroDivisionError("division by zero")
            return super().likelihood(v, d)

    whole = ht.sample(Coins(), data(), **RUN, collapse=False)
    with pytest.raises(ZeroDivisionError) as ended:
        ht.sample(Fails(), data(), **RUN, collapse=False)
    is_a_part(ended.value.posterior, whole)
    assert ended.value.posterior.run["ended_by"] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_all_monitors_are_stopped(error, plain):
    first, second = Meets(raises(error), at_end=True), Meets(lambda: None)
    if isinstance(error, KeyboardInterrupt):
        posterior = ht.sample(Heights(), data(), **RUN, monitors=[first, second])
    else:
        with pytest.raises(SystemExit) as ended:
            ht.sample(Heights(), data(), **RUN, monitors=[first, second])
        posterior = ended.value.posterior
    assert first.told == second.told == ["finished"]
    assert posterior.n_draws == 60 and not posterior.interrupted
    assert torch.equal(posterior["mu"], plain[Heights]["mu"])


@pytest.mark.parametrize("where", ["as_fit", "_close"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signals_between_the_last_draw_and_the_return(name, where, plain, monkeypatch):
    own = getattr(fitting, where)  # type: ignore[attr-defined]

    def pressed(*arguments):
        signal.raise_signal(getattr(signal, name))
        return own(*arguments)

    monkeypatch.setattr(f"hiertorch.fitting.{where}", pressed)
    if name == "SIGINT":
        posterior = ht.sample(Heights(), data(), **RUN)
    else:
        with pytest.raises(SystemExit, match="143") as ended:
            ht.sample(Heights(), data(), **RUN)
        posterior = ended.value.posterior
    assert not posterior.interrupted and torch.equal(posterior["mu"], plain[Heights]["mu"])


def test_a_warning_that_is_an_error_costs_no_draw(plain, monkeypatch, recwarn):
    monkeypatch.setattr(Judgement, "sentences", ["look here"])
    warnings.simplefilter("error", SamplingWarning)
    with pytest.raises(SamplingWarning, match="look here") as ended:
        ht.sample(Heights(), data(), **RUN)
    assert torch.equal(ended.value.posterior["mu"], plain[Heights]["mu"])  # type: ignore[attr-defined]


def test_what_a_model_derives_may_fail():
    def derived(v):
        if v.mu.shape[0] > 100:  # all draws, and not those of a check
            raise ZeroDivisionError("division by zero")
        return v.mu

    class Derives(Heights):
        ratio = ht.Derived(derived)

    with pytest.warns(SamplingWarning, match="Derives derives of its latents could not be computed"):
        posterior = ht.sample(Derives(), data(), **RUN)
    assert posterior.n_draws == 60 and "ratio" not in posterior


def test_interrupted_in_warm_up_there_is_no_table():
    posterior = ht.sample(Coins(), data(), **RUN, monitors=[Meets(raises(KeyboardInterrupt()), phase="warmup")])
    assert posterior.n_draws == 0 and posterior.interrupted
    for asked in (posterior.summary, posterior.criterion, posterior.pooling, posterior.diagnostics):
        with pytest.raises(ht.DataError, match="has no draws: the run was stopped by Ctrl-C in its warm-up"):
            asked()


def test_no_handlers_are_set_in_other_threads_and_none_replaced():
    own = []
    signal_before = signal.signal(signal.SIGTERM, lambda *_: own.append(1))
    try:
        with Signals():
            signal.raise_signal(signal.SIGTERM)
        assert own == [1]
        thread = threading.Thread(target=lambda: own.append(ht.sample(Heights(), data(), **RUN)))
        thread.start()
        thread.join()
        assert own[1].n_draws == 60
    finally:
        signal.signal(signal.SIGTERM, signal_before)


def test_signals_wait_where_nobody_listens():
    with Signals(holding=True) as signals:
        signal.raise_signal(signal.SIGINT)
        assert len(signals.met) == 1
        with pytest.raises(SystemExit, match="143"), signals.listening():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert [type(error) for error in signals.met] == [KeyboardInterrupt, SystemExit, SystemExit]


def test_the_innermost_block_decides():
    with Signals() as outer:
        with Signals(holding=True) as inner:
            signal.raise_signal(signal.SIGTERM)
        assert len(inner.met) == 1 and not outer.met
        with pytest.raises(SystemExit, match="143"):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("cause", "status", "words"),
    [
        (None, "finished", None),
        (KeyboardInterrupt(), "interrupted", "Ctrl-C"),
        (SystemExit(143), "interrupted", "SIGTERM"),
        (SystemExit(3), "failed", "SystemExit(3)"),
        (SystemExit("no"), "failed", "SystemExit('no')"),
        (ValueError("a\nb"), "failed", "ValueError: a"),
        (ValueError(), "failed", "ValueError"),
    ],
)
def test_how_a_run_ended(cause, status, words):
    assert Ending(3, {}, cause).status == status
    assert cause is None or ended_by(cause) == words


# Monitors are given copies


class Writes(Monitor):
    """Spoils whatever it is given."""

    def window(self, window: Window) -> None:
        given = [*window.values.values(), *window.draws.values(), *window.acceptance.values(), window.log_density]
        given += [x for learnt in window.tuning.values() for x in learnt.values()]
        given += [] if window.log_densities is None else [window.log_densities]
        for x in given:
            x.fill_(0)


@pytest.mark.parametrize("model", [Coins, Heights])
def test_a_monitor_that_writes_changes_no_draw(model, plain):
    posterior = ht.sample(model(), data(), **RUN, monitors=[Writes()])
    for name, x in posterior.draws.items():
        assert torch.equal(x, plain[model].draws[name])
    assert torch.equal(posterior.stats.log_density, plain[model].stats.log_density)


# What is computed from a run that was stopped


def test_folds_and_grids_of_a_stopped_run_are_refused(plain, monkeypatch):
    whole = ht.sample(Heights(), data(), **RUN)
    pressed = [Meets(raises(KeyboardInterrupt()))]
    for asked in (
        lambda: whole.kfold(3, monitors=pressed, draws=300),
        lambda: ht.prior_grid(Heights(), data(), "tau", (1.0, 2.0), monitors=pressed, **RUN | {"draws": 300}),
    ):
        pressed[0].met = False
        with pytest.raises(InterruptedRunError, match=r"after 20 of \d+ draws, and nothing is computed") as refused:
            asked()
        assert refused.value.posterior.n_draws == 20


def test_a_criterion_of_a_stopped_run_says_so(plain):
    whole, part = (
        ht.sample(Heights(), data(), **RUN, monitors=monitors)
        for monitors in ([], [Meets(raises(KeyboardInterrupt()))])
    )
    sentence = "The run was stopped by Ctrl-C after 20 of 60 draws: these are all there are."
    assert part.criterion().stopped == sentence and sentence in repr(part.criterion()) and not whole.criterion().stopped
    compared = ht.compare({"whole": whole, "part": part})
    assert compared.verdict.startswith(f"Beware of 'part'. {sentence}\n")
    assert "Beware" not in ht.compare({"whole": whole, "again": whole}).verdict


# Run folders


def test_draws_are_kept_though_the_folder_has_gone(plain, tmp_path, monkeypatch):
    posterior, path = plain[Heights], tmp_path / "gone" / "run" / "draws.safetensors"
    assert keep(posterior, path) == path and path.is_file()
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.warns(
        SamplingWarning, match=r"file/draws.safetensors' can't be written \(.*\); the draws are in '.*here/file-1-"
    ):
        kept = keep(posterior, blocked / "draws.safetensors")
    assert kept.parent == tmp_path / "here"
    assert torch.equal(Posterior.load(kept)["mu"], posterior["mu"])


def test_a_log_dir_that_vanishes_is_said(plain, tmp_path):
    folder = tmp_path / "run"
    gone = Meets(lambda: shutil.rmtree(folder))
    with pytest.warns(SamplingWarning, match=r"end at sweep \d+ \(.*have vanished.*\); the draws are complete without"):
        posterior = ht.sample(Heights(), data(), **RUN, log_dir=folder, monitors=[gone])
    assert torch.equal(posterior["mu"], plain[Heights]["mu"])
