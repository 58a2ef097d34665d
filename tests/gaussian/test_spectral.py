"""One eigen-decomposition for all densities, against scipy and NumPy: for which models it is found, log p(y | rest),
and mean and covariance of what is drawn.
"""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from fake_cuda import CUDA, ToGpu, assert_on_gpu, fake_mode
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution, HalfNormal, Laplace, MultivariateNormal, Normal

import hiertorch as ht
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.elimination import Elimination
from hiertorch.gaussian.spectral import Spectral
from hiertorch.model.latent import Values

UNITS, ROWS, CHAINS = 40, 57, 3
Matrix = NDArray[np.float64]

rng = np.random.default_rng(3)
HALF = rng.normal(size=(UNITS, UNITS))
A = HALF @ HALF.T / UNITS + 0.1 * np.eye(UNITS)
UNIT = np.r_[np.arange(36), rng.integers(0, 36, 21)]  # four have no rows, some several
X, W = rng.normal(size=(ROWS, 2)), rng.uniform(0.5, 2.0, ROWS)
Z = np.eye(UNITS)[UNIT]
DATA = ht.Data(y=rng.normal(size=ROWS), groups={"unit": UNIT}, x=X, weights=W)


class Related(ht.Model):
    """y_i ~ Normal(mu + x_i1 alpha + x_i2 beta + f[unit of i], sigma / sqrt(w_i)); alpha has a scale of its own, beta a
    prior that is not normal.
    """

    mu = ht.Latent(Normal(0.75, 2.0))
    omega = ht.Latent(HalfNormal(1.0))
    tau = ht.Latent(HalfNormal(1.0))
    sigma = ht.Latent(HalfNormal(1.0))
    beta = ht.Latent(Laplace(0.0, 1.0))
    alpha = ht.Latent(lambda v: Normal(0.5, v.omega))

    def __init__(self, prior: Callable[[Values], Distribution]) -> None:
        super().__init__()
        self.f = ht.Latent(prior)

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        x = torch.as_tensor(data["x"])
        return Normal(v.mu + v.alpha * x[:, 0] + v.beta * x[:, 1] + v.f[:, 0, data["unit"]], self.scale(v, data))

    def scale(self, v: Values, data: ht.Data) -> Tensor:
        return v.sigma


class TwoScales(Related):
    """Rows of even units have another scale."""

    def scale(self, v: Values, data: ht.Data) -> Tensor:
        return torch.where(data["unit"] % 2 == 0, v.sigma, v.sigma.square())


class Groups(Related):
    """Effects of groups beside."""

    effect = ht.Latent(lambda v: Normal(0.0, v.omega), plate="unit")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Normal(v.mu + v.effect[:, data["unit"]] + v.f[:, 0, data["unit"]], v.sigma)


MATRIX, ROOT, CENTRE = (
    torch.as_tensor(A),
    torch.linalg.cholesky(torch.as_tensor(A)),
    torch.full((UNITS,), 0.3, dtype=torch.float64),
)


def kernel(v: Values) -> Tensor:
    """tau^2 exp(-d^2 / tau^2), which no number makes of data."""
    at = torch.linspace(0.0, 3.0, UNITS, dtype=torch.float64)
    tau = v.tau[..., None, None]
    return tau.square() * (-(at[:, None] - at).square() / tau.square()).exp() + 1e-4 * torch.eye(UNITS).double()


PRIORS: dict[str, tuple[Callable[[Values], Distribution], Callable[[float], float]]] = {
    "covariance": (lambda v: MultivariateNormal(CENTRE, v.tau[..., None, None] ** 2 * MATRIX), lambda tau: tau),
    "root": (lambda v: MultivariateNormal(CENTRE, scale_tril=v.tau[..., None, None] * ROOT), lambda tau: tau),
    "variance": (lambda v: MultivariateNormal(CENTRE, MATRIX / v.tau[..., None, None]), lambda tau: tau**-0.5),
    "third power": (lambda v: MultivariateNormal(CENTRE, scale_tril=v.tau[..., None, None] ** 3 * ROOT),
                    lambda tau: tau**3),
    "settled": (lambda v: MultivariateNormal(CENTRE, MATRIX), lambda tau: 1.0),
}  # fmt: skip


def collapsed_of(model: ht.Model) -> Collapsed:
    found = ht.plan(model, DATA, moves=[("collapsed", list(model.latents))]).collapsed
    assert found is not None
    return found.collapsed


def places() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    names = ("omega", "tau", "sigma", "beta")
    return {name: torch.rand(CHAINS, 1, generator=generator, dtype=torch.float64) + 0.4 for name in names}


def by_hand(at: dict[str, float], scale: float) -> tuple[float, Matrix, Matrix]:
    """log p(y | rest), and mean and covariance of (mu, alpha, f) given y and the rest."""
    design = np.c_[np.ones(ROWS), X[:, 0], Z]
    mean = np.r_[0.75, 0.5, np.full(UNITS, 0.3)]
    prior = np.zeros((UNITS + 2, UNITS + 2))
    prior[0, 0], prior[1, 1], prior[2:, 2:] = 4.0, at["omega"] ** 2, scale**2 * A
    centre = design @ mean + at["beta"] * X[:, 1]
    y, noise = np.asarray(DATA.y), at["sigma"] ** 2 / W
    covariance = design @ prior @ design.T + np.diag(noise)
    gain = np.linalg.solve(covariance, design @ prior).T
    # Row weights are powers of densities: N(y; m, s^2)^w is N(y; m, s^2 / w) times a number.
    factor = 0.5 * np.sum((1.0 - W) * np.log(2.0 * np.pi * at["sigma"] ** 2) - np.log(W))
    height = stats.multivariate_normal(centre, covariance).logpdf(y) + factor
    return height, mean + gain @ (y - centre), prior - gain @ design @ prior


