"""Columns of numbers from the terms of a formula, encoded by `formulae`, which remembers levels, means and knots.

A categorical column has one indicator for each level but the first where the terms beside it span the intercept, and
one for each level where they do not, as in R; its levels are in their own order, or sorted.
"""

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype, is_string_dtype

from hiertorch import wording
from hiertorch.errors import DataError, HiertorchError, ModelError
from hiertorch.formulas.factors import Factor
from hiertorch.formulas.functions import FUNCTIONS, KNOWN, OTHERS, renamed, restored
from hiertorch.formulas.labels import written
from hiertorch.formulas.parsing import TOLD, names_in

INTERCEPT = "Intercept"


class Matrix:
    """The columns of some terms, such as "1 + x * f".

    Args:
        text: the terms.
        frame: the rows that are fitted.
        functions: by name, which formulas may call beside those that all know.
        shown: the terms as the user wrote them, for messages.

    Attributes:
        labels: of the columns.
        values: `(rows, columns)`, float64.

    Raises:
        DataError: for columns that the frame does not have, and what can't be computed.
    """

    def __init__(self, text: str, frame: pd.DataFrame, functions: Mapping[str, object], shown: str = "") -> None:
        from formulae.environment import Environment  # which takes half a second
        from formulae.matrices import DesignMatrices

        from hiertorch.formulas.contrasts import CONTRASTS
        from hiertorch.formulas.polynomials import NAME, Polynomials
        from hiertorch.formulas.terms import described

        self.text, self._shown = text, shown
        self._levels: dict[str, pd.Index] = {}  # of columns of categories
        read = names_in(text) & {*frame.columns}
        self._numeric = frozenset(name for name in read if is_numeric_dtype(frame[name].dtype))
        for name in sorted(read):
            kind = frame[name].dtype
            if not is_numeric_dtype(kind):
                self._levels[name] = _levels(frame[name])
            if not (is_numeric_dtype(kind) or is_string_dtype(kind) or isinstance(kind, pd.CategoricalDtype)):
                raise DataError(
                    f"column {name!r}, which {self.written!r} reads, holds {kind}: recode it as numbers, or as text "
                    "if it is categories."
                )
        with self._told(frame):
            names = Environment([{**CONTRASTS, NAME: Polynomials, **KNOWN, **functions}])
            self._made = DesignMatrices(described(renamed(text)), _ordered(frame), names).common
        terms = () if self._made is None else tuple(self._made.terms.values())
        for part in (part for term in terms for part in getattr(term, "components", ())):
            if (call := getattr(part, "call", None)) is not None:
                part.name = written(call)
        self.labels = self._labels()
        self.values = self._numbers(None if self._made is None else self._made.design_matrix, len(frame))
        self._check_rows_alone(frame)

    @property
    def references(self) -> dict[str, object]:
        """Column of categories -> the level that has no indicator, where one has none."""
        found = dict[str, object]()
        for term in () if self._made is None else self._made.terms.values():
            for part in getattr(term, "components", ()):
                if part.kind == "categoric" and not part.spans_intercept and _has_reference(part):
                    shown = {label.partition("[")[2].rstrip("]") for label in np.atleast_1d(part.labels)}
                    found[part.name] = next((level for level in part.levels if str(level) not in shown), None)
        return found

    @property
    def state(self) -> list[dict[str, object]]:
        """What each transform remembers of the fitted rows, such as means and knots, and then the levels of each call
        that gives categories, in the order of the terms.
        """
        return [dict(vars(one)) for one in self._transforms()] + [{"levels": one.levels} for one in self._calls()]

    @property
    def degrees(self) -> list[tuple[int, int]]:
        """Of each poly() its degree, and how many different values its column has."""
        made = (vars(one) for one in self._transforms() if getattr(one, "__transform_name__", "") == "poly")
        return [(one["degree"], one["values"]) for one in made]

    def recall(self, state: list[dict[str, object]]) -> None:
        """Remembers the `state` of another matrix of the same terms."""
        from formulae.categorical import CategoricalBox, Treatment

        if self._made is None:
            return
        transforms, calls = list(self._transforms()), list(self._calls())
        if not any("names" in one for one in state):  # files of earlier versions have none of factor()
            transforms = [one for one in transforms if not isinstance(one, Factor)]
        for one, known in zip([vars(x) for x in transforms], state, strict=False):
            one.update(known)
        for part, told in zip(calls, state[len(transforms) :], strict=False):  # older files tell no levels
            made = part._intermediate_data
            contrast = (made.contrast if isinstance(made, CategoricalBox) else None) or Treatment()
            coded = contrast.code_with_intercept if part.spans_intercept else contrast.code_without_intercept
            part.levels = told["levels"]
            part.contrast_matrix = coded(part.levels)
        self.labels = self._labels()

    def recipes(self) -> list[str]:
        """The columns but that of the intercept in the little language of exported models, a text for each term.

        Raises:
            ModelError: for a term that the language can't say.
        """
        from hiertorch.formulas.recipes import recipes  # few models are exported

        return recipes(() if self._made is None else self._made.terms.values(), self._numeric, {*self._levels})

    def _labels(self) -> list[str]:
        terms = () if self._made is None else self._made.terms.values()
        return [restored(str(label)) for term in terms for label in np.atleast_1d(term.labels)]

    def _calls(self) -> Iterator[Any]:
        """Calls that give categories."""
        for term in () if self._made is None else self._made.terms.values():
            for part in getattr(term, "components", ()):
                if getattr(part, "call", None) is not None and part.kind == "categoric":
                    yield part

    def _transforms(self) -> Iterator[object]:
        for term in () if self._made is None else self._made.terms.values():
            for component in getattr(term, "components", ()):
                yield from _called(getattr(component, "call", None))

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

    def _check_rows_alone(self, frame: pd.DataFrame) -> None:
        """Raises a DataError if a row reads otherwise alone than among others, as of a function that ranks, sums or
        shifts rows and remembers nothing: later rows would be other columns under the same names.
        """
        if self._made is None or "(" not in self.text or len(frame) < 3:
            return
        some, one = np.arange(0, len(frame), max(1, len(frame) // 8))[1:8], np.array([len(frame) // 2 + 1])
        for rows in (some, one):
            with self._told(frame):
                alone = self._made.evaluate_new_data(_ordered(frame.iloc[rows])).design_matrix
            alone, among = np.asarray(alone, np.float64).reshape(len(rows), -1), self.values[rows]
            if not np.allclose(alone, among, rtol=1e-6, atol=1e-9 * max(1.0, float(np.abs(among).max(initial=0.0)))):
                raise DataError(
                    f"the terms {self.written!r} read a row otherwise alone than among those that are fitted, so that "
                    "later rows could not be read alike: compute a column of the frame, or call what remembers the "
                    "fitted rows, such as mean(), sd(), min(), max(), sum() and quantile()."
                )

    def _numbers(self, found: object, rows: int) -> np.ndarray:
        values = np.zeros((rows, 0)) if found is None else np.asarray(found, np.float64).reshape(rows, -1)
        if (bad := np.argwhere(~np.isfinite(values))).size:
            row, column = bad[0]
            raise DataError(
                f"{self._shown or self.labels[column]} is {values[row, column]} in row {row} (from 0): leave such rows "
                'out, na="drop" where a value is missing, or write another term.'
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
            raise DataError(self._unknown(str(error.args[0]) if error.args else "", frame)) from error
        except Exception as error:  # of whatever function the formula calls
            what = restored(" ".join(str(error).split()).rstrip("."))
            what = re.sub(r"\w+\.__call__\(\)", "the function is", what)
            if unseen := re.fullmatch(r"The levels \((.*)\) in '(.*)' are not present in the original data set", what):
                known = [level for part in self._calls() if restored(part.name) == unseen[2] for level in part.levels]
                raise DataError(
                    f"{unseen[2]} is {unseen[1]} in some rows, which the rows that were fitted do not have; its "
                    f"levels: {wording.listed(known)}."
                ) from error
            if re.search(r"unrecognized type \(<class '(?:float|int|numpy\.float64)'>", what):
                raise DataError(
                    f"the terms {self.written!r} have one that is the same number in all rows: write it beside a "
                    "column, as in I(x - mean(x))."
                ) from error
            inside = names_in(" ".join(re.findall(r"\(([^()]*)\)", self.text)))
            texts = [name for name in frame.columns if name in inside and is_string_dtype(frame[name].dtype)]
            why = f" Column {texts[0]!r} holds text." if texts and "unrecognized" not in what else ""
            raise DataError(f"the terms {self.written!r} can't be computed: {what}.{why}") from error

    @property
    def written(self) -> str:
        """The terms as the user wrote them."""
        return self._shown or self.text

    def _unknown(self, name: str, frame: pd.DataFrame) -> str:
        """That there is no such function, or no such column."""
        called = [one for one in re.findall(r"([\w.]+)\(", self.text) if name in (one, one.partition(".")[0])]
        if called and called[0] in TOLD:
            raise ModelError(
                f"the terms {self.written!r} call {called[0]}(), which is told of rows behind the response: write "
                f"y | {called[0]}(column) ~ x."
            )
        if called:
            known = wording.closest(called[0], [*FUNCTIONS, *OTHERS])
            return (
                f"the terms {self.written!r} call {called[0]}(), which is no function that formulas know.{known} Give "
                f"yours, functions={{{called[0]!r}: ...}}, or compute a column of the frame."
            )
        if re.search(rf"\bC\([^()]*,\s*(?:contrast\s*=\s*)?{re.escape(name)}\b", self.text):
            return (
                f"the terms {self.written!r} name the contrasts {name!r}, which there are none of; there are "
                f"{wording.listed(['Treatment', 'Sum', 'Helmert', 'Poly'])}."
            )
        where = "" if name == self.written else f", which {self.written!r} reads"
        return (
            f"the frame has no column {name!r}{where}; its columns: {wording.listed(frame.columns)}."
            f"{wording.closest(name, frame.columns)}"
        )


class Constant(Matrix):
    """One number, the same in all rows, such as 100 in proportion(y, 100)."""

    def __init__(self, number: float, rows: int) -> None:
        self.number, self.labels, self._made = number, [f"{number:g}"], None
        self.values = self._of(rows)

    def _of(self, rows: int) -> np.ndarray:
        return np.full((rows, 1), self.number)

    def at(self, frame: pd.DataFrame) -> np.ndarray:
        """The number in all rows, `(rows, 1)`."""
        return self._of(len(frame))

    def recipes(self) -> list[str]:
        """The number."""
        return [repr(float(self.number))]


def _levels(column: pd.Series) -> pd.Index:
    """What a column of categories has, sorted.

    Raises:
        DataError: if it can't be sorted.
    """
    try:
        return pd.Index(column.unique()).sort_values()
    except TypeError as error:
        kinds = wording.listed(sorted({type(one).__name__ for one in column}))
        raise DataError(
            f"column {column.name!r} holds values of several kinds ({kinds}): make it text, or numbers."
        ) from error


def _has_reference(part: Any) -> bool:
    """Whether coefficients of a column of categories are differences from one of its levels."""
    rows = part.contrast_matrix.matrix
    return bool(((rows == 0) | (rows == 1)).all())


def _called(call: Any) -> Iterator[object]:
    """Transforms with a memory in a call, and in its arguments."""
    if getattr(call, "stateful_transform", None) is not None:
        yield call.stateful_transform
    for argument in (*getattr(call, "args", ()), *getattr(call, "kwargs", {}).values()):
        yield from _called(argument)


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Categories in their own order, which `formulae` keeps of ordered ones alone."""
    loose = {
        name: column.cat.remove_unused_categories().cat.as_ordered()
        for name, column in frame.items()
        if isinstance(column.dtype, pd.CategoricalDtype)
    }
    return frame.assign(**{str(name): column for name, column in loose.items()}) if loose else frame
