"""The Gaussian algebra of a linear mixed model, from its sufficient statistics: densities and draws, batched.

For levels l = 1..L of effects e_l = C_l u_l, u_l ~ N(0, I), root coefficients r = C_r u_r, and Gram matrix G of the
columns [Z_1 .. Z_L | root | y] weighted by W = 1 / f^2:

    A_l = I + C_l' G_ll C_l,     S_l = C_l A_l^-1 C_l',     G <- sum over a parent's groups of G - G_.l S_l G_l.

eliminates a level, from the finest up (Henderson's mixed model equations; Bates et al. 2015, section 3). Only C enters
and never its inverse, so a scale of 0 is as good as any. What is left is dense in the root: population coefficients,
and the effects of plates that do not nest. Drawing goes back down: u = A^-1 C' (what is left of y) + A^-1/2 z.

The batch is in the last axis of all tensors. The finest level, with nearly all groups, is
`hiertorch.gaussian.finest`'s.
"""

from dataclasses import dataclass
from functools import cached_property
from math import log, pi

import torch
from torch import Tensor

from hiertorch.gaussian.cholesky import factor, log_diagonal, normal_draw, packed, product, solve_lower, solve_upper
from hiertorch.gaussian.finest import Finest, around, identity_plus, matrix_of, plus_identity
from hiertorch.gaussian.grams import Grams

__all__ = ["Elimination", "Spreads"]


@dataclass(frozen=True)
class Spreads:
    """What the rest of the latents says about scales, for each of a batch."""

    factors: Tensor  # f, (strata, batch)
    levels: tuple[Tensor, ...]  # C_l, (K, K, groups or 1, batch)
    crossed: tuple[Tensor, ...]  # the same for crossed plates
    population: Tensor  # C of the population's coefficients, (P, P, batch)
    location: Tensor  # C^-1 b0, (P, batch)
    held: Tensor  # coefficients less their shift, (held, batch)


@dataclass(frozen=True)
class Reduced:
    """A batch after elimination."""

    log_marginal: Tensor  # log p(y | rest), (batch,)
    grams: tuple[Tensor, ...]  # of levels above the finest: (q, q, groups, batch)
    root: Tensor  # Cholesky factor of the root's A, (R, R, batch)
    centre: Tensor  # L^-1 h of the root, (R, batch)


