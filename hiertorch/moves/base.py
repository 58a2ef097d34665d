"""What every move has in common: one contract, the Metropolis decision, and the random-walk proposal."""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hiertorch.density.state import State

__all__ = [
    "Guess",
    "Info",
    "Move",
    "Noise",
    "Target",
    "Tuning",
    "bold",
    "change",
    "choose",
    "choose_latent",
    "decide",
    "propose",
    "settled",
]

Tuning = dict[str, Tensor]


class Noise(NamedTuple):
    """The random numbers of one step of one move."""

    normal: Tensor  # (chains, size, width)
    log_uniform: Tensor  # (chains, size), below 0: decides
    log_choice: Tensor  # (chains, size), below 0: picks between a walk and a guess


class Info(NamedTuple):
    """What a reader of a step needs."""

    accept: Tensor  # acceptance probability (chains, size); 0 where the proposed density was NaN
    nan: Tensor  # (), how many proposed densities were NaN where the prior is not 0
    guessed: Tensor | None  # where the proposal was a guess, not a walk (chains, size)


class Target(Protocol):
    """What kernels ask of a density; `hiertorch.density.target.Target` is one."""

    @property
    def space(self) -> Any:
        """Where the latents live: `coordinates` by name, `constrain`."""

    @property
    def rows(self) -> Any:
        """Sums over cells by group, and back: `by_group`, `of_group`."""

    @property
    def memory(self) -> dict[str, Any]:
        """Room for what kernels derive from a tensor of the state, to be used while that very tensor is there."""

    def update(self, state: State, changed: Mapping[str, Tensor]) -> State:
        """The state after some latents moved."""
        ...

    def transport(self, name: str, old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> Tensor:
        """A latent's value under its prior given `old`, carried to its prior given `new`."""
        ...

    def location_scale(self, name: str, values: Mapping[str, Tensor]) -> Tensor | None:
        """Location and scale of a latent's prior given the values, stacked on axis 0, or None if it has none."""
        ...

    def priors_touched(self, changed: Iterable[str]) -> tuple[str, ...]:
        """The latents whose prior term depends on any of the changed ones."""
        ...

    def reads_rows(self, changed: Iterable[str]) -> bool:
        """Whether the likelihood reads any of the changed ones."""
        ...


class Move(Protocol):
    """One Metropolis-Hastings step on part of the state: `step` is a pure function of its arguments, and tuning is
    data.

    `size` is the number of separate decisions for each chain (the groups of a plate, or 1), `width` the number of
    unconstrained dimensions that each decision moves, `passes` the number of passes over the rows that a step costs.
    """

    @property
    def name(self) -> str:
        """Kind and block, unique in a plan."""

    @property
    def kind(self) -> str:
        """As the plan calls it."""

    @property
    def block(self) -> tuple[str, ...]:
        """The latents that it proposes for."""

    @property
    def plate(self) -> str | None:
        """The grouping whose groups decide apart, None if the chain decides."""

    @property
    def size(self) -> int:
        """Decisions for each chain."""

    @property
    def width(self) -> int:
        """Unconstrained dimensions for each decision."""

    @property
    def passes(self) -> int:
        """Passes over the rows."""

    @property
    def guess(self) -> "Guess | None":
        """What proposes beside the walk, if anything does."""

    def step(self, state: State, tuning: Tuning, noise: Noise) -> tuple[State, Info]:
        """The state after one proposal and its decision, and the decision's probability."""
        ...


class Guess(Protocol):
    """A normal approximation of a block's conditional, learnt in warm-up, from which proposals are drawn outright.

    Note [Walks and guesses]
    A random walk keeps at best a quarter of its draws in one dimension and less in more. Most conditionals of a
    hierarchical model are close to normal, and warm-up sees enough of them to learn their mean and spread; then u' ~
    q(. | rest), accepted with min(1, p(u') q(u) / (p(u) q(u'))), is nearly an independent draw. Each proposal is a
    guess with probability `share`, a walk otherwise, whatever the state: a mixture of two valid kernels. A bad guess
    costs acceptance, never correctness, and the walks keep the tails.
    """

    def tuning(self, like: Tensor) -> Tuning:
        """Tuning with which no guess is ever made."""
        ...

    def normal(self, state: State, tuning: Tuning) -> tuple[Tensor, Tensor, Tensor]:
        """Mean `(chains, size, width)`, root and inverse root of the covariance, of q given the rest of the state."""
        ...

    def observe(self, state: State) -> Tensor:
        """What to average over warm-up, summed over chains."""
        ...

    def fit(self, sums: Tensor, count: int) -> Tuning:
        """The tuning that these sums over `count` observed sweeps and all chains teach."""
        ...


BOLD = 10.0
LOG_TIMID = -0.05
"""Note [Bold jumps]

A walk's size fits where most of the mass is. A chain that starts or strays elsewhere (a scale near 0, where effects and
rows hold nothing) would need thousands of such steps to come back. So one proposal in twenty is a walk ten times as
long.
"""


def bold(noise: Noise) -> Tensor:
    """Where a proposal jumps boldly, `(chains, size)`; see Note [Bold jumps]."""
    return noise.log_choice > LOG_TIMID


def propose(
    parts: Sequence[Tensor],
    tuning: Tuning,
    noise: Noise,
    limit: Tensor | None = None,
    normal: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """Proposals for the parts of one block, log q(u) - log q(u') `(chains, size)`, and which of them are guesses.

    A walk is u' = u + root z, symmetric. See Note [Walks and guesses] and Note [Bold jumps].

    Args:
        parts: current unconstrained parts; `(chains, size, *free_event)` each, or of any shape when `size` is 1.
        tuning: `root` `(size, width, width)`, lower triangular; `log_share` `()` where there is a guess.
        noise: the step's random numbers.
        limit: `(chains, size, width)`, if given: jumps of standard deviation s are damped to s / sqrt(1 + (s /
            limit)^2). It must not depend on what the block moves, else the walk would not be symmetric.
        normal: mean, root and inverse root of the guess.
    """
    z, root = noise.normal, tuning["root"]
    size = z.shape[1]
    jump = _times(root, z) * (1.0 + (BOLD - 1.0) * bold(noise)).unsqueeze(-1)
    if limit is not None:
        jump = jump * torch.rsqrt(1.0 + root.square().sum(-1) / limit.square())
    if normal is None:
        log_q, guessed = z.new_zeros(()), None
    else:
        mean, spread, inverse = normal
        now = (
            torch.cat([part.reshape(part.shape[0], size, -1) for part in parts], -1)
            if len(parts) > 1
            else parts[0].reshape(z.shape)
        )
        offset = mean - now
        guessed = noise.log_choice < tuning["log_share"]
        jump = torch.where(guessed.unsqueeze(-1), offset + _times(spread, z), jump)
        back = _times(inverse, offset)
        log_q = torch.where(guessed, 0.5 * (z * z - back * back).sum(-1), 0.0)  # a walk must not meet a guess's NaN
    jumps = jump.split([part[0].numel() // size for part in parts], -1)
    return [part + d.reshape(part.shape) for part, d in zip(parts, jumps, strict=True)], log_q, guessed


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix vector, `(..., width)`: an elementwise product and sum, since these matrices are tiny."""
    return matrix[..., 0] * vector if vector.shape[-1] == 1 else (matrix * vector.unsqueeze(-2)).sum(-1)


def decide(
    log_ratio: Tensor, log_uniform: Tensor, guessed: Tensor | None, log_q: Tensor | None = None
) -> tuple[Tensor, Info]:
    """Accept where log uniform < log ratio + log q, that is with probability min(1, exp(log ratio + log q)).

    A NaN ratio of densities (or +inf, the mark of an infinite density) is counted and never accepted. It is not counted
    where log q is NaN: that a guess gave no number is our fault, and not the density's.
    """
    whole = log_ratio if log_q is None else log_ratio + log_q
    sound = torch.nan_to_num(whole, nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
    bad = sound != whole
    if guessed is not None and log_q is not None:
        bad = bad & (log_q == log_q)
    return log_uniform < sound, Info(sound.clamp(max=0.0).exp(), bad.sum(), guessed)


def settled(log_ratio: Tensor, *parts: Tensor) -> Tensor:
    """The log ratio, -inf where one of these parts of it is: a place where the prior is 0 needs no likelihood, which
    may well be NaN there.
    """
    for part in parts:
        log_ratio = torch.where(part == -torch.inf, -torch.inf, log_ratio)
    return log_ratio


def choose(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` where accepted, else `old`; `accepted` `(chains, size)` gains event axes at the right."""
    return torch.where(accepted.reshape(accepted.shape + (1,) * (new.dim() - accepted.dim())), new, old)


def choose_latent(accepted: Tensor, new: State, old: State, name: str) -> tuple[Tensor, Tensor]:
    """A latent's unconstrained and constrained parts after the decision; one tensor where they are the same."""
    free = choose(accepted, new.free[name], old.free[name])
    if new.values[name] is new.free[name] and old.values[name] is old.free[name]:
        return free, free
    return free, choose(accepted, new.values[name], old.values[name])


def change(new: State, old: State, names: Iterable[str]) -> Tensor:
    """Sum over the named latents (one at least) and their groups of new minus old prior terms, `(chains,)`."""
    return reduce(add, [(new.prior[name] - old.prior[name]).sum(-1) for name in names])
