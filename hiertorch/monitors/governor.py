"""Costly things in their turn: a governor says when one may happen, so that watching keeps to its share of the time."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Governor:
    """Lets costly things happen only while what they have cost and will cost <= share * time since the start. Seconds
    of work are those of the present thread on a processor, if no other clock is given.
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
    """Something that comes again and again, when it is due and the governor of all tiers allows it: `every` so many
    seconds, and at most so many times in a run. The first time is expected to cost so many seconds; then what the last
    one took.
    """

    def __init__(self, governor: Governor, every: float, cost: float, most: float = math.inf) -> None:
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
