"""One dense covariance over all groups, a Gaussian process or a pedigree, against sums over a grid of the scales.

    y ~ N(0, 5^2 11' + Z K(theta) Z' + sigma^2 I),     p(theta | y) by a sum over a grid, K and Z by NumPy

Error rates: every mean is at 4.5 Monte Carlo errors of the run, by the spread of 16 chains, of which there are at most
7 a test: one in 400 seeds would fail.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution, HalfNormal, LogNormal, MultivariateNormal, Normal

import hiertorch as ht
from hiertorch.model.latent import Values

BOUND = 4.5
QUIET = {"progress": False, "compile": False, "seed": 3}


class Dense(ht.Model):
    """y_i = mu + f[unit of i] + noise, f ~ Normal(0, K)."""

    mu = ht.Latent(Normal(0.0, 5.0))
    tau = ht.Latent(HalfNormal(2.0))
    sigma = ht.Latent(HalfNormal(2.0))

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Normal(v.mu + v.f[:, 0, data["unit"]], v.sigma)


class Pedigree(Dense):
    """K = tau^2 A."""

    def __init__(self, relationships: NDArray[np.float64]) -> None:
        super().__init__()
        root = torch.linalg.cholesky(torch.as_tensor(relationships))
        zero = torch.zeros(len(root), dtype=torch.float64)
        self.f = ht.Latent(lambda v: MultivariateNormal(zero, scale_tril=v.tau[..., None, None] * root))


class Process(Dense):
    """K = tau^2 exp(-d^2 / 2 length^2)."""

    length = ht.Latent(LogNormal(-1.0, 0.7))

    def __init__(self, squares: NDArray[np.float64]) -> None:
        super().__init__()
        d, zero = torch.as_tensor(squares), torch.zeros(len(squares), dtype=torch.float64)
        jitter = 1e-6 * torch.eye(len(squares), dtype=torch.float64)

        def kernel(v: Values) -> Tensor:
            tau, length = (x[..., None, None] for x in (v.tau, v.length))
            return tau.square() * torch.exp(-0.5 * d / length.square()) + jitter

        self.f = ht.Latent(lambda v: MultivariateNormal(zero, covariance_matrix=kernel(v)))


class Each(Dense):
    """A scale for every unit."""

    own = ht.Latent(HalfNormal(1.0), event=34)


def relationships(number: int, founders: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Additive ones, by the tabular method (Henderson 1976)."""
    a = np.eye(number)
    for i in range(founders, number):
        sire, dam = rng.choice(i, 2, replace=False)
        a[i, :i] = a[:i, i] = 0.5 * (a[sire, :i] + a[dam, :i])
        a[i, i] = 1.0 + 0.5 * a[sire, dam]
    return a


