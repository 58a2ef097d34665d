"""What is kept of a run's draws, on their device, without synchronising with it.

docs/decisions.md: Stored draws are thinned in a new room.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


class Store:
    """The last of every `interval` draws of the named latents of every chain, filled as they come.

    Where there is room for all draws the interval is 1. When the room is full and one more comes, it is made twice as
    large, up to the most that there may be. When that is full, every other draw is dropped and the interval doubles,
    so that whatever the length of a run it is between half full and full of evenly spaced draws. Draws are written
    once: what `draws` gave stays as it is, also when others take its place.

    Args:
        values: gives shapes, `(chains, size, *event)`, dtype and device of these latents.
        names: the latents to keep.
        draws: how many draws of each chain there is room for.
        dtype: of the stored draws, if not that of the values.
        most: how many there may be room for at most; if left out, so many.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        names: tuple[str, ...],
        draws: int,
        dtype: torch.dtype | None = None,
        most: float | None = None,
    ) -> None:
        self.names, self._most = names, most or draws
        self._made = 0  # draws, stored or not
        first = values[names[0]]
        self._held = _Held(
            {name: _room(values[name], draws, dtype) for name in names},
            first.new_empty(draws, first.shape[0], dtype=dtype or first.dtype),
        )

    @property
    def n_draws(self) -> int:
        """Stored draws of each chain."""
        return self._held.number

    @property
    def made(self) -> int:
        """Draws of each chain so far, stored or not."""
        return self._made

    @property
    def interval(self) -> int:
        """Draws that a stored one stands for: itself and those before it that were not stored."""
        return self._held.interval

    def wanted(self, more: int) -> range:
        """Which of the next `more` draws, counted from 0, are to be stored: there is room for them afterwards."""
        made, interval = self._made + more, self.interval
        while made // interval > self._most:
            interval *= 2
        if interval > self.interval:
            self._held = self._held.thinned(interval // self.interval)
        if (stored := made // interval) > (room := len(self._held.log_density)):
            self._held = self._held.wider(int(min(self._most, max(stored, 2 * room))))
        first = interval - 1 - self._made % interval
        self._made = made
        return range(first, more, interval)

    def keep(self, values: Mapping[str, Tensor], log_density: Tensor) -> None:
        """Stores the present values `(chains, size, *event)`, if the next draw is one to be stored."""
        if self.wanted(1):
            for name, room in self._held.rooms.items():
                room[self.n_draws] = values[name].movedim(0, -1)
            self._held.log_density[self.n_draws] = log_density
            self._held.number += 1

    def fill(self, values: Mapping[str, Tensor], log_density: Tensor, at: int) -> None:
        """Writes values `(draws, chains, size, *event)` of wanted draws behind the first `at` stored ones. Pieces may
        come in any order, from several threads; the caller says when all before are there, by `filled`.
        """
        end = at + len(log_density)
        for name, room in self._held.rooms.items():
            room[at:end] = values[name].movedim(1, -1)
        self._held.log_density[at:end] = log_density

    def filled(self, end: int) -> None:
        """The first `end` stored draws are there."""
        self._held.number = end

    def restore(
        self, parts: Iterable[tuple[Mapping[str, Tensor], Tensor]], number: int, interval: int, made: int
    ) -> None:
        """Goes on from stored draws.

        Args:
            parts: draws that follow one another, `(chains, draws, size, *event)`, with their log densities.
            number: of all of them,
            interval: every so many-th of those
            made: that there were.
        """
        if number > len(self._held.log_density):
            self._held = self._held.wider(number)
        at = 0
        for draws, log_density in parts:
            self.fill({name: x.movedim(1, 0) for name, x in draws.items()}, log_density.mT, at)
            at += log_density.shape[1]
        self._held.number, self._held.interval, self._made = number, interval, made

    def draws(self) -> dict[str, Tensor]:
        """The stored draws so far, `(chains, draws, size, *event)`: views."""
        return {name: room[: self.n_draws].movedim(-1, 0) for name, room in self._held.rooms.items()}

    def log_density(self) -> Tensor:
        """Their log densities, `(chains, draws)`."""
        return self._held.log_density[: self.n_draws].transpose(0, 1)


@dataclass
class _Held:
    """Room for draws, how many there are, and how far apart. One object, so that an interruption leaves the old one or
    the new one.
    """

    rooms: dict[str, Tensor]
    log_density: Tensor
    number: int = 0
    interval: int = 1

    def thinned(self, times: int) -> "_Held":
        """The last of every `times` draws, in rooms of their own: others may still look at these."""

        def less(room: Tensor) -> Tensor:
            new = torch.empty_like(room)
            kept = room[times - 1 : self.number : times]
            new[: len(kept)] = kept
            return new

        rooms = {name: less(room) for name, room in self.rooms.items()}
        return _Held(rooms, less(self.log_density), self.number // times, self.interval * times)

    def wider(self, draws: int) -> "_Held":
        """The same draws, in rooms of their own for so many."""

        def more(room: Tensor) -> Tensor:
            new = room.new_empty(draws, *room.shape[1:])
            new[: self.number] = room[: self.number]
            return new

        return _Held(
            {name: more(x) for name, x in self.rooms.items()}, more(self.log_density), self.number, self.interval
        )


def _room(value: Tensor, draws: int, dtype: torch.dtype | None) -> Tensor:
    """An empty `(draws, *shape, chains)` for values `(chains, *shape)`: a draw is written in one run of memory."""
    return value.new_empty((draws, *value.shape[1:], value.shape[0]), dtype=dtype or value.dtype)
