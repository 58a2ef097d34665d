"""Simulation-based calibration of families, each with varying intercepts and with correlated slopes, as one batched run
each; see test_structures_calibration.py for what is simulated, ranked and how, and for the priors.

Error rate: 1e-3 a test, shared by its p-values (Bonferroni), so about 2 in 100 for the file; seeds are fixed.
"""

from collections.abc import Callable, Mapping

import pytest
from references import failures
from test_structures_calibration import DATA_SETS, INTERCEPTS, SCALE, UNIT, Case, batched, uneven
from torch import distributions

import hiertorch as ht
from hiertorch import families
from hiertorch.posterior import Posterior

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:grouping 'group' is never read")]
Sample = Callable[..., Posterior]

SHAPE, NOISE = "Gamma(10, 5)", "Gamma(10, 10)"
SLOPES = {"mu_alpha": UNIT, "mu_beta": UNIT, "sigma_alpha": SCALE, "sigma_beta": SCALE}
FAMILIES: dict[str, tuple[families.Family, Mapping[str, str]]] = {
    "bernoulli, probit": (families.Bernoulli(link="probit"), {}),
    "binomial, cloglog": (families.Binomial(link="cloglog"), {}),
    "poisson, softplus": (families.Poisson("exposure", link="softplus"), {}),
    "gamma": (families.Gamma(), {"shape_y": SHAPE}),
    "exponential": (families.Exponential(), {}),
    "weibull": (families.Weibull(), {"shape_y": SHAPE}),
    "inverse gaussian": (families.InverseGaussian(), {"shape_y": SHAPE}),
    "lognormal": (families.LogNormal(), {"sigma_y": NOISE}),
    "beta": (families.Beta(), {"phi_y": "Gamma(10, 1)"}),
    "beta-binomial": (families.BetaBinomial(), {"phi_y": "Gamma(10, 1)"}),
    "geometric": (families.Geometric("exposure"), {}),
    "negative binomial 1": (families.NegativeBinomial1("exposure"), {"phi_y": SHAPE}),
    "skew normal": (families.SkewNormal(), {"sigma_y": NOISE, "alpha_y": "Normal(0, 2)"}),
    "asymmetric laplace": (families.AsymmetricLaplace(0.8), {"sigma_y": NOISE}),
    "asymmetric laplace, learnt": (
        families.AsymmetricLaplace(None),
        {"sigma_y": NOISE, "quantile_y": "Beta(4, 4)"},
    ),
}


def sloped(family: families.Family, priors: Mapping[str, str]) -> Case:
    """Correlated intercepts and slopes."""
    return Case(ht.models.CorrelatedEffects("school", ["x"], family=family, priors={**SLOPES, **priors}), 6, 5)


@pytest.mark.parametrize("name", FAMILIES)
def test_varying_intercepts_are_calibrated(name: str, sample: Sample) -> None:
    family, priors = FAMILIES[name]
    assert not failures(batched(uneven({**INTERCEPTS, **priors}, family=family), sample, DATA_SETS))


@pytest.mark.parametrize("name", FAMILIES)
def test_correlated_slopes_are_calibrated(name: str, sample: Sample) -> None:
    assert not failures(batched(sloped(*FAMILIES[name]), sample, DATA_SETS))


class AroundMeans(distributions.LogNormal):
    """Drawn around the mean in place of the median, which its density is around."""

    def sample(self, sample_shape=()):  # type: ignore[no-untyped-def]
        return super().sample(sample_shape) * (-0.5 * self.scale.square()).exp()


class OfMeans(families.LogNormal):
    """Lognormal rows whose simulation is not that of their density."""

    def distribution(self, eta, v, data):  # type: ignore[no-untyped-def]
        return AroundMeans(eta, v.sigma_y)


@pytest.mark.parametrize("form", ["intercepts", "slopes"])
def test_a_simulation_that_is_not_of_the_density_is_noticed(form: str, sample: Sample) -> None:
    priors = {"sigma_y": NOISE}
    intercepts = uneven({**INTERCEPTS, **priors}, family=OfMeans())
    assert failures(batched(intercepts if form == "intercepts" else sloped(OfMeans(), priors), sample, DATA_SETS))
