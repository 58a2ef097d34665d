"""Ridges: directions in which coefficients and the effects of a crossed plate move and no row changes.

    r + T d,   x_j - a_j d:     X T = Z_j a_j in all rows of group j

A mean and the effects around it, or the coefficient of what is constant by group and these groups' effects. Nor does
any row change where one column has effects of two plates, and those of a set of groups go up, and those of the other
plate's groups in the same rows down: lecturers, and the department that all of them belong to. Only the
priors tell such places apart, and these are normal: so d is drawn from its own conditional distribution, without a pass
over the rows. Moves of coefficients given effects and of effects given coefficients go along ridges in small steps.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from itertools import product as product_of
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.gaussian.affine import Affine, Part
from hiertorch.gaussian.cholesky import normal_draw, packed, product, unrooted
from hiertorch.gaussian.crosswise import Crosswise, Known

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

    @property
    def width(self) -> int:
        """Directions."""
        return len(self.columns)


class Pairing(NamedTuple):
    """Of the k-th crossed plate and the m-th, whose effects i and j have the same column; sets of groups of both that
    no row connects.

    Attributes:
        k, m, i, j: see above.
        of_k: the set of each group of the first,
        of_m: and of the second.
        width: how many sets there are, each of them a direction.
    """

    k: int
    m: int
    i: int
    j: int
    of_k: Tensor
    of_m: Tensor
    width: int


class Ridges:
    """See the module.

    Args:
        affine: whose columns are looked at.
        ladder: on any sites.
    """

    def __init__(self, affine: Affine, ladder: Crosswise) -> None:
        self.found: list[Ridge | Pairing] = []
        data, population = affine.composed.data, ladder.grams.population
        _, designs = affine.composed.design(affine.anchor, data)
        if not affine.turning and not affine.slots:
            self.found += _pairings(ladder.crossed, designs, [data[str(part.plate)] for part in ladder.crossed])
        if population is None or None in affine.turning:
            return
        for k, part in enumerate(ladder.crossed):
            if part.plate not in affine.turning:
                ridge = _found(k, part, designs[None], designs[part.plate], data[str(part.plate)])
                if ridge is not None:
                    self.found.append(ridge)

    def draw(self, ridge: Ridge | Pairing, ladder: Crosswise, known: Known, tail: Tensor, noise: Tensor) -> Tensor:
        """Coefficients and crossed effects after a draw along a ridge, `(R + held, batch)` as `tail`, from standard
        normal numbers `(D, batch)`.
        """
        if isinstance(ridge, Pairing):
            return _paired(ridge, ladder, known, tail, noise)
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


def _paired(ridge: Pairing, ladder: Crosswise, known: Known, tail: Tensor, noise: Tensor) -> Tensor:
    """What `Ridges.draw` gives for two plates: sets are independent of each other, as groups are in their priors."""
    crossed, _ = ladder.standardised(known, tail)
    precision, right, found = torch.zeros_like(noise), torch.zeros_like(noise), tail.clone()
    both = ((ridge.k, ridge.i, ridge.of_k, 1.0), (ridge.m, ridge.j, ridge.of_m, -1.0))
    for plate, effect, sets, sign in both:
        along = torch.zeros_like(crossed[plate])
        along[effect] = sign
        unit = unrooted(known.roots[1 + plate], along)  # (K, groups, batch)
        precision = precision.index_add(0, sets, unit.square().sum(0))
        right = right.index_add(0, sets, -(unit * crossed[plate]).sum(0))
    delta = right / precision + noise * precision.rsqrt()
    for plate, effect, sets, sign in both:
        size = ladder.crossed[plate].size
        start = ladder.slices[plate].start + effect * size
        found[start : start + size] += sign * delta[sets]
    return found


def _pairings(parts: Sequence[Part], designs: Mapping[str | None, Tensor], groups: Sequence[Tensor]) -> list[Pairing]:
    """Of any two crossed plates, where sets of their groups do not touch."""
    found = []
    for k, m in combinations(range(len(parts)), 2):
        of_k, of_m = _connected(groups[k], groups[m], parts[k].size, parts[m].size)
        columns = [designs[parts[n].plate] for n in (k, m)]
        for i, j in product_of(*(range(len(x)) for x in columns)):
            if torch.equal(columns[0][i], columns[1][j]):
                found.append(Pairing(k, m, i, j, of_k, of_m, int(max(of_k.max(), of_m.max())) + 1))
    return found


def _connected(first: Tensor, second: Tensor, sizes: int, others: int) -> tuple[Tensor, Tensor]:
    """The set of each group of two plates, of which each row `(rows,)` connects two, numbered from 0."""
    of_first, of_second = (torch.arange(n, device=first.device) + at for n, at in ((sizes, 0), (others, sizes)))
    while True:
        before = of_first
        of_second = of_second.scatter_reduce(0, second, of_first[first], "amin")
        of_first = of_first.scatter_reduce(0, first, of_second[second], "amin")
        if torch.equal(of_first, before):
            _, number = torch.cat([of_first, of_second]).unique(return_inverse=True)
            return number[:sizes], number[sizes:]
