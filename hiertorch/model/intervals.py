"""Intervals of single numbers: where a parameter or a latent must lie, and whether it does."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

Bounds = tuple[float, float]

INTERVALS = (
    constraints.greater_than,
    constraints.greater_than_eq,
    constraints.less_than,
    constraints.interval,
    constraints.half_open_interval,
)
"""Torch's kinds of them."""


def of_numbers(constraint: Constraint) -> Constraint:
    """The constraint of the single numbers of a vector."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def is_interval(constraint: Constraint) -> bool:
    """Whether it is about single numbers between two ends, of which one may be infinite."""
    return isinstance(constraint, INTERVALS)


def beyond(constraint: Constraint | None, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Whether an interval leaves out the least of some numbers, or the greatest, or these are infinite; NaN is not."""
    if isinstance(constraint, constraints.greater_than):
        return least <= constraint.lower_bound, most == torch.inf
    if isinstance(constraint, constraints.greater_than_eq):
        return least < constraint.lower_bound, most == torch.inf
    if isinstance(constraint, constraints.less_than):
        return least == -torch.inf, most >= constraint.upper_bound
    if isinstance(constraint, constraints.half_open_interval):
        return least < constraint.lower_bound, most >= constraint.upper_bound
    assert isinstance(constraint, constraints.interval)
    return least < constraint.lower_bound, most > constraint.upper_bound


def bounds(support: Constraint) -> Bounds | None:
    """The ends of an interval of single numbers, (-inf, inf) for all of them; None for other supports."""
    support = of_numbers(support)
    if support is constraints.real:
        return -math.inf, math.inf
    if not is_interval(support):
        return None
    ends = [getattr(support, name, end) for name, end in (("lower_bound", -math.inf), ("upper_bound", math.inf))]
    if any(isinstance(end, Tensor) and not bool((end == end.flatten()[0]).all()) for end in ends):
        return None
    low, high = (float(end.flatten()[0]) if isinstance(end, Tensor) else float(end) for end in ends)
    return low, high


def plain_bounds(distribution: Distribution) -> Bounds | None:
    """The ends of the support of a distribution, if they are plain numbers."""
    try:
        support = distribution.support
    except NotImplementedError:
        return None
    return None if support is None or has_tensor(of_numbers(support)) else bounds(support)


def within(inner: Bounds, constraint: Constraint) -> bool:
    """Whether numbers strictly between bounds satisfy a constraint."""
    outer = None if has_tensor(of_numbers(constraint)) else bounds(constraint)
    return outer is not None and outer[0] <= inner[0] and inner[1] <= outer[1]


def has_tensor(constraint: Constraint) -> bool:
    """Whether an end is a tensor, which may be another one in each place."""
    return any(isinstance(getattr(constraint, name, None), Tensor) for name in ("lower_bound", "upper_bound"))
