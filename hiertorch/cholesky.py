"""Cholesky factors of many small matrices (or a few large ones) at once, the batch in the last axes.

Matrices are `(K, K, *batch)` and right-hand sides `(K, m, *batch)`, or `(K, *batch)` for one. LAPACK is called once for
each matrix, which for K = 2 takes a hundred times as long as the arithmetic; so up to UNROLLED the recursion is written
out, every entry an operation on the whole batch.
"""

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "factor",
    "inverse",
    "log_diagonal",
    "packed",
    "product",
    "solve_both",
    "solve_lower",
    "solve_upper",
    "square_index",
]

UNROLLED = 5


def square_index(size: int, device: torch.device) -> Tensor:
    """Where entry (a, b) of a symmetric matrix stands in its packed upper triangle, row by row: `(size, size)`."""
    a, b = torch.triu_indices(size, size, device=device)
    index = torch.empty(size, size, dtype=torch.long, device=device)
    index[a, b] = index[b, a] = torch.arange(len(a), device=device)
    return index


def packed(matrix: Tensor) -> Tensor:
    """The upper triangle of `(K, K, *batch)`, row by row: `(K (K + 1) / 2, *batch)`."""
    size = matrix.shape[0]
    if size == 1:
        return matrix[0]
    return torch.stack([matrix[i, j] for i in range(size) for j in range(i, size)])


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
    lower = factor(entries, size)
    eye = torch.eye(size, dtype=lower.dtype, device=lower.device).reshape(size, size, *(1,) * (lower.dim() - 2))
    half = solve_lower(lower, eye.expand(lower.shape))
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
        every = [(i, j) for j in range(size) for i in range(j, size)]
        entries = dict(zip(every, matrix, strict=True))
    rows: list[list[Tensor]] = []
    for i in range(size):
        row: list[Tensor] = []
        for j in range(i + 1):
            entry = entries[i, j]
            for k in range(j):
                entry = entry - row[k] * (row if i == j else rows[j])[k]
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
        entry = right[i]
        for k in range(i):
            entry = entry - lower[i, k] * found[k]
        found.append(entry / lower[i, i])
    return torch.stack(found) if size > 1 else found[0][None]


def solve_upper(lower: Tensor, right: Tensor) -> Tensor:
    """L'^-1 right."""
    size = lower.shape[0]
    if size > UNROLLED:
        return _triangular(lower, right, upper=True)
    found: list[Tensor] = [right[0]] * size
    for i in reversed(range(size)):
        entry = right[i]
        for k in range(i + 1, size):
            entry = entry - lower[k, i] * found[k]
        found[i] = entry / lower[i, i]
    return torch.stack(found) if size > 1 else found[0][None]


def solve_both(lower: Tensor, right: Tensor, between: Tensor) -> Tensor:
    """L'^-1 (L^-1 right + between), vectors `(K, *batch)`: normal with mean (L L')^-1 right if `between` is noise."""
    size = lower.shape[0]
    if size > UNROLLED:
        return solve_upper(lower, solve_lower(lower, right) + between)
    scale = [lower[k, k].reciprocal() for k in range(size)]  # a division takes three times as long as a product
    forward: list[Tensor] = []
    for i in range(size):
        entry = right[i]
        for k in range(i):
            entry = entry - lower[i, k] * forward[k]
        forward.append(entry * scale[i])
    found = [y + z for y, z in zip(forward, between, strict=True)]
    for i in reversed(range(size)):
        for k in range(i + 1, size):
            found[i] = found[i] - lower[k, i] * found[k]
        found[i] = found[i] * scale[i]
    return torch.stack(found) if size > 1 else found[0][None]


def log_diagonal(lower: Tensor) -> Tensor:
    """sum_k log L_kk, `batch`: half the log determinant."""
    if lower.shape[0] == 0:
        return lower.new_zeros(lower.shape[2:])
    return torch.stack([lower[k, k] for k in range(lower.shape[0])]).log().sum(0)


def product(left: Tensor, right: Tensor, *, transpose: bool = False) -> Tensor:
    """left right, or left' right: `(K, K, *batch)` times `(K, m, *batch)`; batch axes broadcast."""
    if transpose:
        left = left.transpose(0, 1)
    inner = left.shape[1]
    if inner == 0:
        batch = np.broadcast_shapes(left.shape[2:], right.shape[2:])
        return right.new_zeros(left.shape[0], right.shape[1], *batch)
    total = left[:, 0].unsqueeze(1) * right[0].unsqueeze(0)
    for k in range(1, inner):
        total = total + left[:, k].unsqueeze(1) * right[k].unsqueeze(0)
    return total


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
