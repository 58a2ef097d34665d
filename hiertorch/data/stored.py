"""Rows on disk: data of which a column is read when somebody asks for it, and rows block by block.

Note [Rows on disk]
Every column stands in a temporary file of its own, in the narrowest dtype that holds its numbers exactly. The file has
no name, so that nothing is left of it when the data go, or the process is killed. `data.x` is the whole of it, read
anew each time that it is asked for, so that whatever looks at one column after the other has one in memory; `rows` and
`take` read what they are asked for and give ordinary data, of which these are the whole. So code that goes through rows
in blocks holds a block, and other code need not know where rows are, as long as a column fits.

docs/decisions.md: Rows on disk.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Generic, Self, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.data import reading
from hiertorch.data.parts import counted
from hiertorch.data.recipe import Recipe
from hiertorch.data.table import Data
from hiertorch.errors import DataError
from hiertorch.runtime.memory import free
from hiertorch.runtime.surroundings import feels_at_home

BLOCK = 1 << 20
"""Rows that are read at once."""

Found = TypeVar("Found")


class Numbers:
    """A column in a file, in the narrowest dtype that holds all of its numbers exactly."""

    def __init__(self) -> None:
        self.file: IO[bytes] = TemporaryFile(prefix="hiertorch-", buffering=0)  # noqa: SIM115 - it is open as long as this
        self.dtype, self.length = np.dtype(np.bool), 0

    def append(self, values: np.ndarray) -> None:
        """Further rows."""
        if (wanted := np.result_type(self.dtype, narrowest(values))) != self.dtype:
            self._widen(wanted)
        left = np.ascontiguousarray(values, self.dtype).view(np.uint8).data
        while len(left):
            left = left[self.file.write(left) :]
        self.length += len(values)

    def _widen(self, dtype: np.dtype) -> None:
        wider = Numbers()
        wider.dtype = dtype
        for part in self.parts():
            wider.append(part)
        self.file, self.dtype = wider.file, dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop - 1."""
        found = np.empty(stop - start, self.dtype)
        left, at = found.view(np.uint8).data, int(start) * self.dtype.itemsize
        while len(left):  # no position is moved, so that threads may read at once
            if not (count := os.preadv(self.file.fileno(), [left], at)):
                raise DataError("a file of rows on disk ends too soon: read them again.")
            left, at = left[count:], at + count
        return found

    def pick(self, rows: np.ndarray) -> np.ndarray:
        """Some rows, by their numbers: of each block what lies between the first and the last of them."""
        found, order = np.empty(len(rows), self.dtype), np.argsort(rows, kind="stable")
        wanted = rows[order]
        for at in range(int(wanted[0]), int(wanted[-1]) + 1, BLOCK):
            low, high = np.searchsorted(wanted, (at, at + BLOCK))
            if high > low:
                first, last = wanted[low], wanted[high - 1]
                found[order[low:high]] = self.read(first, last + 1)[wanted[low:high] - first]
        return found

    def parts(self) -> Iterator[np.ndarray]:
        """All rows in blocks."""
        for at in range(0, self.length, BLOCK):
            yield self.read(at, min(at + BLOCK, self.length))


def narrowest(values: np.ndarray) -> np.dtype:
    """The narrowest dtype that holds numbers exactly, all of them finite: truths, whole numbers of 8 to 64 bits, or
    floating ones of 32 or 64.
    """
    if values.dtype.kind == "b" or not len(values):
        return np.dtype(np.bool)
    if values.dtype.kind == "f":
        whole = np.rint(values)
        if (whole != values).any() or np.signbit(values[values == 0]).any() or np.abs(values).max() >= reading.EXACT:
            narrow = values.astype(np.float32, copy=False)
            return np.dtype(np.float32 if (narrow == values).all() else np.float64)
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high <= 1:
        return np.dtype(np.bool)
    widths = [width for width in (8, 16, 32, 64) if -(2 ** (width - 1)) <= low and high < 2 ** (width - 1)]
    return np.dtype(f"int{widths[0]}" if widths else np.float64)


