"""Sums over the rows of each group, in plain torch, with chains in the last axis.

Note [Blocks of halving lengths]
Each group's rows are cut in blocks of 16 rows, and what is left over in blocks of 8, 4, 2 and 1 as its binary digits
say. All blocks of one length are a dense tensor `(length, blocks, chains)`: their sums need neither padding nor masks,
an effect that a whole group shares is read once a block, and one logarithm serves a product over a block. Only sums of
blocks, of which there are far fewer, are gathered by group. Blocks are taken some thousands of numbers at a time, so
that what is made of them stays in cache.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiertorch.families.rowforms import RowForm

LENGTHS = (16, 8, 4, 2, 1)
"""Of blocks, in rows."""

AT_ONCE = 65_536
"""Rows times chains that are computed at once on the CPU, half a megabyte of each intermediate result (measured)."""

ON_DEVICE = 2**24
"""The same elsewhere, where memory is the bound."""


class Effects(NamedTuple):
    """The effects of one grouping on the linear predictor: Z_i . u[group_i].

    Attributes:
        design: Z, `(rows, K)`.
        group: of each row, `(rows,)`, long.
        size: the number of groups.
    """

    design: Tensor
    group: Tensor
    size: int

    def take(self, rows: Tensor) -> "Effects":
        """Those of some rows."""
        return Effects(self.design[rows], self.group[rows], self.size)

    def ones(self) -> tuple[bool, ...]:
        """Which columns of Z are 1 throughout."""
        return tuple((self.design == 1.0).all(0).tolist())


class Numbers(NamedTuple):
    """What a row adds to a sum beside g (`hiertorch.families.rowforms`): (half eta + linear) eta, `(rows,)` each."""

    linear: Tensor
    half: Tensor
    first: Tensor
    second: Tensor

    def take(self, rows: Tensor) -> "Numbers":
        """Those of some rows."""
        return Numbers(*(x[rows] for x in self))


class Blocks:
    """sum_i in g of (half_i eta_i + linear_i) eta_i + g_i(eta_i), eta_i = offset_i + X_i r + sum_l Z_il . u_l, by group
    `(groups, chains)`. See Note [Blocks of halving lengths].

    Args:
        offset: `(rows,)`; None for zeros.
        design: X, `(rows, P)`.
        effects: of all groupings.
        group: by which sums are taken, `(rows,)`.
        size: the number of its groups.
        dtype: in which rows are computed; sums of blocks are added up in double precision.
    """

    def __init__(
        self, offset: Tensor | None, design: Tensor, effects: Sequence[Effects], group: Tensor, size: int,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        self.size, self.dtype, self.device = size, dtype, design.device
        rows, owner, self._spans = _cut(group.cpu().numpy(), size)
        self._rows = torch.from_numpy(rows).to(self.device)
        order = np.argsort(owner, kind="stable")
        self._of_group = None if np.array_equal(owner, np.arange(size)) else torch.from_numpy(order).to(self.device)
        self._lengths = torch.from_numpy(np.bincount(owner, minlength=size)).to(self.device)
        self._owner = torch.from_numpy(owner).to(self.device)
        self._with_offset = offset is not None
        columns = design if offset is None else torch.cat([offset.unsqueeze(1), design], 1)
        self._design = columns[self._rows].to(dtype)
        self._shared: list[tuple[int, Tensor]] = []  # effects that a whole group has alike, as a number a group
        self._parts: list[_Part] = []
        for at, part in enumerate(effects):
            ones = part.ones()
            owned = of_groups(part.group, group, size)
            if owned is not None and all(ones):
                self._shared.append((at, owned))
                continue
            where = part.group[self._rows] if owned is None else owned[self._owner]
            self._parts.append(_Part(at, ones, part.design[self._rows].to(dtype), where, owned is None))
        self._numbers: Numbers | None = None
        self._tiles: dict[int, list[_Tile]] = {}

    def set_numbers(self, numbers: Numbers, shares: Sequence[Tensor] = ()) -> None:
        """Takes the numbers of the rows, in the order in which rows were given; no shares of thresholds."""
        self._numbers = Numbers(*(x.to(self.dtype) for x in numbers.take(self._rows)))
        self._tiles = {}

    def sums(self, form: RowForm, root: Tensor, effects: Sequence[Tensor], chain: tuple[Tensor, ...]) -> Tensor:
        """The sums, `(groups, chains)` in double precision, given r `(P, chains)` and u `(K, groups, chains)` each."""
        root, effects = root.to(self.dtype), [u.to(self.dtype) for u in effects]
        scalars = chain[0].to(self.dtype), chain[1].to(self.dtype)
        if self._with_offset:
            root = torch.cat([root.new_ones(1, root.shape[1]), root])
        shared = None
        for at, owned in self._shared:
            for u in effects[at]:
                mine = u[owned]
                shared = mine if shared is None else shared.add_(mine)
        tiles = self._tiled(root.shape[1])
        found = [self._tile(tile, form, root, effects, shared, scalars) for tile in tiles]
        blocks = found[0] if len(found) == 1 else torch.cat(found) if found else root.new_zeros(0, root.shape[1])
        blocks = blocks.to(torch.float64)
        if self._of_group is None:
            return blocks
        return torch.segment_reduce(blocks[self._of_group], "sum", lengths=self._lengths, axis=0, initial=0.0)

    def _tile(
        self, tile: "_Tile", form: RowForm, root: Tensor, effects: Sequence[Tensor], shared: Tensor | None,
        chain: tuple[Tensor, Tensor],
    ) -> Tensor:  # fmt: skip
        eta = (tile.design @ root).unflatten(0, (-1, tile.blocks))  # (length, blocks, chains)
        if shared is not None:
            eta.add_(shared[tile.owner])
        for part in tile.parts:
            for k, one in enumerate(part.ones):
                mine = effects[part.at][k][part.group]
                mine = mine.view(-1, tile.blocks, mine.shape[-1]) if part.by_row else mine
                eta.add_(mine if one else mine * part.design[:, k].view(-1, tile.blocks, 1))
        numbers = tile.numbers
        total = (numbers.half * eta).add_(numbers.linear).mul_(eta).sum(0)
        return total.add_(form.curved(eta, numbers.first, numbers.second, chain))

    def _tiled(self, chains: int) -> list["_Tile"]:
        """The rows in pieces that are computed at once."""
        if chains in self._tiles:
            return self._tiles[chains]
        assert self._numbers is not None, "set_numbers comes first"
        most = (AT_ONCE if self.device.type == "cpu" else ON_DEVICE) // max(chains, 1)
        tiles = []
        for span in self._spans:
            # rows of a span are held length by length, (length, blocks): a piece of its blocks is a set of columns
            held = torch.arange(span.rows, span.rows + span.length * span.blocks, device=self.device)
            held = held.view(span.length, span.blocks)
            step = max(most // span.length, 1)
            for first in range(0, span.blocks, step):
                last = min(first + step, span.blocks)
                rows, blocks = held[:, first:last].flatten(), slice(span.first + first, span.first + last)
                shape = (span.length, last - first, 1)
                owner = self._owner[blocks]
                tiles.append(
                    _Tile(
                        last - first,
                        self._design[rows],
                        _slice(owner),
                        Numbers(*(x[rows].view(shape) for x in self._numbers)),
                        [part.taken(rows, blocks) for part in self._parts],
                    )
                )
        self._tiles = {chains: tiles}
        return tiles


class _Part(NamedTuple):
    at: int  # place among the effects
    ones: tuple[bool, ...]
    design: Tensor  # (rows, K)
    group: Tensor | slice  # of each row, or of each block
    by_row: bool

    def taken(self, rows: Tensor, blocks: slice) -> "_Part":
        assert isinstance(self.group, Tensor)
        group = self.group[rows] if self.by_row else _slice(self.group[blocks])
        return self._replace(design=self.design[rows], group=group)


class _Tile(NamedTuple):
    blocks: int
    design: Tensor
    owner: Tensor | slice  # group of each block
    numbers: Numbers
    parts: list[_Part]


class _Span(NamedTuple):
    """All blocks of one length."""

    length: int
    blocks: int
    rows: int  # place of its first row,
    first: int  # and of its first block


def _cut(group: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, list[_Span]]:
    """The rows in the order in which blocks hold them, the group of each block, and the blocks of each length."""
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group, minlength=size)
    start = np.cumsum(counts) - counts
    rows, owner, spans = [], [], []
    done, n_rows, n_blocks = np.zeros_like(counts), 0, 0
    for length in LENGTHS:
        number = (counts - done) // length  # of blocks of each group
        of = np.repeat(np.arange(size), number)
        within = np.arange(len(of)) - np.repeat(np.cumsum(number) - number, number)
        first = start[of] + done[of] + within * length
        if len(of):
            rows.append(order[(first + np.arange(length)[:, None]).ravel()])
            owner.append(of)
            spans.append(_Span(length, len(of), n_rows, n_blocks))
            n_rows, n_blocks = n_rows + length * len(of), n_blocks + len(of)
        done = done + number * length
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *rows]), np.concatenate([none, *owner]), spans


def of_groups(part: Tensor, group: Tensor, size: int) -> Tensor | None:
    """What each group has for group of another grouping, `(size,)`, 0 for those without rows; None where rows of one
    group differ.
    """
    owned = part.new_zeros(size)
    owned[group] = part
    return owned if bool((owned[group] == part).all()) else None


def _slice(index: Tensor) -> Tensor | slice:
    """The same as a slice where places follow one another, which copies nothing."""
    first = int(index[0]) if len(index) else 0
    same = torch.equal(index, torch.arange(first, first + len(index), device=index.device))
    return slice(first, first + len(index)) if same else index
