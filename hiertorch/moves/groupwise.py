"""Every group's effects at once, each accepted or rejected by itself: the move *groupwise*.

Given the latents above a plate, its groups are independent, so with
log_ratio_j = change of (group j's own prior terms + prior terms of finer groups inside j + log likelihood of j's rows)
the decision of each group of each chain is an exact Metropolis step (see `hiertorch.density.structure` for the proof by
probing that no term reads two groups). All groups of all chains share one pass over the rows.

Note [Jumps that follow the prior's scale]
Where a group's prior is narrow (sigma_alpha near 0) its conditional posterior is as narrow, and a jump learnt elsewhere
would never be accepted: the mouth of the funnel. So jumps are damped to LIMIT / sqrt(width) times the prior's present
scale, which the move holds fixed.
"""

from typing import Self

import torch
from torch import Tensor

from hiertorch.density.state import State
from hiertorch.density.structure import Structure
from hiertorch.moves.adaptation import Learning
from hiertorch.moves.base import Move
from hiertorch.moves.curvature import rooted
from hiertorch.moves.guesses import WIDEST, Marginal, Site
from hiertorch.moves.metropolis import Info, Noise, Tuning
from hiertorch.moves.vectorsites import VectorSite

LIMIT = 2.4
"""Best jump of a random walk on a standard normal, in its standard deviations (Gelman, Roberts & Gilks 1996)."""


class Groupwise(Move):
    """One decision for each chain and group, for all latents of `block`, which share one plate.

    Attributes:
        located: those of the block whose prior has a location and a scale that no latent of the block decides.
    """

    kind = "groupwise"
    by_group = True
    located: frozenset[str]

    def on(self, structure: Structure) -> Self:
        """See `Move.on`."""
        new = super().on(structure)
        alone = (name for name in new.block if not new.target.reads[name] & set(new.block))
        new.located = structure.located.intersection(alone)
        new.guess = None
        if new.width == 1 and new.located:
            new.guess = Site(new.target, new.block[0])
        elif new.width <= WIDEST:
            values = structure.reads.values
            placed = len(new.located) == len(new.block) and all(
                new.target.location_precision(name, values) is not None for name in new.block
            )
            made = VectorSite(new.target, new.block, new.size, new.width) if placed else None
            new.guess = made or Marginal(new.block, new.size, new.width)
        return new

    def _limit(self, state: State) -> Tensor | None:
        """See Note [Jumps that follow the prior's scale]; `(chains, size, width)`, infinite where the prior tells no
        scale.
        """
        if not self.located:
            return None
        limits = []
        for name in self.block:
            free = state.free[name]
            place = self.target.location_scale(name, state.values) if name in self.located else None
            limit = (
                torch.full_like(free, torch.inf)
                if place is None
                else (LIMIT / self.width**0.5 * place[1]).expand_as(free)
            )
            limits.append(limit.reshape(*free.shape[:2], -1))
        return torch.cat(limits, -1)

    def begun(self, state: State, learning: Learning) -> tuple[State, Learning]:
        """See `Move.begun`."""
        return rooted(self, state, learning)

    def step(self, state: State, tuning: Tuning, noise: Noise) -> tuple[State, Info]:
        """See `Move.step`."""
        free, log_q, guessed = self.proposal(state, tuning, noise, self._limit(state))
        return self.accept(self.target.update(state, free), state, noise, log_q, guessed)
