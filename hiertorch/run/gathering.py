"""A run whose chains are dealt out to processes: each begins with its own, and the first one has what all have drawn.

Note [Dealt out by their state]
    Every process finds where all chains begin, with the same numbers, and an engine of its own chains goes on from
    their part of the state. For a file the parts are put together again: it is that of a run of one process, and
    whatever number of processes goes on from it.

docs/decisions.md: Chains over processes.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from hiertorch.randomness import LANES, ChainStreams
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.engine import Engine
from hiertorch.run.store import Store
from hiertorch.runtime.ranks import Share

STREAMS = "streams"
"""Where a state has streams of chains, each as `at`, `left` and `lanes`."""


def part_of(state: Mapping[str, Tensor], engine: Engine, share: Share) -> dict[str, Tensor]:
    """Of the state of all chains that of the chains of this process."""
    found = dict(state)
    for name, x in state.items():
        folder, _, last = name.rpartition("/")
        if name.startswith(f"{STREAMS}/"):
            if last == "left":
                streams = ChainStreams.part({key: state[f"{folder}/{key}"] for key in ("at", "left")}, share.own)
                found |= {f"{folder}/{key}": part for key, part in streams.items()}
        elif (axis := _axis(engine, name, x, share.chains)) is not None:
            found[name] = share.part(x, axis)
    return found


def whole_of(engine: Engine, share: Share) -> dict[str, Tensor]:
    """The state of all chains on the first process, from those of all; on the others that of their own."""
    state = engine.state()
    if share.alone:
        return state
    names, tensors, axes = list[str](), list[Tensor](), list[int]()
    for name, x in state.items():
        folder, _, last = name.rpartition("/")
        axis = _axis(engine, name, x, len(share.own))
        if name.startswith(f"{STREAMS}/"):
            axis = {"left": 1, "at": 0}.get(last)
            if last == "at":  # of each chain
                first = int(state[f"{folder}/lanes"][0])
                x = x[(first + torch.arange(len(share.own))) // LANES]
        if axis is not None:
            names, tensors, axes = [*names, name], [*tensors, x], [*axes, axis]
    for name, x in zip(names, share.at_first(tensors, axes), strict=share.ranks.first):
        folder, _, last = name.rpartition("/")
        state[name] = x[::LANES].contiguous() if name.startswith(f"{STREAMS}/") and last == "at" else x
        if name.startswith(f"{STREAMS}/"):
            state[f"{folder}/lanes"] = torch.tensor([0, share.chains], device="cpu")
    return state


def _axis(engine: Engine, name: str, x: Tensor, chains: int) -> int | None:
    """Along which a tensor of a state has chains; None of one that all chains share."""
    for beginning, axis in engine.by_chain.items():
        if name == beginning or name.startswith(f"{beginning}/"):
            return axis % x.dim() if x.dim() and x.shape[axis] == chains else None
    return None


class Gathering:
    """What the first process has of all chains, and the others of their own; of one process what it has anyway.

    Args:
        engine: of the chains of this process.
        store: of their draws,
        acceptance: and of their rates.
        every: for the draws of all chains.

    Attributes:
        store: draws.
        acceptance: rates.
        own: draws of this process.
        latest: the state that was asked for last.
    """

    def __init__(self, engine: Engine, store: Store, acceptance: Acceptance, every: Store) -> None:
        self.engine, self.share, self.own, self._rates, self._made = engine, engine.share, store, acceptance, store.made
        self.store = every if self.share.ranks.first and not self.share.alone else store
        self.acceptance = acceptance if self.share.alone else Acceptance(engine.order)
        self.latest: dict[str, Tensor] = {}

    def window(self) -> None:
        """After a window of sweeps: what it has drawn."""
        if self.share.alone:
            return
        own, acceptance = self.own, self._rates
        made, before, self._made = own.made, self._made, own.made
        fresh = made // own.interval - before // own.interval
        draws = {name: x[:, own.n_draws - fresh :] for name, x in own.draws().items()}
        sums, nan, sweeps = acceptance.taken()
        counts = [torch.zeros(len(self.share.own), dtype=torch.long) for _ in nan]
        for count, number in zip(counts, nan.values(), strict=True):
            count[0] = number
        parts = [*draws.values(), own.log_density()[:, own.n_draws - fresh :], *sums.values(), *counts]
        found = iter(self.share.at_first(parts, [0] * len(parts)))
        if not self.share.ranks.first:
            self.acceptance.take(sums, nan, sweeps)
            return
        kept, heights = {name: next(found) for name in draws}, next(found)
        if made > before:
            self.store.wanted(made - before)
            at = self.store.n_draws
            self.store.fill({name: x.movedim(1, 0) for name, x in kept.items()}, heights.mT, at)
            self.store.filled(at + fresh)
        self.acceptance.take({k: next(found) for k in sums}, {k: next(found).sum() for k in nan}, sweeps)

    def restore(
        self,
        parts: Callable[[range], Iterable[tuple[Mapping[str, Tensor], Tensor]]],
        number: int,
        interval: int,
        made: int,
    ) -> None:
        """Goes on from stored draws, which `parts` gives of some chains; see `Store.restore`."""
        self.own.restore(parts(self.share.own), number, interval, made)
        if self.store is not self.own:
            self.store.restore(parts(range(self.share.chains)), number, interval, made)
        self._made = made

    def state(self) -> dict[str, Tensor]:
        """Of all chains on the first process."""
        self.latest = whole_of(self.engine, self.share)
        return self.latest

    def noted(self) -> dict[str, Tensor]:
        """The state of all chains that was gathered last; of one process that of now."""
        return self.engine.state() if self.share.alone else self.latest

    def values(self) -> tuple[Mapping[str, Tensor], Tensor]:
        """The last sweep's values, and their log density."""
        values, height = self.engine.values(), self.engine.height()
        if self.share.alone:
            return values, height
        found = self.share.at_first([*values.values(), height], [0] * (len(values) + 1))
        return (dict(zip(values, found, strict=False)), found[-1]) if found else (values, height)
