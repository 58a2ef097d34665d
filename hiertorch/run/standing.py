"""From theta and standard normal numbers to densities and values of all latents, and where whitened chains stand.

docs/decisions.md: Effects in the coordinates of a surrogate.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.density.space import Space
from hiertorch.density.target import Target
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.ladder import Ladder, Rung, Rungs
from hiertorch.model.latent import Values
from hiertorch.runtime.workers import each


class Place(NamedTuple):
    """Where all chains are: the batch in the last axis of everything but `position`."""

    position: Tensor  # theta, unconstrained, (chains, d)
    density: Tensor  # log pi_s(theta), (chains,)
    proposal: Tensor  # log q(theta), (chains,)
    rows: Tensor  # what the closed form of rows takes from theta, (m, chains)
    rungs: Rungs
    square: Tensor  # of the root's numbers, summed, (chains,)
    noise: tuple[Tensor, ...]  # of levels, (K, groups, chains)
    effects: tuple[Tensor, ...]  # likewise
    weights: Tensor  # lw, (groups of the finest level, chains)
    heavy: tuple[Tensor, ...]  # log t(noise) - log N(noise) of levels, (groups, chains)

    def height(self, constant: float | Tensor) -> Tensor:
        """log p(latents, y) on unconstrained space, `(chains,)`, given the ladder's constant, or each data set's."""
        square = self.square + sum(x.square().sum((0, 1)) for x in self.noise)
        found = self.density + self.weights.sum(0) - 0.5 * square - self.rungs.log_volume
        each = 1 if isinstance(constant, float) else len(constant)
        return (found.unflatten(0, (-1, each)) + constant).flatten()

    def tensors(self) -> dict[str, Tensor]:
        """The same as named tensors, which `of` takes."""
        own = {"position", "density", "proposal", "rows", "square", "weights"}
        found = {name: x for name, x in self._asdict().items() if name in own}
        found |= {"log_marginal": self.rungs.log_marginal, "log_volume": self.rungs.log_volume, "tail": self.rungs.tail}
        for k, (noise, effects, rung) in enumerate(zip(self.noise, self.effects, self.rungs.levels, strict=True)):
            found |= {f"noise{k}": noise, f"effects{k}": effects, f"half{k}": rung.half, f"middle{k}": rung.middle}
            found[f"heavy{k}"] = self.heavy[k]
            found |= {f"coupling{k},{m}": x for m, x in enumerate(rung.couplings)}
        return found

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], ladder: Ladder) -> "Place":
        """What such tensors hold."""
        levels = range(len(ladder.widths))
        rungs = []
        for k in levels:
            above = range(len(ladder.widths) - k - 1)
            coupled = tuple(tensors[f"coupling{k},{m}"] for m in above)
            if not k and ladder.finest_couplings is not None:  # the same object at all places, so that none is chosen
                coupled = ladder.finest_couplings
            rungs.append(Rung(tensors[f"half{k}"], tensors[f"middle{k}"], coupled))
        return cls(
            tensors["position"],
            tensors["density"],
            tensors["proposal"],
            tensors["rows"],
            Rungs(tensors["log_marginal"], tensors["log_volume"], tensors["tail"], tuple(rungs)),
            tensors["square"],
            tuple(tensors[f"noise{k}"] for k in levels),
            tuple(tensors[f"effects{k}"] for k in levels),
            tensors["weights"],
            tuple(tensors[f"heavy{k}"] for k in levels),
        )

    def where(self, accepted: Tensor, other: "Place") -> "Place":
        """This place for chains that are `accepted`, `(chains,)`, the other one for the others."""

        def chosen(new: Tensor, old: Tensor) -> Tensor:
            return new if new is old else torch.where(accepted, new, old)

        def each_of(new: Sequence[Tensor], old: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(chosen(a, b) for a, b in zip(new, old, strict=True))

        levels = tuple(
            Rung(chosen(a.half, b.half), chosen(a.middle, b.middle), each_of(a.couplings, b.couplings))
            for a, b in zip(self.rungs.levels, other.rungs.levels, strict=True)
        )
        return Place(
            torch.where(accepted.unsqueeze(1), self.position, other.position),
            chosen(self.density, other.density),
            chosen(self.proposal, other.proposal),
            chosen(self.rows, other.rows),
            Rungs(
                chosen(self.rungs.log_marginal, other.rungs.log_marginal),
                chosen(self.rungs.log_volume, other.rungs.log_volume),
                chosen(self.rungs.tail, other.rungs.tail),
                levels,
            ),
            chosen(self.square, other.square),
            each_of(self.noise, other.noise),
            each_of(self.effects, other.effects),
            chosen(self.weights, other.weights),
            each_of(self.heavy, other.heavy),
        )


class Standing:
    """What theta and standard normal numbers mean.

    Args:
        target: the model given its data.
        rest: the latents of theta, in order.
    """

    def __init__(self, target: Target, rest: Sequence[str]) -> None:
        self.target, self.rest = target, rest
        self.space = Space({name: target.space.coordinates[name] for name in rest})
        self.width = self.space.dim

    @property
    def scales(self) -> list[bool]:
        """Which numbers of theta are logarithms of scales that no row reads."""
        return [
            c.bounds is not None and c.bounds[0] == 0.0 and not self.target.reads_rows([name])
            for name, c in self.space.coordinates.items()
            for _ in range(c.size * c.width)
        ]

    def evaluate(self, ladder: Ladder, position: Tensor, root: Tensor, *, lean: bool = False) -> tuple[Tensor, Rungs]:
        """log pi_s `(n,)` and all that follows from theta `(n, d)` and the root's numbers `(R, n)`; see `Ladder.rungs`
        of what is `lean`.
        """
        size, free = ladder.collapsed.batch, self.space.split(position)
        values = self.space.constrain(free)

        def evaluated(piece: tuple[Tensor, Tensor]) -> Rungs:
            return ladder.rungs(self.constrained(piece[0]), piece[1], lean=lean)

        if len(position) <= size:
            rungs = ladder.rungs(values, root, lean=lean)
        else:
            pieces = list(zip(position.split(size), root.split(size, 1), strict=True))
            rungs = joined(list(each(evaluated, pieces, root.device)))
        return self.with_prior(free, values, rungs.log_marginal), rungs  # at once: what priors cost is to call them

    def with_prior(self, free: Mapping[str, Tensor], values: Mapping[str, Tensor], marginal: Tensor) -> Tensor:
        """log pi_s, of its marginal likelihood `(n,)` and unconstrained and constrained parts of theta."""
        total = marginal
        for name in self.rest:
            total = total + self.target.prior_term(name, free[name], values).sum(-1)
        return total.nan_to_num(-torch.inf, -torch.inf, -torch.inf)

    def constrained(self, position: Tensor) -> dict[str, Tensor]:
        """theta `(n, d)` by name, `(n, 1, *event)`."""
        return self.space.constrain(self.space.split(position))

    def told(self, position: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        """theta `(n, d)` with given values of some latents."""
        found = position.clone()
        for name in (name for name in given if name in self.rest):
            found[:, self.space.slices[name]] = given[name].flatten(1)
        return found

    def position(self, values: Mapping[str, Tensor]) -> Tensor:
        """theta `(n, d)` of values of all latents."""
        free = self.space.unconstrain({name: values[name] for name in self.rest})
        like = next(iter(values.values()))
        return self.space.join(free) if self.rest else like.new_zeros(len(like), 0)  # of nothing

    def values(self, ladder: Ladder, position: Tensor, tail: Tensor, effects: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """All latents, `(n, size, *event)`."""
        innovations = ladder.innovations(tail, effects)
        return ladder.collapsed.composed.values(self.constrained(position), innovations, len(position))

    def values_of(self, ladder: Ladder, places: Sequence[Place]) -> Mapping[str, Tensor]:
        """All latents at places, one after the other, `(places * chains, size, *event)`."""
        position, tail = torch.cat([p.position for p in places]), torch.cat([p.rungs.tail for p in places], 1)
        effects = [torch.cat(of_level, 2) for of_level in zip(*(p.effects for p in places), strict=True)]
        return self.values(ladder, position, tail, effects)

    def apart(self, collapsed: Collapsed, values: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The inverse of `values`, given all latents: the root, and effects of levels."""
        composed, (model, data) = collapsed.composed, (self.target.model, self.target.data)
        v = Values(dict(values), tuple(model.latents))
        innovations = {name: values[name] - model.prior(name, v, data).mean for name in composed.part}
        parts = [part.join(innovations) for part in composed.parts]
        by_plate = {part.plate: x for part, x in zip(composed.parts, parts, strict=True)}
        grams, chains = collapsed.grams, len(next(iter(values.values())))
        root = [by_plate[part.plate].flatten(0, 1) for part in grams.crossed]
        root += [by_plate[None].flatten(0, 1)] if grams.population is not None else []
        held = collapsed.affine.coefficients({name: values[name] for name in self.rest}, chains)
        return torch.cat([*root, held]), [by_plate[part.plate] for part in grams.levels]


