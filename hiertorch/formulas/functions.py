"""Functions that formulas may call beside those of `formulae`: NumPy's, and R's under R's names and in R's meaning.

What a function learns of its column (mean, knots, levels) it learns of the rows that are fitted, and keeps for later
ones. R's names that Python can't say, or that mean something else to `formulae`, have another one on the way through
it (`renamed`), and their own again in labels and messages (`restored`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd

from hiertorch.errors import DataError
from hiertorch.formulas.splines import BSpline, NaturalSpline
from hiertorch.wording import listed, show

if TYPE_CHECKING:
    from formulae.categorical import CategoricalBox

Column: TypeAlias = "np.ndarray | pd.Series"

Categories: TypeAlias = "Column | pd.Categorical | CategoricalBox"
"""A column of categories; `formulae` makes a box of C(x)."""


class Scale:
    """scale(x, center, scale) = (x - mean) / sd of the fitted rows, sd with n - 1; either may be left out or a number,
    as in R, where the divisor of what is not centred is sqrt(sum(x^2) / (n - 1)).
    """

    __stateful_transform__ = True

    def __init__(self) -> None:
        self.known: tuple[float, float] | None = None

    def __call__(self, x: Column, center: float = True, scale: float = True) -> np.ndarray:
        """Rows in these units."""
        values = np.asarray(x, np.float64)
        if self.known is None:
            middle = (float(values.mean()) if center else 0.0) if isinstance(center, bool) else float(center)
            width = float(np.sqrt(((values - middle) ** 2).sum() / (len(values) - 1)))
            self.known = middle, (width if scale else 1.0) if isinstance(scale, bool) else float(scale)
        return (values - self.known[0]) / self.known[1]


class Mean:
    """One number of the fitted rows, such as mean(x) in I(x - mean(x)); na.rm= is taken, since rows that lack a value
    are never fitted.
    """

    __stateful_transform__ = True
    of: Callable[[np.ndarray], np.floating] = staticmethod(np.mean)

    def __init__(self) -> None:
        self.known: float | None = None

    def __call__(self, x: Column, na_rm: bool = True) -> float:
        """The same for all rows."""
        if self.known is None:
            self.known = float(self.of(np.asarray(x, np.float64)))
        return self.known


class Median(Mean):
    """Their median."""

    of = staticmethod(np.median)


class Sd(Mean):
    """Their sd, with n - 1."""

    of = staticmethod(lambda x: np.std(x, ddof=1))


class Std(Mean):
    """Their sd with n, NumPy's."""

    of = staticmethod(np.std)


class Least(Mean):
    """The smallest."""

    of = staticmethod(np.min)


class Most(Mean):
    """The largest."""

    of = staticmethod(np.max)


class Numbers:
    """as.numeric(x): 1, 2, ... by the order of its levels where a column has categories, and numbers as they are, also
    where they are written as text.
    """

    __stateful_transform__ = True

    def __init__(self) -> None:
        self.levels: list[object] | None = None
        self.seen = False

    def __call__(self, x: Categories) -> np.ndarray:
        """Numbers of rows."""
        told, x = x, _plain(x)  # of factor(k) the codes, also where k is numbers
        values = pd.Series(np.asarray(x))
        if not self.seen:
            categories = told is not x or isinstance(x.dtype, pd.CategoricalDtype)
            if categories or pd.to_numeric(values, errors="coerce").isna().any():
                self.levels = _levels(x)
            self.seen = True
        if self.levels is None:
            return pd.to_numeric(values).to_numpy(np.float64)
        return pd.Index(self.levels).get_indexer(pd.Index(values)) + 1.0


class Dummy:
    """dummy(f, "a"): 1 in rows of this level, else 0; without one, an indicator for each level but the first."""

    __stateful_transform__ = True

    def __init__(self) -> None:
        self.levels: list[object] | None = None

    def __call__(self, x: Categories, level: object = None) -> np.ndarray:
        """Indicators of rows."""
        x = _plain(x)
        if self.levels is None:
            known = _levels(x)
            if level is not None and level not in known:
                raise DataError(f"dummy() names {level!r}, which is none of the levels {listed(known)}.")
            self.levels = known[1:] if level is None else [level]
        found = np.column_stack([np.asarray(x) == one for one in self.levels]).astype(np.float64)
        return found[:, 0] if found.shape[1] == 1 else found


