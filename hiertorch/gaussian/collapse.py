"""Collapse: log p(y | rest) of a conditionally linear-Gaussian model, and exact draws of all that was integrated out.

    p(y, effects, coefficients, rest) = p(rest) p(y | rest) p(effects, coefficients | rest, y)

The rest is a few scales and correlations. `hiertorch.gaussian.discovery` finds out whether a model is of this kind.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.gaussian.affine import Affine, NotAffine, Part
from hiertorch.gaussian.cholesky import product, solve_lower
from hiertorch.gaussian.elimination import Elimination
from hiertorch.gaussian.grams import WIDE, Grams, gather
from hiertorch.gaussian.marginals import Marginals
from hiertorch.gaussian.root import Reduced, Spreads
from hiertorch.gaussian.several import Eliminations
from hiertorch.gaussian.spectral import Spectral, block_of
from hiertorch.model.intervals import Bounds
from hiertorch.model.latent import Values, known
from hiertorch.model.support import Condition, conditions

BATCH_NUMBERS = 1_500_000
"""Numbers of all classes in a batch (measured): fewer cost more operations, more leave the cache."""

LARGE_ROOT = 50
"""Coefficients and crossed effects beyond which a density takes a tenth of a millisecond and more (measured)."""

MOST_REMEMBERED = 12
"""Coefficients up to which each proposal's factor is kept for drawing them."""


