"""What rows and priors tell about the effects of each group: precision matrices by group, for any model.

Note [Information]
    The variance of a group's effects is the inverse of a precision: P before the data, P + I_j after, where I_j sums
    over the group's rows the expected (Fisher) information about its effects. For Gaussian rows this is exact;
    otherwise it is the normal approximation of Laplace at each draw. Where the expected information of a likelihood is
    not known here, the observed one stands for it, minus the second derivative of the log density. A prior that is not
    normal enters by its mean and variance.
    All are second derivatives by autograd of one function: of a sum of squares -1/2 I(theta_0) (theta - theta_0)^2 for
    each parameter theta of each distribution, whose curvature at theta_0 is the information.

docs/decisions.md: Effects of a model are one object.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, distributions
from torch.distributions import Distribution, Independent, MultivariateNormal

from hiertorch.data.table import Data
from hiertorch.model.declared import overrides
from hiertorch.model.densities import weighted
from hiertorch.model.intervals import plain_bounds
from hiertorch.model.model import Model

Blocks = dict[tuple[str, str], Tensor]
"""(coarser plate, finer or same plate) -> minus the second derivatives, `(draws, finer groups, K coarser, K finer)`."""

SCORE = ""
"""In the place of the coarser plate: first derivatives, `(draws, groups, 1, K)`."""


@dataclass(frozen=True)
class Effects:
    """The effects of each grouping, of a model and the data that it was fitted to."""

    model: Model
    data: Data
    names: Mapping[str, Sequence[str]]  # plate -> names of its effects

    @classmethod
    def found(cls, model: Model, data: Data, priors: Mapping[str, Distribution]) -> Self:
        """Those on the real line whose prior has a variance, given examples of the latents' priors."""
        names: dict[str, list[str]] = {}
        for name, latent in model.latents.items():
            prior = priors.get(name)
            if latent.plate is not None and prior is not None and _varies(prior):
                names.setdefault(latent.plate, []).append(name)
        return cls(model, data, names)

    def nest(self, plate: str) -> list[str]:
        """Plates with effects that nest in one another and all in this one, the finest first and this one last."""
        data = self.data
        inner = [p for p in self.names if p != plate and data.nests(p, plate) and not data.nests(plate, p)]
        nest: list[str] = [plate]
        for p in sorted(inner, key=data.size):
            if data.nests(p, nest[0]):
                nest.insert(0, p)
        return nest

    def leaves(self, v: Mapping[str, Tensor], plates: Sequence[str]) -> dict[str, Tensor]:
        """Values, of which the effects of these plates are differentiated for."""
        return {**v, **{name: v[name].detach().clone().requires_grad_() for p in plates for name in self.names[p]}}

    def prior_terms(self, v: Mapping[str, Tensor], plates: Sequence[str]) -> list[Tensor]:
        """What is differentiated of the priors of the effects of some plates, `()` each: see `pull`."""
        model, values = self.model, self.model.values(v)
        return [pull(model.prior(name, values, self.data), v[name]).sum() for p in plates for name in self.names[p]]


def prior_mean(distribution: Distribution) -> Tensor:
    """Its mean, or where it has none (Cauchy) its location."""
    mean = distribution.mean
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    return getattr(base, "loc", mean) if bool(mean.isnan().any()) else mean


def _varies(distribution: Distribution) -> bool:
    """Whether a prior is for numbers on the whole real line, and its variance is known and finite."""
    try:
        return plain_bounds(distribution) == (-math.inf, math.inf) and bool(distribution.variance.isfinite().all())
    except NotImplementedError:
        return False


