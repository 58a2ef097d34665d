"""Ladders of one level with one effect a group, compiled by Numba (`hiertorch[fast]`), on the CPU.

    A_g = 1 + (b sigma)^2 z_g,    G = G_0 + sum_g T_g / A_g,    I + G = L L',    u = L'^-1 (L^-1 h + e)
    B_g = sigma A_g^(-1/2),       p_g = B_g b S_g (-u, 1)

sigma: the scale of effects, b: of their column; z_g: the sum of weights of a group; T_g: what it leaves to the root,
S_g: its products with the columns of that, which are in units of the prior of coefficients. These are the formulas of
`hiertorch.gaussian.finest`, `hiertorch.gaussian.root` and `hiertorch.gaussian.ladder` where only sigma changes, in one
pass, with LANES elements of a batch side by side in vector instructions and nothing of what is in between in memory.

docs/decisions.md: Ladders of one level in one compiled loop.
"""

from collections.abc import Callable
from functools import cache
from hashlib import blake2s
from inspect import getsource
from typing import NamedTuple

import numpy as np
import torch
from numba import carray
from torch import Tensor

from hiertorch.density import rowkernel
from hiertorch.density.rowkernel import buffer, compiled, log
from hiertorch.gaussian import factorloops
from hiertorch.gaussian.cholesky import square_index
from hiertorch.gaussian.factorloops import LANES, factor, solve

SOURCE = blake2s("".join(map(getsource, (rowkernel, factorloops))).encode(), digest_size=4).hexdigest()
"""Of the code that is compiled together with that of this file, of which alone Numba sees that it has changed."""

FARTHEST = 1e150
"""Scales from which on there is no density: their squares leave the range of numbers."""


class Sums(NamedTuple):
    """What the loop knows of the rows and of priors."""

    basis: float  # b
    members: np.ndarray  # groups of each class of equal z, (classes,)
    own: np.ndarray  # z, (classes,)
    base: np.ndarray  # G_0 packed, (pairs,)
    transfer: np.ndarray  # T packed, (pairs, classes)
    place: np.ndarray  # where entries of G are among the pairs, (R + 1, R + 1)
    of_group: np.ndarray  # the class of each group, (groups,)
    tails: np.ndarray  # S, (R + 1, groups)
    location: np.ndarray  # prior means of standardised coefficients, (R,)
    root: np.ndarray  # of the covariance of their prior, (R, R)


class Found(NamedTuple):
    """Of each of a batch."""

    marginal: Tensor  # log p(y | sigma) but for what does not depend on sigma, (batch,)
    volume: Tensor  # log |d innovations / d e|, (batch,)
    tail: Tensor  # innovations of coefficients, (R, batch)
    half: Tensor  # B, (groups, batch)
    middle: Tensor  # p, (groups, batch)


def sums_of(
    basis: float, members: Tensor, own: Tensor, base: Tensor, transfer: Tensor, of_group: Tensor, tails: Tensor,
    spread: Tensor | None, location: Tensor, root: Tensor,
) -> Sums:  # fmt: skip
    """What `rungs` takes, with columns of coefficients taken in units of their prior: `spread` is C `(R, R)`, or None
    where they are; for the others see `Sums`.
    """
    width = len(location)
    place = square_index(width + 1, base.device)
    if spread is not None and width:
        turn = torch.block_diag(spread, torch.ones_like(spread[:1, :1]))
        a, b = torch.triu_indices(width + 1, width + 1, device=base.device)
        every = torch.cat([base.unsqueeze(1), transfer], 1)[place].movedim(2, 0)  # (1 + classes, R + 1, R + 1)
        base, transfer = (turn.mT @ every @ turn)[:, a, b].mT.split([1, transfer.shape[1]], 1)
        tails = turn.mT @ tails
    arrays = (members, own, base.flatten(), transfer, place, of_group, tails, location, root)
    return Sums(basis, *(x.contiguous().numpy() for x in arrays))


