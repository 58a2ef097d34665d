"""A formula on a frame: `Data` whose columns are designs, and how later frames are read alike.

The data have the columns `common design` `(rows, P)`, of what all rows share but for the intercept; `design of g`
`(rows, K)` for each grouping g; and `offset`, `trials`, `se`, and the codes and ends of rows that are cut off, where
there are any, whatever the frame's are called.
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from hiertorch import wording
from hiertorch.data.remake import Remake
from hiertorch.data.table import Data
from hiertorch.errors import DataError, ModelError
from hiertorch.formulas.categories import codes_of, leveled
from hiertorch.formulas.columns import columns_read, factors_read, inputs_read
from hiertorch.formulas.encoding import Matrix
from hiertorch.formulas.parsing import Parts
from hiertorch.formulas.predictors import Predictor, column_of, effects_of, single
from hiertorch.formulas.told import Cuts


class Encoding:
    """How frames are read for a formula; it remembers levels, means and knots of the first.

    Args:
        parts: of the formula.
        frame: the rows that are fitted, without missing values in the columns that the formula reads.
        functions: by name, which the formula may call.
        categories: of a response that is coded by them, in order; none where it is numbers.

    Attributes:
        predictors: of each parameter of the rows that has one, that of the mean first.
        effects: of each grouping, in the order in which the formula names them.
        told: "trials", "weights", "se" and "rate", as far as the formula has them.
        cuts: where rows are censored and truncated.
        success: the level of a response of two levels that counts as 1; None where the response is numbers.
        categories: of a response that is coded by them, in order.
        frame: the columns that the formula reads, of the rows that are fitted.
        remake: how model and data are made again from a file, if they can be.

    Raises:
        DataError: for columns that the frame does not have, and terms that can't be computed.
        ModelError: for effects that are named twice.
    """

    def __init__(
        self, parts: Parts, frame: pd.DataFrame, functions: Mapping[str, object], categories: Sequence[Hashable] = ()
    ) -> None:
        self.parts, self.every = parts, tuple(frame.columns)
        self.frame = frame[columns_read(parts, frame)]
        self.remake: Remake | None = None
        self.predictors = [Predictor(name, terms, frame, functions) for name, terms in parts.terms.items()]
        self.effects = effects_of(parts.terms, frame, functions)
        self.told = tuple(parts.told)
        self._told = {
            name: single(name, parts.told[name], frame, functions)
            for name in ("trials", "weights", "se")
            if name in self.told
        }
        self.cuts = Cuts(parts, frame, functions)
        self.success: Hashable | None = None
        self._counts: tuple[Matrix, Matrix] | None = None
        self._response: Matrix | None = None
        self.categories = tuple(categories)
        if not self.categories:
            self._read_left(frame, functions)
        if "rate" in parts.told:
            exposure = single("rate", parts.told["rate"], frame, functions).values[:, 0]
            if (bad := np.flatnonzero(exposure <= 0)).size:
                raise DataError(f"rate() is above 0; found {exposure[bad[0]]:g} in row {bad[0]} (from 0).")
            self.predictors[0].add(single("rate", f"log({parts.told['rate']})", frame, functions))

    def _read_left(self, frame: pd.DataFrame, functions: Mapping[str, object]) -> None:
        text = self.parts.response
        name, level = leveled(text)
        if (two := _two(text)) is not None:
            if "trials" in self.told:
                raise ModelError(f"the response {text!r} names trials, and trials() does so again: leave one out.")
            first, second, failures = two
            total = f"({first}) + ({second})" if failures else second
            self._counts = single("response", first, frame, functions), single("trials", total, frame, functions)
            self.told = ("trials", *self.told)
        elif name is not None and name in frame.columns and (level is not None or not _numeric(frame[name])):
            self.success = _success(name, level, frame[name])
        else:
            self._response = single("response", text, frame, functions)

    @property
    def response(self) -> str:
        """What the response is called."""
        name, _ = leveled(self.parts.response)
        return name or self.parts.response

    @property
    def plates(self) -> dict[str, tuple[str, ...]]:
        """Grouping -> the columns that name a group."""
        return {effects.plate: effects.columns for effects in self.effects}

    @property
    def inputs(self) -> list[str]:
        """Columns that terms read, of all rows or of groups."""
        return inputs_read(self.parts, self.frame)

    @property
    def optional(self) -> frozenset[str]:
        """Columns without which rows can be predicted, since they say how far the response was seen."""
        return self.cuts.optional - {*self.inputs}

    @property
    def factors(self) -> frozenset[str]:
        """Columns that terms read as categories, by their kind or by factor()."""
        return factors_read(self.parts, self.frame)

    def data(self, frame: pd.DataFrame, dtype: torch.dtype) -> Data:
        """The rows that are fitted."""
        weights = self._told["weights"].values[:, 0] if "weights" in self._told else None
        self.cuts.check(self.y(frame), self.cuts.rows(frame))
        return Data.encoded(self.response, self, frame, self.every, weights, dtype)

    def rows(self, frame: pd.DataFrame) -> tuple[dict[str, np.ndarray], dict[str, object]]:
        """Columns, and the group label of each row, of any frame."""
        columns = {name: column for one in self.predictors for name, column in one.rows(frame).items()}
        columns |= {effects.column: effects.at(frame) for effects in self.effects}
        if self._counts is not None:
            columns["trials"] = self._counts[1].at(frame)[:, 0]
        columns |= {name: self._told[name].at(frame)[:, 0] for name in ("trials", "se") if name in self._told}
        columns |= self.cuts.rows(frame)
        return columns, {effects.plate: effects.groups(frame) for effects in self.effects}

    def recipes(self) -> dict[str, str]:
        """The columns that predictions read, in the little language of exported models."""
        found = {name: text for one in self.predictors for name, text in one.recipes().items()}
        found |= {name: text for one in self.effects for name, text in one.recipes().items()}
        if self._counts is not None:
            found["trials"] = self._counts[1].recipes()[0]
        found |= {name: self._told[name].recipes()[0] for name in ("trials", "se") if name in self._told}
        return found | self.cuts.recipes()

    def weights(self, frame: pd.DataFrame) -> np.ndarray | None:
        """The weights of any rows, `(rows,)`, if the formula tells them."""
        return self._told["weights"].at(frame)[:, 0] if "weights" in self._told else None

    def y(self, frame: pd.DataFrame) -> np.ndarray:
        """The response of any frame, `(rows,)`."""
        if self._counts is not None:
            return self._counts[0].at(frame)[:, 0]
        if self._response is not None:
            return self._response.at(frame)[:, 0]
        values = column_of(frame, self.response)
        if self.categories:
            return codes_of(self.response, self.categories, values)
        return (values == self.success).to_numpy(np.float64)


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
