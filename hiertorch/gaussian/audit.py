"""The audit of a collapsed run: its factorisation is held against the model's own density, at draws of its own.

    log p(y, all latents) = log p(rest) + log p(y | rest) + log p(effects, coefficients | rest, y)

The left side is what the user wrote, all rows at every draw; the right side is what was sampled. It is an identity, so
that their difference is the same number at all draws, whatever these are. Discovery (`hiertorch.gaussian.discovery`)
proves it where the prior lies; the audit looks where the posterior does, in its tails above all.

Note [Rounding]
Both sides are sums of as many terms as there are rows, of which neither keeps more than some 1e-10 of their size where
columns are far from orthogonal. So a difference counts from LIMIT plus ROUNDING times the log density on.

docs/decisions.md: Audit by identity.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.density.space import Space
from hiertorch.density.structure import coordinates_of
from hiertorch.density.target import Target
from hiertorch.errors import SamplingError
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.discovery import collapse, differences
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads
from hiertorch.runtime.validating import validation

LIMIT, ROUNDING = 1e-3, 1e-9
"""See Note [Rounding]."""

DRAWS, MANY_ROWS, FEW_DRAWS = 64, 1_000_000, 8
"""Draws that are looked at, and from how many rows on that many only; the extremes of the rest are among them, if need
be beyond these numbers.
"""

NUMBERS = 2_000_000
"""Effects that are held at once, of all draws."""

NAMED, ENTRIES = 6, 3
"""Latents that a warning shows, and entries of each."""


@dataclass(frozen=True)
class Audit:
    """What was found: the largest deviation of a difference from their median, and where that was."""

    gap: float = 0.0
    allowed: float = LIMIT
    draws: int = 0
    seconds: float = 0.0
    worst: Mapping[str, list[float]] = field(default_factory=dict)  # population-level latent -> its entries there

    @property
    def sound(self) -> bool:
        """Whether the collapsed density is the model's own, as far as was seen."""
        return self.gap <= self.allowed  # NaN is not

    def __add__(self, other: "Audit") -> "Audit":
        """Both: the worse gap, all draws and seconds."""
        worse = other if self.sound and not other.gap <= self.gap else self
        return replace(worse, draws=self.draws + other.draws, seconds=self.seconds + other.seconds)

    def facts(self) -> dict[str, object]:
        """JSON-able, for `posterior.run`; a gap that is no number is None."""
        gap = self.gap if math.isfinite(self.gap) else None
        found: dict[str, object] = {"sound": self.sound, "gap": gap, "draws": self.draws, "seconds": self.seconds}
        return found if self.sound else {**found, "worst": dict(self.worst)}

    def tensors(self) -> dict[str, Tensor]:
        """The same as named tensors, which `of` takes."""
        numbers = {"numbers": [self.gap, self.allowed, self.draws, self.seconds]}
        found = {**numbers, **{f"at {name}": entries for name, entries in self.worst.items()}}
        return {name: torch.tensor(x, dtype=torch.float64, device="cpu") for name, x in found.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Audit":
        """What such tensors hold."""
        gap, allowed, draws, seconds = tensors["numbers"].tolist()
        worst = {name.removeprefix("at "): x.tolist() for name, x in tensors.items() if name != "numbers"}
        return cls(gap, allowed, int(draws), seconds, worst)

    def sentence(self) -> str:
        """What is wrong, in words."""
        return (
            "effects and coefficients can't be integrated out of this model after all: at draws of the run itself the "
            f"collapsed log density and the model's own differ by up to {self.gap:.3g} beyond a constant (more than "
            f"{self.allowed:.1g}), most at {_listed(self.worst)}"
        )


class AuditError(SamplingError):
    """What a collapsed run samples is not the model: its draws are no draws from the posterior."""

    def __init__(self, found: Audit) -> None:
        super().__init__(found.sentence())
        self.found = found

    def __reduce__(self) -> tuple[type["AuditError"], tuple[Audit]]:
        return type(self), (self.found,)


def audited(model: Model, data: Data, reads: Reads, draws: Mapping[str, Tensor]) -> Collapsed | str:
    """The model with effects and coefficients integrated out, audited at draws that were made in another way; or the
    reason why it can't be.

    Args:
        model: what was sampled.
        data: the rows.
        reads: what the model reads of them.
        draws: name -> `(chains, draws, size, *event)`; those of effects are not looked at.
    """
    found = collapse(model, data, reads)
    if isinstance(found, str):
        return found
    coordinates = coordinates_of(found.composed.model, reads)
    draws = {name: x for name, x in draws.items() if name in coordinates and coordinates[name].plate is None}
    if missing := [name for name in found.rest if name not in draws]:
        return f"there are no draws of {missing[0]!r}"
    checked = audit(found, Space({name: coordinates[name] for name in found.rest}), draws, 0) if draws else Audit()
    return found if checked.sound else checked.sentence()


def audit(collapsed: Collapsed, space: Space, draws: Mapping[str, Tensor], seed: int) -> Audit:
    """Holds the factorisation against the model at some draws: the two extremes of each unconstrained coordinate of the
    rest, then those of coefficients and effects, and others evenly spaced.

    Args:
        collapsed: what was sampled.
        space: of the rest.
        draws: name -> `(chains, draws, size, *event)`: all of the rest, and what there is of other latents; those left
            out are drawn.
        seed: of the numbers that these are drawn with.
    """
    began = time.perf_counter()
    sets, like = collapsed.sets, collapsed.grams.packed
    number = max(DRAWS if collapsed.data.n_rows < MANY_ROWS else FEW_DRAWS, 2 * space.dim)
    rows, columns = _chosen(collapsed, space, draws, number)
    values = {name: x[rows.to(x.device), columns.to(x.device)].to(like) for name, x in draws.items()}
    generator = torch.Generator(like.device).manual_seed(seed)
    at_once = max(1, min(collapsed.batch, NUMBERS // max(1, collapsed.n_noise)) // sets) * sets
    found = []
    with torch.no_grad(), validation(False):
        for part in torch.arange(len(rows), device=like.device).split(at_once):
            some = _completed(collapsed, {name: x[part] for name, x in values.items()}, len(part), generator)
            found.append(differences(collapsed, some, len(part)))
    gap, density = (torch.cat(x) for x in zip(*found, strict=True))
    off = (gap - gap[gap.isfinite()].median()).abs().nan_to_num(torch.inf) if bool(gap.isfinite().any()) else gap
    size = float(density.abs().nan_to_num(0.0, 0.0, 0.0).max())
    worst = int(off.argmax())
    names = [name for name in values if collapsed.composed.model.latents[name].plate is None]
    return Audit(
        float(off[worst]),
        LIMIT + ROUNDING * size,
        len(rows),
        time.perf_counter() - began,
        {name: values[name][worst].flatten().tolist() for name in names},
    )


def audit_densities(target: Target, values: Mapping[str, Tensor], height: Tensor) -> Audit:
    """Holds the log densities `(chains,)` that a run has of values of all latents against the model's own."""
    began = time.perf_counter()
    own = target.log_density(target.space.join(target.space.unconstrain(values)))
    off = (height - own).abs().nan_to_num(torch.inf)
    worst = int(off.argmax())
    names = [name for name, c in target.space.coordinates.items() if c.plate is None]
    allowed = LIMIT + ROUNDING * float(own.abs().nan_to_num(0.0, 0.0, 0.0).max())
    at = {name: values[name][worst].flatten().tolist() for name in names}
    return Audit(float(off[worst]), allowed, len(off), time.perf_counter() - began, at)


def _completed(
    collapsed: Collapsed, values: Mapping[str, Tensor], chains: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Values of all latents: those that are missing are drawn given the rest (and the coefficients, if all of these are
    known). It does not matter to an identity from what they are drawn.
    """
    missing = tuple(name for name in collapsed.linear if name not in values)
    if not missing:
        return dict(values)
    like = collapsed.grams.packed
    noise = torch.randn(collapsed.noise_for(missing), chains, generator=generator, device=like.device).to(like.dtype)
    return {**values, **collapsed.draw(values, noise, missing)}


def _chosen(collapsed: Collapsed, space: Space, draws: Mapping[str, Tensor], number: int) -> tuple[Tensor, Tensor]:
    """Chains and draws to look at; of several data sets, one set after the other in turn."""
    sets, (chains, length) = collapsed.sets, next(iter(draws.values())).shape[:2]
    own, each, picked = chains // sets, -(-number // sets), []
    for s in range(sets):
        extremes = _extremes(space, {name: x[s::sets] for name, x in draws.items()})
        first = torch.tensor(list(islice(extremes, max(2 * space.dim, number // 2))), dtype=torch.long)
        spread = torch.linspace(0, own * length - 1, number - len(first), dtype=torch.float64).round().long()
        # Of many sets each gets few draws, and so each begins with others of them.
        picked.append(torch.cat([first, spread]).roll(-s * each)[:each])
    at = torch.stack(picked, 1)
    return (at % own * sets + torch.arange(sets)).flatten(), (at // own).flatten()


def _extremes(space: Space, draws: Mapping[str, Tensor]) -> Iterator[int]:
    """Where each coordinate of the rest is largest and smallest, then effects of all groups, then each coefficient:
    draw times chains plus chain.
    """
    flat = {name: x.transpose(0, 1).flatten(0, 1) for name, x in draws.items()}
    rest = space.unconstrain({name: flat.pop(name) for name in space.coordinates})
    effects = {name: x for name, x in flat.items() if x.shape[1] > 1}
    for x in rest.values():
        yield from _ends(x.flatten(1))
    for x in effects.values():
        yield int(x.flatten(1).amax(1).argmax())
        yield int(x.flatten(1).amin(1).argmin())
    for x in (x for name, x in flat.items() if name not in effects):
        yield from _ends(x.flatten(1))


def _ends(columns: Tensor) -> Iterator[int]:
    """Where each column of `(n, columns)` is largest and smallest."""
    for high, low in zip(columns.argmax(0).tolist(), columns.argmin(0).tolist(), strict=True):
        yield high
        yield low


def _listed(worst: Mapping[str, list[float]]) -> str:
    """`mu = 1.2, beta = (0.3, 0.1, ...)`, the first of them."""
    words = []
    for name, entries in islice(worst.items(), NAMED):
        shown = ", ".join(f"{x:.4g}" for x in entries[:ENTRIES]) + (", ..." if len(entries) > ENTRIES else "")
        words.append(f"{name} = {shown if len(entries) == 1 else f'({shown})'}")
    return ", ".join(words) + (", ..." if len(worst) > NAMED else "")
