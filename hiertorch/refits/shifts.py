"""How far new rows would move the effects of groups, and the parameters of the population.

Note [Shifts]
    A posterior mean moves by (mean after - mean before) / sd before, which has mean 0 and, over sets of rows that the
    model holds for, variance 1 - E[sd after^2] / sd before^2 < 1 (law of total variance): a move beyond the normal
    quantile is less likely than the quantile says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.draws.fit import Fit
from hiertorch.draws.naming import parameter_texts
from hiertorch.draws.pareto import smoothed
from hiertorch.errors import ModelError
from hiertorch.model.latent import Values
from hiertorch.model.model import Model
from hiertorch.predict.scene import Setting
from hiertorch.refits.laterrows import Later


@dataclass
class Moved:
    """The effect of a group that new rows move most.

    Its shrinkage is B_j = Var(effect | y) / Var(effect | population); with known scales that is (sigma^2 / n_j) /
    (sigma^2 / n_j + tau^2).
    """

    effect: str
    mean: float
    sd: float
    moves_to: float
    shift: float
    pareto_k: float
    shrinkage: float
    shrinkage_after: float


def group_shifts(later: Later, setting: Setting, thin: Fit, after: Fit | None, k: float) -> pd.DataFrame:
    """One row a group that has new rows."""
    model, data, found = later.fitted.model, later.fitted.data, []
    exact = after if after is not None and after.unstored is not None else None
    terms = _by_group(later, setting) if exact is None else None
    for plate, labels in later.rows.labels.items():
        if not later.fitted.varies(plate):
            continue
        names = [name for name, latent in model.latents.items() if latent.plate == plate]
        counts, known = labels.value_counts(sort=False), data.labels[plate]
        moved = {}
        for name in names:
            if exact is not None:
                moved[name] = _exactly(later, thin, exact, name, plate, k)
            elif terms is not None and name in thin.draws:
                moved[name] = _weighted(later, thin, name, plate, terms)
        for label, new in counts.items():
            code = int(known.get_indexer(pd.Index([label], tupleize_cols=False))[0])
            row = {"grouping": plate, "group": label, "status": "new", "fitted": 0, "rows": int(new)}
            if code >= 0:
                row |= {"status": "grown", "fitted": int(data.counts(plate)[code])}
                best = max((m[code] for m in moved.values() if code in m), key=lambda m: abs(m.shift), default=None)
                row |= {} if best is None else vars(best)
            found.append(row)
    keys = ["grouping", "group"]
    columns = [*keys, "status", "fitted", "rows", *(part.name for part in fields(Moved))]
    table = pd.DataFrame(found, columns=columns).set_index(keys)
    return table.astype({"shift": float, "pareto_k": float})


def _exactly(later: Later, thin: Fit, after: Fit, name: str, plate: str, k: float) -> dict[int, Moved]:
    """Known groups' effects before and after, the latter given all rows."""
    data, one, two = later.fitted.data, thin.effects(name), after.effects(name)
    width = len(one) // data.size(plate)
    before, then = (table[["mean", "sd"]].to_numpy().reshape(-1, width, 2) for table in (one, two))
    spread, new_spread = _prior_variances(thin, name), _prior_variances(after, name)
    codes, found = data.labels[plate].get_indexer(later.rows.labels[plate].unique()), {}
    for code in codes[codes >= 0].tolist():
        own = [math.nan * before[code, :, 0]] * 2
        if spread is not None and new_spread is not None:
            own = [x[:, min(code, x.shape[1] - 1)].mean(0) for x in (spread, new_spread)]
        names = one.index[code * width :]
        found[code] = _furthest(names, k, (*before[code].T, own[0]), (*then[code].T, own[1]))
    return found


