"""The rows that were fitted as the user's own columns, and frames in which some of these are set to other values."""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

from hiertorch import wording
from hiertorch.draws.fitted import Fitted
from hiertorch.errors import DataError
from hiertorch.models.design import design_of


@dataclass(frozen=True)
class Columns:
    """Columns of the fitted rows, by what they are to the model.

    Attributes:
        frame: the columns that it reads, of the rows that were fitted at first.
        n_rows: of all rows, also those that updates have added.
        inputs: those that predict.
        factors: those of categories.
        plates: grouping -> the columns that name a group.
        labels: grouping -> labels of all of its groups.
        explained: grouping -> inputs that explain the effects of its groups.
        optional: columns without which rows can be predicted.
    """

    frame: pd.DataFrame
    n_rows: int
    inputs: tuple[str, ...]
    factors: frozenset[str]
    plates: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, pd.Index]
    explained: Mapping[str, tuple[str, ...]]
    optional: frozenset[str] = frozenset()

    @classmethod
    def of(cls, fitted: Fitted) -> Self:
        """Those of a model and its data.

        Raises:
            DataError: if columns were made from a frame that can't be told from them.
        """
        data = fitted.data
        recipe, reader, design = data.recipe, data.recipe.reader, design_of(fitted.model)
        if reader is not None:
            labels = {plate: data.labels[plate] for plate in reader.plates}
            plates = {plate: tuple(columns) for plate, columns in reader.plates.items()}
            told = tuple(reader.inputs), frozenset(reader.factors)
            return cls(reader.frame, data.n_rows, *told, plates, labels, {}, frozenset(reader.optional))
        if recipe.levels or any(x.dim() > 1 for x in data.columns.values()):
            raise DataError(
                "the model was fitted to columns made of others (levels of categories, or a matrix), and what the mean "
                'does with the original ones is known of a formula alone: fit with ht.fit("y ~ ...", frame).'
            )
        numbers = {column: data.columns[name].cpu().numpy() for name, column in recipe.columns.items()}
        groups = {
            column: data.labels[plate].take(data.codes[plate].cpu().numpy()).to_numpy()
            for plate, column in recipe.groups.items()
        }
        labels = {plate: data.labels[plate] for plate in recipe.groups}
        of_groups = {} if design is None else design.group_predictors
        explained = {plate: tuple(recipe.columns[name] for name in names) for plate, names in of_groups.items()}
        named = {plate: (column,) for plate, column in recipe.groups.items()}
        return cls(
            pd.DataFrame(numbers | groups, index=data.index),
            data.n_rows,
            tuple(numbers),
            frozenset(),
            named,
            labels,
            explained,
        )

    def rows(self) -> pd.DataFrame:
        """All rows, or a DataError if some were added by an update."""
        if len(self.frame) != self.n_rows:
            raise DataError(
                f"of the posterior's {self.n_rows} rows {self.n_rows - len(self.frame)} were added by an update, whose "
                "frame it did not keep: give the rows that you ask about, frame=."
            )
        return self.frame

    def known(self, name: object) -> str:
        """The name of a column that predicts, or a DataError that says which do."""
        if name not in self.inputs:
            raise DataError(
                f"{name!r} is no column that predicts; there are {wording.listed(self.inputs)}."
                f"{wording.closest(str(name), self.inputs)}"
            )
        return str(name)

    def check_free(self, name: str, frame: pd.DataFrame) -> None:
        """Raises a DataError if a column explains effects of groups that are in the rows, and so can't be another."""
        for plate, names in self.explained.items():
            if name in names and set(self.plates[plate]) & set(frame.columns):
                raise DataError(
                    f"{name!r} explains the effects of {plate!r}, which were fitted with its values: ask about rows of "
                    f"new groups, frame= without the column {self.plates[plate][0]!r}, or about other columns."
                )

    def levels(self, name: str) -> list[object]:
        """Of a column of categories, the reference first."""
        column = self.frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            return column.cat.remove_unused_categories().cat.categories.tolist()
        return pd.Index(column.unique()).sort_values().tolist()

    def is_binary(self, name: str) -> bool:
        """Whether a column of numbers has only zeros and ones."""
        return bool(self.frame[name].isin([0, 1]).all())

    def set(self, frame: pd.DataFrame, name: str, value: object) -> pd.DataFrame:
        """A frame whose column has one value, or other ones, in the column's own kind."""
        column = self.frame[name]
        if name not in self.factors:
            return frame.assign(**{name: np.broadcast_to(np.asarray(value, np.float64), len(frame)).copy()})
        values = [value] * len(frame) if isinstance(value, Hashable) else list(value)
        known = self.levels(name)
        if wrong := [one for one in values if one not in known]:
            raise DataError(f"{name!r} has no level {wrong[0]!r}; its levels: {wording.listed(known)}.")
        return frame.assign(**{name: pd.Series(values, index=frame.index, dtype=column.dtype)})

    def with_groups(self, frame: pd.DataFrame, new_groups: str) -> pd.DataFrame:
        """The columns of a frame that the model reads, and all of groupings: those that are left out name a new group,
        one for all rows. Where columns explain the effects of groups, and may differ between rows, each row has a group
        of its own, unless one is drawn ("sample").
        """
        known = frame[[name for name in frame.columns if name in self.frame.columns]]
        lost = {name: plate for plate, names in self.plates.items() for name in names if name not in known}
        for name, plate in lost.items():
            label: Any = self._fresh(name)
            if self.explained.get(plate) and new_groups != "sample":
                each = range(len(known))
                label = [f"{label} {i}" if isinstance(label, str) else label + i for i in each]
            known = known.assign(**{name: label})
        return known

    def _fresh(self, name: str) -> str | int:
        """A label that no row has, those of updates included."""
        column, known = self.frame[name], set(map(str, self.frame[name].unique()))
        for plate, labels in self.labels.items():
            known |= (
                {part for label in labels for part in str(label).split(":")} if name in self.plates[plate] else set()
            )
        if is_numeric_dtype(column.dtype) and not is_bool_dtype(column.dtype):
            number = column.max() + 1
            while str(number) in known:
                number += 1
            return number
        label = "new"
        while label in known:
            label += "_"
        return label

    def typical(self) -> pd.DataFrame:
        """One row: numbers at their mean (a whole number where rows or responses are counted), categories at their
        reference level, and no groups.
        """
        groups = {name for names in self.plates.values() for name in names}
        row: dict[str, Any] = {}
        for name, column in self.frame.items():
            key = str(name)
            if key in (groups - set(self.inputs)) | self.optional:
                continue
            if key in self.factors or not is_numeric_dtype(column.dtype):
                row[key] = pd.Series([self.levels(key)[0]], dtype=column.dtype)
            elif key not in self.inputs and is_integer_dtype(column.dtype):
                row[key] = [round(float(column.mean()))]
            else:
                row[key] = [float(column.mean())]
        return pd.DataFrame(row, index=[0])


