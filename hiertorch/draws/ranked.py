"""Draws of some parameters with their halves, sorts and ranks, and R-hat and effective draws by these.

Draws are `(P, chains, draws)`, float64, and results `(P,)`; the formulas, and what has no effective draws, stand in
`hiertorch.draws.diagnostics`.
"""

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

TAILS = (0.05, 0.95)
"""Quantiles whose indicators give the tail ESS."""


class Ranked:
    """One chunk's draws with their halves and sorts, each computed once and only when asked for."""

    def __init__(self, draws: Tensor, table: Callable[[], Tensor]) -> None:
        self.draws, self.table = draws, table

    @cached_property
    def split(self) -> Tensor:
        """First and last half of every chain, as chains: `(P, 2 chains, draws // 2)`."""
        return _split(self.draws)

    @cached_property
    def sorted_split(self) -> tuple[Tensor, Tensor]:
        """The halves' draws in ascending order, and the order that sorts them, each `(P, S)`."""
        return _sort(self.split.flatten(1))

    @cached_property
    def ordered(self) -> Tensor:
        """All draws in ascending order, `(P, S)`; the halves leave out the middle one of an odd number."""
        return _ascending(self.draws.flatten(1)) if self.draws.shape[2] % 2 else self.sorted_split[0]

    @cached_property
    def scores(self) -> "_Chains":
        """Normal scores of the halves' draws, of their shape."""
        return _Chains(normal_scores(*self.sorted_split, self.table()).view_as(self.split))

    def rhat(self) -> Tensor:
        """The larger of the R-hats of ranks and of the ranks of distances from the median."""
        (ordered, order), middle = self.sorted_split, self.split[0].numel() // 2
        median = (ordered[:, middle - 1] + ordered[:, middle]) / 2  # of an even number of draws
        folded, again = _sort((ordered - median[:, None]).abs(), runs=True)  # they fall, and then rise
        folded_scores = normal_scores(folded, order.gather(1, again), self.table()).view_as(self.split)
        spread = torch.where(median.isfinite(), _Chains(folded_scores).rhat(), math.nan)
        # Folded draws can be constant where draws are not (two values, equally often): fmax leaves that NaN out.
        return torch.fmax(self.scores.rhat(), spread)

    def mean(self) -> Tensor:
        """Over chains and draws."""
        return self.draws.mean((1, 2))

    def sd(self) -> Tensor:
        """With S - 1; NaN of a single draw, of which torch would warn."""
        x = self.draws.flatten(1)
        if x.shape[1] < 2:
            return x.new_full(x.shape[:1], math.nan)
        moves = x - x[:, :1]  # exactly zero of what never moved
        return (moves.sub_(moves.mean(1, keepdim=True)).square_().sum(1) / (x.shape[1] - 1)).sqrt()

    def quantile(self, p: float) -> Tensor:
        """The p-quantile over chains and draws."""
        return _quantile(self.ordered, p)

    def ess_mean(self) -> Tensor:
        """Of the draws as they are."""
        return _ess(_Chains(self.split))[0]

    def ess_bulk(self) -> Tensor:
        """Of the ranks."""
        return _ess(self.scores)[0]

    def ess_tail(self) -> Tensor:
        """The smaller ESS; a tail that never moved counts as all draws beside one that did, as in ArviZ."""
        return self._smaller(*_ess(*self._tails()))

    def mcse_sd(self) -> Tensor:
        """See `hiertorch.draws.diagnostics.mcse_sd`."""
        square = self._squares()
        return self._mcse_sd(square, *_ess(_Chains(_split(square))))

    def effective(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`ess_bulk`, `ess_tail`, `ess_mean` and `mcse_sd` together, which costs less."""
        square = self._squares()
        bulk, low, high, mean, spread = _ess(self.scores, *self._tails(), _Chains(self.split), _Chains(_split(square)))
        return bulk, self._smaller(low, high), mean, self._mcse_sd(square, spread)

    def _tails(self) -> "list[_Chains]":
        return [_Chains((self.split <= self.quantile(p)[:, None, None]).to(self.split)) for p in TAILS]

    def _smaller(self, low: Tensor, high: Tensor) -> Tensor:
        smaller = torch.fmin(low, high)
        return torch.where(low.isnan() ^ high.isnan(), smaller.clamp(max=self.split[0].numel()), smaller)

    def _squares(self) -> Tensor:
        return (self.draws - self.draws.mean((1, 2), keepdim=True)).square()

    def _mcse_sd(self, square: Tensor, ess: Tensor) -> Tensor:
        mean = square.mean((1, 2))
        return ((square.square().mean((1, 2)) - mean.square()) / ess / mean).sqrt() / 2


def _sort(x: Tensor, *, runs: bool = False) -> tuple[Tensor, Tensor]:
    """Rows in ascending order and the order that sorts them; by NumPy on the CPU, which is several times quicker, and
    merges rows of a few ascending or descending runs in linear time.
    """
    if x.device.type != "cpu":
        return x.sort(-1)
    order = torch.from_numpy(np.argsort(x.numpy(), -1, kind="stable" if runs else None))
    return x.gather(-1, order), order


def _ascending(x: Tensor) -> Tensor:
    """Rows in ascending order, without the order that sorts them, which costs three times as much."""
    return x.sort(-1).values if x.device.type != "cpu" else torch.from_numpy(np.sort(x.numpy(), -1))


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


def normal_scores(ordered: Tensor, order: Tensor, table: Tensor) -> Tensor:
    """Normal scores of rows, given their sorted values, the order that sorts them and `score_table`: `(P, S)`.

    Rows are laid end to end and every run of equal values, of which rejected proposals make many, is one segment, whose
    average rank is looked up in the table.
    """
    flat, size = ordered.flatten(), ordered.shape[1]
    again = torch.zeros_like(flat, dtype=torch.bool)  # equal to the one before, in the same row
    again.view_as(ordered)[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    follows = again.nonzero().squeeze(1)
    opens = (follows.diff(prepend=follows.new_full((1,), -1)) != 1).nonzero().squeeze(1)  # where runs begin among these
    start, length = follows[opens] - 1, opens.diff(append=opens.new_full((1,), len(follows))) + 1
    score = table[2 * (start % size) + length + 1]  # of a run; from 2 (a single first) to 2S (a single last)
    spread = table[2::2].repeat(len(ordered))  # of single ones
    spread[start] = score
    spread[follows] = score.repeat_interleave(length - 1, output_size=len(follows))
    return torch.empty_like(ordered).scatter_(1, order, spread.view_as(ordered))


def score_table(size: int, device: torch.device) -> Tensor:
    """Phi^-1((rank - 3/8) / (S + 1/4)) by twice the rank, 0 to 2S: half the cost of scores if made for each row."""
    twice = torch.arange(2 * size + 1, dtype=torch.float64, device=device)
    return torch.special.ndtri((twice / 2 - 3 / 8) / (size + 1 / 4))


class _Chains:
    """Chains as they are, `(P, chains, draws)`; R-hat and ESS share their means and distances from these."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    @cached_property
    def _centred(self) -> tuple[Tensor, Tensor]:
        """Means, `(P, chains)`, and distances; these are exactly zero in a chain that never moved."""
        start = self.x[..., :1]
        moves = self.x - start
        mean = moves.mean(-1, keepdim=True)
        return (start + mean).squeeze(-1), moves.sub_(mean)

    def rhat(self) -> Tensor:
        """sqrt((B/W + n - 1) / n), `(P,)`."""
        chains, draws = self.x.shape[1:]
        if chains < 4:  # halves of a single chain
            return self.x.new_full(self.x.shape[:1], math.nan)
        mean, distance = self._centred
        within = distance.square().sum(2).mean(1) / (draws - 1)
        return ((draws * mean.var(1) / within + draws - 1) / draws).sqrt()

    def covariance(self) -> tuple[Tensor, Tensor]:
        """The mean of the chains' autocovariances, `(P, n)`, and the variance of their means, `(P, 1)`.

        Only this mean is needed, so power spectra are summed and transformed back once a parameter.
        """
        chains, n = self.x.shape[1:]
        mean, distance = self._centred
        padded = 1 << (2 * n - 1).bit_length()  # at least 2n, so that the circular covariance doesn't wrap
        power = torch.view_as_real(torch.fft.rfft(distance, n=padded)).square().sum(1).sum(-1)
        return torch.fft.irfft(power, n=padded)[:, :n] / (n * chains), mean.var(1, keepdim=True)

    def moved(self) -> Tensor:
        """Whether any draw differs from another, `(P,)`."""
        return self.x.amax((1, 2)) > self.x.amin((1, 2))


def _ess(*several: _Chains) -> tuple[Tensor, ...]:
    """ESS of each by Geyer's initial monotone sequence, `(P,)`."""
    chains, n = several[0].x.shape[1:]
    covariance, between = (torch.cat(parts) for parts in zip(*(one.covariance() for one in several), strict=True))
    within = covariance[:, :1] * n / (n - 1)
    total = covariance[:, :1] + between
    rho = 1 - (within - covariance) / total  # (P, n)
    rho[:, 0] = 1

    even = rho[:, 0 : n - 1 : 2]
    pair = even + rho[:, 1::2]  # (P, n // 2)
    last = max(0, (n - 3) // 2)  # the last pair that may be looked at
    kept = (pair[:, :last] > 0).cumprod(1)  # the initial positive sequence...
    stop = kept.sum(1, keepdim=True)
    sequence = (pair[:, :last].cummin(1).values * kept).sum(1) if last else rho.new_zeros(len(rho))  # ...made monotone
    next_even, next_pair = even.gather(1, stop).squeeze(1), pair.gather(1, stop).squeeze(1)
    tail = torch.where((next_pair >= 0) | (next_even > 0), next_even, 0)
    size = chains * n
    # Antithetic chains can beat independent draws, but not without limit (Vehtari et al. 2021, section 3).
    tau = (-1 + 2 * sequence + tail).clamp(min=1 / math.log10(size))
    moved = torch.cat([one.moved() for one in several])
    return torch.where(moved, size / tau, math.nan).chunk(len(several))
