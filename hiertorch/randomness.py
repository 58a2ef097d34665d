"""Random numbers of `torch.distributions`, which take no generator, from one of ours.

Every random operation of torch can be told which generator to use; here a dispatch mode tells it. torch's global
generator is neither read nor changed, so that threads do not meet in it, and the draws are those that a global
generator with the same seed would give.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from hiertorch.runtime.modes import OperationMode

__all__ = ["seeded"]

_alone = threading.RLock()


@contextmanager
def seeded(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """A block in which random numbers come from a generator that this one seeds; from torch's own if there is none."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    with _Drawing(torch.Generator(device).manual_seed(seed)):
        yield


class _Drawing(OperationMode):
    """Hands its generator to all random operations that were given none."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        told = _with_generator(func)
        if told is not None:
            return told(*args, **{**kwargs, "generator": self.generator})
        return self._by_the_global_one(func, args, kwargs)

    def _by_the_global_one(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Of the few operations that take no generator (dropout on some devices): the global one stands in for ours."""
        device = self.generator.device
        cpu = device.type == "cpu"
        with _alone, torch.random.fork_rng(devices=[] if cpu else [device], device_type="cuda" if cpu else device.type):
            there = torch.default_generator if cpu else torch.get_device_module(device).default_generators[device.index]
            there.set_state(self.generator.get_state())
            found = func(*args, **kwargs)
            self.generator.set_state(there.get_state())
        return found


@cache
def _with_generator(func: Any) -> Any:
    """The overload of an operation that takes a generator beside the same arguments, or None."""
    wanted = [argument.name for argument in func._schema.arguments if argument.name != "generator"]
    packet = func.overloadpacket
    for overload in (func, *(getattr(packet, name) for name in packet.overloads())):
        names = [argument.name for argument in overload._schema.arguments]
        if "generator" in names and [name for name in names if name != "generator"] == wanted:
            return overload
    return None
