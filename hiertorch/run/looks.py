"""The looks of a run at its own draws: how long it goes on, and what was seen of the worst parameter."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from hiertorch.draws import summaries
from hiertorch.draws.diagnostics import MIN_DRAWS, convergence
from hiertorch.draws.judgement import GROUPS, WHOLE, Worst
from hiertorch.draws.labelled import LabelledDraws
from hiertorch.draws.spacing import evenly
from hiertorch.monitors.base import Seen
from hiertorch.run.schedule import Schedule
from hiertorch.run.until import Until, scheduled

Columns = dict[str, Tensor]
"""Of the summary of a latent, each `(size, *event)`."""


@dataclass
class Looks:
    """How long a run goes on: to the end of its schedule or, with a goal, to the look that finds it reached.

    A look goes through the latents from the smallest, which mix worst as a rule and cost least, and ends at the first
    that falls short; the parameter that did so is the first of the next look. So what is far from the goal costs
    little to look at, and the look that ends a run is at all parameters.

    Args:
        schedule: its draws are all there will be or, with a goal, those of the first look.
        goal: with its bounds filled in.
        until_settled: whether warm-up ends before its schedule if the engine has settled.

    Attributes:
        foreseen: draws at which the run will probably end.
        number: of looks so far.
        seen: by the last.
        over: whether the run has ended.
        ended: what ended it: "goal", or one of its bounds, "draws" or "seconds".
        columns: latent -> columns of its summary, if the look that ended the run has computed all of them.
    """

    schedule: Schedule
    goal: Until | None = None
    until_settled: bool = False
    foreseen: int = field(init=False)
    number: int = 0
    seen: Seen | None = None
    over: bool = False
    ended: str = ""
    columns: dict[str, Columns] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.foreseen = self._next = self.schedule.draws
        self._weak: tuple[str, int] | None = None  # latent and element that fell short last

    @property
    def last(self) -> float:
        """The sweep at which the run ends at the latest."""
        run, most = self.schedule, self.schedule.draws if self.goal is None else self.goal.draws
        return math.inf if most is None else run.warmup + most * run.thin

    def warmed(self, done: int) -> None:
        """Warm-up ends after so many sweeps."""
        self.schedule = self.schedule._replace(warmup=done)

    @property
    def sweeps(self) -> int:
        """Of the whole run, as it is foreseen."""
        return self.schedule.warmup + self.foreseen * self.schedule.thin

    def after(self, done: int, spent: float, read: Callable[[], LabelledDraws]) -> None:
        """After a window of sampling: looks, if it is time to, and says whether the run is over.

        Args:
            done: sweeps, warm-up included.
            spent: seconds since warm-up.
            read: gives the draws so far.
        """
        self.over = done >= self.last
        if self.goal is None:
            return
        drawn, slow = (done - self.schedule.warmup) // self.schedule.thin, spent >= (self.goal.seconds or math.inf)
        self.over = self.over or slow
        if drawn < self._next and not self.over:
            return
        self.number, self._next = self.number + 1, next(n for n in scheduled(self.schedule.draws) if n > drawn)
        self.seen = seen = self._look(self.goal, drawn, read())
        if self.goal.reached(seen):
            self.over, self.ended, self.foreseen = True, "goal", drawn
        elif self.over:
            self.ended, self.foreseen = "seconds" if slow else "draws", drawn
        else:
            times = max(self.goal.ess / max(seen.ess.value, 1.0), (seen.rhat.value - 1.0) / (self.goal.rhat - 1.0))
            wanted = min(drawn * times, self.goal.draws or math.inf) if math.isfinite(times) else 0.0
            ahead = next(n for n in scheduled(self.schedule.draws) if n >= max(wanted, self._next))
            self.foreseen = min(ahead, self.goal.draws or ahead)

    def state(self) -> dict[str, object]:
        """All that differs from one window to the next, as JSON can hold it, which `restore` takes."""
        return {
            "schedule": self.schedule._asdict(),
            "foreseen": self.foreseen,
            "number": self.number,
            "seen": self.seen and [self.seen.draws, [*self.seen.rhat], [*self.seen.ess]],
            "ended": self.ended,
            "goal": self.goal and asdict(self.goal),
            "next": self._next,
            "weak": self._weak and [*self._weak],
        }

    def restore(self, state: Mapping[str, Any], done: int) -> None:
        """Goes on from such a state after so many sweeps, to the goal and the number of draws that are wanted now."""
        self.schedule = Schedule(**state["schedule"])._replace(draws=self.schedule.draws)
        self.foreseen, self.number, self._next = state["foreseen"], state["number"], state["next"]
        if state["seen"]:
            draws, rhat, ess = state["seen"]
            self.seen = Seen(draws, Worst(*rhat), Worst(*ess))
        self._weak = None if state["weak"] is None else (state["weak"][0], state["weak"][1])
        wanted = self.goal and asdict(self.goal)
        self.ended = state["ended"] if state["goal"] == wanted else ""
        self.over = done >= self.last or bool(self.ended)

    def facts(self, *, asked: bool, chains: int) -> dict[str, object]:
        """For a posterior's `run`: "draws" of each chain that were made (or foreseen, if the run was interrupted), and
        "until": the "goal" with its bounds, how many "looks" there were, what "ended" the run, at the last look the
        "draws" and the worst "r_hat" and "ess" with their parameters, and a sentence if it has ended "short" of a goal
        that the user has set.
        """
        goal, seen = self.goal or Until(), self.seen
        found: dict[str, object] = {"goal": asdict(goal), "looks": self.number, "ended": self.ended or None}
        if seen is not None:
            found["draws"] = seen.draws
            for what, worst in (("r_hat", seen.rhat), ("ess", seen.ess)):
                value = worst.value if math.isfinite(worst.value) else None
                found[what] = {"worst": value, "parameter": worst.name}
            if asked and self.ended in ("draws", "seconds"):
                found["short"] = self._short(goal, seen, chains)
        return {"draws": self.foreseen, "until": found}

    def _short(self, goal: Until, seen: Seen, chains: int) -> str:
        bound = f"{goal.seconds:g} seconds" if self.ended == "seconds" else f"{goal.draws:,} draws of each chain"
        rhat = f", and R-hat up to {seen.rhat.value:.4g} of {seen.rhat.name}" if not math.isnan(seen.rhat.value) else ""
        return (
            f"Sampling has ended after {bound}, short of its goal: ESS is {seen.ess.value:,.0f} of "
            f"{seen.ess.name or 'any parameter'}{rhat}, after {chains} x {seen.draws:,} draws, and until= asks for an "
            f"ESS of {goal.ess:,.0f} and an R-hat of {goal.rhat:g} of every parameter. Give it longer (seconds= or "
            "draws= of ht.Until), or a longer warm-up."
        )

    def _look(self, goal: Until, drawn: int, draws: LabelledDraws) -> Seen:
        """At the draws so far; at all parameters if the run is over."""
        if draws.n_draws < MIN_DRAWS:
            return Seen(drawn, Worst(math.nan, ""), Worst(math.nan, ""))
        if self._weak is not None and not self.over:
            seen = _alone(drawn, draws, *self._weak)
            if not goal.reached(seen):
                return seen
        columns: dict[str, Columns] = {}
        rhat, ess = _Extreme(-math.inf), _Extreme(math.inf)
        many = sum(x.numel() for x in draws.draws.values()) > WHOLE
        for name, x in sorted(draws.draws.items(), key=lambda one: (draws.plates[one[0]] is not None, one[1].numel())):
            if not self.over and draws.plates[name] is not None and (ess.value < goal.ess or rhat.value > goal.rhat):
                break
            at = evenly(x.shape[2], GROUPS if many else x.shape[2], x.device)  # as many as are judged at the end
            some = x if len(at) == x.shape[2] else x[:, :, at]
            found = summaries.columns(some)
            if some is x:
                columns[name] = found
            judged = {column: values.reshape(len(at), -1) for column, values in summaries.judged(some, found).items()}
            least = torch.fmin(judged["ess_bulk"], judged["ess_tail"]).nan_to_num(math.inf, math.inf)
            most = judged["r_hat"].nan_to_num(-math.inf, math.inf)
            rhat = max(rhat, _Extreme.of(name, at, most, int(most.argmax())), key=lambda one: one.value)
            ess = min(ess, _Extreme.of(name, at, least, int(least.argmin())), key=lambda one: one.value)
        self._weak = (rhat.name, rhat.element) if rhat.value > goal.rhat else (ess.name, ess.element)
        if len(columns) == len(draws.draws):
            self.columns = columns
        return Seen(drawn, rhat.told(draws), ess.told(draws))


class _Extreme(NamedTuple):
    """A value, and the latent and element of which it is."""

    value: float
    name: str = ""
    element: int = 0  # of (size, *event), flat

    @classmethod
    def of(cls, name: str, at: Tensor, values: Tensor, place: int) -> Self:
        """Of values `(groups, entries)` that at a place among them, flat; `at` says which groups these are."""
        group, entry = divmod(place, values.shape[1])
        return cls(float(values.flatten()[place]), name, int(at[group]) * values.shape[1] + entry)

    def told(self, draws: LabelledDraws) -> Worst:
        """With the name of the parameter; NaN if there is none."""
        if math.isinf(self.value) and not self.element and not self.name:
            return Worst(math.nan, "")
        return Worst(self.value, draws.parameters(self.name)[self.element])


def _alone(drawn: int, draws: LabelledDraws, name: str, element: int) -> Seen:
    """One parameter; one that never moves has no effective draws."""
    rhat, bulk, tail = (float(x) for x in convergence(draws.draws[name].flatten(2)[..., element]))
    parameter = draws.parameters(name)[element]
    ess = min((x for x in (bulk, tail) if not math.isnan(x)), default=0.0)
    return Seen(drawn, Worst(rhat, parameter), Worst(ess, parameter))