class Asked(Mapping[str, Found], Generic[Found]):
    """Values by name, each made anew when it is asked for."""

    def __init__(self, names: Mapping[str, object], make: Callable[[str], Found]) -> None:
        self._names, self._make = tuple(names), make

    def __getitem__(self, name: str) -> Found:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def whole(name: str, numbers: Numbers) -> np.ndarray:
    """All rows of a column.

    Raises:
        DataError: if they don't fit into memory.
    """
    needed, room = 8 * numbers.length, free(torch.device("cpu"))
    if needed > 0.8 * room:
        raise DataError(
            f"{name!r} of all {numbers.length:,} rows takes {needed / 2**30:,.1f} GiB of memory, and "
            f"{room / 2**30:,.1f} GiB are free: ask for a part of the rows, data.rows(start, stop) or data.take(rows)."
        )
    return numbers.read(0, numbers.length)


@dataclass(frozen=True, eq=False)
class Store:
    """The files of a data set."""

    y: Numbers
    columns: Mapping[str, Numbers]
    codes: Mapping[str, Numbers]
    weights: Numbers | None = None

    def __deepcopy__(self, memo: object) -> Self:
        """Itself, which nothing changes."""
        return self


@feels_at_home
class Stored(Data):
    """`Data` whose rows are on disk, see Note [Rows on disk]; row weights are in memory.

    Args:
        name: of the response.
        store: the files.
        labels: grouping -> its labels, in the order of their codes.
        recipe: which columns of a frame these were.
    """

    store: Store

    def __init__(self, name: str, store: Store, labels: Mapping[str, pd.Index], recipe: Recipe) -> None:
        self.name, self.store, self.recipe = name, store, recipe
        self.labels = {plate: labels[plate] for plate in store.codes}
        self._dtype, self._device = torch.float64, torch.device("cpu")
        self._index, self._cache, self._state = pd.RangeIndex(store.y.length), {}, {}
        self._whole = self._rows = self._first = self._mark = self._exact = None
        self._open()
        w = store.weights
        weights = None if w is None else self._tensor(w.read(0, w.length))
        self.weights = self.first_weights = None if weights is None else reading.row_weights(weights, weights)

    def _open(self) -> None:
        """Columns and codes in the dtype of these data, and where they are; they don't know the data, whose files go
        with the last that has them.
        """
        store, dtype, device = self.store, self._dtype, self._device

        def column(name: str) -> Tensor:
            return torch.from_numpy(whole(name, store.columns[name])).to(device, dtype)

        def codes(plate: str) -> np.ndarray:
            return whole(plate, store.codes[plate]).astype(np.int64)

        self.__dict__["columns"] = Asked(store.columns, column)
        self.__dict__["codes"] = Asked(store.codes, lambda plate: torch.from_numpy(codes(plate)).to(device))
        self.__dict__["whole_codes"] = Asked(store.codes, codes)

    @property
    def y(self) -> Tensor:  # type: ignore[override]
        """The response, `(rows,)`, read now."""
        return self._tensor(whole(self.name, self.store.y))

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return self.store.y.length

    @property
    def dtype(self) -> torch.dtype:
        """Of response, columns and weights."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Where rows are once they are read."""
        return self._device

    @property
    def by_chain(self) -> int:
        """0: all chains have the same response and weights."""
        return 0

    def __repr__(self) -> str:
        return super().__repr__() + "\n  rows on disk"

    def counts(self, plate: str) -> Tensor:
        """See `Facts.counts`."""
        key, size = ("counts", plate), self.size(plate)
        if key not in self._cache:
            found = np.zeros(size, np.int64)
            for part in self.store.codes[plate].parts():
                found += np.bincount(part.astype(np.int64), minlength=size)
            self._cache[key] = torch.from_numpy(found).to(self.device)
        return self._cache[key]

    def to(self, device: torch.device | str | int | None = None, dtype: torch.dtype | None = None) -> Self:
        """See `Parts.to`; the rows stay on disk."""
        reading.check_dtype(self.dtype if dtype is None else dtype)
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        try:
            like = like.to(device=device, dtype=dtype)
        except (AssertionError, RuntimeError, TypeError) as error:
            raise reading.no_device(device, error) from error
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        new._dtype, new._device = like.dtype, like.device
        new._cache = {k: x.to(like) if x.is_floating_point() else x.to(like.device) for k, x in self._cache.items()}
        new.weights = new.first_weights = None if self.weights is None else self.weights.to(like)
        new._open()
        if new.dtype != self.dtype:
            new._exact = self._exact or self
            if new.device.type == "cpu":
                new._check_finite()
        return new

    def rows(self, start: int, stop: int) -> Data:  # type: ignore[override]
        """See `Parts.rows`: they are read now."""
        reading.check_span(start, stop, self.n_rows)
        return self._read(lambda numbers: numbers.read(start, stop), slice(start, stop))

    def take(self, rows: object, weights: object = None) -> Data:  # type: ignore[override]
        """See `Parts.take`: they are read now."""
        numbers = reading.row_numbers(rows, self.n_rows)
        chosen = numbers.cpu().numpy()
        found = self._read(lambda column: column.pick(chosen), numbers.to(self.device))
        if weights is not None:
            found.weights = reading.row_weights(weights, found.y, check_values=False)
            found._state = counted(found)
        return found

    def in_memory(self) -> Data:
        """See `Data.in_memory`."""
        columns = 1 + len(self.store.columns) + len(self.store.codes) + (self.weights is not None)
        needed, room = 8 * columns * self.n_rows, free(self.device)
        if needed > 0.8 * room:
            raise DataError(
                f"{self.n_rows:,} rows of {columns} columns take {needed / 2**30:,.1f} GiB of memory, and "
                f"{room / 2**30:,.1f} GiB are free: fit a part of the rows (filters=, or data.take), or a model whose "
                "effects and coefficients can be integrated out (ht.plan says what keeps this one from it)."
            )
        found = self._read(lambda numbers: numbers.read(0, self.n_rows), slice(0, self.n_rows))
        codes = {plate: codes.cpu().numpy() for plate, codes in found.codes.items()}
        cache, mark, exact = dict(self._cache), self._mark, self._exact
        return found._changed(whole_codes=codes, _whole=None, _rows=None, _cache=cache, _mark=mark, _exact=exact)

    def replace(self, *, y: object = None, weights: object = None) -> Data:  # type: ignore[override]
        """See `Parts.replace`: the rows are read into memory."""
        return self.in_memory().replace(y=y, weights=weights)

    def with_columns(self, columns: Mapping[str, Tensor]) -> Data:  # type: ignore[override]
        """See `Parts.with_columns`: the rows are read into memory."""
        return self.in_memory().with_columns(columns)

    def of_chains(self, at: int | Tensor) -> Self:
        """These: all chains have the same."""
        return self

    def check_unchanged(self) -> None:
        """Nobody can write into files that only these data know."""

    def __reduce__(self) -> tuple[Callable[[Data], Data], tuple[Data]]:
        """Another process has the rows in memory."""
        return _itself, (self.in_memory(),)

    def __deepcopy__(self, memo: object) -> Self:
        """Itself, which nothing changes."""
        return self

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device, self._dtype)

    def _read(self, read: Callable[[Numbers], np.ndarray], rows: Tensor | slice) -> Data:
        """Some rows as ordinary data."""
        store, found = self.store, Data.__new__(Data)
        found.__dict__.update(
            {name: x for name, x in self.__dict__.items() if name not in ("store", "_dtype", "_device")}
        )
        found.y = self._tensor(read(store.y))
        found.columns = {name: self._tensor(read(numbers)) for name, numbers in store.columns.items()}
        found.codes = {
            plate: torch.from_numpy(read(numbers)).to(self._device, torch.long)
            for plate, numbers in store.codes.items()
        }
        if self.weights is not None:
            found.weights = found.first_weights = self.weights[rows]
        found._cache = {key: x for key, x in self._cache.items() if key[0] != "counts"}
        found._whole, found._rows, found._mark, found._exact = self, rows, None, None
        found._state = counted(found)
        return found


def _itself(data: Data) -> Data:
    return data
