"""Modes of log densities, many at once, with the curvature there: Newton's method.

    x <- x + t C sum_k v_k (v_k' g) / max(|h_k|, floor),     H = sum_k h_k v_k v_k'

g and H are slope and negative curvature in units of C, which is the identity or, where the units of x are not known,
the root of the inverse curvature at the step before. Far from a mode (a scale near 0, where the density has a long flat
tail) the curvature may have any sign: eigenvalues are taken by size and kept away from 0, steps are bounded, and of
several step lengths t the best is taken, so that every start climbs.

Slopes and curvatures come from gradients (`by_gradients`) or, where a density can't be differentiated or a gradient is
many times as dear, from densities alone (`by_densities`).

docs/decisions.md: One Newton, two ways to differentiate.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

LogDensity: TypeAlias = Callable[[Tensor], Tensor]
"""log densities `(m, *batch)` of m places for each of a batch, `(m, *batch, d)`."""

Derivatives: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""Slope `(*batch, d)` and negative second derivatives `(*batch, d, d)`, in units of the root C `(*batch, d, d)`, at
places `(*batch, d)` whose log densities are `(*batch,)`."""

STEPS = 60
"""Of Newton's method, at most."""

LONGEST = 2.0
"""Step, on an unconstrained scale."""

FLOOR = 0.04
"""Least curvature that is believed: on an unconstrained scale no posterior worth a step is wider than 5."""

CLOSE = 1e-3
"""Step in conditional sds, below which a start has arrived."""

LENGTHS = ((4.0, 1.0, 0.4, 0.1, 0.02),)
"""Times Newton's step, that are tried. The first is for places far below the scale of rows, where the log density falls
like -exp(-2 u), on which his steps are all 1/2.
"""

DIFFERENCE = 1e-4
"""Between places whose gradients give a curvature."""

COARSE = 1e-2
"""Between places whose densities give slope and curvature."""

NEARER = 16.0
"""Curvature that stands for none that is finite, so that the root is a quarter of what it was."""

SETTLED = (0.8, 1.25)
"""Eigenvalues of the curvature in units of its own root, between which the root has settled."""


def modes(
    log_density: LogDensity,
    starts: Tensor,
    derivatives: Derivatives,
    root: Tensor | None = None,
    *,
    lengths: tuple[tuple[float, ...], ...] = LENGTHS,
    longest: float = LONGEST,
    floor: float = FLOOR,
    near: float = CLOSE,
    at_most: int = STEPS,
    rise: float = -1.0,
) -> tuple[Tensor, Tensor]:
    """Where Newton's method ends from each start `(*batch, d)`, and the lower triangular root of the inverse curvature
    there `(*batch, d, d)`.

    Args:
        log_density: of places for each of the batch.
        starts: `(*batch, d)`.
        derivatives: of the log density.
        root: C at the starts, `(*batch, d, d)`, which is then found again at every step; the identity if left out.
        lengths: of steps, tried together; those of the next tuple only if some start has not climbed.
        longest: bound of a step, in units of C; where these are found again, only of one along which the density is
            too flat to say how far the mode is.
        floor: bound of the curvature, in units of C.
        near: how short a step ends the search.
        at_most: how many steps.
        rise: of the log density, less than which ends a search too, where units are found again at every step.
    """

    def height(x: Tensor) -> Tensor:
        return log_density(x).nan_to_num(-torch.inf, -torch.inf, -torch.inf)

    x, value = starts, height(starts.unsqueeze(0)).squeeze(0)
    for _ in range(at_most):
        slope, curvature = derivatives(x, value, root)
        sizes, axes = _axes(curvature)
        flat = (sizes.abs() <= floor).any(-1)
        limit = longest if root is None else torch.where((sizes > floor).all(-1, keepdim=True), torch.inf, longest)
        sizes = sizes.abs().clamp(min=floor)
        along = (axes * slope.unsqueeze(-1)).sum(-2) / sizes
        step = (axes * along.unsqueeze(-2)).sum(-1)
        step = step * (limit / step.norm(dim=-1, keepdim=True)).clamp(max=1.0).nan_to_num(1.0)
        most = (limit / step.norm(dim=-1, keepdim=True)).nan_to_num(1.0)
        moved, before = x, value
        for some in lengths:
            steps = torch.stack([most.clamp(max=t) * step if t > 1.0 else t * step for t in some])
            tried = torch.cat([moved.unsqueeze(0), x + _scaled(root, steps)])
            heights = torch.cat([value.unsqueeze(0), height(tried[1:])])
            best = heights.argmax(0, keepdim=True)
            moved, value = tried.gather(0, best.unsqueeze(-1).expand(1, *x.shape)).squeeze(0), heights.amax(0)
            if bool((best > 0).all()):
                break
        if root is None:
            done = ((moved - x).abs() * sizes.amin(-1, keepdim=True).sqrt() < near).all(-1)
        else:
            settled = ((sizes > SETTLED[0]) & (sizes < SETTLED[1])).all(-1)
            done = settled & ((moved == x).all(-1) | (step.norm(dim=-1) < near)) | ~torch.isfinite(value)
            done |= ~flat & (value - before < rise)
            root = (root.unsqueeze(-1) * (axes * sizes.rsqrt().unsqueeze(-2)).unsqueeze(-3)).sum(-2)
        x = moved
        if bool(done.all()):
            break
    if root is None:
        sizes, axes = _axes(derivatives(x, value, root)[1])
        inverse = axes @ (axes.mT / sizes.abs().clamp(min=floor).unsqueeze(-1))
    elif x.shape[-1] > 1:
        upper = torch.linalg.qr(root.mT).R
        return x, (upper * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)).mT
    else:
        inverse = root.square()
    return x, torch.linalg.cholesky((inverse + inverse.mT) / 2) if x.shape[-1] > 1 else inverse.sqrt()


