"""One thread that does what a dashboard takes, and a governor that says when it may.

Note [What watching costs]
The sampler gives a snapshot away and goes on. A thread in pure Python holds the interpreter's lock, for which the
sampler then waits, so the thread's own processor time is what watching costs, whatever the number of cores. It is kept
to a share of the time since the start; what is done at the end of a run comes on top.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

__all__ = ["Governor", "Tier", "Worker"]

MANY, HELD = 500, 10_000
"""Snapshots that wait before their time has come, and at most: of more, the oldest are lost."""

T = TypeVar("T")


class Governor:
    """Lets costly things happen only while what they have cost and will cost <= share * time since the start.

    Args:
        share: of the time since the start.
        wall: seconds that have passed.
        spent: seconds of work of the present thread.
    """

    def __init__(
        self, share: float, wall: Callable[[], float] = time.perf_counter, spent: Callable[[], float] = time.thread_time
    ) -> None:
        self.share, self.total = share, 0.0
        self._wall, self._work, self._begun = wall, spent, wall()

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return self._wall() - self._begun

    def allows(self, cost: float) -> bool:
        """Whether something of this cost may happen now."""
        return self.total + cost <= self.share * self.passed

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Counts what is done inside."""
        before = self._work()
        try:
            yield
        finally:
            self.total += self._work() - before


class Tier:
    """Something that comes again and again, when it is due and the governor allows it.

    Args:
        governor: of all tiers.
        every: seconds from one time to the next, and to the first.
        most: times in a run.
        cost: seconds that the first time is expected to take; then what the last one took.
    """

    def __init__(self, governor: Governor, every: float, most: int, cost: float) -> None:
        self._governor, self._every, self._most, self._cost = governor, every, most, cost
        self._due, self.sweep = every, 0  # sweep of the last time

    def may(self, sweep: int, sweeps: int) -> bool:
        """Whether its turn has come, at a sweep of so many in the run."""
        rare = (sweep - self.sweep) * self._most >= sweeps
        return rare and self._governor.passed >= self._due and self._governor.allows(self._cost)

    @contextmanager
    def turn(self, sweep: int) -> Iterator[None]:
        """What is done inside is this time."""
        before = self._governor.total
        try:
            with self._governor.spending():
                yield
        finally:
            self._cost = self._governor.total - before
            self._due, self.sweep = self._governor.passed + self._every, sweep


class Worker(Generic[T]):
    """A thread that hands what has come in to a function, at most once in `every` seconds.

    Args:
        handle: gets a list of everything since the last time, in order; it must not raise.
        every: seconds.
    """

    def __init__(self, handle: Callable[[list[T]], None], every: float = 1.0) -> None:
        self._handle, self._every = handle, every
        self._waiting: deque[T] = deque(maxlen=HELD)
        self._called, self._ended = threading.Event(), False
        # A daemon, so that a process that is told to exit does.
        self._thread = threading.Thread(target=self._work, name="hiertorch-dashboard", daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Never waits."""
        self._waiting.append(item)
        if len(self._waiting) == MANY:
            self._called.set()

    def end(self) -> list[T]:
        """Stops the thread, and returns what it has not handled."""
        self._ended = True
        self._called.set()
        self._thread.join()
        return self._taken()

    def _work(self) -> None:
        while True:
            self._called.wait(self._every)
            self._called.clear()
            if self._ended:
                return
            if items := self._taken():
                self._handle(items)

    def _taken(self) -> list[T]:
        return [self._waiting.popleft() for _ in range(len(self._waiting))]