def split(rungs: Rungs, chains: int) -> Iterator[Rungs]:
    """The rungs of each sweep's proposals."""
    number = len(rungs.log_marginal) // chains

    def parts(x: Tensor) -> Sequence[Tensor]:
        return x.split(chains, -1) if x.shape[-1] == number * chains else [x] * number  # the same for all of a batch

    levels = [
        [parts(rung.half), parts(rung.middle), *(parts(coupling) for coupling in rung.couplings)]
        for rung in rungs.levels
    ]
    own = zip(parts(rungs.log_marginal), parts(rungs.log_volume), parts(rungs.tail), strict=True)
    for i, (log_marginal, log_volume, tail) in enumerate(own):
        made = tuple(Rung(half[i], middle[i], tuple(c[i] for c in more)) for half, middle, *more in levels)
        yield Rungs(log_marginal, log_volume, tail, made)


def cut(rungs: Rungs, some: slice) -> Rungs:
    """The rungs of some of a batch."""
    number = len(rungs.log_marginal)

    def part(x: Tensor) -> Tensor:
        return x[..., some] if x.shape[-1] == number else x  # the same for all of a batch

    levels = tuple(Rung(part(x.half), part(x.middle), tuple(map(part, x.couplings))) for x in rungs.levels)
    return Rungs(part(rungs.log_marginal), part(rungs.log_volume), part(rungs.tail), levels)


def joined(parts: Sequence[Rungs]) -> Rungs:
    """The rungs of several batches as those of one."""

    def cat(xs: Sequence[Tensor]) -> Tensor:
        return xs[0] if all(x is xs[0] for x in xs) else torch.cat(list(xs), -1)

    levels = []
    for rungs in zip(*(part.levels for part in parts), strict=True):
        couplings = tuple(cat(x) for x in zip(*(rung.couplings for rung in rungs), strict=True))
        levels.append(Rung(cat([rung.half for rung in rungs]), cat([rung.middle for rung in rungs]), couplings))
    return Rungs(
        cat([part.log_marginal for part in parts]),
        cat([part.log_volume for part in parts]),
        cat([part.tail for part in parts]),
        tuple(levels),
    )