class Cut:
    """cut(x, breaks): the interval (a, b] that x lies in, named as in R; a number of breaks makes equal intervals over
    the range of the fitted rows.
    """

    __stateful_transform__ = True

    def __init__(self) -> None:
        self.breaks: np.ndarray | None = None

    def __call__(
        self,
        x: Column,
        breaks: int | list[float],
        labels: list[str] | None = None,
        include_lowest: bool = False,
        right: bool = True,
    ) -> pd.Categorical:
        """Intervals of rows."""
        values = np.asarray(x, np.float64)
        if self.breaks is None:
            self.breaks = _breaks(values, breaks)
        low, high = ("(", "]") if right else ("[", ")")
        texts = [f"{one:.3g}" for one in self.breaks]
        named = labels or [f"{low}{a},{b}{high}" for a, b in pairwise(texts)]
        found = pd.cut(values, self.breaks.tolist(), right=right, labels=named, include_lowest=include_lowest)
        if found.isna().any():
            raise DataError(
                f"cut() has no interval for {values[found.isna()][0]:g}: its breaks go from {self.breaks[0]:g} to "
                f"{self.breaks[-1]:g}; give wider ones, or include.lowest=TRUE."
            )
        return found


def _breaks(x: np.ndarray, told: int | list[float]) -> np.ndarray:
    """In order; of a number of equal intervals a thousandth of the range beyond both ends, as R has it."""
    if not isinstance(told, int):
        return np.sort(np.asarray(told, np.float64))
    if told < 2:
        raise DataError(f"cut() makes two intervals or more, or has the breaks c(a, b, ...); found {told}.")
    low, high = float(x.min()), float(x.max())
    more = (high - low) / 1000
    return np.array([low - more, *np.linspace(low, high, told + 1)[1:-1], high + more])


def factor(
    x: Column | pd.Categorical, levels: list[object] | None = None, labels: list[str] | None = None
) -> pd.Categorical:
    """factor(x, levels, labels): categories in the order that is given, under other names if these are."""
    known = _levels(x) if levels is None else levels
    if others := [one for one in _levels(x) if one not in known]:
        raise DataError(f"factor() is told the levels {listed(known)}, and its column has {show(others[0])}.")
    found = pd.Categorical(np.asarray(x), categories=known, ordered=True)
    found = found if labels is None else found.rename_categories(dict(zip(found.categories, labels, strict=True)))
    return found.remove_unused_categories()


class Relevel:
    """relevel(f, ref): the same categories with this one first, which makes it the reference."""

    __stateful_transform__ = True

    def __init__(self) -> None:
        self.levels: list[object] | None = None

    def __call__(self, x: Categories, ref: object) -> pd.Categorical:
        """Categories of rows."""
        if self.levels is None:
            known = _levels(x)
            first = [one for one in known if str(one) == str(ref)]
            if not first:
                raise DataError(f"relevel() names {ref!r}, which is none of the levels {listed(known)}.")
            self.levels = first + [one for one in known if one != first[0]]
        return pd.Categorical(np.asarray(_plain(x)), categories=self.levels, ordered=True)


def interaction(*given: Categories) -> pd.Categorical:
    """interaction(a, b): the combinations that occur, "a.b", those of the first column varying fastest."""
    columns = [_plain(x) for x in given]
    known = [_levels(x) for x in columns]
    codes = [pd.Index(own).get_indexer(pd.Index(np.asarray(x))) for own, x in zip(known, columns, strict=True)]
    places = sorted({*zip(*codes[::-1], strict=True)})
    names = [".".join(str(own[k]) for own, k in zip(known, place[::-1], strict=True)) for place in places]
    texts = [".".join(map(str, row)) for row in zip(*map(np.asarray, columns), strict=True)]
    return pd.Categorical(texts, categories=list[object](names), ordered=True)


