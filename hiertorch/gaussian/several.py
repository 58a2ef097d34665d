"""One Gaussian model on several data sets at once: folds, simulated responses. The same rows and groups, but each set
has a response or row weights of its own.

Set d = i mod D belongs to element i of a batch of values, as chain c has set c mod D. What probing found serves all
sets, and so do the coordinates of `hiertorch.gaussian.columns`, which may be any; sums over rows are each set's own.
The algebra (`hiertorch.gaussian.elimination`) is written for one set, and `torch.vmap` runs it on all of them in as
many operations.

docs/decisions.md: What differs between data sets is a value.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.gaussian.affine import NotAffine
from hiertorch.gaussian.elimination import Elimination, Sums
from hiertorch.gaussian.grams import Grams
from hiertorch.gaussian.root import Reduced, Spreads

Nest = TypeVar("Nest")

MOST_NUMBERS = 30_000_000
"""In the matrices of all sets together: 240 MB."""


def sets_of(data: Data) -> int:
    """The number of different data sets D, if chain c has that of chain c mod D; 1 if all chains have the same."""
    if not data.by_chain:
        return 1
    each = [x for x in (data.y, data.weights) if x is not None and x.dim() == 2]
    chains = each[0].shape[0]
    return next(d for d in range(1, chains + 1) if chains % d == 0 and all(torch.equal(x[d:], x[:-d]) for x in each))


class Eliminations:
    """As `hiertorch.gaussian.elimination.Elimination`, of several sets.

    Args:
        grams: of each set, in the same coordinates.

    Raises:
        NotAffine: if their matrices are too large to be kept for every set.
    """

    def __init__(self, grams: Sequence[Grams]) -> None:
        self.sets, first = len(grams), grams[0]
        if first.crossed:
            every = [Elimination(each, alike=False) for each in grams]  # no groups share work: sets differ in which
            sparse = [*every[0].sums.finest.transfer, *(matrix for row in every[0].sums.crossed for matrix in row)]
            self._check(sum(matrix.numel() for matrix in sparse))
            self._sums = _mapped(
                lambda *each: torch.stack([x.to_dense() for x in each]), *(each.sums for each in every)
            )
            one = every[0]
        else:
            q, k = first.width - (first.levels[0].width if first.levels else 0), first.width
            groups = first.levels[0].size if first.levels else 0
            self._check(q * (q + 1) // 2 * first.left.shape[2] * groups * ((k - q) * (k - q + 1) // 2))
            given = [
                torch.stack(x) for x in zip(*((g.packed, g.left, g.weight, g.log_scale) for g in grams), strict=True)
            ]

            def sums_of(packed: Tensor, left: Tensor, weight: Tensor, log_scale: Tensor) -> Sums:
                own = replace(first, packed=packed, left=left, weight=weight, log_scale=log_scale)
                return Elimination(own, alike=False, dense=True).sums

            self._sums, one = torch.vmap(sums_of)(*given), Elimination(first, alike=False)
        self.log_scale = self._sums.log_scale
        self.one = one.given(_mapped(lambda x: x[0], self._sums))  # whose matrices are dense too
        self.one.root.loops = False  # which no map of torch goes through
        self.finest, self.widths, self.root = self.one.finest, self.one.widths, self.one.root

    def _check(self, numbers: int) -> None:
        """Raises NotAffine where matrices of so many numbers for each set are too large."""
        if (every := self.sets * numbers) > MOST_NUMBERS:
            raise NotAffine(f"the matrices of {self.sets} data sets hold {every:,} numbers, more than {MOST_NUMBERS:,}")

    def noise_from(self, lowest: int) -> int:
        """See `Elimination`."""
        return self.one.noise_from(lowest)

    @property
    def numbers(self) -> int:
        """See `Elimination`."""
        return self.one.numbers

    def reduce(self, spreads: Spreads) -> Reduced:
        """See `Elimination`."""
        return self.each(lambda one, spreads: one.reduce(spreads), spreads)

    def draw(
        self,
        spreads: Spreads,
        reduced: Reduced | None,
        noise: Tensor,
        coefficients: Tensor | None = None,
        lowest: int = 0,
        only: Tensor | None = None,
    ) -> dict[str | None, Tensor]:
        """See `Elimination`."""
        return self.each(lambda one, *own: one.draw(*own, lowest, only), spreads, reduced, noise, coefficients)

    def log_conditional(self, spreads: Spreads, reduced: Reduced, given: Mapping[str | None, Tensor]) -> Tensor:
        """See `Elimination`."""
        return self.each(lambda one, *own: one.log_conditional(*own), spreads, reduced, given)

    def each(self, function: Callable[..., Nest], *arguments: object) -> Nest:
        """A function of every set, with its part of the arguments, whose tensors have the batch in their last axis."""
        parts = [_mapped(lambda x: x.unflatten(-1, (-1, self.sets)).movedim(-1, 0), x) for x in arguments]
        axes = (0, *(None if x is None else 0 for x in arguments))
        found = torch.vmap(lambda sums, *own: function(self.one.given(sums), *own), axes)(self._sums, *parts)
        return _mapped(lambda x: x.movedim(0, -1).flatten(-2), found)


def _mapped(function: Callable[..., Tensor], *nests: Nest) -> Nest:
    """A nest of dicts and tuples of tensors with the function of what stands at each place in some of them."""
    first, each = nests[0], cast(Sequence[Any], nests)
    found: object = first
    if isinstance(first, Tensor):
        found = function(*each)
    elif isinstance(first, dict):
        found = {key: _mapped(function, *(one[key] for one in each)) for key in first}
    elif isinstance(first, tuple):
        parts = [_mapped(function, *some) for some in zip(*each, strict=True)]
        found = tuple(parts) if type(first) is tuple else type(first)(*parts)
    return cast(Nest, found)
