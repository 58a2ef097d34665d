"""Latent names to one flat unconstrained position and back; the bijections follow from the priors' supports."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint, MixtureSameFamilyConstraint
from torch.distributions.transforms import ComposeTransform, IndependentTransform, Transform

from hiertorch.latent import cast
from hiertorch.support import Bounds, bounds

__all__ = ["Coordinate", "Space", "bijection", "chain_last"]


def bijection(support: Constraint) -> Transform:
    """The map from R^n onto a support: torch's `biject_to`, and own ones where it has none that serves here.

    Raises:
        NotImplementedError: if there is none (a discrete support).
    """
    if isinstance(support, MixtureSameFamilyConstraint):
        return bijection(support.base_constraint)
    if isinstance(support, constraints.independent):
        return IndependentTransform(bijection(support.base_constraint), support.reinterpreted_batch_ndims)
    if support is constraints.corr_cholesky:
        return CorrelationFactor()
    if support is constraints.lower_cholesky:
        return LowerTriangle()
    if support is constraints.positive_definite:
        return ComposeTransform([LowerTriangle(), Gram()])
    return biject_to(support)


class CorrelationFactor(Transform):
    """L_ij = r_ij prod_{k<j} sqrt(1 - r_ik^2), r = tanh(u), r_ii = 1: a Cholesky factor of correlations, row by row.

    log |dL / du| = sum_{i>j} (1 + (i - 1 - j) / 2) log(1 - r_ij^2) (Lewandowski, Kurowicka & Joe 2009, section 2.3).
    The same map as torch's `CorrCholeskyTransform`, without its masks (for which a GPU waits) and its cancellation
    where correlations near 1.
    """

    domain = constraints.real_vector
    codomain = constraints.corr_cholesky
    bijective = True

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

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """From K (K - 1) / 2 to K x K."""
        k = math.isqrt(2 * shape[-1]) + 1
        return torch.Size((*shape[:-1], k, k))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """From K x K to K (K - 1) / 2."""
        return torch.Size((*shape[:-2], shape[-1] * (shape[-1] - 1) // 2))


class LowerTriangle(Transform):
    """L_ij = u_ij below the diagonal, L_ii = exp(u_ii): a Cholesky factor `(..., K, K)`, row by row.

    log |dL / du| = sum_i u_ii.
    """

    domain = constraints.real_vector
    codomain = constraints.lower_cholesky
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        full = _filled(x, math.isqrt(2 * x.shape[-1]), 0)
        return full.tril(-1) + full.diagonal(dim1=-2, dim2=-1).exp().diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        return _entries(y.tril(-1) + y.diagonal(dim1=-2, dim2=-1).log().diag_embed(), 0)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """`(...)`."""
        return y.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """From K (K + 1) / 2 to K x K."""
        k = math.isqrt(2 * shape[-1])
        return torch.Size((*shape[:-1], k, k))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """From K x K to K (K + 1) / 2."""
        return torch.Size((*shape[:-2], shape[-1] * (shape[-1] + 1) // 2))


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


@dataclass(frozen=True)
class Coordinate:
    """Where one latent lives: u in R^(size x event), theta = bijection(u)."""

    name: str
    plate: str | None
    size: int
    event: tuple[int, ...]  # of the constrained value
    free_event: tuple[int, ...]  # of the unconstrained one, shorter for a simplex or a correlation matrix
    bijection: Transform
    bounds: Bounds | None = None  # of its values, which are single numbers; none for simplexes and matrices

    @property
    def width(self) -> int:
        """Unconstrained dimensions for each group."""
        return int(torch.Size(self.free_event).numel())

    @property
    def is_identity(self) -> bool:
        """Whether theta = u, as on the whole real line."""
        return isinstance(self.bijection, ComposeTransform) and not self.bijection.parts

    def at_ends(self, value: Tensor) -> list[Tensor]:
        """Where a value is rounded to an end of its support, each `(chains, size)`: there is no such place in theory,
        and densities of 0/0 in practice. None where that can't be.
        """
        if self.bounds is None or self.is_identity:
            return []
        least, most = (value.flatten(2).amin(-1), value.flatten(2).amax(-1)) if value.dim() > 2 else (value, value)
        return [least <= self.bounds[0], most >= self.bounds[1]]

    @classmethod
    def make(cls, name: str, plate: str | None, size: int, event: tuple[int, ...], support: Constraint) -> "Coordinate":
        """The coordinate of a latent with this event shape and support.

        Raises:
            NotImplementedError: if there is no bijection onto the support (a discrete prior).
        """
        onto = bijection(support)
        free_event = tuple(_free_shape(onto, torch.Size((1, size, *event)))[2:])
        return cls(name, plate, size, event, free_event, onto, bounds(support))


class Space:
    """u = (u_1, ..., u_K) in R^dim <-> theta by name, for any number of chains.

    A flat position is `(chains, dim)`; a latent's part of it is `(chains, size, *free_event)`, groups first.
    """

    def __init__(self, coordinates: Mapping[str, Coordinate]) -> None:
        self.coordinates = dict(coordinates)
        self.slices: dict[str, slice] = {}
        start = 0
        for name, c in self.coordinates.items():
            self.slices[name] = slice(start, start + c.size * c.width)
            start += c.size * c.width
        self.dim = start

    def to(self, device: torch.device, dtype: torch.dtype) -> "Space":
        """The same space; the bounds of its supports lie on another device."""
        return Space({n: replace(c, bijection=cast(c.bijection, device, dtype)) for n, c in self.coordinates.items()})

    def split(self, position: Tensor) -> dict[str, Tensor]:
        """A flat position `(chains, dim)` as unconstrained parts `(chains, size, *free_event)` by name."""
        return {
            name: position[:, self.slices[name]].reshape(position.shape[0], c.size, *c.free_event)
            for name, c in self.coordinates.items()
        }

    def join(self, free: Mapping[str, Tensor]) -> Tensor:
        """Unconstrained parts by name as one flat position `(chains, dim)`."""
        return torch.cat([free[name].flatten(1) for name in self.coordinates], 1)

    def constrain(self, free: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """theta_k = bijection_k(u_k) for the parts given, `(chains, size, *event)`."""
        return {name: self.coordinates[name].bijection(u) for name, u in free.items()}

    def unconstrain(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """u_k = bijection_k^-1(theta_k) for the values given, `(chains, size, *free_event)`."""
        return {name: self.coordinates[name].bijection.inv(x) for name, x in values.items()}


def _free_shape(onto: Transform, shape: torch.Size) -> torch.Size:
    """The shape of what a transform maps onto values of this shape.

    Asked for that of a map of single numbers, torch imports a computer algebra system, which takes half a second.
    """
    if isinstance(onto, IndependentTransform):
        return _free_shape(onto.base_transform, shape)
    if isinstance(onto, ComposeTransform):
        for part in reversed(onto.parts):
            shape = _free_shape(part, shape)
        return shape
    return shape if onto.codomain.event_dim == 0 else onto.inverse_shape(shape)


def chain_last(x: Tensor) -> Tensor:
    """The same `(chains, ...)` tensor, laid out so that a group's values of all chains are neighbours in memory.

    Reading effects row by row, `v.alpha[:, data.school]`, then copies whole runs of chains: four times faster
    for 32 chains of 12,573 rows.
    """
    return x.movedim(0, -1).contiguous().movedim(-1, 0)
