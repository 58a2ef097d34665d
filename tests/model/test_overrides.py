"""Models that write densities themselves: nothing takes the declared ones for them."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import HalfNormal, Normal

import hiertorch as ht

Y = np.array([2.0, 3.0, 4.0, 2.5, 6.0, 3.5])


class Shrunk(ht.Model):
    """Effects whose prior is N(mu, tau) exp(-a^2 / 2), which is no declared distribution."""

    mu = ht.Latent(Normal(0.0, 5.0))
    tau = ht.Latent(HalfNormal(3.0))
    a = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="g")

    def log_prior_term(self, name, v, data=None):
        term = super().log_prior_term(name, v, data)
        return term - 0.5 * v["a"] ** 2 if name == "a" else term

    def likelihood(self, v, data):
        return Normal(v.a[:, data.g], 1.0 + 0.0 * data.y)


class Repelled(Shrunk):
    """The same; the prior of mu alone is another one, and effects are as declared."""

    def log_prior_term(self, name, v, data=None):
        term = ht.Model.log_prior_term(self, name, v, data)
        return term - 0.5 * (v["mu"] - 1.0) ** 2 if name == "mu" else term


class Coupled(Shrunk):
    """The term of tau reads effects, which are declared below it."""

    def log_prior_term(self, name, v, data=None):
        term = ht.Model.log_prior_term(self, name, v, data)
        return term - 0.5 * v["a"].square().sum(-1, keepdim=True) if name == "tau" else term


class Whole(Shrunk):
    """Another density altogether."""

    log_prior_term = ht.Model.log_prior_term

    def log_prob(self, v, data):
        return ht.Model.log_prob(self, v, data) - 0.5 * v["mu"][:, 0] ** 2


class Censored(Shrunk):
    """Rows above 3 are known to be above 3 only."""

    log_prior_term = ht.Model.log_prior_term

    def log_likelihood(self, v, data):
        given = self.likelihood(self.values(v), data)
        return torch.where(data.y > 3.0, torch.log1p(-given.cdf(torch.full_like(data.y, 3.0))), given.log_prob(data.y))


@pytest.fixture(scope="module")
def data():
    return ht.Data.from_frame(pd.DataFrame({"y": Y, "g": np.arange(6)}), "y", ["g"])


def short(model, data, **settings):
    settings = {"seed": 1, "progress": False, "chains": 4, "draws": 30, "warmup": 30, "thin": 1} | settings
    with pytest.warns(ht.SamplingWarning):
        return ht.sample(model, data, **settings)


def quadrature():
    """E[mu] and E[tau] of Shrunk: effects are integrated out by hand, mu and tau on a grid."""
    mu, tau = np.linspace(-25, 25, 801)[:, None], np.linspace(1e-3, 15, 800)[None]
    density = -0.5 * (mu / 5) ** 2 - 0.5 * (tau / 3) ** 2
    for y in Y:
        precision = 1 / tau**2 + 2.0
        slope = mu / tau**2 + y
        density = density - np.log(tau) - 0.5 * np.log(precision) + 0.5 * slope**2 / precision
        density = density - 0.5 * mu**2 / tau**2 - 0.5 * y**2
    weight = np.exp(density - density.max())
    weight /= weight.sum()
    return (weight * mu).sum(), (weight * tau).sum()


@pytest.mark.parametrize("model", [Shrunk, Coupled])
def test_effects_follow_their_parents_only_by_declared_priors(model, data):
    plan = ht.plan(model(), data)
    assert not [move for move in plan.moves if move.kind == "non-centred"]
    assert "log_prior_term" in ht.plan(model(), data).note
    with pytest.raises(ht.ModelError, match="overrides log_prior_term"):
        ht.plan(model(), data, moves=[("non-centred", ["mu", "tau"]), ("groupwise", ["a"])])


@pytest.mark.slow
def test_an_overridden_prior_of_effects_has_the_posterior_of_quadrature(data):
    posterior = ht.sample(Shrunk(), data, seed=1, progress=False, chains=16, draws=3000, warmup=1000, thin=2)
    for name, expected in zip(("mu", "tau"), quadrature(), strict=True):
        mean, error = posterior[name].mean(), posterior.summary(name)["mcse_mean"].astype(float).item()
        assert abs(mean - expected) < 4 * error + 0.01  # a wrong sampler gave mu 3.335, not 1.738


def test_a_term_may_read_latents_that_are_declared_below(data):
    reads = ht.plan(Coupled(), data).structure.reads
    assert reads.priors["tau"] == {"a"}


def test_new_groups_are_not_drawn_from_a_prior_that_was_not_fitted(data):
    frame = pd.DataFrame({"g": [0, 77]})
    posterior = short(Shrunk(), data)
    assert posterior.predict(frame.head(1)).draws.shape == (4, 30, 1)
    with pytest.raises(ht.ModelError, match="declared prior of 'a'"):
        posterior.predict(frame, new_groups="sample")
    with pytest.raises(ht.ModelError, match="declared prior of 'a'"):
        posterior.condition(frame.tail(1).assign(y=2.0))
    with pytest.raises(ht.ModelError, match="declared prior of 'a'"):
        posterior.predictive_check(groups="new", draws=20)
    with pytest.raises(ht.ModelError, match="declared prior of 'a'"):
        posterior.criterion(by="g")
    with pytest.raises(ht.ModelError, match="declared prior of 'a'"):
        posterior.pooling()
    fine = short(Repelled(), data)  # whose effects are as declared
    assert torch.isfinite(fine.predict(frame, new_groups="sample").draws).all()


def test_declared_priors_are_not_drawn_from_or_scaled_where_they_are_not_used(data):
    for model in (Shrunk(), Repelled()):
        with pytest.raises(ht.ModelError, match="declared prior"):
            ht.prior_check(model, data, draws=20, seed=1)
        with pytest.raises(ht.ModelError, match="overrides log_prior_term"):
            ht.prior_grid(model, data, "mu")
    with pytest.raises(ht.ModelError, match="overrides log_prob"):
        ht.prior_grid(Whole(), data, "mu")


def test_a_whole_density_of_its_own_has_no_rows(data):
    posterior = short(Whole(), data)
    for ask in (posterior.criterion, posterior.pooling, posterior.sensitivity):
        with pytest.raises(ht.HiertorchError, match="log_prob"):
            ask()


def test_responses_are_not_simulated_from_another_likelihood_than_was_fitted(data):
    posterior, frame = short(Censored(), data), pd.DataFrame({"g": [0]})
    posterior.criterion()  # by the rows' own densities
    for ask in (
        lambda: posterior.predict(frame, "response"),
        lambda: posterior.predictive_check(draws=20),
        lambda: ht.prior_check(Censored(), data, draws=20, seed=1),
    ):
        with pytest.raises(ht.ModelError, match="overrides log_likelihood"):
            ask()

    class Simulated(Censored):
        def simulate(self, v, data, generator=None):
            return super().simulate(v, data, generator).clamp(max=3.0)

    draws = short(Simulated(), data).predict(frame, "response").draws
    assert float(draws.max()) == 3.0


def test_an_override_on_the_instance_counts(data):
    model = Repelled()
    model.log_prior_term = lambda name, v, data=None: ht.Model.log_prior_term(model, name, v, data) - 0.5 * v["mu"] ** 2
    assert "overrides log_prior_term" in str(ht.plan(model, data).note)
