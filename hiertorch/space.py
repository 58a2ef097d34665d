"""Latent names to one flat unconstrained position and back; the bijections follow from the priors' supports."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform

__all__ = ["Coordinate", "Space", "chain_last"]


@dataclass(frozen=True)
class Coordinate:
    """Where one latent lives: u in R^(size x event), theta = bijection(u)."""

    name: str
    plate: str | None
    size: int
    event: tuple[int, ...]  # of the constrained value
    free_event: tuple[int, ...]  # of the unconstrained one, shorter for a simplex or a correlation matrix
    bijection: Transform

    @property
    def width(self) -> int:
        """Unconstrained dimensions for each group."""
        return int(torch.Size(self.free_event).numel())

    @classmethod
    def make(cls, name: str, plate: str | None, size: int, event: tuple[int, ...], support: Constraint) -> "Coordinate":
        """The coordinate of a latent with this event shape and support.

        Raises:
            NotImplementedError: if torch knows no bijection onto the support (a discrete prior).
        """
        bijection = biject_to(support)
        free_event = tuple(bijection.inverse_shape(torch.Size((1, size, *event)))[2:])
        return cls(name, plate, size, event, free_event, bijection)


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


def chain_last(x: Tensor) -> Tensor:
    """The same `(chains, ...)` tensor, laid out so that a group's values of all chains are neighbours in memory.

    Reading effects row by row, `v.alpha[:, data.school]`, then copies whole runs of chains: seven times faster than one by one.
    """
    return x.movedim(0, -1).contiguous().movedim(-1, 0)
