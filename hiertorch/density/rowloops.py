"""Sums over the rows of each group by a compiled loop, on the CPU."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from hiertorch.density.rowblocks import Effects, Numbers, of_groups
from hiertorch.density.rowkernel import WIDTHS, loop
from hiertorch.families.rowforms import RowForm
from hiertorch.runtime.workers import MOST, each

COST = {32: 1.0, 8: 1.6}
"""Of a chain in blocks of so many (measured)."""

SHARED = 4_000_000
"""Rows times chains of a pass from which on several workers share its groups: some milliseconds of one, beside which it
costs little to begin them.
"""

PIECES = MOST
"""Of a pass that is shared, whatever the number of cores."""


class Loops:
    """What `hiertorch.density.rowblocks.Blocks` computes, and with the same arguments."""

    def __init__(
        self, offset: Tensor | None, design: Tensor, effects: Sequence[Effects], group: Tensor, size: int,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        self.size, self.dtype, self._effects = size, dtype, len(effects)
        self._rows = group.argsort(stable=True)
        lengths = torch.bincount(group, minlength=size)
        self._start = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).numpy()
        self._offset = torch.zeros_like(group, dtype=dtype) if offset is None else offset[self._rows].to(dtype)
        self._design = design[self._rows].to(dtype).contiguous().numpy()
        shared: list[Tensor] = []  # `(size,)` each
        own: list[Tensor] = []  # `(rows,)` each,
        own_design: list[Tensor] = []  # and these
        place = design.shape[1]
        for part in effects:
            owned, ones = of_groups(part.group, group, size), part.ones()
            for k in range(part.design.shape[1]):
                if owned is not None and ones[k]:
                    shared.append(owned + place)
                else:
                    own.append(part.group[self._rows] + place)
                    own_design.append(part.design[self._rows, k].to(dtype))
                place += part.size
        self._shared = _columns(shared, size, torch.long)
        self._own = _columns(own, len(group), torch.long)
        self._own_design = _columns(own_design, len(group), dtype)
        self._numbers = np.zeros((0, 5))

    def set_numbers(self, numbers: Numbers, shares: Sequence[Tensor] = ()) -> None:
        """Takes the numbers of the rows, in the order in which rows were given."""
        linear, half, first, second, *more = (x[self._rows].to(self.dtype) for x in (*numbers, *shares))
        self._numbers = torch.stack([self._offset, half, linear, first, second, *more], 1).contiguous().numpy()

    def arrays(self) -> tuple[np.ndarray, ...]:
        """What the compiled loop takes of the rows: start, numbers, design, shared, own, own_design."""
        return self._start, self._numbers, self._design, self._shared, self._own, self._own_design

    def sums(self, form: RowForm, root: Tensor, effects: Sequence[Tensor], chain: tuple[Tensor, ...]) -> Tensor:
        """The sums, `(groups, chains)` in double precision, given r `(P, chains)` and u `(K, groups, chains)` each."""
        chains = root.shape[1]
        width = min(WIDTHS, key=lambda width: COST[width] * width * -(-chains // width))
        blocks = -(-chains // width)
        flat = torch.cat([root, *(u.flatten(0, 1) for u in effects)])  # (places, chains)
        scalars = torch.stack([x.expand(chains) for x in chain])
        values, scalars = (self._blocked(x, blocks, width) for x in (flat, scalars))
        out = torch.empty(blocks, self.size, width, dtype=torch.float64)

        add_rows = loop(form.code, width)

        def work(groups: tuple[int, int]) -> None:
            add_rows(*groups, *self.arrays(), values.numpy(), scalars.numpy(), out.numpy())

        for _ in each(work, self._pieces(len(self._rows) * chains), root.device):
            pass
        return out[0, :, :chains] if blocks == 1 else out.transpose(0, 1).flatten(1)[:, :chains]

    def _blocked(self, x: Tensor, blocks: int, width: int) -> Tensor:
        """`(n, chains)` to `(blocks, n, width)`, with zeros for chains that are not there."""
        x = x.to(self.dtype)
        if blocks * width > x.shape[1]:
            x = torch.nn.functional.pad(x, (0, blocks * width - x.shape[1]))
        return x.view(len(x), blocks, width).transpose(0, 1).contiguous()

    def _pieces(self, work: int) -> list[tuple[int, int]]:
        """Groups from and to, with about as many rows in each piece."""
        if work < SHARED:
            return [(0, self.size)]
        shares = np.linspace(0, self._start[-1], PIECES + 1)[1:-1]
        bounds = [0, *np.searchsorted(self._start, shares).tolist(), self.size]
        return list(pairwise(bounds))


def _columns(columns: Sequence[Tensor], rows: int, dtype: torch.dtype) -> np.ndarray:
    return (torch.stack(list(columns), 1) if columns else torch.zeros(rows, 0, dtype=dtype)).contiguous().numpy()
