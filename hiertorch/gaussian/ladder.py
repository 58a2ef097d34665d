"""Effects and coefficients of a Gaussian model as functions of standard normal numbers, level by level, and back.

    r = R L^-T (L^-1 h + e),     x_l = B_l' (p_l + e_l - B_l sum_m G_lm x_m[group of m]),     B_l = (L_l)^-1 R_l'

r, x: innovations of coefficients and crossed effects, and of effects of level l; R: roots of their prior covariances;
L_l L_l' = A_l of `hiertorch.gaussian.elimination`; G: products of columns; p_l = B_l times what the root leaves of the
response; m: coarser levels. For independent standard normal e this is a draw given the rest; for e that are kept while
the rest moves, effects move along.

The batch is in the last axis of all tensors. docs/decisions.md: Effects in the coordinates of a surrogate.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from math import log, pi
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch import Tensor

from hiertorch.density.rowpass import can_compile
from hiertorch.gaussian.affine import Part
from hiertorch.gaussian.cholesky import (
    around,
    between,
    factor,
    identity_plus,
    log_diagonal,
    packed,
    product,
    solve_lower,
    solved_transposed,
    times_vector,
    unrooted,
)  # fmt: skip
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.elimination import Elimination
from hiertorch.gaussian.root import MOST_LOOPED, Drawn, Reduced, Spreads

if TYPE_CHECKING:
    from hiertorch.gaussian import widelevel
    from hiertorch.gaussian.nestedlevels import Nested
    from hiertorch.gaussian.onelevel import Groups, Sums

LOOPED_FROM = 6
"""Effects a group from which on a compiled loop serves: the algebra of fewer is written out."""

Roots: TypeAlias = Mapping[str | None, Tensor]
"""Of prior covariances of each plate's effects, `(K, K, groups or 1, batch)`."""


class Rung(NamedTuple):
    """One level, at the values of the rest and of the root that belong to each of a batch."""

    half: Tensor  # B, (K, K, groups, batch)
    middle: Tensor  # p, (K, groups, batch)
    couplings: tuple[Tensor, ...]  # G_lm of coarser levels, (K, K_m, groups, batch)


class Rungs(NamedTuple):
    """All that follows from the rest and from the root's standard normal numbers."""

    log_marginal: Tensor  # log p(response | rest), (batch,)
    log_volume: Tensor  # log |d innovations / d e|, (batch,)
    tail: Tensor  # crossed effects, coefficients, and held coefficients, (R + held, batch)
    levels: tuple[Rung, ...]  # finest first


