"""How strongly groups are pooled, what their regressions explain, and what share of the variance each level has.

With the errors eps_j = theta_j - E[theta_j | the rest of the draw] of a level, and V the variance over its units j,

    R^2    = 1 - E[V(eps)] / E[V(theta)]      what the level's regression explains
    lambda = 1 - V(E[eps]) / E[V(eps)]        pooling factor: 0 no pooling, 1 complete pooling

where E is over posterior draws (Gelman & Pardoe 2006, Technometrics 48, sections 2 and 3). The levels are those of the
effects of each grouping, around the mean of their prior (group-level predictors, the group they lie in), and the rows,
y_i around E[y_i | theta], on the scale of y for every family.

lambda is one number a level; the share B_j by which each group is pooled is that of shrinkage.py, shares of variance
and intraclass correlations those of variance.py.
"""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.draws.fit import Fit
from hiertorch.draws.naming import label_text, parameter_text
from hiertorch.draws.pointwise import DRAWS, Pointwise
from hiertorch.draws.summary import summary
from hiertorch.errors import ModelError
from hiertorch.model.declared import overrides, refuse_own_priors
from hiertorch.model.latent import Values, validation
from hiertorch.model.means import centre, without_mean
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads
from hiertorch.pooling.boundaries import boundaries, scales_of
from hiertorch.pooling.information import effects_of
from hiertorch.pooling.levels import NUMBERS, Level, entries_of, level_lines
from hiertorch.pooling.shrinkage import COUPLED, no_pooling, shrinkage
from hiertorch.pooling.variance import parted, table

__all__ = ["Pooling", "pooling"]

FEWEST = 100
"""Draws that are looked at whatever the size."""

SHOWN, ENDS, LEVELS = 12, 4, 6
"""Groups of a level that are printed; of more, so many of those pooled most and least; of more levels, all as one."""

COLUMNS = ["level", "plate", "group", "rows", "mean", "sd", "no_pooling", "se", "shrinkage"]
WIDTH = 120
CI_PROB = 0.89


@dataclass(frozen=True)
class Pooling:
    """What `pooling` found.

    Attributes:
        table: one row a level, such as alpha, beta[SES] or rows: `plate`, `units`, `sd` (root of E[V(eps)]), `r2`,
            `pooling` (lambda), `shrinkage` (the mean of B_j).
        groups: one row an effect of a group, such as alpha[School 12]: `level`, `plate`, `group`, `rows` (n_j), `mean`
            and `sd` of the posterior, `no_pooling` and `se` (what its own rows say; NaN where they can't), `shrinkage`
            (B_j; NaN where it has none).
        variance: one row for each scale ("link", "response") and level (plates, rows): `variance` (posterior
            median), `share` and `icc` (means with 89 % intervals).
        messages: sentences on sds that may be 0, and on what was left out.
    """

    table: pd.DataFrame
    groups: pd.DataFrame
    variance: pd.DataFrame
    messages: list[str]

    def __repr__(self) -> str:
        parts = ["Pooling and explained variance by level (Gelman & Pardoe 2006)", _text(self.table)]
        if len(self.variance):
            shown = self.variance[[column for column in self.variance if not str(column).startswith("share_")]]
            parts += ["", "Shares of the variance of y, given the predictors at their means", _text(shown)]
        if len(self.groups):
            shown = _ends(self.groups)
            less = f"; those least and most pooled of {len(self.groups)}" if len(shown) < len(self.groups) else ""
            parts += ["", f"Shrinkage B_j of each group to its population, from 0 (none) to 1{less}"]
            parts.append(_text(shown.drop(columns=["level", "plate", "group"])))
        for message in self.messages:
            parts += ["", *textwrap.wrap(message, WIDTH)]
        return "\n".join(parts)


