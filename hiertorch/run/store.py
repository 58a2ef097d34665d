"""What is kept of a run's draws, on their device, without synchronising with it.

docs/decisions.md: Stored draws are thinned in a new room.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hiertorch.errors import warn
from hiertorch.runtime.rooms import Place, is_mapped, let_go, mapped, pieces


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
        place: where they are held.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        names: tuple[str, ...],
        draws: int,
        dtype: torch.dtype | None = None,
        most: float | None = None,
        place: Place | None = None,
    ) -> None:
        self.names, self._most = names, most or draws
        self._made = 0  # draws, stored or not
        self._place = place or Place()
        # A draw is written in one run of memory.
        like = {name: x.movedim(0, -1).to(dtype or x.dtype) for name, x in ((name, values[name]) for name in names)}
        first = like[names[0]]
        self._held = _Held(_rooms(like, draws, self._place), first.new_empty(draws, first.shape[-1]), self._place)

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
            self.filled(self.n_draws + 1)

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
        if self._held.outside:
            for room in self._held.rooms.values():
                let_go(room)

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
            self.filled(at := at + log_density.shape[1])
        self._held.number, self._held.interval, self._made = number, interval, made

    def draws(self) -> dict[str, Tensor]:
        """The stored draws so far, `(chains, draws, size, *event)`: views."""
        return {name: room[: self.n_draws].movedim(-1, 0) for name, room in self._held.rooms.items()}

    def log_density(self) -> Tensor:
        """Their log densities, `(chains, draws)`."""
        return self._held.log_density[: self.n_draws].transpose(0, 1)


@dataclass
class _Held:
    """Room for draws, where it is, how many there are, and how far apart. One object, so that an interruption leaves
    the old one or the new one.
    """

    rooms: dict[str, Tensor]
    log_density: Tensor
    place: Place = field(default_factory=Place)
    number: int = 0
    interval: int = 1

    def __post_init__(self) -> None:
        self.outside = any(map(is_mapped, self.rooms.values()))

    def thinned(self, times: int) -> "_Held":
        """The last of every `times` draws, in rooms of their own: others may still look at these."""
        new = self._new(len(self.log_density), lambda room: room[times - 1 : self.number : times])
        new.number, new.interval = self.number // times, self.interval * times
        return new

    def wider(self, draws: int) -> "_Held":
        """The same draws, in rooms of their own for so many."""
        new = self._new(draws, lambda room: room[: self.number])
        new.number, new.interval = self.number, self.interval
        return new

    def _new(self, draws: int, kept: Callable[[Tensor], Tensor]) -> "_Held":
        """Rooms for so many draws that begin with those that are kept."""
        rooms = _rooms({name: room[0] for name, room in self.rooms.items()}, draws, self.place)
        log_density = self.log_density.new_empty(draws, *self.log_density.shape[1:])
        for old, new in zip((*self.rooms.values(), self.log_density), (*rooms.values(), log_density), strict=True):
            some = kept(old)
            for part in pieces(some, 0):
                new[part] = some[part]
                let_go(new)
        return _Held(rooms, log_density, self.place)


def _rooms(each: Mapping[str, Tensor], draws: int, place: Place) -> dict[str, Tensor]:
    """Room for so many of what is like each, `(draws, *shape)`: all in memory, or all in files."""
    needed = draws * sum(x.numel() * x.element_size() for x in each.values())
    if (folder := place.outside(needed, next(iter(each.values())).device)) is not None:
        try:
            return {name: mapped((draws, *x.shape), x.dtype, folder) for name, x in each.items()}
        except OSError as error:
            warn(f"{needed / 2**30:,.1f} GiB of draws stay in memory: {folder} can't hold them ({error.strerror}).")
    return {name: x.new_empty(draws, *x.shape) for name, x in each.items()}
