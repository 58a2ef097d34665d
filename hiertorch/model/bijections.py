"""The map from R^n onto a support: torch's, and own ones where it has none that serves here."""

import math

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint, MixtureSameFamilyConstraint
from torch.distributions.transforms import ComposeTransform, IndependentTransform, Transform


def bijection(support: Constraint) -> Transform:
    """The map from R^n onto a support: torch's `biject_to`, and own ones where it has none that serves here.

    Raises:
        NotImplementedError: if there is none (a discrete support).
    """
    if isinstance(support, MixtureSameFamilyConstraint):
        return bijection(support.base_constraint)
    if isinstance(support, constraints.independent):
        return IndependentTransform(bijection(support.base_constraint), support.reinterpreted_batch_ndims)
    if isinstance(support, OrderedVector):
        return ComposeTransform([Ascending(), IndependentTransform(bijection(support.base), 1)])
    if support is constraints.simplex:
        return LogRatios()
    if support is constraints.corr_cholesky:
        return CorrelationFactor()
    if support is constraints.lower_cholesky:
        return LowerTriangle()
    if support is constraints.positive_definite:
        return ComposeTransform([LowerTriangle(), Gram()])
    return biject_to(support)


class OrderedVector(Constraint):
    """x_1 < x_2 < ... < x_K, each of them in `base`: all real numbers, those above a bound, or those between two."""

    event_dim = 1

    def __init__(self, base: Constraint = constraints.real) -> None:
        self.base = base
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """`(...)` of bool for `(..., K)`."""
        return self.base.check(value).all(-1) & (value.diff(dim=-1) > 0).all(-1)


