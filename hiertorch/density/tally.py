"""How often a run met impossible parameters, by their names, without waiting for the device that knows."""

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import TypeAlias

import torch
from torch import Tensor

from hiertorch.model.support import Condition

COUNTING = Lock()
"""Several threads evaluate pieces of one density."""

Piece: TypeAlias = Tensor | tuple[Tensor, ...]
"""What is computed of a piece: its terms, and where parameters were impossible, a mask for each."""

Key = tuple[str, str]
"""A piece of the density: its kind and its latent."""


def ruled(
    terms: Tensor, conditions: Sequence[tuple[Condition, Sequence[Tensor]]]
) -> tuple[Tensor, tuple[str, ...], tuple[Tensor, ...]]:
    """log densities, -inf where a condition is violated; the names of the parameters that have one, and where each is
    violated (a name for every mask).
    """
    names, masks = [], []
    for condition, found in conditions:
        for mask in found:
            terms = torch.where(mask, -torch.inf, terms)  # one by one: a mask that is proved to be False is left out
            if condition.name is not None:
                names.append(condition.name)
                masks.append(mask)
    return terms, tuple(names), tuple(masks)


class Tally:
    """Counts of the places where parameters were impossible, of all where they were looked at. A *place* is a chain, or
    a chain and a group or block of rows; a *look* is one evaluation of a piece of the density, at all places.

    Attributes:
        names: piece -> names of the parameters that are looked at there.
    """

    def __init__(self) -> None:
        self.names: dict[Key, tuple[str, ...]] = {}
        self._counts: dict[tuple[Key, int, torch.Size], Tensor] = {}
        self._looks: dict[tuple[Key, int, torch.Size], int] = {}
        self._last: dict[tuple[Key, int, torch.Size], Tensor] = {}

    def outlined(self, key: Key, terms: Tensor, names: Sequence[str], masks: Sequence[Tensor]) -> Piece:
        """What a pass over the rows gives: the terms, and the masks that are no larger than one number a chain. Others
        would have to be written to memory; they are told from terms of -inf, all under one name.
        """
        small = [(name, mask) for name, mask in zip(names, masks, strict=True) if not mask.dim() or mask.shape[-1] == 1]
        large = tuple(dict.fromkeys(name for name, m in zip(names, masks, strict=True) if m.dim() and m.shape[-1] > 1))
        self.names[key] = tuple(name for name, _ in small) + ((" or ".join(large),) if large else ())
        return (terms, *(mask for _, mask in small)) if small else terms

    def add(self, key: Key, terms: Tensor, masks: Sequence[Tensor]) -> None:
        """One look: where each parameter of a piece was impossible."""
        names = self.names.get(key, ())
        if not names:
            return
        with COUNTING:
            masks = masks if len(masks) == len(names) else [*masks, terms == -torch.inf]
            for i, mask in enumerate(masks):
                at = key, i, mask.shape
                if at not in self._counts:
                    self._counts[at] = torch.zeros(mask.shape, dtype=torch.int32, device=mask.device)
                    self._looks[at] = 0
                self._looks[at] += 1
                if mask is not self._last.get(at):  # a constant, of which one look is enough
                    self._counts[at] += mask
                    self._last[at] = mask

    def clear(self) -> None:
        """Begins again at nothing."""
        with COUNTING:
            self._counts, self._looks, self._last = {}, {}, {}

    def found(self) -> Mapping[str, tuple[int, int]]:
        """Parameter -> at how many places it was impossible, of how many; those that were at all.

        Synchronises with the device.
        """
        found: dict[str, tuple[int, int]] = {}
        for (key, i, shape), counts in self._counts.items():
            name = self.names[key][i] + (f", the prior of {key[1]!r}" if key[1] else "")
            count, of = found.get(name, (0, 0))
            found[name] = count + int(counts.sum()), max(of, self._looks[key, i, shape] * shape.numel())
        return {name: (count, of) for name, (count, of) in found.items() if count}
