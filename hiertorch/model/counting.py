"""Draws of counts of any size.

y ~ Poisson(m): torch draws whole numbers of 64 bits, and gives -2^63 where m is beyond them. A count of such a mean is
the mean to nine digits, since its sd is sqrt(m), and so the mean is given.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, NegativeBinomial, Poisson

LARGEST = 2.0**62
"""Mean of counts that are drawn."""


def draw(distribution: Distribution, shape: Sequence[int] = ()) -> Tensor:
    """Draws `(*shape, *batch)` of any distribution, by its own random numbers."""
    if type(distribution) is Poisson:
        return counts(distribution.rate.expand(torch.Size((*shape, *distribution.batch_shape))))
    if type(distribution) is NegativeBinomial:
        rates = Gamma(distribution.total_count, (-distribution.logits).exp(), validate_args=False)
        with torch.no_grad():
            return counts(rates.sample(torch.Size(shape)))
    return distribution.sample(torch.Size(shape))


def counts(means: Tensor) -> Tensor:
    """y ~ Poisson(m), of the shape of m."""
    with torch.no_grad():
        return torch.where(means < LARGEST, torch.poisson(means.clamp(max=LARGEST)), means)
