"""Ladders of nested levels with one effect a group each, compiled by Numba (`hiertorch[fast]`), on the CPU.

    A = 1 + (b sigma)^2 G_00,    G <- sum over a parent's groups of G - (b sigma)^2 G_.0 G_0. / A,    B = sigma A^(-1/2)

sigma: the scale of a level's effects, b: of their column, the first one of G. From the finest level up groups are
eliminated, then the root is factored and drawn as in `hiertorch.gaussian.onelevel`, and p follows from what it leaves
of the response. These are the formulas of `hiertorch.gaussian.elimination` and `hiertorch.gaussian.ladder`, with LANES
elements of a batch side by side. The finest level's sums are those of Note [Within and between] of
`hiertorch.gaussian.finest`: what varies within groups, and what varies between them over A.

docs/decisions.md: Nested levels in compiled loops.
"""

from collections.abc import Callable, Sequence
from functools import cache
from hashlib import blake2s
from inspect import getsource
from typing import NamedTuple

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from hiertorch.density import rowkernel
from hiertorch.density.rowkernel import buffer, compiled, log
from hiertorch.gaussian import factorloops
from hiertorch.gaussian.cholesky import square_index
from hiertorch.gaussian.factorloops import LANES, factor, solve
from hiertorch.gaussian.onelevel import FARTHEST, Groups

SOURCE = blake2s("".join(map(getsource, (rowkernel, factorloops))).encode(), digest_size=4).hexdigest()
"""Of the code that is compiled together with that of this file, of which alone Numba sees that it has changed."""

