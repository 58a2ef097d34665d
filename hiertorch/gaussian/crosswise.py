"""Ladders that stand on crossed effects: these are given, and no matrix is factored that is as wide as they are many.

    v_j = C u_j,   u_j = A_j^-1 C' b_j + L_j'^-1 eps_j,   A_j = I + C' W_j C = L_j L_j'        of crossed effects
    log pi_s(theta, eps) = log p(z | theta, v) + sum_j (-|u_j|^2 / 2 - log|L_j|) + log p(theta)

z: the surrogate's responses; p(z | theta, v): with the effects of the largest plate and coefficients integrated out,
which for given v costs as much as without crossed plates. eps: numbers that crossed effects are functions of, beside
theta. For W = 0 they would be effects in units of their prior, for large W effects themselves; for W_j and b_j near
what the rows say of group j they hardly depend on theta (Papaspiliopoulos, Roberts & Skold 2007). Any are exact.

Given theta, coefficients, and all other effects, those of a crossed plate are independent of one another under the
surrogate, u_j ~ N(A_j^-1 h_j, A_j^-1) with A_j = I + C' G_jj C and h_j = C' (what the others leave of the response).

docs/decisions.md: Many crossed effects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.gaussian.affine import Part
from hiertorch.gaussian.cholesky import (
    around,
    factor,
    identity_plus,
    log_diagonal,
    packed,
    product,
    solve_lower,
    solve_upper,
    square_index,
    unrooted,
)
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.ladder import Ladder, Rung, Rungs
from hiertorch.gaussian.root import Root, Spreads, times
from hiertorch.gaussian.transfer import matrix_of


class Known(NamedTuple):
    """What theta says of the spreads of effects and coefficients, for each of a batch (in the last axis)."""

    finest: Tensor  # C of the largest plate, (K, K, groups or 1, batch)
    base: Tensor  # from its innovations to coordinates of its columns, (K, K, 1, batch or 1)
    crossed: tuple[Tensor, ...]  # C of crossed plates
    population: Tensor | None
    location: Tensor
    held: Tensor
    roots: tuple[Tensor, ...]  # of prior covariances: largest plate, crossed plates, population if there is one

    def tensors(self) -> dict[str, Tensor]:
        """The same as named tensors, which `of` takes."""
        found = {"finest": self.finest, "base": self.base, "location": self.location, "held": self.held}
        found |= {} if self.population is None else {"population": self.population}
        found |= {f"crossed{k}": x for k, x in enumerate(self.crossed)}
        return found | {f"root{k}": x for k, x in enumerate(self.roots)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Known":
        """What such tensors hold."""
        crossed, roots = (
            tuple(tensors[f"{name}{k}"] for k in range(sum(key.startswith(name) for key in tensors)))
            for name in ("crossed", "root")
        )
        own = (tensors["finest"], tensors["base"])
        return cls(*own, crossed, tensors.get("population"), tensors["location"], tensors["held"], roots)

    def split(self, batch: int) -> list["Known"]:
        """Batches of so many, one after the other."""
        number = self.held.shape[-1]
        parts = {
            name: x.split(batch, -1) if x.shape[-1] == number else [x] * (number // batch)
            for name, x in self.tensors().items()
        }
        return [Known.of({name: x[i] for name, x in parts.items()}) for i in range(number // batch)]

    def where(self, accepted: Tensor, other: "Known") -> "Known":
        """These where `accepted`, `(batch,)`, the others elsewhere."""
        old = other.tensors()
        return Known.of(
            {
                name: x if x is old[name] or x.shape[-1] != len(accepted) else torch.where(accepted, x, old[name])
                for name, x in self.tensors().items()
            }
        )


class Middles(NamedTuple):
    """W and b of each crossed plate, `(K, K, groups, 1)` and `(K, groups, 1)`: see the module."""

    weights: tuple[Tensor, ...]
    right: tuple[Tensor, ...]


class Crosswise(Ladder):
    """See the module. Methods of a ladder serve what stands above crossed effects; `root` is the population's.

    Args:
        collapsed: the Gaussian model, with crossed plates; one stratum of rows, of scale 1.
        middles: W and b; None for zeros.
    """

    def __init__(self, collapsed: Collapsed, middles: Middles | None = None) -> None:
        super().__init__(collapsed)
        grams, sums = self.grams, self.grams.packed[0]
        assert grams.entries is not None and grams.cross is not None and len(self.widths) == 1
        self.root = Root(replace(grams, crossed=(), entries=None, cross=None))
        self.crossed, k, p = grams.crossed, self.widths[0], self.root.width
        ends = list(accumulate(part.width * part.size for part in self.crossed))
        self.slices = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        self.columns = elimination_columns(sums, self.elimination.finest.index, k, grams.tail)  # (K, tail, groups)
        self.population_columns = self.columns[:, :p].transpose(0, 1).flatten(1)  # (P, K groups)
        upper = [(i, j) for i in range(k) for j in range(i, k)]
        both = [torch.einsum("pg,qg->pqg", self.columns[i, :p], self.columns[j, :p]) for i, j in upper]
        both = [x if i == j else x + x.transpose(0, 1) for (i, j), x in zip(upper, both, strict=True)]
        self.pairs = torch.stack(both, 2).flatten(2).flatten(0, 1)  # (P P, pairs groups)
        self.tail = grams.left[0, square_index(grams.tail, sums.device), 0]  # (tail, tail)
        self.cross, entries = grams.cross[0], grams.entries
        shape = (grams.n_crossed, self.sizes[0])
        self.transposed = [matrix_of(entries.column, entries.group, x, shape) for x in entries.values[0]]
        self.own = [self._own(part, at) for part, at in zip(self.crossed, self.slices, strict=True)]
        nothing = Middles(tuple(0.0 * x for x in self.own), tuple(0.0 * x[0] for x in self.own))
        self.middles = nothing if middles is None else middles

    def _own(self, part: Part, at: slice) -> Tensor:
        """G_jj of a crossed plate, `(K, K, groups, 1)`: no two of its groups share a row."""
        block = self.cross[at, at].unflatten(0, (part.width, part.size)).unflatten(2, (part.width, part.size))
        return block.diagonal(dim1=1, dim2=3).unsqueeze(3)

    def known(self, values: Mapping[str, Tensor], batch: int) -> Known:
        """Of values `(batch, 1, *event)` of theta."""
        spreads, roots = self.collapsed.spreads(values, batch)
        every = tuple(roots[part.plate] for part in self.parts)
        base = self.bases_at(values, spreads)[0]
        return Known(
            spreads.levels[0], base, spreads.crossed, spreads.population, spreads.location, spreads.held, every
        )

    def rungs(self, values: Mapping[str, Tensor], noise: Tensor, *, lean: bool = False) -> Rungs:
        """With standard normal numbers of crossed effects, one plate after the other, and behind them of the
        population, `(crossed + P, batch)`.
        """
        known, n = self.known(values, noise.shape[1]), self.grams.n_crossed
        parts = zip(self.slices, self.crossed, strict=True)
        return self.drawn(known, [noise[at].unflatten(0, (part.width, part.size)) for at, part in parts], noise[n:])

    def at(self, values: Mapping[str, Tensor], tail: Tensor) -> tuple[Rungs, Tensor]:
        """What follows from theta and known crossed effects and coefficients, and the population's standard normal
        numbers `(P, batch)`.
        """
        return self.given(self.known(values, tail.shape[1]), tail)

    def given(self, known: Known, tail: Tensor) -> tuple[Rungs, Tensor]:
        """The same of what is known already."""
        crossed, population = self.standardised(known, tail)
        volumes = sum(log_diagonal(self._lower(known, k)).sum(0) for k in range(len(crossed)))
        return self._finished(known, crossed, volumes, population, None, tail)

    def drawn(self, known: Known, eps: Sequence[Tensor], noise: Tensor) -> Rungs:
        """What follows from theta and numbers of crossed effects `(K, groups, batch)` and of the population."""
        crossed, volumes = [], torch.zeros_like(known.held.sum(0))
        for k, own in enumerate(eps):
            lower = self._lower(known, k)
            right = product(known.crossed[k], self.middles.right[k].unsqueeze(1), transpose=True).squeeze(1)
            crossed.append(solve_upper(lower, solve_lower(lower, right) + own))
            volumes = volumes + log_diagonal(lower).sum(0)
        return self._finished(known, crossed, volumes, None, noise, None)[0]

    def numbers_of(self, known: Known, tail: Tensor) -> list[Tensor]:
        """eps of known crossed effects, `(K, groups, batch)` each: the inverse of `drawn`."""
        found = []
        for k, u in enumerate(self.standardised(known, tail)[0]):
            lower = self._lower(known, k)
            right = product(known.crossed[k], self.middles.right[k].unsqueeze(1), transpose=True).squeeze(1)
            found.append(product(lower, u.unsqueeze(1), transpose=True).squeeze(1) - solve_lower(lower, right))
        return found

    def standardised(self, known: Known, tail: Tensor) -> tuple[list[Tensor], Tensor]:
        """Crossed effects in units of their prior, `(K, groups, batch)` each, and the population's coefficients less
        their location, `(P, batch)`.
        """
        parts = self.apart(tail)
        found = [unrooted(known.roots[1 + k], parts[part]) for k, part in enumerate(self.crossed)]
        if not self.root.width:
            return found, tail.new_zeros(0, tail.shape[1])
        assert self.grams.population is not None
        own = parts[self.grams.population]
        return found, unrooted(known.roots[-1], own)[:, 0] - known.location

    def conditional(self, known: Known, tail: Tensor, effects: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The root of A `(K, K, groups, batch)` and h `(K, groups, batch)` of crossed plate k, given all else.

        Args:
            known: theta.
            tail: of which this plate's effects are not read.
            effects: of the largest plate, `(K, groups, batch)`.
            k: which crossed plate.
        """
        part, at, n = self.crossed[k], self.slices[k], self.grams.n_crossed
        crossed, population = self.standardised(known, tail)
        left = self.cross[at, -1:] - self.cross[at, n + self.root.width : -1] @ known.held
        if len(population):
            left = left - self.cross[at, n : n + self.root.width] @ self._coordinates(known, population)
        own = product(known.base, effects.unsqueeze(1)).squeeze(1)
        for matrix, x in zip(self.transposed, own, strict=True):
            left = left - (matrix @ x)[at]
        for m, other in enumerate(self.slices):
            if m != k:
                v = product(known.crossed[m], crossed[m].unsqueeze(1)).squeeze(1)
                left = left - self.cross[at, other] @ v.flatten(0, 1)
        left, spread = left.unflatten(0, (part.width, part.size)), known.crossed[k]
        lower = factor(identity_plus(around(spread, self.own[k])))
        return lower, product(spread, left.unsqueeze(1), transpose=True).squeeze(1)

    def _lower(self, known: Known, k: int) -> Tensor:
        return factor(identity_plus(around(known.crossed[k], self.middles.weights[k])))

    def _coordinates(self, known: Known, population: Tensor) -> Tensor:
        """Of the population's columns, `(P, batch)`, less their shift."""
        own = known.population
        return population if own is None else times(own, population.unsqueeze(1)).squeeze(1)

    def _finished(
        self,
        known: Known,
        crossed: Sequence[Tensor],
        volumes: Tensor | int,
        population: Tensor | None,
        noise: Tensor | None,
        tail: Tensor | None,
    ) -> tuple[Rungs, Tensor]:
        k, p, grams = self.widths[0], self.root.width, self.grams
        v = torch.cat([
            product(spread, u.unsqueeze(1)).squeeze(1).flatten(0, 1)
            for spread, u in zip(known.crossed, crossed, strict=True)
        ])  # fmt: skip
        behind = torch.cat([-known.held, torch.ones_like(v[:1])])  # of held columns and the response
        left = torch.einsum("ktn,tb->knb", self.columns[:, p:], behind)
        left = left - torch.stack([matrix @ v for matrix in self.elimination.one.sums.crossed[0]])
        inner = self.elimination.finest.inner(known.finest, torch.ones_like(v[:1]))
        if self.elimination.finest.classes < self.elimination.finest.groups:
            inner = inner[:, self.elimination.finest.of_group]
        lower = factor(inner, k)
        turned = solve_lower(lower, known.finest.transpose(0, 1).expand(lower.shape))  # L^-1 C'
        taken = product(turned, left.unsqueeze(1)).squeeze(1)
        square = behind * (self.tail[p:, p:] @ behind)
        n = grams.n_crossed
        by_cross = self.cross[:, n + p :] @ behind
        quadratic = square.sum(0) + (v * (self.cross[:, :n] @ v - 2.0 * by_cross)).sum(0) - taken.square().sum((0, 1))
        gram = quadratic.expand(1, 1, -1)
        if p:
            spread = product(turned, turned, transpose=True)  # C A^-1 C'
            own = packed(spread).flatten(0, 1)
            xx = (self.tail[:p, :p].flatten().unsqueeze(1) - self.pairs @ own).unflatten(0, (p, p))
            right = self.tail[:p, p:] @ behind - self.cross[:, n : n + p].mT @ v
            right = right - self.population_columns @ product(turned, taken.unsqueeze(1), transpose=True).flatten(0, 2)
            beside, below = right.unsqueeze(1), torch.cat([right.unsqueeze(0), gram[0][None]], 1)
            gram = torch.cat([torch.cat([xx, beside], 1), below])
        own_spreads = Spreads(torch.ones_like(v[:1]), (), (), known.population, known.location, known.held[:0])
        root, centre, least = self.root.reduce(gram, own_spreads)
        if p:
            if population is None:
                assert noise is not None
                population = solve_upper(root, centre + noise)
            coordinates = self._coordinates(known, population)
            left = left - torch.einsum("kpn,pb->knb", self.columns[:, :p], coordinates)
            numbers = product(root, population.unsqueeze(1), transpose=True).squeeze(1) - centre
        else:
            numbers = v[:0]
        of_finest, of_root = log_diagonal(lower).sum(0), log_diagonal(root) if p else 0.0
        prior = sum(u.square().sum((0, 1)) for u in crossed)
        marginal = -of_finest - of_root - 0.5 * (least + prior) - volumes - self.elimination.one.sums.log_scale
        volume = -of_finest - of_root - volumes
        for part, of_part in zip(self.parts, known.roots, strict=True):
            volume = volume + log_diagonal(of_part).expand(part.size, -1).sum(0)
        half = solve_lower(lower, known.roots[0].transpose(0, 1).expand(lower.shape))
        middle = product(turned, left.unsqueeze(1)).squeeze(1)
        if tail is None:
            every = [product(r, u.unsqueeze(1)).squeeze(1).flatten(0, 1)
                     for r, u in zip(known.roots[1:], crossed, strict=False)]  # fmt: skip
            if p:
                assert population is not None
                standard = (population + known.location)[:, None, None]
                every.append(product(known.roots[-1], standard).flatten(0, 2))
            tail = torch.cat([*every, known.held + grams.held_shift.unsqueeze(1)])
        return Rungs(marginal, volume, tail, (Rung(half, middle, ()),)), numbers