class Ladder:
    """See the module.

    Args:
        collapsed: the Gaussian model; one stratum of rows, of scale 1. Of several data sets element i of a batch has
            set i mod D.
    """

    def __init__(self, collapsed: Collapsed) -> None:
        self.collapsed, self.elimination, self.grams = collapsed, collapsed.elimination, collapsed.grams
        self.root, grams = self.elimination.root, collapsed.grams
        self.widths = [part.width for part in grams.levels]
        self.sizes = [part.size for part in grams.levels]
        self.bases = tuple(grams.bases[part.plate][:, :, None, None] for part in grams.levels)
        turning, several = any(part.plate in collapsed.affine.turning for part in grams.levels), collapsed.sets > 1
        self.finest_couplings = None if several or turning else self._coupled(self.elimination.one, self.bases)
        self.above = [self._above(level) for level in range(len(self.sizes))]
        self.parts = (*grams.levels, *grams.crossed, *([grams.population] if grams.population else []))
        volume = 0.5 * log(2.0 * pi) * self.numbers
        log_scale = self.elimination.log_scale  # one, or one of each data set
        self.constant = (log_scale if collapsed.sets > 1 else float(log_scale)) - volume

    @property
    def numbers(self) -> int:
        """Standard normal numbers of a draw of everything."""
        return self.root.width + sum(k * n for k, n in zip(self.widths, self.sizes, strict=True))

    def _above(self, level: int) -> list[Tensor]:
        """The group of each coarser level in which each group of a level lies."""
        found: list[Tensor] = []
        for m in range(level, len(self.sizes) - 1):
            parent = self.grams.parents[m]
            found.append(parent if not found else parent[found[-1]])
        return found

    def rungs(self, values: Mapping[str, Tensor], noise: Tensor, *, lean: bool = False) -> Rungs:
        """At values `(batch, 1, *event)` of the rest, with standard normal numbers of the root `(R, batch)`.

        Args:
            values: of the rest.
            noise: of the root.
            lean: whether the finest rung of a `simple` ladder has its scale sigma alone, `(1, 1, 1, batch)` in place of
                B, and no p: a compiled loop computes these by itself (`groups`).
        """
        if self.wide and noise.device.type == "cpu":
            return self.of_settled(self.settled(values, noise.shape[1], numbers=noise))
        if not self.simple or noise.device.type != "cpu":
            spreads, roots = self.collapsed.in_units(values, noise.shape[1])
            return self.elimination.each(self._drawn, spreads, roots, self.bases_at(values, spreads), noise)
        if len(self.sizes) > 1:
            return self._nested(values, noise, lean=lean)
        from hiertorch.gaussian.onelevel import rungs  # an extra, and half a second to import

        scale = self.collapsed.affine.roots(self.grams.levels[0], values, noise.shape[1])
        marginal, volume, tail, half, middle = rungs(self.sums, scale[0, 0, 0], noise, lean=lean)
        rung = Rung(scale if lean else half[None, None], middle[None], self.finest_couplings or ())
        return Rungs(marginal - self.elimination.log_scale, volume, tail, (rung,))

    def _nested(self, values: Mapping[str, Tensor], noise: Tensor, *, lean: bool) -> Rungs:
        """The same of several levels, by a compiled loop."""
        from hiertorch.gaussian.nestedlevels import rungs

        assert self.finest_couplings is not None
        scales = [self.collapsed.affine.roots(part, values, noise.shape[1]) for part in self.grams.levels]
        found = rungs(self.nested, [x[0, 0, 0] for x in scales], noise, lean=lean)
        sizes = self.sizes[1:] if lean else self.sizes
        halves, middles = (list(x[None].split(sizes, 1)) for x in (found.half, found.middle))
        if lean:
            halves, middles = [scales[0][0], *halves], [found.middle[None, :0], *middles]
        levels, coupled = [Rung(halves[0][None], middles[0], self.finest_couplings)], found.coupled
        for level, (half, middle) in enumerate(zip(halves[1:], middles[1:], strict=True), 1):
            size, more = self.sizes[level], len(self.sizes) - level - 1
            own, coupled = coupled.tensor_split([more * size])
            levels.append(Rung(half[None], middle, tuple(x[None, None] for x in own.split(size)) if more else ()))
        return Rungs(found.marginal - self.elimination.log_scale, found.volume, found.tail, tuple(levels))

    def settled(self, values: Mapping[str, Tensor], batch: int, **given: Tensor) -> "widelevel.Settled":
        """What a compiled loop finds of a `wide` ladder: see `hiertorch.gaussian.widelevel.settled`."""
        from hiertorch.gaussian.widelevel import settled

        root = self.collapsed.affine.roots(self.grams.levels[0], values, batch)
        return settled(self.wide_sums, self.sizes[0], root[:, :, 0], **given)

    def of_settled(self, found: "widelevel.Settled") -> Rungs:
        """The rungs of that."""
        rung = Rung(found.half.movedim(0, 3), found.middle.movedim(0, 2), ())
        return Rungs(found.marginal - self.elimination.log_scale, found.volume, found.tail.mT, (rung,))

    @cached_property
    def wide_sums(self) -> "widelevel.Sums":
        """What that loop knows of rows and priors."""
        from hiertorch.gaussian.widelevel import sums_of

        grams, one, base = self.grams, self.elimination.one, self.bases[0][:, :, 0, 0]
        packed, index, k = one.finest.sums.packed[0], one.finest.index, self.widths[0]
        gram, tails, whole = packed[index[:k, :k]], packed[index[:k, k:]], grams.left.sum(2)[0]
        return sums_of(gram, tails, whole, base, *self.collapsed.settled_population)

    @cached_property
    def simple(self) -> bool:
        """Whether nothing but scales of one effect a group changes with the rest, and a compiled loop serves."""
        return self._looped and max(self.widths) == 1

    @cached_property
    def wide(self) -> bool:
        """Whether nothing but the covariance of several effects a group of one level does."""
        return self._looped and len(self.widths) == 1 and self.widths[0] >= LOOPED_FROM

    @cached_property
    def _looped(self) -> bool:
        collapsed, grams, affine = self.collapsed, self.grams, self.collapsed.affine
        if not self.widths or grams.crossed or grams.held or collapsed.sets > 1 or self.elimination.one.over:
            return False
        settled = grams.population is None or all(name in affine.settled for name in grams.population.events)
        alike = all(name in affine.shared for part in grams.levels for name in part.events)
        alike = alike and self.finest_couplings is not None
        double = grams.packed.dtype == torch.float64 and len(grams.packed) == 1
        return settled and alike and double and self.root.width <= MOST_LOOPED and can_compile(grams.packed.device)

    @cached_property
    def sums(self) -> "Sums":
        """What that loop knows of rows and priors."""
        from hiertorch.gaussian.onelevel import sums_of

        grams, finest = self.grams, self.elimination.one.finest
        spread, location, root = self.collapsed.settled_population
        tails = finest.sums.packed[0][finest.index[0, grams.width - grams.tail :]]
        return sums_of(
            float(self.bases[0]), finest.sums.members, finest.sums.own[0, 0], finest.sums.base[0],
            finest.sums.transfer[0].to_dense(), finest.of_group, tails, spread, location, root,
        )  # fmt: skip

    @cached_property
    def nested(self) -> "Nested":
        """The same of several levels."""
        from hiertorch.gaussian.nestedlevels import nested_of

        grams, finest = self.grams, self.elimination.one.finest
        own, inverse = (x[0, 0][finest.of_group] for x in (finest.sums.own, finest.sums.inverse))
        columns, within = (
            finest.sums.packed[0][finest.index[0, 1:]],
            finest.sums.base[0].unflatten(0, (-1, self.sizes[1])),
        )
        basis = [float(base) for base in self.bases]
        return nested_of(
            basis, self.sizes, grams.parents, own, inverse, columns, within, *self.collapsed.settled_population
        )

    @cached_property
    def groups(self) -> "Groups":
        """What a compiled loop takes to make B and p of the finest level's groups by itself."""
        if len(self.sizes) > 1:
            return self.nested.groups
        from hiertorch.gaussian.onelevel import Groups

        return Groups.of(self.sums)

    def _drawn(self, one: Elimination, spreads: Spreads, roots: Roots, bases: Sequence[Tensor], noise: Tensor) -> Rungs:
        return self._rungs(one, spreads, roots, bases, one.drawn(spreads, noise))

    def at(self, values: Mapping[str, Tensor], tail: Tensor) -> tuple[Rungs, Tensor]:
        """The same where crossed effects and coefficients are known, and their standard normal numbers `(R, batch)`.

        Args:
            values: of the rest.
            tail: `(R, batch)`, as `Rungs` has it; coefficients that are held stand among the rest as well.
        """
        spreads, roots = self.collapsed.in_units(values, tail.shape[1])
        return self.elimination.each(self._known, spreads, roots, self.bases_at(values, spreads), tail)

    def _known(
        self, one: Elimination, spreads: Spreads, roots: Roots, bases: Sequence[Tensor], tail: Tensor
    ) -> tuple[Rungs, Tensor]:
        return self.rungs_of(one, spreads, roots, bases, one.reduce(spreads), tail)

    def rungs_of(
        self, one: Elimination, spreads: Spreads, roots: Roots, bases: Sequence[Tensor], reduced: Reduced, tail: Tensor
    ) -> tuple[Rungs, Tensor]:
        """The same of what follows from the rest."""
        u = self.root_numbers(spreads, roots, tail)
        noise = one.noise_of(spreads, reduced, u) if len(u) else u
        drawn = Drawn(reduced.log_marginal, reduced.grams, one.log_factor(spreads, reduced), u)
        return self._rungs(one, spreads, roots, bases, drawn), noise

    def root_numbers(self, spreads: Spreads, roots: Roots, tail: Tensor) -> Tensor:
        """The root's standardised effects and coefficients less location, `(R, batch)`."""
        if not self.root.width:
            return tail[:0]
        standard = {part.plate: unrooted(roots[part.plate], x) for part, x in self.apart(tail).items()}
        if (scale := self.collapsed.scale(spreads)) is not None:
            standard[None] = standard[None] / scale.unsqueeze(1)
        return self.root.joined(spreads, standard)

    def remaining(self, one: Elimination, spreads: Spreads, u: Tensor) -> Tensor:
        """Products of the finest level's columns with what the root leaves of the response, `(K, groups, batch)`."""
        coordinates = self.root.turn(spreads, u.unsqueeze(1)).squeeze(1) if len(u) else u  # of columns
        n, k, grams = self.grams.n_crossed, self.widths[0], self.grams
        right = torch.cat([-coordinates[n:], -spreads.held, torch.ones_like(spreads.factors[:1])])
        tails = one.finest.sums.packed[0][one.finest.index[:k, grams.width - grams.tail :]]  # (K, tail, groups)
        left = torch.einsum("ktn,tb->knb", tails, right)
        if not n:
            return left
        return left - torch.stack([matrix @ coordinates[:n] for matrix in one.sums.crossed[0]])

    def down(self, rungs: Sequence[Rung], noise: Sequence[Tensor], known: Sequence[Tensor] = ()) -> list[Tensor]:
        """Effects `(K, groups, batch)` of all levels, finest first.

        Args:
            rungs: of the levels.
            noise: of the levels, `(K, groups, batch)`.
            known: effects of the coarsest levels, which stay; in the order of the levels.
        """
        if self.wide and noise[0].device.type == "cpu":
            from hiertorch.gaussian.widelevel import down

            return list(known) or [down(*rungs[0][:2], noise[0])]
        effects: list[Tensor] = list(known)
        for level in reversed(range(len(rungs) - len(known))):
            half, middle, couplings = rungs[level]
            inner = middle + noise[level]
            if couplings:
                inner = inner - times_vector(half, self.of_coarser(level, couplings, effects))
            effects.insert(0, times_vector(half.transpose(0, 1), inner))
        return effects

    def up(self, rungs: Sequence[Rung], effects: Sequence[Tensor]) -> list[Tensor]:
        """The inverse of `down`."""
        found = []
        for level, (half, middle, couplings) in enumerate(rungs):
            noise = solved_transposed(half, effects[level]) - middle
            if couplings:
                noise = noise + times_vector(half, self.of_coarser(level, couplings, effects[level + 1 :]))
            found.append(noise)
        return found

    def summed(self, x: Tensor, level: int) -> Tensor:
        """Sums by group of a level `(groups, batch)` of numbers by group of the finest one."""
        for m in range(level):
            x = x.new_zeros(self.sizes[m + 1], x.shape[1]).index_add(0, self.grams.parents[m], x)
        return x

    def of_coarser(self, level: int, couplings: Sequence[Tensor], effects: Sequence[Tensor]) -> Tensor:
        """sum_m G_lm x_m, `(K, groups, batch)`."""
        parts = [
            times_vector(coupling, x[:, above])
            for coupling, x, above in zip(couplings, effects, self.above[level], strict=True)
        ]
        return sum(parts[1:], parts[0])

    def _rungs(self, one: Elimination, spreads: Spreads, roots: Roots, bases: Sequence[Tensor], drawn: Drawn) -> Rungs:
        grams, u = self.grams, drawn.root
        volume = -drawn.half
        for part in self.parts:
            volume = volume + log_diagonal(roots[part.plate]).expand(part.size, -1).sum(0)
        if (scale := self.collapsed.scale(spreads)) is not None:
            volume = volume + scale.log().sum(0)
        levels = []
        for level, k in enumerate(self.widths):
            if level == 0:
                inner = one.finest.inner(spreads.levels[0], spreads.factors.square().reciprocal())
                if one.finest.classes < one.finest.groups:
                    inner = inner[:, one.finest.of_group]
                left = self.remaining(one, spreads, u)
                couplings = self.finest_couplings
                if couplings is None:
                    couplings = tuple(x.expand(*x.shape[:3], u.shape[1]) for x in self._coupled(one, bases))
            else:
                coordinates = self.root.turn(spreads, u.unsqueeze(1)).squeeze(1) if len(u) else u
                gram, ones = drawn.grams[level - 1], torch.ones_like(spreads.factors[:1])
                right = torch.cat([-coordinates[grams.n_crossed :], -spreads.held, ones])
                inner = packed(identity_plus(around(spreads.levels[level], gram[:k, :k])))
                left = product(gram[:k, -len(right) :], right[:, None, None]).squeeze(1)
                ends = [sum(self.widths[level : m + 1]) for m in range(level, len(self.widths))]
                couplings = tuple(
                    between(bases[level], bases[m], gram[:k, a:b]) for m, (a, b) in enumerate(pairwise(ends), level + 1)
                )
            lower = factor(inner, k)
            root = roots[grams.levels[level].plate]
            half = solve_lower(lower, root.transpose(0, 1).expand(lower.shape))
            levels.append(Rung(half, times_vector(half, times_vector(bases[level].transpose(0, 1), left)), couplings))
            volume = volume - log_diagonal(lower).sum(0)
        return Rungs(drawn.log_marginal, volume, self.tail_of(spreads, roots, u), tuple(levels))

    def tail_of(self, spreads: Spreads, roots: Roots, u: Tensor) -> Tensor:
        """Crossed effects, coefficients, and held ones, of the root's standardised numbers `(R, batch)`."""
        standard = self.root.parts(spreads, u) if len(u) else {}
        if (scale := self.collapsed.scale(spreads)) is not None:
            standard[None] = standard[None] * scale.unsqueeze(1)
        found = [product(roots[part.plate], standard[part.plate].unsqueeze(1)).squeeze(1) for part in self.root_parts]
        held = spreads.held + self.grams.held_shift.unsqueeze(1)
        return torch.cat([*(x.flatten(0, 1) for x in found), held])

    def bases_at(self, values: Mapping[str, Tensor], spreads: Spreads) -> tuple[Tensor, ...]:
        """From innovations of each level to coordinates of its columns, `(K, K, 1, batch or 1)`."""
        if self.finest_couplings is not None:
            return self.bases
        affine, batch = self.collapsed.affine, spreads.factors.shape[1]
        found: list[Tensor] = []
        for part, base in zip(self.grams.levels, self.bases, strict=True):
            turned = affine.turned(part, values, batch)
            found.append(base.expand(-1, -1, 1, batch) if turned is None else product(base, turned))
        return tuple(found)

    def _coupled(self, one: Elimination, bases: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Products of the finest level's columns with those of coarser ones, `(K, K_m, groups, batch or 1)`."""
        if not bases:
            return ()
        index, sums, k = one.finest.index, one.finest.sums.packed[0], self.widths[0]
        ends = [sum(self.widths[: m + 1]) for m in range(len(self.widths))]
        return tuple(
            between(bases[0], bases[m], sums[index[:k, a:b]].unsqueeze(3)) for m, (a, b) in enumerate(pairwise(ends), 1)
        )

    @property
    def root_parts(self) -> tuple[Part, ...]:
        """Crossed plates, and the population if there is one."""
        return (*self.grams.crossed, *([self.grams.population] if self.grams.population is not None else []))

    def apart(self, tail: Tensor) -> dict[Part, Tensor]:
        """Each part of the root, `(K, groups, batch)`."""
        parts = self.root_parts
        sizes = [part.width * part.size for part in parts]
        pieces = tail[: sum(sizes)].split(sizes) if parts else ()
        return {part: x.unflatten(0, (part.width, part.size)) for part, x in zip(parts, pieces, strict=True)}

    def innovations(self, tail: Tensor, effects: Sequence[Tensor]) -> dict[str, Tensor]:
        """What latents add to the means of their priors, name -> `(batch, size, *event)`."""
        found: dict[str, Tensor] = {}
        for part, x in (*zip(self.grams.levels, effects, strict=True), *self.apart(tail).items()):
            found |= part.split(x)
        return found
