"""Random walk on a block of latents with one decision a chain: the moves *joint* and *centred*.

u' = u + root z, accepted with min(1, exp(log_density(u') - log_density(u))) (Haario et al. 2001; Vihola 2012, section
2).

A block that no row reads (the parents of group effects, given the effects) needs no pass over the rows: that is the
*centred* move. It is the same kernel; which pieces of the density it touches, the target knows.
"""

from torch import Tensor

from hiertorch.density.state import State
from hiertorch.moves.base import Info, Noise, Target, Tuning, change, choose, choose_latent, decide, propose, settled
from hiertorch.moves.guesses import Regression

__all__ = ["Joint"]


class Joint:
    """One decision a chain for all latents of `block` together.

    Args:
        target: the density.
        block: names of latents, of any plates.
        kind: the name of the move in the plan.
    """

    def __init__(self, target: Target, block: tuple[str, ...], kind: str = "joint") -> None:
        self.target, self.block, self.kind = target, block, kind
        self.name = f"{kind}({', '.join(block)})"
        self.plate: str | None = None
        self.size = 1
        self.width = sum(target.space.coordinates[name].size * target.space.coordinates[name].width for name in block)
        self.touched = target.priors_touched(block)
        self.passes = int(target.reads_rows(block))
        self.guess = Regression.on_rest(target, block)
        self.ends = tuple(name for name in block if not target.space.coordinates[name].is_identity)

    def step(self, state: State, tuning: Tuning, noise: Noise) -> tuple[State, Info]:
        """See `hiertorch.moves.base.Move`."""
        normal = None if self.guess is None else self.guess.normal(state, tuning)
        parts, log_q, guessed = propose([state.free[name] for name in self.block], tuning, noise, normal=normal)
        new = self.target.update(state, dict(zip(self.block, parts, strict=True)))
        log_ratio = change(new, state, self.touched)
        if self.passes:
            log_ratio = settled(log_ratio + (new.cells - state.cells).sum(-1), log_ratio)
        if self.ends:
            log_ratio = settled(log_ratio, change(new, state, self.ends))
        accepted, info = decide(log_ratio[:, None], noise.log_uniform, guessed, log_q)
        return take(accepted, new, state, self.block, self.touched, bool(self.passes)), info


def take(
    accepted: Tensor, new: State, old: State, moved: tuple[str, ...], touched: tuple[str, ...], rows: bool
) -> State:
    """The new state in the chains `(chains, 1)` that accepted, the old one in the others."""
    free, values, prior = dict(old.free), dict(old.values), dict(old.prior)
    for name in moved:
        free[name], values[name] = choose_latent(accepted, new, old, name)
    for name in touched:
        prior[name] = choose(accepted, new.prior[name], old.prior[name])
    return State(free, values, prior, choose(accepted, new.cells, old.cells) if rows else old.cells)
