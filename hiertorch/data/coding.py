"""From the labels of groups to their codes, or a sentence on what is wrong."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from hiertorch.data.reading import PANDAS_ARRAYS, check_length, check_none
from hiertorch.errors import DataError
from hiertorch.wording import shape, show

MANY = 1000
"""A table of so many whole numbers is small whatever the number of rows."""

MISSING, LABEL = "missing (None, NaN or NaT)", "Drop those rows, or give them a label of their own."
"""What is wrong with a label, in words, and what to do about it."""


def coded(plate: str, values: object, labels: object, n_rows: int) -> tuple[np.ndarray, pd.Index]:
    """The code of each row `(rows,)`, and the labels in code order."""
    what = f"grouping {plate!r}"
    rows = _labels(what, values)
    check_length(what, len(rows), n_rows)
    try:
        codes, found = _factorized(rows)
    except TypeError as error:
        raise DataError(f"{what} has a label that can't be one: {error}. Labels must be hashable.") from error
    _check_truths(what, rows, codes, found)
    if labels is None:
        return codes, found
    known = _labels(f"labels= of {what}", labels).copy(deep=True)
    if isinstance(known, pd.CategoricalIndex):
        known = known.categories.take(known.codes)
    if not known.is_unique:
        raise DataError(f"labels= of {what} has {show(known[known.duplicated()][0])} twice: give each label once.")
    places = known.get_indexer(found)
    codes = places[codes]
    if (places < 0).any():
        row = int(np.argmax(codes < 0))
        raise DataError(
            f"{what} has {show(rows[row])} in row {row} (from 0), which is not in its labels=: add it there."
        )
    return codes, known


def row_labels(plate: str, values: object) -> pd.Index:
    """The group label of each row, none of them missing."""
    rows = _labels(f"grouping {plate!r}", values)
    return pd.Index(rows.astype(object), tupleize_cols=False) if isinstance(rows, pd.CategoricalIndex) else rows


def _labels(what: str, values: object) -> pd.Index:
    """Labels as an index in which a tuple is one label; it may share the caller's memory."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) != 1:
        shown = f"shape {shape(values)}" if hasattr(values, "shape") else repr(values)
        raise DataError(f"{what} must be a sequence of labels, one a row; found {shown}.")
    if isinstance(values, pd.MultiIndex):
        values = values.to_flat_index()
    elif isinstance(values, np.ma.MaskedArray):
        values = values.tolist()  # None where it is masked
    elif isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    elif not isinstance(values, PANDAS_ARRAYS | np.ndarray):
        values = [value.item() if isinstance(value, Tensor) else value for value in values]  # tensors hash by identity
    found: Any = values
    index = pd.Index(found, copy=False, tupleize_cols=False)
    missing = np.flatnonzero(pd.isna(index))
    check_none(what, MISSING, missing, LABEL)
    return index


def _factorized(rows: pd.Index) -> tuple[np.ndarray, pd.Index]:
    """The code of each row, and the labels: in the order of their categories, else sorted, else by first appearance."""
    if isinstance(rows, pd.CategoricalIndex):
        rows = rows.remove_unused_categories()
        return rows.codes.astype(np.int64), pd.Index(rows.categories, tupleize_cols=False)
    if isinstance(rows.dtype, np.dtype) and rows.dtype.kind in "iu":
        numbers = rows.to_numpy()
        low, high = int(numbers.min()), int(numbers.max())
        if high - low < max(len(rows), MANY) and high < 2**63:
            return _close_numbers(numbers, low, high)
    codes, uniques = pd.factorize(rows.array)
    labels = pd.Index(uniques, tupleize_cols=False)
    try:
        order = labels.argsort()
    except TypeError:  # such as numbers among strings
        order = np.arange(len(labels))
    return np.argsort(order)[codes], labels.take(order)


def _check_truths(what: str, rows: pd.Index, codes: np.ndarray, labels: pd.Index) -> None:
    """Raises a DataError where True and 1 are labels of one grouping, which Python holds for the same."""
    if rows.dtype != object or not any(label in (0, 1) or isinstance(label, tuple) for label in labels.tolist()):
        return
    kinds = [_truths(label) for label in labels.tolist()]
    for row, (label, code) in enumerate(zip(rows.tolist(), codes.tolist(), strict=True)):
        if _truths(label) != kinds[code]:
            one, other = show(labels[code]), show(label)
            raise DataError(
                f"{what} has {one} and {other}, which Python holds for one label (row {row} from 0): write one of the "
                "two in another way, such as all as text."
            )


def _truths(label: object) -> object:
    """Whether a label is True or False, or which parts of it are."""
    return tuple(map(_truths, label)) if isinstance(label, tuple) else isinstance(label, bool | np.bool_)


def _close_numbers(numbers: np.ndarray, low: int, high: int) -> tuple[np.ndarray, pd.Index]:
    """The same for whole numbers from low to high, by a table of these: several times faster than hashing."""
    offsets = numbers.astype(np.int64)  # a copy: the caller's may change
    offsets -= low
    occurs = np.zeros(high - low + 1, bool)
    occurs[offsets] = True
    labels = pd.Index((np.flatnonzero(occurs) + low).astype(numbers.dtype))
    return (offsets if len(labels) == len(occurs) else (np.cumsum(occurs) - 1)[offsets]), labels


def label_numbers(plate: str, labels: pd.Index) -> np.ndarray:
    """Labels as float64 numbers, dates as days since the first."""
    if isinstance(labels, pd.PeriodIndex):
        labels = labels.to_timestamp()
    if isinstance(labels, pd.DatetimeIndex):
        return np.asarray((labels - labels.min()) / pd.Timedelta(days=1), np.float64)
    try:
        return np.asarray(labels, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the labels of {plate!r} should be numbers or dates, since they are used as times; found "
            f"{show(labels[0])}."
        ) from error
