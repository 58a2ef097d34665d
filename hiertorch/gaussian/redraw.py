"""Effects that a run did not store: drawn again from the stored scales and coefficients when they are asked for.

Given these, effects have a normal distribution that is known exactly, so that a hundred thousand groups need no memory
for chains x draws x groups numbers. Their moments are averaged over draws of conditional means and variances
(Rao-Blackwellised: Gelfand & Smith 1990, section 2.4).
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from hiertorch.errors import DataError
from hiertorch.gaussian.affine import NotAffine
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.randomness import stream
from hiertorch.runtime.validating import validation

NUMBERS = 1_000_000
"""Numbers that are held at once."""

MOMENT_DRAWS = 1_000
"""Of all chains together, evenly spaced, over which moments are averaged."""

FEWER_DRAWS, MOMENT_NUMBERS = 100, 200_000_000
"""The least of these draws, and the numbers that all of them may have before they are fewer: where there are so many
groups, rows know scales and coefficients so well that conditional means hardly differ from draw to draw.
"""


class Redraw:
    """Draws of effects given stored ones of everything at the population level.

    Args:
        collapsed: what was sampled.
        draws: of all population-level latents, name -> `(chains, draws, 1, *event)`.
        seed: of the numbers that are drawn; the same groups asked for again are the same.
    """

    def __init__(self, collapsed: Collapsed, draws: Mapping[str, Tensor], seed: int) -> None:
        self.collapsed, self.population, self.seed = collapsed, dict(draws), seed
        self.names = tuple(name for name in collapsed.linear if name not in draws)
        self._like = next(iter(self.population.values()))  # (chains, draws, ..)

    def taken(self, chains: slice, draws: slice) -> "Redraw":
        """The same for some chains, and some draws of each."""
        return Redraw(self.collapsed, {name: x[chains, draws] for name, x in self.population.items()}, self.seed)

    def at(self, which: Tensor, seed: int) -> "Redraw":
        """The same for draws by their number among those of all chains, `(n,)`, as one chain, by another seed."""
        population = {name: x.flatten(0, 1)[which].unsqueeze(0) for name, x in self.population.items()}
        return Redraw(self.collapsed, population, seed)

    def draws(self, names: Sequence[str], groups: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Draws of effects that belong together, name -> `(chains, draws, groups, *event)`.

        Args:
            names: which of `names`.
            groups: plate -> codes of the groups wanted; all of a plate that is left out.
        """
        groups, collapsed = groups or {}, self.collapsed
        plates = {name: collapsed.composed.part[name].plate for name in names}
        finest = collapsed.grams.levels[0].plate if collapsed.grams.levels else None
        only = groups.get(str(finest)) if finest in plates.values() else None
        chains, number = self._like.shape[:2]
        generator = self._generator()
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        noise_rows = collapsed.noise_for(names, only)
        for values in self._parts(torch.arange(chains * number), noise_rows, only):
            noise = self._noise(noise_rows, values, generator)
            drawn = self._draw(values, noise, names, only)
            for name, plate in plates.items():
                x = drawn[name]
                wanted = None if plate == finest and only is not None else groups.get(str(plate))
                found[name].append(x if wanted is None else x[:, wanted])
        return {name: torch.cat(x).unflatten(0, (chains, number)).to(self._like.dtype) for name, x in found.items()}

    def moments(self, name: str) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation of the effects of all groups, each `(groups, *event)`.

        E[a] = E[ E[a | rest] ],  Var[a] = E[ Var[a | rest] ] + Var[ E[a | rest] ]: an effect is affine in the noise of
        its own plate, so that its conditional mean is its draw at noise 0, and its variance the sum of squares of what
        a unit of each noise adds.
        """
        collapsed = self.collapsed
        part = collapsed.composed.part[name]
        draws = self._like.shape[0] * self._like.shape[1]
        most = min(MOMENT_DRAWS, max(FEWER_DRAWS, MOMENT_NUMBERS // (part.size * part.width)))
        at = torch.linspace(0, draws - 1, min(most, draws), dtype=torch.float64).long()
        own = part.size * part.width if part in collapsed.grams.levels else 0  # a crossed plate has no noise of its own
        rows, generator = collapsed.noise_for([name]), self._generator()
        mean = square = within = collapsed.grams.packed.new_zeros(part.size, *part.events[name])
        count, first = 0, None
        for values in self._parts(at, rows):
            noise = self._noise(rows, values, generator)
            noise[rows - own :] = 0.0
            centre = self._draw(values, noise, [name])[name]
            spread = torch.zeros_like(centre)
            for k in range(part.width if own else 0):
                unit = noise.clone()
                unit[rows - own :].unflatten(0, (part.width, part.size))[k] = 1.0
                spread += (self._draw(values, unit, [name])[name] - centre).square()
            first = centre[:1] if first is None else first  # moments about the first draw keep their digits
            count += len(centre)
            mean = mean + (centre - first).sum(0)
            square = square + (centre - first).square().sum(0)
            within = within + spread.sum(0)
        assert first is not None
        mean = mean / count
        return first[0] + mean, (within / count + square / count - mean.square()).clamp(min=0.0).sqrt()

    def log_group(self, plate: str, stored: Mapping[str, Tensor]) -> Tensor:
        """log p(y_j | all latents but the effects of group j of a plate, and of plates nested in it), these integrated
        out: `(chains, draws, groups)`.

        Args:
            plate: a grouping that effects vary over.
            stored: draws of latents of the model, `(chains, draws, size, *event)`; others are drawn again.
        """
        collapsed = self.collapsed
        data, parts = collapsed.composed.data, collapsed.composed.parts
        inner = {n for part in parts if part.plate is not None and data.nests(part.plate, plate) for n in part.events}
        kept = {name: x for name, x in stored.items() if name not in inner}
        outer = [name for name in self.names if name not in kept and name not in inner]
        chains, number = self._like.shape[:2]
        known = {**kept, **(self.draws(outer) if outer else {}), **self.population}
        flat = {name: x.flatten(0, 1).to(collapsed.grams.packed.dtype) for name, x in known.items()}
        size = max(1, NUMBERS // data.size(plate))
        found = []
        with torch.no_grad(), validation(False):
            for at in torch.arange(chains * number).split(size):
                values = {name: x[at.to(x.device)] for name, x in flat.items()}
                nothing = collapsed.composed.zeros({n: values[n] for n in collapsed.rest}, len(at))
                try:
                    found.append(collapsed.marginals.log_group({**dict(nothing), **values}, plate))
                except NotAffine as reason:
                    raise DataError(f"the marginal likelihood by group has no closed form here: {reason}.") from reason
        return torch.cat(found).unflatten(0, (chains, number))

    def _generator(self) -> torch.Generator:
        return stream(self.seed, "redraw", device=self.collapsed.grams.packed.device)

    def _parts(self, at: Tensor, numbers: int, only: Tensor | None = None) -> Iterator[dict[str, Tensor]]:
        """Stored values of the draws `at`, `(n, 1, *event)`, so many at a time that `numbers` for each fit."""
        flat = {name: x.flatten(0, 1) for name, x in self.population.items()}
        size = max(1, NUMBERS // max(1, numbers))
        if only is None or len(self.collapsed.grams.levels) > 1 or self.collapsed.grams.crossed:
            size = min(size, self.collapsed.batch)
        for part in at.split(size):
            yield {name: x[part.to(x.device)].to(self.collapsed.grams.packed.dtype) for name, x in flat.items()}

    def _noise(self, rows: int, values: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        like = self.collapsed.grams.packed
        number = len(next(iter(values.values())))
        return torch.randn(rows, number, generator=generator, dtype=like.dtype, device=like.device)

    def _draw(
        self, values: Mapping[str, Tensor], noise: Tensor, names: Sequence[str], only: Tensor | None = None
    ) -> dict[str, Tensor]:
        with torch.no_grad(), validation(False):
            return self.collapsed.draw(values, noise, names, only)
