"""Rows of which it is known only that they lie beyond a number, or between two; and rows that are seen only between."""

from collections.abc import Sequence
from typing import NoReturn, Self

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from hiertorch.errors import ModelError
from hiertorch.model.intervals import plain_bounds
from hiertorch.model.tails import Tails, inner, log_between, log_tails
from hiertorch.model.within import draw_within, moments_within

LEFT, SEEN, RIGHT, INTERVAL = -1.0, 0.0, 1.0, 2.0
"""Codes of rows: y is an upper end, the response itself, a lower end, or the lower of two ends."""

WORDS = {"left": LEFT, "none": SEEN, "right": RIGHT, "interval": INTERVAL}
"""The same in words."""

Bound = Tensor | float | None
"""A number, one of each row, or none."""


class Known(Constraint):
    """Responses that their codes allow: in the base's support, a known code, and an upper end above a lower one."""

    event_dim = 0

    def __init__(self, base: Constraint, how: Tensor, upper: Tensor | None) -> None:
        self.base, self.how, self.upper = base, how, upper
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Of each response."""
        interval = self.how == INTERVAL
        allowed = ~interval if self.upper is None else ~interval | (self.upper > value)
        known = interval | (self.how == SEEN) | (self.how == RIGHT) | (self.how == LEFT)
        return self.base.check(value) & allowed & known

    def __repr__(self) -> str:
        return f"{self.base}; code 0, 1, -1, or 2 with an upper end above the response"


class Censored(Distribution):
    """Rows by their codes: p(y) where y is seen (0), 1 - F(y) where it was cut off above y (1), F(y) below it (-1), and
    F(upper) - F(y) between two ends (2); p and F are the base's.

    Draws, mean and variance are those of what would be seen without censoring.

    Args:
        base: of what would be seen.
        how: codes, of a shape that broadcasts with the batch.
        upper: the upper ends of rows with code 2, likewise; those of others are not looked at.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(
        self, base: Distribution, how: Tensor, upper: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        self.base, self.how, self.upper = base, how, upper
        super().__init__(torch.broadcast_shapes(base.batch_shape, how.shape), validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        """Responses that are in the base's support and fit their codes."""
        return Known(_support(self.base), self.how, self.upper)

    @property
    def mean(self) -> Tensor:
        """The base's."""
        return self.base.mean

    @property
    def variance(self) -> Tensor:
        """The base's."""
        return self.base.variance

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws `(*sample_shape, *batch)` of what would be seen without censoring."""
        return self.base.expand(self.batch_shape).sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """log of the density, or of the probability."""
        if self._validate_args:
            self._validate_sample(value)
        ends = plain_bounds(self.base)
        seen = self.how == SEEN
        found = self.base.log_prob(value if ends is None else torch.where(seen, value, inner(ends)))
        below, above = log_tails(self.base, value)
        found = torch.where(self.how == RIGHT, above, found)
        found = torch.where(self.how == LEFT, below, found)
        interval = self.how == INTERVAL
        if self.upper is None:
            return torch.where(interval, torch.nan, found)
        low, high = torch.where(interval, value, -torch.inf), torch.where(interval, self.upper, torch.inf)
        return torch.where(interval, log_between(self.base, low, high), found)

    def completed(self, value: Tensor) -> Tensor:
        """Responses as they might have been seen without censoring, `(*batch)`: draws from the base where they were
        cut off, given what is known of them.
        """
        value = value.expand(self.batch_shape)
        low = torch.where(self.how == LEFT, -torch.inf, value)
        upper = torch.where(self.how == INTERVAL, torch.inf if self.upper is None else self.upper, torch.inf)
        high = torch.where(self.how == LEFT, value, upper)
        seen = self.how == SEEN
        low, high = torch.where(seen, -torch.inf, low), torch.where(seen, torch.inf, high)
        return torch.where(seen, value, draw_within(self.base.expand(self.batch_shape), low, high))

    def masses(self, value: Tensor) -> Tails:
        """Pr(y_rep < all that y may be), and Pr(y_rep is among it), `(*batch)`; the second is 0 where y is seen."""
        below, above = (x.exp() for x in log_tails(self.base, value))
        among = torch.where(self.how == RIGHT, above, torch.where(self.how == LEFT, below, 0.0))
        if self.upper is not None:
            interval = self.how == INTERVAL
            low, high = torch.where(interval, value, -torch.inf), torch.where(interval, self.upper, torch.inf)
            among = torch.where(interval, log_between(self.base, low, high).exp(), among)
        return torch.where(self.how == LEFT, 0.0, below), among

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> Self:
        """The same with another batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        new.base, new.how, new.upper = self.base.expand(torch.Size(batch_shape)), self.how, self.upper
        Distribution.__init__(new, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new


class Within(Constraint):
    """Numbers of a support that lie between two ends."""

    event_dim = 0

    def __init__(self, base: Constraint, low: Bound, high: Bound) -> None:
        self.base = base
        self.lower_bound, self.upper_bound = -torch.inf if low is None else low, torch.inf if high is None else high
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Of each response."""
        return self.base.check(value) & (value >= self.lower_bound) & (value <= self.upper_bound)

    def __repr__(self) -> str:
        return f"from {self.lower_bound} to {self.upper_bound}, in {self.base}"


class Truncated(Distribution):
    """p(y) / (F(high) - F(low)) for low <= y <= high: rows that are seen only where they lie between.

    Args:
        base: of all rows.
        low: the lower end; None for none.
        high: the upper end; None for none.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, base: Distribution, low: Bound, high: Bound, validate_args: bool | None = None) -> None:
        self.base, self.low, self.high = base, low, high
        shapes = [x.shape for x in (low, high) if isinstance(x, Tensor)]
        super().__init__(torch.broadcast_shapes(base.batch_shape, *shapes), validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        """Of the base, between the ends."""
        return Within(_support(self.base), self.low, self.high)

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Both, infinite for none."""
        low = -torch.inf if self.low is None else self.low
        high = torch.inf if self.high is None else self.high
        return torch.as_tensor(low, dtype=like.dtype, device=like.device), torch.as_tensor(
            high, dtype=like.dtype, device=like.device
        )

    def log_mass(self, like: Tensor) -> Tensor:
        """log(F(high) - F(low)), in the dtype and on the device of a tensor."""
        low, high = self._ends(like)
        if self.high is None:
            return log_tails(self.base, low)[1]
        return log_tails(self.base, high)[0] if self.low is None else log_between(self.base, low, high)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value); -inf beyond the ends."""
        if self._validate_args:
            self._validate_sample(value)
        low, high = self._ends(value)
        ends, mass = plain_bounds(self.base), self.log_mass(value)
        inside = (value >= low) & (value <= high) & (mass > -torch.inf)
        safe = value if ends is None else torch.where(inside, value, inner(ends))
        return torch.where(inside, self.base.log_prob(safe) - mass, -torch.inf)

    def log_tails(self, x: Tensor) -> Tails:
        """log F(x) and log(1 - F(x))."""
        low, high = self._ends(x)
        mass, inside = self.log_mass(x), torch.minimum(torch.maximum(x, low), high)
        below = log_between(self.base, low, torch.where(inside > low, inside, torch.inf))
        above = log_between(self.base, torch.where(inside < high, inside, -torch.inf), high)
        return torch.where(inside > low, below - mass, -torch.inf), torch.where(inside < high, above - mass, -torch.inf)

    def cdf(self, value: Tensor) -> Tensor:
        """F(value)."""
        return self.log_tails(value)[0].exp()

    @property
    def mean(self) -> Tensor:
        """Of the rows between the ends; a NotImplementedError where it is not known."""
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """Likewise."""
        first, second = self._moments()
        return (second - first.square()).clamp(min=0.0)

    def _moments(self) -> tuple[Tensor, Tensor]:
        low, high = self._ends(_any_parameter(self.base))
        first, second = moments_within(self.base, low, high)
        return first.expand(self.batch_shape), second.expand(self.batch_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws `(*sample_shape, *batch)`."""
        base = self.base.expand(torch.Size((*sample_shape, *self.batch_shape)))
        low, high = self._ends(_any_parameter(self.base))
        return draw_within(base, low, high)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> Self:
        """The same with another batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        new.base, new.low, new.high = self.base.expand(torch.Size(batch_shape)), self.low, self.high
        Distribution.__init__(new, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new


def uncut(distribution: Distribution) -> Distribution:
    """What rows would be without censoring and truncation."""
    while isinstance(distribution, Censored | Truncated):
        distribution = distribution.base
    return distribution


def censored(base: Distribution, how: Tensor, upper: Tensor | None = None) -> Censored:
    """A likelihood whose rows are seen as their codes say: p(y) where `how` is 0, 1 - F(y) where it is 1 (cut off above
    y: right-censored), F(y) where it is -1 (left-censored), F(upper) - F(y) where it is 2 (interval-censored).

    Draws and predictions are of what would be seen without censoring.

    Args:
        base: the distribution without censoring, of batch shape `(chains, rows)`: Normal, StudentT, LogNormal, Gamma,
            Exponential, Weibull, Beta, one of hiertorch's own continuous ones, or one with a method
            `log_tails(self, x)`, which gives log F(x) and log(1 - F(x)).
        how: such a column, `(rows,)`.
        upper: a column of upper ends, `(rows,)`, of rows with code 2.

    Raises:
        ModelError: for what is no distribution, or no column.

    Example:
        >>> import torch, hiertorch as ht
        >>> time, how = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])
        >>> ht.censored(torch.distributions.Exponential(torch.ones(2)), how).log_prob(time)
        tensor([-1., -2.])
    """
    if not isinstance(base, Distribution):
        _refuse("censored", base)
    if not isinstance(how, Tensor) or not (upper is None or isinstance(upper, Tensor)):
        raise ModelError(
            f"censored rows have codes, and upper ends, in columns such as data.how; found {how!r} and {upper!r}."
        )
    return Censored(base, how, upper)


def truncated(base: Distribution, low: Bound = None, high: Bound = None) -> Truncated:
    """p(y) / (F(high) - F(low)) for low <= y <= high: a likelihood of rows that are seen only where they lie between.

    Args:
        base: the distribution of all rows, as of `censored`.
        low: the lower end, a number or a column `(rows,)`; None for none.
        high: the upper end, likewise.

    Raises:
        ModelError: for what is no distribution, without both ends, and for a lower end that is not below the upper one.

    Example:
        >>> import torch, hiertorch as ht
        >>> normal = torch.distributions.Normal(0.0, 1.0)
        >>> ht.truncated(normal, low=0.0).log_prob(torch.tensor(1.0)) - normal.log_prob(torch.tensor(1.0))
        tensor(0.6931)
    """
    if not isinstance(base, Distribution):
        _refuse("truncated", base)
    if low is None and high is None:
        raise ModelError("truncated rows lie above low=, below high=, or between both; found neither.")
    if not isinstance(low, Tensor | None) and not isinstance(high, Tensor | None) and low >= high:
        raise ModelError(f"truncated rows lie from low= to a higher high=; found {low!r} and {high!r}.")
    return Truncated(base, low, high)


def _refuse(name: str, base: object) -> NoReturn:
    raise ModelError(f"{name}() takes a torch.distributions object of the rows; found {base!r}.")


def _support(base: Distribution) -> Constraint:
    try:
        return base.support or constraints.real
    except NotImplementedError:
        return constraints.real


def _any_parameter(base: Distribution) -> Tensor:
    """For its dtype and device."""
    if (own := getattr(base, "base", None)) is not None:
        return _any_parameter(own)
    return next(x for name in base.arg_constraints for x in [getattr(base, name)] if isinstance(x, Tensor))
