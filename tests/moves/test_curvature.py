"""Where walks and chains begin: curvatures and modes of normal models in closed form, by NumPy, in any units."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, HalfNormal, Independent, Normal, Poisson

import hiertorch as ht
from hiertorch.density.initial import initial_state
from hiertorch.density.state import State
from hiertorch.model.latent import Values
from hiertorch.moves.adaptation import Adaptation
from hiertorch.moves.base import Move
from hiertorch.moves.curvature import arrived, searchers
from hiertorch.moves.guesses import BEST_WALK
from hiertorch.runtime.validating import validation

RNG = np.random.default_rng(4)
G, Z = np.repeat(np.arange(5), 12), RNG.normal(size=60)
X = np.stack([np.ones(60), 1e9 * (RNG.normal(size=60) + 30.0), 1e-6 * (Z + 3.0), Z + 0.1 * RNG.normal(size=60)], 1)
PRIOR = torch.tensor([50.0, 50e-9, 50e6, 50.0], dtype=torch.float64)
DATA = ht.Data(X[:, 3] + RNG.normal(size=60), groups={"g": G}, **{f"x{k}": X[:, k] for k in range(4)})


class Line(ht.Model):
    """y_i ~ Normal(x_i' b, 1), with columns far from 0, alike, and of many units.

    Args:
        outside: whether rows are computed outside torch.
    """

    b = ht.Latent(Independent(Normal(torch.zeros_like(PRIOR), PRIOR), 1))

    def __init__(self, *, outside: bool = False) -> None:
        super().__init__()
        self.outside = outside

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        b = torch.as_tensor(v.b.numpy()) if self.outside else v.b
        return Normal(sum(b[:, 0, k : k + 1] * data[f"x{k}"] for k in range(4)), 1.0)


class Lines(ht.Model):
    """An intercept and a slope in each group, of two units: e_j ~ Normal(m, (2, 3)), m unknown."""

    m = ht.Latent(Normal(0.0, 5.0))
    a = ht.Latent(lambda v: Normal(v.m, 2.0), plate="g")
    b = ht.Latent(Normal(0.0, 3e6), plate="g")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Normal(v.a[:, data["g"]] + v.b[:, data["g"]] * data["x2"], 1.0)


class Counts(ht.Model):
    """Effects and their scale, of which the joint density has no mode."""

    mu = ht.Latent(Normal(0.0, 5.0))
    tau = ht.Latent(HalfNormal(1.0))
    a = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="g")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Poisson(v.a[:, data["g"]].exp())


def begun(
    model: ht.Model, data: ht.Data, moves: Any
) -> tuple[Move, State, State, dict[str, Tensor], dict[str, Tensor]]:
    """The first move of a plan, where it was told to look and what it found there, and its tuning before and after."""
    plan = ht.plan(model, data, moves=moves, collapse=False)
    with torch.no_grad(), validation(False):
        at = searchers(initial_state(plan.target, 3, torch.Generator().manual_seed(2)), plan.target)
        assert at is not None
        move = plan.moves[0]
        learning = move.learning(at)
        assert isinstance(learning, Adaptation)
        there, learnt = move.begun(at, learning)
    return move, at, there, dict(learning.tuning), dict(learnt.tuning)


def assert_root(root: Tensor, precision: np.ndarray) -> None:
    """Of the best walk on a normal density, in the units of its sds."""
    width = precision.shape[-1]
    covariance = (root @ root.mT).numpy() * width / BEST_WALK**2
    sd = 1.0 / np.sqrt(np.diagonal(precision, axis1=-2, axis2=-1))
    wanted = np.linalg.inv(precision * sd[..., None] * sd[..., None, :])  # well conditioned in its own units
    np.testing.assert_allclose(covariance / sd[..., None] / sd[..., None, :], wanted, rtol=1e-5, atol=1e-5)


def test_a_joint_walk_begins_with_the_gram_matrix_of_its_columns():
    move, _, there, _, learnt = begun(Line(), DATA, [("joint", ["b"])])
    assert bool(arrived(there, move.target).all())
    precision = X.T @ X + np.diag(PRIOR.numpy() ** -2.0)
    assert_root(learnt["root"][0], precision)
    sd = PRIOR.numpy()
    mean = sd * np.linalg.solve(precision * sd * sd[:, None], sd * (X.T @ np.asarray(DATA.y)))
    np.testing.assert_allclose(there.free["b"][:, 0].numpy() / mean, 1.0, rtol=1e-4)


def test_groups_of_two_effects_have_a_curvature_each():
    _, at, there, _, learnt = begun(Lines(), DATA, [("groupwise", ["a", "b"]), ("joint", ["m"])])
    for j in range(5):
        x = np.stack([np.ones(12), X[j == G, 2]], 1)
        precision = x.T @ x + np.diag([1 / 4.0, 1 / 9e12])
        assert_root(learnt["root"][j], precision)
        sd = np.array([1.0, 1e6])
        right = x.T @ np.asarray(DATA.y)[j == G] + np.stack([at.free["m"][:, 0].numpy() / 4.0, np.zeros(3)], 1)
        mean = sd * np.linalg.solve(precision * sd * sd[:, None], (sd * right)[..., None])[..., 0]
        found = np.stack([there.free[name][:, j].numpy() for name in "ab"], 1)
        np.testing.assert_allclose(found / mean, 1.0, rtol=1e-3)


def test_a_non_centred_walk_begins_where_effects_follow_their_parents():
    """Given z = (a - mu) / tau = 0 the mode of mu is known: d/dmu of sum_j (y_j. mu - n_j exp(mu)) - mu^2 / 50."""
    data = ht.Data(RNG.poisson(np.exp(1.0 + 0.5 * RNG.normal(size=5)[G])).astype(float), groups={"g": G})
    _, _, there, _, _ = begun(Counts(), data, [("non-centred", ["mu", "tau"]), ("groupwise", ["a"])])
    mu, tau, a = (there.values[name].numpy() for name in ("mu", "tau", "a"))
    np.testing.assert_allclose(a, np.broadcast_to(mu, a.shape), atol=1e-12)  # z = 0, where the search begins
    score = float(np.asarray(data.y).sum()) - 60.0 * np.exp(mu) - mu / 25.0
    assert np.abs(score).max() < 0.1 * np.sqrt(60.0 * np.exp(mu).max())  # a tenth of an sd
    np.testing.assert_allclose(tau, 1.0, atol=0.1)  # of log tau by its prior: tau exp(-tau^2 / 2)


@pytest.mark.parametrize(
    ("model", "moves"),
    [(Line(outside=True), [("joint", ["b"])]), (Counts(), [("joint", ["mu", "tau", "a"])])],
    ids=["rows without derivatives", "a scale with its effects"],
)
def test_what_has_no_mode_or_no_derivatives_begins_as_it_was(model: ht.Model, moves: Any):
    _, at, there, before, after = begun(model, DATA.replace(y=np.arange(60.0) % 3), moves)
    assert after.keys() == before.keys() and all(after[key] is x for key, x in before.items())
    assert all(there.free[name] is u for name, u in at.free.items())


@pytest.mark.parametrize("kind", ["centred", "joint"])
def test_scales_given_their_effects_do_not_fall_to_nothing(kind: str):
    """Given effects that are all at their mean, the mode of log tau is at minus infinity."""
    moves = [(kind, ["mu", "tau"]), ("groupwise", ["a"])]
    _, at, there, _, _ = begun(Counts(), DATA.replace(y=np.arange(60.0) % 3), moves)
    assert all(there.free[name] is u for name, u in at.free.items())


def test_chains_begin_at_modes_unless_they_are_told_where(sample: Any):
    """A prior 1,000 sds wide: from draws of it, no chain would be near the rows within so few sweeps."""
    options: dict[str, Any] = {"chains": 4, "warmup": 1, "draws": 1, "thin": 1, "seed": 1, "collapse": False}
    near = sample(Line(), DATA, **options)
    assert float(near.stats.log_density.min()) > -200.0
    there = torch.tensor([30.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    told = sample(Line(), DATA, init={"b": there}, **options)
    assert float(told["b"][..., 0].min()) > 20.0
