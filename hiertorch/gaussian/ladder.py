"""Effects and coefficients of a Gaussian model as functions of standard normal numbers, level by level, and back.

    r = C L^-T (L^-1 h + e),     x_l = B_l' (p_l + e_l - B_l sum_m G_lm x_m[group of m]),     B_l = (L_l)^-1 C_l'

r: coefficients and crossed effects of the root; x_l: effects of level l, in the coordinates of
`hiertorch.gaussian.columns`; L_l L_l' = A_l of `hiertorch.gaussian.elimination`; p_l = B_l times what the root leaves
of the response; m: coarser levels. For independent standard normal e this is a draw given the rest; for e that are
kept while the rest moves, effects move along.

The batch is in the last axis of all tensors. docs/decisions.md: Effects in the coordinates of a surrogate.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.gaussian.affine import Part
from hiertorch.gaussian.cholesky import around, factor, identity_plus, log_diagonal, packed, product, solve_lower
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.elimination import Elimination
from hiertorch.gaussian.root import Reduced, Spreads


class Rung(NamedTuple):
    """One level, at the values of the rest and of the root that belong to each of a batch."""

    half: Tensor  # B, (K, K, groups, batch)
    middle: Tensor  # p, (K, groups, batch)
    couplings: tuple[Tensor, ...]  # G_lm of coarser levels, (K, K_m, groups, batch)


class Rungs(NamedTuple):
    """All that follows from the rest and from the root's standard normal numbers."""

    log_marginal: Tensor  # log p(response | rest), (batch,)
    log_volume: Tensor  # log |d innovations / d e|, (batch,)
    tail: Tensor  # (crossed effects, coefficients, held coefficients less their shift), (R + held, batch)
    levels: tuple[Rung, ...]  # finest first