def _furthest(names: pd.Index, k: float, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Moved:
    """Of the effects of a group the one that moves most; given are mean, sd and Var(effect | population), each
    `(entries,)`.
    """
    (mean, sd, variance), (then, new_sd, new_variance) = before, after
    shift = (then - mean) / sd
    j = int(np.argmax(np.abs(shift)))
    shrinkage = sd[j] ** 2 / variance[j], new_sd[j] ** 2 / new_variance[j]
    return Moved(str(names[j]), mean[j], sd[j], then[j], shift[j], k, *shrinkage)


def _by_group(later: Later, setting: Setting) -> Tensor:
    """Log densities of the new rows, `(draws, rows)`, -inf for NaN."""
    model = later.fitted.model
    total = setting.posterior.chains * setting.posterior.n_draws
    terms = []
    for part in torch.arange(total, device=later.y.device).split(setting.per()):
        terms.append(model.log_likelihood(model.values(setting.values(part)), setting.rows))
    found = torch.cat(terms) if later.w is None else later.w * torch.cat(terms)
    return found.double().nan_to_num(-torch.inf, -torch.inf, -torch.inf)


def _weighted(later: Later, thin: Fit, name: str, plate: str, terms: Tensor) -> dict[int, Moved]:
    """The same, each group by the weights of its own new rows."""
    codes = later.fitted.data.labels[plate].get_indexer(later.rows.labels[plate])
    draws, spread, found = thin.draws[name].flatten(0, 1), _prior_variances(thin, name), {}
    width = math.prod(draws.shape[2:])
    names = thin.table(name, {"x": draws[0]}).index
    for code in np.unique(codes[codes >= 0]).tolist():
        mine = torch.from_numpy(codes == code).to(terms.device)
        log_weight = terms[:, mine].sum(1).cpu().numpy()
        if not np.isfinite(log_weight).any():
            continue
        weight, k = smoothed(log_weight)
        x = draws[:, code].reshape(len(draws), width).double().cpu().numpy()
        mean, sd, then = x.mean(0), x.std(0, ddof=1), weight @ x
        new_sd = np.sqrt(weight @ (x - then) ** 2)
        own = math.nan * x if spread is None else spread[:, min(code, spread.shape[1] - 1)]
        found[code] = _furthest(names[code * width :], k, (mean, sd, own.mean(0)), (then, new_sd, weight @ own))
    return found


def _prior_variances(posterior: Fit, name: str) -> np.ndarray | None:
    """Var(effect | population) of each draw, `(draws or 1, groups or 1, entries)`; None for a prior that reads other
    effects or has no variance.
    """
    fitted = posterior.fitted
    model: Model = fitted.model
    held = {n: x.flatten(0, 1) for n, x in {**posterior.more, **posterior.draws}.items() if n in model.latents}
    population = {n: x for n, x in held.items() if model.latents[n].plate is None}
    try:
        variance = model.prior(name, Values(population, tuple(model.latents)), fitted.data).variance
    except (ModelError, NotImplementedError):
        return None
    event = fitted.reads.values[name].shape[2:]
    found = variance.reshape(*variance.shape[: variance.dim() - len(event)], math.prod(event)).double().cpu().numpy()
    found = found.reshape((1,) * (3 - found.ndim) + found.shape)
    found = np.broadcast_to(found, (posterior.chains * posterior.n_draws, *found.shape[1:]))
    return found if np.isfinite(found).all() else None


def parameter_shifts(thin: Fit, after: Fit | None, later: Later) -> pd.DataFrame:
    """Moments before and after, of the population's parameters and of the spread of effects over fitted groups."""
    tables = []
    for name, x in thin.draws.items():
        plate, then = thin.plates[name], None if after is None else after.draws[name]
        spread = plate is not None and name in later.fitted.model.latents and x.shape[2] > 1
        if spread:
            x, then = x.std(2, keepdim=True), None if then is None else then[:, :, : x.shape[2]].std(2, keepdim=True)
        if plate is not None and not spread:
            continue
        names = parameter_texts(name, thin.event_labels[name])
        tables.append(_moments([f"sd of {text}" for text in names] if spread else names, x, then))
    every = pd.concat(tables)
    return every[every["sd"] > 1e-12]  # without entries that are constant


def _moments(names: list[str], x: Tensor, then: Tensor | None) -> pd.DataFrame:
    """Of draws `(chains, draws, 1, *event)` before and after."""
    found = np.full((4, len(names)), np.nan)
    for i, draws in enumerate([x] if then is None else [x, then]):
        flat = draws.reshape(-1, len(names)).double().cpu().numpy()
        found[2 * i], found[2 * i + 1] = flat.mean(0), flat.std(0, ddof=1)
    table = pd.DataFrame(dict(zip(["mean", "sd", "mean_after", "sd_after"], found, strict=True)), index=names)
    return table.assign(shift=(table["mean_after"] - table["mean"]) / table["sd"].where(table["sd"] > 0))
