"""Columns of a design that say nothing new: those that the columns before them make up in the fitted rows, and
polynomials of too high a degree.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from hiertorch.errors import DataError, warn
from hiertorch.formulas.encoding import INTERCEPT, Matrix
from hiertorch.formulas.predictors import Effects, Predictor
from hiertorch.wording import many, quoted

SINGULAR = 1e-10
"""Of a column's sum of squares, what is less is rounding: a hundred-thousandth of its spread."""

ROUNDING = 1e-11
"""Of a column's size, below which its spread is none."""


def check_degrees(matrices: Iterable[Matrix]) -> None:
    """Raises a DataError for polynomials of a degree that their column has too few values for, as R does."""
    for matrix in matrices:
        for degree, values in matrix.degrees:
            if degree >= values:
                raise DataError(
                    f"the terms {matrix.written!r} have a polynomial of degree {degree}, and its column has "
                    f"{many(values, 'different value')}, through which one of degree {values - 1} goes: take at most "
                    "that, and rather a spline, such as ns(x, 4)."
                )


def warn_of_spare(predictor: Predictor, values: np.ndarray, *, leveled: bool) -> None:
    """A warning for terms whose coefficients nothing but their priors tell apart.

    Args:
        predictor: whose columns.
        values: `(rows, columns)`, the intercept's among them if there is one.
        leveled: whether something stands at the level of all rows: an intercept, or thresholds.
    """
    kept = [k for k, label in enumerate(predictor.all_labels) if label != INTERCEPT]
    labels = [predictor.all_labels[k] for k in kept]
    found = [labels[k] for k in spare(values[:, kept], leveled=leveled)]
    if not found:
        return
    one = len(found) == 1
    names = quoted(found[:6]) + (" ..." if len(found) > 6 else "")
    warn(
        f"{many(len(found), 'column')} of the formula {'is' if one else 'are'} made up of the columns before "
        f"{'it' if one else 'them'} in these rows, or 0 in all of them: {names}. Priors alone tell "
        f"{'its coefficient' if one else 'such coefficients'} from the others: leave out a term, or the combinations "
        "that do not occur."
    )


def warn_of_groups(every: Sequence[Effects], frame: pd.DataFrame) -> None:
    """A warning for groupings of one group, whose effects are part of what all rows share."""
    for effects in every:
        if len(set(effects.groups(frame))) == 1:
            warn(
                f"grouping {effects.plate!r} has one group, whose effects can't be told from what all rows share: "
                "leave it out, or take one with more groups."
            )


def spare(x: np.ndarray, *, leveled: bool) -> list[int]:
    """Numbers of the columns of x `(rows, columns)` that earlier ones, and a constant if `leveled`, make up.

    By Cholesky's recursion on the Gram matrix of the columns, each in units of its own spread, where columns that leave
    nothing are passed over, as R's lm does.
    """
    whole = np.sqrt((x**2).sum(0))
    x = x - x.mean(0) if leveled else x
    size = np.sqrt((x**2).sum(0))
    empty = size <= ROUNDING * whole
    gram = x.T @ x / np.outer(np.where(empty, 1.0, size), np.where(empty, 1.0, size))
    found = []
    for k in range(len(gram)):
        if empty[k] or gram[k, k] < SINGULAR:
            found.append(k)
            continue
        row = gram[k, k:] / np.sqrt(gram[k, k])
        gram[k:, k:] -= np.outer(row, row)
    return found
