"""Distribution functions by their logarithms, log F and log(1 - F), exact far out on either side.

Where there is no closed form, F is an integral, in a coordinate in which the density is log-concave, by a fixed rule of
Gauss and Legendre from the point outwards, to where the density has fallen by a factor exp(-FALL). The rule is one of
plain operations, so that every parameter can be differentiated by, forwards, backwards and twice, which torch's
incomplete gamma function can't.

docs/decisions.md: Tails of rows are integrals.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, distributions
from torch.distributions import Distribution
from torch.special import erfcx, log_ndtr

from hiertorch.errors import ModelError
from hiertorch.model import continuous
from hiertorch.model.intervals import plain_bounds

Tails = tuple[Tensor, Tensor]
"""log F(x) and log(1 - F(x))."""

FALL = 36.0
"""Beyond it less than 1e-15 of a tail is left."""

NODES, FEW = 36, 8
"""Of the rule for tails, and for intervals over which the density changes little."""

NARROW = -0.1
"""Of log(1 - F) at the far end of an interval less that at the near one: below it the difference of both is exact to
some 1e-14, above it the density hardly changes over the interval.
"""

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def log_tails(distribution: Distribution, x: Tensor) -> Tails:
    """log F(x) and log(1 - F(x)) at any x that broadcasts with the batch, beyond the support, too.

    A distribution of one's own has them if it writes a method `log_tails(self, x)`.

    Raises:
        ModelError: for a distribution whose function is not known.
    """
    if (own := getattr(distribution, "log_tails", None)) is not None:
        return own(x)
    known = next((TAILS[kind] for kind in type(distribution).__mro__ if kind in TAILS), None)
    ends = plain_bounds(distribution)
    if known is None or ends is None:
        names = ", ".join(sorted({kind.__name__ for kind in TAILS}))
        raise ModelError(
            f"rows that are censored or truncated need the distribution function, which is not known of "
            f"{type(distribution).__name__}; it is of {names}, and of a distribution with a method log_tails(self, x), "
            "which gives log F(x) and log(1 - F(x))."
        )
    inside = (x > ends[0]) & (x < ends[1])
    below, above = known(distribution, torch.where(inside, x, inner(ends)))
    low = x <= ends[0]
    return (
        torch.where(inside, below, torch.where(low, -torch.inf, 0.0)),
        torch.where(inside, above, torch.where(low, 0.0, -torch.inf)),
    )


def inner(ends: tuple[float, float]) -> float:
    """A number between the ends of a support, at which all is finite."""
    if math.isfinite(ends[0]) and math.isfinite(ends[1]):
        return 0.5 * (ends[0] + ends[1])
    return ends[0] + 1.0 if math.isfinite(ends[0]) else min(ends[1] - 1.0, 0.0)


def log_between(distribution: Distribution, low: Tensor, high: Tensor) -> Tensor:
    """log(F(high) - F(low)) for low < high, either of which may be infinite; in the tail in which both are smaller, and
    by the density itself where it hardly changes in between.
    """
    (below_low, above_low), (below_high, above_high) = log_tails(distribution, low), log_tails(distribution, high)
    left = below_high <= above_low
    more, less = torch.where(left, below_high, above_low), torch.where(left, below_low, above_high)
    gap = torch.where(less == -torch.inf, -torch.inf, less - more)
    wide = more + log_complement(gap)
    width = (high - low).expand(gap.shape)
    narrow = (gap > NARROW) & width.isfinite() & (more > -torch.inf)
    ends = plain_bounds(distribution) or (-math.inf, math.inf)  # found: `log_tails` has asked for them
    nodes, weights = rule(FEW)
    at = torch.where(narrow, low, inner(ends)) + torch.where(narrow, width, 0.0) * _axis(nodes, width)
    density = torch.where(narrow, distribution.log_prob(at), 0.0)
    size = torch.where(narrow, width, 1.0).log()
    near = (density + _axis(weights, width).log()).logsumexp(0) + size
    return torch.where(narrow, near, wide)


def log_complement(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x <= 0."""
    return (-torch.expm1(x.clamp(max=-torch.finfo(x.dtype).tiny))).log()


@cache
def rule(number: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of Gauss and Legendre on 0 to 1."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(number)
    return (0.5 * (nodes + 1.0)).tolist(), (0.5 * weights).tolist()


def _axis(numbers: list[float], like: Tensor) -> Tensor:
    """`(numbers, 1, ..., 1)`, before the axes of a tensor."""
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).reshape(-1, *(1,) * like.dim())


def log_integral(log_density: Callable[[Tensor], Tensor], start: Tensor, reach: Tensor) -> Tensor:
    """log of the integral of a density from `start` over `reach`, to the left where that is negative; the density falls
    from the start on.
    """
    nodes, weights = rule(NODES)
    reach, first = reach.detach(), log_density(start)
    parts = (log_density(start + reach * _axis(nodes, start)) - first).exp()  # 1 at most
    sums = torch.tensordot(torch.tensor(weights, dtype=parts.dtype, device=parts.device), parts, 1)
    return sums.log() + reach.abs().log() + first


