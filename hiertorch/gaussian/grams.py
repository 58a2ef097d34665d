"""Sufficient statistics of a linear-Gaussian model: sums of products of row columns by group, from one pass in chunks.

The columns are those of `hiertorch.gaussian.columns`. Products with crossed ones are kept as sparse entries.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.data.table import Data
from hiertorch.gaussian.affine import Affine, NotAffine, Part
from hiertorch.gaussian.cholesky import square_index
from hiertorch.gaussian.columns import CHUNK_NUMBERS, Columns, Reader, chunks

MOST_CROSSED = 3_000
"""Effects that are factored densely beside those of the largest plate."""

WIDE = 30
"""Columns behind those of the finest level, from which the sums of their products are matrix products (measured):
products of every pair by row are then many times as many numbers as the columns.
"""


FEW = 500_000
"""Numbers of the columns, up to which those of several data sets are added up together: more take their time anyway."""


@dataclass(frozen=True)
class Entries:
    """Products of the finest plate's columns with those of crossed effects: group, crossed column, `(strata, K, n)`."""

    group: Tensor
    column: Tensor
    values: Tensor


@dataclass(frozen=True)
class Grams:
    """Sums over rows of w / s^2 a b for columns a, b; w: row weight, s: scale at the anchor."""

    levels: tuple[Part, ...]  # nested, finest first
    parents: tuple[Tensor, ...]  # group of the next level in which each group lies, one fewer than levels
    crossed: tuple[Part, ...]
    population: Part | None
    held: int
    bases: dict[str | None, Tensor]  # T of each part
    shift: Tensor  # b0, in units of the population's innovations at the anchor, (population width,)
    held_shift: Tensor  # c0, (held,)
    packed: Tensor  # (strata, pairs, groups of the finest level): pairs a <= b of dense columns, a among the finest
    # level's, row by row
    left: Tensor  # (strata, pairs, groups of the next level, or 1): the other pairs, row by row
    weight: Tensor  # sum of w, (strata, groups)
    log_scale: Tensor  # sum of w (log s + log(2 pi) / 2), (groups,)
    entries: Entries | None = None  # where there are levels and crossed plates
    cross: Tensor | None = None  # crossed columns by themselves and by dense ones, (strata, crossed, crossed + tail)

    @cached_property
    def width(self) -> int:
        """The number of dense columns."""
        return sum(part.width for part in self.levels) + self.tail

    @property
    def tail(self) -> int:
        """Dense columns that belong to no level: population, held, response."""
        return (self.population.width if self.population else 0) + self.held + 1

    @property
    def n_crossed(self) -> int:
        """The number of crossed columns."""
        return sum(part.size * part.width for part in self.crossed)

    def pair(self, a: int, b: int) -> Tensor:
        """Sums of products of dense columns a <= b, a among the finest level's, `(strata, groups)`."""
        return self.packed[:, a * self.width - a * (a - 1) // 2 + b - a]

    def turned(self, spread: Tensor) -> "Grams":
        """The same where the population's columns X are X C, for C `(P, P)`."""
        assert self.population is not None
        own, width = (self.levels[0].width if self.levels else 0), self.population.width
        start = sum(part.width for part in self.levels)
        columns = torch.arange(start, start + width, device=spread.device)
        index = square_index(self.width, spread.device)
        packed, at = self.packed.clone(), index[:own][:, columns]
        packed[:, at] = (packed[:, at].movedim(2, -1) @ spread).movedim(-1, 2)
        behind = self.width - own
        square = self.left[:, square_index(behind, spread.device)].movedim(3, 1)  # (strata, groups, columns, columns)
        columns = columns - own
        square[..., columns] = square[..., columns] @ spread
        square[..., columns, :] = spread.mT @ square[..., columns, :]
        a, b = torch.triu_indices(behind, behind, device=spread.device)
        cross = None
        if self.cross is not None:
            cross, columns = self.cross.clone(), self.n_crossed + torch.arange(width, device=spread.device)
            cross[..., columns] = cross[..., columns] @ spread
        return replace(self, packed=packed, left=square[..., a, b].mT.contiguous(), cross=cross)


def _arrange(
    parts: Sequence[Part], data: Data, several: Container[str | None]
) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Plates from the finest up if each nests in the next; else the largest alone, and the others as crossed, as are
    those of which rows read `several` groups.

    Raises:
        NotAffine: if more effects would have to be factored densely than is reasonable.
    """
    plates = sorted((part for part in parts if part.plate is not None), key=lambda part: -part.size)
    shared, plates = [p for p in plates if p.plate in several], [p for p in plates if p.plate not in several]
    names = [str(part.plate) for part in plates]
    if not shared and all(data.nests(fine, coarse) for fine, coarse in pairwise(names)):
        return tuple(plates), ()
    crossed = (*plates[1:], *shared)
    if (number := sum(part.size * part.width for part in crossed)) > MOST_CROSSED:
        why = f"the groupings {wording.quoted(names)} do not nest" if not shared else (
            f"rows read several groups of {wording.quoted([str(part.plate) for part in shared])}"
        )  # fmt: skip
        raise NotAffine(
            f"{why}, and {number:,} effects{f' beside those of {names[0]!r}' if names else ''} are more than "
            f"{MOST_CROSSED:,}, which take too long to factor"
        )
    return tuple(plates[:1]), crossed


def gather(affine: Affine, sets: Sequence[Data]) -> list[Grams]:
    """All sums of each of some data sets, from one pass over its rows in chunks.

    Raises:
        NotAffine: if the likelihood reads its rows together.
    """
    composed, data = affine.composed, affine.composed.data
    levels, crossed = _arrange(composed.parts, data, affine.slots)
    population = composed.parts[0] if composed.parts and composed.parts[0].plate is None else None
    reader = Reader(affine, levels, crossed, population)
    rows, behind = data.n_rows, reader.width - (levels[0].width if levels else 0)
    if len(sets) > 1 and len(affine.strata) == 1 and not crossed and behind <= WIDE and rows * reader.width <= FEW:
        return _together(reader, sets)
    return [_gathered(reader, one) for one in sets]


def _together(reader: Reader, sets: Sequence[Data]) -> list[Grams]:
    """The sums of many data sets of not so many rows, which differ in responses and weights alone."""
    data, levels, like = sets[0], tuple(reader.levels), sets[0].y
    read = reader.read(data.replace(weights=torch.ones_like(like)))
    dense, a, b = read.dense.mT, *torch.triu_indices(reader.width, reader.width, device=data.device)
    own, size = (levels[0].width, levels[0].size) if levels else (0, 1)
    group = data[str(levels[0].plate)] if levels else torch.zeros_like(like, dtype=torch.long)
    parents = tuple(data.parents(str(fine.plate), str(coarse.plate)) for fine, coarse in pairwise(levels))
    parent = parents[0] if parents else group.new_zeros(size)
    above, found = levels[1].size if parents else 1, list[Grams]()
    step = max(1, CHUNK_NUMBERS // (data.n_rows * len(a)))
    for some in (sets[i : i + step] for i in range(0, len(sets), step)):
        weight = torch.stack([torch.ones_like(like) if one.weights is None else one.weights for one in some])
        columns = dense.repeat(len(some), 1, 1)  # (sets, rows, width)
        columns[..., -1] += torch.stack([one.y for one in some]) - data.y
        precision, scaled = (torch.where(weight == 0.0, 0.0, weight * x) for x in (read.precision[0], read.log_scale))
        products = columns[..., a] * columns[..., b] * precision.unsqueeze(2)
        every = torch.cat([products, weight.unsqueeze(2), scaled.unsqueeze(2)], 2)
        sums = every.new_zeros(len(some), size, every.shape[2]).index_add_(1, group, every).mT.contiguous()
        mine = a < own
        packed, rest = sums[:, :-2][:, mine], sums[:, :-2][:, ~mine]
        left = rest.new_zeros(*rest.shape[:2], above).index_add_(2, parent, rest)
        found += [
            Grams(
                levels, parents, (), reader.population, len(reader.affine.held), reader.bases, reader.shift,
                reader.held_shift, packed[i : i + 1], left[i : i + 1], sums[i, -2:-1], sums[i, -1],
            )
            for i in range(len(some))
        ]  # fmt: skip
    return found


def _gathered(reader: Reader, data: Data) -> Grams:
    """The sums of one data set."""
    affine, levels, crossed, population = reader.affine, tuple(reader.levels), tuple(reader.crossed), reader.population
    parents = tuple(data.parents(str(fine.plate), str(coarse.plate)) for fine, coarse in pairwise(levels))
    sums = _Sums(reader, data)
    for chunk in chunks(affine.slotted(data), reader.width + 4):
        sums.add(chunk)
    packed, left = sums.pairs(parents[0] if parents else None)
    return Grams(
        levels, parents, crossed, population, len(affine.held), reader.bases, reader.shift, reader.held_shift,
        packed, left, sums.weight, sums.log_scale, sums.entries(), sums.cross,
    )  # fmt: skip


class _Sums:
    """What is added up over chunks."""

    def __init__(self, reader: Reader, data: Data) -> None:
        self.reader, affine = reader, reader.affine
        self.strata, self.groups = len(affine.strata), reader.levels[0].size if reader.levels else 1
        self.own = reader.levels[0].width if reader.levels else 0
        zeros, behind = affine.composed.like.new_zeros, reader.width - self.own
        self.above = reader.levels[1].size if len(reader.levels) > 1 else 1
        self.behind = zeros(self.strata, self.above, behind, behind) if behind > WIDE else None
        self.a, self.b = torch.triu_indices(reader.width, reader.width, device=data.device)
        if self.behind is not None:
            self.a, self.b = (x[self.a < self.own] for x in (self.a, self.b))
        self.packed = zeros(self.strata, self.groups, len(self.a))
        self.weight, self.log_scale = zeros(self.strata, self.groups), zeros(self.groups)
        crossed = sum(p.size * p.width for p in reader.crossed)
        tail = reader.width - sum(p.width for p in reader.levels)
        self.cross = zeros(self.strata, crossed, crossed + tail) if crossed else None
        self._found: list[tuple[Tensor, Tensor]] = []

    def add(self, rows: Data) -> None:
        """Adds a chunk."""
        reader = self.reader
        if reader.levels:
            rows = _sorted(rows, str(reader.levels[0].plate))
        read = reader.read(rows)
        dense = read.dense.mT.contiguous()
        self._by_group(rows, read.log_scale.unsqueeze(1), self.log_scale.unsqueeze(1))
        for s, (precision, weight) in enumerate(zip(read.precision, read.weight, strict=True)):
            self._by_group(rows, weight.unsqueeze(1), self.weight[s].unsqueeze(1))
            weighted = dense * precision.unsqueeze(1)
            self._by_group(rows, weighted[:, self.a] * dense[:, self.b], self.packed[s])
            self._behind(rows, dense, weighted, s)
            if self.cross is not None:
                self._cross(rows, dense, read, precision, s)

    def _by_group(self, rows: Data, terms: Tensor, into: Tensor) -> None:
        """Adds terms `(rows, n)`, sorted by group, to `(groups, n)`."""
        if not self.reader.levels:
            into += terms.sum(0)
            return
        codes = rows[str(self.reader.levels[0].plate)]
        if codes.device.type == "cpu":  # where it is no slower, and of a million groups six times as fast (measured)
            into.index_add_(0, codes, terms)
            return
        first, last = int(codes[0]), int(codes[-1]) + 1
        lengths = torch.bincount(codes - first, minlength=last - first)
        into[first:last] += torch.segment_reduce(terms, "sum", lengths=lengths, axis=0)

    def _behind(self, rows: Data, dense: Tensor, weighted: Tensor, s: int) -> None:
        """Adds the products of many columns behind the finest level's, by group of the next level."""
        if self.behind is None:
            return
        dense, weighted = dense[:, self.own :], weighted[:, self.own :]
        if self.above == 1:
            self.behind[s, 0] += weighted.mT @ dense
            return
        codes = rows[str(self.reader.levels[1].plate)]
        order, lengths = codes.argsort(stable=True), torch.bincount(codes, minlength=self.above).tolist()
        for into, some in zip(self.behind[s], order.split(lengths), strict=True):
            into += weighted[some].mT @ dense[some]

    def pairs(self, parent: Tensor | None) -> tuple[Tensor, Tensor]:
        """`packed` and `left` of `Grams`, given the group of the next level in which each group lies."""
        packed = self.packed.transpose(1, 2).contiguous()
        if self.behind is not None:
            a, b = torch.triu_indices(*self.behind.shape[2:], device=packed.device)
            return packed, self.behind[:, :, a, b].mT.contiguous()
        first = int((self.a < self.own).sum())
        own, left = packed[:, :first].contiguous(), packed[:, first:]
        if parent is None:
            return own, left.sum(2, keepdim=True)
        return own, left.new_zeros(*left.shape[:2], self.above).index_add_(2, parent, left)

    def _cross(self, rows: Data, dense: Tensor, read: Columns, precision: Tensor, s: int) -> None:
        """Adds products with crossed columns, found by their places."""
        assert self.cross is not None
        start = self.cross.shape[1]
        flat = self.cross[s, :, :start].reshape(-1)
        for m, z in zip(read.places, read.crossed, strict=True):
            weighted = (dense * precision.unsqueeze(1)) * z.unsqueeze(1)
            for n, other in zip(read.places, read.crossed, strict=True):
                flat.index_add_(0, m * start + n, precision * z * other)
            self.cross[s, :, start:].index_add_(0, m, weighted[:, self.own :])
            if self.reader.levels:
                group = rows[str(self.reader.levels[0].plate)]
                self._found.append((group * start + m, _spread(weighted[:, : self.own], s, self.strata)))
        self.cross[s, :, :start] = flat.unflatten(0, (start, start))

    def entries(self) -> Entries | None:
        """The products of the finest plate with crossed columns, each pair once."""
        if self.cross is None or not self.reader.levels:
            return None
        keys, where = torch.unique(torch.cat([key for key, _ in self._found]), return_inverse=True)
        values = torch.cat([value for _, value in self._found])
        summed = values.new_zeros(len(keys), values.shape[1]).index_add_(0, where, values)
        crossed = self.cross.shape[1]
        own = values.shape[1] // self.strata
        return Entries(keys // crossed, keys % crossed, summed.mT.unflatten(0, (self.strata, own)))


def _spread(values: Tensor, s: int, strata: int) -> Tensor:
    """Values of one stratum among zeros for the others, `(rows, strata K)`."""
    whole = values.new_zeros(len(values), strata, values.shape[1])
    whole[:, s] = values
    return whole.flatten(1)


def _sorted(rows: Data, plate: str) -> Data:
    """Rows in the order of their groups."""
    codes = rows[plate]
    if bool((codes[1:] >= codes[:-1]).all()):
        return rows
    return rows.take(codes.argsort(stable=True))
