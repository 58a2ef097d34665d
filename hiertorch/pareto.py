"""Importance weights whose largest are smoothed by a generalised Pareto distribution, and whether to trust them.

Vehtari, Simpson, Gelman, Yao & Gabry 2024, Pareto smoothed importance sampling; computed by arviz-stats.
"""

import math

import numpy as np

__all__ = ["HIGHEST", "good_k", "smoothed"]

HIGHEST = 0.7
"""Pareto k above which no number of draws is enough (section 3.2.4)."""

SMALLEST = -700.0
"""Log weights below are 0 beside the largest."""


def good_k(draws: int) -> float:
    """min(1 - 1 / log10 S, 0.7): the Pareto k up to which S draws are enough (section 3.2.4)."""
    return min(1.0 - 1.0 / math.log10(draws), HIGHEST) if draws > 1 else HIGHEST


def smoothed(log_weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights `(draws,)` of sum 1, the largest of them smoothed, and the Pareto k: -inf where the largest are all one,
    and inf where a few are so much larger than the others that no distribution fits them.
    """
    from arviz_stats.base import array_stats  # takes a while, and few conditions are asked for

    log_weight = log_weight - log_weight.max()
    tail = np.sort(log_weight)[-int(3 * len(log_weight) ** 0.5) :]
    k = -np.inf if tail[0] == tail[-1] else np.inf
    if tail[0] < tail[-1] and tail[len(tail) // 4 - 1] > SMALLEST:
        smooth, k = array_stats.psislw(-log_weight)  # of negative log weights, as for leaving rows out
        log_weight, k = (smooth, float(k)) if np.isfinite(k) else (log_weight, np.inf)
    weight = np.exp(log_weight - log_weight.max())
    return weight / weight.sum(), k
