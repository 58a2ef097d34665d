"""Which latents are sds of effects, and which of them may be 0: what the data say where the prior does not."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Cauchy, Independent, StudentT

from hiertorch.data.table import Data
from hiertorch.model.intervals import bounds
from hiertorch.model.latent import Values, validation
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads
from hiertorch.pooling.levels import entries_of, levels_of, units

__all__ = ["boundaries", "scale_of", "scales_of"]

POSITIVE = (0.0, math.inf)

AT_ZERO = math.exp(-1.92)
"""Of the highest likelihood: values above this are those of a 95 % likelihood-ratio interval, 2 x 1.92 = 3.84."""

CLOSE = 1e-3
"""Relative change of a spread that is none, also in single precision."""

SHORTEST = 20
"""Draws, from which a density is estimated."""


def scales_of(model: Model, data: Data, reads: Reads) -> dict[str, list[str]]:
    """Positive latents of the population level -> plates of the effects whose spread they change."""
    found: dict[str, list[str]] = {}
    with torch.no_grad(), validation(False):
        for name, latent in model.latents.items():
            for parent in _positive_parents(model, reads, name):
                wider = Values({**reads.values, parent: 2 * reads.values[parent]}, tuple(model.latents))
                before = model.prior(name, Values(reads.values, tuple(model.latents)), data).variance
                if not torch.allclose(model.prior(name, wider, data).variance, before, equal_nan=True):
                    plates = found.setdefault(parent, [])
                    plates += [str(latent.plate)] * (latent.plate not in plates)
    return found


def scale_of(model: Model, data: Data, name: str, reads: Reads) -> dict[str, str]:
    """Levels of an effect -> the entry of a positive population-level latent that is its scale: "effects[SES]" ->
    "sigma_beta[SES]". It is the one whose doubling changes the spread of the prior of all of the level's effects; of
    several, the one that doubles it. A level without one alone has none.
    """
    path, like = model.latents[name].labels_of is not None, reads.values[name]
    found: dict[str, list[tuple[bool, str]]] = {level: [] for level in levels_of(model, data, name, like.shape[2:])}

    def spread(values: Mapping[str, Tensor]) -> Tensor:
        prior: Any = model.prior(name, Values(values, tuple(model.latents)), data)
        base = prior.base_dist if isinstance(prior, Independent) else prior
        scale = base.scale if isinstance(base, Cauchy | StudentT) else prior.variance.sqrt()  # a variance may be none
        return units(scale.expand(like.shape), path)  # (draws, units, entries)

    with torch.no_grad(), validation(False):
        before = spread(reads.values)
        for parent in _positive_parents(model, reads, name):
            value = reads.values[parent]
            for k, entry in enumerate(entries_of(model, data, parent, value.shape[2:])):
                wider = value.flatten(1).clone()
                wider[:, k] *= 2.0
                ratio = (spread({**reads.values, parent: wider.reshape(value.shape)}) / before).flatten(0, 1)
                changed = ((ratio - 1.0).abs() > CLOSE).all(0).tolist()
                doubled = ((ratio - 2.0).abs() < CLOSE).all(0).tolist()
                for level, one, two in zip(found, changed, doubled, strict=True):
                    found[level] += [(two, entry)] * one
    chosen = {
        level: [entry for _, entry in entries] if len(entries) == 1 else [entry for two, entry in entries if two]
        for level, entries in found.items()
    }
    return {level: entries[0] for level, entries in chosen.items() if len(entries) == 1}


def _positive_parents(model: Model, reads: Reads, name: str) -> Iterator[str]:
    """Positive population-level latents that the prior of an effect reads."""
    for parent in sorted(reads.priors[name]) if model.latents[name].plate is not None else ():
        if model.latents[parent].plate is None and bounds(reads.distributions[parent].support) == POSITIVE:
            yield parent


def boundaries(
    model: Model,
    data: Data,
    values: Mapping[str, Tensor],
    scales: Mapping[str, Sequence[str]],
    labels: Mapping[str, Sequence[str]],
) -> list[str]:
    """A sentence on each sd of effects that may be 0: the data make 0 at least `AT_ZERO` times as likely as the value
    that they like best.

    The likelihood of an sd, averaged over all else, is its posterior density by its prior density. Both are taken as
    one density of the draws, with weights 1 / prior (Ionides 2008: truncated at their mean times the root of the number
    of draws), so that a prior that keeps away from 0 does not hide that the data do not.

    Args:
        model: that was fitted.
        data: likewise.
        values: draws of the population-level latents, `(draws, 1, *event)`.
        scales: positive latent -> plates of the effects whose prior it scales.
        labels: of the entries of each of these.
    """
    sentences = []
    for name, plates in scales.items():
        with torch.no_grad(), validation(False):
            prior: Any = model.prior(name, Values(values, tuple(model.latents)), data)
            while isinstance(prior, Independent):
                prior = prior.base_dist
            density = prior.log_prob(values[name])
        if density.shape != values[name].shape and density.ndim != values[name].ndim:
            continue  # a prior of vectors, whose entries have no density of their own
        entries, log_prior = values[name].flatten(1), density.expand(values[name].shape).flatten(1)
        for k, label in enumerate(labels[name]):
            sigma = entries[:, k]
            if len(sigma) < SHORTEST or bool((sigma == sigma[0]).all()):
                continue
            share = _likelihood_at_zero(sigma.double(), -log_prior[:, k].double())
            if share > AT_ZERO:
                sentences.append(
                    f"{label} may be 0: averaged over all else, its likelihood at 0 is {share:.0%} of the highest (a "
                    f"95 % likelihood interval ends at {AT_ZERO:.0%}). Groups of {' and '.join(plates)} hardly differ "
                    "in it, or there are too few to tell: give its interval, not its mean alone, and compare the model "
                    "without it."
                )
    return sentences


def _likelihood_at_zero(sigma: Tensor, log_weights: Tensor) -> float:
    """The weighted density at 0 by its highest: normal kernels of Silverman's width (1986, eq. 3.31), folded at 0."""
    weights = (log_weights - log_weights.max()).exp()
    weights = weights.minimum(weights.mean() * len(weights) ** 0.5)
    low, high = sigma.quantile(sigma.new_tensor([0.25, 0.75]))
    width = 0.9 * min(float(sigma.std()), float(high - low) / 1.349 or math.inf) * len(sigma) ** -0.2
    grid = torch.linspace(0.0, float(sigma.quantile(0.99)), 200, dtype=sigma.dtype, device=sigma.device).unsqueeze(-1)
    density = sigma.new_zeros(len(grid))
    for x, w in zip(sigma.split(20_000), weights.split(20_000), strict=True):
        each = (-0.5 * ((grid - x) / width).square()).exp() + (-0.5 * ((grid + x) / width).square()).exp()
        density += each @ w
    return float(density[0] / density.max())
