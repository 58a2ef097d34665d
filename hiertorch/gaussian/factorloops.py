"""Cholesky factors of many matrices of some dozen rows, compiled by Numba (`hiertorch[fast]`), on the CPU.

    I + A = L L',     c = L^-1 h,     u = L'^-1 (c + e)

LAPACK wants each matrix by itself and torch copies all of them there and back; here the batch stays in the last axis,
of which LANES matrices are factored at a time in vector instructions.

docs/decisions.md: Roots of some dozen coefficients are factored by a compiled loop.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from hiertorch.density.rowkernel import buffer, compiled

LANES = 32
"""Matrices at a time: loops of 16 are unrolled by the compiler before they could become vector instructions."""

part = njit(nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")
"""Compiles what loops call."""


@part
def factor(lower: np.ndarray, reciprocal: np.ndarray) -> None:
    """L of A, and L^-1 of the rows below, in the place of both, `(K + more, K, LANES)`, and of L 1 over the diagonal,
    `(K, LANES)`; NaN where A is not positive definite.
    """
    size = lower.shape[1]
    total = carray(buffer(lower, 32), 32)
    for i in range(lower.shape[0]):
        for j in range(min(i + 1, size)):
            for c in range(LANES):
                total[c] = lower[i, j, c]
            for k in range(0, j - 3, 4):  # four at a time: each pass over `total` waits for the one before
                for c in range(LANES):
                    total[c] -= (
                        lower[i, k, c] * lower[j, k, c] + lower[i, k + 1, c] * lower[j, k + 1, c]
                        + lower[i, k + 2, c] * lower[j, k + 2, c] + lower[i, k + 3, c] * lower[j, k + 3, c]
                    )  # fmt: skip
            for k in range(j - j % 4, j):
                for c in range(LANES):
                    total[c] -= lower[i, k, c] * lower[j, k, c]
            if i == j:
                for c in range(LANES):
                    root = np.sqrt(total[c]) if total[c] > 0.0 else np.nan
                    lower[i, i, c] = root
                    reciprocal[i, c] = 1.0 / root
            else:
                for c in range(LANES):
                    lower[i, j, c] = total[c] * reciprocal[j, c]


@part
def solve(lower: np.ndarray, reciprocal: np.ndarray) -> None:
    """L'^-1 of the row below L, in its place."""
    size = lower.shape[1]
    for i in range(size - 1, -1, -1):
        for c in range(LANES):
            lower[size, i, c] *= reciprocal[i, c]
        for k in range(i):
            for c in range(LANES):
                lower[size, k, c] -= lower[i, k, c] * lower[size, i, c]


def factor_and_draw(
    gram: np.ndarray, place: np.ndarray, shift: np.ndarray, noise: np.ndarray, half: np.ndarray, square: np.ndarray,
    drawn: np.ndarray,
) -> None:  # fmt: skip
    """See `factored`.

    Args:
        gram: numbers `(n, batch)`.
        place: where among them A stands, and in its last row h, `(K + 1, K)`; A's lower triangle is read.
        shift: what is taken from h, `(K,)`.
        noise: e `(K, batch)`.
        half: log |L| `(batch,)`, written into; NaN where I + A is not positive definite.
        square: c'c `(batch,)`, written into.
        drawn: u `(K, batch)`, written into.
    """
    size, batch = noise.shape
    lower, reciprocal = np.zeros((size + 1, size, LANES)), np.zeros((size, LANES))  # the last row is c
    for first in range(0, batch, LANES):
        live = min(LANES, batch - first)
        for i in range(size):
            for j in range(i + 1):
                of = place[i, j]
                for c in range(live):
                    lower[i, j, c] = gram[of, first + c]
            of = place[size, i]
            for c in range(live):
                lower[i, i, c] += 1.0
                lower[size, i, c] = gram[of, first + c] - shift[i]
        factor(lower, reciprocal)
        for c in range(live):
            half[first + c], square[first + c] = 0.0, 0.0
        for i in range(size):
            for c in range(live):
                half[first + c] += np.log(lower[i, i, c])
                square[first + c] += lower[size, i, c] * lower[size, i, c]
                lower[size, i, c] += noise[i, first + c]
        solve(lower, reciprocal)
        for i in range(size):
            for c in range(live):
                drawn[i, first + c] = lower[size, i, c]


@cache
def _loop() -> Callable[..., None]:
    return compiled(factor_and_draw, "factor_and_draw")


def factored(gram: Tensor, place: Tensor, shift: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log |L| and c'c, `(batch,)`, and u `(K, batch)`, in double precision.

    Args:
        gram: numbers `(n, batch)`.
        place: where among them A stands, and in its last row h, `(K + 1, K)`.
        shift: what is taken from h, `(K,)`.
        noise: e `(K, batch)`.
    """
    half, square, drawn = gram.new_empty(gram.shape[1]), gram.new_empty(gram.shape[1]), torch.empty_like(noise)
    _loop()(*(x.contiguous().numpy() for x in (gram, place, shift, noise)), half.numpy(), square.numpy(), drawn.numpy())
    return half, square, drawn
