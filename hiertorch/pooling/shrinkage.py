"""How far each group's effects are drawn to their population: B_j = V(effect_j | y, rest) / V(effect_j | rest).

The share of its prior variance that the data did not remove. With varying intercepts and Gaussian rows this is the
classical B_j = (sigma_y^2 / n_j) / (sigma_y^2 / n_j + sigma_alpha^2) (Efron & Morris 1975; Gelman & Hill 2007, eq.
12.1); the estimate of a group is its own mean, drawn to that of its population by the share B_j.

Note [What the rest is]
    All latents but the effects of group j and of the groups nested in it, which are integrated out: a school is
    estimated through its classes. Effects of crossed groupings are given, as are scales and coefficients; B_j is the
    average over their posterior draws. Several effects of a group (intercept and slope) are taken together, and each
    has its own B_j, from the diagonals of the two covariance matrices. How these
    are found, and that they are exact for Gaussian rows: Note [Information] in `hiertorch.pooling.information`.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hiertorch.model.densities import weighted
from hiertorch.pooling.information import SCORE, Blocks, Effects, blocks_of, gradient, reduced
from hiertorch.runtime.validating import validation

NUMBERS = 2_000_000
"""Draws x rows that are held at once."""

DRAWS = (50, 1_000)
"""Over which B_j is averaged: no fewer and no more, in between as many as `NUMBERS` allows twice over."""

COUPLED = "its groups are not independent given the rest"
"""Why groups have no B_j, nor shares of variance, where a density couples them."""

WIDEST = 60
"""Effects of a group, above which their matrices are not made."""

STEPS, SETTLED = 60, 1e-6
"""Of Fisher scoring for the no-pooling estimate: at most so many, until the step is so small beside the first standard
error. A group whose estimate is infinite (all its rows successes) does not settle and has none.
"""

SINGULAR = 1e-9
"""The smallest eigenvalue of an information matrix with ones on its diagonal, below which it tells no estimate."""


def shrinkage(effects: Effects, values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """B_j of every effect, name -> `(groups, *event)`, averaged over draws of all latents, `(draws, size, *event)`; and
    plate -> why its groups have none.
    """
    data, found, without = effects.data, dict[str, Tensor](), dict[str, str]()
    number = len(next(iter(values.values())))
    wanted = min(max(DRAWS[0], 2 * NUMBERS // data.n_rows), DRAWS[1])
    at = torch.arange(0, number, max(1, number // wanted))
    for plate, names in effects.names.items():
        if why := untold(effects, {name: x[:1] for name, x in values.items()}, plate):
            without[plate] = why
            continue
        nest, widths = effects.nest(plate), _widths(effects, values)
        each = max(1, NUMBERS // max(data.n_rows, *(data.size(p) * widths[p] ** 2 for p in nest)))
        parts = []
        for part in at.split(each):
            v = {name: x[part] for name, x in values.items()}
            with torch.enable_grad(), validation(False):
                prior = reduced(blocks_of(effects, v, nest, nest, rows=False), data, nest)[plate, plate]
                both = reduced(blocks_of(effects, v, nest, nest), data, nest)[plate, plate]
            scale = prior.diagonal(dim1=-2, dim2=-1).rsqrt()  # tiny scales beside large ones keep their digits
            unit = scale.unsqueeze(-1) * scale.unsqueeze(-2)
            before = torch.linalg.inv(prior * unit).diagonal(dim1=-2, dim2=-1)
            after = torch.linalg.inv(both * unit).diagonal(dim1=-2, dim2=-1)
            parts.append((after / before).sum(0))
        found |= _unflattened((torch.stack(parts).sum(0) / len(at)).clamp(0.0, 1.0), names, values)
    return found, without


def untold(effects: Effects, values: Mapping[str, Tensor], plate: str) -> str | None:
    """Why the groups of a plate have no B_j and no estimates of their own, or None if they have: too many effects, or a
    density that couples the groups, as by a prior of neighbours; looked up at one value of all latents, `(1, size,
    *event)`.
    """
    data, nest, widths = effects.data, effects.nest(plate), _widths(effects, values)
    if (widest := max(widths[p] for p in nest)) > WIDEST:
        return f"{widest} effects a group are too many"
    generator = torch.Generator(data.device).manual_seed(0)
    signs = torch.randint(0, 2, (data.size(plate),), generator=generator, device=data.device).to(data.dtype) * 2 - 1
    with torch.enable_grad(), validation(False):
        block, other = (blocks_of(effects, values, nest, nest, signs=x)[plate, plate] for x in (None, signs))
    atol = float(block.abs().max()) * 1e-9
    return None if torch.allclose(other * signs[:, None, None], block, rtol=1e-6, atol=atol) else COUPLED


def no_pooling(
    effects: Effects, values: Mapping[str, Tensor], plate: str, steps: int = STEPS
) -> dict[str, tuple[Tensor, Tensor]]:
    """What a group's own rows say about its effects: estimate and standard error, name -> each `(groups, *event)`.

    Maximum likelihood by Fisher scoring, without the prior of these effects, given all other latents at one value each,
    `(1, size, *event)`; effects of groups nested in it are integrated out with theirs, so that a school is estimated
    from its classes. NaN where the rows do not tell: fewer rows than effects, a predictor that is constant in the
    group, a group of successes alone; and of groups that need more `steps`.
    """
    nest, names = effects.nest(plate), effects.names[plate]
    v = {name: x.clone() for name, x in values.items()}
    first = settled = None
    for _ in range(steps):
        with torch.enable_grad(), validation(False):
            blocks = reduced(_scored(effects, v, nest), effects.data, nest)
        step, variance = _step(blocks[SCORE, plate].squeeze(-2), blocks[plate, plate])
        first = variance.sqrt() if first is None else first  # later ones grow without end where there is no estimate
        settled = (step.abs() < SETTLED * first).all(-1, keepdim=True)
        for name, move in _unflattened(step.nan_to_num(0.0)[0], names, v).items():
            v[name] = v[name] + move
        if bool((settled | step.isnan().any(-1, keepdim=True)).all()):
            break
    assert settled is not None
    errors = _unflattened(torch.where(settled, variance.sqrt(), math.nan)[0], names, v)
    return {name: (torch.where(errors[name].isnan(), math.nan, v[name][0]), errors[name]) for name in names}


def _widths(effects: Effects, values: Mapping[str, Tensor]) -> dict[str, int]:
    """Plate -> numbers of effects of a group."""
    return {p: sum(values[name][0, 0].numel() for name in names) for p, names in effects.names.items()}


def _scored(effects: Effects, v: Mapping[str, Tensor], nest: Sequence[str]) -> Blocks:
    """The information of rows and of all priors but the last plate's, with the gradients of both, of one draw."""
    model, data = effects.model, effects.data
    values = effects.leaves(v, nest)
    rows = weighted(model.log_likelihood(model.values(values), data), data.weights).sum()
    density = torch.stack([rows, *effects.prior_terms(values, nest[:-1])]).sum()
    blocks = blocks_of(effects, v, nest, nest[:-1])
    for plate in nest:
        blocks[SCORE, plate] = gradient(density, [values[name] for name in effects.names[plate]]).unsqueeze(-2)
    return blocks


def _step(score: Tensor, information: Tensor) -> tuple[Tensor, Tensor]:
    """The scoring step and the variances of effects, each `(1, groups, K)`, NaN where there is no information."""
    diagonal = information.diagonal(dim1=-2, dim2=-1)
    root = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    unit = information * root.unsqueeze(-1) * root.unsqueeze(-2)
    none = (torch.linalg.eigvalsh(unit)[..., 0] < SINGULAR)[..., None, None]
    inverse = torch.linalg.inv(torch.where(none, torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device), unit))
    inverse = torch.where(none, math.nan, inverse * root.unsqueeze(-1) * root.unsqueeze(-2))
    return (inverse @ score.unsqueeze(-1)).squeeze(-1), inverse.diagonal(dim1=-2, dim2=-1)


def _unflattened(x: Tensor, names: Sequence[str], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries `(groups, K)` by effect, `(groups, *event)`."""
    parts = x.split([like[name][0, 0].numel() for name in names], -1)
    return {name: part.reshape(like[name].shape[1:]) for name, part in zip(names, parts, strict=True)}
