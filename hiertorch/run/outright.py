"""What a collapsed model draws outright: effects and coefficients given the rest, exactly, in batches."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from hiertorch.run.collapsed import CollapsedMove


def seeds(number: int, generator: torch.Generator) -> list[int]:
    """So many, one for each batch, which may then be drawn in any order."""
    return torch.randint(2**62, (number,), generator=generator, device=generator.device).tolist()


def drawn_outright(move: CollapsedMove, place: Tensor, linear: tuple[str, ...], seed: int) -> dict[str, Tensor]:
    """Values `(n, size, *event)` of the rest at places `(n, d + m)`, and draws of the linear latents asked for."""
    collapsed, d, device = move.collapsed, move.width, place.device
    values = move.values(place[:, :d])
    if not linear:
        return values
    source, rows = torch.Generator(device).manual_seed(seed), collapsed.noise_for(linear)
    drawn = []
    for at in range(0, len(place), collapsed.batch):
        some = {name: x[at : at + collapsed.batch] for name, x in values.items()}
        found = place[at : at + collapsed.batch, d:]
        noise = torch.randn(rows, len(found), generator=source, dtype=place.dtype, device=device)
        drawn.append(collapsed.draw(some, noise, linear, found=found))
    return {**values, **{name: torch.cat([x[name] for x in drawn]) for name in linear}}


class Looked(Mapping[str, Tensor]):
    """Values `(chains, size, *event)` of all latents at places `(chains, d + m)`; what is drawn outright is drawn when
    it is looked at.

    Args:
        move: what is sampled.
        place: of the chains.
        seed: gives the seed of these draws.
    """

    def __init__(self, move: CollapsedMove, place: Tensor, seed: Callable[[], int]) -> None:
        self._move, self._place, self._seed = move, place, seed
        self._known = dict(move.values(place[:, : move.width]))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._known:
            linear = self._move.collapsed.linear
            if name not in linear:
                raise KeyError(name)
            self._known |= drawn_outright(self._move, self._place, linear, self._seed())
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._move.block)

    def __len__(self) -> int:
        return len(self._move.block)
