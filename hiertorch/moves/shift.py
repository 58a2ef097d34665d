"""A mean and the effects around it, where rows read their sum: the move *shift*.

    mu' = mu + sum_k c_k,    alpha'_kj = alpha_kj - c_k    for all groups j of each plate k

Rows do not change, and the Jacobian is 1: only priors tell places on this ridge apart, and those of the effects of many
groups hold mu fast, so that moves of mu given effects and of effects given mu go along it in small steps. Where priors
have locations and scales, c is guessed by what they say of it if they are normal,

    (diag(q) + 1 1' / S^2) c ~ Normal(r - 1 (mu - M) / S^2, diag(q) + 1 1' / S^2),
    q_k = sum_j 1 / s_kj^2,    r_k = sum_j (alpha_kj - m_kj) / s_kj^2,

else it walks. Both are decided with the whole change of the density, rows too: that a ridge has been found (`ridges`)
makes the move worth its pass, and is no part of why it is exact.
"""

from typing import Self

import torch
from torch import Tensor
from torch.distributions.transforms import ComposeTransform, IndependentTransform

from hiertorch.density.space import Coordinate
from hiertorch.density.state import State
from hiertorch.density.structure import Structure, probe
from hiertorch.density.target import Target
from hiertorch.errors import ModelError
from hiertorch.moves.adaptation import FIRST_SHARE
from hiertorch.moves.base import Move
from hiertorch.moves.metropolis import Info, Noise, Tuning, propose

SHIFTS = (0.7, -3.1)
"""That rows must not notice."""


class Along:
    """The normal conditional distribution of minus the effects' means, `(chains, 1, plates x event)`, along a ridge.

    Args:
        target: the density.
        mean: the latent that stands for the mean.
        effects: those around it, of any plates.
    """

    def __init__(self, target: Target, mean: str, effects: tuple[str, ...]) -> None:
        self.target, self.mean, self.effects = target, mean, effects

    def tuning(self, like: Tensor) -> Tuning:
        """Nothing is learnt but how often to guess."""
        return {"log_share": like.new_full((), FIRST_SHARE)}

    def normal(self, state: State, tuning: Tuning) -> tuple[Tensor, Tensor, Tensor]:
        """See `Guess.normal`. It is the same all along the ridge."""
        offset, precision = self._pull(state, self.mean)
        within = [self._pull(state, name) for name in self.effects]
        q = torch.cat([p for _, p in within], 1)  # (chains, plates x event)
        r = torch.cat([pull for pull, _ in within], 1) - offset.repeat(1, len(within))
        together = precision.diag_embed().repeat(1, len(within), len(within))
        lower = torch.linalg.cholesky_ex(q.diag_embed() + together)[0]
        eye = torch.eye(q.shape[1], dtype=q.dtype, device=q.device)
        root = torch.linalg.solve_triangular(lower.mT, eye.expand_as(lower), upper=True)
        c = (root @ (root.mT @ r.unsqueeze(-1))).squeeze(-1)
        return (means(state, self.effects) + c).unsqueeze(1), root.unsqueeze(1), lower.mT.unsqueeze(1)

    def observe(self, state: State) -> Tensor:
        """See `Guess.observe`."""
        return state.cells.new_zeros(1)

    def fit(self, sums: Tensor, count: int) -> Tuning:
        """See `Guess.fit`."""
        return {}

    def _pull(self, state: State, name: str) -> tuple[Tensor, Tensor]:
        """sum_j (u_j - m_j) / s_j^2 and sum_j 1 / s_j^2, `(chains, event)`."""
        place, u = self.target.location_scale(name, state.values), state.free[name]
        assert place is not None
        precision = place[1].square().reciprocal().expand_as(u)
        pull = (u - place[0]) * precision
        return pull.sum(1).reshape(len(u), -1), precision.sum(1).reshape(len(u), -1)


