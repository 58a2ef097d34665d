"""Independent pieces of tensor work, as many at a time as there are cores.

torch's own threads share each operation and wait for one another after it: on a busy machine they wait much longer than
they work. Pieces of some hundred operations each share nothing, and torch lets go of Python's lock while it computes.
Pieces and their results do not depend on how many workers there are.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["each"]

MOST = 8

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def each(function: Callable[[Piece], Result], pieces: Sequence[Piece], device: torch.device) -> Iterator[Result]:
    """The function of every piece, in order; side by side on the CPU, one by one elsewhere and where gradients are
    recorded.
    """
    workers = min(MOST, len(pieces), _cores())
    if workers < 2 or device.type != "cpu" or torch.is_grad_enabled():
        yield from map(function, pieces)
        return

    def work(piece: Piece) -> Result:
        with torch.no_grad():  # which holds for a thread, not for all
            return function(piece)

    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(work, pieces)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
