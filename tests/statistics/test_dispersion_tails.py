"""Far tails of dispersions and shapes: of rows that say little of them, under wide priors, against quadrature.

The reference is a sum over a grid of all numbers of the population, at each of which effects are integrated out by
Gauss-Hermite quadrature, with SciPy's special functions. Compared are probabilities beyond quantiles of it, far out as
well.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import special, stats

import hiertorch as ht
from hiertorch import families, models

GROUPS, ROWS, TRIALS = 10, 3, 8
BEYOND = (0.5, 0.1, 0.01)
WIDE = "LogNormal(2, 1.5)"
PRIORS = {"mu_alpha": "Normal(0, 2)", "sigma_alpha": "HalfNormal(1)"}


class Tail(NamedTuple):
    """A family whose number `name` has a long tail; its log density, up to terms of y alone, given eta and that number;
    and responses.
    """

    family: families.Family
    name: str
    log_density: Callable[..., np.ndarray]
    drawn: Callable[[np.random.Generator, np.ndarray], np.ndarray]


def beta_binomial(y: np.ndarray, eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
    a, b = phi * special.expit(eta), phi * special.expit(-eta)
    return special.betaln(y + a, TRIALS - y + b) - special.betaln(a, b)


def negative_binomial(y: np.ndarray, eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
    of_phi = special.gammaln(y + phi) - special.gammaln(phi) - y * np.log(phi)
    return of_phi + y * eta - (y + phi) * np.log1p(np.exp(eta) / phi)


def gamma(y: np.ndarray, eta: np.ndarray, shape: np.ndarray) -> np.ndarray:
    of_shape = shape * np.log(shape) - special.gammaln(shape) + shape * np.log(y)
    return of_shape - shape * (eta + y * np.exp(-eta))


TAILS = {
    "beta_binomial": Tail(
        families.BetaBinomial(), "phi_y", beta_binomial,
        lambda g, eta: g.binomial(TRIALS, g.beta(12 * special.expit(eta), 12 * special.expit(-eta))),
    ),
    "negative_binomial": Tail(
        families.NegativeBinomial(), "phi_y", negative_binomial, lambda g, eta: g.poisson(np.exp(eta) * g.gamma(5, 0.2))
    ),
    "gamma": Tail(families.Gamma(), "shape_y", gamma, lambda g, eta: g.gamma(3.0, np.exp(eta) / 3.0)),
}  # fmt: skip


def reference(y: np.ndarray, tail: Tail) -> tuple[np.ndarray, np.ndarray]:
    """Values of the number, and their probabilities."""
    x, w = special.roots_hermitenorm(21)
    mu, sigma, number = np.linspace(-3.0, 2.0, 26), (np.arange(14) + 0.5) * 0.2, np.exp(np.linspace(-2.5, 8.5, 111))
    total = np.empty((len(number), len(mu), len(sigma)))
    for k, z in enumerate(number):
        eta = mu[:, None, None] + sigma[:, None] * x  # (mu, sigma, nodes)
        by_group = sum(tail.log_density(y[:, r, None, None, None], eta, z) for r in range(ROWS))
        total[k] = special.logsumexp(by_group, b=w / w.sum(), axis=-1).sum(0)
    total += stats.norm(0.0, 2.0).logpdf(mu)[:, None] + stats.halfnorm.logpdf(sigma)
    total += (stats.lognorm(1.5, scale=np.exp(2.0)).logpdf(number) + np.log(number))[:, None, None]
    p = special.softmax(total).sum((1, 2))
    return number, p


@pytest.mark.slow
@pytest.mark.parametrize("name", TAILS)
@pytest.mark.filterwarnings("ignore:column 'trials' is never read")
def test_tails_are_visited_as_often_as_they_are_probable(name: str) -> None:
    """Error rate 1e-3 a case."""
    tail, generator = TAILS[name], np.random.default_rng(4)
    eta = -0.5 + 0.4 * generator.standard_normal((GROUPS, 1)) + np.zeros((1, ROWS))
    y = tail.drawn(generator, eta).astype(float)
    number, p = reference(y, tail)
    trials = np.full(y.size, float(TRIALS))
    data = ht.Data(y.ravel(), groups={"g": np.arange(GROUPS).repeat(ROWS)}, trials=trials)
    model = models.VaryingIntercepts("g", [], family=tail.family, priors={**PRIORS, tail.name: WIDE})
    posterior = ht.sample(model, data, seed=1, progress=False)
    x = np.log(np.asarray(posterior[tail.name]).reshape(posterior.chains, -1))
    bound = stats.norm.isf(1e-3 / 2 / len(BEYOND))
    above, at = p[::-1].cumsum()[::-1], np.log(number) - 0.5 * np.log(number[1] / number[0])
    for chance in BEYOND:
        k = int(np.argmin(abs(above - chance)))
        seen = (x > at[k]).astype(float)
        error = float(array_stats.mcse(seen, method="mean"))
        assert abs(seen.mean() - above[k]) < bound * error, (chance, above[k], seen.mean(), error)
        assert error < 0.2 * chance, (chance, error)
