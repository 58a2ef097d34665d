"""Which columns of a frame a formula reads, and as what; and rows that lack none of their values."""

import re

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from hiertorch import wording
from hiertorch.errors import DataError
from hiertorch.formulas.functions import CATEGORIES
from hiertorch.formulas.parsing import Parts, names_in
from hiertorch.formulas.told import without_need

NA = ("error", "drop")

FACTOR = re.compile(rf"\b(?:{'|'.join(CATEGORIES)})\(\s*([^\W\d_][\w.]*|`[^`]+`)")
"""A column that a term takes as categories."""


def columns_read(parts: Parts, frame: pd.DataFrame) -> list[str]:
    """Columns of a frame that a formula calls by name, in the frame's order."""
    texts, named = [parts.response, *parts.told.values()], set[str]()
    for terms in parts.terms.values():
        texts += [terms.common, *terms.offsets, *(bar.effects for bar in terms.bars)]
        named |= {name for bar in terms.bars for group in bar.groupings for name in group}
    named |= {name for text in texts for name in names_in(text)}
    return [name for name in frame.columns if name in named]


def inputs_read(parts: Parts, frame: pd.DataFrame) -> list[str]:
    """Columns that terms read, of all rows or of groups, without those of offsets and groupings."""
    named = {name for text in _terms(parts) for name in names_in(text)}
    return [name for name in frame.columns if name in named]


def factors_read(parts: Parts, frame: pd.DataFrame) -> frozenset[str]:
    """Columns that terms read as categories, by their kind or by factor()."""
    called = {name.strip("`") for text in _terms(parts) for name in FACTOR.findall(text)}
    kinds = {str(name): column.dtype for name, column in frame.items()}
    return frozenset(
        called | {name for name, kind in kinds.items() if not is_numeric_dtype(kind) or is_bool_dtype(kind)}
    )


def complete(frame: pd.DataFrame, parts: Parts, na: str) -> tuple[pd.DataFrame, int]:
    """The rows that have all values that a formula reads, and how many others there were.

    Raises:
        DataError: if there are others, unless they are to be dropped.
    """
    missing = frame[columns_read(parts, frame)].isna()
    if (free := without_need(parts, frame)) is not None:
        missing.loc[free[1], free[0]] = False
    some = missing.any(axis=1).to_numpy()
    if not some.any():
        return frame, 0
    counts = {name: int(number) for name, number in missing.sum().items() if number}
    told = ", ".join(f"{number} of {name!r}" for name, number in counts.items())
    if na == "error":
        raise DataError(
            f"{wording.many(int(some.sum()), 'row')} of {len(frame)} lack a value that the formula reads ({told}): "
            'take na="drop", which leaves these rows out, or fill the values in.'
        )
    if some.all():
        raise DataError(f"all {len(frame)} rows lack a value that the formula reads ({told}).")
    return frame[~some], int(some.sum())


def in_order(frame: pd.DataFrame, parts: Parts) -> pd.DataFrame:
    """With the response's categories in the order that the formula says, if it says one.

    Raises:
        DataError: for a response that has others.
    """
    name = parts.response.strip("`")
    if not parts.levels or name not in frame.columns:
        return frame
    found = {str(x): x for x in frame[name].dropna().unique()}
    known = [found.get(str(level), level) for level in parts.levels]
    others = [x for text, x in found.items() if text not in {*map(str, parts.levels)}]
    if others:
        raise DataError(
            f"the formula names the levels {wording.listed(parts.levels)} of {name!r}, which has "
            f"{wording.show(others[0])}, too."
        )
    return frame.assign(**{name: pd.Categorical(frame[name], categories=known, ordered=True)})


def _terms(parts: Parts) -> list[str]:
    """All terms, without offsets and groupings."""
    return [text for each in parts.terms.values() for text in (each.common, *(bar.effects for bar in each.bars))]
