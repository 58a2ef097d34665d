"""A mode that sees every operation of this thread, and leaves no traces in the process.

torch's own `TorchDispatchMode` notes for all threads together that a mode is on, so that two threads that leave theirs
in the wrong order switch `torch.compile` off for good; and it imports the compiler at the first operation.

docs/decisions.md: Our modes stay out of torch's process-wide notes.
"""

from typing import Self

from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode


class OperationMode(TorchDispatchMode):
    """See the module. A subclass writes `__torch_dispatch__`."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __enter__(self) -> Self:
        _push_mode(self)
        return self

    def __exit__(self, *error: object) -> None:
        _pop_mode()
