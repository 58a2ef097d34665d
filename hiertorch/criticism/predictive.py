"""Predictive checks: does the model make data like those that it was fitted to, and the prior data like these at all?

p = Pr(T(y_rep) >= T(y)),  y_rep ~ p(y_rep | theta),  theta ~ p(theta | y), or theta ~ p(theta) for the prior.
"""

import math
import secrets
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Binomial

from hiertorch.arguments import check_choice
from hiertorch.criticism.replications import Replications, check_draws, from_posterior, from_prior
from hiertorch.criticism.statistics import Statistic, calibration, given, p_text, usual
from hiertorch.criticism.uniformity import LooPit, loo_pit
from hiertorch.data.table import Data
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.errors import DataError
from hiertorch.model.model import Model
from hiertorch.models.design import family_of
from hiertorch.runtime.surroundings import at_home, feels_at_home

if TYPE_CHECKING:
    from matplotlib.figure import Figure


__all__ = ["PredictiveCheck", "loo_pit", "predictive_check", "prior_check"]

EXTREME = 0.025
"""p-values nearer to 0 or 1 are called extreme."""

TIES = 1e-9
"""Relative difference below which two values of a statistic are the same, such as two proportions of zeros."""

GROUPS = ("known", "new")
WIDTH = 118


@feels_at_home
class PredictiveCheck:
    """What a model, or its prior, reproduces of a response, and what it does not.

    p = Pr(T(y_rep) > T(y)) + Pr(T(y_rep) = T(y)) / 2, so that statistics of counts, which tie often, are not called
    extreme for it (the mid-p value: Lancaster 1961). Posterior predictive p-values use the data twice and keep nearer
    to 1/2 than uniform ones would: of a right model fewer than 5 % are extreme, and of a wrong one some are missed
    (Robins, van der Vaart & Ventura 2000; Gelman 2013). One such value among many statistics proves little; the
    sentence says where to look.

    Attributes:
        kind: "posterior" or "prior".
        table: one row a statistic: `observed`, of replications `mean`, `q05` and `q95`, `p`, `p_error` (its Monte Carlo
            standard error) and `extreme` (p < 0.025 or p > 0.975; for the calibration error p < 0.025 alone).
        warnings: a sentence for each statistic that is not reproduced, and what to think of.
        observed: name -> T(y).
        replicated: name -> T(y_rep), `(draws,)`.
        response: "continuous", "count" or "binary".
        groups: whether effects of groups were those fitted ("known") or drawn again ("new").
        replications: that were looked at; iterating makes them again, in blocks `(n, rows)`.
        model: class name.
    """

    def __init__(
        self,
        kind: str,
        replications: Replications,
        statistics: Mapping[str, Callable[[Tensor], Tensor]] | None,
        groups: str = "known",
        pit: Callable[[], LooPit] | None = None,
    ) -> None:
        self.kind, self.groups, self.replications, self._pit = kind, groups, replications, pit
        self.model, self.response = type(replications.model).__name__, _response(replications)
        looked_at = list(usual(self.response, replications.data))
        if self.response == "binary" and kind == "posterior":
            looked_at.append(calibration(replications.mean()))
        family = family_of(replications.model)
        for more in (None if family is None else family.statistics(), statistics):
            looked_at += given(more, {statistic.name for statistic in looked_at})
        y = replications.data.y.unsqueeze(0)
        self.observed = {x.name: float(x.function(y)[0]) for x in looked_at}
        self.replicated, self.lost = _replicated(looked_at, replications)
        self.table = pd.DataFrame.from_dict(
            {x.name: _row(self.observed[x.name], self.replicated[x.name], x.only_above) for x in looked_at},
            orient="index",
        )
        self.table.index.name = "statistic"
        self.warnings = list(self._sentences(looked_at))

    @cached_property
    def loo_pit(self) -> LooPit:
        """Leave-one-out predictive distribution functions at the data, computed when first asked for; see
        `hiertorch.criticism.uniformity`.

        Raises:
            DataError: for a check of the prior, which has seen no row.
        """
        if self._pit is None:
            raise DataError(
                "LOO-PIT leaves rows out of a fit, and this checks a prior: use posterior.predictive_check()."
            )
        return self._pit()

    def plot(self, kind: str = "density", plate: str | None = None) -> "Figure":
        """A matplotlib figure; save it by `.savefig(path)`.

        Args:
            kind: "density" (response and replications), "statistics" (T(y) among T(y_rep)), "groups" (group means among
                replicated ones), "loo_pit" (distribution function of LOO-PIT less the uniform one), "calibration" (of
                a binary response) or "rootogram" (of a count).
            plate: the grouping of "groups"; the first if left out.

        Raises:
            DataError: for another kind, and one that does not fit the response.
            ImportError: without the extra `plots`.
        """
        from hiertorch.criticism.figures import draw

        return draw(self, kind, plate)

    def __repr__(self) -> str:
        rows = f"{self.replications.draws:,} replications of {self.replications.data.n_rows:,} rows"
        who = "drawn from the prior" if self.kind == "prior" else f"with effects of {self.groups} groups"
        lines = [f"{self.kind.capitalize()} predictive check of {self.model}: {rows}, {who}"]
        shown = self.table.drop(columns=["p", "p_error", "extreme"]).map(number)
        shown["p"] = [f"{p:.3f}" for p in self.table["p"]]
        shown["p_error"] = [f"{error:.3f}" for error in self.table["p_error"]]
        shown[""] = ["extreme" if extreme else "" for extreme in self.table["extreme"]]
        lines += shown.rename_axis(None).to_string().splitlines()
        for warning in self.warnings or ["No statistic is extreme."]:
            lines += textwrap.wrap(warning, WIDTH, initial_indent="- ", subsequent_indent="  ")
        return "\n".join(lines)

    def _sentences(self, statistics: list[Statistic]) -> Iterator[str]:
        if self.lost:
            yield (
                f"In {self.lost:,} of {self.replications.draws:,} replications a mean is beyond all numbers, and these "
                f"are left out: {'tighten the priors' if self.kind == 'prior' else 'look at the draws'}."
            )
        whose = "prior" if self.kind == "prior" else "model"
        for statistic in statistics:
            row: Any = self.table.loc[statistic.name]
            if not row["extreme"]:
                continue
            above = row["p"] < 0.5
            lies = statistic.above if above else statistic.below
            advice = statistic.advice_above if above else statistic.advice_below
            if self.kind == "prior":
                advice = "such data are all but excluded before any is seen; widen the priors, or move them"
            yield (
                f"{lies} ({number(row['observed'])}) than the {whose} makes ({number(row['q05'])} to "
                f"{number(row['q95'])}; {p_text(row['p'], self.replications.draws)}){': ' + advice if advice else ''}."
            )


