"""Rows as columns of numbers, in coordinates in which sums of their products keep their digits.

The dense columns of a row are [Z_1 | Z_2 .. | X | H | y]: designs of its groups' effects from the finest plate up, of
the population's coefficients, of held coefficients, and the response. Effects of *crossed* plates, those that do not
nest or of which rows read several groups, have one column for each group, nearly all of them 0.

Note [Coordinates]
Sums of squares of raw columns lose the digits that matter when a column's mean is far from 0. So each part's design is
Z = Q T with T from the Cholesky factor of its mean product on some of the rows, and the response is what is left of it
after the coefficients that fit these rows best (of those whose prior has a fixed spread and whose columns are the same
everywhere: as a spread shrinks to 0, so must its coefficients). Q, b0 and c0 are any numbers: the algebra is exact
whatever they are.
"""

from collections.abc import Iterator, Sequence
from math import log, log2, pi
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.gaussian.affine import Affine, Part, some_rows
from hiertorch.gaussian.slots import slots_of

CHUNK_NUMBERS = 2_000_000
"""Rows times columns that are held at once."""

FEW_ROWS = 20_000
"""So many are read at once, however many columns they have."""

TINY = 1e-10
"""Of a column's size, that is added to the diagonal of the product matrix whose Cholesky factor T is."""


class Columns(NamedTuple):
    """What sums over some rows are made of."""

    dense: Tensor  # (width, rows)
    crossed: Tensor  # entries of each row's crossed columns that are not 0, (entries, rows)
    places: Tensor  # the crossed columns in which they stand, (entries, rows)
    precision: Tensor  # w / s^2; 0 in other strata than the row's, (strata, rows)
    weight: Tensor  # w, likewise
    log_scale: Tensor  # w (log s + log(2 pi) / 2), (rows,)


def chunks(data: Data, width: int) -> Iterator[Data]:
    """The rows, so many at a time that `width` numbers for each fit."""
    size = max(1, CHUNK_NUMBERS // width)
    if data.n_rows <= max(size, FEW_ROWS):
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
        rows = some_rows(affine.slotted(affine.composed.data))
        weight = _precision(affine.composed.scale(affine.anchor, rows, 1)[0], rows)
        self.seen = rows, affine.composed.design(affine.anchor, rows)
        mean, designs = self.seen[1]
        self.bases = {plate: _basis(columns, weight) for plate, columns in designs.items()}
        for plate in affine.slots:
            own = slots_of(rows, plate)
            self.bases[plate] = _basis(own.weight.flatten(0, 1).mT, weight.repeat_interleave(own.number))
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
        if affine.coordinates is not None:
            basis, self.shift, self.held_shift = affine.coordinates
            self.bases |= {} if basis is None else {None: basis}

    def _q(self, part: Part, design: Tensor) -> Tensor:
        """A part's columns in the coordinates of Note [Coordinates]."""
        return torch.linalg.solve_triangular(self.bases[part.plate].mT, design, upper=False)

    def _fixed(self, rows: Data, mean: Tensor, designs: dict[str | None, Tensor]) -> tuple[Tensor, Tensor]:
        """Raw columns of the population's and of the held coefficients, and the response where all of these are 0."""
        affine = self.affine
        held = affine.held_columns(rows)
        response = rows.y - mean + affine.coefficients(affine.anchor, 1)[:, 0] @ held
        return (held if self.population is None else torch.cat([designs[None], held])), response

    def columns(self, rows: Data) -> tuple[Tensor, Tensor, Tensor]:
        """All dense columns `(width, rows)`, entries of crossed columns, and their places."""
        seen, found = self.seen
        mean, designs = found if rows is seen else self.affine.composed.design(self.affine.anchor, rows)
        fixed, response = self._fixed(rows, mean, designs)
        response = response - torch.cat([self.shift, self.held_shift]) @ fixed
        parts = [*self.levels, *([] if self.population is None else [self.population])]
        dense = torch.cat(
            [*(self._q(part, designs[part.plate]) for part in parts), fixed[len(self.shift) :], response.unsqueeze(0)]
        )
        entries, places, start = [dense[:0]], [torch.zeros_like(dense[:0], dtype=torch.long)], 0
        for part in self.crossed:
            for group, design in self._slots(part, rows, designs):
                entries.append(self._q(part, design))
                places += [(start + k * part.size + group).unsqueeze(0) for k in range(part.width)]
            start += part.size * part.width
        return dense, torch.cat(entries), torch.cat(places)

    def _slots(self, part: Part, rows: Data, designs: dict[str | None, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Groups of a plate that rows read, `(rows,)`, and their columns `(width, rows)`, slot by slot."""
        if part.plate not in self.affine.slots:
            return [(rows[str(part.plate)], designs[part.plate])]
        group, weight = slots_of(rows, part.plate)
        return [(own, x.mT) for own, x in zip(group.unbind(1), weight.unbind(1), strict=True)]

    def read(self, rows: Data) -> Columns:
        """All that sums over rows are made of."""
        dense, crossed, places = self.columns(rows)
        scale = self.affine.composed.scale(self.affine.anchor, rows, 1)[0]
        weight = torch.ones_like(scale) if rows.weights is None else rows.weights.expand(rows.n_rows)
        log_scale = torch.where(weight == 0, 0.0, weight * (scale.log() + 0.5 * log(2.0 * pi)))
        precision, weight = _precision(scale, rows).unsqueeze(0), weight.unsqueeze(0)
        if (strata := len(self.affine.strata)) > 1:
            inside = self.affine.stratum(rows) == torch.arange(strata, device=rows.device).unsqueeze(1)
            precision, weight = torch.where(inside, precision, 0.0), torch.where(inside, weight, 0.0)
        return Columns(dense, crossed, places, precision, weight, log_scale)


def _precision(scale: Tensor, rows: Data) -> Tensor:
    """w / s^2, `(rows,)`; 0 where the weight is 0."""
    precision = scale.square().reciprocal()
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
