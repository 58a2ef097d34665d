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
from typing import Self

import torch
from torch import Tensor

from hiertorch.density.state import State
from hiertorch.density.structure import Structure
from hiertorch.errors import ModelError
from hiertorch.moves.base import Move
from hiertorch.moves.guesses import WIDEST, Marginal, Site
from hiertorch.moves.metropolis import Info, Noise, Tuning, choose, choose_latent, decide, propose, settled

__all__ = ["Groupwise"]

LIMIT = 2.4
"""Best jump of a random walk on a standard normal, in its standard deviations (Gelman, Roberts & Gilks 1996)."""


class Groupwise(Move):
    """One decision for each chain and group, for all latents of `block`, which share one plate.

    Attributes:
        parents: finer plate -> code of the group of `plate` in which each of its groups lies, `(groups of the finer
            plate,)`, for every finer plate on which the prior of some latent reads the block.
        own: latents of the plate whose prior terms change.
        finer: those of finer plates -> their plate.
        located: those of the block whose prior has a location and a scale that no latent of the block decides.
    """

    kind = "groupwise"
    plate: str
    parents: dict[str, Tensor]
    own: tuple[str, ...]
    finer: dict[str, str]
    located: frozenset[str]

    def on(self, structure: Structure) -> Self:
        """See `Move.on`."""
        new = super().on(structure)
        target, coordinates = new.target, new.target.space.coordinates
        plates = {coordinates[name].plate for name in new.block}
        plate = plates.pop() if len(plates) == 1 else None
        if plate is None or plate in structure.mixed:
            why = structure.mixed.get(plate or "", "its latents must share one plate")
            raise ModelError(f"a groupwise move on {new.block!r} is not possible: {why}.")
        new.plate, new.size = plate, coordinates[new.block[0]].size
        new.width //= new.size
        on_plates = {name: coordinates[name].plate for name in new.touched}
        new.own = tuple(name for name, of in on_plates.items() if of == plate)
        new.finer = {name: of for name, of in on_plates.items() if of is not None and of != plate}
        new.parents = {of: target.data.parents(of, plate) for of in set(new.finer.values())}
        new.located = structure.located.intersection(
            name for name in new.block if not target.reads[name] & set(new.block)
        )
        if new.width == 1 and new.located:
            new.guess = Site(target, new.block[0])
        elif new.width <= WIDEST:
            new.guess = Marginal(new.block, new.size, new.width)
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

    def step(self, state: State, tuning: Tuning, noise: Noise) -> tuple[State, Info]:
        """See `Move.step`."""
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
