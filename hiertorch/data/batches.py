"""Columns of Arrow record batches, one batch after the other, into files: numbers as they are, labels as codes.

What is wrong with them is counted, and said once all rows have been seen.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hiertorch.data import coding, reading
from hiertorch.data.frames import CATEGORICAL
from hiertorch.data.stored import Numbers
from hiertorch.errors import DataError
from hiertorch.wording import show

if TYPE_CHECKING:
    import pyarrow as pa

DENSE = 4
"""Whole numbers are counted by a table of all between the least and the largest, if these are so many times the rows at
most.
"""


class Batches(ABC):
    """What is added batch by batch, and how many values are not as they should be.

    Args:
        what: it is, in words.
        problem: in words,
        advice: and what to do about it.
        numbers: the file.
    """

    def __init__(self, what: str, problem: str, advice: str, numbers: Numbers) -> None:
        self.what, self.problem, self.advice, self.numbers = what, problem, advice, numbers
        self.bad, self.first = 0, 0

    @abstractmethod
    def add(self, array: "pa.Array", before: int) -> None:
        """Further rows, after so many `before`."""

    def noted(self, bad: np.ndarray, before: int) -> bool:
        """Notes which of the values of a batch are bad, `(rows,)`; whether any value was."""
        if count := int(bad.sum()):
            self.first = self.first if self.bad else before + int(np.argmax(bad))
            self.bad += count
        return self.bad > 0

    def check(self) -> None:
        """Raises a DataError if values are bad."""
        if self.bad:
            raise reading.troubled(self.what, self.problem, self.bad, self.first, self.advice)


class NumberBatches(Batches):
    """A column of numbers."""

    def __init__(self, what: str, numbers: Numbers) -> None:
        super().__init__(what, reading.not_finite("float64"), reading.DROP, numbers)

    def add(self, array: "pa.Array", before: int) -> None:
        """See `Batches.add`."""
        import pyarrow as pa

        if pa.types.is_decimal(array.type) or pa.types.is_float16(array.type):
            array = array.cast(pa.float64())
        if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
            raise DataError(
                f"{self.what} is not numeric: found {array.type}. Recode it as numbers, or name it as a grouping."
            )
        bad = _null(array)
        values = array.fill_null(False if pa.types.is_boolean(array.type) else 0).to_numpy(zero_copy_only=False)
        if values.dtype.kind == "f" and not np.isfinite(values.sum()):
            bad = bad | ~np.isfinite(values)
        if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
            reading.check_exact(self.what, values, before=before)
        if not self.noted(bad, before):
            self.numbers.append(values)


class LabelBatches(Batches):
    """The labels of a grouping: numbered as they come, and with codes in the order of `Data` once all are known.

    Args:
        plate: the grouping.
        raw: a file for their numbers,
        numbers: and for their codes.
    """

    def __init__(self, plate: str, raw: Numbers, numbers: Numbers) -> None:
        super().__init__(f"grouping {plate!r}", coding.MISSING, coding.LABEL, numbers)
        self.plate, self.raw = plate, raw

    @abstractmethod
    def distinct(self) -> pd.Series | pd.Index:
        """All labels that occur."""

    @abstractmethod
    def places(self, raw: np.ndarray) -> np.ndarray:
        """The place of each row's label among those of `distinct`."""

    def coded(self, given: Sequence[Hashable] | None) -> tuple[Numbers, pd.Index]:
        """The code of each row, and the labels in code order, among those that are given, if any are."""
        labels = self.distinct()
        if given is not None and len(new := pd.Index(labels).difference(pd.Index(list(given)), sort=False)):
            raise DataError(f"{self.what} has {show(new[0])}, which is not in its labels=: add it there.")
        codes, index = coding.coded(self.plate, labels, given, len(labels))
        for raw in self.raw.parts():
            self.numbers.append(codes[self.places(raw)])
        return self.numbers, index


