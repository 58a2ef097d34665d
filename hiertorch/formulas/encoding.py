"""Columns of numbers from the terms of a formula, encoded by `formulae`, which remembers levels, means and knots.

A categorical column has one indicator for each level but the first where the terms beside it span the intercept, and
one for each level where they do not, as in R; its levels are in their own order, or sorted.
"""

import contextlib
import io
import re
from collections.abc import Mapping
from typing import Self

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype, is_string_dtype

from hiertorch import wording
from hiertorch.errors import DataError, HiertorchError
from hiertorch.formulas.parsing import names_in

FUNCTIONS: dict[str, object] = {
    name: getattr(np, name)
    for name in (
        *("abs", "ceil", "cos", "cosh", "exp", "expm1", "floor", "log", "log10", "log1p", "log2", "maximum"),
        *("minimum", "power", "round", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh", "where"),
    )
} | {"np": np, "pi": np.pi}
"""That formulas know beside those of `formulae`."""

INTERCEPT = "Intercept"

OWN_SCALE = "scale_by_sd"
"""What `scale` is called on the way through `formulae`, whose own divides by the sd with n."""


class Scale:
    """scale(x) = (x - mean) / sd of the fitted rows, sd with n - 1 as in R."""

    __transform_name__ = "scale"
    __stateful_transform__ = True

    def __init__(self) -> None:
        self.known: tuple[float, float] | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Of the fitted rows at first, and of later ones by the same mean and sd."""
        values = np.asarray(x, np.float64)
        if self.known is None:
            self.known = float(values.mean()), float(values.std(ddof=1))
        return (values - self.known[0]) / self.known[1]


class Matrix:
    """The columns of some terms, such as "1 + x * f".

    Args:
        text: the terms.
        frame: the rows that are fitted.
        functions: by name, which formulas may call beside those that all know.

    Attributes:
        labels: of the columns.
        values: `(rows, columns)`, float64.

    Raises:
        DataError: for columns that the frame does not have, and what can't be computed.
    """

    def __init__(self, text: str, frame: pd.DataFrame, functions: Mapping[str, object]) -> None:
        from formulae import model_description  # which takes half a second
        from formulae.environment import Environment
        from formulae.matrices import DesignMatrices

        self.text, self._known = text, tuple(frame.columns)
        self._levels: dict[str, pd.Index] = {}  # of columns of categories
        for name in sorted(names_in(text) & {*frame.columns}):
            kind = frame[name].dtype
            if not is_numeric_dtype(kind):
                self._levels[name] = pd.Index(frame[name].unique()).sort_values()
            if not (is_numeric_dtype(kind) or is_string_dtype(kind) or isinstance(kind, pd.CategoricalDtype)):
                raise DataError(
                    f"column {name!r}, which {text!r} reads, holds {kind}: recode it as numbers, or as text if it is "
                    "categories."
                )
        with self._told(frame):
            names = Environment([{**FUNCTIONS, OWN_SCALE: Scale, **functions}])
            terms_read = model_description(re.sub(r"\bscale\(", f"{OWN_SCALE}(", text))
            self._made = DesignMatrices(terms_read, _ordered(frame), names).common
        terms = () if self._made is None else tuple(self._made.terms.values())
        labels = [str(label) for term in terms for label in np.atleast_1d(term.labels)]
        self.labels = [label.replace(f"{OWN_SCALE}(", "scale(") for label in labels]
        self.values = self._numbers(None if self._made is None else self._made.design_matrix, len(frame))

    @property
    def references(self) -> dict[str, object]:
        """Column of categories -> the level that has no indicator, where one has none."""
        found = dict[str, object]()
        for term in () if self._made is None else self._made.terms.values():
            for part in getattr(term, "components", ()):
                if part.kind == "categoric" and not part.spans_intercept:
                    shown = {label.partition("[")[2].rstrip("]") for label in np.atleast_1d(part.labels)}
                    found[part.name] = next((level for level in part.levels if str(level) not in shown), None)
        return found

    def __deepcopy__(self, memo: object) -> Self:
        """Itself, which nothing changes: a copy of a model reads frames by the same levels."""
        return self

    def at(self, frame: pd.DataFrame) -> np.ndarray:
        """The columns of other rows, `(rows, columns)`, by the levels, means and knots of those that were fitted."""
        if self._made is None:
            return np.zeros((len(frame), 0))
        for name, levels in self._levels.items():
            new = np.flatnonzero(~frame[name].isin(levels)) if name in frame.columns else np.zeros(0, np.int64)
            if len(new):
                where, what = frame.index[new[0]], frame[name].iloc[new[0]]
                raise DataError(
                    f"column {name!r} has {wording.show(what)} in row {wording.show(where)} of the "
                    f"frame, which the rows that were fitted do not have; their levels: {wording.listed(levels)}."
                )
        with self._told(frame):
            found = self._made.evaluate_new_data(_ordered(frame)).design_matrix
        return self._numbers(found, len(frame))

    def _numbers(self, found: object, rows: int) -> np.ndarray:
        values = np.zeros((rows, 0)) if found is None else np.asarray(found, np.float64).reshape(rows, -1)
        if (bad := np.argwhere(~np.isfinite(values))).size:
            row, column = bad[0]
            raise DataError(
                f"{self.labels[column]} is {values[row, column]} in row {row} (from 0): leave such rows out, "
                'na="drop" where a value is missing, or write another term.'
            )
        return values

    @contextlib.contextmanager
    def _told(self, frame: pd.DataFrame):  # type: ignore[no-untyped-def]  # a generator of nothing
        """What `formulae` raises, in our words; what it prints beside is left out."""
        try:
            with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
                yield
        except HiertorchError:
            raise
        except KeyError as error:
            name = error.args[0] if error.args else ""
            if re.search(rf"\b{re.escape(str(name))}\(", self.text):
                raise DataError(
                    f"the terms {self.text!r} call {name}(), which is no function that formulas know: "
                    f"those of NumPy by their names and of formulae are; give yours, functions={{{str(name)!r}: ...}}."
                ) from error
            raise DataError(
                f"the frame has no column {name!r}, which {self.text!r} reads; its columns: "
                f"{wording.listed(frame.columns)}.{wording.closest(name, frame.columns)}"
            ) from error
        except Exception as error:  # of whatever function the formula calls
            what = " ".join(str(error).split()).rstrip(".")
            raise DataError(f"the terms {self.text!r} can't be computed: {what} ({type(error).__name__}).") from error


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Categories in their own order, which `formulae` keeps of ordered ones alone."""
    loose = {
        name: column.cat.remove_unused_categories().cat.as_ordered()
        for name, column in frame.items()
        if isinstance(column.dtype, pd.CategoricalDtype)
    }
    return frame.assign(**{str(name): column for name, column in loose.items()}) if loose else frame
