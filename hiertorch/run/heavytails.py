"""Proposals of groups: their standard normal numbers from a Student distribution, with heavier tails where they stay.

    e = n sqrt(nu / c),     n ~ N(0, I),  c ~ chi-squared(nu),     nu = 8, or 4 for groups that stayed long in warm-up

Where the posterior of a group has heavier tails than its surrogate, proposals from the surrogate itself are refused for
long whenever a chain is in the tail (Tierney 1994, section 2.3.3).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

FREEDOM, HEAVIER = 8, 4
"""Degrees of freedom, even, and those for groups that stay."""

LONG = 50
"""Sweeps of a stay from which on a group is such a one."""


class HeavyTails:
    """Degrees of freedom of each group of each level.

    Attributes:
        freedom: level -> of its groups, `(groups, 1)`; of a level that is not there all groups have FREEDOM.
    """

    def __init__(self) -> None:
        self.freedom: dict[int, Tensor] = {}

    def drawn(self, normal: Tensor, uniform: Tensor, level: int) -> Tensor:
        """Numbers `(K, groups, chains)` of standard normal ones and of uniform ones `(FREEDOM / 2, groups, chains)`."""
        freedom, some = self.freedom.get(level), HEAVIER // 2
        if freedom is None:
            return normal * uniform.prod(0).log_().mul_(-2.0 / FREEDOM).rsqrt_()  # chi-squared over its mean
        product = uniform[:some].prod(0) * uniform[some:].prod(0).masked_fill_(freedom != FREEDOM, 1.0)
        return normal * product.log_().mul_(-2.0 / freedom).rsqrt_()

    def heavier(self, noise: Tensor, level: int) -> Tensor:
        """log t(e) - log N(e) up to a constant, by group: `(K, groups, chains)` to `(groups, chains)`."""
        square = noise[0].square() if len(noise) == 1 else noise.square().sum(0)
        freedom = self.freedom.get(level, FREEDOM)
        return (square / freedom).log1p_().mul_(-0.5 * (freedom + len(noise))).add_(square, alpha=0.5)

    def widen(self, level: int, longest: Tensor) -> None:
        """Groups of a level whose stay `(groups, chains)` was longer than LONG have heavier tails from now on."""
        stayed = (longest > LONG).any(1, keepdim=True)
        if bool(stayed.any()):
            before = self.freedom.get(level, torch.full_like(stayed, FREEDOM, dtype=torch.float64))
            self.freedom[level] = torch.where(stayed, float(HEAVIER), before)

    def tensors(self) -> dict[str, Tensor]:
        """The same as named tensors, which `of` takes."""
        return {str(level): x for level, x in self.freedom.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "HeavyTails":
        """What such tensors hold."""
        found = cls()
        found.freedom = {int(level): x for level, x in tensors.items()}
        return found
