"""Processes that run one program side by side, as `torchrun` starts them: what they have in common, and what each has.

Note [Left while somebody is silent]
    A message that nobody answers can't be called back, and a group that still has one waits for it when it is taken
    down, half an hour or so. Such a group is never taken down; its connections close with the process.

Note [Started again]
    torchrun keeps one store for all starts of its processes (torch 2.13), in which they find the addresses of one
    another, those of processes that have ended as well. So the names of a start have its number before them. On several
    machines each counts for itself, and there torchrun is to make a store for every start.

docs/decisions.md: Chains over processes.
"""

import ctypes
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from hiertorch.errors import SamplingError
from hiertorch.runtime.heart import Heart

PATIENCE = 1.0
"""Seconds for which a process that has lost another one waits for the signal that may have ended both."""

LISTENS = timedelta(seconds=1)
"""How long a process waits for others until it asks whether they are there, and whether it is to end itself."""

Found = TypeVar("Found")
Key = TypeVar("Key")


class LostProcessError(SamplingError):
    """Another process of the run has ended, or can't be reached."""


class Ranks:
    """The processes of a run. All of them ask the same in the same order.

    Args:
        rank: of this one, from 0 on,
        number: of so many.
        group: of `torch.distributed`, of this run alone; None of a single process.
        heart: knows whether the others answer.
    """

    def __init__(self, rank: int = 0, number: int = 1, group: Any = None, heart: Heart | None = None) -> None:
        self.rank, self.number, self._group, self.heart = rank, number, group, heart
        self._asking: Any = None  # the last message
        self._cards = False  # whether messages go from card to card; else by the memory of the host

    @property
    def first(self) -> bool:
        """Whether this is the process that shows and writes."""
        return self.rank == 0

    def leave(self) -> None:
        """From here on this process has nothing to do with the others; those that wait for it find out."""
        from torch import distributed

        if self._group is not None:
            group, self._group = self._group, None
            if self.heart is not None:
                self.heart.end()
            if self._asking is not None and not self._asking.is_completed():
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))  # Note [Left while somebody is silent]
                return
            distributed.destroy_process_group(group)

    def agreed(self, numbers: Sequence[float]) -> list[float]:
        """What the first process says."""
        if self.number == 1:
            return list(numbers)
        from torch import distributed

        said = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        self._asked(lambda: distributed.broadcast(said, 0, group=self._group, async_op=True))
        return list(said.tolist())

    def each(self, said: Found) -> list[Found]:
        """What every process says, in order."""
        if self.number == 1:
            return [said]
        text = torch.frombuffer(bytearray(pickle.dumps(said)), dtype=torch.uint8)
        length = torch.tensor([[len(text)]], device="cpu")
        sizes = [int(x.view(torch.long)) for x in self.parts(length.view(torch.uint8), [1] * self.number)]
        return [pickle.loads(x.numpy().tobytes()) for x in self.parts(text.unsqueeze(1), sizes)]

    def parts(self, own: Tensor, sizes: Sequence[int], *, first: bool = False) -> list[Tensor]:
        """Rows of bytes `(size, bytes)` of every process, in order.

        Args:
            own: those of this one.
            sizes: of all.
            first: for the first process alone, others get nothing.
        """
        from torch import distributed

        device = own.device if self._cards else torch.device("cpu")
        sent = own.new_zeros(max(sizes), own.shape[1], device=device)
        sent[: len(own)] = own
        got = [torch.empty_like(sent) for _ in sizes] if self.first or not first else []
        if first:
            self._asked(lambda: distributed.gather(sent, got or None, 0, self._group, async_op=True))
        else:
            self._asked(lambda: distributed.all_gather(got, sent, self._group, async_op=True))
        return [x[:size].to(own.device) for x, size in zip(got, sizes, strict=bool(got))]

    def total(self, own: Tensor) -> Tensor:
        """The sum of what all processes have, the same to the bit on each of them."""
        if self.number == 1:
            return own
        from torch import distributed

        sent = own.to(own.device if self._cards else "cpu", copy=True).contiguous()
        self._asked(lambda: distributed.all_reduce(sent, group=self._group, async_op=True))
        return sent.to(own.device)

    @property
    def there(self) -> bool:
        """Whether this process can still ask the others."""
        return self.number == 1 or self._group is not None

    def _asked(self, message: Callable[[], Any]) -> None:
        """Sends and gets.

        Raises:
            LostProcessError: if another process is not there, or does not answer.
        """
        try:
            if self._group is None:
                raise RuntimeError("this process has left the run")
            self._asking = message()
            while not self._answered():
                if self.heart is not None and (trouble := self.heart.trouble):
                    raise RuntimeError(trouble)
        except RuntimeError as error:
            time.sleep(PATIENCE)
            raise LostProcessError(
                f"process {self.rank} of {self.number} has lost another process of this run, which has ended or can't "
                f"be reached ({str(error).strip().splitlines()[0]}). Look there for what has ended it, and run again, "
                "or go on by ht.resume from a checkpoint."
            ) from error

    def _answered(self) -> bool:
        """Whether the message has come and gone, after some waiting."""
        if self._cards:  # where waiting is a matter of the card's
            self._asking.wait()
            return True
        try:
            self._asking.wait(LISTENS)
        except RuntimeError:
            if not self._asking.is_completed():
                return False
            self._asking.wait()  # says what went wrong
        return True


