"""Later rows against a posterior: who is new, what would move, do predictions hold, and is a refit due?"""

import math
import textwrap
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import pandas as pd
import torch

from hiertorch.arguments import check_flag, check_probability, check_share
from hiertorch.data.frames import Table
from hiertorch.data.newrows import announce, shown
from hiertorch.draws.fit import Fit
from hiertorch.draws.naming import label_text
from hiertorch.draws.pareto import good_k
from hiertorch.errors import DataError
from hiertorch.predict.scene import Setting
from hiertorch.refits.calibration import STATISTICS, calibrated
from hiertorch.refits.laterrows import Later
from hiertorch.refits.reweighting import Reweighted, reweighted
from hiertorch.refits.shifts import group_shifts, parameter_shifts
from hiertorch.runtime.surroundings import at_home, feels_at_home
from hiertorch.runtime.validating import validation
from hiertorch.wording import listed, many

DRAWS = 4_000
"""Of all chains together, that new rows are looked at with."""

NEW_GROUPS = 0.1
"""Of those that were fitted, more than which call for a refit."""

MOVES = 2
"""Tests beside those of `hiertorch.refits.calibration`: of groups, and of parameters."""


BROKEN = {
    "log score": "the mean log score of the new rows is {found:.2f} (expected {low:.2f} or more): they are less likely "
    "than the model says.",
    "mean residual": "the new rows lie {found:+.2f} sds from their predictions in the mean (expected {low:.2f} to "
    "{high:.2f}): their level has drifted.",
    "slopes": "residuals of the new rows go with a predictor, by {found:.1f} sds (expected {high:.1f} or less): its "
    "slope has drifted.",
    "group means": "residuals of a group's new rows differ from 0 by {found:.1f} sds (expected {high:.1f} or less): "
    "its level has drifted.",
}


WIDTH = 120  # of a terminal


@feels_at_home
@dataclass(frozen=True)
class Monitoring:
    """What later rows say about a posterior that has not seen them.

    Attributes:
        due: whether a refit is due.
        reasons: why, in sentences; empty if it is not.
        groups: one row a group with new rows: status ("new" or "grown"), its rows fitted and new; of the effect that
            moves most: name, mean and sd, the mean that it moves to, `shift` in units of the sd, `pareto_k` of the
            weights that say so, and `shrinkage` B_j = Var(effect | y) / Var(effect | population) before and after.
        calibration: coverage of 50 % and 90 % predictive intervals, mean log score and residuals of the new rows:
            found, expected, and from `low` to `high` where chance would put it, with p; see calibration.py.
        parameters: population-level parameters, and the sd of each effect over the fitted groups: mean and sd before
            and after, and `shift` in units of the sd before; NaN where weights can't say.
        pit: Pr(y_rep < y_i) + u Pr(y_rep = y_i) of each new row, which is uniform where the model holds (u uniform).
        pareto_k: of the weights of all new rows together; NaN if there are none.
    """

    due: bool
    reasons: list[str]
    groups: pd.DataFrame
    calibration: pd.DataFrame
    parameters: pd.DataFrame
    pit: pd.Series
    pareto_k: float
    _notes: list[str] = field(repr=False)

    def __repr__(self) -> str:
        head = "A refit is due:" if self.due else "No refit is due."
        lines = [f"Monitoring of {len(self.pit)} new rows. {head}"]
        for sentence in [*(f"- {reason}" for reason in self.reasons), *(f"note: {note}" for note in self._notes)]:
            lines += textwrap.wrap(sentence, WIDTH, initial_indent="  ", subsequent_indent="    ")
        fresh = self.groups[self.groups["status"] == "new"]
        fresh = fresh[~fresh.index.duplicated()]  # several effects of one group
        if len(fresh):
            rows = zip(fresh.index.tolist(), fresh["rows"].tolist(), strict=True)
            named = listed(f"{key[0]} {key[1]} ({many(int(n), 'row')})" for key, n in rows)
            lines += textwrap.wrap(f"New groups ({len(fresh)}): {named}.", WIDTH, subsequent_indent="  ")
        moved = self.groups.reindex(self.groups["shift"].abs().sort_values(ascending=False).index)[:10]
        moved = moved.drop(columns=["sd", "pareto_k"])
        if len(moved):
            lines += [f"Groups with new rows ({len(self.groups)}), those that move most first:", _text(moved)]
        lines += ["Calibration:", _text(self.calibration), "Parameters:", _text(self.parameters[:15])]
        return "\n".join(lines)


