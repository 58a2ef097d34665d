"""A response that is categories: which there are, their codes, and the formula of the predictor of each."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from hiertorch import wording
from hiertorch.errors import DataError, ModelError
from hiertorch.formulas.parsing import NAME, Parts
from hiertorch.formulas.predictors import column_of

PREFIX = "mu_"
"""Of the argument that is the formula of one category's predictor."""


def leveled(text: str) -> tuple[str | None, str | None]:
    """Column and level of use["Y"], or a column alone; None and None of an expression."""
    name, _, rest = text.partition("[")
    if NAME.fullmatch(name.strip()) and (not rest or rest.endswith("]")):
        return name.strip().strip("`"), rest[:-1].strip().strip("\"'") if rest else None
    return None, None


def categories_of(text: str, frame: pd.DataFrame, *, ordered: bool) -> tuple[Hashable, ...]:
    """Those of a response that occur, in the order of its categories or numbers; without either, and where no order is
    asked for, sorted.

    Args:
        text: of the response.
        frame: the rows that are fitted.
        ordered: whether categories have to be in an order that is known.

    Raises:
        ModelError, DataError: for a response that is no column, or has no order that is known.
    """
    name, level = leveled(text)
    if name is None or level is not None:
        kind = "ordered categories" if ordered else "categories"
        raise ModelError(f"the response of {kind} is a column alone; found {text!r}.")
    column = column_of(frame, name)
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return tuple(one for one in dtype.categories if (column == one).any())
    numbers = pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)
    if numbers and not (column != column.round()).any():
        return tuple(int(x) for x in np.unique(column.to_numpy()))
    if ordered:
        raise DataError(
            f"the response {name!r} has categories in no order that is known: make it whole numbers, or "
            f"pandas.Categorical(frame[{name!r}], categories=[...], ordered=True) with its categories in order."
        )
    known = pd.unique(column).tolist()
    try:
        return tuple(sorted(known))
    except TypeError:  # of several kinds
        return tuple(sorted(known, key=str))


def codes_of(name: str, categories: Sequence[Hashable], column: pd.Series) -> np.ndarray:
    """Number of each row's category, `(rows,)`."""
    codes = pd.Index(list[Any](categories), tupleize_cols=False).get_indexer(pd.Index(column.to_numpy()))
    if (bad := np.flatnonzero(codes < 0)).size:
        raise DataError(
            f"the response {name!r} is {wording.show(column.iloc[bad[0]])} in row {bad[0]} (from 0); its categories: "
            f"{wording.listed(categories)}."
        )
    return codes.astype(np.float64)


def by_category(parts: Parts, labels: Sequence[str]) -> Parts:
    """A formula with a predictor for each of some categories: its own terms, or those that mu_<category> has instead.

    Raises:
        ModelError: for the formula of another parameter.
    """
    common = parts.terms[""]
    known = {PREFIX + label: label for label in labels}
    if other := [name for name in parts.terms if name and name not in known]:
        raise ModelError(
            f"categories have a predictor each, {wording.listed(known)}, and the formula names {other[0]!r}."
            f"{wording.closest(other[0], known)}"
        )
    return replace(parts, terms={label: parts.terms.get(name, common) for name, label in known.items()})
