"""The linear predictor of rows whose likelihood is not normal.

    eta_i = o_i + sum_k x_ik v_k[group of i],     y_i ~ F(eta_i, phi)

v: latents of which each row reads those of its own groups; phi: what else the likelihood reads. The coefficients are
derivatives of eta, found by differentiating the user's likelihood forwards along one number of all groups at once.

What is found here serves proposals alone (`hiertorch.gaussian.surrogate`): a predictor that misses something makes a
sampler slower, never wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, distributions
from torch.distributions import Distribution

from hiertorch.data.table import Data
from hiertorch.gaussian.affine import NotAffine, normal_root
from hiertorch.model.latent import Values
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads

AT_ONCE = 4_000_000
"""Rows times numbers along which eta is differentiated at once."""

CLOSE = 1e-6
"""Of the largest eta, by which one may miss its linear form."""

PREDICTORS: dict[type[Distribution], Callable[..., Tensor]] = {
    distributions.Bernoulli: lambda d: d.logits,
    distributions.Binomial: lambda d: d.logits,
    distributions.Geometric: lambda d: d.logits,
    distributions.NegativeBinomial: lambda d: d.logits + d.total_count.log(),
    distributions.Poisson: lambda d: d.rate.log(),
    distributions.Exponential: lambda d: -d.rate.log(),
    distributions.Gamma: lambda d: d.concentration.log() - d.rate.log(),
    distributions.Weibull: lambda d: d.scale.log(),
    distributions.Normal: lambda d: d.loc,
    distributions.StudentT: lambda d: d.loc,
    distributions.Cauchy: lambda d: d.loc,
    distributions.Laplace: lambda d: d.loc,
    distributions.Gumbel: lambda d: d.loc,
    distributions.LogNormal: lambda d: d.loc,
    distributions.Beta: lambda d: d.concentration1.log() - d.concentration0.log(),
}
"""What is linear in latents where a distribution has its usual link."""

Number = tuple[str, int]
"""A latent and the flat index of one of its numbers, of all groups."""

Rows = Callable[[Mapping[str, Tensor]], Tensor]
"""Something of each row, `(chains, rows)`, of values of all latents."""


class Predictor(NamedTuple):
    """eta = offset + sum over latents of their numbers times their columns."""

    offset: Tensor  # (rows,)
    columns: dict[str, Tensor]  # latent -> (rows, numbers)


def find_predictor(model: Model, data: Data, reads: Reads) -> Predictor:
    """The linear predictor of a likelihood.

    Raises:
        NotAffine: with the reason, if there is none.
    """
    natural = PREDICTORS.get(type(reads.response)) if reads.response is not None else None
    if natural is None:
        what = "unknown" if reads.response is None else type(reads.response).__name__
        raise NotAffine(f"no linear predictor is known of rows whose likelihood is {what}")
    names = tuple(model.latents)

    def eta(values: Mapping[str, Tensor]) -> Tensor:
        found = natural(model.likelihood(Values(dict(values), names), data))
        return found.expand(len(next(iter(values.values()))), data.n_rows)

    normal = [name for name in names if normal_root(reads.distributions[name]) is not None]
    candidates = [name for name in names if name in reads.likelihood]
    for name in candidates:
        if name not in normal and model.latents[name].plate is not None:
            raise NotAffine(f"rows read {name!r}, which varies over groups, and whose prior is not normal")
    drawn = {name: x.to(data.dtype) for name, x in reads.values.items()}
    base = {name: torch.zeros_like(x[:1]) if name in normal else x[:1] for name, x in drawn.items()}
    linear = [name for name in candidates if name in normal]
    held = [name for name in candidates if name not in normal]
    if not any(model.latents[name].plate is not None for name in linear):
        raise NotAffine("rows read no effects with a normal prior")
    found = _linear(eta, base, drawn, linear)
    for name in held:  # numbers with another prior in which eta is linear all the same
        one = _columns(eta, base, [name])[name]
        moved = {**base, name: drawn[name]}
        there = eta({key: x.expand(len(drawn[name]), *x.shape[1:]) for key, x in moved.items()})
        along = (drawn[name] - base[name]).flatten(1) @ one.mT
        if bool((one != 0).any()) and _close(there, eta(base) + along):
            found[name] = one
    offset = eta(base)[0] - sum((base[n].flatten(1) @ found[n].mT)[0] for n in found if n in held)
    return Predictor(offset, found)


def _linear(
    eta: Rows, base: Mapping[str, Tensor], drawn: Mapping[str, Tensor], names: Sequence[str]
) -> dict[str, Tensor]:
    """Columns of latents that eta is linear in together."""
    found = _columns(eta, base, names)
    chains = len(next(iter(drawn.values())))
    along = {name: drawn[name] if name in names else x.expand(chains, *x.shape[1:]) for name, x in base.items()}
    directions = {name: along[name] for name in names}

    def moved(size: Tensor) -> Tensor:
        return eta({**along, **{name: size * x for name, x in directions.items()}})

    one, zero = torch.ones((), dtype=torch.float64, device=next(iter(found.values())).device), eta(base)
    first, second = moved(0.5 * one) - zero, moved(one) - zero
    if not (bool(second.isfinite().all()) and _close(2.0 * first, second)):
        raise NotAffine("the predictor of the rows is not linear in effects and coefficients")
    return found


def _columns(eta: Rows, base: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """d eta / d number, of all groups at once, at one place `(1, size, *event)`: latent -> `(rows, numbers)`."""
    numbers = [(name, j) for name in names for j in range(prod(base[name].shape[2:]))]
    rows = eta(base).shape[1]
    pieces = []
    per = max(1, AT_ONCE // rows)
    for start in range(0, len(numbers), per):
        pieces.append(_derivatives(eta, base, numbers[start : start + per]))
    every = torch.cat(pieces).mT
    widths = [prod(base[name].shape[2:]) for name in names]
    return {name: x.contiguous() for name, x in zip(names, every.split(widths, 1), strict=True)}


def _derivatives(eta: Rows, base: Mapping[str, Tensor], numbers: Sequence[Number]) -> Tensor:
    """`(numbers, rows)`."""
    chains = len(numbers)
    values = {name: x.expand(chains, *x.shape[1:]).contiguous() for name, x in base.items()}
    along = {name: torch.zeros_like(x) for name, x in values.items()}
    for i, (name, j) in enumerate(numbers):
        along[name].view(chains, along[name].shape[1], -1)[i, :, j] = 1.0

    def at(*tensors: Tensor) -> Tensor:
        return eta(dict(zip(values, tensors, strict=True)))

    found: Tensor = torch.func.jvp(at, tuple(values.values()), tuple(along.values()))[1]
    return found


def _close(a: Tensor, b: Tensor) -> bool:
    size = 1.0 + max(float(a.abs().amax()), float(b.abs().amax()))
    return bool(((a - b).abs() <= CLOSE * size).all())