def _least(*bounds: Tensor) -> Tensor:
    found = bounds[0]
    for bound in bounds[1:]:
        found = torch.minimum(found, bound)
    return found


def _over(slope: Tensor) -> Tensor:
    """How far a density falls enough whose logarithm has this slope, or a steeper one."""
    return FALL / slope.clamp(min=torch.finfo(slope.dtype).tiny)


def normal(distribution: Distribution, x: Tensor) -> Tails:
    """Of Normal."""
    assert isinstance(distribution, distributions.Normal)
    z = (x - distribution.loc) / distribution.scale
    return log_ndtr(z), log_ndtr(-z)


def lognormal(distribution: Distribution, x: Tensor) -> Tails:
    """Of LogNormal."""
    assert isinstance(distribution, distributions.LogNormal)
    z = (x.log() - distribution.loc) / distribution.scale
    return log_ndtr(z), log_ndtr(-z)


def exponential(distribution: Distribution, x: Tensor) -> Tails:
    """Of Exponential: 1 - F = exp(-rate x)."""
    assert isinstance(distribution, distributions.Exponential)
    above = -distribution.rate * x
    return log_complement(above), above


def weibull(distribution: Distribution, x: Tensor) -> Tails:
    """Of Weibull: 1 - F = exp(-(x / scale)^k)."""
    assert isinstance(distribution, distributions.Weibull)
    above = -((x.log() - distribution.scale.log()) * distribution.concentration).exp()
    return log_complement(above), above


def asymmetric_laplace(distribution: Distribution, x: Tensor) -> Tails:
    """Of AsymmetricLaplace: F = q exp((1 - q) z) below 0, 1 - F = (1 - q) exp(-q z) above."""
    assert isinstance(distribution, continuous.AsymmetricLaplace)
    q, z = distribution.quantile, (x - distribution.loc) / distribution.scale
    low = z < 0
    own = torch.where(low, q.log() + (1.0 - q) * z, torch.log1p(-q) - q * z)
    other = log_complement(own)
    return torch.where(low, own, other), torch.where(low, other, own)


def inverse_gaussian(distribution: Distribution, x: Tensor) -> Tails:
    """Of InverseGaussian: F = Phi(a) + exp(2 shape / mean) Phi(-b), with a, b = sqrt(shape / x) (x / mean -+ 1)
    (Shuster 1968); 1 - F = Phi(-a) less the same, of which b^2 - a^2 = 4 shape / mean takes the factor out.
    """
    assert isinstance(distribution, continuous.InverseGaussian)
    mean, shape = distribution.loc, distribution.shape
    root, ratio = (shape / x).sqrt(), x / mean
    a, b = root * (ratio - 1.0), root * (ratio + 1.0)
    below = torch.logaddexp(log_ndtr(a), 2.0 * shape / mean + log_ndtr(-b))
    right = a > 0
    beyond = torch.where(right, a, 1.0)
    rest = log_complement((erfcx(b / math.sqrt(2.0)) / erfcx(beyond / math.sqrt(2.0))).log())
    above = torch.where(right, log_ndtr(-beyond) + rest, log_complement(torch.where(right, -1.0, below)))
    return torch.where(right, log_complement(torch.where(right, above, -1.0)), below), above


def gamma(distribution: Distribution, x: Tensor) -> Tails:
    """Of Gamma."""
    assert isinstance(distribution, distributions.Gamma)
    return gamma_tails(distribution.concentration, distribution.rate * x)


def gamma_tails(shape: Tensor, x: Tensor) -> Tails:
    """Of Gamma(shape, 1): with s = log x the log density is shape s - exp(s), up to a constant. From s on it falls by
    x (exp(d) - 1 - d) + (x - shape) d to the right of its mode. To the left of it F is what it is of shape + 1, whose
    density falls faster, by x (d - 1 + exp(-d)) + (shape + 1 - x) d, and x^shape exp(-x) / Gamma(shape + 1) more.
    """
    right = x >= shape
    own_shape, s = torch.where(right, shape, shape + 1.0), x.log()
    part, slope = FALL / x, _over((x - own_shape).abs())
    up = _least(torch.log1p(part + (2.0 * part).sqrt()), slope)
    down = _least(part + 1.0, part + (2.0 * part).sqrt(), slope)
    constant = torch.lgamma(own_shape)
    own = log_integral(lambda s: own_shape * s - s.exp() - constant, s, torch.where(right, up, -down))
    own = torch.where(right, own, torch.logaddexp(own, shape * s - x - torch.lgamma(shape + 1.0)))
    other = log_complement(own)
    return torch.where(right, other, own), torch.where(right, own, other)


