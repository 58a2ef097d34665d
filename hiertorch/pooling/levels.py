"""R^2 and pooling factor of each level of effects, as the docstring of `hiertorch.pooling.factors` defines them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.draws.naming import parameter_texts
from hiertorch.model.latent import Values
from hiertorch.model.model import Model
from hiertorch.pooling.information import prior_mean

__all__ = ["NUMBERS", "Level", "entries_of", "level_lines", "levels_of", "units"]

NUMBERS = 20_000_000
"""Draws x (rows and effects) that are looked at; and a fifth of it at once."""


class Level(NamedTuple):
    """A level: the grouping and the number of its units, root of E[V(eps)], R^2 and lambda."""

    plate: str
    units: int
    sd: float
    r2: float
    pooling: float


def level_lines(model: Model, data: Data, values: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Level]:
    """R^2 and lambda of each level of these effects, which vary over a grouping.

    Args:
        model: that was fitted.
        data: likewise.
        values: draws of the effects and of what their priors read, `(draws, size, *event)`.
        names: of the effects.
    """
    lines: dict[str, Level] = {}
    number = len(next(iter(values.values())))
    for name in names:
        latent, effects = model.latents[name], values[name]
        path = latent.labels_of is not None
        each = max(1, NUMBERS // 5 // max(1, effects[0].numel()))
        spread, total, mean = [], [], torch.zeros_like(effects[0], dtype=torch.float64)
        for at in torch.arange(number).split(each):
            v = Values({key: x[at] for key, x in values.items()}, tuple(model.latents))
            theta = effects[at].double()
            error = theta - prior_mean(model.prior(name, v, data)).double()
            mean += error.sum(0)
            spread.append(_variance(units(error, path)))  # (draws, entries)
            total.append(_variance(units(theta, path)))
        within, whole = torch.cat(spread).mean(0), torch.cat(total).mean(0)
        between = _variance(units((mean / number).unsqueeze(0), path))[0]
        for k, entry in enumerate(levels_of(model, data, name, effects.shape[2:])):
            lines[entry] = Level(
                plate=f"{latent.plate} x {latent.labels_of}" if path else str(latent.plate),
                units=effects[0].numel() if path else effects.shape[1],
                sd=float(within[k].sqrt()),
                r2=round(float(1 - within[k] / whole[k]), 12) + 0.0,
                pooling=float(1 - between[k] / within[k]),
            )
    return lines


def units(x: Tensor, path: bool) -> Tensor:
    """`(draws, units, entries)`."""
    return x.flatten(1).unsqueeze(-1) if path else x.reshape(*x.shape[:2], -1)


def _variance(x: Tensor) -> Tensor:
    """Over units, `(draws, entries)`: in two passes, which take a fifth of the time of torch's one."""
    return (x - x.mean(1, keepdim=True)).square_().sum(1) / (x.shape[1] - 1)


def levels_of(model: Model, data: Data, name: str, event: Sequence[int]) -> list[str]:
    """A latent's levels: its entries; but an effect for each label of a second grouping (a path in time) is one level,
    whose units are all pairs.
    """
    return [name] if model.latents[name].labels_of is not None else entries_of(model, data, name, event)


def entries_of(model: Model, data: Data, name: str, event: Sequence[int]) -> list[str]:
    """A latent's entries: beta[SES]."""
    if not event:
        return [name]
    labels = model.latents[name].event_labels(data)
    axes = labels if labels is not None and tuple(map(len, labels)) == tuple(event) else [range(k) for k in event]
    return parameter_texts(name, axes)
