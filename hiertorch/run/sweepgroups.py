"""Effects of groups as functions of their numbers, for a block of chains, in sweeps that are compiled by Numba: what
`hiertorch.gaussian.ladder` and `hiertorch.run.adjusted` do in torch.

    x_l = B_l' (p_l + e_l - B_l sum_m G_lm x_m[group of m]),     e_0 = a + A t + exp(c + C t) eps

Numbers have chains in the last axis, and are rows of WIDTH chains here. Levels stand one below the other, the finest
first; effect k of group g has the row k groups + g of its level, and element (k, j) of B the row (k K + j) groups + g.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiertorch.density.rowkernel import exp
from hiertorch.gaussian.ladder import Ladder, Rung
from hiertorch.gaussian.onelevel import Groups
from hiertorch.run.adjusted import Adjusted
from hiertorch.run.sweepnumbers import WIDTH, part

NO_GROUPS = Groups(0.0, np.zeros(0), np.zeros((0, 0)), np.zeros(0))
"""Where B and p are offered."""


class Tree(NamedTuple):
    """Groups that lie in one another: L levels, of which level l has K effects a group."""

    widths: np.ndarray  # K of each level, (L,)
    sizes: np.ndarray  # how many groups, (L,)
    groups: np.ndarray  # which are the first among those of all levels, (L + 1,)
    numbers: np.ndarray  # the first row of their effects, (L + 1,)
    halves: np.ndarray  # that of B, (L + 1,)
    above: np.ndarray  # the group of level m in which group g of level l lies, (L, L, most groups)
    couplings: np.ndarray  # the first row of G of two levels, (L, L)
    fixed: np.ndarray  # G of the finest level with all others where they hang on nothing, else none; (rows,)

    @classmethod
    def of(cls, ladder: Ladder) -> "Tree":
        """That of a ladder's levels."""
        widths, sizes, levels = ladder.widths, ladder.sizes, range(len(ladder.sizes))
        above = np.zeros((len(levels), len(levels), max(sizes)), np.int64)
        couplings, at, settled = np.zeros((len(levels), len(levels)), np.int64), 0, ladder.finest_couplings
        for level in levels:
            above[level, level, : sizes[level]] = np.arange(sizes[level])
            at = 0 if level == 1 and settled is not None else at
            for m, parent in enumerate(ladder.above[level], level + 1):
                above[level, m, : sizes[level]] = parent.numpy()
                couplings[level, m], at = at, at + widths[level] * widths[m] * sizes[level]
        k, n = np.array(widths), np.array(sizes)
        groups, numbers, halves = (np.concatenate([[0], each.cumsum()]) for each in (n, k * n, k * k * n))
        fixed = torch.cat([x.flatten() for x in settled]).numpy() if settled else np.zeros(0)
        return cls(k, n, groups, numbers, halves, above, couplings, fixed)

    def coupled(self, rungs: tuple[Rung, ...]) -> Tensor:
        """Those G that theta moves, one below the other, `(rows, n)`."""
        if len(rungs) == 1:
            return rungs[0].half[0, 0, :0]
        free = rungs[1:] if len(self.fixed) else rungs
        return stacked([x for rung in free for x in rung.couplings], rungs[-1].half)

    def split(self, x: Tensor) -> list[Tensor]:
        """Rows of effects, level by level, `(K, groups, n)` each."""
        if len(self.sizes) == 1:
            return [x.view(int(self.widths[0]), int(self.sizes[0]), -1)]
        lengths = np.diff(self.numbers).tolist()
        both = zip(x.split(lengths), self.widths.tolist(), self.sizes.tolist(), strict=True)
        return [rows.unflatten(0, (width, size)) for rows, width, size in both]

    def rungs(self, half: Tensor, middle: Tensor, coupled: Tensor, before: tuple[Rung, ...]) -> tuple[Rung, ...]:
        """Rungs of these rows; what theta does not move is that of others."""
        if len(before) == 1:
            (middles,) = self.split(middle)
            return (Rung(half.view(len(middles), len(middles), middles.shape[1], -1), middles, ()),)
        found, at = [], 0
        halves = half.split(np.diff(self.halves).tolist())
        for level, (of, own, old) in enumerate(zip(halves, self.split(middle), before, strict=True)):
            width, size, more = len(own), own.shape[1], list[Tensor]()
            for m in range(level + 1, len(self.sizes)):
                shape = (width, int(self.widths[m]), size)
                if level or not len(self.fixed):
                    more.append(coupled[at : at + width * shape[1] * size].unflatten(0, shape))
                    at += width * shape[1] * size
            couplings = old.couplings if not level and len(self.fixed) else tuple(more)
            found.append(Rung(of.unflatten(0, (width, width, size)), own, couplings))
        return tuple(found)


