"""Values at which a model is probed: spread over the prior of every latent, and no number the same in any two.

Note [Probes]
Draws from the prior, whatever its scale, are sorted number by number in unconstrained space. Probes take their
quantiles at levels from the lowest to the highest, in an order of its own for every number (a Latin hypercube; McKay,
Beckman & Conover 1979), so that each number is seen in both tails and in the middle. Where the density of a model is
not finite, as of a mean that overflows, a probe moves towards the median.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.density.space import Space
from hiertorch.gaussian.affine import NotAffine
from hiertorch.model.model import Model

DRAWS = 256
"""From the prior, whose quantiles are taken."""

LEVELS = (0.7, 0.004, 0.9, 0.3, 0.996, 0.1)
"""Of the quantiles. The first is that of the anchor, away from the median, where much that is centred is 0."""

NEARER = (1.0, 0.6, 0.37, 0.2, 0.1, 0.05)
"""Factors of the distance to the median that are tried one after the other."""


def spread(
    model: Model,
    data: Data,
    space: Space,
    names: Sequence[str],
    others: Mapping[str, Tensor],
    is_finite: Callable[[Mapping[str, Tensor]], Tensor],
) -> dict[str, Tensor]:
    """Values of some latents, `(probes, size, *event)`, constrained.

    Args:
        model: whose priors they are drawn from.
        data: what these priors read.
        space: of all latents.
        names: population-level latents.
        others: a value `(1, size, *event)` of each of the others, which their priors may read.
        is_finite: values -> whether the model can be probed at each of them, `(probes,)`.

    Raises:
        NotAffine: if a prior is too narrow for values to differ, or the model can be probed nowhere.
    """
    if not names:
        return {}
    given = {name: x.expand(DRAWS, *x.shape[1:]) for name, x in others.items() if name not in names}
    generator = torch.Generator(data.device).manual_seed(0)
    drawn = model.sample_prior(data, DRAWS, generator, given)
    free = space.unconstrain({name: drawn[name] for name in names})
    quantiles = {name: _quantiles(name, u) for name, u in free.items()}
    middle = {name: u.nanquantile(0.5, dim=0, keepdim=True) for name, u in free.items()}
    mixed = {name: _mixed(u, generator) for name, u in quantiles.items()}
    found, waiting = mixed, torch.ones(len(LEVELS), dtype=torch.bool, device=data.device)
    for factor in NEARER:
        nearer = {name: middle[name] + factor * (u - middle[name]) for name, u in mixed.items()}
        found = {name: torch.where(_beside(waiting, u), nearer[name], u) for name, u in found.items()}
        values = space.constrain(found)
        waiting = ~_finite(is_finite, values)
        if not bool(waiting.any()):
            _check_distinct(values)
            return values
    raise NotAffine("the mean and the scales of the model are not finite even near the medians of its priors")


def _finite(is_finite: Callable[[Mapping[str, Tensor]], Tensor], values: Mapping[str, Tensor]) -> Tensor:
    """Of each probe; where the model's code fails, as a Cholesky factor may of a matrix that has none, it is not."""
    try:
        return is_finite(values)
    except Exception:
        found = []
        for i in range(len(LEVELS)):
            try:
                found.append(bool(is_finite({name: x[i : i + 1] for name, x in values.items()})))
            except Exception:
                found.append(False)
        return torch.tensor(found, device=next(iter(values.values())).device)


def _quantiles(name: str, u: Tensor) -> Tensor:
    """Of draws `(DRAWS, size, *event)` at each level, `(levels, size, *event)`."""
    finite = torch.isfinite(u)
    if not bool((finite.sum(0) > DRAWS // 2).all()):
        raise NotAffine(f"half of the draws from the prior of {name!r} are infinite or on the edge of its support")
    sorted_u = torch.where(finite, u, torch.nan).sort(0).values  # NaN last
    at = torch.tensor(LEVELS, dtype=u.dtype, device=u.device).reshape(-1, *(1,) * (u.dim() - 1)) * (finite.sum(0) - 1)
    return sorted_u.gather(0, at.round().long())


def _mixed(quantiles: Tensor, generator: torch.Generator) -> Tensor:
    """The quantiles of each number in an order of its own, but for the first, which stays."""
    flat = quantiles[1:].flatten(1)
    order = torch.rand(flat.shape, generator=generator, device=flat.device).argsort(0)
    return torch.cat([quantiles[:1], flat.gather(0, order).reshape(quantiles[1:].shape)])


def _beside(chains: Tensor, like: Tensor) -> Tensor:
    return chains.reshape(-1, *(1,) * (like.dim() - 1))


def _check_distinct(values: Mapping[str, Tensor]) -> None:
    """That no two probes share a number which can vary.

    Raises:
        NotAffine: with the latent's name.
    """
    for name, x in values.items():
        ordered = x.flatten(1).sort(0).values
        same = (ordered[1:] == ordered[:-1]).any(0)
        fixed = (ordered == ordered[:1]).all(0)  # such as the zeros of a triangular matrix
        if bool((same & ~fixed).any()) or bool(fixed.all()):
            raise NotAffine(f"the prior of {name!r} is too narrow for its values to be told apart")
