"""From whatever a user gives (lists, arrays, series, labels) to checked tensors, or a sentence on what is wrong."""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.errors import DataError
from hiertorch.wording import shape

PANDAS_ARRAYS = pd.Series | pd.Index | pd.api.extensions.ExtensionArray
"""One-dimensional arrays that may hold pandas' missing values."""

EXACT = 2.0**53
"""Whole numbers below it are their own float64."""


def response(name: str, y: object, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The response as a checked tensor, `(rows,)` or `(chains, rows)`."""
    what = f"the response {name!r}"
    tensor = _numbers(what, y, dtype, device)
    if tensor.ndim not in (1, 2) or tensor.numel() == 0:
        raise DataError(f"{what} has shape {shape(tensor)}; expected (rows,) or (chains, rows) with at least one row.")
    check_finite(what, tensor, row_axis=-1)
    return tensor


def row_weights(weights: object, y: Tensor, *, check_values: bool = True) -> Tensor:
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


def predictor(name: str, x: object, n_rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A column as a checked tensor, `(rows, *trailing)`."""
    what = f"column {name!r}"
    tensor = _numbers(what, x, dtype, device)
    if tensor.ndim == 0 or 0 in tensor.shape[1:]:
        raise DataError(f"{what} has shape {shape(tensor)}; expected (rows,) or (rows, *trailing).")
    check_length(what, len(tensor), n_rows)
    check_finite(what, tensor, row_axis=0)
    return tensor


def _numbers(what: str, values: object, dtype: torch.dtype, device: torch.device) -> Tensor:
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


def is_real(kind: np.dtype | pd.api.extensions.ExtensionDtype) -> bool:
    """Whether a pandas or NumPy dtype holds real numbers."""
    return pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_complex_dtype(kind)


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


def check_none(what: str, problem: str, rows: Tensor | np.ndarray, advice: str) -> None:
    """Raises if there are rows with a problem, one entry a value."""
    if count := len(rows):
        values = "1 value is" if count == 1 else f"{count} values are"
        raise DataError(f"{what}: {values} {problem}, first in row {int(rows.min())} (from 0). {advice}")


def common_device(*given: object) -> torch.device:
    """The one device of the tensors among the arguments; the CPU if there is none."""
    devices = {values.device for values in given if isinstance(values, Tensor)}
    if len(devices) > 1:
        raise DataError(f"the tensors are on {' and '.join(sorted(map(str, devices)))}: move them to one device.")
    if torch.device("meta") in devices:
        raise DataError("a tensor on the device 'meta' has no values: give one that has.")
    return devices.pop() if devices else torch.device("cpu")


def spread_rows(rows: int, at_most: int, device: torch.device) -> Tensor:
    """Numbers of at most so many rows, spread evenly over all."""
    taken = min(rows, at_most)
    return torch.arange(taken, device=device) * rows // taken


def row_numbers(rows: object, n_rows: int) -> Tensor:
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
