"""Functions that formulas may call beside those of `formulae`: NumPy's, and R's under R's names and in R's meaning.

What a function learns of its column (mean, knots, levels) it learns of the rows that are fitted, and keeps for later
ones. R's names that Python can't say, or that mean something else to `formulae`, have another one on the way through
it (`renamed`), and their own again in labels and messages (`restored`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd

from hiertorch.errors import DataError
from hiertorch.formulas.factors import Cut, Dummy, Factor, Numbers, Relevel, droplevels, interaction
from hiertorch.formulas.splines import BSpline, NaturalSpline

Column: TypeAlias = "np.ndarray | pd.Series"


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


class Var(Mean):
    """Their variance, with n - 1."""

    of = staticmethod(lambda x: np.var(x, ddof=1))


class Sum(Mean):
    """Their sum."""

    of = staticmethod(np.sum)


class Quantile:
    """quantile(x, probs): those of the fitted rows, linear between two (R's seventh kind); the quartiles and both ends
    without probs, as for the breaks of cut().
    """

    __stateful_transform__ = True

    def __init__(self) -> None:
        self.known: float | np.ndarray | None = None

    def __call__(
        self, x: Column, probs: float | Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0), na_rm: bool = True
    ) -> float | np.ndarray:
        """The same for all rows: one number, or one for each of several probabilities."""
        if self.known is None:
            asked = np.asarray(probs, np.float64)
            if asked.size == 0 or not ((asked >= 0) & (asked <= 1)).all():
                raise DataError(f"quantile() takes probabilities between 0 and 1; found {probs!r}.")
            found = np.quantile(np.asarray(x, np.float64), asked)
            self.known = float(found) if asked.ndim == 0 else found
        return self.known


def seq(first: float, last: float, by: float | None = None, length_out: int | None = None) -> list[float]:
    """seq(first, last, by, length.out): numbers at equal distances, both ends included where by leads to the last."""
    if length_out is not None:
        return np.linspace(first, last, int(length_out)).tolist()
    step = (1.0 if last >= first else -1.0) if by is None else float(by)
    if step == 0 or (last - first) / step < 0:
        raise DataError(f"seq() goes from {first:g} to {last:g} by steps in that direction; found by={step:g}.")
    return (first + step * np.arange(int((last - first) / step + 1e-10) + 1)).tolist()


def log(x: Column, base: float | None = None) -> Column:
    """log(x), natural unless another base is given."""
    return np.log(x) if base is None else np.log(x) / np.log(base)


def one_of(x: Column, *values: object) -> np.ndarray:
    """x %in% c(...): whether it is one of these values."""
    return np.asarray(pd.Series(np.asarray(x)).isin(values), np.float64)


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
    **{"var": Var, "sum": Sum, "quantile": Quantile, "seq": seq, "droplevels": droplevels},
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
    "factor": ("factor_of_r", Factor),
}
"""Name in a formula -> its name on the way through `formulae`, and the function."""

RENAMED = {name: other for name, (other, _) in OTHERS.items()} | {"poly": "poly_of_r"}
"""Names that are others on the way; poly() is `hiertorch.formulas.polynomials`."""

KNOWN = FUNCTIONS | dict(OTHERS.values())
"""What `formulae` is given."""

CATEGORIES = ("C", "T", "S", "factor", "relevel", "interaction", "cut", "dummy", "droplevels")
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
