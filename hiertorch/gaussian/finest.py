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

docs/decisions.md: Within and between.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.gaussian.cholesky import (
    UNROLLED,
    around,
    factor,
    inverse,
    log_diagonal,
    packed,
    product,
    solve_lower,
    square_index,
)
from hiertorch.gaussian.grams import Grams
from hiertorch.gaussian.transfer import of_crossed, of_nested, of_root

RANK = 1e-12
"""Eigenvalues below this part of the largest are taken for 0, as is what varies within groups below it."""

ROUNDED = 2.0**-40
"""Gram matrices that differ by less than this part of the largest are taken for equal."""


class FinestSums(NamedTuple):
    """All that the finest level knows of the response and the weights of rows."""

    packed: Tensor  # see `Grams`, (strata, pairs, groups)
    members: Tensor  # groups of each class, (classes,)
    own: Tensor  # W Z at W = 1, (strata, pairs of K, classes)
    determinant: Tensor  # of Z, (classes,); this and the next three with one stratum alone
    root: Tensor  # U, (K, K, classes)
    inverse: Tensor  # U'^-1, (K, K, classes)
    outer: Tensor  # U S U' of all classes as a matrix that is multiplied by the packed S, (pairs classes, pairs)
    base: Tensor  # (strata, targets); this and the next see `hiertorch.gaussian.transfer`
    transfer: tuple[Tensor, ...]  # each (targets, classes); of many effects side by side
    two: tuple[Tensor, ...]  # see `_two`


