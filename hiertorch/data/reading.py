"""From whatever a user gives (lists, arrays, series, labels) to checked tensors, or a sentence on what is wrong."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.errors import DataError
from hiertorch.wording import shape, show

__all__ = [
    "check_dtype",
    "check_finite",
    "check_length",
    "check_none",
    "coded",
    "common_device",
    "is_real",
    "predictor",
    "response",
    "row_numbers",
    "row_weights",
]

PANDAS_ARRAYS = pd.Series | pd.Index | pd.api.extensions.ExtensionArray
EXACT = 2.0**53
"""Whole numbers below it are their own float64."""

MANY = 1000
"""A table of so many whole numbers is small whatever the number of rows."""


def response(name: str, y: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The response as a checked tensor, `(rows,)` or `(chains, rows)`."""
    what = f"the response {name!r}"
    tensor = _numbers(what, y, dtype, device)
    if tensor.ndim not in (1, 2) or tensor.numel() == 0:
        raise DataError(f"{what} has shape {shape(tensor)}; expected (rows,) or (chains, rows) with at least one row.")
    check_finite(what, tensor, row_axis=-1)
    return tensor


def row_weights(weights: Any, y: Tensor, *, check_values: bool = True) -> Tensor:
    """Row weights as a checked tensor, `(rows,)` or `(chains, rows)`."""
    tensor = _numbers("the weights", weights, y.dtype, y.device)
    if tensor.ndim not in (1, 2):
        raise DataError(f"the weights have shape {shape(tensor)}; expected (rows,) or (chains, rows).")
    check_length("the weights", tensor.shape[-1], y.shape[-1])
    if tensor.ndim == y.ndim == 2 and len(tensor) != len(y):
        raise DataError(f"the weights have {len(tensor)} chains and the response has {len(y)}: give both the same.")
    if check_values:
        check_finite("the weights", tensor, row_axis=-1)
        negative = tensor < 0
        value = f" (such as {float(tensor[negative][0]):g})" if bool(negative.any()) else ""
        check_none("the weights", f"negative{value}", negative.nonzero()[:, -1], "Weights are 0 or more.")
    return tensor


def predictor(name: str, x: Any, n_rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A column as a checked tensor, `(rows, *trailing)`."""
    what = f"column {name!r}"
    tensor = _numbers(what, x, dtype, device)
    if tensor.ndim == 0 or 0 in tensor.shape[1:]:
        raise DataError(f"{what} has shape {shape(tensor)}; expected (rows,) or (rows, *trailing).")
    check_length(what, len(tensor), n_rows)
    check_finite(what, tensor, row_axis=0)
    return tensor


def _numbers(what: str, values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Real numbers of any kind, as a floating tensor."""
    if isinstance(values, Tensor):
        if values.is_complex():
            raise DataError(f"{what} is not numeric: found {values.dtype}, expected real numbers.")
        if values.layout is not torch.strided or values.is_quantized or values.is_nested:
            kinds = {"quantized": values.is_quantized, "nested": values.is_nested}
            kind = next((kind for kind, found in kinds.items() if found), f"of layout {values.layout}")
            raise DataError(f"{what} is {kind}, expected a dense tensor: x.to_dense(), or x.dequantize().")
        if values.dtype in (torch.int64, torch.uint64) and values.device.type == "cpu":
            _check_exact(what, values.numpy())
        return _copied(values, device, dtype)
    try:
        if isinstance(values, np.ma.MaskedArray) and np.any(values.mask):
            values = np.where(values.mask, np.nan, values.data)  # what is masked is missing
        if isinstance(values, PANDAS_ARRAYS | pd.DataFrame) and np.any(pd.isna(values)):
            values = values.to_numpy(na_value=np.nan)  # NumPy can't read pandas' NA
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} can't be read as an array of numbers: {error}.") from error
    kind, numeric = array.dtype.name, is_real(array.dtype)
    if kind == "object":  # None among numbers is a missing number, but a string that looks like a number is a string
        kind = pd.api.types.infer_dtype(array.ravel(), skipna=True)
        numeric = kind in ("integer", "floating", "mixed-integer-float", "boolean", "decimal", "empty")
    if not numeric:
        raise DataError(
            f"{what} is not numeric: found {kind}. Recode it as numbers, read it by level "
            f"('column=level' in from_frame), or name it as a grouping."
        )
    numbers = np.array(array, dtype=np.float64)  # a copy: the caller's may change
    if array.dtype.kind in "iuO":
        _check_exact(what, array, numbers)
    return torch.from_numpy(numbers).to(device, dtype)


