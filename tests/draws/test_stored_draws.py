"""Long runs store evenly thinned draws: the same chains, fewer of their draws, and all that counts draws knows it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts.engines import SCHOOLS
from torch.distributions import Gamma, Normal
from windows import load, scalars

import hiertorch as ht
from hiertorch.models import VaryingIntercepts
from hiertorch.monitors import Monitor, TensorBoardMonitor, Window
from hiertorch.posterior import Posterior
from hiertorch.run import schedule as settings
from hiertorch.run.schedule import Schedule, room

RUN: dict[str, Any] = {"chains": 4, "warmup": 40, "draws": 100, "thin": 1, "seed": 7, "progress": False}


class Mean(ht.Model):
    """y ~ Normal(mu, sigma_y)."""

    mu = ht.Latent(Normal(0.0, 2.0))
    sigma_y = ht.Latent(Gamma(2.0, 1.0))

    def likelihood(self, v, data):
        return Normal(v.mu, v.sigma_y)


def run(**options: Any) -> Posterior:
    """Varying intercepts, collapsed; or with `collapse=False` a small model, by ordinary moves."""
    model = VaryingIntercepts("school", ["x"], priors="tutorial") if options.get("collapse", True) else Mean()
    return ht.sample(model, SCHOOLS, **{**RUN, **options})


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for 20 draws of each of four chains: 100 draws are thinned to every eighth."""
    monkeypatch.setattr(settings, "KEPT", 80)


pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")


@pytest.mark.parametrize(
    ("chains", "draws", "kept"),
    [(256, 1000, 125), (64, 1000, 500), (64, 500, 500), (16, 250, 250), (1, 10**9, 32_000), (10**5, 1000, 16)],
)
def test_room_is_for_32000_draws_in_all_but_some_of_each_chain(chains: int, draws: int, kept: int) -> None:
    assert room(Schedule(chains, 100, draws, 1), every=False) == kept
    assert room(Schedule(chains, 100, draws, 1), every=True) == draws


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("collapse", "thin"), [(True, 1), (True, 3), (False, 1)])
def test_stored_draws_are_every_kth_of_the_same_chains(collapse: bool, thin: int) -> None:
    """Of a collapsed model the scales are the chains; effects and coefficients are drawn given them."""
    thinned, whole = run(collapse=collapse, thin=thin), run(collapse=collapse, thin=thin, keep_all=True)
    assert (whole.n_draws, whole.interval, thinned.n_draws, thinned.interval) == (100, 1, 12, 8)
    for name in ("sigma_alpha", "sigma_y") if collapse else whole.names:
        assert torch.equal(thinned.draws[name], whole.draws[name][:, 7::8]), name
    assert torch.equal(thinned.stats.log_density, whole.stats.log_density[:, 7::8])
    assert thinned.run["draws"] == whole.run["draws"] == 100 and thinned.run["interval"] == 8
    for block, rate in whole.stats.acceptance.items():
        assert torch.equal(thinned.stats.acceptance[block], rate)  # of all sweeps


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("collapse", [True, False])
def test_what_counts_draws_knows_that_they_are_thinned(collapse: bool, tmp_path: Path) -> None:
    posterior = run(collapse=collapse)
    assert repr(posterior).startswith("Posterior: 4 chains x 12 draws (each the last of 8 made)")
    tree = posterior.to_arviz()
    assert tree["posterior"].sizes["draw"] == tree["sample_stats"].sizes["draw"] == 12
    assert json.loads(tree["posterior"].attrs["interval"]) == 8
    posterior.save(tmp_path / "draws")
    assert ht.Posterior.load(tmp_path / "draws").interval == 8
    assert posterior.criterion("dic", draws=None).details["draws"] == 48
    again = run(collapse=collapse, start=posterior, chains=8)
    assert (again.chains, again.n_draws, again.interval) == (8, 12, 8)


@pytest.mark.usefixtures("few")
def test_effects_that_are_drawn_again_go_with_thinned_draws() -> None:
    posterior = run(keep=["mu_alpha", "sigma_alpha", "sigma_y"])
    assert posterior.n_draws == 12 and posterior.redraw("alpha").shape == (4, 12, 4)


