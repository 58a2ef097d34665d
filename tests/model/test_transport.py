"""Carrying a value from one prior to another keeps its probability: p(x' | new) |dx' / dx| = p(x | old)."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import (
    AffineTransform,
    Beta,
    Cauchy,
    Chi2,
    Dirichlet,
    Exponential,
    ExpTransform,
    Gamma,
    Gumbel,
    HalfCauchy,
    HalfNormal,
    Independent,
    InverseGamma,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
    Pareto,
    SigmoidTransform,
    SoftmaxTransform,
    StudentT,
    TransformedDistribution,
    Uniform,
    Weibull,
)

from hiertorch.model.transport import is_standard, location_scale, transport, untransportable

CHAINS, SIZE = 3, 2


def tensor(*values):
    """One number a chain, `(chains, 1)`."""
    return torch.tensor(values, dtype=torch.float64).unsqueeze(-1)


M, S = (tensor(-1.0, 0.0, 2.0), tensor(0.5, 3.0, -1.0)), (tensor(0.3, 1.0, 2.0), tensor(1.5, 0.2, 2.5))
C = torch.tensor([[[[1.0, 0.0], [0.4, 0.7]]], [[[2.0, 0.0], [-1.0, 0.5]]]], dtype=torch.float64)
VECTOR = (M[0].unsqueeze(-1) + torch.arange(3.0), M[1].unsqueeze(-1) - torch.arange(3.0))


def logit_normal(m, s):
    return TransformedDistribution(Normal(m, s), [SigmoidTransform(), AffineTransform(-1.0, 2.0)])


# family -> the prior at two places k = 0, 1
FAMILIES = {
    "normal": lambda k: Normal(M[k], S[k]),
    "cauchy": lambda k: Cauchy(M[k], S[k]),
    "laplace": lambda k: Laplace(M[k], S[k]),
    "gumbel": lambda k: Gumbel(M[k], S[k]),
    "student": lambda k: StudentT(4.0, M[k], S[k]),
    "exponential": lambda k: Exponential(S[k]),
    "gamma": lambda k: Gamma(2.5, S[k]),
    "inverse_gamma": lambda k: InverseGamma(2.5, S[k]),
    "half_normal": lambda k: HalfNormal(S[k]),
    "half_cauchy": lambda k: HalfCauchy(S[k]),
    "lognormal": lambda k: LogNormal(M[k], S[k]),
    "weibull": lambda k: Weibull(S[k], 1.5),
    "weibull_shape": lambda k: Weibull(S[k], S[1 - k] + 0.5),
    "pareto_tail": lambda k: Pareto(torch.ones_like(S[k]), S[k]),
    "logit_normal": lambda k: logit_normal(M[k], S[k]),
    "affine": lambda k: TransformedDistribution(Normal(0.0 * M[k], 1.0), [AffineTransform(M[k], S[k])]),
    "vector": lambda k: Independent(Normal(VECTOR[k], S[k].unsqueeze(-1)), 1),
    "positive_vector": lambda k: Independent(LogNormal(VECTOR[k], S[k].unsqueeze(-1)), 1),
    "multivariate": lambda k: MultivariateNormal(VECTOR[k][..., :2], scale_tril=C[k].expand(CHAINS, 1, 2, 2)),
    "multivariate_shared": lambda k: MultivariateNormal(VECTOR[k][..., :2], scale_tril=C[k, 0]),
    "exp_multivariate": lambda k: TransformedDistribution(
        MultivariateNormal(VECTOR[k][..., :2], scale_tril=C[k].expand(CHAINS, 1, 2, 2)), [ExpTransform()]
    ),
}


def draws(distribution, seed=0):
    torch.manual_seed(seed)
    return distribution.expand((CHAINS, SIZE)).sample()


@pytest.mark.parametrize("name", FAMILIES)
def test_measure_is_preserved(name):
    """The determinant by autograd, chain by chain and group by group."""
    old, new = FAMILIES[name](0), FAMILIES[name](1)
    assert untransportable(old, new) is None
    x = draws(old)
    there = transport(old, new, x)
    assert there.shape == x.shape
    assert new.expand((CHAINS, SIZE)).support.check(there).all()
    for i, j in np.ndindex(CHAINS, SIZE):
        matrix = torch.autograd.functional.jacobian(Alone(old, new, x, i, j), x[i, j].flatten())
        density = new.expand((CHAINS, SIZE)).log_prob(there)[i, j] + torch.linalg.slogdet(matrix)[1]
        torch.testing.assert_close(density, old.expand((CHAINS, SIZE)).log_prob(x)[i, j], rtol=1e-8, atol=1e-8)


class Alone:
    """The value of one chain and group after transport, as a function of its own value before."""

    def __init__(self, old, new, x, i, j):
        self.old, self.new, self.x, self.i, self.j = old, new, x, i, j

    def __call__(self, part):
        moved = self.x.clone()
        moved[self.i, self.j] = part.reshape(self.x.shape[2:])
        return transport(self.old, self.new, moved)[self.i, self.j].flatten()


@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back(name):
    old, new = FAMILIES[name](0), FAMILIES[name](1)
    x = draws(old)
    torch.testing.assert_close(transport(new, old, transport(old, new, x)), x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(transport(old, old, x), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["normal", "gamma", "lognormal", "half_cauchy", "weibull_shape", "student"])
def test_draws_of_the_old_prior_become_draws_of_the_new(name):
    """Kolmogorov-Smirnov of 5,000 draws; 6 tests at 1e-3 with a fixed seed."""
    old, new = FAMILIES[name](0), FAMILIES[name](1)
    torch.manual_seed(2)
    x = old.expand((CHAINS, 5000)).sample()
    there = transport(old, new, x)[1].numpy()
    m, s = float(M[1][1]), float(S[1][1])
    shape = float(S[0][1]) + 0.5
    reference = {
        "normal": stats.norm(m, s),
        "gamma": stats.gamma(2.5, scale=1 / s),
        "lognormal": stats.lognorm(s, scale=np.exp(m)),
        "half_cauchy": stats.halfcauchy(scale=s),
        "weibull_shape": stats.weibull_min(shape, scale=s),
        "student": stats.t(4.0, m, s),
    }[name]
    assert stats.kstest(there, reference.cdf).pvalue > 1e-3
    assert stats.kstest(x[1].numpy(), reference.cdf).pvalue < 1e-6, "or nothing had to be carried"


# Refusals


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (StudentT(S[0], M[0], S[0]), StudentT(S[1], M[0], S[0]), "the df of StudentT depends on a latent"),
        (Gamma(S[0], 1.0), Gamma(S[1], 1.0), "the concentration of Gamma depends on a latent"),
        (InverseGamma(S[0], 1.0), InverseGamma(S[1], 1.0), "the concentration of InverseGamma depends on a latent"),
        (Beta(S[0], 1.0), Beta(S[1], 1.0), "Beta is not a location-scale family"),
        (Chi2(S[0]), Chi2(S[1]), "Chi2 is not a location-scale family"),
        (Dirichlet(torch.ones(3)), Dirichlet(torch.ones(3)), "Dirichlet is not a location-scale family"),
        (
            Independent(Gamma(VECTOR[0].exp(), 1.0), 1),
            Independent(Gamma(VECTOR[1].exp(), 1.0), 1),
            "the concentration of Gamma depends on a latent",
        ),
        (
            TransformedDistribution(Gamma(S[0], 1.0), [ExpTransform()]),
            TransformedDistribution(Gamma(S[1], 1.0), [ExpTransform()]),
            "the concentration of Gamma depends on a latent",
        ),
        (
            TransformedDistribution(Independent(Normal(VECTOR[0], 1.0), 1), [SoftmaxTransform()]),
            TransformedDistribution(Independent(Normal(VECTOR[1], 1.0), 1), [SoftmaxTransform()]),
            "TransformedDistribution is made with a map that is not one to one",
        ),
        (Uniform(0.0, S[0]), Uniform(0.0, S[1]), "Uniform is not a location-scale family"),
    ],
)
def test_refusals_have_a_reason(old, new, reason):
    assert untransportable(old, new) == reason


# Location and scale on the unconstrained scale


@pytest.mark.parametrize("name", ["normal", "laplace", "gumbel", "student", "cauchy", "lognormal"])
def test_location_and_scale(name):
    place = location_scale(FAMILIES[name](0))
    assert torch.equal(place, torch.stack([M[0], S[0]]))


def test_location_and_scale_of_vectors():
    assert torch.equal(location_scale(FAMILIES["vector"](1))[0], VECTOR[1])
    covariance = (C[0] @ C[0].mT).expand(CHAINS, 1, 2, 2)
    place = location_scale(FAMILIES["multivariate"](0))
    assert place.shape == (2, CHAINS, 1, 2)
    torch.testing.assert_close(place[1], covariance.diagonal(dim1=-2, dim2=-1).sqrt())


def test_location_plus_scale_times_a_fixed_draw():
    """Element by element and on the unconstrained scale."""
    assert [name for name in FAMILIES if is_standard(FAMILIES[name](0))] == [
        "normal",
        "cauchy",
        "laplace",
        "gumbel",
        "student",
        "vector",
    ]


@pytest.mark.parametrize("prior", [Gamma(2.0, 1.0), HalfCauchy(1.0), Dirichlet(torch.ones(3)), Beta(1.0, 1.0)])
def test_others_have_no_location_and_scale(prior):
    assert location_scale(prior) is None
