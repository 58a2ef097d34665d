"""Ridges: directions in which coefficients and the effects of a crossed plate move and no row changes.

    r + T d,   x_j - a_j d:     X T = Z_j a_j in all rows of group j

A mean and the effects around it, or the coefficient of what is constant by group and these groups' effects. Only the
priors tell such places apart, and these are normal: so d is drawn from its own conditional distribution, without a pass
over the rows. Moves of coefficients given effects and of effects given coefficients go along ridges in small steps.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.gaussian.affine import Affine, Part
from hiertorch.gaussian.cholesky import normal_draw, packed, product
from hiertorch.gaussian.crosswise import Crosswise, Known
from hiertorch.gaussian.ladder import unrooted

SAME = 1e-12
"""Part of its largest number by which a column may differ from being constant by group: rounding."""


class Ridge(NamedTuple):
    """Of one crossed plate, the k-th.

    Attributes:
        k: which it is.
        columns: places of coefficients in the population, `(D,)`.
        slopes: a, `(K, D, groups)`.
    """

    k: int
    columns: Tensor
    slopes: Tensor


class Ridges:
    """See the module.

    Args:
        affine: whose columns are looked at.
        ladder: on any sites.
    """

    def __init__(self, affine: Affine, ladder: Crosswise) -> None:
        self.found: list[Ridge] = []
        data, population = affine.composed.data, ladder.grams.population
        if population is None or None in affine.turning:
            return
        _, designs = affine.composed.design(affine.anchor, data)
        for k, part in enumerate(ladder.crossed):
            if part.plate not in affine.turning:
                ridge = _found(k, part, designs[None], designs[part.plate], data[str(part.plate)])
                if ridge is not None:
                    self.found.append(ridge)

    def draw(self, ridge: Ridge, ladder: Crosswise, known: Known, tail: Tensor, noise: Tensor) -> Tensor:
        """Coefficients and crossed effects after a draw along a ridge, `(R + held, batch)` as `tail`, from standard
        normal numbers `(D, batch)`.
        """
        k, columns, slopes = ridge
        crossed, population = ladder.standardised(known, tail)
        batch, of_effects, of_root = tail.shape[1], known.roots[1 + k], known.roots[-1]
        p, d = len(population), len(columns)
        eye = torch.zeros(p, d, 1, 1, dtype=tail.dtype, device=tail.device)
        eye[columns, torch.arange(d, device=columns.device)] = 1.0
        ours = torch.stack([unrooted(of_root, x.expand(-1, -1, batch)).squeeze(1) for x in eye.unbind(1)], 1)
        theirs = torch.stack([unrooted(of_effects, x.unsqueeze(2).expand(-1, -1, batch)) for x in slopes.unbind(1)], 1)
        here = population + known.location
        precision = product(ours, ours, transpose=True) + product(theirs, theirs, transpose=True).sum(2)
        right = product(theirs, crossed[k].unsqueeze(1), transpose=True).sum(2)
        right = (right - product(ours, here.unsqueeze(1), transpose=True)).squeeze(1)
        delta = normal_draw(packed(precision), right, noise)  # (D, batch)
        at, start = ladder.slices[k], ladder.grams.n_crossed
        found = tail.clone()
        found[start + columns] += delta
        found[at] -= product(slopes.unsqueeze(3), delta[:, None, None]).flatten(0, 2)
        return found


def _found(k: int, part: Part, x: Tensor, z: Tensor, group: Tensor) -> Ridge | None:
    """Which of the columns `(P, rows)` are sums of a plate's columns `(K, rows)` in each of its groups."""
    width, size = len(z), part.size
    gram = z.new_zeros(size, width, width).index_add_(0, group, z.mT.unsqueeze(2) * z.mT.unsqueeze(1))
    right = z.new_zeros(size, width, len(x)).index_add_(0, group, z.mT.unsqueeze(2) * x.mT.unsqueeze(1))
    slopes = torch.linalg.pinv(gram, hermitian=True) @ right  # (groups, K, P)
    left = x - (z.mT.unsqueeze(2) * slopes[group]).sum(1).mT
    same = (left.abs().amax(1) <= SAME * x.abs().amax(1)) & (x != 0).any(1)
    columns = same.nonzero().flatten()
    return Ridge(k, columns, slopes[:, :, columns].movedim(0, 2).contiguous()) if len(columns) else None
