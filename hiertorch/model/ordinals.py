"""Distributions of ordered categories, given a number of each row and the thresholds between categories.

Categories are coded 0 to K - 1; cuts c_1, ..., c_{K-1} lie between them. F is a distribution function, Logistic, normal
(probit) or that of log exponential times (cloglog).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid
from torch.special import log_ndtr

SMALL = -30.0
"""Below it log(1 - exp(-exp(x))) is x in double precision."""

LARGE = 80.0
"""Above it exp(x) stands still: exp(-exp(80)) is 0 in any precision, and exp(80) is finite in all."""


def _log_complement(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0."""
    return (-torch.expm1(x)).log()


def _log_logistic_between(low: Tensor, high: Tensor) -> Tensor:
    """F(h) - F(l) = F(h) (1 - F(l)) (1 - exp(l - h)), which stays exact far out on either side."""
    return logsigmoid(high) + logsigmoid(-low) + _log_complement(low - high)


def _log_normal_between(low: Tensor, high: Tensor) -> Tensor:
    """In the lower tail, into which an interval above 0 is mirrored."""
    above = low > 0
    more, less = log_ndtr(torch.where(above, -low, high)), log_ndtr(torch.where(above, -high, low))
    return more + _log_complement(less - more)


def _log_extreme(x: Tensor) -> Tensor:
    """log F, F(x) = 1 - exp(-exp(x))."""
    near = _log_complement(-x.clamp(SMALL, LARGE).exp())
    return torch.where(x < SMALL, x, near)


def _log_extreme_rest(x: Tensor) -> Tensor:
    """log(1 - F) = -exp(x)."""
    return -x.clamp(max=LARGE).exp()


def _log_extreme_between(low: Tensor, high: Tensor) -> Tensor:
    """exp(-exp(l)) (1 - exp(-exp(l) (exp(h - l) - 1)))."""
    size = low.clamp(max=LARGE) + torch.expm1((high - low).clamp(max=LARGE)).log()
    return _log_extreme_rest(low) + _log_extreme(size)


class Law(NamedTuple):
    """A distribution function F by its logarithms.

    Attributes:
        below: x -> log F(x).
        above: x -> log(1 - F(x)).
        between: l, h -> log(F(h) - F(l)) for l < h.
    """

    below: Callable[[Tensor], Tensor]
    above: Callable[[Tensor], Tensor]
    between: Callable[[Tensor, Tensor], Tensor]


LAWS = {
    "logit": Law(logsigmoid, lambda x: logsigmoid(-x), _log_logistic_between),
    "probit": Law(log_ndtr, lambda x: log_ndtr(-x), _log_normal_between),
    "cloglog": Law(_log_extreme, _log_extreme_rest, _log_extreme_between),
}
"""By the link, F^-1."""


