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

from hiertorch.data.table import Data
from hiertorch.model.latent import Values, validation
from hiertorch.model.model import Model, weighted
from hiertorch.pooling.information import Blocks, blocks_of, chain_of, gradient, leaves_of, pull, reduced

__all__ = ["COUPLED", "no_pooling", "shrinkage", "untold"]

NUMBERS = 2_000_000
"""Draws x rows that are held at once."""

DRAWS = (50, 1_000)
"""Over which B_j is averaged: no fewer and no more, in between as many as `NUMBERS` allows twice over."""

COUPLED = "its groups are not independent given the rest"

WIDEST = 60
"""Effects of a group, above which their matrices are not made."""

STEPS, SETTLED = 60, 1e-6
"""Of Fisher scoring for the no-pooling estimate: at most so many, until the step is so small beside the first standard
error. A group whose estimate is infinite (all its rows successes) does not settle and has none.
"""

SINGULAR = 1e-9
"""The smallest eigenvalue of an information matrix with ones on its diagonal, below which it tells no estimate."""


def shrinkage(
    model: Model, data: Data, values: Mapping[str, Tensor], effects: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """B_j of every effect, name -> `(groups, *event)`, averaged over draws; and plate -> why its groups have none.

    Args:
        model: that was fitted.
        data: likewise.
        values: draws of all latents, `(draws, size, *event)`.
        effects: plate -> names, see `hiertorch.pooling.information.effects_of`.
    """
    found: dict[str, Tensor] = {}
    without: dict[str, str] = {}
    number = len(next(iter(values.values())))
    wanted = min(max(DRAWS[0], 2 * NUMBERS // data.n_rows), DRAWS[1])
    at = torch.arange(0, number, max(1, number // wanted))
    shapes = {name: values[name].shape[1:] for names in effects.values() for name in names}
    for plate, names in effects.items():
        chain = chain_of(data, plate, effects)
        widths = _widths(values, chain, effects)
        if wide := _too_wide(widths):
            without[plate] = wide
            continue
        each = max(1, NUMBERS // max(data.n_rows, *(data.size(p) * widths[p] ** 2 for p in chain)))
        total: Tensor | float = 0.0
        mixed = False
        for part in at.split(each):
            v = {name: x[part] for name, x in values.items()}
            with torch.enable_grad(), validation(False):
                prior = reduced(blocks_of(model, data, v, chain, effects, rows=False), data, chain)
                blocks = blocks_of(model, data, v, chain, effects, rows=True)
                if part[0] == 0:
                    mixed = _mixed(model, data, v, chain, effects, blocks[plate, plate])
            if mixed:
                break
            scale = prior.diagonal(dim1=-2, dim2=-1).rsqrt()  # tiny scales beside large ones keep their digits
            unit = scale.unsqueeze(-1) * scale.unsqueeze(-2)
            before = torch.linalg.inv(prior * unit).diagonal(dim1=-2, dim2=-1)
            after = torch.linalg.inv(reduced(blocks, data, chain) * unit).diagonal(dim1=-2, dim2=-1)
            total = total + (after / before).sum(0)
        if mixed or not isinstance(total, Tensor):
            without[plate] = COUPLED
            continue
        found |= _unflattened((total / len(at)).clamp(0.0, 1.0), names, shapes)
    return found, without


def untold(
    model: Model, data: Data, values: Mapping[str, Tensor], effects: Mapping[str, Sequence[str]], plate: str
) -> str | None:
    """Why the groups of a plate have no estimates of their own, as `shrinkage` says it, or None if they have.

    Args:
        model: that was fitted.
        data: likewise.
        values: one value of all latents, `(1, size, *event)`.
        effects: plate -> names, see `hiertorch.pooling.information.effects_of`.
        plate: of the groups.
    """
    chain = chain_of(data, plate, effects)
    if wide := _too_wide(_widths(values, chain, effects)):
        return wide
    with torch.enable_grad(), validation(False):
        block = blocks_of(model, data, values, chain, effects, rows=True)[plate, plate]
        return COUPLED if _mixed(model, data, values, chain, effects, block) else None


def no_pooling(
    model: Model,
    data: Data,
    values: Mapping[str, Tensor],
    effects: Mapping[str, Sequence[str]],
    plate: str,
    steps: int = STEPS,
) -> dict[str, tuple[Tensor, Tensor]]:
    """What a group's own rows say about its effects: estimate and standard error, name -> each `(groups, *event)`.

    Maximum likelihood by Fisher scoring, without the prior of these effects, given all other latents; effects of groups
    nested in it are integrated out with theirs, so that a school is estimated from its classes. NaN where the rows do
    not tell: fewer rows than effects, a predictor that is constant in the group, a group of successes alone.

    Args:
        model: that was fitted.
        data: likewise.
        values: one value of all latents, `(1, size, *event)`.
        effects: plate -> names, see `hiertorch.pooling.information.effects_of`.
        plate: of the groups.
        steps: of scoring, at most; groups that need more have NaN.
    """
    chain, names = chain_of(data, plate, effects), effects[plate]
    v = {name: x.clone() for name, x in values.items()}
    shapes = {name: v[name].shape[1:] for name in names}
    first = settled = None
    for _ in range(steps):
        with torch.enable_grad(), validation(False):
            score, blocks = _score(model, data, v, chain, effects)
        step, variance = _step(score, blocks, data, chain)
        first = variance.sqrt() if first is None else first  # later ones grow without end where there is no estimate
        settled = (step.abs() < SETTLED * first).all(-1, keepdim=True)
        for name, move in _unflattened(step.nan_to_num(0.0)[0], names, shapes).items():
            v[name] = v[name] + move
        if bool((settled | step.isnan().any(-1, keepdim=True)).all()):
            break
    assert settled is not None
    error = torch.where(settled, variance.sqrt(), math.nan)
    errors = _unflattened(error[0], names, shapes)
    return {name: (torch.where(errors[name].isnan(), math.nan, v[name][0]), errors[name]) for name in names}


def _widths(values: Mapping[str, Tensor], chain: Sequence[str], effects: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Plate -> numbers of effects of a group."""
    return {p: sum(math.prod(values[name].shape[2:]) for name in effects[p]) for p in chain}


def _too_wide(widths: Mapping[str, int]) -> str | None:
    widest = max(widths.values())
    return f"{widest} effects a group are too many" if widest > WIDEST else None


def _mixed(
    model: Model,
    data: Data,
    v: Mapping[str, Tensor],
    chain: Sequence[str],
    effects: Mapping[str, Sequence[str]],
    block: Tensor,
) -> bool:
    """Whether the density couples the groups of the last plate of a chain, as by a prior of neighbours."""
    generator = torch.Generator(data.device).manual_seed(0)
    signs = torch.randint(0, 2, (data.size(chain[-1]),), generator=generator, device=data.device).to(data.dtype) * 2 - 1
    other = blocks_of(model, data, v, chain, effects, rows=True, signs=signs)[chain[-1], chain[-1]]
    return not torch.allclose(other * signs[:, None, None], block, rtol=1e-6, atol=float(block.abs().max()) * 1e-9)


def _score(
    model: Model, data: Data, v: Mapping[str, Tensor], chain: Sequence[str], effects: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Tensor], Blocks]:
    """The gradient by plate and the information of rows and of all priors but the last plate's, of one draw."""
    values, leaves = leaves_of(v, chain, effects)
    v = Values(values, tuple(model.latents))
    rows = weighted(model.log_likelihood(v, data), data.weights).sum()
    inner = [pull(model.prior(n, v, data), values[n]).sum() for p in chain[:-1] for n in effects[p]]
    density = torch.stack([rows, *inner]).sum()
    score = {plate: gradient(density, leaves[plate]) for plate in chain}
    return score, blocks_of(model, data, v, chain, effects, rows=True, priors=chain[:-1])


def _step(score: dict[str, Tensor], blocks: Blocks, data: Data, chain: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The scoring step and the variances of the last plate's effects, each `(1, groups, K)`, NaN where there is no
    information.
    """
    blocks, score = dict(blocks), dict(score)
    for i, fine in enumerate(chain[:-1]):
        inverse = torch.linalg.inv(blocks[fine, fine])
        for j, middle in enumerate(chain[i + 1 :], i + 1):
            parents = data.parents(fine, middle)
            less = (blocks[middle, fine] @ inverse @ score[fine].unsqueeze(-1)).squeeze(-1)
            score[middle] = score[middle].index_add(1, parents, less, alpha=-1.0)
            for coarse in chain[j:]:
                block = blocks[coarse, fine] @ inverse @ blocks[middle, fine].mT
                blocks[coarse, middle] = blocks[coarse, middle].index_add(1, parents, block, alpha=-1.0)
    information, gradient = blocks[chain[-1], chain[-1]], score[chain[-1]]
    diagonal = information.diagonal(dim1=-2, dim2=-1)
    root = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    unit = information * root.unsqueeze(-1) * root.unsqueeze(-2)
    none = (torch.linalg.eigvalsh(unit)[..., 0] < SINGULAR)[..., None, None]
    inverse = torch.linalg.inv(torch.where(none, torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device), unit))
    inverse = torch.where(none, math.nan, inverse * root.unsqueeze(-1) * root.unsqueeze(-2))
    return (inverse @ gradient.unsqueeze(-1)).squeeze(-1), inverse.diagonal(dim1=-2, dim2=-1)


def _unflattened(x: Tensor, names: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Entries `(groups, K)` by effect, `(groups, *event)`."""
    parts = x.split([math.prod(shapes[name][1:]) for name in names], -1)
    return {name: part.reshape(tuple(shapes[name])) for name, part in zip(names, parts, strict=True)}