def log(x: Column, base: float | None = None) -> Column:
    """log(x), natural unless another base is given."""
    return np.log(x) if base is None else np.log(x) / np.log(base)


def one_of(x: Column, *values: object) -> np.ndarray:
    """x %in% c(...): whether it is one of these values."""
    return np.asarray(pd.Series(np.asarray(x)).isin(values), np.float64)


def _plain(x: Categories) -> Column | pd.Categorical:
    """A column, also of what `formulae` makes of C(x)."""
    from formulae.categorical import CategoricalBox  # late, since it takes half a second

    if not isinstance(x, CategoricalBox):
        return x
    return x.data if x.levels is None else pd.Categorical(x.data, categories=x.levels, ordered=True)


def _levels(x: Categories) -> list[object]:
    """Of a column: in its own order, or sorted."""
    x = _plain(x)
    kind = x.dtype
    if isinstance(kind, pd.CategoricalDtype):
        return [one for one in kind.categories if one in set(np.asarray(x))]
    return pd.Index(pd.Series(np.asarray(x)).unique()).sort_values().tolist()


def _logit(p: Column) -> Column:
    return np.log(p) - np.log1p(-p)


def _inverse_logit(x: Column) -> Column:
    return 1.0 / (1.0 + np.exp(-x))


FUNCTIONS: dict[str, object] = {
    name: getattr(np, name)
    for name in (
        *("abs", "arccos", "arcsin", "arctan", "ceil", "cos", "cosh", "exp", "expm1", "floor", "log10", "log1p"),
        *("log2", "maximum", "minimum", "power", "round", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh"),
        "where",
    )
} | {
    **{"np": np, "pi": np.pi, "Inf": np.inf, "log": log, "c": lambda *values: list(values)},
    **{"asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "ceiling": np.ceil},
    **{"ifelse": np.where, "pmax": np.maximum, "pmin": np.minimum},
    **{"qlogis": _logit, "logit": _logit, "plogis": _inverse_logit},
    **{"mean": Mean, "median": Median, "sd": Sd, "std": Std, "min": Least, "max": Most},
    **{"relevel": Relevel, "interaction": interaction, "cut": Cut, "dummy": Dummy, "ns": NaturalSpline},
    "one_of": one_of,
}
"""By name."""

OTHERS: Mapping[str, tuple[str, object]] = {
    "scale": ("scale_of_r", Scale),
    "bs": ("bs_of_r", BSpline),
    "as.numeric": ("as_numeric", Numbers),
    "as.integer": ("as_integer", Numbers),
    "as.double": ("as_double", Numbers),
    "unclass": ("unclass_of_r", Numbers),
    "factor": ("factor_of_r", factor),
}
"""Name in a formula -> its name on the way through `formulae`, and the function."""

RENAMED = {name: other for name, (other, _) in OTHERS.items()} | {"poly": "poly_of_r"}
"""Names that are others on the way; poly() is `hiertorch.formulas.polynomials`."""

KNOWN = FUNCTIONS | dict(OTHERS.values())
"""What `formulae` is given."""

CATEGORIES = ("C", "T", "S", "factor", "relevel", "interaction", "cut", "dummy")
"""Functions that take a column as categories."""


NEGATED = re.compile(r"(?<=[(,+*/<>=-])(\s*)-\s*((?:[^\W\d_][\w.]*(?:\([^()]*\))?|[\d.]+|\([^()]*\))\s*\*\*\s*[\w.]+)")
"""-x ** 2, which `formulae` reads as (-x) ** 2."""


def renamed(text: str) -> str:
    """Terms as `formulae` is given them."""
    text = NEGATED.sub(r"\1-(\2)", text)
    for name, other in RENAMED.items():
        text = re.sub(rf"(?<![\w.]){re.escape(name)}\(", f"{other}(", text)
    return text


def restored(text: str) -> str:
    """What `formulae` says of them, with the names that the user wrote."""
    for name, other in RENAMED.items():
        text = text.replace(f"{other}(", f"{name}(")
    return text
