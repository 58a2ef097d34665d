"""Which columns of a frame are meant, by what names, and whether the rows of several columns fit together."""

from collections.abc import Collection, Hashable, Iterable, Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from hiertorch.data.reading import check_none
from hiertorch.errors import DataError
from hiertorch.wording import closest, listed, show


def check_names(
    response: str, columns: Mapping[str, object], groups: Mapping[str, object], taken: Collection[str]
) -> None:
    """Raises a DataError for names that are no strings, in use twice or `taken` by attributes of Data."""
    for kind, name in [("column", name) for name in columns] + [("grouping", name) for name in groups]:
        advice = f"rename it, for example by frame.rename(columns={{{name!r}: '{name}_'}})."
        if not isinstance(name, str):
            raise DataError(f"the name of {kind} {name!r} is no string: {advice}")
        if name in taken:
            raise DataError(f"{kind} {name!r} has the name of an attribute of Data: {advice}")
        if name == response:
            raise DataError(f"{kind} {name!r} has the name of the response: leave it out, or {advice}")
        if kind == "grouping" and name in columns:
            raise DataError(
                f"{name!r} is the name of a column and of a grouping: leave one out, or name the grouping anew "
                f"by a mapping, groups={{'{name}_': {name!r}}}."
            )


def check_mappings(**given: object) -> None:
    """Raises a DataError for arguments by grouping that are no mapping."""
    for what, value in given.items():
        if value is not None and not isinstance(value, Mapping):
            raise DataError(f"{what}= is a mapping from groupings to labels, {{'school': [...]}}; found {value!r}.")


def check_column_name(what: str, name: object) -> None:
    """Raises a DataError for what can't be the name of a column."""
    if not isinstance(name, Hashable):
        raise DataError(f"{what}= takes names of columns; found {name!r} as one.")


def check_aligned(given: Iterable[tuple[str, object]], index: pd.Index | None = None) -> None:
    """Raises a DataError for pandas objects, by what they are called, whose rows are labelled in different ways (than
    the data's `index`, if they have one already), since all are read by position.
    """
    first = "the data"
    for what, x in given:
        if not isinstance(x, pd.Series | pd.DataFrame):
            continue
        if index is None:
            index, first = x.index, repr(what)
        elif x.index is not index and len(x) == len(index) and not x.index.equals(index):
            row = int(np.argmax(x.index.to_numpy(object) != index.to_numpy(object)))
            raise DataError(
                f"{what!r} has other row labels than {first}: {show(x.index[row])}, where {first} has "
                f"{show(index[row])} (row {row} from 0). Bring them into one order, for example in one frame; or pass "
                ".to_numpy() of each, if they belong together by position."
            )


def renamed(what: str, names: object) -> dict[str, str]:
    """New name -> column; `check_names` and `read_column` look at both."""
    if isinstance(names, Mapping):
        return dict(names)
    if isinstance(names, bytes | Tensor) or not isinstance(names, Iterable):
        raise DataError(f"{what}= names columns: a list, or a mapping from new names to columns; found {names!r}.")
    found = [names] if isinstance(names, str) else list(names)
    for name in found:
        check_column_name(what, name)
    return {name: name for name in found}


def read_column(frame: pd.DataFrame, name: str, levels: dict[str, tuple[str, ...]] | None = None) -> object:
    """A column of a frame; "livch=2" is the indicator (0 or 1) of level "2" of column livch.

    Args:
        frame: where to look.
        name: of the column, or column=level.
        levels: column -> its levels, filled in by each column that is read by level; one that is there already has
            to hold all levels of the frame, and may hold more.

    Raises:
        DataError: if there is no such column or level, with the closest name; for a level that is not known.
    """
    check_column_name("from_frame", name)
    if name not in frame.columns:
        base, equals, level = str(name).partition("=")
        if equals and base in frame.columns:
            return _indicator(frame, base, level, {} if levels is None else levels)
        known = f"its columns: {listed(frame.columns)}"
        raise DataError(f"the frame has no column {name!r}; {known}.{closest(name, frame.columns)}")
    if (count := list(frame.columns).count(name)) > 1:
        raise DataError(f"the frame has {count} columns {name!r}: rename all but one.")
    return frame[name]


def _indicator(frame: pd.DataFrame, base: str, level: str, levels: dict[str, tuple[str, ...]]) -> np.ndarray:
    """1.0 where a column has a level."""
    values = frame[base]
    check_none(f"column {base!r}", "missing", np.flatnonzero(values.isna()), "Drop or impute those rows first.")
    texts = values.astype(str)
    found = tuple(dict.fromkeys(texts))
    known = levels.setdefault(base, found)
    if new := [text for text in found if text not in known]:
        raise DataError(
            f"column {base!r} has level {new[0]!r}, which the data that were fitted do not have; their levels: "
            f"{listed(known)}."
        )
    if level not in known:
        raise DataError(f"column {base!r} has no level {level!r}; its levels: {listed(known)}.{closest(level, known)}")
    return (texts == level).to_numpy(np.float64)
