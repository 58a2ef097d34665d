"""The built-in families, by the contract of every family."""

import numpy as np
import pytest
from contracts.families import COLUMNS, FamilyContract
from scipy import stats

from hiertorch import families, models
from hiertorch.errors import ModelError

TRIALS, TIME, SE = COLUMNS["trials"], COLUMNS["time"], COLUMNS["se"]
OUTSIDE = "outside the support of the likelihood"
EXPOSURES = (("time", 0.0, "exposures are above 0"), ("y", -1.0, OUTSIDE), ("y", 0.5, OUTSIDE))


def gamma(x, shape=1.0, rate=1.0):
    return stats.gamma(shape, scale=1.0 / rate).logpdf(x)


class TestGaussian(FamilyContract):
    values = {"sigma_y": [0.5, 1.0, 2.0]}  # noqa: RUF012

    def family(self):
        return families.Gaussian()

    def distribution(self, eta, v):
        return stats.norm(eta, v["sigma_y"])

    def prior(self, v):
        return gamma(v["sigma_y"])


class TestKnownErrors(FamilyContract):
    bad = (("se", 0.0, "standard errors are above 0"), ("se", -1.0, "standard errors are above 0"))

    def family(self):
        return families.Gaussian(se="se")

    def distribution(self, eta, v):
        return stats.norm(eta, SE)


class TestStudentT(FamilyContract):
    values = {"sigma_y": [0.5, 1.0, 2.0], "nu_y": [9.0, 12.0, 30.0]}  # noqa: RUF012

    def family(self):
        return families.StudentT()

    def distribution(self, eta, v):
        return stats.t(v["nu_y"], eta, v["sigma_y"])

    def prior(self, v):
        return gamma(v["sigma_y"]) + gamma(v["nu_y"], 2.0, 0.1)


class TestBernoulli(FamilyContract):
    bad = (("y", 2.0, OUTSIDE), ("y", 0.5, OUTSIDE))

    def family(self):
        return families.Bernoulli()

    def distribution(self, eta, v):
        return stats.bernoulli(1.0 / (1.0 + np.exp(-eta)))


class TestBinomial(FamilyContract):
    bad = (
        ("trials", 2.5, "trials are whole numbers"),
        ("trials", -1.0, "trials are whole numbers"),
        ("y", 99.0, "successes are whole numbers from 0 to"),
        ("y", 0.5, "successes are whole numbers from 0 to"),
    )

    def family(self):
        return families.Binomial()

    def distribution(self, eta, v):
        return stats.binom(TRIALS, 1.0 / (1.0 + np.exp(-eta)))


class TestPoisson(FamilyContract):
    bad = EXPOSURES

    def family(self):
        return families.Poisson(exposure="time")

    def distribution(self, eta, v):
        return stats.poisson(TIME * np.exp(eta))


class TestNegativeBinomial(FamilyContract):
    """SciPy's is the number of failures before n successes of probability n / (n + mean)."""

    values = {"phi_y": [0.8, 3.0, 20.0]}  # noqa: RUF012
    bad = EXPOSURES

    def family(self):
        return families.NegativeBinomial(exposure="time")

    def distribution(self, eta, v):
        phi, mean = v["phi_y"], TIME * np.exp(eta)
        return stats.nbinom(phi, phi / (phi + mean))

    def prior(self, v):
        return gamma(v["phi_y"], 2.0, 0.1)


class TestGeometric(FamilyContract):
    """SciPy's counts trials, one more than failures."""

    closed = formed = False
    bad = EXPOSURES

    def family(self):
        return families.Geometric(exposure="time")

    def distribution(self, eta, v):
        return stats.geom(1.0 / (1.0 + TIME * np.exp(eta)), loc=-1)


class TestNegativeBinomial1(FamilyContract):
    closed = formed = False
    values = {"phi_y": [0.2, 1.0, 5.0]}  # noqa: RUF012
    bad = EXPOSURES

    def family(self):
        return families.NegativeBinomial1(exposure="time")

    def distribution(self, eta, v):
        return stats.nbinom(TIME * np.exp(eta) / v["phi_y"], 1.0 / (1.0 + v["phi_y"]))

    def prior(self, v):
        return stats.lognorm(1.5).logpdf(v["phi_y"])


class TestBetaBinomial(FamilyContract):
    closed = formed = False
    values = {"phi_y": [0.5, 3.0, 20.0]}  # noqa: RUF012
    bad = TestBinomial.bad

    def family(self):
        return families.BetaBinomial()

    def distribution(self, eta, v):
        p = 1.0 / (1.0 + np.exp(-eta))
        return stats.betabinom(TRIALS.astype(int), v["phi_y"] * p, v["phi_y"] * (1.0 - p))

    def prior(self, v):
        return stats.lognorm(1.5, scale=np.exp(2.0)).logpdf(v["phi_y"])


def test_every_name_is_a_family():
    kinds = [x for x in vars(families).values() if isinstance(x, type) and issubclass(x, families.Family)]
    assert {kind.name for kind in kinds if kind.name} | set(families.MADE) == {*families.NAMES, *families.CODED}
    for name in families.NAMES:
        assert families.named(name).name == name
    with pytest.raises(ModelError, match=r"family is one of gaussian, .*; found 'normal'"):
        models.CompletePooling(family="normal")


class Several(families.Gaussian):
    parameters = ("eta", "log_sigma")


def test_structures_make_one_predictor_of_a_row():
    with pytest.raises(
        ModelError, match=r"has the predictors eta, log_sigma for each row, and CompletePooling makes one"
    ):
        models.CompletePooling(family=Several())
