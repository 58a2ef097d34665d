"""Parents of group effects with the standardised effects held fixed: the move *non-centred*.

For alpha ~ Normal(m(psi), s(psi)) let z = (alpha - m) / s. The move proposes psi' (a walk or a guess, from q) and
alpha' = m(psi') + s(psi') z, accepted with

    min(1, p(psi') |J(psi')| p(y | psi', alpha') q(psi) / (p(psi) |J(psi)| p(y | psi, alpha) q(psi')))

The effects' prior and the Jacobian of alpha -> alpha' cancel, since p(alpha' | psi') dalpha' = p(alpha | psi) dalpha.
Interwoven with the centred moves it mixes well where either alone does not (Yu & Meng 2011, section 2;
Papaspiliopoulos, Roberts & Skold 2007).

Descendants follow: effects whose prior reads a moved effect keep their own z as well.
"""

import torch
from torch import Tensor

from hiertorch.density.state import State
from hiertorch.moves.base import Info, Noise, Target, Tuning, change, decide, propose, settled
from hiertorch.moves.guesses import Regression
from hiertorch.moves.joint import take

__all__ = ["NonCentred"]


class NonCentred:
    """One decision a chain for the population latents `block`; the effects `carried` follow them.

    Args:
        target: the density.
        block: names of population-level latents.
        carried: names of group-level latents that descend from the block, in declaration order.
        standard: those of them that are location + scale z, element by element, so that summaries of z are held fixed
            too.
    """

    kind = "non-centred"

    def __init__(
        self, target: Target, block: tuple[str, ...], carried: tuple[str, ...], standard: frozenset[str]
    ) -> None:
        self.target, self.block, self.carried = target, block, carried
        self.name = f"non-centred({', '.join(block)})"
        self.plate: str | None = None
        self.size = 1
        coordinates = target.space.coordinates
        self.width = sum(coordinates[name].width for name in block)
        self.guess = Regression.on_rest(target, block, carried, standard)
        self.moved = (*block, *carried)
        self.touched = target.priors_touched(self.moved)
        self.counted = tuple(name for name in self.touched if name not in carried)
        self.passes = int(target.reads_rows(self.moved))
        self.ends = tuple(name for name in block if not coordinates[name].is_identity)

    def step(self, state: State, tuning: Tuning, noise: Noise) -> tuple[State, Info]:
        """See `hiertorch.moves.base.Move`."""
        coordinates = self.target.space.coordinates
        normal = None if self.guess is None else self.guess.normal(state, tuning)
        parts, log_q, guessed = propose([state.free[name] for name in self.block], tuning, noise, normal=normal)
        free = dict(zip(self.block, parts, strict=True))
        values: dict[str, Tensor] = {**state.values, **self.target.space.constrain(free)}
        for name in self.carried:
            values[name] = self.target.transport(name, state.values, values)
            free[name] = coordinates[name].bijection.inv(values[name])
        new = self.target.update(state, free)
        log_ratio = change(new, state, self.counted)
        if self.passes:
            log_ratio = settled(log_ratio + (new.cells - state.cells).sum(-1), log_ratio)
        if self.ends:
            log_ratio = settled(log_ratio, change(new, state, self.ends))
        if self.carried:  # whose priors cancel, where they are not 0
            log_ratio = settled(log_ratio, change(new, state, self.carried))
        for name in self.carried:  # which may have been carried beyond all numbers
            there = free[name].flatten(1).sum(1)
            log_ratio = torch.where(there - there == 0, log_ratio, -torch.inf)
        accepted, info = decide(log_ratio[:, None], noise.log_uniform, guessed, log_q)
        return take(accepted, new, state, self.moved, self.touched, bool(self.passes)), info