@pytest.mark.usefixtures("few")
def test_chains_with_data_of_their_own_keep_all_draws() -> None:
    """They are as many posteriors."""
    y = SCHOOLS.y.expand(4, -1) + torch.arange(4.0)[:, None]
    posterior = ht.sample(
        VaryingIntercepts("school", ["x"], priors="tutorial"),
        SCHOOLS.replace(y=y),
        **{**RUN, "chains": None, "draws": 90},
    )
    assert posterior.chains * posterior.n_draws == 360 and posterior.interval == 1


class Watching(Monitor):
    """Looks at the draws of every window, and presses Ctrl-C once so many sweeps are done."""

    def __init__(self, sweeps: int = 10**9) -> None:
        self.sweeps = sweeps
        self.seen: list[tuple[int, int, torch.Tensor]] = []  # sweep, interval, draws

    def window(self, window: Window) -> None:
        if window.draws:
            self.seen.append((window.sweep, window.interval, window.draws["sigma_y"][:, :, 0]))
        if window.sweep >= self.sweeps:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("collapse", [True, False])
def test_windows_say_which_draws_they_show_and_what_was_shown_stays(
    collapse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    short(monkeypatch)
    watching = Watching()
    run(collapse=collapse, monitors=[watching])
    whole = run(collapse=collapse, keep_all=True)["sigma_y"]
    assert {interval for _, interval, _ in watching.seen} >= {1, 2, 4, 8}
    for sweep, interval, draws in watching.seen:
        made = sweep - RUN["warmup"]
        assert torch.equal(draws, whole[:, interval - 1 : made : interval]), sweep
        assert made // interval == draws.shape[1] <= 20


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("collapse", [True, False])
def test_an_interrupted_run_counts_the_draws_that_were_made(collapse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    short(monkeypatch)
    part, whole = run(collapse=collapse, monitors=[Watching(100)]), run(collapse=collapse, keep_all=True)
    assert part.interrupted and (part.n_draws, part.interval) == (15, 4)
    assert torch.equal(part["sigma_y"], whole["sigma_y"][:, 3:60:4])
    assert any("after 60 of 100 draws: these are all there are." in sentence for sentence in part.warnings())


@pytest.mark.slow
@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("windows", [20, 50])
def test_the_dashboard_draws_what_is_stored_where_it_was_drawn(
    windows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traces stand at the sweeps of their draws, however often draws were thinned in between."""
    short(monkeypatch, windows)
    run(collapse=False, draws=1000, monitors=[TensorBoardMonitor(tmp_path, announce=False)])
    whole = run(collapse=False, draws=1000, keep_all=True)["sigma_y"].float()
    for c in range(4):
        shown = {t: x for t, x in scalars(load(tmp_path / f"chain_{c}"), "trace/sigma_y").items() if t > RUN["warmup"]}
        assert len(shown) >= 15 and max(shown) == 1000 // 64 * 64 + RUN["warmup"]
        for sweep, value in shown.items():
            assert value == whole[c, sweep - RUN["warmup"] - 1]
    band = scalars(load(tmp_path), "posterior/sigma_y/mean")
    mean = whole[:, 63::64].double().mean()
    assert list(band.values())[-1] == pytest.approx(float(mean), rel=1e-5)


def short(monkeypatch: pytest.MonkeyPatch, sweeps: int = 20) -> None:
    """Windows of so many sweeps, for either engine."""
    monkeypatch.setattr("hiertorch.run.independence.MOST_AT_ONCE", 1)
    monkeypatch.setattr("hiertorch.run.independence.SELDOM", sweeps)
    monkeypatch.setattr("hiertorch.run.ordinary.WINDOW_SWEEPS", sweeps)


@pytest.mark.usefixtures("few")
def test_more_chains_than_draws_are_stored_keep_some_draws_each() -> None:
    posterior = run(collapse=False, chains=400, draws=40)
    assert (posterior.n_draws, posterior.interval) == (10, 4)
    assert posterior.diagnostics()["worst"].notna().all()


def test_keep_all_is_yes_or_no() -> None:
    with pytest.raises(ht.SamplingError, match="keep_all= is True or False"):
        run(keep_all="yes")
