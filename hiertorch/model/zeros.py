"""Distributions with more zeros, or ones, than another one has."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, NegativeBinomial, Poisson, constraints

from hiertorch.model.counting import counts, draw

FREE = 0.5
"""A value at which densities of positive numbers and of shares are finite; it stands in for zeros and ones there."""


class _Mixed(Distribution):
    """Another distribution, `base`, and a share of rows that are otherwise."""

    arg_constraints = {"share": constraints.unit_interval}  # noqa: RUF012

    def __init__(self, base: Distribution, share: Tensor, validate_args: bool | None = None) -> None:
        batch = torch.broadcast_shapes(base.batch_shape, share.shape)
        self.base, self.share = base.expand(batch), share
        super().__init__(batch, validate_args=validate_args)

    @property
    def variance(self) -> Tensor:
        """E[y^2] - E[y]^2."""
        return self.second_moment - self.mean.square()

    @property
    def second_moment(self) -> Tensor:
        """E[y^2]."""
        raise NotImplementedError

    @property
    def base_second_moment(self) -> Tensor:
        """Of the base."""
        return self.base.variance + self.base.mean.square()

    def is_otherwise(self, sample_shape: Sequence[int]) -> Tensor:
        """Which draws `(*sample_shape, *batch)` are of the share."""
        share = self.share.expand(torch.Size((*sample_shape, *self.batch_shape)))
        return torch.rand_like(share) < share

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> "_Mixed":
        """The same with another batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        new.__dict__.update({name: x.expand(torch.Size(batch_shape)) for name, x in self._parts().items()})
        Distribution.__init__(new, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _parts(self) -> dict[str, Distribution | Tensor]:
        return {"base": self.base, "share": self.share}


class ZeroInflated(_Mixed):
    """p(y) = share 1(y = 0) + (1 - share) base(y): some rows are 0 whatever the base says (Lambert 1992).

    Args:
        base: of whole numbers from 0 on.
        share: of rows that are 0 for another reason.
    """

    @property
    def support(self) -> constraints.Constraint:
        """That of the base."""
        return self.base.support

    @property
    def mean(self) -> Tensor:
        """(1 - share) times that of the base."""
        return (1.0 - self.share) * self.base.mean

    @property
    def second_moment(self) -> Tensor:
        """E[y^2]."""
        return (1.0 - self.share) * self.base_second_moment

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value); of 0 log(share + (1 - share) base(0))."""
        if self._validate_args:
            self._validate_sample(value)
        rest = torch.log1p(-self.share) + self.base.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(self.share.log(), rest), rest)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws `(*sample_shape, *batch)`."""
        drawn = draw(self.base, sample_shape)
        return torch.where(self.is_otherwise(sample_shape), 0.0, drawn)


class Hurdle(_Mixed):
    """p(0) = share, p(y) = (1 - share) base(y) / (1 - base(0)) for y > 0: whether there is anything, and how much
    (Mullahy 1986). A continuous base of positive numbers has base(0) = 0.

    Args:
        base: of whole numbers from 0 on, or of positive numbers.
        share: of rows that are 0.
    """

    @property
    def support(self) -> constraints.Constraint:
        """Numbers from 0 on, whole if those of the base are."""
        return constraints.nonnegative_integer if self._counts else constraints.nonnegative

    @property
    def _counts(self) -> bool:
        return bool(self.base.support.is_discrete) if self.base.support is not None else False

    @property
    def _log_positive(self) -> Tensor:
        """log(1 - base(0))."""
        if not self._counts:
            return torch.zeros_like(self.base.mean)
        return (-torch.expm1(self.base.log_prob(torch.zeros_like(self.base.mean)))).log()

    def _above(self, moment: Tensor) -> Tensor:
        """A moment of the base, `(*batch)`, given y > 0; a count whose mean is so small that it is 0 is then 1."""
        found = moment * (-self._log_positive).exp()
        return torch.where(self.base.mean > 0, found, 1.0) if self._counts else found

    @property
    def mean(self) -> Tensor:
        """(1 - share) times that of the base above 0."""
        return (1.0 - self.share) * self._above(self.base.mean)

    @property
    def second_moment(self) -> Tensor:
        """E[y^2]."""
        return (1.0 - self.share) * self._above(self.base_second_moment)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value)."""
        if self._validate_args:
            self._validate_sample(value)
        zero = value == 0
        above = torch.where(zero, 1.0 if self._counts else FREE, value)
        rest = torch.log1p(-self.share) + self.base.log_prob(above)
        if self._counts:
            rest = rest - self._log_positive
        return torch.where(zero, self.share.log(), rest)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws `(*sample_shape, *batch)`."""
        shape = torch.Size(sample_shape)
        if self._counts:
            drawn = POSITIVE[type(self.base)](self.base.expand(shape + self.batch_shape))
        else:
            drawn = self.base.sample(shape)
        return torch.where(self.is_otherwise(sample_shape), 0.0, drawn)


