"""An example of a proposal whose density was NaN, in words: found by running a window of sweeps again.

A run only counts such proposals, since looking at them would make it wait for its device. The moves are pure functions
of state, tuning and random numbers, so that the window in which the count first rose can be run once more, with open
eyes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.density.state import State
from hiertorch.density.tally import Tally
from hiertorch.density.target import Target
from hiertorch.moves.adaptation import Learning
from hiertorch.run.sweeps import Sweep

NAMED = 6
"""Latents whose values are told."""


class Replay(NamedTuple):
    """What it takes to run some sweeps again."""

    state: State  # at its beginning
    learning: Sequence[Learning]  # what warm-up had taught by then
    normal: Tensor  # (sweeps, n_normal, chains)
    log_uniform: Tensor  # (sweeps, n_uniform, chains)
    done: int  # sweeps before it,
    warmup: int  # in warm-up,
    before: int  # and of earlier runs


def example(sweep: Sweep, window: Replay) -> str:
    """What the first NaN of a window was and where, or nothing if there is none."""
    state, learning, target = window.state, window.learning, sweep.plan.target
    seen: list[State] = []
    kept, target.met, target.watch = target.met, Tally(), seen.append
    target.met.names = kept.names
    try:
        for t, numbers in enumerate(zip(window.normal, window.log_uniform, strict=True), window.done + 1):
            infos, tuning, noises = [], [part.tuning for part in learning], sweep.noises(*numbers)
            for k, noise in zip(sweep.order, noises, strict=True):
                seen.clear()
                state, info = sweep.moves[k].step(state, tuning[k], noise)
                infos.append(info)
                if bool(info.nan > 0) and seen and (found := _told(target, seen[-1])):
                    return found
            if t <= window.warmup:
                learning = sweep.adapt(learning, state, infos, noises, t, window.warmup, window.before)
    finally:
        target.met, target.watch = kept, None
    return ""


def _told(target: Target, state: State) -> str:
    """Which piece of the density is no number, in which chain, at which values."""
    coordinates = target.space.coordinates
    for name, term in state.prior.items():
        if len(at := (term.isnan() | (term == torch.inf)).nonzero()):
            chain, group = at[0].tolist()
            groups = {coordinates[name].plate: group}
            found = f"{float(term[chain, group])} at {_values(target, state, chain, groups)}"
            return f" For example the log prior of {name!r} was {found}."
    if not len(at := (state.cells.isnan() | (state.cells == torch.inf)).nonzero()):
        return ""
    chain, cell = at[0].tolist()
    groups = {plate: int(of[cell]) for plate, of in target.rows.cell_groups.items()}
    found = f"{float(state.cells[chain, cell])} at {_values(target, state, chain, groups)}"
    return f" For example the log likelihood was {found}."


def _values(target: Target, state: State, chain: int, groups: Mapping[str | None, int]) -> str:
    parts = []
    for name, c in target.space.coordinates.items():
        if c.plate is None or c.plate in groups:
            value = state.values[name][chain, 0 if c.plate is None else groups[c.plate]]
            numbers = [f"{float(x):.4g}" for x in value.flatten()[:4]]
            label = "" if c.plate is None else f"[{target.data.labels[c.plate][groups[c.plate]]}]"
            parts.append(f"{name}{label} = {numbers[0] if value.numel() == 1 else '(' + ', '.join(numbers) + ')'}")
    return ", ".join(parts[:NAMED]) + (", ..." if len(parts) > NAMED else "")
