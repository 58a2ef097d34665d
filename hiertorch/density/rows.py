"""The rows as the sampler holds them: sorted by group, in short blocks, so that sums by group are cheap.

Note [Cells and blocks]
A *cell* is a combination of groups that occurs in the data (a class of a school, a student-lecturer pair). Groupwise
moves need the log likelihood of every group, and after a move on one grouping every other grouping's sums change; sums
by cell are the coarsest thing that serves them all. Rows are sorted by cell and each cell is filled up to whole blocks
of `block` rows with copies of its last row, which count for nothing. The sum over a block is then a dense one, and the
scatter to cells touches `block` times fewer numbers. Filling and sorting are invisible to a likelihood that treats its
rows one by one; `hiertorch.density.structure.agrees` checks that this one does.

docs/decisions.md: Rows are held in blocks.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hiertorch.data.table import Data

SCATTER_COST = 1.0
"""Of adding one number to its cell, in units of one row's density when that is compiled (measured, CPU)."""

PAIRWISE: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    torch.amin: torch.minimum,
    torch.amax: torch.maximum,
    torch.any: torch.logical_or,
}
"""Reduction -> the same of two tensors."""


class Rows:
    """Row terms `(chains, held rows)` -> sums by block -> by cell `(chains, cells)` -> by group `(chains, groups)`.

    Args:
        data: in the user's order.
        plates: the groupings by which sums are needed; none gives a single cell.
        blocked: False keeps the user's order and rows (for a likelihood that reads its rows together).
    """

    def __init__(self, data: Data, plates: tuple[str, ...], *, blocked: bool = True) -> None:
        device = data.device
        codes = {plate: data.codes[plate].cpu().numpy() for plate in plates}
        cell_of_row, first = cells(list(codes.values()), data.n_rows)
        self.n_cells = len(first)
        self.cell_groups = {plate: torch.from_numpy(codes[plate][first]).to(device) for plate in plates}
        self._sizes = {plate: data.size(plate) for plate in plates}
        self._is_cell = {
            plate: self.n_cells == data.size(plate) and bool((codes[plate][first] == np.arange(self.n_cells)).all())
            for plate in plates
        }
        counts = np.bincount(cell_of_row, minlength=self.n_cells)
        self.block = _block(counts) if blocked else 1
        blocks = -(-counts // self.block)
        if blocked:
            order = np.argsort(cell_of_row, kind="stable")
            start = np.cumsum(counts) - counts
            held = np.repeat(np.arange(self.n_cells), blocks * self.block)  # cell of each held row
            within = np.arange(len(held)) - np.repeat(
                np.cumsum(blocks * self.block) - blocks * self.block, blocks * self.block
            )
            source = order[start[held] + np.minimum(within, counts[held] - 1)]
            real = within < counts[held]
        else:
            source, real = np.arange(data.n_rows), np.ones(data.n_rows, bool)
        self.source = torch.from_numpy(source).to(device)
        self.data = data.take(self.source) if blocked else data
        self.real = None if real.all() else torch.from_numpy(real).to(device)
        block_cell = np.repeat(np.arange(self.n_cells), blocks) if blocked else cell_of_row
        whole = self.n_cells == 1 or (blocked and len(block_cell) == self.n_cells)
        self._block_cell = None if whole else torch.from_numpy(block_cell).to(device)

    def to(self, device: torch.device | str) -> "Rows":
        """The same rows on another device."""
        new = copy.copy(self)
        new.data, new.source = self.data.to(device), self.source.to(device)
        new.cell_groups = {plate: groups.to(device) for plate, groups in self.cell_groups.items()}
        new.real = None if self.real is None else self.real.to(device)
        new._block_cell = None if self._block_cell is None else self._block_cell.to(device)
        return new

    def sum_blocks(self, terms: Tensor, *, fused: bool = False) -> Tensor:
        """Sums of row terms by block: `(chains, held rows)` to `(chains, blocks)`, copies left out.

        `fused` writes the sum out, so that a compiler keeps it in registers and runs along the chains.
        """
        if self.real is not None:
            terms = torch.where(self.real, terms, 0.0)
        if self.n_cells == 1:
            return terms.sum(1, keepdim=True)
        if self.block == 1:
            return terms
        if not fused:
            return terms.unflatten(1, (-1, self.block)).sum(2)
        parts = terms.transpose(0, 1).unflatten(0, (-1, self.block)).unbind(1)
        while len(parts) > 1:
            parts = tuple(a + b for a, b in zip(parts[::2], parts[1::2], strict=True))
        return parts[0].contiguous().transpose(0, 1)

    def over_blocks(self, x: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
        """`(..., held rows)` or `(..., 1)` to `(..., blocks)` or `(..., 1)`, by `torch.amin`, `torch.amax` or
        `torch.any`.
        """
        if not x.dim() or x.shape[-1] == 1:
            return x
        if self.n_cells == 1:
            return reduce(x, -1, keepdim=True)
        if self.block == 1:
            return x
        x = x.unflatten(-1, (-1, self.block))
        while (half := x.shape[-1] // 2) > 0:  # faster than a reduction along an axis that is not last in memory
            x = PAIRWISE[reduce](x[..., :half], x[..., half:])
        return x[..., 0]

    def sum_cells(self, blocks: Tensor) -> Tensor:
        """Sums of block terms by cell: `(chains, blocks)` to `(chains, cells)`."""
        return blocks if self._block_cell is None else _scatter(blocks, self._block_cell, self.n_cells)

    def by_group(self, cells: Tensor, plate: str) -> Tensor:
        """Sums of cell terms by group of a plate: `(chains, cells)` to `(chains, groups)`."""
        if self._is_cell[plate]:
            return cells
        return _scatter(cells, self.cell_groups[plate], self._sizes[plate])

    def of_group(self, by_group: Tensor, plate: str) -> Tensor:
        """What each cell's group has: `(chains, groups)` to `(chains, cells)`."""
        return by_group if self._is_cell[plate] else by_group[:, self.cell_groups[plate]]


def cells(codes: list[np.ndarray], n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell of each row, in lexicographic order of the codes, and the first row of each cell."""
    if not codes:
        return np.zeros(n_rows, np.int64), np.zeros(1, np.int64)
    order = np.lexsort(codes[::-1])
    new = np.zeros(n_rows, bool)
    for code in codes:
        ordered = code[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    cell = np.empty(n_rows, np.int64)
    cell[order] = np.cumsum(new)
    new[0] = True
    return cell, order[new]


def _block(counts: np.ndarray) -> int:
    """The block length that makes filling and scattering together cheapest."""
    if len(counts) == 1:
        return 1

    def cost(block: int) -> float:
        blocks = (-(-counts // block)).sum()
        return float(blocks * block + (0.0 if blocks == len(counts) else SCATTER_COST * blocks))

    return min((1, 2, 4, 8, 16), key=cost)


def _scatter(terms: Tensor, index: Tensor, size: int) -> Tensor:
    """Sums over the columns that share an index: `(chains, n)` to `(chains, size)`."""
    out = terms.new_zeros(size, terms.shape[0]).index_add(0, index, terms.transpose(0, 1))
    return out.transpose(0, 1)
