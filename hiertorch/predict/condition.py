"""Effects of new groups from their first few rows, without fitting again.

    p(population, e | y_obs, y_new) ~ p(population | y_obs) p(e | population) p(y_new | e, population)

Draws of the population come from the posterior, effects e of a new group from their prior, several for each draw of the
population, and the likelihood of the group's rows y_new weights them. The largest weights are smoothed by a generalised
Pareto distribution, whose shape k says whether they can be trusted: up to 0.7 they can (Vehtari, Simpson, Gelman, Yao &
Gabry 2024, Pareto smoothed importance sampling).

Note [What is conditioned together]
    New groups that meet in a row (a new class of a new school) have their weights together, and one k. All others, two
    new schools or new classes of a known school, are conditioned each by itself: each updates the population for
    itself, and what its rows say about the population is not passed on to the others, as it would be in a new fit.

docs/decisions.md: `condition` takes importance weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.arguments import check_choice, check_count, check_probability
from hiertorch.data.frames import Table, as_frame
from hiertorch.data.newrows import FrameRows, shown
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.naming import parameter_texts
from hiertorch.draws.pareto import HIGHEST, smoothed
from hiertorch.errors import DataError, ModelError, warn
from hiertorch.predict.categories import asked, event, lines
from hiertorch.predict.predict import KINDS, Prediction, intervals
from hiertorch.predict.scene import Setting
from hiertorch.randomness import seeded
from hiertorch.runtime.surroundings import feels_at_home
from hiertorch.runtime.validating import validation

PAIRS = 40_000
"""Draws of a group's effects, if it is not said how many."""

FEWEST = 100
"""Draws of effects, below which the largest are too few for k."""


class Unit(NamedTuple):
    """New groups that are conditioned together."""

    rows: FrameRows  # theirs
    new: Mapping[str, pd.Index]
    effects: Mapping[str, Tensor]  # of these groups, resampled, (chains x draws, groups, *event)
    known: Mapping[str, Tensor]  # plate -> codes of the known groups beside them
    origin: Tensor  # which draw of the posterior each goes with, (chains x draws,)
    summary: Mapping[str, pd.DataFrame]  # by name
    pareto_k: float
    ess: float


@feels_at_home
@dataclass(frozen=True)
class Conditioned:
    """What the rows of new groups say about their effects.

    Attributes:
        effects: name -> draws resampled by their weights, `(chains, draws, groups, *event)`, groups as in `labels`;
            those of groups that do not meet in a row do not belong together.
        labels: grouping -> its new groups.
        summary: mean, sd and equal-tailed interval by the weights of all draws; one row an effect, such as alpha[12].
        pareto_k: by grouping and group; weights with k above 0.7 can't be trusted.
        ess: effective number of draws, 1 / sum of squared weights, likewise.
        warnings: a sentence on each k above that.
    """

    effects: Mapping[str, Tensor]
    labels: Mapping[str, pd.Index]
    summary: pd.DataFrame
    pareto_k: pd.Series
    ess: pd.Series
    warnings: list[str]
    _units: list[Unit] = field(repr=False)
    _fitted: Fitted = field(repr=False)
    _posterior: Fit = field(repr=False)

    def predict(
        self, frame: Table, kind: str = "mean", *, ci_prob: float = 0.89, seed: int | None = None
    ) -> Prediction:
        """Further rows of these groups, as `Posterior.predict` has it, given the rows that they were conditioned on.

        Raises:
            DataError: for rows of other new groups, or of no new group, and for all that `Posterior.predict` refuses.
        """
        check_choice("kind", kind, KINDS)
        kind = asked(self._fitted, kind)
        check_probability(ci_prob)
        posterior, data = self._posterior, self._fitted.data
        generator = posterior.generator("conditioned", seed, data.device)
        # New groups have been looked at when they were conditioned on, and no others are taken here.
        rows = FrameRows.read(data, frame, distinct=True)
        owner = self._owners(rows)
        found = data.y.new_empty(posterior.chains * posterior.n_draws, len(owner), *event(self._fitted, kind))
        with torch.no_grad(), validation(False):
            for i in np.unique(owner):
                unit, mine = self._units[i], owner == i
                setting = Setting(self._fitted, posterior, unit.rows.then(rows.part(mine)))
                if more := [g for plate, new in setting.new.items() for g in new if g not in unit.new.get(plate, ())]:
                    raise DataError(
                        f"new group {wording.show(more[0])} was not among the rows that were conditioned on; condition "
                        "on some of its rows, or take posterior.predict."
                    )
                if setting.redrawn and any(not torch.equal(x, unit.known[plate]) for plate, x in setting.codes.items()):
                    raise DataError(
                        "the rows have other known groups than those that were conditioned on, and the effects of "
                        "known groups were not stored, so that these would not belong together: store them, by keep= "
                        "in ht.sample."
                    )
                y = setting.predicted(unit.origin, kind, generator, given=unit.effects)
                found[:, torch.from_numpy(np.flatnonzero(mine)).to(found.device)] = y[:, len(unit.rows.index) :]
        draws = found.unflatten(0, (posterior.chains, posterior.n_draws))
        return Prediction(draws, intervals(draws, ci_prob, lines(self._fitted, kind, rows.index)), self.labels)

    def _owners(self, rows: FrameRows) -> np.ndarray:
        """The number of the unit that each row belongs to."""
        owner = np.full(len(rows.index), -1)
        for i, unit in enumerate(self._units):
            for plate, new in unit.new.items():
                mine = np.asarray(rows.labels[plate].isin(new))
                if (clash := mine & (owner >= 0) & (owner != i)).any():
                    raise DataError(
                        f"row {wording.show(rows.index[int(np.argmax(clash))])} has new groups that did not meet in "
                        "the rows that they were conditioned on; condition on rows in which they do."
                    )
                owner[mine] = i
        if (owner < 0).any():
            raise DataError(
                f"row {wording.show(rows.index[int(np.argmax(owner < 0))])} has none of the groups that were "
                "conditioned on; condition on some of its group's rows, or take posterior.predict."
            )
        return owner


