"""Scales and correlations of effects with these standardised: effects are rescaled, and rows decide.

    x_g = R h_g,   h_g ~ N(0, I),   R = D L lower triangular

Given h the linear predictor is linear in R, so that under a surrogate of the rows, with sums of products G_g of a
group's columns and c_g of these with what is left of the response, R is normal:

    q(R) is proportional to exp(sum_g c_g' R h_g - h_g' R' G_g R h_g / 2 + r' R - R' A R / 2)

A and r: a quadratic form that stands for the prior of R. Accepted with what prior and rows say beyond it. Where groups
say little of their effects, these hold scales and correlations given effects (`hiertorch.run.giveneffects`) close to
where they are, and hardly given h; where they say much it is the other way round. Interwoven, both mix wherever either
does (Yu & Meng 2011, section 2).

Some rows of R are drawn at a time, given the others. Of those with a negative number on the diagonal none is accepted.

Effects of which rows say little are to be the last, so that what they have in common with the others, and what not, is
in their own row: so effects take turns in being the last, sweep by sweep, and R is the root of the covariance in that
order.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.gaussian.covariances import Covariance
from hiertorch.gaussian.wishart import turned
from hiertorch.run.giveneffects import Fitted, first

TOGETHER = 21
"""Numbers of R that are drawn together, at most: of so many some half are accepted (measured)."""


UNSURE, MOST_SCALED = 0.5, 3
"""Times the variance that rows of a group leave an effect, below which its scale moves by itself as well, and of how
many effects: near 0 neither moves by rows of R nor those given effects move it far.
"""


class Quadratic(NamedTuple):
    """r' R - R' A R / 2 of the lower triangle of R, row by row.

    Attributes:
        precision: A, `(n, n)`.
        right: r, `(n,)`.
    """

    precision: Tensor
    right: Tensor

    def at(self, entries: Tensor) -> Tensor:
        """Of entries `(chains, n)`, `(chains,)`."""
        return entries @ self.right - 0.5 * ((entries @ self.precision) * entries).sum(1)


class Offered(NamedTuple):
    """What chains are offered."""

    root: Tensor  # R, (chains, K, K)
    effects: Tensor  # of the whole level, (width, groups, chains)
    beyond: Tensor  # log q of what is offered less that of what is, and so of what the surrogate says of both,
    # (chains,); infinite of what is none


class Rescaling:
    """Proposals for the covariance of some effects of the finest level; see the module.

    Args:
        covariance: which.
        like: of the dtype, on the device.

    Attributes:
        blocks: rows of R that are drawn together, in the order of the moves.
        orders: of the effects, each of them the last in one; a sweep has one.
        forms: what stands for the prior, by order.
        scaled: effects whose scales move by themselves as well.
    """

    def __init__(self, covariance: Covariance, like: Tensor) -> None:
        self.covariance, k, number = covariance, covariance.width, covariance.dimensions
        self.blocks, self.entries = blocks_of(k), torch.tril_indices(k, k, device=like.device)
        self.scaled = list[int]()
        turns = torch.arange(k, device=like.device)
        self.orders = [turns.roll(-1 - last) for last in range(k)]
        self.forms = [Quadratic(like.new_zeros(number, number), like.new_zeros(number))] * k

    def fit(self, fitted: Fitted, roots: Tensor, spread: Tensor) -> None:
        """Fits the forms to some R `(n, K, K)`, given what proposals given effects know of the prior, and notes of
        which effects rows say less than their prior, by the variance `(K,)` that rows of a group leave an effect.
        """
        known = roots.square().sum(2).mean(0) / spread
        least = known.argsort()[:MOST_SCALED]
        self.scaled = least[known[least] < UNSURE].tolist()
        self.forms = []
        for order in self.orders:
            own = fitted._replace(slopes=fitted.slopes[order])
            self.forms.append(prior_form(self.covariance, own, turned(roots, order)))

    def turn(self, sweep: int) -> int:
        """Which effect is the last in a sweep: in every second one of those of which rows say little."""
        return sweep % self.covariance.width

    def numbers(self, block: range) -> int:
        """Standard normal numbers that a draw takes."""
        return sum(i + 1 for i in block)

    def offered(
        self, turn: int, root: Tensor, level: Tensor, products: Tensor, right: Tensor, block: range, noise: Tensor
    ) -> Offered:
        """A draw of some rows of R from q given the others.

        Args:
            turn: which order.
            root: R, in that order, `(chains, K, K)`.
            level: effects, `(width, groups, chains)`.
            products: G of the whole level, `(width, width, groups)`.
            right: c of the whole level, `(width, groups, chains)`.
            block: which rows.
            noise: standard normal, `(numbers, chains)`.
        """
        order, k, some = self.orders[turn], self.covariance.width, slice(block.start, block.stop)
        mine = self.covariance.at.start + order  # the effects of all rows
        at = mine[some]  # and of these
        which = ((self.entries[0] >= block.start) & (self.entries[0] < block.stop)).nonzero().flatten()
        i, j = self.entries[:, which]
        x = level.movedim(2, 0)  # (chains, width, groups)
        h = torch.linalg.solve_triangular(root, x[:, mine], upper=False)
        without = x.index_fill(1, at, 0.0)
        left = right.movedim(2, 0)[:, at] - torch.einsum("abg,cbg->cag", products[at], without)
        own = products[at][:, at]
        if len(block) == 1:
            whole = (h[:, j].unsqueeze(2) * h[:, j].unsqueeze(1)) @ own[0, 0]
        else:
            m = i - block.start
            whole = torch.einsum("abg,cag,cbg->cab", own[m][:, m], h[:, j], h[:, j])
        form = Quadratic(self.forms[turn].precision[which][:, which], self.forms[turn].right[which])
        lower, bad = torch.linalg.cholesky_ex(whole + form.precision)
        mean = (left @ h.mT)[:, i - block.start, j] + form.right
        half = torch.linalg.solve_triangular(lower, mean.unsqueeze(2), upper=False) + noise.mT.unsqueeze(2)
        entries = torch.linalg.solve_triangular(lower.mT, half, upper=True).squeeze(2)
        there = root.flatten(1).index_copy(1, i * k + j, entries).unflatten(1, (k, k))
        sound = (bad == 0) & (there.diagonal(dim1=1, dim2=2) > 0.0).all(1)
        there = torch.where(sound[:, None, None], there, root)
        moved = level.index_copy(0, at, (there[:, some] @ h).movedim(0, 2))
        beyond = form.at(entries) - form.at(root[:, i, j])
        return Offered(there, moved, torch.where(sound, beyond, torch.inf))

    def back(self, turn: int, root: Tensor) -> Tensor:
        """R in the order of the model, of one in another order."""
        return turned(root, self.orders[turn].argsort())


def blocks_of(width: int) -> list[range]:
    """Rows of R in blocks of TOGETHER numbers at most."""
    found, start = list[range](), 0
    while start < width:
        stop = start + 1
        while stop < width and sum(range(start + 1, stop + 2)) <= TOGETHER:
            stop += 1
        found.append(range(start, stop))
        start = stop
    return found


def prior_form(covariance: Covariance, fitted: Fitted, roots: Tensor) -> Quadratic:
    """What stands for the log prior of R, sum_i b_i log s_i + c_i log R_ii, around the mean of some R `(n, K, K)`."""
    k, centre = covariance.width, roots.mean(0)
    b = fitted.slopes - 2.0 * fitted.bend
    c = 2.0 * fitted.bend - first(k) - torch.arange(1, k + 1, dtype=b.dtype, device=b.device)
    i, j = torch.tril_indices(k, k, device=b.device)
    squares = centre.square().sum(1)
    on, eye = (i == j).to(b.dtype), torch.eye(len(i), dtype=b.dtype, device=b.device)
    own, diagonal = centre[i, j], centre.diagonal()[i]
    slope = b[i] * own / squares[i] + on * c[i] / diagonal
    same = (i.unsqueeze(1) == i).to(b.dtype)
    bend = -(b / squares)[i].unsqueeze(1) * (eye - 2.0 * same * own.unsqueeze(1) * own / squares[i].unsqueeze(1))
    bend = bend + (on * c[i] / diagonal.square()).diag_embed()
    sizes, axes = torch.linalg.eigh(0.5 * (bend + bend.mT))
    precision = (axes * sizes.clamp(min=0.0)) @ axes.mT
    return Quadratic(precision, slope + precision @ own)
