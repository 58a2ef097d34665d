"""A few letters that two data sets share if they hold the same numbers in the same order: SHA-256 of their bytes.

So a criterion knows which response it is about, and a file which data its draws were made from, without keeping them.
Numbers count as float64, whatever the dtype or device that a run computes in; labels count by value, so that group 3 of
a column of integers is group 3.0 of one that had missing values, and not group "3".

docs/decisions.md: Fingerprints are SHA-256 of float64 bytes.
"""

import hashlib
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from torch import Tensor

from hiertorch.data.facts import Facts
from hiertorch.data.reading import EXACT
from hiertorch.errors import DataError

LETTERS = 16
"""Of 64: two data sets that differ share them with probability 2^-64."""

CHUNK = 1 << 20
"""Numbers that are copied at once."""


@dataclass(frozen=True)
class Fingerprint:
    """What two data sets must share to be the same.

    Attributes:
        n_rows: the number of rows.
        response: of its values, in the order of the rows.
        weights: of the row weights, "none" without any.
        columns: name -> of its values.
        groups: grouping -> of its labels in the order of their codes, and of the code of each row.
    """

    n_rows: int
    response: str
    weights: str
    columns: Mapping[str, str]
    groups: Mapping[str, str]

    @classmethod
    def of(cls, data: Facts) -> Self:
        """The fingerprint of data as they are now."""
        w = data.weights
        weights = "none" if w is None or bool((w == 1.0).all()) else _numbers(w)  # weights of 1 are none
        return cls(
            data.n_rows,
            _numbers(data.y),
            weights,
            {name: _numbers(x) for name, x in data.columns.items()},
            {plate: _labels(data.labels[plate], codes) for plate, codes in data.codes.items()},
        )

    def row_differences(self, other: Self) -> list[str]:
        """What of response, weights and the order of rows is another in other data, in words; empty if nothing is."""
        if self.n_rows != other.n_rows:
            return [f"there are {other.n_rows} rows, not {self.n_rows}"]
        found = [] if self.response == other.response else ["the response has other values, or its rows another order"]
        return found if self.weights == other.weights else [*found, "the row weights are others"]

    def differences(self, other: Self) -> list[str]:
        """The same of everything that these data have; what only the others have is no difference."""
        found = self.row_differences(other)
        for kind, mine, theirs in (("column", self.columns, other.columns), ("grouping", self.groups, other.groups)):
            for name, mark in mine.items():
                if name not in theirs:
                    found.append(f"{kind} {name!r} is missing")
                elif theirs[name] != mark:
                    of = "values" if kind == "column" else "labels, or other rows in its groups"
                    found.append(f"{kind} {name!r} has other {of}")
        return found

    def to_json(self) -> dict[str, str | dict[str, str]]:
        """All of it as what JSON can hold."""
        rows = f"{self.n_rows}:{self.response}:{self.weights}"
        return {"rows": rows, "columns": dict(self.columns), "groups": dict(self.groups)}

    @classmethod
    def from_json(cls, found: object) -> Self:
        """What `to_json` was given.

        Raises:
            DataError: if it is none.
        """
        parts = found if isinstance(found, Mapping) else {}
        rows, columns, groups = (parts.get(name) for name in ("rows", "columns", "groups"))
        if isinstance(rows, str) and isinstance(columns, Mapping) and isinstance(groups, Mapping):
            texts = [*columns, *columns.values(), *groups, *groups.values()]
            match = re.fullmatch(r"(\d+):(\w+):(\w+)", rows)
            if match and all(isinstance(text, str) for text in texts):
                return cls(int(match[1]), match[2], match[3], dict(columns), dict(groups))
        raise DataError(f"expected a fingerprint of data, as to_json() gives it; found {found!r}.")


def _numbers(tensor: Tensor) -> str:
    """Of the shape and values of a tensor."""
    digest = hashlib.sha256(repr(tuple(tensor.shape)).encode())
    for part in tensor.detach().reshape(-1).split(CHUNK):
        numbers = part.cpu().numpy().astype("<f8", copy=False)
        digest.update((numbers + 0.0).tobytes())  # -0 is 0
    return digest.hexdigest()[:LETTERS]


def _labels(labels: pd.Index, codes: Tensor) -> str:
    """Of labels in the order of their codes, and of each row's code `(rows,)`."""
    digest = hashlib.sha256(f"{len(labels)} labels".encode())
    if (numbers := _whole(labels)) is not None:
        digest.update(numbers.tobytes())
    else:
        texts = [_text(label) for label in labels.tolist()]
        digest.update(np.fromiter(map(len, texts), "<i8", len(texts)).tobytes())
        digest.update("".join(texts).encode(errors="surrogatepass"))
    for part in codes.split(CHUNK):
        digest.update(part.cpu().numpy().astype("<i8", copy=False).tobytes())
    return digest.hexdigest()[:LETTERS]


def _whole(labels: pd.Index) -> np.ndarray | None:
    """Labels that are whole numbers, as int64."""
    kind = pd.api.types.infer_dtype(labels, skipna=False)
    if kind == "floating":
        numbers = labels.to_numpy(np.float64)
        return numbers.astype("<i8") if (np.abs(numbers) < EXACT).all() and (numbers % 1 == 0).all() else None
    try:
        return np.array(labels.tolist(), "<i8") if kind == "integer" else None
    except OverflowError:
        return None


def _text(label: Hashable) -> str:
    """A label of any type as text that no label but its equals has; an int and a float that are equal share it."""
    if isinstance(label, str):
        return f"str {label}"
    if isinstance(label, tuple):
        return f"tuple {[*map(_text, label)]}"
    if isinstance(label, np.generic):
        return _text(label.item())
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, pd.Timestamp) and label.tz is not None:
        label = label.tz_convert("UTC")
    return f"{type(label).__name__} {label!r}"
