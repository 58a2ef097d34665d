"""Chains that move by sweeps of ordinary moves: the engine that runs any model."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hiertorch.density.state import State
from hiertorch.moves.metropolis import Tuning
from hiertorch.run.example import Replay, example
from hiertorch.run.store import Counter, Store
from hiertorch.run.sweeps import Sweep

__all__ = ["Ordinary"]

WINDOW_SWEEPS = 50
"""Sweeps in a window, whose random numbers are drawn at once, at most."""

WINDOW_NUMBERS = 2_000_000
"""Random numbers in a window, at most."""

LOOKS = 3
"""Windows that are run again at most, in search of an example of a NaN density."""

LEARNT = 100
"""Sweeps of warm-up that tuning from an earlier run counts for: what it has learnt is changed by small steps."""


class Ordinary:
    """The state of all chains, and what warm-up has learnt so far.

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
        self.learning = [move.learning(state).told((known or {}).get(move.name, {})) for move in sweep.moves]
        self.before = LEARNT if known else 0
        self.tuning = [part.tuning for part in self.learning]
        self.last: Replay | None = None
        self.looks = 0

    def window(self, *, warming: bool) -> int:
        """Sweeps whose random numbers are drawn at once."""
        return max(
            1, min(WINDOW_SWEEPS, WINDOW_NUMBERS // (self.sweep.chains * (self.sweep.n_normal + self.sweep.n_uniform)))
        )

    def prepare(self, *, compiled: bool) -> None:
        """Records (and compiles) the pieces of the density."""
        self.sweep.rehearse(self.state, self.tuning, compiled=compiled)
        self.sweep.plan.target.met.clear()

    def advance(self, done: int, sweeps: int, warmup: int, thin: int, store: Store, counter: Counter) -> None:
        """Runs sweeps `done` .. `done + sweeps`, all in warm-up, which learns, or all after it, which stores."""
        self.last = None  # frees the numbers of the window before
        normal, log_uniform = self.sweep.numbers(sweeps, self.state.cells, self.generator)
        self.last = Replay(self.state, self.learning, normal, log_uniform, done, warmup, self.before)
        for t, numbers in enumerate(zip(normal, log_uniform, strict=True), done + 1):
            noises = self.sweep.noises(*numbers)
            self.state, infos = self.sweep(self.state, self.tuning, noises)
            counter.add(infos)
            if t <= warmup:
                self.learning = self.sweep.adapt(self.learning, self.state, infos, noises, t, warmup, self.before)
                self.tuning = [part.tuning for part in self.learning]
            elif (t - warmup) % thin == 0:
                store.keep(self.state.values, self.state.log_density())

    def look(self, counter: Counter) -> None:
        """Finds an example of a NaN density in the last window, if the count has one and no example yet."""
        if self.last is not None and self.looks < LOOKS and not counter.example and counter.nans():
            self.looks += 1
            counter.example = example(self.sweep, self.last)

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