@at_home
def monitor(
    posterior: Fit,
    frame: Table,
    *,
    weights: str | None = None,
    false_alarm: float = 0.05,
    new_groups: float | None = None,
    growth: float = 0.25,
    seed: int | None = None,
    distinct: bool = False,
) -> Monitoring:
    """Whether a posterior still serves, given rows that came later.

    A refit is due because the model no longer predicts, by eight tests that together call for one in at most
    `false_alarm` of all sets of new rows that the model does hold for (six of calibration.py, two of
    shifts.py, each at an eighth of the rate: Bonferroni); or because there is much to learn, by two counts that are
    compared with fixed limits.

    Args:
        posterior: knows its model and data.
        frame: the new rows, with their response, of known or new groups.
        weights: the column of their row weights, if the fitted rows have weights.
        false_alarm: from 0.01; 0.05 is one needless refit in twenty looks.
        new_groups: a refit is due if there are more new groups than this share of those that were fitted: `predict`
            gives a new group the population's spread whatever its rows say. With a tenth more groups, the sds of the
            population's parameters shrink by some 5 %. Left out, 0.1, and new groups are a warning as well.
        growth: likewise for rows; a quarter more rows shrink sds by 1 - 1 / sqrt(1.25) = 11 % where they are as
            informative.
        seed: of the random numbers; left out, one that follows from the run's.
        distinct: see `Posterior.predict`.

    Raises:
        DataError: for rows that `Posterior.update` refuses, and limits that can't be.
    """
    if not isinstance(posterior, Fit):
        raise DataError(f"monitor takes a posterior, as ht.sample gives it; found {type(posterior).__name__}.")
    check_flag("distinct", distinct)
    check_probability(false_alarm, "false_alarm", least=0.01)
    if new_groups is not None:
        check_share("new_groups", new_groups)
    check_share("growth", growth)
    level = false_alarm / (len(STATISTICS) + MOVES)
    later = Later(posterior, frame, weights, distinct=distinct)
    if new_groups is None:
        announce(later.new, "see .groups of the result", f"pass new_groups={NEW_GROUPS}")
    found = reweighted(later, seed=seed)
    thin = posterior.taken(draws=slice(None, None, max(1, posterior.chains * posterior.n_draws // DRAWS)))
    generator = posterior.generator("monitor", seed, later.data.device)
    with torch.no_grad(), validation(False):
        setting = Setting(later.fitted, thin, later.rows, later.y)
        calibration, pit = calibrated(setting, later.rows, later.y, level, generator)
        after = found.posterior if isinstance(found, Reweighted) and found.trusted else None
        k = found.pareto_k if isinstance(found, Reweighted) else math.nan
        groups = group_shifts(later, setting, thin, after, k)
        parameters = parameter_shifts(thin, after, later)
    reasons = [
        *_news(later, NEW_GROUPS if new_groups is None else new_groups, growth),
        *_broken(calibration, level, later),
        *_moves(groups, parameters, level),
    ]
    notes = []
    if isinstance(found, str):
        notes.append(f"{found}, so that it is not known how parameters move.")
    elif after is None:
        notes.append(
            f"the draws can't be weighted by all new rows (Pareto k {k:.2f}), so that it is not known how parameters "
            "move; update would fit again."
        )
    return Monitoring(bool(reasons), reasons, groups, calibration, parameters, pit, k, notes)


def _news(later: Later, new_groups: float, growth: float) -> list[str]:
    data, found = later.fitted.data, []
    for plate, labels in later.fresh.items():
        if len(labels) > new_groups * data.size(plate) and later.fitted.varies(plate):
            found.append(
                f"{_new(len(labels), 'group')} ({plate} {shown(labels)}) beside {data.size(plate):,} that were fitted, "
                f"more than {new_groups:.0%}."
            )
    if len(later.y) > growth * data.n_rows:
        number = f"{data.n_rows:,} that were fitted"
        found.append(f"{_new(len(later.y), 'row')} beside {number}, more than {growth:.0%}.")
    return found


def _new(number: int, one: str) -> str:
    return f"{many(number, one)} {'is' if number == 1 else 'are'} new"


def _broken(calibration: pd.DataFrame, level: float, later: Later) -> list[str]:
    found, rows = [], len(later.y)
    for name, row in calibration[calibration["p"] <= level].iterrows():
        if str(name).endswith("intervals"):
            low, high = math.ceil(row["low"] * rows - 1e-9), math.floor(row["high"] * rows + 1e-9)
            how = "vary more than the model says, or have drifted" if row["found"] < low / rows else "vary less"
            found.append(
                f"the {name} hold {round(row['found'] * rows)} of {rows} new rows (expected {low} to {high}): "
                f"responses {how}."
            )
        else:
            found.append(BROKEN[str(name)].format_map(row))
    return found


def _moves(groups: pd.DataFrame, parameters: pd.DataFrame, level: float) -> list[str]:
    found = []
    far = _far(groups["shift"].where(groups["pareto_k"].fillna(-math.inf) < good_k(DRAWS)), level)
    if len(far):
        worst: Any = far.idxmax()
        found.append(
            f"the effects of {many(len(far), 'group')} move further than chance would have it, most that of "
            f"{worst[0]} {label_text(worst[1])} by {far.max():.1f} posterior sds."
        )
    far = _far(parameters["shift"], level)
    if len(far):
        found.append(
            f"{', '.join(map(str, far.index[:5]))} move further than chance would have it, by up to {far.max():.1f} "
            "posterior sds."
        )
    return found


def _far(shifts: pd.Series, level: float) -> pd.Series:
    """Those than which none of so many standard normal moves is further but with probability `level`."""
    known = shifts.dropna().abs()
    return known[known > NormalDist().inv_cdf(1 - level / (2 * max(len(known), 1)))]


def _text(table: pd.DataFrame) -> str:
    return table.to_string(float_format=lambda x: f"{x:.3g}", line_width=118, na_rep="")
