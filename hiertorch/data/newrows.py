"""New rows as data: read as the fitted ones were, and set behind fitted rows of their groups.

Note [Groups of new rows]
    A model reads groups by code, the facts about them (where a class lies, a school's sector) from rows. So new rows
    become data whose groups are those that occur in them, known ones first, and which begin with one fitted row of each
    known group. These rows are not predicted: they say what is known of their groups, and new rows that say otherwise
    are an error. A grouping whose labels are the entries of an event (times of a path) keeps them all.
    A model that holds facts about its groups itself (a buffer in the order of their codes) can't be read like this.
    So the densities of the fitted rows in front, and the priors of their groups, are held against those in the data
    that were fitted.

docs/decisions.md: New rows are set behind one fitted row of each known group.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.arguments import check_flag
from hiertorch.data.frames import Table, as_frame
from hiertorch.data.spelling import clashes, refuse_spellings
from hiertorch.data.table import Data
from hiertorch.errors import DataError, warn


@dataclass(frozen=True)
class FrameRows:
    """A frame of new rows, read as the fitted data were."""

    columns: Mapping[str, Tensor]  # (rows,)
    labels: Mapping[str, pd.Index]  # of each row
    index: pd.Index

    @classmethod
    def read(cls, data: Data, table: Table, *, distinct: bool = False) -> Self:
        """The rows of a frame, as those of fitted data were read; with `distinct` new labels that are known ones in
        another spelling are other groups indeed.

        Raises:
            DataError: for columns that are missing or can't be read, and labels in another spelling.
        """
        check_flag("distinct", distinct)
        if not data.recipe.reader and (matrices := [name for name, x in data.columns.items() if x.ndim > 1]):
            raise DataError(
                f"column {matrices[0]!r} is a matrix in the data that were fitted, and a column of a frame is not: fit "
                "with one column for each of its predictors."
            )
        frame = as_frame(table)
        columns, labels = data.read_rows(frame)
        rows = cls(columns, labels, frame.index)
        for plate, fresh in rows.fresh(data).items() if not distinct else ():
            refuse_spellings(plate, data.labels[plate], fresh)
        return rows

    def fresh(self, data: Data) -> dict[str, pd.Index]:
        """Grouping -> labels that fitted data do not have."""
        return {plate: rows[data.labels[plate].get_indexer(rows) < 0].unique() for plate, rows in self.labels.items()}

    def part(self, where: np.ndarray) -> "FrameRows":
        """Those rows at which a mask is True."""
        columns = {name: x[torch.from_numpy(where).to(x.device)] for name, x in self.columns.items()}
        return FrameRows(columns, {plate: rows[where] for plate, rows in self.labels.items()}, self.index[where])

    def then(self, other: "FrameRows") -> "FrameRows":
        """These rows, and others behind them."""
        columns = {name: torch.cat([x, other.columns[name]]) for name, x in self.columns.items()}
        labels = {plate: appended(rows, other.labels[plate]) for plate, rows in self.labels.items()}
        return FrameRows(columns, labels, appended(self.index, other.index))


class NewRows(Data):
    """Data of new rows behind fitted ones; see Note [Groups of new rows]."""

    _fitted: Data
    _frame_index: pd.Index

    @classmethod
    def behind(
        cls,
        fitted: Data,
        heads: np.ndarray,
        rows: FrameRows,
        y: Tensor,
        codes: Mapping[str, np.ndarray],
        labels: Mapping[str, pd.Index],
    ) -> Self:
        """New rows, with response y, behind the rows `heads` of the whole of the fitted data, `(heads,)`; codes and
        labels are those of both, as in `Data.beside`.
        """
        whole = fitted.whole_data
        at, before = torch.from_numpy(heads).to(whole.device), whole.y if whole.y.ndim == 1 else whole.y[0]
        columns = {name: torch.cat([whole.columns[name][at].to(x), x]) for name, x in rows.columns.items()}
        data = cls.beside(fitted, torch.cat([before[at].to(y), y]), columns, codes, labels)
        data._fitted, data._frame_index = fitted, rows.index
        return data

    def nests(self, child: str, parent: str) -> bool:
        """As in the data that were fitted."""
        return self._fitted.nests(child, parent)

    def row_text(self, row: int) -> str:
        """A row by its label in the frame, in words."""
        first = self.whole_data.n_rows - len(self._frame_index)
        start = self._rows.start if isinstance(self._rows, slice) else 0
        return f"row {wording.show(self._frame_index[start + row - first])} of the frame"

    def _of_groups(self, plate: str, values: np.ndarray, what: str) -> tuple[np.ndarray, int, int | None]:
        found, one, other = super()._of_groups(plate, values, what)
        if other is None:
            return found, one, other
        first = len(self.whole_codes[plate]) - len(self._frame_index)

        def value(row: int) -> str:
            text = wording.show(self.labels[what][values[row]]) if what in self.labels else str(values[row].tolist())
            index = self._frame_index[row - first] if row >= first else None
            return f"{text} in the data that were fitted" if row < first else f"{text} in row {wording.show(index)}"

        raise DataError(
            f"{self._label(plate, one)} has one {what}, but it is {value(one)} and {value(other)} of the frame: "
            "correct the row, or give another group a label of its own."
        )


def appended(known: pd.Index, fresh: pd.Index) -> pd.Index:
    """Labels, with new ones behind them; a tuple is one label."""
    if not len(fresh):
        return known
    if known.dtype == fresh.dtype and known.dtype != object:
        return known.append(fresh)
    labels: list[Hashable] = [*known, *fresh]
    return pd.Index(labels, dtype=None if len(known) else fresh.dtype, tupleize_cols=False)


def shown(labels: pd.Index, most: int = 5) -> str:
    """Some labels for a message."""
    texts = ", ".join(wording.show(label) for label in labels[:most])
    return texts + (f" and {len(labels) - most} more" if len(labels) > most else "")


def announce(new: Mapping[str, pd.Index], what: str, advice: str) -> None:
    """A warning on new groups, grouping -> labels, which a label that is misspelt makes, too: what is made of them, and
    how to say that they are meant.
    """
    if not any(len(labels) for labels in new.values()):
        return
    named = "; ".join(f"{len(labels)} of {plate!r} ({shown(labels)})" for plate, labels in new.items() if len(labels))
    alike = [pair for labels in new.values() for pair in clashes(labels)]
    doubt = f" {wording.show(alike[0][0])} and {wording.show(alike[0][1])} may be one group." if alike else ""
    warn(f"the rows have groups that were not fitted, {named}: {what}.{doubt} If that is meant, {advice}.")