class Collapsed:
    """A model with its effects and linear coefficients integrated out.

    Attributes:
        linear: names of the latents that are integrated out and drawn exactly, in order.
        rest: names of the others, all population-level.
        data: what the model is fitted to.
        sets: how many data sets there are; see `hiertorch.gaussian.several`.

    Args:
        affine: what probing found, on the first data set.
        data: with a chain axis on response or weights if there are several.
        sets: the data sets.
        reduces: whether densities are asked for; if not, it serves `hiertorch.gaussian.crosswise` alone.
    """

    def __init__(self, affine: Affine, data: Data, sets: Sequence[Data], *, reduces: bool = True) -> None:
        self.affine, self.composed, self.data, self.sets = affine, affine.composed, data, len(sets)
        self.grams, *more = gather(affine, sets)
        self._standard: tuple[Tensor, Tensor] | None = None  # root of the population's prior, and C^-1 b0
        if not more and self._is_settled(self.grams.population):
            self._standardise()
        self.rest = affine.rest
        self.linear = tuple(name for name in self.composed.names if name in self.composed.part)
        self.elimination = self._elimination(more, reduces=reduces)
        self.n_noise = self.elimination.noise_from(0)

    def _elimination(self, more: Sequence[Grams], *, reduces: bool) -> Elimination | Eliminations:
        """With one eigen-decomposition for all densities, where that serves."""
        if more:
            return Eliminations([self.grams, *more])
        block = block_of(self.grams, self.affine.settled) if self._standard is not None else None
        if block is not None:
            return Spectral(self.grams, block)
        finest = self.grams.levels[0].events if self.grams.levels else ()
        return Elimination(self.grams, alike=all(name in self.affine.shared for name in finest), reduces=reduces)

    def _is_settled(self, part: Part | None) -> bool:
        """Whether many coefficients have columns that do not depend on the rest, and a prior of which a scale may."""
        return part is not None and part.width > WIDE and all(name in self.affine.scaled for name in part.events)

    def _standardise(self) -> None:
        """Takes the population's columns in units of its prior, once, so that C is the identity ever after, or diagonal
        where scales are left.
        """
        part = self.grams.population
        assert part is not None
        spread, root = self._spread(part, self.affine.anchor, 1)
        self.grams = self.grams.turned(spread[:, :, 0, 0])
        self._standard = root, solve_lower(root[:, :, 0], self.grams.shift.unsqueeze(1))

    @property
    def batch(self) -> int:
        """How many values of the rest to compute with at once."""
        if self.elimination.one.over is not None:  # all, which are one message
            return sys.maxsize
        grams = self.grams
        groups = self.elimination.finest.classes if grams.levels else 1
        numbers = groups * (self.elimination.widths[0] ** 2 if grams.levels else 1)
        numbers += sum(part.size * (grams.width - part.width) ** 2 for part in grams.levels[1:])
        return max(1, BATCH_NUMBERS // max(numbers, self.elimination.numbers) // self.sets) * self.sets

    @property
    def dear(self) -> bool:
        """Whether a density takes long, for a large dense factor, or a draw."""
        return self.elimination.root.width > LARGE_ROOT and self.elimination.numbers > LARGE_ROOT**2

    def spreads(self, values: Mapping[str, Tensor], chains: int) -> tuple[Spreads, dict[str | None, Tensor]]:
        """What the algebra needs of values `(chains, 1, *event)` of the rest, and the root of the prior covariance of
        each plate's effects, `(K, K, groups or 1, chains)`.
        """
        spreads, roots = self.in_units(values, chains)
        if (scale := self.scale(spreads)) is not None:
            roots[None] = roots[None] * scale.unsqueeze(1)
        return spreads, roots

    @property
    def settled_population(self) -> tuple[Tensor | None, Tensor, Tensor]:
        """Of coefficients whose prior depends on nothing that is left: C `(P, P)`, or None where it is the identity,
        C^-1 b0 `(P,)`, and the root of their prior's covariance `(P, P)`.
        """
        grams = self.grams
        if self._standard is not None:
            return None, self._standard[1][:, 0], self._standard[0][:, :, 0, 0]
        if grams.population is None:
            none = grams.packed.new_zeros(0, 0)
            return None, none[0:0].flatten(), none
        spread, root = (x[:, :, 0, 0] for x in self._spread(grams.population, self.affine.anchor, 1))
        return spread, solve_lower(root, grams.shift), root

    def scale(self, spreads: Spreads) -> Tensor | None:
        """The diagonal that `in_units` leaves out, `(P, chains)`, if there is one."""
        return None if self._standard is None else spreads.population

    def in_units(self, values: Mapping[str, Tensor], chains: int) -> tuple[Spreads, dict[str | None, Tensor]]:
        """The same, but for the diagonal that the root of the population's covariance is to be multiplied with where
        its columns are in units of it: for each of a batch that would be many numbers.
        """
        affine, grams = self.affine, self.grams
        moving = [part for part in self.composed.parts if part.plate is not None or self._standard is None]
        both = {part.plate: self._spread(part, values, chains) for part in moving}
        roots = {plate: root for plate, (_, root) in both.items()}
        levels = tuple(both[part.plate][0] for part in grams.levels)
        crossed = tuple(both[part.plate][0] for part in grams.crossed)
        zero = grams.packed.new_zeros
        population: Tensor | None = zero(0, 0, chains)
        location = zero(0, chains)
        if self._standard is not None:
            roots[None], one = self._standard
            population, location = None, one.expand(-1, chains)
            part = grams.population
            if part is not None and not all(name in affine.settled for name in part.events):
                population = affine.scales(part, values, chains)
                location = location / population
        elif grams.population is not None:
            spread, root = both[None]
            population = spread[:, :, 0]
            location = solve_lower(root[:, :, 0], grams.shift.unsqueeze(1).expand(-1, chains))
        held = affine.coefficients(values, chains) - grams.held_shift.unsqueeze(1)
        return Spreads(affine.factors(values, chains), levels, crossed, population, location, held), roots

    def _spread(self, part: Part, values: Mapping[str, Tensor], chains: int) -> tuple[Tensor, Tensor]:
        """C and the root of a part's prior covariance, both `(K, K, groups or 1, chains)`."""
        root = self.affine.roots(part, values, chains)
        basis = self.grams.bases[part.plate]
        turned = self.affine.turned(part, values, chains)
        spread = root if turned is None else product(turned, root)
        return product(basis[:, :, None, None], spread).contiguous(), root

    def log_marginal(self, values: Mapping[str, Tensor]) -> Tensor:
        """log p(y | rest), effects and coefficients integrated out: `(chains,)` for values `(chains, 1, *event)`."""
        return self._reduced(values, _chains(values))[1].log_marginal

    def evaluate(self, values: Mapping[str, Tensor], chains: int) -> tuple[Tensor, Tensor]:
        """log p(y | rest) `(chains,)`, and the numbers `(chains, m)` with which `draw` need not find it again: the
        root's factor and centre, where one grouping and few coefficients make these all there is to remember, else
        none.
        """
        reduced = self._reduced(values, chains)[1]
        grams, width = self.grams, self.elimination.root.width
        if len(grams.levels) > 1 or grams.crossed or width > MOST_REMEMBERED:
            return reduced.log_marginal, reduced.log_marginal.new_empty(chains, 0)
        return reduced.log_marginal, torch.cat([reduced.root.flatten(0, 1), reduced.centre]).mT

    def conditions(
        self, values: Mapping[str, Tensor], chains: int, bounds: Mapping[str, Bounds]
    ) -> dict[tuple[str, str], list[Condition]]:
        """What parameters of the likelihood, ("rows", ""), and of priors of integrated latents, ("prior", name), must
        satisfy: beyond them the algebra goes on where the model ends, since it knows squares of scales alone.

        Args:
            values: of the rest, `(chains, 1, *event)`.
            chains: how many.
            bounds: of these values, which need no look.
        """
        model, names = self.composed.model, self.composed.names
        v = Values(dict(self.composed.zeros(values, chains)), names, None, bounds)
        found = {("rows", ""): conditions(model.likelihood(v, self.affine.witnesses), known(v))}
        for name in self.linear:
            if self._standard is not None and name in self.affine.scaled and name in self.composed.means:
                continue  # possible at the anchor, and so wherever its scale is positive, as `Affine.scales` sees to
            found["prior", name] = conditions(model.prior(name, v, self.composed.data), known(v))
        return {key: some for key, some in found.items() if some}

    def possible(self, values: Mapping[str, Tensor]) -> Tensor:
        """At which of some values of the rest, `(n, 1, *event)`, all parameters are possible; NotAffine if at none."""
        number = _chains(values) if values else 1
        ok = torch.ones(number, dtype=torch.bool, device=self.data.device)
        for some in self.conditions(values, number, {}).values():
            for mask in (mask for condition in some for mask in condition.violated()):
                ok &= ~mask.expand(torch.broadcast_shapes((number, 1), mask.shape)).flatten(1).any(1)
        if not bool(ok.any()):
            raise NotAffine("its parameters are impossible wherever the model was probed")
        return ok.nonzero().flatten()

    def is_nan(self, values: Mapping[str, Tensor], chains: int) -> Tensor:
        """Where the model itself gives NaN for what the algebra is given, `(chains,)`."""
        spreads, roots = self.in_units(values, chains)
        scale = [x for x in (self.scale(spreads),) if x is not None]
        given = (spreads.factors, *spreads.levels, *spreads.crossed, spreads.held, *roots.values(), *scale)
        return torch.stack([x.isnan().flatten(0, -2).any(0).expand(chains) for x in given if x.numel()]).any(0)

    def _remembered(self, found: Tensor) -> Reduced:
        """The inverse of `evaluate`."""
        width = self.elimination.root.width
        root, centre = found.mT.split([width * width, width])
        return Reduced(found.new_empty(0), (), root.unflatten(0, (width, width)), centre)

    def _reduced(self, values: Mapping[str, Tensor], chains: int) -> tuple[Spreads, Reduced]:
        spreads, _ = self.in_units(values, chains)
        return spreads, self.elimination.reduce(spreads)

    def _lowest(self, names: Iterable[str]) -> int:
        """The finest level with effects of these names; the number of levels if none has."""
        wanted = set(names)
        return next(
            (i for i, part in enumerate(self.grams.levels) if wanted & set(part.events)), len(self.grams.levels)
        )

    def noise_for(self, names: Iterable[str], only: Tensor | None = None) -> int:
        """Standard normal numbers that a draw of these latents takes, of some groups of the finest plate alone."""
        number = self.elimination.noise_from(self._lowest(names))
        return number if only is None else number - self.grams.levels[0].width * (self.grams.levels[0].size - len(only))

    def draw(
        self,
        values: Mapping[str, Tensor],
        noise: Tensor,
        names: Sequence[str] | None = None,
        only: Tensor | None = None,
        found: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Linear latents (all, or those of `names`) given rest and y, name -> `(chains, size, *event)`, from standard
        normal `noise` `(noise_for(names, only), chains)`: their mean where the noise is 0.

        Args:
            values: of the rest; if they hold the population's coefficients as well, these are kept and their noise is
                not used.
            noise: for root, then levels from the coarsest down; each latent's numbers for a group are neighbours.
            names: which latents.
            only: groups of the finest plate, whose effects are drawn alone.
            found: what `evaluate` found for these values.
        """
        names = self.linear if names is None else names
        chains, grams = noise.shape[1], self.grams
        (spreads, roots), given, known = self.in_units(values, chains), tuple[str, ...](), None
        if grams.population is not None and all(name in values for name in grams.population.events):
            given, known = tuple(grams.population.events), self._standardised(grams.population, values)[0][:, 0]
        settled = known is not None and len(grams.levels) <= 1 and not grams.crossed
        if found is not None and found.shape[1]:
            reduced: Reduced | None = self._remembered(found)
        else:
            reduced = None if settled else self.elimination.reduce(spreads)
        lowest = self._lowest(names)
        standard = self.elimination.draw(spreads, reduced, noise, known, lowest, only)
        innovations: dict[str, Tensor] = {}
        for part in self.composed.parts:
            if part.plate not in standard:
                continue
            root, u = roots[part.plate], standard[part.plate].unsqueeze(1)
            if part.plate is None and (scale := self.scale(spreads)) is not None:
                u = u * scale[:, None, None]
            few = only is not None and part is grams.levels[0]
            root = root if not few or root.shape[2] == 1 else root[:, :, only]
            scaled = product(root, u).squeeze(1)
            if few and len(part.events) > 1:  # which may read each other
                whole = scaled.new_zeros(part.width, part.size, chains)
                whole[:, only] = scaled
                scaled = whole
            innovations |= part.split(scaled)
        finest = grams.levels[0].events if only is not None else {}
        alone = (next(iter(finest)), only) if only is not None and len(finest) == 1 else None
        composed = self.composed.values(values, innovations, chains, given, alone)
        return {
            name: composed[name][:, only] if len(finest) > 1 and name in finest else composed[name] for name in names
        }

    def draw_innovations(self, values: Mapping[str, Tensor], noise: Tensor, found: Tensor) -> dict[Part, Tensor]:
        """What a draw of all effects adds to the means of their priors, `(K, groups, chains)` by the part of a plate.

        Args:
            values: of the rest.
            noise: standard normal, `(n_noise, chains)`.
            found: what `evaluate` found for these values.
        """
        spreads, roots = self.in_units(values, noise.shape[1])
        reduced = self._remembered(found) if found.shape[1] else self.elimination.reduce(spreads)
        standard = self.elimination.draw(spreads, reduced, noise)
        return {
            part: product(roots[part.plate], standard[part.plate].unsqueeze(1)).squeeze(1)
            for part in self.composed.parts
            if part.plate is not None
        }

    def _standardised(self, part: Part, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Standardised innovations of given values, `(K, size, chains)`, and the roots of their covariances, `(K, K,
        size, chains)`.
        """
        chains, model = _chains(values), self.composed.model
        v = Values(dict(values), self.composed.names)
        means = {name: model.prior(name, v, self.composed.data).mean for name in part.events}
        innovations = {
            name: values[name] - mean.expand(chains, part.size, *part.events[name]) for name, mean in means.items()
        }
        root = self.affine.roots(part, values, chains).expand(-1, -1, part.size, chains)
        right = part.join(innovations).movedim(0, -1).unsqueeze(-1)
        u = torch.linalg.solve_triangular(root.movedim((2, 3), (0, 1)), right, upper=False)
        return u.squeeze(-1).movedim(-1, 0), root

    def log_conditional(self, values: Mapping[str, Tensor]) -> Tensor:
        """log p(linear | rest, y), `(chains,)`, of values of all latents."""
        return self._log_conditional(values, *self._reduced(values, _chains(values)))

    def log_both(self, values: Mapping[str, Tensor]) -> Tensor:
        """log p(y | rest) + log p(linear | rest, y), `(chains,)`, of values of all latents, from one elimination."""
        spreads, reduced = self._reduced(values, _chains(values))
        return reduced.log_marginal + self._log_conditional(values, spreads, reduced)

    def _log_conditional(self, values: Mapping[str, Tensor], spreads: Spreads, reduced: Reduced) -> Tensor:
        standard, jacobian = dict[str | None, Tensor](), torch.zeros_like(reduced.log_marginal)
        for part in self.composed.parts:
            standard[part.plate], root = self._standardised(part, values)
            jacobian = jacobian + root.diagonal().log().sum((0, -1)) if part.width else jacobian
        return self.elimination.log_conditional(spreads, reduced, standard) - jacobian

    @cached_property
    def marginals(self) -> Marginals:
        """Marginal likelihoods by group; made at the first use, by one more pass over the rows."""
        return Marginals(self.affine)


def _chains(values: Mapping[str, Tensor]) -> int:
    return next(iter(values.values())).shape[0] if values else 1