class Ladder:
    """See the module.

    Args:
        collapsed: the Gaussian model; one stratum of rows, of scale 1.
    """

    def __init__(self, collapsed: Collapsed) -> None:
        assert isinstance(collapsed.elimination, Elimination)  # of one data set
        self.collapsed, self.elimination, self.grams = collapsed, collapsed.elimination, collapsed.grams
        self.root, grams = self.elimination.root, collapsed.grams
        self.widths = [part.width for part in grams.levels]
        self.sizes = [part.size for part in grams.levels]
        index = self.elimination.finest.index
        sums = grams.packed[0]
        k = self.widths[0]
        self.tails = sums[index[:k, grams.width - grams.tail :]]  # (K, tail, groups)
        ends = [sum(self.widths[: m + 1]) for m in range(len(self.widths))]
        self.finest_couplings = tuple(sums[index[:k, a:b]].unsqueeze(3) for a, b in pairwise(ends))
        self.above = [self._above(level) for level in range(len(self.sizes))]
        self.parts = (*grams.levels, *grams.crossed, *([grams.population] if grams.population else []))
        self.constant = float(grams.log_scale.sum()) - 0.5 * log(2.0 * pi) * self.numbers

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

    def rungs(self, values: Mapping[str, Tensor], noise: Tensor) -> Rungs:
        """At values `(batch, 1, *event)` of the rest, with standard normal numbers of the root `(R, batch)`."""
        batch = noise.shape[1]
        spreads, roots = self.collapsed.spreads(values, batch)
        reduced = self.elimination.reduce(spreads)
        u = self.root.drawn(reduced, noise, None) if self.root.width else noise
        return self._rungs(spreads, roots, reduced, self._turned(spreads, u))

    def at(self, values: Mapping[str, Tensor], tail: Tensor) -> tuple[Rungs, Tensor]:
        """The same where the root is known, `(R or more, batch)` as in `Rungs.tail`, and the root's numbers."""
        spreads, roots = self.collapsed.spreads(values, tail.shape[1])
        reduced = self.elimination.reduce(spreads)
        r, width = tail[: self.root.width], self.root.width
        u = self._unturned(spreads, r)
        noise = product(reduced.root, u.unsqueeze(1), transpose=True).squeeze(1) - reduced.centre if width else u
        return self._rungs(spreads, roots, reduced, r), noise

    def down(self, rungs: Sequence[Rung], noise: Sequence[Tensor], known: Sequence[Tensor] = ()) -> list[Tensor]:
        """Effects `(K, groups, batch)` of all levels, finest first.

        Args:
            rungs: of the levels.
            noise: of the levels, `(K, groups, batch)`.
            known: effects of the coarsest levels, which stay; in the order of the levels.
        """
        effects: list[Tensor] = list(known)
        for level in reversed(range(len(rungs) - len(known))):
            half, middle, couplings = rungs[level]
            inner = middle + noise[level]
            if couplings:
                inner = inner - _times(half, self._of_coarser(level, couplings, effects))
            effects.insert(0, _times(half.transpose(0, 1), inner))
        return effects

    def up(self, rungs: Sequence[Rung], effects: Sequence[Tensor]) -> list[Tensor]:
        """The inverse of `down`."""
        found = []
        for level, (half, middle, couplings) in enumerate(rungs):
            noise = _solved(half, effects[level]) - middle
            if couplings:
                noise = noise + _times(half, self._of_coarser(level, couplings, effects[level + 1 :]))
            found.append(noise)
        return found

    def _of_coarser(self, level: int, couplings: Sequence[Tensor], effects: Sequence[Tensor]) -> Tensor:
        """sum_m G_lm x_m, `(K, groups, batch)`."""
        parts = [
            _times(coupling, x[:, above])
            for coupling, x, above in zip(couplings, effects, self.above[level], strict=True)
        ]
        return sum(parts[1:], parts[0])

    def _rungs(self, spreads: Spreads, roots: Mapping[str | None, Tensor], reduced: Reduced, r: Tensor) -> Rungs:
        grams, elimination = self.grams, self.elimination
        tail = torch.cat([r, spreads.held])
        right = torch.cat([-tail[grams.n_crossed :], torch.ones_like(spreads.factors[:1])])
        volume = -log_diagonal(reduced.root) if self.root.width else torch.zeros_like(reduced.log_marginal)
        for part in self.parts:
            volume = volume + log_diagonal(roots[part.plate]).expand(part.size, -1).sum(0)
        levels = []
        for level, k in enumerate(self.widths):
            spread = spreads.levels[level]
            if level == 0:
                inner = elimination.finest.inner(spread, spreads.factors.square().reciprocal())
                if elimination.finest.classes < elimination.finest.groups:
                    inner = inner[:, elimination.finest.of_group]
                left = torch.einsum("ktn,tb->knb", self.tails, right)
                if grams.n_crossed:
                    crossed = [matrix @ r[: grams.n_crossed] for matrix in elimination.sums.crossed[0]]
                    left = left - torch.stack(crossed)
                couplings = self.finest_couplings
            else:
                gram = reduced.grams[level - 1]
                inner = packed(identity_plus(around(spread, gram[:k, :k])))
                left = product(gram[:k, -len(right) :], right[:, None, None]).squeeze(1)
                ends = [sum(self.widths[level : m + 1]) for m in range(level, len(self.widths))]
                couplings = tuple(gram[:k, a:b] for a, b in pairwise(ends))
            lower = factor(inner, k)
            half = solve_lower(lower, spread.transpose(0, 1).expand(lower.shape))
            levels.append(Rung(half, _times(half, left), couplings))
            volume = volume - log_diagonal(lower).sum(0)
        return Rungs(reduced.log_marginal, volume, tail, tuple(levels))

    def _turned(self, spreads: Spreads, u: Tensor) -> Tensor:
        """C u, `(R, batch)`."""
        return self.root.turn(spreads, u.unsqueeze(1)).squeeze(1) if self.root.width else u

    def _unturned(self, spreads: Spreads, r: Tensor) -> Tensor:
        """C^-1 r."""
        found, start = [], 0
        for part, spread in zip(self.grams.crossed, spreads.crossed, strict=True):
            end = start + part.width * part.size
            block = r[start:end].unflatten(0, (part.width, part.size))
            found.append(_solved_upper(spread, block).flatten(0, 1))
            start = end
        if self.grams.population is not None:
            found.append(_solved_upper(spreads.population.unsqueeze(2), r[start:].unsqueeze(1)).squeeze(1))
        return torch.cat(found) if found else r

    def innovations(self, tail: Tensor, effects: Sequence[Tensor]) -> dict[str, Tensor]:
        """What latents add to the means of their priors, name -> `(batch, size, *event)`."""
        grams = self.grams
        found: dict[str, Tensor] = {}
        for part, x in zip(grams.levels, effects, strict=True):
            found |= part.split(self._own(part, x))
        start = 0
        for part in grams.crossed:
            end = start + part.width * part.size
            found |= part.split(self._own(part, tail[start:end].unflatten(0, (part.width, part.size))))
            start = end
        if grams.population is not None:
            own = self._own(grams.population, tail[start : start + grams.population.width].unsqueeze(1))
            found |= grams.population.split(own + grams.shift[:, None, None])
        return found

    def coordinates(self, innovations: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The inverse of `innovations`: of the root `(R, batch)` and of levels."""
        grams = self.grams

        def of(part: Part) -> Tensor:
            return torch.einsum("ij,jnb->inb", grams.bases[part.plate], part.join(innovations))

        tail = [of(part).flatten(0, 1) for part in grams.crossed]
        if grams.population is not None:
            moved = grams.population.join(innovations) - grams.shift[:, None, None]
            tail.append(torch.einsum("ij,jnb->inb", grams.bases[None], moved).squeeze(1))
        return torch.cat(tail), [of(part) for part in grams.levels]

    def _own(self, part: Part, x: Tensor) -> Tensor:
        """T^-1 x: from coordinates of columns to innovations, `(K, groups, batch)`."""
        flat = torch.linalg.solve_triangular(self.grams.bases[part.plate], x.flatten(1), upper=True)
        return flat.unflatten(1, x.shape[1:])


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    """`(K, M, groups, batch)` times `(M, groups, batch)`."""
    if matrix.shape[0] == matrix.shape[1] == 1:
        return matrix[0] * x
    return (matrix * x).sum(1) if matrix.shape[1] > 2 else matrix[:, 0] * x[0] + _second(matrix, x)


def _second(matrix: Tensor, x: Tensor) -> Tensor | float:
    return matrix[:, 1] * x[1] if matrix.shape[1] == 2 else 0.0


def _solved(half: Tensor, x: Tensor) -> Tensor:
    """B'^-1 x."""
    if len(half) == 1:
        return x / half[0]
    return torch.linalg.solve(half.permute(2, 3, 1, 0), x.movedim(0, -1).unsqueeze(-1)).squeeze(-1).movedim(-1, 0)


def _solved_upper(spread: Tensor, x: Tensor) -> Tensor:
    """C^-1 x for C `(K, K, groups or 1, batch)` and x `(K, groups, batch)`; C need not be triangular."""
    if len(spread) == 1:
        return x / spread[0]
    matrix = spread.expand(-1, -1, x.shape[1], -1).permute(2, 3, 0, 1)
    return torch.linalg.solve(matrix, x.movedim(0, -1).unsqueeze(-1)).squeeze(-1).movedim(-1, 0)
