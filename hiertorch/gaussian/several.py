"""One Gaussian model on several data sets at once: folds, simulated responses. The same rows and groups, but each set
has a response or row weights of its own.

Set d = i mod D belongs to element i of a batch of values, as chain c has set c mod D. What probing found serves all
sets, and so do the coordinates of `hiertorch.gaussian.grams`, which may be any; sums over rows are each set's own. The
algebra (`hiertorch.gaussian.elimination`) is written for one set, and `torch.vmap` runs it on all of them in as many
operations.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.gaussian.affine import NotAffine
from hiertorch.gaussian.elimination import Elimination, Reduced, Spreads
from hiertorch.gaussian.grams import Grams

__all__ = ["Eliminations", "sets_of"]

MOST_NUMBERS = 30_000_000
"""In the matrices of all sets together: 240 MB."""


def sets_of(data: Data) -> int:
    """The number of different data sets D, if chain c has that of chain c mod D; 1 if all chains have the same."""
    each = [x for x in (data.y, data.weights) if x is not None and x.dim() == 2]
    if not each:
        return 1
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
        every = [Elimination(each, alike=False) for each in grams]  # no two groups share work: sets differ in which
        self.sets, self._one = len(every), every[0]
        self.finest, self.widths, self.root_width = every[0].finest, every[0].widths, every[0].root_width
        sparse = [*self.finest._transfer, *(matrix for row in every[0]._sparse for matrix in row)]
        if (numbers := self.sets * sum(matrix.numel() for matrix in sparse)) > MOST_NUMBERS:
            raise NotAffine(
                f"the matrices of {self.sets} data sets hold {numbers:,} numbers, more than {MOST_NUMBERS:,}"
            )
        self._tensors = _stacked([_tensors(each) for each in every])

    def noise_from(self, lowest: int) -> int:
        """See `Elimination`."""
        return self._one.noise_from(lowest)

    def reduce(self, spreads: Spreads) -> Reduced:
        """See `Elimination`."""

        def one(elimination: Elimination, own: dict[str, Any]) -> tuple[Any, ...]:
            found = elimination.reduce(own["spreads"])
            return found.log_marginal, found.grams, found.root, found.centre

        return Reduced(*self._each(one, {"spreads": spreads}))

    def descend(
        self,
        spreads: Spreads,
        reduced: Reduced | None,
        noise: Tensor | None = None,
        given: dict[str | None, Tensor] | None = None,
        coefficients: Tensor | None = None,
        lowest: int = 0,
        only: Tensor | None = None,
    ) -> tuple[dict[str | None, Tensor], Tensor | None]:
        """See `Elimination`."""
        arguments = {
            "spreads": spreads, "reduced": reduced, "noise": noise, "given": given, "coefficients": coefficients
        }  # fmt: skip

        def one(elimination: Elimination, own: dict[str, Any]) -> tuple[dict[str | None, Tensor], Tensor | None]:
            return elimination.descend(**own, lowest=lowest, only=only)

        return self._each(one, arguments)

    def _each(self, function: Callable[[Elimination, dict[str, Any]], Any], arguments: Mapping[str, Any]) -> Any:
        """A function of every set, with its part of the arguments, whose tensors have the batch in their last axis."""
        leaves: list[Tensor] = []
        shape = _taken_apart(dict(arguments), leaves)
        split = [x.unflatten(-1, (-1, self.sets)).movedim(-1, 0) for x in leaves]
        results: list[Any] = []

        def one(tensors: dict[str, Any], parts: list[Tensor]) -> list[Tensor]:
            found: list[Tensor] = []
            results[:] = [_taken_apart(function(_with(self._one, tensors), _put_together(shape, iter(parts))), found)]
            return found

        outputs = torch.vmap(one)(self._tensors, split)
        return _put_together(results[0], iter([x.movedim(0, -1).flatten(-2) for x in outputs]))


def _tensors(elimination: Elimination) -> dict[str, Any]:
    """All that differs between sets."""
    finest, grams = elimination.finest, elimination.grams
    found: dict[str, Any] = {
        name: x for name, x in vars(finest).items() if isinstance(x, Tensor) and x.is_floating_point()
    }
    finest._transfer = found["_transfer"] = [matrix.to_dense() for matrix in finest._transfer]
    if finest.strata == 1 and finest.width == 2:
        found["_two"] = list(finest._two or ())
    own: dict[str, Any] = {"total_weight": elimination.total_weight, "total_log_scale": elimination.total_log_scale}
    own["_sparse"] = [[matrix.to_dense() for matrix in row] for row in elimination._sparse]
    return {"finest": found, "own": own, "grams": {"packed": grams.packed}}


def _with(elimination: Elimination, tensors: Mapping[str, Any]) -> Elimination:
    """The algebra of the set that these tensors are of."""
    grams = replace(elimination.grams, **tensors["grams"])
    finest, own = copy.copy(elimination.finest), copy.copy(elimination)
    finest.__dict__.update(tensors["finest"], grams=grams)
    own.__dict__.update(tensors["own"], grams=grams, finest=finest, apart=True)
    return own


def _stacked(each: Sequence[Any]) -> Any:
    """Tensors of all sets side by side, in the lists and dicts that they stand in."""
    first = each[0]
    if isinstance(first, Tensor):
        return torch.stack(list(each))
    if isinstance(first, dict):
        return {key: _stacked([one[key] for one in each]) for key in first}
    return [_stacked(list(parts)) for parts in zip(*each, strict=True)]


def _taken_apart(value: Any, leaves: list[Tensor]) -> Any:
    """The shape of a nest of dicts, tuples and dataclasses, and its tensors in order."""
    if isinstance(value, Tensor):
        leaves.append(value)
        return Tensor
    if isinstance(value, dict):
        return {key: _taken_apart(x, leaves) for key, x in value.items()}
    if isinstance(value, tuple):
        return tuple(_taken_apart(x, leaves) for x in value)
    if isinstance(value, Spreads | Reduced):
        return type(value), {name: _taken_apart(x, leaves) for name, x in vars(value).items()}
    return value


def _put_together(shape: Any, leaves: Any) -> Any:
    """The inverse of `_taken_apart`."""
    if shape is Tensor:
        return next(leaves)
    if isinstance(shape, dict):
        return {key: _put_together(x, leaves) for key, x in shape.items()}
    if isinstance(shape, tuple) and len(shape) == 2 and shape[0] in (Spreads, Reduced):
        return shape[0](**_put_together(shape[1], leaves))
    if isinstance(shape, tuple):
        return tuple(_put_together(x, leaves) for x in shape)
    return shape
