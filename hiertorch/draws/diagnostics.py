"""Has the sampler mixed? Rank R-hat, effective sample sizes and Monte Carlo errors, batched over parameters.

    R-hat   = sqrt((B/W + n - 1) / n)             B, W: between- and within-chain variance of n draws a chain
    ESS     = S / tau,  tau = -1 + 2 sum_k P_k    P_k: sums of neighbouring autocorrelations (Geyer 1992)
    MCSE    = sd / sqrt(ESS)

Every function takes draws `(chains, draws, *shape)` on any device and returns one float64 value a parameter, `shape`.
Chains are split in halves first, so that a drift within a chain counts as disagreement. The values are those of
`arviz-stats`, whose functions loop over parameters; here a chunk of parameters is one tensor operation.

Note [What has no effective draws]
    A parameter that never moved has NaN for every diagnostic: nothing is known about how well it mixes. (ArviZ reports
    all its draws as effective.) Structural constants, such as the ones on a correlation's diagonal, are NaN for the
    same reason. One constant chain among moving ones is not NaN: it shows in R-hat wherever it stands, but in the ESS
    only if it stands away from the centre. A tail whose indicator never moved (a discrete parameter with most draws
    at its end) is left out; if neither moved, NaN.
    Whether something moved is asked exactly (max = min), so no diagnostic changes when the draws are rescaled.
    Fewer than 4 draws, a NaN draw and, for R-hat, a single chain also give NaN. An infinite draw has a rank, as in
    ArviZ, so that only what is made of moments (the MCSEs, `ess_mean`) is NaN; draws folded at an infinite median are
    left out.

Reference: Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021). Rank-normalization, folding, and localization: an
improved R-hat for assessing convergence of MCMC. Bayesian Analysis 16(2).
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiertorch.errors import DataError
from hiertorch.runtime.workers import each

__all__ = [
    "Convergence",
    "Digest",
    "convergence",
    "digest",
    "effective",
    "ess_bulk",
    "ess_mean",
    "ess_tail",
    "fixed",
    "mcse_mean",
    "mcse_sd",
    "moments",
    "quantile",
    "rank_normalise",
    "rhat",
    "stuck",
]

MIN_DRAWS = 4  # a half chain needs 2 draws to have a variance
MANY_DRAWS = 100  # in which every single parameter of a healthy chain has moved
TAILS = (0.05, 0.95)
_CHUNK_BYTES = 64 * 2**20  # for temporaries
_COPIES = 20  # float64 copies of a parameter's draws that may be alive at the same time (measured)


class Convergence(NamedTuple):
    """The three numbers by which a run is judged, each `shape`."""

    rhat: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor


def convergence(x: Tensor) -> Convergence:
    """`rhat`, `ess_bulk` and `ess_tail` together: they share their sorts, which are most of the work."""
    return Convergence(*_by_parameter(lambda r: (r.rhat(), r.ess_bulk(), r.ess_tail()), x, 3, ranks=True))


class Digest(NamedTuple):
    """What there is to say of draws, each `shape` but for the quantiles, `(*shape, probabilities)`."""

    rhat: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor
    ess_mean: Tensor
    mean: Tensor
    sd: Tensor
    quantiles: Tensor

    @property
    def mcse_mean(self) -> Tensor:
        """Monte Carlo standard error of the mean."""
        return self.sd / self.ess_mean.sqrt()


def digest(x: Tensor, probabilities: Sequence[float], *, ess: bool = True) -> Digest:
    """All of `convergence`, `ess_mean`, `moments` and `quantile` together: they share their sorts.

    Args:
        x: draws, `(chains, draws, *shape)`.
        probabilities: of the quantiles.
        ess: False leaves the effective draws out, as NaN.
    """

    def every(r: "_Ranked") -> tuple[Tensor, ...]:
        rhat, none = r.rhat(), r.draws.new_full(r.draws.shape[:1], math.nan)
        effective = (r.ess_bulk(), r.ess_tail(), _ess(r.split)) if ess else (none,) * 3
        levels = (_quantile(r.ordered, p) for p in probabilities)
        mean, sd = r.draws.mean((1, 2)), _sd(r.draws)
        return rhat, *effective, torch.where(sd.isnan(), sd, mean), sd, *levels

    found = _by_parameter(every, x, 6 + len(probabilities), ranks=True)
    rhat, bulk, tail, mean_ess, mean, sd = found[:6]
    levels = torch.stack(found[6:], -1) if probabilities else mean.new_empty(*mean.shape, 0)
    return Digest(rhat, bulk, tail, mean_ess, mean, sd, levels)


def effective(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`ess_bulk`, `ess_tail` and `ess_mean` together."""
    bulk, tail, mean = _by_parameter(lambda r: (r.ess_bulk(), r.ess_tail(), _ess(r.split)), x, 3, ranks=True)
    return bulk, tail, mean


