"""What is left out together: single rows or whole groups, dealt into folds by chance or as a user says."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.arguments import check_choice, is_count
from hiertorch.data.reading import check_aligned
from hiertorch.data.table import Data
from hiertorch.errors import DataError
from hiertorch.randomness import stream


class Units(NamedTuple):
    """The rows, or the groups of a grouping, each of which is left out whole."""

    data: Data
    by: str
    of_row: Tensor  # the unit of each row, (rows,)
    labels: pd.Index  # (units,)

    @classmethod
    def of(cls, data: Data, by: str) -> Self:
        """The rows of some data (`by` "row"), or the groups of one of its groupings.

        Raises:
            DataError: if there is no such grouping.
        """
        check_choice("by", by, ("row", *data.plates))
        rows = by == "row"
        return cls(
            data,
            by,
            torch.arange(data.n_rows, device=data.device) if rows else data[by],
            data.index if rows else data.labels[by],
        )

    def drawn(self, k: int, stratify: str | None, seed: int) -> Tensor:
        """The fold of each unit by chance, `(units,)`, folds as equal in size as can be.

        Raises:
            DataError: for a number of folds or a stratification that can't be.
        """
        data, by, number = self.data, self.by, len(self.labels)
        what = "rows" if by == "row" else f"groups of {by!r}"
        if not is_count(k) or not 2 <= k <= number:
            raise DataError(f"k= is a whole number of folds from 2 to {number}, the number of {what}; found {k!r}.")
        cpu = torch.device("cpu")
        order = torch.randperm(number, generator=stream(seed, "folds", device=cpu), device=cpu)
        if stratify is not None:
            if by != "row":
                raise DataError(f"stratify= is for by='row': whole groups of {by!r} are left out; leave it out.")
            check_choice("stratify", stratify, data.plates)
            order = order[data.codes[stratify].cpu()[order].argsort(stable=True)]  # by group, and by chance within
        fold = torch.empty_like(order)
        fold[order] = torch.arange(number, device=cpu) % k
        return fold.to(data.device)

    def given(self, folds: Sequence[object]) -> Tensor:
        """The fold of each unit by a label of each row, as numbers `(units,)`.

        Raises:
            DataError: for labels of other rows, for one fold alone, and for a group in two of them.
        """
        data, by = self.data, self.by
        check_aligned([("folds", folds)], data.index)
        labels = pd.Index(np.asarray(folds).ravel() if not isinstance(folds, pd.Series) else folds.to_numpy())
        if len(labels) != data.n_rows or labels.isna().any():
            raise DataError(f"folds= has one label for each of {data.n_rows} rows, none missing; found {len(labels)}.")
        codes = torch.from_numpy(pd.factorize(labels, sort=True)[0].astype(np.int64)).to(data.device)
        if int(codes.max()) < 1:
            raise DataError("folds= has one label for all rows: nothing would be left to fit. Give two or more.")
        found = codes.new_zeros(len(self.labels)).index_put((self.of_row,), codes)
        if bool((split := found[self.of_row] != codes).any()):
            group = self.labels[int(self.of_row[split][0])]
            raise DataError(
                f"folds= puts rows of {by} {wording.show(group)} into two folds, and by={by!r} leaves it whole."
            )
        return found
