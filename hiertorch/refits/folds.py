"""K-fold cross-validation as one run, and exact refits of what importance weights can't leave out.

    elpd = sum_i log p(y_i | y without the fold of i),   p(y_i | y without fold f) ~ mean_s p(y_i | theta^(f, s))

(Vehtari, Gelman & Gabry 2017, section 2.3). A fold is a row of weights, 0 for rows that are left out, so that K fits
are K times as many chains of one run, which starts where the fit to all rows ended. Of groups that are left out whole
the effects are integrated out (Merkle, Furr & Rabe-Hesketh 2019).

docs/decisions.md: A fit to all rows is where folds start.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.arguments import check_seed, is_number
from hiertorch.comparison.bygroup import by_group
from hiertorch.comparison.criteria import Criterion, question
from hiertorch.comparison.elpd import total
from hiertorch.data.table import Data
from hiertorch.draws import diagnostics
from hiertorch.draws.closedform import collapsed_of
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.pareto import good_k
from hiertorch.draws.pointwise import Pointwise
from hiertorch.errors import DataError
from hiertorch.fitting import fit
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.redraw import Redraw
from hiertorch.randomness import derived
from hiertorch.refits.parting import Units
from hiertorch.run.ending import uninterrupted
from hiertorch.run.options import Options, check_handed_on
from hiertorch.runtime.silence import hushed

CHAINS, DRAWS = 8, 500
"""Of each fit: some thousands of draws are enough for the mean of a density."""

WITHOUT = {"prior_only": "folds are rows", "keep": "a fold's densities need all latents"}
"""Options of `sample` that no fold can have."""

AT_ONCE = 100
"""Fits in one run; more come in several."""

HIGHEST_R_HAT = 1.1
"""Beyond it a fit is named in the warnings. A mean of densities needs less than an interval does."""

FITTED = 1_000
"""Draws of the fit to all rows, whose log densities say what p is: nothing is weighted, so that few will do."""

INTEGRATED = 1_000
"""Draws of a fold at which the effects of groups are integrated out where that has no closed form."""


def kfold(
    posterior: Fit,
    k: int = 10,
    by: str = "row",
    *,
    stratify: str | None = None,
    folds: Sequence[object] | None = None,
    seed: int | None = None,
    **settings: Any,
) -> Criterion:
    """The expected log predictive density by k fits, each without one fold; see `Posterior.kfold`."""
    check_handed_on(settings, WITHOUT)
    check_seed(seed)
    whole = Pointwise(posterior, FITTED)
    data = whole.data
    seed = posterior.derived("folds") if seed is None else seed
    units = Units.of(data, by)
    fold = units.drawn(k, stratify, seed) if folds is None else units.given(folds)
    of_row = fold[units.of_row]
    kept = torch.stack([of_row != f for f in range(int(fold.max()) + 1)])
    _check_kept(whole, kept)
    elpd, error = torch.zeros(2, len(fold), dtype=data.dtype, device=data.device)
    found: list[str] = []
    for f, one in enumerate(_fits(posterior, kept, by, seed, settings)):
        out = (fold == f).nonzero()[:, 0]
        elpd[out], error[out] = _left_out(one, by, out)
        found += _sentences(one, f"fold {f}")
    used = _used(whole, units)
    frame = pd.DataFrame({"elpd": elpd[used].cpu(), "p": (_in_sample(whole, by, used) - elpd[used]).cpu()})
    frame["fold"] = fold[used].cpu().numpy()
    frame.index = units.labels[used.cpu().numpy()]
    if found:
        found.append("Give draws=, warmup= or chains= to take more of each fold.")
    details = {"folds": float(len(kept)), "mcse": float(error[used].square().sum().sqrt())}
    name, mark = type(whole.model).__name__, data.fingerprint
    numbers = total(frame["elpd"].to_numpy(), frame["p"].to_numpy())
    return Criterion("kfold", by, *numbers, frame, details, name, question(by), found, mark)


def refit(
    posterior: Fit,
    criterion: Criterion,
    *,
    above: float | None = None,
    seed: int | None = None,
    **settings: Any,
) -> Criterion:
    """A criterion by PSIS-LOO with the rows (or groups) of a high Pareto k left out by fits of their own, all in one
    run: of a Pareto k above min(1 - 1 / log10(draws), 0.7) (Vehtari et al. 2024) if nothing else is given; see
    `hiertorch.posterior.Posterior.refit`.
    """
    if not isinstance(criterion, Criterion) or criterion.kind != "loo":
        kind = criterion.kind if isinstance(criterion, Criterion) else type(criterion).__name__
        raise DataError(f"refit takes a criterion of kind 'loo', as posterior.criterion() gives it; found {kind!r}.")
    check_handed_on(settings, WITHOUT)
    check_seed(seed)
    if above is not None and (not is_number(above) or math.isnan(above)):
        raise DataError(f"above= is the Pareto k above which a row is left out by a fit, a number; found {above!r}.")
    whole = Pointwise(posterior)
    data, by, frame = whole.data, criterion.by, criterion.pointwise.copy()
    units = Units.of(data, by)
    used = _used(whole, units)
    others = [] if criterion.fingerprint is None else data.fingerprint.row_differences(criterion.fingerprint)
    if list(frame.index) != list(units.labels[used.cpu().numpy()]):
        others = ["but of other rows or groups"]
    if others:
        raise DataError(
            f"the criterion is not of the data that this posterior was fitted to, {'; '.join(others)}: take "
            "posterior.criterion() of this one."
        )
    above = good_k(whole.number) if above is None else above
    at = np.flatnonzero(~(frame["pareto_k"].to_numpy() <= above))
    if not len(at):
        return criterion
    out = used[torch.from_numpy(at).to(used.device)]
    kept = units.of_row.unsqueeze(0) != out.unsqueeze(1)
    _check_kept(whole, kept)
    seed = posterior.derived("refit") if seed is None else seed
    found: list[str] = []
    column = {name: frame[name].to_numpy(copy=True) for name in ("elpd", "p", "pareto_k")}
    for i, one in zip(at, _fits(posterior, kept, by, seed, settings), strict=True):
        found += _sentences(one, f"the fit without {wording.show(frame.index[int(i)])}")
        elpd = float(_left_out(one, by, used[i : i + 1])[0][0])
        column["p"][i] += column["elpd"][i] - elpd
        column["elpd"][i], column["pareto_k"][i] = elpd, 0.0
    frame = frame.assign(**column, refitted=np.isin(np.arange(len(frame)), at))
    elpd, se, p = total(frame["elpd"].to_numpy(), frame["p"].to_numpy())
    details = {**criterion.details, "refitted": float(len(at))}
    return replace(criterion, elpd=elpd, se=se, p=p, pointwise=frame, details=details, warnings=found)


def _used(whole: Pointwise, units: Units) -> Tensor:
    """Rows that say something of the latents, or groups that have any."""
    return units.of_row[whole.told].unique()


def _check_kept(whole: Pointwise, kept: Tensor) -> None:
    if not bool(kept[:, whole.told].any(1).all()):
        raise DataError("a fold holds all rows that say anything: nothing would be left to fit. Take other folds.")


def _fits(posterior: Fit, kept: Tensor, by: str, seed: int, settings: Mapping[str, object]) -> Iterator[Fit]:
    """For each row of `kept` `(fits, rows)` the posterior given these rows alone; it can be asked about the others."""
    fitted = posterior.fitted
    data: Data = fitted.data
    dtype = getattr(torch, str(posterior.run.get("dtype", "float64")))
    given: dict[str, Any] = {"draws": DRAWS, "progress": False, "start": posterior, "dtype": dtype, **settings}
    chains = given.pop("chains", None) or CHAINS
    found = "" if by == "row" else collapsed_of(posterior)
    closed = None if isinstance(found, str) else found  # in a closed form, on all rows
    every = torch.ones(data.n_rows, dtype=data.dtype, device=data.device) if data.weights is None else data.weights
    for number, part in enumerate(kept.split(AT_ONCE)):
        weights = (part * every).repeat(chains, 1)
        with hushed():  # what there is to say was said of the fit to all rows
            options = Options(**{"seed": derived(seed, "fits", number), **given})
            run = fit(fitted.model, data.replace(weights=weights), options, Fit)
        uninterrupted(run, "the run of the folds")
        for i, rows in enumerate(part):
            yield _one(posterior, run, slice(i, None, len(part)), None if by == "row" else ~rows, closed)


def _one(posterior: Fit, run: Fit, chains: slice, out: Tensor | None, closed: Collapsed | None) -> Fit:
    """The chains of one fit, as a posterior that knows all rows, or those that were left out."""
    fitted, one = posterior.fitted, run.taken(chains)
    data = fitted.data if out is None or closed is not None else fitted.data.take(out.nonzero()[:, 0])
    latents = [name for name in fitted.model.latents if name in one and one.plates[name] is None]
    one.origin = Fitted(fitted.model, data, next(iter(one.draws.values())))
    one.unstored = None
    if closed and latents:
        one.unstored = Redraw(closed, {name: one.draws[name] for name in latents}, run.derived("effects"))
    return one


def _left_out(one: Fit, by: str, out: Tensor) -> tuple[Tensor, Tensor]:
    """log p(y_i | y without i's fold) of rows or groups, and its Monte Carlo error from the differences of chains."""
    pointwise = Pointwise(one, INTEGRATED if by != "row" and one.unstored is None else None)
    terms = pointwise.log_likelihood(out) if by == "row" else by_group(pointwise, by).log_density()[..., out]
    highest = terms.amax((0, 1), keepdim=True)
    each = (terms - highest).exp().mean(1)  # (chains, n)
    mean = each.mean(0)
    error = each.std(0) / len(each) ** 0.5 / mean if len(each) > 1 else torch.full_like(mean, torch.nan)
    return mean.log() + highest[0, 0], error


def _in_sample(whole: Pointwise, by: str, used: Tensor) -> Tensor:
    """log mean_s p(y_i | theta^(s)) of the fit to all rows, for those that are used."""
    chunks = (x for _, x in whole.chunks()) if by == "row" else [by_group(whole, by).log_density()[..., used]]
    return torch.cat([terms.flatten(0, 1).logsumexp(0) for terms in chunks]) - math.log(whole.number)


def _sentences(one: Fit, what: str) -> list[str]:
    """What is wrong with a fit, by its population-level latents: effects of hundreds of groups would take longer to
    look at than to draw.
    """
    found = {name: x for name, x in one.draws.items() if one.plates[name] is None} or one.draws
    r_hat = {name: float(diagnostics.rhat(x).nan_to_num(1.0).max()) for name, x in found.items()}
    worst = max(r_hat, key=lambda name: r_hat[name])
    if one.n_draws < diagnostics.MIN_DRAWS or r_hat[worst] <= HIGHEST_R_HAT:
        return []
    return [f"R-hat of {worst} in {what} is {r_hat[worst]:.3f}, above {HIGHEST_R_HAT}: its chains do not agree."]
