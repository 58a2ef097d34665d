"""Ladders of one level with several effects a group, compiled by Numba (`hiertorch[fast]`), on the CPU.

    I + R' G_g R = L_g L_g',    B_g = L_g^-1 R',    V_g = B_g S_g,    Q = Q_0 - sum_g V_g' V_g
    p_g = V_g (-u, 1),          x_g = B_g' (p_g + e_g),               e_g = L_g' R^-1 x_g - p_g

R: the root of the prior covariance of effects; G_g: products of their columns in a group, S_g: those with the columns
of the root, which are in units of the prior of coefficients, and with the response; Q_0: these by themselves. The
formulas are those of `hiertorch.gaussian.ladder` and `hiertorch.gaussian.root`, in one pass over the groups, of which
LANES are side by side: few chains move where effects are many.

docs/decisions.md: Many effects a group in compiled loops.
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
from hiertorch.gaussian.factorloops import LANES, factor, part

SOURCE = blake2s("".join(map(getsource, (rowkernel, factorloops))).encode(), digest_size=4).hexdigest()
"""Of the code that is compiled together with that of this file, of which alone Numba sees that it has changed."""


class Sums(NamedTuple):
    """What the loops know of the rows and of priors."""

    gram: np.ndarray  # G, (blocks, K, K, LANES): groups that are not there have no rows
    tails: np.ndarray  # S, (blocks, K, P + 1, LANES)
    whole: np.ndarray  # Q_0, (P + 1, P + 1)
    location: np.ndarray  # prior means of standardised coefficients, (P,)
    prior: np.ndarray  # the root of their prior covariance, (P, P)


def sums_of(
    gram: Tensor, tails: Tensor, whole: Tensor, base: Tensor, spread: Tensor | None, location: Tensor, root: Tensor
) -> Sums:
    """What `settled` takes.

    Args:
        gram: products of coordinates of the level's columns, `(K, K, groups)`,
        tails: and with those of coefficients and the response, `(K, P + 1, groups)`.
        whole: of these by themselves, packed.
        base: from effects to coordinates of their columns, `(K, K)`.
        spread: the units of coefficients' columns, C `(P, P)`; None where they are in those of their prior.
        location: see `Sums`,
        root: and this.
    """
    ends = len(location) + 1
    own = whole[square_index(ends, whole.device)]
    turn = torch.eye(ends, dtype=whole.dtype)
    if spread is not None and ends > 1:
        turn[:-1, :-1] = spread
    both = (base.mT @ gram.movedim(2, 0) @ base, base.mT @ tails.movedim(2, 0) @ turn)
    arrays = (*(in_blocks(x.movedim(0, 2)) for x in both), turn.mT @ own @ turn, location, root)
    return Sums(*(x.contiguous().numpy() for x in arrays))


def in_blocks(x: Tensor) -> Tensor:
    """Numbers `(..., groups)` in blocks, `(blocks, ..., LANES)`, with zeros for groups that are not there."""
    filled = torch.nn.functional.pad(x, (0, -x.shape[-1] % LANES))
    return filled.unflatten(-1, (-1, LANES)).movedim(-2, 0).contiguous()


class Settled(NamedTuple):
    """What follows from R, of each of a batch, which is the first axis."""

    marginal: Tensor  # log p(y | R) but for what does not depend on R, (batch,)
    volume: Tensor  # log |d innovations / d e|, (batch,)
    half: Tensor  # B, (batch, K, K, groups)
    middle: Tensor  # p, (batch, K, groups)
    passed: Tensor  # V, (batch, K, P + 1, groups)
    lower: Tensor  # L of I + Q but for the response, (batch, P, P)
    centre: Tensor  # L^-1 of what it has to do with the response, (batch, P)
    tail: Tensor  # coefficients less their prior means, (batch, P)
    numbers: Tensor  # and their standard normal ones
    noise: Tensor  # those of groups, (batch, K, groups); of none that are not given


@part
def draw_root(
    prior: np.ndarray, location: np.ndarray, lower: np.ndarray, centre: np.ndarray, numbers: np.ndarray,
    u: np.ndarray, tail: np.ndarray,
) -> None:  # fmt: skip
    """u of the root's standard normal numbers, and what coefficients are then beyond their prior means."""
    size = len(location)
    for i in range(size - 1, -1, -1):
        x = centre[i] + numbers[i]
        for k in range(i + 1, size):
            x -= lower[k, i] * u[k]
        u[i] = x / lower[i, i]
    for i in range(size):
        tail[i] = 0.0
        for j in range(i + 1):
            tail[i] += prior[i, j] * (u[j] + location[j])


@part
def leave(passed: np.ndarray, u: np.ndarray, middle: np.ndarray) -> None:
    """p, of V and u."""
    width, ends, groups = passed.shape
    for i in range(width):
        for g in range(groups):
            middle[i, g] = passed[i, ends - 1, g]
        for m in range(ends - 1):
            x = u[m]
            for g in range(groups):
                middle[i, g] -= x * passed[i, m, g]


