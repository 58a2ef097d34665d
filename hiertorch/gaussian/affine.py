"""A linear-Gaussian model as a function of what its latents add to the means of their priors.

    y_i ~ Normal(o_i + x_i' b + h_i' c + sum_g z_gi' e_g[group of i], s_i f),     row weights allowed

b: innovations of population-level latents with a normal prior; e_g: those of the effects of plate g; c: other latents
that the mean is linear in, *held* coefficients.

Note [Words of the Gaussian algebra]
The *rest* are the latents that are not integrated out: scales, correlations, held coefficients and whatever the mean is
not linear in. An *innovation* is a latent minus the mean of its prior given the latents before it: all of them are
independent, normal and centred whatever reads what, and what reads a latent moves along with its innovation. The
*anchor* is one value of the rest, at which the columns x, h, z and the scales s of rows are read. A *stratum* is a set
of rows whose scales change with the rest by the same factor f; most models have one.

docs/decisions.md: Innovations.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from hiertorch.data.table import Data
from hiertorch.gaussian.operations import Powers
from hiertorch.gaussian.slots import MOST_NUMBERS, MOST_SLOTS, Slots, with_slots
from hiertorch.model.latent import Values
from hiertorch.model.model import Model

PROBED_ROWS = 20_000
"""Of larger data so many rows are probed."""

STEP = 2.0**100
"""Of differences; see Note [Probing] in `hiertorch.gaussian.probing`."""

AT_ONCE = 4_000_000
"""Rows times numbers along which the mean is moved at once."""


class NotAffine(Exception):  # noqa: N818 - an answer, not an error
    """Why a model is not conditionally linear-Gaussian, in words."""


@dataclass(frozen=True, eq=False)
class Part:
    """Integrated latents of one plate (None: the population), their numbers side by side."""

    plate: str | None
    size: int
    events: dict[str, tuple[int, ...]]

    @cached_property
    def widths(self) -> dict[str, int]:
        """How many numbers each latent has for each group."""
        return {name: prod(event) for name, event in self.events.items()}

    @cached_property
    def width(self) -> int:
        """Numbers for each group."""
        return sum(self.widths.values())

    def split(self, innovations: Tensor) -> dict[str, Tensor]:
        """`(width, size, chains)` -> name -> `(chains, size, *event)`."""
        pieces = innovations.movedim((2, 1), (0, 1)).split(list(self.widths.values()), -1)
        return {name: x.unflatten(-1, event) if event else x.squeeze(-1)
                for (name, event), x in zip(self.events.items(), pieces, strict=True)}  # fmt: skip

    def join(self, innovations: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `split`."""
        parts = [innovations[name].flatten(2) if event else innovations[name].unsqueeze(-1)
                 for name, event in self.events.items()]  # fmt: skip
        return torch.cat(parts, -1).movedim((0, 1), (2, 1))


