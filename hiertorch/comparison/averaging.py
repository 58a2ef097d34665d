"""w_1, .., w_K >= 0 that sum to 1: how much each of several models should count in an average of their predictions.

They are not probabilities of being true (Yao, Vehtari, Simpson & Gelman 2018).

docs/decisions.md: SciPy where speed is no matter.
"""

import math

import numpy as np

BOOTSTRAPS = 1_000
NUMBERS = 4_000_000  # bootstraps x rows that are held at once
EM_STEPS = 100


def stacked(log_densities: np.ndarray) -> np.ndarray:
    """argmax_w sum_i log sum_k w_k p_ik over w_k >= 0 that sum to 1, `(candidates,)`, from log p_ik, `(rows,
    candidates)`.

    It is concave. Sequential quadratic programming finds it from where a few EM steps, w_k <- mean_i w_k p_ik / sum_l
    w_l p_il, have led: where densities differ by many orders of magnitude, equal weights are too bad a start.
    """
    from scipy.optimize import minimize  # takes longer to import than most comparisons take

    density = np.exp(log_densities - log_densities.max(1, keepdims=True))  # a factor of each row changes nothing
    weights = np.full(density.shape[1], 1.0 / density.shape[1])
    for _ in range(EM_STEPS):
        weights = weights * (density / (density @ weights)[:, None]).mean(0)

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        mixture = np.maximum(density @ w, np.finfo(float).tiny)
        return float(-np.log(mixture).mean()), -(density / mixture[:, None]).mean(0)

    found = minimize(
        objective,
        weights,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * len(weights),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": np.ones_like},
        options={"ftol": 1e-14, "maxiter": 1_000},
    )
    weights = found.x.clip(min=0.0)
    return weights / weights.sum()


def bootstrapped(log_densities: np.ndarray, seed: int | None = None) -> np.ndarray:
    """mean_b softmax_k(n sum_i a_bi log p_ik), a_b ~ Dirichlet(1, .., 1), `(candidates,)`, from log p_ik, `(rows,
    candidates)`; without a seed always the same.
    """
    from scipy.special import softmax

    n, number = log_densities.shape
    centred = log_densities - log_densities.max(1, keepdims=True)  # the same for all, so that softmax doesn't change
    generator = np.random.default_rng(0 if seed is None else seed)
    sums, total = np.zeros((BOOTSTRAPS, number)), np.zeros((BOOTSTRAPS, 1))
    for part in np.array_split(centred, math.ceil(n * BOOTSTRAPS / NUMBERS)):
        shares = generator.exponential(size=(BOOTSTRAPS, len(part)))  # divided by their sum these are Dirichlet
        sums += shares @ part
        total += shares.sum(1, keepdims=True)
    return softmax(n * sums / total, 1).mean(0)
