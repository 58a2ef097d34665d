"""log of the integral of f over a few unknowns, of many f at once.

    integral f(x) dx ~ |C| sum_q w_q f(m + C u_q)

with m the mode of f and C C' the inverse of its curvature there: an adaptive Gauss-Hermite rule for one or two unknowns
(Naylor & Smith 1982; Pinheiro & Bates 1995), importance sampling from a multivariate t for more.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Note [Products of small matrices]
# There are a few unknowns in each of very many groups: sums of products are many times faster than matrix products.

__all__ = ["laplace", "log_integral", "mode", "rule"]

RULE = {1: 15, 2: 9}
"""Effects in a group -> points of the Gauss-Hermite rule for each of them."""

SAMPLES = 512
"""Of the effects of each group and draw, where there are more effects than a rule is for."""

DF = 5
"""Of the multivariate t distribution that they are drawn from: its tails are heavier than those of most effects."""

SLACK = 0.01
"""By which log f may fall in a step, as it may where f is itself an integral, known nearly."""

STEP = 0.3
"""Conditional sds between the places whose densities give slope and curvature."""

MOST = 40
"""Newton steps."""

FLAT, FAR = 1.0 / 16.0, 4.0
"""Curvature, in units of that where the last step began, below which it is not believed; and the longest step then."""


def log_integral(
    function: Callable[[Tensor], Tensor], centre: Tensor, root: Tensor, log_root: Tensor, *, finer: bool = False
) -> Tensor:
    """log of the integral of each f, `(n, groups)`.

    Args:
        function: log f, `(n, groups, K)` -> `(n, groups)`.
        centre: the mode of each f, `(n, groups, K)`.
        root: C, `(n, groups, K, K)`.
        log_root: log |C|, `(n, groups)`.
        finer: whether to take twice as many points.
    """
    points, log_weights = rule(centre.shape[-1], finer=finer)
    total = torch.full_like(log_root, -math.inf)
    for u, log_weight in zip(points.to(centre), log_weights.tolist(), strict=True):
        total = torch.logaddexp(total, function(centre + (root * u).sum(-1)) + log_weight)
    return total + log_root


def laplace(value: Tensor, log_root: Tensor, width: int) -> Tensor:
    """log of the integral if f were normal: log f(m) + log|C| + K log(2 pi) / 2 (Tierney & Kadane 1986)."""
    return value + log_root + 0.5 * width * math.log(2.0 * math.pi)


def mode(
    function: Callable[[Tensor], Tensor], centre: Tensor, root: Tensor, log_root: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The mode of each f near a start, and a root C of its inverse curvature there, by damped Newton steps.

    Slopes and curvatures are differences over a part of a conditional sd, so that a model need not be differentiable.

    Args:
        function: log f, `(n, groups, K)` -> `(n, groups)`.
        centre: where to start, `(n, groups, K)`.
        root: of a covariance to start with, `(n, groups, K, K)`.
        log_root: its log determinant, `(n, groups)`.
    """
    value, pace = function(centre), torch.ones_like(log_root)
    for _ in range(MOST):
        gradient, curvature = _differences(function, value, centre, root)
        size, axes = _axes(curvature)
        flat = (size < FLAT).any(-1)  # where a parabola says little about how far the mode is
        size = size.clamp(min=FLAT)
        along = (axes * gradient.unsqueeze(-1)).sum(-2) / size
        step = (axes * along.unsqueeze(-2)).sum(-1)
        length = step.norm(dim=-1)
        shorter = torch.where(flat, FAR / length.clamp(min=FAR), 1.0) * pace
        step = step * shorter.unsqueeze(-1)
        there = centre + (root * step.unsqueeze(-2)).sum(-1)
        new = function(there)
        better = new >= value - SLACK
        centre, value = torch.where(better.unsqueeze(-1), there, centre), torch.where(better, new, value)
        pace = torch.where(better, (2.0 * pace).clamp(max=1.0), 0.25 * pace)
        root = (root.unsqueeze(-1) * (axes * size.rsqrt().unsqueeze(-2)).unsqueeze(-3)).sum(-2)
        log_root = log_root - 0.5 * size.log().sum(-1)
        near = better & (length < 0.1) & ((size > 0.8) & (size < 1.25)).all(-1)
        if bool((near | ~torch.isfinite(value)).all()):
            break
    return centre, root, log_root


def _differences(
    function: Callable[[Tensor], Tensor], value: Tensor, centre: Tensor, root: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient `(n, groups, K)` of log f in units of the root, and its Hessian times -1, `(n, groups, K, K)`."""
    width = centre.shape[-1]
    up = [function(centre + STEP * root[..., k]) for k in range(width)]
    down = [function(centre - STEP * root[..., k]) for k in range(width)]
    gradient = torch.stack([(a - b) / (2.0 * STEP) for a, b in zip(up, down, strict=True)], -1)
    curvature = centre.new_zeros(*value.shape, width, width)
    for k in range(width):
        curvature[..., k, k] = (2.0 * value - up[k] - down[k]) / STEP**2
        for m in range(k):
            both = function(centre + STEP * (root[..., k] + root[..., m]))
            curvature[..., k, m] = curvature[..., m, k] = (up[k] + up[m] - value - both) / STEP**2
    one = torch.eye(width, dtype=centre.dtype, device=centre.device)
    sound = torch.isfinite(curvature).all(-1).all(-1) & torch.isfinite(gradient).all(-1)  # else stay, and look closer
    return (
        torch.where(sound.unsqueeze(-1), gradient, 0.0),
        torch.where(sound[..., None, None], curvature, 16.0 * one),
    )


def _axes(curvature: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues `(..., K)` and eigenvectors `(..., K, K)`."""
    if curvature.shape[-1] == 1:
        return curvature[..., 0], torch.ones_like(curvature)
    found = torch.linalg.eigh(curvature)
    return found.eigenvalues, found.eigenvectors


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
