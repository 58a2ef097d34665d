"""A ladder at values of the rest that are held while all else moves: what follows from them alone is found once.

Of one data set (`hiertorch.gaussian.ladder`).
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from hiertorch.gaussian.cholesky import product
from hiertorch.gaussian.ladder import Ladder, Roots, Rung, Rungs
from hiertorch.gaussian.root import Reduced, Spreads

if TYPE_CHECKING:
    from hiertorch.gaussian.widelevel import Settled


class Held(NamedTuple):
    """What follows from the rest."""

    spreads: Spreads
    roots: Roots
    reduced: Reduced


class Stand(NamedTuple):
    """What belongs to given coefficients and effects."""

    rungs: Rungs
    root: Tensor  # the root's standard normal numbers, (R, batch)
    noise: tuple[Tensor, ...]  # and those of levels, (K, groups, batch)


class Holding:
    """See the module.

    Args:
        ladder: which.
    """

    held: Held

    def __init__(self, ladder: Ladder) -> None:
        self.ladder = ladder

    @classmethod
    def of(cls, ladder: Ladder) -> "Holding":
        """By a compiled loop, where one serves."""
        return WideHolding(ladder) if ladder.wide and ladder.grams.packed.device.type == "cpu" else cls(ladder)

    def hold(self, values: Mapping[str, Tensor], batch: int) -> None:
        """Takes values `(batch, 1, *event)` of the rest."""
        spreads, roots = self.ladder.collapsed.in_units(values, batch)
        self.held = Held(spreads, roots, self.ladder.elimination.one.reduce(spreads))

    def stand(self, values: Mapping[str, Tensor], tail: Tensor, effects: Sequence[Tensor]) -> Stand:
        """Takes values of the rest, and says what belongs to a tail, as `Rungs` has it, and effects of all levels."""
        ladder = self.ladder
        self.hold(values, tail.shape[1])
        spreads, roots, reduced = self.held
        rungs, root = ladder.rungs_of(ladder.elimination.one, spreads, roots, ladder.bases, reduced, tail)
        return Stand(rungs, root, tuple(ladder.up(rungs.levels, effects)))

    def redrawn(self, rungs: Rungs, noise: Tensor) -> Rungs:
        """The rungs with a new root, from its standard normal numbers `(R, batch)`; of one level of groups at most."""
        ladder, (spreads, roots, reduced) = self.ladder, self.held
        u = ladder.root.drawn(reduced, noise, None)
        tail = ladder.tail_of(spreads, roots, u)
        if not rungs.levels:
            return rungs._replace(tail=tail)
        half, _, couplings = rungs.levels[0]
        middle = (half * self._left(u)).sum(1)
        return rungs._replace(tail=tail, levels=(Rung(half, middle, couplings),))

    @cached_property
    def products(self) -> Tensor:
        """Sums of products of the finest level's columns by group, `(K, K, groups)`."""
        ladder = self.ladder
        one, k, base = ladder.elimination.one, ladder.widths[0], ladder.bases[0]
        own = one.finest.sums.packed[0][one.finest.index[:k, :k]].unsqueeze(3)
        return product(base, product(own, base), transpose=True).squeeze(3)

    def remainder(self, values: Mapping[str, Tensor], tail: Tensor, effects: Sequence[Tensor]) -> Tensor:
        """Sums of products of these columns with what the root and coarser effects leave of the response, `(K, groups,
        batch)`, given values of the rest, a tail and effects of all levels.
        """
        ladder = self.ladder
        spreads, roots = ladder.collapsed.in_units(values, tail.shape[1])
        found = self._left_of(spreads, ladder.root_numbers(spreads, roots, tail))
        couplings = ladder.finest_couplings
        return found - ladder.of_coarser(0, couplings, effects[1:]) if couplings else found

    def _left(self, u: Tensor) -> Tensor:
        return self._left_of(self.held.spreads, u)

    def _left_of(self, spreads: Spreads, u: Tensor) -> Tensor:
        """The same without coarser effects, of the root's standardised numbers."""
        ladder = self.ladder
        found = ladder.remaining(ladder.elimination.one, spreads, u)
        return product(ladder.bases[0], found.unsqueeze(1), transpose=True).squeeze(1)


class WideHolding(Holding):
    """Of one level with several effects a group, by a compiled loop (`hiertorch.gaussian.widelevel`)."""

    settled: "Settled"

    def hold(self, values: Mapping[str, Tensor], batch: int) -> None:
        """See `Holding.hold`."""
        numbers = self.ladder.grams.packed.new_zeros(self.ladder.root.width, batch)
        self.settled = self.ladder.settled(values, batch, numbers=numbers)

    def stand(self, values: Mapping[str, Tensor], tail: Tensor, effects: Sequence[Tensor]) -> Stand:
        """See `Holding.stand`."""
        self.settled = found = self.ladder.settled(values, tail.shape[1], tail=tail, effects=effects[0])
        return Stand(self.ladder.of_settled(found), found.numbers.mT, (found.noise.movedim(0, 2),))

    def redrawn(self, rungs: Rungs, noise: Tensor) -> Rungs:
        """See `Holding.redrawn`."""
        from hiertorch.gaussian.widelevel import redrawn

        tail, middle = redrawn(self.ladder.wide_sums, self.settled, noise)
        rung = rungs.levels[0]._replace(middle=middle.movedim(0, 2))
        return rungs._replace(tail=tail.mT, levels=(rung,))

    def remainder(self, values: Mapping[str, Tensor], tail: Tensor, effects: Sequence[Tensor]) -> Tensor:
        """See `Holding.remainder`."""
        from hiertorch.gaussian.widelevel import left_of_response

        return left_of_response(self.ladder.wide_sums, self.ladder.sizes[0], tail)
