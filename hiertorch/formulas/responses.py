"""Whether a family can be that of a response, before anything is made of either: in words of both."""

import re

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from hiertorch import wording
from hiertorch.errors import DataError, ModelError
from hiertorch.families import CODED, NAMES, Family, named
from hiertorch.formulas.habits import FAMILIES
from hiertorch.formulas.parsing import NAME, Parts

SHARE = re.compile(r"\s*([^\W\d_][\w.]*)\s*/\s*([^\W\d_][\w.]*)\s*")
"""A response of one column over another."""

TWO = ("bernoulli", "binomial")
"""Families whose response may be the levels of a column."""


def check_family(given: Family | str) -> None:
    """Raises a ModelError for a name of other packages or in other letters, with the name that it has here."""
    known = [*NAMES, *CODED]
    if not isinstance(given, str) or given in known:
        if not isinstance(given, str | Family):
            named(given)  # which says what a family is
        return
    name = given.partition("(")[0].strip().lower()
    instead = FAMILIES.get(name) or (name if name in known else None)
    hint = f" Did you mean {instead!r}?" if instead else wording.closest(name, known)
    link = re.search(r"probit|cloglog|sqrt|identity|inverse|log(?!it|istic)", given.partition("(")[2])
    if instead and link:
        kind = "".join(part.title() for part in instead.split("_"))
        hint = f" Write ht.families.{kind}(link=ht.families.{link.group().upper()})."
    raise ModelError(f"there is no family {given!r}; there are {', '.join(known)}.{hint}")


def check_response(family: Family | str, parts: Parts, frame: pd.DataFrame) -> None:
    """Raises a DataError for a response of text where the family has numbers, and for numbers other than 0 and 1 where
    each row is a success or none.
    """
    own = family if isinstance(family, str) else family.name
    if own in TWO and (share := SHARE.fullmatch(parts.response)):
        raise DataError(
            f"the response {parts.response!r} is a share of trials: write proportion({share[1]}, {share[2]}), or "
            f"{share[1]} | trials({share[2]}), which know how many there were."
        )
    name = parts.response.partition("[")[0].strip()
    column = frame.get(name.strip("`"), None) if NAME.fullmatch(name) else None
    if not isinstance(column, pd.Series) or own in CODED or bool(getattr(family, "categories", False)):
        return
    if not is_numeric_dtype(column.dtype) and own not in TWO:
        levels = wording.listed(pd.unique(column.dropna()), 3)
        two = column.nunique() == 2 or "[" in parts.response
        advice = 'take family="bernoulli"' if two else 'take a family of categories, such as "cumulative"'
        raise DataError(
            f"the response {name!r} is no number ({levels}), as the rows of family={own!r} are: recode it "
            f"(as.numeric() of it is 1, 2, ...), or {advice}."
        )
    if own not in TWO or "trials" in parts.told or not is_numeric_dtype(column.dtype):
        return
    if (bad := np.flatnonzero(~column.isin([0, 1]).to_numpy())).size:
        raise DataError(
            f"the response {name!r} is {wording.show(column.iloc[bad[0]])} in row {bad[0]} (from 0), and rows of "
            f"family={own!r} without trials are 0 or 1: write {name} | trials(n), cbind(successes, failures) or "
            f"proportion(successes, n) for counts, {name} == 2 for a code."
        )
