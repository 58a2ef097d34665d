"""Words of messages: names, numbers, shapes and labels as a sentence has them."""

import difflib
from collections.abc import Iterable, Sequence

import numpy as np

SHORT = 3
"""Letters with which a name may begin to be told from others."""


def closest(name: object, names: Iterable[object]) -> str:
    """A hint at the closest of the names, empty if none is close."""
    texts = [str(known) for known in names]
    alike = [known for known in texts if known.lower() == str(name).lower()]  # other letters are closest
    begun = [known for known in texts if len(str(name)) >= SHORT and known.startswith(str(name))]
    close = alike or begun[:1] * (len(begun) == 1) or difflib.get_close_matches(str(name), texts, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names for a message, the first of many."""
    texts = [str(name) for name in names]
    return (", ".join(texts[:most]) or "none") + (f" and {len(texts) - most} more" if len(texts) > most else "")


def shape(values: object) -> str:
    """A shape for a message."""
    return str(tuple(getattr(values, "shape", ())))


def show(label: object) -> str:
    """A label for a message."""
    return repr(label.item() if isinstance(label, np.generic) else label)


def many(number: int, one: str, several: str | None = None) -> str:
    """A number and what it counts."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def quoted(names: Sequence[str]) -> str:
    """Names for a sentence."""
    return ", ".join(map(repr, names))
