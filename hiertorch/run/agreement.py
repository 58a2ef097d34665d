"""Whether chains agree on where they are, from sums of a stretch of sweeps: for when an ordinary warm-up ends."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from hiertorch.density.state import State

AGREED = 1.1
"""R-hat of halves of a stretch below which chains agree: each moves through what it has to see five times or more."""


class Agreement(NamedTuple):
    """Sums over both halves of a stretch of sweeps, of latents of the population and of log densities.

    Args:
        sums: of these numbers around `origin`, and of their squares, `(2 halves, 2, chains, numbers)`.
        counts: sweeps in each half, `(2,)`, in memory of the host.
        origin: where chains were at the first of these sweeps, `(chains, numbers)`.
    """

    sums: Tensor
    counts: Tensor
    origin: Tensor

    @classmethod
    def of(cls, state: State, names: Sequence[str]) -> Self:
        """Before a stretch that begins at this state; `names` are of the latents to watch."""
        origin = _numbers(state, names)
        return cls(origin.new_zeros(2, 2, *origin.shape), torch.zeros(2, dtype=torch.long, device="cpu"), origin)

    def seen(self, state: State, names: Sequence[str], half: int) -> Self:
        """With one more sweep of a half, 0 or 1."""
        x = _numbers(state, names) - self.origin
        sums, counts = self.sums.clone(), self.counts.clone()
        sums[half] += torch.stack([x, x.square()])
        counts[half] += 1
        return self._replace(sums=sums, counts=counts)

    def r_hat(self, *, alone: bool = False) -> float:
        """max over numbers of sqrt((n - 1) / n + B / (n W)) of the halves of all chains (Gelman et al. 2013, eq. 11.4);
        infinite if a number has not moved at all.

        Args:
            alone: each chain has a posterior of its own, so that only its own halves are compared.
        """
        n = self.counts.double().view(2, 1, 1).to(self.sums.device)
        mean = self.sums[:, 0] / n
        within = ((self.sums[:, 1] / n - mean.square()) * n / (n - 1)).mean((0, 1))
        between = mean.var(0).mean(0) if alone else (mean + self.origin).flatten(0, 1).var(0)
        ratio = (n.min() - 1) / n.min() + between / within
        return float(ratio.sqrt().nan_to_num(torch.inf, torch.inf).max())


def _numbers(state: State, names: Sequence[str]) -> Tensor:
    """Latents of the population, unconstrained, and the log density: `(chains, numbers)`, in double precision."""
    parts = [state.free[name].flatten(1) for name in names]
    return torch.cat([*parts, state.log_density().unsqueeze(1)], 1).double()