class Ordinal(Distribution):
    """p(y = k), k = 0, ..., K - 1, a function of c_j - eta.

    Args:
        eta: numbers of any shape.
        cuts: `(..., K - 1)`, whose axes before the last broadcast with those of eta.
        link: of F, a name in `LAWS`.
    """

    arg_constraints = {"eta": constraints.real, "cuts": constraints.real_vector}  # noqa: RUF012

    def __init__(self, eta: Tensor, cuts: Tensor, link: str = "logit", validate_args: bool | None = None) -> None:
        self.eta, self.cuts, self.link = eta, cuts, link
        batch = torch.broadcast_shapes(eta.shape, cuts.shape[:-1])
        super().__init__(batch, validate_args=validate_args)

    @property
    def categories(self) -> int:
        """K."""
        return self.cuts.shape[-1] + 1

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """Whole numbers from 0 to K - 1."""
        return constraints.integer_interval(0, self.categories - 1)

    @property
    def law(self) -> Law:
        """F."""
        return LAWS[self.link]

    @property
    def gaps(self) -> Tensor:
        """c_j - eta, `(*batch, K - 1)`."""
        return self.cuts - self.eta.unsqueeze(-1)

    @property
    def log_probs(self) -> Tensor:
        """log p of every category, `(*batch, K)`."""
        raise NotImplementedError

    @property
    def probs(self) -> Tensor:
        """p of every category, `(*batch, K)`."""
        return self.log_probs.exp()

    @property
    def mean(self) -> Tensor:
        """The expected category, sum_k k p_k."""
        return self.probs @ self._codes

    @property
    def variance(self) -> Tensor:
        """sum_k (k - mean)^2 p_k."""
        p = self.probs
        return (p * (self._codes - (p @ self._codes).unsqueeze(-1)).square()).sum(-1)

    @property
    def _codes(self) -> Tensor:
        return torch.arange(self.categories, dtype=self.eta.dtype, device=self.eta.device)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), values `(...)` that broadcast with the batch."""
        if self._validate_args:
            self._validate_sample(value)
        table = self.log_probs
        shape = torch.broadcast_shapes(value.shape, table.shape[:-1])
        at = value.long().expand(shape).unsqueeze(-1)
        return table.expand(*shape, -1).gather(-1, at).squeeze(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws `(*sample_shape, *batch)`: the number of cumulative probabilities below a uniform number."""
        below = self.probs[..., :-1].cumsum(-1)
        u = torch.rand((*sample_shape, *self.batch_shape), dtype=below.dtype, device=below.device)
        return (u.unsqueeze(-1) > below).sum(-1).to(below.dtype)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> "Ordinal":
        """The same with another batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        shape = torch.Size(batch_shape)
        new.eta, new.cuts, new.link = self.eta.expand(shape), self.cuts.expand(*shape, -1), self.link
        super(Ordinal, new).__init__(shape, validate_args=False)
        new._validate_args = self._validate_args
        return new


class Cumulative(Ordinal):
    """P(y <= k) = F(c_{k+1} - eta), with ascending cuts (McCullagh 1980)."""

    @property
    def log_probs(self) -> Tensor:
        """Between two cuts, and beyond the first and the last."""
        x = self.gaps
        middle = self.law.between(x[..., :-1], x[..., 1:])
        return torch.cat([self.law.below(x[..., :1]), middle, self.law.above(x[..., -1:])], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Of the two cuts around a value alone; where there is one, another stands in for the other."""
        if self._validate_args:
            self._validate_sample(value)
        last = self.cuts.shape[-1]
        k = value.long()
        first, end = k <= 0, k >= last
        low = self._cut((k - 1).clamp(0, last - 1)) - self.eta
        high = self._cut(k.clamp(0, last - 1)) - self.eta
        if last == 1:
            return torch.where(first, self.law.below(high), self.law.above(low))
        one = first | end
        inside = self.law.between(torch.where(one, -1.0, low), torch.where(one, 1.0, high))
        return torch.where(first, self.law.below(high), torch.where(end, self.law.above(low), inside))

    def _cut(self, k: Tensor) -> Tensor:
        """c_{k+1} of each value."""
        if k.dim() == 1 and (self.cuts.dim() == 1 or self.cuts.shape[-2] == 1):
            return self.cuts.flatten(-2).index_select(-1, k) if self.cuts.dim() > 1 else self.cuts[k]
        shape = torch.broadcast_shapes(k.shape, self.cuts.shape[:-1])
        return self.cuts.expand(*shape, -1).gather(-1, k.expand(shape).unsqueeze(-1)).squeeze(-1)


class StoppingRatio(Ordinal):
    """P(y = k | y >= k) = F(c_{k+1} - eta): each category is a step at which a row stops (Tutz 1991)."""

    @property
    def log_probs(self) -> Tensor:
        """Stopped at a category after going on at all before it."""
        x = self.gaps
        on = self.law.above(x).cumsum(-1)
        here = torch.cat([self.law.below(x), torch.zeros_like(x[..., :1])], -1)
        return here + torch.cat([torch.zeros_like(x[..., :1]), on], -1)


class AdjacentCategories(Ordinal):
    """log(p_k / p_{k-1}) = eta - c_k (Agresti 2010, section 4.1), with the link logit."""

    @property
    def log_probs(self) -> Tensor:
        """p_k in proportion to exp(sum_{j<=k} (eta - c_j))."""
        x = self.gaps
        return torch.cat([torch.zeros_like(x[..., :1]), -x.cumsum(-1)], -1).log_softmax(-1)