class Finest:
    """Sums of products of the finest level, arranged for its elimination; see Notes [Within and between], [Equal groups
    share work].

    Args:
        grams: the sums.
        alike: whether the prior of its effects has the same spread in all groups.
        eliminates: whether it is asked for `eliminated`, which needs the most of what is arranged.
        dense: whether all matrices are kept dense, so that `torch.vmap` can make them.
    """

    def __init__(self, grams: Grams, *, alike: bool, eliminates: bool = True, dense: bool = False) -> None:
        self.grams, self.dense = grams, dense
        self.strata, _, self.groups = grams.packed.shape
        self.index = square_index(grams.width, grams.packed.device)
        self.width = grams.levels[0].width if grams.levels else 0
        self.classes = 0
        none = grams.packed.new_zeros(0)
        base = of_root(grams) if grams.crossed and not grams.levels else grams.left.sum(2)
        self.sums = FinestSums(grams.packed, none, none, none, none, none, none, base, (), ())
        if grams.levels:
            self._classify(alike=alike)
        if grams.levels and eliminates:
            base, transfer = self._first_level()
            if self.width > UNROLLED and all(x.layout == torch.strided for x in transfer):
                transfer = [torch.cat(transfer, 1)]  # one product of matrices for all pairs
            self.sums = self.sums._replace(base=base, transfer=tuple(transfer))
        if (
            eliminates
            and self.strata == 1
            and self.width == 2
            and all(x.layout == torch.strided for x in self.sums.transfer)
        ):
            self.sums = self.sums._replace(two=self._two())

    def given(self, sums: FinestSums) -> "Finest":
        """The same of another response or other weights."""
        new = copy.copy(self)
        new.sums = sums
        return new

    def eliminated(self, spread: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
        """Half the log determinants of A, summed over groups `(batch,)`, and the targets left `(n, batch)`, given
        C `(K, K, groups or 1, batch)` and W `(strata, batch)`.
        """
        base = self.sums.base.mT @ precision
        if self.strata > 1:
            halves, targets = self._taken(spread, precision, base)
        elif self.sums.two and spread.shape[2] == 1:
            halves, targets = self._between_two(spread[:, :, 0], precision, base)
        else:
            halves, targets = self._between(spread, precision, base)
        return self.sums.members @ halves, targets

    def _classify(self, *, alike: bool) -> None:
        """Classes of groups with equal Gram matrices at the finest level."""
        k = self.width
        own = torch.stack([self.grams.pair(i, j) for i in range(k) for j in range(i, k)], 1).flatten(0, 1)
        of_group = torch.arange(self.groups, device=own.device)
        if alike:
            unit = (own.abs().amax() * ROUNDED).clamp(min=torch.finfo(own.dtype).tiny)  # own: (strata pairs, groups)
            keys = (own / unit).round()
            if len(keys) == 1:  # ten times as fast as the same along an axis
                distinct, equal = torch.unique(keys[0], return_inverse=True)
                number = len(distinct)
            else:
                distinct, equal = torch.unique(keys, dim=1, return_inverse=True)
                number = distinct.shape[1]
            of_group = of_group if number > self.groups // 2 else equal
        self.classes, self.of_group = int(of_group.max()) + 1, of_group
        first = torch.empty(self.classes, dtype=torch.long, device=own.device)
        first[of_group.flip(0)] = torch.arange(self.groups - 1, -1, -1, device=own.device)
        members = torch.bincount(of_group, minlength=self.classes).to(own.dtype)
        own = own[:, first].unflatten(0, (self.strata, -1))
        self.sums = self.sums._replace(members=members, own=own)
        if self.strata > 1:
            return
        if k == 1:
            values, vectors = own[0].mT, torch.ones_like(own[0].mT.unsqueeze(2))
        else:
            values, vectors = torch.linalg.eigh(own[0][square_index(k, own.device)].movedim(2, 0))  # Z: (classes, K, K)
        values = torch.where(values > RANK * values.amax(1, keepdim=True), values, 0.0)
        roots = values.sqrt()
        u = (roots.unsqueeze(2) * vectors.mT).movedim(0, 2)
        inverted = (torch.where(roots > 0, 1.0 / roots, 0.0).unsqueeze(2) * vectors.mT).movedim(0, 2)
        outer = _congruence(u, classes_last=True)
        self.sums = self.sums._replace(determinant=values.prod(1), root=u, inverse=inverted, outer=outer)

    def _columns(self, own: Tensor, group: Tensor | None) -> Tensor:
        """g, from products `(strata, K, groups)` with the finest level's columns, or `(strata, K, n)` of groups."""
        if self.strata > 1:
            return own
        of = self.of_group if group is None else self.of_group[group]
        return product(self.sums.inverse[:, :, of], own[0].unsqueeze(1)).squeeze(1).unsqueeze(0)

    def _first_level(self) -> tuple[Tensor, list[Tensor]]:
        """Base and transfer matrices, with what varies between groups taken out of the base."""
        given = self.grams, self._columns, self.of_group, self.classes
        base, transfer = of_crossed(*given) if self.grams.crossed else of_nested(*given, dense=self.dense)
        if self.strata > 1:
            return base, transfer
        k, ones = self.width, base.new_ones(self.classes)
        squares = [i == j for i in range(k) for j in range(i, k)]
        between = [matrix @ ones for matrix, own in zip(transfer, squares, strict=True) if own]
        within = base[0] - sum(between[1:], between[0])
        size = self.square(base.mT)[..., 0].diagonal().mT.abs().sqrt()  # (q, groups)
        square = self.square(within.unsqueeze(1))[..., 0]
        nothing = square.abs() <= RANK * size * size.unsqueeze(1)
        own = nothing.diagonal().mT
        square = torch.where(nothing | own | own.unsqueeze(1), 0.0, square).unsqueeze(3)
        flat = square.flatten(0, 2) if self.grams.crossed else packed(square).flatten(0, 1)  # `square` undone
        return flat.mT, transfer

    def inner(self, spread: Tensor, precision: Tensor, only: Tensor | None = None) -> Tensor:
        """A = I + C' W Z C of the finest level packed, `(pairs, classes, batch)`, or that of some groups."""
        k = self.width
        every = self.sums.own if only is None else self.sums.own[:, :, self.of_group[only]]
        spread = spread if only is None or spread.shape[2] == 1 else spread[:, :, only]
        own = every.movedim(0, -1) @ precision if self.strata > 1 else every[0]
        if self.strata > 1 or spread.shape[2] > 1:
            own = own if self.strata > 1 else own.unsqueeze(2) * precision
            return _one_plus(packed(around(spread, own[square_index(k, own.device)])), None, k)
        turned = own.mT @ _congruence(spread[:, :, 0].transpose(0, 1), classes_last=False)
        return _one_plus(turned.unflatten(1, (len(own), -1)).transpose(0, 1), precision, k)

    def _between(self, spread: Tensor, precision: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """Half the log determinants by class, and the targets: base, and what they have from between groups."""
        k = self.width
        if spread.shape[2] > 1:
            spread = product(self.sums.root.unsqueeze(3), spread)  # U C
            inner = packed(product(spread, spread.transpose(0, 1)))
        else:
            covariance = packed(product(spread[:, :, 0], spread[:, :, 0].transpose(0, 1)))
            inner = (self.sums.outer @ covariance).unflatten(0, (-1, self.classes))
        entries, halves = inverse(_one_plus(inner, precision, k), k)
        return halves, self._transferred([x * precision for x in entries], base)

    def _two(self) -> tuple[Tensor, Tensor]:
        """Of two effects a group with one covariance S: the determinants of A as a matrix `(classes, 5)` times
        (1, W S11, W S12, W S22, W^2 |S|), and what the targets have from between groups as matrices
        `(4, targets, classes)` times 1 / |A|, which belong to the first four of these.

        The inverse of a 2 x 2 matrix is its adjugate, linear in its entries, over its determinant.
        """
        z, (t00, t01, t11), determinant = self.sums.own[0], self.sums.transfer, self.sums.determinant
        determinants = torch.stack([torch.ones_like(determinant), z[0], 2.0 * z[1], z[2], determinant], 1)
        inner = self.sums.outer.unflatten(0, (3, self.classes)).transpose(1, 2)  # (pairs, S11 S12 S22, classes)
        changes = [t00 * b - t01 * c + t11 * a for a, c, b in zip(*inner, strict=True)]
        return determinants, torch.stack([t00 + t11, *changes])

    def _between_two(self, spread: Tensor, precision: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """As `_between`, in one pass over classes with each of the two matrices."""
        matrix, changes = self.sums.two
        s = packed(product(spread, spread.transpose(0, 1))) * precision
        root = (spread[0, 0] * spread[1, 1] - spread[0, 1] * spread[1, 0]) * precision  # W |S|^(1/2)
        features = torch.cat([torch.ones_like(root), s, root.square()])
        determinants = matrix @ features
        between = (changes.flatten(0, 1) @ determinants.reciprocal()).unflatten(0, (4, -1))
        return 0.5 * determinants.log(), base + (between * features[:4].unsqueeze(1)).sum(0) * precision

    def _transferred(self, sources: Sequence[Tensor], base: Tensor) -> Tensor:
        """The transfer matrices times their sources, summed up with the base `(targets, batch)`."""
        if len(self.sums.transfer) < len(sources):
            return torch.addmm(base, self.sums.transfer[0], torch.stack(list(sources)).flatten(0, 1))
        for matrix, source in zip(self.sums.transfer, sources, strict=True):
            base = torch.addmm(base, matrix, source) if matrix.layout == torch.strided else base + matrix @ source
        return base

    def _taken(self, spread: Tensor, precision: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """Half the log determinants by class, and the targets: base less what eliminating the finest level takes."""
        lower = factor(self.inner(spread, precision), self.width)
        half = solve_lower(lower, spread.transpose(0, 1).expand(lower.shape))
        inner = product(half, half, transpose=True)  # S
        columns = [(s, i) for s in range(self.strata) for i in range(self.width)]
        sources = [
            -precision[s] * precision[t] * inner[i, j] for x, (s, i) in enumerate(columns) for t, j in columns[x:]
        ]
        return log_diagonal(lower), self._transferred(sources, base)

    def square(self, targets: Tensor) -> Tensor:
        """Targets `(n, batch)` as the Gram matrix of what is left, `(q, q, groups, batch)`."""
        if self.grams.crossed:
            width = self.grams.n_crossed + self.grams.tail
            return targets.unflatten(0, (width, width)).unsqueeze(2)
        left = self.grams.width - self.width
        return targets.unflatten(0, (left * (left + 1) // 2, -1))[square_index(left, targets.device)]


def _one_plus(entries: Tensor, precision: Tensor | None, size: int) -> Tensor:
    """I + matrix, or I + W matrix, of packed entries."""
    ones = [float(i == j) for i in range(size) for j in range(i, size)]
    diagonal = torch.tensor(ones, dtype=entries.dtype, device="cpu").to(entries.device).reshape(-1, 1, 1)
    return diagonal + entries if precision is None else torch.addcmul(diagonal, entries, precision)


def _congruence(left: Tensor, *, classes_last: bool) -> Tensor:
    """left S left' as a linear function of the packed S, for left `(K, K, n)`: a matrix `(pairs n, pairs)` that it is
    multiplied by from the left, or `(pairs, pairs n)` from the right.
    """
    a, b = torch.triu_indices(len(left), len(left), device=left.device)
    i, j = a.unsqueeze(1), b.unsqueeze(1)
    other = (a < b).to(left.dtype).unsqueeze(1) * left[i, b] * left[j, a]
    entries = torch.addcmul(other, left[i, a], left[j, b])  # (pairs of ij, pairs of ab, n)
    return entries.transpose(1, 2).flatten(0, 1) if classes_last else entries.transpose(0, 1).flatten(1)
