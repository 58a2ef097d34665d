"""One thread that does what a dashboard takes.

Note [What watching costs]
The sampler gives a snapshot away and goes on. A thread in pure Python holds the interpreter's lock, for which the
sampler then waits, so the thread's own processor time is what watching costs, whatever the number of cores. It is kept
to a share of the time since the start; what is done at the end of a run comes on top.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

MANY, HELD = 500, 10_000
"""Snapshots that wait before their time has come, and at most: of more, the oldest are lost."""

PATIENCE = 60.0
"""Seconds that the end of a run waits for the thread: a disk that does not answer must not keep the draws."""

T = TypeVar("T")


class Worker(Generic[T]):
    """A thread that first prepares, then hands a list of what has come in since the last time, in order, to a function,
    at most once in `every` seconds. Neither of the two may raise.
    """

    def __init__(
        self, handle: Callable[[list[T]], None], prepare: Callable[[], None] = lambda: None, every: float = 1.0
    ) -> None:
        self._handle, self._prepare, self._every = handle, prepare, every
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

    def end(self, seconds: float = PATIENCE) -> list[T]:
        """Stops the thread, and returns what it has not handled.

        Raises:
            TimeoutError: if it is still at work after so many seconds.
        """
        self._ended = True
        self._called.set()
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise TimeoutError(f"what it began has not come to its end in {seconds:.0f} s")
        return self._taken()

    def _work(self) -> None:
        self._prepare()
        while True:
            self._called.wait(self._every)
            self._called.clear()
            if self._ended:
                return
            if items := self._taken():
                self._handle(items)

    def _taken(self) -> list[T]:
        return [self._waiting.popleft() for _ in range(len(self._waiting))]
