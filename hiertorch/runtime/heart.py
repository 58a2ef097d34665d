"""Whether the other processes of a run still answer, found out beside the run.

Note [There and silent]
    A process that ends closes its connections, and whoever waits for it is told at once. One that is stopped, or whose
    machine has vanished, closes nothing. That can't be told from one that computes for long by waiting for its next
    message, so a thread of each process meets those of the others every few seconds, whatever the processes do: they
    compute outside of Python's lock.
"""

import threading
import time
from datetime import timedelta
from typing import Any

SILENT = 45.0
"""Seconds after which a process that does not answer is given up."""

PAUSE = 5.0
"""Seconds from one meeting to the next."""


class Heart:
    """A thread that meets those of the other processes until it is ended, or one does not come.

    Args:
        group: of `torch.distributed`, by gloo, for these meetings alone.
        patience: seconds for which they wait for one another.
        pause: seconds between two meetings.

    Attributes:
        beats: meetings so far.
    """

    def __init__(self, group: Any, patience: float = SILENT, pause: float = PAUSE) -> None:
        self.beats, self._group, self._patience, self._pause = 0, group, patience, pause
        self._ended, self._why, self._since = threading.Event(), "", float("inf")
        threading.Thread(target=self._beat, daemon=True).start()

    @property
    def trouble(self) -> str:
        """What is wrong with another process, empty if nothing is known. Where another one has left the meetings, as it
        does when it has done its part, those that it should have answered are still waited for as long.
        """
        return self._why if time.monotonic() >= self._since else ""

    def end(self) -> None:
        """This process comes to no more meetings."""
        from torch import distributed

        self._ended.set()
        distributed.destroy_process_group(self._group)

    def _beat(self) -> None:
        from torch import distributed

        while not self._ended.wait(self._pause):
            began = time.monotonic()
            try:
                distributed.monitored_barrier(self._group, timedelta(seconds=self._patience))
            except (RuntimeError, ValueError) as error:  # the latter where the group is no more
                now, said = time.monotonic(), str(error).strip().splitlines()[0]
                silent = now - began >= 0.9 * self._patience
                self._since = now if silent else now + self._patience
                self._why = f"no answer for {self._patience:.0f} seconds: {said}" if silent else said
                return
            self.beats += 1
