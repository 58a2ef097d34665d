"""Posteriors known by closed form or quadrature (NumPy and SciPy only), and tests of draws against them.

A `Reference` holds what is known of a quantity's marginals; `assert_matches` compares draws with it at a stated rate
of false alarms.

Note [Quadrature on log scales]
Given its scales a Gaussian model has Gaussian coefficients, so every posterior here is a mixture of normals over a grid
of the scales. Scales are integrated over log s with the Jacobian s: the integrand then falls off at least like s at
zero, and the trapezoidal rule on an even grid converges faster than any power of its spacing. Each result is computed
on a grid and on one of twice as many points a side, which is by far the better one, and refused if they differ by more
than 2e-5 sd.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from arviz_stats.base import array_stats
from scipy import interpolate, optimize, special, stats
from torch import Tensor

PROBABILITIES = (0.05, 0.25, 0.5, 0.75, 0.95)
DROP = 24.0  # log densities further below the mode than this hold about 1e-10 of the mass


@dataclass(frozen=True)
class Reference:
    """Mean, sd and quantiles of a quantity's marginals, each `(size,)`."""

    mean: np.ndarray
    sd: np.ndarray
    quantiles: dict[float, np.ndarray]

    @classmethod
    def of(cls, *distributions: Any) -> "Reference":
        """The marginals given by frozen `scipy.stats` distributions, one an entry."""
        return cls(
            np.array([d.mean() for d in distributions]),
            np.array([d.std() for d in distributions]),
            {p: np.array([d.ppf(p) for d in distributions]) for p in PROBABILITIES},
        )

    def largest_difference(self, other: "Reference") -> float:
        """The largest |difference| of means, sds and quantiles in units of the sd."""
        pairs = [(self.mean, other.mean), (self.sd, other.sd)]
        pairs += [(self.quantiles[p], other.quantiles[p]) for p in self.quantiles]
        return max(float(np.max(np.abs(a - b) / self.sd)) for a, b in pairs)


def normal_mean(y: np.ndarray, sigma: float, m0: float, s0: float) -> Reference:
    """theta | y where y_i ~ Normal(theta, sigma) with sigma known and theta ~ Normal(m0, s0)."""
    precision = 1 / s0**2 + len(y) / sigma**2
    return Reference.of(stats.norm((m0 / s0**2 + np.sum(y) / sigma**2) / precision, precision**-0.5))


def lkj_correlation(concentration: float, dimension: int) -> Reference:
    """Any one entry r of a correlation matrix ~ LKJ(eta): (r + 1) / 2 ~ Beta(a, a) with a = eta + (K - 2) / 2."""
    a = concentration + (dimension - 2) / 2
    return Reference.of(stats.beta(a, a, loc=-1, scale=2))


def funnel(sd: float = 3.0) -> dict[str, Reference]:
    """Neal's funnel: v ~ Normal(0, sd), and any x_k ~ Normal(0, exp(v / 2)).

    x has sd exp(sd^2 / 4) but so heavy tails that draws should be compared with its quantiles only.
    """
    v = np.linspace(-10 * sd, 10 * sd, 2001)
    return {
        "v": Reference.of(stats.norm(0, sd)),
        "x": mixture(stats.norm(0, sd).pdf(v), np.zeros((len(v), 1)), np.exp(v / 2)[:, None]),
    }


def mixture(weights: np.ndarray, means: np.ndarray, sds: np.ndarray) -> Reference:
    """sum_k w_k Normal(m_k, s_k) for each entry; weights `(grid,)` of any total, means and sds `(grid, size)`."""
    weights = weights / weights.sum()
    mean = weights @ means
    sd = np.sqrt(weights @ (sds**2 + (means - mean) ** 2))
    kept = weights > 1e-17

    def quantile(p: float, m: np.ndarray, s: np.ndarray, centre: float, spread: float) -> float:
        def excess(q: float) -> float:
            return float(weights[kept] @ special.ndtr((q - m[kept]) / s[kept])) - p

        # By Cantelli's inequality a quantile lies within sqrt(odds) sds of the mean; 10 sds serve 0.01 to 0.99.
        return optimize.brentq(excess, centre - 10 * spread, centre + 10 * spread, xtol=1e-12 * spread, rtol=1e-14)

    columns = list(zip(means.T, sds.T, mean, sd, strict=True))
    return Reference(mean, sd, {p: np.array([quantile(p, *column) for column in columns]) for p in PROBABILITIES})


