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

from functools import reduce
from operator import add

import torch
from torch import Tensor

from hiertorch.density.state import State
from hiertorch.moves.base import Guess, Info, Noise, Target, Tuning, choose, choose_latent, decide, propose, settled
from hiertorch.moves.guesses import WIDEST, Marginal, Site

__all__ = ["Groupwise"]

LIMIT = 2.4
"""Best jump of a random walk on a standard normal, in its standard deviations (Gelman, Roberts & Gilks 1996)."""


class Groupwise:
    """One decision for each chain and group, for all latents of `block`, which share one plate.

    Args:
        target: the density.
        block: names of latents on the plate.
        plate: the grouping.
        parents: finer plate -> code of the group of `plate` in which each of its groups lies, `(groups of the finer
            plate,)`, for every finer plate on which the prior of some latent reads the block.
        located: those of the block whose prior has a location and a scale that no latent of the block decides.
    """

    kind = "groupwise"

    def __init__(
        self, target: Target, block: tuple[str, ...], plate: str, parents: dict[str, Tensor], located: frozenset[str]
    ) -> None:
        self.target, self.block, self.plate, self.parents = target, block, plate, parents
        self.name = f"groupwise({', '.join(block)})"
        coordinates = target.space.coordinates
        self.size = coordinates[block[0]].size
        self.width = sum(coordinates[name].width for name in block)
        touched = target.priors_touched(block)
        self.own = tuple(name for name in touched if coordinates[name].plate == plate)
        self.finer = {name: coordinates[name].plate for name in touched if coordinates[name].plate != plate}
        self.passes = int(target.reads_rows(block))
        self.located = located
        self.guess = self._guess()
        self.ends = tuple(name for name in block if not coordinates[name].is_identity)

    def _guess(self) -> Guess | None:
        if self.width == 1 and self.located:
            return Site(self.target, self.block[0])
        return Marginal(self.block, self.size, self.width) if self.width <= WIDEST else None

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

    def step(self, state: State, tuning: Tuning, noise: Noise) -> tuple[State, Info]:
        """See `hiertorch.moves.base.Move`."""
        normal = None if self.guess is None else self.guess.normal(state, tuning)
        parts, log_q, guessed = propose(
            [state.free[name] for name in self.block], tuning, noise, self._limit(state), normal
        )
        new = self.target.update(state, dict(zip(self.block, parts, strict=True)))
        own = {name: new.prior[name] - state.prior[name] for name in self.own}
        log_ratio = reduce(add, own.values())
        for name, plate in self.finer.items():
            terms = new.prior[name] - state.prior[name]
            log_ratio = log_ratio.index_add(1, self.parents[plate], terms)
        if self.passes:
            log_ratio = log_ratio + self.target.rows.by_group(new.cells - state.cells, self.plate)
        log_ratio = settled(log_ratio, *(own[name] for name in self.ends))
        accepted, info = decide(log_ratio, noise.log_uniform, guessed, log_q)
        free, values, prior, cells = dict(state.free), dict(state.values), dict(state.prior), state.cells
        for name in self.block:
            free[name], values[name] = choose_latent(accepted, new, state, name)
        for name in self.own:
            prior[name] = choose(accepted, new.prior[name], state.prior[name])
        for name, plate in self.finer.items():
            prior[name] = choose(accepted[:, self.parents[plate]], new.prior[name], state.prior[name])
        if self.passes:
            cells = choose(self.target.rows.of_group(accepted, self.plate), new.cells, state.cells)
        return State(free, values, prior, cells), info
