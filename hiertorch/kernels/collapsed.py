"""The move *collapsed*: the few latents that are left when effects and coefficients are integrated out, in one block.

It is stepped many sweeps at a time, by `hiertorch.independence`.
"""

import torch
from torch import Tensor

from hiertorch.collapse import Collapsed
from hiertorch.space import Space
from hiertorch.target import Target
from hiertorch.workers import each

__all__ = ["CollapsedMove"]


class CollapsedMove:
    """One decision a chain for the rest; then effects and coefficients from their exact conditional. See the module.

    Args:
        target: log prior and Jacobian of the rest, piece by piece.
        collapsed: the marginal likelihood, and exact draws.
    """

    kind = "collapsed"

    def __init__(self, target: Target, collapsed: Collapsed) -> None:
        self.target, self.collapsed = target, collapsed
        self.rest, self.block = collapsed.rest, target.names
        self.plate: str | None = None
        self.size, self.passes, self.guess = 1, 0, None
        self.space = Space({name: target.space.coordinates[name] for name in self.rest})
        self.name = f"collapsed({', '.join(self.rest)})"
        self.width = self.space.dim

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
        total, found = self.collapsed.evaluate(values, len(position))
        for name in self.rest:
            total = total + self.target.prior_term(name, free[name], values).sum(-1)
        return total, found

    def values(self, position: Tensor) -> dict[str, Tensor]:
        """Constrained values of the rest, `(n, 1, *event)`."""
        return self.space.constrain(self.space.split(position))
