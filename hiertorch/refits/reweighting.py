"""The posterior given further rows, by importance weights.

    p(theta | y, y_new)  ~  p(theta | y) p(y_new | theta),        w_s ~ p(y_new | theta^(s))

In a model whose effects and coefficients can be integrated out, only the rest (scales, correlations) is weighted,

    w_s ~ p(y, y_new | rest^(s)) / p(y | rest^(s)),

and effects and coefficients are drawn exactly given the rest and all rows: few dimensions, so that weights stay even
where many rows are new. Otherwise all latents are weighted by the new rows alone; effects of a new group are drawn
from their prior, several for each draw, and p(y_new | theta^(s)) is their average, group by group. Weights are
smoothed; they are used if their Pareto k is below min(1 - 1/log10(S), 0.7) (Vehtari, Simpson, Gelman, Yao & Gabry 2024)
and their effective number is 400 or more.

Note [Draws from weights]
    Draws are picked by systematic resampling (Kitagawa 1996, appendix) in the order of chains and draws: draw s comes
    floor or ceil(n w_s) times, one copy behind the other. So means are those of the weights, copies count as what they
    are, perfectly correlated, and R-hat and ESS of the result speak of both the chains and the weights. Accepting or
    rejecting each stored draw in turn (an independence Metropolis chain) would be wrong here: stored draws are
    correlated, and such a chain follows them back to the old posterior.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.density.structure import coordinates_of
from hiertorch.density.target import Target
from hiertorch.draws.closedform import collapsed_of
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.labelled import Stats
from hiertorch.draws.pareto import good_k, smoothed
from hiertorch.errors import DataError
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.redraw import Redraw
from hiertorch.model.latent import Values
from hiertorch.predict.condition import meeting
from hiertorch.predict.scene import Setting
from hiertorch.randomness import seeded
from hiertorch.refits.laterrows import Later
from hiertorch.runtime.validating import validation

WEIGHED, KEPT = 20_000, 10_000
"""Draws of all chains together that are weighted, and that are kept: more take time and say no more, since the Monte
Carlo error of 10,000 is a hundredth of a standard deviation.
"""

CHAINS = 4
"""That the kept draws are dealt out to: the least with which R-hat serves (Vehtari et al. 2021)."""

LEAST_ESS = 400
"""Of the weights (likewise)."""

PAIRS = 40_000
"""Draws of new groups' effects from their prior."""

NUMBERS = 1_000_000
"""That are held at once."""


class Reweighted(NamedTuple):
    """What weights make of a posterior, whether they can be trusted or not."""

    posterior: Fit
    pareto_k: float
    ess: float  # 1 / sum of squared weights
    weighed: int  # draws

    @property
    def trusted(self) -> bool:
        """Whether k and ESS allow it."""
        return self.pareto_k < good_k(self.weighed) and self.ess >= LEAST_ESS


class _Weights(NamedTuple):
    """Log weights of draws, with what makes the values of a pick of them."""

    log_weight: Tensor  # (n,)
    log_density: Tensor  # of the draws given all rows, (n,)
    drawn: Callable[[Tensor, torch.Generator], dict[str, Tensor]]  # of numbers among the n, (kept,): (kept, size, ...)
    collapsed: Collapsed | None


