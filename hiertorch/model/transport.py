"""The map that carries one member of a family of distributions into another: theta ~ old  =>  transport(theta) ~ new.

Location-scale families: theta' = m' + s' (theta - m) / s. Multivariate normal: theta' = m' + L' L^-1 (theta - m).
Families with a rate or scale alone: theta' = theta s' / s. Transformed distributions: the same between transforms.
"""

import torch
from torch import Tensor
from torch.distributions import (
    Cauchy,
    Distribution,
    Exponential,
    Gamma,
    Gumbel,
    HalfCauchy,
    HalfNormal,
    Independent,
    InverseGamma,
    Laplace,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
)

LOCATION_SCALE = (Normal, Cauchy, Laplace, Gumbel, StudentT)
"""Families of loc + scale z, with z of a fixed distribution (Student's t: of a fixed df)."""

SHAPES = {StudentT: "df", Gamma: "concentration", InverseGamma: "concentration"}
"""Families that are carried by a scale only while this parameter stays the same."""


def transport(old: Distribution, new: Distribution, value: Tensor) -> Tensor:
    """`value` `(chains, size, *event)`, distributed as `old`, carried to where it is distributed as `new`: two of one
    family, for which `untransportable` knows no reason against it.
    """
    if isinstance(old, Independent) and isinstance(new, Independent):
        return transport(old.base_dist, new.base_dist, value)
    if isinstance(old, LOCATION_SCALE) and isinstance(new, LOCATION_SCALE):
        return new.loc + new.scale * ((value - old.loc) / old.scale)
    if isinstance(old, MultivariateNormal) and isinstance(new, MultivariateNormal):
        centred = (value - old.loc).unsqueeze(-1)
        z = torch.linalg.solve_triangular(old._unbroadcasted_scale_tril, centred, upper=False)
        return new.loc + (new._unbroadcasted_scale_tril @ z).squeeze(-1)
    if isinstance(old, Exponential | Gamma) and isinstance(new, Exponential | Gamma):
        return value * (old.rate / new.rate)
    if isinstance(old, InverseGamma) and isinstance(new, InverseGamma):
        return value * (new.rate / old.rate)
    if isinstance(old, HalfNormal | HalfCauchy) and isinstance(new, HalfNormal | HalfCauchy):
        return value * (new.scale / old.scale)
    assert isinstance(old, TransformedDistribution) and isinstance(new, TransformedDistribution)
    for step in reversed(old.transforms):
        value = step.inv(value)
    value = transport(old.base_dist, new.base_dist, value)
    for step in new.transforms:
        value = step(value)
    return value


def untransportable(old: Distribution, new: Distribution) -> str | None:
    """Why `transport` can't serve for this prior, or None if it can; `old` and `new` are the prior at two places."""
    if isinstance(old, Independent) and isinstance(new, Independent):
        return untransportable(old.base_dist, new.base_dist)
    family = type(old)
    if family in SHAPES:
        name = SHAPES[family]
        if not torch.equal(getattr(old, name), getattr(new, name)):
            return f"the {name} of {family.__name__} depends on a latent"
        return None
    if family in (*LOCATION_SCALE, MultivariateNormal, Exponential, HalfNormal, HalfCauchy):
        return None
    if isinstance(old, TransformedDistribution) and isinstance(new, TransformedDistribution):
        if all(step.bijective for step in old.transforms):
            return untransportable(old.base_dist, new.base_dist)
        return f"{family.__name__} is made with a map that is not one to one"
    return f"{family.__name__} is not a location-scale family"


def location_scale(distribution: Distribution) -> Tensor | None:
    """Location and scale of the unconstrained latent under this prior, `(2, chains or 1, size or 1, *event)`, or None.

    Exact for location-scale families, marginal for multivariate normals; for one-to-one transforms of these the base's.
    """
    if isinstance(distribution, Independent):
        return location_scale(distribution.base_dist)
    if isinstance(distribution, LOCATION_SCALE):
        return torch.stack([distribution.loc, distribution.scale])
    if isinstance(distribution, MultivariateNormal):
        return torch.stack([distribution.loc, distribution.stddev])
    if isinstance(distribution, TransformedDistribution) and all(step.bijective for step in distribution.transforms):
        return location_scale(distribution.base_dist)
    return None


def location_precision(distribution: Distribution, event: int) -> Tensor | None:
    """Location and precision of the unconstrained latent under this prior, one beside the other, `(chains or 1, size or
    1, K, 1 + K)` of K numbers, or None. Of families that are not normal it is that of their scales.

    Args:
        distribution: the prior.
        event: how many dimensions its events have, 0 or 1.
    """
    if event == 0:
        place = location_scale(distribution)
        if place is None or place.dim() != 3:
            return None
        return torch.stack([place[0], place[1].square().reciprocal()], -1).unsqueeze(-2)
    if isinstance(distribution, MultivariateNormal) and distribution.loc.dim() == 3:
        return torch.cat([distribution.loc.unsqueeze(-1), distribution.precision_matrix], -1)
    if event == 1 and isinstance(distribution, Independent) and is_standard(distribution):
        place = location_scale(distribution)
        if place is not None and place.dim() == 4:
            return torch.cat([place[0].unsqueeze(-1), place[1].square().reciprocal().diag_embed()], -1)
    return None


def is_standard(distribution: Distribution) -> bool:
    """Whether an unconstrained draw is location + scale z, element by element, with z of a fixed distribution."""
    return (
        is_standard(distribution.base_dist)
        if isinstance(distribution, Independent)
        else isinstance(distribution, LOCATION_SCALE)
    )
