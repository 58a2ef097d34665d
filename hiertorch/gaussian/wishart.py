"""Inverse Wishart distributions as independent normal numbers of a Cholesky factor.

    Sigma = R R',   R = M T'^-1,     T upper triangular, T_ij ~ N(0, 1) for i < j,  T_ii^2 ~ chi-squared(nu - K + i)

is Sigma ~ inverse Wishart(nu, M M') (Bartlett 1933; Anderson 2003, An Introduction to Multivariate Statistical
Analysis, section 7.2), of which R is a lower triangle without any factorisation. In place of the chi-squared numbers
are those whose cube roots are normal (Wilson & Hilferty 1931), a change of variables whose density is known: nothing
but normal numbers is drawn, of which each R is a function, and back.
"""

from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor


class InverseWishart(NamedTuple):
    """Of each of a batch.

    Attributes:
        scale: M, lower triangular, `(batch, K, K)`.
        freedom: nu, above K - 1, `()`.
    """

    scale: Tensor
    freedom: Tensor

    @property
    def _each(self) -> Tensor:
        """Degrees of freedom of the numbers on the diagonal, `(K,)`."""
        k = self.scale.shape[-1]
        return self.freedom + torch.arange(1 - k, 1, dtype=self.scale.dtype, device=self.scale.device)

    def placed(self, numbers: Tensor) -> Tensor:
        """R `(batch, K, K)` of standard normal numbers `(batch, K (K + 1) / 2)`, the diagonal's first; NaN where a cube
        root is negative.
        """
        k, each = self.scale.shape[-1], self._each
        root = 1.0 - 2.0 / (9.0 * each) + (2.0 / (9.0 * each)).sqrt() * numbers[:, :k]
        diagonal = each.sqrt() * torch.where(root > 0.0, root, torch.nan).pow(1.5)
        i, j = torch.tril_indices(k, k, -1, device=numbers.device)
        below = numbers.new_zeros(len(numbers), k * k).index_copy(1, i * k + j, numbers[:, k:])
        turned = below.unflatten(1, (k, k)) + diagonal.diag_embed()  # T'
        return torch.linalg.solve_triangular(turned, self.scale, upper=False, left=False)

    def log_density(self, root: Tensor) -> Tensor:
        """log density of R `(batch, K, K)`, of its lower triangle, up to a constant of the batch's own: `(batch,)`."""
        turned = torch.linalg.solve_triangular(root, self.scale, upper=False)  # T'
        return self._of_numbers(turned) - self.log_volume

    def _of_numbers(self, turned: Tensor) -> Tensor:
        """log density of T'^-1."""
        k, each = self.scale.shape[-1], self._each
        diagonal = turned.diagonal(dim1=-2, dim2=-1)
        spread = 2.0 / (9.0 * each)
        cube = (diagonal / each.sqrt()).pow(2.0 / 3.0)
        score = (cube - 1.0 + spread) * spread.rsqrt()
        slope = (2.0 / 3.0) * cube / diagonal * spread.rsqrt()  # d score / d T_ii
        square = turned.square().sum((-2, -1)) - diagonal.square().sum(-1) + score.square().sum(-1)
        constant = 0.25 * k * (k + 1) * log(2.0 * pi)
        return slope.log().sum(-1) + (k + 1) * diagonal.log().sum(-1) - 0.5 * square - constant

    @property
    def log_volume(self) -> Tensor:
        """log |d R / d T'^-1|, `(batch,)`."""
        k = self.scale.shape[-1]
        powers = torch.arange(1, k + 1, dtype=self.scale.dtype, device=self.scale.device)
        return (powers * self.scale.diagonal(dim1=-2, dim2=-1).log()).sum(-1)


def polar(root: Tensor) -> tuple[Tensor, Tensor]:
    """Scales `(batch, K)` and the root of the correlations `(batch, K, K)` of a root R = diag(scales) L."""
    scales = torch.linalg.vector_norm(root, dim=-1)
    return scales, root / scales.unsqueeze(-1)


def log_polar_volume(scales: Tensor, unit: Tensor) -> Tensor:
    """log |d R / d (scales, L below its diagonal)|, `(batch,)`: sum_i (i - 1) log s_i - log L_ii."""
    powers = torch.arange(scales.shape[-1], dtype=scales.dtype, device=scales.device)
    return (powers * scales.log()).sum(-1) - unit.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def turned(root: Tensor, order: Tensor) -> Tensor:
    """The root `(n, K, K)` of the same covariances with effects in another order."""
    other = root[:, order]
    return torch.linalg.cholesky_ex(other @ other.mT)[0]


def log_gram_volume(root: Tensor) -> Tensor:
    """log |d Sigma / d R| up to a constant, `(n,)`: sum_i (K + 1 - i) log R_ii."""
    k = root.shape[-1]
    return root.diagonal(dim1=1, dim2=2).log() @ torch.arange(k, 0, -1, dtype=root.dtype, device=root.device)


def log_normal(root: Tensor, scatter: Tensor, number: int) -> Tensor:
    """sum_j log N(x_j; 0, R R') of so many x_j, up to a constant, from sum_j x_j x_j' `(batch, K, K)`: `(batch,)`."""
    turned = torch.linalg.solve_triangular(root, scatter, upper=False)
    whole = torch.linalg.solve_triangular(root, turned.mT, upper=False)
    trace = whole.diagonal(dim1=-2, dim2=-1).sum(-1)
    return -number * root.diagonal(dim1=-2, dim2=-1).log().sum(-1) - 0.5 * trace
