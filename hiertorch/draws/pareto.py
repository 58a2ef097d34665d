"""Importance weights whose largest are smoothed by a generalised Pareto distribution, and whether to trust them.

    w_(S - M + z) = u + sigma ((1 - p_z)^(-k) - 1) / k,  p_z = (z - 1/2) / M,  z = 1..M

for the M largest of S weights above the next one, u; none becomes larger than the largest was. Vehtari, Simpson,
Gelman, Yao & Gabry (2024), Pareto smoothed importance sampling; k and sigma as in Zhang & Stephens (2009). The rows of
a chunk are one tensor operation; the values are those of `arviz-stats`, which loops over rows.

Note [Tails that can't be smoothed]
    Weights stay as they are, apart from their sum, where
        the largest are all the same: k = -inf, since nothing is known to be heavy-tailed;
        no distribution can be fitted, since a quarter of them or more are the same as u, or vanish beside the largest:
            k = inf;
        there are fewer than 25 draws, so that M < 5: k = NaN.
    A row with a log ratio of NaN or inf, or only of -inf, is NaN throughout.

docs/decisions.md: PSIS is ours, batched.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

HIGHEST = 0.7
"""Pareto k above which no number of draws is enough (section 3.2.4)."""

SMALLEST_TAIL = 5
"""Weights to which a distribution is fitted."""

PRIOR_SCALE, PRIOR_K, PRIOR_DRAWS = 3.0, 0.5, 10.0
"""Of the grid of Zhang & Stephens, in first quartiles; the mean of the prior of k, and how many draws it is worth."""

AT_ONCE = {"cpu": 2**19}
"""Numbers in a temporary: few enough for the cache of a CPU core; elsewhere 2**21, 16 MB each."""

PRODUCT = 8
"""Terms whose product is taken before its logarithm."""


def good_k(draws: int) -> float:
    """min(1 - 1 / log10 S, 0.7): the Pareto k up to which S draws are enough (section 3.2.4)."""
    return min(1.0 - 1.0 / math.log10(draws), HIGHEST) if draws > 1 else HIGHEST


def psis(log_ratio: Tensor, efficiency: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log weights `(n, draws)` whose exponentials sum to 1, the largest of each row smoothed, and Pareto k `(n,)`.

    Args:
        log_ratio: log importance ratios, `(n, draws)`; float64 is computed with.
        efficiency: effective draws over draws, by which the tail is longer or shorter.

    Returns:
        Both float64; see Note [Tails that can't be smoothed].
    """
    log_weight = torch.empty(log_ratio.shape, dtype=torch.float64, device=log_ratio.device)
    k = log_weight.new_empty(len(log_ratio))
    for rows in _chunks(log_ratio, efficiency):
        shifted, tail = _smooth(log_ratio[rows].double(), efficiency)
        torch.sub(shifted, shifted.exp().sum(1, keepdim=True).log_(), out=log_weight[rows])
        k[rows] = tail.k
    return log_weight, k


def leave_one_out(log_density: Tensor, efficiency: float = 1.0) -> tuple[Tensor, Tensor]:
    """elpd_i = log sum_s w_is p_is / sum_s w_is for weights w_is that smooth 1 / p_is, and Pareto k_i: each `(n,)`.

    A density that is the same in all draws needs no weights, and has k 0; one that is 0 in a draw makes elpd -inf and k
    inf; one that is infinite or NaN makes both NaN.

    Log densities p_is are `(n, draws)`, and the efficiency is effective draws over draws.
    """
    elpd = torch.empty(len(log_density), dtype=torch.float64, device=log_density.device)
    k, draws = torch.empty_like(elpd), log_density.shape[1]
    for rows in _chunks(log_density, efficiency):
        x = log_density[rows].double()
        shifted, tail = _smooth(-x, efficiency)
        # Below the tail w p is the same in all draws, so that the tail alone has to be summed.
        log_sum = (tail.smooth - tail.raw).exp_().sum(1).add_(draws - tail.raw.shape[1]).log_()
        found = log_sum - tail.highest - shifted.exp().sum(1).log_()
        low, high = -tail.highest, x.amax(1)
        same, zero = (low == high) & low.isfinite(), (low == -torch.inf) & ~high.isnan()
        found = found.where(high.isfinite(), torch.nan).where(~same, low).where(~zero, -torch.inf)
        elpd[rows] = found
        k[rows] = tail.k.where(high.isfinite(), torch.nan).where(~same, 0.0).where(~zero, torch.inf)
    return elpd, k


