"""Coefficients, effects of groups, and the scales of both, as tables: what lme4 calls fixef, ranef and VarCorr.

    eta_i = x_i' b + sum_g z_gi' u_g[j(i)],   u_gj ~ (0, S_g):   b is fixef, u_gj ranef, the sds and correlations of S_g
    varcorr.

An effect is what a group adds to the mean of its prior, whether the model writes it so (`effects_g`) or writes the
group's own level around the population's (`alpha`).
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal

from hiertorch.arguments import check_probability
from hiertorch.data.table import Data
from hiertorch.draws import summaries
from hiertorch.draws.fit import Fit
from hiertorch.draws.naming import label_text, parameter_texts
from hiertorch.draws.pointwise import DRAWS, Pointwise
from hiertorch.errors import DataError
from hiertorch.model.declared import refuse_own_priors
from hiertorch.model.intervals import plain_bounds
from hiertorch.model.latent import Latent, Values
from hiertorch.models.design import Designed, family_of
from hiertorch.pooling.information import Effects, prior_mean
from hiertorch.pooling.variance import with_effects
from hiertorch.runtime.validating import validation

NUMBERS = 20_000_000
"""Draws x effects that are held at once."""

FEWEST = 200
"""Draws that are looked at whatever the size."""

REAL = (-math.inf, math.inf)


def fixef(fit: Fit, ci_prob: float = summaries.CI_PROB) -> pd.DataFrame:
    """See `hiertorch.posterior.Posterior.fixef`."""
    check_probability(ci_prob)
    rows = coefficients(fit)
    if not rows:
        raise DataError("the model has no population-level coefficients whose draws are stored.")
    return _table(list(rows.values()), pd.Index(list(rows)), ci_prob)


def coefficients(fit: Fit) -> dict[str, Tensor]:
    """Label -> draws `(chains, draws)` of each coefficient that all rows share."""
    model, reads = fit.fitted.model, fit.fitted.reads
    said = model.coefficients() if isinstance(model, Designed) else {}
    family = family_of(model)
    own = {} if family is None else family.latents
    held = {**fit.more, **fit.draws}
    found = dict[str, Tensor]()
    for name, latent in model.latents.items():
        shared = name in said if said else name not in own and _on_the_line(reads.distributions.get(name))
        if latent.plate is not None or name not in held or not shared:
            continue
        x = held[name].flatten(2)
        entries = said.get(name) or parameter_texts(name, _axes(latent, fit.fitted.data, held[name].shape[3:]))
        found |= {entry: x[:, :, k] for k, entry in enumerate(entries)}
    made = {name: held[name].flatten(2) for name in said if name in model.derived and name in held}
    return {entry: x[:, :, k] for name, x in made.items() for k, entry in enumerate(said[name])} | found


def ranef(fit: Fit, ci_prob: float = summaries.CI_PROB) -> pd.DataFrame:
    """See `hiertorch.posterior.Posterior.ranef`."""
    check_probability(ci_prob)
    tables = []
    for name, effects, values, look in _learnt(fit, groups=True):
        model, data = effects.model, effects.data
        x, plate = values[name], str(model.latents[name].plate)
        with torch.no_grad(), validation(False):
            deviation = x - prior_mean(model.prior(name, values, data))
        entries = _entries(effects, name, x)
        keys = [(plate, group, entry) for group in data.labels[plate] for entry in entries]
        index = _index(keys, ["grouping", "group", "effect"])
        draws = deviation.expand(x.shape).unflatten(0, (look.chains, -1)).flatten(2)
        tables.append(_table(list(draws.unbind(-1)), index, ci_prob))
    return pd.concat(tables)


def varcorr(fit: Fit, ci_prob: float = summaries.CI_PROB) -> pd.DataFrame:
    """See `hiertorch.posterior.Posterior.varcorr`."""
    check_probability(ci_prob)
    keys, rows, chains = list[tuple[Hashable, ...]](), list[Tensor](), fit.chains
    held: Mapping[str, Tensor] = {**fit.more, **fit.draws}
    for name, effects, values, look in _learnt(fit, groups=False):
        held = look.stored
        model, plate = effects.model, effects.model.latents[name].plate
        with torch.no_grad(), validation(False):
            prior = model.prior(name, values, effects.data)
            size = math.prod(values[name].shape[2:])
            for first, second, x in _deviations(prior, len(values[name]), size):
                entries = _entries(effects, name, values[name])
                keys.append((plate, entries[first], "" if second is None else entries[second]))
                rows.append(x.unflatten(0, (chains, -1)))
    family = family_of(fit.fitted.model)
    for name in () if family is None else family.scales:
        if name in held and held[name][0, 0].numel() == 1:
            keys.append(("rows", name, ""))
            rows.append(held[name].flatten(2)[:, :, 0])
    if not rows:
        raise DataError("the model has no effects of groups around a population, and no scale of its rows.")
    return _table(rows, _index(keys, ["grouping", "effect", "with"]), ci_prob)


def _learnt(fit: Fit, *, groups: bool) -> Iterator[tuple[str, Effects, Values, Pointwise]]:
    """Effects whose prior reads a latent, with draws of all latents, `(draws, size, *event)`: thinned evenly where
    there are very many, and with `groups` False effects at the mean of their prior.

    Raises:
        DataError: if there are none to be tabled.
        ModelError: where the model writes its density itself, so that priors are not known.
    """
    fitted = fit.fitted
    model, data, reads = fitted.model, fitted.data, fitted.reads
    effects = Effects.found(model, data, reads.distributions)
    names = [name for each in effects.names.values() for name in each if reads.priors[name]]
    if not names and not groups:
        return
    if not names:
        raise DataError("the model has no effects of groups around a population.")
    most = max(reads.values[name][0].numel() for name in names)
    few = max(FEWEST, NUMBERS // most)
    look = Pointwise(fit, min(DRAWS, few) if groups else few)
    if groups:
        look.hold()
        values = model.values({name: look.flat[name] for name in model.latents})
    else:
        population = {n: x.flatten(0, 1) for n, x in look.stored.items() if model.latents[n].plate is None}
        with torch.no_grad(), validation(False):
            values = with_effects(model, data, population)
    refuse_own_priors(model, values, data, "effects around a population")
    for name in names:
        yield name, effects, values, look


def _deviations(prior: Distribution, draws: int, size: int) -> Iterator[tuple[int, int | None, Tensor]]:
    """Number of an entry, that of another or None, and draws `(draws,)` of its sd, or of their correlation; of the
    first group where a prior tells groups apart.
    """
    base = prior.base_dist if isinstance(prior, Independent) else prior
    sd = prior.variance.sqrt()  # (draws, groups, *event)
    each = sd[:, 0].reshape(len(sd), size).expand(draws, size)
    for k in range(size):
        yield k, None, each[:, k]
    if isinstance(base, MultivariateNormal):
        covariance = base.covariance_matrix[:, 0].expand(draws, size, size)
        for a in range(size):
            for b in range(a + 1, size):
                rho = covariance[:, a, b] / (each[:, a] * each[:, b])
                if bool(rho.any()):  # two blocks are not correlated
                    yield a, b, rho


def _entries(effects: Effects, name: str, x: Tensor) -> list[str]:
    """What the effects of one group are called: the entries' labels, after the latent's name where a grouping has
    several latents.
    """
    model = effects.model
    axes = _axes(model.latents[name], effects.data, x.shape[2:])
    plate = str(model.latents[name].plate)
    if len(axes) == 1 and len(effects.names[plate]) == 1:
        return [label_text(label) for label in axes[0]]
    return parameter_texts(name, axes)


def _axes(latent: Latent, data: Data, event: Sequence[int]) -> list[list[object]]:
    """Labels of the entries of one value, by axis; their numbers where it has none."""
    said = latent.event_labels(data)
    return [list(range(k)) for k in event] if said is None else [list(axis) for axis in said]


def _on_the_line(prior: object) -> bool:
    try:
        return isinstance(prior, Distribution) and plain_bounds(prior) == REAL
    except NotImplementedError:  # it tells no support
        return False


def _index(keys: Sequence[tuple[Hashable, ...]], names: Sequence[str]) -> pd.MultiIndex:
    """Labels keep their types, also tuples."""
    columns = [pd.Index(list(column), tupleize_cols=False) for column in zip(*keys, strict=True)]
    return pd.MultiIndex.from_arrays(columns, names=list(names))


def _table(rows: Sequence[Tensor], index: pd.Index, ci_prob: float) -> pd.DataFrame:
    """Mean, sd and equal-tailed interval, one row each."""
    columns: Mapping[str, Tensor] = summaries.moments(torch.stack(list(rows), -1), ci_prob)
    return pd.DataFrame({name: x.cpu().numpy() for name, x in columns.items()}, index=index)
