"""Distribution functions, and rows that are censored or truncated, by SciPy."""

import math

import numpy as np
import pytest
import torch
from builders import refused
from scipy import integrate, special, stats
from torch import distributions as d

import hiertorch as ht
from hiertorch.errors import ModelError
from hiertorch.model import continuous
from hiertorch.model.tails import log_between, log_tails
from hiertorch.model.within import draw_within, moments_within
from hiertorch.randomness import seeded
from hiertorch.runtime.validating import validation

SLOW = pytest.mark.slow


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def skew(loc, scale, alpha):
    delta = alpha / np.sqrt(1.0 + alpha**2)
    width = scale / np.sqrt(1.0 - 2.0 * delta**2 / np.pi)
    return stats.skewnorm(alpha, loc - width * delta * np.sqrt(2.0 / np.pi), width)


def asymmetric(loc, scale, q):
    return stats.laplace_asymmetric(np.sqrt(q / (1.0 - q)), loc, scale / np.sqrt(q * (1.0 - q)))


CASES = {
    "normal": (d.Normal, lambda m, s: stats.norm(m, s), [(0.0, 1.0), (3.0, 0.5)]),
    "lognormal": (d.LogNormal, lambda m, s: stats.lognorm(s, scale=np.exp(m)), [(0.0, 1.0), (2.0, 0.2)]),
    "exponential": (d.Exponential, lambda r: stats.expon(scale=1 / r), [(1.0,), (7.0,)]),
    "weibull": (d.Weibull, lambda s, k: stats.weibull_min(k, scale=s), [(1.0, 0.5), (2.0, 4.0)]),
    "gamma": (
        continuous.PositiveGamma,
        lambda a, r: stats.gamma(a, scale=1 / r),
        [(0.03, 1.0), (0.8, 2.0), (5.0, 0.1), (900.0, 30.0)],
    ),
    "beta": (
        continuous.OpenBeta,
        lambda a, b: stats.beta(a, b),
        [(0.2, 1.5), (2.0, 3.0), (0.3, 40.0), (400.0, 70.0), (50.0, 1.5)],
    ),
    "student t": (d.StudentT, lambda n, m, s: stats.t(n, m, s), [(0.7, 0.0, 1.0), (4.0, 2.0, 0.5), (80.0, 0.0, 1.0)]),
    "inverse gaussian": (
        continuous.InverseGaussian,
        lambda m, s: stats.invgauss(m / s, scale=s),
        [(1.0, 0.3), (2.0, 50.0)],
    ),
    "skew normal": (continuous.SkewNormal, skew, [(0.0, 1.0, 0.0), (1.0, 2.0, 3.0), (0.0, 1.0, -30.0)]),
    "asymmetric laplace": (continuous.AsymmetricLaplace, asymmetric, [(0.0, 1.0, 0.2), (1.0, 3.0, 0.9)]),
}
EACH = [(name, values) for name, (_, _, every) in CASES.items() for values in every]
FIRST = [one if one[1] == CASES[one[0]][2][0] else pytest.param(*one, marks=SLOW) for one in EACH]
"""Of which one of each distribution is looked at by default."""


def both(name, values, number):
    """A distribution of so many rows, and SciPy's."""
    kind, reference, _ = CASES[name]
    return kind(*(t(x).expand(number) for x in values), validate_args=False), reference(*values)


def places(reference, least=1e-250):
    """From one tail to the other, with more of the middle."""
    p = np.r_[10.0 ** np.linspace(np.log10(least), -1, 12), np.linspace(0.1, 0.9, 9)]
    upper = reference.ppf(0.5) * np.geomspace(1.0, 100.0, 20) if reference.dist.name == "invgauss" else reference.isf(p)
    found = np.r_[reference.ppf(p), upper]  # SciPy can't invert the upper tail of an inverse Gaussian one
    low, high = reference.support()
    return np.unique(found[np.isfinite(found) & (found > low) & (found < high)])


