"""What steps are made of: their random numbers, the random-walk proposal, and the Metropolis decision."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Tuning = dict[str, Tensor]
"""What warm-up has learnt about a move, by name."""


class Noise(NamedTuple):
    """The random numbers of one step of one move: as many as it declares (see `hiertorch.moves.base.Move`)."""

    normal: Tensor  # standard normal, (chains, size, normals)
    log_uniform: Tensor  # log of a uniform number, (chains, size): decides
    log_choice: Tensor  # the same: picks between a walk and a guess, and which walks are bold
    more: tuple[Tensor, ...] = ()  # `uniforms` further ones, (chains, size) each


class Info(NamedTuple):
    """What a reader of a step needs."""

    accept: Tensor  # acceptance probability (chains, size); 0 where the proposed density was NaN
    nan: Tensor  # (), how many proposed densities were NaN where the prior is not 0
    guessed: Tensor | None  # where the proposal was a guess, not a walk (chains, size)


BOLD = 10.0
"""Times that a bold jump is longer than others.

Note [Bold jumps]
A walk's size fits where most of the mass is. A chain that starts or strays elsewhere (a scale near 0, where effects and
rows hold nothing) would need thousands of such steps to come back. So one proposal in twenty is a walk ten times as
long.
"""

LOG_TIMID = -0.05
"""Log of the probability that a jump is not bold."""


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

    A walk is u' = u + root z, symmetric. See Note [Bold jumps] and, in `hiertorch.moves.guesses`, Note [Walks and
    guesses].

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


def decide(log_ratio: Tensor, log_uniform: Tensor, guessed: Tensor | None, log_q: Tensor) -> tuple[Tensor, Info]:
    """Accept where log uniform < log ratio + log q, that is with probability min(1, exp(log ratio + log q)).

    A NaN ratio of densities (or +inf, the mark of an infinite density) is counted and never accepted. It is not counted
    where log q is NaN: that a guess gave no number is our fault, and not the density's.
    """
    whole = log_ratio + log_q
    sound = torch.nan_to_num(whole, nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
    bad = sound != whole
    if guessed is not None:
        bad = bad & (log_q == log_q)
    return log_uniform < sound, Info(sound.clamp(max=0.0).exp(), bad.sum(), guessed)


def settled(log_ratio: Tensor, *parts: Tensor) -> Tensor:
    """The log ratio, -inf where one of these parts of it is: a place where the prior is 0 needs no likelihood, which
    may well be NaN there.
    """
    for part in parts:
        log_ratio = torch.where(part == -torch.inf, -torch.inf, log_ratio)
    return log_ratio
