"""What the finest level of effects leaves to the levels above it, as matrices that are computed once.

*Targets* are entries of the Gram matrix of the columns that are left, for each parent group. *Sources* are what the
elimination of the finest level gives for each class of its groups (see `hiertorch.gaussian.finest`), one number for
each pair of its columns:

    targets = W base + transfer @ sources,            sources = W (I + W U C C' U')^-1,
    targets = sum_s W_s base_s - transfer @ sources,  sources = W_s W_t S  with several strata.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hiertorch.gaussian.cholesky import square_index
from hiertorch.gaussian.grams import Grams
from hiertorch.runtime.silence import quiet

CHUNK_NUMBERS = 10_000_000
"""Products of columns of all groups that are held at once."""

SPARSE_BELOW = 0.2
"""Share of entries that are not 0, below which a matrix is kept sparse."""

Columns = Callable[[Tensor, Tensor | None], Tensor]
"""g, from products `(strata, K, n)` with the finest level's columns, of all its groups or of groups `(n,)`."""


def of_nested(
    grams: Grams, columns: Columns, of_group: Tensor, classes: int, *, dense: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Base `(strata, targets)` and a transfer matrix `(targets, classes)` a source, where coarser plates are levels.

    Args:
        grams: the sums.
        columns: how the finest level's columns enter.
        of_group: the class of each of its groups, `(groups,)`.
        classes: how many there are.
        dense: whether matrices are kept dense, however many of their entries are 0.
    """
    k, width, strata = grams.levels[0].width, grams.width, len(grams.packed)
    a, b = torch.triu_indices(width - k, width - k, device=of_group.device)
    parent = grams.parents[0] if grams.parents else torch.zeros_like(of_group)
    groups = grams.left.shape[2]
    cells, where = torch.unique(parent * classes + of_group, return_inverse=True)
    g = torch.stack(
        [columns(torch.stack([grams.pair(i, a) for i in range(k)], 1), None).flatten(0, 1) for a in range(k, width)], 1
    )  # (strata K, columns that are left, groups)
    rows = torch.arange(len(a), device=of_group.device)[:, None] * groups + cells // classes
    shape, transfer, some = (len(a) * groups, classes), [], max(1, CHUNK_NUMBERS // len(of_group))
    for x in range(strata * k):
        for y in range(x, strata * k):
            summed = []
            for c, d in zip(a.split(some), b.split(some), strict=True):
                both = g[x, c] * g[y, d]
                summed.append(_sum_by(both if x == y else both + g[y, c] * g[x, d], where, len(cells)))
            values = torch.cat(summed)  # (pairs, cells)
            transfer.append(matrix_of(rows, (cells % classes).expand_as(rows), values, shape, dense=dense))
    return grams.left.flatten(1), transfer


def of_crossed(grams: Grams, columns: Columns, of_group: Tensor, classes: int) -> tuple[Tensor, list[Tensor]]:
    """The same where all other plates stand in the root: targets are entries of its full Gram matrix."""
    k, tail = grams.levels[0].width, grams.tail
    assert grams.entries is not None
    n, groups, device = grams.n_crossed, len(of_group), of_group.device
    width, base = n + tail, of_root(grams)
    dense = torch.stack([torch.stack([grams.pair(i, k + a) for i in range(k)], 1) for a in range(tail)], -1)
    every = torch.arange(groups, device=device)
    group = torch.cat([grams.entries.group, every.repeat_interleave(tail)])
    column = torch.cat([grams.entries.column, n + torch.arange(tail, device=device).repeat(groups)])
    value = torch.cat([grams.entries.values, dense.flatten(2)], 2)
    value = columns(value, group).flatten(0, 1)  # (strata K, entries)
    order = group.argsort(stable=True)
    group, column, value = group[order], column[order], value[:, order]
    # Every pair of entries of one group: its first entry repeated once for each of the group's entries.
    count = torch.bincount(group, minlength=groups)
    times = count[group]
    left = torch.arange(len(group), device=device).repeat_interleave(times)
    start = (count.cumsum(0) - count)[group].repeat_interleave(times)
    within = torch.arange(len(left), device=device) - (times.cumsum(0) - times).repeat_interleave(times)
    right = start + within
    of_pair, rows = of_group[group[left]], column[left] * width + column[right]
    transfer = []
    for x in range(len(value)):
        for y in range(x, len(value)):
            both = value[x, left] * value[y, right]
            both = both if x == y else both + value[y, left] * value[x, right]
            transfer.append(matrix_of(rows, of_pair, both, (width * width, classes)))
    return base, transfer


def of_root(grams: Grams) -> Tensor:
    """The Gram matrix of crossed columns and of those behind them, flat: `(strata, targets)`."""
    assert grams.cross is not None
    n, tail = grams.n_crossed, grams.tail
    base = grams.packed.new_zeros(len(grams.packed), n + tail, n + tail)
    base[:, :n] = grams.cross
    base[:, n:, :n] = grams.cross[:, :, n:].mT
    base[:, n:, n:] = grams.left[:, square_index(tail, base.device), 0]
    return base.flatten(1)


def matrix_of(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], *, dense: bool = False) -> Tensor:
    """A matrix of these entries (summed where they meet), sparse if most of it is 0 and it need not be dense."""
    rows, columns, values = rows.flatten(), columns.flatten(), values.flatten()
    if dense or len(values) > SPARSE_BELOW * shape[0] * shape[1]:
        found = values.new_zeros(shape[0] * shape[1])
        return found.index_add_(0, rows * shape[1] + columns, values).unflatten(0, shape)
    with quiet(".*[Ss]parse.*"):  # that this part of torch is in beta
        return torch.sparse_coo_tensor(torch.stack([rows, columns]), values, shape).coalesce().to_sparse_csr()


def _sum_by(terms: Tensor, group: Tensor, groups: int) -> Tensor:
    """Sums over the last axis by group."""
    if groups == 1:
        return terms.sum(-1, keepdim=True)
    return terms.new_zeros(*terms.shape[:-1], groups).index_add_(-1, group, terms)
