"""Where chains of a collapsed model begin: drawn by importance around the modes of what is left to sample.

Modes are looked for from places where the prior lies, in units of the prior; candidates are drawn around them, a little
wider than the curvature there says, and weighted by density over proposal. Weights are truncated (Ionides 2008): the
candidates only have to be near; the chains that start there do the rest.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.density.newton import by_densities, by_gradients, modes
from hiertorch.errors import SamplingError
from hiertorch.moves.metropolis import Tuning
from hiertorch.randomness import stream
from hiertorch.run import proposals
from hiertorch.run.collapsed import CollapsedMove

POOL = 4
"""Times the chains: candidates from which starting positions are taken."""

STARTS = 8
"""Places that modes are looked for from."""

PRIOR = 64
"""Draws from the prior among which these places are."""

INFLATED = 1.3
"""Times the spread that the curvature at a mode gives: candidates around it."""

DEPTH = 15.0
"""Below the highest mode: others that are lower than that are left out."""


class Found(NamedTuple):
    """Where chains begin, `(chains, d)`, draws to fit proposals to, `(n, d)`, and the proposal that these are from."""

    position: Tensor
    pool: Tensor
    proposal: Tuning


def found_around_modes(move: CollapsedMove, chains: int, generator: torch.Generator) -> Found:
    """Positions of the rest in unconstrained space.

    Raises:
        SamplingError: if the density is finite at none of the modes.
    """
    slices, sets = move.collapsed.batch // 2, move.collapsed.sets
    number = max(1, min(STARTS, slices // (2 * move.width + 1))) if sets == 1 else sets
    middle, spread, drawn = _prior(move, generator)
    starts = torch.cat([middle.expand(sets, -1), drawn])[:number]  # of several data sets, one each

    def log_density(t: Tensor) -> Tensor:
        return move.log_density((middle + spread * t).flatten(0, 1)).unflatten(0, t.shape[:2])

    derivatives = by_densities(log_density) if move.collapsed.dear else by_gradients(log_density, slices)
    means, roots = modes(log_density, (starts - middle) / spread, derivatives)
    means, roots = middle + spread * means, spread.unsqueeze(1) * roots
    height = move.log_density(means)
    if not bool(torch.isfinite(height).any()):
        raise SamplingError(
            f"no starting point has a finite log density: near the middle of the priors of {', '.join(move.rest)} "
            f"it is {float(height[0])}. Check the priors of these latents, and the response for values far beyond "
            "them."
        )
    height = torch.where(height == torch.inf, torch.nan, height)  # a density that is infinite is none
    best = height.nan_to_num(-torch.inf, -torch.inf).max()
    keep = height >= (best - DEPTH if sets == 1 else -torch.finfo(height.dtype).max)
    means, roots = means[keep], INFLATED * roots[keep]
    around = [proposals.normal_start(mean, root) for mean, root in zip(means, roots, strict=True)]
    pool = max(POOL * chains, 200)
    candidates = torch.cat([proposals.propose(one, -(-pool // len(around)), generator) for one in around])
    density = move.log_densities(candidates).mT.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    ratio = density - torch.stack([proposals.density(one, candidates) for one in around]).logsumexp(0)
    weight = (ratio - ratio.amax(1, keepdim=True).nan_to_num(0.0, 0.0, 0.0)).exp()  # (sets, candidates)
    weight = weight.minimum(weight.sum(1, keepdim=True) / len(candidates) ** 0.5)
    position = candidates[_chosen(weight, chains, generator)]
    pooled = candidates[_chosen(weight, max(1_000, pool), generator)]
    return Found(position, pooled, around[int(height[keep].argmax())])


def _prior(move: CollapsedMove, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The middle of the prior `(d,)`, units in which to look for modes `(d,)`, and draws `(n, d)`, all of the rest in
    unconstrained space. A number on the whole line has a unit of its own, of which nothing but its prior tells; scales,
    correlations and probabilities have left theirs behind.
    """
    collapsed, like = move.collapsed, move.collapsed.grams.packed
    composed, sets = collapsed.composed, collapsed.sets
    number = -(-PRIOR // sets) * sets
    nothing = composed.zeros({name: like for name in move.rest}, number)
    own = stream(generator.initial_seed(), "prior", device=generator.device)
    given = {name: nothing[name] for name in collapsed.linear}
    values = composed.model.sample_prior(composed.data, number, own, given=given)
    drawn = move.space.join(move.space.unconstrain({name: values[name] for name in move.rest}))
    drawn = drawn[drawn.isfinite().all(1)]
    if not len(drawn):
        drawn = like.new_zeros(1, move.width)
    low, middle, high = torch.quantile(drawn, drawn.new_tensor([0.25, 0.5, 0.75]), 0)
    whole = [c.is_identity for c in move.space.coordinates.values() for _ in range(c.width)]
    spread = torch.where(torch.tensor(whole, dtype=torch.bool, device=drawn.device) & (high > low), high - low, 1.0)
    return middle, spread, drawn


def _chosen(weight: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """At least so many candidates by their weights `(sets, candidates)`, those of the sets in turn."""
    each = -(-number // len(weight))
    return torch.multinomial(weight, each, replacement=True, generator=generator).mT.flatten()
