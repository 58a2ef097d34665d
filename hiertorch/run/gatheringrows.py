"""A run whose groups are dealt out to processes: the first one has what all have drawn, the others their own.

docs/decisions.md: Groups over processes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from hiertorch.run.acceptance import Acceptance
from hiertorch.run.byrows import WhitenedByRows
from hiertorch.run.gathering import Gathering
from hiertorch.run.store import Store
from hiertorch.runtime.ranks import Share


class GatheringRows(Gathering):
    """See `Gathering`; here every process has all chains and some of the groups.

    Args:
        engine: of this process's groups.
        groups: of all processes.
        store: of this process's draws,
        acceptance: and its rates.
        every: for the draws of all groups, on the first process.
    """

    def __init__(
        self, engine: WhitenedByRows, groups: Share, store: Store, acceptance: Acceptance, every: Store
    ) -> None:
        super().__init__(engine, store, acceptance, every)
        self.groups = groups
        self.store = every if groups.ranks.first else store
        self.acceptance = Acceptance(engine.order)
        self._own_rates = acceptance
        coordinates = engine.target.space.coordinates
        self._grouped = {name for name, c in coordinates.items() if c.plate is not None}
        self._plates = {k for k, block in enumerate(engine.blocks) if block.plate is not None}
        self._before = 0

    def window(self) -> None:
        """See `Gathering.window`."""
        own, first = self.own, self.groups.ranks.first
        made, before, self._before = own.made, self._before, own.made
        fresh = made // own.interval - before // own.interval
        draws = {name: x[:, own.n_draws - fresh :] for name, x in own.draws().items()}
        sums, nan, sweeps = self._own_rates.taken()
        grouped = {name: x for name, x in draws.items() if name in self._grouped}
        rates = {k: x for k, x in sums.items() if k in self._plates}
        found = iter(self.groups.at_first([*grouped.values(), *rates.values()], [2] * len(grouped) + [1] * len(rates)))
        if first:
            draws |= {name: next(found) for name in grouped}
            sums = {**sums, **{k: next(found) for k in rates}}
            if made > before:
                self.store.wanted(made - before)
                at, heights = self.store.n_draws, own.log_density()[:, own.n_draws - fresh :]
                self.store.fill({name: x.movedim(1, 0) for name, x in draws.items()}, heights.mT, at)
                self.store.filled(at + fresh)
        self.acceptance.take(sums, self._counted(nan), sweeps)

    def _counted(self, nan: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """NaN densities, those of groups of all processes."""
        of_groups = [k for k in nan if k in self._plates]
        if not of_groups:
            return dict(nan)
        total = self.groups.ranks.total(torch.stack([nan[k] for k in of_groups]).double())
        return {**nan, **{k: x.round().long() for k, x in zip(of_groups, total, strict=True)}}

    def values(self) -> tuple[Mapping[str, Tensor], Tensor]:
        """See `Gathering.values`."""
        values, height = dict(self.engine.values()), self.engine.height()
        grouped = [name for name in values if name in self._grouped]
        found = self.groups.at_first([values[name] for name in grouped], [1] * len(grouped))
        return {**values, **dict(zip(grouped, found, strict=False))}, height