@pytest.mark.parametrize(("name", "values"), EACH)
def test_distribution_functions_far_out(name, values):
    """SciPy's own are 0 below 1e-308, and those of skew normal rows lose all digits below 1e-10."""
    _, reference = both(name, values, 1)
    x = places(reference, 1e-6 if name == "skew normal" else 1e-250)
    distribution, _ = both(name, values, len(x))
    below, above = (one.numpy() for one in log_tails(distribution, torch.tensor(x)))
    cdf, sf = reference.cdf(x), reference.sf(x)
    for found, known in ((below, cdf), (above, sf)):
        near = known > 1e-280
        np.testing.assert_allclose(found[near], np.log(known[near]), rtol=1e-9, atol=1e-11)
    assert np.isfinite(below).all() and np.isfinite(above).all()
    assert (np.diff(below) >= -1e-12).all() and (np.diff(above) <= 1e-12).all()


def test_the_short_tail_of_a_skew_normal_number():
    """By quadrature of its density over the part of it that counts."""
    rows, _ = both("skew normal", (0.0, 1.0, 30.0), 3)
    x = rows.loc + rows.width * (t(-0.3, -1.0, -3.0) - rows.standardised(rows.loc))
    for place, found in zip((-0.3, -1.0, -3.0), log_tails(rows, x)[0].tolist(), strict=True):

        def density(u, z=place):
            return np.exp(special.log_ndtr(30 * (z - u)) - (z - u) ** 2 / 2 - special.log_ndtr(30 * z) + z**2 / 2)

        part = integrate.quad(density, 0, 3, points=[0.05], epsabs=0, limit=200)[0]
        known = np.log(part) + special.log_ndtr(30 * place) - place**2 / 2 + 0.5 * np.log(2 / np.pi)
        assert found == pytest.approx(known, abs=1e-9)


@pytest.mark.parametrize(("name", "values"), EACH)
def test_probabilities_between_two_ends(name, values):
    """By quadrature of SciPy's density, also where the difference of two distribution functions is rounding."""
    _, reference = both(name, values, 1)
    at = reference.ppf([1e-6, 0.02, 0.3, 0.5, 0.97])
    low = np.r_[at, at]
    high = np.r_[reference.ppf([0.01, 0.8, 0.31, 0.9999, 0.98]), at * (1 + 1e-9)]
    high = np.minimum(high, reference.support()[1] * (1 - 1e-13) if np.isfinite(reference.support()[1]) else np.inf)
    low, high = (end[(high > low) & (low > -np.inf) & (low != 0.0)] for end in (low, high))
    distribution, _ = both(name, values, len(low))
    found = log_between(distribution, torch.tensor(low), torch.tensor(high)).exp().numpy()
    for k, (a, b) in enumerate(zip(low, high, strict=True)):
        if b - a < 1e-6 * abs(a):
            known = reference.pdf(0.5 * (a + b)) * (b - a)
            assert found[k] == pytest.approx(known, rel=1e-6)
        else:
            assert found[k] == pytest.approx(reference.cdf(b) - reference.cdf(a), rel=1e-8)
    whole = log_between(both(name, values, 1)[0], t(-math.inf), t(math.inf))
    assert float(whole) == pytest.approx(0.0, abs=1e-11)


@pytest.mark.parametrize("name", [name if name == "gamma" else pytest.param(name, marks=SLOW) for name in CASES])
def test_every_parameter_can_be_differentiated_by(name):
    """Forwards, backwards and twice, on both sides of the middle, against differences."""
    kind, reference, every = CASES[name]
    values = every[-1] if name not in ("gamma", "beta") else every[1]
    x = t(*reference(*values).ppf([0.01, 0.3, 0.8, 0.999]))

    def tails(*parameters):
        made = kind(*(p.expand(4) for p in parameters), validate_args=False)
        return log_tails(made, x)

    leaves = tuple(t(v).requires_grad_() for v in values)
    assert torch.autograd.gradcheck(tails, leaves, check_forward_ad=True, atol=1e-5, rtol=1e-4)
    assert torch.autograd.gradgradcheck(lambda *p: tails(*p)[1].sum(), leaves, atol=1e-4, rtol=1e-3)


def test_beyond_the_support():
    gamma = continuous.PositiveGamma(t(2.0), t(1.0))
    for x in (-1.0, 0.0, -math.inf):
        assert [float(one) for one in log_tails(gamma, t(x))] == [-math.inf, 0.0]
    assert [float(one) for one in log_tails(continuous.OpenBeta(t(2.0), t(1.0)), t(1.0))] == [0.0, -math.inf]


