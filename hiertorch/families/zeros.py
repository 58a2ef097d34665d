"""Families with more zeros than another family has: hurdles, and zeros and ones that come on top."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, distributions
from torch.distributions import Distribution

from hiertorch.data.table import Data
from hiertorch.families import laws, portable
from hiertorch.families.around import Around
from hiertorch.families.family import Family
from hiertorch.model import zeros
from hiertorch.model.latent import Latent, Values

UNIFORM = distributions.Beta(1.0, 1.0)
"""Of shares: any is as likely as any other before there are data, as brms has it."""


class MoreZeros(Around):
    """A family with shares of rows that are not the base's.

    Args:
        base: the other family.
        prefix: of its name.
        shares: latents, of these rows.
    """

    def __init__(self, base: Family, prefix: str, shares: tuple[str, ...]) -> None:
        super().__init__(base, prefix, shares, {name: Latent(UNIFORM) for name in shares})

    def statistics(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Those of the base, and the share of zeros."""
        return {**self.base.statistics(), "share of 0": _zeros}

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor | None:
        """Not known: the zeros are on no link's scale."""
        return None

    def level_and_spread(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """Those that the rows which the base is about tell."""
        return self.base.level_and_spread(*self._own(y, offset, data))

    def unit_of_scales(self, y: Tensor, offset: Tensor, data: Data) -> Tensor:
        """Likewise."""
        return self.base.unit_of_scales(*self._own(y, offset, data))

    def unit_of_sizes(self, y: Tensor, data: Data) -> Tensor:
        """Likewise."""
        own, _, part = self._own(y, torch.zeros_like(data.y.reshape(-1, data.n_rows)[0]), data)
        return self.base.unit_of_sizes(own, part)

    def own_rows(self, y: Tensor) -> Tensor:
        """Which of the responses `(...)` tell of the base alone."""
        return torch.ones_like(y, dtype=torch.bool)

    def _own(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor, Data]:
        """Response, offset and data of the rows in which some chain tells of the base; the mean of those that do."""
        every, y = self.own_rows(y).reshape(-1, y.shape[-1]), y.reshape(-1, y.shape[-1])
        at = every.any(0).nonzero()[:, 0]
        if not len(at) or bool(every.all()):
            return y[0] if len(y) == 1 else y, offset, data
        told = torch.where(every, y, 0.0).sum(0)[at] / every.sum(0)[at]
        return told, offset[at], data.take(at)


class ZeroInflated(MoreZeros):
    """y_i = 0 with probability zi_y + (1 - zi_y) p(0), else (1 - zi_y) p(y_i), p the base: zeros that come on top of
    those of counts. zi_y ~ Beta(1, 1).

    Args:
        base: a family of counts.
    """

    def __init__(self, base: Family) -> None:
        super().__init__(base, "zero_inflated", ("zi_y",))

    def distribution(self, eta: Tensor, v: Values, data: Data) -> zeros.ZeroInflated:
        """Of the base, with more zeros."""
        return zeros.ZeroInflated(self.base.distribution(eta, v, data), v.zi_y)

    def exported(self) -> portable.Portable | None:
        """Around that of the base."""
        return None if (base := self.base.exported()) is None else laws.zero_inflated(base)


class Hurdle(MoreZeros):
    """y_i = 0 with probability hu_y, else y_i > 0 as in the base given that it is above 0. hu_y ~ Beta(1, 1).

    Args:
        base: Poisson or NegativeBinomial, or a family of positive numbers.
    """

    def __init__(self, base: Family) -> None:
        super().__init__(base, "hurdle", ("hu_y",))

    def distribution(self, eta: Tensor, v: Values, data: Data) -> zeros.Hurdle:
        """Zeros apart from what is above."""
        return zeros.Hurdle(self.base.distribution(eta, v, data), v.hu_y)

    def exported(self) -> portable.Portable | None:
        """Around that of the base."""
        return None if (base := self.base.exported()) is None else laws.hurdle(base)

    def unit_of_sizes(self, y: Tensor, data: Data) -> Tensor:
        """Likewise."""
        own, _, part = self._own(y, torch.zeros_like(data.y.reshape(-1, data.n_rows)[0]), data)
        return self.base.unit_of_sizes(own, part)

    def own_rows(self, y: Tensor) -> Tensor:
        """Those above 0."""
        return y > 0


class ZeroOneInflated(MoreZeros):
    """y_i = 0 or 1 with probability zoi_y, and then 1 with probability coi_y, else as in the base, which lies between.
    zoi_y, coi_y ~ Beta(1, 1).

    Args:
        base: a family of shares.
    """

    def __init__(self, base: Family) -> None:
        super().__init__(base, "zero_one_inflated", ("zoi_y", "coi_y"))

    def distribution(self, eta: Tensor, v: Values, data: Data) -> Distribution:
        """Zeros and ones apart from what lies between."""
        return zeros.ZeroOneInflated(self.base.distribution(eta, v, data), v.zoi_y, v.coi_y)

    def exported(self) -> portable.Portable | None:
        """Around that of the base."""
        return None if (base := self.base.exported()) is None else laws.zero_one_inflated(base)

    def unit_of_sizes(self, y: Tensor, data: Data) -> Tensor:
        """Likewise."""
        own, _, part = self._own(y, torch.zeros_like(data.y.reshape(-1, data.n_rows)[0]), data)
        return self.base.unit_of_sizes(own, part)

    def own_rows(self, y: Tensor) -> Tensor:
        """Those between 0 and 1."""
        return (y > 0) & (y < 1)


def _zeros(y: Tensor) -> Tensor:
    return (y == 0).to(y).mean(1)
