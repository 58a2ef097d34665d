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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from hiertorch.draws.fit import Fit
from hiertorch.draws.naming import label_text, parameter_text
from hiertorch.draws.pointwise import DRAWS, Pointwise
from hiertorch.errors import ModelError
from hiertorch.model.declared import overrides, refuse_own_priors
from hiertorch.pooling.boundaries import boundaries, scales_of
from hiertorch.pooling.information import Effects
from hiertorch.pooling.levels import NUMBERS, Level, by_group, levels_of_effect, rows_level
from hiertorch.pooling.shrinkage import COUPLED, no_pooling, shrinkage
from hiertorch.pooling.variance import partition, table
from hiertorch.runtime.validating import validation

FEWEST = 100
"""Draws that are looked at whatever the size."""

SHOWN, ENDS, LEVELS = 12, 4, 6
"""Groups of a level that are printed; of more, so many of those pooled most and least; of more levels, all as one."""

COLUMNS = ["level", "plate", "group", "rows", "mean", "sd", "no_pooling", "se", "shrinkage"]
"""Of the table of groups."""

WIDTH = 120
"""Of a printed line."""


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
            shown = self.variance.filter(regex="^(?!share_)")
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
    varying = [name for name, latent in model.latents.items() if latent.plate is not None]
    numbers = data.n_rows + sum(reads.values[name][0].numel() for name in varying)
    look = Pointwise(posterior, min(DRAWS, max(FEWEST, NUMBERS // numbers)))
    look.hold()
    flat, messages = look.flat, list[str]()
    values = {name: flat[name] for name in model.latents}
    levels: dict[str, Level] = {}
    with torch.no_grad(), validation(False):
        refuse_own_priors(model, values, data, "pooling")
        for name in varying:
            levels |= levels_of_effect(model, data, values, name)
        try:
            levels["rows"] = rows_level(model, data, values)
        except ModelError as error:
            messages.append(f"The level of the rows was left out: {error}.")
    effects = Effects.found(model, data, reads.distributions)
    b, without = shrinkage(effects, values)
    messages += [f"B_j of {plate} was not computed: {why}." for plate, why in without.items()]
    frames = list(_groups(posterior, effects, values, b))
    groups = pd.concat(frames)[COLUMNS] if frames else pd.DataFrame(columns=pd.Index(COLUMNS), dtype=object)
    frame = pd.DataFrame(list(levels.values()), index=list(levels))
    frame["shrinkage"] = [
        groups["shrinkage"][(groups["level"] == level) | groups["level"].str.startswith(f"{level}[")].mean()
        for level in frame.index
    ]
    population = {name: x for name, x in values.items() if model.latents[name].plate is None}
    single = Effects(model, data, {p: names for p, names in effects.names.items() if without.get(p) != COUPLED})
    variance = pd.DataFrame()
    try:
        variance = table(single, partition(single, population, reads.priors))
    except ModelError as error:
        messages.append(f"Shares of variance were left out: {error}")
    messages = boundaries(model, data, population, scales_of(model, data, reads)) + messages
    return Pooling(frame, groups, variance, messages)


def _groups(
    posterior: Fit, effects: Effects, values: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> Iterator[pd.DataFrame]:
    """One row a group, for each entry of each effect."""
    centre = {name: x.mean(0, keepdim=True) for name, x in values.items()}
    for plate, names in effects.names.items():
        alone = no_pooling(effects, centre, plate) if names[0] in b else {}
        for name in names:
            shape = values[name].shape[1:]
            missing = torch.full(shape, math.nan, dtype=torch.float64)
            estimate, error = alone.get(name, (missing, missing))
            moments = posterior.effects(name)
            mean, sd = (
                torch.as_tensor(moments[column].to_numpy(copy=True)).reshape(shape) for column in ("mean", "sd")
            )
            columns = {"mean": mean, "sd": sd, "no_pooling": estimate, "se": error, "shrinkage": b.get(name, missing)}
            for level, frame in by_group(effects.model, effects.data, name, columns):
                texts = [label_text(label) for label in frame.index]
                entry = level[len(name) :].strip("[]")
                index = [parameter_text(name, [text, entry] if entry else [text]) for text in texts]
                yield frame.assign(level=level, group=texts).set_axis(index, axis=0)


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
