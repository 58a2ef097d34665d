"""Proposals for blocks of what is left, when it has too many dimensions for proposals that change all of it at once.

    pi(t_B', t_-B) q(t_B) / (pi(t_B, t_-B) q(t_B'))

t: the coordinates in which the fitted proposal (`hiertorch.run.proposals`) is standard, so that in them blocks are
nearly independent and a block's conditional proposal is q, whatever the others are (Metropolis within Gibbs: Tierney
1994, section 2.4). Blocks are dealt out anew in every sweep: no two coordinates are always apart.

A block's log ratio is the sum of many small ones, nearly normal, of variance s^2 where the target has log density over
log q of variance s^2 / 2, so that erfc(s / 2 sqrt(2)) of its proposals are accepted, and s^2 is proportional to the
dimensions that change. That says how many blocks there should be, from the share that was accepted with as many as
there are.
"""

from math import ceil, sqrt
from statistics import NormalDist

import torch
from torch import Tensor

from hiertorch.moves.metropolis import Tuning
from hiertorch.run import proposals
from hiertorch.run.collapsed import CollapsedMove

MOST_TOGETHER = 20
"""Dimensions up to which a proposal changes all of them from the first: proposals that were fitted to few draws miss in
every dimension.
"""

BLOCK = 6
"""Dimensions of a block while proposals are fitted to few draws."""

AIMED = 0.4
"""Share of proposals that should be accepted: a quarter would give most effective draws an evaluation were the log
ratio normal, but its tails are heavier.
"""

RATES = (0.02, 0.98)
"""Bounds of shares that anything follows from."""


def first_number(d: int) -> int:
    """Of blocks, before anything is known of how d dimensions are accepted."""
    return 1 if d <= MOST_TOGETHER else ceil(d / BLOCK)


def next_number(number: int, rate: float, d: int) -> int:
    """Of blocks, if `rate` of the proposals for so many were accepted."""
    spread, aimed = (NormalDist().inv_cdf(0.5 * min(max(x, RATES[0]), RATES[1])) for x in (rate, AIMED))
    return min(max(1, ceil(number * (spread / aimed) ** 2 - 0.1)), max(number, ceil(d / BLOCK)))


def sweep_in_blocks(
    move: CollapsedMove, tuning: Tuning, place: Tensor, height: Tensor, number: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Places `(chains, d + m)` and log densities after one proposal for each of so many blocks, the mean acceptance probability
    `(chains,)`, and how many densities were NaN.
    """
    d, chains = move.width, len(place)
    t, slope = proposals.standardised(tuning, place[:, :d])
    order = torch.randperm(d, generator=generator, device=place.device)
    accepts, nans = [], []
    for block in order.tensor_split(number):
        fresh = proposals.standard(chains, len(block), generator, place)
        moved = t.index_copy(1, block, fresh)
        u, slope_there = proposals.placed(tuning, moved)
        there, density = move.evaluate(u)
        here = height - slope - proposals.log_standard(t[:, block])
        ratio = density - slope_there - proposals.log_standard(fresh) - here
        sound = torch.where(torch.isfinite(ratio), ratio, -torch.inf)
        log_uniform = -torch.empty_like(height).exponential_(generator=generator)
        accepted = log_uniform < sound
        height, slope = torch.where(accepted, density, height), torch.where(accepted, slope_there, slope)
        t, place = (torch.where(accepted.unsqueeze(1), new, old) for new, old in ((moved, t), (there, place)))
        accepts.append(sound.clamp(max=0.0).exp())
        nans.append((sound != ratio).sum())
    return place, height, torch.stack(accepts).mean(0), torch.stack(nans).sum()
