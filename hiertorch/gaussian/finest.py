"""The finest level of effects, which has nearly all of the groups: eliminated at a cost that does not depend on their
number where they are alike, and without a loss of digits.

Note [Within and between]
G - G_.l S G_l. is a difference of large numbers where effects are large beside the noise of rows. At the finest level,
with G_ll = W Z, Z = U'U and g = U'^-1 G_l. / W (pseudo-inverses for groups of too few rows), it is instead a sum of
what varies within groups and between them, both of them squares:

    W (G - g'g) + W g' (I + W U C C' U')^-1 g.

(Not with several strata of rows, whose Z is no fixed matrix times W.)

Note [Equal groups share work]
At the finest level what is inverted depends on a group only through Z: with one effect a group, through its number of
rows. So it is computed for each *class* of groups with equal Z, and the sum over groups is a matrix, computed once,
times the vector of the classes' inverses. All tensors carry the batch in their last axis.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from hiertorch.gaussian.cholesky import factor, inverse, log_diagonal, packed, product, solve_lower, square_index
from hiertorch.gaussian.grams import Grams
from hiertorch.runtime.silence import quiet

__all__ = ["Finest", "around", "identity_plus", "matrix_of", "plus_identity"]

SPARSE_BELOW = 0.2
"""Share of entries that are not 0, below which a matrix is kept sparse."""

RANK = 1e-12
"""Eigenvalues below this part of the largest are taken for 0, as is what varies within groups below it."""

ROUNDED = 2.0**-40
"""Gram matrices that differ by less than this part of the largest are taken for equal."""


class Finest:
    """Sums of products of the finest level, arranged for its elimination; see Notes [Within and between], [Equal groups
    share work].

    Args:
        grams: the sums.
        alike: whether the prior of its effects has the same spread in all groups.
    """

    def __init__(self, grams: Grams, *, alike: bool) -> None:
        self.grams = grams
        self.strata, _, self.groups = grams.packed.shape
        self.index = square_index(grams.width, grams.packed.device)
        self.width = grams.levels[0].width if grams.levels else 0
        if grams.levels:
            self._classify(alike=alike)
        self.base, self._transfer = self._first_level()

    def eliminated(self, spread: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
        """Half the log determinants of A, summed over groups `(batch,)`, and the targets left `(n, batch)`, given
        C `(K, K, groups or 1, batch)` and W `(strata, batch)`.
        """
        if self.strata > 1:
            halves, change = self._taken(spread, precision)
        elif self.width == 2 and spread.shape[2] == 1 and self._two is not None:
            halves, change = self._between_two(spread[:, :, 0], precision)
        else:
            halves, change = self._between(spread, precision)
        return self.members @ halves, self.base.mT @ precision + change

    def _classify(self, *, alike: bool) -> None:
        """Classes of groups with equal Gram matrices at the finest level."""
        k = self.width
        own = torch.stack([self._pair(i, j) for i in range(k) for j in range(i, k)], 1).flatten(0, 1)  # (strata KK, J)
        unit = (own.abs().amax() * ROUNDED).clamp(min=torch.finfo(own.dtype).tiny)
        keys, of_group = torch.unique((own / unit).round(), dim=1, return_inverse=True)
        if not alike or keys.shape[1] > self.groups // 2:
            of_group = torch.arange(self.groups, device=own.device)
        self.classes = int(of_group.max()) + 1
        first = torch.empty(self.classes, dtype=torch.long, device=own.device)
        first[of_group.flip(0)] = torch.arange(self.groups - 1, -1, -1, device=own.device)
        self.of_group = of_group
        self.members = torch.bincount(of_group, minlength=self.classes).to(own.dtype)
        self.own = own[:, first].unflatten(0, (self.strata, -1))  # (strata, KK, classes)
        if self.strata == 1:
            z = self.own[0][square_index(k, own.device)].movedim(2, 0)  # (classes, K, K)
            values, vectors = torch.linalg.eigh(z)
            values = torch.where(values > RANK * values.amax(1, keepdim=True), values, 0.0)
            self.determinant = values.prod(1)  # of Z, (classes,)
            roots = values.sqrt()
            self.root = (roots.unsqueeze(2) * vectors.mT).movedim(0, 2)  # U, (K, K, classes)
            self.inverse = (torch.where(roots > 0, 1.0 / roots, 0.0).unsqueeze(2) * vectors.mT).movedim(
                0, 2
            )  # U'^-1, (K, K, classes)
            # U covariance U' of all classes as one matrix times the packed covariance, (pairs classes, pairs).
            ab = [(a, b) for a in range(k) for b in range(a, k)]
            u = self.root
            self.outer = torch.stack(
                [
                    torch.stack([u[i, a] * u[j, b] + (u[i, b] * u[j, a] if a < b else 0.0) for a, b in ab], -1)
                    for i, j in ab
                ]
            ).flatten(0, 1)

    def _columns(self, own: Tensor, group: Tensor | None = None) -> Tensor:
        """g, from products `(strata, K, groups)` with the finest level's columns, or `(strata, K, n)` of groups."""
        if self.strata > 1:
            return own
        of = self.of_group if group is None else self.of_group[group]
        return product(self.inverse[:, :, of], own[0].unsqueeze(1)).squeeze(1).unsqueeze(0)

    def _pair(self, a: int, b: int) -> Tensor:
        """Sums of products of two dense columns, `(strata, groups)`."""
        return self.grams.packed[:, self.index[min(a, b), max(a, b)]]

    def _first_level(self) -> tuple[Tensor, list[Tensor]]:
        """What the finest level leaves: base `(strata, targets)`, and a transfer matrix `(targets, classes)` a source.

        Targets are pairs of the columns that are left, for each parent group; sources are pairs of the finest level's
        columns, for each class:

            targets = W base + transfer @ sources,          sources = W (I + W U C C' U')^-1,
            targets = sum_s W_s base_s - transfer @ sources,  sources = W_s W_t S  with several strata.
        """
        if not self.grams.levels:
            return self.grams.packed.sum(2), []
        base, transfer = self._first_level_crossed() if self.grams.crossed else self._first_level_nested()
        if self.strata > 1:
            return base, transfer
        k = self.width
        ones = base.new_ones(self.classes)
        between = [
            matrix @ ones
            for matrix, own in zip(transfer, [i == j for i in range(k) for j in range(i, k)], strict=True)
            if own
        ]
        within = base[0] - sum(between[1:], between[0])
        size = self.square(base.mT)[..., 0].diagonal().mT.abs().sqrt()  # (q, groups)
        square = self.square(within.unsqueeze(1))[..., 0]
        nothing = square.abs() <= RANK * size * size.unsqueeze(1)
        own = nothing.diagonal().mT
        square = torch.where(nothing | own | own.unsqueeze(1), 0.0, square)
        return self._flat(square.unsqueeze(3)).mT, transfer

    def _first_level_nested(self) -> tuple[Tensor, list[Tensor]]:
        """The two where all coarser plates are levels."""
        grams = self.grams
        k, width = self.width, grams.width
        left = [(a, b) for a in range(k, width) for b in range(a, width)]
        parent = grams.parents[0] if grams.parents else torch.zeros_like(self.of_group)
        groups = int(grams.levels[1].size) if grams.parents else 1
        base = torch.stack([_sum_by(self._pair(a, b), parent, groups) for a, b in left], 1).flatten(1)
        cells, where = torch.unique(parent * self.classes + self.of_group, return_inverse=True)
        columns = [(s, i) for s in range(self.strata) for i in range(k)]
        g = {
            (s, i, a): x[s, i]
            for a in range(k, width)
            for x in [self._columns(torch.stack([self._pair(i, a) for i in range(k)], 1))]
            for s, i in columns
        }
        rows = torch.arange(len(left), device=base.device)[:, None] * groups + cells // self.classes
        shape, transfer = (len(left) * groups, self.classes), []
        for x, (s, i) in enumerate(columns):
            for t, j in columns[x:]:
                products = []
                for a, b in left:
                    both = g[s, i, a] * g[t, j, b]
                    products.append(both if (s, i) == (t, j) else both + g[t, j, a] * g[s, i, b])
                values = _sum_by(torch.stack(products), where, len(cells))  # (left, cells)
                transfer.append(matrix_of(rows, (cells % self.classes).expand_as(rows), values, shape))
        return base, transfer

    def _first_level_crossed(self) -> tuple[Tensor, list[Tensor]]:
        """The two where all other plates stand in the root: targets are entries of its full Gram matrix."""
        grams, k, tail = self.grams, self.width, self.grams.tail
        assert grams.entries is not None and grams.cross is not None
        n = grams.n_crossed
        width = n + tail
        base = grams.packed.new_zeros(self.strata, width, width)
        base[:, :n] = grams.cross
        base[:, n:, :n] = grams.cross[:, :, n:].mT
        summed = grams.packed.sum(2)
        for a in range(tail):
            for b in range(tail):
                base[:, n + a, n + b] = summed[:, self.index[k + min(a, b), k + max(a, b)]]
        device = base.device
        every = torch.arange(self.groups, device=device)
        dense = torch.stack([torch.stack([self._pair(i, k + a) for i in range(k)], 1) for a in range(tail)], -1)
        group = torch.cat([grams.entries.group, every.repeat_interleave(tail)])
        column = torch.cat([grams.entries.column, n + torch.arange(tail, device=device).repeat(self.groups)])
        value = torch.cat([grams.entries.values, dense.flatten(2)], 2)
        value = self._columns(value, group).flatten(0, 1)  # (strata K, entries)
        order = group.argsort(stable=True)
        group, column, value = group[order], column[order], value[:, order]
        # Every pair of entries of one group: its first entry repeated once for each of the group's entries.
        count = torch.bincount(group, minlength=self.groups)
        times = count[group]
        left = torch.arange(len(group), device=device).repeat_interleave(times)
        start = (count.cumsum(0) - count)[group].repeat_interleave(times)
        within = torch.arange(len(left), device=device) - (times.cumsum(0) - times).repeat_interleave(times)
        right = start + within
        of_pair, rows = self.of_group[group[left]], column[left] * width + column[right]
        transfer = []
        for x in range(len(value)):
            for y in range(x, len(value)):
                both = value[x, left] * value[y, right]
                both = both if x == y else both + value[y, left] * value[x, right]
                transfer.append(matrix_of(rows, of_pair, both, (width * width, self.classes)))
        return base.flatten(1), transfer

    def inner(self, spread: Tensor, precision: Tensor, only: Tensor | None = None) -> Tensor:
        """A = I + C' W Z C of the finest level packed, `(pairs, classes, batch)`, or that of some groups."""
        k = self.width
        every = self.own if only is None else self.own[:, :, self.of_group[only]]
        spread = spread if only is None or spread.shape[2] == 1 else spread[:, :, only]
        own = every.movedim(0, -1) @ precision if self.strata > 1 else every[0]
        if self.strata > 1 or spread.shape[2] > 1:
            own = own if self.strata > 1 else own.unsqueeze(2) * precision
            return _one_plus(packed(around(spread, own[square_index(k, own.device)])), None, k)
        return _one_plus(_sandwich(own.mT, spread[:, :, 0].transpose(0, 1)), precision, k)

    def _between(self, spread: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
        """Half the log determinants by class, and what the targets have from between groups."""
        k = self.width
        if spread.shape[2] > 1:
            spread = product(self.root.unsqueeze(3), spread)  # U C
            inner = packed(product(spread, spread.transpose(0, 1)))
        else:
            covariance = packed(product(spread[:, :, 0], spread[:, :, 0].transpose(0, 1)))
            inner = (self.outer @ covariance).unflatten(0, (-1, self.classes))
        entries, halves = inverse(_one_plus(inner, precision, k), k)
        return halves, self._transferred(entries) * precision

    @cached_property
    def _two(self) -> tuple[Tensor, Tensor] | None:
        """Of two effects a group with one covariance S: the determinants of A as a matrix `(classes, 5)` times
        (1, W S11, W S12, W S22, W^2 |S|), and what the targets have from between groups as matrices
        `(4, targets, classes)` times 1 / |A|, which belong to the first four of these. None where they are sparse.

        The inverse of a 2 x 2 matrix is its adjugate, linear in its entries, over its determinant.
        """
        if any(matrix.layout != torch.strided for matrix in self._transfer):
            return None
        z, (t00, t01, t11) = self.own[0], self._transfer
        ones = torch.ones_like(self.determinant)
        determinants = torch.stack([ones, z[0], 2.0 * z[1], z[2], self.determinant], 1)
        inner = self.outer.unflatten(0, (3, self.classes)).transpose(1, 2)  # U S U': (pairs, S11 S12 S22, classes)
        changes = [t00 * b - t01 * c + t11 * a for a, c, b in zip(*inner, strict=True)]
        return determinants, torch.stack([t00 + t11, *changes])

    def _between_two(self, spread: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
        """As `_between`, in one pass over classes with each of the two matrices."""
        assert self._two is not None
        matrix, changes = self._two
        s = packed(product(spread, spread.transpose(0, 1))) * precision
        root = (spread[0, 0] * spread[1, 1] - spread[0, 1] * spread[1, 0]) * precision  # W |S|^(1/2)
        features = torch.cat([torch.ones_like(root), s, root.square()])
        determinants = matrix @ features
        between = (changes.flatten(0, 1) @ determinants.reciprocal()).unflatten(0, (4, -1))
        return 0.5 * determinants.log(), (between * features[:4].unsqueeze(1)).sum(0) * precision

    def _transferred(self, sources: Sequence[Tensor]) -> Tensor:
        """The transfer matrices times their sources, summed."""
        parts = [matrix @ source for matrix, source in zip(self._transfer, sources, strict=True)]
        return sum(parts[1:], parts[0])

    def _taken(self, spread: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
        """Half the log determinants by class, and what eliminating the finest level takes from the targets."""
        lower = factor(self.inner(spread, precision), self.width)
        half = solve_lower(lower, spread.transpose(0, 1).expand(lower.shape))
        inner = product(half, half, transpose=True)  # S
        columns = [(s, i) for s in range(self.strata) for i in range(self.width)]
        sources = [
            precision[s] * precision[t] * inner[i, j] for x, (s, i) in enumerate(columns) for t, j in columns[x:]
        ]
        return log_diagonal(lower), -self._transferred(sources)

    def _flat(self, gram: Tensor) -> Tensor:
        """The inverse of `_square`."""
        if self.grams.crossed:
            return gram.flatten(0, 2)
        return packed(gram).flatten(0, 1)

    def square(self, targets: Tensor) -> Tensor:
        """Targets `(n, batch)` as the Gram matrix of what is left, `(q, q, groups, batch)`."""
        if self.grams.crossed:
            width = self.grams.n_crossed + self.grams.tail
            return targets.unflatten(0, (width, width)).unsqueeze(2)
        left = self.grams.width - self.width
        return targets.unflatten(0, (left * (left + 1) // 2, -1))[square_index(left, targets.device)]


def identity_plus(matrix: Tensor) -> Tensor:
    """I + matrix."""
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return matrix + eye.reshape(*eye.shape, *(1,) * (matrix.dim() - 2))


def plus_identity(matrix: Tensor) -> Tensor:
    """Cholesky factor of I + matrix."""
    return factor(identity_plus(matrix))


def around(spread: Tensor, own: Tensor) -> Tensor:
    """C' G C."""
    return product(spread, product(own, spread), transpose=True)


def _one_plus(entries: Tensor, precision: Tensor | None, size: int) -> Tensor:
    """I + matrix, or I + W matrix, of packed entries."""
    ones = [float(i == j) for i in range(size) for j in range(i, size)]
    diagonal = torch.tensor(ones, dtype=entries.dtype, device="cpu").to(entries.device).reshape(-1, 1, 1)
    return diagonal + entries if precision is None else torch.addcmul(diagonal, entries, precision)


def _sandwich(own: Tensor, left: Tensor) -> Tensor:
    """left own left' of all classes: own packed `(classes, pairs)`, left `(K, K, batch)`; `(pairs, classes, batch)`."""
    size = len(left)
    ab = [(a, b) for a in range(size) for b in range(a, size)]
    columns = [
        torch.stack([left[i, a] * left[j, b] + (left[i, b] * left[j, a] if a < b else 0.0) for a, b in ab])
        for i, j in ab
    ]
    return (own @ torch.cat(columns, 1)).unflatten(1, (len(ab), -1)).transpose(0, 1)


def _sum_by(terms: Tensor, group: Tensor, groups: int) -> Tensor:
    """Sums over the last axis by group."""
    if groups == 1:
        return terms.sum(-1, keepdim=True)
    return terms.new_zeros(*terms.shape[:-1], groups).index_add_(-1, group, terms)


def matrix_of(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A matrix of these entries (summed where they meet), sparse if most of it is 0."""
    rows, columns, values = rows.flatten(), columns.flatten(), values.flatten()
    if len(values) > SPARSE_BELOW * shape[0] * shape[1]:
        dense = values.new_zeros(shape[0] * shape[1])
        return dense.index_add_(0, rows * shape[1] + columns, values).unflatten(0, shape)
    with quiet(".*[Ss]parse.*"):  # that this part of torch is in beta
        return torch.sparse_coo_tensor(torch.stack([rows, columns]), values, shape).coalesce().to_sparse_csr()
