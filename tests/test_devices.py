"""Everything on a GPU as on the CPU: on one that is pretended (see `pretended_gpu`) and, where there is one, on a card.

`pytest -m cuda` runs what needs a card, and skips it where there is none. Bodies are the same, so that what is asked of
a card is known to be right before one is at hand.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from pretended_gpu import There, pretended_gpu, waited
from torch import Tensor

import hiertorch as ht
from hiertorch import families
from hiertorch.draws.diagnostics import mcse_mean
from hiertorch.models import (
    CompletePooling,
    CorrelatedEffects,
    Crossed,
    MixedEffects,
    Nested,
    NoPooling,
    VaryingIntercepts,
    VaryingSlopes,
)
from hiertorch.monitors import Monitor, Window
from hiertorch.run.independence import Independence
from hiertorch.run.ordinary import Ordinary
from hiertorch.run.whitened import Whitened

RUN: dict[str, Any] = {"chains": 8, "warmup": 150, "draws": 150, "thin": 1, "seed": 1, "progress": False}
pytestmark = [pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning"), pytest.mark.slow]


@pytest.fixture(params=["pretended", pytest.param("card", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "card":
        if not torch.cuda.is_available():
            pytest.skip("there is no card")
        yield "cuda"
    else:
        with pretended_gpu():
            yield "cuda"


def plain(x: Tensor) -> Tensor:
    """On the CPU; of a tensor that must be on the GPU."""
    assert x.device.type == "cuda"
    return x.here if isinstance(x, There) else x.cpu()


def frame(family: str = "gaussian") -> pd.DataFrame:
    """90 rows in 15 classes of 5 schools, seen by 6 raters."""
    rng = np.random.default_rng(0)
    c, x = np.repeat(np.arange(15), 6), rng.normal(size=90)
    eta = 0.5 * x + rng.normal(size=5)[c // 3] + 0.5 * rng.normal(size=15)[c]
    y = eta + rng.normal(size=90) if family == "gaussian" else (rng.random(90) < 1 / (1 + np.exp(-eta))).astype(float)
    return pd.DataFrame({"y": y, "x": x, "school": c // 3, "cls": c, "rater": np.tile(np.arange(6), 15)})


def rows(family: str = "gaussian") -> ht.Data:
    return ht.Data.from_frame(frame(family), response="y", groups=["school", "cls", "rater"], predictors=["x"])


STRUCTURES = {
    "complete pooling": CompletePooling(["x"]),
    "no pooling": NoPooling("school", ["x"]),
    "varying intercepts": VaryingIntercepts("school", ["x"]),
    "varying slopes": VaryingSlopes("school", ["x"]),
    "correlated": CorrelatedEffects("school", ["x"]),
    "nested": Nested(["school", "cls"], ["x"]),
    "crossed": Crossed(["school", "rater"], ["x"]),
    "mixed": MixedEffects("school", ["x"]),
}


def assert_densities_agree(model: ht.Model, data: ht.Data) -> None:
    values = dict(model.sample_prior(data, 4, torch.Generator().manual_seed(1)))
    there = {name: x.to("cuda") for name, x in values.items()}
    for density in ("log_prior", "log_likelihood", "log_prob"):
        mine = getattr(model, density)(values, data)
        found = plain(getattr(model.to("cuda"), density)(there, data.to("cuda")))
        model.to("cpu")
        torch.testing.assert_close(found, mine, rtol=1e-10, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("name", STRUCTURES)
def test_densities_of_structures(name: str, device: str) -> None:
    assert_densities_agree(STRUCTURES[name], rows())


@pytest.mark.parametrize("name", families.NAMES)
def test_densities_of_families(name: str, device: str) -> None:
    model = VaryingIntercepts("g", ["x"], family=name)
    assert_densities_agree(model, ht.simulate_grouped({"g": 5}, 8, model=model, seed=1).data)


ENGINES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "collapsed": ("gaussian", {}, Independence),
    "ordinary": ("gaussian", {"collapse": False, "chains": 4, "warmup": 20, "draws": 20}, Ordinary),
    "whitened": ("bernoulli", {}, Whitened),
}


@contextmanager
def no_waiting(engine: Any) -> Iterator[None]:
    """In windows of sampling nothing waits for the device."""
    advance = engine.advance

    def watched(self: Any, done: int, sweeps: int, warmup: int, *rest: Any) -> None:
        if done < warmup:
            return advance(self, done, sweeps, warmup, *rest)
        waited.clear()
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("error")
        try:
            advance(self, done, sweeps, warmup, *rest)
        finally:
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("default")
        assert not waited

    with mock.patch.object(engine, "advance", watched):
        yield


@pytest.mark.parametrize("name", ENGINES)
def test_runs_have_the_same_posterior_and_windows_wait_for_nothing(name: str, device: str) -> None:
    family, options, engine = ENGINES[name]
    model, data = VaryingIntercepts("school", ["x"], family=family), rows(family)
    with no_waiting(engine):
        found = ht.sample(model, data, device=device, **{**RUN, **options})
    if engine is Ordinary:  # so few draws are no sample of the posterior
        assert all(plain(x).isfinite().all() for x in found.draws.values())
        return
    mine = ht.sample(model, data, **{**RUN, **options, "seed": 2})
    for latent, x in found.draws.items():
        both = [plain(x).flatten(2), mine.draws[latent].flatten(2)]
        error = torch.stack([mcse_mean(each) for each in both]).square().sum(0).sqrt()
        assert ((both[0].mean((0, 1)) - both[1].mean((0, 1))).abs() < 5.0 * error).all(), latent


def test_what_is_asked_of_a_posterior(device: str, tmp_path: Path) -> None:
    table = frame("bernoulli")
    model, data = ht.formula("y ~ x + (1 | school)", table, family="bernoulli")
    there = ht.sample(model, data, device=device, log_dir=tmp_path / "board", **RUN)
    assert list((tmp_path / "board").glob("events*"))
    there.save(tmp_path / "saved")
    here = ht.Posterior.load(tmp_path / "saved")
    assert here.data.device.type == "cpu"
    pd.testing.assert_frame_equal(there.summary(), here.summary(), rtol=1e-8)
    for asked in ("fixef", "ranef", "varcorr"):
        pd.testing.assert_frame_equal(getattr(there, asked)(), getattr(here, asked)(), rtol=1e-8)
    new = table.assign(school=np.arange(90) % 7)  # two of them were never seen
    known = new.school.to_numpy() < 5
    drawn = [posterior.predict(new, seed=1).draws[..., known].cpu() for posterior in (there, here)]
    torch.testing.assert_close(*drawn, rtol=1e-8, atol=1e-10)
    loo = [posterior.criterion("loo") for posterior in (there, here)]
    assert loo[0].elpd == pytest.approx(loo[1].elpd, rel=1e-8)
    there.predictive_check()
    there.conditional_effects("x")
    assert there.report(tmp_path / "report.html").stat().st_size > 10_000
    assert set(there.to_arviz().posterior.data_vars) == set(here.to_arviz().posterior.data_vars)


class Stop(Monitor):
    """Ctrl-C after so many windows."""

    def __init__(self, after: int) -> None:
        self.after = after

    def window(self, window: Window) -> None:
        self.after -= 1
        if self.after == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ENGINES)
def test_a_run_goes_on_to_the_same_draws(name: str, device: str, tmp_path: Path) -> None:
    family, options, _ = ENGINES[name]
    model, data = VaryingIntercepts("school", ["x"], family=family), rows(family).to(device)
    settings = {**RUN, "warmup": 40, "draws": 40, **options}
    whole = ht.sample(model, data, **settings)
    part = ht.sample(model, data, checkpoint=tmp_path / "run", every=0.0, monitors=[Stop(2)], **settings)
    assert part.interrupted
    again = ht.resume(tmp_path / "run", model, data, progress=False)
    for latent, x in whole.draws.items():
        assert torch.equal(plain(x), plain(again.draws[latent]))


def test_folds_and_updates(device: str) -> None:
    model, data = VaryingIntercepts("school", ["x"]), rows()
    there = ht.sample(model, data, device=device, **RUN)
    here = ht.sample(model, data, **RUN)
    folds = [posterior.kfold(3, chains=4, draws=200, seed=1) for posterior in (there, here)]
    assert folds[0].elpd == pytest.approx(folds[1].elpd, abs=0.5)
