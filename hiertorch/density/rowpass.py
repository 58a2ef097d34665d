"""Row weights: the difference between a likelihood and its Gaussian surrogate, summed by group.

A pass over the rows is what a sweep of the whitened engine costs, so nothing else is done in it.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from hiertorch.density.equalrows import equal_rows, summed
from hiertorch.density.rowblocks import Blocks, Effects, Numbers
from hiertorch.families.rowforms import Parameters, RowForm


class RowPass:
    """sum_i in g of weight_i log f(y_i | eta_i) + w_i (z_i - eta_i)^2 / 2, with
    eta_i = offset_i + X_i r + sum_l Z_il . u_l[group_il] + the same of crossed effects.

    Terms of log f without eta are left out of the sums and given by `constants`.

    Args:
        kind: the closed form of log f (`hiertorch.families.rowforms`).
        y: the response, `(rows,)`.
        columns: what else a row has, by the form's names, `(rows,)` each.
        offset: `(rows,)`; None for zeros.
        design: X, `(rows, P)`; P may be 0.
        levels: effects of nested groupings, the finest first.
        crossed: effects of groupings across them.
        finest: group of each row by which sums are taken, `(rows,)`, long.
        n_finest: the number of those groups; some may have no rows.
        weights: of the rows, `(rows,)`; None for ones.
        rows: "float64", or "float32" for rows in single and sums over blocks of them in double precision.
        compiled: whether a compiled loop passes over the rows; None for where there is one, which is on the CPU with
            Numba (`hiertorch[fast]`).

    Attributes:
        rows: the number of rows that are held: those with equal predictors are added up, where that spares enough.
        finest: the sums by finest group.
    """

    def __init__(
        self,
        kind: type[RowForm],
        y: Tensor,
        columns: Parameters,
        offset: Tensor | None,
        design: Tensor,
        levels: Sequence[Effects],
        crossed: Sequence[Effects],
        finest: Tensor,
        n_finest: int,
        weights: Tensor | None = None,
        *,
        rows: str = "float64",
        compiled: bool | None = None,
    ) -> None:
        self.form = kind(y, columns, weights)
        self.levels, self.crossed = tuple(levels), tuple(crossed)
        self.compiled = can_compile(design.device) if compiled is None else compiled
        self._parents = [_segments(_parent(part, finest, n_finest), part.size) for part in self.levels]
        self._dtype, self._place, self.rows = getattr(torch, rows), None, len(y)
        effects = self._effects = (*self.levels, *self.crossed)
        if self.form.worth:
            offsets = [] if offset is None else [offset]
            differ = (finest, *offsets, design, *(x for part in effects for x in (part.group, part.design)))
            place, one = equal_rows(differ)
            if len(one) <= self.form.worth * len(y):
                self._place, self.rows, self.form = place, len(one), self.form.merged(place, len(one))
                offset, design, finest = None if offset is None else offset[one], design[one], finest[one]
                self._effects = tuple(part.take(one) for part in effects)
        self._offset, self._design = offset, design
        self.finest = self._sums(finest, n_finest)
        self._others: dict[int, Sums] = {}
        self._sites: Sites | None = None

    def sites(self, z: Tensor, w: Tensor, shares: tuple[Tensor, ...] = ()) -> None:
        """Sets the surrogate's sites, `(rows,)` each; of rows between two thresholds, which no form adds up, with the
        shares of the lower and the upper one by which z moves with them.
        """
        parts = (-w * z, 0.5 * w, 0.5 * w * z.square())
        linear, half, constant = (x if self._place is None else summed(x, self._place, self.rows) for x in parts)
        self._sites = Sites(linear, half, constant, shares)
        for sums in (self.finest, *self._others.values()):
            sums.set_sites(self._sites)

    def weights(
        self, root: Tensor, effects: Sequence[Tensor], crossed: Sequence[Tensor], parameters: Parameters
    ) -> Tensor:
        """The sums by finest group, `(n_finest, chains)` in double precision.

        Args:
            root: r, `(P, chains)`.
            effects: u of each level, `(K, groups, chains)`.
            crossed: the same of crossed effects.
            parameters: of the form, `(chains,)` each.
        """
        return self.finest.weights(root, effects, crossed, parameters)

    def constants(self, parameters: Parameters) -> Tensor:
        """What `weights` leaves out, summed over all rows, `(chains,)` or `()`."""
        return self.form.constants(parameters)

    def by(self, part: Effects) -> "Sums":
        """The same sums by the groups of a level or of crossed effects: its `weights` takes what `weights` takes. Rows
        are held in one more order from the first call on.
        """
        at = next(i for i, other in enumerate((*self.levels, *self.crossed)) if other is part)
        if at not in self._others:
            self._others[at] = self._sums(self._effects[at].group, part.size)
            if self._sites is not None:
                self._others[at].set_sites(self._sites)
        return self._others[at]

    def added(self, finest: Tensor, level: int) -> Tensor:
        """Sums by group of a level `(groups, chains)` of numbers by finest group `(n_finest, chains)`: what `by` gives,
        without a pass.
        """
        order, lengths = self._parents[level]
        return torch.segment_reduce(finest[order], "sum", lengths=lengths, axis=0, initial=0.0)

    def _sums(self, group: Tensor, size: int) -> "Sums":
        loops = _loops() if self.compiled else Blocks
        return Sums(self.form, loops(self._offset, self._design, self._effects, group, size, self._dtype), group)


class Sites(NamedTuple):
    """w_i (z_i - eta_i)^2 / 2 = (half_i eta_i + linear_i) eta_i + constant_i, `(rows,)` each."""

    linear: Tensor
    half: Tensor
    constant: Tensor
    shares: tuple[Tensor, ...] = ()


class PassedRows(Protocol):
    """Rows in the order of one grouping, as `hiertorch.density.rowblocks.Blocks` holds them."""

    size: int

    def set_numbers(self, numbers: Numbers, shares: Sequence[Tensor] = ()) -> None:
        """See `Blocks.set_numbers`, and `RowPass.sites` of shares."""

    def sums(self, form: RowForm, root: Tensor, effects: Sequence[Tensor], chain: tuple[Tensor, ...]) -> Tensor:
        """See `Blocks.sums`."""


class Sums:
    """Row weights summed by one grouping.

    Attributes:
        rows: those that are passed over.
        constant: what that leaves out, of each group, `(groups, 1)`.
    """

    def __init__(self, form: RowForm, rows: PassedRows, group: Tensor) -> None:
        self._form, self.rows, self._group = form, rows, group
        self.constant = form.linear.new_zeros(())

    def set_sites(self, sites: Sites) -> None:
        """See `RowPass.sites`."""
        form = self._form
        numbers = Numbers(form.linear + sites.linear, sites.half, form.first, form.second)
        self.rows.set_numbers(numbers, sites.shares)
        order, lengths = _segments(self._group, self.rows.size)
        constant = torch.segment_reduce(sites.constant.double()[order], "sum", lengths=lengths, initial=0.0)
        self.constant = constant.unsqueeze(1)  # (groups, 1)

    @torch.no_grad()
    def weights(
        self, root: Tensor, effects: Sequence[Tensor], crossed: Sequence[Tensor], parameters: Parameters
    ) -> Tensor:
        """See `RowPass.weights`."""
        sums = self.rows.sums(self._form, root, [*effects, *crossed], self._form.chain(parameters))
        return sums.add_(self.constant)


def can_compile(device: torch.device) -> bool:
    """Whether there is a compiled loop for rows on a device."""
    return device.type == "cpu" and find_spec("numba") is not None


def _loops() -> Callable[..., PassedRows]:
    from hiertorch.density.rowloops import Loops  # an extra, and half a second to import

    return Loops


def _segments(group: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The order in which groups follow one another, and how many each has."""
    return group.argsort(stable=True), torch.bincount(group, minlength=size)


def _parent(part: Effects, finest: Tensor, n_finest: int) -> Tensor:
    """The group of a level in which each finest group lies, `(n_finest,)`; 0 for those without rows, whose sum is 0."""
    parent = part.group.new_zeros(n_finest)
    parent[finest] = part.group
    return parent
