"""Chains draw from streams of their own: the same ones, however many others run and however many sweeps at once."""

from typing import Any

import pytest
import torch
from builders import numbers
from contracts.engines import RUN, SCHOOLS
from scipy import stats
from torch import Tensor

import hiertorch as ht
from hiertorch.models import Crossed, VaryingIntercepts
from hiertorch.randomness import ChainStreams, normal
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.choosing import choose
from hiertorch.run.compiled import WhitenedCompiled
from hiertorch.run.crosswise import WhitenedCrosswise
from hiertorch.run.engine import Engine
from hiertorch.run.options import Options
from hiertorch.run.ordinary import Ordinary
from hiertorch.run.store import Store
from hiertorch.run.task import settled
from hiertorch.run.whitened import Whitened
from hiertorch.runtime.validating import validation

MANY, FEW = 11, 3
"""Chains, of two streams and of one."""

LATENTS = ["mu_alpha", "sigma_alpha", "sigma_y", "beta", "alpha"]
OPTIONS: dict[str, dict[str, Any]] = {
    "ordinary": {"collapse": False},
    "whitened": {"collapse": False, "plan": [("whitened", LATENTS)]},
    "collapsed": {"collapse": True},
    "by blocks": {"collapse": True},
    "by blocks after proposals for all": {"collapse": True},
}


@pytest.fixture
def small_blocks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two dimensions are many, in blocks of one each."""
    if "blocks" in kind:
        monkeypatch.setattr("hiertorch.run.independence.MOST_TOGETHER", 1)
        monkeypatch.setattr("hiertorch.run.blocks.BLOCK", 1)
        monkeypatch.setattr("hiertorch.run.independence.TOGETHER", 2.0 if kind == "by blocks" else -1.0)


def engine_of(kind: str, chains: int) -> Engine:
    model = VaryingIntercepts("school", ["x"], priors="tutorial")
    options = Options(**{**RUN, "chains": chains, **OPTIONS[kind]})
    plan = choose(model, SCHOOLS, options.plan, collapse=options.collapse)
    return settled(model, plan, options).engine


def ordinary(chains: int) -> Ordinary:
    engine = engine_of("ordinary", chains)
    assert isinstance(engine, Ordinary)
    return engine


def advance(engine: Engine, windows: list[int], done: int) -> dict[str, Tensor]:
    """Draws and heights of chains `(chains, draws, ...)` of windows of so many sweeps, of which the first 40 are
    warm-up.
    """
    store, acceptance = Store(engine.values(), tuple(engine.values()), 400), Acceptance(engine.order)
    for sweeps in windows:
        engine.advance(done, sweeps, 40, 1, store, acceptance)
        done += sweeps
    return {"height": store.log_density(), **store.draws()}


def of_few(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of the first chains, along whichever axis they are, and of their stream."""
    found = {}
    for name, x in state.items():
        for axis in (axis for axis in range(x.dim()) if x.shape[axis] == MANY):
            x = x.narrow(axis, 0, FEW)
        found[name] = x[:1] if name.startswith("streams/") and name.endswith("/at") else x
    return found