ALONE = Ranks()


@contextmanager
def ranks(*silence: float) -> Iterator[Ranks]:
    """The processes of the group of `torch.distributed` that is there, if any, for the time of a run; `silence` is said
    to `Heart`.
    """
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        yield ALONE
        return
    if "gloo" not in (backend := distributed.get_backend_config()):
        raise SamplingError(
            f"chains are dealt out to processes that can send from memory, and this group has {backend!r}; begin by "
            "torch.distributed.init_process_group('cpu:gloo,cuda:nccl'), or 'gloo' without cards."
        )
    group, heart = distributed.new_group(), Heart(distributed.new_group(backend="gloo"), *silence)
    found = Ranks(distributed.get_rank(), distributed.get_world_size(), group, heart)
    found._cards = "nccl" in backend
    try:
        yield found
    finally:
        found.leave()


@contextmanager
def started_by_torchrun() -> Iterator[bool]:
    """A block in which the processes of `torchrun`, if it has started this program, are a group: NCCL where each has a
    card of its own, gloo elsewhere. Gives whether this is the one that shows and writes.
    """
    from torch import distributed

    if not distributed.is_available() or not distributed.is_torchelastic_launched() or distributed.is_initialized():
        yield not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank())
        return
    from torch.distributed.rendezvous import rendezvous

    place, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    start, shared = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and start != "0" and here < int(os.environ["WORLD_SIZE"]):
        raise SamplingError(
            "processes of several machines that are started again may find addresses of those that have ended; set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun on every machine, and run it again."
        )
    start = start if shared else "0"
    cards = torch.cuda.device_count() >= here
    if cards:
        torch.cuda.set_device(place)
    store, rank, number = next(rendezvous("env://"))
    backend, store = "cpu:gloo,cuda:nccl" if cards else "gloo", distributed.PrefixStore(f"start {start}", store)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=number)
    try:
        yield distributed.get_rank() == 0
    finally:
        distributed.destroy_process_group()


