"""Contrasts of categories beside those of `formulae` (Treatment and Sum): R's contr.helmert and contr.poly.

`C(f, Helmert)` compares each level with the mean of those before it, and `C(f, Poly)` has orthonormal polynomials of
the numbers 1, 2, ... of the levels, as R has of ordered factors. Where the terms beside it do not span the intercept,
there is an indicator for each level, as in R.
"""

from collections.abc import Sequence

import numpy as np
from formulae.categorical import ContrastMatrix, Encoding

POWERS = ("L", "Q", "C")
"""R's names of the first powers."""


class Contrasts(Encoding):
    """Of some levels, by a matrix of one row a level."""

    def code_with_intercept(self, levels: Sequence[object]) -> ContrastMatrix:
        """Indicators of all."""
        return ContrastMatrix(np.eye(len(levels)), [str(level) for level in levels])

    def code_without_intercept(self, levels: Sequence[object]) -> ContrastMatrix:
        """One column fewer than levels."""
        return ContrastMatrix(self.matrix(len(levels)), self.labels(levels))

    def matrix(self, number: int) -> np.ndarray:
        """`(levels, levels - 1)`."""
        raise NotImplementedError

    def labels(self, levels: Sequence[object]) -> list[str]:
        """Of its columns."""
        raise NotImplementedError


class Helmert(Contrasts):
    """Column k is -1 in the levels before level k + 1, k in this, 0 behind it; called by this level."""

    def matrix(self, number: int) -> np.ndarray:
        """R's contr.helmert."""
        row, column = np.indices((number, number - 1))
        return np.where(row <= column, -1.0, np.where(row == column + 1, row, 0.0))

    def labels(self, levels: Sequence[object]) -> list[str]:
        """The levels that are compared."""
        return [str(level) for level in levels[1:]]


class Poly(Contrasts):
    """Column k is a polynomial of degree k in 1, 2, ..., orthogonal to those before it and of length 1."""

    def matrix(self, number: int) -> np.ndarray:
        """R's contr.poly."""
        x = np.arange(number) - (number - 1) / 2
        q, r = np.linalg.qr(x[:, None] ** np.arange(number))
        return (q * np.sign(np.diag(r)))[:, 1:]

    def labels(self, levels: Sequence[object]) -> list[str]:
        """L, Q, C, ^4, ..., R's."""
        return [POWERS[k] if k < len(POWERS) else f"^{k + 1}" for k in range(len(levels) - 1)]


CONTRASTS = {"Helmert": Helmert, "Poly": Poly}
"""By name."""
