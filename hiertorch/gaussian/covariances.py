"""Which latents are the scales and correlations of the effects of a plate: the prior covariance of these is D L L' D.

    e_g ~ N(m, D L L' D) for all groups g,     D = diag(s), L the root of a correlation matrix

That the root of a prior is diag(s) L is seen at probes of the rest. What moves s and L given effects looks again, at
each place (`hiertorch.run.giveneffects`): nothing hangs on the probes but speed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hiertorch.density.space import Coordinate
from hiertorch.gaussian.affine import Affine, Part
from hiertorch.model.bijections import CorrelationFactor
from hiertorch.model.reads import Reads

MOVED = 4
"""Effects of a covariance that are moved in a sweep of a whitened model, at two passes over the rows each."""

SAME = 1e-9
"""Relative difference of two roots that are the same."""


@dataclass(frozen=True)
class Covariance:
    """Of some effects of a plate, which are independent of its others.

    Attributes:
        part: the effects of the plate.
        at: which of the numbers of each group.
        scales: (latent, place among its numbers) of each s.
        correlation: the latent L; None of one effect.
    """

    part: Part
    at: slice
    scales: tuple[tuple[str, int], ...]
    correlation: str | None

    @property
    def width(self) -> int:
        """How many effects of each group."""
        return len(self.scales)

    @property
    def dimensions(self) -> int:
        """Of scales and correlations."""
        return self.width * (self.width + 1) // 2

    @property
    def latents(self) -> tuple[str, ...]:
        """All latents of which it has numbers."""
        own = dict.fromkeys(name for name, _ in self.scales)
        return (*own, *([self.correlation] if self.correlation is not None else []))

    def root(self, values: Mapping[str, Tensor]) -> Tensor:
        """diag(s) L of values `(batch, 1, *event)`, `(batch, K, K)`."""
        s = torch.stack([values[name].flatten(1)[:, i] for name, i in self.scales], 1)
        return s.diag_embed() if self.correlation is None else s.unsqueeze(2) * values[self.correlation][:, 0]

    def values(self, values: Mapping[str, Tensor], scales: Tensor, unit: Tensor) -> dict[str, Tensor]:
        """The latents with other scales `(batch, K)` and another L `(batch, K, K)`."""
        found = {name: values[name].flatten(1).clone() for name, _ in self.scales}
        for k, (name, i) in enumerate(self.scales):
            found[name][:, i] = scales[:, k]
        found = {name: x.reshape(values[name].shape) for name, x in found.items()}
        return found if self.correlation is None else {**found, self.correlation: unit.unsqueeze(1)}


def covariances_of(affine: Affine, reads: Reads, coordinates: Mapping[str, Coordinate]) -> tuple[Covariance, ...]:
    """Those of the effects of a model; of effects whose prior is made otherwise there is none.

    Args:
        affine: the model.
        reads: who reads whom in it.
        coordinates: of its latents.
    """
    if affine.turning:  # then columns may read scales
        return ()
    linear = affine.composed.part
    held, taken = {name for name, _ in affine.held}, set[tuple[str, int]]()
    numbers = {
        (name, i): affine.probes[name].flatten(1)[:, i]
        for name in affine.rest
        if name not in reads.likelihood and name not in held and coordinates[name].plate is None
        and (coordinates[name].bounds or (1.0, 1.0))[0] == 0.0
        for i in range(coordinates[name].width)
    }  # fmt: skip
    found = []
    for part in affine.composed.parts:
        if part.plate is None:
            continue
        probes = len(next(iter(affine.probes.values()))) if affine.probes else 0
        whole = affine.roots(part, affine.probes, probes)
        start = 0
        for effect, width in part.widths.items():
            at, start = slice(start, start + width), start + width
            alone = {
                n
                for n in reads.priors[effect]
                if all(n not in reads.priors[other] for other in linear if other != effect)
            }
            if whole.shape[2] != 1:
                continue
            root = whole[at, at, 0].movedim(2, 0)  # (probes, K, K)
            own = {key: x for key, x in numbers.items() if key[0] in alone and key not in taken}
            for one in _of_effect(part, at, root, own, alone, affine, coordinates):
                taken.update(one.scales)
                found.append(one)
    return tuple(found)


def _of_effect(
    part: Part,
    at: slice,
    root: Tensor,
    numbers: Mapping[tuple[str, int], Tensor],
    readable: set[str],
    affine: Affine,
    coordinates: Mapping[str, Coordinate],
) -> Iterator[Covariance]:
    """Of one latent's effects, with the root of their prior at the probes."""
    k = root.shape[1]
    factors = {
        name: affine.probes[name][:, 0]
        for name in readable
        if name in affine.rest and isinstance(coordinates[name].bijection, CorrelationFactor)
        and coordinates[name].event == (k, k) and coordinates[name].plate is None
    }  # fmt: skip
    for name, unit in factors.items():
        s = root.diagonal(dim1=1, dim2=2) / unit.diagonal(dim1=1, dim2=2)
        if _same(root, s.unsqueeze(2) * unit):
            scales = [_number(s[:, i], numbers) for i in range(k)]
            if None not in scales and len(set(scales)) == k:
                yield Covariance(part, at, tuple(x for x in scales if x is not None), name)
            return
    diagonal = root.diagonal(dim1=1, dim2=2)
    if k > 1 and not _same(root, diagonal.diag_embed()):
        return
    scales = [_number(diagonal[:, i], numbers) for i in range(k)]
    if None in scales or len(set(scales)) < k:
        return
    for i, scale in enumerate(scales):
        if scale is not None:
            yield Covariance(part, slice(at.start + i, at.start + i + 1), (scale,), None)


def _number(x: Tensor, numbers: Mapping[tuple[str, int], Tensor]) -> tuple[str, int] | None:
    """The number that is x at all probes."""
    return next((key for key, own in numbers.items() if _same(x, own)), None)


def _same(x: Tensor, y: Tensor) -> bool:
    return bool(((x - y).abs() <= SAME * (x.abs() + y.abs())).all())
