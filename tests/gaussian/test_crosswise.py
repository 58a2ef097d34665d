"""Ladders on given crossed effects: held against the model's own densities, and against normal distributions."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Gamma,
    Independent,
    LKJCholesky,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
)

import hiertorch as ht
from hiertorch.gaussian.cholesky import product
from hiertorch.gaussian.crosswise import Crosswise, middles_of
from hiertorch.gaussian.ladder import Ladder
from hiertorch.gaussian.ridges import Pairing, Ridges
from hiertorch.gaussian.surrogate import Sites, find_surrogate
from hiertorch.model.checks import inspect
from hiertorch.runtime.validating import validation

CHAINS = 3


def rows() -> ht.Data:
    """Groups, and judges and days across them; a column that is constant by judge."""
    random = np.random.default_rng(0)
    group, judge, day = (np.concatenate([np.arange(n), random.integers(0, n, 120 - n)]) for n in (20, 7, 5))
    judge = random.permutation(judge)
    return ht.Data(
        random.integers(0, 2, 120) * 1.0,
        groups={"group": group, "judge": judge, "day": day, "bench": judge // 3},
        weights=random.uniform(0.5, 2.0, 120),
        X=random.normal([3.0, 0.0], 1.0, (120, 2)),
        years=np.linspace(-1.0, 1.0, 7)[judge],
    )


class Plain(ht.Model):
    mu = ht.Latent(Normal(0.5, 5.0))
    tau = ht.Latent(Gamma(2.0, 2.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    judge = ht.Latent(lambda v: Normal(0.0, v.tau), plate="judge")
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v, data):
        return Bernoulli(logits=v.judge[:, data.judge] + v.alpha[:, data.group] - 0.2 * data.X[:, 0])


class Wide(ht.Model):
    """Two effects in groups and judges, a second crossed plate whose columns depend on theta, and coefficients with
    heavy tails, which are not integrated out.
    """

    mu = ht.Latent(Normal(0.0, 5.0))
    gamma = ht.Latent(Normal(1.0, 2.0), event=2)
    beta = ht.Latent(StudentT(3.0, 0.0, 1.0))
    tau = ht.Latent(Gamma(2.0, 2.0))
    sd = ht.Latent(Gamma(2.0, 1.0), event=2)
    spread = ht.Latent(Gamma(2.0, 1.0), event=2)
    L = ht.Latent(LKJCholesky(2, 2.0))
    day = ht.Latent(Normal(0.0, 1.0), plate="day")
    judge = ht.Latent(
        lambda v: MultivariateNormal(torch.zeros(2, dtype=v.sd.dtype), scale_tril=v.sd[..., None] * v.L), plate="judge"
    )
    effects = ht.Latent(lambda v: Independent(Normal(v.mu.unsqueeze(-1), v.spread), 1), plate="group")

    def likelihood(self, v, data):
        own = (v.effects[:, data.group] * data.X).sum(-1) + (v.judge[:, data.judge] * data.X).sum(-1)
        fixed = v.beta * data.X[:, 1] + v.gamma[..., 0] * data.years + v.gamma[..., 1] * data.X[:, 0]
        return Poisson((0.3 * own + v.tau * v.day[:, data.day] + fixed).exp())


class Judges(ht.Model):
    """mu and the coefficient of a column that is constant by judge trade with the judges' effects."""

    mu = ht.Latent(Normal(0.5, 5.0))
    beta = ht.Latent(Normal(0.0, 1.0), event=2)
    tau = ht.Latent(Gamma(2.0, 2.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    judge = ht.Latent(lambda v: Normal(0.0, v.tau), plate="judge")
    alpha = ht.Latent(lambda v: Normal(0.0, v.sigma), plate="group")

    def likelihood(self, v, data):
        fixed = v.mu + v.beta[..., 0] * data.years + v.beta[..., 1] * data.X[:, 1]
        return Bernoulli(logits=v.judge[:, data.judge] + v.alpha[:, data.group] + fixed)


class Found:
    """A surrogate with sites at random, values of the rest, and a draw by the ladder of all."""

    def __init__(self, model: ht.Model) -> None:
        self.model, self.data = model, rows()
        self.data = self.data.replace(y=self.data.y)
        self.surrogate = find_surrogate(model, self.data, inspect(model, self.data)[0])
        source = torch.Generator().manual_seed(1)
        z, w = torch.randn(2, 120, generator=source, dtype=torch.float64)
        self.collapsed = self.surrogate.given(Sites(z, w.exp(), {}))
        self.whole = Ladder(self.collapsed)
        drawn = model.sample_prior(self.data, CHAINS, source)
        self.rest = {name: drawn[name] for name in self.collapsed.rest}
        self.noise = torch.randn(self.whole.root.width, CHAINS, generator=source, dtype=torch.float64)
        self.finest = torch.randn(
            self.whole.widths[0], self.whole.sizes[0], CHAINS, generator=source, dtype=torch.float64
        )
        rungs = self.whole.rungs(self.rest, self.noise)
        self.tail, self.effects = rungs.tail, self.whole.down(rungs.levels, [self.finest])
        plain = Crosswise(self.collapsed)
        self.known = plain.known(self.rest, CHAINS)
        self.ladder = Crosswise(self.collapsed, middles_of(plain, self.known, self.tail))

    def log_density(self, tail: torch.Tensor, effects: torch.Tensor) -> torch.Tensor:
        """log p(z, effects, coefficients | rest) of the surrogate by the model's own densities."""
        model, data = self.collapsed.composed.model, self.collapsed.data
        innovations = self.whole.innovations(tail, [effects])
        values = self.collapsed.composed.values(self.rest, innovations, CHAINS)
        own = model.log_likelihood(values, data) @ data.weights
        return own + sum(model.log_prior_term(name, values, data).sum(-1) for name in self.collapsed.linear)


@pytest.fixture(params=[Plain, Wide, Judges])
def found(request):
    with torch.no_grad(), validation(False):
        yield Found(request.param())


def test_densities_are_the_models_own(found):
    """Whatever W and b are: log p = log marginal + log N(numbers) - log volume; and so by `drawn` as by `given`."""
    for ladder in (found.ladder, Crosswise(found.collapsed)):
        rungs, numbers = ladder.given(found.known, found.tail)
        (finest,) = ladder.up(rungs.levels, found.effects)
        square = numbers.square().sum(0) + finest.square().sum((0, 1))
        normal = -0.5 * square - 0.5 * ladder.numbers * math.log(2.0 * math.pi)
        normal = normal - 0.5 * ladder.grams.n_crossed * math.log(2.0 * math.pi)  # of u
        own = found.log_density(found.tail, found.effects[0])
        torch.testing.assert_close(rungs.log_marginal + normal - rungs.log_volume, own, rtol=1e-10, atol=1e-9)
        eps = ladder.numbers_of(found.known, found.tail)
        again = ladder.drawn(found.known, eps, numbers)
        torch.testing.assert_close(again.tail, found.tail, rtol=1e-9, atol=1e-9)
        for x, y in ((again.log_marginal, rungs.log_marginal), (again.log_volume, rungs.log_volume)):
            torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-9)
        (effects,) = ladder.down(again.levels, [finest])
        torch.testing.assert_close(effects, found.effects[0], rtol=1e-9, atol=1e-9)


def test_volumes_are_determinants():
    """log |d tail / d (eps, numbers)| by differentiation, with that of the finest level's root left out."""
    with torch.no_grad(), validation(False):
        found = Found(Wide())
        ladder, n = found.ladder, found.whole.root.width
        one = ladder.known({name: x[:1] for name, x in found.rest.items()}, 1)
        parts = list(zip(ladder.slices, ladder.crossed, strict=True))

        def tail(x: torch.Tensor) -> torch.Tensor:
            eps = [x[at].unflatten(0, (part.width, part.size)) for at, part in parts]
            return ladder.drawn(one, eps, x[ladder.grams.n_crossed :]).tail[:n]

        base = tail(torch.zeros(n, 1, dtype=torch.float64))
        columns = [tail(column.unsqueeze(1)) - base for column in torch.eye(n, dtype=torch.float64)]
        determinant = torch.linalg.slogdet(torch.cat(columns, 1)).logabsdet
        rungs = ladder.given(one, found.tail[:, :1])[0]
        (rung,) = rungs.levels
        of_finest = torch.linalg.slogdet(rung.half.permute(2, 3, 0, 1)).logabsdet.sum(0)
        torch.testing.assert_close(rungs.log_volume, determinant + of_finest)


def test_crossed_groups_are_independent_given_all_else(found):
    """log p(moved) - log p(here) of a group's effect, all else as it is, is that of its normal conditional."""
    for k, part in enumerate(found.ladder.crossed):
        lower, h = found.ladder.conditional(found.known, found.tail, found.effects[0], k)
        here = found.ladder.standardised(found.known, found.tail)[0][k]
        step = torch.randn(here.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)

        def height(u, lower=lower, h=h):
            root = product(lower, u.unsqueeze(1), transpose=True).squeeze(1)
            return (h * u).sum(0) - 0.5 * root.square().sum(0)

        moves = product(found.known.roots[1 + k], step.unsqueeze(1)).squeeze(1)
        before, at = found.log_density(found.tail, found.effects[0]), found.ladder.slices[k]
        expected = height(here + step) - height(here)
        for group in range(part.size):
            tail = found.tail.clone()
            tail[at].unflatten(0, (part.width, part.size))[:, group] += moves[:, group]
            change = found.log_density(tail, found.effects[0]) - before
            torch.testing.assert_close(change, expected[group], rtol=1e-8, atol=1e-8)


class Benches(ht.Model):
    """Judges, with correlated effects, of three benches."""

    mu = ht.Latent(Normal(0.0, 5.0))
    tau = ht.Latent(Gamma(2.0, 2.0))
    omega = ht.Latent(Gamma(2.0, 2.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    judge = ht.Latent(
        lambda v: MultivariateNormal(
            torch.zeros(2, dtype=v.tau.dtype),
            scale_tril=v.tau[..., None, None] * torch.tensor([[1.0, 0.0], [0.4, 0.7]], dtype=v.tau.dtype),
        ),
        plate="judge",
    )
    bench = ht.Latent(lambda v: Normal(0.0, v.omega), plate="bench")
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v, data):
        own = v.judge[:, data.judge]
        judged = own[..., 0] * data.X[:, 0] + own[..., 1] + v.bench[:, data.bench]
        return Bernoulli(logits=judged + v.alpha[:, data.group])


def test_sets_of_groups_of_two_plates_are_drawn_from_their_conditional_distribution():
    """As ridges of coefficients are; beyond three benches there is no other pairing."""
    with torch.no_grad(), validation(False):
        found = Found(Benches())
        ridges = Ridges(found.collapsed.affine, found.ladder)
        pairings = [ridge for ridge in ridges.found if isinstance(ridge, Pairing)]
        assert [one.width for one in pairings] == [3] and len(ridges.found) == 3
        assert_drawn(found, ridges, pairings[0])


@pytest.mark.parametrize(("model", "number"), [(Judges, 2), (Wide, 2)])  # mu and years; means of effects
def test_ridges_are_drawn_from_their_conditional_distribution(model, number):
    with torch.no_grad(), validation(False):
        found = Found(model())
        ridges = Ridges(found.collapsed.affine, found.ladder)
        assert len(ridges.found) == 1 and ridges.found[0].width == number
        assert_drawn(found, ridges, ridges.found[0])


def assert_drawn(found, ridges, ridge):
    """No row changes; with numbers e the log density falls by |e|^2 / 2 from where it is highest, at e = 0."""
    ladder, known = found.ladder, found.known
    e = torch.randn(ridge.width, CHAINS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    top, away = (ridges.draw(ridge, ladder, known, found.tail, x) for x in (0.0 * e, e))
    again = ridges.draw(ridge, ladder, known, away, 0.0 * e)  # wherever it starts
    torch.testing.assert_close(again, top, rtol=1e-9, atol=1e-9)
    highest, fallen = (found.log_density(tail, found.effects[0]) for tail in (top, away))
    torch.testing.assert_close(highest - fallen, 0.5 * e.square().sum(0), rtol=1e-7, atol=1e-7)
    for tail in (top, away):
        middles = (ladder.given(known, x)[0].levels[0].middle for x in (tail, found.tail))
        torch.testing.assert_close(*middles, rtol=1e-8, atol=1e-8)
