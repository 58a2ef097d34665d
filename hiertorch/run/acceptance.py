"""How often proposals were accepted, and how often their density was no number."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hiertorch.moves.metropolis import Info


class Acceptance:
    """Acceptance probabilities and NaN densities by block, summed over windows of sweeps and over the sampling phase.

    Blocks are counted by their place among those of the engine.

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
        self.example = ""  # of a NaN density, in words

    def add(self, infos: list[Info], sweeps: int = 1) -> None:
        """One sweep's infos, or sums of those of some sweeps."""
        self._sweeps += sweeps
        for k, info in zip(self._order, infos, strict=True):
            self._sums[k] = self._sums[k] + info.accept if k in self._sums else info.accept
            self.nan[k] = self.nan[k] + info.nan if k in self.nan else info.nan

    def taken(self) -> tuple[dict[int, Tensor], dict[int, Tensor], int]:
        """Sums since the last window, NaN counts, and sweeps, which this one no longer has."""
        found = self._sums, self.nan, self._sweeps
        self._sums, self.nan, self._sweeps = {}, {}, 0
        return found

    def take(self, sums: Mapping[int, Tensor], nan: Mapping[int, Tensor], sweeps: int) -> None:
        """Such sums of a window, that another one had."""
        self._sums, self._sweeps = dict(sums), sweeps
        self.nan = {k: self.nan[k] + count if k in self.nan else count for k, count in nan.items()}

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

    def rates(self) -> dict[int, Tensor]:
        """Mean acceptance by block over the sampling phase, `(chains, size)`."""
        return {k: self._mean(k, total, self._total_sweeps) for k, total in self._totals.items()}

    def nans(self) -> int:
        """NaN densities so far, in all blocks. Synchronises with the device: once a window."""
        return int(torch.stack(list(self.nan.values())).sum()) if self.nan else 0

    def state(self) -> dict[str, Tensor]:
        """All counts at the end of a window, as named tensors, which `restore` takes."""
        named = {"total": self._totals, "nan": self.nan}
        found = {f"{what}/{k}": x for what, parts in named.items() for k, x in parts.items()}
        return {**found, "sweeps": torch.tensor(self._total_sweeps, device="cpu")}

    def restore(self, state: Mapping[str, Tensor], example: str, device: torch.device) -> None:
        """Goes on from such counts."""
        parts: dict[str, dict[int, Tensor]] = {"total": {}, "nan": {}}
        for name, x in state.items():
            what, _, k = name.partition("/")
            if k:
                parts[what][int(k)] = x.to(device)
        self._totals, self.nan, self.example = parts["total"], parts["nan"], example
        self._total_sweeps = int(state["sweeps"])

    def _mean(self, k: int, total: Tensor, sweeps: int) -> Tensor:
        return total / (sweeps * self._order.count(k))
