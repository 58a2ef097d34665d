"""Effects as functions of standard normal numbers, and back: held against the model's own densities."""

import math
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Distribution,
    Gamma,
    LKJCholesky,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    constraints,
)

import hiertorch as ht
from hiertorch.density.structure import analyse
from hiertorch.gaussian.ladder import Ladder
from hiertorch.gaussian.sites import RowDerivatives
from hiertorch.gaussian.surrogate import Sites, find_surrogate
from hiertorch.model.checks import inspect
from hiertorch.model.latent import Values
from hiertorch.runtime.validating import validation

CHAINS = 3


def rows() -> ht.Data:
    """Groups in halls, and judges across both."""
    random = np.random.default_rng(0)
    group = np.concatenate([np.arange(20), random.integers(0, 20, 100)])
    judge = np.concatenate([np.arange(5), random.integers(0, 5, 115)])
    return ht.Data(
        random.integers(0, 2, 120) * 1.0,
        groups={"group": group, "hall": group // 4, "judge": judge},
        weights=random.uniform(0.5, 2.0, 120),
        X=random.normal([3.0, 0.0], 1.0, (120, 2)),
    )


class Plain(ht.Model):
    mu = ht.Latent(Normal(1.0, 5.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v, data):
        return Bernoulli(logits=v.alpha[:, data.group])


class Nested(ht.Model):
    """Effects of two numbers in groups of halls, and coefficients with heavy tails, which are not integrated out."""

    mu = ht.Latent(Normal(0.0, 5.0))
    tau = ht.Latent(Gamma(2.0, 2.0))
    L = ht.Latent(LKJCholesky(2, 2.0))
    sd = ht.Latent(Gamma(2.0, 1.0), event=2)
    beta = ht.Latent(StudentT(3.0, 0.0, 1.0), event=2)
    hall = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="hall")
    effects = ht.Latent(
        lambda v: MultivariateNormal(torch.zeros(2, dtype=v.sd.dtype), scale_tril=v.sd[..., None] * v.L), plate="group"
    )

    def likelihood(self, v, data):
        own = (v.effects[:, data.group] * data.X).sum(-1)
        return Poisson((v.hall[:, data.hall] + own + (v.beta @ data.X.mT)[:, 0]).exp())


class Levels(ht.Model):
    """The mean of a group is its hall's effect."""

    mu = ht.Latent(Normal(0.0, 2.0))
    tau = ht.Latent(Gamma(2.0, 2.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    hall = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="hall")
    alpha = ht.Latent(lambda v, data: Normal(v.hall[:, data.parents("group", "hall")], v.sigma), plate="group")

    def likelihood(self, v, data):
        return Bernoulli(logits=v.alpha[:, data.group])


class Crossed(ht.Model):
    mu = ht.Latent(Normal(0.0, 5.0))
    tau = ht.Latent(Gamma(2.0, 2.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    phi = ht.Latent(Gamma(2.0, 0.1))
    judge = ht.Latent(lambda v: Normal(0.0, v.tau), plate="judge")
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v, data):
        eta = v.judge[:, data.judge] + v.alpha[:, data.group] - 0.2 * data.X[:, 0]
        return NegativeBinomial(v.phi, logits=eta - v.phi.log())


class NonCentred(ht.Model):
    """Effects are scales times standard normal numbers, so that columns depend on the rest."""

    mu = ht.Latent(Normal(0.0, 2.0))
    tau = ht.Latent(Gamma(2.0, 2.0))
    sigma = ht.Latent(Gamma(2.0, 2.0), event=2)
    hall = ht.Latent(Normal(0.0, 1.0), plate="hall")
    z = ht.Latent(Normal(0.0, 1.0), plate="group", event=2)

    def likelihood(self, v, data):
        own = ((v.sigma * v.z)[:, data.group] * data.X).sum(-1)
        return Poisson(1.5 * (v.mu + own + v.tau * v.hall[:, data.hall]).exp())


class Ordered(Distribution):
    """0, 1 or 2 by two thresholds (..., 2) for eta plus logistic noise."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, eta, thresholds):
        self.eta, self.thresholds = eta, thresholds
        super().__init__(eta.shape, validate_args=False)

    @property
    def support(self):
        return constraints.integer_interval(0, 2)

    def log_prob(self, y):
        above = torch.sigmoid(self.eta.unsqueeze(-1) - self.thresholds.unsqueeze(1))  # P(y > 0), P(y > 1)
        p = torch.stack([1.0 - above[..., 0], above[..., 0] - above[..., 1], above[..., 1]], -1)
        return p.log().gather(-1, y.long().expand(self.eta.shape).unsqueeze(-1)).squeeze(-1)


class Ordinal(ht.Model):
    """A distribution of the user's own, and thresholds that shift all sites."""

    first = ht.Latent(Normal(-0.5, 1.0))
    gap = ht.Latent(Gamma(3.0, 2.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    beta = ht.Latent(Normal(0.0, 0.5))
    alpha = ht.Latent(lambda v: Normal(0.0, v.sigma), plate="group")

    def likelihood(self, v, data):
        eta = 2.0 * v.alpha[:, data.group] + v.beta * data.X[:, 1]
        return Ordered(eta, torch.cat([v.first, v.first + v.gap], -1))


def test_thresholds_shift_sites():
    """The first one moves eta itself. The distance to the second moves the sites of rows above it as eta does, and not
    those of rows below both: d^2 log f / d eta d gap = -d^2 log f / d eta^2, and 0.
    """
    with torch.no_grad(), validation(False):
        model, data = Ordinal(), rows()
        data = data.replace(y=torch.arange(120.0) % 3)
        reads = inspect(model, data)[0]
        surrogate = find_surrogate(model, data, reads)
        columns = surrogate.predictor.columns  # up to a factor, which here is 2
        assert set(columns) == {"alpha", "beta", "first"} and surrogate.predictor.shifting == ("gap",)
        torch.testing.assert_close(2.0 * columns["beta"][:, 0], data.X[:, 1])
        torch.testing.assert_close(columns["first"], torch.full((120, 1), -0.5, dtype=torch.float64))
        terms = partial(analyse(model, data, reads).target.row_terms, data=data)
        values = model.sample_prior(data, 6, torch.Generator().manual_seed(1))
        moments = RowDerivatives(terms, surrogate)(dict(values))
        mixed = moments.mixed["gap"][:, 0]
        torch.testing.assert_close(mixed[data.y == 2.0], 0.5 * moments.second[data.y == 2.0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mixed[data.y == 0.0], 0.0 * mixed[data.y == 0.0], rtol=1e-4, atol=1e-4)


@pytest.fixture(params=[Plain, Nested, Levels, Crossed, NonCentred])
def found(request):
    """A surrogate with sites at random, values of the rest, standard normal numbers, and what follows from them."""
    with torch.no_grad(), validation(False):
        model, data = request.param(), rows()
        surrogate = find_surrogate(model, data, inspect(model, data)[0])
        source = torch.Generator().manual_seed(1)
        z, w = torch.randn(2, 120, generator=source, dtype=torch.float64)
        collapsed = surrogate.given(Sites(z, w.exp(), {}))
        ladder = Ladder(collapsed)
        drawn = model.sample_prior(data, CHAINS, source)
        rest = {name: drawn[name] for name in collapsed.rest}
        shapes = [(k, n) for k, n in zip(ladder.widths, ladder.sizes, strict=True)]
        noise = [
            torch.randn(*s, CHAINS, generator=source, dtype=torch.float64) for s in [(ladder.root.width,), *shapes]
        ]
        rungs = ladder.rungs(rest, noise[0])
        yield collapsed, ladder, rest, noise, rungs, ladder.down(rungs.levels, noise[1:])


def test_the_way_back(found):
    _, ladder, rest, noise, rungs, effects = found
    for known, again in zip(noise[1:], ladder.up(rungs.levels, effects), strict=True):
        torch.testing.assert_close(again, known, rtol=1e-9, atol=1e-9)
    there, root = ladder.at(rest, rungs.tail)
    torch.testing.assert_close(root, noise[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(there.log_volume, rungs.log_volume)


def test_densities_are_the_models_own(found):
    """log p(z, effects | rest) = log p(z | rest) + log N(numbers) - log volume."""
    collapsed, ladder, rest, noise, rungs, effects = found
    model, data = collapsed.composed.model, collapsed.data
    values = collapsed.composed.values(rest, ladder.innovations(rungs.tail, effects), CHAINS)
    own = model.log_likelihood(values, data) @ data.weights
    for name in collapsed.linear:
        own = own + model.log_prior_term(name, values, data).sum(-1)
    square = sum(x.square().flatten(0, -2).sum(0) for x in noise)
    normal = -0.5 * square - 0.5 * ladder.numbers * math.log(2.0 * math.pi)
    torch.testing.assert_close(rungs.log_marginal + normal - rungs.log_volume, own, rtol=1e-10, atol=1e-9)


def test_levels_above_may_be_kept(found):
    """What is drawn below a known level is what would be drawn with it."""
    _, ladder, _, noise, rungs, effects = found
    for known in range(len(effects)):
        again = ladder.down(rungs.levels, noise[1:], effects[len(effects) - known :])
        assert all(torch.equal(a, b) for a, b in zip(again, effects, strict=True))


def test_draws_of_numbers_at_0_are_means(found):
    collapsed, ladder, rest, noise, _, _ = found
    rungs = ladder.rungs(rest, torch.zeros_like(noise[0]))
    effects = ladder.down(rungs.levels, [torch.zeros_like(x) for x in noise[1:]])
    values = collapsed.composed.values(rest, ladder.innovations(rungs.tail, effects), CHAINS)
    means = collapsed.draw(rest, torch.zeros(collapsed.n_noise, CHAINS, dtype=torch.float64))
    for name, mean in means.items():
        torch.testing.assert_close(values[name], mean)


def test_the_predictor_is_that_of_the_likelihood(found):
    """Log odds or log means, up to what other parameters add: of the first two rows their difference."""
    collapsed, ladder, rest, _, rungs, effects = found
    model, data = collapsed.composed.model, collapsed.data
    values = dict(collapsed.composed.values(rest, ladder.innovations(rungs.tail, effects), CHAINS))
    v = Values(values, tuple(values))
    response = model.stands_for.likelihood(v, data)
    eta = response.logits if hasattr(response, "logits") else response.rate.log()
    torch.testing.assert_close(model.eta(v, data).diff(), eta.diff(), rtol=1e-9, atol=1e-9)
