"""A formula on a frame: `Data` whose columns are designs, and how later frames are read alike.

The data have the columns `common design` `(rows, P)`, of what all rows share but for the intercept; `design of g`
`(rows, K)` for each grouping g; and `offset`, `trials` and `se` where there are any, whatever the frame's are called.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from hiertorch import wording
from hiertorch.data.table import Data
from hiertorch.errors import DataError, ModelError
from hiertorch.formulas.encoding import INTERCEPT, Matrix
from hiertorch.formulas.parsing import NAME, Bar, Parts, names_in

COMMON, OFFSET = "common design", "offset"

NA = ("error", "drop")


@dataclass(frozen=True)
class Effects:
    """The effects of one grouping's groups, e_j of K entries.

    Attributes:
        plate: the grouping, such as "school", or "district:school" of two columns.
        columns: of the frame, which name a group.
        blocks: matrices of the terms; entries of one block are correlated, those of two blocks are not.
        correlated: of each block, whether its entries are.
    """

    plate: str
    columns: tuple[str, ...]
    blocks: tuple[Matrix, ...]
    correlated: tuple[bool, ...]

    @property
    def labels(self) -> list[str]:
        """Of the entries."""
        return [label for block in self.blocks for label in block.labels]

    @property
    def column(self) -> str:
        """The data's column of these designs."""
        return f"design of {self.plate}"

    @cached_property
    def roots(self) -> list[slice]:
        """Entries that are correlated, each stretch of two or more."""
        found, start = [], 0
        for block, correlated in zip(self.blocks, self.correlated, strict=True):
            stop = start + len(block.labels)
            if correlated and stop - start > 1:
                found.append(slice(start, stop))
            start = stop
        return found

    def at(self, frame: pd.DataFrame) -> np.ndarray:
        """Designs of rows, `(rows, K)`."""
        return np.concatenate([block.at(frame) for block in self.blocks], 1)

    def groups(self, frame: pd.DataFrame) -> pd.Series | pd.Index:
        """The label of each row's group; of several columns "a:b"."""
        if len(self.columns) == 1:
            return _column(frame, self.columns[0])
        texts = [_column(frame, name).astype(str).to_numpy() for name in self.columns]
        return pd.Index([":".join(row) for row in zip(*texts, strict=True)], dtype=object)


class Encoding:
    """How frames are read for a formula; it remembers levels, means and knots of the first.

    Args:
        parts: of the formula.
        frame: the rows that are fitted, without missing values in the columns that the formula reads.
        functions: by name, which the formula may call.

    Attributes:
        intercept: whether all rows share one.
        labels: of the columns that all rows share, without the intercept.
        effects: of each grouping, in the order in which the formula names them.
        told: "trials", "weights", "se" and "rate", as far as the formula has them.
        success: the level of a response of two levels that counts as 1; None where the response is numbers.

    Raises:
        DataError: for columns that the frame does not have, and terms that can't be computed.
        ModelError: for effects that are named twice.
    """

    def __init__(self, parts: Parts, frame: pd.DataFrame, functions: Mapping[str, object]) -> None:
        self.parts, self.every = parts, tuple(frame.columns)
        self._common = Matrix(parts.common, frame, functions)
        self.intercept = INTERCEPT in self._common.labels
        self.labels = [label for label in self._common.labels if label != INTERCEPT]
        self.effects = _effects(parts.bars, frame, functions)
        self.told = tuple(parts.told)
        self._told = {name: _single(name, text, frame, functions) for name, text in parts.told.items()}
        self._offsets = [_single("offset", text, frame, functions) for text in parts.offsets]
        self.success: Hashable | None = None
        self._counts: tuple[Matrix, Matrix] | None = None
        self._response: Matrix | None = None
        self._read_left(frame, functions)

    def _read_left(self, frame: pd.DataFrame, functions: Mapping[str, object]) -> None:
        text = self.parts.response
        name, level = _leveled(text)
        if (two := _two(text)) is not None:
            if "trials" in self.told:
                raise ModelError(f"the response {text!r} names trials, and trials() does so again: leave one out.")
            first, second, failures = two
            total = f"({first}) + ({second})" if failures else second
            self._counts = _single("response", first, frame, functions), _single("trials", total, frame, functions)
            self.told = ("trials", *self.told)
        elif name is not None and name in frame.columns and (level is not None or not _numeric(frame[name])):
            self.success = _success(name, level, frame[name])
        else:
            self._response = _single("response", text, frame, functions)

    @property
    def response(self) -> str:
        """What the response is called."""
        name, _ = _leveled(self.parts.response)
        return name or self.parts.response

    @property
    def has_offset(self) -> bool:
        """Whether something is added to the linear predictor as it is: an offset, or the log of an exposure."""
        return bool(self._offsets) or "rate" in self.told

    def data(self, frame: pd.DataFrame, dtype: torch.dtype) -> Data:
        """The rows that are fitted."""
        weights = self._told["weights"].values[:, 0] if "weights" in self._told else None
        return Data.encoded(self.response, self, frame, self.every, weights, dtype)

    def rows(self, frame: pd.DataFrame) -> tuple[dict[str, np.ndarray], dict[str, object]]:
        """Columns, and the group label of each row, of any frame."""
        columns = {}
        if self.labels:
            common = self._common.at(frame)
            columns[COMMON] = np.delete(common, self._common.labels.index(INTERCEPT), 1) if self.intercept else common
        columns |= {effects.column: effects.at(frame) for effects in self.effects}
        if self.has_offset:
            columns[OFFSET] = self._offset(frame)
        if self._counts is not None:
            columns["trials"] = self._counts[1].at(frame)[:, 0]
        columns |= {name: self._told[name].at(frame)[:, 0] for name in ("trials", "se") if name in self._told}
        return columns, {effects.plate: effects.groups(frame) for effects in self.effects}

    def y(self, frame: pd.DataFrame) -> np.ndarray:
        """The response of any frame, `(rows,)`."""
        if self._counts is not None:
            return self._counts[0].at(frame)[:, 0]
        if self._response is not None:
            return self._response.at(frame)[:, 0]
        values = _column(frame, self.response)
        return (values == self.success).to_numpy(np.float64)

    def _offset(self, frame: pd.DataFrame) -> np.ndarray:
        total = np.zeros(len(frame))
        for offset in self._offsets:
            total += offset.at(frame)[:, 0]
        if "rate" in self._told:
            exposure = self._told["rate"].at(frame)[:, 0]
            if (bad := np.flatnonzero(exposure <= 0)).size:
                raise DataError(f"rate() is above 0; found {exposure[bad[0]]:g} in row {bad[0]} (from 0).")
            total += np.log(exposure)
        return total


