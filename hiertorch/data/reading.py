"""From whatever a user gives (lists, arrays, series, columns of frames) to checked tensors, or a sentence on what is
wrong; which columns of a frame are meant, by what names, and whether the rows of several columns fit together.
"""

import math
from collections.abc import Collection, Hashable, Iterable, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.arguments import is_count
from hiertorch.errors import DataError
from hiertorch.wording import closest, listed, shape, show

PANDAS_ARRAYS = pd.Series | pd.Index | pd.api.extensions.ExtensionArray
"""One-dimensional arrays that may hold pandas' missing values."""

EXACT = 2.0**53
"""Whole numbers below it are their own float64."""

DROP = "Drop or impute those rows first."
"""What to do about missing values."""


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
            check_exact(what, values.numpy())
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
        check_exact(what, array, numbers)
    return torch.from_numpy(numbers).to(device, dtype)


def _copied(values: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy, since the caller's may change; what chains share is copied once."""
    if values.ndim > 1 and len(values) > 1 and values.stride(0) == 0:
        return _copied(values[:1], device, dtype).expand_as(values)
    return values.to(device, dtype, copy=True)


def check_exact(what: str, array: np.ndarray, numbers: np.ndarray | None = None, before: int = 0) -> None:
    """Raises a DataError if whole numbers are rounded, as those beyond 2^53 are; there are rows `before` these."""
    numbers = array.astype(np.float64) if numbers is None else numbers
    far = np.abs(numbers) >= EXACT
    if far.any():
        pairs = zip(array[far].tolist(), numbers[far].tolist(), np.argwhere(far), strict=True)
        for given, rounded, at in pairs:
            if math.isfinite(rounded) and given == given // 1 and int(given) != int(rounded):
                raise DataError(
                    f"{what} has {given} in row {before + at[-1 if array.ndim == 1 else 0]} (from 0), and float64 "
                    f"holds whole numbers beyond 2^53 rounded, this one as {int(rounded)}: name it as a grouping if it "
                    "is a label, or subtract what all have in common."
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
    check_none(what, not_finite(str(tensor.dtype).removeprefix("torch.")), bad, DROP)


def not_finite(precision: str) -> str:
    """What is wrong with a number, in words."""
    return f"NaN, missing or infinite in {precision}"


def check_none(what: str, problem: str, rows: Tensor | np.ndarray, advice: str) -> None:
    """Raises if there are rows with a problem, one entry a value."""
    if count := len(rows):
        raise troubled(what, problem, count, int(rows.min()), advice)


def troubled(what: str, problem: str, count: int, first: int, advice: str) -> DataError:
    """The error for so many values with a problem, of which the first is in a row by its number."""
    values = "1 value is" if count == 1 else f"{count} values are"
    return DataError(f"{what}: {values} {problem}, first in row {first} (from 0). {advice}")


def common_device(*given: object) -> torch.device:
    """The one device of the tensors among the arguments; the CPU if there is none."""
    devices = {values.device for values in given if isinstance(values, Tensor)}
    if len(devices) > 1:
        raise DataError(f"the tensors are on {' and '.join(sorted(map(str, devices)))}: move them to one device.")
    if torch.device("meta") in devices:
        raise DataError("a tensor on the device 'meta' has no values: give one that has.")
    return devices.pop() if devices else torch.device("cpu")


def no_device(device: object, error: Exception) -> DataError:
    """What is said where there is no such device."""
    return DataError(
        f"the data can't be moved to device {device!r}: {str(error).splitlines()[0]}. Name one that torch has here, "
        "such as 'cpu'."
    )


def spread_rows(rows: int, at_most: int, device: torch.device) -> Tensor:
    """Numbers of at most so many rows, spread evenly over all."""
    taken = min(rows, at_most)
    return torch.arange(taken, device=device) * rows // taken


def check_span(start: object, stop: object, n_rows: int) -> None:
    """Raises a DataError unless there are rows from start to stop - 1."""
    if not is_count(start) or not is_count(stop) or not 0 <= start < stop <= n_rows:
        raise DataError(
            f"rows(start, stop) needs 0 <= start < stop <= {n_rows}, the number of rows; found rows({start!r}, "
            f"{stop!r})."
        )


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


def check_names(
    response: str, columns: Mapping[str, object], groups: Mapping[str, object], taken: Collection[str]
) -> None:
    """Raises a DataError for names that are no strings, in use twice or `taken` by attributes of Data."""
    for kind, name in [("column", name) for name in columns] + [("grouping", name) for name in groups]:
        advice = f"rename it, for example by frame.rename(columns={{{name!r}: '{name}_'}})."
        if not isinstance(name, str):
            raise DataError(f"the name of {kind} {name!r} is no string: {advice}")
        if name in taken:
            raise DataError(f"{kind} {name!r} has the name of an attribute of Data: {advice}")
        if name == response:
            raise DataError(f"{kind} {name!r} has the name of the response: leave it out, or {advice}")
        if kind == "grouping" and name in columns:
            raise DataError(
                f"{name!r} is the name of a column and of a grouping: leave one out, or name the grouping anew "
                f"by a mapping, groups={{'{name}_': {name!r}}}."
            )


def check_mappings(**given: object) -> None:
    """Raises a DataError for arguments by grouping that are no mapping."""
    for what, value in given.items():
        if value is not None and not isinstance(value, Mapping):
            raise DataError(f"{what}= is a mapping from groupings to labels, {{'school': [...]}}; found {value!r}.")


def check_column_name(what: str, name: object) -> None:
    """Raises a DataError for what can't be the name of a column."""
    if not isinstance(name, Hashable):
        raise DataError(f"{what}= takes names of columns; found {name!r} as one.")


def check_aligned(given: Iterable[tuple[str, object]], index: pd.Index | None = None) -> None:
    """Raises a DataError for pandas objects, by what they are called, whose rows are labelled in different ways (than
    the data's `index`, if they have one already), since all are read by position.
    """
    first = "the data"
    for what, x in given:
        if not isinstance(x, pd.Series | pd.DataFrame):
            continue
        if index is None:
            index, first = x.index, repr(what)
        elif x.index is not index and len(x) == len(index) and not x.index.equals(index):
            row = int(np.argmax(x.index.to_numpy(object) != index.to_numpy(object)))
            raise DataError(
                f"{what!r} has other row labels than {first}: {show(x.index[row])}, where {first} has "
                f"{show(index[row])} (row {row} from 0). Bring them into one order, for example in one frame; or pass "
                ".to_numpy() of each, if they belong together by position."
            )


def renamed(what: str, names: object) -> dict[str, str]:
    """New name -> column; `check_names` and `read_column` look at both."""
    if isinstance(names, Mapping):
        return dict(names)
    if isinstance(names, bytes | Tensor) or not isinstance(names, Iterable):
        raise DataError(f"{what}= names columns: a list, or a mapping from new names to columns; found {names!r}.")
    found = [names] if isinstance(names, str) else list(names)
    for name in found:
        check_column_name(what, name)
    return {name: name for name in found}


def wanted(
    frame: pd.DataFrame, response: object, groups: object, predictors: object, weights: object
) -> tuple[dict[str, str], dict[str, str]]:
    """New name -> column, of groupings and of predictors; these are all other numeric columns if they are left out."""
    check_column_name("response", response)
    check_column_name("weights", weights)
    grouped = renamed("groups", groups)
    if predictors is not None:
        return grouped, renamed("predictors", predictors)
    used = [response, weights, *grouped.values()]
    return grouped, renamed("predictors", [n for n, kind in frame.dtypes.items() if n not in used and is_real(kind)])


def read_column(frame: pd.DataFrame, name: str, levels: dict[str, tuple[str, ...]] | None = None) -> object:
    """A column of a frame; "livch=2" is the indicator (0 or 1) of level "2" of column livch.

    Args:
        frame: where to look.
        name: of the column, or column=level.
        levels: column -> its levels, filled in by each column that is read by level; one that is there already has
            to hold all levels of the frame, and may hold more.

    Raises:
        DataError: if there is no such column or level, with the closest name; for a level that is not known.
    """
    check_column_name("from_frame", name)
    if name not in frame.columns:
        base, equals, level = str(name).partition("=")
        if equals and base in frame.columns:
            return _indicator(frame, base, level, {} if levels is None else levels)
        known = f"its columns: {listed(frame.columns)}"
        raise DataError(f"the frame has no column {name!r}; {known}.{closest(name, frame.columns)}")
    if (count := list(frame.columns).count(name)) > 1:
        raise DataError(f"the frame has {count} columns {name!r}: rename all but one.")
    return frame[name]


def _indicator(frame: pd.DataFrame, base: str, level: str, levels: dict[str, tuple[str, ...]]) -> np.ndarray:
    """1.0 where a column has a level."""
    values = frame[base]
    check_none(f"column {base!r}", "missing", np.flatnonzero(values.isna()), DROP)
    texts = values.astype(str)
    found = tuple(dict.fromkeys(texts))
    known = levels.setdefault(base, found)
    if new := [text for text in found if text not in known]:
        raise DataError(
            f"column {base!r} has level {new[0]!r}, which the data that were fitted do not have; their levels: "
            f"{listed(known)}."
        )
    if level not in known:
        raise DataError(f"column {base!r} has no level {level!r}; its levels: {listed(known)}.{closest(level, known)}")
    return (texts == level).to_numpy(np.float64)
