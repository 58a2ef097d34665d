"""Stays: sweeps in a row in which a chain, or one of its groups, was refused every proposal.

A chain that rarely leaves where it is shows in neither acceptance, a mean, nor R-hat: under separation a group stayed
220 sweeps with an R-hat of 1.020, and its sd was 8 % too small. Independence proposals that are too narrow do this
(Tierney 1994, section 2.3.3).
"""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from hiertorch.run.engine import filed, inside


class Stays:
    """The present stay and the longest so far, by the place of a block among those of an engine: `(groups, chains)`, or
    `(chains,)` of what chains decide.
    """

    def __init__(self) -> None:
        self.now: dict[int, Tensor] = {}
        self.longest: dict[int, Tensor] = {}

    def add(self, k: int, accepted: Tensor) -> None:
        """What of a block was accepted in one sweep."""
        now, refused = self.now.get(k), accepted.logical_not()
        self.now[k] = now = refused.to(torch.int32) if now is None else (now + 1).mul_(refused)
        longest = self.longest.get(k)
        self.longest[k] = now if longest is None else torch.maximum(longest, now)

    def forget(self) -> None:
        """From here on stays are counted anew."""
        self.now, self.longest = {}, {}

    def tensors(self) -> dict[str, Tensor]:
        """The same as named tensors, which `of` takes."""
        kept = {"now": self.now, "longest": self.longest}
        return {
            name: x for part, xs in kept.items() for name, x in filed(part, {str(k): x for k, x in xs.items()}).items()
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Stays":
        """What such tensors hold."""
        found = cls()
        found.now, found.longest = (
            {int(k): x for k, x in inside(part, tensors).items()} for part in ("now", "longest")
        )
        return found


def facts(
    stays: Mapping[str, Tensor], plates: Mapping[str, str | None], labels: Mapping[str, pd.Index]
) -> dict[str, dict[str, object]]:
    """JSON-able, for `posterior.run`: block -> sweeps of its longest stay, in which chain, and of which group.

    Args:
        stays: block -> `(chains,)` or `(groups, chains)`.
        plates: block -> the plate of these groups.
        labels: plate -> their labels.
    """
    found = {}
    for block, longest in stays.items():
        place, plate = int(longest.argmax()), plates[block]
        group, chain = divmod(place, longest.shape[-1])
        whose = {} if plate is None else {"plate": plate, "group": str(labels[plate][group])}
        found[block] = {"sweeps": int(longest.flatten()[place]), "chain": chain, **whose}
    return found


def moved(positions: Tensor) -> tuple[float, int]:
    """Share of sweeps that move a chain, and sweeps of the longest stay, of positions before them and after each of
    them, `(1 + sweeps, chains, d)`.
    """
    new = (positions[1:] != positions[:-1]).any(2)
    at = torch.arange(1, len(positions), device=positions.device).unsqueeze(1)
    since = torch.where(new, at, 0).cummax(0).values  # the last sweep that moved the chain
    return float(new.double().mean()), int((at - since).max())
