"""Compiled sweeps of levels, of crossed effects and of numbers that are adjusted to theta: where chains stand is held
against torch's own algebra and against the model's own density.
"""

from dataclasses import replace

import pytest
import torch
from exactstarts import CASES, Case, engine_of, far_too_much

pytest.importorskip("numba")

from hiertorch.run.acceptance import Acceptance
from hiertorch.run.compiled import WhitenedCompiled
from hiertorch.run.store import Store

pytestmark = pytest.mark.usefixtures("as_in_sampling")

CHAINS, WARMUP = 40, 30
"""The last block of chains is not full."""

FORMS = ("intercepts", "slopes", "nested", "crossed", "tutors")


def repeated(case: Case, times: int) -> Case:
    """The same rows several times, which leave the population less room."""
    return replace(case, data=case.data.take(torch.arange(case.data.n_rows).repeat(times)))


def run(name: str, chains: int = CHAINS) -> tuple[WhitenedCompiled, Store]:
    """An engine after warm-up and 60 sweeps, and their draws."""
    case = repeated(CASES[name], 4)
    engine = engine_of(case, chains, made=WhitenedCompiled)
    assert isinstance(engine, WhitenedCompiled)
    engine.begin({}, None)
    engine.prepare(compiled=False)
    store, acceptance = Store(engine.values(), engine.target.names, 30), Acceptance(engine.order)
    engine.advance(0, WARMUP, WARMUP, 1, store, acceptance)
    assert engine.compiled
    engine.advance(WARMUP, 60, WARMUP, 2, store, acceptance)
    assert all(float(rate.mean()) > 0.02 for rate in acceptance.window(sampling=True).values())
    return engine, store


@pytest.mark.parametrize("adjusts", [False, True])
@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in ("crossed", "intercepts") else pytest.mark.slow) for name in FORMS
])  # fmt: skip
def test_chains_stand_where_torch_has_them(name: str, adjusts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of groups that belong to effects, weights of rows, and the model's log density at every draw."""
    monkeypatch.setattr("hiertorch.run.adjusted.POOR", 0.0)
    if adjusts:
        far_too_much(monkeypatch)
    engine, store = run(name)
    at, ladder, closed = engine.at, engine.ladder, engine.closed
    assert closed is not None and (engine.adjusted is not None) == adjusts
    values = engine.standing.constrained(at.position)
    rungs, _ = ladder.at(values, at.rungs.tail)
    for mine, own in zip(at.rungs.levels, rungs.levels, strict=True):
        torch.testing.assert_close(mine.half, own.half, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(mine.middle, own.middle, rtol=1e-7, atol=1e-8)
        for one, other in zip(mine.couplings, own.couplings, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    noise = ladder.up(rungs.levels, at.effects)
    weights, volume = closed(at.rows, at.rungs.tail, at.effects), rungs.log_volume
    if engine.adjusted is not None:
        noise[0] = engine.adjusted.back(at.position, noise[0])
        _, more, moved = engine.adjusted.numbers(at.position, noise[0])
        weights, volume = weights + more, volume + moved
    torch.testing.assert_close(at.weights, weights, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(at.rungs.log_volume, volume, rtol=1e-8, atol=1e-8)
    for level, (mine, own) in enumerate(zip(at.noise, noise, strict=True)):
        torch.testing.assert_close(mine, own, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(at.heavy[level], engine.tails.heavier(mine, level), rtol=1e-9, atol=1e-9)
    draws = {name: x.flatten(0, 1) for name, x in store.draws().items()}
    space = engine.target.space
    density = engine.target.log_density(space.join(space.unconstrain(draws)))
    torch.testing.assert_close(store.log_density().flatten(), density, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(engine.height(), at.height(ladder.constant), rtol=1e-9, atol=1e-8)
    assert len(store.log_density().unique()) > 0.3 * store.log_density().numel()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slopes", "nested"])
def test_it_does_not_matter_how_wide_blocks_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same draws; the last block is not full."""
    _, wide = run(name, 13)
    monkeypatch.setattr("hiertorch.run.compiled.MANY_ROWS", 0)
    _, narrow = run(name, 13)
    for latent, x in wide.draws().items():
        torch.testing.assert_close(narrow.draws()[latent], x, rtol=1e-7, atol=1e-7)
        assert x.flatten(0, 1).unique(dim=0).shape[0] > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slopes", "nested", "crossed"])
def test_a_run_goes_on_from_its_state_bit_for_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numbers that are adjusted to theta."""
    far_too_much(monkeypatch)
    engine, _ = run(name)
    other = engine_of(repeated(CASES[name], 4), CHAINS, seed=8, made=WhitenedCompiled)
    other.restore(engine.state())
    other.prepare(compiled=False)
    for one in (engine, other):
        store, acceptance = Store(one.values(), one.target.names, 1), Acceptance(one.order)
        one.advance(WARMUP + 60, 45, WARMUP, 1, store, acceptance)
    assert all(torch.equal(x, other.values()[latent]) for latent, x in engine.values().items())
    assert torch.equal(engine.height(), other.height())
