"""How the model of a formula and its data are made again from a file: the arguments of the function that made them, and
a frame. A file names a function of this package.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.errors import DataError

MAKERS = ("hiertorch.formulas.fit",)
"""Modules with a function `again(arguments, frame)` that gives a model and its data, `noted(reader)` that gives a frame
and notes which stand for the rows that a reader was made with, and `from_notes(arguments, frame, notes)` that gives a
model and its reader.
"""


@dataclass(frozen=True, eq=False)
class Remake:
    """What a model and its data were made of.

    Attributes:
        maker: the module that made them, one of `MAKERS`.
        model: the class that it made, `module.Class`.
        arguments: as they were given, of the function that made both.
        frame: the columns that were read, without missing values.
    """

    maker: str
    model: str
    arguments: Mapping[str, object]
    frame: pd.DataFrame

    def __deepcopy__(self, memo: object) -> "Remake":
        """Itself, which nothing changes."""
        return self

    def again(self) -> tuple[object, object]:
        """The model and its data.

        Raises:
            DataError: if the file names another maker than this package has.
        """
        if self.maker not in MAKERS:
            raise DataError(f"the file says that {self.maker!r} made its model, which is none of {', '.join(MAKERS)}.")
        model, data = import_module(self.maker).again(self.arguments, self.frame)
        return model, data


def packed(frame: pd.DataFrame) -> tuple[list[dict[str, object]], dict[str, Tensor]]:
    """A frame as what JSON can hold and tensors: numbers as they are, and others by code and level.

    Raises:
        DataError: for a column of other things than numbers, text and truth values.
    """
    columns, tensors = list[dict[str, object]](), dict[str, Tensor]()
    for k, (name, column) in enumerate(frame.items()):
        told: dict[str, object] = {"name": str(name)}
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
            tensors[str(k)] = torch.from_numpy(column.to_numpy(copy=True))
        else:
            kind = column.dtype
            coded = column.cat if isinstance(kind, pd.CategoricalDtype) else pd.Categorical(column)
            levels = coded.categories.tolist()
            if not all(isinstance(level, str | int | float | bool) for level in levels):
                raise DataError(
                    f"column {name!r} holds {type(levels[0]).__name__}, and a file text, numbers or truths."
                )
            tensors[str(k)] = torch.from_numpy(np.array(coded.codes, np.int32))
            told |= {"levels": levels, "categorical": isinstance(kind, pd.CategoricalDtype), "ordered": coded.ordered}
        columns.append(told)
    return columns, tensors


def unpacked(columns: Sequence[Mapping[str, object]], tensors: Mapping[str, Tensor]) -> pd.DataFrame:
    """The frame of `packed`."""
    found, told = dict[object, object](), dict[str, Any]()
    for k, column in enumerate(columns):
        told = {**column}
        values = tensors[str(k)].numpy()
        if "levels" in told:
            made = pd.Categorical.from_codes(values, told["levels"], ordered=told["ordered"])
            found[told["name"]] = made if told["categorical"] else np.asarray(made)
        else:
            found[told["name"]] = values
    return pd.DataFrame(found)