def on_grid(
    axes: Sequence[NDArray[np.float64]],
    log_prior: Callable[..., float],
    kernel: Callable[..., NDArray[np.float64]],
    unit: NDArray[np.int64],
    y: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Posterior means of the logarithms of theta (sigma last), whose axes are given, and of f."""
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    heights, effects = np.empty(len(places)), np.empty((len(places), int(unit.max()) + 1))
    for i, logs in enumerate(places):
        theta = np.exp(logs)
        k = kernel(*theta[:-1])
        covariance = 25.0 + k[np.ix_(unit, unit)] + theta[-1] ** 2 * np.eye(len(y))
        root = np.linalg.cholesky(covariance)
        half = np.linalg.solve(root, y)
        heights[i] = log_prior(*theta) + logs.sum() - np.log(root.diagonal()).sum() - 0.5 * half @ half
        effects[i] = k[:, unit] @ np.linalg.solve(root.T, half)
    weights = np.exp(heights - heights.max())
    weights /= weights.sum()
    edge = max(float(np.take(weights.reshape([len(a) for a in axes]), end, axis).sum())
               for axis in range(len(axes)) for end in (0, -1))  # fmt: skip
    assert edge < 2e-3  # what lies beyond the grid
    return weights @ places, weights @ effects


def compared(posterior: ht.Posterior, names: Sequence[str], known: tuple[NDArray[np.float64], ...]) -> float:
    """The largest deviation of means, logarithms of scales and a few effects, in Monte Carlo errors."""
    logs, effects = known
    off = []
    for name, mean in zip(names, logs, strict=True):
        draws = torch.as_tensor(posterior.draws[name]).log().squeeze(-1)
        off.append((draws.mean() - mean) / error(draws))
    f = torch.as_tensor(posterior.draws["f"])[:, :, 0]
    for k in range(0, f.shape[2], f.shape[2] // 3):
        off.append((f[..., k].mean() - effects[k]) / error(f[..., k]))
    return float(torch.stack([torch.as_tensor(x) for x in off]).abs().max())


def error(draws: Tensor) -> Tensor:
    """Monte Carlo error of the mean of `(chains, draws)`, by the spread of the chains' means."""
    return draws.mean(1).std() / len(draws) ** 0.5


def test_a_pedigree_is_collapsed_and_has_its_posterior() -> None:
    rng = np.random.default_rng(5)
    a = relationships(34, 9, rng)
    unit = np.repeat(np.arange(34), 2)
    y = 1.0 + rng.multivariate_normal(np.zeros(34), a)[unit] + rng.normal(0.0, 0.7, 68)
    model, data = Pedigree(a), ht.Data(y=y, groups={"unit": unit})
    assert ht.plan(model, data).collapsed is not None
    posterior = ht.sample(model, data, chains=16, draws=300, **QUIET)

    def log_prior(tau: float, sigma: float) -> float:
        return float(-0.125 * (tau**2 + sigma**2))

    axes = (np.linspace(-2.5, 1.8, 44), np.linspace(-1.2, 0.4, 26))
    known = on_grid(axes, log_prior, lambda tau: tau**2 * a, unit, y)
    assert compared(posterior, ("tau", "sigma"), known) < BOUND
    wrong = on_grid(axes, log_prior, lambda tau: tau**2 * np.eye(34), unit, y)  # of unrelated animals
    assert compared(posterior, ("tau", "sigma"), wrong) > BOUND


@pytest.mark.parametrize("model, scaled", [("pedigree", True), ("product", True), ("process", False), ("each", False)])
def test_a_spread_that_is_one_number_times_data_is_found_and_gives_the_same_density(model: str, scaled: bool) -> None:
    """log p(y | tau, sigma) is that of scipy, whether columns are taken in units of the prior or not."""
    rng = np.random.default_rng(7)
    a = relationships(34, 9, rng)
    unit, y = np.repeat(np.arange(34), 2), rng.normal(size=68)
    root, zero = torch.linalg.cholesky(torch.as_tensor(a)), torch.zeros(34, dtype=torch.float64)
    at = rng.random((34, 2))
    squares = ((at[:, None] - at) ** 2).sum(2)
    made = {"process": Process(squares), "each": Each()}.get(model, Pedigree(a))
    if model == "product":
        made.f = ht.Latent(lambda v: MultivariateNormal(zero, scale_tril=(2 * v.tau * v.sigma)[..., None, None] * root))
    if model == "each":
        made.f = ht.Latent(lambda v: MultivariateNormal(zero, scale_tril=v.own.unsqueeze(-1) * root))
    found = ht.plan(made, ht.Data(y=y, groups={"unit": unit}), moves=[("collapsed", list(made.latents))]).collapsed
    assert found is not None
    assert ("f" in found.collapsed.affine.scaled) == scaled
    values = {name: torch.as_tensor(rng.uniform(0.5, 1.5, (3, 1, *found.space.coordinates[name].event)))
              for name in found.rest}  # fmt: skip
    for i, height in enumerate(found.collapsed.log_marginal(values).tolist()):
        v = {name: x[i, 0].numpy() for name, x in values.items()}
        k = {
            "pedigree": lambda v: v["tau"] ** 2 * a,
            "product": lambda v: (2.0 * v["tau"] * v["sigma"]) ** 2 * a,
            "process": lambda v: kernel(squares, v["tau"], v["length"]),
            "each": lambda v: np.outer(v["own"], v["own"]) * a,
        }[model](v)
        covariance = 25.0 + k[np.ix_(unit, unit)] + v["sigma"] ** 2 * np.eye(68)
        assert height == pytest.approx(stats.multivariate_normal(np.zeros(68), covariance).logpdf(y), abs=1e-7)


@pytest.mark.slow
def test_a_gaussian_process_has_its_posterior() -> None:
    rng = np.random.default_rng(6)
    at = rng.random((25, 2))
    squares = ((at[:, None] - at) ** 2).sum(2)
    unit = np.repeat(np.arange(25), 2)
    f = rng.multivariate_normal(np.zeros(25), np.exp(-0.5 * squares / 0.3**2))
    y = 0.5 + f[unit] + rng.normal(0.0, 0.4, 50)
    model, data = Process(squares), ht.Data(y=y, groups={"unit": unit})
    posterior = ht.sample(model, data, chains=16, draws=300, **QUIET)
    assert float(posterior.summary()["r_hat"].max()) < 1.02

    def log_prior(tau: float, length: float, sigma: float) -> float:
        return float(-0.125 * (tau**2 + sigma**2) + stats.lognorm(0.7, scale=np.exp(-1.0)).logpdf(length))

    axes = (np.linspace(-2.0, 2.2, 22), np.linspace(-3.2, 1.2, 26), np.linspace(-1.6, 0.2, 15))
    known = on_grid(axes, log_prior, lambda tau, length: kernel(squares, tau, length), unit, y)
    assert compared(posterior, ("tau", "length", "sigma"), known) < BOUND


def kernel(squares: NDArray[np.float64], tau: float, length: float) -> NDArray[np.float64]:
    """As `Process` has it."""
    return np.asarray(tau**2 * np.exp(-0.5 * squares / length**2) + 1e-6 * np.eye(len(squares)))
