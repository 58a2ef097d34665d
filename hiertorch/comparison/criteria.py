"""How well a model predicts what it has not seen, from the draws of one fit: PSIS-LOO, WAIC and DIC.

With lppd_i = log mean_s p(y_i | theta_s) over draws s, of rows i or of groups i whose effects are integrated out:

    loo    elpd_i = log sum_s w_is p(y_i | theta_s) / sum_s w_is,  w_is: Pareto smoothed 1 / p(y_i | theta_s)
    waic   elpd_i = lppd_i - p_i,  p_i = Var_s log p(y_i | theta_s)
    dic    elpd_i = log p(y_i | mean theta) - p_i,  p_i = 2 (log p(y_i | mean theta) - mean_s log p(y_i | theta_s))

Vehtari, Gelman & Gabry (2017); Watanabe (2010); Spiegelhalter et al. (2002); as in Gelman, Hwang & Vehtari (2014). Row
weights multiply log densities, so that a row of weight 2 counts as two that are left out together.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from hiertorch.arguments import check_choice
from hiertorch.comparison.elpd import Found, Groups, Rows, Source, dic, loo, named, total, waic
from hiertorch.data.fingerprint import Fingerprint
from hiertorch.draws.fit import Fit
from hiertorch.draws.pointwise import Pointwise
from hiertorch.errors import DataError
from hiertorch.markup import shown

KINDS = ("loo", "waic", "dic")

MIN_DRAWS = 25
"""Of which the largest fifth are five weights, fewer than which no tail is fitted to."""

WAIC_LIMIT = 0.4
"""Variance of log p(y_i | theta) above which WAIC is not to be trusted (Vehtari, Gelman & Gabry 2017, section 2.2)."""


@dataclass(frozen=True)
class Criterion:
    """elpd = sum_i elpd_i, the expected log predictive density of new data, estimated; se = sqrt(n Var_i elpd_i).

    Attributes:
        kind: "loo", "waic", "dic" or "kfold".
        by: "row", or the grouping whose groups are left out whole.
        elpd: the sum; a higher one predicts better.
        se: its standard error, over rows or groups.
        p: effective number of parameters.
        pointwise: one row for each row of the data, or group that has rows, by their labels: "elpd", "p" and, where
            there is one, "pareto_k".
        details: further numbers, such as the second form of DIC.
        model: class name of what was fitted.
        question: which prediction this is about, in one sentence.
        warnings: what a reader should know before trusting the numbers.
        fingerprint: of the data that it is about; None if it was made by hand.
        stopped: how the run was stopped that it is of, in a sentence; "" if it was not.
    """

    kind: str
    by: str
    elpd: float
    se: float
    p: float
    pointwise: pd.DataFrame
    details: Mapping[str, float] = field(default_factory=dict)
    model: str = ""
    question: str = ""
    warnings: list[str] = field(default_factory=list)
    fingerprint: Fingerprint | None = None
    stopped: str = ""

    @property
    def ic(self) -> float:
        """-2 elpd, on the scale of a deviance."""
        return -2.0 * self.elpd

    _repr_html_ = shown

    def __repr__(self) -> str:
        what = "rows" if self.by == "row" else f"groups of {self.by!r}"
        lines = [
            f"{self.kind.upper()} of {self.model or 'a model'}: {len(self.pointwise)} {what}",
            f"elpd {self.elpd:.1f} (se {self.se:.1f}), p {self.p:.1f}, -2 elpd {self.ic:.1f}",
        ]
        return "\n  ".join([*lines, *(text for text in (self.question, self.stopped) if text), *self.warnings])


def question(by: str) -> str:
    """Which prediction a criterion is about (Merkle, Furr & Rabe-Hesketh 2019)."""
    if by == "row":
        return (
            "How well is a new row predicted, of a group that was fitted if there are any, given the group's effects?"
        )
    return f"How well are all rows of a new group of {by!r} predicted together, its effects integrated out?"


def criterion(posterior: Fit, kind: str = "loo", by: str = "row", *, draws: int | None = 4000) -> Criterion:
    """PSIS-LOO, WAIC or DIC of a posterior, by row or by group.

    By row the likelihood is conditional on the effects of groups: how well is a new row of a group that was fitted
    predicted? By a grouping it is the marginal one, of all rows of a group with the group's effects integrated out:
    how well is a new group predicted? These are different questions, and models can rank differently (Merkle, Furr &
    Rabe-Hesketh 2019). Effects of groupings that do not nest in the one asked for are conditioned on.

    DIC's mean of theta is that of the latents as declared; `details` has the second form, p_V = 2 Var_s log p(y |
    theta_s) (Gelman, Hwang & Vehtari 2014, eqs 8 to 10); of WAIC p_waic1 (eq. 11) beside p_waic2 (eq. 12). Arguments
    and errors are those of `hiertorch.posterior.Posterior.criterion`.
    """
    check_choice("kind", kind, KINDS)
    pointwise = Pointwise(posterior, draws)
    check_choice("by", by, ("row", *pointwise.data.plates))
    if pointwise.number < MIN_DRAWS:
        raise DataError(
            f"criteria need {MIN_DRAWS} draws or more of all chains together; found {pointwise.number}: run longer, or "
            "raise draws=."
        )
    source = Rows(pointwise) if by == "row" else Groups(pointwise, by)
    found, details = {"loo": loo, "waic": waic, "dic": dic}[kind](source)
    frame = pd.DataFrame({name: found[name] for name in ("elpd", "p", "pareto_k") if name in found}, index=source.index)
    notes = [*_trust(kind, found, details, source), *source.notes()]
    details = {**details, "draws": float(pointwise.number), **source.details}
    numbers, name, mark = total(found["elpd"], found["p"]), type(pointwise.model).__name__, pointwise.data.fingerprint
    return Criterion(kind, by, *numbers, frame, details, name, question(by), notes, mark, posterior.stopped)


def _trust(kind: str, found: Found, details: Mapping[str, float], source: Source) -> Iterator[str]:
    """Sentences about the numbers that are not to be trusted."""
    if (bad := np.flatnonzero(~found["finite"])).size:
        yield (
            f"The log density of {named(source.index, bad, source.what)} is not finite in some draws, so that the "
            "criterion isn't either: look at these values of the response, or leave them out."
        )
    if kind == "loo":
        k, limit = found["pareto_k"], details["good_k"]
        if len(worst := _beyond(k, limit)):
            yield (
                f"Pareto k is above {limit:.2f} for {named(source.index, worst, source.what)}, highest "
                f"{k[worst[0]]:.2f}: their elpd can't be had from the draws of this fit. posterior.refit(criterion) "
                "leaves them out exactly, by fitting without them; if they are many, take posterior.kfold()."
            )
        if (bad := np.flatnonzero(np.isnan(k) & found["finite"])).size:
            yield (
                f"The largest importance weights of {named(source.index, bad, source.what)} are all the same, so that "
                "no Pareto k can be told: did the chains move?"
            )
    if kind == "waic" and len(worst := _beyond(found["p"], WAIC_LIMIT)):
        yield (
            f"The variance of the log density is above {WAIC_LIMIT} for {named(source.index, worst, source.what)}, "
            f"highest {found['p'][worst[0]]:.2g}: WAIC is not to be trusted there; take kind='loo' and look at its "
            "Pareto k."
        )
    if kind == "dic" and np.isnan(details["p_V"]) and found["finite"].all():
        yield (
            "DIC's second form p_V needs the draws of all effects, which were not stored: name them in keep= of "
            "ht.sample."
        )
    if kind == "dic" and details["p_D"] < 0:
        yield (
            f"DIC's number of effective parameters is negative, {details['p_D']:.3g}: the mean of the latents doesn't "
            "represent their posterior, which has several modes or is skewed; take kind='loo'."
        )


def _beyond(values: np.ndarray, limit: float) -> np.ndarray:
    """Numbers of the units whose values are above a limit, the worst first."""
    bad = np.flatnonzero(values > limit)
    return bad[np.argsort(-values[bad], kind="stable")]
