"""Parents of group effects with the standardised effects held fixed: the move *non-centred*.

For alpha ~ Normal(m(psi), s(psi)) let z = (alpha - m) / s. The move proposes psi' (a walk or a guess, from q) and
alpha' = m(psi') + s(psi') z, accepted with

    min(1, p(psi') |J(psi')| p(y | psi', alpha') q(psi) / (p(psi) |J(psi)| p(y | psi, alpha) q(psi')))

The effects' prior and the Jacobian of alpha -> alpha' cancel, since p(alpha' | psi') dalpha' = p(alpha | psi) dalpha.
Interwoven with the centred moves it mixes well where either alone does not (Yu & Meng 2011, section 2;
Papaspiliopoulos, Roberts & Skold 2007).

Descendants follow: effects whose prior reads a moved effect keep their own z as well.
"""

from collections.abc import Sequence
from typing import Self

from torch import Tensor

from hiertorch.density.state import State
from hiertorch.density.structure import Structure
from hiertorch.errors import ModelError
from hiertorch.moves.adaptation import Learning
from hiertorch.moves.base import Move
from hiertorch.moves.curvature import rooted
from hiertorch.moves.guesses import WIDEST, Regression
from hiertorch.moves.metropolis import Info, Noise, Tuning


class NonCentred(Move):
    """One decision a chain for the population-level latents `block`; the effects `carried` follow them.

    Attributes:
        carried: the group-level latents that descend from the block, in declaration order.
    """

    kind = "non-centred"
    carried: tuple[str, ...]

    def on(self, structure: Structure) -> Self:
        """See `Move.on`."""
        new = super().on(structure)
        new.carried = descendants(structure, new.block)
        stuck = [f"{name}: {structure.uncarried[name]}" for name in new.carried if name in structure.uncarried]
        plates = {new.target.space.coordinates[name].plate for name in new.block}
        if plates != {None} or not new.carried or stuck:
            why = "; ".join(stuck) or "it takes population-level latents that the priors of group effects read"
            raise ModelError(f"a non-centred move on {new.block!r} is not possible: {why}.")
        wide = new.width > WIDEST
        new.guess = None if wide else Regression(new.target, new.block, new.carried, structure.standard)
        new.moving((*new.block, *new.carried))
        return new

    def begun(self, state: State, learning: Learning) -> tuple[State, Learning]:
        """See `Move.begun`."""
        return rooted(self, state, learning)

    def placed(self, state: State, free: dict[str, Tensor]) -> State:
        """See `Move.placed`."""
        coordinates, free = self.target.space.coordinates, dict(free)
        values: dict[str, Tensor] = {**state.values, **self.target.space.constrain(free)}
        for name in self.carried:
            values[name] = self.target.transport(name, state.values, values)
            free[name] = coordinates[name].bijection.inv(values[name])
        return self.target.update(state, free)

    def step(self, state: State, tuning: Tuning, noise: Noise) -> tuple[State, Info]:
        """See `Move.step`."""
        free, log_q, guessed = self.proposal(state, tuning, noise)
        return self.accept(self.placed(state, free), state, noise, log_q, guessed)


def descendants(structure: Structure, block: Sequence[str]) -> tuple[str, ...]:
    """The group-level latents that descend from the block through group-level latents, in order."""
    coordinates, moved, found = structure.target.space.coordinates, set(block), []
    for name in structure.target.names:
        if coordinates[name].plate is not None and name not in moved and structure.reads.priors[name] & moved:
            moved.add(name)
            found.append(name)
    return tuple(found)
