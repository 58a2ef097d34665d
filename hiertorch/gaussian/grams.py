"""Sufficient statistics of a linear-Gaussian model: sums of products of row columns by group, from one pass in chunks.

The dense columns of a row are [Z_1 | Z_2 .. | X | H | y]: designs of its groups' effects from the finest plate up, of
the population's coefficients, of held coefficients, and the response. Effects of plates that do not nest (`crossed`)
have one column for each group, nearly all of them 0, and are kept as sparse entries.

Note [Coordinates]
Sums of squares of raw columns lose the digits that matter when a column's mean is far from 0. So each part's design is
Z = Q T with T from the Cholesky factor of its mean product on some of the rows, and the response is what is left of it
after the coefficients that fit these rows best (of those whose prior has a fixed spread and whose columns are the same
everywhere: as a spread shrinks to 0, so must its coefficients). Q, b0 and c0 are any numbers: the algebra is exact
whatever they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import log, log2, pi

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.gaussian.affine import Affine, NotAffine, Part, some_rows

__all__ = ["Entries", "Grams", "Reader", "arrange", "chunks", "gather", "pairs"]

CHUNK_NUMBERS = 2_000_000
"""Rows times columns that are held at once."""

MOST_CROSSED = 3_000
"""Effects that are factored densely beside those of the largest plate."""

TINY = 1e-10


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
    packed: Tensor  # (strata, pairs, groups of the finest level): pairs a <= b of dense columns, row by row
    weight: Tensor  # sum of w, (strata, groups)
    log_scale: Tensor  # sum of w (log s + log(2 pi) / 2), (groups,)
    entries: Entries | None = None
    cross: Tensor | None = (
        None  # crossed columns among themselves and with dense ones, (strata, crossed, crossed + tail)
    )

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


def pairs(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices a <= b of the packed upper triangle, row by row."""
    a, b = torch.triu_indices(width, width, device=device)
    return a, b