def by_gradients(log_density: LogDensity, slices: int) -> Derivatives:
    """Gradients by autograd and second derivatives as their differences, 0 where they are not finite.

    Args:
        log_density: of places for each of a batch `(n,)`.
        slices: how many places to differentiate at once.
    """

    def derivatives(x: Tensor, value: Tensor, root: Tensor | None) -> tuple[Tensor, Tensor]:
        d = x.shape[1]
        eye = DIFFERENCE * torch.eye(d, dtype=x.dtype, device=x.device)
        steps = torch.cat([x.new_zeros(1, d), eye, -eye])
        slopes = []
        with torch.enable_grad():
            for part in (x + steps.unsqueeze(1)).split(max(1, slices // len(x))):
                part = part.detach().requires_grad_()
                slopes.append(torch.autograd.grad(log_density(part).sum(), part)[0])
        slope = torch.cat(slopes).transpose(0, 1).nan_to_num(0.0, 0.0, 0.0)
        curvature = -(slope[:, 1 : d + 1] - slope[:, d + 1 :]) / (2.0 * DIFFERENCE)
        return slope[:, 0], (curvature + curvature.mT) / 2

    return derivatives


def by_densities(log_density: LogDensity, h: float = COARSE) -> Derivatives:
    """Both as differences of densities at x, x +- h c_i and x + h (c_i + c_j), c_i the columns of the root. Where these
    are not finite there is no slope, and so large a curvature that the next look is from nearer by.
    """

    def derivatives(x: Tensor, value: Tensor, root: Tensor | None) -> tuple[Tensor, Tensor]:
        d = x.shape[-1]
        eye = h * torch.eye(d, dtype=x.dtype, device=x.device)
        pairs = [(k, m) for k in range(d) for m in range(k)]
        steps = torch.stack([*eye, *-eye, *(eye[k] + eye[m] for k, m in pairs)])
        steps = steps.reshape(-1, *(1,) * (x.dim() - 1), d).expand(-1, *x.shape)
        heights = log_density(x + _scaled(root, steps))
        up, down = heights[:d], heights[d : 2 * d]
        slope = torch.stack([(a - b) / (2.0 * h) for a, b in zip(up, down, strict=True)], -1)
        curvature = ((2.0 * value - up - down) / h**2).movedim(0, -1).diag_embed()
        for (k, m), both in zip(pairs, heights[2 * d :], strict=True):
            curvature[..., k, m] = curvature[..., m, k] = (up[k] + up[m] - value - both) / h**2
        sound = torch.isfinite(curvature).all(-1).all(-1) & torch.isfinite(slope).all(-1)
        slope = torch.where(sound.unsqueeze(-1), slope, 0.0)
        return slope, torch.where(sound[..., None, None], curvature, NEARER * eye / h)

    return derivatives


def _scaled(root: Tensor | None, steps: Tensor) -> Tensor:
    """C times steps `(m, *batch, d)`: sums of products, many times faster than products of many small matrices."""
    return steps if root is None else (root * steps.unsqueeze(-2)).sum(-1)


def _axes(curvature: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues `(*batch, d)` and eigenvectors `(*batch, d, d)`."""
    if curvature.shape[-1] == 1:
        return curvature[..., 0], torch.ones_like(curvature)
    found = torch.linalg.eigh(curvature)
    return found.eigenvalues, found.eigenvectors