def _copied(values: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy, since the caller's may change; what chains share is copied once."""
    if values.ndim > 1 and len(values) > 1 and values.stride(0) == 0:
        return _copied(values[:1], device, dtype).expand_as(values)
    return values.to(device, dtype, copy=True)


def _check_exact(what: str, array: np.ndarray, numbers: np.ndarray | None = None) -> None:
    """Raises a DataError if whole numbers are rounded, as those beyond 2^53 are."""
    numbers = array.astype(np.float64) if numbers is None else numbers
    far = np.abs(numbers) >= EXACT
    if far.any():
        pairs = zip(array[far].tolist(), numbers[far].tolist(), np.argwhere(far), strict=True)
        for given, rounded, at in pairs:
            if math.isfinite(rounded) and given == given // 1 and int(given) != int(rounded):
                raise DataError(
                    f"{what} has {given} in row {at[-1 if array.ndim == 1 else 0]} (from 0), and float64 holds whole "
                    f"numbers beyond 2^53 rounded, this one as {int(rounded)}: name it as a grouping if it is a label, "
                    "or subtract what all have in common."
                )


def is_real(kind: Any) -> bool:
    """Whether a pandas or NumPy dtype holds real numbers."""
    return pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_complex_dtype(kind)


def coded(plate: str, values: Any, labels: Any, n_rows: int) -> tuple[np.ndarray, pd.Index]:
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


def row_labels(plate: str, values: Any) -> pd.Index:
    """The group label of each row, none of them missing."""
    rows = _labels(f"grouping {plate!r}", values)
    return pd.Index(rows.astype(object), tupleize_cols=False) if isinstance(rows, pd.CategoricalIndex) else rows


def _labels(what: str, values: Any) -> pd.Index:
    """Labels as an index in which a tuple is one label; it may share the caller's memory."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) != 1:
        found = f"shape {shape(values)}" if hasattr(values, "shape") else repr(values)
        raise DataError(f"{what} must be a sequence of labels, one a row; found {found}.")
    if isinstance(values, pd.MultiIndex):
        values = values.to_flat_index()
    elif isinstance(values, np.ma.MaskedArray):
        values = values.tolist()  # None where it is masked
    elif isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    elif not isinstance(values, PANDAS_ARRAYS | np.ndarray):
        values = [value.item() if isinstance(value, Tensor) else value for value in values]  # tensors hash by identity
    index = pd.Index(values, copy=False, tupleize_cols=False)
    missing = np.flatnonzero(pd.isna(index))
    check_none(what, "missing (None, NaN or NaT)", missing, "Drop those rows, or give them a label of their own.")
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


def _truths(label: Any) -> Any:
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


def check_dtype(dtype: torch.dtype) -> None:
    """Raises a DataError for any dtype but the two that hiertorch computes in."""
    if dtype not in (torch.float32, torch.float64):
        raise DataError(f"dtype must be torch.float32 or torch.float64; found {dtype}.")


def check_length(what: str, length: int, n_rows: int) -> None:
    """Raises a DataError unless there is a value for each row."""
    if length != n_rows:
        raise DataError(f"{what}: {length} rows, but the response has {n_rows}.")


def check_finite(what: str, tensor: Tensor, row_axis: int) -> None:
    """Raises a DataError unless all values are finite, with the first row that is not."""
    if bool(torch.isfinite(tensor.sum())):  # then all values are, and the sum takes a tenth of the time
        return
    bad = (~torch.isfinite(tensor)).nonzero()[:, row_axis]
    precision = str(tensor.dtype).removeprefix("torch.")
    check_none(what, f"NaN, missing or infinite in {precision}", bad, "Drop or impute those rows first.")


def check_none(what: str, problem: str, rows: Any, advice: str) -> None:
    """Raises if there are rows with a problem, one entry a value."""
    if count := len(rows):
        values = "1 value is" if count == 1 else f"{count} values are"
        raise DataError(f"{what}: {values} {problem}, first in row {int(rows.min())} (from 0). {advice}")


def common_device(*given: Any) -> torch.device:
    """The one device of the tensors among the arguments; the CPU if there is none."""
    devices = {values.device for values in given if isinstance(values, Tensor)}
    if len(devices) > 1:
        raise DataError(f"the tensors are on {' and '.join(sorted(map(str, devices)))}: move them to one device.")
    if torch.device("meta") in devices:
        raise DataError("a tensor on the device 'meta' has no values: give one that has.")
    return devices.pop() if devices else torch.device("cpu")


def row_numbers(rows: Any, n_rows: int) -> Tensor:
    """Numbers of rows as a long tensor, where they are."""
    try:
        found = torch.as_tensor(rows)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"take needs row numbers, a long tensor (taken,); found {rows!r} ({error}).") from error
    whole = found.dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    if found.ndim != 1 or len(found) == 0 or not whole:
        raise DataError(
            f"take needs row numbers, a long tensor (taken,) of at least one; found {found.dtype} of shape "
            f"{shape(found)}. Instead of a mask pass mask.nonzero()[:, 0]."
        )
    if found.device.type == "cpu" and not 0 <= int(found.min()) <= int(found.max()) < n_rows:
        bad = int(found[(found < 0) | (found >= n_rows)][0])
        raise DataError(f"take needs numbers of rows, from 0 to {n_rows - 1}; found {bad}.")
    return found.long()
