"""Runs that are looked into: what their sweeps were given, how they go on by hand, and how to break them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from builders import numbers, sampled
from torch import Tensor

import hiertorch as ht
from hiertorch.density import structure
from hiertorch.density.state import State
from hiertorch.density.target import Target
from hiertorch.moves import base, groupwise, metropolis, noncentred
from hiertorch.moves import joint as joint_move
from hiertorch.moves.metropolis import Tuning
from hiertorch.posterior import Posterior
from hiertorch.run.sweeps import Sweep


@dataclass
class Run:
    """A run, and what its sweeps were given."""

    posterior: Posterior
    sweep: Sweep
    tunings: list[list[Tuning]]  # one a sweep
    state: State  # after the last sweep

    @property
    def tuning(self) -> list[Tuning]:
        """As warm-up left it."""
        return self.tunings[-1]


def watched(model: ht.Model, data: ht.Data, **options: Any) -> Run:
    """Samples and notes what every sweep was given."""
    sweeps: list[Sweep] = []
    tunings: list[list[Tuning]] = []
    states: list[State] = []
    call = Sweep.__call__

    def spy(self: Sweep, state: State, tuning: list[Tuning], noises: Any) -> Any:
        after, infos = call(self, state, tuning, noises)
        tunings.append(tuning)
        sweeps[:], states[:] = [self], [after]
        return after, infos

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sweep, "__call__", spy)
        posterior = sampled(model, data, **options)
    return Run(posterior, sweeps[0], tunings, states[0])


def advance(sweep: Sweep, state: State, tuning: list[Tuning], sweeps: int, generator: torch.Generator) -> State:
    """The state after some sweeps with frozen tuning."""
    for done in range(0, sweeps, 20):
        found = numbers(sweep, min(20, sweeps - done), state.cells, generator)
        for parts in zip(*found, strict=True):
            state, _ = sweep(state, tuning, sweep.noises(*parts))
    return state


BROKEN_RULES: dict[str, Callable[[Tensor], Tensor]] = {  # what is decided on in place of the log ratio
    "always": torch.zeros_like,
    "never": lambda log_ratio: torch.full_like(log_ratio, -torch.inf),
    "reversed": lambda log_ratio: -log_ratio,
    "square root": lambda log_ratio: log_ratio / 2,
    "lenient": lambda log_ratio: log_ratio + 0.2,
}


class Sabotage:
    """Ways to break the sampler for one test: what the statistical tests must notice."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch

    def rule(self, name: str) -> None:
        """Every move accepts by a wrong rule."""
        right, wrong = metropolis.decide, BROKEN_RULES[name]
        self.patch.setattr(base, "decide", lambda ratio, *more: right(wrong(ratio), *more))

    def jacobian(self) -> None:
        """No log |d theta / d u|."""
        right = Target.log_jacobian
        self.patch.setattr(Target, "log_jacobian", staticmethod(lambda *args: torch.zeros_like(right(*args))))

    def cache(self, piece: str, *kinds: Any) -> None:
        """Moves of some kinds (all by default) leave a cached piece of the density as it was, accepted or not."""
        for kind in kinds or (groupwise.Groupwise, joint_move.Joint, noncentred.NonCentred):

            def step(move: Any, state: State, *more: Any, right: Any = kind.step) -> Any:
                new, info = right(move, state, *more)
                return new._replace(**{piece: getattr(state, piece)}), info

            self.patch.setattr(kind, "step", step)

    def independence(self) -> None:
        """Groups are taken for independent whatever the rows read."""
        self.patch.setattr(structure, "_mixes", lambda *args: None)