def smoothed(log_weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights `(draws,)` of sum 1, the largest of them smoothed, and the Pareto k: -inf where the largest are all one,
    and inf where a few are so much larger than the others that no distribution fits them.
    """
    smooth, k = psis(torch.as_tensor(log_weight)[None])
    return smooth[0].exp().numpy(), float(k)


class _Tail(NamedTuple):
    """The M largest log weights of each row, the largest first.

    Attributes:
        highest: the largest, `(n,)`.
        raw: what they exceed it by, at most 0, `(n, M)`.
        smooth: the same when smoothed, or `raw`.
        k: Pareto k, `(n,)`.
    """

    highest: Tensor
    raw: Tensor
    smooth: Tensor
    k: Tensor


def _length(draws: int, efficiency: float) -> int:
    """M, the smaller of S / 5 and 3 sqrt(S / efficiency)."""
    return int(min(draws / 5, 3 * math.sqrt(draws / efficiency)))


def _chunks(x: Tensor, efficiency: float) -> Iterator[slice]:
    """Rows, so many at a time that temporaries stay small."""
    length = _length(x.shape[1], efficiency)
    size = max(1, AT_ONCE.get(x.device.type, 2**21) // max(1, x.shape[1], length * _points(length)))
    yield from (slice(start, start + size) for start in range(0, len(x), size))


def _smooth(log_ratio: Tensor, efficiency: float) -> tuple[Tensor, _Tail]:
    """Log weights less the largest of their row, `(n, draws)`, smoothed but not normalised; and their tails."""
    draws = log_ratio.shape[1]
    length = _length(draws, efficiency)
    if length < SMALLEST_TAIL:
        highest, at = log_ratio.max(1, keepdim=True)
        none = log_ratio.new_full((len(log_ratio),), torch.nan)
        raw = log_ratio.gather(1, at) - highest
        return log_ratio - highest, _Tail(highest[:, 0], raw, raw, none)
    top, at = log_ratio.topk(length + 1, 1)
    highest = top[:, :1]
    raw = top - highest
    cutoff, raw, at = raw[:, -1:].exp(), raw[:, :-1], at[:, :-1]
    k, sigma = _fitted(raw.exp() - cutoff)
    log_survival = (torch.arange(0.5, length, dtype=torch.float64, device=top.device) / length).log_()  # log(1 - p)
    exceedance = (-k[:, None] * log_survival).expm1_().mul_((sigma / k)[:, None])
    smooth = exceedance.add_(cutoff).log_().clamp_(max=0.0)
    moved = raw[:, 0] > raw[:, -1]
    fits = k.isfinite() & sigma.isfinite() & moved
    smooth = torch.where(fits[:, None], smooth, raw)
    k = torch.where(fits, k, torch.inf).where(moved, -torch.inf).where(highest[:, 0].isfinite(), torch.nan)
    return (log_ratio - highest).scatter_(1, at, smooth), _Tail(highest[:, 0], raw, smooth, k)


def _points(length: int) -> int:
    """Of the grid of Zhang & Stephens."""
    return 30 + int(math.sqrt(length))


def _fitted(x: Tensor) -> tuple[Tensor, Tensor]:
    """k and sigma, each `(n,)`, of a generalised Pareto distribution of x `(n, M)`, the largest first.

    With b = -k / sigma the likelihood at its best k(b) = mean_z log(1 - b x_z) is M (log(-b / k(b)) - k(b) - 1); b is
    its posterior mean over a grid that the largest x and their first quartile place (Zhang & Stephens 2009, eqs 4 to
    8, with a minus before their k). k is drawn towards 1/2, as by 10 more draws (Vehtari et al. 2024, appendix C).
    """
    length, points = x.shape[1], _points(x.shape[1])
    quartile = x[:, length - int(length / 4 + 0.5), None]
    step = torch.arange(0.5, points, dtype=torch.float64, device=x.device)
    b = (1 - (points / step).sqrt()) / (PRIOR_SCALE * quartile) + 1 / x[:, :1]
    k = _mean_log(b, x)
    weight = (length * ((-b / k).log_() - k - 1)).softmax(1)
    b = (b * weight).sum(1)
    k = torch.log1p(-b[:, None] * x).mean(1)
    sigma = -k / b
    k = (length * k + PRIOR_DRAWS * PRIOR_K) / (length + PRIOR_DRAWS)
    return k.where(k != 0, torch.finfo(k.dtype).tiny), sigma  # so that 0, the exponential distribution, is a limit


def _mean_log(b: Tensor, x: Tensor) -> Tensor:
    """mean_z log(1 - b_j x_z), `(n, points)`: the logarithms of products of eight, which take less time."""
    length = x.shape[1]
    padded = torch.nn.functional.pad(x, (0, -length % PRODUCT))  # by zeros, which add log 1
    terms = torch.addcmul(x.new_ones(()), b[:, :, None], padded[:, None, :], value=-1.0)
    wide = 1 - b[:, 0] * x[:, 0] > torch.finfo(x.dtype).max ** (1 / PRODUCT)  # the largest term: products overflow
    apart = terms[wide].log_().sum(2) if bool(wide.any()) else None
    while terms.shape[2] > padded.shape[1] // PRODUCT:
        half = terms.shape[2] // 2
        terms = terms[..., :half] * terms[..., half:]
    found = terms.log_().sum(2)
    if apart is not None:
        found[wide] = apart
    return found / length