def test_a_distribution_without_a_function_is_refused():
    with refused(ModelError, "not known of Poisson", "Weibull", "log_tails"):
        log_tails(d.Poisson(t(1.0)), t(1.0))


class Logistic(d.Distribution):
    """One of a user's own."""

    support = d.constraints.real
    arg_constraints = {}  # noqa: RUF012

    def __init__(self, loc):
        self.loc = loc
        super().__init__(loc.shape)

    def log_prob(self, value):
        z = value - self.loc
        return -z - 2.0 * torch.nn.functional.softplus(-z)

    def log_tails(self, x):
        return torch.nn.functional.logsigmoid(x - self.loc), torch.nn.functional.logsigmoid(self.loc - x)


def test_a_distribution_of_ones_own():
    found = ht.censored(Logistic(torch.zeros(3, dtype=torch.float64)), t(0.0, 1.0, -1.0)).log_prob(t(0.5, 2.0, 1.0))
    known = [stats.logistic.logpdf(0.5), stats.logistic.logsf(2.0), stats.logistic.logcdf(1.0)]
    np.testing.assert_allclose(found, known, rtol=1e-12)


# Rows


@pytest.mark.parametrize(("name", "values"), EACH)
def test_censored_rows(name, values):
    reference = both(name, values, 1)[1]
    y, upper = torch.tensor(reference.ppf([0.2, 0.3, 0.6, 0.4])), torch.tensor(reference.ppf([0.0, 0.0, 0.0, 0.9]))
    base, how = both(name, values, 4)[0], t(0, 1, -1, 2)
    found = ht.censored(base, how, upper.nan_to_num(0.0, 0.0, 0.0)).log_prob(y)
    known = [reference.logpdf(y[0]), np.log(0.7), np.log(0.6), np.log(0.5)]
    np.testing.assert_allclose(found, known, rtol=1e-9, atol=1e-9)


def moment(law, power, edges):
    """The integral of x^power times a density by SciPy, by Gauss's rule between quantiles."""
    p = np.r_[0.0, 10.0 ** np.arange(-12, -1), np.linspace(0.05, 0.95, 19), 1 - 10.0 ** np.arange(-2, -13, -1.0), 1.0]
    start, stop = law.cdf(edges)
    ends = np.unique(np.r_[edges[0], law.ppf(start + p[1:-1] * (stop - start)), edges[1]])
    nodes, weights = np.polynomial.legendre.leggauss(30)
    width = np.diff(ends)[:, None]
    x = ends[:-1, None] + 0.5 * width * (nodes + 1.0)
    return (0.5 * width * weights * x**power * law.pdf(x)).sum()


