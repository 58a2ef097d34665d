"""What the end of a run says of its convergence, the same wherever it is said: bar, dashboard, warnings.

It is that of all parameters from all stored draws, as `Posterior.summary` and the report have it, and is computed once.
Of very many numbers it is that of a part, and says so; summary and report look at all of them when they are asked for.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.draws import diagnostics, summaries
from hiertorch.draws.labelled import LabelledDraws
from hiertorch.draws.summaries import ADVICE, LIMITS, MIN_CHAINS, worst
from hiertorch.runtime.rooms import gathered, pieces
from hiertorch.wording import listed

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


def judge(posterior: LabelledDraws, *, whole: bool = False) -> Judgement:
    """Looks at all parameters and draws, or, unless the whole is asked for, at a part of very many."""
    seen = sum(math.prod(draws.shape[2:]) for draws in posterior.draws.values())
    if not posterior.n_draws:
        rows = {
            row: {"worst": math.nan, "parameter": None, "limit": limit, "beyond": 0} for row, limit in LIMITS.items()
        }
        return Judgement(pd.DataFrame.from_dict(rows, orient="index"), beside(posterior), [], seen, "")
    part = note = ""
    if not whole and seen * posterior.chains * posterior.n_draws > WHOLE:
        total, (posterior, seen, step) = seen, _some(posterior)
        part = f"{seen:,} of {total:,} parameters" + (f", one draw in {step}" if step > 1 else "")
        note = f" (From a look at {part}; posterior.warnings() looks at all.)"
    told, mixed = ([sentence + note for sentence in every] for every in (beside(posterior), mixing(posterior)))
    judged = {name: summaries.judged(posterior.draws[name], columns) for name, columns in posterior.columns.items()}
    table = worst({name: posterior.table(name, columns) for name, columns in judged.items()})
    return Judgement(table, told, mixed, seen, part)


def _some(posterior: LabelledDraws) -> tuple[LabelledDraws, int, int]:
    """Evenly spaced groups, and if need be draws; how many parameters these are, and one draw in how many."""
    at = {
        plate: np.unique(np.linspace(0, len(labels) - 1, GROUPS).round().astype(int))
        for plate, labels in posterior.labels.items()
    }
    draws = {
        name: x if (plate := posterior.plates[name]) is None else gathered(x, torch.from_numpy(at[plate]))
        for name, x in posterior.draws.items()
    }
    seen = sum(math.prod(x.shape[2:]) for x in draws.values())
    step = min(-(-seen * posterior.chains * posterior.n_draws // WHOLE), max(1, posterior.n_draws // EACH))
    labels = {plate: index[at[plate]] for plate, index in posterior.labels.items()}
    return posterior.changed(draws={name: x[:, ::step] for name, x in draws.items()}, labels=labels), seen, step


LONG_STAY = 50
"""Sweeps in a row in which a chain, or a group of it, was refused everything, from which on a reader is told: engines
that watch it propose nearly independent draws, most of which are accepted.
"""

OFTEN = 0.01
"""Share of proposals with impossible parameters from which on a reader is told."""


def beside(posterior: LabelledDraws) -> list[str]:
    """What a reader should know before believing the numbers, but for R-hat and ESS, and what to do about it."""
    return [*_of_the_run(posterior), *_stuck(posterior)]


def _of_the_run(posterior: LabelledDraws) -> Iterator[str]:
    if posterior.interrupted:
        yield posterior.stopped
    if short := (posterior.run.get("until") or {}).get("short"):
        yield short
    if posterior.n_draws < diagnostics.MIN_DRAWS:
        least = diagnostics.MIN_DRAWS
        yield f"R-hat and ESS need at least {least} draws in each chain, and there are {posterior.n_draws}: take more."
    if posterior.chains < MIN_CHAINS:
        yield f"R-hat compares chains, and there are only {posterior.chains}: run at least {MIN_CHAINS}."
    if met := {block: count for block, count in posterior.stats.nan.items() if count}:
        blocks = ", ".join(f"{count} in block {block!r}" for block, count in met.items())
        yield (
            f"The log density of a proposal was NaN, and the proposal rejected: {blocks}. "
            f"Look for 0/0, inf - inf or the log of a negative number in the likelihood and priors."
            f"{posterior.run.get('nan_example', '')}"
        )
    for name, (count, of) in posterior.run.get("impossible", {}).items():
        if count >= OFTEN * of:
            yield (
                f"{name[:1].upper()}{name[1:]} was impossible at {count / of:.0%} of the places where it was computed: "
                "such proposals were rejected, as they must be. A prior that keeps to what is possible, or a link "
                "such as exp, wastes none."
            )
    for block, stay in posterior.run.get("stays", {}).items():
        if stay["sweeps"] > LONG_STAY:
            whose = f" of {stay['plate']} {stay['group']!r}" if "group" in stay else ""
            yield (
                f"Block {block!r}{whose} stayed where it was for {stay['sweeps']} sweeps in chain {stay['chain']} "
                "(counted from 0): there are fewer draws of the tails than it seems, which R-hat and ESS may not show. "
                "Run a longer warm-up and more draws, and compare with collapse=False."
            )
    if broken := [name for name, x in posterior.draws.items() if not _finite(x)]:
        yield (
            f"Some draws of {listed(broken)} are not finite and have no diagnostics: "
            f"look for a prior that is improper, or wider than numbers are."
        )


def _finite(x: Tensor) -> bool:
    return all(bool(x[:, part].isfinite().all()) for part in pieces(x, 1))


def _stuck(posterior: LabelledDraws) -> Iterator[str]:
    for name, x in posterior.draws.items() if posterior.n_draws >= diagnostics.MIN_DRAWS else ():
        stuck = diagnostics.stuck(x)  # (chains, parameters)
        chains, parameters = (stuck.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
        if not parameters:
            continue
        what = name
        if len(parameters) < stuck.shape[1]:
            what = posterior.table(name, {"stuck": stuck.any(0)}).index[parameters[0]]
        if 1 < len(parameters) < stuck.shape[1]:
            what = f"{name} ({len(parameters)} of its {stuck.shape[1]} parameters, such as {what})"
        where = "any chain" if stuck[:, parameters].all() else f"chain {listed(chains)} (counted from 0)"
        yield (
            f"{what} never moved in {where}, in {posterior.n_draws} draws: these draws say nothing about it. "
            f"Run a longer warm-up or another seed, and don't use such a chain."
        )


def mixing(posterior: LabelledDraws) -> Iterator[str]:
    """Sentences on R-hat and ESS of what moved: the rest was told."""
    if not posterior.n_draws:
        return
    number = sum(math.prod(x.shape[2:]) for x in posterior.draws.values())
    moved = {name: posterior.table(name, columns) for name, columns in posterior.columns.items()}
    for column, row in worst(moved).iterrows():
        if row["beyond"]:
            yield ADVICE[str(column)].format_map({"number": number, **row})
