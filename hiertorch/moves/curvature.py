"""How a walk begins: with the inverse curvature of what its move decides on, at a mode.

    root root' = (2.38^2 / width) H^-1,    H = - d^2 log p(u | rest) / du du' at argmax_u log p(u | rest)

That is the Gram matrix of predictors, weighted by what rows know of theirs, with the curvature of the priors, so that
columns may be far from 0, alike, or in any unit: walks start along their principal axes, in the data's own units, where
a walk of length 1 in each would take most of warm-up to learn them. The mode is found by Newton's method from where
some chains start. No chain is moved, and warm-up goes on learning from there.

docs/decisions.md: Walks begin with a curvature.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hiertorch.density.newton import modes
from hiertorch.density.state import State
from hiertorch.density.target import Target
from hiertorch.moves.adaptation import Adaptation, Learning
from hiertorch.moves.base import Move
from hiertorch.moves.guesses import BEST_WALK

WIDEST_CURVED = 50
"""Dimensions of a decision up to which second derivatives are taken, one backward pass for each."""

SEARCH: dict[str, Any] = {
    "at_most": 25,
    "near": 0.1,
    "rise": 0.01,
    "longest": 10.0,
    "lengths": ((1.0, 8.0), (0.3, 0.1, 0.02, 0.004)),
}
"""Of modes, nearly: a walk does not care for a tenth of an sd. On slopes that are not concave steps of Newton's method
are many times as long as what is known of the density, and a tenth of them is still far.
"""

LOST = 30.0
"""Log density below the highest, over one for each dimension, from which on a search is taken for one that has failed.
"""

FEW = 4
"""Chains that search, of those that have the same data; the others begin where these have arrived."""

NUMBERS = 4_000_000
"""Rows times chains that are differentiated at once, at most: a graph of the density holds each some fifty times."""


def searchers(state: State, target: Target) -> State | None:
    """Where the search begins: effects at the locations of their priors, so that the population finds first what rows
    say without them; else these would ask for the effects that a draw from the prior happens to have, which they have
    best in a scale near 0. None if each chain has data of its own and there are too many rows.
    """
    chains = len(state.cells)
    wanted = chains if target.by_chain else FEW
    some = max(1, min(chains, wanted, NUMBERS // max(1, target.rows.data.n_rows)))
    if some < chains and target.by_chain:
        return None
    free = {name: u[:some] for name, u in state.free.items()}
    for name in target.names:
        if target.space.coordinates[name].plate is not None:
            place = target.location_scale(name, target.space.constrain(free))
            if place is not None:
                free[name] = place[0].expand_as(free[name])
    return target.state(free)


def arrived(at: State, target: Target) -> Tensor:
    """Which searches have come to places that a posterior may have, `(chains,)` truth values: by the densities of the
    population and of rows given the effects, since effects of scale 0 have any density.
    """
    coordinates = target.space.coordinates
    height = at.cells.sum(-1) + sum(term.sum(-1) for n, term in at.prior.items() if coordinates[n].plate is None)
    sound = torch.isfinite(at.log_density()) & torch.isfinite(height)
    best = torch.where(sound, height, -torch.inf).amax()
    return sound if target.by_chain else sound & (height > best - LOST - target.space.dim)


def rooted(move: Move, state: State, learning: Learning) -> tuple[State, Learning]:
    """The state in which the block is at modes of its conditional density, unless it decides how wide priors of others
    are; and what is learnt of a walk there.

    Args:
        move: whose block it is.
        state: of a few chains.
        learning: before the first sweep. It stays as it is, and so does the state, where the density can't be
            differentiated twice, or where a latent of the block decides how wide another one's prior is.
    """
    target, block = move.target, frozenset(move.block)
    if target.opaque or any(target.reads[name] & block for name in block):
        return state, learning  # there need be no mode, as of effects and their scale
    if not isinstance(learning, Adaptation) or move.width > WIDEST_CURVED:
        return state, learning
    chains, parts = len(state.cells), [state.free[name] for name in move.block]
    starts = torch.cat([part.reshape(chains, move.size, -1) for part in parts], -1)

    def there(u: Tensor) -> State:
        blocks = u.split([part[0].numel() // move.size for part in parts], -1)
        return move.placed(
            state, {n: x.reshape(part.shape) for n, x, part in zip(move.block, blocks, parts, strict=True)}
        )

    def height(places: Tensor) -> Tensor:
        return torch.stack([move.log_ratio(there(u), state) for u in places])

    def derivatives(u: Tensor, value: Tensor, root: Tensor | None) -> tuple[Tensor, Tensor]:
        assert root is not None
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            slope = torch.autograd.grad(move.log_ratio(there(u), state).sum(), u, create_graph=True)[0]
            rows = [_slope(slope[..., k], u) for k in range(move.width)]
        hessian = torch.stack(rows, -2)
        curvature = -(root.mT @ ((hessian + hessian.mT) / 2) @ root)
        slope = (root.mT @ slope.detach().unsqueeze(-1)).squeeze(-1)
        sound = torch.isfinite(curvature).all(-1).all(-1) & torch.isfinite(slope).all(-1)
        eye = torch.eye(move.width, dtype=u.dtype, device=u.device)
        return torch.where(sound.unsqueeze(-1), slope, 0.0), torch.where(sound[..., None, None], curvature, eye)

    units = learning.tuning["root"].expand(chains, -1, -1, -1) * move.width**0.5
    try:
        found, root = modes(height, starts, derivatives, units, **SEARCH)
    except RuntimeError:  # of autograd: some operation has no derivative
        return state, learning
    volume = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # (chains, size)
    middle = volume.argsort(0)[(chains - 1) // 2]
    walk = root[middle, torch.arange(move.size, device=middle.device)] * (BEST_WALK / move.width**0.5)
    sound = torch.isfinite(walk).all(-1).all(-1)[:, None, None]
    new = replace(learning, tuning={**learning.tuning, "root": torch.where(sound, walk, learning.tuning["root"])})
    return state if _sets_widths(move, state) else there(found), new


def _sets_widths(move: Move, state: State) -> bool:
    """Whether the block decides how wide priors of others are, which it does not carry along. Then the state stays: the
    mode of a scale given modes of its effects is too small, and modes given that one are nearer still to their mean.
    """
    target, still = move.target, {*move.block, *move.carried}
    others = [name for name in move.touched if name not in still]
    moved = move.placed(state, {name: state.free[name] + 0.1 for name in move.block})
    for name in others:
        here, there = (target.location_scale(name, s.values) for s in (state, moved))
        if here is None or there is None or not torch.equal(here[1], there[1]):
            return True
    return False


def _slope(of: Tensor, u: Tensor) -> Tensor:
    """d sum(of) / du, 0 where it does not depend on u."""
    if not of.requires_grad:
        return torch.zeros_like(u)
    return torch.autograd.grad(of.sum(), u, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
