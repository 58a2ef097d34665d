"""Random walk on a block of latents with one decision a chain: the moves *joint* and *centred*.

u' = u + root z, accepted with min(1, exp(log_density(u') - log_density(u))) (Haario et al. 2001; Vihola 2012, section
2).

A block that no row reads (the parents of group effects, given the effects) needs no pass over the rows: that is the
*centred* move. It is the same kernel; which pieces of the density it touches, the target knows.
"""

from typing import Self

from hiertorch.density.state import State
from hiertorch.density.structure import Structure
from hiertorch.errors import ModelError
from hiertorch.moves.adaptation import Learning
from hiertorch.moves.base import Move
from hiertorch.moves.curvature import rooted
from hiertorch.moves.guesses import WIDEST, Regression
from hiertorch.moves.metropolis import Info, Noise, Tuning


class Joint(Move):
    """One decision a chain for all latents of `block` together, of any plates."""

    kind = "joint"

    def on(self, structure: Structure) -> Self:
        """See `Move.on`."""
        new = super().on(structure)
        new.guess = Regression(new.target, new.block) if new.width <= WIDEST else None
        return new

    def begun(self, state: State, learning: Learning) -> tuple[State, Learning]:
        """See `Move.begun`."""
        return rooted(self, state, learning)

    def step(self, state: State, tuning: Tuning, noise: Noise) -> tuple[State, Info]:
        """See `Move.step`."""
        free, log_q, guessed = self.proposal(state, tuning, noise)
        return self.accept(self.target.update(state, free), state, noise, log_q, guessed)


class Centred(Joint):
    """The same for a block that no row reads."""

    kind = "centred"

    def on(self, structure: Structure) -> Self:
        """See `Move.on`."""
        new = super().on(structure)
        if new.passes:
            raise ModelError(
                f"a centred move needs latents that no row reads; rows read some of {new.block!r}: use 'joint'."
            )
        return new
