"""Words of messages: names, numbers, shapes and labels as a sentence has them."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

__all__ = ["closest", "listed", "many", "quoted", "shape", "show"]


def closest(name: object, names: Iterable[Any]) -> str:
    """A hint at the closest of the names, empty if none is close."""
    close = difflib.get_close_matches(str(name), [str(known) for known in names], n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def listed(names: Iterable[Any]) -> str:
    """Names for a message."""
    return ", ".join(map(str, names)) or "none"


def shape(values: Any) -> str:
    """A shape for a message."""
    return str(tuple(values.shape))


def show(label: Any) -> str:
    """A label for a message."""
    return repr(label.item() if isinstance(label, np.generic) else label)


def many(number: int, one: str, several: str | None = None) -> str:
    """A number and what it counts."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def quoted(names: Sequence[str]) -> str:
    """Names for a sentence."""
    return ", ".join(map(repr, names))
