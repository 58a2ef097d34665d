"""The move *collapsed*: the few latents that are left when effects and coefficients are integrated out, in one block.

It is stepped many sweeps at a time, by `hiertorch.run.independence`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hiertorch.density.space import Space
from hiertorch.density.tally import ruled
from hiertorch.density.target import Target
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.covariances import Covariance
from hiertorch.model.support import Condition
from hiertorch.runtime.devices import any_here
from hiertorch.runtime.workers import each


class CollapsedMove:
    """One decision a chain for the rest; then effects and coefficients from their exact conditional. See the module.

    Args:
        target: log prior and Jacobian of the rest, piece by piece.
        collapsed: the marginal likelihood, and exact draws.
        covariances: of effects, which are moved given these as well.
    """

    kind = "collapsed"

    def __init__(self, target: Target, collapsed: Collapsed, covariances: Sequence[Covariance] = ()) -> None:
        self.target, self.collapsed, self.covariances = target, collapsed, tuple(covariances)
        self.rest, self.block = collapsed.rest, target.names
        self.plate: str | None = None
        self.size, self.passes = 1, 0
        self.space = Space({name: target.space.coordinates[name] for name in self.rest})
        self.name = f"collapsed({', '.join(self.rest)})"
        self.width = self.space.dim
        self.conditional: bool | None = None  # whether parameters that depend on the rest may be impossible

    def log_density(self, position: Tensor) -> Tensor:
        """log p(rest | y) up to a constant, on unconstrained space with its Jacobian: `(n, width)` to `(n,)`."""
        return self.evaluate(position)[1]

    def log_densities(self, position: Tensor) -> Tensor:
        """The same for every data set: `(n, sets)`."""
        sets = self.collapsed.sets
        return self.log_density(position.repeat_interleave(sets, 0)).unflatten(0, (-1, sets))

    def evaluate(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Places `(n, width + m)`, positions with what drawing from there takes (see `Collapsed.evaluate`), and their
        log densities `(n,)`.
        """
        parts = position.split(self.collapsed.batch)
        densities, found = zip(*each(self._evaluate, parts, position.device), strict=True)
        return torch.cat([position, torch.cat(found)], 1), torch.cat(densities)

    def _evaluate(self, position: Tensor) -> tuple[Tensor, Tensor]:
        free = self.space.split(position)
        values = self.space.constrain(free)
        marginal, found = self.collapsed.evaluate(values, len(position))
        prior = torch.zeros_like(marginal)
        for name in self.rest:
            prior = prior + self.target.prior_term(name, free[name], values).sum(-1)
        for key, conditions in self._conditions(values, len(position)).items():
            marginal, self.target.met.names[key], masks = ruled(
                marginal, [(c, [mask.flatten(1).any(1) for mask in c.violated()]) for c in conditions]
            )
            self.target.met.add(key, marginal, [mask.unsqueeze(1) for mask in masks])
        odd = marginal.isnan() | (marginal == torch.inf)
        if any_here(odd):  # far out, where the algebra ends before the model does
            odd = odd & ~self.collapsed.is_nan(values, len(position))
            marginal = torch.where(odd, -torch.inf, marginal)
        return torch.where(prior == -torch.inf, -torch.inf, marginal + prior), found

    def _conditions(self, values: Mapping[str, Tensor], chains: int) -> Mapping[tuple[str, str], list[Condition]]:
        """What parameters must satisfy that depend on the rest. Which these are is looked up once: mostly none."""
        if self.conditional is False:
            return {}
        bounds = {name: c.bounds for name, c in self.space.coordinates.items() if c.bounds is not None}
        found = self.collapsed.conditions(values, chains, bounds)
        found = {key: [c for c in some if _varies(c, chains)] for key, some in found.items()}
        found = {key: some for key, some in found.items() if some}
        if chains > 1:
            self.conditional = bool(found)
        return found

    def values(self, position: Tensor) -> dict[str, Tensor]:
        """Constrained values of the rest, `(n, 1, *event)`."""
        return self.space.constrain(self.space.split(position))


def _varies(condition: Condition, chains: int) -> bool:
    """Whether a parameter has a value for each chain; others are the same at all places."""
    shape = (condition.value if condition.found is None else condition.found).shape
    return len(shape) > 1 and shape[0] == chains
