"""w_1, .., w_K >= 0 that sum to 1: how much each of several models should count in an average of their predictions.

They are not probabilities of being true (Yao, Vehtari, Simpson & Gelman 2018).
"""

import math

import numpy as np

__all__ = ["bootstrapped", "stacked"]

BOOTSTRAPS = 1_000
NUMBERS = 4_000_000  # bootstraps x rows that are held at once


def stacked(log_densities: np.ndarray) -> np.ndarray:
    """argmax_w sum_i log sum_k w_k p_ik over w_k >= 0 that sum to 1, `(candidates,)`.

    That is the least of sum_k w_k - mean_i log sum_k w_k p_ik over w_k >= 0, since of all multiples of some weights
    those that sum to 1 make this least. It is convex: Newton steps with a logarithmic barrier t sum_k log w_k end
    within candidates * t of the optimum (Boyd & Vandenberghe 2004, section 11.2.2).

    Args:
        log_densities: log p_ik, `(rows, candidates)`.
    """
    density = np.exp(log_densities - log_densities.max(1, keepdims=True))  # a factor of each row changes nothing
    number = density.shape[1]
    weights = np.full(number, 1.0 / number)

    def objective(w: np.ndarray, barrier: float) -> float:
        return float(w.sum() - np.log(density @ w).mean() - barrier * np.log(w).sum())

    for barrier in 10.0 ** -np.arange(1, 11):
        for _ in range(50):
            ratio = density / (density @ weights)[:, None]
            gradient = 1.0 - ratio.mean(0) - barrier / weights
            curvature = ratio.T @ ratio / len(ratio) + np.diag(barrier / weights**2)
            step = -np.linalg.solve(curvature, gradient)
            if (decrease := -gradient @ step) < barrier * 1e-3:
                break
            shrinking = step < 0
            length = min(1.0, 0.99 * (-weights[shrinking] / step[shrinking]).min(initial=np.inf))
            here = objective(weights, barrier)
            while length > 1e-10 and objective(weights + length * step, barrier) > here - 1e-4 * length * decrease:
                length /= 2
            weights = weights + length * step
    return weights / weights.sum()


def bootstrapped(log_densities: np.ndarray, seed: int | None = None) -> np.ndarray:
    """mean_b softmax_k(n sum_i a_bi log p_ik), a_b ~ Dirichlet(1, .., 1), `(candidates,)`.

    Args:
        log_densities: log p_ik, `(rows, candidates)`.
        seed: of the bootstraps; None is always the same.
    """
    n, number = log_densities.shape
    centred = log_densities - log_densities.max(1, keepdims=True)  # the same for all, so that softmax doesn't change
    generator = np.random.default_rng(0 if seed is None else seed)
    sums, total = np.zeros((BOOTSTRAPS, number)), np.zeros((BOOTSTRAPS, 1))
    for part in np.array_split(centred, math.ceil(n * BOOTSTRAPS / NUMBERS)):
        shares = generator.exponential(size=(BOOTSTRAPS, len(part)))  # divided by their sum these are Dirichlet
        sums += shares @ part
        total += shares.sum(1, keepdims=True)
    z = n * sums / total
    weights = np.exp(z - z.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)).mean(0)