def columns_read(parts: Parts, frame: pd.DataFrame) -> list[str]:
    """Columns of a frame that a formula calls by name, in the frame's order."""
    texts = [parts.response, parts.common, *parts.told.values(), *parts.offsets, *(bar.effects for bar in parts.bars)]
    named = {name for text in texts for name in names_in(text)}
    named |= {name for bar in parts.bars for group in bar.groupings for name in group}
    return [name for name in frame.columns if name in named]


def complete(frame: pd.DataFrame, parts: Parts, na: str) -> tuple[pd.DataFrame, int]:
    """The rows that have all values that a formula reads, and how many others there were.

    Raises:
        DataError: if there are others, unless they are to be dropped.
    """
    missing = frame[columns_read(parts, frame)].isna()
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


def _effects(bars: Sequence[Bar], frame: pd.DataFrame, functions: Mapping[str, object]) -> list[Effects]:
    """Of each grouping once, whatever the number of terms that name it."""
    found: dict[tuple[str, ...], list[tuple[Matrix, bool]]] = {}
    for bar in bars:
        for columns in bar.groupings:
            for name in columns:
                _column(frame, name)
            found.setdefault(columns, []).append((Matrix(bar.effects, frame, functions), bar.correlated))
    made = []
    for columns, blocks in found.items():
        matrices, correlated = zip(*blocks, strict=True)
        effects = Effects(":".join(columns), columns, matrices, correlated)
        if not effects.labels:
            raise ModelError(f"the terms of {effects.plate!r} have no effects: write (1 | {effects.plate}).")
        if twice := sorted({label for label in effects.labels if effects.labels.count(label) > 1}):
            raise ModelError(
                f"the effects of {effects.plate!r} name {twice[0]!r} twice: write it in one term, as in (x | "
                f"{effects.plate}), or leave it out of the others, as in (1 | {effects.plate}) + (0 + x | "
                f"{effects.plate})."
            )
        made.append(effects)
    return made


def _single(what: str, text: str, frame: pd.DataFrame, functions: Mapping[str, object]) -> Matrix:
    """An expression of one number a row."""
    inside = text.strip()
    known = inside.strip("`") in frame.columns
    made = Matrix(f"0 + {inside}" if known else f"0 + I({inside})", frame, functions)
    if len(made.labels) != 1:
        raise DataError(
            f"the {what} {text!r} must be one number a row; found {wording.many(len(made.labels), 'column')}: "
            "recode it as numbers."
        )
    return made


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame.columns:
        raise DataError(
            f"the frame has no column {name!r}; its columns: {wording.listed(frame.columns)}."
            f"{wording.closest(name, frame.columns)}"
        )
    return frame[name]


def _two(text: str) -> tuple[str, str, bool] | None:
    """Of cbind(successes, failures) or proportion(successes, trials) both, and whether the second are failures."""
    for name in ("cbind", "proportion", "prop", "p"):
        if text.startswith(f"{name}(") and text.endswith(")"):
            inside, depth = text[len(name) + 1 : -1], 0
            for at, letter in enumerate(inside):
                depth += (letter in "([{") - (letter in ")]}")
                if letter == "," and depth == 0:
                    return inside[:at].strip(), inside[at + 1 :].strip(), name == "cbind"
            raise ModelError(f"{name}() takes two counts, as in cbind(successes, failures); found {text!r}.")
    return None


def _leveled(text: str) -> tuple[str | None, str | None]:
    """Column and level of use["Y"], or a column alone; None and None of an expression."""
    name, _, rest = text.partition("[")
    if NAME.fullmatch(name.strip()) and (not rest or rest.endswith("]")):
        return name.strip().strip("`"), rest[:-1].strip().strip("\"'") if rest else None
    return None, None


def _numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column.dtype)


def _success(name: str, level: str | None, column: pd.Series) -> Hashable:
    """The level of a response that counts as 1: the one that is named, or the second of two, as in R."""
    kind = column.dtype
    levels = list(kind.categories if isinstance(kind, pd.CategoricalDtype) else pd.Index(column.unique()).sort_values())
    levels = [one for one in levels if (column == one).any()]
    if level is not None:
        found = [one for one in levels if str(one) == level]
        if not found:
            raise DataError(f"the response {name!r} has no level {level!r}; its levels: {wording.listed(levels)}.")
        return found[0]
    if len(levels) != 2:
        raise DataError(
            f"the response {name!r} is not numbers and has {wording.many(len(levels), 'level')} "
            f'({wording.listed(levels)}): name the level that counts as 1, {name}["{levels[0]}"].'
        )
    return levels[1]
