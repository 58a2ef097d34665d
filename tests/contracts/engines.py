"""The contract of an engine: what a run keeps, whatever advances its chains."""

from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from builders import sampled
from safetensors.torch import load_file, save_file
from torch import Tensor

import hiertorch as ht
from hiertorch.models import VaryingIntercepts
from hiertorch.monitors import Monitor, Window
from hiertorch.posterior import Posterior
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.choosing import choose
from hiertorch.run.engine import Engine
from hiertorch.run.options import Options
from hiertorch.run.store import Store
from hiertorch.run.task import Task, settled
from hiertorch.runtime.validating import validation

RUN: dict[str, Any] = {"chains": 4, "warmup": 10, "draws": 20, "thin": 1, "seed": 7}
SCHOOLS = ht.Data(
    [1.0, 0.2, 0.7, 2.1, 1.4, -0.3, 0.5, 1.1],
    groups={"school": list("abcabdda")},
    x=[0.1, -1.0, 0.4, 1.3, 0.0, -0.6, 0.8, -0.2],
)


def assert_equal_draws(a: Posterior, b: Posterior, of_a: slice = slice(None), of_b: slice = slice(None)) -> None:
    """Bit for bit, in what both kept."""
    for name in set(a.names) & set(b.names):
        assert torch.equal(a.draws[name][:, of_a], b.draws[name][:, of_b]), name
    assert torch.equal(a.stats.log_density[:, of_a], b.stats.log_density[:, of_b])


class Curious(Monitor):
    """Looks at everything, twice, and remembers it."""

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self.values: list[dict[str, Tensor]] = []
        self.status = ""

    def window(self, window: Window) -> None:
        self.windows.append(window)
        self.values.append(dict(window.values))
        for name, x in window.values.items():
            assert torch.equal(x, self.values[-1][name]), "looking again shows the same"

    def stop(self, status: str, posterior: object = None) -> None:
        self.status = status


class Impatient(Curious):
    """Presses Ctrl-C once so many sweeps are done."""

    def __init__(self, sweeps: int) -> None:
        super().__init__()
        self.sweeps = sweeps

    def window(self, window: Window) -> None:
        super().window(window)
        if window.sweep >= self.sweeps:
            raise KeyboardInterrupt


