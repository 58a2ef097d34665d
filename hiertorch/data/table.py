"""The columns, response and groupings of a data set, as tensors."""

import textwrap
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.data import coding, reading
from hiertorch.data.fingerprint import Fingerprint
from hiertorch.data.frames import Table, as_frame
from hiertorch.data.parts import Parts, counted
from hiertorch.data.reading import check_aligned, check_mappings, check_names, read_column
from hiertorch.data.recipe import Reader, Recipe
from hiertorch.errors import DataError
from hiertorch.markup import shown
from hiertorch.runtime.surroundings import feels_at_home


@feels_at_home
class Data(Parts):
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

    recipe: Recipe

    def __init__(
        self,
        y: object,
        *,
        groups: Mapping[str, Iterable[Hashable]] | None = None,
        weights: object = None,
        labels: Mapping[str, Iterable[Hashable]] | None = None,
        dtype: torch.dtype = torch.float64,
        **columns: object,
    ) -> None:
        check_mappings(groups=groups, labels=labels)
        self._fill("y", y, columns, groups or {}, weights, labels or {}, torch.float64)
        self.__dict__.update(self.to(dtype=dtype).__dict__)  # from float64, in which all data begin

    def _fill(
        self,
        name: str,
        y: object,
        columns: Mapping[str, object],
        groups: Mapping[str, object],
        weights: object,
        labels: Mapping[str, object],
        dtype: torch.dtype,
        *,
        as_attributes: bool = True,
    ) -> None:
        check_all_names(name, columns, groups, labels, as_attributes=as_attributes)
        check_aligned([(name, y), ("weights", weights), *groups.items(), *columns.items()])
        device = reading.common_device(y, weights, *columns.values())
        self.name, self.y = name, reading.response(name, y, dtype, device)
        self.weights = self.first_weights = None if weights is None else reading.row_weights(weights, self.y)
        self.columns = {name: reading.predictor(name, x, self.n_rows, dtype, device) for name, x in columns.items()}
        coded = {plate: coding.coded(plate, rows, labels.get(plate), self.n_rows) for plate, rows in groups.items()}
        self.labels = {plate: index for plate, (_, index) in coded.items()}
        self.whole_codes = {plate: codes for plate, (codes, _) in coded.items()}
        self.codes = {plate: torch.from_numpy(codes).to(device) for plate, codes in self.whole_codes.items()}
        self.recipe = Recipe(
            name,
            {plate: plate for plate in groups},
            {column: column for column in columns},
            {},
            (name, *groups, *columns),
        )
        self._index, self._cache = pd.RangeIndex(self.n_rows), {}
        self._whole = self._rows = self._first = self._mark = self._exact = None
        self._state = counted(self)

    @classmethod
    def from_frame(
        cls,
        frame: Table,
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
            frame: one row an observation: a pandas DataFrame, a mapping of columns, or a table with the Arrow interface
                (polars, pyarrow, DuckDB).
            response: the column that holds the response.
            groups: the columns that hold group labels, or a mapping from new names to columns.
            predictors: the columns to keep, or a mapping from new names to columns; None keeps all other numeric ones.
            weights: the column that holds row weights.
            labels: for some groupings all labels, in code order; this allows groups without rows.
            dtype: float32 or float64.

        Raises:
            DataError: for a column that the frame doesn't have, and for all that `Data` refuses.
        """
        frame = as_frame(frame)
        check_mappings(labels=labels)
        grouped, kept = reading.wanted(frame, response, groups, predictors, weights)
        data = cls.__new__(cls)
        levels: dict[str, tuple[str, ...]] = {}
        y = read_column(frame, response, levels)
        w = None if weights is None else read_column(frame, weights)
        columns = {name: read_column(frame, column, levels) for name, column in kept.items()}
        coded = {name: read_column(frame, column) for name, column in grouped.items()}
        data._fill(str(response), y, columns, coded, w, labels or {}, torch.float64)
        data._index = frame.index
        data.recipe = Recipe(str(response), grouped, kept, levels, tuple(frame.columns))
        return data.to(dtype=dtype)

    @classmethod
    def from_parquet(
        cls,
        source: object,
        response: str,
        groups: Sequence[str] | Mapping[str, str] = (),
        predictors: Sequence[str] | Mapping[str, str] | None = None,
        weights: str | None = None,
        labels: Mapping[str, Sequence[Hashable]] | None = None,
        dtype: torch.dtype = torch.float64,
        filters: object = None,
        on_disk: bool | None = None,
    ) -> "Data":
        """The rows of Parquet files, of which only the columns that are named are read.

        Rows that are many stay on disk: they are read once, in batches, into temporary files that hold each column in
        its narrowest exact dtype (under TMPDIR, until the data are given up). A model whose effects and coefficients
        are integrated out is then fitted to sums by group, block by block; other models read the rows into memory.

        Args:
            source: a file, a folder of files, a list of either, or a `pyarrow.dataset.Dataset`, such as one of some
                fragments alone.
            response: see `from_frame`, as for the next five.
            groups: likewise.
            predictors: likewise.
            weights: likewise.
            labels: likewise.
            dtype: likewise.
            filters: which rows, as `pyarrow.parquet.read_table` takes it: `[("year", ">=", 2020)]`, or an expression.
            on_disk: whether rows stay on disk; left out, if they would take more than a sixteenth of the free memory.

        Raises:
            DataError: if there are no such files, and for all that `from_frame` refuses.
        """
        from hiertorch.data.parquet import read

        return read(source, response, groups, predictors, weights, labels, dtype, filters, on_disk)

    def in_memory(self) -> "Data":
        """These data; with all rows in memory, if they are on disk.

        Raises:
            DataError: if they don't fit.
        """
        return self

    @classmethod
    def encoded(
        cls,
        name: str,
        reader: Reader,
        frame: pd.DataFrame,
        every: Sequence[Hashable],
        weights: object = None,
        dtype: torch.dtype = torch.float64,
    ) -> Self:
        """The rows of a frame as a reader makes them, which reads new rows, too; groupings may have any name.

        Args:
            name: of the response.
            reader: of this frame, and of later ones.
            frame: one row an observation; its index becomes `data.index`.
            every: the columns that later frames may have.
            weights: `(rows,)`.
            dtype: float32 or float64.

        Raises:
            DataError: for all that `Data` refuses.
        """
        data = cls.__new__(cls)
        columns, groups = reader.rows(frame)
        data._fill(name, reader.y(frame), columns, groups, weights, {}, torch.float64, as_attributes=False)
        data._index = frame.index
        data.recipe = Recipe(name, {}, {}, {}, tuple(every), reader)
        return data.to(dtype=dtype)

    def read_response(self, frame: Table) -> Tensor:
        """The response of new rows, `(rows,)`, as that of these data was read.

        Raises:
            DataError: if the frame does not have it, or has missing values.
        """
        frame, recipe = as_frame(frame), self.recipe
        y = recipe.reader.y(frame) if recipe.reader else read_column(frame, recipe.response, dict(recipe.levels))
        return reading.response(self.name, y, self.dtype, self.device)

    def read_rows(self, frame: Table) -> tuple[dict[str, Tensor], dict[str, pd.Index]]:
        """Columns `(rows,)` and group labels of new rows, as these data's own were read; no response is needed.

        Raises:
            DataError: for columns that are missing or that the fitted frame did not have, missing values, and levels
                that these data do not have.
        """
        frame = as_frame(frame)
        if not len(frame):
            raise DataError("the frame of new rows is empty.")
        recipe = self.recipe
        given: Mapping[str, object]
        groups: Mapping[str, object]
        if recipe.reader:
            given, groups = recipe.reader.rows(frame)
        else:
            levels = dict(recipe.levels)
            given = {name: read_column(frame, column, levels) for name, column in recipe.columns.items()}
            groups = {plate: read_column(frame, column) for plate, column in recipe.groups.items()}
        columns = {name: reading.predictor(name, x, len(frame), self.dtype, self.device) for name, x in given.items()}
        labels = {plate: coding.row_labels(plate, rows) for plate, rows in groups.items()}
        if not recipe.reader and (unknown := [column for column in frame.columns if column not in recipe.every]):
            hint = wording.closest(unknown[0], recipe.every)
            raise DataError(
                f"the frame of new rows has column {unknown[0]!r}, which the data that were fitted do not have.{hint} "
                "Correct its name, or drop it."
            )
        return columns, labels

    @classmethod
    def beside(
        cls,
        fitted: "Data",
        y: Tensor,
        columns: Mapping[str, Tensor],
        codes: Mapping[str, np.ndarray],
        labels: Mapping[str, pd.Index],
        index: pd.Index | None = None,
    ) -> Self:
        """Rows of which some are new, as data that keep the names of data that were fitted, the scales of their priors
        and their first time.

        Args:
            fitted: the data that were fitted.
            y: the response, `(rows,)`.
            columns: by name, those of the fitted data, `(rows, *trailing)`.
            codes: grouping -> `(rows,)`.
            labels: grouping -> its labels, in the order of these codes.
            index: of the rows; None numbers them.
        """
        data = cls.__new__(cls)
        known = {plate: range(len(every)) for plate, every in labels.items()}
        free = fitted.recipe.reader is not None
        data._fill(fitted.name, y, columns, codes, None, known, fitted.dtype, as_attributes=not free)
        data.labels, data.recipe, data._first = dict(labels), fitted.recipe, fitted
        data._index = data._index if index is None else index
        return data

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
        chains = f" for each of {self.y.shape[0]} chains" if self.by_chain and self.y.ndim == 2 else ""
        weighted = "" if self.weights is None else ", weighted"
        lines = [f"Data: {self.n_rows} rows, response {self.name!r}{chains}{weighted}"]
        if self.columns:
            lines.append(textwrap.shorten(f"columns: {wording.listed(self.columns)}", 110, placeholder=" ..."))
        if self.codes:
            lines.append(f"groupings: {wording.listed(f'{plate} ({self._sizes(plate)})' for plate in self.plates)}")
        return "\n  ".join(lines)

    _repr_html_ = shown

    def check(self, model: object) -> pd.DataFrame:
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


def check_all_names(
    name: str,
    columns: Mapping[str, object],
    groups: Mapping[str, object],
    labels: Mapping[str, object],
    *,
    as_attributes: bool = True,
) -> None:
    """Raises a DataError for names that can't be used, or for labels of what is no grouping."""
    taken = {name for kind in Data.__mro__ for name in getattr(kind, "__annotations__", ())}
    check_names(name, columns, groups, taken={*dir(Data), *taken} if as_attributes else ())
    if unknown := [plate for plate in labels if plate not in groups]:
        raise DataError(f"labels= has {unknown[0]!r}, which is no grouping; groupings: {wording.listed(groups)}.")


def is_first(data: Data) -> bool:
    """Whether these are all rows of data that were fitted first, with the weights that they were made with."""
    return data._first is None and data._whole is None and data.first_weights is data.weights


def made_again(
    name: str,
    y: Tensor,
    columns: Mapping[str, Tensor],
    codes: Mapping[str, Tensor],
    labels: Mapping[str, pd.Index],
    recipe: Recipe,
    *,
    weights: Tensor | None = None,
    index: pd.Index | None = None,
    mark: Fingerprint | None = None,
    numbers: Mapping[tuple[str, ...], Tensor] | None = None,
) -> Data:
    """Data by what a file has of them.

    Args:
        name: of the response y.
        y: `(rows,)` or `(chains, rows)`.
        columns: name -> `(rows, *trailing)`.
        codes: grouping -> long tensor `(rows,)`.
        labels: grouping -> its labels, in the order of their codes.
        recipe: how frames are read.
        weights: of the rows.
        index: of the rows.
        mark: their fingerprint, from before they were rounded to their dtype; None computes it.
        numbers: by which priors are scaled, of rows that these stand for; see `hiertorch.data.facts.prior_numbers`.
    """
    data = Data.__new__(Data)
    known = {plate: range(len(every)) for plate, every in labels.items()}
    rows = {plate: x.numpy() for plate, x in codes.items()}
    data._fill(name, y, columns, rows, weights, known, y.dtype, as_attributes=recipe.reader is None)
    data.labels, data.recipe, data._mark = dict(labels), recipe, mark
    data._index = data._index if index is None else index
    data._cache.update(numbers or {})
    return data
