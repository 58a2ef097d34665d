"""Latents of which each number stands before coefficients of its own, as the lambda of a horseshoe.

    b_k ~ N(m_k, t_k),     t_k a function of s_k, the k-th number of one latent, and of numbers common to all k

Given the coefficients, numbers s_k are independent of one another where their prior says so, and rows say nothing of
them. That t_k hangs on no other number of the latent is seen at probes of the rest; its prior is asked for its type.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Dirichlet, Distribution, Independent, Normal

from hiertorch.density.space import Coordinate
from hiertorch.gaussian.affine import Affine
from hiertorch.model.reads import Reads

SAME = 1e-9
"""Relative difference of two spreads that are the same."""

STEP = 0.3
"""Of a number that is probed, in logarithms."""


@dataclass(frozen=True)
class Local:
    """One of these latents.

    Attributes:
        name: of the latent.
        coefficients: the latent of b.
        owner: which of its numbers stands before each coefficient, `(coefficients,)`; their number where none does.
        shares: whether its numbers sum to 1.
        common: latents of one number each, no row reading them, on which t or the prior of s hangs.
        ridge: those of them that may rise as s falls, in their unconstrained coordinates, without any change of t.
    """

    name: str
    coefficients: str
    owner: Tensor
    width: int
    shares: bool
    common: tuple[str, ...]
    ridge: tuple[str, ...]

    @property
    def latents(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.common, self.name)


def locals_of(affine: Affine, reads: Reads, coordinates: Mapping[str, Coordinate]) -> tuple[Local, ...]:
    """Those of a model's population-level coefficients.

    Args:
        affine: the model.
        reads: who reads whom in it.
        coordinates: of its latents.
    """
    composed, found = affine.composed, list[Local]()
    held = {name for name, _ in affine.held}
    alone = {
        name
        for name in affine.rest
        if name not in reads.likelihood and name not in held and coordinates[name].plate is None
    }
    for part in composed.parts:
        if part.plate is not None or affine.turning:
            continue
        for coefficients, event in part.events.items():
            if len(event) != 1:
                continue
            for name in sorted(reads.priors[coefficients] & alone):
                readers = [other for other, parents in reads.priors.items() if name in parents]
                if len(coordinates[name].event) == 1 and readers == [coefficients]:
                    one = _local(name, coefficients, alone, affine, reads, coordinates)
                    found += [] if one is None else [one]
    return tuple(found)


def elements(prior: Distribution) -> Distribution | None:
    """A prior of independent numbers, as one of each of them; None for another one."""
    if not isinstance(prior, Independent) or prior.reinterpreted_batch_ndims != 1 or prior.base_dist.event_shape:
        return None
    return prior.base_dist


def one_of(prior: Distribution) -> Distribution:
    """The same of a prior that is known to be one."""
    found = elements(prior)
    assert found is not None
    return found


def _local(
    name: str,
    coefficients: str,
    alone: set[str],
    affine: Affine,
    reads: Reads,
    coordinates: Mapping[str, Coordinate],
) -> Local | None:
    probes, number = affine.probes, coordinates[name].event[0]
    if number < 2:
        return None
    composed, batch = affine.composed, len(probes[name])
    prior = composed.model.prior(name, composed.zeros(probes, batch), composed.data)
    positive = (coordinates[name].bounds or (1.0, 1.0))[0] == 0.0
    shares = type(prior) is Dirichlet
    if not shares and (elements(prior) is None or not positive):
        return None

    def normal(values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Location and spread of the coefficients, `(batch, coefficients)`."""
        size = len(values[name])
        given = composed.model.prior(coefficients, composed.zeros(values, size), composed.data)
        each = elements(given)
        if type(each) is not Normal:
            return None
        return each.mean.expand(size, 1, -1)[:, 0], each.stddev.expand(size, 1, -1)[:, 0]

    first = normal(probes)
    if first is None:
        return None
    factors = torch.ones(number, number, dtype=first[0].dtype, device=first[0].device).fill_diagonal_(1.0 + STEP)
    many = {key: x.repeat_interleave(number, 0) for key, x in probes.items()}
    moved = normal({**many, name: many[name] * factors.repeat(batch, 1).unsqueeze(1)})
    assert moved is not None
    location, spread = (x.unflatten(0, (batch, number)) for x in moved)
    if not _same(location, first[0].unsqueeze(1)).all():
        return None
    hangs = ~_same(spread, first[1].unsqueeze(1)).all(0)  # (numbers, coefficients)
    if bool((hangs.sum(0) > 1).any()) or not bool(hangs.any()):
        return None
    owner = torch.where(hangs.any(0), hangs.to(torch.uint8).argmax(0), number)
    parents = (reads.priors[coefficients] | reads.priors[name]) & alone
    common = tuple(n for n in affine.rest if n in parents and coordinates[n].width == 1 and not coordinates[n].event)
    ridge = []
    for other in common if not shares else ():
        along = {n: _shifted(coordinates[n], probes[n], step) for n, step in ((other, STEP), (name, -STEP))}
        there = normal({**probes, **along})
        if there is not None and bool(_same(there[1], first[1]).all()):
            ridge.append(other)
    return Local(name, coefficients, owner, number, shares, common, tuple(ridge))


def _shifted(coordinate: Coordinate, x: Tensor, step: float) -> Tensor:
    return coordinate.bijection(coordinate.bijection.inv(x) + step)


def _same(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs() <= SAME * (x.abs() + y.abs())
