"""Rows that read several groups of one plate: pupils of several teachers, the two players of a match.

    eta_i = .. + sum_s w_is' u[group_is]

s: the *slots* of a row. Effects of such a plate depend on each other given all else, so that no group is decided by
itself: they stand at the root, as those of crossed plates do (`hiertorch.gaussian.grams`).
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.data.table import Data

MOST_SLOTS = 16
"""Of a row: sums of products cost the square of it."""

MOST_NUMBERS = 20_000_000
"""Rows times numbers of all groups, among which those that rows read are looked for."""

ROUNDED = 1e-12
"""Of a row's largest weight, below which a weight is taken for 0."""


class Slots(NamedTuple):
    """The groups that each row reads, and what their effects are multiplied with."""

    group: Tensor  # (rows, slots), long; 0 where a row reads fewer
    weight: Tensor  # w, (rows, slots, K); 0 there

    @classmethod
    def of(cls, dense: Tensor) -> "Slots":
        """Those of a design `(rows, groups, K)` of all groups, nearly all of it 0."""
        size = dense.abs().amax((1, 2), keepdim=True)
        read = (dense.abs() > ROUNDED * size).any(2)
        slots = max(1, int(read.sum(1).max()))
        group = read.to(torch.uint8).argsort(stable=True, dim=1, descending=True)[:, :slots]
        inside = read.gather(1, group)
        weight = dense.gather(1, group.unsqueeze(2).expand(-1, -1, dense.shape[2]))
        return cls(torch.where(inside, group, 0), torch.where(inside.unsqueeze(2), weight, 0.0))

    @property
    def number(self) -> int:
        """Of a row, at most."""
        return self.group.shape[1]

    def joined(self, others: "Slots") -> "Slots":
        """These rows, and others after them."""
        number = max(self.number, others.number)

        def filled(x: Tensor) -> Tensor:
            return torch.cat([x, x.new_zeros(len(x), number - x.shape[1], *x.shape[2:])], 1)

        return Slots(*(torch.cat([filled(a), filled(b)]) for a, b in zip(self, others, strict=True)))

    def read(self, effects: Tensor) -> Tensor:
        """What effects `(chains, groups, *event)` add to the rows, `(chains, rows)`."""
        return (effects.reshape(*effects.shape[:2], -1)[:, self.group] * self.weight).sum((2, 3))


def with_slots(data: Data, slots: Mapping[str, Slots]) -> Data:
    """The data with the slots of their rows, plate or latent -> slots, as further columns: so rows that are taken or
    sorted take theirs along.
    """
    found: dict[str, Tensor] = {}
    for name, own in slots.items():
        found |= {f"groups of {name} in slots": own.group, f"weights of {name} in slots": own.weight}
    return data.with_columns(found) if found else data


def slots_of(data: Data, name: str) -> Slots:
    """The slots that `with_slots` added."""
    return Slots(data[f"groups of {name} in slots"], data[f"weights of {name} in slots"])
