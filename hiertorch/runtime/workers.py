"""Independent pieces of tensor work, as many at a time as there are cores.

torch's own threads share each operation and wait for one another after it: on a busy machine they wait much longer than
they work. Pieces of some hundred operations each share nothing, and torch lets go of Python's lock while it computes.
Pieces and their results do not depend on how many workers there are.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from typing import TypeVar

import torch

from hiertorch.runtime.validating import is_validating, validation

MOST = 8
"""Workers at once."""

_runs = 0
"""Blocks of `one_thread` that are open,"""

_before = 1
"""how many threads torch had before the first of them,"""

_counting = threading.Lock()
"""and what guards both."""

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def each(function: Callable[[Piece], Result], pieces: Iterable[Piece], device: torch.device) -> Iterator[Result]:
    """The function of every piece, in order; side by side on the CPU, one by one elsewhere and where gradients are
    recorded. Pieces are taken in order, a few before their turn.
    """
    workers, more = min(MOST, _cores()), iter(pieces)
    first = list(islice(more, 2))
    if min(workers, len(first)) < 2 or device.type != "cpu" or torch.is_grad_enabled():
        yield from map(function, chain(first, more))
        return

    enabled = is_validating()

    def work(piece: Piece) -> Result:
        with torch.no_grad(), validation(enabled):  # which hold for a thread, not for all
            return function(piece)

    with ThreadPoolExecutor(workers) as pool:
        waiting = deque[Future[Result]]()
        for piece in chain(first, more):
            waiting.append(pool.submit(work, piece))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def one_thread() -> Iterator[None]:
    """A block in which torch computes with one thread, and after which it has as many as before.

    torch has a number for each thread, and one for threads to come. So of several runs at once the first one finds out
    what it was, and each puts that back.
    """
    global _runs, _before
    with _counting:
        _before = _before if _runs else torch.get_num_threads()
        _runs += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _counting:
            _runs -= 1
            torch.set_num_threads(_before)


def _cores() -> int:
    """Of this machine, for each of the processes that `torchrun` has started on it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
