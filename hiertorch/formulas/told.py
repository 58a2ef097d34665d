"""What a formula tells of rows behind the response that cuts them off: cens(c, y2) and trunc(lb, ub)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from hiertorch import wording
from hiertorch.errors import DataError
from hiertorch.families import Censored, Family, Truncated
from hiertorch.formulas.encoding import Matrix
from hiertorch.formulas.parsing import Parts, names_in
from hiertorch.formulas.predictors import column_of, single
from hiertorch.model.censoring import INTERVAL, WORDS

CODES, UPPER, LOW, HIGH = "cens", "y2", "lb", "ub"
"""What is told, by the names of its arguments, and of the data's columns."""

ALLOWED = '"none", "right", "left" and "interval", or 0, 1, -1 and 2, or True (right-censored) and False'


class Cuts:
    """Where the rows of a formula are cut off, if it says so.

    Args:
        parts: of the formula.
        frame: the rows that are fitted.
        functions: by name, which the formula may call.

    Raises:
        DataError: for codes that are not known, upper ends that are not above the response, and what can't be computed.
    """

    def __init__(self, parts: Parts, frame: pd.DataFrame, functions: Mapping[str, object]) -> None:
        self.told, self._response = parts.told, parts.response
        self._ends = {
            name: single(f"end {name}", self.told[name], frame, functions)
            for name in (LOW, HIGH)
            if name in self.told and _number(self.told[name]) is None
        }
        self._codes: Matrix | None = None
        if CODES in self.told and _column(self.told[CODES], frame) is None:
            self._codes = single(CODES, self.told[CODES], frame, functions)
        self._upper: Matrix | None = None
        if UPPER in self.told and _column(self.told[UPPER], frame) is None:
            self._upper = single(UPPER, self.told[UPPER], frame, functions)

    @property
    def optional(self) -> frozenset[str]:
        """What rows that are to be predicted need not tell: the response, and how far it was seen."""
        if CODES not in self.told:
            return frozenset()
        return frozenset(names_in(self._response) | names_in(self.told[CODES]) | names_in(self.told.get(UPPER, "")))

    def family(self, base: Family) -> Family:
        """A family whose rows are cut off so.

        Raises:
            ModelError: for a family whose rows can't be.
        """
        if LOW in self.told or HIGH in self.told:
            base = Truncated(base, *(self._end(name) for name in (LOW, HIGH)))
        return Censored(base, CODES, UPPER if UPPER in self.told else None) if CODES in self.told else base

    def _end(self, name: str) -> float | str | None:
        """A number, or the column that has one for each row."""
        if name in self._ends:
            return name
        return _number(self.told[name]) if name in self.told else None

    def rows(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """Columns of any frame. Rows without a response are not censored, so that they need no codes.

        Raises:
            DataError: as at first.
        """
        found = {name: matrix.at(frame)[:, 0] for name, matrix in self._ends.items()}
        if CODES not in self.told:
            return found
        if not self.optional & {*frame.columns}:
            codes, upper = np.zeros(len(frame)), np.zeros(len(frame))
        else:
            codes = self._codes_of(frame)
            upper = self._upper_of(frame, codes == INTERVAL)
        return found | {CODES: codes} | ({UPPER: upper} if UPPER in self.told else {})

    def recipes(self) -> dict[str, str]:
        """Ends of truncated rows in the little language of exported models; others are not needed to predict."""
        return {name: matrix.recipes()[0] for name, matrix in self._ends.items()}

    def _codes_of(self, frame: pd.DataFrame) -> np.ndarray:
        text = self.told[CODES]
        if self._codes is not None:
            values = pd.Series(self._codes.at(frame)[:, 0])
        else:
            values = column_of(frame, text.strip().strip("`"))
        codes = read_codes(values)
        if (bad := np.flatnonzero(np.isnan(codes))).size:
            raise DataError(
                f"cens({text}) is {wording.show(values.iloc[bad[0]])} in row {bad[0]} (from 0); it takes {ALLOWED}."
            )
        if UPPER not in self.told and (bad := np.flatnonzero(codes == INTERVAL)).size:
            raise DataError(
                f"cens({text}) says that row {bad[0]} (from 0) lies in an interval (2), and no upper end is told: "
                f"write cens({text}, y2) with the column of upper ends, or code the rows anew: it takes {ALLOWED}."
            )
        return codes

    def _upper_of(self, frame: pd.DataFrame, interval: np.ndarray) -> np.ndarray:
        """Upper ends, 0 where there is none."""
        if UPPER not in self.told:
            return np.zeros(len(frame))
        text = self.told[UPPER]
        if self._upper is not None:
            values = self._upper.at(frame)[:, 0]
        else:
            column = column_of(frame, text.strip().strip("`"))
            if not is_numeric_dtype(column.dtype):
                raise DataError(f"the upper ends {text!r} are numbers; found {column.dtype}.")
            values = column.to_numpy(np.float64, na_value=np.nan)
        return np.where(interval, values, 0.0)

    def check(self, y: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        """Raises a DataError for a response that does not lie below its upper end, or beyond the ends of rows."""
        if UPPER in self.told:
            bad = np.flatnonzero((columns[CODES] == INTERVAL) & ~(columns[UPPER] > y))
            if bad.size:
                row = bad[0]
                raise DataError(
                    f"row {row} (from 0) is interval-censored from {y[row]:g} to {columns[UPPER][row]:g}: upper ends, "
                    f"{self.told[UPPER]!r}, are above the response. Correct the rows, or leave them out."
                )
        for name, what in ((LOW, "below its lower end"), (HIGH, "above its upper end")):
            if name not in self.told:
                continue
            end = columns.get(name, np.full(len(y), _number(self.told[name])))
            bad = np.flatnonzero(y < end if name == LOW else y > end)
            if bad.size:
                row = bad[0]
                raise DataError(
                    f"the response is {y[row]:g} in row {row} (from 0), {what} {end[row]:g}, where trunc() says that "
                    f"no row is seen; {wording.many(bad.size, 'row')} of {len(y)} like it. Correct the end, or leave "
                    "these rows out; where y was cut off there, write cens()."
                )


def read_codes(values: pd.Series) -> np.ndarray:
    """Codes of rows, `(rows,)`, from words, truths or numbers; NaN where they are none."""
    if is_bool_dtype(values.dtype):
        return values.to_numpy(np.float64, na_value=np.nan)
    if is_numeric_dtype(values.dtype):
        numbers = values.to_numpy(np.float64, na_value=np.nan)
        return np.where(np.isin(numbers, [*WORDS.values()]), numbers, np.nan)
    return np.array([WORDS.get(x, np.nan) if isinstance(x, str) else np.nan for x in values], np.float64)


def without_need(parts: Parts, frame: pd.DataFrame) -> tuple[str, np.ndarray] | None:
    """The column of upper ends and the rows that need none, in which it may lack a value; None if there is no such
    column.
    """
    if UPPER not in parts.told or CODES not in parts.told:
        return None
    column, codes = _column(parts.told[UPPER], frame), _column(parts.told[CODES], frame)
    if column is None or codes is None:
        return None
    found = read_codes(frame[codes])
    return column, np.isfinite(found) & (found != INTERVAL)


def _column(text: str, frame: pd.DataFrame) -> str | None:
    """The column that an expression is, if it is one alone."""
    name = text.strip().strip("`")
    return name if name in frame.columns else None


def _number(text: str) -> float | None:
    """The number that an expression is, if it is one alone."""
    try:
        return float(text)
    except ValueError:
        return None
