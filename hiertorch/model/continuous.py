"""Distributions of continuous rows that `torch.distributions` lacks."""

from collections.abc import Sequence
from math import log, pi, sqrt
from typing import Self

import torch
from torch import Tensor
from torch.distributions import Beta, Distribution, Gamma, constraints
from torch.distributions.utils import broadcast_all

LOG_TWO_PI = log(2.0 * pi)
LARGEST_SKEWNESS_SHIFT = sqrt(2.0 / pi)


class Scalars(Distribution):
    """A distribution of single numbers, whose parameters have one shape, that of the batch.

    Args:
        parameters: by name, which broadcast.
    """

    def __init__(self, validate_args: bool | None = None, **parameters: Tensor | float) -> None:
        for name, x in zip(parameters, broadcast_all(*parameters.values()), strict=True):
            setattr(self, name, x)
        self.names = tuple(parameters)
        super().__init__(getattr(self, self.names[0]).shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> Self:
        """The same with another batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        for name in self.names:
            setattr(new, name, getattr(self, name).expand(batch_shape))
        new.names = self.names
        Distribution.__init__(new, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value)."""
        if self._validate_args:
            self._validate_sample(value)
        return self.log_density(value)

    def log_density(self, value: Tensor) -> Tensor:
        """log p(value), unchecked."""
        raise NotImplementedError


class OpenInterval(constraints.interval):
    """Numbers between two others, which are not among them."""

    def check(self, value: Tensor) -> Tensor:
        """Whether they are."""
        return (value > self.lower_bound) & (value < self.upper_bound)

    def __repr__(self) -> str:
        return f"OpenInterval(lower_bound={self.lower_bound}, upper_bound={self.upper_bound})"


class PositiveGamma(Gamma):
    """Torch's gamma distribution on numbers above 0: at 0, which torch's takes, its density is 0 or infinite."""

    support = constraints.positive  # type: ignore[assignment]


class OpenBeta(Beta):
    """Torch's beta distribution on numbers above 0 and below 1: at the ends, which torch's takes, its density is 0 or
    infinite.
    """

    support = OpenInterval(0.0, 1.0)


class InverseGaussian(Scalars):
    """p(y) = sqrt(shape / (2 pi y^3)) exp(-shape (y - mean)^2 / (2 mean^2 y)) for y > 0, with variance mean^3 / shape.

    Args:
        loc: the mean, positive.
        shape: positive.
    """

    arg_constraints = {"loc": constraints.positive, "shape": constraints.positive}  # noqa: RUF012
    support = constraints.positive
    loc: Tensor
    shape: Tensor

    def __init__(self, loc: Tensor | float, shape: Tensor | float, validate_args: bool | None = None) -> None:
        super().__init__(validate_args, loc=loc, shape=shape)

    @property
    def mean(self) -> Tensor:
        """loc."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """loc^3 / shape."""
        return self.loc**3 / self.shape

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws `(*sample_shape, *batch_shape)` by the root of a chi-squared number (Michael, Schucany & Haas 1976), in
        the form that stays exact for small shape / loc.
        """
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            half = self.loc * torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device).square() / self.shape / 2
            # The smaller root of the quadratic, m (1 + h - sqrt(h^2 + 2 h)), by its reciprocal.
            small = self.loc / (1.0 + half + (half.square() + 2.0 * half).sqrt())
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            return torch.where(u * (self.loc + small) <= self.loc, small, self.loc.square() / small)

    def log_density(self, value: Tensor) -> Tensor:
        """See the class."""
        away = (value / self.loc - 1.0).square() / value
        return 0.5 * (self.shape.log() - LOG_TWO_PI - 3.0 * value.log() - self.shape * away)


