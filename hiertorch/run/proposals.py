"""Independence proposals: a heavy-tailed distribution with skewed margins, fitted to draws.

    u_k = location_k + scale_k sinh((asinh(x_k) + skew_k) / tail_k),     x = shift + root t

t: a mixture of two Student distributions, the second wide (Jones & Pewsey 2009, eq. 2, for the margins; heavy tails
keep the ratio of target to proposal bounded, without which an independence sampler gets stuck: Tierney 1994, section
2.3.3). Margins are fitted by quantiles, root and shift by moments of draws or, of many dimensions, by these and by
moments of the target's slopes, whose covariance is the inverse of that of a normal target's draws: some d draws say
then what d^2 do without (as nutpie adapts mass matrices, by Fisher divergence).

docs/decisions.md: Margins by quantiles.
"""

from collections.abc import Sequence
from math import lgamma, log, pi

import torch
from torch import Tensor

from hiertorch.moves.metropolis import Tuning
from hiertorch.randomness import normal, uniform

COMPONENTS = ((0.97, 20, 1.0), (0.03, 4, 2.0))
"""Share, degrees of freedom (even) and scale of the Student distributions."""

UNIFORMS = 1 + max(df for _, df, _ in COMPONENTS) // 2
"""Numbers that a draw of t takes beside one for each dimension."""

PROBABILITIES = (0.005, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995)
"""Of the quantiles that margins are fitted by."""

SLOPES = 3
"""The least number of slopes a dimension that anything is fitted to."""

EFFECTIVE = 0.2
"""Independent draws, as a part of those that are fitted to."""

SKEWS = torch.linspace(-1.6, 1.6, 33, dtype=torch.float64, device="cpu")
"""Skews that are tried."""

TAILS = torch.linspace(0.5, 1.4, 19, dtype=torch.float64, device="cpu")
"""Tails that are tried: below 1 heavier than those of a normal distribution."""


def normal_start(mean: Tensor, root: Tensor) -> Tuning:
    """Symmetric margins: the proposal around `mean` `(d,)` with covariance root root'."""
    zeros = torch.zeros_like(mean)
    return {"location": mean, "scale": zeros + 1.0, "skew": zeros, "tail": zeros + 1.0, "shift": zeros, "root": root}


def propose(tuning: Tuning, number: int, generator: torch.Generator) -> Tensor:
    """Independent proposals `(number, d)`."""
    return propose_and_weigh(tuning, uniform(len(tuning["location"]) + UNIFORMS, number, generator=generator))[0]