def predictive_check(
    posterior: Fit,
    statistics: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    *,
    draws: int = 1000,
    seed: int | None = None,
    groups: str = "known",
) -> PredictiveCheck:
    """p = Pr(T(y_rep) >= T(y) | y) of statistics T that fit the response: mean, sd, extremes, skewness, zeros, variance
    over mean, calibration, means and sds of groups, and your own (Gelman, Meng & Stern 1996).

    With known groups, y_rep is a new response of the same rows of the same groups: the check that sees whether rows are
    described. Effects of groups follow the data, so that groups that don't fit their population can't be seen: with new
    groups, effects are drawn again given the population-level latents (mixed replication: Marshall & Spiegelhalter
    2003), and their means and spread are checked. A model with an effect of each row describes any rows: check it with
    new groups. Row weights are ignored: every row counts once.

    Args:
        posterior: knows its model and data.
        statistics: of your own beside the usual ones: name -> function of a response `(draws, rows)` to `(draws,)`.
        draws: replications; more than the posterior has draws, and some draws make two.
        seed: of the random numbers; left out, one that follows from the run's.
        groups: "known" or "new".

    Raises:
        DataError: if the posterior does not know its model and data, for statistics that are no such functions or not
            finite, and fewer than one draw.
    """
    check_choice("groups", groups, GROUPS)
    check_draws(draws)
    number = posterior.generator("predictive_check", seed, posterior.fitted.data.device).initial_seed()
    replications = from_posterior(posterior, draws, groups, number)
    return PredictiveCheck("posterior", replications, statistics, groups, lambda: loo_pit(posterior, seed=seed))