class SkewNormal(Scalars):
    """p(y) = 2 / w phi(z) Phi(skew z), z = (y - x) / w, with x and w such that y has mean loc and sd scale:
    w = scale / sqrt(1 - 2 d^2 / pi), x = loc - w d sqrt(2 / pi), d = skew / sqrt(1 + skew^2) (Azzalini 1985).

    Args:
        loc: the mean.
        scale: the standard deviation, positive.
        skew: 0 of a normal distribution, any number.
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real,
        "scale": constraints.positive,
        "skew": constraints.real,
    }
    support = constraints.real
    loc: Tensor
    scale: Tensor
    skew: Tensor

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        skew: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(validate_args, loc=loc, scale=scale, skew=skew)

    @property
    def mean(self) -> Tensor:
        """loc."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """scale^2."""
        return self.scale.square()

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws `(*sample_shape, *batch_shape)`: x + w (d |a| + sqrt(1 - d^2) b) of standard normal a and b."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            d, width = self._delta(), self.width
            a, b = torch.randn(2, *shape, dtype=self.loc.dtype, device=self.loc.device)
            return self.loc + width * (d * (a.abs() - LARGEST_SKEWNESS_SHIFT) + (1.0 - d.square()).sqrt() * b)

    def log_density(self, value: Tensor) -> Tensor:
        """See the class."""
        z = self.standardised(value)
        return log(2.0) - 0.5 * (LOG_TWO_PI + z.square()) - self.width.log() + torch.special.log_ndtr(self.skew * z)

    def standardised(self, value: Tensor) -> Tensor:
        """z."""
        return (value - self.loc) / self.width + self._delta() * LARGEST_SKEWNESS_SHIFT

    def _delta(self) -> Tensor:
        return self.skew / (1.0 + self.skew.square()).sqrt()

    @property
    def width(self) -> Tensor:
        """w."""
        return self.scale / (1.0 - self._delta().square() * (2.0 / pi)).sqrt()


class AsymmetricLaplace(Scalars):
    """p(y) = q (1 - q) / scale exp(-r(y - loc) / scale), r(x) = x (q - 1{x < 0}): loc is the q-th quantile of y, and
    the mode (Yu & Moyeed 2001).

    Args:
        loc: the quantile.
        scale: positive.
        quantile: q, between 0 and 1.
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real,
        "scale": constraints.positive,
        "quantile": constraints.unit_interval,
    }
    support = constraints.real
    loc: Tensor
    scale: Tensor
    quantile: Tensor

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        quantile: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(validate_args, loc=loc, scale=scale, quantile=quantile)

    @property
    def mean(self) -> Tensor:
        """loc + scale (1 - 2 q) / (q (1 - q))."""
        q = self.quantile
        return self.loc + self.scale * (1.0 - 2.0 * q) / (q * (1.0 - q))

    @property
    def variance(self) -> Tensor:
        """scale^2 (1 - 2 q + 2 q^2) / (q (1 - q))^2."""
        q = self.quantile
        return (self.scale / (q * (1.0 - q))).square() * (1.0 - 2.0 * q + 2.0 * q.square())

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws `(*sample_shape, *batch_shape)`: a standard exponential number over q less another one over 1 - q."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            a, b = torch.empty(2, *shape, dtype=self.loc.dtype, device=self.loc.device).exponential_()
            return self.loc + self.scale * (a / self.quantile - b / (1.0 - self.quantile))

    def log_density(self, value: Tensor) -> Tensor:
        """See the class."""
        q, z = self.quantile, (value - self.loc) / self.scale
        return q.log() + torch.log1p(-q) - self.scale.log() - z * torch.where(z < 0, q - 1.0, q)


class BetaBinomial(Scalars):
    """p(y) = C(n, y) B(y + a, n - y + b) / B(a, b): successes of n trials whose probability is Beta(a, b).

    Args:
        total_count: n, whole numbers from 0 on.
        concentration1: a, positive.
        concentration0: b, positive.
    """

    arg_constraints = {  # noqa: RUF012
        "total_count": constraints.nonnegative_integer,
        "concentration1": constraints.positive,
        "concentration0": constraints.positive,
    }
    total_count: Tensor
    concentration1: Tensor
    concentration0: Tensor

    def __init__(
        self,
        total_count: Tensor | float,
        concentration1: Tensor | float,
        concentration0: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        a, b = concentration1, concentration0
        super().__init__(validate_args, total_count=total_count, concentration1=a, concentration0=b)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """0 to n."""
        return constraints.integer_interval(0, self.total_count)

    @property
    def mean(self) -> Tensor:
        """n p, p = a / (a + b)."""
        return self.total_count * self.concentration1 / (self.concentration1 + self.concentration0)

    @property
    def variance(self) -> Tensor:
        """n p (1 - p) (a + b + n) / (a + b + 1)."""
        total = self.concentration1 + self.concentration0
        failed = self.concentration0 / total
        return self.mean * failed * (total + self.total_count) / (total + 1.0)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws `(*sample_shape, *batch_shape)`."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            p = torch.distributions.Beta(
                self.concentration1.expand(shape), self.concentration0.expand(shape), validate_args=False
            ).sample()
            return torch.binomial(self.total_count.expand(shape), p)

    def log_density(self, value: Tensor) -> Tensor:
        """See the class."""
        n, a, b = self.total_count, self.concentration1, self.concentration0
        ways = torch.lgamma(n + 1.0) - torch.lgamma(value + 1.0) - torch.lgamma(n - value + 1.0)
        return ways + _log_beta(value + a, n - value + b) - _log_beta(a, b)


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
