"""Whitened engines that are broken do not leave the posterior as it is, and tests notice.

From exact starts, as those of engines that are sound; see Note [Exact starts] in `exactstarts`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from exactstarts import (
    ALPHA,
    CASES,
    Break,
    adjusted,
    engine_of,
    evaluate,
    exact,
    failures,
    far_too_much,
    population_alone,
)
from scipy import special, stats
from torch import Tensor
from torch.distributions import (
    Bernoulli,
)

import hiertorch as ht
from hiertorch.gaussian.slots import Slots
from hiertorch.gaussian.surrogate import Sites
from hiertorch.model.latent import Values
from hiertorch.run import compiled
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.adjusted import Adjusted
from hiertorch.run.closedweights import FORMS, ClosedWeights
from hiertorch.run.folded import Folded
from hiertorch.run.heavytails import HeavyTails
from hiertorch.run.store import Store
from hiertorch.run.whitened import Whitened

pytestmark = pytest.mark.usefixtures("as_in_sampling")


@pytest.mark.slow
@pytest.mark.parametrize("learning", [False, True])
def test_sites_that_go_on_learning_are_noticed(learning: bool) -> None:
    """Chains whose sites follow where they are, each for itself, sweep by sweep, against chains whose sites stay; all
    begin with what many chains have learnt. Means and variances of all functions by Monte Carlo errors of batches;
    error rate 1e-3. See `docs/decisions.md`: Sites that go on learning are sought where they matter most.
    """
    case, (starts, known) = CASES["heavy tails"], exact("heavy tails")
    warmup, chains, sweeps, batches = 200, 3, 320, 30
    many = engine_of(case, 64)
    many.begin({name: x[-64:] for name, x in starts.items()}, None)
    many.prepare(compiled=False)
    many.advance(0, warmup, warmup, 1, Store(many.values(), many.target.names, 1), Acceptance(many.order))
    draws = []
    for chain in range(chains):
        engine = engine_of(case, 1, seed=chain)
        engine.begin({name: x[chain : chain + 1] for name, x in starts.items()}, None)
        engine.prepare(compiled=False)
        engine.tuning, engine.walk, engine.adjusted, engine.tails = many.tuning, many.walk, many.adjusted, many.tails
        take_sites(engine, many.sites)
        store, acceptance = Store(engine.values(), engine.target.names, sweeps), Acceptance(engine.order)
        for _ in range(sweeps if learning else 1):
            engine.advance(warmup, 1 if learning else sweeps, warmup, 1, store, acceptance)
            if learning:
                take_sites(engine, engine.derivatives(engine.values()).sites())
        draws.append({name: x.flatten(0, 1) for name, x in store.draws().items()})
    found = evaluate(case, Values({name: torch.cat([x[name] for x in draws]) for name in starts}))
    p = {}
    for name, x in evaluate(case, known).items():
        scores = special.ndtri((np.searchsorted(np.sort(x), found[name]) + 0.5) / (len(x) + 1))
        for what, values, expected in (("mean", scores, 0.0), ("variance", scores**2, 1.0)):
            means = values.reshape(batches, -1).mean(1)
            error = (means.var(ddof=1) / len(means) + (1 if what == "mean" else 2) / len(x)) ** 0.5
            p[f"{what} of {name}"] = 2 * stats.t(len(means) - 1).sf(abs(means.mean() - expected) / error)
    assert bool(min(p.values()) < ALPHA / len(p)) is learning, p


def take_sites(engine: Whitened, sites: Sites) -> None:
    """Chains stay where they are, under other sites."""
    engine._take_sites(sites)
    at = engine._standing_at(engine.at.position, engine.at.rungs.tail, engine.at.effects)
    engine.at = at._replace(proposal=engine.proposal.log_density(engine.tuning, at.position))


def without_surrogate(engine: Whitened, patch: pytest.MonkeyPatch) -> None:
    """Ratios of the rows' density alone."""
    assert engine.closed is not None
    rows, z = engine.closed.rows, engine.sites[0]
    rows.sites(z, torch.zeros_like(z))
    engine.at = engine.at._replace(
        weights=engine.closed(engine.at.rows, engine.at.rungs.tail, engine.at.effects)
    )  # of the sites as they are now


def without_second_slots(engine: Whitened, patch: pytest.MonkeyPatch) -> None:
    """Rows read the first of their groups alone."""
    found, structure = engine.surrogate.first, ht.plan(CASES["matches"].model, CASES["matches"].data).structure
    slots = {plate: Slots(x.group, x.weight * torch.tensor([[1.0], [0.0]])) for plate, x in found.affine.slots.items()}
    patch.setattr(found, "affine", replace(found.affine, slots=slots))
    engine.closed = ClosedWeights(FORMS[Bernoulli], structure, engine.surrogate, engine.standing)
    engine.closed.set_sites(engine.sites)
    engine.at = engine.at._replace(weights=engine.closed(engine.at.rows, engine.at.rungs.tail, engine.at.effects))


