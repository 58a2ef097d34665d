"""A progress bar: phase, time left, the worst R-hat, the smallest ESS, acceptance and rate, in one line."""

import math
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TextIO

import torch

from hiertorch.draws.diagnostics import convergence
from hiertorch.draws.fit import Fit
from hiertorch.draws.judgement import Worst
from hiertorch.errors import SamplingError
from hiertorch.monitors.bar import Bar, Finding, columns
from hiertorch.monitors.base import FEWEST, Monitor, RunInfo, Seen, Watch, Window, watch
from hiertorch.monitors.governor import Governor, Tier

PHASES = {"warmup": "warm-up"}
PARAMETERS = 50
DRAWS = 100  # a chain, that a look should have at least
VALUES, COST = 250_000, 0.05  # that one look may sort, and the seconds of it on one core
WIDTH = 110  # of what is said before the bar
TIED = "\N{NO-BREAK SPACE}"  # where no line ends


class ProgressBar(Monitor):
    """`sampling |####  | 620/1000, 00:08 left, R-hat 1.024 > 1.01 (tau), ESS 1,240 (mu), accept 0.31, 45 sweeps/s`.

    Counted are sweeps; at the end, `64 x 500 draws`, what is stored. R-hat is the worst and ESS the smallest (in bulk
    or tails). One that is not good enough yet shows its threshold: 1.01, and 400 effective draws of all chains
    together, or the goal of a run that goes on until it is reached (`ht.Until`), as in `ESS 620 < 1,000 (tau)`. Such a
    run shows what it sees at its own looks as well, and counts the sweeps that it will take as it seems then. The
    acceptance is the mean over blocks, chains and groups in the last window.

    At the end they are those of all parameters from all stored draws, as `posterior.diagnostics()` has them. Until then
    they are of the population-level parameters and, if these are fewer than 50, of some groups', looked at every 5 s at
    most, within a share of the run's time. A look takes at most 250,000 values: of more draws every k-th, and then the
    bar says of how many, as in `of 4,000 draws`. Their average can't be surer than that of all draws (MacEachern &
    Berliner 1994), so their ESS is a lower bound, written `ESS ≥1,240` and not held against the threshold.

    On a terminal one line is redrawn. Where it is too narrow, long names are shortened in the middle, then what matters
    least is left out. Elsewhere (a log file, a pipe) whole lines are added: every 10 s at most, and at a change of
    phase. Above the bar stand the priors that the data chose, and how many notes `Data.check` has; its errors and
    warnings are Python warnings.

    Args:
        stream: where to write; standard error if None.
        share: of the run's time that R-hat and ESS may cost before the end.
        heading: whether priors and notes stand above the bar.
    """

    only_looks = True

    def __init__(self, stream: TextIO | None = None, share: float = 0.02, *, heading: bool = True) -> None:
        if stream is not None and not callable(getattr(stream, "write", None)):
            raise SamplingError(f"stream is where the bar is written, such as sys.stdout, or None; found {stream!r}.")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise SamplingError(f"share is the part of a run's time that a look may cost, 0 to 1; found {share!r}.")
        self.stream, self.share, self.heading = stream, share, heading
        self._bar: Bar | None = None

    def start(self, run: RunInfo) -> None:
        """Shows an empty bar."""
        self._run = run
        self._looks = Tier(Governor(self.share, spent=time.perf_counter), every=5.0, cost=COST)
        self._watch: Watch | None = None
        self._seen: Seen | None = None
        self._last: Window | None = None
        stream = self.stream or sys.stderr
        for text in _heading(run) if self.heading else ():
            lines = textwrap.fill(
                text, min(WIDTH, columns(stream) or WIDTH), subsequent_indent="  ", break_on_hyphens=False
            )
            stream.write(lines.replace(TIED, " ") + "\n")
        self._bar = Bar(stream, run.sweeps, run.done)

    def window(self, window: Window) -> None:
        """Moves the bar."""
        if self._bar is None:
            return
        self._last = window
        if window.foreseen is not None:
            self._bar.sweeps = self._bar.total = max(window.foreseen, window.sweep)
        if window.seen is not None and window.seen is not self._seen:
            self._seen = window.seen
            self._show(self._bar, window.seen.rhat, window.seen.ess)
        elif window.drawn >= FEWEST and self._run.alike:
            if self._watch is None:
                few = min(PARAMETERS, max(1, VALUES // (len(window.log_density) * DRAWS)))
                self._watch = watch(replace(self._run, names=self._run.shown), window.values, few)
                self._kept = max(DRAWS, VALUES // (len(window.log_density) * len(self._watch.names)))
            if self._looks.may(window.sweep, self._run.sweeps):
                self._look(self._bar, self._watch, window)
        phase = PHASES.get(window.phase, window.phase)
        turned, self._bar.phase = phase != self._bar.phase, phase
        self._bar.window = window
        if not self._bar.update(window.sweep - self._bar.n) and turned:
            self._bar.refresh()

    def stop(self, status: str, posterior: Fit | None = None) -> None:
        """Leaves the last state, under the run's status."""
        if self._bar is None:
            return
        bar, self._bar, last, self._last = self._bar, None, self._last, None  # let go of the draws
        watched = self._watch if status not in ("failed", "discarded") else None
        try:
            if posterior is not None and posterior.n_draws and status != "discarded":
                bar.stored = f"{posterior.chains} x {posterior.n_draws} draws"
                if self._run.alike:
                    self._conclude(bar, posterior)
            elif last is not None and watched is not None and self._looks.sweep < last.sweep:
                self._look(bar, watched, last)
        finally:
            bar.phase, bar.ended = status, True
            bar.close()
            bar.window = None

    def _conclude(self, bar: Bar, posterior: Fit) -> None:
        """What is known of all draws."""
        found = posterior.judgement
        bar.rhat = bar.ess = None
        if found.known:
            self._show(bar, found.rhat if posterior.chains > 1 else None, found.ess)
        bar.part = f"of {found.part}" if found.part else ""

    def _show(self, bar: Bar, rhat: Worst | None, ess: Worst, *, thinned: str = "") -> None:
        """The worst of both, held against what is good enough; an ESS of thinned draws is a lower bound.

        Args:
            bar: the bar.
            rhat: None, or NaN, of a single chain.
            ess: of all draws, or of some.
            thinned: of how many, if they are some.
        """
        least, most = self._run.ess, self._run.rhat
        if rhat is not None and not math.isnan(rhat.value):
            name = " ".join(rhat.name.split())
            bar.rhat = Finding("R-hat", f"{rhat.value:.3f}", f" > {most:g}", name, rhat.value > most)
        few, name = not thinned and ess.value < least, " ".join(ess.name.split())
        bar.ess = Finding("ESS", f"{'≥' * bool(thinned)}{ess.value:,.0f}", f" < {least:,.0f}", name, few)
        bar.part = thinned

    def _look(self, bar: Bar, watched: Watch, window: Window) -> None:
        with self._looks.turn(window.sweep):
            draws = watched.draws(window.draws, self._kept)
            rhat, bulk, tail = convergence(draws)
            # A parameter that never moved has none of the three, and nothing is worse.
            rhat, ess = rhat.nan_to_num(torch.inf, torch.inf), torch.minimum(bulk, tail).nan_to_num(0.0)
            if thinned := draws.shape[1] < window.drawn:
                ess = ess.clamp(max=draws[..., 0].numel())  # more would be noise: what is between was not looked at
            worst, least = int(rhat.argmax()), int(ess.argmin())
        found = [Worst(float(x[k]), watched.names[k]) for x, k in ((rhat, worst), (ess, least))]
        compared = found[0] if len(draws) > 1 else None  # R-hat compares chains
        self._show(bar, compared, found[1], thinned=f"of {draws[..., 0].numel():,} draws" if thinned else "")


def _heading(run: RunInfo) -> Iterator[str]:
    """What is said before the first sweep, in paragraphs."""
    if run.priors:
        each = [f"{name} ~ {prior}".replace(" ", TIED) for name, prior in run.priors.items()]
        yield f"priors by the data's scale: {', '.join(each)}"
    if notes := sum(sentence.startswith("note: ") for sentence in run.findings):
        many = ("s", "them") if notes > 1 else ("", "it")
        yield f"{notes} note{many[0]}: data.check(model) lists {many[1]}"
