"""What share of the variance of y each level has, on the scale of the link and of the response.

Given the predictors at their means x, the variance of eta splits into z_p' S_p z_p for each grouping p, with S_p the
covariance of its effects and z_p what eta reads of them (1 for an intercept, x for a slope: Goldstein, Browne & Rasbash
2002, section 2), and the variance of a row around its eta.

Note [The variance of a row]
    sigma_y^2, or the mean square of known standard errors, for Gaussian rows; sigma_y^2 nu / (nu - 2) for Student's t;
    pi^2 / 3 for a logit; log(1 + 1 / m) for Poisson counts and trigamma(1 / (1 / m + 1 / phi)) for negative binomial
    ones, of mean m = exp(eta_0 + V / 2), V the variance of eta by groups (Nakagawa & Schielzeth 2010, table 2;
    Nakagawa, Johnson & Schielzeth 2017, table 1). Families know theirs (`Family.link_variance`).

Note [The scale of the response]
    mu(eta) = E[y | eta] has the covariance V_p = Var(E[mu | effects of p and of the groupings that p lies in]) between
    two rows of one group, and y the variance Var(mu) + E[Var(y | eta)] (Goldstein, Browne & Rasbash 2002, method B; de
    Villemereuil, Schielzeth, Nakagawa & Morrissey 2016, eqs. 11-14). The integrals over normal effects are done by
    Gauss-Hermite quadrature instead of simulation. A level's variance is what it adds to that of the levels it lies in;
    what crossed levels do together is in none of them, so that shares may sum to less than 1.
"""

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, StudentT

from hiertorch.data.reading import spread_rows
from hiertorch.data.table import Data
from hiertorch.draws.summaries import CI_PROB
from hiertorch.errors import ModelError
from hiertorch.families import Family
from hiertorch.model.declared import overrides
from hiertorch.model.latent import Values
from hiertorch.model.model import Model
from hiertorch.models.design import Designed, family_of
from hiertorch.pooling.information import Effects, prior_mean
from hiertorch.runtime.validating import validation

ROWS = 200
"""Spread over the data, which say how eta reads effects; and ten times as many for known standard errors."""

NUMBERS = 4_000_000
"""Effects or nodes that are held at once."""

NODES = 32
"""Of the quadrature for each of two integrals."""


class Partition(NamedTuple):
    """Variances of each draw on the scale of the link, and what the scale of the response takes."""

    levels: dict[str, Tensor]  # plate -> z' S z at the means of predictors, (draws,)
    row: Tensor  # of a row around eta, (draws,)
    centre: Tensor  # eta at the means of predictors and effects, (draws,)
    population: Values  # draws of the population-level latents, (draws, 1, *event)
    typical: Data  # one row that stands for all


Lines = dict[tuple[str, str], tuple[Tensor, Tensor, Tensor]]
"""("link" or "response", plate or "rows") -> variance, share and intraclass correlation of each draw."""