class WholeBatches(LabelBatches):
    """Labels that are whole numbers: their numbers are they themselves."""

    def __init__(self, plate: str, kind: np.dtype, raw: Numbers, numbers: Numbers) -> None:
        super().__init__(plate, raw, numbers)
        self.kind, self.low, self.high = kind, 0, 0
        self.place = self.labels = np.empty(0, np.int64)

    def add(self, array: "pa.Array", before: int) -> None:
        """See `Batches.add`."""
        if self.noted(_null(array), before) or not len(array):
            return
        values = array.to_numpy(zero_copy_only=False)
        low, high = int(values.min()), int(values.max())
        self.low, self.high = (min(self.low, low), max(self.high, high)) if self.raw.length else (low, high)
        self.raw.append(values)

    def distinct(self) -> pd.Series | pd.Index:
        """In ascending order."""
        if self.high - self.low < max(DENSE * self.raw.length, coding.MANY):
            occurs = np.zeros(self.high - self.low + 1, bool)
            for raw in self.raw.parts():
                occurs[raw.astype(np.int64) - self.low] = True
            self.place, labels = np.cumsum(occurs) - 1, np.flatnonzero(occurs) + self.low
        else:
            labels = np.empty(0, np.int64)
            for raw in self.raw.parts():
                labels = np.union1d(labels, raw.astype(np.int64))
        self.labels = labels
        return pd.Index(labels.astype(self.kind))

    def places(self, raw: np.ndarray) -> np.ndarray:
        """By their table, or by bisection."""
        raw = raw.astype(np.int64)
        return self.place[raw - self.low] if len(self.place) else np.searchsorted(self.labels, raw)


class OtherBatches(LabelBatches):
    """Labels of any other type, numbered by first appearance.

    Args:
        plate, raw, numbers: see `LabelBatches`.
        by_text: whether categories are in the order of their texts, and not in one of their own.
    """

    def __init__(self, plate: str, raw: Numbers, numbers: Numbers, *, by_text: bool) -> None:
        super().__init__(plate, raw, numbers)
        self.seen: dict[Hashable, int] = {}
        self.new: list[pa.Array] = []
        self.used = np.empty(0, bool)
        self.categories, self.by_text = False, by_text
        self.order = np.empty(0, np.int64)

    def add(self, array: "pa.Array", before: int) -> None:
        """See `Batches.add`."""
        import pyarrow as pa

        self.categories = pa.types.is_dictionary(array.type)
        encoded = array if self.categories else array.dictionary_encode()
        labels = encoded.dictionary.to_pandas()
        indices = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        missing = labels.isna().to_numpy()
        bad = _null(array) | (missing[indices] if len(missing) else False)
        if self.noted(bad, before) or not len(array):
            return
        known = len(self.seen)
        places = np.array([self.seen.setdefault(label, len(self.seen)) for label in labels.tolist()])
        first = np.sort(np.unique(places, return_index=True)[1])
        self.new.append(encoded.dictionary.take(pa.array(first[places[first] >= known])))
        self.used = np.concatenate([self.used, np.zeros(len(self.seen) - known, bool)])
        self.used[places[np.unique(indices)]] = True
        self.raw.append(places[indices])

    def distinct(self) -> pd.Series | pd.Index:
        """In the order of first appearance; categories in theirs."""
        import pyarrow as pa

        labels = pa.chunked_array(self.new).to_pandas()
        self.order = np.cumsum(self.used) - 1
        if not self.categories:
            return labels
        ordered = sorted(labels) if self.by_text else labels
        return pd.Series(pd.Categorical(labels[self.used], categories=ordered))

    def places(self, raw: np.ndarray) -> np.ndarray:
        """Among those that are used."""
        return self.order[raw.astype(np.int64)]


def label_batches(plate: str, field: "pa.Field", raw: Numbers, numbers: Numbers) -> LabelBatches:
    """For the labels of a column."""
    import pyarrow as pa

    if pa.types.is_integer(field.type) and field.type != pa.uint64():
        return WholeBatches(plate, np.dtype(field.type.to_pandas_dtype()), raw, numbers)
    by_text = any(key.startswith(CATEGORICAL) for key in field.metadata or ())
    return OtherBatches(plate, raw, numbers, by_text=by_text)


def _null(array: "pa.Array") -> np.ndarray:
    """Which values are missing."""
    if not array.null_count:
        return np.zeros(len(array), bool)
    return np.asarray(array.is_null().to_numpy(zero_copy_only=False))