def settle(
    gram: np.ndarray, tails: np.ndarray, whole: np.ndarray, location: np.ndarray, prior: np.ndarray, root: np.ndarray,
    known: bool, effects: np.ndarray, marginal: np.ndarray, volume: np.ndarray, half: np.ndarray, middle: np.ndarray,
    passed: np.ndarray, lower: np.ndarray, centre: np.ndarray, tail: np.ndarray, numbers: np.ndarray,
    noise: np.ndarray,
) -> None:  # fmt: skip
    """See `settled`: the first five are those of `Sums`, the last ten those of `Settled`, `(batch, ...)`, written into;
    `tail` is read where it is `known`, with effects `(batch, K, groups)`, else `numbers`.
    """
    blocks, width, ends, _ = tails.shape
    size, groups = ends - 1, half.shape[3]
    total, logs = carray(buffer(root, 32), 32), carray(buffer(root, 32), 32)
    turned, both = np.zeros((width, width, LANES)), np.zeros((2 * width + ends, width, LANES))
    reciprocal, column = np.zeros((width, LANES)), np.zeros((width, LANES))
    sums, u = np.zeros((ends, ends, LANES)), np.zeros(ends)
    shifted, determinant = 0.0, 0.0
    for i in range(size):
        shifted += location[i] * location[i]
        determinant += np.log(prior[i, i])
    for b in range(len(root)):
        r, q = root[b], lower[b]
        for m in range(ends):
            for n in range(m + 1):
                for c in range(LANES):
                    sums[m, n, c] = 0.0
        for c in range(LANES):
            logs[c] = 0.0
        for block in range(blocks):
            first, live = block * LANES, min(LANES, groups - block * LANES)
            for j in range(width):  # G R, of which the rows above the diagonal are not asked for, then R' of it
                for i in range(j, width):
                    for c in range(LANES):
                        total[c] = 0.0
                    for k in range(j, width):
                        x = r[k, j]
                        for c in range(LANES):
                            total[c] += x * gram[block, i, k, c]
                    for c in range(LANES):
                        turned[i, j, c] = total[c]
            for j in range(width):
                for i in range(j, width):
                    for c in range(LANES):
                        total[c] = 1.0 if i == j else 0.0
                    for k in range(i, width):
                        x = r[k, i]
                        for c in range(LANES):
                            total[c] += x * turned[k, j, c]
                    for c in range(LANES):
                        both[i, j, c] = total[c]
            for j in range(width):
                for i in range(width):
                    x = r[j, i] if i <= j else 0.0
                    for c in range(LANES):
                        both[width + j, i, c] = x
            for m in range(ends):
                for i in range(width):
                    for c in range(LANES):
                        total[c] = 0.0
                    for k in range(i, width):
                        x = r[k, i]
                        for c in range(LANES):
                            total[c] += x * tails[block, k, m, c]
                    for c in range(LANES):
                        both[2 * width + m, i, c] = total[c]
            factor(both, reciprocal)  # below L now stand B' and V'
            for i in range(width):
                for c in range(LANES):
                    logs[c] += log(both[i, i, c])
            for j in range(width):
                for i in range(width):
                    for c in range(live):
                        half[b, i, j, first + c] = both[width + j, i, c]
            for m in range(ends):
                for i in range(width):
                    for c in range(live):
                        passed[b, i, m, first + c] = both[2 * width + m, i, c]
                for n in range(m + 1):
                    for c in range(LANES):
                        total[c] = sums[m, n, c]
                    for i in range(width):
                        for c in range(LANES):
                            total[c] += both[2 * width + m, i, c] * both[2 * width + n, i, c]
                    for c in range(LANES):
                        sums[m, n, c] = total[c]
            if known:  # L' R^-1 x
                for i in range(width):
                    for c in range(live):
                        column[i, c] = effects[b, i, first + c]
                    for k in range(i):
                        x = r[i, k]
                        for c in range(LANES):
                            column[i, c] -= x * column[k, c]
                    x = 1.0 / r[i, i]
                    for c in range(LANES):
                        column[i, c] *= x
                for i in range(width):
                    for c in range(LANES):
                        total[c] = 0.0
                    for k in range(i, width):
                        for c in range(LANES):
                            total[c] += both[k, i, c] * column[k, c]
                    for c in range(live):
                        noise[b, i, first + c] = total[c]
        found = 0.0
        for c in range(LANES):
            found -= logs[c]
        marginal[b], volume[b] = found, determinant + found
        for i in range(width):
            volume[b] += groups * np.log(r[i, i])
        for i in range(ends):  # L of the root, and L^-1 of its last row, which is `centre`
            for j in range(min(i + 1, size)):
                x = whole[i, j]
                for c in range(LANES):
                    x -= sums[i, j, c]
                x += 1.0 if i == j else -location[j] if i == size else 0.0
                for k in range(j):
                    x -= (q[i, k] if i < size else centre[b, k]) * q[j, k]
                if i == size:
                    centre[b, j] = x / q[j, j]
                else:
                    q[i, j] = x / q[j, j] if j < i else np.sqrt(x) if x > 0.0 else np.nan
        left = whole[size, size] + shifted
        for c in range(LANES):
            left -= sums[size, size, c]
        for i in range(size):
            left -= centre[b, i] * centre[b, i]
            marginal[b] -= np.log(q[i, i])
            volume[b] -= np.log(q[i, i])
        marginal[b] -= 0.5 * left
        if known:
            for i in range(size):
                x = tail[b, i]
                for j in range(i):
                    x -= prior[i, j] * (u[j] + location[j])
                u[i] = x / prior[i, i] - location[i]
            for i in range(size):
                x = -centre[b, i]
                for k in range(i, size):
                    x += q[k, i] * u[k]
                numbers[b, i] = x
        else:
            draw_root(prior, location, q, centre[b], numbers[b], u, tail[b])
        leave(passed[b], u, middle[b])
        for i in range(width if known else 0):
            for g in range(groups):
                noise[b, i, g] -= middle[b, i, g]


