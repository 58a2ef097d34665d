"""Grids of prior scales, in one run and one by one, against normal algebra, sums over a grid and runs of their own.

A mean is off by 4 Monte Carlo standard errors with probability 6e-5; seeds are fixed.
"""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats
from torch import distributions as d

import hiertorch as ht
from hiertorch.errors import DataError, ModelError
from hiertorch.model.distributions import HalfStudentT
from hiertorch.models import VaryingIntercepts
from hiertorch.posterior import Posterior
from hiertorch.priorgrid import _scaled, prior_grid

pytestmark = pytest.mark.filterwarnings("ignore:(R-hat|Bulk|Tail|grouping|neither).*:hiertorch.errors.SamplingWarning")
QUICK: dict[str, Any] = {"compile": False, "seed": 1, "thin": 1}


class Level(ht.Model):
    """y_i ~ Normal(mu, 2),  mu ~ Normal(1, 0.5)."""

    mu = ht.Latent(d.Normal(1.0, 0.5))

    def likelihood(self, v, data):
        return d.Normal(v.mu, 2.0)


class Passed(ht.Model):
    """y_i ~ Bernoulli(logit^-1(beta_1 + beta_2 x_i)),  beta_k ~ Normal(0, 0.5)."""

    beta = ht.Latent(d.Normal(0.0, 0.5), event=2, labels=["intercept", "x"])

    def likelihood(self, v, data):
        return d.Bernoulli(logits=v.beta[..., 0] + v.beta[..., 1] * data.x)


Y = np.random.default_rng(0).normal(3.0, 2.0, 12)
DATA = ht.Data(Y)


def normal(scale: float) -> tuple[float, float]:
    """Mean and sd of mu in `Level`."""
    precision = 1 / (0.5 * scale) ** 2 + len(Y) / 4
    return (1 / (0.5 * scale) ** 2 + Y.sum() / 4) / precision, precision**-0.5


@pytest.mark.parametrize("collapse", [True, False])
def test_a_normal_mean(collapse):
    grid = prior_grid(Level(), DATA, "mu", (0.5, 1, 4), collapse=collapse, warmup=150, draws=400, **QUICK)
    for scale in (0.5, 1.0, 4.0):
        mean, sd = normal(scale)
        row = grid.table.loc[("mu", scale)]
        assert abs(row["mean"] - mean) < 4 * row["mcse_mean"]
        assert row["sd"] == pytest.approx(sd, rel=0.08)
        assert row["shift"] == pytest.approx((mean - normal(1.0)[0]) / normal(1.0)[1], abs=0.15)
    assert "depends on this prior" in grid.sentence
    assert "mu, by" in repr(grid)
    assert max(map(len, repr(grid).splitlines()[:-1])) <= 120


