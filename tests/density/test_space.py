"""Unconstrained space: every support goes there and back, and the log Jacobian is that of autograd."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.autograd.functional import jacobian
from torch.distributions import (
    Beta,
    CorrCholeskyTransform,
    Dirichlet,
    Exponential,
    Gamma,
    HalfCauchy,
    HalfNormal,
    InverseGamma,
    LogNormal,
    Uniform,
    Wishart,
    constraints,
)

import hiertorch as ht
from hiertorch.density.space import Coordinate, Space, chain_last
from hiertorch.density.structure import analyse
from hiertorch.density.target import Target
from hiertorch.model.bijections import OrderedVector, bijection
from hiertorch.model.checks import inspect

CHAINS, SIZE = 3, 2
BOUNDS = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

# support -> event shape, dimensions of the unconstrained part, and the entries of a value that are free
SUPPORTS = {
    "real": (constraints.real, (), 1),
    "positive": (constraints.positive, (), 1),
    "nonnegative": (constraints.nonnegative, (), 1),
    "greater_than": (constraints.greater_than(2.5), (), 1),
    "less_than": (constraints.less_than(-1.0), (), 1),
    "unit_interval": (constraints.unit_interval, (), 1),
    "interval": (constraints.interval(-0.9, 0.9), (), 1),
    "interval_by_entry": (constraints.independent(constraints.interval(torch.zeros(3).double(), BOUNDS), 1), (3,), 3),
    "real_vector": (constraints.real_vector, (3,), 3),
    "positive_vector": (constraints.independent(constraints.positive, 1), (3,), 3),
    "positive_matrix": (constraints.independent(constraints.positive, 2), (2, 3), 6),
    "simplex": (constraints.simplex, (4,), 3),
    "simplexes": (constraints.independent(constraints.simplex, 1), (2, 4), 6),
    "ordered": (OrderedVector(), (4,), 4),
    "ordered_positive": (OrderedVector(constraints.positive), (3,), 3),
    "ordered_interval": (OrderedVector(constraints.interval(-1.0, 2.0)), (3,), 3),
    "corr_cholesky_2": (constraints.corr_cholesky, (2, 2), 1),
    "corr_cholesky_4": (constraints.corr_cholesky, (4, 4), 6),
    "lower_cholesky_1": (constraints.lower_cholesky, (1, 1), 1),
    "lower_cholesky": (constraints.lower_cholesky, (3, 3), 6),
    "positive_definite": (constraints.positive_definite, (3, 3), 6),
    "mixture": (constraints.MixtureSameFamilyConstraint(constraints.positive), (), 1),
}


def free_entries(name, value):
    """The entries of one value that can be chosen freely, `(dimensions,)`."""
    if name.startswith("simplex"):
        return value[..., :-1].flatten()
    if name.startswith("corr"):
        return value[tuple(torch.tril_indices(*value.shape, -1))]
    if name.startswith(("lower", "positive_definite")):
        return value[tuple(torch.tril_indices(*value.shape))]
    return value.flatten()


def coordinate(name):
    support, event, _ = SUPPORTS[name]
    return Coordinate.make(None, (SIZE, *event), support)


def somewhere(c, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(CHAINS, SIZE, *c.free_event, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", SUPPORTS)
def test_there_and_back(name):
    support, event, dimensions = SUPPORTS[name]
    c = coordinate(name)
    assert c.width == dimensions
    u = somewhere(c)
    space = Space({name: c})
    values = space.constrain({name: u})
    assert values[name].shape == (CHAINS, SIZE, *event)
    assert support.check(values[name]).all()
    torch.testing.assert_close(space.unconstrain(values)[name], u, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SUPPORTS)
def test_log_jacobian_is_that_of_autograd(name):
    c = coordinate(name)
    u = somewhere(c)
    expected = torch.empty(CHAINS, SIZE, dtype=torch.float64)
    for i, j in np.ndindex(CHAINS, SIZE):
        matrix = jacobian(
            lambda z: free_entries(name, c.bijection(z.reshape(1, 1, *c.free_event))[0, 0]), u[i, j].flatten()
        )
        expected[i, j] = torch.linalg.slogdet(matrix)[1]
    found = Target.log_jacobian(c, u, c.bijection(u))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("k", [2, 3, 6])
def test_correlations_are_mapped_as_by_torch(k):
    ours, torchs = bijection(constraints.corr_cholesky), CorrCholeskyTransform()
    u = torch.randn(5, k * (k - 1) // 2, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    factor = torchs(u)
    torch.testing.assert_close(ours(u), factor, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.inv(factor), u, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.log_abs_det_jacobian(u, factor), torchs.log_abs_det_jacobian(u, factor))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_correlations_next_to_one(dtype):
    """u = 12: r = 1 - 7.6e-11, 1 in float32. Factor, inverse and Jacobian stay exact; 1 - tanh^2 = cosh^-2."""
    u = torch.tensor([12.0, -11.0, 9.0], dtype=dtype)
    onto = bijection(constraints.corr_cholesky)
    factor = onto(u)
    r, root = np.tanh([12.0, -11.0, 9.0]), 1 / np.cosh([12.0, -11.0, 9.0])
    exact = [[1, 0, 0], [r[0], root[0], 0], [r[1], r[2] * root[1], root[1] * root[2]]]
    jacobian = 2 * np.log(root[0]) + 3 * np.log(root[1]) + 2 * np.log(root[2])
    torch.testing.assert_close(factor, torch.tensor(exact, dtype=dtype), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(onto.inv(factor), u, rtol=1e-5, atol=0.0)
    assert float(onto.log_abs_det_jacobian(u, factor)) == pytest.approx(jacobian, rel=1e-6)


@pytest.mark.parametrize("name", SUPPORTS)
def test_space_moves_its_bounds(name):
    moved = Space({name: coordinate(name)}).to(torch.device("cpu"), torch.float32)
    u = somewhere(coordinate(name)).float()
    value = moved.constrain({name: u})[name]
    assert value.dtype == torch.float32
    exact = Space({name: coordinate(name)}).constrain({name: u.double()})[name]
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("support", [constraints.boolean, constraints.nonnegative_integer, constraints.one_hot])
def test_discrete_supports_have_no_bijection(support):
    with pytest.raises(NotImplementedError):
        bijection(support)


def test_flat_positions_hold_the_parts_in_order():
    names = ["real", "simplex", "corr_cholesky_4", "positive_matrix"]
    space = Space({name: coordinate(name) for name in names})
    assert space.dim == SIZE * (1 + 3 + 6 + 6)
    free = {name: somewhere(space.coordinates[name], seed) for seed, name in enumerate(names)}
    position = space.join(free)
    assert position.shape == (CHAINS, space.dim)
    assert [space.slices[name].start for name in names] == [0, 2, 8, 20]
    back = space.split(position)
    for name in names:
        assert torch.equal(back[name], free[name])
        assert torch.equal(position[:, space.slices[name]], free[name].flatten(1))
    # groups first: the second group of the simplex comes after all of the first
    assert torch.equal(position[:, 2:5], free["simplex"][:, 0])


def test_chain_last_changes_the_layout_alone():
    x = torch.randn(4, 5, 3)
    laid_out = chain_last(x)
    assert torch.equal(laid_out, x)
    assert laid_out.stride() == (1, 12, 4)


# Densities on the unconstrained scale, against closed forms


def log_density(prior, u):
    """Of one population-level latent at unconstrained places u."""

    class OneLatent(ht.Model):
        theta = ht.Latent(prior)

    model, data = OneLatent(), ht.Data([0.0])
    reads, _ = inspect(model, data, prior_only=True)
    target = analyse(model, data, reads, prior_only=True).target
    return target.log_density(torch.as_tensor(u, dtype=torch.float64).reshape(len(u), -1)).numpy()


PLACES = np.linspace(-3.0, 3.0, 13)
ON_LOG_SCALE = {
    "gamma": (Gamma(3.0, 2.0), stats.loggamma(3.0, loc=-np.log(2.0)).logpdf),
    "exponential": (Exponential(2.0), stats.loggamma(1.0, loc=-np.log(2.0)).logpdf),
    "inverse_gamma": (InverseGamma(3.0, 2.0), lambda u: stats.loggamma(3.0, loc=-np.log(2.0)).logpdf(-u)),
    "lognormal": (LogNormal(0.5, 2.0), stats.norm(0.5, 2.0).logpdf),
    "half_normal": (HalfNormal(2.0), lambda u: stats.halfnorm(scale=2.0).logpdf(np.exp(u)) + u),
    # log |C| with C Cauchy: hyperbolic secant
    "half_cauchy": (HalfCauchy(1.0), lambda u: stats.hypsecant.logpdf(u)),
    # logit(U) with U uniform: logistic
    "uniform": (Uniform(0.0, 1.0), stats.logistic.logpdf),
    "uniform_elsewhere": (Uniform(-0.5, 2.0), stats.logistic.logpdf),
    "beta": (
        Beta(2.0, 2.0),
        lambda u: stats.genlogistic(1.0).logpdf(u) + np.log(6 * stats.logistic.cdf(u) * stats.logistic.sf(u)),
    ),
}


@pytest.mark.parametrize("name", ON_LOG_SCALE)
def test_density_on_the_unconstrained_scale(name):
    prior, reference = ON_LOG_SCALE[name]
    np.testing.assert_allclose(log_density(prior, PLACES), reference(PLACES), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("prior", "axes"),
    [
        (Dirichlet(torch.tensor([2.0, 0.5, 1.0])), 2),
        (Uniform(-0.9, 0.9), 1),
        (HalfCauchy(2.0), 1),
        (torch.distributions.LKJCholesky(2, 1.5), 1),
    ],
)
def test_density_integrates_to_one(prior, axes):
    """The normalised prior with its Jacobian is a density on R^n: a lattice sum finds 1."""
    reach, n = (60.0, 6001) if axes == 1 else (30.0, 601)
    line = np.linspace(-reach, reach, n)
    places = np.stack([x.ravel() for x in np.meshgrid(*[line] * axes)], -1)
    total = np.nansum(np.exp(log_density(prior, places))) * (line[1] - line[0]) ** axes
    assert total == pytest.approx(1.0, abs=2e-3)


@pytest.mark.filterwarnings("ignore:Singular sample")
def test_covariance_matrices_can_be_latents():
    class Covariance(ht.Model):
        sigma = ht.Latent(Wishart(8.0, torch.eye(2)))

    data = ht.Data([0.0])
    model = Covariance()
    draws = model.sample_prior(data, 50, torch.Generator().manual_seed(0))["sigma"]
    target = analyse(model, data, inspect(model, data, prior_only=True)[0], prior_only=True).target
    assert target.space.dim == 3
    again = target.space.constrain(target.space.unconstrain({"sigma": draws}))["sigma"]
    torch.testing.assert_close(again, draws, rtol=1e-9, atol=1e-9)
    reference = stats.wishart(8, np.eye(2)).logpdf(draws[:, 0].permute(1, 2, 0).numpy())
    np.testing.assert_allclose(model.log_prior({"sigma": draws}, data), reference, rtol=1e-6)
