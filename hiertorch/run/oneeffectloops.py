"""What `hiertorch.run.oneeffect` offers, compiled by Numba (`hiertorch[fast]`), on the CPU: the same numbers as torch
gives.
"""

from collections.abc import Callable, Sequence
from functools import cache
from hashlib import blake2s
from inspect import getsource

import numpy as np
from numba import carray
from torch import Tensor

from hiertorch.density import rowkernel
from hiertorch.density.rowkernel import buffer, compiled, log
from hiertorch.gaussian import factorloops
from hiertorch.gaussian.factorloops import LANES, part

SOURCE = blake2s("".join(map(getsource, (rowkernel, factorloops))).encode(), digest_size=4).hexdigest()
"""Of the code that is compiled together with that of this file, of which alone Numba sees that it has changed."""


@part
def dot(x: np.ndarray, y: np.ndarray) -> float:
    """The inner product of two vectors, as long as LANES or a multiple."""
    lanes, total = carray(buffer(x, 32), 32), 0.0
    for c in range(LANES):
        lanes[c] = 0.0
    for first in range(0, len(x), LANES):
        for c in range(LANES):
            lanes[c] += x[first + c] * y[first + c]
    for c in range(LANES):
        total += lanes[c]
    return total


@part
def height(s: float, t: float, a: np.ndarray, left: np.ndarray, own: np.ndarray) -> float:
    """log f at s times (a, t); by group a, c and G, as long as LANES or a multiple, 0 for groups that are not there."""
    lanes, total = carray(buffer(a, 32), 32), 0.0
    square = (s * t) * (s * t)
    for c in range(LANES):
        lanes[c] = 0.0
    for first in range(0, len(a), LANES):
        for c in range(LANES):
            g, mean = own[first + c], s * a[first + c]
            inner, rest = 1.0 + square * g, left[first + c] - g * mean
            lanes[c] += mean * (left[first + c] - 0.5 * g * mean) + 0.5 * (square * rest * rest / inner - log(inner))
    for c in range(LANES):
        total += lanes[c]
    return total


@part
def given_others(
    b: int, mine: np.ndarray, gram: np.ndarray, right: np.ndarray, r: np.ndarray, level: np.ndarray, x: np.ndarray,
    h: np.ndarray, left: np.ndarray, mean: np.ndarray,
) -> float:  # fmt: skip
    """Of a chain: effects, h, c and r'h, written into the last four; s."""
    width, groups, _ = level.shape
    k, effect, square = len(mine), mine[len(mine) - 1], 0.0
    for m in range(width):
        for g in range(groups):
            x[m, g] = level[m, g, b]
    for g in range(groups):
        left[g], mean[g] = right[effect, g, b], 0.0
    for i in range(k - 1):
        of, y, z = mine[i], 1.0 / r[i, i], r[k - 1, i]
        for g in range(groups):
            h[i, g] = x[of, g]
        for j in range(i):
            own = r[i, j]
            for g in range(groups):
                h[i, g] -= own * h[j, g]
        for g in range(groups):
            h[i, g] *= y
            mean[g] += z * h[i, g]
    for m in range(width):
        if m != effect:
            for g in range(groups):
                left[g] -= gram[effect, m, g] * x[m, g]
    for j in range(k):
        square += r[k - 1, j] * r[k - 1, j]
    return np.sqrt(square)


