"""Blocks without warnings, which leave Python's filters as they were, also where several threads have such blocks.

The filters belong to the process. Who only wants to be spared hiertorch's own warnings (the run of a fold says nothing
that the run on all rows has not said) is spared in this thread alone. Who calls libraries that warn of nothing changes
the filters, one thread at a time.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_filters = threading.RLock()
"""Held by the thread that has changed the filters."""

_own = threading.local()
"""In how many hushed blocks each thread is."""


@contextmanager
def hushed() -> Iterator[None]:
    """A block in which this thread gives no warning of hiertorch."""
    _own.blocks = getattr(_own, "blocks", 0) + 1
    try:
        yield
    finally:
        _own.blocks -= 1


def is_hushed() -> bool:
    """Whether this thread is in such a block."""
    return getattr(_own, "blocks", 0) > 0


@contextmanager
def quiet(message: str = "", category: type[Warning] = Warning) -> Iterator[None]:
    """A block in which warnings of other libraries are ignored whose text begins with a pattern, or all."""
    with _filters, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message, category)
        yield