@pytest.mark.parametrize("name", PRIORS)
def test_density_and_draws_are_those_of_dense_algebra(name: str) -> None:
    prior, scale = PRIORS[name]
    found, at = collapsed_of(Related(prior)), places()
    assert isinstance(found.elimination, Spectral) and set(found.rest) == {"omega", "tau", "sigma", "beta"}
    noise = torch.eye(found.n_noise, dtype=torch.float64)
    for i, height in enumerate(found.log_marginal(at).tolist()):
        here = {key: x[i : i + 1].expand(found.n_noise + 1, 1) for key, x in at.items()}
        known, mean, covariance = by_hand({key: float(x[i]) for key, x in at.items()}, scale(float(at["tau"][i])))
        assert height == pytest.approx(known, abs=1e-9)
        drawn = found.draw(here, torch.cat([noise, noise[:, :1] * 0.0], 1))
        every = torch.cat([drawn["mu"], drawn["alpha"], drawn["f"][:, 0]], 1)
        half = (every[:-1] - every[-1]).mT
        torch.testing.assert_close(every[-1], torch.as_tensor(mean), rtol=0, atol=1e-9)
        torch.testing.assert_close(half @ half.mT, torch.as_tensor(covariance), rtol=0, atol=1e-9)


def test_conditional_density_and_factor_are_those_of_a_cholesky_factor() -> None:
    found, at = collapsed_of(Related(PRIORS["covariance"][0])), places()
    spreads, _ = found.spreads(at, CHAINS)
    other, noise = Elimination(found.grams), torch.randn(found.n_noise, CHAINS, dtype=torch.float64)
    reduced, dense = found.elimination.reduce(spreads), other.reduce(spreads)
    drawn = found.elimination.draw(spreads, reduced, noise)
    heights = [one.log_conditional(spreads, r, drawn) for one, r in ((found.elimination, reduced), (other, dense))]
    torch.testing.assert_close(*heights, rtol=0, atol=1e-9)
    u = found.elimination.root.joined(spreads, drawn)
    assert isinstance(found.elimination, Spectral)
    torch.testing.assert_close(found.elimination.noise_of(spreads, reduced, u), noise, rtol=0, atol=1e-9)
    factors = found.elimination.log_factor(spreads, reduced), other.log_factor(spreads, dense)
    torch.testing.assert_close(*factors, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.elimination.drawn(spreads, noise).root, u, rtol=0, atol=1e-9)


def test_second_derivatives_exist() -> None:
    """Modes are sought by them."""
    found, at = collapsed_of(Related(PRIORS["covariance"][0])), places()
    tau = at["tau"].clone().requires_grad_()

    def height(tau: Tensor) -> Tensor:
        return found.log_marginal({**at, "tau": tau}).sum()

    (slope,) = torch.autograd.grad(height(tau), tau, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), tau)
    with torch.no_grad():
        step, middle, up, down = 1e-4, height(tau), height(tau + 1e-4), height(tau - 1e-4)
    torch.testing.assert_close(slope.sum(), (up - down) / (2 * step), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(curvature.sum(), (up - 2 * middle + down) / step**2, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "model",
    [
        TwoScales(PRIORS["covariance"][0]),
        Groups(PRIORS["covariance"][0]),
        Related(lambda v: MultivariateNormal(CENTRE, kernel(v))),
        Related(lambda v: MultivariateNormal(CENTRE, MATRIX * v.tau[..., None, None] + torch.eye(UNITS))),
        Related(lambda v: MultivariateNormal(CENTRE, MATRIX * (v.tau.exp() * v.tau)[..., None, None])),
    ],
    ids=["two scales", "groups", "kernel", "sum", "no power"],
)
def test_other_models_keep_their_factors(model: ht.Model) -> None:
    assert not isinstance(collapsed_of(model).elimination, Spectral)


def test_a_scale_that_may_be_negative_is_no_number_to_take_out() -> None:
    """|s|^2 A has the root |s| A^(1/2), not s A^(1/2): what is a power of positive numbers alone is taken."""
    model = Related(lambda v: MultivariateNormal(CENTRE, v.mu[..., None, None] ** 2 * MATRIX))
    found = collapsed_of(model)
    assert "f" not in found.affine.scaled


class Held(Related):
    """The same where the model holds its data, which move with it."""

    matrix: Tensor

    def __init__(self) -> None:
        super().__init__(self.breeding_values)
        self.register_buffer("matrix", MATRIX)

    def breeding_values(self, v: Values) -> Distribution:
        covariance = v.tau[..., None, None] ** 2 * self.matrix
        return MultivariateNormal(torch.zeros_like(covariance[..., 0]), covariance)


def test_densities_and_draws_stay_on_the_gpu() -> None:
    found = collapsed_of(Held())
    assert isinstance(found.elimination, Spectral)
    with fake_mode():
        with ToGpu():
            there = copy.deepcopy(found)
        rest = {name: x.to(CUDA) for name, x in places().items()}
        drawn = there.draw(rest, torch.randn(found.n_noise, CHAINS, dtype=torch.float64, device=CUDA))
        assert_on_gpu(drawn, there.log_marginal(rest), there.log_conditional({**rest, **drawn}))
