"""A progress bar: phase, time left, the worst R-hat, the smallest ESS, acceptance and rate, in one line."""

import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TextIO

import torch

from hiertorch.draws.diagnostics import convergence
from hiertorch.draws.fit import Fit
from hiertorch.draws.summaries import LIMITS
from hiertorch.errors import SamplingError
from hiertorch.monitors.bar import Bar, Finding, columns
from hiertorch.monitors.base import FEWEST, Monitor, RunInfo, Watch, Window, watch
from hiertorch.monitors.governor import Governor, Tier

PHASES = {"warmup": "warm-up"}
PARAMETERS = 50
DRAWS = 100  # a chain, that a look should have at least
VALUES, COST = 250_000, 0.05  # that one look may sort, and the seconds of it on one core
RHAT, ESS = LIMITS["r_hat"], LIMITS["ess_bulk"]  # of all chains together
WIDTH = 110  # of what is said before the bar
TIED = "\N{NO-BREAK SPACE}"  # where no line ends


class ProgressBar(Monitor):
    """`sampling |####  | 620/1000, 00:08 left, R-hat 1.024 > 1.01 (tau), ESS 1,240 (mu), accept 0.31, 45 sweeps/s`.

    Counted are sweeps; at the end, `64 x 500 draws`, what is stored. R-hat is the worst and ESS the smallest (in bulk
    or tails). One that is not good enough yet shows its threshold: 1.01, and 400 effective draws of all chains
    together. The acceptance is the mean over blocks, chains and groups in the last window.

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
    """

    only_looks = True

    def __init__(self, stream: TextIO | None = None, share: float = 0.02) -> None:
        if stream is not None and not callable(getattr(stream, "write", None)):
            raise SamplingError(f"stream is where the bar is written, such as sys.stdout, or None; found {stream!r}.")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise SamplingError(f"share is the part of a run's time that a look may cost, 0 to 1; found {share!r}.")
        self.stream, self.share = stream, share
        self._bar: Bar | None = None

    def start(self, run: RunInfo) -> None:
        """Shows an empty bar."""
        self._run = run
        self._looks = Tier(Governor(self.share, spent=time.perf_counter), every=5.0, cost=COST)
        self._watch: Watch | None = None
        self._last: Window | None = None
        stream = self.stream or sys.stderr
        for text in _heading(run):
            lines = textwrap.fill(
                text, min(WIDTH, columns(stream) or WIDTH), subsequent_indent="  ", break_on_hyphens=False
            )
            stream.write(lines.replace(TIED, " ") + "\n")
        self._bar = Bar(stream, run.sweeps)

    def window(self, window: Window) -> None:
        """Moves the bar."""
        if self._bar is None:
            return
        self._last = window
        if window.drawn >= FEWEST and self._run.alike:
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

    @staticmethod
    def _conclude(bar: Bar, posterior: Fit) -> None:
        """What is known of all draws."""
        found = posterior.judgement
        bar.rhat = bar.ess = None
        bar.part = f"of {found.part}" if found.part else ""
        if found.known:
            bar.ess = Finding("ESS", f"{found.ess.value:,.0f}", f" < {ESS}", found.ess.name, found.ess.value < ESS)
            if posterior.chains > 1:
                value, name = found.rhat
                bar.rhat = Finding("R-hat", f"{value:.3f}", f" > {RHAT}", name, value > RHAT)

    def _look(self, bar: Bar, watched: Watch, window: Window) -> None:
        with self._looks.turn(window.sweep):
            draws = watched.draws(window.draws, self._kept)
            rhat, bulk, tail = convergence(draws)
            # A parameter that never moved has none of the three, and nothing is worse.
            rhat, ess = rhat.nan_to_num(torch.inf, torch.inf), torch.minimum(bulk, tail).nan_to_num(0.0)
            if thinned := draws.shape[1] < window.drawn:
                ess = ess.clamp(max=draws[..., 0].numel())  # more would be noise: what is between was not looked at
            worst, least = int(rhat.argmax()), int(ess.argmin())
        names = [" ".join(name.split()) for name in (watched.names[worst], watched.names[least])]
        if len(draws) > 1:  # R-hat compares chains
            bar.rhat = Finding("R-hat", f"{rhat[worst]:.3f}", f" > {RHAT}", names[0], bool(rhat[worst] > RHAT))
        bar.part = f"of {draws[..., 0].numel():,} draws" if thinned else ""
        few = not thinned and bool(ess[least] < ESS)
        bar.ess = Finding("ESS", f"{'≥' * thinned}{ess[least]:,.0f}", f" < {ESS}", names[1], few)


def _heading(run: RunInfo) -> Iterator[str]:
    """What is said before the first sweep, in paragraphs."""
    if run.priors:
        each = [f"{name} ~ {prior}".replace(" ", TIED) for name, prior in run.priors.items()]
        yield f"priors by the data's scale: {', '.join(each)}"
    if notes := sum(sentence.startswith("note: ") for sentence in run.findings):
        many = ("s", "them") if notes > 1 else ("", "it")
        yield f"{notes} note{many[0]}: data.check(model) lists {many[1]}"