def cells(frame: pd.DataFrame, by: Iterable[str] | None, *, average: bool) -> tuple[np.ndarray, pd.DataFrame]:
    """The cell of each row whose rows are averaged over, `(rows,)`, and the columns that name the cells.

    Raises:
        DataError: for a column that the frame does not have.
    """
    if by is None and not average:
        return np.arange(len(frame)), frame
    wanted: Sequence[str] = [] if by is None else [by] if isinstance(by, str) else list(by)
    if unknown := [name for name in wanted if name not in frame.columns]:
        raise DataError(
            f"by= names {unknown[0]!r}, and the rows have {wording.listed(frame.columns)}: give rows with it, frame=."
        )
    if not wanted:
        return np.zeros(len(frame), np.int64), pd.DataFrame(index=pd.RangeIndex(1))
    grouped = frame.groupby(list(wanted), sort=True, observed=True)
    codes = grouped.ngroup().to_numpy()
    first = np.unique(codes, return_index=True)[1]
    return codes, frame.iloc[first][list(wanted)].reset_index(drop=True)


def missing(frame: pd.DataFrame, names: Collection[str]) -> None:
    """Raises a DataError for columns that a frame lacks."""
    if lost := [name for name in names if name not in frame.columns]:
        raise DataError(f"the frame has no column {lost[0]!r}; its columns: {wording.listed(frame.columns)}.")