def partition(effects: Effects, values: Mapping[str, Tensor], reads: Mapping[str, Collection[str]]) -> Partition:
    """Variances by draw, of the effects that have a population: those whose prior reads a latent. Given are effects of
    groups that are independent, draws of the population-level latents, `(draws, 1, *event)`, and what priors read.

    Raises:
        ModelError: if there are no such effects, or it isn't known how y varies around eta.
    """
    model, data = effects.model, effects.data
    learnt = {plate: [name for name in names if reads[name]] for plate, names in effects.names.items()}
    learnt = {plate: names for plate, names in learnt.items() if names}
    if not learnt:
        raise ModelError("no effects of independent groups have a population.")
    if overrides(model, "log_likelihood"):
        raise ModelError("the model writes log_likelihood itself.")
    family = family_of(model)
    if family is not None and family.several:
        raise ModelError(f"rows of {family!r} have several predictors, with variances of their own (`varcorr`).")
    at = spread_rows(data.n_rows, ROWS, data.device)
    means, more = copy.copy(data.take(at)), data.take(spread_rows(data.n_rows, 10 * ROWS, data.device))
    means.columns = {name: x.mean(0, keepdim=True).expand(len(at), *x.shape[1:]) for name, x in data.columns.items()}
    typical = copy.copy(means.take(at.new_zeros(1)))
    if family is not None:
        typical.columns = {**typical.columns, **{name: x.reshape(1) for name, x in family.typical_row(data).items()}}
    latents = [(data.size(plate), model.latents[name]) for plate, names in learnt.items() for name in names]
    held = sum(n * max(1, math.prod(x.event), math.prod(len(axis) for axis in x.axes)) for n, x in latents)
    each = max(1, NUMBERS // max(held, 10 * len(at)))
    found: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []
    with torch.no_grad(), validation(False):
        for part in torch.arange(len(next(iter(values.values())))).split(each):
            population = {name: x[part] for name, x in values.items()}
            found.append(_variances(model, means, more if family is None else typical, population, learnt))
    levels = {plate: torch.cat([f[0][plate] for f in found]) for plate in learnt}
    centre, row = torch.cat([f[1] for f in found]), torch.cat([f[2] for f in found])
    return Partition(levels, row, centre, model.values(values), typical)


def _variances(
    model: Model, means: Data, rows: Data, population: Mapping[str, Tensor], effects: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Of some draws: variance of eta by plate and eta, in rows whose columns are at their means, and variance of a row,
    on average over other rows: each `(draws,)`.
    """
    v = with_effects(model, means, population)
    eta = _eta(model, v, means)  # (draws, rows)
    levels = {}
    for plate, names in effects.items():
        total = torch.zeros_like(eta)
        for name in names:
            for shift in roots(model.prior(name, v, means), v[name]):
                moved = with_effects(model, means, population, name, shift)
                total = total + (_eta(model, moved, means) - eta).square()
        levels[plate] = total.mean(-1)
    spread = torch.stack(list(levels.values())).sum(0)
    centre = eta.mean(-1, keepdim=True)
    return levels, centre[:, 0], _row_variance(model, v, rows, centre, spread.unsqueeze(-1))


def with_effects(
    model: Model, data: Data, population: Mapping[str, Tensor], name: str | None = None, shift: Tensor | float = 0.0
) -> Values:
    """All latents, group-level ones at the mean of their prior given those before; one of them shifted."""
    values: dict[str, Tensor] = {}
    draws = len(next(iter(population.values())))
    for key, latent in model.latents.items():
        if latent.plate is None:
            values[key] = population[key]
            continue
        prior = model.prior(key, model.values(values), data)
        mean = prior_mean(prior).expand(draws, data.size(latent.plate), *prior.event_shape)
        values[key] = mean + shift if key == name else mean
    return model.values(values)


def roots(prior: Distribution, value: Tensor) -> Iterator[Tensor]:
    """The columns of a root of the prior's covariance, each a shift of the effects `(draws, groups, *event)`."""
    base = prior.base_dist if isinstance(prior, Independent) else prior
    number = math.prod(value.shape[2:])
    for k in range(number):
        if isinstance(base, MultivariateNormal):
            yield base.scale_tril[..., k].expand(value.shape)
        else:
            one = torch.zeros(number, dtype=value.dtype, device=value.device)
            one[k] = 1.0
            yield prior.variance.sqrt().expand(value.shape) * one.reshape(value.shape[2:])


def _eta(model: Model, v: Values, data: Data) -> Tensor:
    """The linear predictor with its offset, `(draws, rows)`."""
    eta = model.linear_predictor(v, data) if isinstance(model, Designed) else None
    if eta is None:
        likelihood = model.likelihood(v, data)
        if not isinstance(likelihood, Normal | StudentT):
            raise ModelError(
                f"shares of variance need to know the scale of eta, and the likelihood of {type(model).__name__} is "
                f"{type(likelihood).__name__}, not Normal: take one of hiertorch.models, which know theirs."
            )
        eta = likelihood.loc
    return torch.as_tensor(eta).expand(len(next(iter(v.values()))), data.n_rows)


def _row_variance(model: Model, v: Values, data: Data, eta: Tensor, spread: Tensor) -> Tensor:
    """Note [The variance of a row], `(draws,)`."""
    family = family_of(model)
    if family is not None:
        variance = family.link_variance(eta, spread, v, data)
    else:
        likelihood = model.likelihood(v, data)
        variance = likelihood.variance if isinstance(likelihood, Normal | StudentT) else None
    if variance is None:
        raise ModelError(f"how y varies around eta is not known for {family or type(likelihood).__name__}.")
    return variance.expand(len(eta), data.n_rows).mean(-1)


def shares(found: Partition) -> dict[str, tuple[Tensor, Tensor]]:
    """Plates, and rows -> variance on the scale of the link and its share of their sum, each `(draws,)`."""
    total = sum(found.levels.values()) + found.row
    lines = {plate: (own, own / total) for plate, own in found.levels.items()}
    return lines | {"rows": (found.row, torch.where(found.row.isinf(), 1.0, found.row / total))}


def table(effects: Effects, found: Partition) -> pd.DataFrame:
    """Variance, share and intraclass correlation by level, with intervals.

    The ICC of a grouping is the correlation of two rows of one of its groups that share all that the group lies in:
    the share of the grouping and of those it nests in. Rows have none.
    """
    data, family = effects.data, family_of(effects.model)
    within = {
        p: [q for q in found.levels if q != p and data.nests(p, q) and not data.nests(q, p)] for p in found.levels
    }
    link, lines = shares(found), Lines()
    for level, (own, share) in link.items():
        icc = share + sum(link[q][1] for q in within[level]) if level in within else share * math.nan
        lines["link", level] = (own, share, icc)
    if family is not None and not family.scaled:
        lines |= _response(found, within, family)
    edge, percent = (1 - CI_PROB) / 2, int(CI_PROB * 100)
    rows = []
    for variance, share, icc in lines.values():
        row: dict[str, float] = {"variance": float(variance.median())}  # of counts its mean may be infinite
        for name, x in (("share", share), ("icc", icc)):
            row |= {
                name: float(x.mean()),
                f"{name}_eti{percent}_lb": float(x.quantile(edge)),
                f"{name}_eti{percent}_ub": float(x.quantile(1 - edge)),
            }
        rows.append(row)
    return pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(list(lines), names=["scale", "level"]))


def _response(found: Partition, within: Mapping[str, Sequence[str]], family: Family) -> Lines:
    """Note [The scale of the response], by level; nothing where mean or variance of y are not known."""
    every = torch.stack(list(found.levels.values())).sum(0)
    nodes, weights = _hermite(found.centre)
    eta = found.centre.unsqueeze(-1) + every.clamp(min=0).sqrt().unsqueeze(-1) * nodes
    mu = family.mean(eta, found.population, found.typical)
    around = family.variance(eta, found.population, found.typical)
    if mu is None or around is None:
        return {}
    first, second, row = mu @ weights, mu.square() @ weights, around @ weights
    covariance = {
        plate: _covariance(found, family, own + sum(found.levels[q] for q in within[plate]), every)
        for plate, own in found.levels.items()
    }
    total = second - first.square() + row
    lines = Lines()
    for plate, inner in covariance.items():
        outer = max(within[plate], key=lambda q: len(within[q]), default=None)
        own = inner - covariance[outer] if outer is not None else inner
        lines["response", plate] = (own, own / total, inner / total)
    lines["response", "rows"] = (row, row / total, row * math.nan)
    return lines


def _covariance(found: Partition, family: Family, inner: Tensor, every: Tensor) -> Tensor:
    """Var(E[mu | u]) for eta = centre + u + w, u ~ Normal(0, inner), w ~ Normal(0, every - inner): `(draws,)`."""
    nodes, weights = _hermite(inner)
    parts = []
    for part in torch.arange(len(inner)).split(max(1, NUMBERS // NODES**2)):
        u = inner[part].clamp(min=0).sqrt()[:, None, None] * nodes[:, None]
        w = (every - inner)[part].clamp(min=0).sqrt()[:, None, None] * nodes
        eta = found.centre[part][:, None, None] + u + w  # (draws, nodes of u, nodes of w)
        v = Values({name: x[part] for name, x in found.population.items()}, tuple(found.population))
        mu = family.mean(eta.flatten(1), v, found.typical)
        assert mu is not None  # since it is known elsewhere
        given = mu.unflatten(1, eta.shape[1:]) @ weights  # (draws, nodes of u)
        average = given @ weights
        parts.append((given - average.unsqueeze(-1)).square() @ weights)
    return torch.cat(parts)


def _hermite(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of E[f(z)], z ~ Normal(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return torch.as_tensor(nodes).to(like), torch.as_tensor(weights / weights.sum()).to(like)
