"""What ends a run early: Ctrl-C, SIGTERM, SIGHUP, and how none of them costs a draw.

Note [One signal ends, the next waits]
Python raises KeyboardInterrupt between any two operations, also while the draws are being put together. So within
`Signals` the three signals raise once, where the chains move or where somebody is listening; from then on, and wherever
nobody is listening, they are only noted. Handlers are set in the main thread alone, since Python allows no other; those
that a program has set itself, and signals that it ignores (nohup), stay as they are.

docs/decisions.md: What was drawn comes back, whatever ends a run.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

DEFAULTS = {"SIGINT": signal.default_int_handler, "SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_DFL}
"""Signal -> what Python does about it; another handler is a program's own, and stays."""


class Signals:
    """A block in which SIGINT raises KeyboardInterrupt, SIGTERM and SIGHUP SystemExit(128 + number), each once and
    where it can do no harm. Of blocks within one another the innermost decides.

    Attributes:
        met: the exceptions of the signals that came, raised or noted, in order.
    """

    def __init__(self, *, holding: bool = False) -> None:
        self.met: list[BaseException] = []
        self._holding = holding
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for name, default in DEFAULTS.items():
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number is None:
                    continue
                handler = signal.getsignal(number)
                outer = isinstance(getattr(handler, "__self__", None), Signals)  # another block around this one
                if handler == default or outer:
                    self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._arrived:
                signal.signal(number, handler)

    def hold(self) -> None:
        """From now on signals are noted."""
        self._holding = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """A block in which the next signal raises."""
        self._holding = False
        try:
            yield
        finally:
            self._holding = True

    def _arrived(self, number: int, _: FrameType | None) -> None:
        error: BaseException = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        self.met.append(error)
        if not self._holding:
            self._holding = True
            raise error


def ended_by(cause: BaseException) -> str:
    """What ended a run, in words: "Ctrl-C", "SIGTERM", "ValueError: ..."."""
    if isinstance(cause, KeyboardInterrupt):
        return "Ctrl-C"
    if isinstance(cause, SystemExit):
        names = {128 + number: number.name for number in signal.Signals}
        return next((name for code, name in names.items() if code == cause.code), f"SystemExit({cause.code!r})")
    text = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {text[0]}" if text else type(cause).__name__