@at_home
def prior_check(
    model: Model,
    data: Data,
    statistics: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    *,
    draws: int = 1000,
    seed: int | None = None,
) -> PredictiveCheck:
    """p = Pr(T(y_rep) >= T(y)), y_rep ~ p(y) = int p(y | theta) p(theta) dtheta: data as the prior expects them, before
    any is seen (Box 1980). Extreme ones are those that the prior all but excludes.

    Args:
        model: any.
        data: the rows; their response is only compared with.
        statistics: of your own beside the usual ones: name -> function of a response `(draws, rows)` to `(draws,)`.
        draws: replications.
        seed: of the random numbers; a random one if left out.

    Raises:
        ModelError, DataError: if model and data don't fit each other, and as `predictive_check` does.
    """
    if not isinstance(model, Model) or not isinstance(data, Data):
        raise DataError(
            f"prior_check takes an ht.Model and ht.Data; found {type(model).__name__} and {type(data).__name__}."
        )
    if data.y.ndim > 1:
        raise DataError("each chain of these data has a response of its own; check one response, of shape (rows,).")
    check_draws(draws)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise DataError(f"seed= is a whole number from 0 to 2^63 - 1; found {seed!r}.")
    model.check(data)
    fitted = Fitted(model, data, data.y)
    number = secrets.randbits(62) if seed is None else seed
    return PredictiveCheck("prior", from_prior(fitted.model, fitted.data, draws, number), statistics, "new")


def number(x: float) -> str:
    """A value of a statistic for print, with three or four digits."""
    return f"{x:,.0f}" if 1000 <= abs(x) < 1e7 else f"{x:.3g}"


def _response(replications: Replications) -> str:
    likelihood: Any = replications.likelihood
    if isinstance(likelihood, Bernoulli) or (isinstance(likelihood, Binomial) and likelihood.total_count.max() <= 1):
        return "binary"
    return "count" if replications.discrete else "continuous"


def _replicated(statistics: list[Statistic], replications: Replications) -> tuple[dict[str, Tensor], int]:
    """T(y_rep) by name, `(draws,)`, of those replications that are finite, and how many are not."""
    found: dict[str, list[Tensor]] = {x.name: [] for x in statistics}
    lost = 0
    for y in replications:
        finite = torch.isfinite(y).all(1)
        lost += int((~finite).sum())
        if bool(finite.any()):
            for x in statistics:
                found[x.name].append(x.function(y[finite]).cpu())
    if lost == replications.draws:
        raise DataError(
            "no replication could be simulated: in all of them some mean is beyond all numbers. Tighten the priors, or "
            "take predictors in units in which they vary by about 1."
        )
    return {name: torch.cat(parts) for name, parts in found.items()}, lost


def _row(observed: float, replicated: Tensor, only_above: bool) -> dict[str, float | bool]:
    n, tie = len(replicated), TIES * max(1.0, abs(observed))
    ties = int(((replicated - observed).abs() <= tie).sum())
    p = (int((replicated > observed + tie).sum()) + 0.5 * ties) / n
    smooth = (p * n + 1) / (n + 2)  # so that p = 0 has an error, too
    low, high = replicated.quantile(torch.tensor([0.05, 0.95], dtype=replicated.dtype)).tolist()
    return {
        "observed": observed,
        "mean": float(replicated.mean()),
        "q05": low,
        "q95": high,
        "p": p,
        "p_error": math.sqrt(smooth * (1 - smooth) / n),
        "extreme": p < EXTREME or (p > 1 - EXTREME and not only_above),
    }