class Ascending(Transform):
    """x_1 = u_1, x_k = x_{k-1} + exp(u_k): a vector whose entries ascend, with log |dx / du| = sum_{k>1} u_k (Stan
    reference manual, "Ordered vector").
    """

    domain = constraints.real_vector
    codomain = OrderedVector()
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., :1], x[..., 1:].exp()], -1).cumsum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.cat([y[..., :1], y.diff(dim=-1).log()], -1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """The same."""
        return shape

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """The same."""
        return shape

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """`(...)`."""
        return x[..., 1:].sum(-1)


class LogRatios(Transform):
    """x = softmax(V u), V' V = I, V' 1 = 0: shares of K by K - 1 numbers, u = V' log x, the isometric log-ratio
    transform (Egozcue, Pawlowsky-Glahn, Mateu-Figueras & Barcelo-Vidal 2003) with Helmert's contrasts.

    log |d(x_1, ..., x_{K-1}) / du| = sum_k log x_k + log(K) / 2. No share is made of what others leave, so that small
    ones are exact wherever they stand.
    """

    domain = constraints.real_vector
    codomain = constraints.simplex
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return (x @ _contrasts(x.shape[-1], x)).softmax(-1).clamp(min=torch.finfo(x.dtype).tiny)

    def _inverse(self, y: Tensor) -> Tensor:
        return y.clamp(min=torch.finfo(y.dtype).tiny).log() @ _contrasts(y.shape[-1] - 1, y).mT

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """One more."""
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """One fewer."""
        return torch.Size((*shape[:-1], shape[-1] - 1))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """`(...)`."""
        k = x.shape[-1]
        return (x @ _contrasts(k, x)).log_softmax(-1).sum(-1) + 0.5 * math.log(k + 1)


def _contrasts(k: int, like: Tensor) -> Tensor:
    """V' `(k, k + 1)`: row j - 1 has 1 up to entry j, -j behind it, and length 1."""
    j = torch.arange(1, k + 1, dtype=like.dtype, device=like.device).unsqueeze(1)
    at = torch.arange(1, k + 2, dtype=like.dtype, device=like.device)
    return ((at <= j).to(like) - j * (at == j + 1)) * (j * (j + 1)).rsqrt()


class _RowByRow(Transform):
    """Matrices K x K of numbers up to a diagonal: -1 the first below the main one, 0 this itself."""

    domain = constraints.real_vector
    bijective = True
    diagonal = 0

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """From the numbers to K x K."""
        k = math.isqrt(2 * shape[-1]) - self.diagonal
        return torch.Size((*shape[:-1], k, k))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """From K x K to the numbers."""
        return torch.Size((*shape[:-2], shape[-1] * (shape[-1] + 1 + 2 * self.diagonal) // 2))


class CorrelationFactor(_RowByRow):
    """L_ij = r_ij prod_{k<j} sqrt(1 - r_ik^2), r = tanh(u), r_ii = 1: a Cholesky factor of correlations, row by row.

    log |dL / du| = sum_{i>j} (1 + (i - 1 - j) / 2) log(1 - r_ij^2) (Lewandowski, Kurowicka & Joe 2009, section 2.3).
    The same map as torch's `CorrCholeskyTransform`, without its masks (for which a GPU waits) and its cancellation
    where correlations near 1.
    """

    codomain = constraints.corr_cholesky
    diagonal = -1

    def _call(self, x: Tensor) -> Tensor:
        k = self.forward_shape(x.shape)[-1]
        half = _filled(0.5 * _log_sech2(x), k, -1)
        before = half.cumsum(-1) - half  # log prod_{k<j} sqrt(1 - r_ik^2)
        return (_filled(x.tanh(), k, -1) + torch.eye(k, dtype=x.dtype, device=x.device)) * before.exp()

    def _inverse(self, y: Tensor) -> Tensor:
        later = y.square().flip(-1).cumsum(-1).flip(-1)[..., 1:]  # sum_{k>j} L_ik^2 = L_ij^2 / sinh(u_ij)^2
        return _entries(y[..., :-1] / later.clamp(min=torch.finfo(y.dtype).tiny).sqrt(), -1).asinh()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """`(...)`."""
        i, j = torch.tril_indices(y.shape[-1], y.shape[-1], -1, device=x.device)
        return ((1.0 + 0.5 * (i - 1 - j)) * _log_sech2(x)).sum(-1)


class LowerTriangle(_RowByRow):
    """L_ij = u_ij below the diagonal, L_ii = exp(u_ii): a Cholesky factor `(..., K, K)`, row by row.

    log |dL / du| = sum_i u_ii.
    """

    codomain = constraints.lower_cholesky

    def _call(self, x: Tensor) -> Tensor:
        full = _filled(x, self.forward_shape(x.shape)[-1], 0)
        return full.tril(-1) + full.diagonal(dim1=-2, dim2=-1).exp().diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        return _entries(y.tril(-1) + y.diagonal(dim1=-2, dim2=-1).log().diag_embed(), 0)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """`(...)`."""
        return y.diagonal(dim1=-2, dim2=-1).log().sum(-1)


class Gram(Transform):
    """S = L L', with log |dS / dL| = K log 2 + sum_{i=1..K} (K + 1 - i) log L_ii."""

    domain = constraints.lower_cholesky
    codomain = constraints.positive_definite
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return x @ x.mT

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.linalg.cholesky(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """`(...)`."""
        k = x.shape[-1]
        powers = torch.arange(k, 0, -1, device=x.device, dtype=x.dtype)
        return k * math.log(2.0) + (powers * x.diagonal(dim1=-2, dim2=-1).log()).sum(-1)


def _filled(entries: Tensor, k: int, diagonal: int) -> Tensor:
    """Entries up to a diagonal, row by row, in a K x K matrix of zeros."""
    i, j = torch.tril_indices(k, k, diagonal, device=entries.device)
    return entries.new_zeros(*entries.shape[:-1], k * k).index_copy(-1, i * k + j, entries).unflatten(-1, (k, k))


def _entries(matrix: Tensor, diagonal: int) -> Tensor:
    """The entries of a matrix (of rows x columns) up to a diagonal, row by row."""
    rows, columns = matrix.shape[-2:]
    i, j = torch.tril_indices(rows, columns, diagonal, device=matrix.device)
    return matrix.flatten(-2).index_select(-1, i * columns + j)


def _log_sech2(x: Tensor) -> Tensor:
    """log(1 - tanh(x)^2), exact where tanh(x) rounds to 1."""
    size = x.abs()
    return 2.0 * (math.log(2.0) - size - torch.nn.functional.softplus(-2.0 * size))
