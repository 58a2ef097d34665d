"""What is exported predicts, before it is written, some of the fitted rows, as they are and as rows of new groups."""

import ast
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from hiertorch import deploy
from hiertorch.data.newrows import FrameRows
from hiertorch.data.reading import spread_rows
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.errors import DataError
from hiertorch.models.design import design_of
from hiertorch.predict.scene import Setting

ROWS = 12
"""Of the fitted data."""


def differing(fit: Fit, fitted: Fitted, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str | None:
    """Why a file does not predict as the posterior does, or None if it does."""
    arrays = {name: x.detach().cpu().numpy() for name, x in tensors.items()}
    model = deploy.Exported(json.loads(json.dumps(header)), arrays)
    kind = next((name for name in ("mean", "probability") if header["outputs"].get(name) is not None), None)
    if kind is None:
        return None
    frame = _frame(fitted)
    at = torch.arange(fit.chains * fit.n_draws, device=fitted.data.device)
    tolerance = 1e-8 if next(iter(fit.draws.values())).dtype == torch.float64 else 1e-3
    generator = torch.Generator(fitted.data.device).manual_seed(0)
    fresh = [] if any(one["why"] for one in header["effects"]) else [_renamed(fitted, frame, header)]
    for rows in (frame, *fresh):
        setting = Setting(fitted, fit, FrameRows.read(fitted.data, rows, distinct=True))
        normals, given = population_draws(setting, at)
        try:
            wanted = setting.predicted(at, kind, generator, given=given).cpu().numpy()
        except DataError:  # rows that have no likelihood in some draws
            wanted = None
        try:
            found = model.predict(rows, kind, "sample", distinct=True, normals=normals).draws
        except deploy.DeployError as error:
            if wanted is None:
                continue
            return str(error)
        if wanted is None or not np.allclose(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True):
            return "its likelihood or the prior of its effects is another one than its structure says"
    return None


def population_draws(setting: Setting, at: Tensor) -> tuple[dict[str, np.ndarray], dict[str, Tensor]]:
    """Standard normal numbers of the effects of new groups, and these effects, each `(draws, new groups, *event)`, by
    the model's own priors; of priors that are not normal none.
    """
    model, generator = setting.fitted.model, torch.Generator().manual_seed(0)
    normals, given = dict[str, np.ndarray](), dict[str, Tensor]()
    for name in model.latents:
        if setting.plate(name) not in setting.new:
            continue
        before = setting.before(name)
        v = model.values(setting.values(at, given=given))
        place = v[name][:, before:]
        prior = model.prior(name, v, setting.whole)
        z = torch.randn(place.shape, generator=generator, dtype=torch.float64).to(place)
        moved = affine(prior, (len(at), setting.whole.size(str(setting.plate(name)))), before)
        if moved is not None:
            normals[name], given[name] = z.double().cpu().numpy(), moved(z)
    return normals, given


def affine(prior: Distribution, shape: tuple[int, int], before: int) -> Callable[[Tensor], Tensor] | None:
    """From standard normal numbers to draws of a normal prior, of the groups behind the first ones; None of others."""
    prior = prior.expand(torch.Size(shape))
    if isinstance(prior, MultivariateNormal):
        mean, root = prior.loc[:, before:], prior.scale_tril[:, before:]
        return lambda z: mean + (root @ z.unsqueeze(-1)).squeeze(-1)
    base = prior.base_dist if isinstance(prior, Independent) else prior
    if not isinstance(base, Normal):
        return None
    place, scale = base.loc[:, before:], base.scale[:, before:]
    return lambda z: place + scale * z


def _frame(fitted: Fitted) -> pd.DataFrame:
    """Some of the fitted rows in the user's columns."""
    data = fitted.data
    recipe = data.recipe
    if recipe.reader is not None:
        frame = recipe.reader.frame
        at = spread_rows(len(frame), ROWS, torch.device("cpu")).numpy()
        return frame.iloc[at].reset_index(drop=True)
    part = data.take(spread_rows(data.n_rows, ROWS, data.device))
    found = dict[str, Any]()
    for name, column in recipe.columns.items():
        base, _, level = str(column).partition("=")
        values = part.columns[name].cpu().numpy()
        if level and base in recipe.levels:
            said = {str(one).partition("=")[2] for one in recipe.columns.values()}
            rest = next((one for one in recipe.levels[base] if one not in said), recipe.levels[base][0])
            found.setdefault(base, np.full(len(values), rest, object))[values == 1] = level
        else:
            found[str(column)] = values
    for plate, column in recipe.groups.items():
        found[str(column)] = data.labels[plate].take(part.codes[plate].cpu().numpy()).to_numpy()
    return pd.DataFrame(found)


def _renamed(fitted: Fitted, frame: pd.DataFrame, header: Mapping[str, Any]) -> pd.DataFrame:
    """The rows as those of new groups, of groupings that can have any: two of each, with the same facts."""
    groups, texts = header["groups"], header["columns"].values()
    names = {name for one in groups.values() if one["new"] for name in one["of"]}
    names -= {name for one in groups.values() if not one["new"] for name in one["of"]}
    names -= {name for text in texts for table in ("c", "t") for name in read_in(text, table)}
    labels = np.array(["another group", "a third group"], object)[np.arange(len(frame)) % 2]
    design = design_of(fitted.model)
    explaining = {} if design is None else design.group_predictors
    facts = {fitted.data.recipe.columns.get(name) for each in explaining.values() for name in each}
    constant = {str(name): frame[name].iloc[0] for name in facts if name in frame.columns}
    return frame.assign(**{name: labels for name in names if name in frame.columns}, **constant)


def read_in(text: str, table: str) -> set[str]:
    """What an expression reads of a table."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except SyntaxError:  # a name
        return set()
    found = [(one.value, one.slice) for one in nodes if isinstance(one, ast.Subscript)]
    return {
        str(entry.value)
        for owner, entry in found
        if isinstance(owner, ast.Name) and owner.id == table and isinstance(entry, ast.Constant)
    }
