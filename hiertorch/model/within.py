"""Draws, and means of y and y^2, of a distribution between two ends, which may be infinite.

docs/decisions.md: Tails of rows are integrals.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, distributions
from torch.distributions import Distribution, constraints

from hiertorch.model import continuous
from hiertorch.model.copies import picked
from hiertorch.model.intervals import bounds
from hiertorch.model.tails import log_between, log_tails

TRIES = 12
"""Times that a number is drawn before it is found from the distribution function."""

HALVINGS = 80
"""Of the interval that it is sought in, whose logarithm is at most 1,500 long."""

Moments = tuple[Tensor, Tensor]
"""E[y] and E[y^2]."""


def draw_within(distribution: Distribution, low: Tensor, high: Tensor) -> Tensor:
    """A draw for each place of the batch, of which the parameters are those of each place, given that it lies between:
    by rejection, and where that fails by halving an interval.
    """
    y = distribution.sample()
    low, high = low.expand_as(y), high.expand_as(y)
    for attempt in range(TRIES + 1):
        outside = (y < low) | (y > high) | y.isnan()
        if not bool(outside.any()):
            break
        few, a, b = picked(distribution, outside), low[outside], high[outside]
        again = few.sample() if attempt < TRIES else _inverted(few, a, b, torch.rand_like(a))
        y = y.masked_scatter(outside, again)
    return y


def _inverted(distribution: Distribution, low: Tensor, high: Tensor, u: Tensor) -> Tensor:
    """Where (F(y) - F(low)) / (F(high) - F(low)) = u, in the tail in which both ends lie."""
    (below_low, above_low), (below_high, above_high) = log_tails(distribution, low), log_tails(distribution, high)
    mass = log_between(distribution, low, high)
    left = below_high <= above_low
    wanted = torch.where(
        left,
        torch.logaddexp(below_low, u.log() + mass),
        torch.logaddexp(above_high, torch.log1p(-u) + mass),
    )
    forward, inverse = _coordinate(distribution)
    most = math.log(torch.finfo(u.dtype).max) - 1.0
    start, stop = inverse(low).clamp(-most, most), inverse(high).clamp(-most, most)
    for _ in range(HALVINGS):
        middle = 0.5 * (start + stop)
        below, above = log_tails(distribution, forward(middle))
        more = torch.where(left, below < wanted, above > wanted)  # y lies further right
        start, stop = torch.where(more, middle, start), torch.where(more, stop, middle)
    return torch.minimum(torch.maximum(forward(0.5 * (start + stop)), low), high)


def _coordinate(distribution: Distribution) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """From the real line, in which numbers of all sizes are near one another, onto the support, and back."""
    ends = None if distribution.support is None else bounds(distribution.support)
    if ends == (0.0, 1.0):
        return torch.sigmoid, lambda y: torch.logit(y.clamp(0.0, 1.0))
    if ends is not None and ends[0] == 0.0:
        return torch.exp, lambda y: y.clamp(min=0.0).log()
    return torch.sinh, torch.asinh


def moments_within(distribution: Distribution, low: Tensor, high: Tensor) -> Moments:
    """E[y | low < y < high] and E[y^2 | low < y < high].

    Raises:
        NotImplementedError: for a distribution of which they are not known.
    """
    for kind in type(distribution).__mro__:
        if kind in BIASED:
            whole = log_between(distribution, low, high)
            first, second = (BIASED[kind](distribution, power) for power in (1, 2))
            ends = low.clamp(min=0.0), high
            return _ratio(*first, *ends, whole), _ratio(*second, *ends, whole)
        if kind in BY_PARTS:
            return BY_PARTS[kind](distribution, low, high, log_between(distribution, low, high))
    raise NotImplementedError


def _ratio(log_moment: Tensor, biased: Distribution, low: Tensor, high: Tensor, whole: Tensor) -> Tensor:
    """E[y^r] of all numbers, times the part of it that lies between, over the part of the numbers that do."""
    return (log_moment + log_between(biased, low, high) - whole).exp()


# Of positive numbers, those with the density y^r p(y) / E[y^r]; of Weibull ones, of z = (y / scale)^k


def _biased_lognormal(d: Distribution, power: int) -> tuple[Tensor, Distribution]:
    assert isinstance(d, distributions.LogNormal)
    variance = d.scale.square()
    moved = distributions.LogNormal(d.loc + power * variance, d.scale, validate_args=False)
    return power * d.loc + 0.5 * power**2 * variance, moved


def _biased_gamma(d: Distribution, power: int) -> tuple[Tensor, Distribution]:
    assert isinstance(d, distributions.Gamma)
    more = d.concentration + power
    log_moment = torch.lgamma(more) - torch.lgamma(d.concentration) - power * d.rate.log()
    return log_moment, distributions.Gamma(more, d.rate, validate_args=False)


def _biased_exponential(d: Distribution, power: int) -> tuple[Tensor, Distribution]:
    assert isinstance(d, distributions.Exponential)
    return _biased_gamma(distributions.Gamma(torch.ones_like(d.rate), d.rate, validate_args=False), power)


def _biased_weibull(d: Distribution, power: int) -> tuple[Tensor, Distribution]:
    assert isinstance(d, distributions.Weibull)
    more = 1.0 + power / d.concentration
    return torch.lgamma(more) + power * d.scale.log(), _PowerOfGamma(more, d.scale, d.concentration)


def _biased_beta(d: Distribution, power: int) -> tuple[Tensor, Distribution]:
    assert isinstance(d, distributions.Beta)
    a, b = d.concentration1, d.concentration0
    log_moment = torch.lgamma(a + power) + torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(a + b + power)
    return log_moment, continuous.OpenBeta(a + power, b, validate_args=False)


BIASED: dict[type[Distribution], Callable[[Distribution, int], tuple[Tensor, Distribution]]] = {
    distributions.LogNormal: _biased_lognormal,
    distributions.Gamma: _biased_gamma,
    distributions.Exponential: _biased_exponential,
    distributions.Weibull: _biased_weibull,
    distributions.Beta: _biased_beta,
}
"""log E[y^r] and the distribution with a density in proportion to y^r p(y)."""


class _PowerOfGamma(continuous.Scalars):
    """scale z^(1 / k), z ~ Gamma(shape, 1)."""

    support = constraints.positive
    arg_constraints = {}  # noqa: RUF012
    shape: Tensor
    scale: Tensor
    k: Tensor

    def __init__(self, shape: Tensor, scale: Tensor, k: Tensor) -> None:
        super().__init__(False, shape=shape, scale=scale, k=k)

    def log_tails(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gamma = distributions.Gamma(self.shape, torch.ones_like(self.shape), validate_args=False)
        return log_tails(gamma, (x / self.scale) ** self.k)

    def log_density(self, value: Tensor) -> Tensor:
        gamma = distributions.Gamma(self.shape, torch.ones_like(self.shape), validate_args=False)
        z = (value / self.scale) ** self.k
        return gamma.log_prob(z) + (self.k * z / value).log()


# Integration by parts, with p at the ends over the probability between them


def _at_ends(d: Distribution, low: Tensor, high: Tensor, whole: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """of(high) p(high) less of(low) p(low), over the probability in between; p of infinite ends is 0, and so is it
    beyond the support.
    """
    found = []
    for end in (high, low):
        inside = end.isfinite() & (end > 0.0) if d.support is constraints.positive else end.isfinite()
        safe = torch.where(inside, end, 1.0)
        found.append(torch.where(inside, of(safe) * (d.log_prob(safe) - whole).exp(), 0.0))
    return found[0] - found[1]


def _of_normal(d: Distribution, low: Tensor, high: Tensor, whole: Tensor) -> Moments:
    """E[y] = m - s^2 [p], E[y^2] = s^2 + m E[y] - s^2 [y p]."""
    assert isinstance(d, distributions.Normal)
    variance = d.scale.square()
    first = d.loc - variance * _at_ends(d, low, high, whole, torch.ones_like)
    return first, variance + d.loc * first - variance * _at_ends(d, low, high, whole, torch.positive)


def _of_student_t(d: Distribution, low: Tensor, high: Tensor, whole: Tensor) -> Moments:
    """With t = (y - m) / s and q = nu + t^2: (nu - 1) E[t] = -[q p], (nu - 2) E[t^2] = nu - [t q p]. The first is
    infinite or none for an infinite end and nu <= 1, the second for nu <= 2.
    """
    assert isinstance(d, distributions.StudentT)

    def t(y: Tensor) -> Tensor:
        return (y - d.loc) / d.scale

    bounded = low.isfinite() & high.isfinite()
    first = -d.scale * _at_ends(d, low, high, whole, lambda y: d.df + t(y).square()) / (d.df - 1.0)
    ends = d.scale * _at_ends(d, low, high, whole, lambda y: t(y) * (d.df + t(y).square()))
    second = (d.df - ends) / (d.df - 2.0)
    first = torch.where(bounded | (d.df > 1.0), first, torch.nan)
    second = torch.where(bounded | (d.df > 2.0), second, torch.where(d.df > 1.0, torch.inf, torch.nan))
    mean = d.loc + d.scale * first
    return mean, d.loc.square() + 2.0 * d.loc * d.scale * first + d.scale.square() * second


def _of_inverse_gaussian(d: Distribution, low: Tensor, high: Tensor, whole: Tensor) -> Moments:
    """E[y; y < x] = m (Phi(a) - exp(2 shape / m) Phi(-b)) (see `hiertorch.model.tails`), and shape E[y^2] = m^2 E[y] +
    m^2 shape - 2 m^2 [y^2 p].
    """
    assert isinstance(d, continuous.InverseGaussian)

    def part(x: Tensor) -> Tensor:
        """Of E[y] / m, that from 0 to x."""
        safe = torch.where((x > 0.0) & x.isfinite(), x, 1.0)
        root, ratio = (d.shape / safe).sqrt(), safe / d.loc
        a, b = torch.special.log_ndtr(root * (ratio - 1.0)), torch.special.log_ndtr(-root * (ratio + 1.0))
        found = a.exp() - (2.0 * d.shape / d.loc + b).exp()
        return torch.where(x <= 0.0, 0.0, torch.where(x.isfinite(), found, 1.0))

    first = d.loc * (part(high) - part(low)) * (-whole).exp()
    ends = _at_ends(d, low, high, whole, torch.square)
    return first, d.loc.square() / d.shape * (first + d.shape - 2.0 * ends)


def _of_skew_normal(d: Distribution, low: Tensor, high: Tensor, whole: Tensor) -> Moments:
    """z has the density 2 phi(z) Phi(alpha z), r = sqrt(1 + alpha^2): E[z] = -[p] + 2 alpha / (r sqrt(2 pi)) [Phi(r z)]
    and E[z^2] = 1 - [z p] - 2 alpha / r^2 [phi(z) phi(alpha z)].
    """
    assert isinstance(d, continuous.SkewNormal)
    width, alpha = d.width, d.skew
    steep = (1.0 + alpha.square()).sqrt()
    normal = distributions.Normal(torch.zeros_like(alpha), 1.0 / steep, validate_args=False)
    ends = [d.standardised(end) for end in (low, high)]
    part = (log_between(normal, *ends) - whole).exp()
    first = 2.0 * alpha / (steep * math.sqrt(2.0 * math.pi)) * part - width * _at_ends(
        d, low, high, whole, torch.ones_like
    )
    peak = [(normal.log_prob(end) - whole).exp() / (steep * math.sqrt(2.0 * math.pi)) for end in ends]
    second = 1.0 - width * _at_ends(d, low, high, whole, d.standardised)
    second = second - 2.0 * alpha / steep.square() * (peak[1] - peak[0])
    shift = d.loc - width * d.standardised(d.loc)
    return shift + width * first, shift.square() + 2.0 * shift * width * first + width.square() * second


BY_PARTS: dict[type[Distribution], Callable[[Distribution, Tensor, Tensor, Tensor], Moments]] = {
    distributions.Normal: _of_normal,
    distributions.StudentT: _of_student_t,
    continuous.InverseGaussian: _of_inverse_gaussian,
    continuous.SkewNormal: _of_skew_normal,
}
"""E[y] and E[y^2], of ends and log(F(high) - F(low))."""
