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
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.draws.ranked import Ranked, score_table
from hiertorch.errors import DataError
from hiertorch.runtime.rooms import PIECE, gathered, is_mapped, pieces
from hiertorch.runtime.workers import each

MIN_DRAWS = 4  # a half chain needs 2 draws to have a variance
MANY_DRAWS = 100  # in which every single parameter of a healthy chain has moved
_CHUNK_BYTES = 64 * 2**20  # for temporaries,
_CACHED_BYTES = 12 * 2**20  # and on a CPU, where those within its cache are used again (measured)
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
    mcse_sd: Tensor
    quantiles: Tensor

    @property
    def mcse_mean(self) -> Tensor:
        """Monte Carlo standard error of the mean."""
        return self.sd / self.ess_mean.sqrt()


def digest(x: Tensor, probabilities: Sequence[float], *, ess: bool = True) -> Digest:
    """All of `convergence`, `ess_mean`, `moments`, `mcse_sd` and `quantile` together: they share their sorts. Without
    `ess` effective draws and what is made of them are left out, as NaN.
    """

    def every(r: Ranked) -> tuple[Tensor, ...]:
        rhat, none = r.rhat(), r.draws.new_full(r.draws.shape[:1], math.nan)
        *effective, error = r.effective() if ess else (none,) * 4
        levels = (r.quantile(p) for p in probabilities)
        mean, sd = r.mean(), r.sd()
        return rhat, *effective, torch.where(sd.isnan(), sd, mean), sd, error, *levels

    found = _by_parameter(every, x, 7 + len(probabilities), ranks=True)
    levels = torch.stack(found[7:], -1) if probabilities else found[0].new_empty(*found[0].shape, 0)
    rhat, bulk, tail, mean_ess, mean, sd, error = found[:7]
    return Digest(rhat, bulk, tail, mean_ess, mean, sd, error, levels)


def effective(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`ess_bulk`, `ess_tail` and `ess_mean` together."""
    bulk, tail, mean = _by_parameter(lambda r: (r.ess_bulk(), r.ess_tail(), r.ess_mean()), x, 3, ranks=True)
    return bulk, tail, mean


def rhat(x: Tensor) -> Tensor:
    """The larger of the rank-normalised split R-hats of the draws and of their distance from the median.

    The second sees chains that agree in place and differ in spread. Infinite if no chain moved and they stand at
    different values.
    """
    return _by_parameter(lambda ranked: (ranked.rhat(),), x, ranks=True)[0]


def ess_mean(x: Tensor) -> Tensor:
    """Effective draws for the mean: the ESS of the split chains as they are."""
    return _by_parameter(lambda ranked: (ranked.ess_mean(),), x)[0]


def mcse_mean(x: Tensor) -> Tensor:
    """Monte Carlo standard error of the mean: sd / sqrt(ESS of the mean)."""
    return _by_parameter(lambda ranked: (ranked.sd() / ranked.ess_mean().sqrt(),), x)[0]


def mcse_sd(x: Tensor) -> Tensor:
    """Monte Carlo standard error of the sd: sqrt(Var[c] / (ESS[c] E[c])) / 2, with c the squared deviation.

    This is ArviZ 1.0's formula; before, ArviZ took the ESS of the draws for that of their squared deviations.
    """
    return _by_parameter(lambda ranked: (ranked.mcse_sd(),), x)[0]


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sd (with S - 1) over chains and draws, each `shape`."""
    mean, sd = _by_parameter(lambda ranked: (ranked.mean(), ranked.sd()), x, 2, 1)
    return mean, sd


def quantile(x: Tensor, probabilities: Sequence[float]) -> Tensor:
    """Quantiles over chains and draws, `(*shape, len(probabilities))`, interpolated linearly as NumPy's default."""
    number = len(probabilities)
    levels = _by_parameter(lambda r: tuple(r.quantile(p) for p in probabilities), x, number, 1, ranks=True)
    return torch.stack(levels, -1)


def stuck(x: Tensor) -> Tensor:
    """Which parameters of one latent, `(chains, draws, size, *event)`, never moved in which chain, but for those that
    can't move (see `fixed`): `(chains, parameters)`, booleans; parameters are the flattened `(size, *event)`.
    """
    _check(x)
    still = _still(x)
    constant = _constant(x, still)
    found = still & ~constant
    if x.shape[1] < MANY_DRAWS:  # one parameter may stand still by chance, all of a latent's don't
        found = found & (still | constant).flatten(1).all(1)[:, None, None]
    return found.flatten(1)


def fixed(x: Tensor) -> Tensor:
    """Which parameters of one latent, `(chains, draws, size, *event)`, can't move: `(size, *event)`.

    An entry of an event that is one constant in all chains and groups, such as a zero of a Cholesky factor, belongs to
    the support. Not so if all entries are, unless there is only one (the Cholesky factor of a 1 x 1 correlation).
    """
    return _constant(x, _still(x)).expand(x.shape[2], -1).reshape(x.shape[2:])


def _still(x: Tensor) -> Tensor:
    """Which never moved, `(chains, size, entries)`."""
    found = torch.stack([(x[:, part] == x[:, :1]).all(1) for part in pieces(x, 1)]).all(0)
    return found.reshape(x.shape[0], x.shape[2], -1)


def _constant(x: Tensor, still: Tensor) -> Tensor:
    """Which entries can't move, `(entries,)`."""
    start = x[:, 0].reshape(still.shape)
    constant = (still & (start == start[:1, :1])).flatten(0, 1).all(0)
    return constant & (x.ndim > 3) & (~constant.all() | (len(constant) == 1))


def _check(x: Tensor) -> None:
    if x.ndim < 2 or x.shape[0] == 0:
        raise DataError(f"Diagnostics need draws of shape (chains, draws, *shape), found {tuple(x.shape)}.")


def _by_parameter(
    function: Callable[[Ranked], tuple[Tensor, ...]],
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
    if is_mapped(flat):  # in blocks, since neighbours are in one page of its file
        width = max(1, PIECE // max(1, flat[..., :1].numel() * flat.element_size()))
        blocks = (gathered(flat[..., at : at + width]) for at in range(0, flat.shape[2], width))
        found = [torch.stack(_by_parameter(function, block, outputs, min_draws, ranks=ranks)) for block in blocks]
        return torch.cat(found, 1).reshape(outputs, *shape).unbind()
    room = min(_CHUNK_BYTES, _CACHED_BYTES) if x.device.type == "cpu" else _CHUNK_BYTES
    step = max(1, room // (8 * _COPIES * chains * max(1, draws)))

    table = cache(partial(score_table, 2 * chains * (draws // 2), x.device))  # once, if at all

    def chunk(start: int) -> Tensor:
        part = flat[..., start : start + step].to(torch.float64).permute(2, 0, 1).contiguous()
        values = torch.stack(function(Ranked(part, table)))
        known = ~part.isnan() if ranks else part.isfinite()
        return torch.where(known.all(-1).all(-1), values, math.nan)

    with torch.no_grad():
        chunks = list(each(chunk, range(0, flat.shape[2] if draws >= min_draws else 0, step), x.device))
    if not chunks:
        chunks = [torch.full((outputs, flat.shape[2]), math.nan, dtype=torch.float64, device=x.device)]
    return torch.cat(chunks, 1).reshape(outputs, *shape).unbind()
