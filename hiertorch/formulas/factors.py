"""Functions of formulas that give categories, or take them: R's, in R's meaning.

Levels, their names and breaks are those of the rows that are fitted; what later rows have beside them is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from hiertorch.errors import DataError
from hiertorch.wording import listed, show

if TYPE_CHECKING:
    from formulae.categorical import CategoricalBox

Column: TypeAlias = "np.ndarray | pd.Series"

Categories: TypeAlias = "Column | pd.Categorical | CategoricalBox"
"""A column of categories; `formulae` makes a box of C(x)."""


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
        return _places(self.levels, values, "as.numeric") + 1.0


class Dummy:
    """dummy(f, "a"): 1 in rows of this level, else 0; without one, an indicator for each level but the first.

    Attributes:
        levels: that have an indicator.
        every: the levels of the fitted rows.
    """

    __stateful_transform__ = True

    def __init__(self) -> None:
        self.levels: list[object] | None = None
        self.every: list[object] | None = None

    def __call__(self, x: Categories, level: object = None) -> np.ndarray:
        """Indicators of rows."""
        x = _plain(x)
        if self.levels is None:
            known = _levels(x)
            if level is not None and level not in known:
                raise DataError(f"dummy() names {level!r}, which is none of the levels {listed(known)}.")
            self.levels, self.every = known[1:] if level is None else [level], known
        if self.every is not None:  # files of earlier versions lack them
            _places(self.every, x, "dummy")
        found = np.column_stack([np.asarray(x) == one for one in self.levels]).astype(np.float64)
        return found[:, 0] if found.shape[1] == 1 else found


class Cut:
    """cut(x, breaks): the interval (a, b] that x lies in, named as in R; a number of breaks makes equal intervals over
    the range of the fitted rows. With labels=FALSE the numbers 1, 2, ... of intervals.
    """

    __stateful_transform__ = True

    def __init__(self) -> None:
        self.breaks: np.ndarray | None = None

    def __call__(
        self,
        x: Column,
        breaks: int | Sequence[float] | np.ndarray,
        labels: list[str] | bool | None = None,
        include_lowest: bool = False,
        right: bool = True,
    ) -> pd.Categorical | np.ndarray:
        """Intervals of rows."""
        values = np.asarray(x, np.float64)
        if self.breaks is None:
            self.breaks = _breaks(values, breaks)
        low, high = ("(", "]") if right else ("[", ")")
        named = (
            labels if isinstance(labels, list) else [f"{low}{a},{b}{high}" for a, b in pairwise(_texts(self.breaks))]
        )
        found = pd.cut(values, self.breaks.tolist(), right=right, labels=named, include_lowest=include_lowest)
        if found.isna().any():
            raise DataError(
                f"cut() has no interval for {values[found.isna()][0]:g}: its breaks go from {self.breaks[0]:g} to "
                f"{self.breaks[-1]:g}; give wider ones, or include.lowest=TRUE."
            )
        return found.codes + 1.0 if labels is False else found


def _breaks(x: np.ndarray, told: int | Sequence[float] | np.ndarray) -> np.ndarray:
    """In order; of a number of equal intervals a thousandth of the range beyond both ends, as R has it."""
    if not isinstance(told, int):
        found = np.sort(np.asarray(told, np.float64))
        if len(found) < 2 or (np.diff(found) == 0).any():
            raise DataError(
                f"the breaks of cut() are two numbers or more, all different; found {listed(found.tolist())}: leave "
                "out those that occur twice, or take fewer quantiles."
            )
        return found
    if told < 2:
        raise DataError(f"cut() makes two intervals or more, or has the breaks c(a, b, ...); found {told}.")
    low, high = float(x.min()), float(x.max())
    more = (high - low) / 1000
    return np.array([low - more, *np.linspace(low, high, told + 1)[1:-1], high + more])


def _texts(breaks: np.ndarray) -> list[str]:
    """With three digits, or as many more as tell them apart."""
    found = list[str]()
    for digits in range(3, 18):
        found = [f"{one:.{digits}g}" for one in breaks]
        if len({*found}) == len(found):
            break
    return found


class Factor:
    """factor(x, levels, labels): categories in the order that is given, under other names if these are.

    Attributes:
        levels: of the fitted rows and their order, before they have other names.
        names: of these.
    """

    __stateful_transform__ = True

    def __init__(self) -> None:
        self.levels: list[object] | None = None
        self.names: list[object] = []

    def __call__(
        self, x: Categories, levels: list[object] | None = None, labels: list[str] | None = None, ordered: bool = True
    ) -> pd.Categorical:
        """Categories of rows."""
        x = _plain(x)
        if self.levels is None:
            self._learn(_levels(x), levels, labels)
        assert self.levels is not None
        names = list(dict.fromkeys(self.names))  # levels of one name are one, as in R
        codes = np.array([names.index(one) for one in self.names])[_places(self.levels, x, "factor")]
        return pd.Categorical.from_codes(codes, categories=pd.Index(names), ordered=True)

    def _learn(self, found: list[object], told: list[object] | None, labels: list[str] | None) -> None:
        known = found if told is None else told
        if others := [one for one in found if one not in known]:
            raise DataError(f"factor() is told the levels {listed(known)}, and its column has {show(others[0])}.")
        if labels is not None and len(labels) != len(known):
            raise DataError(f"factor() has {len(known)} levels ({listed(known)}) and {len(labels)} labels: name each.")
        names = known if labels is None else labels
        seen = [(level, name) for level, name in zip(known, names, strict=True) if level in found]
        self.levels, self.names = [level for level, _ in seen], [name for _, name in seen]


class Relevel:
    """relevel(f, ref): the same categories with this one first, which makes it the reference."""

    __stateful_transform__ = True

    def __init__(self) -> None:
        self.levels: list[object] | None = None

    def __call__(self, x: Categories, ref: object) -> pd.Categorical:
        """Categories of rows."""
        x = _plain(x)
        if self.levels is None:
            known = _levels(x)
            first = [one for one in known if str(one) == str(ref)]
            if not first:
                raise DataError(f"relevel() names {ref!r}, which is none of the levels {listed(known)}.")
            self.levels = first + [one for one in known if one != first[0]]
        codes = _places(self.levels, x, "relevel")
        return pd.Categorical.from_codes(codes, categories=pd.Index(self.levels), ordered=True)


def interaction(*given: Categories, drop: bool = True) -> pd.Categorical:
    """interaction(a, b): the combinations that occur, "a.b", those of the first column varying fastest."""
    columns = [_plain(x) for x in given]
    known = [_levels(x) for x in columns]
    codes = [pd.Index(own).get_indexer(pd.Index(np.asarray(x))) for own, x in zip(known, columns, strict=True)]
    places = sorted({*zip(*codes[::-1], strict=True)})
    names = [".".join(str(own[k]) for own, k in zip(known, place[::-1], strict=True)) for place in places]
    texts = [".".join(map(str, row)) for row in zip(*map(np.asarray, columns), strict=True)]
    return pd.Categorical(texts, categories=list[object](names), ordered=True)


def droplevels(x: Categories) -> Categories:
    """droplevels(f) = f: levels that no fitted row has are never kept."""
    return x


def _places(levels: Sequence[object], x: Column | pd.Categorical, name: str) -> np.ndarray:
    """Of each row's level among those that are known.

    Raises:
        DataError: for one that is not.
    """
    values = pd.Index(np.asarray(x))
    found = pd.Index(list[Any](levels)).get_indexer(values)
    if (bad := np.flatnonzero(found < 0)).size:
        raise DataError(
            f"{name}() meets {show(values[bad[0]])}, which the rows that were fitted do not have; their levels: "
            f"{listed(levels)}."
        )
    return found


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
