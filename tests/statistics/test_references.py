"""The references against other routes to the same numbers; the tests of draws against draws made to pass or fail."""

from typing import Any

import numpy as np
import pytest
from builders import EFFECTS, ERRORS
from references import (
    PROBABILITIES,
    Reference,
    assert_matches,
    binomial_bounds,
    chi_square_p,
    ecdf_p,
    eight_schools,
    funnel,
    lkj_correlation,
    normal_mean,
    normal_sample,
    varying_intercepts,
)
from scipy import integrate, signal, stats


def ar1(rng: np.random.Generator, rho: float, chains: int = 4, draws: int = 500, size: int = 1) -> np.ndarray:
    """Stationary Normal(0, 1) chains with autocorrelation rho^lag, `(chains, draws, size)`."""
    noise = rng.normal(size=(chains, draws, size))
    noise[:, 1:] *= np.sqrt(1 - rho**2)
    return signal.lfilter([1.0], [1.0, -rho], noise, axis=1)


def passes(draws: np.ndarray, reference: Reference, **options: Any) -> bool:
    try:
        assert_matches(draws, reference, **options)
    except AssertionError:
        return False
    return True


def test_normal_mean_against_quadrature() -> None:
    y = np.array([0.3, 1.9, 2.2])
    grid = np.linspace(-15, 15, 20_001)
    density = stats.norm.pdf(grid, 1.0, 2.0) * stats.norm.pdf(y[:, None], grid, 0.7).prod(0)
    density /= density.sum()
    found = normal_mean(y, sigma=0.7, m0=1.0, s0=2.0)
    mean = density @ grid
    assert found.mean[0] == pytest.approx(mean, rel=1e-9)
    assert found.sd[0] == pytest.approx(np.sqrt(density @ (grid - mean) ** 2), rel=1e-9)
    for p, q in found.quantiles.items():
        assert np.interp(q[0], grid, np.cumsum(density)) == pytest.approx(p, abs=2e-3)


def test_normal_sample_against_normal_inverse_gamma() -> None:
    # sigma^-2 ~ Gamma(a, rate b) and a flat mean: mu | y is Student's t and sigma^-2 | y is Gamma again.
    y, a, b = np.array([0.2, 1.4, -0.7, 2.1, 0.9, 1.0]), 2.0, 1.5
    inverse_root_gamma = lambda shape, rate: stats.gengamma(shape, c=-2, scale=rate**0.5)  # noqa: E731
    found = normal_sample(y, m0=0.0, s0=1e5, sigma=inverse_root_gamma(a, b))
    n, rest = len(y), np.sum((y - y.mean()) ** 2)
    shape, rate = a + (n - 1) / 2, b + rest / 2
    t = stats.t(2 * shape, y.mean(), np.sqrt(rate / shape / n))
    assert found["mu"].largest_difference(Reference.of(t)) < 1e-6
    assert found["sigma"].largest_difference(Reference.of(inverse_root_gamma(shape, rate))) < 1e-6


@pytest.mark.parametrize("tau", [stats.gamma(1.0), stats.halfcauchy(scale=5.0), stats.halfnorm(scale=3.0)])
def test_eight_schools_against_quadrature_over_mu_and_tau(tau: Any) -> None:
    # mu is integrated numerically here, and tau on its own scale; theta by the law of total expectation and variance.
    found = eight_schools(EFFECTS, ERRORS, m0=0.0, s0=5.0, tau=tau)
    nodes, node_weights = np.polynomial.legendre.leggauss(400)
    u = (nodes + 1) / 2  # tau = 20 u / (1 - u) reaches far into the tail
    t = (20 * u / (1 - u))[:, None, None]
    mu = np.linspace(-45, 45, 601)[:, None]
    log_density = stats.norm.logpdf(EFFECTS, mu, np.sqrt(ERRORS**2 + t**2)).sum(2) + stats.norm.logpdf(mu[:, 0], 0, 5)
    log_density += tau.logpdf(t[:, :, 0]) + np.log(node_weights * 10 / (1 - u) ** 2)[:, None]
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    conditional = (EFFECTS * t**2 + mu * ERRORS**2) / (t**2 + ERRORS**2)
    variance = t**2 * ERRORS**2 / (t**2 + ERRORS**2)
    theta = np.einsum("tm,tmj->j", weights, conditional)
    theta_sd = np.sqrt(np.einsum("tm,tmj->j", weights, variance + (conditional - theta) ** 2))
    for name, values in {"mu": mu[:, 0][None], "tau": t[:, :, 0]}.items():
        mean = np.sum(weights * values)
        assert found[name].mean[0] == pytest.approx(mean, rel=1e-6)
        assert found[name].sd[0] == pytest.approx(np.sqrt(np.sum(weights * (values - mean) ** 2)), rel=1e-6)
    np.testing.assert_allclose(found["theta"].mean, theta, rtol=1e-6)
    np.testing.assert_allclose(found["theta"].sd, theta_sd, rtol=1e-6)


