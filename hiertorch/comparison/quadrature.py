"""log of the integral of f over a few unknowns, of many f at once.

    integral f(x) dx ~ |C| sum_q w_q f(m + C u_q)

with m the mode of f and C C' the inverse of its curvature there: an adaptive Gauss-Hermite rule for one or two unknowns
(Naylor & Smith 1982; Pinheiro & Bates 1995), importance sampling from a multivariate t by a scrambled Sobol sequence
for more.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hiertorch.density.newton import by_densities, modes

RULE = {1: 15, 2: 9}
"""Effects in a group -> points of the Gauss-Hermite rule for each of them."""

SAMPLES = 512
"""Of the effects of each group and draw, where there are more effects than a rule is for."""

DF = 5
"""Of the multivariate t distribution that they are drawn from: its tails are heavier than those of most effects."""

STEP = 0.3
"""Conditional sds between the places whose densities give slope and curvature: f may itself be an integral that is
known nearly.
"""

LENGTHS = ((1.0,), (0.25,))
"""Times Newton's step, that are tried one after the other."""

FLAT, FAR = 1.0 / 16.0, 4.0
"""Curvature, in units of that where the last step began, below which it is not believed; and the longest step then."""

NEAR = 0.1
"""Step in conditional sds, that ends the search: a quadrature need not be about the very mode."""


def log_integral(function: Callable[[Tensor], Tensor], centre: Tensor, root: Tensor, *, finer: bool = False) -> Tensor:
    """log of the integral of each f, `(n, groups)`, given log f, a function `(n, groups, K)` -> `(n, groups)`, its mode
    `(n, groups, K)` and the lower triangular C, `(n, groups, K, K)`; `finer` takes twice as many points.
    """
    points, log_weights = rule(centre.shape[-1], finer=finer)
    total = centre.new_full(centre.shape[:-1], -math.inf)
    for u, log_weight in zip(points.to(centre), log_weights.tolist(), strict=True):
        total = torch.logaddexp(total, function(centre + (root * u).sum(-1)) + log_weight)
    return total + _log_determinant(root)


def laplace(value: Tensor, root: Tensor) -> Tensor:
    """log of the integral if f were normal: log f(m) + log|C| + K log(2 pi) / 2 (Tierney & Kadane 1986)."""
    return value + _log_determinant(root) + 0.5 * root.shape[-1] * math.log(2.0 * math.pi)


def _log_determinant(root: Tensor) -> Tensor:
    return root.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def mode(function: Callable[[Tensor], Tensor], centre: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """The mode of each f near a start, and the lower triangular root C of its inverse curvature there, given log f, a
    start and a root to start with, in shapes as those of `log_integral`.

    Slopes and curvatures are differences over a part of a conditional sd, so that a model need not be differentiable.
    """

    def each(points: Tensor) -> Tensor:
        return torch.stack([function(x) for x in points])

    return modes(each, centre, by_densities(each, STEP), root, lengths=LENGTHS, longest=FAR, floor=FLAT, near=NEAR)


def rule(width: int, *, finer: bool = False) -> tuple[Tensor, Tensor]:
    """Points u_q `(Q, K)` and log w_q `(Q,)`, so that the integral of g(u) over R^K is nearly sum_q w_q g(u_q).

    Gauss-Hermite for a few effects; for more, draws of a multivariate t with w_q in proportion to 1 / t(u_q), and such
    that the integral of a standard normal density comes out as 1 (a ratio estimator: f is nearly normal).
    """
    if width in RULE:
        each = 2 * RULE[width] + 1 if finer else RULE[width]
        nodes, weights = np.polynomial.hermite_e.hermegauss(each)
        grid = np.meshgrid(*[np.arange(each)] * width, indexing="ij")
        u = np.stack([nodes[i.ravel()] for i in grid], -1)
        log_w = sum(np.log(weights)[i.ravel()] for i in grid) + 0.5 * np.square(u).sum(-1)
        return torch.from_numpy(u), torch.from_numpy(log_w)
    number = 2 * SAMPLES if finer else SAMPLES
    sobol = torch.quasirandom.SobolEngine(width + DF, scramble=True, seed=1 + finer).draw(number, dtype=torch.float64)
    z = torch.special.ndtri(sobol.clamp(1e-12, 1.0 - 1e-12))
    t = z[:, :width] * (DF / z[:, width:].square().sum(-1, keepdim=True)).sqrt()
    log_t = -0.5 * (DF + width) * torch.log1p(t.square().sum(-1) / DF)  # up to a constant
    log_normal = -0.5 * t.square().sum(-1) - 0.5 * width * math.log(2.0 * math.pi)
    return t, -log_t - (log_normal - log_t).logsumexp(0)