class Shift(Move):
    """One decision a chain for `block`: first the mean, then effects around it, all on the whole line."""

    kind = "shift"

    def on(self, structure: Structure) -> Self:
        """See `Move.on`."""
        new = super().on(structure)
        coordinates, reads = new.target.space.coordinates, new.target.reads
        mean, *effects = new.block
        first, block = coordinates[mean], frozenset(new.block)
        fits = effects and first.plate is None and first.size == 1 and _on_the_line(first)
        alike = [
            c.plate is not None and c.event == first.event and _on_the_line(c)
            for c in map(coordinates.__getitem__, effects)
        ]
        if not fits or not all(alike) or any(reads[name] & block for name in new.block):
            raise ModelError(
                f"a shift move on {new.block!r} is not possible: it takes a population-level latent and group-level "
                "ones of the same shape, on the whole line, whose priors do not read one another."
            )
        new.width = first.width * len(effects)
        values = structure.reads.values
        located = all(new.target.location_scale(name, values) is not None for name in new.block)
        new.guess = Along(new.target, mean, tuple(effects)) if located else None
        return new

    def step(self, state: State, tuning: Tuning, noise: Noise) -> tuple[State, Info]:
        """See `Move.step`."""
        mean, *effects = self.block
        here = means(state, effects).unsqueeze(1)
        normal = None if self.guess is None else self.guess.normal(state, tuning)
        [there], log_q, guessed = propose([here], tuning, noise, None, normal)
        jumps = (there - here).split(self.width // len(effects), -1)
        free = {mean: state.free[mean] + sum(jumps).reshape(state.free[mean].shape)}
        for name, c in zip(effects, jumps, strict=True):
            free[name] = state.free[name] - c.reshape(len(here), 1, *state.free[name].shape[2:])
        return self.accept(self.target.update(state, free), state, noise, log_q, guessed)


def means(state: State, effects: list[str] | tuple[str, ...]) -> Tensor:
    """Minus the means of effects over groups, `(chains, plates x event)`."""
    return torch.cat([-state.free[name].mean(1).reshape(len(state.cells), -1) for name in effects], 1)


def ridges(structure: Structure) -> list[tuple[str, ...]]:
    """Population-level latents, each with the effects around it of which rows read the sum: found by moving both in a
    few draws from the prior, whose rows may only change by rounding.
    """
    target, found = structure.target, list[tuple[str, ...]]()
    coordinates, seen = target.space.coordinates, target.likelihood_reads
    if target.opaque or not seen:
        return found
    free = probe(target, structure.reads)
    values = target.space.constrain(free)
    before = target.row_terms(values, target.data)
    close = torch.finfo(before.dtype).eps ** 0.5

    def same(names: tuple[str, ...], signs: tuple[int, ...]) -> bool:
        for c in SHIFTS:
            moved = {n: free[n] + sign * c for n, sign in zip(names, signs, strict=True)}
            after = target.row_terms({**values, **target.space.constrain(moved)}, target.data)
            both = torch.isfinite(before) & torch.isfinite(after)
            if not bool(both.any()) or not torch.allclose(after[both], before[both], rtol=close, atol=close):
                return False
        return True

    line = [name for name in target.names if name in seen and _on_the_line(coordinates[name])]
    for mean in (name for name in line if coordinates[name].plate is None and coordinates[name].size == 1):
        around = [
            name
            for name in line
            if coordinates[name].plate is not None and coordinates[name].event == coordinates[mean].event
        ]
        around = [name for name in around if mean not in target.reads[name] and same((mean, name), (1, -1))]
        block = frozenset((mean, *around))
        if around and not any(target.reads[name] & block for name in block) and not same((mean,), (1,)):
            found.append((mean, *around))
    return found


def _on_the_line(c: Coordinate) -> bool:
    """Whether values are their own unconstrained ones, also those of several numbers."""
    onto = c.bijection
    while isinstance(onto, IndependentTransform):
        onto = onto.base_transform
    return isinstance(onto, ComposeTransform) and not onto.parts
