"""Argument validation of `torch.distributions`, switched for one thread.

torch has one switch for the whole process. While a block here is open, it is a switch that answers each thread for
itself: a model may be checked in one thread while another samples, and a third, which knows nothing of hiertorch, sees
what it has set.

docs/decisions.md: Validation is of one thread.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributions import Distribution

SWITCH = "_validate_args"
"""The class attribute of `Distribution` that torch keeps it in."""


class _PerThread:
    """In place of a class attribute: this thread's own value, or the one that was there."""

    def __init__(self) -> None:
        self.otherwise: bool = True
        self.users = 0
        self.lock = threading.Lock()
        self.own = threading.local()

    def __get__(self, instance: object, owner: type) -> bool:
        found: bool = getattr(self.own, "enabled", self.otherwise)
        return found

    def enter(self) -> None:
        """Takes the attribute's place, unless it has it; a caller may have set another default in the meantime."""
        with self.lock:
            self.users += 1
            there = Distribution.__dict__[SWITCH]
            if there is not self:
                self.otherwise = there
                setattr(Distribution, SWITCH, self)

    def leave(self) -> None:
        """Puts back what was there, if nobody needs this any more."""
        with self.lock:
            self.users -= 1
            if self.users == 0 and Distribution.__dict__[SWITCH] is self:
                setattr(Distribution, SWITCH, self.otherwise)


_switch = _PerThread()
"""That takes the attribute's place while there are blocks."""


def is_validating() -> bool:
    """Whether distributions made in this thread check their arguments."""
    return bool(Distribution._validate_args)


@contextmanager
def validation(enabled: bool) -> Iterator[None]:
    """Argument validation of distributions that this thread makes, on or off inside the block."""
    before = getattr(_switch.own, "enabled", None)
    _switch.enter()
    _switch.own.enabled = enabled
    try:
        yield
    finally:
        if before is None:
            del _switch.own.enabled
        else:
            _switch.own.enabled = before
        _switch.leave()
