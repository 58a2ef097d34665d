"""The columns, response and groupings of a data set, as tensors."""

import difflib
import math
import textwrap
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.errors import DataError

__all__ = ["Data"]

PANDAS_ARRAYS = pd.Series | pd.Index | pd.api.extensions.ExtensionArray


class Data:
    """Rows i = 1..n: a response y_i, columns x_i, and for each grouping the code g_i in {0, .., groups - 1} of a group.

    Labels are coded in sorted order (categories in their own), or by first appearance if they can't be sorted.

    Args:
        y: the response, `(rows,)`, or `(chains, rows)` when every chain has its own.
        groups: for each grouping one label a row: any hashable values, such as numbers, strings, dates or tuples.
        weights: row weights, 0 or more, `(rows,)` or `(chains, rows)`.
        labels: for some groupings all labels, in code order; this allows groups without rows.
        dtype: of response, columns and weights; float32 or float64.
        columns: by name, `(rows,)` or `(rows, *trailing)`; one called "School name" is read by `data["School name"]`.

    Attributes:
        y: `(rows,)` or `(chains, rows)`.
        weights: `(rows,)` or `(chains, rows)`, or None.
        name: what the response is called, "y" unless a frame names it.
        columns: name -> `(rows, *trailing)`.
        codes: grouping -> long tensor `(rows,)`.
        labels: grouping -> pandas Index of its labels, in code order.

    Raises:
        DataError: for missing or infinite values, missing labels, lengths that differ and names that can't be used.

    Example:
        >>> data = Data([1.0, 2.0, 4.0], groups={"school": ["north", "south", "north"]}, x=[0, 1, 1])
        >>> data.school
        tensor([0, 1, 0])
        >>> data.labels["school"].tolist()
        ['north', 'south']
        >>> data
        Data: 3 rows, response 'y'
          columns: x
          groupings: school (2 groups of 1 to 2 rows)
    """

    # Note [Facts about the whole data set]
    # A fold, or a copy sorted by group, must have the groups, nesting and group-level values of the data set that it is
    # taken from, even when a group loses all its rows. So `take` remembers the whole data set and the rows taken, and
    # parents(), nests() and group_values() ask the whole. Codes are also kept as NumPy arrays, which `to` leaves where
    # they are: nesting is found without waiting for a device.

    y: Tensor
    weights: Tensor | None
    name: str
    columns: dict[str, Tensor]
    codes: dict[str, Tensor]
    labels: dict[str, pd.Index]
    _row_codes: dict[str, np.ndarray]  # grouping -> (rows of the whole,)
    _index: pd.Index  # of the whole
    _whole: Self | None  # the data set that these rows were taken from, None if these are all
    _rows: Tensor | None  # which rows of the whole these are, None if all
    _cache: dict[tuple[str, ...], Tensor]

    def __init__(
        self,
        y: Any,
        *,
        groups: Mapping[str, Iterable[Hashable]] | None = None,
        weights: Any = None,
        labels: Mapping[str, Iterable[Hashable]] | None = None,
        dtype: torch.dtype = torch.float64,
        **columns: Any,
    ) -> None:
        self._fill("y", y, columns, groups or {}, weights, labels or {}, dtype)

    def _fill(
        self, name: str, y: Any, columns: dict, groups: Mapping, weights: Any, labels: Mapping, dtype: torch.dtype
    ) -> None:
        _check_dtype(dtype)
        _check_names(name, columns, groups)
        if unknown := [plate for plate in labels if plate not in groups]:
            raise DataError(f"labels= has {unknown[0]!r}, which is no grouping; groupings: {_listed(groups)}.")
        device = _common_device(y, weights, *columns.values())
        self.name, self.y = name, _response(name, y, dtype, device)
        self.weights = None if weights is None else _weights(weights, self.y)
        self.columns = {name: _predictor(name, x, self.n_rows, dtype, device) for name, x in columns.items()}
        coded = {plate: _coded(plate, rows, labels.get(plate), self.n_rows) for plate, rows in groups.items()}
        self.labels = {plate: index for plate, (_, index) in coded.items()}
        self._row_codes = {plate: codes for plate, (codes, _) in coded.items()}
        self.codes = {plate: torch.from_numpy(codes).to(device) for plate, codes in self._row_codes.items()}
        self._index, self._whole, self._rows, self._cache = pd.RangeIndex(self.n_rows), None, None, {}

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        response: str,
        groups: Sequence[str] | Mapping[str, str] = (),
        predictors: Sequence[str] | Mapping[str, str] | None = None,
        weights: str | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Self:
        """The rows of a data frame, whose index becomes `data.index`.

        Args:
            frame: one row an observation.
            response: the column that holds the response.
            groups: the columns that hold group labels, or a mapping from new names to columns.
            predictors: the columns to keep, or a mapping from new names to columns; None keeps all other numeric ones.
            weights: the column that holds row weights.
            dtype: float32 or float64.

        Raises:
            DataError: for a column that the frame doesn't have, and for all that `Data` refuses.
        """
        if not isinstance(frame, pd.DataFrame):
            raise DataError(f"from_frame takes a pandas DataFrame; found {type(frame).__name__}.")
        grouped = _renamed(groups)
        if predictors is None:
            used = {response, weights, *grouped.values()}
            kept = _renamed([name for name, kind in frame.dtypes.items() if name not in used and _is_real(kind)])
        else:
            kept = _renamed(predictors)
        y, w = _column(frame, response), None if weights is None else _column(frame, weights)
        columns = {name: _column(frame, column) for name, column in kept.items()}
        labels = {name: _column(frame, column) for name, column in grouped.items()}
        data = cls.__new__(cls)
        data._fill(str(response), y, columns, labels, w, {}, dtype)
        data._index = frame.index
        return data

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return self.y.shape[-1]

    @property
    def plates(self) -> tuple[str, ...]:
        """The names of the groupings."""
        return tuple(self.codes)

    @property
    def dtype(self) -> torch.dtype:
        """Of response, columns and weights."""
        return self.y.dtype

    @property
    def device(self) -> torch.device:
        """Where all tensors are."""
        return self.y.device

    @property
    def index(self) -> pd.Index:
        """The frame's index of these rows, or their numbers."""
        return self._index if self._rows is None else self._index.take(self._rows.cpu().numpy())

    def __getitem__(self, name: str) -> Tensor:
        """A column `(rows, *trailing)`, or a grouping's codes `(rows,)`."""
        if name not in self:
            raise DataError(self._unknown(name))
        return self.columns[name] if name in self.columns else self.codes[name]

    def __getattr__(self, name: str) -> Tensor:
        """`data.x` is `data["x"]`."""
        # Copying and unpickling ask for attributes before there are any: what is read here must not lead back here.
        if "codes" not in self.__dict__ or name not in self:
            raise AttributeError(self._unknown(name))
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self.columns or name in self.codes

    def __repr__(self) -> str:
        chains = f" for each of {self.y.shape[0]} chains" if self.y.ndim == 2 else ""
        weighted = "" if self.weights is None else ", weighted"
        lines = [f"Data: {self.n_rows} rows, response {self.name!r}{chains}{weighted}"]
        if self.columns:
            lines.append(textwrap.shorten(f"columns: {_listed(self.columns)}", 110, placeholder=" ..."))
        if self.codes:
            lines.append(f"groupings: {_listed(f'{plate} ({self._sizes(plate)})' for plate in self.plates)}")
        return "\n  ".join(lines)

    def size(self, plate: str) -> int:
        """The number of groups, with rows or without."""
        self._check_plates(plate)
        return len(self.labels[plate])

    def counts(self, plate: str) -> Tensor:
        """The number of rows of each group: long tensor `(groups,)`."""
        key, size = ("counts", plate), self.size(plate)
        if key not in self._cache:
            codes = self.codes[plate]  # not bincount, which waits for the device
            self._cache[key] = codes.new_zeros(size).scatter_add_(0, codes, torch.ones_like(codes))
        return self._cache[key]

    def parents(self, child: str, parent: str) -> Tensor:
        """The code of the parent group in which each child group lies: long tensor `(groups of child,)`.

        Raises:
            DataError: if a child group lies in two parent groups, or has no rows that say where it lies.
        """
        self._check_plates(child, parent)
        key = ("parents", child, parent)
        if key not in self._cache:
            found: np.ndarray = np.arange(self.size(child))
            if child != parent:
                found, one, other = self._of_groups(child, self._row_codes[parent], what=parent)
                if other is not None:
                    first, second = self._label(parent, one), self._label(parent, other)
                    raise DataError(
                        f"{child!r} does not nest in {parent!r}: {self._label(child, one)} occurs in {first} and in "
                        f"{second}. If its labels repeat between groups of {parent!r}, combine them: "
                        f'frame["{child}"] = frame["{parent}"] + "/" + frame["{child}"].'
                    )
            self._cache[key] = torch.as_tensor(found, device=self.device)
        return self._cache[key]

    def nests(self, child: str, parent: str) -> bool:
        """Whether every child group is known to lie in one parent group."""
        self._check_plates(child, parent)
        try:
            self.parents(child, parent)
        except DataError:
            return False
        return True

    def group_values(self, column: str, plate: str) -> Tensor:
        """The values of a column that is constant within groups: `(groups, *trailing)`.

        Raises:
            DataError: if the column varies within a group, or a group has no rows.
        """
        self._check_plates(plate)
        if column not in self.columns:
            raise DataError(self._unknown(column))
        key = ("values", column, plate)
        if key not in self._cache:
            rows = (self._whole or self).columns[column].detach().cpu().numpy()
            found, one, other = self._of_groups(plate, rows, what=f"value of {column!r}")
            if other is not None:
                raise DataError(
                    f"column {column!r} varies within {plate!r}: {self._label(plate, one)} has {rows[one].tolist()} "
                    f"and {rows[other].tolist()}. A group-level value is the same in all rows of a group; an average "
                    f'is: frame.groupby("{plate}")["{column}"].transform("mean").'
                )
            self._cache[key] = torch.as_tensor(found, dtype=self.dtype, device=self.device)
        return self._cache[key]

    def to(self, device: torch.device | str | int | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same data on another device or in another floating dtype; codes stay long."""
        _check_dtype(dtype or self.dtype)

        def moved(tensor: Tensor, row_axis: int = 0) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        rows = None if self._rows is None else moved(self._rows)
        return self._mapped(moved, _rows=rows, _cache={key: moved(tensor) for key, tensor in self._cache.items()})

    def take(self, rows: Any, weights: Any = None) -> Self:
        """Some rows in a given order; a row may come twice. Groups and their nesting stay those of the whole data set.

        Args:
            rows: row numbers from 0, long tensor `(taken,)`.
            weights: `(taken,)` or `(chains, taken)`, in place of the rows' own; their values are not looked at.
        """
        rows = torch.as_tensor(rows, device=self.device)
        if rows.ndim != 1 or len(rows) == 0 or rows.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8):
            raise DataError(
                f"take needs row numbers, a long tensor (taken,) of at least one; found {rows.dtype} of shape "
                f"{_shape(rows)}. Instead of a mask pass mask.nonzero()[:, 0]."
            )
        rows = rows.long()

        def taken(tensor: Tensor, row_axis: int) -> Tensor:
            return tensor.index_select(row_axis, rows)

        new = self._mapped(
            taken, _whole=self._whole or self, _rows=rows if self._rows is None else taken(self._rows, 0)
        )
        new._cache = {key: tensor for key, tensor in self._cache.items() if key[0] != "counts"}
        if weights is not None:
            new.weights = _weights(weights, new.y, check_values=False)
        return new

    def replace(self, *, y: Any = None, weights: Any = None) -> Self:
        """The same rows with another response or other weights, `(rows,)` or `(chains, rows)`; None keeps them.

        Raises:
            DataError: as when data are made.
        """
        y = self.y if y is None else _response(self.name, y, self.dtype, self.device)
        _check_length("the new response", y.shape[-1], self.n_rows)
        weights = self.weights if weights is None else weights
        return self._changed(y=y, weights=None if weights is None else _weights(weights, y))

    def _mapped(self, function: Callable[[Tensor, int], Tensor], **attributes: Any) -> Self:
        """Every tensor replaced by a function of it and of the axis of its rows."""
        return self._changed(
            y=function(self.y, -1),
            weights=None if self.weights is None else function(self.weights, -1),
            columns={name: function(column, 0) for name, column in self.columns.items()},
            codes={plate: function(codes, 0) for plate, codes in self.codes.items()},
            **attributes,
        )

    def _changed(self, **attributes: Any) -> Self:
        new = type(self).__new__(type(self))
        new.__dict__.update({**self.__dict__, **attributes})
        return new

    def _of_groups(self, plate: str, values: np.ndarray, what: str) -> tuple[np.ndarray, int, int | None]:
        """Each group's value `(groups, *trailing)`, and two rows of a group that differ (None if none do)."""
        codes = self._row_codes[plate]
        first = np.full(self.size(plate), -1)
        first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # the last assignment stands: a group's first row
        if (first < 0).any():
            label = _show(self.labels[plate][int(np.argmax(first < 0))])
            raise DataError(f"{plate} {label} has no rows, so its {what} can't be known: give it rows, or no label.")
        found = values[first]
        differs = (found[codes] != values).reshape(len(values), math.prod(values.shape[1:])).any(1)
        row = int(np.argmax(differs))
        return found, int(first[codes[row]]), row if differs[row] else None

    def _label(self, plate: str, row: int) -> str:
        return f"{plate} {_show(self.labels[plate][self._row_codes[plate][row]])}"

    def _sizes(self, plate: str) -> str:
        codes = self._row_codes[plate] if self._rows is None else self._row_codes[plate][self._rows.cpu().numpy()]
        counts = np.bincount(codes, minlength=self.size(plate))
        low, high = counts.min(), counts.max()
        each = f"{low}" if low == high else f"{low} to {high}"
        return f"{len(counts)} group{'s' * (len(counts) > 1)} of {each} row{'s' * int(high > 1)}"

    def _check_plates(self, *plates: str) -> None:
        for plate in plates:
            if plate not in self.labels:
                raise DataError(
                    f"no grouping {plate!r}; groupings: {_listed(self.labels)}.{_closest(plate, self.labels)}"
                )

    def _unknown(self, name: object) -> str:
        columns, plates = list(self.__dict__.get("columns", ())), list(self.__dict__.get("codes", ()))
        hint = _closest(name, columns + plates)
        return f"no column or grouping {name!r}; columns: {_listed(columns)}; groupings: {_listed(plates)}.{hint}"


def _response(name: str, y: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    what = f"the response {name!r}"
    tensor = _numbers(what, y, dtype, device)
    if tensor.ndim not in (1, 2) or tensor.numel() == 0:
        raise DataError(f"{what} has shape {_shape(tensor)}; expected (rows,) or (chains, rows) with at least one row.")
    _check_finite(what, tensor, row_axis=-1)
    return tensor


def _weights(weights: Any, y: Tensor, *, check_values: bool = True) -> Tensor:
    tensor = _numbers("the weights", weights, y.dtype, y.device)
    if tensor.ndim not in (1, 2):
        raise DataError(f"the weights have shape {_shape(tensor)}; expected (rows,) or (chains, rows).")
    _check_length("the weights", tensor.shape[-1], y.shape[-1])
    if tensor.ndim == y.ndim == 2 and len(tensor) != len(y):
        raise DataError(f"the weights have {len(tensor)} chains and the response has {len(y)}: give both the same.")
    if check_values:
        _check_finite("the weights", tensor, row_axis=-1)
        negative = (tensor < 0).nonzero()[:, -1]
        _check_none("the weights", "negative", negative, "Weights are 0 or more.")
    return tensor


def _predictor(name: str, x: Any, n_rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    what = f"column {name!r}"
    tensor = _numbers(what, x, dtype, device)
    if tensor.ndim == 0 or 0 in tensor.shape[1:]:
        raise DataError(f"{what} has shape {_shape(tensor)}; expected (rows,) or (rows, *trailing).")
    _check_length(what, len(tensor), n_rows)
    _check_finite(what, tensor, row_axis=0)
    return tensor


def _numbers(what: str, values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Real numbers of any kind, as a floating tensor."""
    if isinstance(values, Tensor):
        if values.is_complex():
            raise DataError(f"{what} is not numeric: found {values.dtype}, expected real numbers.")
        return values.to(device, dtype)
    try:
        if isinstance(values, PANDAS_ARRAYS | pd.DataFrame) and np.any(pd.isna(values)):
            values = values.to_numpy(na_value=np.nan)  # NumPy can't read pandas' NA
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} can't be read as an array of numbers: {error}.") from error
    kind, numeric = array.dtype.name, _is_real(array.dtype)
    if kind == "object":  # None among numbers is a missing number, but a string that looks like a number is a string
        kind = pd.api.types.infer_dtype(array.ravel(), skipna=True)
        numeric = kind in ("integer", "floating", "mixed-integer-float", "boolean", "decimal", "empty")
    if not numeric:
        raise DataError(f"{what} is not numeric: found {kind}. Recode it as numbers, or name it as a grouping.")
    return torch.from_numpy(np.array(array, dtype=np.float64)).to(device, dtype)  # a copy: the caller's may change


def _is_real(kind: Any) -> bool:
    return pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_complex_dtype(kind)


def _coded(plate: str, values: Any, labels: Any, n_rows: int) -> tuple[np.ndarray, pd.Index]:
    """The code of each row `(rows,)`, and the labels in code order."""
    what = f"grouping {plate!r}"
    rows = _labels(what, values)
    _check_length(what, len(rows), n_rows)
    try:
        codes, found = _factorized(rows)
    except TypeError as error:
        raise DataError(f"{what} has a label that can't be one: {error}. Labels must be hashable.") from error
    if labels is None:
        return codes, found
    known = _labels(f"labels= of {what}", labels)
    if isinstance(known, pd.CategoricalIndex):
        known = known.categories.take(known.codes)
    if not known.is_unique:
        raise DataError(f"labels= of {what} has {_show(known[known.duplicated()][0])} twice: give each label once.")
    codes = known.get_indexer(found)[codes]
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise DataError(
            f"{what} has {_show(rows[row])} in row {row} (from 0), which is not in its labels=: add it there."
        )
    return codes, known


def _labels(what: str, values: Any) -> pd.Index:
    """Labels as an index in which a tuple is one label."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) != 1:
        found = f"shape {_shape(values)}" if hasattr(values, "shape") else repr(values)
        raise DataError(f"{what} must be a sequence of labels, one a row; found {found}.")
    if isinstance(values, pd.MultiIndex):
        values = values.to_flat_index()
    elif isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    elif not isinstance(values, PANDAS_ARRAYS | np.ndarray):
        values = [value.item() if isinstance(value, Tensor) else value for value in values]  # tensors hash by identity
    index = pd.Index(values, tupleize_cols=False)
    missing = np.flatnonzero(pd.isna(index))
    _check_none(what, "missing (None, NaN or NaT)", missing, "Drop those rows, or give them a label of their own.")
    return index


def _factorized(rows: pd.Index) -> tuple[np.ndarray, pd.Index]:
    """The code of each row, and the labels: in the order of their categories, else sorted, else by first appearance."""
    if isinstance(rows, pd.CategoricalIndex):
        rows = rows.remove_unused_categories()
        return rows.codes.astype(np.int64), pd.Index(rows.categories, tupleize_cols=False)
    codes, uniques = pd.factorize(rows.array)
    labels = pd.Index(uniques, tupleize_cols=False)
    try:
        order = labels.argsort()
    except TypeError:  # such as numbers among strings
        order = np.arange(len(labels))
    return np.argsort(order)[codes], labels.take(order)


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise DataError(f"dtype must be torch.float32 or torch.float64; found {dtype}.")


def _check_names(response: str, columns: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
    taken = {*dir(Data), *Data.__annotations__}
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


def _check_length(what: str, length: int, n_rows: int) -> None:
    if length != n_rows:
        raise DataError(f"{what}: {length} rows, but the response has {n_rows}.")


def _check_finite(what: str, tensor: Tensor, row_axis: int) -> None:
    bad = (~torch.isfinite(tensor)).nonzero()[:, row_axis]
    precision = str(tensor.dtype).removeprefix("torch.")
    _check_none(what, f"NaN, missing or infinite in {precision}", bad, "Drop or impute those rows first.")


def _check_none(what: str, problem: str, rows: Any, advice: str) -> None:
    """Raises if there are rows with a problem, one entry a value."""
    if count := len(rows):
        values = "1 value is" if count == 1 else f"{count} values are"
        raise DataError(f"{what}: {values} {problem}, first in row {int(rows.min())} (from 0). {advice}")


def _common_device(*given: Any) -> torch.device:
    devices = {values.device for values in given if isinstance(values, Tensor)}
    if len(devices) > 1:
        raise DataError(f"the tensors are on {' and '.join(sorted(map(str, devices)))}: move them to one device.")
    return devices.pop() if devices else torch.device("cpu")


def _renamed(names: Any) -> dict[Any, Any]:
    """New name -> column."""
    if isinstance(names, Mapping):
        return dict(names)
    return {name: name for name in ([names] if isinstance(names, str) else names)}


def _column(frame: pd.DataFrame, name: str) -> Any:
    if name not in frame.columns:
        known = f"its columns: {_listed(frame.columns)}"
        raise DataError(f"the frame has no column {name!r}; {known}.{_closest(name, frame.columns)}")
    if (count := list(frame.columns).count(name)) > 1:
        raise DataError(f"the frame has {count} columns {name!r}: rename all but one.")
    return frame[name]


def _closest(name: object, names: Iterable[Any]) -> str:
    close = difflib.get_close_matches(str(name), [str(known) for known in names], n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names)) or "none"


def _shape(values: Any) -> str:
    return str(tuple(values.shape))


def _show(label: Any) -> str:
    return repr(label.item() if isinstance(label, np.generic) else label)
