"""Where chains begin: draws of the prior with a finite density, or an error that names the latent to blame."""

from functools import partial

import builders
import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Dirichlet, Exponential, Gamma, HalfNormal, LKJCholesky, Normal, Poisson, Uniform

import hiertorch as ht
from hiertorch.density.initial import initial_state
from hiertorch.density.structure import analyse
from hiertorch.errors import ModelError, SamplingError
from hiertorch.model.checks import inspect
from hiertorch.runtime.validating import validation

refused = partial(builders.refused, SamplingError)


class Intercepts(ht.Model):
    mu = ht.Latent(Normal(3.0, 2.0))
    tau = ht.Latent(HalfNormal(1.0))
    share = ht.Latent(Uniform(0.0, 1.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school], v.share + 1.0)


def schools(y=None, **options):
    return ht.Data(np.zeros(12) if y is None else y, groups={"school": np.arange(12) % 4}, **options)


def made(model, data=None, **options):
    data = schools() if data is None else data
    with torch.no_grad():
        return analyse(model, data, inspect(model, data, **options)[0], **options).target


def begun(target, chains=8, seed=0, init=None):
    with torch.no_grad(), validation(False):
        return initial_state(target, chains, torch.Generator().manual_seed(seed), init)


def test_the_state_is_the_targets_own():
    target = made(Intercepts())
    state = begun(target)
    fresh = target.state(state.free)
    for part, other in zip(state[:3], fresh[:3], strict=True):
        for name in target.names:
            torch.testing.assert_close(part[name], other[name])
    torch.testing.assert_close(state.cells, fresh.cells)
    assert torch.isfinite(state.log_density()).all()
    assert state.values["alpha"].shape == (8, 4)


def test_values_lie_chain_by_chain_in_memory():
    state = begun(made(Intercepts()))
    assert state.values["alpha"].stride() == state.free["alpha"].stride() == (1, 8)


def test_starts_follow_the_generator():
    target = made(Intercepts())
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two, other = (begun(target, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one.values[name], two.values[name]) for name in target.names)
    assert not any(torch.equal(one.values[name], other.values[name]) for name in target.names)


def test_chains_are_dispersed_over_the_prior_but_not_in_its_far_tails():
    state = begun(made(Intercepts()), chains=2000)
    place = stats.norm(3.0, 2.0).cdf(state.values["mu"][:, 0])
    assert place.std() > 0.15
    assert 0.4 < place.mean() < 0.6
    assert 0.01 < place.min() < 0.25
    assert 0.75 < place.max() < 0.99
    z = ((state.values["alpha"] - state.values["mu"]) / state.values["tau"]).flatten().numpy()
    assert stats.kstest(z, "norm").pvalue > 1e-3, "effects are draws from their prior given their parents"


def test_chains_of_infinite_density_are_drawn_again():
    """A response of 8 rules out most of the prior, and everything near the origin of unconstrained space."""

    class Bounded(ht.Model):
        top = ht.Latent(Exponential(0.25))

        def likelihood(self, v, data):
            return Uniform(torch.zeros_like(v.top), v.top, validate_args=False)

    state = begun(made(Bounded(), ht.Data([1.0, 8.0])), chains=200)
    assert (state.values["top"] > 8.0).all()
    assert torch.isfinite(state.log_density()).all()


def test_latents_of_every_support_have_a_start():
    class Supports(ht.Model):
        scale = ht.Latent(Gamma(0.001, 0.001))  # half of its draws underflow
        weights = ht.Latent(Dirichlet(torch.full((4,), 0.05)))
        corr = ht.Latent(LKJCholesky(3, 1.0))

    target = made(Supports(), prior_only=True)
    state = begun(target, chains=64)
    assert torch.isfinite(state.log_density()).all()
    assert all(torch.isfinite(u).all() for u in state.free.values())


# init=


def test_init_is_taken_as_it_is():
    target = made(Intercepts())
    alpha = torch.arange(32.0).reshape(8, 4)
    state = begun(target, init={"mu": 1.5, "alpha": alpha, "share": np.full((8, 1), 0.25), "tau": [2.0]})
    assert (state.values["mu"] == 1.5).all()
    torch.testing.assert_close(state.values["alpha"], alpha.double())
    torch.testing.assert_close(state.values["share"], torch.full((8, 1), 0.25).double())
    torch.testing.assert_close(state.values["tau"], torch.full((8, 1), 2.0).double())


def test_latents_left_out_of_init_follow_those_given():
    state = begun(made(Intercepts()), init={"mu": 1000.0, "tau": 0.001})
    np.testing.assert_allclose(state.values["alpha"], 1000.0, atol=0.01)