@pytest.mark.parametrize(("name", "values"), FIRST)
def test_truncated_rows(name, values):
    """Density, mean, variance and distribution function by SciPy's conditional expectations."""
    reference = both(name, values, 1)[1]
    for low, high in ((0.05, 0.6), (0.7, None), (None, 0.4)):
        a = reference.ppf(low) if low else -np.inf
        b = reference.ppf(high) if high else np.inf
        base = both(name, values, 3)[0]
        rows = ht.truncated(base, None if low is None else float(a), None if high is None else torch.tensor(b))
        p = (low or 0.0) + np.array([0.2, 0.5, 0.9]) * ((high or 1.0) - (low or 0.0))
        y, mass = torch.tensor(reference.ppf(p)), (high or 1.0) - (low or 0.0)
        np.testing.assert_allclose(rows.log_prob(y), reference.logpdf(y) - np.log(mass), rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(rows.cdf(y), [0.2, 0.5, 0.9], rtol=1e-8)
        assert bool(rows.support.check(y).all())
        far = a - 1.0 if low else b + 1.0
        assert not bool(rows.support.check(t(far)).any())
        if name == "asymmetric laplace":
            with pytest.raises(NotImplementedError):
                rows.mean  # noqa: B018
            continue
        inside = np.clip([a, b], reference.ppf(1e-13), reference.isf(1e-13))

        if name == "student t" and values[0] < 3 and not (low and high):
            continue
        mean, second = (moment(reference, power, inside) / mass for power in (1, 2))
        np.testing.assert_allclose(rows.mean, mean, rtol=1e-6)
        np.testing.assert_allclose(rows.variance, second - mean**2, rtol=1e-4, atol=1e-9 * second)


def test_means_that_there_are_not():
    found = moments_within(d.StudentT(t(0.7, 1.5), t(0.0), t(1.0)), t(1.0), t(math.inf))
    assert found[0].isnan().tolist() == [True, False] and bool(found[1][1].isinf())


@pytest.mark.parametrize("name", ["normal", *(pytest.param(name, marks=SLOW) for name in CASES if name != "normal")])
@pytest.mark.parametrize("cut", [(0.3, 0.8), (1e-9, 2e-9), (1 - 1e-6, None), (None, 1e-7)])
def test_draws_between_two_ends(name, cut):
    """Kolmogorov and Smirnov's p-value above 1e-6, so that 40 tests fail wrongly in 1 of 25,000 choices of seeds; by
    rejection in the first case, and by the distribution function in the others.
    """
    values = CASES[name][2][-1] if name != "gamma" else (5.0, 0.1)
    reference = both(name, values, 1)[1]
    low, high = (reference.ppf(p) if p is not None else end for p, end in zip(cut, (-np.inf, np.inf), strict=True))
    base = both(name, values, 400)[0]
    with seeded(torch.Generator().manual_seed(3), base.mean.device):
        y = draw_within(base, torch.tensor(low), torch.tensor(high))
    assert bool(((y >= low) & (y <= high)).all())
    mass = log_between(base, torch.tensor(low), torch.tensor(high))
    u = (log_between(base, torch.tensor(low).expand(400), y) - mass).exp().numpy()
    assert stats.kstest(u, "uniform").pvalue > 1e-6
    assert stats.kstest(u**2, "uniform").pvalue < 1e-6
    if cut[0] == 0.3:
        assert stats.kstest((reference.cdf(y) - 0.3) / 0.5, "uniform").pvalue > 1e-6


def test_completed_rows():
    """What was seen stays, and what was cut off lies beyond."""
    base = d.Normal(t(0.0).expand(4), t(1.0))
    rows = ht.censored(base, t(0, 1, -1, 2), t(0, 0, 0, 0.7)).expand((2_000, 4))
    with seeded(torch.Generator().manual_seed(4), base.mean.device):
        y = rows.completed(t(0.3, 1.0, -0.5, 0.2))
    assert bool((y[:, 0] == 0.3).all())
    known = [stats.truncnorm(1.0, np.inf), stats.truncnorm(-np.inf, -0.5), stats.truncnorm(0.2, 0.7)]
    for k, reference in enumerate(known, start=1):
        assert stats.kstest(y[:, k], reference.cdf).pvalue > 1e-5
    below, among = rows.masses(t(0.3, 1.0, -0.5, 0.2))
    cdf = stats.norm.cdf
    np.testing.assert_allclose(below[0], [cdf(0.3), cdf(1.0), 0.0, cdf(0.2)])
    np.testing.assert_allclose(among[0], [0.0, 1 - cdf(1.0), cdf(-0.5), cdf(0.7) - cdf(0.2)])


def test_what_can_not_be():
    normal = d.Normal(t(0.0, 0.0), t(1.0))
    with refused(ModelError, "takes a torch.distributions object"):
        ht.censored(t(1.0), t(1.0))
    with refused(ModelError, "codes, and upper ends, in columns"):
        ht.censored(normal, "right")
    with refused(ModelError, "found neither"):
        ht.truncated(normal)
    with refused(ModelError, "to a higher high="):
        ht.truncated(normal, 2.0, 1.0)
    with refused(ModelError, "truncated() takes"):
        ht.truncated(3.0, 2.0)
    with validation(False):
        assert ht.censored(normal, t(2.0, 0.0)).log_prob(t(0.0, 0.0)).isnan().tolist() == [True, False]
    rows = ht.censored(normal, t(2.0, 7.0), t(0.5, 0.0))
    assert rows.support.check(t(0.0, 0.0)).tolist() == [True, False]
    assert rows.support.check(t(0.5, 0.0)).tolist() == [False, False]
