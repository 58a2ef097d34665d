"""Families of continuous rows, by the contract of every family."""

import numpy as np
import pytest
import torch
from builders import refused
from contracts.families import COLUMNS, FamilyContract
from scipy import special, stats

from hiertorch import families
from hiertorch.errors import ModelError

OUTSIDE = "outside the support of the likelihood"
ABOVE_ZERO = (("y", -1.0, OUTSIDE), ("y", 0.0, OUTSIDE))


def gamma(x, shape=1.0, rate=1.0):
    return stats.gamma(shape, scale=1.0 / rate).logpdf(x)


def lognormal(x, location, scale):
    return stats.lognorm(scale, scale=np.exp(location)).logpdf(x)


class Continuous(FamilyContract):
    """Without a closed form."""

    closed = formed = False


class TestGamma(Continuous):
    closed = True
    values = {"shape_y": [0.8, 2.0, 9.0]}  # noqa: RUF012
    bad = ABOVE_ZERO

    def family(self):
        return families.Gamma()

    def distribution(self, eta, v):
        return stats.gamma(v["shape_y"], scale=np.exp(eta) / v["shape_y"])

    def prior(self, v):
        return lognormal(v["shape_y"], 2.0, 1.5)


class TestExponential(Continuous):
    closed = True
    bad = (("y", -1.0, OUTSIDE),)

    def family(self):
        return families.Exponential()

    def distribution(self, eta, v):
        return stats.expon(scale=np.exp(eta))


class TestWeibull(Continuous):
    values = {"shape_y": [0.7, 1.5, 4.0]}  # noqa: RUF012
    bad = ABOVE_ZERO

    def family(self):
        return families.Weibull()

    def distribution(self, eta, v):
        return stats.weibull_min(v["shape_y"], scale=np.exp(eta) / special.gamma(1.0 + 1.0 / v["shape_y"]))

    def prior(self, v):
        return lognormal(v["shape_y"], 0.5, 1.0)


class TestInverseGaussian(Continuous):
    """SciPy's has shape 1 at its scale."""

    values = {"shape_y": [0.8, 3.0, 20.0]}  # noqa: RUF012
    bad = ABOVE_ZERO

    def family(self):
        return families.InverseGaussian()

    def distribution(self, eta, v):
        return stats.invgauss(np.exp(eta) / v["shape_y"], scale=v["shape_y"])

    def prior(self, v):
        return lognormal(v["shape_y"], 2.0, 1.5)


class TestLogNormal(Continuous):
    closed = True
    values = {"sigma_y": [0.3, 0.6, 0.9]}  # noqa: RUF012
    bad = ABOVE_ZERO

    def family(self):
        return families.LogNormal()

    def distribution(self, eta, v):
        return stats.lognorm(v["sigma_y"], scale=np.exp(eta))

    def prior(self, v):
        return gamma(v["sigma_y"])

    def test_the_link_is_that_of_the_mean(self):
        """It is that of the median."""
        found = self.family().distribution(torch.zeros(1, 1), self.v(), None).cdf(torch.ones(1, dtype=torch.float64))
        torch.testing.assert_close(found, torch.full_like(found, 0.5))


class TestBeta(Continuous):
    values = {"phi_y": [2.0, 8.0, 30.0]}  # noqa: RUF012
    bad = (("y", 0.0, OUTSIDE), ("y", 1.0, OUTSIDE))

    def family(self):
        return families.Beta()

    def distribution(self, eta, v):
        return stats.beta(v["phi_y"] * special.expit(eta), v["phi_y"] * special.expit(-eta))

    def prior(self, v):
        return lognormal(v["phi_y"], 2.0, 1.5)


class TestSkewNormal(Continuous):
    values = {"sigma_y": [0.5, 1.0, 2.0], "alpha_y": [-3.0, 0.0, 6.0]}  # noqa: RUF012

    def family(self):
        return families.SkewNormal()

    def distribution(self, eta, v):
        d = v["alpha_y"] / np.sqrt(1.0 + v["alpha_y"] ** 2)
        width = v["sigma_y"] / np.sqrt(1.0 - 2.0 * d**2 / np.pi)
        return stats.skewnorm(v["alpha_y"], eta - width * d * np.sqrt(2.0 / np.pi), width)

    def prior(self, v):
        return gamma(v["sigma_y"]) + stats.norm(0.0, 4.0).logpdf(v["alpha_y"])