def redraw(
    prior: np.ndarray, location: np.ndarray, passed: np.ndarray, lower: np.ndarray, centre: np.ndarray,
    numbers: np.ndarray, tail: np.ndarray, middle: np.ndarray,
) -> None:  # fmt: skip
    """See `redrawn`; the last two are written into."""
    u = np.zeros(passed.shape[2])
    for b in range(len(passed)):
        draw_root(prior, location, lower[b], centre[b], numbers[b], u, tail[b])
        leave(passed[b], u, middle[b])


def descend(half: np.ndarray, middle: np.ndarray, noise: np.ndarray, effects: np.ndarray) -> None:
    """x of B `(batch, K, K, groups)`, p `(batch, K, groups)` and e `(K, groups, batch)`, written into the last."""
    width, groups, batch = noise.shape
    inner, found = np.zeros((width, groups)), np.zeros(groups)
    for b in range(batch):
        for k in range(width):
            for g in range(groups):
                inner[k, g] = middle[b, k, g] + noise[k, g, b]
        for j in range(width):
            for g in range(groups):
                found[g] = 0.0
            for k in range(width):
                for g in range(groups):
                    found[g] += half[b, k, j, g] * inner[k, g]
            for g in range(groups):
                effects[j, g, b] = found[g]


@cache
def _loop(function: Callable[..., None]) -> Callable[..., None]:
    return compiled(function, f"{function.__name__}_{SOURCE}")


def settled(
    sums: Sums, groups: int, root: Tensor, *, numbers: Tensor | None = None, tail: Tensor | None = None,
    effects: Tensor | None = None,
) -> Settled:  # fmt: skip
    """All that follows from R `(K, K, batch)` and standard normal numbers of the root `(P, batch)`, or from R, what
    coefficients are beyond their prior means `(P, batch)`, and effects `(K, groups, batch)`; NaN where there is no
    density.
    """
    (_, width, ends, _), batch, known = sums.tails.shape, root.shape[2], tail is not None
    new, own = root.new_empty, (batch, ends - 1)
    noise = new(batch, width, groups) if known else new(batch, width, 0)
    given = effects.movedim(2, 0) if effects is not None else noise
    found = Settled(
        new(batch), new(batch), new(batch, width, width, groups), new(batch, width, groups),
        new(batch, width, ends, groups), root.new_zeros(batch, ends - 1, ends - 1), new(own),
        new(own) if tail is None else tail.mT.contiguous(),
        new(own) if numbers is None else numbers.mT.contiguous(), noise,
    )  # fmt: skip
    arrays = (root.movedim(2, 0).contiguous().numpy(), known, given.contiguous().numpy())
    _loop(settle)(*sums, *arrays, *(x.numpy() for x in found))
    return found


def down(half: Tensor, middle: Tensor, noise: Tensor) -> Tensor:
    """Effects `(K, groups, batch)`, given B `(K, K, groups, batch)`, p and their numbers, likewise."""
    effects = torch.empty(noise.shape, dtype=noise.dtype)
    both = (x.movedim(-1, 0).contiguous().numpy() for x in (half, middle))
    _loop(descend)(*both, noise.contiguous().numpy(), effects.numpy())
    return effects


def redrawn(sums: Sums, held: Settled, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients beyond their prior means `(batch, P)`, and p, of other standard normal numbers `(P, batch)`."""
    tail, middle = torch.empty_like(held.tail), torch.empty_like(held.middle)
    arrays = (held.passed, held.lower, held.centre, numbers.mT.contiguous(), tail, middle)
    _loop(redraw)(sums.prior, sums.location, *(x.numpy() for x in arrays))
    return tail, middle


def left_of_response(sums: Sums, groups: int, tail: Tensor) -> Tensor:
    """S_g (-u, 1) of what coefficients are beyond their prior means `(P, batch)`: `(K, groups, batch)`."""
    ends, batch = len(sums.whole), tail.shape[1]
    right = tail.new_ones(ends, batch)
    if ends > 1:
        own = torch.linalg.solve_triangular(torch.from_numpy(sums.prior), tail, upper=False)
        right[:-1] = torch.from_numpy(sums.location).unsqueeze(1) - own
    found = torch.einsum("nkml,mb->knlb", torch.from_numpy(sums.tails), right)
    return found.flatten(1, 2)[:, :groups]
