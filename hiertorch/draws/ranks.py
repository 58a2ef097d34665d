"""Do chains agree? The ranks of each chain's draws among those of all should be spread evenly.

    ECDF_c(z) - z,  ECDF_c: of the normalised ranks of chain c

with a band that holds the differences of all chains at all points with probability 1 - ERROR at least, if chains agree
and draws are independent.

Note [A band without simulation]
    How many of a chain's n draws are among the lowest of all is hypergeometric; at each of K points the band holds all
    counts of which both tails are 1 - Phi(u) at least. Leaving it at a point is the less news the likelier it was left
    at the point before: by the bound of Worsley (1983), with differences that are nearly normal,

        P(leaves it) <= P_1 + sum_k P_k (1 - c_k),  c_k = 2 (1 - Phi(u sqrt((1 - r_k) / (1 + r_k)))),

    P_k: to be outside at point k, exactly; r_k: the correlation of neighbours. The smallest u for which this is below
    1 - (1 - ERROR)^(1 / (chains - 1)) serves all chains. A test holds the band against simulated chains.

References: Saeilynoja, Buerkner & Vehtari (2022). Graphical test for discrete uniformity and its applications in
goodness-of-fit evaluation and multiple sample comparison. Statistics and Computing 32. Worsley (1983). Testing for a
two-phase multiple regression. Technometrics 25.
"""

import math
from functools import lru_cache

import numpy as np

ERROR = 0.01
POINTS = 50


def differences(x: np.ndarray) -> np.ndarray:
    """ECDF of ranks less the even one at POINTS - 1 inner points, `(chains, POINTS - 1)`.

    Draws are finite, `(chains, draws)`. Equal ones come in a random order, so that a kernel's repeated draws are no
    steps.
    """
    chains, draws = x.shape
    order = _shuffled(x.size)
    ranked = order[np.argsort(x.reshape(-1)[order])]  # which draw has rank 0, 1, ...
    part = np.empty(x.size, dtype=np.int64)
    part[ranked] = np.arange(x.size) * POINTS // x.size  # 0 .. POINTS - 1 for each draw
    cell = (part.reshape(chains, draws) + POINTS * np.arange(chains)[:, None]).reshape(-1)
    counts = np.bincount(cell, minlength=chains * POINTS).reshape(chains, POINTS)
    return counts.cumsum(1)[:, :-1] / draws - _lowest(x.size) / x.size


@lru_cache(16)
def band(chains: int, draws: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, and the lowest and highest difference within the band at each, `(POINTS - 1,)`."""
    every, lowest = chains * draws, _lowest(chains * draws)
    mass = _hypergeometric(every, lowest, draws)
    tails = np.minimum(mass.cumsum(1), mass[:, ::-1].cumsum(1)[:, ::-1])  # of P(N <= n) and P(N >= n)
    odds = lowest / np.maximum(every - lowest, 1)
    r = np.sqrt(odds[:-1] / odds[1:])
    closeness = np.sqrt((1 - r) / (1 + r)).tolist()
    error = 1 - (1 - ERROR) ** (1 / max(1, chains - 1))
    low, high = 1.0, 9.0
    for _ in range(24):
        u = (low + high) / 2
        outside = np.where(tails < _tail(u), mass, 0.0).sum(1)
        news = [1.0, *(1 - 2 * _tail(u * each) for each in closeness)]
        low, high = (u, high) if outside @ news > error else (low, u)
    inside = tails >= _tail(high)
    fewest, most = inside.argmax(1), draws - inside[:, ::-1].argmax(1)
    return lowest / every, fewest / draws - lowest / every, most / draws - lowest / every


def _tail(u: float) -> float:
    """1 - Phi(u)."""
    return 0.5 * math.erfc(u / math.sqrt(2))


def _lowest(every: int) -> np.ndarray:
    """How many draws are in the first k of POINTS parts."""
    return -(-np.arange(1, POINTS) * every // POINTS)


def _hypergeometric(every: int, lowest: np.ndarray, draws: int) -> np.ndarray:
    """P(n of a chain's draws are among the lowest of all), n = 0..draws: `(points, draws + 1)`."""
    log_factorial = np.concatenate([[0.0], np.log(np.arange(1, every + 1)).cumsum()])
    n, k = np.arange(draws + 1), lowest[:, None]
    possible = (n <= k) & (draws - n <= every - k)

    def log_choose(a: np.ndarray | int, b: np.ndarray | int) -> np.ndarray:
        return log_factorial[a] - log_factorial[b] - log_factorial[np.maximum(a - b, 0)]

    log_mass = log_choose(k, np.minimum(n, k)) + log_choose(every - k, np.clip(draws - n, 0, every - k))
    return np.where(possible, np.exp(log_mass - log_choose(every, draws)), 0.0)


@lru_cache(4)
def _shuffled(count: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(count)
