"""Where random numbers come from: one stream for each use of a seed, and a way to draw with it.

Note [One law of streams]
    Each use of a seed has a stream of random numbers of its own, which the seed and a path name:
    `stream(3, "predict")`, `stream(3, "fits", 1)`. What is drawn for one use so depends on no other use, nor on how
    many there are. The path is hashed (BLAKE2), so that streams of neighboring seeds have nothing in common. On the CPU
    torch reads 32 bits of a seed: two streams are the same by chance once in four thousand million pairs.

    Chains draw from streams of their own, chain c from lane c % 8 of the stream ("chains", c // 8). All their numbers
    are made of uniform ones that are taken in order, eight at a time, one for each lane. Given where it starts and what
    warm-up has learnt, which is pooled over chains, a chain so is the same however many others run; and on the CPU
    however many numbers are taken at once. What the sweeps of a window take at once stands in the order of the sweeps,
    and what they take one by one comes from another stream, so that it does not matter how long windows are.

Note [Generators for distributions]
    `torch.distributions` take no generator. Every random operation of torch can be told which one to use; a dispatch
    mode tells it. torch's global generator is neither read nor changed, so that threads do not meet in it, and the
    draws are those that a global generator with the same seed would give.

docs/decisions.md: Random numbers by a dispatch mode.
"""

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from torch._ops import OpOverload

from hiertorch.runtime.modes import OperationMode

_alone = threading.RLock()
"""Held while the global generator stands in for ours."""


def derived(seed: int, *path: str | int) -> int:
    """The seed of a use of a seed, from 0 to 2^63 - 1; see Note [One law of streams]."""
    name = repr((int(seed), *path)).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1


def stream(seed: int, *path: str | int, device: torch.device) -> torch.Generator:
    """The random numbers of a use of a seed; see Note [One law of streams]."""
    return torch.Generator(device).manual_seed(derived(seed, *path))


LEAST, MOST = 2.0**-54, 1.0 - 2.0**-53
"""Bounds of uniform numbers, whose logarithms and normal quantiles are finite."""

LANES = 8
"""Chains that share a stream, of which each has a lane."""

BLOCK = 2**16
"""Numbers of all chains that are made at once: generators take their time to be called, and more leave the cache."""


class ChainStreams:
    """Uniform numbers of each chain, named by the seed of a generator; see Note [One law of streams]."""

    def __init__(self, generator: torch.Generator, chains: int) -> None:
        seed, device = generator.initial_seed(), generator.device
        self._streams = [stream(seed, "chains", k, device=device) for k in range(-(-chains // LANES))]
        self._left = torch.empty(0, chains, dtype=torch.float64, device=device)  # that are made and not yet taken
        self._first, self._of = 0, chains  # lane of the first chain, and chains of the whole run

    def uniform(self, number: int) -> Tensor:
        """The next numbers of each chain, uniform on (0, 1): `(number, chains)` in double precision."""
        left = self._left
        if number > len(left):
            block = -(-BLOCK // self._of)  # for a part of the chains as for all
            self._left = left.new_empty(max(number, block), left.shape[1])
            self._left[: len(left)] = left
            fresh = self._left[len(left) :]
            for some in fresh.split(block if fresh.device.type == "cpu" else len(fresh)):
                self._make(some)
        found, self._left = self._left.tensor_split([number])
        return found

    def _make(self, into: Tensor) -> None:
        lanes = list(into.new_empty(len(self._streams), len(into), LANES).unbind(0))
        for some, source in zip(lanes, self._streams, strict=True):
            some.uniform_(LEAST, MOST, generator=source)
        lanes[-1] = lanes[-1][:, : self._first + into.shape[1] - LANES * (len(lanes) - 1)]
        lanes[0] = lanes[0][:, self._first :]
        torch.cat(lanes, 1, out=into)

    def state(self) -> dict[str, Tensor]:
        """Where each stream is, `(streams, bytes)`, what is left, and whose these are."""
        lanes = torch.tensor([self._first, self._of], device="cpu")
        at = torch.stack([source.get_state() for source in self._streams])
        return {"at": at, "left": self._left.clone(), "lanes": lanes}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from a `state`, of all chains or of some."""
        self._left, (self._first, self._of) = state["left"], state["lanes"].tolist()
        if len(self._streams) != len(state["at"]):  # a part of the chains may begin within a stream
            self._streams = [torch.Generator(self._left.device) for _ in state["at"]]
        for part, source in zip(state["at"], self._streams, strict=True):
            source.set_state(part.cpu().clone())  # bytes of the CPU, whatever device the numbers are made on

    @staticmethod
    def part(state: Mapping[str, Tensor], own: range) -> dict[str, Tensor]:
        """Of the `state` of all chains that of some: their numbers are those that they would have had."""
        lanes = torch.tensor([own.start % LANES, state["left"].shape[1]], device="cpu")
        at = state["at"][own.start // LANES : -(-own.stop // LANES)]
        return {"at": at, "left": state["left"][:, own.start : own.stop].contiguous(), "lanes": lanes}


def uniform(*shape: int, generator: torch.Generator) -> Tensor:
    """Numbers of one generator, uniform on (0, 1), in double precision."""
    return torch.empty(shape, dtype=torch.float64, device=generator.device).uniform_(LEAST, MOST, generator=generator)


def normal(uniform: Tensor) -> Tensor:
    """Standard normal numbers of uniform ones on (0, 1), by inversion: quicker than those that torch makes."""
    return torch.special.ndtri(uniform)


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

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        told = _with_generator(func)
        if told is not None:
            return told(*args, **{**kwargs, "generator": self.generator})
        return self._by_the_global_one(func, args, kwargs)

    def _by_the_global_one(self, func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
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
def _with_generator(func: OpOverload) -> OpOverload | None:
    """The overload of an operation that takes a generator beside the same arguments, or None."""
    wanted = [argument.name for argument in func._schema.arguments if argument.name != "generator"]
    packet = func.overloadpacket
    for overload in (func, *(getattr(packet, name) for name in packet.overloads())):
        names = [argument.name for argument in overload._schema.arguments]
        if "generator" in names and [name for name in names if name != "generator"] == wanted:
            return overload
    return None
