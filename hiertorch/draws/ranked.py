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
        return _sort(self.draws.flatten(1))[0] if self.draws.shape[2] % 2 else self.sorted_split[0]

    @cached_property
    def scores(self) -> Tensor:
        """Normal scores of the halves' draws, of their shape."""
        return normal_scores(*self.sorted_split, self.table()).view_as(self.split)

    def rhat(self) -> Tensor:
        """The larger of the R-hats of ranks and of the ranks of distances from the median."""
        (ordered, order), middle = self.sorted_split, self.split[0].numel() // 2
        median = (ordered[:, middle - 1] + ordered[:, middle]) / 2  # of an even number of draws
        folded, again = _sort((ordered - median[:, None]).abs(), runs=True)  # they fall, and then rise
        folded_scores = normal_scores(folded, order.gather(1, again), self.table()).view_as(self.split)
        spread = torch.where(median.isfinite(), _rhat(folded_scores), math.nan)
        # Folded draws can be constant where draws are not (two values, equally often): fmax leaves that NaN out.
        return torch.fmax(_rhat(self.scores), spread)

    def mean(self) -> Tensor:
        """Over chains and draws."""
        return self.draws.mean((1, 2))

    def sd(self) -> Tensor:
        """With S - 1; NaN of a single draw, of which torch would warn."""
        x = self.draws
        return x.flatten(1).std(1) if x[0].numel() > 1 else x.new_full(x.shape[:1], math.nan)

    def quantile(self, p: float) -> Tensor:
        """The p-quantile over chains and draws."""
        return _quantile(self.ordered, p)

    def ess_mean(self) -> Tensor:
        """Of the draws as they are."""
        return _ess(self.split)

    def ess_bulk(self) -> Tensor:
        """Of the ranks."""
        return _ess(self.scores)

    def ess_tail(self) -> Tensor:
        """The smaller ESS; a tail that never moved counts as all draws beside one that did, as in ArviZ."""
        low, high = (_ess((self.split <= self.quantile(p)[:, None, None]).to(self.split)) for p in TAILS)
        smaller = torch.fmin(low, high)
        return torch.where(low.isnan() ^ high.isnan(), smaller.clamp(max=self.split[0].numel()), smaller)

    def mcse_sd(self) -> Tensor:
        """See `hiertorch.draws.diagnostics.mcse_sd`."""
        square = (self.draws - self.draws.mean((1, 2), keepdim=True)).square()
        mean = square.mean((1, 2))
        return ((square.square().mean((1, 2)) - mean.square()) / _ess(_split(square)) / mean).sqrt() / 2


def _sort(x: Tensor, *, runs: bool = False) -> tuple[Tensor, Tensor]:
    """Rows in ascending order and the order that sorts them; by NumPy on the CPU, which is several times quicker, and
    merges rows of a few ascending or descending runs in linear time.
    """
    if x.device.type != "cpu":
        return x.sort(-1)
    order = torch.from_numpy(np.argsort(x.numpy(), -1, kind="stable" if runs else None))
    return x.gather(-1, order), order


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


def score_table(size: int, device: torch.device) -> Tensor:
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