def without_moving_along(engine: Whitened, patch: pytest.MonkeyPatch) -> None:
    """Numbers of groups are kept, and their effects as well, when the population moves."""
    population_alone(engine, patch)
    right = engine.ladder.down

    def down(rungs: Any, noise: Any, known: Any = ()) -> Any:
        return list(engine.at.effects) if noise is engine.at.noise else right(rungs, noise, known)

    patch.setattr(engine.ladder, "down", down)


def without_ratio_of_tails(engine: Whitened, patch: pytest.MonkeyPatch) -> None:
    """Numbers of groups from a Student distribution, taken for normal."""
    patch.setattr(HeavyTails, "heavier", lambda tails, noise, level: torch.zeros_like(noise[0]))


def without_fold(engine: Whitened, patch: pytest.MonkeyPatch) -> None:
    """Proposals are folded, their density is not."""
    right = Folded.log_density

    def log_density(folded: Folded, tuning: Mapping[str, Tensor], u: Tensor) -> Tensor:
        plain = Folded([False] * folded.width)
        x, scales = u.clone(), folded.folded
        x[:, scales] = x[:, scales].exp()
        return right(plain, tuning, x) + u[:, scales].sum(1)

    patch.setattr(Folded, "log_density", log_density)


def walks_as_proposals(engine: Whitened, patch: pytest.MonkeyPatch) -> None:
    """Walks accepted as if they had been proposed from afar."""
    right = engine._population
    patch.setattr(engine, "_population", lambda *args, walk: right(*args, walk=False))


def without_change_of_variables(engine: Whitened, patch: pytest.MonkeyPatch) -> None:
    """Numbers of groups adjusted to theta, as if they had been so before."""
    adjusted(engine, patch)
    right = Adjusted.numbers

    def numbers(own: Adjusted, position: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        e, more, volume = right(own, position, eps)
        return e, torch.zeros_like(more), volume

    patch.setattr(Adjusted, "numbers", numbers)
    assert engine.adjusted is not None
    _, more, _ = right(engine.adjusted, engine.at.position, engine.at.noise[0])
    engine.at = engine.at._replace(weights=engine.at.weights - more)


def without_joint_sites(engine: Whitened, patch: pytest.MonkeyPatch) -> None:
    """Ratios of the rows' density alone."""
    assert engine.closed is None and engine.surrogate.cells is not None
    patch.setattr(engine.weigh, "_of_sites", lambda values: 0.0)
    at = engine.at
    engine.at = at._replace(weights=engine._weights(at.position, at.rows, at.rungs, at.effects))


BROKEN: dict[str, tuple[str, Break]] = {
    "missing surrogate term, two predictors": ("classes", without_joint_sites),
    "missing surrogate term, a curved one": ("curve", without_joint_sites),
    "missing surrogate term": ("intercepts", without_surrogate),
    "effects stay": ("intercepts", without_moving_along),
    "Student for normal": ("intercepts", without_ratio_of_tails),
    "Student for normal, two numbers": ("slopes", without_ratio_of_tails),
    "second slots forgotten": ("matches", without_second_slots),
    "missing surrogate term, several groups a row": ("tutors", without_surrogate),
    "forgotten fold": ("slopes", without_fold),
    "walks as proposals": ("intercepts", walks_as_proposals),
    "no change of variables": ("all 0", without_change_of_variables),
}


@pytest.mark.parametrize("how", [
    pytest.param(how, marks=() if how in ("missing surrogate term", "effects stay") else pytest.mark.slow)
    for how in BROKEN
])  # fmt: skip
def test_broken_engines_are_noticed(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learnt as they should be, then broken."""
    monkeypatch.setattr("hiertorch.run.rounds.CYCLE", 2)
    monkeypatch.setattr("hiertorch.run.adjusted.POOR", 0.0)
    if how == "no change of variables":
        far_too_much(monkeypatch)
    name, break_it = BROKEN[how]
    assert failures(name, break_it, monkeypatch)


def compiled_walks(*given: Any) -> tuple[Any, ...]:
    """Walks accepted as if they had been proposed from afar."""
    return (*given[:3], False, *given[4:])


def compiled_numbers(*given: Any) -> tuple[Any, ...]:
    """The random numbers of the sweep before, again and again."""
    given[9][:] = np.arange(4, dtype=np.uint64)[:, None]
    return given


@pytest.mark.slow
@pytest.mark.parametrize("change", [compiled_walks, compiled_numbers])
def test_broken_compiled_sweeps_are_noticed(change: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Learnt as they should be, then broken."""
    monkeypatch.setattr("hiertorch.run.rounds.CYCLE", 2)
    right = compiled.sweeps

    def broken(engine: Whitened, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(compiled, "sweeps", lambda *form: lambda *given: right(*form)(*change(*given)))

    assert failures("intercepts", broken, monkeypatch, made=compiled.WhitenedCompiled)


@pytest.mark.slow
def test_compiled_sweeps_without_surrogate_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios of the rows' density alone."""
    assert failures("intercepts", without_surrogate, monkeypatch, made=compiled.WhitenedCompiled)