def test_eight_schools_quantiles_against_exact_draws() -> None:
    # tau by inversion on a fine grid, then mu given tau, then theta given both.
    rng = np.random.default_rng(1)
    tau_grid = np.linspace(1e-4, 80, 40_000)
    v = ERRORS**2 + tau_grid[:, None] ** 2
    precision = (1 / v).sum(1) + 1 / 25
    centre = (EFFECTS / v).sum(1) / precision
    log_density = stats.norm.logpdf(EFFECTS, centre[:, None], np.sqrt(v)).sum(1) + stats.norm.logpdf(centre, 0, 5)
    log_density += stats.halfcauchy.logpdf(tau_grid, scale=5) - 0.5 * np.log(precision)
    cdf = np.cumsum(np.exp(log_density - log_density.max()))
    k = np.searchsorted(cdf / cdf[-1], rng.random((4, 5_000)))
    tau = tau_grid[k]
    mu = centre[k] + rng.normal(size=k.shape) / np.sqrt(precision[k])
    weight = tau[..., None] ** 2 / v[k]
    theta = weight * EFFECTS + (1 - weight) * mu[..., None] + np.sqrt(weight) * ERRORS * rng.normal(size=(*k.shape, 8))
    found = eight_schools(EFFECTS, ERRORS, 0.0, 5.0, stats.halfcauchy(scale=5))
    for name, draws in {"mu": mu, "tau": tau, "theta": theta}.items():
        assert_matches(draws, found[name], name=name)


@pytest.fixture(scope="module")
def small() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """14 rows in 4 groups of very different sizes."""
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(4), [1, 2, 4, 7])
    x = rng.normal(size=14)
    return rng.normal(np.array([-0.5, 0.1, 1.0, 1.6])[group] + 0.6 * x, 0.5), x, group


