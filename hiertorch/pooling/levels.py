"""R^2 and pooling factor of each level, as the docstring of `hiertorch.pooling.factors` defines them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.draws.naming import parameter_texts
from hiertorch.errors import ModelError
from hiertorch.model.censoring import Censored
from hiertorch.model.declared import overrides
from hiertorch.model.means import centre, without_mean
from hiertorch.model.model import Model
from hiertorch.pooling.information import prior_mean
from hiertorch.randomness import seeded

NUMBERS = 20_000_000
"""Draws x (rows and effects) that are looked at; and a fifth of it at once."""


class Level(NamedTuple):
    """What is found of a level, of effects or of rows."""

    plate: str
    units: int
    sd: float  # root of E[V(eps)]
    r2: float
    pooling: float  # lambda


def levels_of_effect(model: Model, data: Data, values: Mapping[str, Tensor], name: str) -> dict[str, Level]:
    """R^2 and lambda of each level of an effect, which varies over a grouping, from draws of it and of what its prior
    reads, `(draws, size, *event)`.
    """
    latent, effects = model.latents[name], values[name]
    path = latent.labels_of is not None
    spread, total, mean = [], [], torch.zeros_like(effects[0], dtype=torch.float64)
    for at in torch.arange(len(effects)).split(max(1, NUMBERS // 5 // max(1, effects[0].numel()))):
        v = model.values({key: x[at] for key, x in values.items()})
        theta = effects[at].double()
        error = theta - prior_mean(model.prior(name, v, data)).double()
        mean += error.sum(0)
        spread.append(_variance(units(error, path)))  # (draws, entries)
        total.append(_variance(units(theta, path)))
    within, whole = torch.cat(spread).mean(0), torch.cat(total).mean(0)
    between = _variance(units((mean / len(effects)).unsqueeze(0), path))[0]
    return {
        entry: Level(
            f"{latent.plate} x {latent.labels_of}" if path else str(latent.plate),
            effects[0].numel() if path else effects.shape[1],
            float(within[k].sqrt()),
            round(float(1 - within[k] / whole[k]), 12) + 0.0,
            float(1 - between[k] / within[k]),
        )
        for k, entry in enumerate(levels_of(model, data, name, effects.shape[2:]))
    }


def rows_level(model: Model, data: Data, values: Mapping[str, Tensor]) -> Level:
    """R^2 and lambda of the rows, by their weights where they have any, from draws of all latents; what was cut off is
    drawn, given what is known of it, in each.

    Raises:
        ModelError: if the model does not tell the mean of y.
    """
    if overrides(model, "log_likelihood"):
        raise ModelError("the model writes log_likelihood itself, without a mean")
    y = data.y.double()
    weights = torch.ones_like(y) if data.weights is None else data.weights.double()
    number, mean, within, whole = len(next(iter(values.values()))), torch.zeros_like(y), 0.0, 0.0
    generator = torch.Generator(data.device).manual_seed(0)
    for at in torch.arange(number).split(max(1, NUMBERS // 5 // data.n_rows)):
        likelihood = model.likelihood(model.values({key: x[at] for key, x in values.items()}), data)
        if why := without_mean(likelihood):
            raise ModelError(why)
        own = y
        if isinstance(likelihood, Censored):
            with seeded(generator, data.device):
                own = likelihood.expand(torch.Size((len(at), data.n_rows))).completed(data.y).double()
        error = own - centre(likelihood).double().expand(len(at), data.n_rows)
        mean += error.sum(0)
        within += float(_weighted_variance(error, weights).sum()) / number
        whole += float(_weighted_variance(own.expand_as(error), weights).sum()) / number
    if not math.isfinite(within):
        raise ModelError("in some draws the mean of y is not finite")
    between = float(_weighted_variance(mean / number, weights))
    r2 = 1 - within / whole if whole > 0 else math.nan
    pooling = 1 - between / within if within > 0 else math.nan
    return Level("", int((weights > 0).sum()), math.sqrt(within), r2, pooling)


def units(x: Tensor, path: bool) -> Tensor:
    """`(draws, units, entries)`."""
    return x.flatten(1).unsqueeze(-1) if path else x.reshape(*x.shape[:2], -1)


def _variance(x: Tensor) -> Tensor:
    """Over units, `(draws, entries)`: in two passes, which take a fifth of the time of torch's one."""
    return (x - x.mean(1, keepdim=True)).square_().sum(1) / (x.shape[1] - 1)


def _weighted_variance(x: Tensor, weights: Tensor) -> Tensor:
    """Over the last axis, with n - 1 where all weights are 1."""
    total = weights.sum()
    centred = x - (x * weights).sum(-1, keepdim=True) / total
    return (centred.square() * weights).sum(-1) / (total - total / (weights > 0).sum())


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


def by_group(model: Model, data: Data, name: str, columns: Mapping[str, Tensor]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each entry of an effect, with a table that has one row a group: `plate`, `rows` (how many each has), and columns
    that are given as `(groups, *event)`.
    """
    plate = str(model.latents[name].plate)
    labels, rows = data.labels[plate], data.counts(plate).cpu().numpy()
    numbers = {column: x.reshape(len(labels), -1).cpu().numpy() for column, x in columns.items()}
    for k, entry in enumerate(entries_of(model, data, name, next(iter(columns.values())).shape[1:])):
        own = {column: x[:, k] for column, x in numbers.items()}
        yield entry, pd.DataFrame({"plate": plate, "rows": rows, **own}, index=labels)
