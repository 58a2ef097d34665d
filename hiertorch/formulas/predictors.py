"""What stands in the linear predictors of a formula's rows: common terms, offsets, and effects of groups."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from hiertorch import wording
from hiertorch.errors import DataError, ModelError
from hiertorch.formulas.encoding import INTERCEPT, Constant, Matrix
from hiertorch.formulas.parsing import Terms

COMMON, OFFSET = "common design", "offset"

NUMBER = re.compile(r"-?[\d.]+")


@dataclass(frozen=True)
class Block:
    """Effects of one term.

    Attributes:
        parameter: of the rows, in whose predictor they stand; "" is that of the mean.
        matrix: their designs.
        correlated: whether they are.
    """

    parameter: str
    matrix: Matrix
    correlated: bool

    @property
    def labels(self) -> list[str]:
        """Of the effects; those in another predictor than the mean's say so."""
        prefix = f"{self.parameter}_" if self.parameter else ""
        return [prefix + label for label in self.matrix.labels]


@dataclass(frozen=True)
class Effects:
    """The effects of one grouping's groups that have one distribution, e_j of K entries.

    Attributes:
        name: by which its latents are called, such as "school", or "school_sigma" in the predictor of sigma.
        columns: of the frame, which name a group.
        blocks: of the terms.
        joint: whether all entries are correlated, whatever their blocks.
    """

    name: str
    columns: tuple[str, ...]
    blocks: tuple[Block, ...]
    joint: bool

    @property
    def plate(self) -> str:
        """The grouping, such as "school", or "district:school" of two columns."""
        return ":".join(self.columns)

    @property
    def labels(self) -> list[str]:
        """Of the entries."""
        return [label for block in self.blocks for label in block.labels]

    @property
    def column(self) -> str:
        """The data's column of these designs."""
        return f"design of {self.name}"

    @cached_property
    def roots(self) -> list[slice]:
        """Entries that are correlated, each stretch of two or more."""
        if self.joint:
            return [slice(0, len(self.labels))] if len(self.labels) > 1 else []
        found, start = [], 0
        for block in self.blocks:
            stop = start + len(block.labels)
            if block.correlated and stop - start > 1:
                found.append(slice(start, stop))
            start = stop
        return found

    def of(self, parameter: str) -> list[tuple[int, bool]]:
        """Number of each entry in a parameter's predictor, and whether it is an intercept."""
        owners = [(block.parameter, label) for block in self.blocks for label in block.matrix.labels]
        return [(k, label == INTERCEPT) for k, (owner, label) in enumerate(owners) if owner == parameter]

    def at(self, frame: pd.DataFrame) -> np.ndarray:
        """Designs of rows, `(rows, K)`."""
        return np.concatenate([block.matrix.at(frame) for block in self.blocks], 1)

    def recipes(self) -> dict[str, str]:
        """The column of designs in the little language of exported models."""
        parts = [text for block in self.blocks for text in _whole(block.matrix)]
        return {self.column: f"columns({', '.join(parts)})"}

    def groups(self, frame: pd.DataFrame) -> pd.Series | pd.Index:
        """The label of each row's group; of several columns "a:b"."""
        if lost := [name for name in self.columns if name not in frame.columns]:
            raise DataError(
                f"the frame has no column {lost[0]!r}, which names groups; its columns: "
                f"{wording.listed(frame.columns)}.{wording.closest(lost[0], frame.columns)} Rows that name none are "
                "for posterior.predictions(frame), which averages over groups."
            )
        if len(self.columns) == 1:
            return column_of(frame, self.columns[0])
        texts = [column_of(frame, name).astype(str).to_numpy() for name in self.columns]
        return pd.Index([":".join(row) for row in zip(*texts, strict=True)], dtype=object)


