"""Random numbers and decisions of sweeps that are compiled by Numba (`hiertorch[fast]`), for a block of chains.

Note [Random numbers of a compiled window]
    Those of groups are made here, chain by chain, by SFC64 (Doty-Humphrey 2014; NumPy's generator of that name), whose
    four words for each chain are part of the engine's state. The first 52 bits of a word are a number u on (0, 1].
    Two numbers of a Student distribution are (r cos v, r sin v) with r^2 = nu (u^(-2 / nu) - 1), which Bailey (1994)
    found, and of which one is Student's too. Of more effects a group normal numbers are those of Box & Muller (1958).
"""

from math import factorial, pi

import numpy as np
from llvmlite import ir
from numba import njit, types, uint64
from numba.extending import intrinsic

from hiertorch.density.rowkernel import exp, log
from hiertorch.run.heavytails import FREEDOM, HEAVIER

WIDTH = 32
"""Chains of a block."""

part = njit(nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")
"""Compiles what loops call."""

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