class EngineContract:
    """A subclass says which engine, and with which options `ht.sample` takes it for varying intercepts, or another
    model.
    """

    engine: type
    options: ClassVar[dict[str, Any]] = {}
    moved: tuple[str, ...]  # latents whose values are where their chain is, at whatever time one looks
    data: ClassVar[ht.Data] = SCHOOLS

    @pytest.fixture(autouse=True)
    def short_windows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of 10 sweeps, so that short runs have several."""
        monkeypatch.setattr(self.engine, "window", lambda engine, *, warming: 10)

    @classmethod
    def run(cls, **options: Any) -> Posterior:
        return sampled(cls.model(), cls.data, **{**RUN, **cls.options, **options})

    @classmethod
    def model(cls) -> ht.Model:
        """Has the latents mu_alpha, sigma_alpha, sigma_y, beta, and alpha of four schools."""
        return VaryingIntercepts("school", ["x"], priors="tutorial")

    @classmethod
    @cache
    def whole(cls) -> Posterior:
        """The run as it is without further options."""
        return cls.run()

    def test_the_same_seed_gives_the_same_draws(self) -> None:
        torch.manual_seed(2)
        before, whole = torch.get_rng_state(), self.whole()
        assert_equal_draws(whole, self.run())  # torch's own generator is not asked,
        assert torch.equal(torch.get_rng_state(), before)  # and left alone
        other = self.run(seed=8)
        assert all(not torch.equal(whole.draws[name], other.draws[name]) for name in whole.names)

    def test_a_run_until_a_goal_has_the_draws_of_one_of_fixed_length(self) -> None:
        """It looks at the end of windows, and cuts none short."""
        long = self.run(draws=7, until=ht.Until(ess=1e9, draws=20))
        assert long.run["until"]["looks"] == 2 and long.n_draws == long.run["draws"] == 20
        assert_equal_draws(long, self.whole())

    def test_the_seed_of_a_run_without_one_brings_it_back(self) -> None:
        first = self.run(seed=None, draws=10)
        assert_equal_draws(first, self.run(seed=first.run["seed"], draws=10))
        assert first.run["seed"] != RUN["seed"]

    @classmethod
    def task(cls) -> Task:
        """A run that has not begun."""
        options = Options(**{**RUN, "collapse": False, **cls.options})
        model = cls.model()
        plan = choose(model, cls.data, options.plan, collapse=options.collapse)
        return settled(model, plan, options)

    @staticmethod
    def ran(engine: Engine, k: int) -> dict[str, Tensor]:
        """Runs window k of five of 10 sweeps; gives its draws, and all that is known at its end."""
        store, acceptance = Store(engine.values(), tuple(engine.values()), 10), Acceptance(engine.order)
        engine.advance(10 * k, 10, 20, 1, store, acceptance)
        if k in (1, 4):
            engine.check(store)
        found = {"height": engine.height(), "log density": store.log_density(), **engine.values()}
        found |= {f"draws of {name}": x for name, x in store.draws().items()}
        found |= {f"rate {block}": x for block, x in acceptance.window(sampling=True).items()}
        return {**found, **engine.state()}

    def test_an_engine_goes_on_from_its_state(self, tmp_path: Path) -> None:
        """Bit for bit, in warm-up and after it, though another engine has taken the state from a file."""
        with torch.no_grad(), validation(False):
            engine, found = self.task().engine, []
            engine.begin({}, None)
            engine.prepare(compiled=False)
            for k in range(5):
                packed = {n: x.clone(memory_format=torch.contiguous_format) for n, x in engine.state().items()}
                save_file(packed, tmp_path / str(k))
                found.append(self.ran(engine, k))
            for done in (1, 3):
                other = self.task().engine
                other.restore(load_file(tmp_path / str(done)))
                other.prepare(compiled=False)
                for k in (done, done + 1):
                    again = self.ran(other, k)
                    assert found[k].keys() == again.keys()
                    for name, x in found[k].items():
                        assert torch.equal(x, again[name]) or name == "audit/numbers", name  # which hold seconds

    def test_keeping_some_latents_leaves_their_draws_as_they_are(self) -> None:
        some = self.run(keep=["alpha", "sigma_y"])
        assert some.names == ["sigma_y", "alpha"]
        assert_equal_draws(some, self.whole())

    @pytest.mark.parametrize(
        ("chains", "warmup", "draws"),
        [(1, 1, 1), (1, 60, 30), (2, 1, 30), (3, 7, 30), pytest.param(700, 3, 2, marks=pytest.mark.slow)],
    )
    def test_any_number_of_chains_and_sweeps(self, chains: int, warmup: int, draws: int) -> None:
        """What is pooled over chains must not divide by their number less one, nor windows of warm-up be empty."""
        posterior = self.run(chains=chains, warmup=warmup, draws=draws)
        assert posterior["alpha"].shape == (chains, draws, 4)
        assert all(bool(x.isfinite().all()) for x in posterior.draws.values())
        assert sum(posterior.stats.nan.values()) == 0
        for block, rates in posterior.stats.acceptance.items():
            assert draws < 30 or float(rates.mean()) > 0.05, block  # one group of one chain may stay for long

    @pytest.mark.usefixtures("no_figures")
    def test_monitors_change_no_draw(self, tmp_path: Path) -> None:
        """Though what is not moved is drawn for those who look at it."""
        curious, plain = Curious(), self.whole()
        assert_equal_draws(plain, self.run(monitors=[curious], log_dir=tmp_path, progress=True))
        assert curious.status == "finished"
        assert [window.sweep for window in curious.windows] == [10, 20, 30]
        assert [window.phase for window in curious.windows] == ["warmup", "sampling", "sampling"]
        for window, values in zip(curious.windows, curious.values, strict=True):
            assert {name: x.shape[1:] for name, x in values.items()} == {n: x.shape[2:] for n, x in plain.draws.items()}
            assert list(window.values) == plain.names and len(window.values) == len(plain.names)
            assert window.log_density.shape == (4,)
            assert window.acceptance.keys() == plain.stats.acceptance.keys()
            done = window.sweep - 10
            if done <= 0:
                assert window.draws == {} or window.drawn == 0
                continue
            for name, draws in window.draws.items():
                assert torch.equal(draws, plain.draws[name][:, :done])
            for name in self.moved:
                assert torch.equal(values[name], plain.draws[name][:, done - 1])
            assert torch.equal(window.log_density, plain.stats.log_density[:, done - 1])
        with pytest.raises(KeyError):
            curious.windows[-1].values["nu"]

    @pytest.mark.parametrize("keep", [None, ["mu_alpha", "sigma_alpha"]])
    def test_ctrl_c_gives_the_draws_so_far(self, keep: list[str] | None) -> None:
        impatient, plain, done = Impatient(20), self.whole(), 10
        part = self.run(monitors=[impatient], keep=keep)
        assert part.interrupted and not plain.interrupted
        assert impatient.status == part.run["status"] == "interrupted"
        assert part.n_draws == done and part.names == (keep or plain.names)
        assert_equal_draws(part, plain, of_b=slice(0, done))
        assert f"The run was stopped by Ctrl-C after {done} of 20 draws: these are all there are." in part.warnings()
        assert len(part.summary()) == len(plain.summary(part.names)) and "interrupted" in repr(part)

    def test_ctrl_c_leaves_the_acceptance_rates_of_the_draws_so_far(self) -> None:
        part, plain = self.run(monitors=[Impatient(20)]), self.run(draws=10)
        assert list(part.stats.acceptance) == list(plain.stats.acceptance) == list(self.whole().stats.acceptance)
        assert all(torch.equal(rates, plain.stats.acceptance[block]) for block, rates in part.stats.acceptance.items())

    def test_ctrl_c_within_a_window_gives_the_windows_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain, call, calls = self.whole(), self.engine.advance, []

        def pressed(engine: Any, done: int, *arguments: Any) -> None:
            calls.append(done)
            if done == 20:
                raise KeyboardInterrupt
            call(engine, done, *arguments)

        monkeypatch.setattr(self.engine, "advance", pressed)
        part = self.run()
        assert calls == [0, 10, 20]
        assert part.interrupted and part.n_draws == 10
        assert_equal_draws(part, plain, of_b=slice(0, 10))

    @pytest.mark.parametrize("keep", [None, ["mu_alpha", "sigma_alpha"]])
    def test_ctrl_c_in_warm_up_gives_an_empty_posterior(self, keep: list[str] | None) -> None:
        posterior = self.run(keep=keep, monitors=[Impatient(10)])
        assert posterior.interrupted and posterior.n_draws == 0
        assert {name: x.shape[:2] for name, x in posterior.draws.items()} == dict.fromkeys(posterior.names, (4, 0))
        assert "The run was stopped by Ctrl-C after 0 of 20 draws: these are all there are." in posterior.warnings()
