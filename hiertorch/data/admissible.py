"""Rows that no likelihood can take: a standard error of 0, trials of 2.5, more successes than trials.

They are looked at before anything is computed, at the fit and in new rows alike: torch's densities are finite for some
of them, and for others an error says something about a latent that is not to blame.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.errors import DataError


def positive(data: Data, column: str | None, what: str) -> None:
    """Raises a DataError unless all values of a column are above 0."""
    if (x := _column(data, column)) is not None:
        _refuse(data, f"column {column!r}", x, ~(x > 0), f"{what} are above 0")


def whole(data: Data, column: str, what: str) -> None:
    """Raises a DataError unless all values of a column are whole numbers, 0 or more."""
    if (x := _column(data, column)) is not None:
        _refuse(data, f"column {column!r}", x, (x < 0) | (x != x.round()), f"{what} are whole numbers, 0 or more")


def at_most(data: Data, column: str, what: str) -> None:
    """Raises a DataError unless the response counts some of what a column counts: whole, from 0 to its value."""
    if (most := _column(data, column)) is not None and len(most) == 1:
        bad = (data.y < 0) | (data.y != data.y.round()) | (data.y > most)
        _refuse(data, f"the response {data.name!r}", data.y, bad, what, beside=column)


def among(data: Data, column: str, values: Sequence[float], what: str) -> None:
    """Raises a DataError unless a column has no others than these values."""
    if (x := _column(data, column)) is not None:
        _refuse(data, f"column {column!r}", x, ~torch.isin(x, x.new_tensor(values)), what)


def ascending(data: Data, low: float | str | None, high: float | str | None, what: str) -> None:
    """Raises a DataError unless the values of one column, or a number, are below those of another, or a number."""
    if low is None or high is None or not (isinstance(low, str) or isinstance(high, str)):
        return
    first, second = (_column(data, end) if isinstance(end, str) else data.y.new_tensor(end) for end in (low, high))
    if first is None or second is None:
        return
    named = high if isinstance(high, str) else low
    x = data.columns[str(named)].unsqueeze(0)
    beside = low if named == high and isinstance(low, str) else None
    _refuse(data, f"column {named!r}", x, first >= second, what, beside=beside)


def _column(data: Data, column: str | None) -> Tensor | None:
    """A column `(numbers, rows)`, of one number a row if it is no matrix; None if it is left out."""
    return data.columns[column].reshape(data.n_rows, -1).T if column and column in data.columns else None


def _refuse(data: Data, what: str, x: Tensor, bad: Tensor, expected: str, beside: str | None = None) -> None:
    """Raises a DataError if there are bad values, `(..., rows)`, with the first of them and what stands `beside` it."""
    rows = bad.reshape(-1, data.n_rows).any(0).nonzero()[:, 0]
    if not len(rows):
        return
    row, more = int(rows[0]), len(rows) - 1
    value = float(x.expand(bad.shape)[..., row][bad[..., row]][0])
    there = "" if beside is None else f", where {beside!r} has {float(data.columns[beside][row]):.12g}"
    others = f" So have {more} more rows." if more > 1 else " So has another row." if more else ""
    raise DataError(
        f"{what} has {value:.12g} in {data.row_text(row)}{there}; {expected}.{others} Correct the rows, or leave them "
        "out."
    )
