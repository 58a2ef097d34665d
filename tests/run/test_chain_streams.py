"""Chains draw from streams of their own: the same ones, however many others run and however many sweeps at once."""

import torch
from builders import numbers
from contracts.engines import RUN, SCHOOLS
from scipy import stats
from torch import Tensor

from hiertorch.models import VaryingIntercepts
from hiertorch.randomness import ChainStreams, normal
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.choosing import choose
from hiertorch.run.options import Options
from hiertorch.run.ordinary import Ordinary
from hiertorch.run.store import Store
from hiertorch.run.task import settled
from hiertorch.runtime.validating import validation

MANY, FEW = 7, 3


def ordinary(chains: int) -> Ordinary:
    model = VaryingIntercepts("school", ["x"], priors="tutorial")
    plan = choose(model, SCHOOLS, None, collapse=False)
    engine = settled(model, plan, Options(**{**RUN, "chains": chains, "collapse": False})).engine
    assert isinstance(engine, Ordinary)
    return engine


def advance(engine: Ordinary, windows: list[int], done: int) -> list[Tensor]:
    """Heights of chains after windows of so many sweeps, of which the first 40 are warm-up."""
    store, acceptance = Store(engine.values(), tuple(engine.values()), 400), Acceptance(engine.order)
    found = []
    for sweeps in windows:
        engine.advance(done, sweeps, 40, 1000, store, acceptance)
        done += sweeps
        found.append(engine.height())
    return found


def test_a_chain_does_not_depend_on_how_many_others_run() -> None:
    """Once warm-up is over, which pools over chains. Sums over other numbers of chains may round otherwise."""
    with torch.no_grad(), validation(False):
        many, few = ordinary(MANY), ordinary(FEW)
        many.begin({}, None)
        many.prepare(compiled=False)
        advance(many, [20, 20], 0)
        few.restore({name: x[:FEW] if x.dim() and len(x) == MANY else x for name, x in many.state().items()})
        few.prepare(compiled=False)
        whole, part = (torch.stack(advance(one, [25, 25], 40)) for one in (many, few))
    torch.testing.assert_close(part, whole[:, :FEW], rtol=1e-9, atol=1e-9)
    assert bool((whole[0] != whole[1]).all())


def test_it_does_not_matter_how_many_numbers_are_taken_at_once() -> None:
    generator = torch.Generator().manual_seed(1)
    one, other, more = (ChainStreams(generator, chains) for chains in (3, 3, 5))
    whole = one.uniform(60)
    assert torch.equal(torch.cat([other.uniform(n) for n in (7, 1, 32, 20)], 1), whole)
    assert torch.equal(more.uniform(60)[:3], whole)
    other.restore(one.state())
    assert torch.equal(one.uniform(5), other.uniform(5))


def test_numbers_have_their_distributions() -> None:
    """By the test of Kolmogorov and Smirnov, each by chance once in a thousand; none is infinite, whatever is drawn."""
    z = normal(torch.rand(100_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert bool(normal(torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)).isfinite().all())
    found = numbers(ordinary(4).sweep, 2_000, torch.zeros(1, dtype=torch.float64), torch.Generator().manual_seed(2))
    assert stats.kstest(found[0].flatten(), "norm").pvalue > 1e-3
    assert stats.kstest(-found[1].flatten(), "expon").pvalue > 1e-3