def condition(
    posterior: Fit,
    table: Table,
    *,
    prior_draws: int | None = None,
    ci_prob: float = 0.89,
    seed: int | None = None,
    distinct: bool = False,
) -> Conditioned:
    """See `Posterior.condition`."""
    fitted = posterior.readable
    check_probability(ci_prob)
    total = posterior.chains * posterior.n_draws
    each = -(-PAIRS // total) if prior_draws is None else prior_draws
    check_count("prior_draws", each)
    if each * total < FEWEST:
        raise DataError(
            f"{total} draws x prior_draws={each} are too few to weight: take prior_draws={-(-FEWEST // total)}."
        )
    data = fitted.data
    generator = posterior.generator("condition", seed, data.device)
    frame = as_frame(table)
    rows = FrameRows.read(data, frame, distinct=distinct)
    y = data.read_response(frame)
    fresh = {plate: labels for plate, labels in rows.fresh(data).items() if fitted.varies(plate)}
    owner = meeting(rows, fresh)
    units = []
    with torch.no_grad(), validation(False):
        for i in np.unique(owner):
            mine = owner == i
            part, own_y = rows.part(mine), y[torch.from_numpy(mine).to(y.device)]
            setting = Setting(fitted, posterior, part, own_y)
            units.append(_condition(setting, part, each, ci_prob, generator))
    return _gathered(fitted, posterior, units)


def meeting(rows: FrameRows, fresh: Mapping[str, pd.Index]) -> np.ndarray:
    """Rows that share a new group have one number, that of the first of them; see Note [What is conditioned together].

    Raises:
        DataError: for rows of known groups alone.
    """
    codes = {plate: new.get_indexer(rows.labels[plate]) for plate, new in fresh.items() if len(new)}
    known = np.ones(len(rows.index), bool)
    for at in codes.values():
        known &= at < 0
    if known.any():
        raise DataError(
            f"row {wording.show(rows.index[int(np.argmax(known))])} has only groups that were fitted: condition is for "
            "new ones. Leave it out, or fit again with it."
        )
    owner, before = np.arange(len(known)), None
    while before is None or (owner != before).any():
        before = owner.copy()
        for at in codes.values():
            least = np.full(at.max() + 1, len(owner))
            np.minimum.at(least, at[at >= 0], owner[at >= 0])
            owner = np.where(at >= 0, least[at], owner)
    return owner


def _condition(setting: Setting, rows: FrameRows, each: int, ci_prob: float, generator: torch.Generator) -> Unit:
    """New groups that meet, by the weights of draws of their effects."""
    posterior, model = setting.posterior, setting.fitted.model
    names = [name for name in model.latents if setting.plate(name) in setting.new]
    total = posterior.chains * posterior.n_draws
    pairs = torch.arange(total, device=setting.rows.device).repeat_interleave(each)
    log_weights, parts = [], list[dict[str, Tensor]]()
    inside = torch.zeros(setting.rows.n_rows, dtype=torch.bool, device=pairs.device)
    for at in pairs.split(setting.per()):
        with seeded(generator, setting.rows.device):
            v = setting.values(at)
        if not bool(inside.all()):
            inside |= _inside(setting, v)
        log_weights.append(model.log_likelihood(v, setting.rows).double().sum(-1))
        parts.append({name: v[name][:, setting.before(name) :] for name in names})
    effects = {name: torch.cat([part[name] for part in parts]) for name in names}
    log_weight = torch.cat(log_weights).nan_to_num(nan=-torch.inf, posinf=-torch.inf).cpu().numpy()
    if not bool(inside.all()) or not np.isfinite(log_weight).any():
        row = rows.index[int(torch.argmin(inside.int()))]
        raise DataError(
            f"the response of row {wording.show(row)} of {setting.news()} has no density in any draw: it is outside "
            "the support of the likelihood, or too far from all draws."
        )
    weight, k = smoothed(log_weight)
    uniform = float(torch.rand((), generator=generator, device=generator.device, dtype=torch.float64))
    places = (np.arange(total) + uniform) / total
    picks = torch.from_numpy(np.searchsorted(np.cumsum(weight)[:-1], places)).to(pairs.device)
    tables = {name: _summary(setting, name, effects[name], weight, ci_prob) for name in names}
    drawn = {name: x[picks] for name, x in effects.items()}
    return Unit(rows, setting.new, drawn, setting.codes, pairs[picks], tables, k, 1.0 / float((weight**2).sum()))


def _inside(setting: Setting, v: Mapping[str, Tensor]) -> Tensor:
    """Whether a response is in the support of the likelihood in any of these draws, `(rows,)`."""
    rows = setting.rows
    try:
        support = setting.fitted.model.likelihood(setting.fitted.model.values(v), rows).support
    except (NotImplementedError, ModelError):  # a distribution of the user's that tells none, or a log_likelihood alone
        support = None
    if support is None:
        return torch.ones(rows.n_rows, dtype=torch.bool, device=rows.device)
    return support.check(rows.y.unsqueeze(0)).any(0).expand(rows.n_rows)


def _summary(setting: Setting, name: str, x: Tensor, weight: np.ndarray, ci_prob: float) -> pd.DataFrame:
    """Weighted mean, sd and equal-tailed interval of `(draws, groups, *event)`; one row an effect."""
    event = setting.fitted.model.latents[name].event_labels(setting.fitted.data)
    axes = [setting.new[str(setting.plate(name))], *(event or [range(k) for k in x.shape[2:]])]
    index = parameter_texts(name, axes)
    values = x.flatten(1).double().cpu().numpy()
    mean = weight @ values
    percent, edge = int(ci_prob * 100), (1 - ci_prob) / 2
    columns = {"mean": mean, "sd": np.sqrt(weight @ (values - mean) ** 2)}
    order = np.argsort(values, 0)
    ranked, mass = np.take_along_axis(values, order, 0), weight[order]
    middle = np.cumsum(mass, 0) - mass / 2
    for end, p in (("lb", edge), ("ub", 1 - edge)):
        columns[f"eti{percent}_{end}"] = np.array([np.interp(p, m, r) for m, r in zip(middle.T, ranked.T, strict=True)])
    return pd.DataFrame(columns, index=index)


def _gathered(fitted: Fitted, posterior: Fit, units: list[Unit]) -> Conditioned:
    """All units in one."""
    shape = (posterior.chains, posterior.n_draws)
    plates = [plate for plate in fitted.data.plates if any(plate in unit.new for unit in units)]
    labels = {
        plate: pd.Index([g for unit in units for g in unit.new.get(plate, ())], tupleize_cols=False) for plate in plates
    }
    names = [name for name, latent in fitted.model.latents.items() if latent.plate in labels]
    effects = {
        name: torch.cat([unit.effects[name] for unit in units if name in unit.effects], 1).unflatten(0, shape)
        for name in names
    }
    keys = [(plate, label) for plate in plates for unit in units for label in unit.new.get(plate, ())]
    index = pd.MultiIndex.from_tuples(keys, names=["grouping", "group"])
    each = [unit for plate in plates for unit in units for _ in unit.new.get(plate, ())]
    pareto_k = pd.Series([unit.pareto_k for unit in each], index=index, name="pareto_k")
    ess = pd.Series([unit.ess for unit in each], index=index, name="ess")
    sentences = [
        f"{'; '.join(f'{plate} {shown(new)}' for plate, new in unit.new.items())}: Pareto k is {unit.pareto_k:.2f}, "
        f"above {HIGHEST}: too few draws carry the weight for its effects to be trusted. Give it fewer rows or more "
        "prior_draws=, or fit again with its rows."
        for unit in units
        if not unit.pareto_k <= HIGHEST
    ]
    for sentence in sentences:
        warn(sentence)
    table = pd.concat([unit.summary[name] for name in names for unit in units if name in unit.summary])
    return Conditioned(effects, labels, table, pareto_k, ess, sentences, units, fitted, posterior)
