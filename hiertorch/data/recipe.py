"""What the columns of data were read from, so that new rows are read alike."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol

import pandas as pd

from hiertorch.data.remake import Remake


class Reader(Protocol):
    """What makes columns, labels and a response of a frame, of new rows as of those that it was made with."""

    def rows(self, frame: pd.DataFrame) -> tuple[Mapping[str, object], Mapping[str, object]]:
        """Name -> column `(rows, *trailing)`, and grouping -> the label of each row's group."""

    def recipes(self) -> Mapping[str, str]:
        """Name of a column -> how it is made of a frame's, in the little language of `hiertorch.deploy`."""

    def y(self, frame: pd.DataFrame) -> object:
        """The response, `(rows,)`."""

    def weights(self, frame: pd.DataFrame) -> object | None:
        """The weights of rows, `(rows,)`, if it is told any."""

    @property
    def frame(self) -> pd.DataFrame:
        """The columns that it reads, of the rows that were fitted."""

    @property
    def inputs(self) -> Sequence[str]:
        """Those of these columns that predict."""

    @property
    def optional(self) -> Collection[str]:
        """Those without which rows can be predicted."""

    @property
    def factors(self) -> Collection[str]:
        """Those that it reads as categories."""

    @property
    def plates(self) -> Mapping[str, Sequence[str]]:
        """Grouping -> the columns that name a group."""

    @property
    def remake(self) -> Remake | None:
        """How the data and their model are made again from a file; None if they can't be."""


class Recipe(NamedTuple):
    """Which columns of a frame the data were read from, so that new rows are read alike; or what has read them."""

    response: str
    groups: Mapping[str, str]
    columns: Mapping[str, str]
    levels: Mapping[str, tuple[str, ...]]  # of columns that were read by level
    every: tuple[Hashable, ...]  # all columns of the frame, also those that were not read
    reader: Reader | None = None