def _row_term(effects: Effects, v: Mapping[str, Tensor]) -> Tensor:
    """What is differentiated of the rows, see Note [Information]: `()`."""
    model, data, values = effects.model, effects.data, effects.model.values(v)
    if overrides(model, "log_likelihood"):
        return weighted(model.log_likelihood(values, data), data.weights).sum()
    each = _quadratic(model.likelihood(values, data), data.y)
    shape = np.broadcast_shapes(each.shape, (1, data.n_rows))  # torch's own imports sympy, which takes 0.2 s
    draws = len(next(iter(v.values())))
    return weighted(each.expand(shape), data.weights).sum() * (draws // shape[0])


def _quadratic(d: Distribution, y: Tensor) -> Tensor:
    """A function of the parameters whose curvature is the expected information of each row, `(draws, rows)`."""
    one = distributions
    if isinstance(d, one.Normal):
        return -0.5 * _square(d.loc) / d.scale.detach().square() - _square(d.scale.log())
    if isinstance(d, one.StudentT):  # Lange, Little & Taylor 1989, section 3
        df = d.df.detach()
        return -0.5 * (df + 1) / (df + 3) * _square(d.loc) / d.scale.detach().square()
    if isinstance(d, one.Bernoulli | one.Binomial):
        p = d.logits.detach().sigmoid()
        trials = d.total_count if isinstance(d, one.Binomial) else 1.0
        return -0.5 * trials * p * (1 - p) * _square(d.logits)
    if isinstance(d, one.Poisson):
        return -0.5 * _square(d.rate) / d.rate.detach()
    if isinstance(d, one.NegativeBinomial):
        information = d.total_count * d.logits.detach().sigmoid()  # phi m / (phi + m) about log m
        return -0.5 * information.detach() * _square(d.logits)
    return d.log_prob(y)


def _square(parameter: Tensor) -> Tensor:
    return (parameter - parameter.detach()).square()


def pull(d: Distribution, value: Tensor) -> Tensor:
    """-1/2 (e - m)' S^-1 (e - m) of a prior with mean m and variance S, which are what is known of it."""
    if isinstance(d, Independent):
        return pull(d.base_dist, value)
    if isinstance(d, MultivariateNormal):
        centred = (value - d.loc).unsqueeze(-1)
        root = d.scale_tril.detach().expand(*centred.shape[:-2], -1, -1)
        return -0.5 * torch.linalg.solve_triangular(root, centred, upper=False).square()
    return -0.5 * (value - prior_mean(d)).square() / d.variance.detach()


def gradient(of: Tensor, leaves: list[Tensor], *, again: bool = False) -> Tensor:
    """First derivatives, `(draws, groups, K)`; `again` says that they are differentiated in turn."""
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if of.requires_grad:
        found = torch.autograd.grad(of, leaves, allow_unused=True, retain_graph=True, create_graph=again)
    parts = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]
    return torch.cat([x.unsqueeze(-1).flatten(2) for x in parts], -1)


def blocks_of(
    effects: Effects,
    v: Mapping[str, Tensor],
    nest: Sequence[str],
    priors: Sequence[str],
    *,
    rows: bool = True,
    signs: Tensor | None = None,
) -> Blocks:
    """Precisions of the effects of a nest of plates (`Effects.nest`) given the rest, by rows and the priors of some
    plates. Sums over groups are differentiated, since groups are independent; with signs for the groups of the last
    plate these come out again if they are.
    """
    values = effects.leaves(v, nest)
    leaves = {plate: [values[name] for name in effects.names[plate]] for plate in nest}
    terms = effects.prior_terms(values, priors)
    density = torch.stack([*terms, _row_term(effects, values)] if rows else terms).sum()
    blocks: Blocks = {}
    for i, coarse in enumerate(nest):
        first = gradient(density, leaves[coarse], again=True)
        for fine in nest[: i + 1]:
            columns = []
            for k in range(first.shape[-1]):
                entry = first[..., k] if signs is None or coarse != nest[-1] else first[..., k] * signs
                columns.append(gradient(entry.sum(), leaves[fine]))
            blocks[coarse, fine] = -torch.stack(columns, -2)
    return blocks


def reduced(blocks: Blocks, data: Data, nest: Sequence[str]) -> Blocks:
    """The blocks of the last plate alone, the effects of the others integrated out."""
    blocks = dict(blocks)
    for i, fine in enumerate(nest[:-1]):
        inverse = torch.linalg.inv(blocks[fine, fine])
        for middle in nest[i + 1 :]:
            parents, across = data.parents(fine, middle), inverse @ blocks[middle, fine].mT
            for coarse in [coarse for coarse, other in blocks if other == middle]:
                less = blocks[coarse, fine] @ across
                blocks[coarse, middle] = blocks[coarse, middle].index_add(1, parents, less, alpha=-1.0)
    return {(coarse, fine): x for (coarse, fine), x in blocks.items() if fine == nest[-1]}
