"""The columns, response and groupings of a data set, as tensors."""

import textwrap
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.arguments import is_count
from hiertorch.data import reading
from hiertorch.data.columns import check_aligned, check_column_name, check_mappings, check_names, read_column, renamed
from hiertorch.data.facts import Facts
from hiertorch.data.fingerprint import Fingerprint
from hiertorch.data.unchanged import check_unchanged, counted
from hiertorch.errors import DataError
from hiertorch.runtime.surroundings import feels_at_home

__all__ = ["Data"]


class Recipe(NamedTuple):
    """Which columns of a frame the data were read from, so that new rows are read alike."""

    response: str
    groups: Mapping[str, str]
    columns: Mapping[str, str]
    levels: Mapping[str, tuple[str, ...]]  # of columns that were read by level
    every: tuple[Hashable, ...]  # all columns of the frame, also those that were not read


@feels_at_home
class Data(Facts):
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
        recipe: which columns of a frame these were.

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

    y: Tensor
    weights: Tensor | None
    name: str
    columns: dict[str, Tensor]
    codes: dict[str, Tensor]
    labels: dict[str, pd.Index]
    recipe: Recipe
    _row_codes: dict[str, np.ndarray]  # grouping -> (rows of the whole,)
    _index: pd.Index  # of the whole
    _whole: Self | None  # the data set that these rows were taken from, None if these are all
    _rows: Tensor | slice | None  # which rows of the whole these are, None if all
    _made_with: Tensor | None  # the weights that the whole was made with, which say whose scales count
    _cache: dict[tuple[str, ...], Tensor]
    _mark: Fingerprint | None  # None before anyone has asked
    _exact: Self | None  # the same data before they were rounded on a device
    _state: dict[str, tuple[int, int]]  # which tensors these are, and how often each was written to

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
        check_mappings(groups=groups, labels=labels)
        self._fill("y", y, columns, groups or {}, weights, labels or {}, torch.float64)
        self._round(dtype)

    def _fill(
        self, name: str, y: Any, columns: dict, groups: Mapping, weights: Any, labels: Mapping, dtype: torch.dtype
    ) -> None:
        check_names(name, columns, groups, taken={*dir(Data), *Data.__annotations__, *Facts.__annotations__})
        if unknown := [plate for plate in labels if plate not in groups]:
            raise DataError(f"labels= has {unknown[0]!r}, which is no grouping; groupings: {wording.listed(groups)}.")
        check_aligned([(name, y), ("weights", weights), *groups.items(), *columns.items()])
        device = reading.common_device(y, weights, *columns.values())
        self.name, self.y = name, reading.response(name, y, dtype, device)
        self.weights = self._made_with = None if weights is None else reading.row_weights(weights, self.y)
        self.columns = {name: reading.predictor(name, x, self.n_rows, dtype, device) for name, x in columns.items()}
        coded = {plate: reading.coded(plate, rows, labels.get(plate), self.n_rows) for plate, rows in groups.items()}
        self.labels = {plate: index for plate, (_, index) in coded.items()}
        self._row_codes = {plate: codes for plate, (codes, _) in coded.items()}
        self.codes = {plate: torch.from_numpy(codes).to(device) for plate, codes in self._row_codes.items()}
        self.recipe = Recipe(
            name,
            {plate: plate for plate in groups},
            {column: column for column in columns},
            {},
            (name, *groups, *columns),
        )
        self._index, self._whole, self._rows, self._cache = pd.RangeIndex(self.n_rows), None, None, {}
        self._mark = self._exact = None
        self._state = counted(self)

    def _round(self, dtype: torch.dtype) -> None:
        """From float64, in which all data begin, to the dtype that was asked for."""
        self.__dict__.update(self.to(dtype=dtype).__dict__)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        response: str,
        groups: Sequence[str] | Mapping[str, str] = (),
        predictors: Sequence[str] | Mapping[str, str] | None = None,
        weights: str | None = None,
        labels: Mapping[str, Sequence[Hashable]] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Self:
        """The rows of a data frame, whose index becomes `data.index`.

        A column of categories is read by level: "livch=2" is 1 where column livch is "2" and 0 elsewhere, as a
        predictor or as the response.

        Args:
            frame: one row an observation.
            response: the column that holds the response.
            groups: the columns that hold group labels, or a mapping from new names to columns.
            predictors: the columns to keep, or a mapping from new names to columns; None keeps all other numeric ones.
            weights: the column that holds row weights.
            labels: for some groupings all labels, in code order; this allows groups without rows.
            dtype: float32 or float64.

        Raises:
            DataError: for a column that the frame doesn't have, and for all that `Data` refuses.
        """
        if not isinstance(frame, pd.DataFrame):
            raise DataError(f"from_frame takes a pandas DataFrame; found {type(frame).__name__}.")
        check_mappings(labels=labels)
        check_column_name("response", response)
        check_column_name("weights", weights)
        grouped = renamed("groups", groups)
        if predictors is None:
            used = [response, weights, *grouped.values()]
            numeric = [name for name, kind in frame.dtypes.items() if name not in used and reading.is_real(kind)]
            kept = renamed("predictors", numeric)
        else:
            kept = renamed("predictors", predictors)
        data = cls.__new__(cls)
        levels: dict[str, tuple[str, ...]] = {}
        y = read_column(frame, response, levels)
        w = None if weights is None else read_column(frame, weights)
        columns = {name: read_column(frame, column, levels) for name, column in kept.items()}
        coded = {name: read_column(frame, column) for name, column in grouped.items()}
        data._fill(str(response), y, columns, coded, w, labels or {}, torch.float64)
        data._index = frame.index
        data.recipe = Recipe(str(response), grouped, kept, levels, tuple(frame.columns))
        data._round(dtype)
        return data

    def read_rows(self, frame: pd.DataFrame) -> tuple[dict[str, Tensor], dict[str, pd.Index]]:
        """Columns `(rows,)` and group labels of new rows, as these data's own were read; no response is needed.

        Raises:
            DataError: for columns that are missing or that the fitted frame did not have, missing values, and levels
                that these data do not have.
        """
        if not isinstance(frame, pd.DataFrame):
            raise DataError(f"new rows come as a pandas DataFrame; found {type(frame).__name__}.")
        if not len(frame):
            raise DataError("the frame of new rows is empty.")
        levels = dict(self.recipe.levels)
        columns = {
            name: reading.predictor(name, read_column(frame, column, levels), len(frame), self.dtype, self.device)
            for name, column in self.recipe.columns.items()
        }
        labels = {
            plate: reading.row_labels(plate, read_column(frame, column)) for plate, column in self.recipe.groups.items()
        }
        if unknown := [column for column in frame.columns if column not in self.recipe.every]:
            hint = wording.closest(unknown[0], self.recipe.every)
            raise DataError(
                f"the frame of new rows has column {unknown[0]!r}, which the data that were fitted do not have.{hint} "
                "Correct its name, or drop it."
            )
        return columns, labels

    @property
    def index(self) -> pd.Index:
        """The frame's index of these rows, or their numbers."""
        return self._index if self._rows is None else self._index[self._of_whole]

    @property
    def fingerprint(self) -> Fingerprint:
        """Of response, weights, columns and groupings in float64: data in float32 have that of what they were made
        from.
        """
        if self._mark is None:
            self._mark = Fingerprint.of(self._exact or self)
        return self._mark

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
        return isinstance(name, str) and (name in self.columns or name in self.codes)

    def __repr__(self) -> str:
        chains = f" for each of {self.y.shape[0]} chains" if self.y.ndim == 2 else ""
        weighted = "" if self.weights is None else ", weighted"
        lines = [f"Data: {self.n_rows} rows, response {self.name!r}{chains}{weighted}"]
        if self.columns:
            lines.append(textwrap.shorten(f"columns: {wording.listed(self.columns)}", 110, placeholder=" ..."))
        if self.codes:
            lines.append(f"groupings: {wording.listed(f'{plate} ({self._sizes(plate)})' for plate in self.plates)}")
        return "\n  ".join(lines)

    def to(self, device: torch.device | str | int | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same data on another device or in another floating dtype; codes stay long."""
        reading.check_dtype(self.dtype if dtype is None else dtype)
        self.check_unchanged()

        def moved(tensor: Tensor, row_axis: int = 0) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        try:
            rows = moved(self._rows) if isinstance(self._rows, Tensor) else self._rows
            new = self._mapped(moved, _rows=rows, _cache={key: moved(tensor) for key, tensor in self._cache.items()})
        except (AssertionError, RuntimeError, TypeError) as error:  # torch has one for each way of not having a device
            raise DataError(
                f"the data can't be moved to device {device!r}: {str(error).splitlines()[0]}. Name one that torch has "
                "here, such as 'cpu'."
            ) from error
        if dtype in (None, self.dtype):
            new._mark, new._exact = self._mark, self._exact
        elif self.device.type != "cpu":  # whose values are not asked for
            new._mark, new._exact = self._mark, self._exact or self
        else:
            new._mark = self.fingerprint
            new._check_finite()  # some numbers are too large for float32
        return new

    def _check_finite(self) -> None:
        for name, column in self.columns.items():
            reading.check_finite(f"column {name!r}", column, row_axis=0)
        for what, x in ((f"the response {self.name!r}", self.y), ("the weights", self.weights)):
            if x is not None:
                reading.check_finite(what, x, row_axis=-1)

    def take(self, rows: Any, weights: Any = None) -> Self:
        """Some rows in a given order; a row may come twice. Groups and their nesting stay those of the whole data set.

        Args:
            rows: row numbers from 0, long tensor `(taken,)`; those on another device than the CPU are not looked at.
            weights: `(taken,)` or `(chains, taken)`, in place of the rows' own; their values are not looked at.

        Raises:
            DataError: for what are no row numbers, or none of these data.
        """
        rows = reading.row_numbers(rows, self.n_rows).to(self.device)

        def taken(tensor: Tensor, row_axis: int = 0) -> Tensor:
            return tensor.index_select(row_axis, rows)

        if isinstance(self._rows, slice):
            new = self._part(taken, rows + self._rows.start)
        else:
            new = self._part(taken, rows if self._rows is None else taken(self._rows))
        if weights is not None:
            new.weights = reading.row_weights(weights, new.y, check_values=False)
            new._state = counted(new)
        return new

    def rows(self, start: int, stop: int) -> Self:
        """Rows start to stop - 1 as views, without a copy. Groups and their nesting stay those of the whole data set.

        Raises:
            DataError: unless 0 <= start < stop <= `n_rows`.
        """
        if not is_count(start) or not is_count(stop) or not 0 <= start < stop <= self.n_rows:
            raise DataError(
                f"rows(start, stop) needs 0 <= start < stop <= {self.n_rows}, the number of rows; found "
                f"rows({start!r}, {stop!r})."
            )

        def viewed(tensor: Tensor, row_axis: int = 0) -> Tensor:
            return tensor.narrow(row_axis, start, stop - start)

        if isinstance(self._rows, Tensor):
            return self._part(viewed, viewed(self._rows))
        before = 0 if self._rows is None else self._rows.start
        return self._part(viewed, slice(before + start, before + stop))

    def _alone(self, rows: Tensor) -> Self:
        """Some rows, long tensor `(taken,)`, as a data set of their own, which knows no other groups than theirs."""
        part = self.take(rows)
        codes, labels, row_codes = {}, {}, {}
        for plate in self.plates:
            present, codes[plate] = part.codes[plate].unique(return_inverse=True)
            labels[plate], row_codes[plate] = self.labels[plate][present.cpu().numpy()], codes[plate].cpu().numpy()
        cache = {key: x for key, x in self._cache.items() if key[0] in ("response", "column")}
        return part._changed(
            codes=codes, labels=labels, _row_codes=row_codes, _index=part.index, _whole=None, _rows=None, _cache=cache
        )

    def check(self, model: Any) -> pd.DataFrame:
        """What a model asks for and these data lack: a table of findings, the gravest first; empty if there are none.

        Columns: `severity` ("error", "warning" or "note"), `about` (a grouping, column or latent), `finding` (a
        sentence with the numbers found), `advice` (a sentence). It looks at the number of groups and rows, their
        balance, rows a parameter, predictors that do not vary (over all rows, or within groups whose slopes do) or say
        the same, and at priors far from the scale of response and predictors, by 200 data sets simulated from the prior
        with a fixed seed. What `Model.check` raises is a finding, too. Missing values are none: `Data` refuses them.

        Args:
            model: a `hiertorch.Model`.

        Raises:
            ModelError: if it is none.
        """
        from hiertorch.advice.requirements import check

        return check(model, self)

    def replace(self, *, y: Any = None, weights: Any = None) -> Self:
        """The same rows with another response or other weights, `(rows,)` or `(chains, rows)`; None keeps them. Priors
        that the data choose follow another response, not other weights: a fold has the priors of all rows.

        Raises:
            DataError: as when data are made.
        """
        cache = {key: x for key, x in self._cache.items() if y is None or key[0] != "response"}
        check_aligned([("y", y), ("weights", weights)], self.index)
        y = self.y if y is None else reading.response(self.name, y, self.dtype, self.device)
        reading.check_length("the new response", y.shape[-1], self.n_rows)
        weights = self.weights if weights is None else weights
        return self._changed(y=y, weights=None if weights is None else reading.row_weights(weights, y), _cache=cache)

    def _part(self, function: Callable[[Tensor, int], Tensor], rows: Tensor | slice) -> Self:
        """These rows of the whole, each tensor by a function of it and of the axis of its rows."""
        cache = {key: tensor for key, tensor in self._cache.items() if key[0] != "counts"}
        return self._mapped(function, _whole=self._whole or self, _rows=rows, _cache=cache)

    def _mapped(self, function: Callable[[Tensor, int], Tensor], **attributes: Any) -> Self:
        """Every tensor replaced by a function of it and of the axis of its rows."""
        return self._changed(
            y=function(self.y, -1),
            weights=None if self.weights is None else function(self.weights, -1),
            _made_with=None if self._made_with is None else function(self._made_with, -1),
            columns={name: function(column, 0) for name, column in self.columns.items()},
            codes={plate: function(codes, 0) for plate, codes in self.codes.items()},
            **attributes,
        )

    def _changed(self, **attributes: Any) -> Self:
        new = type(self).__new__(type(self))
        new.__dict__.update({**self.__dict__, "_mark": None, "_exact": None, **attributes})
        new._state = counted(new)
        return new

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._state = counted(self)  # copies count anew

    def check_unchanged(self) -> None:
        """Raises a DataError if a tensor was written to, or replaced, since the data were made."""
        check_unchanged(self, self._state)

    def _row_text(self, row: int) -> str:
        return f"row {row} (from 0)"
