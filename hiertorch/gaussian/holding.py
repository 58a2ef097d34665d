"""A ladder at values of the rest that are held while all else moves: what follows from them alone is found once.

Of one data set (`hiertorch.gaussian.ladder`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from hiertorch.gaussian.cholesky import product
from hiertorch.gaussian.ladder import Ladder, Roots, Rung, Rungs
from hiertorch.gaussian.root import Reduced, Spreads


class Held(NamedTuple):
    """What follows from the rest."""

    spreads: Spreads
    roots: Roots
    reduced: Reduced


def held(ladder: Ladder, values: Mapping[str, Tensor], batch: int) -> Held:
    """At values `(batch, 1, *event)` of the rest."""
    spreads, roots = ladder.collapsed.in_units(values, batch)
    return Held(spreads, roots, ladder.elimination.one.reduce(spreads))


def standing_at(ladder: Ladder, own: Held, tail: Tensor) -> tuple[Rungs, Tensor]:
    """As `Ladder.at`."""
    return ladder.rungs_of(ladder.elimination.one, own.spreads, own.roots, ladder.bases, own.reduced, tail)


def redrawn(ladder: Ladder, own: Held, rungs: Rungs, noise: Tensor) -> Rungs:
    """The rungs with a new root, from its standard normal numbers `(R, batch)`; of one level of groups at most."""
    u = ladder.root.drawn(own.reduced, noise, None)
    tail = ladder.tail_of(own.spreads, own.roots, u)
    if not rungs.levels:
        return rungs._replace(tail=tail)
    half, _, couplings = rungs.levels[0]
    middle = (half * left(ladder, own, u)).sum(1)
    return rungs._replace(tail=tail, levels=(Rung(half, middle, couplings),))


def products(ladder: Ladder) -> Tensor:
    """Sums of products of the finest level's columns by group, `(K, K, groups)`."""
    one, k, base = ladder.elimination.one, ladder.widths[0], ladder.bases[0]
    own = one.finest.sums.packed[0][one.finest.index[:k, :k]].unsqueeze(3)
    return product(base, product(own, base), transpose=True).squeeze(3)


def remainder(ladder: Ladder, own: Held, tail: Tensor, effects: Sequence[Tensor]) -> Tensor:
    """Sums of products of these columns with what the root and coarser effects leave of the response, `(K, groups,
    batch)`, given a tail as `Rungs` has it, and effects of all levels.
    """
    found = left(ladder, own, ladder.root_numbers(own.spreads, own.roots, tail))
    couplings = ladder.finest_couplings
    return found - ladder.of_coarser(0, couplings, effects[1:]) if couplings else found


def left(ladder: Ladder, own: Held, u: Tensor) -> Tensor:
    """The same without coarser effects, of the root's standardised numbers."""
    found = ladder.remaining(ladder.elimination.one, own.spreads, u)
    return product(ladder.bases[0], found.unsqueeze(1), transpose=True).squeeze(1)