part = njit(nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")
"""Compiles what the loop calls."""


class Nested(NamedTuple):
    """What the loop knows of the rows and of priors. L levels, of which those above the finest have M groups; q columns
    behind the finest level's: one of each coarser level, R of coefficients, the response.
    """

    basis: np.ndarray  # b of each level, (L,)
    sizes: np.ndarray  # groups of each level, (L,)
    first: np.ndarray  # where groups of each coarser level begin among those of all of these, (L,)
    parents: np.ndarray  # of these groups: that of the next level, 0 for all of the last; (M,)
    children: np.ndarray  # groups of the finest level by their parents, (groups,)
    start: np.ndarray  # where those of each parent begin among these, (groups of the second level + 1,)
    own: np.ndarray  # z of the finest level, (groups,)
    within: np.ndarray  # G within groups by parent, packed, (groups of the second level, pairs)
    between: np.ndarray  # G between them, packed, (groups, pairs)
    tails: np.ndarray  # products of its column with those of coefficients, then the response, (R + 1, groups)
    location: np.ndarray  # prior means of standardised coefficients, (R,)
    root: np.ndarray  # of the covariance of their prior, (R, R)

    @property
    def groups(self) -> Groups:
        """What B and p of the finest level's groups take beside sigma and innovations of coefficients."""
        turned = np.linalg.solve(self.root.T, self.tails[:-1])
        return Groups(float(self.basis[0]), self.own, turned, self.tails[-1] + self.location @ self.tails[:-1])


class Found(NamedTuple):
    """Of each of a batch."""

    marginal: Tensor  # log p(y | sigma) but for what does not depend on sigma, (batch,)
    volume: Tensor  # log |d innovations / d e|, (batch,)
    tail: Tensor  # innovations of coefficients, (R, batch)
    half: Tensor  # B of all levels, finest first, (groups, batch); or of coarser ones alone
    middle: Tensor  # p, likewise
    coupled: Tensor  # G of each coarser level with each that is coarser still, (rows, batch)


def nested_of(
    basis: Sequence[float], sizes: Sequence[int], parents: Sequence[Tensor], own: Tensor, inverse: Tensor,
    columns: Tensor, within: Tensor, spread: Tensor | None, location: Tensor, root: Tensor,
) -> Nested:  # fmt: skip
    """What `rungs` takes.

    Args:
        basis: b of each level.
        sizes: groups of each.
        parents: group of the next level in which each group lies, of all levels but the last.
        own: z of the finest level's groups, `(groups,)`,
        inverse: and z^(-1/2), or 0.
        columns: products of its column with all behind it, `(q, groups)`.
        within: G within groups, packed, `(pairs, groups of the second level)`.
        spread: C of coefficients, `(R, R)`, in units of which their columns are taken; None where they are.
        location: see `Nested`,
        root: and this.
    """
    q, width = len(columns), len(location)
    a, b = torch.triu_indices(q, q)
    if spread is not None and width:
        eye = torch.eye(q - width - 1, dtype=spread.dtype)
        turn = torch.block_diag(eye, spread, torch.ones_like(spread[:1, :1]))
        square = within[square_index(q, within.device)].movedim(2, 0)
        columns, within = turn.mT @ columns, (turn.mT @ square @ turn)[:, a, b].mT
    g = columns * inverse
    parent = parents[0]
    every = torch.cat([*parents[1:], parent.new_zeros(sizes[-1])])
    counts = torch.bincount(parent, minlength=sizes[1])
    tails = columns[q - width - 1 :]
    first, start = torch.tensor([0, 0, *sizes[1:-1]]).cumsum(0), torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    arrays = (
        torch.tensor(basis, dtype=own.dtype), torch.tensor(list(sizes)), first, every, parent.argsort(stable=True),
        start, own, within.mT, (g[a] * g[b]).mT, tails, location, root,
    )  # fmt: skip
    return Nested(*(x.contiguous().numpy() for x in arrays))


@part
def eliminate(
    total: np.ndarray, q: int, square: np.ndarray, logs: np.ndarray, row: np.ndarray, precision: np.ndarray,
    into: np.ndarray,
) -> None:  # fmt: skip
    """A group goes: of its G, packed `(pairs, LANES)`, what is left of all other columns is added to `into`.

    Args:
        total: G.
        q: columns, this level's first.
        square: (b sigma)^2, `(LANES,)`.
        logs: log A is added to these.
        row: G_0., `(q, LANES)`, written into.
        precision: A, `(LANES,)`, written into.
        into: `(pairs of q - 1, LANES)`.
    """
    by = carray(buffer(total, 32), 32)
    weight = carray(buffer(total, 32), 32)
    for c in range(LANES):
        a = 1.0 + square[c] * total[0, c]
        precision[c] = a
        weight[c] = square[c] / a
        logs[c] += log(a)
    for i in range(q):
        for c in range(LANES):
            row[i, c] = total[i, c]
    at = q
    for i in range(1, q):
        for c in range(LANES):
            by[c] = weight[c] * row[i, c]
        for j in range(i, q):
            for c in range(LANES):
                into[at - q, c] += total[at, c] - by[c] * row[j, c]
            at += 1


def climb(
    known: Nested, scale: np.ndarray, noise: np.ndarray, marginal: np.ndarray, volume: np.ndarray, tail: np.ndarray,
    half: np.ndarray, middle: np.ndarray, coupled: np.ndarray,
) -> None:  # fmt: skip
    """See `rungs`; the last six are those of `Found`, written into. Scales of levels `(L, batch)`."""
    levels, size, batch = len(known.sizes), noise.shape[0], noise.shape[1]
    finest, coarser, q = len(known.own), len(known.parents), levels - 1 + noise.shape[0] + 1
    pairs = q * (q + 1) // 2
    total, by = carray(buffer(noise, 32), 32), carray(buffer(noise, 32), 32)
    logs, square, sd = np.zeros(LANES), np.zeros((levels, LANES)), np.zeros((levels, LANES))
    inverse, local = np.zeros((finest, LANES)), np.zeros((pairs, LANES))
    skip = known.sizes[1]  # groups of the second level, whose G are added up one by one
    last = coarser - skip  # of the root
    grams, rows = np.zeros((last + 1, pairs, LANES)), np.zeros((coarser, q, LANES))
    precisions = np.zeros((coarser, LANES))
    lower, reciprocal = np.zeros((size + 1, size, LANES)), np.zeros((size, LANES))  # the last row is L^-1 h, then u
    shifted, determinant, lean = 0.0, 0.0, len(half) == coarser
    for i in range(size):
        shifted += known.location[i] * known.location[i]
        determinant += np.log(known.root[i, i])
    for first in range(0, batch, LANES):
        live = min(LANES, batch - first)
        for c in range(LANES):
            logs[c] = 0.0
        for level in range(levels):
            b = known.basis[level]
            for c in range(LANES):
                s = scale[level, first + min(c, live - 1)]
                sd[level, c] = s
                square[level, c] = (b * s) * (b * s) if abs(s) < FARTHEST else np.nan
        for p in range(last + 1):
            for r in range(pairs):
                for c in range(LANES):
                    grams[p, r, c] = 0.0
        for level in range(1, levels):
            columns = q - level + 1
            for g in range(known.sizes[level]):
                p = known.first[level] + g
                above = last if level == levels - 1 else known.first[level + 1] + known.parents[p] - skip
                if level > 1:
                    eliminate(grams[p - skip], columns, square[level], logs, rows[p], precisions[p], grams[above])
                    continue
                for r in range(pairs):
                    x = known.within[g, r]
                    for c in range(LANES):
                        local[r, c] = x
                for k in range(known.start[g], known.start[g + 1]):
                    child = known.children[k]
                    z = known.own[child]
                    for c in range(LANES):
                        a = 1.0 + square[0, c] * z
                        by[c] = 1.0 / a
                        inverse[child, c] = by[c]
                        logs[c] += log(a)
                    for r in range(pairs):
                        x = known.between[child, r]
                        for c in range(LANES):
                            local[r, c] += x * by[c]
                eliminate(local, columns, square[level], logs, rows[p], precisions[p], grams[above])
        at = 0  # of the root's packed G: coefficients, then the response
        for i in range(size):
            for j in range(i, size):
                for c in range(LANES):
                    lower[j, i, c] = grams[last, at, c]
                at += 1
            for c in range(LANES):
                lower[size, i, c] = grams[last, at, c] - known.location[i]
                lower[i, i, c] += 1.0
            at += 1
        factor(lower, reciprocal)
        for c in range(LANES):  # y'y less what the best fit explains; by: log |L|
            total[c], by[c] = grams[last, at, c] + shifted, 0.0
        for i in range(size):
            for c in range(live):
                by[c] += np.log(lower[i, i, c])
                total[c] -= lower[size, i, c] * lower[size, i, c]
                lower[size, i, c] += noise[i, first + c]
        for c in range(live):
            marginal[first + c] = -0.5 * (logs[c] + total[c]) - by[c]
            volume[first + c] = determinant - 0.5 * logs[c] - by[c]
            for level in range(levels):
                volume[first + c] += known.sizes[level] * np.log(sd[level, c])
        solve(lower, reciprocal)
        for i in range(size):
            for c in range(LANES):
                total[c] = 0.0
            for j in range(size):
                x, y = known.root[i, j], known.location[j]
                if x != 0.0:
                    for c in range(LANES):
                        total[c] += x * (lower[size, j, c] + y)
            for c in range(live):
                tail[i, first + c] = total[c]
        for g in range(0 if lean else finest):
            x = known.tails[size, g]
            for c in range(LANES):
                total[c] = x
            for i in range(size):
                x = known.tails[i, g]
                for c in range(LANES):
                    total[c] -= x * lower[size, i, c]
            for c in range(live):
                b = sd[0, c] * np.sqrt(inverse[g, c])
                half[g, first + c] = b
                middle[g, first + c] = total[c] * b * known.basis[0]
        to = 0
        for level in range(1, levels):
            b, columns = known.basis[level], q - level + 1
            for g in range(known.sizes[level]):
                p = known.first[level] + g
                at = p if lean else finest + p
                for c in range(LANES):
                    total[c] = rows[p, columns - 1, c]
                for i in range(size):
                    for c in range(LANES):
                        total[c] -= rows[p, columns - 1 - size + i, c] * lower[size, i, c]
                for c in range(live):
                    x = sd[level, c] / np.sqrt(precisions[p, c])
                    half[at, first + c] = x
                    middle[at, first + c] = total[c] * x * b
            for m in range(level + 1, levels):
                for g in range(known.sizes[level]):
                    p, both = known.first[level] + g, b * known.basis[m]
                    for c in range(live):
                        coupled[to + g, first + c] = both * rows[p, m - level, c]
                to += known.sizes[level]


@cache
def _loop() -> Callable[..., None]:
    return compiled(climb, f"climb_{SOURCE}")


def rungs(known: Nested, scales: Sequence[Tensor], noise: Tensor, *, lean: bool = False) -> Found:
    """All that follows from sigma of each level, `(batch,)` each, and standard normal numbers of the root `(R, batch)`,
    in double precision; NaN where there is no density. The finest level has no B and no p if it is to be `lean`.
    """
    width, batch = noise.shape
    coarser, sizes = len(known.parents), known.sizes.tolist()
    groups = coarser if lean else coarser + sizes[0]
    rows = sum(n * (len(sizes) - 1 - level) for level, n in enumerate(sizes) if level)
    shapes = ((batch,), (batch,), (width, batch), (groups, batch), (groups, batch), (rows, batch))
    found = Found(*(noise.new_empty(shape) for shape in shapes))
    _loop()(known, torch.stack(list(scales)).numpy(), noise.contiguous().numpy(), *(x.numpy() for x in found))
    return found