def beta(distribution: Distribution, x: Tensor) -> Tails:
    """Of Beta: the log odds s have the log density a log p(s) + b log p(-s), p the logistic function, up to a constant.
    To the left of its mode F is what it is of a + 1, and x^a (1 - x)^b / (a B(a, b)) more; there the density falls by
    c (d - 1 + exp(-d)), c = (a + 1) b / (a + 1 + b), at least, by the slope at s, and far out by (a + 1) d.
    """
    assert isinstance(distribution, distributions.Beta)
    a, b = distribution.concentration1, distribution.concentration0
    right = x * (a + b) > a  # mirrored
    odds = x.log() - torch.log1p(-x)
    a, b, s = torch.where(right, b, a), torch.where(right, a, b), torch.where(right, -odds, odds)
    more, total = a + 1.0, a + 1.0 + b
    constant = torch.lgamma(more) + torch.lgamma(b) - torch.lgamma(total)
    part = FALL * total / (more * b)
    steep = torch.log1p(2.0 * part + 2.0 * part.sqrt())
    far = torch.log1p(more / b)
    reach = _least(
        part + 1.0,
        part + (2.0 * part).sqrt(),
        _over(more - total * s.sigmoid()),
        (FALL + total * far) / more,
        torch.where(steep <= far, steep, torch.inf),
    )
    sigmoid = torch.nn.functional.logsigmoid
    own = log_integral(lambda s: more * sigmoid(s) + b * sigmoid(-s) - constant, s, -reach)
    first = a * sigmoid(s) + b * sigmoid(-s) - constant - (total - 1.0).log()  # a B(a, b) = (a + b) B(a + 1, b)
    own = torch.logaddexp(own, first)
    other = log_complement(own)
    return torch.where(right, other, own), torch.where(right, own, other)


def student_t(distribution: Distribution, x: Tensor) -> Tails:
    """Of StudentT: for t = sqrt(nu) sinh(s), s has a density in proportion to cosh(s)^-nu, whose integral J from s on
    is ((nu + 1) J' + sinh(s) cosh(s)^(-nu - 1)) / nu with J' that of nu + 2, which falls faster.
    """
    assert isinstance(distribution, distributions.StudentT)
    nu, z = distribution.df, (x - distribution.loc) / distribution.scale
    low = z < 0
    outward = torch.where(low, -z, z) / nu.sqrt()
    start = outward.asinh()
    constant = torch.lgamma(0.5 * (nu + 1.0)) - torch.lgamma(0.5 * nu + 1.0) - 0.5 * math.log(4.0 * math.pi)  # over nu
    more = nu + 2.0
    part = FALL / more
    reach = _least(part + torch.log1p((-torch.expm1(-2.0 * part)).sqrt()), _over(more * start.tanh()))

    def log_cosh(s: Tensor) -> Tensor:
        return s + torch.log1p((-2.0 * s).exp()) - math.log(2.0)

    own = (nu + 1.0).log() + log_integral(lambda s: constant - more * log_cosh(s), start, reach)
    first = constant + outward.clamp(min=torch.finfo(x.dtype).tiny).log() - (nu + 1.0) * log_cosh(start)
    own = torch.logaddexp(own, first)
    other = log_complement(own)
    return torch.where(low, own, other), torch.where(low, other, own)


def skew_normal(distribution: Distribution, x: Tensor) -> Tails:
    """Of SkewNormal: for alpha >= 0, F(z) = 2 I(-z) at z < 0 and 1 - F(z) = 2 Phi(-z) - 2 I(z) at z >= 0, where I(z) is
    the integral of phi(t) Phi(-alpha t) from z on; mirrored for alpha < 0.
    """
    assert isinstance(distribution, continuous.SkewNormal)
    z, skew = distribution.standardised(x), distribution.skew
    mirrored = skew < 0
    z, skew = torch.where(mirrored, -z, z), torch.where(mirrored, -skew, skew)
    low = z < 0
    start = torch.where(low, -z, z)
    steep = 1.0 + skew.square()
    reach = _least((2.0 * FALL / steep).sqrt(), _over(start * steep))
    part = log_integral(lambda t: log_ndtr(-skew * t) - 0.5 * t.square() - HALF_LOG_TWO_PI, start, reach)
    whole = log_ndtr(-start)
    own = math.log(2.0) + torch.where(low, part, whole + log_complement(part - whole))
    other = log_complement(own)
    below, above = torch.where(low, own, other), torch.where(low, other, own)
    return torch.where(mirrored, above, below), torch.where(mirrored, below, above)


TAILS: dict[type[Distribution], Callable[[Distribution, Tensor], Tails]] = {
    distributions.Normal: normal,
    distributions.LogNormal: lognormal,
    distributions.Exponential: exponential,
    distributions.Weibull: weibull,
    distributions.Gamma: gamma,
    distributions.Beta: beta,
    distributions.StudentT: student_t,
    continuous.AsymmetricLaplace: asymmetric_laplace,
    continuous.InverseGaussian: inverse_gaussian,
    continuous.SkewNormal: skew_normal,
}
"""Of each distribution, at places inside its support."""