class Composed:
    """The model as a function of its rest (constrained values) and of the innovations of the integrated latents.

    Args:
        model: the model.
        data: what its priors read.
        parts: the integrated latents.
        means: of priors of some of these latents, which are the same for all values.
    """

    def __init__(
        self, model: Model, data: Data, parts: Sequence[Part], means: Mapping[str, Tensor] = MappingProxyType({})
    ) -> None:
        self.model, self.data, self.parts, self.means = model, data, tuple(parts), means
        self.names = tuple(model.latents)
        self.like = torch.zeros((), dtype=data.dtype, device=data.device)
        self.part = {name: part for part in parts for name in part.events}

    def values(
        self,
        rest: Mapping[str, Tensor],
        innovations: Mapping[str, Tensor],
        chains: int,
        known: Container[str] = (),
        only: tuple[str, Tensor] | None = None,
    ) -> Values:
        """Every latent: those of the rest, and those that are `known`, as they are in `rest`, others the mean of their
        prior plus their innovation (or 0). Of one latent, which no other reads, there may be `only` some groups.
        """
        tensors = {name: rest[name] for name in self.names if name not in self.part or name in known}
        for name in self.names:
            if name in tensors:
                continue
            part, mean = self.part[name], self.means.get(name)
            if mean is None:
                mean = self.model.prior(name, Values(tensors, self.names), self.data).mean
            mean = mean.expand(chains, part.size, *part.events[name])
            mean = mean[:, only[1]] if only is not None and only[0] == name else mean
            tensors[name] = mean + innovations[name] if name in innovations else mean
        return Values(tensors, self.names)

    def with_means(self, still: Iterable[str], rest: Mapping[str, Tensor]) -> "Composed":
        """The same, which asks no more for prior means that depend on no latent, given one value of the rest."""
        v = self.zeros(rest, 1)
        means = {name: self.model.prior(name, v, self.data).mean for name in still if name in self.part}
        return Composed(self.model, self.data, self.parts, means)

    def zeros(self, rest: Mapping[str, Tensor], chains: int) -> Values:
        """The rest, and 0 for all others: for what does not depend on these."""
        zero = self.like
        empty = {name: zero.expand(chains, p.size, *p.events[name]) for name, p in self.part.items()}
        return Values({name: empty[name] if name in empty else rest[name] for name in self.names}, self.names)

    def mean(self, rest: Mapping[str, Tensor], innovations: Mapping[str, Tensor], data: Data, chains: int) -> Tensor:
        """Mean of the response `(chains, rows)`."""
        return self.model.likelihood(self.values(rest, innovations, chains), data).mean.expand(chains, data.n_rows)

    def scale(self, rest: Mapping[str, Tensor], data: Data, chains: int) -> Tensor:
        """Standard deviation of the response `(chains, rows)`."""
        return self.model.likelihood(self.zeros(rest, chains), data).stddev.expand(chains, data.n_rows)

    def root(self, name: str, v: Values) -> Tensor:
        """Lower triangular root of the covariance of a latent's prior, `(chains or 1, size or 1, width, width)`."""
        found = normal_root(self.model.prior(name, v, self.data))
        if found is None:
            raise NotAffine(f"the prior of {name!r} is not always normal")
        return found.reshape((1,) * (4 - found.dim()) + found.shape)

    def difference(
        self, rest: Mapping[str, Tensor], at: Mapping[str, Tensor], along: Mapping[str, Tensor], data: Data, chains: int
    ) -> Tensor:
        """mean(at + along) - mean(at), `(chains, rows)`."""
        moved = {**at, **{name: at[name] + x if name in at else x for name, x in along.items()}}
        return self.mean(rest, moved, data, chains) - self.mean(rest, at, data, chains)

    def slopes(self, rest: Mapping[str, Tensor], numbers: Sequence[tuple[str, int]], rows: Data) -> Tensor:
        """d mean / d number, for numbers (name, index) of the rest, at innovations 0: `(numbers, chains, rows)`."""
        chains = next(iter(rest.values())).shape[0] if rest else 1
        here, slopes = self.mean(rest, {}, rows, chains), [rows.y.new_zeros(0, chains, rows.n_rows)]
        for name, at in numbers:
            moved = rest[name].flatten(1).clone()
            moved[:, at] += STEP
            there = self.mean({**rest, name: moved.reshape(rest[name].shape)}, {}, rows, chains)
            slopes.append(((there - here) / STEP).unsqueeze(0))
        return torch.cat(slopes)

    def design(self, rest: Mapping[str, Tensor], data: Data) -> tuple[Tensor, dict[str | None, Tensor]]:
        """At one value of the rest: the mean where innovations are 0, `(rows,)`, and the columns of each part, plate ->
        `(width, rows)`. See Note [Probing] in `hiertorch.gaussian.probing`.
        """
        width = sum(part.width for part in self.parts)
        steps = STEP * torch.eye(width, width + 1, dtype=self.data.dtype, device=self.data.device)
        innovations: dict[str, Tensor] = {}
        for part, step in zip(self.parts, steps.split([part.width for part in self.parts]), strict=True):
            innovations |= part.split(step.unsqueeze(1).expand(-1, part.size, -1))
        many = {name: x.expand(width + 1, *x.shape[1:]) for name, x in rest.items()}
        means = self.mean(many, innovations, data, width + 1)
        columns = ((means[:-1] - means[-1:]) / STEP).split([part.width for part in self.parts])
        return means[-1], {part.plate: x for part, x in zip(self.parts, columns, strict=True)}

    def slots(self, rest: Mapping[str, Tensor], part: Part, data: Data) -> Slots:
        """The groups of a plate that each row reads, and its columns of them, at one value of the rest.

        Raises:
            NotAffine: if they are too many.
        """
        numbers = part.width * part.size
        if numbers * data.n_rows > MOST_NUMBERS:
            raise NotAffine(
                f"rows read several groups of {part.plate!r}, and {data.n_rows:,} rows times {numbers:,} numbers of "
                f"these are more than {MOST_NUMBERS:,}"
            )
        eye = STEP * torch.eye(numbers, numbers + 1, dtype=self.data.dtype, device=self.data.device)
        along = part.split(eye.unflatten(0, (part.width, part.size)))
        many = {name: x.expand(numbers + 1, *x.shape[1:]) for name, x in rest.items()}
        found, size = None, max(1, AT_ONCE // numbers)
        for start in range(0, data.n_rows, size):
            means = self.mean(many, along, data.rows(start, min(start + size, data.n_rows)), numbers + 1)
            columns = ((means[:-1] - means[-1:]) / STEP).unflatten(0, (part.width, part.size))
            some = Slots.of(columns.permute(2, 1, 0))
            found = some if found is None else found.joined(some)
            if found.number > MOST_SLOTS:
                raise NotAffine(f"rows read {found.number} groups of {part.plate!r}, more than {MOST_SLOTS}")
        assert found is not None  # there are rows
        return found


class Coordinates(NamedTuple):
    """See Note [Coordinates] in `hiertorch.gaussian.columns`: any will do, the same for all rows."""

    basis: Tensor | None  # T of the population's columns, None if it has none
    shift: Tensor  # b0
    held_shift: Tensor  # c0


@dataclass(frozen=True)
class Affine:
    """What probing found. Row designs are read at the anchor; elsewhere a part's design is the anchor's times a matrix,
    read off the part's `turning` rows, and row scales are the anchor's times the factor of their stratum, read off its
    witness row.

    Attributes:
        composed: the model as a function of its rest and of innovations.
        rest: names of the latents that are not integrated out.
        held: (latent of the rest, flat index) of each held coefficient.
        shared: latents whose prior has the same spread in all groups.
        settled: latents of which neither the prior's spread nor the columns depend on the rest.
        scaled: latents of which the prior's spread is the anchor's times a product of powers of positive numbers of
            the rest, and the columns do not depend on it -> exponents.
        lean: whether one chain of zeros serves the priors for all chains.
        anchor: values `(1, 1, *event)` of the rest.
        probes: values of the rest, `(probes, 1, *event)`, the anchor's first.
        strata: log scale at each probe over that at the anchor, `(strata, probes)`.
        witnesses: a row of each stratum.
        turning: plate -> rows, and the pseudo-inverse `(width, rows)` of their design.
        slots: plate of which rows read several groups -> which, and their columns.
        coordinates: of columns of coefficients and of the response, where these are not to be found from the rows.
    """

    composed: Composed
    rest: tuple[str, ...]
    held: tuple[tuple[str, int], ...]
    shared: frozenset[str]
    settled: frozenset[str]
    scaled: dict[str, Powers]
    lean: bool
    anchor: dict[str, Tensor]
    probes: dict[str, Tensor]
    strata: Tensor
    witnesses: Data
    turning: dict[str | None, tuple[Data, Tensor]]
    slots: dict[str, Slots]
    coordinates: "Coordinates | None" = None

    def slotted(self, data: Data) -> Data:
        """The rows with their slots, see `hiertorch.gaussian.slots`."""
        return with_slots(data, self.slots)

    def factors(self, rest: Mapping[str, Tensor], chains: int) -> Tensor:
        """f: the scale of each stratum over that at the anchor, `(strata, chains)`."""
        there = self.composed.scale(rest, self.witnesses, chains)
        return (there / self.composed.scale(self.anchor, self.witnesses, 1)).transpose(0, 1).contiguous()

    def coefficients(self, rest: Mapping[str, Tensor], chains: int) -> Tensor:
        """c, `(held, chains)`."""
        if not self.held:
            return self.composed.like.new_zeros(0, chains)
        return torch.stack([rest[name].flatten(1)[:, at].expand(chains) for name, at in self.held])

    def held_columns(self, rows: Data) -> Tensor:
        """Columns of the held coefficients at the anchor, `(held, rows)`."""
        return self.composed.slopes(self.anchor, self.held, rows)[:, 0]

    def stratum(self, rows: Data) -> Tensor:
        """The stratum of each row, `(rows,)`."""
        scale = self.composed.scale(self.probes, rows, self.strata.shape[1]).log()
        ratio = (scale - scale[:1]).transpose(0, 1)
        return (ratio.unsqueeze(1) - self.strata).abs().amax(-1).argmin(-1)

    def roots(self, part: Part, rest: Mapping[str, Tensor], chains: int) -> Tensor:
        """Root of the prior covariance of a part's innovations, `(width, width, size or 1, chains)`."""
        v = self.composed.zeros(rest, 1 if self.lean else chains)
        found = {}
        for name in part.events:
            root = self.composed.root(name, v)
            root = valid(root[:, :1] if name in self.shared else root)
            found[name] = root.movedim((2, 3, 1, 0), (0, 1, 2, 3))
        if len(found) == 1 or part.width == 1:
            (root,) = found.values()
            return root.contiguous() if root.shape[3] == chains else root.expand(*root.shape[:3], chains)
        groups = max(root.shape[2] for root in found.values())
        whole = self.composed.like.new_zeros(part.width, part.width, groups, chains)
        start = 0
        for root in found.values():
            end = start + root.shape[0]
            whole[start:end, start:end] = root
            start = end
        return whole

    def scales(self, part: Part, rest: Mapping[str, Tensor], chains: int) -> Tensor:
        """Spreads of a part whose latents are all scaled, over those at the anchor, `(width, chains)`."""
        found = []
        for name, width in part.widths.items():
            ratio = self.composed.like.new_ones(chains)
            for number, power in self.scaled[name]:
                ratio = ratio * (rest[number].flatten() / self.anchor[number].flatten()) ** power
            found.append(torch.where(ratio > 0, ratio, torch.nan).expand(width, -1))
        return torch.cat(found)

    def turned(self, part: Part, rest: Mapping[str, Tensor], chains: int) -> Tensor | None:
        """The matrix `(width, width, 1, chains)` that takes a part's design at the anchor to that at the rest."""
        if part.plate not in self.turning:
            return None
        rows, inverse = self.turning[part.plate]
        eye = STEP * torch.eye(part.width, dtype=inverse.dtype, device=inverse.device)
        columns = []
        for step in eye:
            along = part.split(step[:, None, None].expand(-1, part.size, chains))
            columns.append(self.composed.difference(rest, {}, along, rows, chains) / STEP)
        design = torch.stack(columns, -1)  # (chains, rows, width)
        return (inverse @ design).movedim((1, 2, 0), (0, 1, 2)).unsqueeze(2)


def valid(root: Tensor) -> Tensor:
    """A root with NaN where it is none, so that the density is none there: spreads and diagonals are positive."""
    return torch.where(root.diagonal(dim1=-2, dim2=-1).amin(-1) > 0, 1.0, torch.nan)[..., None, None] * root


def normal_root(distribution: Distribution) -> Tensor | None:
    """Lower triangular root `(*batch, width, width)` of a normal distribution's covariance, None for other families."""
    events = 0
    while type(distribution) is Independent:
        events += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    if type(distribution) is Normal:
        scale = distribution.scale
        return scale.flatten(-events).diag_embed() if events else scale[..., None, None]
    if type(distribution) is MultivariateNormal and not events:
        return distribution.scale_tril
    return None


def some_rows(data: Data) -> Data:
    """The rows to probe: all, or so many evenly spaced ones."""
    if data.n_rows <= PROBED_ROWS:
        return data
    return data.take(torch.linspace(0, data.n_rows - 1, PROBED_ROWS, device=data.device, dtype=torch.float64).long())
