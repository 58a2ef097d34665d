"""Facts about the groups of a data set: how many rows they have, where they lie, what is constant within them.

Note [Facts about the whole data set]
    A fold, or a copy sorted by group, must have the groups, nesting and group-level values of the data set that it is
    taken from, even when a group loses all its rows. So `take` and `rows` remember the whole data set and which rows
    these are, and parents(), nests() and group_values() ask the whole. Codes are also kept as NumPy arrays, which
    `to` leaves where they are: nesting is found without waiting for a device.
"""

import math
from collections.abc import Callable
from typing import Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.data import coding
from hiertorch.errors import DataError
from hiertorch.runtime.surroundings import feels_at_home

HEAD = 65_536
"""Rows that are looked at at once when values are compared within groups."""


@feels_at_home
class Facts:
    """What `Data` know of their groups."""

    y: Tensor
    weights: Tensor | None
    name: str
    columns: dict[str, Tensor]
    codes: dict[str, Tensor]
    labels: dict[str, pd.Index]
    whole_codes: dict[str, np.ndarray]  # grouping -> (rows of the whole,)
    first_weights: Tensor | None  # the weights that the whole was made with, which say whose scales count
    _whole: Self | None  # the data set that these rows were taken from, None if these are all
    _rows: Tensor | slice | None  # which rows of the whole these are, None if all
    _first: "Facts | None"  # the data that were fitted before these, whose scales and first time they keep
    _cache: dict[tuple[str, ...], Tensor]

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return self.y.shape[-1]

    @property
    def plates(self) -> tuple[str, ...]:
        """The names of the groupings."""
        return tuple(self.codes)

    @property
    def dtype(self) -> torch.dtype:
        """Of response, columns and weights."""
        return self.y.dtype

    @property
    def device(self) -> torch.device:
        """Where all tensors are."""
        return self.y.device

    @property
    def by_chain(self) -> int:
        """How many chains have a response or weights of their own; 0 if all have the same."""
        return max(len(x) if x.dim() == 2 else 0 for x in (self.y, self.weights) if x is not None)

    @property
    def whole_data(self) -> Self:
        """The data set that these rows were taken from, which is this one if they are all."""
        return self._whole or self

    @property
    def whole_rows(self) -> np.ndarray | slice:
        """Which rows of the whole these are, to index NumPy arrays with."""
        if self._rows is None:
            return slice(None)
        return self._rows.cpu().numpy() if isinstance(self._rows, Tensor) else self._rows

    def size(self, plate: str) -> int:
        """The number of groups, with rows or without."""
        self._check_plates(plate)
        return len(self.labels[plate])

    def counts(self, plate: str) -> Tensor:
        """The number of rows of each group: long tensor `(groups,)`."""
        key, size = ("counts", plate), self.size(plate)
        if key not in self._cache:
            codes = self.codes[plate]  # not bincount, which waits for the device
            self._cache[key] = codes.new_zeros(size).index_add_(0, codes, codes.new_ones(()).expand_as(codes))
        return self._cache[key]

    def parents(self, child: str, parent: str) -> Tensor:
        """The code of the parent group in which each child group lies: long tensor `(groups of child,)`.

        Raises:
            DataError: if a child group lies in two parent groups, or has no rows that say where it lies.
        """
        self._check_plates(child, parent)
        key = ("parents", child, parent)
        if key not in self._cache:
            found: np.ndarray = np.arange(self.size(child))
            if child != parent:
                found, one, other = self._of_groups(child, self.whole_codes[parent], what=parent)
                if other is not None:
                    first, second = self._label(parent, one), self._label(parent, other)
                    raise DataError(
                        f"{child!r} does not nest in {parent!r}: {self._label(child, one)} occurs in {first} and in "
                        f"{second}. If its labels repeat between groups of {parent!r}, combine them: "
                        f'frame["{child}"] = frame["{parent}"] + "/" + frame["{child}"].'
                    )
            self._cache[key] = torch.as_tensor(found, device=self.device)
        return self._cache[key]

    def nests(self, child: str, parent: str) -> bool:
        """Whether every child group is known to lie in one parent group."""
        self._check_plates(child, parent)
        try:
            self.parents(child, parent)
        except DataError:
            return False
        return True

    def group_values(self, column: str, plate: str) -> Tensor:
        """The values of a column that is constant within groups: `(groups, *trailing)`.

        Raises:
            DataError: if the column varies within a group, or a group has no rows.
        """
        self._check_plates(plate)
        if not isinstance(column, str) or column not in self.columns:
            raise DataError(self._unknown(column))
        key = ("values", column, plate)
        if key not in self._cache:
            rows = self.whole_data.columns[column].detach().cpu().numpy()
            found, one, other = self._of_groups(plate, rows, what=f"value of {column!r}")
            if other is not None:
                raise DataError(
                    f"column {column!r} varies within {plate!r}: {self._label(plate, one)} has {rows[one].tolist()} "
                    f"and {rows[other].tolist()}. A group-level value is the same in all rows of a group; an average "
                    f'is: frame.groupby("{plate}")["{column}"].transform("mean").'
                )
            self._cache[key] = torch.as_tensor(found, dtype=self.dtype, device=self.device)
        return self._cache[key]

    def computed_once(self, key: tuple[str, ...], compute: Callable[..., Tensor]) -> Tensor:
        """What priors are scaled by, a function of the data that were fitted first, which is computed once and kept:
        parts and folds have it, and another weighting or later rows do not change it. Under "response" stands what
        another response makes anew.
        """
        if self._first is not None:
            return self._first.computed_once(key, compute).to(self.device, self.dtype)
        if key not in self._cache:
            self._cache[key] = compute(self)
        return self._cache[key]

    def label_numbers(self, plate: str) -> Tensor:
        """The labels of a grouping as numbers, such as the times of a grouping by year: `(groups,)`; dates in days
        since the first that was fitted.

        Raises:
            DataError: if its labels are neither numbers nor dates.
        """
        self._check_plates(plate)
        key = ("numbers", plate)
        if key not in self._cache:
            self._cache[key] = torch.as_tensor(self._numbers(plate)).to(self.device, self.dtype)
        return self._cache[key]

    def _numbers(self, plate: str) -> np.ndarray:
        """The same in float64."""
        if self._first is None:
            return coding.label_numbers(plate, self.labels[plate])
        known = self._first.labels[plate]
        both = coding.label_numbers(plate, known.append(self.labels[plate]))
        return both[len(known) :] + (self._first._numbers(plate)[0] - both[0])

    def row_text(self, row: int) -> str:
        """A row by its number, in words."""
        return f"row {row} (from 0)"

    def _of_groups(self, plate: str, values: np.ndarray, what: str) -> tuple[np.ndarray, int, int | None]:
        """Each group's value `(groups, *trailing)`, and two rows of a group that differ (None if none do)."""
        codes = self.whole_codes[plate]
        found = np.zeros((self.size(plate), *values.shape[1:]), values.dtype)
        for n in sorted({min(HEAD, len(codes)), len(codes)}):  # what differs, mostly does so within the first rows
            found[codes[:n]] = values[:n]
            if not _constant(found, codes[:n], values[:n]):
                return found, *_differing(codes[:n], values[:n], self.size(plate))
        if (empty := np.bincount(codes, minlength=self.size(plate)) == 0).any():
            label = wording.show(self.labels[plate][int(np.argmax(empty))])
            raise DataError(f"{plate} {label} has no rows, so its {what} can't be known: give it rows, or no label.")
        return found, 0, None

    def _label(self, plate: str, row: int) -> str:
        return f"{plate} {wording.show(self.labels[plate][self.whole_codes[plate][row]])}"

    def _sizes(self, plate: str) -> str:
        counts = np.bincount(self.whole_codes[plate][self.whole_rows], minlength=self.size(plate))
        low, high = counts.min(), counts.max()
        each = f"{low}" if low == high else f"{low} to {high}"
        return f"{len(counts)} group{'s' * (len(counts) > 1)} of {each} row{'s' * int(high > 1)}"

    def _check_plates(self, *plates: str) -> None:
        for plate in plates:
            if not isinstance(plate, str) or plate not in self.labels:
                hint = wording.closest(plate, self.labels)
                raise DataError(f"no grouping {plate!r}; groupings: {wording.listed(self.labels)}.{hint}")

    def _unknown(self, name: object) -> str:
        columns, plates = list(self.__dict__.get("columns", ())), list(self.__dict__.get("codes", ()))
        known = f"columns: {wording.listed(columns)}; groupings: {wording.listed(plates)}"
        return f"no column or grouping {name!r}; {known}.{wording.closest(name, columns + plates)}"


def prior_numbers(data: Facts) -> dict[tuple[str, ...], Tensor]:
    """What `computed_once` has computed so far: all that priors were told of the rows that were fitted first."""
    first = data._first or data
    return {key: x for key, x in first._cache.items() if key[0] in ("response", "column")}


def _constant(found: np.ndarray, codes: np.ndarray, values: np.ndarray) -> bool:
    """Whether every row has the value of its group."""
    parts = (slice(i, i + HEAD) for i in range(0, len(codes), HEAD))  # large temporaries cost more than they save
    return all(np.array_equal(found[codes[part]], values[part]) for part in parts)


def _differing(codes: np.ndarray, values: np.ndarray, groups: int) -> tuple[int, int]:
    """The first row with another value than the first row of its group, and that row before it."""
    first = np.zeros(groups, np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # the last assignment stands: a group's first row
    differs = (values[first[codes]] != values).reshape(len(values), math.prod(values.shape[1:])).any(1)
    row = int(np.argmax(differs))
    return int(first[codes[row]]), row
