"""What is kept of a run: draws by name, acceptance by block, log densities; on the device, without synchronising with
it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from hiertorch.kernels import Info

__all__ = ["Counter", "Store"]


class Store:
    """Room for `draws` draws of the named latents of every chain, filled as they come.

    Args:
        values: gives shapes, `(chains, size, *event)`, dtype and device of these latents.
        names: the latents to keep.
        draws: how many draws of each chain.
        dtype: of the stored draws, if not that of the values.
    """

    def __init__(
        self, values: Mapping[str, Tensor], names: tuple[str, ...], draws: int, dtype: torch.dtype | None = None
    ) -> None:
        self.n_draws, self.names = 0, names
        self._draws = {name: _room(values[name], draws, dtype) for name in names}
        first = values[names[0]]
        self._log_density = first.new_empty(draws, first.shape[0], dtype=dtype or first.dtype)

    def keep(self, values: Mapping[str, Tensor], log_density: Tensor) -> None:
        """Stores the present values `(chains, size, *event)` as the next draw."""
        for name, room in self._draws.items():
            room[self.n_draws] = values[name].movedim(0, -1)
        self._log_density[self.n_draws] = log_density
        self.n_draws += 1

    def fill(self, values: Mapping[str, Tensor], log_density: Tensor, at: int) -> None:
        """Writes values `(draws, chains, size, *event)` behind the first `at` draws. Pieces may come in any order, from
        several threads; the caller raises `n_draws` when all before are there.
        """
        end = at + len(log_density)
        for name, room in self._draws.items():
            room[at:end] = values[name].movedim(1, -1)
        self._log_density[at:end] = log_density

    def draws(self) -> dict[str, Tensor]:
        """The draws so far, `(chains, draws, size, *event)`: views."""
        return {name: room[: self.n_draws].movedim(-1, 0) for name, room in self._draws.items()}

    def log_density(self) -> Tensor:
        """Log densities of the draws so far, `(chains, draws)`."""
        return self._log_density[: self.n_draws].transpose(0, 1)


class Counter:
    """Acceptance probabilities and NaN densities by block, summed over windows of sweeps and over the sampling phase.

    Args:
        order: the block of each move that a sweep runs, repeats included.
    """

    def __init__(self, order: tuple[int, ...]) -> None:
        self._order = order
        self._sums: dict[int, Tensor] = {}
        self._sweeps = 0
        self._totals: dict[int, Tensor] = {}
        self._total_sweeps = 0
        self.nan: dict[int, Tensor] = {}

    def add(self, infos: list[Info]) -> None:
        """One sweep's infos."""
        self._sweeps += 1
        for k, info in zip(self._order, infos, strict=True):
            self._sums[k] = self._sums[k] + info.accept if k in self._sums else info.accept
            self.nan[k] = self.nan[k] + info.nan if k in self.nan else info.nan

    def window(self, *, sampling: bool) -> dict[int, Tensor]:
        """Mean acceptance by block since the last window, `(chains, size)`; counted in the totals if in the sampling
        phase.
        """
        means = {k: self._mean(k, total, self._sweeps) for k, total in self._sums.items()}
        if sampling:
            more = {k: self._totals[k] + s if k in self._totals else s for k, s in self._sums.items()}
            self._totals = {**self._totals, **more}
            self._total_sweeps += self._sweeps
        self._sums, self._sweeps = {}, 0
        return means

    def acceptance(self) -> dict[int, Tensor]:
        """Mean acceptance by block over the sampling phase, `(chains, size)`."""
        return {k: self._mean(k, total, self._total_sweeps) for k, total in self._totals.items()}

    def nans(self) -> int:
        """NaN densities so far, in all blocks. Synchronises with the device: once a window."""
        return int(torch.stack(list(self.nan.values())).sum()) if self.nan else 0

    def _mean(self, k: int, total: Tensor, sweeps: int) -> Tensor:
        return total / (sweeps * self._order.count(k))


def _room(value: Tensor, draws: int, dtype: torch.dtype | None) -> Tensor:
    """An empty `(draws, *shape, chains)` for values `(chains, *shape)`: a draw is written in one run of memory."""
    return value.new_empty((draws, *value.shape[1:], value.shape[0]), dtype=dtype or value.dtype)
