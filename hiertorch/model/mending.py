"""Draws from the prior at which the likelihood is possible, and how many are not."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.model.densities import Densities
from hiertorch.model.drawing import Share, impossible_at
from hiertorch.model.tolerance import attempted

TURNS = 16
"""Times that groups, or chains, at which the likelihood is 0 are drawn again."""

LOOKS = 256
"""Prior draws at which parameters are looked at."""

NUMBERS = 500_000
"""Of draws and rows together at most."""


def mended(
    model: Densities,
    data: Data,
    rows: Data,
    values: Mapping[str, Tensor],
    generator: torch.Generator | None,
    fixed: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Prior draws, of which those of the groups where the likelihood of some rows is not finite are drawn again, or
    those of all latents; those that are `fixed` are kept. Not all may be mended.
    """
    values, chains = dict(values), len(next(iter(values.values())))
    latents = model.latents
    varying = [name for name, latent in latents.items() if latent.plate is not None and name not in fixed]
    for turn in range(TURNS):
        terms = model.log_likelihood(model.values(values), rows)
        bad = ~torch.isfinite(terms) if rows.weights is None else ~torch.isfinite(terms) & (rows.weights != 0)
        bad = bad.expand(chains, rows.n_rows)
        if not bool(bad.any()):
            break
        whole = not varying or turn % 4 == 3
        keep = [name for name in latents if name in fixed or (not whole and latents[name].plate is None)]
        fresh = model.sample_prior(data, chains, generator, given={name: values[name] for name in keep})
        for name in latents:
            if name in keep:
                continue
            if whole:
                where = bad.any(1, keepdim=True)
            else:
                size = values[name].shape[1]
                groups = bad.new_zeros(chains, size, dtype=terms.dtype)
                where = groups.index_add(1, rows.codes[str(latents[name].plate)], bad.to(terms.dtype)) > 0
            where = where.reshape(*where.shape, *(1,) * (values[name].dim() - 2))
            values[name] = torch.where(where, fresh[name], values[name])
    return values


def shares(model: Densities, data: Data, rows: Data | None, generator: torch.Generator) -> list[Share]:
    """How many prior draws make parameters of priors, or of the likelihood of some rows (if any), impossible."""
    met: dict[str, Share] = {}
    number = LOOKS if rows is None else max(8, min(LOOKS, NUMBERS // rows.n_rows))
    number = next((len(x) for x in (data.y, data.weights) if x is not None and x.dim() == 2), number)
    values = model.sample_prior(data, number, generator, met=met)
    if rows is not None:
        for condition, mask in impossible_at(attempted(model.likelihood, values, rows), number):
            share = Share(condition, mask)
            met.setdefault(share.name, share)
    return list(met.values())
