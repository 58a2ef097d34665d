"""A mode that sees every operation leaves nothing in the process: no compiler, no note that it was on."""

import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from hiertorch.runtime.modes import OperationMode


class Noting(OperationMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_mode_sees_the_operations_of_its_thread() -> None:
    x = torch.ones(3)
    with Noting() as outer, Noting() as inner:
        x.exp()
        other = threading.Thread(target=x.log)
        other.start()
        other.join()
    x.sin()
    assert outer.seen == inner.seen == ["exp"]


def test_threads_that_leave_in_another_order_leave_no_note() -> None:
    entered, left = threading.Event(), threading.Event()

    def first() -> None:
        with Noting():
            entered.set()
            left.wait(10.0)

    thread = threading.Thread(target=first)
    with Noting():
        thread.start()
        entered.wait(10.0)
    left.set()
    thread.join()
    assert not is_in_torch_dispatch_mode()


@pytest.mark.slow
def test_planning_a_collapsed_run_imports_no_compiler() -> None:
    code = """
import sys, hiertorch as ht
data = ht.Data([1.0, 2.0, 3.0, 4.0], groups={"g": [0, 0, 1, 1]})
assert ht.plan(ht.models.VaryingIntercepts("g"), data).collapsed is not None
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