def positive(log_points: np.ndarray, density: np.ndarray) -> Reference:
    """s > 0, given the density of log s (up to a constant) on an even grid, both `(grid,)`."""
    weights = density / density.sum()
    points = np.exp(log_points)
    mean = weights @ points
    sd = np.sqrt(weights @ (points - mean) ** 2)
    cdf = interpolate.make_interp_spline(log_points, weights, k=7).antiderivative()
    start, total = cdf(log_points[0]), cdf(log_points[-1]) - cdf(log_points[0])

    def quantile(p: float) -> float:
        excess = lambda t: float((cdf(t) - start) / total) - p  # noqa: E731
        return np.exp(optimize.brentq(excess, log_points[0], log_points[-1], xtol=1e-13))

    return Reference(np.array([mean]), np.array([sd]), {p: np.array([quantile(p)]) for p in PROBABILITIES})


def p_values(found: dict[str, np.ndarray], known: dict[str, np.ndarray]) -> dict[str, float]:
    """Of draws against draws of the same distribution, made apart: two-sided tests of mean and variance of the normal
    scores that draws have among the known ones, and of the Kolmogorov-Smirnov distance.

    Args:
        found: name of a function -> its values at independent draws.
        known: the same of known draws, sorted.
    """
    result = {}
    for name, x in found.items():
        if not np.isfinite(x).all():
            return {f"{name} is finite": 0.0}
        n, m = len(x), len(known[name])
        left, right = np.searchsorted(known[name], x), np.searchsorted(known[name], x, "right")
        z = special.ndtri(((left + right) / 2 + 0.5) / (m + 1))
        inflation = 1 + n / m  # the exact draws are draws as well
        result[f"mean of {name}"] = 2 * stats.norm.sf(abs(z.mean()) * (n / inflation) ** 0.5)
        result[f"variance of {name}"] = 2 * stats.norm.sf(abs((z**2).mean() - 1) * (n / inflation / 2) ** 0.5)
        result[f"distribution of {name}"] = stats.ks_2samp(x, known[name], method="asymp").pvalue
    return result