def dealt_out(chains: int, number: int) -> list[range]:
    """The chains of each of so many processes."""
    return [range(start, stop) for start, stop in pairwise(chains * k // number for k in range(number + 1))]


class Share:
    """The chains of a run that a process has; all of them, where there is one process.

    Args:
        chains: of the run.
        ranks: the processes that they are dealt out to.
        dealt: which each of them has, if not nearly as many as the others.

    Raises:
        SamplingError: if these are too few.
    """

    def __init__(self, chains: int, ranks: Ranks = ALONE, dealt: Sequence[range] | None = None) -> None:
        if chains < ranks.number:
            raise SamplingError(
                f"{chains} chains can't be dealt out to {ranks.number} processes; ask for more (chains=), or start "
                "fewer processes."
            )
        self.chains, self.ranks = chains, ranks
        dealt = dealt or dealt_out(chains, ranks.number)
        self.sizes, self.own = [len(own) for own in dealt], dealt[ranks.rank]

    @property
    def alone(self) -> bool:
        """Whether all chains are here."""
        return self.ranks.number == 1

    def total(self, own: Tensor, *once: Tensor) -> Tensor:
        """What groups and rows that are here add up to, with those of other processes, and what is counted once: see
        `Summed`.
        """
        for x in once:
            own = own + x
        return own

    def every(self, tensors: Sequence[Tensor], axes: Sequence[int]) -> list[Tensor]:
        """Tensors of all chains, which are along some axis, from those of the chains of each process: laid out in
        memory as those are.
        """
        return list(tensors) if self.alone else self._together(tensors, axes, first=False)

    def named(self, tensors: Mapping[Key, Tensor], axis: int) -> dict[Key, Tensor]:
        """The same of tensors by name."""
        return dict(zip(tensors, self.every([*tensors.values()], [axis] * len(tensors)), strict=True))

    def at_first(self, tensors: Sequence[Tensor], axes: Sequence[int]) -> list[Tensor]:
        """The same on the first process, and nothing on the others."""
        return list(tensors) if self.alone else self._together(tensors, axes, first=True)

    def part(self, x: Tensor, axis: int) -> Tensor:
        """Of a tensor of all chains that of the chains of this process."""
        return laid_out(x.narrow(axis, self.own.start, len(self.own)), x)

    def _together(self, tensors: Sequence[Tensor], axes: Sequence[int], *, first: bool) -> list[Tensor]:
        packed = [_bytes(x.movedim(axis, 0)) for x, axis in zip(tensors, axes, strict=True)]
        if not packed:
            return []
        device = packed[0].device
        own = torch.cat([x.to(device) for x in packed], 1)
        parts = self.ranks.parts(own, self.sizes, first=first)
        if not parts:
            return []
        found, whole = [], torch.cat(parts).split([x.shape[1] for x in packed], 1)
        for x, axis, part in zip(tensors, axes, whole, strict=True):
            shape = x.movedim(axis, 0).shape[1:]
            many = part.flatten().view(x.dtype) if part.numel() else part.to(x.dtype)
            every = many.reshape(self.chains, *shape).movedim(0, axis)
            found.append(laid_out(every.to(x.device), x))
        return found


class Summed(Share):
    """All chains of a run, of which each process has some of the groups with their rows: what these say is summed over
    the processes.

    docs/decisions.md: Groups over processes.
    """

    def __init__(self, chains: int, ranks: Ranks) -> None:
        self.chains, self.ranks, self.sizes, self.own = chains, ranks, [chains], range(chains)

    @property
    def alone(self) -> bool:
        """See `Share.alone`."""
        return True

    def total(self, own: Tensor, *once: Tensor) -> Tensor:
        """The sum over processes of what their own groups add up to `(...)`, and of what belongs to none of them, as
        the first process has it: to the bit the same on each, so that all decide alike.
        """
        return self.ranks.total(super().total(own, *once) if self.ranks.first else own)

    def of_first(self, x: Tensor) -> Tensor:
        """What the first process has."""
        return self.total(torch.zeros_like(x), x)


def _bytes(x: Tensor) -> Tensor:
    """Of each row, `(rows, bytes)`."""
    flat = x.flatten().contiguous()
    return flat.view(torch.uint8).unflatten(0, (len(x), -1)) if len(flat) else flat.new_empty(len(x), 0).byte()


def laid_out(x: Tensor, like: Tensor) -> Tensor:
    """A tensor with its axes in memory in the order of those of another one: sums may round otherwise for another
    layout.
    """
    order = sorted(range(x.dim()), key=lambda k: like.stride(k), reverse=True)
    return torch.empty_permuted(x.shape, order, dtype=x.dtype, device=x.device).copy_(x)
