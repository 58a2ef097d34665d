"""What the end of a run says of its convergence, the same wherever it is said: bar, dashboard, warnings.

It is that of all parameters from all stored draws, as `Posterior.summary` and the report have it, and is computed once.
Of very many numbers it is that of a part, and says so; summary and report look at all of them when they are asked for.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from hiertorch.draws import summaries
from hiertorch.draws.summaries import LIMITS

if TYPE_CHECKING:
    from hiertorch.posterior import Posterior

__all__ = ["Judgement", "Worst", "judge"]

WHOLE = 35_000_000
"""Stored numbers, of which R-hat, effective draws and Monte Carlo errors take some 8 s on one core. No collapsed run
with defaults and up to 8,000 parameters has more.
"""

GROUPS, EACH = 200, 200
"""Of more: evenly spaced groups of each plate, and then every k-th draw, but no fewer than so many of a chain."""


class Worst(NamedTuple):
    """A parameter and its value; NaN and "" if it is not known."""

    value: float
    name: str


@dataclass(frozen=True)
class Judgement:
    """How a run has converged.

    Attributes:
        table: worst R-hat, bulk and tail ESS, as `Posterior.diagnostics` gives them.
        beside: sentences of `Posterior.warnings` that are not about R-hat and ESS.
        mixing: those that are.
        parameters: how many were looked at.
        part: what was looked at if that is not all, as in "200 of 40,000 parameters"; else "".
    """

    table: pd.DataFrame
    beside: list[str]
    mixing: list[str]
    parameters: int
    part: str

    @property
    def sentences(self) -> list[str]:
        """As `Posterior.warnings` gives them."""
        return [*self.beside, *self.mixing]

    @property
    def known(self) -> bool:
        """Whether there are draws enough for any of it."""
        return not math.isnan(self.ess.value)

    @property
    def rhat(self) -> Worst:
        """The highest R-hat; NaN of a single chain."""
        return self._worst("r_hat")

    @property
    def bulk(self) -> Worst:
        """The lowest bulk ESS."""
        return self._worst("ess_bulk")

    @property
    def tail(self) -> Worst:
        """The lowest tail ESS."""
        return self._worst("ess_tail")

    @property
    def ess(self) -> Worst:
        """The lower of both."""
        return self.tail if self.tail.value < self.bulk.value else self.bulk

    @property
    def above(self) -> int:
        """Parameters whose R-hat is too high."""
        return int(self.table.loc["r_hat", "beyond"])  # type: ignore[arg-type]

    def _worst(self, row: str) -> Worst:
        value, name = self.table.loc[row, "worst"], self.table.loc[row, "parameter"]
        return Worst(float(value), "" if name is None else str(name))  # type: ignore[arg-type]


def judge(posterior: "Posterior") -> Judgement:
    """Looks at all parameters and draws, or at a part of very many."""
    total = sum(math.prod(draws.shape[2:]) for draws in posterior.draws.values())
    if not posterior.n_draws:
        rows = {
            row: {"worst": math.nan, "parameter": None, "limit": limit, "beyond": 0} for row, limit in LIMITS.items()
        }
        return Judgement(pd.DataFrame.from_dict(rows, orient="index"), posterior.warnings(), [], total, "")
    if total * posterior.chains * posterior.n_draws <= WHOLE:
        return Judgement(posterior.diagnostics(), *_parted(posterior), total, "")
    some, seen, step = _some(posterior)
    thinned = "" if step == 1 else f", one draw in {step}"
    part = f"{seen:,} of {total:,} parameters{thinned}"
    note = f" (From a look at {part}; posterior.warnings() looks at all.)"
    beside, mixing = ([sentence + note for sentence in part] for part in _parted(some))
    return Judgement(some.diagnostics(), beside, mixing, seen, part)


def _parted(posterior: "Posterior") -> tuple[list[str], list[str]]:
    """Warnings that are not about R-hat and ESS, and those that are."""
    mixing = summaries.mixing(posterior)
    return [sentence for sentence in posterior.warnings() if sentence not in mixing], mixing


def _some(posterior: "Posterior") -> tuple["Posterior", int, int]:
    """Evenly spaced groups, and if need be draws; how many parameters these are, and one draw in how many."""
    at = {
        plate: np.unique(np.linspace(0, len(labels) - 1, GROUPS).round().astype(int))
        for plate, labels in posterior.labels.items()
    }
    draws = {
        name: x if posterior.plates[name] is None else x[:, :, at[str(posterior.plates[name])]]
        for name, x in posterior.draws.items()
    }
    seen = sum(math.prod(x.shape[2:]) for x in draws.values())
    step = min(-(-seen * posterior.chains * posterior.n_draws // WHOLE), max(1, posterior.n_draws // EACH))
    some = type(posterior)(
        {name: x[:, ::step] for name, x in draws.items()},
        plates=posterior.plates,
        labels={plate: labels[at[plate]] for plate, labels in posterior.labels.items()},
        event_labels=posterior.event_labels,
        stats=posterior.stats,
        run=posterior.run,
        interrupted=posterior.interrupted,
    )
    return some, seen, step
