"""Modes of a log density in few dimensions, with the curvature there: Newton's method, all starts at once.

Gradients by autograd and second derivatives as their differences, or both as differences of densities, where a large
Cholesky factor makes a gradient fifty times as dear as a density. Far from a mode (a scale near 0, where the density
has a long flat tail) the curvature may have any sign: eigenvalues are taken by size and kept away from 0, steps are
bounded, and of several step lengths the best is taken, so that every start climbs.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["modes"]

STEPS = 60
LONGEST = 2.0
FLOOR = 0.04
"""Least curvature that is believed: on an unconstrained scale no posterior worth a step is wider than 5."""

DIFFERENCE = 1e-4
COARSE = 1e-2
LENGTHS = (1.0, 0.4, 0.1, 0.02)
LONGER = 4.0
"""Times Newton's step, one more that is tried. Far below the scale of rows the log density falls like -exp(-2 u), on
which his steps are all 1/2.
"""


def modes(
    log_density: Callable[[Tensor], Tensor], starts: Tensor, slices: int, *, autograd: bool = True
) -> tuple[Tensor, Tensor]:
    """Where Newton's method ends from each start, `(starts, d)`, and the root of the inverse curvature `(starts, d,
    d)`.

    Args:
        log_density: `(n, d)` to `(n,)`.
        starts: `(starts, d)`.
        slices: how many points to differentiate at once.
        autograd: whether to ask the density for its gradient.
    """

    def derivatives(x: Tensor) -> tuple[Tensor, Tensor]:
        return _derivatives(log_density, x, slices) if autograd else _differences(log_density, x)

    x = starts
    for _ in range(STEPS):
        slope, curvature = derivatives(x)
        values, vectors = torch.linalg.eigh(curvature)
        values = values.abs().clamp(min=FLOOR)
        step = (vectors @ ((vectors.mT @ slope.unsqueeze(2)) / values.unsqueeze(2))).squeeze(2)
        step = step * (LONGEST / step.norm(dim=1, keepdim=True).clamp(min=LONGEST))
        longer = (LONGEST / step.norm(dim=1, keepdim=True)).clamp(max=LONGER).nan_to_num(1.0)
        tried = torch.stack([x, x + longer * step, *(x + length * step for length in LENGTHS)])
        height = (
            log_density(tried.flatten(0, 1))
            .unflatten(0, tried.shape[:2])
            .nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        )
        moved = tried.gather(0, height.argmax(0)[None, :, None].expand(1, *x.shape)).squeeze(0)
        done = bool(((moved - x).abs() * values.amin(1, keepdim=True).sqrt() < 1e-3).all())
        x = moved
        if done:
            break
    values, vectors = torch.linalg.eigh(derivatives(x)[1])
    inverse = vectors @ (vectors.mT / values.abs().clamp(min=FLOOR).unsqueeze(2))
    return x, torch.linalg.cholesky((inverse + inverse.mT) / 2)


def _derivatives(log_density: Callable[[Tensor], Tensor], x: Tensor, slices: int) -> tuple[Tensor, Tensor]:
    """Gradient `(n, d)` and negative second derivatives `(n, d, d)`, 0 where they are not finite."""
    d = x.shape[1]
    eye = DIFFERENCE * torch.eye(d, dtype=x.dtype, device=x.device)
    steps = torch.cat([x.new_zeros(1, d), eye, -eye])
    points = (x + steps.unsqueeze(1)).flatten(0, 1)  # all starts side by side: each may have a density of its own
    slopes = []
    with torch.enable_grad():
        for part in points.split(max(1, slices // len(x)) * len(x)):
            part = part.detach().requires_grad_()
            slopes.append(torch.autograd.grad(log_density(part).sum(), part)[0])
    slope = torch.cat(slopes).unflatten(0, (2 * d + 1, len(x))).transpose(0, 1).nan_to_num(0.0, 0.0, 0.0)
    curvature = -(slope[:, 1 : d + 1] - slope[:, d + 1 :]) / (2.0 * DIFFERENCE)
    return slope[:, 0], (curvature + curvature.mT) / 2


def _differences(log_density: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The same from densities at x, x +- h e_i and x +- h (e_i + e_j)."""
    d, h = x.shape[1], COARSE
    eye = h * torch.eye(d, dtype=x.dtype, device=x.device)
    pairs = [(i, j) for i in range(d) for j in range(i + 1, d)]
    steps = [torch.zeros_like(eye[0]), *eye, *-eye]
    for i, j in pairs:
        steps += [eye[i] + eye[j], -eye[i] - eye[j]]
    points = x + torch.stack(steps).unsqueeze(1)
    f = log_density(points.flatten(0, 1)).unflatten(0, (len(steps), len(x))).transpose(0, 1)
    f = f.nan_to_num(-1e300, -1e300, -1e300)
    here, up, down = f[:, :1], f[:, 1 : d + 1], f[:, d + 1 : 2 * d + 1]
    second = (up + down - 2.0 * here) / h**2
    curvature = -second.diag_embed()
    for k, (i, j) in enumerate(pairs):
        both = (f[:, 2 * d + 1 + 2 * k] + f[:, 2 * d + 2 + 2 * k] - 2.0 * here[:, 0]) / h**2
        curvature[:, i, j] = curvature[:, j, i] = -(both - second[:, i] - second[:, j]) / 2.0
    return (up - down) / (2.0 * h), curvature
