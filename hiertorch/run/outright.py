"""What a collapsed model draws outright: effects and coefficients given the rest, exactly, in batches."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from hiertorch.gaussian.collapse import Collapsed
from hiertorch.randomness import ChainStreams, normal, stream, uniform
from hiertorch.run.collapsed import CollapsedMove


class Outright:
    """Random numbers of what is drawn outright: of each chain from streams of its own, one for the root and one for
    each level of groups, so that draws of one do not depend on whether others are stored.

    Args:
        collapsed: draws.
        seed: names the streams.
        chains: how many there are.
    """

    def __init__(self, collapsed: Collapsed, seed: int, chains: int) -> None:
        levels, device = reversed(collapsed.grams.levels), collapsed.grams.packed.device
        self.chains = chains
        self.sizes = {"root": collapsed.elimination.root.width}
        self.sizes |= {f"level {k}": part.width * part.size for k, part in enumerate(levels)}
        self.streams = {name: ChainStreams(stream(seed, name, device=device), chains) for name in self.sizes}

    def uniform(self, rows: int, draws: int) -> Tensor:
        """Numbers on (0, 1) of the next draws, `(rows, draws x chains)`, all chains of a draw side by side."""
        found = list[Tensor]()
        for name, size in self.sizes.items():
            if rows > 0 or not found:
                some = self.streams[name].uniform(draws * size)
                found.append(some.view(draws, size, self.chains).transpose(0, 1))
            rows -= size
        return torch.cat(found).flatten(1)


def drawn_outright(
    move: CollapsedMove, place: Tensor, linear: tuple[str, ...], numbers: Tensor | None
) -> dict[str, Tensor]:
    """Values `(n, size, *event)` of the rest at places `(n, d + m)`, and draws of the linear latents asked for, if any,
    from numbers that are uniform on (0, 1), `(collapsed.noise_for(linear), n)`.
    """
    collapsed, d = move.collapsed, move.width
    values = move.values(place[:, :d])
    if numbers is None:
        return values
    drawn = []
    for at in range(0, len(place), collapsed.batch):
        some = {name: x[at : at + collapsed.batch] for name, x in values.items()}
        found = place[at : at + collapsed.batch, d:]
        noise = normal(numbers[:, at : at + collapsed.batch]).to(place.dtype)
        drawn.append(collapsed.draw(some, noise, linear, found=found))
    return {**values, **{name: torch.cat([x[name] for x in drawn]) for name in linear}}


class Looked(Mapping[str, Tensor]):
    """Values `(chains, size, *event)` of all latents at places `(chains, d + m)`; what is drawn outright is drawn when
    it is looked at.

    Args:
        move: what is sampled.
        place: of the chains.
        generator: gives one for these draws.
    """

    def __init__(self, move: CollapsedMove, place: Tensor, generator: Callable[[], torch.Generator]) -> None:
        self._move, self._place, self._generator = move, place, generator
        self._known = dict(move.values(place[:, : move.width]))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._known:
            collapsed = self._move.collapsed
            if name not in collapsed.linear:
                raise KeyError(name)
            rows = collapsed.noise_for(collapsed.linear)
            numbers = uniform(rows, len(self._place), generator=self._generator())
            self._known |= drawn_outright(self._move, self._place, collapsed.linear, numbers)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._move.block)

    def __len__(self) -> int:
        return len(self._move.block)
