"""Families with more zeros, or ones, than another one, by the contract of every family and SciPy."""

import numpy as np
import pytest
import torch
from builders import refused
from contracts.families import COLUMNS, FamilyContract
from scipy import stats

from hiertorch import families
from hiertorch.errors import ModelError
from hiertorch.families import (
    Beta,
    Binomial,
    Gamma,
    Hurdle,
    LogNormal,
    NegativeBinomial,
    Poisson,
    ZeroInflated,
    ZeroOneInflated,
)
from hiertorch.model import zeros
from hiertorch.randomness import seeded

OUTSIDE = "outside the support of the likelihood"
TRIALS, TIME = COLUMNS["trials"], COLUMNS["time"]
SHARES = [0.1, 0.4, 0.7]


class Inflated:
    """A SciPy distribution of counts with a share of further zeros."""

    def __init__(self, base, share):
        self.base, self.share = base, share

    def logpmf(self, y):
        return np.log(self.share * (y == 0) + (1 - self.share) * self.base.pmf(y))

    def mean(self):
        return (1 - self.share) * self.base.mean()

    def var(self):
        return (1 - self.share) * (self.base.var() + self.base.mean() ** 2) - self.mean() ** 2


class Cut(Inflated):
    """One with a share of zeros, and cut off below 1 or, if it is continuous, as it is."""

    def logpmf(self, y):
        zero = y == 0
        if hasattr(self.base.dist, "pmf"):
            above = self.base.logpmf(y) - np.log(self.base.sf(0))
        else:
            above = self.base.logpdf(np.where(zero, 1.0, y))
        return np.where(zero, np.log(self.share), np.log(1 - self.share) + above)

    def mean(self):
        return (1 - self.share) * self.base.mean() / self.base.sf(0)

    def var(self):
        return (1 - self.share) * (self.base.var() + self.base.mean() ** 2) / self.base.sf(0) - self.mean() ** 2


class ZerosContract(FamilyContract):
    closed = formed = False
    bad = (("y", -1.0, OUTSIDE), ("y", 0.5, OUTSIDE))

    def test_the_link_is_that_of_the_mean(self):
        """Of the base."""
        family = self.family()
        assert family.link is family.base.link and family.columns == family.base.columns

    def prior(self, v):
        return stats.gamma(2.0, scale=10.0).logpdf(v["phi_y"]) if "phi_y" in v else 0.0


def negative_binomial(mean, phi):
    return stats.nbinom(phi, phi / (phi + mean))


class TestZeroInflatedPoisson(ZerosContract):
    values = {"zi_y": SHARES}  # noqa: RUF012
    bad = (*ZerosContract.bad, ("time", 0.0, "exposures are above 0"))

    def family(self):
        return ZeroInflated(Poisson(exposure="time"))

    def distribution(self, eta, v):
        return Inflated(stats.poisson(TIME * np.exp(eta)), v["zi_y"])


class TestZeroInflatedNegativeBinomial(ZerosContract):
    values = {"zi_y": SHARES, "phi_y": [0.8, 3.0, 20.0]}  # noqa: RUF012

    def family(self):
        return ZeroInflated(NegativeBinomial())

    def distribution(self, eta, v):
        return Inflated(negative_binomial(np.exp(eta), v["phi_y"]), v["zi_y"])


class TestZeroInflatedBinomial(ZerosContract):
    values = {"zi_y": SHARES}  # noqa: RUF012
    bad = (("y", 99.0, "successes are whole numbers from 0 to"),)

    def family(self):
        return ZeroInflated(Binomial())

    def distribution(self, eta, v):
        return Inflated(stats.binom(TRIALS, 1.0 / (1.0 + np.exp(-eta))), v["zi_y"])


class TestHurdlePoisson(ZerosContract):
    values = {"hu_y": SHARES}  # noqa: RUF012

    def family(self):
        return Hurdle(Poisson())

    def distribution(self, eta, v):
        return Cut(stats.poisson(np.exp(eta)), v["hu_y"])


class TestHurdleNegativeBinomial(ZerosContract):
    values = {"hu_y": SHARES, "phi_y": [0.8, 3.0, 20.0]}  # noqa: RUF012

    def family(self):
        return Hurdle(NegativeBinomial())

    def distribution(self, eta, v):
        return Cut(negative_binomial(np.exp(eta), v["phi_y"]), v["hu_y"])


class TestHurdleGamma(ZerosContract):
    values = {"hu_y": SHARES, "shape_y": [0.8, 3.0, 20.0]}  # noqa: RUF012
    bad = (("y", -1.0, OUTSIDE),)

    def family(self):
        return Hurdle(Gamma())

    def distribution(self, eta, v):
        return Cut(stats.gamma(v["shape_y"], scale=np.exp(eta) / v["shape_y"]), v["hu_y"])

    def prior(self, v):
        return stats.lognorm(1.5, scale=np.exp(2.0)).logpdf(v["shape_y"])


