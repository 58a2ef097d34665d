"""Independence proposals of scales, correlations and others: a Student distribution, folded where it crosses 0.

    x = |m + R t|,  u = log x      of scales;      u = m + R t      of others;      t ~ Student(8 degrees of freedom)

Near 0 a posterior of a scale has a finite density, as the folded distribution has, so that the ratio of both is
bounded; a Student distribution of log x would run out far too soon (Tierney 1994, section 2.3.3, on why the ratio
matters). Of a scale that lies AWAY from 0, whose posterior is skewed as a rule, the logarithm is proposed as others
are, where its draws are more probable so; each fit decides by the draws that it is given.

docs/decisions.md: Scales far from 0 by their logarithms.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import product
from math import lgamma, log, pi

import torch
from torch import Tensor

FREEDOM = 8
"""Degrees of freedom."""

MOST_FOLDED = 6
"""Scales whose signs are summed over, 2^6 patterns; of more none is folded, and logarithms are proposed."""

AWAY = 2.0
"""Standard deviations that the mean of a scale is away from 0 at least, where its logarithm is proposed."""

SMALLEST = 1e-12
"""Of a proposed scale, whose logarithm must be a number."""


class Folded:
    """q(u) of unconstrained places `(n, d)`.

    Args:
        scales: which of the d are logarithms of scales.
    """

    def __init__(self, scales: Sequence[bool]) -> None:
        few = sum(scales) <= MOST_FOLDED
        self.folded = [i for i, scale in enumerate(scales) if scale and few]
        self.width = len(scales)

    def fit(self, draws: Tensor, wider: float = 1.0, sets: int = 1) -> dict[str, Tensor]:
        """Mean `(sets, d)` and root of the covariance `(sets, d, d)` of draws `(n, d)`, which belong to the sets in
        turn; logarithms of scales taken back where these are folded, `(d,)`, as one is that is near 0 in any set.
        """
        each = draws.unflatten(0, (-1, sets))
        near = _near(each).any(0)
        mine = torch.tensor([i in self.folded for i in range(self.width)], dtype=torch.bool, device=draws.device)
        folds = mine & near
        x = _natural(each, folds).transpose(0, 1)  # (sets, n, d)
        mean = x.mean(1)
        centred = x - mean.unsqueeze(1)
        covariance = wider**2 * centred.mT @ centred / max(1, x.shape[1] - 1)
        floor = torch.finfo(x.dtype).tiny + 1e-10 * covariance.diagonal(dim1=1, dim2=2).clamp(min=1e-20)
        return {"mean": mean, "root": torch.linalg.cholesky(covariance + floor.diag_embed()), "folds": folds}

    def draw(self, tuning: Mapping[str, Tensor], number: int, generator: torch.Generator) -> Tensor:
        """`(number, d)`."""
        root = tuning["root"]
        normal = torch.randn(number, self.width, generator=generator, dtype=root.dtype, device=root.device)
        uniform = torch.rand(FREEDOM // 2, number, generator=generator, dtype=root.dtype, device=root.device)
        return self.placed(tuning, normal, 1.0 - uniform)

    def placed(self, tuning: Mapping[str, Tensor], normal: Tensor, uniform: Tensor) -> Tensor:
        """The same of standard normal numbers `(number, d)` and uniform ones on (0, 1], `(FREEDOM / 2, number)`."""
        mean, root = tuning["mean"], tuning["root"]
        chi = -2.0 * uniform.log().sum(0)  # chi-squared
        x = (mean + _by_set(normal * (FREEDOM / chi).sqrt().unsqueeze(1), root)).flatten(0, 1)
        if not self.folded:
            return x
        return torch.where(tuning["folds"], x.abs().clamp(min=SMALLEST).log(), x)

    def log_density(self, tuning: Mapping[str, Tensor], u: Tensor) -> Tensor:
        """log q(u), `(n,)`."""
        mean, root, d = tuning["mean"], tuning["root"], self.width
        x = _natural(u, tuning["folds"]) if self.folded else u
        inverse = torch.linalg.solve_triangular(root, torch.eye(d, dtype=x.dtype, device=x.device), upper=False)
        mean = mean.repeat(len(x) // len(mean), 1)
        constant = lgamma((FREEDOM + d) / 2) - lgamma(FREEDOM / 2) - 0.5 * d * log(FREEDOM * pi)
        each = []
        for signs in product((1.0, -1.0), repeat=len(self.folded)):  # where one is not folded, all that twice
            turned = x
            if self.folded:
                turned = x.clone()
                for i, sign in zip(self.folded, signs, strict=True):
                    turned[:, i] *= torch.where(tuning["folds"][i], sign, 1.0)
            each.append(torch.log1p(_by_set(turned - mean, inverse).square().sum(2) / FREEDOM))
        total = reduce(torch.logaddexp, [x.mul_(-0.5 * (FREEDOM + d)) for x in each])  # (n / sets, sets)
        total = (total - root.diagonal(dim1=1, dim2=2).log().sum(1)).flatten()
        if self.folded:
            folds = tuning["folds"]
            twice = len(self.folded) - folds.to(total.dtype).sum()
            total = total + torch.where(folds, u, 0.0).sum(1) - log(2.0) * twice
        return constant + total


def _near(u: Tensor) -> Tensor:
    """Whether logarithms u `(n, sets, d)` of scales are those of scales near 0, `(sets, d)`: less than AWAY from it, or
    with a higher density on average under a folded Student distribution of their moments than of those of u.
    """
    if not u.numel():
        return u.new_zeros(u.shape[1:], dtype=torch.bool)
    x = u.exp()
    (m, s), (middle, width) = ((y.mean(0), y.std(0, correction=min(1, len(y) - 1))) for y in (x, u))

    def log_student(z: Tensor) -> Tensor:
        return -0.5 * (FREEDOM + 1) * torch.log1p(z.square() / FREEDOM)

    folded = torch.logaddexp(log_student((x - m) / s), log_student((x + m) / s)) - s.log() + u
    better = folded.mean(0) > (log_student((u - middle) / width) - width.log()).mean(0)
    return better | (m < AWAY * s)


def _natural(u: Tensor, folds: Tensor) -> Tensor:
    """Scales where they are folded, `(d,)`; logarithms and others as they are."""
    return torch.where(folds, u.exp(), u)


def _by_set(x: Tensor, matrix: Tensor) -> Tensor:
    """M x of each `(n, d)` by the matrix `(sets, d, d)` of its set: `(n / sets, sets, d)`."""
    if len(matrix) == 1:
        return (x @ matrix[0].mT).unsqueeze(1)
    return torch.einsum("nsd,sed->nse", x.unflatten(0, (-1, len(matrix))), matrix)