class Moves(NamedTuple):
    """How numbers of the finest level's groups move with theta, in K groups rows, or in none where they do not."""

    location: np.ndarray  # a, (rows,)
    slopes: np.ndarray  # A, (rows, d)
    log_scale: np.ndarray  # c, (rows,)
    scale_slopes: np.ndarray  # C, (rows, d)

    @classmethod
    def of(cls, adjusted: Adjusted | None, width: int) -> "Moves":
        """Those of an adjustment to theta of so many coordinates."""
        if adjusted is None:
            return cls(np.zeros(0), np.zeros((0, width)), np.zeros(0), np.zeros((0, width)))
        location, slopes, log_scale, scale_slopes = (x.flatten(0, 1) for x in adjusted[2:])
        arrays = location[:, 0], slopes, log_scale[:, 0], scale_slopes
        return cls(*(x.contiguous().numpy() for x in arrays))


def stacked(parts: list[Tensor], like: Tensor) -> Tensor:
    """Tensors `(..., n)` one below the other, `(rows, n)`."""
    flat = [x.flatten(0, -2) for x in parts]
    if not flat:
        return like.new_zeros(0, like.shape[-1])
    return flat[0] if len(flat) == 1 else torch.cat(flat)


@part
def down(values: np.ndarray, front: int, level: int, half: np.ndarray, middle: np.ndarray, coupled: np.ndarray,
         noise: np.ndarray, tree: Tree) -> None:  # fmt: skip
    """Effects of a level, of its numbers and of effects of coarser levels; these stand among the values from `front`
    on, level by level.
    """
    width, groups, at, by = tree.widths[level], tree.sizes[level], tree.numbers[level], tree.halves[level]
    levels, fixed = len(tree.sizes), level == 0 and len(tree.fixed) > 0
    inner, rest = np.empty((width, WIDTH)), np.empty(WIDTH)
    for g in range(groups):
        for k in range(width):
            of = at + k * groups + g
            for c in range(WIDTH):
                inner[k, c] = middle[of, c] + noise[of, c]
        for j in range(width if level + 1 < levels else 0):
            for c in range(WIDTH):
                rest[c] = 0.0
            for m in range(level + 1, levels):
                there = front + tree.numbers[m] + tree.above[level, m, g]
                for i in range(tree.widths[m]):
                    row, x = tree.couplings[level, m] + (j * tree.widths[m] + i) * groups + g, there + i * tree.sizes[m]
                    if fixed:
                        one = tree.fixed[row]
                        for c in range(WIDTH):
                            rest[c] += one * values[x, c]
                    else:
                        for c in range(WIDTH):
                            rest[c] += coupled[row, c] * values[x, c]
            for k in range(width):
                of = by + (k * width + j) * groups + g
                for c in range(WIDTH):
                    inner[k, c] -= half[of, c] * rest[c]
        for j in range(width):
            to = front + at + j * groups + g
            for k in range(width):
                of = by + (k * width + j) * groups + g
                for c in range(WIDTH):
                    before = 0.0 if k == 0 else values[to, c]
                    values[to, c] = before + half[of, c] * inner[k, c]


@part
def climb(half: np.ndarray, middle: np.ndarray, scale: np.ndarray, tail: np.ndarray, groups: Groups) -> None:
    """B and p of groups, of sigma and coefficients: `hiertorch.gaussian.onelevel.Groups`."""
    basis, own, tails, last = groups
    sd, total = np.empty(WIDTH), np.empty(WIDTH)
    for c in range(WIDTH):
        sd[c] = scale[0, c]
    for g in range(len(own)):
        z, rest = basis * basis * own[g], last[g]
        for c in range(WIDTH):
            total[c] = rest
        for i in range(len(tails)):
            x = tails[i, g]
            for c in range(WIDTH):
                total[c] -= x * tail[i, c]
        for c in range(WIDTH):
            b = sd[c] / np.sqrt(1.0 + z * sd[c] * sd[c])
            half[g, c] = b
            middle[g, c] = b * basis * total[c]


@part
def locate(location: np.ndarray, log_scale: np.ndarray, t: np.ndarray, moves: Moves) -> None:
    """a + A t and c + C t of standardised theta t."""
    for r in range(len(moves.location)):
        a, b = moves.location[r], moves.log_scale[r]
        for c in range(WIDTH):
            location[r, c], log_scale[r, c] = a, b
        for i in range(moves.slopes.shape[1]):
            a, b = moves.slopes[r, i], moves.scale_slopes[r, i]
            for c in range(WIDTH):
                location[r, c] += a * t[i, c]
                log_scale[r, c] += b * t[i, c]


@part
def move(moved: np.ndarray, location: np.ndarray, log_scale: np.ndarray, noise: np.ndarray) -> None:
    """e of eps."""
    for r in range(len(moved)):
        for c in range(WIDTH):
            moved[r, c] = location[r, c] + exp(log_scale[r, c]) * noise[r, c]


@part
def gain(weights: np.ndarray, moved: np.ndarray, log_scale: np.ndarray, noise: np.ndarray) -> None:
    """Adds h of groups to their weights."""
    groups = len(weights)
    for r in range(len(moved)):
        for c in range(WIDTH):
            e, eps = moved[r, c], noise[r, c]
            weights[r % groups, c] += 0.5 * (eps * eps - e * e) + log_scale[r, c]
