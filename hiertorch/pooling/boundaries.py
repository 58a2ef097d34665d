"""Which sds of effects may be 0: what the data say of them where their prior does not."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, constraints

from hiertorch.data import Data
from hiertorch.latent import Values, validation
from hiertorch.model import Model
from hiertorch.structure import Reads

__all__ = ["boundaries", "scales_of"]

AT_ZERO = math.exp(-1.92)
"""Of the highest likelihood: values above this are those of a 95 % likelihood-ratio interval, 2 x 1.92 = 3.84."""

SHORTEST = 20
"""Draws, from which a density is estimated."""


def scales_of(model: Model, data: Data, reads: Reads) -> dict[str, list[str]]:
    """Positive latents of the population level -> plates of the effects whose spread they change."""
    found: dict[str, list[str]] = {}
    with torch.no_grad(), validation(False):
        for name, latent in model.latents.items():
            for parent in sorted(reads.priors[name]) if latent.plate is not None else ():
                if model.latents[parent].plate is not None or not _is_positive(reads.distributions[parent].support):
                    continue
                wider = Values({**reads.values, parent: 2 * reads.values[parent]}, tuple(model.latents))
                before = model.prior(name, Values(reads.values, tuple(model.latents)), data).variance
                if not torch.allclose(model.prior(name, wider, data).variance, before, equal_nan=True):
                    plates = found.setdefault(parent, [])
                    plates += [str(latent.plate)] * (latent.plate not in plates)
    return found


def boundaries(
    model: Model,
    data: Data,
    values: Mapping[str, Tensor],
    scales: Mapping[str, Sequence[str]],
    labels: Mapping[str, Any],
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
    low, high = sigma.quantile(torch.tensor([0.25, 0.75]).to(sigma))
    width = 0.9 * min(float(sigma.std()), float(high - low) / 1.349 or math.inf) * len(sigma) ** -0.2
    grid = torch.linspace(0.0, float(sigma.quantile(0.99)), 200).to(sigma).unsqueeze(-1)
    density = torch.zeros(len(grid)).to(sigma)
    for x, w in zip(sigma.split(20_000), weights.split(20_000), strict=True):
        each = (-0.5 * ((grid - x) / width).square()).exp() + (-0.5 * ((grid + x) / width).square()).exp()
        density += each @ w
    return float(density[0] / density.max())


def _is_positive(support: Any) -> bool:
    """Whether a support is that of numbers above 0."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if isinstance(support, constraints.greater_than | constraints.greater_than_eq):
        return float(support.lower_bound) == 0.0
    return support in (constraints.positive, constraints.nonnegative)
