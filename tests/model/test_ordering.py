"""Ordered vectors and simplexes as priors: densities and marginals by SciPy, refusals, a run with a known answer."""

import math

import numpy as np
import pytest
import torch
from builders import refused, sampled
from scipy import stats
from torch.distributions import Bernoulli, Dirichlet, Exponential, HalfNormal, Normal, Uniform

import hiertorch as ht
from hiertorch.errors import ModelError
from hiertorch.model.bijections import Ascending

BASES = {
    "normal": (Normal(1.0, 3.0), stats.norm(1, 3)),
    "positive": (Exponential(2.0), stats.expon(scale=0.5)),
    "interval": (Uniform(-1.0, 2.0), stats.uniform(-1, 3)),
}
DRAWS = 4_000
LEVEL = 1e-6
"""Of each Kolmogorov-Smirnov test, of which there are 13; seeds are fixed."""


@pytest.mark.parametrize("name", BASES)
def test_the_density_is_that_of_order_statistics(name):
    base, reference = BASES[name]
    prior, x = ht.ordered(base, 4), np.sort(reference.rvs((6, 4), random_state=1), 1)
    expected = reference.logpdf(x).sum(1) + math.log(24)
    np.testing.assert_allclose(prior.log_prob(torch.tensor(x)), expected, rtol=1e-6)
    assert prior.support.check(torch.tensor(x)).all() and not prior.support.check(torch.tensor(x).flip(1)).any()
    assert prior.expand((3, 2)).log_prob(torch.tensor(x[:2])).shape == (3, 2)


@pytest.mark.parametrize("name", BASES)
def test_draws_have_the_marginals_of_order_statistics(name):
    """F(x_(k)) ~ Beta(k, K + 1 - k)."""
    base, reference = BASES[name]
    torch.manual_seed(2)
    x = ht.ordered(base, 3).expand((2,)).sample((DRAWS,))[:, 1].double().numpy()
    for k in range(3):
        assert stats.kstest(reference.cdf(x[:, k]), stats.beta(k + 1, 3 - k).cdf).pvalue > LEVEL


@pytest.mark.parametrize(
    ("base", "size", "sentence"),
    [
        (Normal(0.0, 1.0), 0, "size is the number of entries that are in order"),
        (Normal(0.0, 1.0), 2.5, "size is the number of entries that are in order"),
        (Bernoulli(0.5), 3, "entries that are in order have a continuous law"),
        (Dirichlet(torch.ones(3)), 3, "have the law of single numbers"),
        ("Normal(0, 1)", 3, "have the law of single numbers"),
    ],
)
def test_what_has_no_order_is_refused(base, size, sentence):
    with refused(ModelError, sentence):
        ht.ordered(base, size)


class Vectors(ht.Model):
    """Thresholds, rates and shares of the population, and shares of each group."""

    cuts = ht.Latent(ht.ordered(Uniform(0.0, 1.0), 3), labels=["low", "middle", "high"])
    rates = ht.Latent(lambda v: ht.ordered(HalfNormal(v.cuts[..., 2]), 2))
    shares = ht.Latent(Dirichlet(torch.tensor([1.0, 2.0, 3.0])), "g", labels=[["a", "b", "c"]])

    def likelihood(self, v, data):
        return Normal(v.cuts[..., 0] + v.rates[..., 1] + v.shares[:, data["g"], 0], 1.0)


def data():
    return ht.Data(np.zeros(8), groups={"g": np.arange(8) % 2})


def test_models_have_them():
    model = Vectors()
    assert model.check(data()) == []
    assert model.latents["cuts"].text == "ordered(Uniform(0, 1), 3)"
    assert "ordered(Uniform" in str(model)
    assert ht.plan(model, data()).target.space.dim == 3 + 2 + 2 * 2


def from_the_prior(seed):
    return sampled(Vectors(), data(), seed=seed, prior_only=True, chains=32, warmup=200, draws=60, thin=12)


def misfits(posterior):
    """Smallest p-value of what is known of each marginal."""
    found = [stats.kstest(posterior["cuts"][..., k].flatten(), stats.beta(k + 1, 3 - k).cdf) for k in range(3)]
    for k, a in enumerate((1, 2, 3)):
        found.append(stats.kstest(posterior["shares"][:, :, 1, k].flatten(), stats.beta(a, 6 - a).cdf))
    return min(one.pvalue for one in found)


@pytest.mark.slow
def test_a_run_has_the_marginals_that_are_known(monkeypatch):
    """And with twice the log Jacobian it has others: gaps are then wider."""
    assert misfits(from_the_prior(3)) > LEVEL
    monkeypatch.setattr(Ascending, "log_abs_det_jacobian", lambda self, x, y: 2.0 * x[..., 1:].sum(-1))
    assert misfits(from_the_prior(3)) < LEVEL