def rhat(x: Tensor) -> Tensor:
    """The larger of the rank-normalised split R-hats of the draws and of their distance from the median.

    The second sees chains that agree in place and differ in spread.

    Args:
        x: draws, `(chains, draws, *shape)`.

    Returns:
        R-hat, `shape`; infinite if no chain moved and they stand at different values.
    """
    return _by_parameter(lambda ranked: (ranked.rhat(),), x, ranks=True)[0]


def ess_bulk(x: Tensor) -> Tensor:
    """Effective draws for the centre of the distribution: the ESS of the rank-normalised split chains."""
    return _by_parameter(lambda ranked: (ranked.ess_bulk(),), x, ranks=True)[0]


def ess_tail(x: Tensor) -> Tensor:
    """Effective draws for the tails: the smaller ESS of the indicators of the 5% and the 95% quantile."""
    return _by_parameter(lambda ranked: (ranked.ess_tail(),), x, ranks=True)[0]


def ess_mean(x: Tensor) -> Tensor:
    """Effective draws for the mean: the ESS of the split chains as they are."""
    return _by_parameter(lambda ranked: (_ess(ranked.split),), x)[0]


def mcse_mean(x: Tensor) -> Tensor:
    """Monte Carlo standard error of the mean: sd / sqrt(ESS of the mean)."""
    return _by_parameter(lambda ranked: (_sd(ranked.draws) / _ess(ranked.split).sqrt(),), x)[0]


def mcse_sd(x: Tensor) -> Tensor:
    """Monte Carlo standard error of the sd: sqrt(Var[c] / (ESS[c] E[c])) / 2, with c the squared deviation.

    This is ArviZ 1.0's formula; before, ArviZ took the ESS of the draws for that of their squared deviations.
    """
    return _by_parameter(lambda ranked: (_mcse_sd(ranked.draws),), x)[0]


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sd (with S - 1) over chains and draws, each `shape`."""
    mean, sd = _by_parameter(lambda ranked: (ranked.draws.mean((1, 2)), _sd(ranked.draws)), x, 2, 1)
    return mean, sd


def rank_normalise(x: Tensor) -> Tensor:
    """Normal scores z = Phi^-1((rank - 3/8) / (S + 1/4)) over the S draws of all chains, of the shape of `x`.

    Equal draws share their average rank.
    """
    _check(x)
    if not x.numel():
        return x.to(torch.float64)
    moved = x.to(torch.float64).flatten(0, 1).movedim(0, -1)  # (*shape, S)
    size = moved.shape[-1]
    z = _normal_scores(*moved.reshape(-1, size).sort(-1), _score_table(size, x.device))
    return z.reshape(moved.shape).movedim(-1, 0).reshape(x.shape)


def quantile(x: Tensor, probabilities: Sequence[float]) -> Tensor:
    """Quantiles over chains and draws, `(*shape, len(probabilities))`, interpolated linearly as NumPy's default."""
    number = len(probabilities)
    levels = _by_parameter(lambda r: tuple(_quantile(r.ordered, p) for p in probabilities), x, number, 1, ranks=True)
    return torch.stack(levels, -1)


def stuck(x: Tensor) -> Tensor:
    """Which parameters of one latent never moved in which chain, but for those that can't move (see `fixed`).

    Args:
        x: draws, `(chains, draws, size, *event)`; size is the number of groups, or 1.

    Returns:
        `(chains, parameters)`, booleans; parameters are the flattened `(size, *event)`.
    """
    _check(x)
    still = _still(x)
    constant = _constant(x, still)
    found = still & ~constant
    if x.shape[1] < MANY_DRAWS:  # one parameter may stand still by chance, all of a latent's don't
        found = found & (still | constant).flatten(1).all(1)[:, None, None]
    return found.flatten(1)


def fixed(x: Tensor) -> Tensor:
    """Which parameters of one latent can't move, `(size, *event)`.

    An entry of an event that is one constant in all chains and groups, such as a zero of a Cholesky factor, belongs to
    the support. Not so if all entries are, unless there is only one (the Cholesky factor of a 1 x 1 correlation).

    Args:
        x: draws, `(chains, draws, size, *event)`.
    """
    return _constant(x, _still(x)).expand(x.shape[2], -1).reshape(x.shape[2:])


def _still(x: Tensor) -> Tensor:
    """Which never moved, `(chains, size, entries)`."""
    return (x == x[:, :1]).all(1).reshape(x.shape[0], x.shape[2], -1)