def test_a_vector_in_one_batch():
    """Coefficients of a logistic regression, by sums over a grid; the posteriors know the prior that they had."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=30)
    y = rng.binomial(1, special.expit(0.5 + 1.5 * x)).astype(float)
    grid = prior_grid(Passed(), ht.Data(y, x=x), "beta", (1, 3), warmup=200, draws=400, **QUICK)
    one, two = np.meshgrid(np.linspace(-4, 5, 181), np.linspace(-4, 8, 241), indexing="ij")
    eta = one[..., None] + two[..., None] * x
    like = (y * eta - np.logaddexp(0, eta)).sum(-1)
    for scale in (1.0, 3.0):
        log_p = like + stats.norm.logpdf(one, 0, 0.5 * scale) + stats.norm.logpdf(two, 0, 0.5 * scale)
        p = np.exp(log_p - log_p.max())
        p /= p.sum()
        for name, at in (("beta[intercept]", one), ("beta[x]", two)):
            row = grid.table.loc[(name, scale)]
            assert abs(row["mean"] - (p * at).sum()) < 4 * row["mcse_mean"], (name, scale)
        posterior = grid.posteriors[scale]
        assert posterior.chains == 16
        v = {"beta": posterior.draws["beta"][:, 0]}
        expected = d.Normal(0.0, 0.5 * scale).log_prob(v["beta"]).sum((1, 2))
        fitted: Any = posterior.fitted
        assert torch.allclose(fitted.model.log_prior(v, fitted.data), expected)
        assert posterior.predict(pd.DataFrame({"x": [0.0]})).draws.shape == (16, 400, 1)


def test_scale_without_one():
    grid = prior_grid(Level(), DATA, "mu", (2.0, 4.0), warmup=50, draws=100, chains=4, **QUICK)
    assert grid.table["shift"].isna().all()
    assert "Without scale 1" in grid.sentence


def test_a_prior_that_does_not_matter():
    """Twelve rows against Normal(1, 500): the mean moves by 1e-6 of its sd, and by its Monte Carlo error."""

    class Wide(Level):
        mu = ht.Latent(d.Normal(1.0, 500.0))

    grid = prior_grid(Wide(), DATA, "mu", warmup=50, draws=400, **QUICK)
    assert grid.sentence.startswith("No mean moves by 0.25 posterior sds or more with the prior of mu from 0.5 to 2")


PRIORS = [
    d.Normal(1.0, 2.0),
    d.Laplace(-1.0, 0.5),
    d.StudentT(4.0, 1.0, 2.0),
    d.Cauchy(0.5, 1.0),
    d.Gumbel(1.0, 2.0),
    d.HalfNormal(2.0),
    d.HalfCauchy(1.5),
    HalfStudentT(4.0, 2.0),
    d.Gamma(2.0, 0.5),
    d.Exponential(0.3),
    d.LogNormal(0.2, 0.7),
    d.InverseGamma(3.0, 2.0),
    d.Weibull(2.0, 1.5),
]


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
def test_scaled_density_is_that_of_the_scaled_variable(prior):
    """p_f(m + f (x - m)) = p(x) / f, for factors by chain."""
    middle = prior.loc if prior.support is d.constraints.real else torch.tensor(0.0)
    x, factor = torch.tensor([[0.3], [1.1], [2.5]]), torch.tensor([[0.5], [1.0], [3.0]])
    density = _scaled("x", prior, factor).log_prob(middle + factor * (x - middle))
    assert torch.allclose(density, prior.log_prob(x) - factor.log(), atol=1e-5)


def test_scaled_vectors():
    prior = d.Independent(d.Normal(torch.ones(2), torch.tensor([1.0, 2.0])), 1)
    factor = torch.tensor([[0.5], [3.0]])
    found = _scaled("x", prior, factor)
    assert found.batch_shape == (2, 1)
    assert torch.allclose(found.variance[:, 0], factor**2 * torch.tensor([1.0, 4.0]))
    normal = d.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]]))
    covariance = _scaled("x", normal, factor).covariance_matrix  # type: ignore[attr-defined]
    assert torch.allclose(covariance, factor[..., None, None] ** 2 * normal.covariance_matrix)


def test_what_can_not_be_scaled():
    data = ht.Data(Y, groups={"g": list("aabbccddeeff")})
    model = VaryingIntercepts("g", priors="tutorial")
    with pytest.raises(ModelError, match=r"no latent 'sigma_alpa'; it has .*'?sigma_alpha'?"):
        prior_grid(model, data, "sigma_alpa")
    with pytest.raises(ModelError, match="the prior of 'alpha' reads mu_alpha, sigma_alpha"):
        prior_grid(model, data, "alpha")
    with pytest.raises(ModelError, match="Uniform, has no width that could be scaled"):
        prior_grid(VaryingIntercepts("g", priors={"mu_alpha": "Uniform(0, 5)"}), data, "mu_alpha")
    for scales in ([], [0.0, 1.0], [1.0, -2.0], ["a"], [float("nan")]):
        with pytest.raises(DataError, match="a list of positive numbers"):
            prior_grid(model, data, "sigma_alpha", scales)
    with pytest.raises(DataError, match="a scale twice"):
        prior_grid(model, data, "sigma_alpha", [1, 1.0])
    with pytest.raises(DataError, match="these data differ by chain"):
        prior_grid(model, data.replace(y=data.y.expand(3, -1)), "sigma_alpha")
    with pytest.raises(DataError, match="takes a model and data"):
        prior_grid(VaryingIntercepts, data, "sigma_alpha")
    with pytest.raises(DataError, match="chains= is a whole number from 1"):
        prior_grid(model, data, "sigma_alpha", chains=0)


@pytest.mark.slow
@pytest.mark.parametrize(("latent", "text"), [("sigma_alpha", "Gamma(1, {})"), ("mu_alpha", "Normal(0, {})")])
@pytest.mark.parametrize("collapse", [True, False])
def test_one_batch_agrees_with_runs_of_their_own(latent, text, collapse):
    """Varying intercepts of few groups, against runs with the prior written out."""
    frame = ht.simulate_grouped({"g": 6}, 8, seed=5, model=VaryingIntercepts("g", ["x"], priors="tutorial")).frame
    frame["y"] -= 8.0  # no prior is far from the data: two ways to explain them would need longer runs
    data = ht.Data.from_frame(frame, "y", ["g"])
    grid = prior_grid(
        VaryingIntercepts("g", ["x"], priors="tutorial"),
        data,
        latent,
        warmup=300,
        draws=1000,
        collapse=collapse,
        **QUICK,
    )
    assert grid.posteriors[1.0].run["plan_text"].count("collapsed  chain") == collapse
    for scale in (0.5, 1.0, 2.0):
        prior = text.format(1 / scale if latent == "sigma_alpha" else 5 * scale)
        others = {"mu_alpha": "Normal(0, 5)", "sigma_alpha": "Gamma(1, 1)", "beta": "Normal(0, 2)"}
        priors = {**others, "sigma_y": "Gamma(1, 1)", latent: prior}
        alone: Posterior = ht.sample(
            VaryingIntercepts("g", ["x"], priors=priors), data, seed=2, draws=500, progress=False
        )
        one, two = grid.table.xs(scale, level="scale"), alone.summary(["mu_alpha", "sigma_alpha", "beta", "sigma_y"])
        two = two.loc[one.index]
        z = (one["mean"] - two["mean"]) / np.hypot(one["mcse_mean"], two["mcse_mean"])
        assert z.abs().max() < 4, (scale, z.to_dict())