def reweighted(later: Later, *, kept: int | None = None, seed: int | None = None) -> Reweighted | str:
    """The posterior given the new rows as well, by weights; or why there are none. So many draws are kept of all chains
    together, or at most 10,000; without a seed, one that follows from the run's serves.
    """
    posterior = later.posterior
    total = posterior.chains * posterior.n_draws
    kept = min(total, KEPT) if kept is None else kept
    at = torch.arange(total)[:: max(1, total // max(WEIGHED, kept))]
    generator = posterior.generator("weights", seed, later.data.device)
    with torch.no_grad(), validation(False):
        try:
            weights = _by_rest(later, at) or _by_rows(later, at, generator)
        except DataError as reason:  # draws that were not kept
            return str(reason)
        log_weight = weights.log_weight.double().nan_to_num(-torch.inf, -torch.inf, -torch.inf).cpu().numpy()
        if not np.isfinite(log_weight).any():
            return f"none of {len(at)} draws gives the {len(later.y)} new rows a density above 0"
        weight, k = smoothed(log_weight)
        chains = min(CHAINS, posterior.chains)
        kept -= kept % chains
        uniform = float(torch.rand((), generator=generator, device=generator.device, dtype=torch.float64))
        places = (np.arange(kept) + uniform) / kept
        picks = torch.from_numpy(np.searchsorted(np.cumsum(weight)[:-1], places))
        drawn = {name: x.unflatten(0, (chains, -1)) for name, x in weights.drawn(picks, generator).items()}
    ess = 1.0 / float((weight**2).sum())
    height = weights.log_density[picks.to(weights.log_density.device)].unflatten(0, (chains, -1))
    updated = {**later.numbers(), "by": "weights", "pareto_k": finite(k), "ess": ess}
    return Reweighted(_posterior(later, drawn, height, updated, weights.collapsed, seed), k, ess, len(at))


def _by_rest(later: Later, at: Tensor) -> _Weights | None:
    """Weights of the rest; None if nothing can be integrated out."""
    posterior, fitted, data = later.posterior, later.fitted, later.data
    model = fitted.model
    old = collapsed_of(posterior)
    if isinstance(old, str):
        return None
    reads = Fitted(model, data, data.y).reads
    new = collapsed_of(posterior, data, reads)
    if isinstance(new, str) or new.rest != old.rest:
        return None
    held = {**posterior.more, **posterior.draws}
    coordinates = coordinates_of(new.composed.model, reads)
    rest = {name: held[name].flatten(0, 1)[at.to(data.device)].to(new.grams.packed.dtype) for name in new.rest}
    known, densities, remembered = [], [], []
    for part in torch.arange(len(at), device=data.device).split(min(old.batch, new.batch)):
        some = {name: x[part] for name, x in rest.items()}
        known.append(old.evaluate(some, len(part))[0])
        density, found = new.evaluate(some, len(part))
        densities.append(density)
        remembered.append(found)
    marginal, found = torch.cat(densities), torch.cat(remembered)
    height, v = marginal.clone(), Values(rest, tuple(model.latents))
    for name, x in rest.items():
        free = coordinates[name].bijection.inv(x)
        height += new.composed.model.log_prior_term(name, v, new.composed.data).sum(-1)
        height += Target.log_jacobian(coordinates[name], free, x).sum(-1)
    names = [name for name in new.linear if name in held or model.latents[name].plate is None]

    def drawn(picks: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        rows, picks = new.noise_for(names), picks.to(data.device)
        values: dict[str, list[Tensor]] = {name: [] for name in names}
        for part in picks.split(max(1, min(new.batch, NUMBERS // max(1, rows)))):
            noise = torch.randn(rows, len(part), generator=generator, dtype=marginal.dtype, device=data.device)
            made = new.draw({name: x[part] for name, x in rest.items()}, noise, names, found=found[part])
            for name in names:
                values[name].append(made[name])
        every = {name: x[picks] for name, x in rest.items()} | {name: torch.cat(x) for name, x in values.items()}
        return {name: every[name].to(data.dtype) for name in model.latents if name in every}

    return _Weights(marginal - torch.cat(known), height, drawn, new)


def _by_rows(later: Later, at: Tensor, generator: torch.Generator) -> _Weights:
    """Weights of all latents, with effects of new groups from their prior."""
    posterior, fitted, model = later.posterior, later.fitted, later.fitted.model
    if posterior.unstored_plates:
        raise DataError(f"the draws of {wording.listed(posterior.unstored_plates)} were not stored")
    setting = Setting(fitted, posterior, later.rows, later.y)
    rows, device = setting.rows, setting.rows.device
    names = [name for name in model.latents if setting.plate(name) in setting.new]
    each = -(-PAIRS // len(at)) if names else 1
    owner, unit = _owners(later, setting)
    log_weights, heights, effects = [], [], {name: list[Tensor]() for name in names}
    for part in at.to(device).split(max(1, setting.per() // each)):
        with seeded(generator, device):
            v = model.values(setting.values(part.repeat_interleave(each)))
            terms = model.log_likelihood(v, rows) if later.w is None else later.w * model.log_likelihood(v, rows)
            by_unit = terms.new_zeros(len(terms), int(owner.max()) + 1).index_add_(1, owner, terms)
            by_unit = by_unit.nan_to_num(-torch.inf, -torch.inf, -torch.inf).unflatten(0, (-1, each))
            log_weights.append((by_unit.logsumexp(1) - math.log(each)).sum(-1))
            gumbel = -torch.empty_like(by_unit).exponential_().log()
            chosen = (by_unit + gumbel).argmax(1)  # (n, units): a draw of each unit's effects by its weight
        height = by_unit.gather(1, chosen.unsqueeze(1)).squeeze(1).sum(-1)
        for name in names:
            before = setting.before(name)
            x = v[name][:, before:].unflatten(0, (-1, each))  # (n, each, groups, *event)
            which = chosen[:, unit[str(setting.plate(name))]]
            effects[name].append(_picked(x, which))
            prior = model.log_prior_term(name, v, setting.whole)[:, before:].unflatten(0, (-1, each))
            height = height + _picked(prior, which).sum(-1)
        heights.append(height)
    held = {name: x for name, x in {**posterior.more, **posterior.draws}.items() if name in model.latents}
    fresh = {name: torch.cat(x) for name, x in effects.items()}

    def drawn(picks: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        picks = picks.to(device)
        found = {}
        for name in model.latents:
            if name in held:
                x = held[name].flatten(0, 1)[at.to(device)[picks]]
                found[name] = torch.cat([x, fresh[name][picks]], 1) if name in fresh else x
        return found

    height = posterior.stats.log_density.flatten()[at].to(device) + torch.cat(heights)
    return _Weights(torch.cat(log_weights), height, drawn, None)


def _owners(later: Later, setting: Setting) -> tuple[Tensor, dict[str, Tensor]]:
    """The unit of each new row `(rows,)`, rows that share new groups having one; and that of each new group."""
    rows, device = later.rows, setting.rows.device
    codes = {plate: new.get_indexer(rows.labels[plate]) for plate, new in setting.new.items()}
    new = np.zeros(len(rows.index), bool)
    for at in codes.values():
        new |= at >= 0
    owner = np.zeros(len(new), np.int64)  # all rows of known groups are one
    if new.any():
        part = rows.part(new)
        owner[new] = 1 + np.unique(meeting(part, setting.new), return_inverse=True)[1]
    unit = {}
    for plate, at in codes.items():
        of_group = np.zeros(len(setting.new[plate]), np.int64)
        of_group[at[at >= 0]] = owner[at >= 0]
        unit[plate] = torch.from_numpy(of_group).to(device)
    return torch.from_numpy(owner).to(device), unit


def _picked(x: Tensor, which: Tensor) -> Tensor:
    """Of `(n, each, groups, *event)` the one of each group that `which` `(n, groups)` says."""
    index = which.unsqueeze(1).reshape(*which.shape[:1], 1, *which.shape[1:], *(1,) * (x.dim() - 3))
    return x.gather(1, index.expand(-1, -1, *x.shape[2:])).squeeze(1)


def _posterior(
    later: Later,
    drawn: Mapping[str, Tensor],
    log_density: Tensor,
    updated: Mapping[str, object],
    collapsed: Collapsed | None,
    seed: int | None,
) -> Fit:
    """As a run on all rows would have given it."""
    before, fitted, data = later.posterior, later.fitted, later.data
    model = fitted.model
    unkept = [name for name in drawn if name in before.more]
    population = {name: x for name, x in drawn.items() if model.latents[name].plate is None}
    own, blocks, fresh = follows(before, seed), before.stats.blocks, later.fresh
    draws = {name: x for name, x in drawn.items() if name not in unkept}
    merged = Fitted(model, data, next(iter(drawn.values())))
    draws |= {name: x for name, x in merged.derived(drawn).items() if name in before.draws}
    return Fit(
        draws,
        plates={**{name: latent.plate for name, latent in model.latents.items()}, **before.plates},
        labels={plate: data.labels[plate] for plate in before.labels},
        event_labels=before.event_labels,
        stats=Stats({}, before.stats.blocks, log_density, {}),
        run={**before.run, "seed": own, "seconds": {}, "updated": dict(updated)},
        interrupted=before.interrupted,
        unstored=Redraw(collapsed, population, own) if collapsed is not None and population else None,
        origin=merged,
        more={name: drawn[name] for name in unkept},
        tuning={move: x for move, x in before.tuning.items() if not len(fresh.get(str(blocks.get(move)), ()))},
    )


def follows(posterior: Fit, seed: int | None) -> int:
    """The seed of an update: as asked for, or one that follows from the run's."""
    return posterior.derived("update") if seed is None else seed


def finite(k: float) -> float | None:
    """For JSON, which has no infinity."""
    return k if math.isfinite(k) else None
