"""elpd_best - elpd_other > 4 and > 2 standard errors: what a comparison of models allows to say, in sentences.

docs/decisions.md: A model is called better.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from hiertorch import wording
from hiertorch.comparison.criteria import Criterion
from hiertorch.draws.pareto import HIGHEST

SMALL = 4.0
"""Differences of elpd below this are small, whatever their standard error (Sivula, Magnusson & Vehtari 2020)."""

FEW = 100
"""With fewer rows or groups a standard error may be half of what it should be (Bengio & Grandvalet 2004)."""

MANY = 11
"""With more candidates the best one's elpd is noticeably too high, because it was chosen (McLatchie & Vehtari 2024)."""

NAMED = 3  # rows or groups in a sentence

DOUBTS = {  # why a candidate can't be told from the best
    "small": "since a difference below 4 is small, whatever its standard error",
    "uncertain": "since that is no more than {errors} standard errors of the difference",
    "bad k": "since without {units} of a high Pareto k that is no more than 4 or {errors} standard errors",
    "no standard error": "since this criterion has no values by {unit}, and so the difference no standard error",
}


def doubt(best: Criterion, other: Criterion) -> str:
    """Why a candidate can't be told from the best, a key of `DOUBTS`; empty if it can."""
    difference = best.elpd - other.elpd
    if difference < SMALL:
        return "small"
    if not all("elpd" in one.pointwise and np.isfinite(one.pointwise["elpd"]).all() for one in (best, other)):
        return "no standard error"
    gaps = best.pointwise["elpd"].to_numpy(np.float64) - other.pointwise["elpd"].to_numpy(np.float64)
    if difference <= errors_asked(len(gaps)) * _se(gaps):
        return "uncertain"
    kept = gaps[~(_bad(best) | _bad(other))]
    holds = len(kept) > 1 and kept.sum() > max(SMALL, errors_asked(len(kept)) * _se(kept))
    return "" if holds else "bad k"


def sentences(table: pd.DataFrame, criteria: Mapping[str, Criterion], doubts: Mapping[str, str]) -> str:
    """The verdict, a paragraph a line, from the table of `hiertorch.comparison.compare.Comparison`, the criteria by
    candidate, and by candidate but for the best its `doubt`.
    """
    best, one = table.index[0], next(iter(criteria.values()))
    n, unit = len(one.pointwise), "row" if one.by == "row" else "group"
    errors = "two" if errors_asked(n) == 2 else "four"
    what = "new rows" if one.by == "row" else f"new groups of {one.by!r}"
    apart = [name for name, reason in doubts.items() if not reason]
    beyond = f"by more than 4 and by more than {errors} standard errors of the difference"
    lines = []
    if len(apart) == len(doubts):
        lines.append(f"{best!r} predicts {what} best: {_lower(table, apart)}, {beyond}.")
    else:
        alike = []
        for reason, why in DOUBTS.items():
            if names := [name for name, found in doubts.items() if found == reason]:
                alike.append(f"{_lower(table, names)}, {why.format(errors=errors, units=f'{unit}s', unit=unit)}")
        lines.append(
            f"{best!r} has the highest elpd, but these data can't tell whether it predicts {what} better than "
            f"{'; nor than '.join(alike)}." + f" Worse, {beyond}: {_lower(table, apart)}." * bool(apart)
        )
        lines += _simplest(table, [best, *(name for name, reason in doubts.items() if reason)], one.kind != "dic")
    if n < FEW:
        lines.append(
            f"With only {n} {unit}s a standard error may be half of what it should be, so that four are asked for in "
            "place of two."
        )
    if len(criteria) > MANY:
        lines.append(
            f"Of {len(criteria)} candidates the best looks better than it is, because it was chosen: prefer an average "
            "of all by their stacking weights."
        )
    # Others are compared with these as if they had all their draws.
    stopped = [f"Beware of {name!r}. {one.stopped}" for name, one in criteria.items() if one.stopped]
    told = [(name, one.warnings) for name, one in criteria.items() if "pareto_k" not in one.pointwise]
    warned = [f"{name!r}: {text}" for name, texts in told for text in texts]
    return "\n".join([*stopped, *lines, *_high_k(criteria, unit), *warned])


def _lower(table: pd.DataFrame, names: Iterable[str]) -> str:
    found = []
    for name in names:
        difference, se = float(table["diff"][name]), float(table["diff_se"][name])
        found.append(f"{name!r} ({-difference:.1f} lower{f', se {se:.1f}' if math.isfinite(se) else ''})")
    return wording.listed(found)


def _simplest(table: pd.DataFrame, names: list[str], averaged: bool) -> list[str]:
    """The candidates with the fewest effective parameters, within one, as no more than a suggestion."""
    p = table.loc[names, "p"]
    if not np.isfinite(p).all():
        return []
    fewest = [f"{name!r} (p {value:.1f})" for name, value in p.sort_values().items() if value < p.min() + 1.0]
    return [
        f"If you have to choose among these, {' or '.join(fewest)} has the fewest effective parameters: a suggestion, "
        "not a finding." + " An average of their predictions by the stacking weights needs no choice." * averaged
    ]


def _high_k(criteria: Mapping[str, Criterion], unit: str) -> list[str]:
    """Where importance sampling failed, and what to do about it."""
    found, worst = [], 0.0
    for name, one in criteria.items():
        if (bad := _bad(one)).any():
            k = one.pointwise["pareto_k"][bad].sort_values(ascending=False)
            labels = [wording.show(label) for label in k.index[:NAMED]]
            more = f" and {len(k) - NAMED} more" if len(k) > NAMED else ""
            found.append(f"{name!r} in {unit} {wording.listed(labels)}{more}")
            worst = float(np.fmax(worst, k.iloc[0]))
    if not found:
        return []
    by = "" if unit == "row" else f", {next(iter(criteria.values())).by!r}"
    k_text = f"Pareto k up to {worst:.2f}" if worst else "no Pareto k"
    return [
        f"Importance sampling can't be trusted ({k_text}) for {'; '.join(found)}: leave these out exactly by "
        f"posterior.refit(posterior.criterion('loo'{by})), or take posterior.kfold() for all candidates."
    ]


def _bad(one: Criterion) -> np.ndarray:
    """Rows or groups whose Pareto k is too high, or unknown, `(n,)`."""
    if "pareto_k" not in one.pointwise:
        return np.zeros(len(one.pointwise), bool)
    return ~(one.pointwise["pareto_k"].to_numpy(np.float64) <= one.details.get("good_k", HIGHEST))


def errors_asked(n: int) -> int:
    """How many standard errors a difference has to exceed."""
    return 2 if n >= FEW else 4


def _se(gaps: np.ndarray) -> float:
    return math.sqrt(len(gaps) * gaps.var())
