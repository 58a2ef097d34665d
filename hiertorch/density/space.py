"""Latent names to one flat unconstrained position and back; the bijections follow from the priors' supports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import ComposeTransform, IndependentTransform, Transform

from hiertorch.model.bijections import bijection
from hiertorch.model.copies import cast
from hiertorch.model.intervals import Bounds, bounds


@dataclass(frozen=True)
class Coordinate:
    """Where one latent lives: u in R^(size x event), theta = bijection(u)."""

    plate: str | None
    size: int
    event: tuple[int, ...]  # of the constrained value
    free_event: tuple[int, ...]  # of the unconstrained one, shorter for a simplex or a correlation matrix
    bijection: Transform
    bounds: Bounds | None = None  # of its values, which are single numbers; none for simplexes and matrices

    @property
    def width(self) -> int:
        """Unconstrained dimensions for each group."""
        return int(torch.Size(self.free_event).numel())

    @property
    def is_identity(self) -> bool:
        """Whether theta = u, as on the whole real line."""
        return isinstance(self.bijection, ComposeTransform) and not self.bijection.parts

    def at_ends(self, value: Tensor) -> list[Tensor]:
        """Where a value is rounded to an end of its support, each `(chains, size)`: there is no such place in theory,
        and densities of 0/0 in practice. None where that can't be.
        """
        if self.bounds is None or self.is_identity:
            return []
        least, most = (value.flatten(2).amin(-1), value.flatten(2).amax(-1)) if value.dim() > 2 else (value, value)
        return [least <= self.bounds[0], most >= self.bounds[1]]

    @classmethod
    def make(cls, plate: str | None, shape: Sequence[int], support: Constraint) -> "Coordinate":
        """The coordinate of a latent with this shape, `(size, *event)`, and support.

        Raises:
            NotImplementedError: if there is no bijection onto the support (a discrete prior).
        """
        onto = bijection(support)
        free_event = tuple(_free_shape(onto, torch.Size((1, *shape)))[2:])
        return cls(plate, shape[0], tuple(shape[1:]), free_event, onto, bounds(support))


class Space:
    """u = (u_1, ..., u_K) in R^dim <-> theta by name, for any number of chains.

    A flat position is `(chains, dim)`; a latent's part of it is `(chains, size, *free_event)`, groups first.
    """

    def __init__(self, coordinates: Mapping[str, Coordinate]) -> None:
        self.coordinates = dict(coordinates)
        self.slices: dict[str, slice] = {}
        start = 0
        for name, c in self.coordinates.items():
            self.slices[name] = slice(start, start + c.size * c.width)
            start += c.size * c.width
        self.dim = start

    def to(self, device: torch.device, dtype: torch.dtype) -> "Space":
        """The same space; the bounds of its supports lie on another device."""
        return Space({n: replace(c, bijection=cast(c.bijection, device, dtype)) for n, c in self.coordinates.items()})

    def split(self, position: Tensor) -> dict[str, Tensor]:
        """A flat position `(chains, dim)` as unconstrained parts `(chains, size, *free_event)` by name."""
        return {
            name: position[:, self.slices[name]].reshape(position.shape[0], c.size, *c.free_event)
            for name, c in self.coordinates.items()
        }

    def join(self, free: Mapping[str, Tensor]) -> Tensor:
        """Unconstrained parts by name as one flat position `(chains, dim)`."""
        return torch.cat([free[name].flatten(1) for name in self.coordinates], 1)

    def constrain(self, free: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """theta_k = bijection_k(u_k) for the parts given, `(chains, size, *event)`."""
        return {name: self.coordinates[name].bijection(u) for name, u in free.items()}

    def unconstrain(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """u_k = bijection_k^-1(theta_k) for the values given, `(chains, size, *free_event)`."""
        return {name: self.coordinates[name].bijection.inv(x) for name, x in values.items()}


def _free_shape(onto: Transform, shape: torch.Size) -> torch.Size:
    """The shape of what a transform maps onto values of this shape.

    Asked for that of a map of single numbers, torch imports a computer algebra system, which takes half a second.
    """
    if isinstance(onto, IndependentTransform):
        return _free_shape(onto.base_transform, shape)
    if isinstance(onto, ComposeTransform):
        for part in reversed(onto.parts):
            shape = _free_shape(part, shape)
        return shape
    return shape if onto.codomain.event_dim == 0 else onto.inverse_shape(shape)


def chain_last(x: Tensor) -> Tensor:
    """The same `(chains, ...)` tensor, laid out so that a group's values of all chains are neighbours in memory.

    Reading effects row by row, `v.alpha[:, data.school]`, then copies whole runs of chains: four times faster
    for 32 chains of 12,573 rows.
    """
    return x.movedim(0, -1).contiguous().movedim(-1, 0)
