"""Proposals for blocks of what is left, when it has too many dimensions for proposals that change all of it at once.

    pi(t_B', t_-B) q(t_B) / (pi(t_B, t_-B) q(t_B'))

t: the coordinates in which the fitted proposal (`hiertorch.run.proposals`) is standard, so that in them blocks are
nearly independent and a block's conditional proposal is q, whatever the others are (Metropolis within Gibbs: Tierney
1994, section 2.4). Blocks are dealt out anew in every sweep: no two coordinates are always apart.

With 46 dimensions at once few proposals are accepted until what they are fitted to is worth many independent draws,
but of blocks of 6 two in three are. Later on proposals that change everything are the cheaper ones: of a log density
whose difference from that of the proposal has terms of three coordinates, a block of a tenth of the dimensions meets
three tenths.
"""

from math import ceil

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

TOGETHER = 0.12
"""Share of proposals for all dimensions that would be accepted, from which they are made: one that is accepted in eight
evaluations does more than a tenth of one in each.
"""


def blocks_of(d: int) -> int:
    """How many blocks d dimensions have."""
    return ceil(d / BLOCK)


def sweep_in_blocks(
    move: CollapsedMove, tuning: Tuning, place: Tensor, height: Tensor, generator: torch.Generator, some: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Places `(chains, d + m)` and log densities after one proposal for every block, the mean acceptance probability
    `(chains,)`, and how many densities were NaN.
    """
    d, chains = move.width, len(place)
    t, slope = proposals.standardised(tuning, place[:, :d])
    order = torch.randperm(d, generator=generator, device=place.device)
    accepts, nans = [], []
    for block in order.tensor_split(blocks_of(d))[:some]:
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
