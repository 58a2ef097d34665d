"""Chains that move covariances given effects leave the posterior as it is, and those that are broken do not.

As in `test_whitened`, see Note [Exact starts] in `exactstarts`: error rates are 1e-3 a case, two-sided.
"""

from collections.abc import Callable
from typing import Any

import exactstarts
import pytest
import torch
from exactstarts import CHAINS, Case, advanced, engine_of, failures, of_counts
from torch import Tensor
from torch.distributions import Gamma, Normal, Poisson

import hiertorch as ht
from hiertorch.model.latent import Values
from hiertorch.moves.metropolis import Info
from hiertorch.run import byeffects, oneeffect, whitened
from hiertorch.run.byeffects import WhitenedByEffects

pytestmark = pytest.mark.usefixtures("as_in_sampling")


class Floors(ht.Model):
    """Groups in halls, each with a scale of its own."""

    mu = ht.Latent(Normal(0.0, 1.0))
    s = ht.Latent(Gamma(2.0, 3.0))
    t = ht.Latent(Gamma(1.0, 1.0))
    hall = ht.Latent(lambda v: Normal(v.mu, v.s), plate="hall")
    group = ht.Latent(lambda v, data: Normal(v.hall[:, data.parents("group", "hall")], v.t), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Poisson(v.group[:, data.group].exp())


COUNTS = [2.0, 0.0, 1.0, 0.0, 4.0]
FLOORS = Case(Floors(), ht.Data(COUNTS, groups={"group": [0, 1, 2, 2, 3], "hall": [0, 0, 1, 1, 1]}), of_counts(COUNTS))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two dimensions are many, and of no effect rows say much."""
    monkeypatch.setattr("hiertorch.run.choosing.MOST_PROPOSED", 1)
    monkeypatch.setattr(oneeffect, "UNSURE", 1e9)
    monkeypatch.setattr("hiertorch.run.rounds.CYCLE", 4)
    monkeypatch.setattr("hiertorch.gaussian.ladder.LOOPED_FROM", 2)
    monkeypatch.setitem(exactstarts.CASES, "floors", FLOORS)


def found(name: str, patch: pytest.MonkeyPatch, broken: Any = None) -> dict[str, float]:
    return failures(name, broken, patch, WhitenedByEffects)


CASES = ("slopes", "floors", "crossed", "negative binomial")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_posterior_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not found(name, monkeypatch)


@pytest.mark.slow
def test_the_posterior_stays_by_the_users_own_density(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whitened, "closed_weights", lambda *_: None)
    assert not found("floors", monkeypatch)


def nothing(*_: Any, **__: Any) -> Info:
    return Info(torch.ones(CHAINS, 1), torch.zeros(()), None)


def alone(name: str) -> Callable[..., None]:
    """Breaks nothing: the other two moves of the three that take long to be right are left out."""

    def broken(engine: WhitenedByEffects, patch: pytest.MonkeyPatch) -> None:
        for other in {"_population", "_groups", "_by_effect"} - {name}:
            patch.setattr(engine, other, nothing)

    return broken


@pytest.mark.slow
@pytest.mark.parametrize("move", ["_population", "_by_effect"])
def test_each_move_is_right_by_itself(move: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside draws of covariances given effects, with which numbers are computed anew."""
    assert not found("slopes", monkeypatch, alone(move))


def another_volume(engine: WhitenedByEffects, patch: pytest.MonkeyPatch) -> None:
    """Of the root in another order."""
    patch.setattr(byeffects, "log_gram_volume", lambda root: torch.zeros_like(root[:, 0, 0]))


def stale_numbers(engine: WhitenedByEffects, patch: pytest.MonkeyPatch) -> None:
    """Numbers of groups are those of before covariances moved."""
    right = engine.holding.stand
    patch.setattr(engine.holding, "stand", lambda *given: right(*given)._replace(noise=engine.at.noise))


def a_power_off(name: str) -> Callable[[WhitenedByEffects, pytest.MonkeyPatch], None]:
    """Of an effect's scale, in the ratio of one of its two moves."""
    right = getattr(oneeffect, name)

    def offered(sides: oneeffect.Sides, *given: Any) -> oneeffect.Offered:
        own = right(sides, *given)
        here, there = (torch.linalg.vector_norm(x, dim=1) for x in (sides.root[:, -1], own.row))
        return own._replace(beyond=own.beyond + (there / here).log())

    return lambda engine, patch: patch.setattr(oneeffect, name, offered)


BROKEN: dict[str, Callable[[WhitenedByEffects, pytest.MonkeyPatch], None]] = {
    "another volume": another_volume,
    "stale numbers": stale_numbers,
    "scales": a_power_off("offered_scale"),
    "correlations": a_power_off("offered_row"),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", BROKEN)
def test_broken_chains_are_noticed(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(engine: Any, patch: pytest.MonkeyPatch) -> None:
        BROKEN[how](engine, patch)
        for other in ("_groups",) if how == "stale numbers" else ("_population", "_groups"):
            patch.setattr(engine, other, nothing)

    assert found("slopes", monkeypatch, broken)


def test_a_tensor_of_the_state_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that goes on from a state goes on bit for bit."""
    engines = [engine_of(exactstarts.CASES["slopes"], 64, made=WhitenedByEffects) for _ in range(2)]
    first, second = engines
    first.begin({}, None)
    first.prepare(compiled=False)
    advanced(first, 0, 13, 200)
    second.restore(first.state())
    second.prepare(compiled=False)
    draws: list[dict[str, Tensor]] = [advanced(engine, 200, 6, 200) for engine in engines]
    for name, x in draws[0].items():
        assert torch.equal(x, draws[1][name]), name
