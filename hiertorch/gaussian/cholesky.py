"""Cholesky factors of many small matrices (or a few large ones) at once, the batch in the last axes.

Matrices are `(K, K, *batch)` and right-hand sides `(K, m, *batch)`, or `(K, *batch)` for one. LAPACK is called once for
each matrix, which for K = 2 takes a hundred times as long as the arithmetic; so up to UNROLLED the recursion is written
out, every entry an operation on the whole batch.
"""

from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from torch import Tensor

UNROLLED = 5
"""Rows of the largest matrix whose recursion is written out: beyond, so many operations take longer than LAPACK."""

SUMMED = 24
"""Terms of the longest inner product whose sum is written out (measured)."""


def square_index(size: int, device: torch.device) -> Tensor:
    """Where entry (a, b) of a symmetric matrix stands in its packed upper triangle, row by row: `(size, size)`."""
    return torch.from_numpy(_square_index(size)).to(device)


@cache
def _square_index(size: int) -> np.ndarray:
    index = np.empty((size, size), np.int64)
    a, b = np.triu_indices(size)
    index[a, b] = index[b, a] = np.arange(len(a))
    return index


def packed(matrix: Tensor) -> Tensor:
    """The upper triangle of `(K, K, *batch)`, row by row: `(K (K + 1) / 2, *batch)`."""
    size = matrix.shape[0]
    if size == 1:
        return matrix[0]
    if size > UNROLLED:
        a, b = torch.triu_indices(size, size, device=matrix.device)
        return matrix[a, b]
    return torch.stack([matrix[place] for place in _upper(size)])


def inverse(entries: Tensor, size: int) -> tuple[list[Tensor], Tensor]:
    """Packed inverses, entry by entry, and half the log determinants of positive definite matrices given by packed
    `entries`.
    """
    if size == 1:
        return [entries[0].reciprocal()], 0.5 * entries[0].log()
    if size == 2:
        a, c, b = entries
        determinant = a * b - c * c
        scale = determinant.reciprocal()
        return [b * scale, -c * scale, a * scale], 0.5 * determinant.log()
    if size > UNROLLED:
        lower, bad = torch.linalg.cholesky_ex(_first(entries[square_index(size, entries.device)]))
        halves = torch.where(bad == 0, lower.diagonal(dim1=-2, dim2=-1).log().sum(-1), torch.nan)
        a, b = torch.triu_indices(size, size, device=entries.device)
        return list(torch.cholesky_inverse(lower).flatten(-2)[..., a * size + b].movedim(-1, 0)), halves
    lower = factor(entries, size)
    half = solve_lower(lower, _eye(size, lower).expand(lower.shape))
    return list(packed(product(half, half, transpose=True))), log_diagonal(lower)


def factor(matrix: Tensor, size: int | None = None) -> Tensor:
    """L with L L' = matrix, lower triangular `(K, K, *batch)`; NaN where the matrix has a negative eigenvalue
    (an exactly singular one may give a 0 on the diagonal).

    Args:
        matrix: `(K, K, *batch)`, of which the lower triangle is read; packed entries if `size` is given.
        size: K.
    """
    if (size or matrix.shape[0]) > UNROLLED:
        whole = matrix if size is None else matrix[square_index(size, matrix.device)]
        lower, bad = torch.linalg.cholesky_ex(_first(whole))
        return _last(torch.where((bad != 0)[..., None, None], torch.nan, lower))
    if size is None:
        size = matrix.shape[0]
        entries = {(i, j): matrix[i, j] for i in range(size) for j in range(i + 1)}
    else:
        entries = {(i, j): x for (j, i), x in zip(_upper(size), matrix, strict=True)}
    rows: list[list[Tensor]] = []
    for i in range(size):
        row: list[Tensor] = []
        for j in range(i + 1):
            entry = _less(entries[i, j], row, row if i == j else rows[j])
            row.append(entry.sqrt() if i == j else entry / rows[j][j])
        rows.append(row)
    if size == 1:
        return rows[0][0][None, None]
    zero = torch.zeros_like(rows[0][0])
    return torch.stack([torch.stack(row + [zero] * (size - len(row))) for row in rows])


def solve_lower(lower: Tensor, right: Tensor) -> Tensor:
    """L^-1 right; `right` may lack batch axes of `lower` only where they broadcast."""
    size = lower.shape[0]
    if size > UNROLLED:
        return _triangular(lower, right, upper=False)
    found: list[Tensor] = []
    for i in range(size):
        found.append(_less(right[i], lower[i], found) / lower[i, i])
    return torch.stack(found) if size > 1 else found[0][None]


def solve_upper(lower: Tensor, right: Tensor) -> Tensor:
    """L'^-1 right."""
    size = lower.shape[0]
    if size > UNROLLED:
        return _triangular(lower, right, upper=True)
    found: list[Tensor] = [right[0]] * size
    for i in reversed(range(size)):
        found[i] = _less(right[i], lower[i + 1 :, i], found[i + 1 :]) / lower[i, i]
    return torch.stack(found) if size > 1 else found[0][None]