def _constant(x: Tensor, still: Tensor) -> Tensor:
    """Which entries can't move, `(entries,)`."""
    start = x[:, 0].reshape(still.shape)
    constant = (still & (start == start[:1, :1])).flatten(0, 1).all(0)
    return constant & (x.ndim > 3) & (~constant.all() | (len(constant) == 1))


def _check(x: Tensor) -> None:
    if x.ndim < 2 or x.shape[0] == 0:
        raise DataError(f"Diagnostics need draws of shape (chains, draws, *shape), found {tuple(x.shape)}.")


def _by_parameter(
    function: Callable[["_Ranked"], tuple[Tensor, ...]],
    x: Tensor,
    outputs: int = 1,
    min_draws: int = MIN_DRAWS,
    *,
    ranks: bool = False,
) -> tuple[Tensor, ...]:
    """Apply `(P, chains, draws) -> (P,)` to chunks of parameters whose temporaries fit in `_CHUNK_BYTES`. A function of
    ranks takes infinite draws like any other.
    """
    _check(x)
    chains, draws, *shape = x.shape
    flat = x.detach().flatten(2) if shape else x.detach()[..., None]  # (chains, draws, parameters)
    step = max(1, _CHUNK_BYTES // (8 * _COPIES * chains * max(1, draws)))

    table = cache(partial(_score_table, 2 * chains * (draws // 2), x.device))  # once, if at all

    def chunk(start: int) -> Tensor:
        part = flat[..., start : start + step].to(torch.float64).permute(2, 0, 1).contiguous()
        values = torch.stack(function(_Ranked(part, table)))
        known = ~part.isnan() if ranks else part.isfinite()
        return torch.where(known.all(-1).all(-1), values, math.nan)

    with torch.no_grad():
        chunks = list(each(chunk, range(0, flat.shape[2] if draws >= min_draws else 0, step), x.device))
    if not chunks:
        chunks = [torch.full((outputs, flat.shape[2]), math.nan, dtype=torch.float64, device=x.device)]
    return torch.cat(chunks, 1).reshape(outputs, *shape).unbind()


# From here on draws are (P, chains, draws) float64, and results (P,).


class _Ranked:
    """One chunk's draws with their halves and sorts, each computed once and only when asked for."""

    def __init__(self, draws: Tensor, table: Callable[[], Tensor]) -> None:
        self.draws, self.table = draws, table

    @cached_property
    def split(self) -> Tensor:
        """First and last half of every chain, as chains: `(P, 2 chains, draws // 2)`."""
        return _split(self.draws)

    @cached_property
    def sorted_split(self) -> tuple[Tensor, Tensor]:
        return _sort(self.split.flatten(1))

    @cached_property
    def ordered(self) -> Tensor:
        """All draws in ascending order, `(P, S)`; the halves leave out the middle one of an odd number."""
        return _sort(self.draws.flatten(1))[0] if self.draws.shape[2] % 2 else self.sorted_split[0]

    @cached_property
    def scores(self) -> Tensor:
        return _normal_scores(*self.sorted_split, self.table()).view_as(self.split)

    def rhat(self) -> Tensor:
        (ordered, order), middle = self.sorted_split, self.split[0].numel() // 2
        median = (ordered[:, middle - 1] + ordered[:, middle]) / 2  # of an even number of draws
        folded, again = _sort((ordered - median[:, None]).abs(), runs=True)  # they fall, and then rise
        folded_scores = _normal_scores(folded, order.gather(1, again), self.table()).view_as(self.split)
        spread = torch.where(median.isfinite(), _rhat(folded_scores), math.nan)
        # Folded draws can be constant where draws are not (two values, equally often): fmax leaves that NaN out.
        return torch.fmax(_rhat(self.scores), spread)

    def ess_bulk(self) -> Tensor:
        return _ess(self.scores)

    def ess_tail(self) -> Tensor:
        """The smaller ESS; a tail that never moved counts as all draws beside one that did, as in ArviZ."""
        low, high = (
            _ess(_split((self.draws <= _quantile(self.ordered, p)[:, None, None]).to(self.draws))) for p in TAILS
        )
        smaller = torch.fmin(low, high)
        return torch.where(low.isnan() ^ high.isnan(), smaller.clamp(max=self.split[0].numel()), smaller)


def _sort(x: Tensor, *, runs: bool = False) -> tuple[Tensor, Tensor]:
    """Rows in ascending order and the order that sorts them; by NumPy on the CPU, which is several times quicker, and
    merges rows of a few ascending or descending runs in linear time.
    """
    if x.device.type != "cpu":
        return x.sort(-1)
    order = torch.from_numpy(np.argsort(x.numpy(), -1, kind="stable" if runs else None))
    return x.gather(-1, order), order


def _sd(x: Tensor) -> Tensor:
    """NaN of a single draw, of which torch would warn."""
    return x.flatten(1).std(1) if x[0].numel() > 1 else x.new_full(x.shape[:1], math.nan)


def _split(x: Tensor) -> Tensor:
    half = x.shape[2] // 2
    return torch.cat([x[..., :half], x[..., -half:]], 1)


def _quantile(ordered: Tensor, p: float) -> Tensor:
    """The p-quantile of rows in ascending order: `(P, S) -> (P,)`."""
    position = p * (ordered.shape[1] - 1)
    below = math.floor(position)
    low, high = ordered[:, below], ordered[:, min(below + 1, ordered.shape[1] - 1)]
    weight = position - below
    # From the nearer end, as NumPy does it: an indicator `x <= quantile` turns on the last bit.
    return low + (high - low) * weight if weight < 0.5 else high - (high - low) * (1 - weight)


def _normal_scores(ordered: Tensor, order: Tensor, table: Tensor) -> Tensor:
    """Normal scores of rows, given their sorted values, the order that sorts them and `_score_table`: `(P, S)`.

    Rows are laid end to end and every run of equal values is one segment, whose average rank is looked up in the table.
    Rejected proposals make such runs the rule, not the exception.
    """
    size = ordered.shape[1]
    first = torch.ones_like(ordered, dtype=torch.bool)  # of its run
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    start = first.flatten().nonzero().squeeze(1)
    length = start.diff(append=start.new_full((1,), ordered.numel()))
    score = table[2 * (start % size) + length + 1]  # from 2 (a single first) to 2S (a single last)
    spread = score.repeat_interleave(length, output_size=ordered.numel()).view_as(ordered)
    return torch.empty_like(ordered).scatter_(1, order, spread)


def _score_table(size: int, device: torch.device) -> Tensor:
    """Phi^-1((rank - 3/8) / (S + 1/4)) by twice the rank, 0 to 2S: half the cost of scores if made for each row."""
    twice = torch.arange(2 * size + 1, dtype=torch.float64, device=device)
    return torch.special.ndtri((twice / 2 - 3 / 8) / (size + 1 / 4))


def _rhat(x: Tensor) -> Tensor:
    chains, draws = x.shape[1:]
    if chains < 4:  # halves of a single chain
        return x.new_full(x.shape[:1], math.nan)
    within = x.var(2).mean(1)  # exactly zero if no chain moved: torch accumulates as Welford does
    return ((draws * x.mean(2).var(1) / within + draws - 1) / draws).sqrt()


def _ess(x: Tensor) -> Tensor:
    """ESS of chains as they are, by Geyer's initial monotone sequence: `(P, chains, draws) -> (P,)`.

    The mean of the chains' autocovariances is all that is needed, so their power spectra are summed and
    transformed back once a parameter.
    """
    chains, n = x.shape[1:]
    mean = x.mean(-1, keepdim=True)  # (P, chains, 1)
    padded = 1 << (2 * n - 1).bit_length()  # at least 2n, so that the circular covariance doesn't wrap
    power = torch.view_as_real(torch.fft.rfft(x - mean, n=padded)).square().sum(1).sum(-1)
    covariance = torch.fft.irfft(power, n=padded)[:, :n] / (n * chains)
    within = covariance[:, :1] * n / (n - 1)
    total = covariance[:, :1] + mean.squeeze(-1).var(1, keepdim=True)
    rho = 1 - (within - covariance) / total  # (P, n)
    rho[:, 0] = 1

    even = rho[:, 0 : n - 1 : 2]
    pair = even + rho[:, 1::2]  # (P, n // 2)
    last = max(0, (n - 3) // 2)  # the last pair that may be looked at
    kept = (pair[:, :last] > 0).cumprod(1)  # the initial positive sequence...
    stop = kept.sum(1, keepdim=True)
    sequence = (pair[:, :last].cummin(1).values * kept).sum(1) if last else x.new_zeros(x.shape[0])  # ...made monotone
    next_even, next_pair = even.gather(1, stop).squeeze(1), pair.gather(1, stop).squeeze(1)
    tail = torch.where((next_pair >= 0) | (next_even > 0), next_even, 0)
    size = chains * n
    # Antithetic chains can beat independent draws, but not without limit (Vehtari et al. 2021, section 3).
    tau = (-1 + 2 * sequence + tail).clamp(min=1 / math.log10(size))
    moved = x.amax((1, 2)) > x.amin((1, 2))
    return torch.where(moved, size / tau, math.nan)


def _mcse_sd(x: Tensor) -> Tensor:
    square = (x - x.mean((1, 2), keepdim=True)).square()
    mean = square.mean((1, 2))
    return ((square.square().mean((1, 2)) - mean.square()) / _ess(_split(square)) / mean).sqrt() / 2