class ZeroOneInflated(_Mixed):
    """p(0) = share (1 - ones), p(1) = share ones, p(y) = (1 - share) base(y) in between (Ospina & Ferrari 2010).

    Args:
        base: of numbers between 0 and 1.
        share: of rows that are 0 or 1.
        ones: of these, the share that are 1.
    """

    arg_constraints = {"share": constraints.unit_interval, "ones": constraints.unit_interval}  # noqa: RUF012
    support = constraints.unit_interval

    def __init__(self, base: Distribution, share: Tensor, ones: Tensor, validate_args: bool | None = None) -> None:
        self.ones = ones
        super().__init__(base, share, validate_args)

    def _parts(self) -> dict[str, Distribution | Tensor]:
        return {**super()._parts(), "ones": self.ones}

    @property
    def mean(self) -> Tensor:
        """share ones + (1 - share) times that of the base."""
        return self.share * self.ones + (1.0 - self.share) * self.base.mean

    @property
    def second_moment(self) -> Tensor:
        """E[y^2]."""
        return self.share * self.ones + (1.0 - self.share) * self.base_second_moment

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value)."""
        if self._validate_args:
            self._validate_sample(value)
        zero, one = value == 0, value == 1
        rest = torch.log1p(-self.share) + self.base.log_prob(torch.where(zero | one, FREE, value))
        at_end = self.share.log() + torch.where(one, self.ones.log(), torch.log1p(-self.ones))
        return torch.where(zero | one, at_end, rest)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws `(*sample_shape, *batch)`."""
        drawn = self.base.sample(torch.Size(sample_shape))
        ends = (torch.rand_like(drawn) < self.ones).to(drawn)
        return torch.where(self.is_otherwise(sample_shape), ends, drawn)


def _first_arrival(rate: Tensor) -> Tensor:
    """The time of the first event of a Poisson process within the time 1, given that there is one; uniform where the
    rate is 0.
    """
    u, rate = torch.rand_like(rate), rate.clamp(min=torch.finfo(rate.dtype).tiny)
    return -torch.log1p(u * torch.expm1(-rate)) / rate


def _positive_poisson(base: Distribution) -> Tensor:
    """Draws above 0: the first event, and those in the time that is left."""
    assert isinstance(base, Poisson)
    return 1.0 + counts(base.rate * (1.0 - _first_arrival(base.rate)).clamp(min=0.0))


def _positive_negative_binomial(base: Distribution) -> Tensor:
    """Draws above 0: events of a Poisson process that count a logarithmic number each (Quenouille 1949); the first one,
    by Kemp (1981), and a negative binomial number of the time that is left.
    """
    assert isinstance(base, NegativeBinomial)
    count, logits = torch.broadcast_tensors(base.total_count, base.logits)
    per = torch.nn.functional.softplus(logits)  # -log(1 - q)
    left = (1.0 - _first_arrival(count * per)).clamp(min=torch.finfo(per.dtype).tiny)
    u, v = torch.rand_like(per), torch.rand_like(per)
    first = (1.0 + v.log() / (-torch.expm1(-per * u)).log()).floor().clamp(min=1.0)
    rate = torch._standard_gamma(count * left) * logits.exp()
    return first + counts(rate)


POSITIVE: dict[type[Distribution], Callable[[Distribution], Tensor]] = {
    Poisson: _positive_poisson,
    NegativeBinomial: _positive_negative_binomial,
}
"""Draws above 0 of counts, one for each place of the batch."""
