"""Chains that begin where those of another run of the same model ended, though rows, weights or groups have changed."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.draws.fit import Fit
from hiertorch.errors import SamplingError
from hiertorch.model.model import Model

SEEN = 4_000
"""Draws that proposals are fitted to."""


class WarmStart(NamedTuple):
    """What a run takes over from another."""

    init: dict[str, Tensor]  # latent -> where chains begin, (chains, size, *event)
    seen: dict[str, Tensor] | None  # population-level latent -> draws, (n, 1, *event); None if some have none
    tuning: dict[str, dict[str, Tensor]]  # move -> its tuning, for the groups of the new data


def warm_start(posterior: Fit, model: Model, data: Data, chains: int, generator: torch.Generator | None) -> WarmStart:
    """The last draws of each chain (earlier ones, if there are more chains now), effects by label; those of new groups,
    and of groups whose effects were not stored, are drawn from the population.

    Raises:
        SamplingError: if the posterior is not one of this model's latents.
    """
    if not isinstance(posterior, Fit):
        raise SamplingError(f"start= is a posterior, as ht.sample gives it; found {type(posterior).__name__}.")
    posterior.drawn()
    held = {name: x for name, x in {**posterior.more, **posterior.draws}.items() if name in model.latents}
    ended = {name: x for name, x in posterior.positions.items() if name in model.latents and name not in held}
    population = [name for name, latent in model.latents.items() if latent.plate is None]
    if missing := [name for name in population if name not in held and name not in ended]:
        raise SamplingError(
            f"start= is a posterior of the same model, and this one has no draws of {missing[0]!r}: leave start= out."
        )
    chain = torch.arange(chains) % posterior.chains
    back = torch.arange(chains) // posterior.chains  # several chains may go on from one
    each = -(-chains // posterior.chains)
    draw = (posterior.n_draws - 1 - back * max(1, posterior.n_draws // each)).clamp(min=0)
    last = {name: x[chain, draw] for name, x in held.items()} | {name: x[chain] for name, x in ended.items()}
    last = {name: _packed(x.to(data.device, data.dtype)) for name, x in last.items()}
    for name, x in model.sample_prior(data, 1, generator).items():
        if name in last and last[name].shape[2:] != x.shape[2:]:
            raise SamplingError(
                f"start= is a posterior of the same model, and the entries of its {name!r} are "
                f"{tuple(last[name].shape[2:])}, not {tuple(x.shape[2:])}: leave start= out."
            )
    init = dict(model.sample_prior(data, chains, generator, given={name: last[name] for name in population}))
    where = {
        plate: torch.from_numpy(known.get_indexer(data.labels[plate])).to(data.device)
        for plate, known in posterior.labels.items()
        if plate in data.labels
    }
    for name, latent in model.latents.items():
        if name in last and latent.plate in where:
            at = where[latent.plate]
            known = (at >= 0).reshape(-1, *(1,) * (init[name].dim() - 2))
            init[name] = torch.where(known, last[name][:, at.clamp(min=0)], init[name])
    every = posterior.chains * posterior.n_draws
    at = torch.linspace(0, every - 1, min(SEEN, every), dtype=torch.float64).long()
    seen = {
        name: _packed(held[name].flatten(0, 1)[at].to(data.device, data.dtype)) for name in population if name in held
    }
    return WarmStart(init, seen if len(seen) == len(population) else None, _tuning(posterior, data, where))


def _tuning(posterior: Fit, data: Data, where: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tuning of each move; of moves by group with other groups than before the walks alone, those of new groups as
    wide as the others' are in the mean.
    """
    found = {}
    for move, tuning in posterior.tuning.items():
        plate = posterior.stats.blocks.get(move)
        known = len(posterior.labels[plate]) if plate is not None else 1
        moved = {
            key: _packed(x.to(data.device, data.dtype if x.is_floating_point() else None)) for key, x in tuning.items()
        }
        if plate is not None and plate in where and not torch.equal(where[plate].cpu(), torch.arange(known)):
            at = where[plate]
            walk = {"root": moved["root"]} if "root" in moved else {}
            moved = {k: torch.where((at >= 0)[:, None, None], x[at.clamp(min=0)], x.mean(0)) for k, x in walk.items()}
        found[move] = moved
    return found


def _packed(x: Tensor) -> Tensor:
    """A copy laid out as a file gives it: matrix products may round otherwise for another layout."""
    return x.clone(memory_format=torch.contiguous_format)
