"""The Gaussian algebra of a linear mixed model, from its sufficient statistics: densities and draws, batched.

For levels l = 1..L of effects e_l = C_l u_l, u_l ~ N(0, I), root coefficients r = C_r u_r, and Gram matrix G of the
columns [Z_1 .. Z_L | root | y] weighted by W = 1 / f^2:

    A_l = I + C_l' G_ll C_l,     S_l = C_l A_l^-1 C_l',     G <- sum over a parent's groups of G - G_.l S_l G_l.

eliminates a level, from the finest up (Henderson's mixed model equations; Bates et al. 2015, section 3). Only C enters
and never its inverse, so a scale of 0 is as good as any. What is left is dense in the root (`hiertorch.gaussian.root`).
Drawing goes back down: u = A^-1 C' (what is left of y) + A^-1/2 z.

The batch is in the last axis of all tensors. The finest level, with nearly all groups, is
`hiertorch.gaussian.finest`'s.

Note [Two groups of two rows]
y = (1, 3 | 6, 8) in groups a and b, y_i ~ Normal(mu + e_group, 1), e ~ Normal(0, 1), mu ~ Normal(0, 1): all spreads
C are 1, and so is W. A row's columns are [z | x | y], where z and x are 1, those of its group's effect and of mu. The
Gram matrices of the two groups are

    G_a = [2  2   4]        G_b = [ 2   2   14]
          [2  2   4]              [ 2   2   14]
          [4  4  10]              [14  14  100]

Up: the effects go first. In both groups A = 1 + G_zz = 3 and S = 1/3. Of the columns [x | y] is left

    a: [2   4] - 1/3 [2] [2  4] = [2/3   4/3]        b: [ 2   14] - 1/3 [ 2] [2  14] = [ 2/3   14/3]
       [4  10]       [4]          [4/3  14/3]           [14  100]       [14]           [14/3  104/3]

and the sum of both is [4/3, 6; 6, 118/3]. Then mu goes: A = 1 + 4/3 = 7/3, which leaves 118/3 - 6^2 / (7/3) = 502/21 of
y'y. So -2 log p(y) = 4 log(2 pi) + 2 log 3 + log 7/3 + 502/21.

Down: the posterior mean of mu is 6 / (7/3) = 18/7, and that of an effect given mu is (G_zy - G_zx mu) / A: in group a
(4 - 2 18/7) / 3 = -8/21, in group b (14 - 2 18/7) / 3 = 62/21.

>>> import math
>>> import torch
>>> from hiertorch.gaussian.affine import Part
>>> from hiertorch.gaussian.elimination import Elimination
>>> from hiertorch.gaussian.grams import Grams
>>> from hiertorch.gaussian.root import Spreads
>>> one, none = torch.ones(1, 1, 1, dtype=torch.float64), torch.zeros(0, 1, dtype=torch.float64)
>>> upper = [[2, 2], [2, 2], [4, 14]]  # of zz, zx and zy: groups a and b
>>> left = [[4], [18], [110]]  # of xx, xy and yy: both together
>>> grams = Grams(
...     levels=(Part("group", 2, {"e": ()}),), parents=(), crossed=(), population=Part(None, 1, {"mu": ()}), held=0,
...     bases={}, shift=none[:, 0], held_shift=none[:, 0], packed=torch.tensor([upper], dtype=torch.float64),
...     left=torch.tensor([left], dtype=torch.float64),
...     weight=torch.tensor([[2.0, 2.0]], dtype=torch.float64), log_scale=one[0, 0].repeat(2) * math.log(2 * math.pi))
>>> elimination = Elimination(grams)
>>> spreads = Spreads(one[0], (one.unsqueeze(0),), (), one, 0.0 * one[0], none)
>>> reduced = elimination.reduce(spreads)
>>> by_hand = -0.5 * (4 * math.log(2 * math.pi) + 2 * math.log(3) + math.log(7 / 3) + 502 / 21)
>>> abs(float(reduced.log_marginal) - by_hand) < 1e-12
True
>>> means = elimination.draw(spreads, reduced, torch.zeros(3, 1, dtype=torch.float64))  # at noise 0
>>> mu, effects = 7.0 * means[None].flatten(), 21.0 * means["group"].flatten()
>>> mu.round(decimals=9).tolist(), effects.round(decimals=9).tolist()
([18.0], [-8.0, 62.0])
"""

