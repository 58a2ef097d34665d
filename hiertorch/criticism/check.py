"""What a predictive check has found: p = Pr(T(y_rep) >= T(y)) of statistics T, in a table and in sentences."""

import math
import textwrap
from collections.abc import Callable, Iterator
from functools import cached_property

import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Categorical

from hiertorch.criticism.replications import Replications
from hiertorch.criticism.statistics import Statistic, Statistics, given, p_text
from hiertorch.criticism.uniformity import LooPit
from hiertorch.criticism.usual import calibration, usual
from hiertorch.errors import DataError
from hiertorch.families.coded import shares
from hiertorch.models.design import family_of
from hiertorch.runtime.surroundings import feels_at_home

EXTREME = 0.025
"""p-values nearer to 0 or 1 are called extreme."""

TIES = 1e-9
"""Relative difference below which two values of a statistic are the same, such as two proportions of zeros."""

WIDTH = 118


@feels_at_home
class Check:
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
        statistics: that were looked at, by name.
        observed: name -> T(y).
        replicated: name -> T(y_rep), `(draws,)`.
        response: "continuous", "count", "binary" or, of labels without order, "category".
        groups: whether effects of groups were those fitted ("known") or drawn again ("new").
        replications: that were looked at; iterating makes them again, in blocks `(n, rows)`.
        model: class name.
    """

    def __init__(
        self,
        kind: str,
        replications: Replications,
        statistics: Statistics | None,
        groups: str = "known",
        pit: Callable[[], LooPit] | None = None,
    ) -> None:
        self.kind, self.groups, self.replications, self._pit = kind, groups, replications, pit
        self.model, self.response = type(replications.model).__name__, _response(replications)
        data, family = replications.data, family_of(replications.model)
        looked_at = list(usual(self.response, data))
        if self.response == "binary" and kind == "posterior":
            looked_at.append(calibration(replications.mean()))
        own = None if family is None else family.statistics()
        if self.response == "category" and not own:
            own = shares(
                [str(code) for code in replications.likelihood.enumerate_support(expand=False).flatten().tolist()]
            )
        for more in (own, statistics):
            for one in given(more, {statistic.name for statistic in looked_at}):
                one.check(self.response, data)
                looked_at.append(one)
        self.statistics = {x.name: x for x in looked_at}
        self.observed = {x.name: float(x(replications.y.unsqueeze(0), data)[0]) for x in looked_at}
        self.replicated, self.lost = _replicated(looked_at, replications)
        self.table = pd.DataFrame.from_dict(
            {x.name: _row(self.observed[x.name], self.replicated[x.name], x.only_above) for x in looked_at},
            orient="index",
        )
        self.table.index.name = "statistic"
        self.warnings = list(self._sentences())

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

    def __repr__(self) -> str:
        rows = f"{self.replications.draws:,} replications of {self.replications.data.n_rows:,} rows"
        who = "drawn from the prior" if self.kind == "prior" else f"with effects of {self.groups} groups"
        lines = [f"{self.kind.capitalize()} predictive check of {self.model}: {rows}, {who}"]
        shown = self.shown.rename(columns={"extreme": ""}).map(lambda x: x if isinstance(x, str) else number(x))
        lines += shown.rename_axis(None).to_string().splitlines()
        for warning in self.warnings or ["No statistic is extreme."]:
            lines += textwrap.wrap(warning, WIDTH, initial_indent="- ", subsequent_indent="  ")
        return "\n".join(lines)

    @property
    def shown(self) -> pd.DataFrame:
        """The table with p, its error and what is extreme as texts."""
        return self.table.assign(
            p=self.table["p"].map("{:.3f}".format),
            p_error=self.table["p_error"].map("{:.3f}".format),
            extreme=self.table["extreme"].map({True: "extreme", False: ""}),
        )

    def _sentences(self) -> Iterator[str]:
        if self.lost:
            yield (
                f"In {self.lost:,} of {self.replications.draws:,} replications a mean is beyond all numbers, and these "
                f"are left out: {'tighten the priors' if self.kind == 'prior' else 'look at the draws'}."
            )
        whose = "prior" if self.kind == "prior" else "model"
        for row, statistic in zip(self.table.to_dict("records"), self.statistics.values(), strict=True):
            if not row["extreme"]:
                continue
            above = row["p"] < 0.5
            advice = statistic.advice_above if above else statistic.advice_below
            if self.kind == "prior":
                advice = "such data are all but excluded before any is seen; widen the priors, or move them"
            yield (
                f"{statistic.lies(above)} ({number(row['observed'])}) than the {whose} makes ({number(row['q05'])} to "
                f"{number(row['q95'])}; {p_text(row['p'], self.replications.draws)}){': ' + advice if advice else ''}."
            )


def number(x: float) -> str:
    """A value of a statistic for print, with three or four digits."""
    return f"{x:,.0f}" if 1000 <= abs(x) < 1e7 else f"{x:.3g}"


def _response(replications: Replications) -> str:
    likelihood = replications.likelihood
    if isinstance(likelihood, Bernoulli) or (isinstance(likelihood, Binomial) and likelihood.total_count.max() <= 1):
        return "binary"
    if isinstance(likelihood, Categorical):
        return "category"
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
                found[x.name].append(x(y[finite], replications.data).cpu())
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
