"""All sweeps of a window for a block of chains, compiled by Numba (`hiertorch[fast]`): what `hiertorch.run.whitened`
does sweep by sweep in torch, for one level of groups.

Nothing here waits for Python between sweeps, and blocks of chains share nothing, so that they run side by side. Note
[Loops along chains] in `hiertorch.density.rowkernel` says why every inner loop runs along the chains of a block.

Numbers of groups, chains in the last axis, are rows of WIDTH chains here: effect k of group g has the row k groups + g.

Note [Random numbers of a compiled window]
    Those of groups are made here, chain by chain, by SFC64 (Doty-Humphrey 2014; NumPy's generator of that name), whose
    four words for each chain are part of the engine's state. The first 52 bits of a word are a number u on (0, 1].
    Two numbers of a Student distribution are (r cos v, r sin v) with r^2 = nu (u^(-2 / nu) - 1), which Bailey (1994)
    found, and of which one is Student's too. Of more effects a group normal numbers are those of Box & Muller (1958).
"""

from collections.abc import Callable
from functools import cache
from hashlib import blake2s
from inspect import getsource
from math import factorial, pi
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types, uint64
from numba.extending import intrinsic

from hiertorch.density import rowkernel
from hiertorch.density.rowkernel import compiled, exp, log, loop
from hiertorch.families import rowforms
from hiertorch.run import heavytails
from hiertorch.run.heavytails import FREEDOM, HEAVIER

WIDTH = 32
"""Chains of a block."""

SOURCE = blake2s("".join(map(getsource, (rowkernel, rowforms, heavytails))).encode(), digest_size=4).hexdigest()
"""Of the code that is compiled together with that of this file, of which alone Numba sees that it has changed."""