def climb(
    basis: float, members: np.ndarray, own: np.ndarray, base: np.ndarray, transfer: np.ndarray, place: np.ndarray,
    of_group: np.ndarray, tails: np.ndarray, location: np.ndarray, root: np.ndarray, scale: np.ndarray,
    noise: np.ndarray, marginal: np.ndarray, volume: np.ndarray, tail: np.ndarray, half: np.ndarray,
    middle: np.ndarray,
) -> None:  # fmt: skip
    """See `rungs`; the first ten are those of `Sums`, the last five those of `Found`, written into."""
    size, batch = noise.shape
    classes, groups, pairs = len(own), len(of_group), len(base)
    total, by, square, sd, logs = (
        carray(buffer(noise, 32), 32), carray(buffer(noise, 32), 32), carray(buffer(noise, 32), 32),
        carray(buffer(noise, 32), 32), carray(buffer(noise, 32), 32),
    )  # fmt: skip
    inverse, gram = np.empty((classes, LANES)), np.empty((pairs, LANES))
    lower, reciprocal = np.zeros((size + 1, size, LANES)), np.zeros((size, LANES))  # the last row is L^-1 h, then u
    shifted, determinant = 0.0, 0.0
    for i in range(size):
        shifted += location[i] * location[i]
        determinant += np.log(root[i, i])
    for first in range(0, batch, LANES):
        live = min(LANES, batch - first)
        for c in range(LANES):
            sd[c] = scale[first + min(c, live - 1)]
            square[c] = (basis * sd[c]) * (basis * sd[c]) if abs(sd[c]) < FARTHEST else np.nan
            logs[c] = 0.0
        for g in range(classes):
            z, times = own[g], members[g]
            for c in range(LANES):
                a = 1.0 + square[c] * z
                inverse[g, c] = 1.0 / a
                logs[c] += times * log(a)
        for n in range(pairs):
            start = base[n]
            for c in range(LANES):
                total[c] = start
            for g in range(0, classes - 3, 4):
                t0, t1, t2, t3 = transfer[n, g], transfer[n, g + 1], transfer[n, g + 2], transfer[n, g + 3]
                for c in range(LANES):
                    total[c] += (
                        t0 * inverse[g, c] + t1 * inverse[g + 1, c] + t2 * inverse[g + 2, c] + t3 * inverse[g + 3, c]
                    )
            for g in range(classes - classes % 4, classes):
                t0 = transfer[n, g]
                for c in range(LANES):
                    total[c] += t0 * inverse[g, c]
            for c in range(LANES):
                gram[n, c] = total[c]
        for i in range(size):
            for j in range(i + 1):
                of = place[i, j]
                for c in range(LANES):
                    lower[i, j, c] = gram[of, c]
            of, x = place[size, i], location[i]
            for c in range(LANES):
                lower[i, i, c] += 1.0
                lower[size, i, c] = gram[of, c] - x
        factor(lower, reciprocal)
        of = place[size, size]
        for c in range(LANES):  # y'y less what the best fit explains; by: log |L|
            square[c], by[c] = gram[of, c] + shifted, 0.0
        for i in range(size):
            for c in range(live):
                by[c] += np.log(lower[i, i, c])
                square[c] -= lower[size, i, c] * lower[size, i, c]
                lower[size, i, c] += noise[i, first + c]
        for c in range(live):
            marginal[first + c] = -0.5 * (logs[c] + square[c]) - by[c]
            volume[first + c] = groups * np.log(sd[c]) + determinant - 0.5 * logs[c] - by[c]
        solve(lower, reciprocal)
        for i in range(size):
            for c in range(LANES):
                total[c] = 0.0
            for j in range(size):
                x, y = root[i, j], location[j]
                if x != 0.0:
                    for c in range(LANES):
                        total[c] += x * (lower[size, j, c] + y)
            for c in range(live):
                tail[i, first + c] = total[c]
        for g in range(len(half)):  # none, if nobody asks for them
            of, x = of_group[g], tails[size, g]
            for c in range(LANES):
                total[c] = x
            for i in range(size):
                x = tails[i, g]
                for c in range(LANES):
                    total[c] -= x * lower[size, i, c]
            for c in range(LANES):
                by[c] = sd[c] * np.sqrt(inverse[of, c])
                total[c] *= by[c] * basis
            for c in range(live):
                half[g, first + c] = by[c]
                middle[g, first + c] = total[c]


@cache
def _loop() -> Callable[..., None]:
    return compiled(climb, f"climb_{SOURCE}")


def rungs(sums: Sums, scale: Tensor, noise: Tensor, *, lean: bool = False) -> Found:
    """All that follows from sigma `(batch,)` and standard normal numbers of the root `(R, batch)`, in double precision;
    NaN where there is no density. No group has a B or a p if it is to be `lean`: see `Groups`.
    """
    width, batch = noise.shape
    groups = 0 if lean else len(sums.of_group)
    shapes = ((batch,), (batch,), (width, batch), (groups, batch), (groups, batch))
    found = Found(*(noise.new_empty(shape) for shape in shapes))
    _loop()(*sums, scale.contiguous().numpy(), noise.contiguous().numpy(), *(x.numpy() for x in found))
    return found


class Groups(NamedTuple):
    """What B and p of groups take beside sigma and innovations r of coefficients: p_g = B_g b (last_g - tails_g r)."""

    basis: float  # b
    own: np.ndarray  # z, (groups,)
    tails: np.ndarray  # (R, groups)
    last: np.ndarray  # (groups,)

    @classmethod
    def of(cls, sums: Sums) -> "Groups":
        """Those of the same rows and priors."""
        turned = np.linalg.solve(sums.root.T, sums.tails[:-1])
        return cls(sums.basis, sums.own[sums.of_group], turned, sums.tails[-1] + sums.location @ sums.tails[:-1])