def warmed(kind: str, chains: int) -> Engine:
    engine = engine_of(kind, chains)
    engine.begin({}, None)
    engine.prepare(compiled=False)
    advance(engine, [20, 20], 0)
    return engine


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", list(OPTIONS))
def test_a_chain_does_not_depend_on_how_many_others_run(kind: str) -> None:
    """Once warm-up is over, which pools over chains. Sums over other numbers of chains may round otherwise."""
    with torch.no_grad(), validation(False):
        many, few = warmed(kind, MANY), engine_of(kind, FEW)
        few.restore(of_few(many.state()))
        few.prepare(compiled=False)
        whole, part = (advance(one, [25, 25], 40) for one in (many, few))
    for name, x in whole.items():
        torch.testing.assert_close(part[name], x[:FEW], rtol=1e-9, atol=1e-9)
        assert len(x.flatten(0, 1).unique(dim=0)) > 3 * MANY  # chains differ, and move


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", [
    pytest.param(kind, marks=[pytest.mark.slow] * ("after" in kind)) for kind in OPTIONS if kind != "whitened"
])  # fmt: skip
def test_it_does_not_matter_how_long_windows_are(kind: str) -> None:
    """As long as walks of collapsed models, which stand at given sweeps of a window, stay where they are."""
    with torch.no_grad(), validation(False):
        one, other = warmed(kind, FEW), warmed(kind, FEW)
        whole, parts = advance(one, [120], 40), advance(other, [60, 60], 40)
    for name, x in whole.items():
        torch.testing.assert_close(parts[name], x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("chains", "made"), [
    (FEW, Whitened),
    pytest.param(16, WhitenedCompiled, marks=pytest.mark.slow),
    pytest.param(FEW, WhitenedCrosswise, marks=pytest.mark.slow),
])  # fmt: skip
def test_whitened_runs_walk_at_the_same_sweeps_however_long_windows_are(
    chains: int, made: type[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where none is as long as it is from one walk to the next: chains that nothing else moves move then."""
    if made is WhitenedCrosswise:
        monkeypatch.setattr("hiertorch.gaussian.surrogate.MANY_CROSSED", 1)
    with torch.no_grad(), validation(False):
        one, other = (whitened_or_crossed(made, chains) for _ in range(2))
        whole, parts = advance(one, [120], 40), advance(other, [3] * 20 + [7, 50, 3], 40)
        for name, x in whole.items():
            torch.testing.assert_close(parts[name], x, rtol=1e-9, atol=1e-9)
        for engine in (one, other):
            assert isinstance(engine, Whitened)
            monkeypatch.setattr(engine.proposal, "placed", lambda _, normal, __: torch.full_like(normal, torch.nan))
        whole, parts = advance(one, [100], 160), advance(other, [30, 20, 25, 25], 160)
    for walked in (whole, parts):
        (scale,) = (x for name, x in walked.items() if name in ("sigma_alpha", "sigma_school"))
        moves = (scale.diff(dim=1) != 0).flatten(2).any(2).any(0)
        assert moves.nonzero().flatten().tolist() == [38, 88]  # of draws 0 to 99, the sweeps 161 to 260 of the run


@pytest.mark.slow
def test_compiled_sweeps_make_of_scales_what_they_would_be_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """B and p of groups, from the scale of effects and from coefficients: the same draws."""
    with torch.no_grad(), validation(False):
        one, other = (whitened_or_crossed(WhitenedCompiled, 16) for _ in range(2))
        assert isinstance(one, Whitened) and isinstance(other, Whitened) and one.ladder.simple
        monkeypatch.setattr(other.ladder, "simple", False)
        lean, whole = advance(one, [60], 40), advance(other, [60], 40)
    for name, x in lean.items():
        torch.testing.assert_close(whole[name], x, rtol=1e-8, atol=1e-8)
        assert len(x.flatten(0, 1).unique(dim=0)) > 100


def whitened_or_crossed(made: type[Engine], chains: int) -> Engine:
    """A whitened engine after 40 sweeps of warm-up."""
    crossed = Crossed(["school", "tutor"], ["x"], family="bernoulli")
    model = crossed if made is WhitenedCrosswise else VaryingIntercepts("school", ["x"], family="bernoulli")
    g = torch.arange(60) % 6
    data = ht.Data(
        y=((torch.arange(60) * 7 % 11) > 5).double(), x=torch.linspace(-1.0, 1.0, 60),
        groups={"school": g, "tutor": torch.arange(60) // 7},
    )  # fmt: skip
    options = Options(**{**RUN, "chains": chains})
    engine = settled(model, choose(model, data, None), options).engine
    assert type(engine) is made
    engine.begin({}, None)
    engine.prepare(compiled=False)
    advance(engine, [20, 20], 0)
    return engine


def test_it_does_not_matter_how_many_numbers_are_taken_at_once() -> None:
    generator = torch.Generator().manual_seed(1)
    one, other, more = (ChainStreams(generator, chains) for chains in (3, 3, 20))
    whole = one.uniform(60)
    assert torch.equal(torch.cat([other.uniform(n) for n in (7, 1, 32, 20)]), whole)
    every = more.uniform(60)
    assert every.shape == (60, 20) and len(every.unique()) == every.numel()
    assert torch.equal(every[:, :3], whole)
    assert torch.equal(ChainStreams(generator, 16).uniform(60), every[:, :16])
    blocks = [one.uniform(n) for n in (9, 50_000, 60_000)]
    assert torch.equal(other.uniform(110_009), torch.cat(blocks))  # of several blocks
    other.restore(one.state())
    assert torch.equal(one.uniform(5), other.uniform(5))


def test_numbers_have_their_distributions() -> None:
    """By the test of Kolmogorov and Smirnov, each by chance once in a thousand; none is infinite, whatever is drawn."""
    uniform = ChainStreams(torch.Generator().manual_seed(1), 10).uniform(10_000)
    assert stats.kstest(normal(uniform).flatten(), "norm").pvalue > 1e-3
    ends = torch.tensor([2.0**-54, 1.0 - 2.0**-53], dtype=torch.float64)
    assert bool(normal(ends).isfinite().all()) and bool((ends.log() < 0.0).all())
    found = numbers(ordinary(4).sweep, 2_000, torch.zeros(1, dtype=torch.float64), torch.Generator().manual_seed(2))
    assert stats.kstest(found[0].flatten(), "norm").pvalue > 1e-3
    assert stats.kstest(-found[1].flatten(), "expon").pvalue > 1e-3