class Elimination:
    """See the module. Built once from the sums; all methods are pure."""

    apart = False  # whether results are written beside one another and joined at the end: see `normal_draw`

    def __init__(self, grams: Grams, *, alike: bool = True) -> None:
        self.grams = grams
        self.finest = Finest(grams, alike=alike)
        self.index, self.groups = self.finest.index, self.finest.groups
        self.widths = [part.width for part in grams.levels]
        self.total_weight = grams.weight.sum(1)
        self.total_log_scale = grams.log_scale.sum()
        self.root_width = grams.n_crossed + (grams.population.width if grams.population else 0)

    def reduce(self, spreads: Spreads) -> Reduced:
        """log p(y | rest) with effects and coefficients integrated out, and what drawing them needs."""
        grams, precision = self.grams, spreads.factors.square().reciprocal()
        total = -(self.total_weight @ spreads.factors.log()) - self.total_log_scale
        kept = []
        if grams.levels:
            half, targets = self.finest.eliminated(spreads.levels[0], precision)
            total = total - half
        else:
            targets = self.finest.base.mT @ precision
        gram = self.finest.square(targets)
        for level in range(1, len(grams.levels)):
            kept.append(gram)
            lower, half = self._half(gram, spreads.levels[level], level)
            total = total - log_diagonal(lower).sum(0)
            k = self.widths[level]
            gram = self._up(gram[k:, k:] - product(half, half, transpose=True), level)
        lower, centre, quadratic = self._root(gram[:, :, 0], spreads)
        return Reduced(total - log_diagonal(lower) - 0.5 * quadratic, tuple(kept), lower, centre)

    def _half(self, gram: Tensor, spread: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Of a level above the finest: the factor L of A, and L^-1 C' G_l. for the columns that are left."""
        k = self.widths[level]
        lower = plus_identity(around(spread, gram[:k, :k]))
        return lower, solve_lower(lower, product(spread, gram[:k, k:], transpose=True))

    def _up(self, gram: Tensor, level: int) -> Tensor:
        """Sums over the groups of a level by their parents, `(q, q, groups, batch)`."""
        if level + 1 == len(self.grams.levels):
            return gram.sum(2, keepdim=True)
        out = gram.new_zeros(*gram.shape[:2], self.grams.levels[level + 1].size, gram.shape[3])
        return out.index_add_(2, self.grams.parents[level], gram)

    def _root(self, gram: Tensor, spreads: Spreads) -> tuple[Tensor, Tensor, Tensor]:
        """Factor of A, L^-1 h, and what the best fit leaves of y' y, of the root's Gram matrix `(q, q, batch)`."""
        width = self.root_width
        right = gram[:, -1]
        for i, c in enumerate(spreads.held):
            right = right - gram[:, width + i] * c
        left = right[-1] + spreads.location.square().sum(0)
        for i, c in enumerate(spreads.held):
            left = left - right[width + i] * c
        if width == 0:
            return gram[:0, :0], right[:0], left
        inner = self._turn(spreads, self._turn(spreads, gram[:width, :width]).transpose(0, 1))
        h = self._turn(spreads, right[:width].unsqueeze(1)).squeeze(1)
        h[width - len(spreads.location) :] -= spreads.location
        lower = plus_identity(inner)
        centre = solve_lower(lower, h)
        return lower, centre, left - centre.square().sum(0)

    def _turn(self, spreads: Spreads, x: Tensor, *, transpose: bool = True) -> Tensor:
        """C' x, or C x, of the root: `(R, m, batch)`, block by block."""
        found, start = [], 0
        for part, spread in zip(self.grams.crossed, spreads.crossed, strict=True):
            end = start + part.width * part.size
            block = x[start:end].unflatten(0, (part.width, 1, part.size))  # (K, 1, J, m, batch)
            found.append(product(spread.unsqueeze(3), block, transpose=transpose).flatten(0, 2))
            start = end
        if start < len(x):
            found.append(product(spreads.population, x[start:], transpose=transpose))
        return torch.cat(found) if len(found) > 1 else found[0]

    def noise_from(self, lowest: int) -> int:
        """Standard normal numbers that a draw of coefficients and effects takes, down to a level."""
        return self.root_width + sum(part.width * part.size for part in self.grams.levels[lowest:])

    def descend(
        self,
        spreads: Spreads,
        reduced: Reduced | None,
        noise: Tensor | None = None,
        given: dict[str | None, Tensor] | None = None,
        coefficients: Tensor | None = None,
        lowest: int = 0,
        only: Tensor | None = None,
    ) -> tuple[dict[str | None, Tensor], Tensor | None]:
        """Standardised effects and coefficients given y: plate -> `(K, groups, batch)`, drawn from `noise`
        `(noise_from(lowest), batch)` down to the level `lowest`, with given standardised
        `coefficients` `(P, batch)` kept; or log p(`given` | y, rest) of given ones, `(batch,)`.
        """
        grams, width = self.grams, self.root_width
        standard: dict[str | None, Tensor] = {}
        densities: list[Tensor] = []
        root, used = spreads.location[:0], width
        if width:
            if coefficients is not None and not grams.crossed:
                u = coefficients - spreads.location
            else:
                assert reduced is not None
                u = self._root_drawn(spreads, reduced, noise, given, coefficients)
                if given is not None:
                    densities.append(_log_normal(reduced.root, reduced.centre, u))
            root = self._turn(spreads, u.unsqueeze(1), transpose=False).squeeze(1)
            start = 0
            for part in grams.crossed:
                end = start + part.width * part.size
                standard[part.plate] = u[start:end].unflatten(0, (part.width, part.size))
                start = end
            if grams.population:
                standard[None] = (u[start:] + spreads.location).unsqueeze(1)
        effects: dict[int, Tensor] = {}
        for level in reversed(range(lowest, len(grams.levels))):
            part, few = grams.levels[level], only if level == 0 else None
            inner, h = self._conditional(level, spreads, reduced, root, effects, few)
            if noise is not None:
                shape = (part.width, part.size if few is None else len(few))
                z = noise[used : used + shape[0] * shape[1]].unflatten(0, shape)
                used += shape[0] * shape[1]
                u = normal_draw(inner, h, z, apart=self.apart)
            else:
                assert given is not None
                u, lower = given[part.plate], factor(inner, part.width)
                densities.append(_log_normal(lower, solve_lower(lower, h), u).sum(0))
            standard[part.plate] = u
            if level > lowest:
                effects[level] = product(spreads.levels[level], u.unsqueeze(1)).squeeze(1)
        return standard, sum(densities[1:], densities[0]) if densities else None

    def _root_drawn(
        self,
        spreads: Spreads,
        reduced: Reduced,
        noise: Tensor | None,
        given: dict[str | None, Tensor] | None,
        coefficients: Tensor | None,
    ) -> Tensor:
        """Standardised root coefficients, those of the population less their location, `(R, batch)`."""
        grams = self.grams
        if given is not None:
            parts = [given[part.plate].flatten(0, 1) for part in grams.crossed]
            return torch.cat([*parts, *([given[None][:, 0] - spreads.location] if grams.population else [])])
        assert noise is not None
        z = noise[: self.root_width]
        if coefficients is not None:
            # Coefficients come first in the substitution: the noise behind them holds for any crossed effects.
            n = grams.n_crossed
            behind = product(reduced.root[n:, n:], (coefficients - spreads.location).unsqueeze(1), transpose=True)
            z = torch.cat([z[:n], behind.squeeze(1) - reduced.centre[n:]])
        return solve_upper(reduced.root, reduced.centre + z)

    def _conditional(
        self,
        level: int,
        spreads: Spreads,
        reduced: Reduced | None,
        root: Tensor,
        effects: dict[int, Tensor],
        only: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A of a level packed, `(pairs, groups, batch)`, and C' times what coarser effects and coefficients leave."""
        spread = spreads.levels[level]
        if level == 0:
            inner = self.finest.inner(spread, spreads.factors.square().reciprocal(), only)
            if only is not None:
                spread = spread if spread.shape[2] == 1 else spread[:, :, only]
            elif self.finest.classes < self.groups:
                inner = inner[:, self.finest.of_group]
        else:
            assert reduced is not None
            k = self.widths[level]
            inner = packed(identity_plus(around(spread, reduced.grams[level - 1][:k, :k])))
        right = self._left_of_y(level, spreads, reduced, root, effects, only)
        return inner, product(spread, right.unsqueeze(1), transpose=True).squeeze(1)

    def _left_of_y(
        self,
        level: int,
        spreads: Spreads,
        reduced: Reduced | None,
        root: Tensor,
        effects: dict[int, Tensor],
        only: Tensor | None,
    ) -> Tensor:
        """G_l. times (-coarser effects, -coefficients, 1), `(K, groups, batch)`."""
        k = self.widths[level]
        tail = torch.cat([-root[self.grams.n_crossed :], -spreads.held, torch.ones_like(spreads.factors[:1])])
        above = range(level + 1, len(self.grams.levels))
        if level > 0:
            assert reduced is not None
            gram = reduced.grams[level - 1]
            right = product(gram[:k, -len(tail) :], tail[:, None, None]).squeeze(1)
            for m in above:
                at = sum(self.widths[level:m])
                effect = effects[m][:, self._ancestor(level, m)]
                right = right - product(gram[:k, at : at + self.widths[m]], effect.unsqueeze(1)).squeeze(1)
            return right
        sums, width = self.grams.packed, self.grams.width
        sums = sums if only is None else sums[:, :, only]
        columns = self.index[:k, width - len(tail) :]
        parts = []
        for s, precision in enumerate(spreads.factors.square().reciprocal()):
            inner = (sums[s, columns].mT @ (tail * precision)).contiguous()  # (K, groups, batch)
            for m in above:
                at, parent = sum(self.widths[:m]), self._ancestor(0, m)
                parent = parent if only is None else parent[only]
                for j in range(self.widths[m]):
                    own = sums[s, self.index[:k, at + j]].unsqueeze(2)
                    inner = torch.addcmul(inner, own, (effects[m][j] * precision)[parent], value=-1)
            if self._sparse:
                behind = root[: self.grams.n_crossed] * precision
                crossed = torch.stack([matrix @ behind for matrix in self._sparse[s]])
                inner = inner - (crossed if only is None else crossed[:, only])
            parts.append(inner)
        return sum(parts[1:], parts[0])

    def _ancestor(self, level: int, above: int) -> Tensor:
        """The group of a coarser level in which each group of a level lies."""
        found = self.grams.parents[level]
        for m in range(level + 1, above):
            found = self.grams.parents[m][found]
        return found

    @cached_property
    def _sparse(self) -> list[list[Tensor]]:
        """Products of the finest plate's columns with crossed ones: for each stratum and column `(groups, crossed)`."""
        entries = self.grams.entries
        if entries is None:
            return []
        shape = (self.groups, self.grams.n_crossed)
        return [
            [matrix_of(entries.group, entries.column, x, shape) for x in of_stratum] for of_stratum in entries.values
        ]


def _log_normal(lower: Tensor, centre: Tensor, u: Tensor) -> Tensor:
    """log N(u; A^-1 h, A^-1) with A = L L' and centre = L^-1 h, `batch`."""
    z = product(lower, u.unsqueeze(1), transpose=True).squeeze(1) - centre
    return log_diagonal(lower) - 0.5 * (z.square() + log(2.0 * pi)).sum(0)
