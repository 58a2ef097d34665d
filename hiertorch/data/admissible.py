"""Rows that no likelihood can take: a standard error of 0, trials of 2.5, more successes than trials.

They are looked at before anything is computed, at the fit and in new rows alike: torch's densities are finite for some
of them, and for others an error says something about a latent that is not to blame.
"""

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.errors import DataError


def positive(data: Data, column: str, what: str) -> None:
    """Raises a DataError unless all values of a column are above 0."""
    if column in data.columns:
        refuse(data, column, ~(data.columns[column] > 0), f"{what} are above 0")


def whole(data: Data, column: str, what: str) -> None:
    """Raises a DataError unless all values of a column are whole numbers, 0 or more."""
    if column in data.columns:
        x = data.columns[column]
        refuse(data, column, (x < 0) | (x != x.round()), f"{what} are whole numbers, 0 or more")


def at_most(data: Data, column: str, what: str) -> None:
    """Raises a DataError unless the response counts some of what a column counts: whole, from 0 to its value."""
    if column in data.columns and data.columns[column].ndim == 1:
        y, most = data.y, data.columns[column]
        bad = (y < 0) | (y != y.round()) | (y > most)
        if bool(bad.any()):
            row = _first(bad)
            raise DataError(
                f"the response {data.name!r} has {_value(y[..., row], bad[..., row])} in {data.row_text(row)}, where "
                f"{column!r} has {float(most[row]):.12g}; {what}.{_more(bad)} Correct the rows, or leave them out."
            )


def refuse(data: Data, column: str, bad: Tensor, expected: str) -> None:
    """Raises a DataError if a column has bad values, `(rows, *trailing)`, with the first of them."""
    if bool(bad.any()):
        rows = bad.reshape(len(bad), -1).any(-1)
        row = _first(rows)
        value = _value(data.columns[column][row], bad[row])
        raise DataError(
            f"column {column!r} has {value} in {data.row_text(row)}; {expected}.{_more(rows)} Correct the rows, or "
            "leave them out."
        )


def _first(bad: Tensor) -> int:
    """The first row, of `(..., rows)`."""
    return int(bad.reshape(-1, bad.shape[-1]).any(0).nonzero()[0])


def _value(values: Tensor, bad: Tensor) -> str:
    """The first bad one."""
    return f"{float(values.expand(bad.shape)[bad][0]):.12g}"


def _more(bad: Tensor) -> str:
    number = int(torch.count_nonzero(bad.reshape(-1, bad.shape[-1]).any(0))) - 1
    return f" So have {number} more rows." if number > 1 else " So has another row." if number else ""
