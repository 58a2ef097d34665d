"""Dozens of coefficients, whose matrices are factored by LAPACK, against dense algebra: beside one grouping, nested and
crossed ones, and none; with priors that are settled and such as are not.
"""

from functools import cache

import numpy as np
import pytest
import torch
from torch.distributions import Gamma, Independent, Normal
from zoo import Example, assert_moments, collapsed_of, dense, simulated

import hiertorch as ht
from hiertorch.gaussian.cholesky import SUMMED
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.grams import WIDE

COLUMNS = 40
ROWS = 70
CHAINS = 3


class Wide(ht.Model):
    """y_i ~ Normal(sum_k beta_k x_ik, sigma_y)."""

    beta = ht.Latent(Independent(Normal(torch.full((COLUMNS,), 0.5), torch.linspace(0.2, 3.0, COLUMNS)), 1))
    sigma_y = ht.Latent(Gamma(2.0, 2.0))

    def likelihood(self, v, data):
        return Normal(v.beta[:, 0] @ data.x.mT, v.sigma_y)


class Intercepts(Wide):
    """... + alpha_school."""

    sigma = ht.Latent(Gamma(2.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(0.3, v.sigma), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school] + v.beta[:, 0] @ data.x.mT, v.sigma_y)


class Ridge(Intercepts):
    """The same where the spread of the coefficients is to be found too."""

    tau = ht.Latent(Gamma(2.0, 2.0))
    beta = ht.Latent(lambda v: Normal(0.0, v.tau), event=(COLUMNS,))


class Slopes(Intercepts):
    """Two correlated effects in each school, whose intercepts have a mean of their own; two kinds of rows."""

    alpha = ht.Latent(lambda v: Normal(v.beta[..., 0], v.sigma), plate="school")
    gamma = ht.Latent(lambda v: Normal(0.0, 1.5), plate="school")
    other = ht.Latent(Gamma(2.0, 2.0))

    def likelihood(self, v, data):
        effects = v.alpha[:, data.school] + v.gamma[:, data.school] * data.z
        return Normal(effects + v.beta[:, 0] @ data.x.mT, torch.where(data.kind == 1, v.sigma_y, v.other))


class Nested(Intercepts):
    """Effects of schools and of districts."""

    omega = ht.Latent(Gamma(2.0, 2.0))
    delta = ht.Latent(lambda v: Normal(0.0, v.omega), plate="district")

    def likelihood(self, v, data):
        effects = v.alpha[:, data.school] + v.delta[:, data.district]
        return Normal(effects + v.beta[:, 0] @ data.x.mT, v.sigma_y)


class Crossed(Intercepts):
    """Effects of schools and of raters."""

    omega = ht.Latent(Gamma(2.0, 2.0))
    delta = ht.Latent(lambda v: Normal(0.0, v.omega), plate="rater")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school] + v.delta[:, data.rater] + v.beta[:, 0] @ data.x.mT, v.sigma_y)


LINEAR = {
    Wide: "beta",
    Intercepts: "beta alpha",
    Ridge: "beta alpha",
    Slopes: "beta alpha gamma",
    Nested: "beta alpha delta",
    Crossed: "beta alpha delta",
}

models = pytest.mark.parametrize("model", LINEAR)


@cache
def example(model: type[ht.Model]) -> Example:
    rng = np.random.default_rng(3)
    school = rng.integers(12, size=ROWS)
    school[:12] = np.arange(12)
    data = ht.Data(
        np.zeros(ROWS),
        groups={"school": school, "district": np.arange(12)[school] // 4, "rater": rng.integers(5, size=ROWS)},
        weights=rng.uniform(0.5, 2.0, size=ROWS),
        x=np.column_stack([np.full(ROWS, 1.0), rng.normal(50.0, 1.0, size=(ROWS, COLUMNS - 1))]),
        z=rng.normal(size=ROWS),
        kind=rng.integers(2, size=ROWS),
    )
    made = model()
    return simulated(1, made, data, " ".join(name for name in made.latents if name in LINEAR[model].split()))


@cache
def found(model: type[ht.Model]) -> Collapsed:
    collapsed = collapsed_of(example(model).model, example(model).data)
    assert not isinstance(collapsed, str), collapsed
    return collapsed


def test_they_are_many_enough() -> None:
    assert max(WIDE, SUMMED) < COLUMNS


@models
def test_densities_are_those_of_dense_algebra(model: type[ht.Model]) -> None:
    case = example(model)
    rest = case.draw(CHAINS, seed=2)
    expected = dense(case.model, case.data, rest, case.linear).log_marginal.astype(float)
    assert found(model).linear == case.linear
    assert found(model).log_marginal(rest).numpy() == pytest.approx(expected, rel=1e-9)


@models
def test_moments_are_those_of_dense_algebra(model: type[ht.Model]) -> None:
    case = example(model)
    assert_moments(found(model), case, case.draw(CHAINS, seed=4), CHAINS, rel=1e-7)


@models
def test_conditional_densities_complete_the_identity(model: type[ht.Model]) -> None:
    """log p(y, u) - log p(y) is log p(u | y), at u of any size."""
    case, drawn = (
        example(model),
        example(model).model.sample_prior(example(model).data, CHAINS, torch.Generator().manual_seed(5)),
    )
    joint = case.model.log_likelihood(drawn, case.data)
    joint = (joint * case.data.weights).sum(-1)
    for name in case.linear:
        joint = joint + case.model.log_prior_term(name, drawn, case.data).sum(-1)
    rest = {name: drawn[name] for name in case.rest}
    conditional = found(model).log_conditional(dict(drawn))
    assert (joint - found(model).log_marginal(rest)).numpy() == pytest.approx(conditional.numpy(), rel=1e-8)