def arrange(parts: Sequence[Part], data: Data) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Plates from the finest up if each nests in the next; else the largest alone, and the others as crossed.

    Raises:
        NotAffine: if more effects would have to be factored densely than is reasonable.
    """
    plates = sorted((part for part in parts if part.plate is not None), key=lambda part: -part.size)
    names = [str(part.plate) for part in plates]
    if all(data.nests(fine, coarse) for fine, coarse in pairwise(names)):
        return tuple(plates), ()
    crossed = tuple(plates[1:])
    if (number := sum(part.size * part.width for part in crossed)) > MOST_CROSSED:
        raise NotAffine(
            f"the groupings {', '.join(map(repr, names))} do not nest, and {number:,} effects beside those of "
            f"{names[0]!r} are more than {MOST_CROSSED:,}, which take too long to factor"
        )
    return (plates[0],), crossed


def gather(affine: Affine, sets: Sequence[Data] | None = None) -> list[Grams]:
    """All sums of each of some data sets (the affine model's own if left out), from one pass over its rows in chunks.

    Raises:
        NotAffine: if the likelihood reads its rows together.
    """
    composed, data = affine.composed, affine.composed.data
    levels, crossed = arrange(composed.parts, data)
    population = composed.parts[0] if composed.parts and composed.parts[0].plate is None else None
    reader = Reader(affine, levels, crossed, population)
    return [_gathered(reader, one) for one in (sets or [data])]


def _gathered(reader: "Reader", data: Data) -> Grams:
    """The sums of one data set."""
    affine, levels, crossed, population = reader.affine, tuple(reader.levels), tuple(reader.crossed), reader.population
    sums = _Sums(reader, data)
    for chunk in chunks(data, reader.width + 4):
        sums.add(chunk)
    parents = tuple(data.parents(str(fine.plate), str(coarse.plate)) for fine, coarse in pairwise(levels))
    return Grams(
        levels, parents, crossed, population, len(affine.held), reader.bases, reader.shift, reader.held_shift,
        sums.packed.transpose(1, 2).contiguous(), sums.weight, sums.log_scale, sums.entries(), sums.cross,
    )  # fmt: skip


def chunks(data: Data, width: int) -> Iterator[Data]:
    """The rows, so many at a time that `width` numbers for each fit."""
    size = max(1, CHUNK_NUMBERS // width)
    if data.n_rows <= max(size, 20_000):
        yield data
        return
    for start in range(0, data.n_rows, size):
        yield data.rows(start, min(start + size, data.n_rows))


class Reader:
    """Rows to columns in the coordinates of Note [Coordinates]."""

    def __init__(
        self, affine: Affine, levels: Sequence[Part], crossed: Sequence[Part], population: Part | None
    ) -> None:
        self.affine, self.levels, self.crossed, self.population = affine, levels, crossed, population
        rows = some_rows(affine.composed.data)
        weight = self.precision(rows)
        mean, designs = affine.composed.design(affine.anchor, rows)
        self.bases = {plate: _basis(columns, weight) for plate, columns in designs.items()}
        self.width = sum(part.width for part in levels) + (population.width if population else 0) + len(affine.held) + 1
        fixed, response = self._fixed(rows, mean, designs)
        settled = [name in affine.settled for name in (population.widths if population else ())]
        widths = list(population.widths.values()) if population else []
        free = torch.tensor(
            [ok for ok, n in zip(settled, widths, strict=True) for _ in range(n)] + [True] * len(affine.held),
            dtype=torch.bool,
            device=fixed.device,
        )
        best = fixed.new_zeros(len(fixed))
        best[free] = _fit(fixed[free], response, weight)
        self.shift, self.held_shift = best[: len(best) - len(affine.held)], best[len(best) - len(affine.held) :]

    def _q(self, part: Part, designs: dict[str | None, Tensor]) -> Tensor:
        """A part's columns in the coordinates of Note [Coordinates]."""
        return torch.linalg.solve_triangular(self.bases[part.plate].mT, designs[part.plate], upper=False)

    def _fixed(self, rows: Data, mean: Tensor, designs: dict[str | None, Tensor]) -> tuple[Tensor, Tensor]:
        """Raw columns of the population's and of the held coefficients, and the response where all of these are 0."""
        affine = self.affine
        held = affine.held_columns(rows)
        response = rows.y - mean + affine.coefficients(affine.anchor, 1)[:, 0] @ held
        return (held if self.population is None else torch.cat([designs[None], held])), response

    def columns(self, rows: Data) -> tuple[Tensor, Tensor]:
        """All dense columns `(width, rows)`, and those of the crossed plates."""
        mean, designs = self.affine.composed.design(self.affine.anchor, rows)
        fixed, response = self._fixed(rows, mean, designs)
        response = response - torch.cat([self.shift, self.held_shift]) @ fixed
        parts = [*self.levels, *([] if self.population is None else [self.population])]
        dense = torch.cat(
            [*(self._q(part, designs) for part in parts), fixed[len(self.shift) :], response.unsqueeze(0)]
        )
        return dense, torch.cat([self._q(part, designs) for part in self.crossed] or [dense[:0]])

    def precision(self, rows: Data) -> Tensor:
        """w / s^2, `(rows,)`; 0 where the weight is 0."""
        precision = self.affine.composed.scale(self.affine.anchor, rows, 1)[0].square().reciprocal()
        return precision if rows.weights is None else torch.where(rows.weights == 0, 0.0, rows.weights * precision)


def _basis(columns: Tensor, weight: Tensor) -> Tensor:
    """T, upper triangular, of a design `(width, rows)`; a power of 2 if the width is 1, which changes no digit."""
    gram = columns * weight @ columns.mT / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
    size = gram.diagonal()
    size = torch.where(size > 0, size, 1.0)
    if len(gram) == 1:
        return torch.full_like(gram, 2.0 ** round(log2(float(size.sqrt() if size > 0 else 1.0))))
    return torch.linalg.cholesky(gram + (TINY * size + (gram.diagonal() == 0)).diag_embed()).mT


def _fit(columns: Tensor, response: Tensor, weight: Tensor) -> Tensor:
    """Coefficients of columns `(k, rows)` that fit a response best, the shortest such if columns are collinear."""
    gram = columns * weight @ columns.mT
    size = gram.diagonal().sqrt()
    size = torch.where(size > 0, size, 1.0)
    inverse = torch.linalg.pinv(gram / size / size.unsqueeze(1), rtol=1e-8, hermitian=True)
    return inverse @ (columns * weight @ response / size) / size


class _Sums:
    """What is added up over chunks."""

    def __init__(self, reader: Reader, data: Data) -> None:
        self.reader, affine = reader, reader.affine
        self.strata, self.groups = len(affine.strata), reader.levels[0].size if reader.levels else 1
        self.a, self.b = pairs(reader.width, data.device)
        zeros = data.y.new_zeros
        self.packed = zeros(self.strata, self.groups, len(self.a))
        self.weight, self.log_scale = zeros(self.strata, self.groups), zeros(self.groups)
        crossed, tail = (
            sum(p.size * p.width for p in reader.crossed),
            reader.width - sum(p.width for p in reader.levels),
        )
        self.cross = zeros(self.strata, crossed, crossed + tail) if crossed else None
        self._found: list[tuple[Tensor, Tensor]] = []

    def add(self, rows: Data) -> None:
        """Adds a chunk."""
        reader, affine = self.reader, self.reader.affine
        if reader.levels:
            rows = _sorted(rows, str(reader.levels[0].plate))
        dense, crossed = reader.columns(rows)
        dense, precision = dense.mT.contiguous(), reader.precision(rows)
        weight = torch.ones_like(precision) if rows.weights is None else rows.weights.expand(rows.n_rows)
        scale = affine.composed.scale(affine.anchor, rows, 1)[0]
        log_scale = torch.where(weight == 0, 0.0, weight * (scale.log() + 0.5 * log(2.0 * pi)))
        self._by_group(rows, log_scale.unsqueeze(1), self.log_scale.unsqueeze(1))
        of_row = affine.stratum(rows) if self.strata > 1 else None
        for s in range(self.strata):
            inside = precision if of_row is None else torch.where(of_row == s, precision, 0.0)
            counted = weight if of_row is None else torch.where(of_row == s, weight, 0.0)
            self._by_group(rows, counted.unsqueeze(1), self.weight[s].unsqueeze(1))
            weighted = dense * inside.unsqueeze(1)
            self._by_group(rows, weighted[:, self.a] * dense[:, self.b], self.packed[s])
            if self.cross is not None:
                self._cross(rows, dense, crossed, inside, s)

    def _by_group(self, rows: Data, terms: Tensor, into: Tensor) -> None:
        """Adds terms `(rows, n)`, sorted by group, to `(groups, n)`."""
        if not self.reader.levels:
            into += terms.sum(0)
            return
        codes = rows[str(self.reader.levels[0].plate)]
        first, last = int(codes[0]), int(codes[-1]) + 1
        lengths = torch.bincount(codes - first, minlength=last - first)
        into[first:last] += torch.segment_reduce(terms, "sum", lengths=lengths, axis=0)

    def _cross(self, rows: Data, dense: Tensor, crossed: Tensor, precision: Tensor, s: int) -> None:
        """Adds products with crossed columns, found by their numbers."""
        reader = self.reader
        columns: list[Tensor] = []
        start = 0
        for part in reader.crossed:
            codes = rows[str(part.plate)]
            columns += [start + k * part.size + codes for k in range(part.width)]
            start += part.size * part.width
        assert self.cross is not None
        own = sum(part.width for part in reader.levels)
        flat = self.cross[s, :, :start].reshape(-1)
        group = rows[str(reader.levels[0].plate)]
        for m, z in zip(columns, crossed, strict=True):
            weighted = (dense * precision.unsqueeze(1)) * z.unsqueeze(1)
            for n, other in zip(columns, crossed, strict=True):
                flat.index_add_(0, m * start + n, precision * z * other)
            self.cross[s, :, start:].index_add_(0, m, weighted[:, own:])
            self._found.append((group * start + m, _spread(weighted[:, :own], s, self.strata)))
        self.cross[s, :, :start] = flat.unflatten(0, (start, start))

    def entries(self) -> Entries | None:
        """The products of the finest plate with crossed columns, each pair once."""
        if self.cross is None:
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
