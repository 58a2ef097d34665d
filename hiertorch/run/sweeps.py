"""One sweep: every move of the plan once (or as often as its step says), as one pure function of tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hiertorch.density.state import State
from hiertorch.moves.adaptation import Adaptation, units_of
from hiertorch.moves.base import Info, Noise, Tuning
from hiertorch.run.example import example
from hiertorch.run.plan import Plan
from hiertorch.run.store import Counter, Store

__all__ = ["Sweep", "Sweeps"]

WINDOW_SWEEPS = 50
WINDOW_NUMBERS = 2_000_000
"""Random numbers are drawn for a window of sweeps at once: at most so many of both."""

LOOKS = 3
"""Windows that are run again at most, in search of an example of a NaN density."""

LEARNT = 100
"""Sweeps of warm-up that tuning from an earlier run counts for: what it has learnt is changed by small steps."""


class Sweep:
    """The moves of a plan in order. `sweep(state, tuning, numbers)` gives the next state and an `Info` for each move.

    Args:
        plan: the moves.
        chains: how many run side by side.
    """

    def __init__(self, plan: Plan, chains: int) -> None:
        self.plan, self.chains = plan, chains
        self.moves = plan.moves
        self.order = tuple(i for i, step in enumerate(plan.steps) for _ in range(step.repeats))
        self.n_normal = sum(self.moves[i].size * self.moves[i].width for i in self.order)
        self.n_uniform = sum(2 * self.moves[i].size for i in self.order)

    def numbers(self, window: int, like: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """The random numbers of a window of sweeps: standard normal `(window, n_normal, chains)`, log uniform `(window,
        n_uniform, chains)`.
        """
        options: Any = {"dtype": like.dtype, "device": like.device}
        normal = torch.randn(window, self.n_normal, self.chains, generator=generator, **options)
        uniform = torch.empty(window, self.n_uniform, self.chains, **options).exponential_(generator=generator)
        return normal, uniform.neg_()

    def noises(self, normal: Tensor, log_uniform: Tensor) -> list[Noise]:
        """One sweep's numbers `(n, chains)` cut up for its moves, in running order."""
        parts, i, j = [], 0, 0
        for move in (self.moves[k] for k in self.order):
            n, m = move.size * move.width, move.size
            z = normal[i : i + n].unflatten(0, (m, move.width)).permute(2, 0, 1)
            parts.append(
                Noise(z, log_uniform[j : j + m].transpose(0, 1), log_uniform[j + m : j + 2 * m].transpose(0, 1))
            )
            i, j = i + n, j + 2 * m
        return parts

    def __call__(
        self, state: State, tuning: list[Tuning], normal: Tensor, log_uniform: Tensor
    ) -> tuple[State, list[Info]]:
        """One sweep; numbers `(n_normal, chains)` and `(n_uniform, chains)`. Infos stand in running order."""
        infos = []
        for k, noise in zip(self.order, self.noises(normal, log_uniform), strict=True):
            state, info = self.moves[k].step(state, tuning[k], noise)
            infos.append(info)
        return state, infos

    def adapt(
        self,
        learning: list[Adaptation],
        state: State,
        infos: list[Info],
        normal: Tensor,
        log_uniform: Tensor,
        t: int,
        warmup: int,
        before: int = 0,
    ) -> list[Adaptation]:
        """What is learnt after warm-up sweep `t` (from 1) of `warmup`, from what its moves met and where it ended; with
        the small steps of later sweeps if an earlier run has learnt for some `before`.
        """
        learning = list(learning)
        for k, info, noise in zip(self.order, infos, self.noises(normal, log_uniform), strict=True):
            learning[k] = learning[k].step(self.moves[k], noise, info, t + before)
        return [part.observe(move, state, t, warmup) for part, move in zip(learning, self.moves, strict=True)]

    def rehearse(self, state: State, tuning: list[Tuning], *, compiled: bool) -> None:
        """Runs one sweep, whose outcome is thrown away, so that every piece of the density is recorded (and compiled)
        before the run.
        """
        self.plan.structure.target.record(compiled=compiled)
        normal, log_uniform = self.numbers(1, state.cells, torch.Generator(state.cells.device))
        self(state, tuning, normal[0], log_uniform[0])


class Sweeps:
    """Chains that move by sweeps of ordinary moves: the state, and what warm-up has learnt so far.

    Args:
        sweep: the moves.
        state: where the chains start.
        generator: of all random numbers.
        known: move -> tuning that an earlier run has learnt.
    """

    def __init__(
        self,
        sweep: Sweep,
        state: State,
        generator: torch.Generator,
        known: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.sweep, self.state, self.generator = sweep, state, generator
        self.audit = None  # there is nothing to hold these draws against
        self.order, self.moves = sweep.order, sweep.moves
        self.learning = [Adaptation.begin(move, state.cells, units=units_of(move, state)) for move in sweep.moves]
        if known:
            self.learning = [
                part.told(known.get(move.name, {})) for part, move in zip(self.learning, self.moves, strict=True)
            ]
        self.before = LEARNT if known else 0
        self.tuning = [part.tuning for part in self.learning]
        self.window_began: tuple[State, list[Adaptation], Tensor, Tensor, tuple[int, ...]] | None = None
        self.looks = 0

    def window(self, *, warming: bool) -> int:
        """Sweeps whose random numbers are drawn at once."""
        return max(
            1, min(WINDOW_SWEEPS, WINDOW_NUMBERS // (self.sweep.chains * (self.sweep.n_normal + self.sweep.n_uniform)))
        )

    def prepare(self, *, compiled: bool) -> None:
        """Records (and compiles) the pieces of the density."""
        self.sweep.rehearse(self.state, self.tuning, compiled=compiled)
        self.sweep.plan.structure.target.met.clear()

    def advance(self, done: int, sweeps: int, warmup: int, thin: int, store: Store, counter: Counter) -> None:
        """Runs sweeps `done` .. `done + sweeps`, all in warm-up, which learns, or all after it, which stores."""
        self.window_began = None  # frees the numbers of the window before
        normal, log_uniform = self.sweep.numbers(sweeps, self.state.cells, self.generator)
        self.window_began = self.state, self.learning, normal, log_uniform, (done, warmup, self.before)
        for t, (z, log_u) in enumerate(zip(normal, log_uniform, strict=True), done + 1):
            self.state, infos = self.sweep(self.state, self.tuning, z, log_u)
            counter.add(infos)
            if t <= warmup:
                self.learning = self.sweep.adapt(self.learning, self.state, infos, z, log_u, t, warmup, self.before)
                self.tuning = [part.tuning for part in self.learning]
            elif (t - warmup) % thin == 0:
                store.keep(self.state.values, self.state.log_density())

    def look(self, counter: Counter) -> None:
        """Finds an example of a NaN density in the last window, if the count has one and no example yet."""
        if self.window_began is not None and self.looks < LOOKS and not counter.example and counter.nans():
            self.looks += 1
            counter.example = example(self.sweep, *self.window_began)

    def check(self, store: Store) -> None:
        """Nothing to check: these moves evaluate the model's own density."""

    def learnt(self) -> dict[str, Tuning]:
        """Move -> its tuning."""
        return {move.name: tuning for move, tuning in zip(self.moves, self.tuning, strict=True)}

    def values(self) -> Mapping[str, Tensor]:
        """The last sweep's values, `(chains, size, *event)`."""
        return self.state.values

    def height(self) -> Tensor:
        """Their log density, `(chains,)`."""
        return self.state.log_density()
