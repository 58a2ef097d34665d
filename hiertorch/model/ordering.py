"""Priors of vectors whose entries ascend, such as the thresholds of ordered categories."""

from collections.abc import Sequence
from math import lgamma

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from hiertorch.errors import ModelError
from hiertorch.model.bijections import OrderedVector
from hiertorch.model.intervals import INTERVALS


class Ordered(Distribution):
    """p(x) = K! prod_k p(x_k) where x_1 < ... < x_K, and 0 elsewhere: K independent draws of one law, put in order.

    Args:
        base: of each entry; a continuous law of real numbers, or of those above a bound or between two.
        size: K.

    Raises:
        ModelError: for another base or size.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, base: Distribution, size: int, validate_args: bool | None = None) -> None:
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ModelError(f"size is the number of entries that are in order, 1 or more; found {size!r}.")
        if not isinstance(base, Distribution) or base.event_shape:
            raise ModelError(f"the entries of an ordered vector have the law of single numbers; found {base!r}.")
        support = base.support
        ascending = (constraints.greater_than, constraints.greater_than_eq, constraints.interval)
        if support is not constraints.real and not (isinstance(support, INTERVALS) and isinstance(support, ascending)):
            raise ModelError(
                "entries that are in order have a continuous law of all real numbers, of those above a bound or "
                f"between two; found {type(base).__name__} with the support {support}."
            )
        self.base, self.size = base, size
        super().__init__(base.batch_shape, torch.Size([size]), validate_args=validate_args)

    def __repr__(self) -> str:
        return f"ordered({self.base}, {self.size})"

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Ascending vectors of numbers that the base has."""
        return OrderedVector(self.base.support or constraints.real)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws `(*sample_shape, *batch_shape, K)`."""
        draws = self.base.sample(torch.Size([self.size, *sample_shape]))
        return draws.movedim(0, -1).sort(-1).values

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), value `(..., K)`."""
        each = torch.stack([self.base.log_prob(value[..., k]) for k in range(self.size)], -1)
        return each.sum(-1) + lgamma(self.size + 1)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> "Ordered":
        """The same with another batch shape."""
        new = self._get_checked_instance(Ordered, _instance)
        new.base, new.size = self.base.expand(torch.Size(batch_shape)), self.size
        super(Ordered, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new


def ordered(base: Distribution, size: int) -> Ordered:
    """A prior of x_1 < ... < x_K: K independent draws of `base`, put in order, with density K! prod_k base(x_k).

    Args:
        base: of each entry, such as Normal(0.0, 3.0).
        size: K.

    Raises:
        ModelError: for a base without order (discrete, or of vectors), or a size below 1.

    Example:
        >>> import hiertorch as ht
        >>> from torch.distributions import Normal
        >>> ht.Latent(ht.ordered(Normal(0.0, 3.0), 4), labels=["1|2", "2|3", "3|4", "4|5"]).axes
        (('1|2', '2|3', '3|4', '4|5'),)
    """
    return Ordered(base, size)
