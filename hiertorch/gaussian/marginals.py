"""log p(y_j | rest, all latents but the effects of group j and of groups nested in it), these integrated out.

Rows that lie in the same group of every plate make a *cell*. From one pass over the rows each cell keeps the Gram
matrix of its columns [Z_1 .. Z_n | X | H | y] (`hiertorch.gaussian.columns`). Given all else, the effects of a plate
and of plates nested in it, its *own* plates, are the only unknowns, so that a cell shrinks to the Gram matrix G of

    [Z of own plates | r],     r = y - X b - H c - sum of Z e over the other plates,

and own plates are eliminated from the finest up, by sums over cells, then over groups of the next plate:

    A = I + C' G_ZZ C,     log p -= log|A| / 2,     G_.. -= G_.Z C A^-1 C' G_Z.

Here b, c and e are known coefficients, and effects are innovations: values less the mean of their prior given the
values that it reads. Those of nested groups are independent of their parents', whose columns contain what children
inherit; so it makes no difference whether a model is written centred or non-centred.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.density.rows import cells
from hiertorch.gaussian.affine import Affine, NotAffine, Part
from hiertorch.gaussian.cholesky import log_diagonal, plus_identity, product, solve_lower
from hiertorch.gaussian.columns import Reader, chunks
from hiertorch.model.latent import Values
from hiertorch.runtime.validating import validation

BATCH_NUMBERS = 2_000_000
"""Numbers in the Gram matrices of a batch of chains."""

MOST_TOGETHER = 10_000_000
"""Numbers in the Gram matrices of own plates that cross each other: 80 MB."""


class Marginals:
    """Densities by group of a conditionally linear-Gaussian model. Built once, with a pass over the rows.

    Args:
        affine: what the model is linear-Gaussian in, on data of float64.
    """

    def __init__(self, affine: Affine) -> None:
        if affine.slots:
            raise NotAffine(f"rows read several groups of {wording.quoted(list(affine.slots))}")
        self.affine, self.composed, self.data = affine, affine.composed, affine.composed.data
        self.parts = {part.plate: part for part in self.composed.parts if part.plate is not None}
        population = next((part for part in self.composed.parts if part.plate is None), None)
        self._columns: dict[str | None, range] = {}  # then come columns of held coefficients, and the response
        start = 0
        for part in [*self.parts.values(), *([] if population is None else [population])]:
            self._columns[part.plate] = range(start, start := start + part.width)
        self._width = start + len(affine.held) + 1
        finest_first = sorted(self.parts, key=self.data.size, reverse=True)
        of_row, first = cells([self.data[plate].cpu().numpy() for plate in finest_first], self.data.n_rows)
        self.codes = {plate: self.data[plate][torch.from_numpy(first).to(self.data.device)] for plate in self.parts}
        self.cells = len(first)
        with torch.no_grad(), validation(False):
            self._reader = Reader(affine, tuple(self.parts.values()), (), population)
            self._sum(torch.from_numpy(of_row).to(self.data.device))

    def log_group(self, values: Mapping[str, Tensor], plate: str) -> Tensor:
        """log p(y_j | rest, all latents but those of group j and of groups in it), `(chains, groups)`; 0 without rows.

        Args:
            values: of all latents, `(chains, size, *event)`; those that are integrated out make no difference.
            plate: a grouping over which a latent varies.

        Raises:
            NotAffine: if groups depend on each other given all else, or if own plates cross with too many effects.
        """
        chain, together = self._own(plate)
        width = sum(self.parts[name].width for name in [*chain, *together]) + 1
        numbers = self.cells * (width * width + self._width)
        if together:
            numbers = max(numbers, self.parts[plate].size * self._places(together)[0] ** 2)
        size = max(1, BATCH_NUMBERS // numbers)
        chains = next(iter(values.values())).shape[0]
        batches = ({name: x[i : i + size] for name, x in values.items()} for i in range(0, chains, size))
        return torch.cat([self._log_group(batch, chain, together) for batch in batches])

    def _sum(self, of_row: Tensor) -> None:
        """Sums by cell of w / s^2 a b, of w, and of w (log s + log(2 pi) / 2), from one pass over the rows."""
        strata, width, zeros = len(self.affine.strata), self._width, self.affine.composed.like.new_zeros
        self.grams = zeros(strata, width, width, self.cells)
        self.weight, self.log_scale = zeros(strata, self.cells), zeros(self.cells)
        seen = 0
        for rows in chunks(self.data, width + 4):
            cell = of_row[seen : seen + rows.n_rows]
            seen += rows.n_rows
            read = self._reader.read(rows)
            self.log_scale.index_add_(0, cell, read.log_scale)
            self.weight.index_add_(1, cell, read.weight)
            for s, precision in enumerate(read.precision):
                weighted = read.dense * precision
                for k in range(width):
                    self.grams[s, k, k:].index_add_(1, cell, weighted[k] * read.dense[k:])
        for k in range(width):
            self.grams[:, k + 1 :, k] = self.grams[:, k, k + 1 :]

    def _own(self, plate: str) -> tuple[list[str], list[str]]:
        """A plate and those nested in it: from the finest up while each nests in all that follow; and the others, which
        cross each other within groups of `plate`. The last of all is `plate`.
        """
        nests, size = self.data.nests, self.data.size(plate)
        if plate not in self.parts:
            raise NotAffine(f"no effects vary over {plate!r}; they do over: {', '.join(self.parts) or 'no grouping'}")
        left = sorted((n for n in self.parts if nests(n, plate)), key=lambda n: (n == plate, -self.parts[n].size))
        chain = []
        while left and all(nests(left[0], coarser) for coarser in left[1:]):
            chain.append(left.pop(0))
        if left and (numbers := size * self._places(left)[0] ** 2) > MOST_TOGETHER:
            raise NotAffine(
                f"the groupings {wording.quoted(left[:-1])} cross each other within {plate!r}; integrating their "
                f"effects out takes matrices of {numbers:,} numbers, more than {MOST_TOGETHER:,}"
            )
        return chain, left

    def _places(self, together: Sequence[str]) -> tuple[int, dict[str, Tensor]]:
        """Columns for all effects in a group of the last plate and for r: their largest number, and plate -> the first
        column of each of its groups, `(groups,)`.
        """
        width, first = 0, {}
        for plate in together:
            parent = self.data.parents(plate, together[-1])
            count = torch.bincount(parent)
            order = parent.argsort(stable=True)  # .argsort(): from groups to places in it
            rank = order.argsort() - (count.cumsum(0) - count)[parent]  # among the groups of the same parent
            first[plate] = width + rank * self.parts[plate].width
            width += int(count.max()) * self.parts[plate].width
        return width + 1, first

    def _log_group(self, values: Mapping[str, Tensor], chain: Sequence[str], together: Sequence[str]) -> Tensor:
        chains = next(iter(values.values())).shape[0]
        own, factors = [*chain, *together], self.affine.factors(values, chains)
        gram = self._shrunk(own, self._known(own, values), factors.square().reciprocal())
        total = -(self.weight.mT @ factors.log()) - self.log_scale.unsqueeze(1)  # (cells, chains)
        codes, start = self.codes, 0
        for plate in own:
            spread = self._coordinates(self.parts[plate], values, self.affine.roots(self.parts[plate], values, chains))
            gram = _turned(gram, spread if spread.shape[2] == 1 else spread[:, :, codes[plate]], start)
            start += len(spread)
        for i, plate in enumerate(chain):
            gram, total = (_sum_by(x, codes[plate], self.parts[plate].size) for x in (gram, total))
            codes = {coarser: self.data.parents(plate, coarser) for coarser in own[i + 1 :]}
            gram, total = _eliminated(gram, total, self.parts[plate].width)
        if together:
            gram = self._side_by_side(gram, together, codes)
            total = _sum_by(total, codes[own[-1]], self.parts[own[-1]].size)
            gram, total = _eliminated(gram, total, len(gram) - 1)
        return (total - 0.5 * gram[0, 0]).mT

    def _coordinates(self, part: Part, values: Mapping[str, Tensor], innovations: Tensor) -> Tensor:
        """Coefficients of a part's columns as they were summed, of innovations `(K, m, groups, chains)`."""
        turned = self.affine.turned(part, values, innovations.shape[-1])
        x = innovations if turned is None else product(turned, innovations)
        if part.plate is None:
            x = x - self._reader.shift[:, None, None, None]
        return product(self._reader.bases[part.plate][:, :, None, None], x)

    def _known(self, own: Sequence[str], values: Mapping[str, Tensor]) -> dict[int, Tensor]:
        """r as a combination of columns that are not integrated: column -> `(cells or 1, chains)`."""
        chains = next(iter(values.values())).shape[0]
        integrated, found = {name for plate in own for name in self.parts[plate].events}, dict[int, Tensor]()
        for part in (part for part in self.composed.parts if part.plate not in own):
            innovations = {}
            for name, event in part.events.items():
                read: set[str] = set()
                mean = self.composed.model.prior(name, Values(values, self.composed.names, read), self.data).mean
                if moving := sorted(read & integrated):
                    raise NotAffine(
                        f"the prior of {name!r} reads {moving[0]!r}, which ties the groups of {own[-1]!r} to each other"
                    )
                innovations[name] = values[name] - mean.expand(chains, part.size, *event)
            x = self._coordinates(part, values, part.join(innovations).unsqueeze(1)).squeeze(1)  # (K, groups, chains)
            for column, coefficient in zip(self._columns[part.plate], x, strict=True):
                found[column] = -coefficient if part.plate is None else -coefficient[self.codes[part.plate]]
        held = self._reader.held_shift.unsqueeze(1) - self.affine.coefficients(values, chains)
        found |= {self._width - 1 - len(held) + i: x.unsqueeze(0) for i, x in enumerate(held)}
        return found | {self._width - 1: held.new_ones(1, chains)}

    def _shrunk(self, own: Sequence[str], known: Mapping[int, Tensor], precision: Tensor) -> Tensor:
        """Gram matrices of [Z of own plates | r], `(q, q, cells, chains)`."""
        columns = [column for plate in own for column in self._columns[plate]]
        own_own = self.grams[:, columns][:, :, columns].movedim(0, -1) @ precision

        def with_r(column: int) -> Tensor:
            terms = [self.grams[:, column, other].mT @ precision * x for other, x in known.items()]
            return sum(terms[1:], terms[0])  # (cells, chains)

        own_r = torch.stack([with_r(column) for column in columns]).unsqueeze(1)
        r_r = torch.stack([with_r(column) * x for column, x in known.items()]).sum(0)
        return torch.cat([torch.cat([own_own, own_r], 1), torch.cat([own_r.transpose(0, 1), r_r[None, None]], 1)])

    def _side_by_side(self, gram: Tensor, together: Sequence[str], codes: Mapping[str, Tensor]) -> Tensor:
        """Gram matrices `(q, q, units, chains)` put into those of the last plate's groups, `(Q, Q, groups, chains)`."""
        width, first = self._places(together)
        group = codes[together[-1]]
        at = [first[plate][codes[plate]] + k for plate in together for k in range(self.parts[plate].width)]
        at.append(torch.full_like(group, width - 1))
        flat = gram.new_zeros(self.parts[together[-1]].size * width * width, gram.shape[-1])
        for a, row in zip(at, gram, strict=True):
            for b, entry in zip(at, row, strict=True):
                flat.index_add_(0, (group * width + a) * width + b, entry)
        return flat.unflatten(0, (-1, width, width)).movedim(0, 2)


def _sum_by(x: Tensor, codes: Tensor, groups: int) -> Tensor:
    """Sums of `(.., units, chains)` by group, `(.., groups, chains)`."""
    if len(codes) == groups and bool((codes[1:] > codes[:-1]).all()):
        return x
    return x.new_zeros(*x.shape[:-2], groups, x.shape[-1]).index_add_(x.dim() - 2, codes, x)


def _turned(gram: Tensor, spread: Tensor, start: int) -> Tensor:
    """Gram matrices with columns Z from `start` on replaced by Z C."""
    end = start + len(spread)

    def rows(x: Tensor) -> Tensor:
        return torch.cat([x[:start], product(spread, x[start:end], transpose=True), x[end:]])

    return rows(rows(gram).transpose(0, 1))


def _eliminated(gram: Tensor, total: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Gram matrices and log densities once standard normal coefficients of the first columns are integrated out."""
    lower = plus_identity(gram[:width, :width])
    half = solve_lower(lower, gram[:width, width:])
    return gram[width:, width:] - product(half, half, transpose=True), total - log_diagonal(lower)
