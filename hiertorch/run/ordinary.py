"""Chains that move by sweeps of ordinary moves: the engine that runs any model."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from hiertorch.density.initial import initial_state
from hiertorch.density.space import chain_last
from hiertorch.density.state import State
from hiertorch.moves.adaptation import Learning, looks
from hiertorch.moves.curvature import arrived, searchers
from hiertorch.moves.metropolis import Info, Noise, Tuning
from hiertorch.randomness import ChainStreams
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.agreement import AGREED, Agreement
from hiertorch.run.engine import Block, Engine, filed, inside
from hiertorch.run.example import Replay, example
from hiertorch.run.store import Store
from hiertorch.run.sweeps import Sweep
from hiertorch.run.warmstart import WarmStart
from hiertorch.runtime.ranks import Share

WINDOW_SWEEPS = 50
"""Sweeps in a window, whose random numbers are drawn at once, at most."""

WINDOW_NUMBERS = 2_000_000
"""Random numbers in a window, at most."""

LOOKS = 3
"""Windows that are run again at most, in search of an example of a NaN density."""

LEARNT = 100
"""Sweeps of warm-up that tuning from an earlier run counts for: what it has learnt is changed by small steps."""

ROUNDS = 2
"""Times that moves look for where their walks begin, each time from where the others have looked."""


class Ordinary(Engine):
    """The place of all chains, and what warm-up has learnt so far.

    Args:
        sweep: the moves.
        generator: of where chains start; its seed names their streams.
    """

    by_chain: ClassVar[Mapping[str, int]] = {
        "cells": 0, "free": 0, "values": 0, "prior": 0, "agreement/sums": 2, "agreement/origin": 0,
    }  # fmt: skip
    at: State
    learning: list[Learning]

    def __init__(self, sweep: Sweep, generator: torch.Generator) -> None:
        self.sweep, self.generator, self.share = sweep, generator, Share(sweep.chains)
        self.streams = ChainStreams(generator, sweep.chains)
        self.blocks = tuple(Block(move.name, move.plate) for move in sweep.moves)
        self.order = sweep.order
        self.before = 0  # sweeps of warm-up that an earlier run counts for
        self.last: Replay | None = None
        self.looks = 0
        coordinates = sweep.plan.space.coordinates
        self.watched = [name for name in sweep.plan.target.names if coordinates[name].plate is None]
        self.agreement: Agreement | None = None  # since half of the way to the next look at whether warm-up may end,
        self.ahead = WINDOW_SWEEPS  # sweeps to it,
        self.agreed = False  # and what the look after the last sweep, if there was one, has found

    def begin(self, init: Mapping[str, object], earlier: WarmStart | None) -> None:
        """At draws from the prior; see `Engine.begin`."""
        self.at = initial_state(self.sweep.plan.target, self.sweep.chains, self.generator, init)
        known = {} if earlier is None else earlier.tuning
        self.learning = [move.learning(self.at).told(known.get(move.name, {})) for move in self.sweep.moves]
        self.before = LEARNT if known else 0
        if not known:
            self._look_around(stay=bool(init))

    def _look_around(self, *, stay: bool) -> None:
        """What moves find out before the first sweep, each from where the others have looked.

        Args:
            stay: chains are to stay where they are; else they begin there.
        """
        target = self.sweep.plan.target
        at = searchers(self.at, target)
        if at is None:
            return
        order = sorted(range(len(self.sweep.moves)), key=lambda k: not self.sweep.moves[k].carried)
        for k in order * ROUNDS:
            at, self.learning[k] = self.sweep.moves[k].begun(at, self.learning[k])
        there = arrived(at, target).nonzero().flatten()
        if stay or not len(there) or (target.by_chain and len(there) < self.sweep.chains):
            return
        turn = there[torch.arange(self.sweep.chains, device=there.device) % len(there)]
        self.at = target.state({name: chain_last(u[turn]) for name, u in at.free.items()})

    @property
    def tuning(self) -> list[Tuning]:
        """Of each move."""
        return [part.tuning for part in self.learning]

    def window(self, *, warming: bool) -> int:
        """Sweeps whose random numbers are drawn at once."""
        numbers = self.share.chains * (self.sweep.n_normal + self.sweep.n_uniform)
        return max(1, min(WINDOW_SWEEPS, WINDOW_NUMBERS // numbers, self.ahead if warming else WINDOW_SWEEPS))

    def prepare(self, *, compiled: bool) -> None:
        """Records (and compiles) the pieces of the density."""
        self.sweep.rehearse(self.at, self.tuning, compiled=compiled)
        self.sweep.plan.target.met.clear()

    def advance(self, done: int, sweeps: int, warmup: int, thin: int, store: Store, acceptance: Acceptance) -> None:
        """See `Engine.advance`."""
        self.last = None  # frees the numbers of the window before
        uniform = self.streams.uniform(sweeps * (self.sweep.n_normal + self.sweep.n_uniform))
        normal, log_uniform = self.sweep.numbers(uniform, self.at.cells)
        self.last = Replay(self.at, self.learning, normal, log_uniform, done, warmup, self.before)
        tuning = self.tuning
        for t, numbers in enumerate(zip(normal, log_uniform, strict=True), done + 1):
            noises = self.sweep.noises(*numbers)
            self.at, infos = self.sweep(self.at, tuning, noises)
            acceptance.add(infos)
            if t <= warmup:
                self.learning = self.sweep.adapt(self.learning, *self._of_all(infos, noises), t, warmup, self.before)
                tuning = self.tuning
                self._compare(t, warmup)
            elif (t - warmup) % thin == 0:
                store.keep(self.at.values, self.at.log_density())

    def _of_all(self, infos: list[Info], noises: list[Noise]) -> tuple[State, list[Info], list[Noise]]:
        """What a sweep of all chains has come to, for what learns; of pieces of the density there is nothing."""
        if self.share.alone:
            return self.at, infos, noises
        free, values = self.at.free, self.at.values
        constrained = {name: x for name, x in values.items() if x is not free[name]}
        parts: list[Tensor] = [*free.values(), *constrained.values()]
        for info, noise in zip(infos, noises, strict=True):
            parts += [info.accept, *([] if info.guessed is None else [info.guessed])]
            parts += [noise.normal, noise.log_uniform, noise.log_choice, *noise.more]
        every = iter(self.share.every(parts, [0] * len(parts)))
        free, constrained = ({name: next(every) for name in some} for some in (free, constrained))
        told, drawn = list[Info](), list[Noise]()
        for info, noise in zip(infos, noises, strict=True):
            told.append(Info(next(every), info.nan, None if info.guessed is None else next(every)))
            drawn.append(Noise(next(every), next(every), next(every), tuple(next(every) for _ in noise.more)))
        values = {name: constrained.get(name, u) for name, u in free.items()}
        return State(free, values, {}, self.at.cells.new_empty(self.share.chains, 0)), told, drawn

    def _compare(self, t: int, warmup: int) -> None:
        """Watches where chains are, from half of the way to each look on, and looks there."""
        end = next(look for look in looks(warmup) if look >= t)
        self.ahead, self.agreed = end - t or WINDOW_SWEEPS, False
        if t <= end // 2:
            return
        seen = self.agreement or Agreement.of(self.at, self.watched)
        self.agreement = seen.seen(self.at, self.watched, int(t > 3 * end // 4))
        if t == end:
            sums, origin = self.share.every([self.agreement.sums, self.agreement.origin], [2, 0])
            seen = self.agreement._replace(sums=sums, origin=origin)
            self.agreed, self.agreement = seen.r_hat(alone=self.sweep.plan.target.by_chain) < AGREED, None

    def settled(self) -> bool:
        """Chains agree, each half of what they have seen since half of the way: see `Engine.settled`."""
        return self.agreed

    def look(self, acceptance: Acceptance) -> None:
        """Finds an example of a NaN density in the last window, if the count has one and no example yet; in warm-up,
        when chains learn from one another, only where all are here.
        """
        last = self.last if self.share.alone or (self.last and self.last.done >= self.last.warmup) else None
        if last is not None and self.looks < LOOKS and not acceptance.example and acceptance.nans():
            self.looks += 1
            acceptance.example = example(self.sweep, last)

    def learnt(self) -> dict[str, Tuning]:
        """Move -> its tuning."""
        return {block.name: tuning for block, tuning in zip(self.blocks, self.tuning, strict=True)}

    def values(self) -> Mapping[str, Tensor]:
        """The last sweep's values, `(chains, size, *event)`."""
        return self.at.values

    def height(self) -> Tensor:
        """Their log density, `(chains,)`."""
        return self.at.log_density()

    def state(self) -> dict[str, Tensor]:
        """Places of chains with the pieces of their density, what each move has learnt, and the streams."""
        free, values, prior, cells = self.at
        constrained = {name: x for name, x in values.items() if x is not free[name]}  # others are the same tensor
        found = {"cells": cells, **filed("free", free), **filed("values", constrained), **filed("prior", prior)}
        for k, part in enumerate(self.learning):
            found |= filed(f"learning/{k}", part.state())
        counts = torch.tensor([self.before, self.looks, self.ahead, self.agreed], device="cpu")
        if self.agreement is not None:
            found |= filed("agreement", self.agreement._asdict())
        return {**found, "counts": counts, **filed("streams", self.streams.state())}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine.restore`."""
        names = self.sweep.plan.target.names  # the order in which terms are summed
        free, prior = ({name: chain_last(state[f"{part}/{name}"]) for name in names} for part in ("free", "prior"))
        constrained = {name: chain_last(x) for name, x in inside("values", state).items()}
        values = {name: constrained.get(name, free[name]) for name in names}
        self.at = State(free, values, prior, chain_last(state["cells"]))
        fresh = [move.learning(self.at) for move in self.sweep.moves]
        self.learning = [part.restored(inside(f"learning/{k}", state)) for k, part in enumerate(fresh)]
        self.before, self.looks, self.ahead, agreed = state["counts"].tolist()
        self.agreed, kept = bool(agreed), inside("agreement", state)
        self.agreement = Agreement(**kept) if kept else None
        self.streams.restore(inside("streams", state))
