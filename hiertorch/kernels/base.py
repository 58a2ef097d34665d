"""What every move has in common: one contract, the Metropolis decision, and the random-walk proposal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hiertorch.state import State

__all__ = ["Info", "Move", "Noise", "Target", "Tuning", "change", "choose", "choose_latent", "decide", "propose"]

Tuning = dict[str, Tensor]


class Noise(NamedTuple):
    """The random numbers of one step of one move."""

    normal: Tensor  # (chains, size, width)
    log_uniform: Tensor  # (chains, size), below 0


class Info(NamedTuple):
    """What a reader of a step needs."""

    accept: Tensor  # acceptance probability (chains, size); 0 where the proposed density was NaN
    nan: Tensor  # (), how many proposed densities were NaN


class Target(Protocol):
    """What kernels ask of a density; `hiertorch.target.Target` is one."""

    space: Any
    rows: Any
    reads: Mapping[str, frozenset[str]]

    def update(self, state: State, changed: Mapping[str, Tensor]) -> State:
        """The state after some latents moved."""
        ...

    def transport(self, name: str, old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> Tensor:
        """A latent's value under its prior given `old`, carried to its prior given `new`."""
        ...

    def spread(self, name: str, values: Mapping[str, Tensor]) -> Tensor | None:
        """A scale of the latent's prior given the values, or None."""
        ...

    def priors_touched(self, changed: Iterable[str]) -> tuple[str, ...]:
        """The latents whose prior term depends on any of the changed ones."""
        ...

    def reads_rows(self, changed: Iterable[str]) -> bool:
        """Whether the likelihood reads any of the changed ones."""
        ...


class Move(Protocol):
    """One Metropolis-Hastings step on part of the state: `step` is a pure function of its arguments, and tuning is data.

    `size` is the number of separate decisions for each chain (the groups of a plate, or 1), `width` the number of unconstrained
    dimensions that each decision moves, `passes` the number of passes over the rows that a step costs.
    """

    name: str
    kind: str
    block: tuple[str, ...]
    plate: str | None
    size: int
    width: int
    passes: int

    def step(self, state: State, tuning: Tuning, noise: Noise) -> tuple[State, Info]:
        """The state after one proposal and its decision, and the decision's probability."""
        ...


def propose(parts: Sequence[Tensor], root: Tensor, normal: Tensor, limit: Tensor | None = None) -> list[Tensor]:
    """u' = u + root z: symmetric random-walk proposals for the parts `(chains, ...)` of one block.

    Args:
        parts: current unconstrained parts; `(chains, size, *free_event)` each, or of any shape when `size` is 1.
        root: `(size, width, width)`, lower triangular.
        normal: `(chains, size, width)`.
        limit: `(chains, size, width)`, if given: jumps of standard deviation s are damped to s / sqrt(1 + (s / limit)^2). It must not
            depend on what the block moves, else the walk would not be symmetric.
    """
    size, width = normal.shape[1:]
    jump = root[:, :, 0] * normal[:, :, 0, None] if width == 1 else (root * normal.unsqueeze(-2)).sum(-1)
    if limit is not None:
        jump = jump * torch.rsqrt(1.0 + root.square().sum(-1) / limit.square())
    jumps = jump.split([part[0].numel() // size for part in parts], -1)
    return [part + d.reshape(part.shape) for part, d in zip(parts, jumps, strict=True)]


def decide(log_ratio: Tensor, log_uniform: Tensor) -> tuple[Tensor, Info]:
    """Accept where log uniform < log ratio, that is with probability min(1, exp(log ratio)).

    A NaN ratio (or +inf, the mark of an infinite density) is counted and never accepted.
    """
    sound = log_ratio < torch.inf  # false for NaN as well
    probability = torch.where(sound, log_ratio, -torch.inf).clamp(max=0.0).exp()
    return (log_uniform < log_ratio) & sound, Info(probability, log_ratio.numel() - sound.sum())


def choose(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` where accepted, else `old`; `accepted` `(chains, size)` gains event axes at the right."""
    return torch.where(accepted.reshape(accepted.shape + (1,) * (new.dim() - accepted.dim())), new, old)


def choose_latent(accepted: Tensor, new: State, old: State, name: str) -> tuple[Tensor, Tensor]:
    """A latent's unconstrained and constrained parts after the decision; one tensor where they are the same."""
    free = choose(accepted, new.free[name], old.free[name])
    if new.values[name] is new.free[name] and old.values[name] is old.free[name]:
        return free, free
    return free, choose(accepted, new.values[name], old.values[name])


def change(new: State, old: State, names: Iterable[str]) -> Tensor | float:
    """Sum over the named latents and their groups of new minus old prior terms, `(chains,)`; 0.0 for none."""
    return sum(((new.prior[name] - old.prior[name]).sum(-1) for name in names), start=0.0)