class Predictor:
    """What all rows share in the linear predictor of one of their parameters.

    Attributes:
        parameter: of the rows; "" is that of the mean.
    """

    def __init__(self, parameter: str, terms: Terms, frame: pd.DataFrame, functions: Mapping[str, object]) -> None:
        self.parameter = parameter
        self._common = Matrix(terms.common, frame, functions)
        self._offsets = [single("offset", text, frame, functions) for text in terms.offsets]

    @property
    def intercept(self) -> bool:
        """Whether there is one."""
        return INTERCEPT in self._common.labels

    @property
    def labels(self) -> list[str]:
        """Of the columns, without the intercept."""
        return [label for label in self._common.labels if label != INTERCEPT]

    def called(self, name: str) -> str:
        """A latent or column of this predictor."""
        return f"{name}_{self.parameter}" if self.parameter else name

    @property
    def column(self) -> str | None:
        """The data's column of the designs, if there are any."""
        return (f"{COMMON} of {self.parameter}" if self.parameter else COMMON) if self.labels else None

    @property
    def offset(self) -> str | None:
        """The data's column that is added as it is, if there is one."""
        return (f"{OFFSET} of {self.parameter}" if self.parameter else OFFSET) if self._offsets else None

    def add(self, matrix: Matrix) -> None:
        """Has one more column added as it is."""
        self._offsets.append(matrix)

    @property
    def all_labels(self) -> list[str]:
        """Of the columns, that of the intercept included."""
        return self._common.labels

    def all_at(self, frame: pd.DataFrame) -> np.ndarray:
        """The columns of any frame, that of the intercept included, `(rows, columns)`."""
        return self._common.at(frame)

    @property
    def references(self) -> dict[str, object]:
        """Column of categories -> the level that has no indicator, where one has none."""
        return self._common.references

    def recipes(self) -> dict[str, str]:
        """Columns in the little language of exported models."""
        found = {}
        if self.column is not None:
            found[self.column] = f"columns({', '.join(self._common.recipes())})"
        if self.offset is not None:
            found[self.offset] = " + ".join(text for matrix in self._offsets for text in matrix.recipes())
        return found

    def rows(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """Columns of any frame."""
        found = {}
        if self.column is not None:
            common = self._common.at(frame)
            found[self.column] = (
                np.delete(common, self._common.labels.index(INTERCEPT), 1) if self.intercept else common
            )
        if self.offset is not None:
            found[self.offset] = sum((matrix.at(frame)[:, 0] for matrix in self._offsets), start=np.zeros(len(frame)))
        return found


def effects_of(terms: Mapping[str, Terms], frame: pd.DataFrame, functions: Mapping[str, object]) -> list[Effects]:
    """Of each grouping once for each predictor, whatever the number of terms that name it, and once for each i of
    (effects |i| groups), whatever the number of predictors.
    """
    found: dict[tuple[tuple[str, ...], str, bool], list[Block]] = {}
    for parameter, each in terms.items():
        for bar in each.bars:
            for columns in bar.groupings:
                for name in columns:
                    column_of(frame, name)
                key = (columns, bar.shared, True) if bar.shared else (columns, parameter, False)
                found.setdefault(key, []).append(
                    Block(parameter, Matrix(bar.effects, frame, functions), bar.correlated)
                )
    made = list[Effects]()
    for (columns, suffix, joint), blocks in found.items():
        alone = joint and sum(other == columns for other, _, _ in found) == 1
        name = ":".join(columns) + (f"_{suffix}" if suffix and not alone else "")
        effects = Effects(name, columns, tuple(blocks), joint)
        plate = effects.plate
        if not effects.labels:
            raise ModelError(f"the terms of {plate!r} have no effects: write (1 | {plate}).")
        if twice := sorted({label for label in effects.labels if effects.labels.count(label) > 1}):
            raise ModelError(
                f"the effects of {plate!r} name {twice[0]!r} twice: write it in one term, as in (x | {plate}), or "
                f"leave it out of the others, as in (1 | {plate}) + (0 + x | {plate})."
            )
        if any(name == other.name for other in made):
            raise ModelError(f"effects of two groupings or predictors would both be called {name!r}: rename a column.")
        made.append(effects)
    return made


def _whole(matrix: Matrix) -> list[str]:
    """The recipes of a matrix, that of its intercept, which is its first column, included."""
    return [*(["1.0"] if INTERCEPT in matrix.labels else []), *matrix.recipes()]


def single(what: str, text: str, frame: pd.DataFrame, functions: Mapping[str, object]) -> Matrix:
    """An expression of one number a row."""
    inside = text.strip()
    if NUMBER.fullmatch(inside):
        return Constant(float(inside), len(frame))
    known = inside.strip("`") in frame.columns
    made = Matrix(f"0 + {inside}" if known else f"0 + I({inside})", frame, functions, inside or f"{what}()")
    if len(made.labels) != 1:
        raise DataError(
            f"the {what} {text!r} must be one number a row; found {wording.many(len(made.labels), 'column')}: "
            "recode it as numbers."
        )
    return made


def column_of(frame: pd.DataFrame, name: str) -> pd.Series:
    """A column of a frame; a DataError if it is not there."""
    if name not in frame.columns:
        raise DataError(
            f"the frame has no column {name!r}; its columns: {wording.listed(frame.columns)}."
            f"{wording.closest(name, frame.columns)}"
        )
    return frame[name]


def latent_of(parameter: str) -> str:
    """The family's latent of a parameter of the rows: sigma_y of sigma."""
    return f"{parameter}_y" if parameter else ""


def root_of(name: str, k: int) -> str:
    """The latent of the k-th block of correlated effects: L_school, L_school_2, ..."""
    return f"L_{name}" if k == 0 else f"L_{name}_{k + 1}"
