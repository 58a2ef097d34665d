"""Which figures a dashboard has, and what they are of; `hiertorch.dashboard.panels` draws them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hiertorch.dashboard.looks import Look
from hiertorch.draws.spacing import evenly
from hiertorch.monitors.base import RunInfo, parameter_names

if TYPE_CHECKING:
    from hiertorch.dashboard.closing import Closing
    from hiertorch.pooling.glance import Glance

ROWS = 18  # of a forest
POINTS = 1_000  # of a scatter plot

Figures = dict[str, Callable[[], bytes]]


def figures(run: RunInfo, look: Look, glance: "Glance | None", rates: Mapping[str, Tensor]) -> Figures:
    """Name -> what draws it, as a PNG, from the last look, a glance at pooling with each group by itself, and the
    acceptance of each group by block; without those that a model or a run can't have.
    """
    from hiertorch.dashboard import panels

    grouped = [k for k, (name, _) in enumerate(look.at) if run.plates.get(name) is not None]
    found: Figures = {}
    if len(look.draws) > 1:
        k = look.order[0]
        found["rank"] = partial(panels.rank, look.draws[:, :, k].double().numpy(), look.names[k])
    if rows := _rows(look, grouped):
        at = torch.tensor(rows)
        columns = (look.mean[at], look.levels[at], look.rhat[at])
        found["forest"] = partial(panels.forest, [look.names[k] for k in rows], *(x.numpy() for x in columns))
    if glance is not None and glance.alone:
        name, alone = next(iter(glance.alone.items()))
        own, mean, sizes = (alone[column].to_numpy() for column in ("no_pooling", "mean", "rows"))
        found["shrinkage"] = partial(panels.shrinkage, own, mean, alone["population"].mean(), sizes, name)
    draws, names = look.draws.unbind(2), look.names
    chain = _points(torch.arange(len(draws[0])).unsqueeze(1).expand_as(draws[0]))
    if (pair := _closest(look, run)) is not None:
        i, j = pair
        found["pair"] = partial(panels.pair, _points(draws[i]), _points(draws[j]), names[i], names[j], chain)
    if glance is not None and (neck := _neck(run, look, grouped, glance.scale_of)) is not None:
        i, j = neck
        x, y = _points(draws[i]), np.log(_points(draws[j]))
        found["funnel"] = partial(panels.funnel, x, y, names[i], names[j], chain, look.rhat[i].item())
    if rates:
        block, rate = next(iter(rates.items()))
        labels = [str(label) for label in run.labels.get(str(run.blocks.get(block)), range(len(rate)))]
        found["acceptance"] = partial(panels.acceptance, rate.double().cpu().numpy(), labels, block)
    return found


def criticism(found: "Closing") -> Figures:
    """Of a finished run: are the data like what the model makes, and which rows does it hang on."""
    from hiertorch.dashboard import checkpanels

    made: Figures = {}
    if found.replicated is not None:
        made["predictive"] = partial(checkpanels.predictive, found.y, found.replicated, found.discrete)
    if found.k is not None:
        labels = [str(label) for label in found.labels]
        made["pareto_k"] = partial(checkpanels.pareto_k, found.k, labels, found.limit)
    return made


def _rows(look: Look, grouped: list[int]) -> list[int]:
    """Of a forest: effects of one latent by their means, evenly spaced; without groups, what there is."""
    if not grouped:
        return list(range(look.shown))[:ROWS]
    name = look.at[grouped[0]][0]
    order = sorted((k for k in grouped if look.at[k][0] == name), key=lambda k: look.mean[k].item())
    return [order[i] for i in evenly(len(order), ROWS, torch.device("cpu"))]


def _closest(look: Look, run: RunInfo) -> tuple[int, int] | None:
    """The two population-level parameters that are correlated most."""
    at = [k for k, (name, _) in enumerate(look.at) if run.plates.get(name, "") is None and look.sd[k] > 0]
    if len(at) < 2:
        return None
    x = look.draws[:, :, at].flatten(0, 1).double()
    r = torch.corrcoef(x.T).abs().nan_to_num(nan=0.0).fill_diagonal_(-1.0)
    i, j = divmod(int(r.argmax()), len(at))
    return at[min(i, j)], at[max(i, j)]


def _neck(run: RunInfo, look: Look, grouped: list[int], scale_of: Mapping[str, str]) -> tuple[int, int] | None:
    """The group's effect that mixes worst, of those whose scale is known, and this scale."""
    for k in (k for k in look.order if k in grouped):
        scale = scale_of.get(_level(run, look, k))
        if scale in look.names:
            return k, look.names.index(scale)
    return None


def _level(run: RunInfo, look: Look, k: int) -> str:
    """What an effect is called for all groups: beta[SES]."""
    name, at = look.at[k]
    event = look.shapes[name][1:]
    return parameter_names(replace(run, plates={}), name, (1, *event), [at % prod(event)])[0]


def _points(x: Tensor) -> np.ndarray:
    """Some of `(chains, draws)` in one row, evenly spaced."""
    x = x.flatten().double()
    return x[:: max(1, -(-len(x) // POINTS))].numpy()