@pytest.mark.slow
def test_varying_intercepts_against_marginal_likelihood(small: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    # Another route: y | scales ~ N(0, V), V = 25 11' + 4 xx' + s_a^2 ZZ' + s_y^2 I, coefficients by Cov(c, y) V^-1 y.
    y, x, group = small
    found = varying_intercepts(y, x, group)
    one, z = np.ones(14), np.eye(4)[group]
    nodes, node_weights = np.polynomial.legendre.leggauss(60)
    s_alpha, w_alpha = 6 * (nodes + 1), 6 * node_weights  # (0, 12)
    s_y, w_y = 0.1 + 1.5 * (nodes + 1), 1.5 * node_weights  # (0.1, 3.1)
    log_weights, means, variances = [], [], []
    for a, wa in zip(s_alpha, w_alpha, strict=True):
        shared = 25 * np.outer(one, one) + 4 * np.outer(x, x) + a**2 * z @ z.T
        covariance = np.stack([25 * one, 4 * x, *(25 * one + a**2 * z.T)])  # of (mu, beta, alpha) with y
        prior = np.diag([25.0, 4.0, *[25 + a**2] * 4])
        for s, ws in zip(s_y, w_y, strict=True):
            v = shared + s**2 * np.eye(14)
            log_weights.append(stats.multivariate_normal.logpdf(y, cov=v) - a - s + np.log(wa * ws))
            gain = np.linalg.solve(v, covariance.T).T
            means.append(gain @ y)
            variances.append(np.diag(prior) - np.einsum("ij,ij->i", gain, covariance))
    weights = np.exp(np.array(log_weights) - max(log_weights))
    weights /= weights.sum()
    mean = weights @ np.array(means)
    sd = np.sqrt(weights @ (np.array(variances) + (np.array(means) - mean) ** 2))
    coefficients = ("mu_alpha", "beta", "alpha")
    np.testing.assert_allclose(np.concatenate([found[name].mean for name in coefficients]), mean, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([found[name].sd for name in coefficients]), sd, rtol=1e-4)
    grid_alpha, grid_y = np.repeat(s_alpha, 60), np.tile(s_y, 60)
    for name, grid in {"sigma_alpha": grid_alpha, "sigma_y": grid_y}.items():
        assert found[name].mean[0] == pytest.approx(weights @ grid, rel=1e-4)
        assert found[name].sd[0] == pytest.approx(np.sqrt(weights @ (grid - weights @ grid) ** 2), rel=1e-3)
        for p, q in found[name].quantiles.items():
            assert weights[grid <= q].sum() == pytest.approx(p, abs=0.06)  # steps of the 60 nodes


def test_varying_intercepts_with_the_scales_all_but_known(small: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    # With both scales pinned the posterior is one Gaussian, so its quantiles are those of that Gaussian.
    y, x, group = small
    pinned = [stats.lognorm(0.01, scale=scale) for scale in (0.8, 0.5)]
    found = varying_intercepts(y, x, group, sigma_alpha=pinned[0], sigma_y=pinned[1])
    v = 25 + 4 * np.outer(x, x) + 0.64 * np.equal.outer(group, group) + 0.25 * np.eye(14)
    gain = np.linalg.solve(v, 4 * x)
    beta = Reference.of(stats.norm(gain @ y, np.sqrt(4 - gain @ (4 * x))))
    assert beta.largest_difference(found["beta"]) < 2e-3
    assert Reference.of(pinned[0]).largest_difference(found["sigma_alpha"]) < 0.1


def test_quadrature_refuses_a_box_that_cuts_the_posterior() -> None:
    with pytest.raises(ArithmeticError, match=r"at the rim of .*; widen it"):
        eight_schools(EFFECTS[:1], ERRORS[:1], 0.0, 5.0, stats.halfcauchy(scale=1e8))


def test_funnel_against_closed_forms_and_integration() -> None:
    found = funnel()
    assert found["v"].sd[0] == pytest.approx(3.0)
    assert found["x"].mean[0] == pytest.approx(0.0, abs=1e-12)
    assert found["x"].sd[0] == pytest.approx(np.exp(9 / 4), rel=1e-9)
    for p, q in found["x"].quantiles.items():
        below = integrate.quad(lambda v, q=q[0]: stats.norm.pdf(v, 0, 3) * stats.norm.cdf(q * np.exp(-v / 2)), -40, 40)
        assert below[0] == pytest.approx(p, abs=1e-7)


@pytest.mark.parametrize(("dimension", "concentration"), [(2, 1.0), (2, 2.5), (3, 1.0), (3, 4.0)])
def test_lkj_correlation_against_rejection(dimension: int, concentration: float) -> None:
    # LKJ has density det(R)^(eta - 1) over correlation matrices: uniform proposals, kept with that probability. (Not
    # against torch's LKJCholesky.sample, whose correlations are too wide from the third row on in versions up to 2.13.)
    rng = np.random.default_rng(3)
    below = np.tril_indices(dimension, -1)
    proposal = rng.uniform(-1, 1, (150_000, len(below[0])))
    matrix = np.broadcast_to(np.eye(dimension), (len(proposal), dimension, dimension)).copy()
    matrix[:, *below] = matrix[:, *below[::-1]] = proposal
    determinant = np.linalg.det(matrix)
    possible = (determinant > 0) & (np.linalg.eigvalsh(matrix)[:, 0] > 0)
    kept = proposal[possible & (rng.random(len(proposal)) < np.abs(determinant) ** (concentration - 1))]
    draws = kept[: len(kept) // 4 * 4].reshape(4, -1, len(below[0]))
    entry = lkj_correlation(concentration, dimension)
    for k in range(draws.shape[2]):
        assert_matches(draws[..., k], entry, name=f"correlation {k}")
    assert entry.sd[0] == pytest.approx((2 * concentration + dimension - 1) ** -0.5)


NORMAL = Reference.of(stats.norm(0, 1))


@pytest.mark.parametrize("rho", [0.0, 0.7, -0.5])
def test_error_rate_of_one_check(rho: float) -> None:
    draws = ar1(np.random.default_rng(4), rho, size=600)
    low, high = binomial_bounds(600, 0.05, alpha=1e-3)
    assert low <= sum(not passes(draws[..., k], NORMAL, alpha=0.05, only=["mean"]) for k in range(600)) <= high


@pytest.mark.parametrize("rho", [0.0, 0.7, -0.5])
def test_error_rate_of_all_checks(rho: float) -> None:
    # Bonferroni over correlated checks: at most the stated rate, but not far below it, or bad draws would pass too.
    draws = ar1(np.random.default_rng(5), rho, size=200)
    failed = sum(not passes(draws[..., k], NORMAL, alpha=0.1) for k in range(200))
    assert binomial_bounds(200, 0.04, alpha=1e-3)[0] <= failed <= binomial_bounds(200, 0.1, alpha=1e-3)[1]


def test_a_shift_fails_and_is_named() -> None:
    draws = ar1(np.random.default_rng(6), 0.5, draws=2_000, size=3)
    assert_matches(draws, Reference.of(*[stats.norm(0, 1)] * 3))
    draws[..., 1] += 0.2
    with pytest.raises(
        AssertionError, match=r"mean of alpha\[1\] is 0\.\d+, expected 0: off by \+\d\.\d MCSE, allowed 4"
    ):
        assert_matches(draws, Reference.of(*[stats.norm(0, 1)] * 3), name="alpha")
    with pytest.raises(AssertionError, match="share below the 50% quantile of alpha") as failure:
        assert_matches(draws, Reference.of(*[stats.norm(0, 1)] * 3), name="alpha")
    assert "alpha[0]" not in str(failure.value) and "alpha[2]" not in str(failure.value)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_wrong_scale_fails(factor: float) -> None:
    draws = factor * ar1(np.random.default_rng(7), 0.3, draws=2_000)
    with pytest.raises(AssertionError, match="variance of parameter is"):
        assert_matches(draws, NORMAL)


def test_a_wrong_shape_fails_on_its_quantiles() -> None:
    uniform = np.random.default_rng(10).uniform(-(3**0.5), 3**0.5, (4, 2_000))  # mean 0 and sd 1, too
    assert_matches(uniform, NORMAL, only=["mean", "sd"])
    with pytest.raises(AssertionError, match="share below the 25% quantile"):
        assert_matches(uniform, NORMAL)


def test_stuck_and_nan_draws_fail() -> None:
    for draws in (np.zeros((4, 500)), np.full((4, 500), np.nan)):
        with pytest.raises(AssertionError, match="mean of parameter"):
            assert_matches(draws, NORMAL)


def test_a_reference_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"draws of alpha have size 3, the reference \(1,\); expected \(3,\)"):
        assert_matches(np.zeros((4, 100, 3)), NORMAL, name="alpha")


def test_reference_holds_what_scipy_says() -> None:
    found = Reference.of(stats.gamma(3, scale=0.5), stats.norm(1, 2))
    np.testing.assert_allclose(found.mean, [1.5, 1.0])
    np.testing.assert_allclose(found.sd, [0.75**0.5, 2.0])
    assert set(found.quantiles) == set(PROBABILITIES)
    np.testing.assert_allclose(stats.norm(1, 2).cdf(found.quantiles[0.05][1]), 0.05)
    assert found.largest_difference(Reference.of(stats.gamma(3, scale=0.5), stats.norm(1.2, 2))) == pytest.approx(0.1)


@pytest.mark.parametrize(("trials", "probability"), [(100, 0.05), (1_000, 0.5), (20, 0.9)])
def test_binomial_bounds_hold_their_rate_and_are_tight(trials: int, probability: float) -> None:
    low, high = binomial_bounds(trials, probability, alpha=0.01)
    terms = [stats.binom.pmf(k, trials, probability) for k in range(trials + 1)]
    assert sum(terms[:low]) <= 0.005 and sum(terms[high + 1 :]) <= 0.005
    assert sum(terms[: low + 1]) > 0.005 and sum(terms[high:]) > 0.005


@pytest.mark.parametrize("p_value", [chi_square_p, ecdf_p])
def test_p_values_of_uniform_and_other_ranks(p_value: Any) -> None:
    rng = np.random.default_rng(9)
    p_values = np.array([p_value(rng.integers(0, 64, 400), 64) for _ in range(400)])
    assert np.sum(p_values < 0.1) <= binomial_bounds(400, 0.1, alpha=1e-3)[1]
    assert np.sum(p_values < 0.1) >= binomial_bounds(400, 0.05, alpha=1e-3)[0]
    assert (
        p_value(rng.binomial(63, rng.beta(0.7, 0.7, 1_000)), 64) < 1e-3
    )  # too narrow a posterior: ranks pile up at the ends
    assert p_value(rng.binomial(63, rng.beta(1.5, 1.0, 1_000)), 64) < 1e-3  # a biased one: ranks lean to one side


def test_chi_square_with_bins_of_unequal_width() -> None:
    ranks = np.repeat(np.arange(10), 30)
    assert chi_square_p(ranks, 10) == pytest.approx(1.0)
    assert chi_square_p(ranks, 10, bins=4) == pytest.approx(1.0)  # bins of 2, 3, 3, 2 or alike values
    observed = np.array([40, 20, 30, 30])
    expected = stats.chisquare(observed).pvalue
    assert chi_square_p(np.repeat(np.arange(4), observed), 4, bins=4) == pytest.approx(expected)


def test_ecdf_p_is_kolmogorovs() -> None:
    ranks = np.repeat(np.arange(4), [40, 20, 25, 15])  # |ECDF - CDF| is 0.15 after the first value
    assert ecdf_p(ranks, 4) == pytest.approx(stats.kstwo.sf(0.15, 100))


@pytest.mark.parametrize("p_value", [chi_square_p, ecdf_p])
def test_ranks_out_of_range_are_refused(p_value: Any) -> None:
    with pytest.raises(ValueError, match=r"ranks must be integers in 0 \.\. 9, found 0 to 10"):
        p_value(np.array([0, 10]), 10)
    with pytest.raises(ValueError, match="ranks must be integers"):
        p_value(np.array([0.5, 1.0]), 10)
