"""Ladders of one level with several effects a group by a compiled loop, against SciPy's normal density and against
torch's own way.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Bernoulli, Gamma, Independent, LKJCholesky, MultivariateNormal, Normal

import hiertorch as ht
from hiertorch.gaussian.ladder import Ladder
from hiertorch.gaussian.surrogate import Sites, find_surrogate
from hiertorch.model.checks import inspect
from hiertorch.runtime.validating import validation

pytest.importorskip("hiertorch.gaussian.widelevel")

GROUPS, ROWS, BATCH = 9, 61, 13
"""Some groups have fewer rows than effects; a batch that fills no block."""


class Effects(ht.Model):
    """Bernoulli rows, with K correlated effects a group, and coefficients."""

    def __init__(self, effects: int, number: int) -> None:
        super().__init__()
        zero = torch.zeros(number, dtype=torch.float64)
        self.number, self.effects = number, effects
        self.sd = ht.Latent(Gamma(2.0, 2.0), event=effects)
        self.L = ht.Latent(LKJCholesky(effects, 2.0))
        self.b = ht.Latent(self.prior_of_b, plate="group")
        if number:
            self.beta = ht.Latent(Independent(Normal(zero + 0.3, 2.0 + 0.1 * torch.arange(number)), 1))

    def prior_of_b(self, v):
        mean = torch.zeros(self.effects, dtype=v.sd.dtype)
        return MultivariateNormal(mean, scale_tril=v.sd[..., None] * v.L)

    def likelihood(self, v, data):
        eta = (v.b[:, data.group] * data.z).sum(-1) + 0.1
        return Bernoulli(logits=eta + v.beta[:, 0] @ data.x.mT if self.number else eta)


@pytest.fixture(params=[(2, 0), (3, 1), (7, 4)])
def made(request, monkeypatch):
    """A ladder of so many effects and coefficients, with sites at random, and values of the rest."""
    monkeypatch.setattr("hiertorch.gaussian.ladder.LOOPED_FROM", 2)
    effects, number = request.param
    rng = np.random.default_rng(number)
    group = np.sort(rng.integers(GROUPS, size=ROWS))
    x, z = rng.normal(size=(ROWS, number)) + 2.0, rng.normal(size=(ROWS, effects))
    with torch.no_grad(), validation(False):
        columns = {"z": z, **({"x": x} if number else {})}
        data = ht.Data(y=rng.integers(2, size=ROWS), groups={"group": group}, **columns)
        model = Effects(effects, number)
        surrogate = find_surrogate(model, data, inspect(model, data)[0])
        sites = Sites(torch.as_tensor(rng.normal(size=ROWS)), torch.as_tensor(rng.gamma(2.0, size=ROWS)), {})
        ladder = Ladder(surrogate.given(sites))
        assert ladder.wide and ladder.root.width == number
        prior = model.sample_prior(data, BATCH, torch.Generator().manual_seed(7))
        yield ladder, sites, group, x, z, {name: prior[name] for name in ("sd", "L")}, rng


def test_the_marginal_density_is_scipys(made):
    """Of responses with these weights: N(z; eta, 1)^w is N(z; eta, 1 / w) up to what w alone decides."""
    ladder, sites, group, x, z, values, rng = made
    number = x.shape[1]
    found = ladder.rungs(values, torch.as_tensor(rng.normal(size=(number, BATCH)))).log_marginal
    w = sites.w.numpy()
    fixed = np.diag(1.0 / w) + x @ np.diag((2.0 + 0.1 * np.arange(number)) ** 2) @ x.T
    rest = (0.5 * np.log(2.0 * math.pi / w) - 0.5 * w * math.log(2.0 * math.pi)).sum()
    for sd, lower, own in zip(values["sd"][:, 0].numpy(), values["L"][:, 0].numpy(), found.tolist(), strict=True):
        root = sd[:, None] * lower
        covariance = fixed + (z @ root @ root.T @ z.T) * (group[:, None] == group)
        known = stats.multivariate_normal(0.1 + 0.3 * x.sum(1), covariance).logpdf(sites.z.numpy()) + rest
        assert own == pytest.approx(known, rel=1e-9)


def test_rungs_and_effects_are_those_of_torch(made, monkeypatch):
    ladder, *_, values, rng = made
    noise = torch.as_tensor(rng.normal(size=(ladder.root.width, BATCH)))
    numbers = [torch.as_tensor(rng.normal(size=(ladder.widths[0], GROUPS, BATCH)))]
    found, held = ladder.rungs(values, noise), ladder.settled(values, BATCH, numbers=noise)
    effects = ladder.down(found.levels, numbers)
    known = ladder.settled(values, BATCH, tail=found.tail, effects=effects[0])
    monkeypatch.setattr(ladder, "wide", False)
    expected = ladder.rungs(values, noise)
    for mine, own in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-10, atol=1e-10)
    (mine,), (own,) = found.levels, expected.levels
    torch.testing.assert_close(mine.half, own.half, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mine.middle, own.middle, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(effects, ladder.down(expected.levels, numbers), rtol=1e-10, atol=1e-10)
    again, root = ladder.at(values, found.tail)
    torch.testing.assert_close(known.numbers.mT, root, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(known.numbers.mT, noise, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(known.noise.movedim(0, 2), numbers[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(known.middle.movedim(0, 2), again.levels[0].middle, rtol=1e-10, atol=1e-10)
    for mine, own in ((known.marginal, held.marginal), (known.volume, held.volume)):
        torch.testing.assert_close(mine, own, rtol=1e-10, atol=1e-10)