class TestAsymmetricLaplace(Continuous):
    """SciPy's has kappa^2 = q / (1 - q), and its scale is sigma / sqrt(q (1 - q))."""

    values = {"sigma_y": [0.5, 1.0, 2.0]}  # noqa: RUF012

    def family(self):
        return families.AsymmetricLaplace(0.8)

    def distribution(self, eta, v):
        q = v.get("quantile_y", 0.8)
        return stats.laplace_asymmetric(np.sqrt(q / (1.0 - q)), eta, v["sigma_y"] / np.sqrt(q * (1.0 - q)))

    def prior(self, v):
        return gamma(v["sigma_y"])

    def test_the_link_is_that_of_the_mean(self):
        """It is that of the quantile."""
        eta, q = np.array([-1.0, 2.0]), self.values.get("quantile_y", [0.8])[0]
        for sigma in (0.5, 2.0):
            at = self.distribution(eta, {"sigma_y": sigma, "quantile_y": q}).cdf(eta)
            np.testing.assert_allclose(at, q)


class TestLearntQuantile(TestAsymmetricLaplace):
    values = {"sigma_y": [0.5, 1.0, 2.0], "quantile_y": [0.1, 0.5, 0.7]}  # noqa: RUF012

    def family(self):
        return families.AsymmetricLaplace(None)


def test_a_quantile_lies_between_0_and_1():
    for wrong in (0.0, 1.0, True, "0.5"):
        with refused(ModelError, "quantile is between 0 and 1", repr(wrong)):
            families.AsymmetricLaplace(wrong)


INVERSES = {
    "inverse": lambda eta: 1.0 / eta,
    "softplus": lambda eta: np.logaddexp(0.0, eta),
    "identity": lambda eta: eta,
}


@pytest.mark.parametrize("link", INVERSES)
@pytest.mark.parametrize("test", [TestGamma, TestExponential, TestWeibull, TestInverseGaussian])
def test_other_links_of_positive_rows(test, link):
    """The mean is that of SciPy with the log link at the logarithm of this one's."""
    one = test()
    eta = torch.tensor(1.0 + np.exp(COLUMNS["x"])).expand(3, -1)
    family, data, v = type(one.family())(link=link), one.data(), one.v()
    found = family.distribution(eta, v, data)
    for c in range(3):
        mean = INVERSES[link](eta[c].numpy())
        reference = one.distribution(np.log(mean), {name: x[c] for name, x in one.values.items()})
        np.testing.assert_allclose(found.log_prob(data.y)[c], reference.logpdf(data.y.numpy()), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(family.variance(eta, v, data)[c], reference.var(), rtol=1e-6)
    level, spread = family.level_and_spread(data.y, torch.zeros_like(data.y), data)
    assert float(family.link.inverse(level)) == pytest.approx(float(data.y.mean())) and spread > 0
    assert (family.link_variance(eta[:, :1], 0.1 * eta[:, :1], v, data.take(torch.zeros(1).long())) > 0).all()
    assert family.derivatives(data.y, eta, v, data) is None


@pytest.mark.parametrize("link", ["probit", "cloglog"])
def test_other_links_of_shares(link):
    one, eta = TestBeta(), torch.tensor(COLUMNS["x"]).expand(3, -1)
    family, data, v = families.Beta(link), one.data(), one.v()
    mean = {"probit": stats.norm.cdf, "cloglog": stats.gumbel_l.cdf}[link](COLUMNS["x"])
    reference = stats.beta(8.0 * mean, 8.0 * (1.0 - mean))
    np.testing.assert_allclose(family.distribution(eta, v, data).log_prob(data.y)[1], reference.logpdf(data.y))
