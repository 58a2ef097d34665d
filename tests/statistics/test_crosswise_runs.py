"""Chains that move crossed effects plate by plate leave the posterior as it is, and those that are broken do not.

As in `test_whitened`, see Note [Exact starts] in `exactstarts`: error rates are 1e-3 a case, two-sided.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from exactstarts import CASES, adjusted, advanced, engine_of, failures, far_too_much
from scipy import stats
from torch import Tensor

import hiertorch as ht
from hiertorch.gaussian.ridges import Ridges
from hiertorch.moves.metropolis import Info
from hiertorch.run import whitened
from hiertorch.run.crosswise import WhitenedCrosswise
from hiertorch.run.heavytails import HeavyTails

pytestmark = pytest.mark.usefixtures("as_in_sampling")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two items are many."""
    monkeypatch.setattr("hiertorch.gaussian.surrogate.MANY_CROSSED", 1)


def found(name: str, patch: pytest.MonkeyPatch, broken: Any = None) -> dict[str, float]:
    """Every fourth sweep walks."""
    patch.setattr("hiertorch.run.rounds.CYCLE", 4)
    return failures(name, broken, patch, WhitenedCrosswise)


@pytest.mark.parametrize("name", [
    "crossed", *(pytest.param(x, marks=pytest.mark.slow) for x in ("crossed trials", "ratings"))
])  # fmt: skip
def test_the_posterior_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not found(name, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["crossed", "ratings"])
def test_the_posterior_stays_by_the_users_own_density(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whitened, "closed_weights", lambda *_: None)
    assert not found(name, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["crossed", "ratings"])
def test_the_posterior_stays_while_numbers_of_groups_are_adjusted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    far_too_much(monkeypatch)
    assert not found(name, monkeypatch, adjusted)


def nothing(*_: Any) -> Info:
    return Info(torch.ones(3000, 1), torch.zeros(()), None)


def one_at_a_time(*names: str) -> Callable[..., None]:
    """Breaks nothing: what is left out moves nothing."""

    def broken(engine: WhitenedCrosswise, patch: pytest.MonkeyPatch) -> None:
        for name in names:
            patch.setattr(engine, name, lambda *_, **__: nothing())

    return broken


@pytest.mark.slow
@pytest.mark.parametrize("name", ["crossed", "ratings"])
@pytest.mark.parametrize("left_out", [("_groups", "_across"), ("_groups", "_anew"), ("_across", "_anew")])
def test_each_move_is_right_by_itself(name: str, left_out: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside draws along ridges."""
    assert not found(name, monkeypatch, one_at_a_time(*left_out))


def nothing_follows(engine: WhitenedCrosswise, patch: pytest.MonkeyPatch) -> None:
    """What depends on crossed effects is as it was before they moved."""
    patch.setattr(engine, "_along", lambda: None)


def student_for_normal(engine: WhitenedCrosswise, patch: pytest.MonkeyPatch) -> None:
    """Crossed effects from a Student distribution, taken for normal."""
    right = HeavyTails.heavier

    def heavier(tails: HeavyTails, noise: Tensor, level: int) -> Tensor:
        return right(tails, noise, level) if level == 0 else torch.zeros_like(noise[0])

    patch.setattr(HeavyTails, "heavier", heavier)


def ridges_of_effects(engine: WhitenedCrosswise, patch: pytest.MonkeyPatch) -> None:
    """Coefficients stay when crossed effects are drawn along a ridge."""
    right, start = Ridges.draw, engine.ladder.grams.n_crossed

    def draw(ridges: Ridges, ridge: Any, ladder: Any, known: Any, tail: Tensor, noise: Tensor) -> Tensor:
        return torch.cat([right(ridges, ridge, ladder, known, tail, noise)[:start], tail[start:]])

    patch.setattr(Ridges, "draw", draw)


BROKEN = {
    "nothing follows": nothing_follows,
    "Student for normal": student_for_normal,
    "ridges of effects alone": ridges_of_effects,
}


@pytest.mark.slow
@pytest.mark.parametrize("how", BROKEN)
def test_broken_engines_are_noticed(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learnt as they should be, then broken."""
    assert found("crossed trials", monkeypatch, BROKEN[how])


@pytest.mark.parametrize("forgotten", [
    None, "noise", *(pytest.param(x, marks=pytest.mark.slow) for x in ("weights", "density", "square", "rungs"))
])  # fmt: skip
def test_places_are_what_follows_from_where_chains_are(forgotten: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """From theta, crossed effects, coefficients, and effects; not if something is as it was before they moved."""
    engine = engine_of(CASES["ratings"], 20, made=WhitenedCrosswise)
    engine.begin({}, None)
    advanced(engine, 0, 30, 30)
    right = engine._along

    def along() -> None:
        before = engine.at._asdict()
        right()
        if forgotten is not None:
            tail = engine.at.rungs.tail
            engine.at = engine.at._replace(**{forgotten: before[forgotten]})
            engine.at = engine.at._replace(rungs=engine.at.rungs._replace(tail=tail))

    monkeypatch.setattr(engine, "_along", along)
    advanced(engine, 30, 10, 30)
    at = engine.at
    again = engine._standing_at(at.position, at.rungs.tail, at.effects)._replace(proposal=at.proposal).tensors()
    same = all(torch.allclose(x, again[name], rtol=1e-9, atol=1e-9) for name, x in at.tensors().items())
    assert same is (forgotten is None)


@pytest.mark.slow
def test_normal_rows_with_many_crossed_effects_are_whitened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the plan says; means and sds are those of a run whose effects are integrated out. Error rate 1e-3."""
    random = np.random.default_rng(4)
    group, item = random.integers(0, 20, 240), random.integers(0, 5, 240)
    effects = random.normal(0.0, 1.0, 20)[group] + random.normal(0.0, 0.7, 5)[item]
    data = ht.Data(1.0 + effects + random.normal(0.0, 0.8, 240), groups={"group": group, "item": item})
    model = ht.models.Crossed(["group", "item"])
    whole = ht.sample(model, data, seed=1, chains=8, draws=1500, progress=False)
    monkeypatch.setattr("hiertorch.run.choosing.MOST_FACTORED", 4)
    plan = ht.plan(model, data)
    assert plan.surrogate is not None and "5 effects are crossed with those of 'group'" in str(plan)
    own = ht.sample(model, data, seed=1, chains=16, warmup=200, draws=600, progress=False)
    units = []
    for name in whole.names:
        both = [np.asarray(p.draws[name]).reshape(p.chains, p.n_draws, -1) for p in (own, whole)]
        for a, b in zip(*(x.transpose(2, 0, 1) for x in both), strict=True):
            for method, of in (("mean", np.mean), ("sd", np.std)):
                error = np.hypot(*(float(array_stats.mcse(x, method=method)) for x in (a, b)))
                units.append(float((of(a) - of(b)) / error))
    assert max(map(abs, units)) < float(stats.norm.isf(0.5e-3 / len(units)))