def normal_draw(entries: Tensor, right: Tensor, noise: Tensor, *, apart: bool = False) -> Tensor:
    """L'^-1 (L^-1 right + noise) with L L' = A: for standard normal noise a draw from N(A^-1 right, A^-1).

    Args:
        entries: A packed, `(K (K + 1) / 2, *batch)`.
        right: `(K, *batch)`.
        noise: `(K, *batch)`.
        apart: write no result in place, which `torch.vmap` doesn't allow.
    """
    size = len(right)
    if size > UNROLLED:
        lower = factor(entries, size)
        return solve_upper(lower, solve_lower(lower, right) + noise)
    entry = {(i, j): x for (j, i), x in zip(_upper(size), entries, strict=True)}
    rows: list[list[Tensor]] = []
    scale: list[Tensor] = []
    found: list[Tensor] = []
    for i in range(size):
        row: list[Tensor] = []
        for j in range(i):
            row.append(_less(entry[i, j], row, rows[j]) * scale[j])
        scale.append(_less(entry[i, i], row, row).rsqrt())
        found.append(_less(right[i], row, found) * scale[i])
        rows.append(row)
    out = list(noise) if apart else torch.empty_like(noise)
    for i in reversed(range(size)):
        behind = range(i + 1, size)
        rest = _less(found[i] + noise[i], [rows[k][i] for k in behind], [out[k] for k in behind])
        if isinstance(out, list):
            out[i] = rest * scale[i]
        else:
            torch.mul(rest, scale[i], out=out[i])
    return torch.stack(out) if isinstance(out, list) else out


def log_diagonal(lower: Tensor) -> Tensor:
    """sum_k log L_kk, `batch`: half the log determinant."""
    if lower.shape[0] == 0:
        return lower.new_zeros(lower.shape[2:])
    if lower.shape[0] > UNROLLED:
        return lower.diagonal().movedim(-1, 0).contiguous().log().sum(0)
    return torch.stack([lower[k, k] for k in range(lower.shape[0])]).log().sum(0)


def product(left: Tensor, right: Tensor, *, transpose: bool = False) -> Tensor:
    """left right, or left' right: `(K, K, *batch)` times `(K, m, *batch)`; batch axes broadcast."""
    if transpose:
        left = left.transpose(0, 1)
    inner = left.shape[1]
    if inner == 0:
        batch = np.broadcast_shapes(left.shape[2:], right.shape[2:])
        return right.new_zeros(left.shape[0], right.shape[1], *batch)
    if inner > SUMMED and left[0, 0].numel() == 1:  # one matrix for all of the batch
        return (left.flatten(1) @ right.flatten(1)).unflatten(1, right.shape[1:])
    if inner > SUMMED:
        return _last(_first(left) @ _first(right))
    total = left[:, 0].unsqueeze(1) * right[0].unsqueeze(0)
    for k in range(1, inner):
        total = torch.addcmul(total, left[:, k].unsqueeze(1), right[k].unsqueeze(0))
    return total


def times_vector(matrix: Tensor, x: Tensor) -> Tensor:
    """`(K, M, groups, batch)` times `(M, groups, batch)`."""
    if matrix.shape[0] == matrix.shape[1] == 1:
        return matrix[0] * x
    return (matrix * x).sum(1) if matrix.shape[1] > 2 else matrix[:, 0] * x[0] + _second(matrix, x)


def _second(matrix: Tensor, x: Tensor) -> Tensor | float:
    return matrix[:, 1] * x[1] if matrix.shape[1] == 2 else 0.0


def solved_transposed(half: Tensor, x: Tensor) -> Tensor:
    """B'^-1 x."""
    if len(half) == 1:
        return x / half[0]
    return torch.linalg.solve(half.permute(2, 3, 1, 0), x.movedim(0, -1).unsqueeze(-1)).squeeze(-1).movedim(-1, 0)


def between(mine: Tensor, others: Tensor, gram: Tensor) -> Tensor:
    """Products of columns of two levels, from those of their coordinates, `(K, M, groups, batch)`."""
    return product(mine, product(gram, others), transpose=True)


def unrooted(root: Tensor, x: Tensor) -> Tensor:
    """R^-1 x for R `(K, K, groups or 1, batch)`, lower triangular, and x `(K, groups, batch)`."""
    return solve_lower(root.expand(-1, -1, x.shape[1], -1), x)


def identity_plus(matrix: Tensor) -> Tensor:
    """I + matrix."""
    return matrix + _eye(len(matrix), matrix)


def plus_identity(matrix: Tensor) -> Tensor:
    """Cholesky factor of I + matrix."""
    return factor(identity_plus(matrix))


def around(spread: Tensor, own: Tensor) -> Tensor:
    """C' G C."""
    return product(spread, product(own, spread), transpose=True)


def _eye(size: int, like: Tensor) -> Tensor:
    """I, `(size, size, 1, ..)`."""
    eye = torch.eye(size, dtype=like.dtype, device=like.device)
    return eye.reshape(size, size, *(1,) * (like.dim() - 2))


def _upper(size: int) -> list[tuple[int, int]]:
    """Places of packed entries."""
    return [(i, j) for i in range(size) for j in range(i, size)]


def _less(x: Tensor, left: Iterable[Tensor], right: Iterable[Tensor]) -> Tensor:
    """x - sum_k left_k right_k, as far as both go: a pass over the batch for each k."""
    for a, b in zip(left, right, strict=False):
        x = torch.addcmul(x, a, b, value=-1)
    return x


def _first(matrix: Tensor) -> Tensor:
    return matrix.movedim((0, 1), (-2, -1))


def _last(matrix: Tensor) -> Tensor:
    return matrix.movedim((-2, -1), (0, 1))


def _triangular(lower: Tensor, right: Tensor, *, upper: bool) -> Tensor:
    vector = right.dim() == lower.dim() - 1
    several = right.unsqueeze(1) if vector else right
    left = _first(lower)
    found = torch.linalg.solve_triangular(left.mT if upper else left, _first(several), upper=upper)
    return _last(found).squeeze(1) if vector else _last(found)
