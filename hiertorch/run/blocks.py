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

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.moves.metropolis import Tuning
from hiertorch.randomness import ChainStreams
from hiertorch.run import proposals

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


class BlockProposal(NamedTuple):
    """A proposal that changes a block.

    Attributes:
        position: `(chains, d)`.
        before: log q(t_B) + log |dt/du| where chains are, `(chains,)`.
        after: the same of the proposal.
    """

    position: Tensor
    before: Tensor
    after: Tensor


def dealt(d: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """All coordinates in blocks, anew each time."""
    return torch.randperm(d, generator=generator, device=generator.device).tensor_split(blocks_of(d))


def offered(tuning: Tuning, position: Tensor, block: Tensor, numbers: Tensor) -> BlockProposal:
    """A new value of a block of t, where chains are at `position`, from numbers that are uniform on (0, 1),
    `(len(block) + UNIFORMS, chains)`.
    """
    t, slope = proposals.standardised(tuning, position)
    fresh = proposals.standard(numbers, t)
    there, slope_there = proposals.placed(tuning, t.index_copy(1, block, fresh))
    before, after = proposals.log_standard(t[:, block]), proposals.log_standard(fresh)
    return BlockProposal(there, slope + before, slope_there + after)


def sweep_in_blocks(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    tuning: Tuning,
    place: Tensor,
    height: Tensor,
    streams: ChainStreams,
    dealing: torch.Generator,
    some: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Places `(chains, d + m)` and log densities after one proposal for every block, or for some, the mean acceptance
    probability `(chains,)`, and how many densities were NaN.

    Args:
        evaluate: places, whose first d numbers are a position, and log densities of positions `(chains, d)`.
        tuning: q.
        place: where chains are.
        height: log densities there.
        streams: of the numbers of each chain.
        dealing: deals coordinates out, to all chains alike.
        some: how many blocks, all if left out.
    """
    d, accepts, nans = len(tuning["location"]), [], []
    for block in dealt(d, dealing)[:some]:
        numbers = streams.uniform(len(block) + proposals.UNIFORMS + 1)
        position, before, after = offered(tuning, place[:, :d], block, numbers[:-1])
        there, density = evaluate(position)
        ratio = density - after - height + before
        sound = torch.where(torch.isfinite(ratio), ratio, -torch.inf)
        accepted = numbers[-1].log() < sound
        height, place = torch.where(accepted, density, height), torch.where(accepted.unsqueeze(1), there, place)
        accepts.append(sound.clamp(max=0.0).exp())
        nans.append((sound != ratio).sum())
    return place, height, torch.stack(accepts).mean(0), torch.stack(nans).sum()