part = njit(nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")
"""Compiles what the loop calls."""

SINE = tuple((-1) ** k * pi ** (2 * k + 1) / factorial(2 * k + 1) for k in range(11))
"""Coefficients of sin(pi w) in odd powers of w, from -1/2 to 1/2: what is left out is below 2e-18."""

COSINE = tuple((-1) ** k * pi ** (2 * k) / factorial(2 * k) for k in range(12))
"""The same of cos(pi w), in even powers."""


@intrinsic
def _number(context, bits):  # type: ignore[no-untyped-def]
    """The number whose bits these are."""

    def make(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.uint64), make


@part
def sine(w: float) -> float:
    """sin(pi w), w from -1/2 to 1/2."""
    s = w * w
    p = SINE[7] + s * (SINE[8] + s * (SINE[9] + s * SINE[10]))
    p = SINE[4] + s * (SINE[5] + s * (SINE[6] + s * p))
    return w * (SINE[0] + s * (SINE[1] + s * (SINE[2] + s * (SINE[3] + s * p))))


@part
def cosine(w: float) -> float:
    """cos(pi w), w from -1/2 to 1/2."""
    s = w * w
    p = COSINE[8] + s * (COSINE[9] + s * (COSINE[10] + s * COSINE[11]))
    p = COSINE[4] + s * (COSINE[5] + s * (COSINE[6] + s * (COSINE[7] + s * p)))
    return COSINE[0] + s * (COSINE[1] + s * (COSINE[2] + s * (COSINE[3] + s * p)))


@part
def uniform(word: int) -> float:
    """The number on (0, 1] of a word's first 52 bits."""
    return 2.0 - _number((word >> uint64(12)) | uint64(0x3FF0000000000000))


@part
def draw_words(state: np.ndarray, words: np.ndarray) -> None:
    """The next word of each chain, by the state `(4, WIDTH)`."""
    for c in range(WIDTH):
        a, b, third, counter = state[0, c], state[1, c], state[2, c], state[3, c]
        word = a + b + counter
        words[c] = word
        state[3, c] = counter + uint64(1)
        state[0, c] = b ^ (b >> uint64(11))
        state[1, c] = third + (third << uint64(3))
        state[2, c] = ((third << uint64(24)) | (third >> uint64(40))) + word


@part
def load(into: np.ndarray, every: np.ndarray, at: int, live: int) -> None:
    """Columns of all chains from `at` on to those of a block."""
    for r in range(into.shape[0]):
        for c in range(live):
            into[r, c] = every[r, at + c]


@part
def save(every: np.ndarray, block: np.ndarray, at: int, live: int) -> None:
    """The way back."""
    for r in range(block.shape[0]):
        for c in range(live):
            every[r, at + c] = block[r, c]


@part
def choose(old: np.ndarray, new: np.ndarray, accept: np.ndarray) -> None:
    """New rows for chains that accept, one after the other: the first `len(new)` of the old ones are written into."""
    for r in range(new.shape[0]):
        for c in range(WIDTH):
            old[r, c] = new[r, c] if accept[c] > 0.5 else old[r, c]


@part
def down(effects: np.ndarray, half: np.ndarray, middle: np.ndarray, noise: np.ndarray, groups: int) -> None:
    """B' (p + e), as `hiertorch.gaussian.ladder.Ladder.down`."""
    n_effects = len(noise) // groups
    for j in range(n_effects):
        for k in range(n_effects):
            for g in range(groups):
                to, by, of = j * groups + g, (k * n_effects + j) * groups + g, k * groups + g
                for c in range(WIDTH):
                    before = 0.0 if k == 0 else effects[to, c]
                    effects[to, c] = before + half[by, c] * (middle[of, c] + noise[of, c])


@part
def climb(half: np.ndarray, middle: np.ndarray, scale: np.ndarray, tail: np.ndarray, groups: tuple[Any, ...]) -> None:
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
def draw(noise: np.ndarray, heavy: np.ndarray, state: np.ndarray, freedom: np.ndarray) -> None:
    """Numbers of groups from a Student distribution, and log t - log N of them: `hiertorch.run.heavytails`."""
    groups, n_effects = len(freedom), len(noise) // len(freedom)
    words = np.empty(WIDTH, np.uint64)
    radius, product, square = np.empty(WIDTH), np.empty(WIDTH), np.empty(WIDTH)
    for g in range(groups):
        nu, few = freedom[g], n_effects <= 2
        power, by = 0.5 * (nu + n_effects), 1.0 / nu  # which is a power of 2
        for k in range(0, n_effects, 2):
            draw_words(state, words)
            if not few:
                for c in range(WIDTH):
                    radius[c] = np.sqrt(-2.0 * log(uniform(words[c])))
            elif nu == FREEDOM:
                for c in range(WIDTH):
                    radius[c] = np.sqrt(FREEDOM / np.sqrt(np.sqrt(uniform(words[c]))) - FREEDOM)
            else:
                for c in range(WIDTH):
                    radius[c] = np.sqrt(HEAVIER / np.sqrt(uniform(words[c])) - HEAVIER)
            draw_words(state, words)
            for c in range(WIDTH):
                noise[k * groups + g, c] = radius[c] * sine(uniform(words[c]) - 0.5)
            if k + 1 < n_effects:
                for c in range(WIDTH):
                    sign = 1.0 - 2.0 * np.float64(words[c] & uint64(1))  # of a bit that the number has not used
                    noise[(k + 1) * groups + g, c] = radius[c] * sign * cosine(uniform(words[c]) - 0.5)
        for c in range(WIDTH):
            product[c], square[c], radius[c] = 1.0, 0.0, 1.0
        if not few:
            for _ in range(FREEDOM // 2 if nu == FREEDOM else HEAVIER // 2):
                draw_words(state, words)
                for c in range(WIDTH):
                    product[c] *= uniform(words[c])
            for c in range(WIDTH):
                radius[c] = np.sqrt(-0.5 * nu / log(product[c]))  # sqrt(nu / chi-squared)
        for k in range(n_effects):
            for c in range(WIDTH):
                x = noise[k * groups + g, c] * radius[c]
                noise[k * groups + g, c] = x
                square[c] += x * x
        for c in range(WIDTH):
            heavy[g, c] = 0.5 * square[c] - power * log(1.0 + by * square[c])


@part
def decide(
    ratio: np.ndarray, words: np.ndarray, accept: np.ndarray, rates: np.ndarray, wrong: np.ndarray,
    stay: np.ndarray, longest: np.ndarray,
) -> None:  # fmt: skip
    """Accepts (1) or not (0) with probability min(1, exp ratio), as `hiertorch.moves.metropolis.decide`; adds up
    probabilities, ratios that are no number, and stays.
    """
    for c in range(WIDTH):
        sound = ratio[c] < np.inf  # neither infinite nor no number
        wrong[c] += 0.0 if sound else 1.0
        below = min(ratio[c], 0.0) if sound else -np.inf
        chance = exp(below) if below > -700.0 else 0.0
        accept[c] = 1.0 if uniform(words[c]) <= chance else 0.0
        rates[c] += chance
    for c in range(WIDTH):
        stay[c] = 0 if accept[c] > 0.5 else stay[c] + 1
        longest[c] = max(longest[c], stay[c])


def add_rows(*given: object) -> None:
    """Sums over the rows: what `hiertorch.density.rowkernel.loop` makes of a form stands here."""
    raise NotImplementedError


def advance(
    first: int, live: int, number: int, walk: bool, offers: tuple[np.ndarray, ...], lean: tuple[Any, ...],
    chains: tuple[np.ndarray, ...],
    state: np.ndarray, stays: tuple[np.ndarray, ...], rows: tuple[np.ndarray, ...], freedom: np.ndarray,
    constant: np.ndarray, taken: np.ndarray, rates: np.ndarray, wrong: np.ndarray, slots: np.ndarray,
    kept: np.ndarray, beyond: np.ndarray,
) -> None:  # fmt: skip
    """Some sweeps of the chains from `first` on, `live` of them, at most WIDTH.

    Args:
        first: chain of the block,
        live: and how many there are.
        number: of sweeps.
        walk: whether what the first of them offers is a random walk, whose proposal density is left out of the ratio.
        offers: what is offered, sweep by sweep and chain by chain within, `(n, number * chains)` each: density,
            proposal density, chain_0, chain_1 and constant of rows; r; B; p. Or sigma in place of B, and no p,
        lean: and then the four parts of `hiertorch.gaussian.onelevel.Groups`, which have no groups else.
        chains: where chains are, `(n, chains)` each, written into: the same, then numbers of groups, their log
            t - log N, effects, weights.
        state: of the random numbers, `(4, chains)`, written into.
        stays: present and longest ones of the population `(1, chains)` and of groups `(groups, chains)`.
        rows: what `hiertorch.density.rowkernel.loop` takes of them.
        freedom: degrees of freedom of each group's proposals, `(groups,)`.
        constant: what sums over rows leave out, `(groups,)`.
        taken: which offer each chain stands on after each sweep, -1 for none of these, `(number, chains)`.
        rates: sums of acceptance probabilities by sweep, then by group, `(number + groups, chains)`.
        wrong: log ratios that are no number, of the population and of groups, `(2, chains)`.
        slots: where each sweep's effects are kept, or -1, `(number,)`.
        kept: `(K groups, slots, chains)`.
        beyond: sum of the weights less half the squares of numbers of groups, `(slots + 1, chains)`, that of the
            last sweep again.
    """
    every, groups, n_root = taken.shape[1], len(freedom), len(offers[1])
    scalars, half, middle = (
        np.zeros((5, WIDTH)),
        np.zeros((len(chains[2]), WIDTH)),
        np.zeros((len(chains[3]), WIDTH)),
    )
    scalars_there, half_there, middle_there = np.zeros((5, WIDTH)), np.zeros(half.shape), np.zeros(middle.shape)
    noise, noise_there = np.zeros(middle.shape), np.zeros(middle.shape)
    heavy, heavy_there = np.zeros((groups, WIDTH)), np.zeros((groups, WIDTH))
    weights, sums = np.zeros((groups, WIDTH)), np.zeros((1, groups, WIDTH))
    values, trial = np.zeros((1, n_root + len(middle), WIDTH)), np.zeros((1, n_root + len(middle), WIDTH))
    state_here, words = np.zeros((4, WIDTH), np.uint64), np.zeros(WIDTH, np.uint64)
    found, bad = np.zeros((number + groups, WIDTH)), np.zeros((2, WIDTH))
    stay, longest = np.zeros((1 + groups, WIDTH), np.int32), np.zeros((1 + groups, WIDTH), np.int32)
    accept, totals, on = np.zeros(WIDTH), np.zeros((1, WIDTH)), np.zeros(WIDTH, np.int64)
    total, scale, sd = totals[0], np.zeros((1, 2, WIDTH)), np.ones((1, WIDTH))
    for c in range(WIDTH):
        on[c] = -1
    load(scalars, chains[0], first, live)
    load(values[0, :n_root], chains[1], first, live)
    load(half, chains[2], first, live)
    load(middle, chains[3], first, live)
    load(noise, chains[4], first, live)
    load(heavy, chains[5], first, live)
    load(values[0, n_root:], chains[6], first, live)
    load(weights, chains[7], first, live)
    load(stay, stays[0], first, live)
    load(longest, stays[1], first, live)
    load(state_here, state, first, live)
    for t in range(number):
        for step in range(2):  # the population, for which groups keep their numbers; then groups
            if step == 0:
                at = t * every + first
                load(scalars_there, offers[0], at, live)
                load(trial[0, :n_root], offers[1], at, live)
                if len(lean[1]):
                    load(sd, offers[2], at, live)
                    climb(half_there, middle_there, sd, trial[0, :n_root], lean)
                else:
                    load(half_there, offers[2], at, live)
                    load(middle_there, offers[3], at, live)
                down(trial[0, n_root:], half_there, middle_there, noise, groups)
            else:
                load(trial[0, :n_root], values[0], 0, WIDTH)
                load(scalars_there, scalars, 0, WIDTH)
                draw(noise_there, heavy_there, state_here, freedom)
                down(trial[0, n_root:], half, middle, noise_there, groups)
            load(scale[0], scalars_there[2:4], 0, WIDTH)
            add_rows(0, groups, *rows, trial, scale, sums)
            for c in range(WIDTH):
                sums[0, 0, c] += scalars_there[4, c]
            for g in range(groups):
                for c in range(WIDTH):
                    sums[0, g, c] += constant[g]
            if step == 0:
                for c in range(WIDTH):
                    total[c] = scalars_there[0, c] - scalars[0, c]
                    if t > 0 or not walk:
                        total[c] += scalars[1, c] - scalars_there[1, c]
                for g in range(groups):
                    for c in range(WIDTH):
                        total[c] += sums[0, g, c] - weights[g, c]
                draw_words(state_here, words)
                decide(total, words, accept, found[t], bad[0], stay[0], longest[0])
                for c in range(WIDTH):
                    on[c] = t if accept[c] > 0.5 else on[c]
                for c in range(live):
                    taken[t, first + c] = on[c]
                choose(scalars, scalars_there, accept)
                choose(half, half_there, accept)
                choose(middle, middle_there, accept)
                choose(values[0], trial[0], accept)
                choose(weights, sums[0], accept)
            else:
                for g in range(groups):
                    for c in range(WIDTH):
                        total[c] = sums[0, g, c] - weights[g, c] + heavy[g, c] - heavy_there[g, c]
                    draw_words(state_here, words)
                    decide(total, words, accept, found[number + g], bad[1], stay[1 + g], longest[1 + g])
                    choose(weights[g:], sums[0, g : g + 1], accept)
                    choose(heavy[g:], heavy_there[g : g + 1], accept)
                    for r in range(g, len(noise), groups):
                        choose(noise[r:], noise_there[r : r + 1], accept)
                        choose(values[0, n_root + r :], trial[0, n_root + r : n_root + r + 1], accept)
        slot = slots[t]
        if slot >= 0 or t == number - 1:
            for c in range(WIDTH):
                total[c] = 0.0
            for r in range(len(noise)):
                for c in range(WIDTH):
                    total[c] -= 0.5 * noise[r, c] * noise[r, c]
            for g in range(groups):
                for c in range(WIDTH):
                    total[c] += weights[g, c]
            if slot >= 0:
                save(beyond[slot : slot + 1], totals, first, live)
                save(kept[:, slot], values[0, n_root:], first, live)
    save(beyond[len(beyond) - 1 :], totals, first, live)
    save(chains[0], scalars, first, live)
    save(chains[1], values[0, :n_root], first, live)
    save(chains[2], half, first, live)
    save(chains[3], middle, first, live)
    save(chains[4], noise, first, live)
    save(chains[5], heavy, first, live)
    save(chains[6], values[0, n_root:], first, live)
    save(chains[7], weights, first, live)
    save(stays[0], stay, first, live)
    save(stays[1], longest, first, live)
    save(state, state_here, first, live)
    save(rates, found, first, live)
    save(wrong, bad, first, live)


@cache
def sweeps(code: int) -> Callable[..., None]:
    """`advance` for rows with one g (`hiertorch.families.rowforms`)."""
    return compiled(advance, f"advance_{code}_{SOURCE}", add_rows=loop(code, WIDTH))
