"""Which latents are sds of effects, and which of them may be 0: what the data say where the prior does not."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.distributions import Cauchy, Distribution, Independent, StudentT

from hiertorch.data.table import Data
from hiertorch.model.intervals import plain_bounds
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads
from hiertorch.pooling.levels import entries_of, levels_of, units
from hiertorch.runtime.validating import validation

AT_ZERO = math.exp(-1.92)
"""Of the highest likelihood: values above this are those of a 95 % likelihood-ratio interval, 2 x 1.92 = 3.84."""

CLOSE = 1e-3
"""Relative change of a spread that is none, also in single precision."""

SHORTEST = 20
"""Draws, from which a density is estimated."""


def scales_of(model: Model, data: Data, reads: Reads) -> dict[str, list[str]]:
    """Positive latents of the population level -> plates of the effects whose spread they change."""
    found: dict[str, dict[str, None]] = {}
    for name, latent in model.latents.items():
        for parent, _, ratio in _doubled(model, data, name, reads):
            if bool(((ratio - 1.0).abs() > CLOSE).any()):
                found.setdefault(parent, {})[str(latent.plate)] = None
    return {parent: list(plates) for parent, plates in found.items()}


def scale_of(model: Model, data: Data, name: str, reads: Reads) -> dict[str, str]:
    """Levels of an effect -> the entry of a positive population-level latent that is its scale: "effects[SES]" ->
    "sigma_beta[SES]". It is the one whose doubling changes the spread of the prior of all of the level's effects; of
    several, the one that doubles it. A level without one alone has none.
    """
    found: dict[str, str] = {}
    doubled = _doubled(model, data, name, reads)
    for k, level in enumerate(levels_of(model, data, name, reads.values[name].shape[2:])):
        spreads = [(entry, ratio[:, k]) for _, entry, ratio in doubled]
        scales = [entry for entry, ratio in spreads if bool(((ratio - 1.0).abs() > CLOSE).all())]
        if len(scales) > 1:
            scales = [entry for entry, ratio in spreads if bool(((ratio - 2.0).abs() < CLOSE).all())]
        if len(scales) == 1:
            found[level] = scales[0]
    return found


def _doubled(model: Model, data: Data, name: str, reads: Reads) -> list[tuple[str, str, Tensor]]:
    """Each entry of each positive population-level latent that the prior of an effect reads: the latent, the entry, and
    by what its doubling multiplies the spread of that prior, `(draws x units, levels)`.
    """
    if model.latents[name].plate is None:
        return []
    found: list[tuple[str, str, Tensor]] = []
    path, like = model.latents[name].labels_of is not None, reads.values[name]

    def spread(values: Mapping[str, Tensor]) -> Tensor:
        prior = model.prior(name, model.values(values), data)
        base = prior.base_dist if isinstance(prior, Independent) else prior
        scale = base.scale if isinstance(base, Cauchy | StudentT) else prior.variance.sqrt()  # a variance may be none
        return units(scale.expand(like.shape), path).flatten(0, 1)

    with torch.no_grad(), validation(False):
        before = spread(reads.values)
        for parent in sorted(reads.priors[name]):
            value = reads.values[parent]
            positive = plain_bounds(reads.distributions[parent]) == (0.0, math.inf)
            if model.latents[parent].plate is not None or not positive:
                continue
            for k, entry in enumerate(entries_of(model, data, parent, value.shape[2:])):
                wider = value.flatten(1).clone()
                wider[:, k] *= 2.0
                after = spread({**reads.values, parent: wider.reshape(value.shape)})
                found.append((parent, entry, after / before))
    return found


def boundaries(
    model: Model, data: Data, values: Mapping[str, Tensor], scales: Mapping[str, Sequence[str]]
) -> list[str]:
    """A sentence on each sd of effects that may be 0: the data make 0 at least `AT_ZERO` times as likely as the value
    that they like best. Given are draws of the population-level latents, `(draws, 1, *event)`, and of each positive one
    the plates of the effects whose prior it scales.

    The likelihood of an sd, averaged over all else, is its posterior density by its prior density. Both are taken as
    one density of the draws, with weights 1 / prior (Ionides 2008: truncated at their mean times the root of the number
    of draws), so that a prior that keeps away from 0 does not hide that the data do not.
    """
    sentences = []
    for name, plates in scales.items():
        x = values[name]
        with torch.no_grad(), validation(False):
            prior: Distribution = model.prior(name, model.values(values), data)
            while isinstance(prior, Independent):
                prior = prior.base_dist
            density = prior.log_prob(x)
        if density.ndim != x.ndim:
            continue  # a prior of vectors, whose entries have no density of their own
        entries, log_prior = x.flatten(1).double(), density.expand(x.shape).flatten(1).double()
        for k, label in enumerate(entries_of(model, data, name, x.shape[2:])):
            sigma = entries[:, k]
            if len(sigma) < SHORTEST or bool((sigma == sigma[0]).all()):
                continue
            share = _likelihood_at_zero(sigma, -log_prior[:, k])
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
    kernels = [(-0.5 * ((grid - x) / width).square()).exp() for x in (sigma, -sigma)]
    density = (kernels[0] + kernels[1]) @ weights
    return float(density[0] / density.max())