def eight_schools(y: np.ndarray, se: np.ndarray, m0: float, s0: float, tau: Any) -> dict[str, Reference]:
    """mu, tau, theta | y where y_j ~ Normal(theta_j, se_j), theta_j ~ Normal(mu, tau), mu ~ Normal(m0, s0).

    theta and mu are integrated in closed form: y_j | mu, tau ~ Normal(mu, sqrt(se_j^2 + tau^2)).

    Args:
        tau: the prior of tau, a frozen `scipy.stats` distribution.
    """

    def given(log_tau: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        t2 = np.exp(2 * log_tau)[:, None]  # (grid, 1)
        precisions = 1 / (se**2 + t2)  # (grid, schools)
        total = precisions.sum(1) + s0**-2
        mu = ((precisions * y).sum(1) + m0 * s0**-2) / total
        fit = (precisions * y**2).sum(1) + m0**2 * s0**-2 - total * mu**2
        log_density = 0.5 * np.log(precisions).sum(1) - 0.5 * np.log(total) - 0.5 * fit
        shrink = se**2 * precisions  # the weight of mu in theta_j's conditional mean
        theta = (1 - shrink) * y + shrink * mu[:, None]
        variance = (1 - shrink) * se**2 + shrink**2 / total[:, None]
        means = np.concatenate([mu[:, None], theta], 1)
        sds = np.sqrt(np.concatenate([1 / total[:, None], variance], 1))
        return log_density, means, sds

    coefficients, (scale,) = _integrate(lambda points: given(points[:, 0]), [tau])
    return {"mu": _part(coefficients, slice(0, 1)), "tau": scale, "theta": _part(coefficients, slice(1, None))}


def normal_sample(y: np.ndarray, m0: float, s0: float, sigma: Any) -> dict[str, Reference]:
    """mu, sigma | y where y_i ~ Normal(mu, sigma), mu ~ Normal(m0, s0) and sigma has the prior `sigma`."""

    def given(log_sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        precision = np.exp(-2 * log_sigma)
        total = len(y) * precision + s0**-2
        mu = (y.sum() * precision + m0 * s0**-2) / total
        fit = (y**2).sum() * precision + m0**2 * s0**-2 - total * mu**2
        return -len(y) * log_sigma - 0.5 * np.log(total) - 0.5 * fit, mu[:, None], total[:, None] ** -0.5

    coefficients, (scale,) = _integrate(lambda points: given(points[:, 0]), [sigma])
    return {"mu": coefficients, "sigma": scale}


def varying_intercepts(
    y: np.ndarray,
    x: np.ndarray,
    group: np.ndarray,
    *,
    mu_sd: float = 5.0,
    beta_sd: float = 2.0,
    sigma_alpha: Any = None,
    sigma_y: Any = None,
) -> dict[str, Reference]:
    """mu_alpha, beta, alpha, sigma_alpha, sigma_y | y where y_i ~ Normal(alpha_j + beta x_i, sigma_y), j = group_i.

    alpha_j ~ Normal(mu_alpha, sigma_alpha), mu_alpha ~ Normal(0, mu_sd), beta ~ Normal(0, beta_sd). The coefficients
    u = (mu, beta, z) with alpha = mu + sigma_alpha z are Gaussian given the scales, with precision D + H'H / sigma_y^2.

    Args:
        y: `(rows,)`, like `x` and the codes `group`; for small data, since dense algebra is repeated over the grid.
        x: the predictor.
        group: codes 0 .. groups - 1.
        mu_sd: prior sd of mu_alpha, whose prior mean is 0.
        beta_sd: prior sd of beta, likewise.
        sigma_alpha: the prior of this scale, a frozen `scipy.stats` distribution; Gamma(1, 1) if None.
        sigma_y: likewise.
    """
    n_groups = int(group.max()) + 1
    design = np.column_stack([np.ones(len(y)), x, np.eye(n_groups)[group]])  # (rows, 2 + groups)
    gram, cross = design.T @ design, design.T @ y
    prior = np.concatenate([[mu_sd**-2, beta_sd**-2], np.ones(n_groups)])

    def given(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        s_alpha, s_y = np.exp(points).T
        stretch = np.ones((len(points), len(prior)))  # H = design * stretch
        stretch[:, 2:] = s_alpha[:, None]
        precision = stretch[:, :, None] * gram * stretch[:, None, :] / s_y[:, None, None] ** 2 + np.diag(prior)
        root = np.linalg.cholesky(precision)
        covariance = np.linalg.inv(precision)
        projected = stretch * cross / s_y[:, None] ** 2
        mean = np.einsum("gij,gj->gi", covariance, projected)
        log_determinant = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1)
        fit = (y @ y) / s_y**2 - (projected * mean).sum(1)
        to_alpha = np.zeros((len(points), len(prior), len(prior)))
        to_alpha[:, range(len(prior)), range(len(prior))] = stretch
        to_alpha[:, 2:, 0] = 1.0
        means = np.einsum("gij,gj->gi", to_alpha, mean)
        variances = np.einsum("gij,gjk,gik->gi", to_alpha, covariance, to_alpha, optimize=True)
        return -len(y) * np.log(s_y) - log_determinant - 0.5 * fit, means, np.sqrt(variances)

    gamma = stats.gamma(1.0)
    # Beyond these bounds the precision is singular to rounding; _integrate refuses if the posterior reaches them.
    centre = float(np.log(np.std(y)))
    box = [(centre - 40, centre + 5), (centre - 8, centre + 5)]
    coefficients, scales = _integrate(given, [sigma_alpha or gamma, sigma_y or gamma], box)
    names = {"mu_alpha": slice(0, 1), "beta": slice(1, 2), "alpha": slice(2, None)}
    found = {name: _part(coefficients, where) for name, where in names.items()}
    return {**found, "sigma_alpha": scales[0], "sigma_y": scales[1]}


Conditional = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def _integrate(
    given: Conditional, priors: Sequence[Any], box: Sequence[tuple[float, float]] = ((-40.0, 12.0),)
) -> tuple[Reference, list[Reference]]:
    """The coefficients' marginals (one `Reference` of all of them) and each scale's.

    Args:
        given: log scales `(grid, scales)` -> log p(y | scales) `(grid,)`, and means and sds of the coefficients
            `(grid, size)` given the scales.
        priors: the prior of each scale.
        box: where to look for each log scale.

    Raises:
        ArithmeticError: if the density is not negligible at the sides of the box, or a finer grid gives something else.
    """

    def weigh(axes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        points = np.stack([mesh.ravel() for mesh in np.meshgrid(*axes, indexing="ij")], 1)
        log_density, means, sds = given(points)
        for k, prior in enumerate(priors):
            log_density = log_density + prior.logpdf(np.exp(points[:, k])) + points[:, k]
        return log_density - log_density.max(), means, sds

    for _ in range(8):  # zoom in on where the density is within DROP of its mode
        axes = [np.linspace(*side, 41) for side in box]
        near = np.stack(np.unravel_index(np.flatnonzero(weigh(axes)[0] > -DROP), [41] * len(axes)))
        low, high = np.maximum(near.min(1) - 1, 0), np.minimum(near.max(1) + 1, 40)
        box = [(axis[a], axis[b]) for axis, a, b in zip(axes, low, high, strict=True)]

    def solve(n: int) -> tuple[Reference, list[Reference]]:
        axes = [np.linspace(*side, n) for side in box]
        log_density, means, sds = weigh(axes)
        density = np.exp(log_density)
        table = density.reshape([n] * len(axes))
        rim = max(float(np.take(table, side, axis).max()) for axis in range(len(axes)) for side in (0, -1))
        if rim > 1e-10:
            raise ArithmeticError(
                f"the density of the log scales is {rim:.1e} of its mode at the rim of {box}; widen it."
            )
        others = [tuple(k for k in range(len(axes)) if k != axis) for axis in range(len(axes))]
        scales = [positive(axis, table.sum(other)) for axis, other in zip(axes, others, strict=True)]
        return mixture(density, means, sds), scales

    n = 600 if len(priors) == 1 else 112
    (rough, rough_scales), (fine, fine_scales) = solve(n), solve(2 * n)
    pairs = [(fine, rough), *zip(fine_scales, rough_scales, strict=True)]
    error = max(a.largest_difference(b) for a, b in pairs)
    if not error < 2e-5:
        raise ArithmeticError(
            f"quadrature with {n} and {2 * n} points a side differs by {error:.1e} sd; expected below 2e-5."
        )
    return fine, fine_scales


def _part(reference: Reference, where: slice) -> Reference:
    quantiles = {p: values[where] for p, values in reference.quantiles.items()}
    return Reference(reference.mean[where], reference.sd[where], quantiles)


def assert_matches(
    draws: Any,
    reference: Reference,
    *,
    alpha: float = 1e-3,
    only: Sequence[str] = ("mean", "sd", "quantiles"),
    name: str = "parameter",
) -> None:
    """Fails with probability about `alpha` if the draws come from the reference, however many checks there are.

    Each check is a two-sided test of a Monte Carlo mean at `alpha` over the number of checks, (found - expected) / MCSE
    against Student's t with ESS / 3 degrees of freedom, since the MCSE is itself estimated:

        mean       of x               MCSE = sd(x) / sqrt(ESS)
        variance   of x               MCSE = sd_0^2 sd(d) / (mean(d) sqrt(ESS)),  d = (x - mean)^2
        quantile   share of x <= q_0  MCSE = sqrt(p (1 - p) / ESS)

    each with the ESS of x, d or 1[x <= q_0]; the last two have the scale expected, so that an estimate that comes out
    small does not shrink its own error. (The MCSE of the sd in arviz-stats takes the ESS of x, which is far off for
    antithetic chains.)

    Args:
        draws: `(chains, draws)` or `(chains, draws, size)`.
        reference: what they should match, of the same size.
        alpha: the error rate.
        only: which of the three kinds to check; leave out mean and sd where tails are heavy.
        name: what to call the quantity in the message.
    """
    draws = np.asarray(draws, float)
    draws = draws.reshape(*draws.shape[:2], -1)
    size = draws.shape[2]
    if reference.mean.shape != (size,):
        raise ValueError(f"draws of {name} have size {size}, the reference {reference.mean.shape}; expected ({size},).")
    centre = draws.mean((0, 1))
    squares = (draws - centre) ** 2
    variance, spread = squares.mean((0, 1)), squares.std((0, 1))
    checks: list[tuple[str, np.ndarray, np.ndarray, Any, np.ndarray]] = []  # what, found, expected, sd, ESS: (size,)
    if "mean" in only:
        checks.append(("mean", centre, reference.mean, np.sqrt(variance), _ess(draws)))
    if "sd" in only:
        sd = reference.sd**2 * spread / np.where(variance > 0, variance, np.nan)
        checks.append(("variance", variance, reference.sd**2, sd, _ess(squares)))
    for p, q in reference.quantiles.items() if "quantiles" in only else ():
        below = (draws <= q).astype(float)
        expected = np.full(size, p)
        checks.append(
            (f"share below the {p:.0%} quantile", below.mean((0, 1)), expected, (p - p * p) ** 0.5, _ess(below))
        )

    total = len(checks) * size
    failures = []
    for what, found, expected, sd, ess in checks:
        units = (found - expected) * np.sqrt(ess) / sd
        bounds = stats.t.isf(alpha / total / 2, ess / 3)
        for k in np.flatnonzero(~(np.abs(units) <= bounds)):  # NaN fails
            entry = f"{name}[{k}]" if size > 1 else name
            failures.append(
                f"{what} of {entry} is {found[k]:.5g}, expected {expected[k]:.5g}: "
                f"off by {units[k]:+.1f} MCSE, allowed {bounds[k]:.1f} (ESS {ess[k]:.0f})"
            )
    assert not failures, f"{len(failures)} of {total} checks fail at an error rate of {alpha:g}:\n  " + "\n  ".join(
        failures
    )


def _ess(values: np.ndarray) -> np.ndarray:
    """The ESS of the mean of `values` `(chains, draws, size)`; NaN where they never move, or are not finite."""
    ess = np.asarray(array_stats.ess(values, chain_axis=0, draw_axis=1, method="mean"), float)
    return np.where(np.ptp(values, axis=(0, 1)) > 0, ess, np.nan)


def binomial_bounds(trials: int, probability: float, alpha: float) -> tuple[int, int]:
    """The counts low..high that a Binomial(trials, probability) leaves on either side with chance at most alpha / 2."""
    count = stats.binom(trials, probability)
    return int(count.ppf(alpha / 2)), int(count.isf(alpha / 2))


def chi_square_p(ranks: np.ndarray, n_values: int, bins: int | None = None) -> float:
    """p-value of Pearson's chi-square that ranks in 0 .. n_values - 1 are uniform, in `bins` nearly equal bins.

    Without `bins` there are as many as leave 10 expected ranks in each, at most 20 and at most one a value.
    """
    ranks = _checked(ranks, n_values)
    bins = bins or int(np.clip(len(ranks) // 10, 2, min(20, n_values)))
    edges = np.linspace(0, n_values, bins + 1).round()  # the first value of each bin
    observed, _ = np.histogram(ranks, edges - 0.5)
    return float(stats.chisquare(observed, len(ranks) * np.diff(edges) / n_values).pvalue)


def ecdf_p(ranks: np.ndarray, n_values: int) -> float:
    """p-value of max |ECDF - uniform CDF| over ranks 0 .. n_values - 1: Kolmogorov's, conservative for ranks."""
    ranks = _checked(ranks, n_values)
    ecdf = np.cumsum(np.bincount(ranks, minlength=n_values)) / len(ranks)
    deviation = np.abs(ecdf - np.arange(1, n_values + 1) / n_values).max()
    return float(stats.kstwo.sf(deviation, len(ranks)))


def _checked(ranks: np.ndarray, n_values: int) -> np.ndarray:
    ranks = np.asarray(ranks).ravel()
    if not np.issubdtype(ranks.dtype, np.integer) or ranks.min() < 0 or ranks.max() >= n_values:
        raise ValueError(f"ranks must be integers in 0 .. {n_values - 1}, found {ranks.min()} to {ranks.max()}.")
    return ranks


def uniformity(draws: Mapping[str, Tensor], truth: Mapping[str, Tensor], number: int) -> dict[str, float]:
    """p-values of the ranks of truths `(data sets, ...)` among `number` draws, `(data sets x chains, draws, ...)`."""
    found = {}
    for name, value in truth.items():
        together = draws[name].reshape(len(value), number, -1)
        ranks = (together < value.reshape(len(value), 1, -1)).sum(1).numpy()
        for k, column in enumerate(ranks.T):
            found[f"{name}[{k}], chi-square"] = chi_square_p(column, number + 1)
            found[f"{name}[{k}], distance"] = ecdf_p(column, number + 1)
    return found


def failures(p: Mapping[str, float], alpha: float = 1e-3) -> dict[str, float]:
    """Those that fail at `alpha` in all, by Bonferroni."""
    return {what: value for what, value in p.items() if not value > alpha / len(p)}