def test_init_of_vectors_and_correlations():
    class Vectors(ht.Model):
        beta = ht.Latent(Normal(0.0, 1.0), event=3)
        weights = ht.Latent(Dirichlet(torch.ones(3)))
        corr = ht.Latent(LKJCholesky(2, 1.0))

    target = made(Vectors(), prior_only=True)
    factor = [[1.0, 0.0], [0.6, 0.8]]
    state = begun(target, init={"beta": [1.0, 2.0, 3.0], "weights": [0.2, 0.3, 0.5], "corr": factor})
    torch.testing.assert_close(state.values["beta"][5, 0], torch.tensor([1.0, 2.0, 3.0]).double())
    torch.testing.assert_close(state.values["weights"][7, 0], torch.tensor([0.2, 0.3, 0.5]).double())
    torch.testing.assert_close(state.values["corr"][0, 0], torch.tensor(factor).double())
    with refused("init['weights'] is not inside the support"):
        begun(target, init={"weights": [0.2, 0.3, 0.1]})


@pytest.mark.parametrize(
    ("init", "parts"),
    [
        ({"nu": 1.0}, ["init names 'nu'", "the model's latents are mu, tau, share, alpha"]),
        ({"alpha": torch.zeros(3)}, ["init['alpha'] must broadcast to (chains, size, *event) = (8, 4)"]),
        ({"mu": "zero"}, ["init['mu'] must broadcast"]),
        ({"tau": -1.0}, ["init['tau'] is not inside the support of its prior, or not finite"]),
        ({"tau": 0.0}, ["init['tau'] is not inside the support"]),
        ({"share": 1.5}, ["init['share'] is not inside the support"]),
        ({"mu": float("nan")}, ["init['mu'] is not inside the support of its prior, or not finite"]),
        ({"mu": float("inf")}, ["init['mu']", "not finite"]),
        ([1.0, 2.0], ["init must be a mapping of latents to starting values, found list"]),
    ],
)
def test_an_init_that_does_not_fit(init, parts):
    with refused(*parts):
        begun(made(Intercepts()), init=init)


# Whom to blame


def test_an_overflowing_likelihood():
    class Overflow(Intercepts):
        def likelihood(self, v, data):
            return Poisson((1e6 * (v.mu.square() + 1.0) + v.alpha[:, data.school]).exp(), validate_args=False)

    with pytest.raises(ModelError, match="every prior draw is impossible: rate of Poisson must be"):
        made(Overflow())


def test_a_likelihood_of_zero():
    class Far(Intercepts):
        def likelihood(self, v, data):
            return Uniform(1e6 * (v.share + 1.0) + v.alpha[:, data.school], 1e9)

    target = made(Intercepts())
    target.model.__class__ = Far
    with refused(
        "no finite log density for 8 of 8 chains after 200 tries", "log likelihood is -inf", "'alpha'", "or pass init="
    ):
        begun(target)


def test_the_latent_that_makes_the_likelihood_nan():
    class Root(Intercepts):
        """mu + alpha is drawn; only mu below -10^6 would do."""

        def likelihood(self, v, data):
            return Normal((-v.mu - 1e6).sqrt() + v.alpha[:, data.school], v.share)

    class RootOfOne(Intercepts):
        """Fine at an unconstrained 0 of mu."""

        def likelihood(self, v, data):
            return Normal((-v.mu.square()).sqrt() + v.alpha[:, data.school], v.share)

    with refused("the log likelihood is NaN because of 'alpha', 'mu', 'share' (alpha = "):
        begun(made(Root()))
    with refused("the log likelihood is NaN because of 'mu' (mu = ", "rescale the predictors"):
        begun(made(RootOfOne()))


def test_the_prior_that_is_not_finite():
    class Narrow(Intercepts):
        """A scale that underflows for every draw of tau but those of the check."""

        alpha = ht.Latent(lambda v: Normal(v.mu, (v.tau - 30.0).clamp(min=0.0)), plate="school")

    target = made(Intercepts())
    target.model.alpha = ht.Latent(Narrow.alpha.prior, plate="school")
    with pytest.raises(ModelError, match=r"the prior of 'alpha' is impossible at .*: scale of Normal must be positive"):
        begun(target)


def test_a_bad_init_is_blamed_as_well():
    class Squared(Intercepts):
        def likelihood(self, v, data):
            return Poisson(v.mu.expand(-1, data.n_rows), validate_args=False)

    target = made(Squared(), schools(np.ones(12)))
    assert torch.isfinite(begun(target, init={"mu": 2.0}).log_density()).all()
    with refused("no finite log density for 8 of 8 chains", "because of 'mu' (mu = -5)"):
        begun(target, init={"mu": -5.0})