def scale_offer(
    mine: np.ndarray, gram: np.ndarray, right: np.ndarray, root: np.ndarray, level: np.ndarray, unit: float,
    bins: int, least: float,
    uniform: np.ndarray, row: np.ndarray, moved: np.ndarray, beyond: np.ndarray,
) -> None:  # fmt: skip
    """See `hiertorch.run.oneeffect.offered_scale`; the last three are written into."""
    (width, groups, batch), k, effect = level.shape, len(mine), mine[len(mine) - 1]
    most = -(-groups // LANES) * LANES
    h, x, weight = np.zeros((k, most)), np.zeros((width, most)), np.zeros(bins)
    a, left, own = np.zeros(most), np.zeros(most), np.zeros(most)
    for g in range(groups):
        own[g] = gram[effect, effect, g]
    for b in range(batch):
        r = root[b]
        before = given_others(b, mine, gram, right, r, level, x, h, left, a)
        t = r[k - 1, k - 1] / before
        for g in range(groups):
            a[g] /= before
        largest, total = -np.inf, 0.0
        for n in range(bins):
            share = (n + 0.5) / bins
            weight[n] = height(unit * share / (1.0 - share), t, a, left, own) - 2.0 * np.log(1.0 - share)
            largest = max(largest, weight[n])
        for n in range(bins):
            weight[n] = np.exp(weight[n] - largest) + least
            total += weight[n]
        wanted, n = uniform[0, b] * total, 0
        while n < bins - 1 and wanted > weight[n]:
            wanted -= weight[n]
            n += 1
        share, old = (n + uniform[1, b]) / bins, before / (before + unit)
        there = unit * share / (1.0 - share)
        ratio = height(there, t, a, left, own) - height(before, t, a, left, own)
        ratio += np.log(weight[min(int(old * bins), bins - 1)]) + 2.0 * np.log(1.0 - old)
        beyond[b] = ratio - np.log(weight[n]) - 2.0 * np.log(1.0 - share)
        for j in range(k):
            row[b, j] = r[k - 1, j] * (there / before)
        here, new = (before * t) * (before * t), (there * t) * (there * t)
        for g in range(groups):
            inner, other = 1.0 + here * own[g], 1.0 + new * own[g]
            number = (x[effect, g] - (before * a[g] + here * left[g]) / inner) * np.sqrt(inner / here)
            moved[g, b] = (there * a[g] + new * left[g]) / other + number * np.sqrt(new / other)


def row_offer(
    mine: np.ndarray, gram: np.ndarray, right: np.ndarray, root: np.ndarray, level: np.ndarray, power: float,
    square: np.ndarray, noise: np.ndarray, row: np.ndarray, moved: np.ndarray, beyond: np.ndarray,
) -> None:  # fmt: skip
    """See `hiertorch.run.oneeffect.offered_row`; the last three are written into."""
    (width, groups, batch), k, effect = level.shape, len(mine), mine[len(mine) - 1]
    most = -(-groups // LANES) * LANES
    h, x = np.zeros((k, most)), np.zeros((width, most))
    mean, left, by, turned = np.zeros(most), np.zeros(most), np.zeros(most), np.zeros(most)
    whole, u = np.zeros((k, k)), np.zeros(k)
    for b in range(batch):
        r = root[b]
        before = given_others(b, mine, gram, right, r, level, x, h, left, mean)
        t = r[k - 1, k - 1]
        for g in range(groups):
            by[g] = 1.0 / (1.0 + t * t * gram[effect, effect, g])
            left[g] *= by[g]
        for i in range(k - 1):
            u[i] = dot(left, h[i])
            for g in range(groups):
                turned[g] = h[i, g] * by[g] * gram[effect, effect, g]
            for j in range(i + 1):
                y = dot(turned, h[j])
                if i == j:
                    y += square[b] / (before * before)
                for n in range(j):
                    y -= whole[i, n] * whole[j, n]
                whole[i, j] = np.sqrt(y) if i == j else y / whole[j, j]
            for n in range(i):
                u[i] -= whole[i, n] * u[n]
            u[i] /= whole[i, i]
        total = t * t
        for i in range(k - 2, -1, -1):
            u[i] += noise[i, b]
            for n in range(i + 1, k - 1):
                u[i] -= whole[n, i] * u[n]
            u[i] /= whole[i, i]
            row[b, i] = u[i]
            total += u[i] * u[i]
        row[b, k - 1] = t
        beyond[b] = power * np.log(np.sqrt(total) / before)
        for g in range(groups):
            turned[g] = -mean[g]
        for i in range(k - 1):
            y = u[i]
            for g in range(groups):
                turned[g] += y * h[i, g]
        for g in range(groups):
            moved[g, b] = x[effect, g] + turned[g] * by[g]


@cache
def _loop(function: Callable[..., None]) -> Callable[..., None]:
    return compiled(function, f"{function.__name__}_{SOURCE}")


def _found(
    function: Callable[..., None], sides: Sequence[Tensor], numbers: Sequence[float], *given: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    *_, root, like = sides
    found = (like.new_empty(root.shape[:2]), like.new_empty(like.shape[1:]), like.new_empty(len(root)))
    first, second = (tuple(x.contiguous().numpy() for x in some) for some in (sides, given))
    _loop(function)(*first, *numbers, *second, *(x.numpy() for x in found))
    return found


def offered_scale(
    sides: Sequence[Tensor], unit: float, bins: int, least: float, uniform: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See `hiertorch.run.oneeffect.offered_scale`, whose constants are given."""
    return _found(scale_offer, sides, (unit, bins, least), uniform)


def offered_row(sides: Sequence[Tensor], power: int, square: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `hiertorch.run.oneeffect.offered_row`."""
    return _found(row_offer, sides, (float(power),), square, noise)