def pooling(posterior: Fit) -> Pooling:
    """Pooling factor and R^2 by level, shrinkage by group, shares of variance, and sds that may be 0.

    Raises:
        DataError: if the posterior does not know its model and data.
        ModelError: if the model writes its `log_prob` itself, of which no levels are known.
    """
    fitted = posterior.fitted
    model, data, reads = fitted.model, fitted.data, fitted.reads
    if overrides(model, "log_prob"):
        raise ModelError(
            f"pooling needs priors and a likelihood, and {type(model).__name__} writes log_prob itself: write "
            "likelihood(self, v, data) instead."
        )
    numbers = data.n_rows + sum(x[0].numel() for name, x in reads.values.items() if model.latents[name].plate)
    look = Pointwise(posterior, min(DRAWS, max(FEWEST, NUMBERS // numbers)))
    look.hold()
    values = {name: look.flat[name] for name in model.latents}
    messages: list[str] = []
    with torch.no_grad(), validation(False):
        refuse_own_priors(model, values, data, "pooling")
        varying = [name for name, latent in model.latents.items() if latent.plate is not None]
        lines = level_lines(model, data, values, varying) | _rows(model, data, values, messages)
    effects = effects_of(model, reads.distributions)
    b, without = shrinkage(model, data, values, effects)
    messages += [f"B_j of {plate} was not computed: {why}." for plate, why in without.items()]
    groups = _groups(posterior, model, data, values, effects, b)
    frame = pd.DataFrame(list(lines.values()), index=list(lines))
    frame["shrinkage"] = [
        groups["shrinkage"][(groups["level"] == level) | groups["level"].str.startswith(f"{level}[")].mean()
        for level in frame.index
    ]
    single = {plate: names for plate, names in effects.items() if without.get(plate) != COUPLED}
    variance = _variance(model, data, values, single, reads, messages)
    population = {name: values[name] for name, latent in model.latents.items() if latent.plate is None}
    scales = scales_of(model, data, reads)
    labels = {name: _entries(posterior, model, name) for name in scales}
    return Pooling(frame, groups, variance, boundaries(model, data, population, scales, labels) + messages)


def _rows(model: Model, data: Data, values: Mapping[str, Tensor], messages: list[str]) -> dict[str, Level]:
    """R^2 and lambda of the rows, by their weights where they have any."""
    if overrides(model, "log_likelihood"):
        messages.append("The level of the rows was left out: the model writes log_likelihood itself, without a mean.")
        return {}
    y = data.y.double()
    weights = torch.ones_like(y) if data.weights is None else data.weights.double()
    number, mean, within = len(next(iter(values.values()))), torch.zeros_like(y), 0.0
    for at in torch.arange(number).split(max(1, NUMBERS // 5 // data.n_rows)):
        v = Values({key: x[at] for key, x in values.items()}, tuple(model.latents))
        likelihood = model.likelihood(v, data)
        if why := without_mean(likelihood):
            messages.append(f"The level of the rows was left out: {why}.")
            return {}
        error = y - centre(likelihood).double().expand(len(at), data.n_rows)
        mean += error.sum(0)
        within += float(_weighted_variance(error, weights).sum()) / number
    whole, between = float(_weighted_variance(y, weights)), float(_weighted_variance(mean / number, weights))
    if not math.isfinite(within):
        messages.append("The level of the rows was left out: in some draws the mean of y is not finite.")
        return {}
    r2 = 1 - within / whole if whole > 0 else math.nan
    factor = 1 - between / within if within > 0 else math.nan
    return {"rows": Level("", int((weights > 0).sum()), math.sqrt(within), r2, factor)}


def _weighted_variance(x: Tensor, weights: Tensor) -> Tensor:
    """Over the last axis, with n - 1 where all weights are 1."""
    total = weights.sum()
    centred = x - (x * weights).sum(-1, keepdim=True) / total
    return (centred.square() * weights).sum(-1) / (total - total / (weights > 0).sum())


def _groups(
    posterior: Fit,
    model: Model,
    data: Data,
    values: Mapping[str, Tensor],
    effects: Mapping[str, list[str]],
    b: Mapping[str, Tensor],
) -> pd.DataFrame:
    """One row an effect of a group."""
    centre_of = {name: x.mean(0, keepdim=True) for name, x in values.items()}
    frames = []
    for plate, names in effects.items():
        alone = no_pooling(model, data, centre_of, effects, plate) if names[0] in b else {}
        rows, labels = data.counts(plate).cpu().numpy(), data.labels[plate]
        for name in names:
            moments = posterior.effects(name)
            event = values[name].shape[2:]
            levels = entries_of(model, data, name, event)
            missing = torch.full(values[name].shape[1:], math.nan, dtype=torch.float64)
            estimate, error = alone.get(name, (missing, missing))
            columns = {
                "mean": moments["mean"].to_numpy().reshape(len(labels), -1),
                "sd": moments["sd"].to_numpy().reshape(len(labels), -1),
                "no_pooling": estimate.reshape(len(labels), -1).cpu().numpy(),
                "se": error.reshape(len(labels), -1).cpu().numpy(),
                "shrinkage": b.get(name, missing).reshape(len(labels), -1).cpu().numpy(),
            }
            for k, level in enumerate(levels):
                texts = [label_text(label) for label in labels]
                entry = level[len(name) :].strip("[]")
                index = [parameter_text(name, [text, entry] if entry else [text]) for text in texts]
                frame = pd.DataFrame({"level": level, "plate": plate, "group": texts, "rows": rows}, index=index)
                frames.append(frame.assign(**{column: x[:, k] for column, x in columns.items()}))
    return pd.concat(frames) if frames else pd.DataFrame(columns=pd.Index(COLUMNS), dtype=object)


def _variance(
    model: Model,
    data: Data,
    values: Mapping[str, Tensor],
    effects: Mapping[str, list[str]],
    reads: Reads,
    messages: list[str],
) -> pd.DataFrame:
    """Shares of variance, where what y is like is known and effects have a population."""
    population = {name: x for name, x in values.items() if model.latents[name].plate is None}
    found = parted(model, data, population, effects, reads.priors)
    if isinstance(found, str):
        messages.append(f"Shares of variance were left out: {found}")
        return pd.DataFrame()
    return table(data, found, model, CI_PROB)


def _entries(posterior: Fit, model: Model, name: str) -> list[str]:
    if name in posterior:
        return [str(entry) for entry in summary(posterior, name, kind="stats").index]
    fitted = posterior.fitted
    return entries_of(model, fitted.data, name, fitted.reads.values[name].shape[2:])


def _ends(groups: pd.DataFrame) -> pd.DataFrame:
    """All groups of a level, or those pooled least and most."""
    parts = []
    level = groups["level"] if groups["level"].nunique() <= LEVELS else groups["level"].str.split("[").str[0]
    for _, part in groups.groupby(level, sort=False):
        if len(part) > SHOWN:
            ordered = part.sort_values("shrinkage", kind="stable")
            part = pd.concat([ordered.head(ENDS), ordered.tail(ENDS)])
        parts.append(part)
    return pd.concat(parts)


def _text(frame: pd.DataFrame) -> str:
    return frame.to_string(float_format=lambda x: f"{x:.3g}", na_rep="-", line_width=WIDTH, max_colwidth=40)