import copy
from collections.abc import Callable, Mapping
from math import log, pi
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from hiertorch.gaussian.cholesky import (
    around,
    factor,
    identity_plus,
    log_diagonal,
    normal_draw,
    packed,
    plus_identity,
    product,
    solve_lower,
    square_index,
)
from hiertorch.gaussian.finest import Finest, FinestSums
from hiertorch.gaussian.grams import Grams
from hiertorch.gaussian.root import Drawn, Reduced, Root, Spreads
from hiertorch.gaussian.transfer import matrix_of
from hiertorch.runtime.ranks import Summed

Found = TypeVar("Found")


class Sums(NamedTuple):
    """All that an elimination knows of the response and the weights of rows."""

    finest: FinestSums
    weight: Tensor  # sum of w, (strata,)
    log_scale: Tensor  # sum of w (log s + log(2 pi) / 2), ()
    crossed: tuple[tuple[Tensor, ...], ...]  # of the finest plate's columns with crossed ones: stratum, column ->
    # (groups, crossed)


class Elimination:
    """See the module. Built once from the sums; all methods are pure.

    Args:
        grams: the sums.
        alike: whether the prior of the finest level's effects has the same spread in all groups.
        reduces: whether it is asked for `reduce`; if not, much is spared where plates are crossed.
        dense: whether all matrices are kept dense, so that `torch.vmap` can make them.
    """

    apart = False  # whether results are written beside one another and joined at the end: see `normal_draw`
    over: Summed | None = None  # the processes that have other groups, where there are any

    def __init__(self, grams: Grams, *, alike: bool = True, reduces: bool = True, dense: bool = False) -> None:
        self.grams, self.root = grams, Root(grams)
        self.finest = Finest(grams, alike=alike, eliminates=reduces, dense=dense)
        self.place = square_index(grams.width - self.finest.width, grams.packed.device)  # of targets
        self.widths = [part.width for part in grams.levels]
        entries, shape = grams.entries, (self.finest.groups, grams.n_crossed)
        crossed = () if entries is None else tuple(
            tuple(matrix_of(entries.group, entries.column, x, shape) for x in of_stratum)
            for of_stratum in entries.values
        )  # fmt: skip
        self.sums = Sums(self.finest.sums, grams.weight.sum(1), grams.log_scale.sum(), crossed)

    def given(self, sums: Sums) -> "Elimination":
        """The same of another response or other weights, written so that `torch.vmap` can run it."""
        new = copy.copy(self)
        new.sums, new.finest, new.apart = sums, self.finest.given(sums.finest), True
        return new

    @property
    def numbers(self) -> int:
        """Of the root, that a density holds at once for each of a batch."""
        return (self.root.width + self.grams.held + 1) ** 2

    @property
    def one(self) -> "Elimination":
        """This; of several data sets see `hiertorch.gaussian.several`, as of the next two."""
        return self

    @property
    def log_scale(self) -> Tensor:
        """sum of w (log s + log(2 pi) / 2), `()`."""
        return self.sums.log_scale

    def each(self, function: Callable[..., Found], *arguments: object) -> Found:
        """The function of this elimination and of arguments."""
        return function(self, *arguments)

    def reduce(self, spreads: Spreads) -> Reduced:
        """log p(y | rest) with effects and coefficients integrated out, and what drawing them needs."""
        total, kept, gram = self._without_effects(spreads, *self._without_finest(spreads))
        lower, centre, quadratic = self.root.reduce(gram, spreads)
        return Reduced(total - log_diagonal(lower) - 0.5 * quadratic, kept, lower, centre)

    def drawn(self, spreads: Spreads, noise: Tensor) -> Drawn:
        """The same, and the root drawn with standard normal noise `(R, batch)`."""
        total, targets = self._without_finest(spreads)
        kept: tuple[Tensor, ...] = ()
        found = self.root.of_packed(targets, self.place, spreads, noise) if len(self.grams.levels) < 2 else None
        if found is None:
            total, kept, gram = self._without_effects(spreads, total, targets)
            found = self.root.reduced_and_drawn(gram, spreads, noise)
        half, quadratic, u = found
        return Drawn(total - half - 0.5 * quadratic, kept, half, u)

    def log_factor(self, spreads: Spreads, reduced: Reduced) -> Tensor:
        """log |L| of the root, `(batch,)`."""
        return log_diagonal(reduced.root)

    def noise_of(self, spreads: Spreads, reduced: Reduced, u: Tensor) -> Tensor:
        """The standard normal noise `(R, batch)` of which a draw of the root is u, its standardised coefficients and
        effects less location: L'u - L^-1 h.
        """
        return product(reduced.root, u.unsqueeze(1), transpose=True).squeeze(1) - reduced.centre

    def _without_finest(self, spreads: Spreads) -> tuple[Tensor, Tensor]:
        """What the finest effects have to do with log p(y | rest), and the targets that are left."""
        precision = spreads.factors.square().reciprocal()
        total = -(self.sums.weight @ spreads.factors.log()) - self.sums.log_scale
        if not self.grams.levels:
            return total, self.finest.sums.base.mT @ precision
        half, targets = self.finest.eliminated(spreads.levels[0], precision)
        if self.over is None:
            return total - half, targets
        every = self.over.total(torch.cat([(total - half).unsqueeze(0), targets]))  # of one level, as `Summed` has it
        return every[0], every[1:]

    def _without_effects(
        self, spreads: Spreads, total: Tensor, targets: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """The same of all effects, with Gram matrices of levels above the finest, and that of the root."""
        kept, gram = [], self.finest.square(targets)
        for level in range(1, len(self.grams.levels)):
            kept.append(gram)
            k = self.widths[level]
            lower = plus_identity(around(spreads.levels[level], gram[:k, :k]))
            half = solve_lower(lower, product(spreads.levels[level], gram[:k, k:], transpose=True))
            total = total - log_diagonal(lower).sum(0)
            gram = self._up(gram[k:, k:] - product(half, half, transpose=True), level)
        return total, tuple(kept), gram[:, :, 0]

    def _up(self, gram: Tensor, level: int) -> Tensor:
        """Sums over the groups of a level by their parents, `(q, q, groups, batch)`."""
        if level + 1 == len(self.grams.levels):
            return gram.sum(2, keepdim=True)
        out = gram.new_zeros(*gram.shape[:2], self.grams.levels[level + 1].size, gram.shape[3])
        return out.index_add_(2, self.grams.parents[level], gram)

    def noise_from(self, lowest: int) -> int:
        """Standard normal numbers that a draw of coefficients and effects takes, down to a level."""
        return self.root.width + sum(part.width * part.size for part in self.grams.levels[lowest:])

    def draw(
        self,
        spreads: Spreads,
        reduced: Reduced | None,
        noise: Tensor,
        coefficients: Tensor | None = None,
        lowest: int = 0,
        only: Tensor | None = None,
    ) -> dict[str | None, Tensor]:
        """Standardised effects and coefficients given y: plate -> `(K, groups, batch)`.

        Args:
            spreads: given these.
            reduced: what `reduce` gave; not needed if `coefficients` are all of the root and there is one level.
            noise: standard normal, `(noise_from(lowest), batch)`.
            coefficients: standardised ones of the population, `(P, batch)`, that are kept.
            lowest: the last level to draw.
            only: groups of the finest level, whose effects are drawn alone.
        """
        standard: dict[str | None, Tensor] = {}
        root, used = spreads.location[:0], self.root.width
        if used:
            known = None if coefficients is None else coefficients - spreads.location
            if known is not None and not self.grams.crossed:
                u = known
            else:
                assert reduced is not None
                u = self.root.drawn(reduced, noise[:used], known)
            root, standard = self.root.turn(spreads, u.unsqueeze(1)).squeeze(1), self.root.parts(spreads, u)
        effects: dict[int, Tensor] = {}
        for level in reversed(range(lowest, len(self.grams.levels))):
            part, few = self.grams.levels[level], only if level == 0 else None
            inner, h = self._conditional(level, spreads, reduced, root, effects, few)
            shape = (part.width, part.size if few is None else len(few))
            z = noise[used : used + shape[0] * shape[1]].unflatten(0, shape)
            used += shape[0] * shape[1]
            standard[part.plate] = u = normal_draw(inner, h, z, apart=self.apart)
            if level > lowest:
                effects[level] = product(spreads.levels[level], u.unsqueeze(1)).squeeze(1)
        return standard

    def log_conditional(self, spreads: Spreads, reduced: Reduced, given: Mapping[str | None, Tensor]) -> Tensor:
        """log p(standardised effects and coefficients | y, rest), `(batch,)`, of plate -> `(K, groups, batch)`."""
        root, total = spreads.location[:0], torch.zeros_like(reduced.log_marginal)
        if self.root.width:
            u = self.root.joined(spreads, given)
            total = log_normal(self.log_factor(spreads, reduced), self.noise_of(spreads, reduced, u))
            root = self.root.turn(spreads, u.unsqueeze(1)).squeeze(1)
        effects: dict[int, Tensor] = {}
        for level in reversed(range(len(self.grams.levels))):
            part = self.grams.levels[level]
            inner, h = self._conditional(level, spreads, reduced, root, effects)
            u, lower = given[part.plate], factor(inner, part.width)
            noise = product(lower, u.unsqueeze(1), transpose=True).squeeze(1) - solve_lower(lower, h)
            total = total + log_normal(log_diagonal(lower), noise).sum(0)
            effects[level] = product(spreads.levels[level], u.unsqueeze(1)).squeeze(1)
        return total

    def _conditional(
        self,
        level: int,
        spreads: Spreads,
        reduced: Reduced | None,
        root: Tensor,
        effects: Mapping[int, Tensor],
        only: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A of a level packed, `(pairs, groups, batch)`, and C' times what coarser effects and coefficients leave."""
        spread = spreads.levels[level]
        if level == 0:
            inner = self.finest.inner(spread, spreads.factors.square().reciprocal(), only)
            if only is not None:
                spread = spread if spread.shape[2] == 1 else spread[:, :, only]
            elif self.finest.classes < self.finest.groups:
                inner = inner[:, self.finest.of_group]
            left = self._left_of_rows(spreads, root, effects, only)
        else:
            assert reduced is not None
            k = self.widths[level]
            gram = reduced.grams[level - 1]
            inner = packed(identity_plus(around(spread, gram[:k, :k])))
            left = self._left_of_groups(level, gram, spreads, root, effects)
        return inner, product(spread, left.unsqueeze(1), transpose=True).squeeze(1)

    def _tail(self, spreads: Spreads, root: Tensor) -> Tensor:
        """Coefficients of the columns behind the effects': (-population, -held, 1), `(tail, batch)`."""
        return torch.cat([-root[self.grams.n_crossed :], -spreads.held, torch.ones_like(spreads.factors[:1])])

    def _left_of_groups(
        self, level: int, gram: Tensor, spreads: Spreads, root: Tensor, effects: Mapping[int, Tensor]
    ) -> Tensor:
        """G_l. times (-coarser effects, -coefficients, 1) of a level above the finest, `(K, groups, batch)`."""
        k, tail = self.widths[level], self._tail(spreads, root)
        right = product(gram[:k, -len(tail) :], tail[:, None, None]).squeeze(1)
        for m in range(level + 1, len(self.grams.levels)):
            at = sum(self.widths[level:m])
            effect = effects[m][:, self._ancestor(level, m)]
            right = right - product(gram[:k, at : at + self.widths[m]], effect.unsqueeze(1)).squeeze(1)
        return right

    def _left_of_rows(
        self, spreads: Spreads, root: Tensor, effects: Mapping[int, Tensor], only: Tensor | None
    ) -> Tensor:
        """The same of the finest level, or of some of its groups."""
        k, tail, index = self.widths[0], self._tail(spreads, root), self.finest.index
        sums = self.sums.finest.packed if only is None else self.sums.finest.packed[:, :, only]
        columns = index[:k, self.grams.width - len(tail) :]
        parts = []
        for s, precision in enumerate(spreads.factors.square().reciprocal()):
            inner = (sums[s, columns].mT @ (tail * precision)).contiguous()  # (K, groups, batch)
            for m in range(1, len(self.grams.levels)):
                at, parent = sum(self.widths[:m]), self._ancestor(0, m)
                parent = parent if only is None else parent[only]
                for j in range(self.widths[m]):
                    own = sums[s, index[:k, at + j]].unsqueeze(2)
                    inner = torch.addcmul(inner, own, (effects[m][j] * precision)[parent], value=-1)
            if self.sums.crossed:
                behind = root[: self.grams.n_crossed] * precision
                crossed = torch.stack([matrix @ behind for matrix in self.sums.crossed[s]])
                inner = inner - (crossed if only is None else crossed[:, only])
            parts.append(inner)
        return sum(parts[1:], parts[0])

    def _ancestor(self, level: int, above: int) -> Tensor:
        """The group of a coarser level in which each group of a level lies."""
        found = self.grams.parents[level]
        for m in range(level + 1, above):
            found = self.grams.parents[m][found]
        return found


def log_normal(log_factor: Tensor, noise: Tensor) -> Tensor:
    """log N(u; A^-1 h, A^-1) with A = L L', `batch`, from log |L| and from the noise L'u - L^-1 h, `(R, *batch)`."""
    return log_factor - 0.5 * (noise.square() + log(2.0 * pi)).sum(0)