def propose_and_weigh(tuning: Tuning, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Independent proposals u `(number, d)`, and log q(u), which costs little when u has just been made, from numbers
    that are uniform on (0, 1), `(d + UNIFORMS, number)`.
    """
    t = standard(numbers, tuning["root"])
    x = tuning["shift"] + t @ tuning["root"].mT
    y = ((x.asinh() + tuning["skew"]) / tuning["tail"]).sinh()
    return tuning["location"] + tuning["scale"] * y, log_standard(t) + _log_slope(tuning, x, y) - _log_root(tuning)


def standard(numbers: Tensor, like: Tensor) -> Tensor:
    """Draws of t `(number, d)`, of the type of another tensor, from uniform numbers `(d + UNIFORMS, number)`."""
    t, which, u = numbers.tensor_split([len(numbers) - UNIFORMS, len(numbers) - UNIFORMS + 1])
    # A chi-squared number with df degrees of freedom is -2 log(u_1 .. u_(df/2)).
    scales = [scale * (-2.0 / df * u[: df // 2].prod(0).log()).rsqrt() for _, df, scale in COMPONENTS]
    return (normal(t) * torch.where(which[0] < COMPONENTS[0][0], scales[0], scales[1])).mT.to(like.dtype)


def log_standard(t: Tensor) -> Tensor:
    """Their log density, `(number,)`."""
    d, square = t.shape[-1], t.square().sum(1)
    parts = []
    for share, df, scale in COMPONENTS:
        constant = log(share) + lgamma((df + d) / 2) - lgamma(df / 2) - 0.5 * d * log(df * pi) - d * log(scale)
        parts.append(constant - 0.5 * (df + d) * torch.log1p(square / (df * scale**2)))
    return torch.logaddexp(*parts)


def density(tuning: Tuning, u: Tensor) -> Tensor:
    """log q(u) of `(number, d)`, `(number,)`."""
    d = u.shape[-1]
    if d == 0:
        return u.new_zeros(len(u))
    x, y, t = _inverted(tuning, u)
    return log_standard(t) + _log_slope(tuning, x, y) - _log_root(tuning)


def accepted(tuning: Tuning, u: Tensor, log_density: Tensor) -> float:
    """Share of proposals that chains would accept, E min(q(u) / p(u), q(u') / p(u')) over draws u, u' of p, given these
    `(n, d)` and log p up to a constant.
    """
    ratio = (density(tuning, u) - log_density).sort().values
    ratio = (ratio - ratio.amax()).exp()  # E of it is what makes q a density
    n = len(ratio)
    pairs = torch.arange(2 * n - 1, 0, -2, dtype=u.dtype, device=u.device)  # of which each is the smaller
    return float((ratio * pairs).sum() / n / ratio.sum())


def standardised(tuning: Tuning, u: Tensor) -> tuple[Tensor, Tensor]:
    """t of u `(number, d)`, and log |dt/du| `(number,)`."""
    x, y, t = _inverted(tuning, u)
    return t, _log_slope(tuning, x, y) - _log_root(tuning)


def placed(tuning: Tuning, t: Tensor) -> tuple[Tensor, Tensor]:
    """u of t `(number, d)`, and log |dt/du| `(number,)`."""
    x = tuning["shift"] + t @ tuning["root"].mT
    y = ((x.asinh() + tuning["skew"]) / tuning["tail"]).sinh()
    return tuning["location"] + tuning["scale"] * y, _log_slope(tuning, x, y) - _log_root(tuning)


def _inverted(tuning: Tuning, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and t: u is y without location and scale, y is x without skew and tail, x is t without correlation."""
    y = (u - tuning["location"]) / tuning["scale"]
    x = (tuning["tail"] * y.asinh() - tuning["skew"]).sinh()
    inverse = torch.linalg.solve_triangular(tuning["root"], _eye(u.shape[1], u), upper=False)  # of few dimensions
    return x, y, (x - tuning["shift"]) @ inverse.mT


def _log_slope(tuning: Tuning, x: Tensor, y: Tensor) -> Tensor:
    """log |dx/du|, summed over coordinates."""
    slope = tuning["tail"] / tuning["scale"] * ((1.0 + x.square()) / (1.0 + y.square())).sqrt()
    return slope.log().sum(-1)


def _log_root(tuning: Tuning) -> Tensor:
    return tuning["root"].diagonal().log().sum()


def fit(draws: Tensor, places: Tensor | None = None, slopes: Tensor | None = None) -> Tuning:
    """The proposal that fits draws `(number, d)`, d >= 1, and the target's slopes at some places, `(m, d)` each."""
    p = draws.new_tensor(PROBABILITIES)
    z = torch.special.ndtri(p)
    quantiles = torch.quantile(_thinned(draws), p, 0)  # (points, d)
    skew, tail = torch.meshgrid(SKEWS.to(draws), TAILS.to(draws), indexing="ij")
    skew, tail = skew.reshape(-1, 1), tail.reshape(-1, 1)
    inner = (z.asinh() + skew) / tail
    basis, slope = inner.sinh(), inner.cosh() / tail * torch.rsqrt(1.0 + z.square())  # (shapes, points)
    # The error of a quantile in units of x is that of u over the slope; its precision that of a normal sample's.
    precision = torch.exp(-z.square()) / (p * (1.0 - p)) / slope.square()
    precision = precision / precision.sum(1, keepdim=True)
    mean = (precision * basis).sum(1, keepdim=True)
    centred = basis - mean
    scale = (precision * centred) @ quantiles / (precision * centred.square()).sum(1, keepdim=True)  # (shapes, d)
    location = precision @ quantiles - mean * scale
    error = (
        precision.unsqueeze(2) * (quantiles - location.unsqueeze(1) - scale.unsqueeze(1) * basis.unsqueeze(2)).square()
    ).sum(1)
    best = torch.where(scale > 0, error / scale.square(), torch.inf).argmin(0)  # (d,)
    each = torch.arange(draws.shape[1], device=draws.device)
    tuning = {
        "location": location[best, each],
        "scale": scale[best, each],
        "skew": skew[best, 0],
        "tail": tail[best, 0],
    }
    x = (tuning["tail"] * ((draws - tuning["location"]) / tuning["scale"]).asinh() - tuning["skew"]).sinh()
    x = x.clamp(-6.0, 6.0)
    covariance = torch.cov(x.mT).reshape(x.shape[1], x.shape[1])
    floor = 1e-8 * _eye(x.shape[1], x)
    found = {**tuning, "shift": x.mean(0), "root": torch.linalg.cholesky(covariance + floor)}
    if places is None or slopes is None or len(places) < SLOPES * draws.shape[1]:
        return found
    other = {**tuning, **_by_slopes(tuning, places, slopes)}
    # Moments of draws flatter themselves by half a unit of log density a parameter, spread over independent draws.
    flattered = 0.25 * draws.shape[1] * (draws.shape[1] + 3) / (EFFECTIVE * len(draws))
    better = density(other, draws).mean() > density(found, draws).mean() - 2.0 * flattered
    return other if bool(better) else found


def refitted(draws: Sequence[Tensor], otherwise: Tuning, sloped: Sequence[Tensor] = ()) -> tuple[Tuning, Tensor]:
    """The proposal and the root of the random walk's covariance that fit draws `(number, d)` each, and places beside
    their slopes, `(m, 2 d)` each; or the proposal as it was, and its root, if these don't allow a fit.
    """
    every = torch.cat(list(draws))
    slopes = torch.cat(list(sloped)).chunk(2, 1) if sloped else ()
    try:
        tuning, walk = fit(every, *slopes), scale_of(every)
    except torch.linalg.LinAlgError:
        return otherwise, otherwise["root"]
    sound = all(bool(x.isfinite().all()) for x in (*tuning.values(), walk))
    return (tuning, walk) if sound else (otherwise, otherwise["root"])


def _by_slopes(tuning: Tuning, places: Tensor, slopes: Tensor) -> Tuning:
    """Shift and root from places u and slopes of their log density there: of x, A its covariance and B that of its
    slopes, the root of the geometric mean of A and B^-1, which takes B to A.
    """
    y = (places - tuning["location"]) / tuning["scale"]
    x = (tuning["tail"] * y.asinh() - tuning["skew"]).sinh()
    with torch.enable_grad():
        moving = x.detach().requires_grad_()
        y = ((moving.asinh() + tuning["skew"]) / tuning["tail"]).sinh()
        u = tuning["location"] + tuning["scale"] * y
        (g,) = torch.autograd.grad((slopes * u).sum() - _log_slope(tuning, moving, y).sum(), moving)
    centred, turned = x - x.mean(0), g - g.mean(0)
    a, b = centred.mT @ centred / len(x), turned.mT @ turned / len(x)
    half, inverse = _powers(a)
    middle, _ = _powers(inverse @ torch.linalg.inv(b) @ inverse)
    covariance = half @ middle @ half
    root = torch.linalg.cholesky(0.5 * (covariance + covariance.mT))
    return {"shift": x.mean(0) + covariance @ g.mean(0), "root": root}


def _powers(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Square root of a covariance, and its inverse."""
    sizes, axes = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
    roots = sizes.clamp(min=1e-12 * sizes.amax()).sqrt()
    return (axes * roots) @ axes.mT, (axes / roots) @ axes.mT


def scale_of(draws: Tensor) -> Tensor:
    """Root of the covariance of draws `(number, d)`, for the random walk."""
    d = draws.shape[1]
    covariance = torch.cov(draws.mT).reshape(d, d)
    floor = torch.finfo(draws.dtype).tiny * _eye(d, draws)
    return torch.linalg.cholesky(covariance + 1e-8 * covariance.diagonal().diag_embed() + floor)


def _thinned(draws: Tensor) -> Tensor:
    """Enough of the draws for quantiles."""
    return draws[:: max(1, len(draws) // 20_000)]


def _eye(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
