"""What rows and priors tell about the effects of each group: precision matrices by group, for any model.

Note [Information]
    The variance of a group's effects is the inverse of a precision: P before the data, P + I_j after, where I_j sums
    over the group's rows the expected (Fisher) information about its effects. For Gaussian rows this is exact;
    otherwise it is the normal approximation of Laplace at each draw. Where the expected information of a likelihood is
    not known here, the observed one stands for it, minus the second derivative of the log density. A prior that is not
    normal enters by its mean and variance.
    All are second derivatives by autograd of one function: of a sum of squares -1/2 I(theta_0) (theta - theta_0)^2 for
    each parameter theta of each distribution, whose curvature at theta_0 is the information.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, distributions
from torch.distributions import Distribution, Independent, MultivariateNormal

from hiertorch.data.table import Data
from hiertorch.model.declared import overrides
from hiertorch.model.intervals import bounds
from hiertorch.model.latent import Values
from hiertorch.model.model import Model, weighted

__all__ = ["Blocks", "blocks_of", "chain_of", "effects_of", "gradient", "leaves_of", "prior_mean", "pull", "reduced"]

REAL = (-math.inf, math.inf)

Blocks = dict[tuple[str, str], Tensor]
"""(coarser plate, finer or same plate) -> minus the second derivatives, `(draws, finer groups, K coarser, K finer)`."""


def prior_mean(distribution: Distribution) -> Tensor:
    """Its mean, or where it has none (Cauchy) its location."""
    mean = distribution.mean
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    return getattr(base, "loc", mean) if bool(mean.isnan().any()) else mean


def effects_of(model: Model, priors: Mapping[str, Distribution]) -> dict[str, list[str]]:
    """Plate -> its effects on the real line whose prior has a variance, given examples of the latents' priors."""
    found: dict[str, list[str]] = {}
    for name, latent in model.latents.items():
        if latent.plate is not None and name in priors and _real(priors[name]) and _varies(priors[name]):
            found.setdefault(latent.plate, []).append(name)
    return found


def _real(distribution: Distribution) -> bool:
    """Whether a prior is for numbers on the whole real line."""
    support = distribution.support
    return support is not None and bounds(support) == REAL


def _varies(distribution: Distribution) -> bool:
    """Whether a variance is known, and finite."""
    try:
        return bool(distribution.variance.isfinite().all())
    except NotImplementedError:
        return False


def chain_of(data: Data, plate: str, effects: Mapping[str, Sequence[str]]) -> list[str]:
    """Plates with effects that nest in one another and all in this one, the finest first and this one last."""
    inner = [p for p in effects if p != plate and data.nests(p, plate) and not data.nests(plate, p)]
    chain: list[str] = [plate]
    for p in sorted(inner, key=data.size):
        if data.nests(p, chain[0]):
            chain.insert(0, p)
    return chain


def _density(
    model: Model,
    data: Data,
    v: Mapping[str, Tensor],
    effects: Mapping[str, Sequence[str]],
    *,
    rows: bool,
    priors: Sequence[str],
) -> Tensor:
    """What is differentiated, see Note [Information], with the priors of the effects of some plates: `()`."""
    values = Values(v, tuple(model.latents))
    terms = [pull(model.prior(name, values, data), v[name]).sum() for plate in priors for name in effects[plate]]
    if rows and overrides(model, "log_likelihood"):
        terms.append(weighted(model.log_likelihood(values, data), data.weights).sum())
    elif rows:
        each = _quadratic(model.likelihood(values, data), data.y)
        shape = np.broadcast_shapes(each.shape, (1, data.n_rows))  # torch's own imports sympy, which takes 0.2 s
        draws = len(next(iter(v.values())))
        terms.append(weighted(each.expand(shape), data.weights).sum() * (draws // shape[0]))
    return torch.stack(terms).sum()


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


def leaves_of(
    v: Mapping[str, Tensor], chain: Sequence[str], effects: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
    """Values whose effects are differentiated for, all and by plate."""
    leaves = {name: v[name].detach().clone().requires_grad_() for plate in chain for name in effects[plate]}
    return {**v, **leaves}, {plate: [leaves[name] for name in effects[plate]] for plate in chain}


def gradient(of: Tensor, leaves: list[Tensor], *, create_graph: bool = False) -> Tensor:
    """`(draws, groups, K)`."""
    if not of.requires_grad:
        return torch.cat(
            [torch.zeros_like(x).flatten(2) if x.ndim > 2 else torch.zeros_like(x)[..., None] for x in leaves], -1
        )
    found = torch.autograd.grad(of, leaves, allow_unused=True, retain_graph=True, create_graph=create_graph)
    parts = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]
    return torch.cat([x.unsqueeze(-1).flatten(2) for x in parts], -1)


def blocks_of(
    model: Model,
    data: Data,
    v: Mapping[str, Tensor],
    chain: Sequence[str],
    effects: Mapping[str, Sequence[str]],
    *,
    rows: bool,
    priors: Sequence[str] | None = None,
    signs: Tensor | None = None,
) -> Blocks:
    """Precisions of the effects of a chain of plates given the rest. Sums over groups are differentiated, since groups
    are independent; with signs for the groups of the last plate these come out again if they are.
    """
    values, leaves = leaves_of(v, chain, effects)
    density = _density(model, data, values, effects, rows=rows, priors=chain if priors is None else priors)
    blocks: Blocks = {}
    for i, coarse in enumerate(chain):
        first = gradient(density, leaves[coarse], create_graph=True)
        for fine in chain[: i + 1]:
            columns = []
            for k in range(first.shape[-1]):
                entry = first[..., k] if signs is None or coarse != chain[-1] else first[..., k] * signs
                columns.append(gradient(entry.sum(), leaves[fine]))
            blocks[coarse, fine] = -torch.stack(columns, -2)
    return blocks


def reduced(blocks: Blocks, data: Data, chain: Sequence[str]) -> Tensor:
    """The precision of the last plate's effects, those of the others integrated out: `(draws, groups, K, K)`."""
    blocks = dict(blocks)
    for i, fine in enumerate(chain[:-1]):
        inverse = torch.linalg.inv(blocks[fine, fine])
        for j, middle in enumerate(chain[i + 1 :], i + 1):
            for coarse in chain[j:]:
                less = blocks[coarse, fine] @ inverse @ blocks[middle, fine].mT
                parents = data.parents(fine, middle)
                blocks[coarse, middle] = blocks[coarse, middle].index_add(1, parents, less, alpha=-1.0)
    return blocks[chain[-1], chain[-1]]