def elimination_columns(sums: Tensor, index: Tensor, k: int, tail: int) -> Tensor:
    """Products of the finest level's columns with those behind all effects, `(K, tail, groups)`."""
    return sums[index[:k, len(index) - tail :]]


def middles_of(ladder: Crosswise, known: Known, tail: Tensor) -> Middles:
    """What the rows say of each crossed group, at the mean of theta and of crossed effects over a batch.

    W is what is left of G_jj when the largest plate's effects are eliminated; b is such that, with the mean of the
    prior's covariances, u has the mean that it has in the batch.
    """
    weights, right, grams = [], [], ladder.grams
    assert grams.entries is not None
    inner = ladder.elimination.finest.inner(known.finest, torch.ones_like(known.finest[0, 0, :1]))
    if ladder.elimination.finest.classes < ladder.elimination.finest.groups:
        inner = inner[:, ladder.elimination.finest.of_group]
    lower = factor(inner, ladder.widths[0])
    turned = solve_lower(lower, known.finest.transpose(0, 1).expand(lower.shape)).mean(3)  # (K, K, groups)
    of_entries = product(turned[:, :, grams.entries.group], grams.entries.values[0].unsqueeze(1)).square().sum((0, 1))
    taken = of_entries.new_zeros(grams.n_crossed).index_add(0, grams.entries.column, of_entries)
    crossed = ladder.standardised(known, tail)[0]
    for k, (part, at) in enumerate(zip(ladder.crossed, ladder.slices, strict=True)):
        own, spread = ladder.own[k], known.crossed[k]
        diagonal = own.diagonal().squeeze(1).mT if own.dim() == 4 else own
        share = (1.0 - taken[at].unflatten(0, (part.width, part.size)) / diagonal.clamp(min=1e-300)).clamp(0.0, 1.0)
        w = own * (share.sqrt().unsqueeze(0) * share.sqrt().unsqueeze(1)).unsqueeze(3)
        mean = product(spread, crossed[k].unsqueeze(1)).mean(3, keepdim=True)  # (K, 1, groups, 1)
        covariance = product(spread, spread.transpose(0, 1)).mean(3, keepdim=True)
        floor = 1e-9 * covariance.diagonal().amax() * torch.eye(part.width, dtype=w.dtype, device=w.device)
        root = factor(covariance + floor[:, :, None, None]).expand(-1, -1, part.size, -1)
        pulled = solve_upper(root, solve_lower(root, mean))
        weights.append(w)
        right.append((product(w, mean) + pulled).squeeze(1))
    return Middles(tuple(weights), tuple(right))