class TestHurdleLogNormal(ZerosContract):
    values = {"hu_y": SHARES, "sigma_y": [0.2, 0.3, 0.4]}  # noqa: RUF012
    bad = (("y", -1.0, OUTSIDE),)

    def family(self):
        return Hurdle(LogNormal())

    def distribution(self, eta, v):
        return Cut(stats.lognorm(v["sigma_y"], scale=np.exp(eta)), v["hu_y"])

    def prior(self, v):
        return stats.gamma(1.0).logpdf(v["sigma_y"])


class Ends(Inflated):
    """One of shares, with zeros and ones."""

    def __init__(self, base, share, ones):
        self.base, self.share, self.ones = base, share, ones

    def logpmf(self, y):
        between = np.log(1 - self.share) + self.base.logpdf(np.where((y == 0) | (y == 1), 0.5, y))
        ends = np.log(self.share) + np.where(y == 1, np.log(self.ones), np.log(1 - self.ones))
        return np.where((y == 0) | (y == 1), ends, between)

    def mean(self):
        return self.share * self.ones + super().mean()

    def var(self):
        second = (1 - self.share) * (self.base.var() + self.base.mean() ** 2)
        return self.share * self.ones + second - self.mean() ** 2


class TestZeroOneInflatedBeta(ZerosContract):
    values = {"zoi_y": SHARES, "coi_y": [0.5, 0.2, 0.9], "phi_y": [2.0, 3.0, 20.0]}  # noqa: RUF012
    bad = (("y", -0.1, OUTSIDE), ("y", 1.5, OUTSIDE))

    def family(self):
        return ZeroOneInflated(Beta())

    def distribution(self, eta, v):
        m = 1.0 / (1.0 + np.exp(-eta))
        return Ends(stats.beta(m * v["phi_y"], (1 - m) * v["phi_y"]), v["zoi_y"], v["coi_y"])

    def prior(self, v):
        return stats.lognorm(1.5, scale=np.exp(2.0)).logpdf(v["phi_y"])


@pytest.mark.parametrize("mean", [0.01, 0.7, 6.0])
@pytest.mark.parametrize("phi", [None, 0.3, 5.0])
def test_draws_above_0_have_the_law_of_those_above_0(mean, phi):
    """Chi-squared of 20,000 draws; with p-values below 1e-5 wrong, nine tests fail wrongly in 1 of 10,000 choices of
    seeds. Draws of the whole law, with zeros set to 1, fail
    where there are zeros, and more than 1.
    """
    size = torch.full((20_000,), mean, dtype=torch.float64)
    base, reference = torch.distributions.Poisson(size), stats.poisson(mean)
    if phi is not None:
        base = torch.distributions.NegativeBinomial(phi, logits=(size / phi).log())
        reference = negative_binomial(mean, phi)

    def p_value(y):
        k = np.arange(1, max(3, int(reference.ppf(0.999))))
        expected = reference.pmf(k) / reference.sf(0) * len(y)
        some = expected >= 5
        found = np.array([(y == one).sum() for one in k[some]])
        rest = len(y) - found.sum(), len(y) - expected[some].sum()
        squares = ((found - expected[some]) ** 2 / expected[some]).sum() + (rest[0] - rest[1]) ** 2 / max(rest[1], 1.0)
        return stats.chi2(some.sum()).sf(squares)

    with seeded(torch.Generator().manual_seed(7), size.device):
        assert p_value(zeros.POSITIVE[type(base)](base).numpy()) > 1e-5
        whole = base.sample().clamp(min=1.0).numpy()
    assert reference.pmf(0) < 0.1 or p_value(whole) < 1e-5 or mean < 0.1


def test_means_far_out_are_limits():
    """A count given that it is above 0 is 1 where its mean is 0 in double precision, and infinite where that is."""
    rate = torch.tensor([0.0, 1e-300, 1e-9, 5.0, torch.inf], dtype=torch.float64)
    share = torch.tensor(0.25, dtype=torch.float64)
    for base in (torch.distributions.Poisson(rate), torch.distributions.NegativeBinomial(2.0, logits=(rate / 2).log())):
        mean = zeros.Hurdle(base, share, validate_args=False).mean
        above = 5.0 / (1 - float(base.log_prob(torch.zeros(()))[3].exp()))
        np.testing.assert_allclose(mean, [0.75, 0.75, 0.75, 0.75 * above, np.inf], rtol=1e-8)
    with seeded(torch.Generator().manual_seed(1), rate.device):
        drawn = zeros.Hurdle(torch.distributions.Poisson(rate[:2]), 0.0 * share).sample((5,))
    assert (drawn == 1).all()


def test_bases_are_families():
    with refused(ModelError, "is made of a family"):
        Hurdle("poisson")


@pytest.mark.parametrize("name", families.MADE)
def test_names_of_families_made_are_those_of_what_they_are_made_of(name):
    assert families.named(name).name == name
