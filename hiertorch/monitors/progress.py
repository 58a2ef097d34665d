"""A progress bar: phase, time left, the worst R-hat, the smallest ESS, acceptance and rate, in one line."""

import os
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TextIO

import torch
from tqdm import tqdm
from tqdm.utils import disp_len

from hiertorch.draws.diagnostics import convergence
from hiertorch.draws.fit import Fit
from hiertorch.draws.summaries import LIMITS
from hiertorch.errors import SamplingError
from hiertorch.monitors.base import FEWEST, Monitor, RunInfo, Watch, Window, watch
from hiertorch.monitors.governor import Governor, Tier

__all__ = ["ProgressBar", "shortened"]

PHASES = {"warmup": "warm-up"}
PARAMETERS = 50
DRAWS = 100  # a chain, that a look should have at least
VALUES, COST = 250_000, 0.05  # that one look may sort, and the seconds of it on one core
RHAT, ESS = LIMITS["r_hat"], LIMITS["ess_bulk"]  # of all chains together
WIDTH = 110  # of what is said before the bar
LONGEST, SHORTEST = 20, 6  # columns that a bar is drawn in
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
        self._bar: _Bar | None = None

    def start(self, run: RunInfo) -> None:
        """Shows an empty bar."""
        self._run = run
        self._looks = Tier(Governor(self.share, spent=time.perf_counter), every=5.0, cost=COST)
        self._watch: Watch | None = None
        self._last: Window | None = None
        stream = self.stream or sys.stderr
        for text in _heading(run):
            lines = textwrap.fill(
                text, min(WIDTH, _columns(stream) or WIDTH), subsequent_indent="  ", break_on_hyphens=False
            )
            stream.write(lines.replace(TIED, " ") + "\n")
        self._bar = _Bar(stream, run.sweeps)

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

    def stop(self, status: str, posterior: "Fit | None" = None) -> None:
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
    def _conclude(bar: "_Bar", posterior: Fit) -> None:
        """What is known of all draws."""
        found = posterior.judgement
        bar.rhat = bar.ess = None
        bar.part = f"of {found.part}" if found.part else ""
        if found.known:
            bar.ess = Finding("ESS", f"{found.ess.value:,.0f}", f" < {ESS}", found.ess.name, found.ess.value < ESS)
            if posterior.chains > 1:
                value, name = found.rhat
                bar.rhat = Finding("R-hat", f"{value:.3f}", f" > {RHAT}", name, value > RHAT)

    def _look(self, bar: "_Bar", watched: Watch, window: Window) -> None:
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


def shortened(name: str, width: int) -> str:
    """A name of at most so many columns on the screen, without its middle: `effects…cept]`."""
    if disp_len(name) <= width:
        return name
    start, end = name[: -(-len(name) // 2)], name[-(-len(name) // 2) :]
    while start and disp_len(f"{start}…{end}") > width:
        start, end = (start[:-1], end) if disp_len(start) > disp_len(end) else (start, end[1:])
    return f"{start.rstrip()}…{end.lstrip()}"


class Finding(NamedTuple):
    """What was found of one parameter."""

    what: str
    value: str
    threshold: str
    name: str
    bad: bool

    def text(self, columns: int, thresholds: bool) -> str:
        """`R-hat 1.024 > 1.01 (tau)`, with so many columns for the name."""
        where = f" ({shortened(self.name, columns)})" if columns else ""
        return f"{self.what} {self.value}{self.threshold if self.bad and thresholds else ''}{where}"


class Form(NamedTuple):
    """What a line holds beside its phase and the time."""

    bar: bool  # else the percentage
    counted: bool
    rhat: int  # columns of the parameter's name
    ess: int
    thresholds: bool
    accept: str
    rate: str


# The first that fits is taken.
FORMS = (
    Form(True, True, 60, 60, True, "accept", " sweeps/s"),
    Form(True, True, 30, 30, True, "accept", " sweeps/s"),
    Form(True, True, 24, 16, True, "accept", "/s"),
    Form(True, True, 24, 0, True, "accept", "/s"),
    Form(False, True, 24, 0, True, "accept", "/s"),
    Form(False, False, 24, 0, True, "accept", "/s"),
    Form(False, False, 16, 0, True, "accept", "/s"),
    Form(False, False, 16, 0, False, "accept", "/s"),
    Form(False, False, 12, 0, False, "acc", "/s"),
    Form(False, False, 10, 0, False, "acc", "/s"),
    Form(False, False, 8, 0, False, "acc", "/s"),
    Form(False, False, 8, 0, False, "acc", ""),
    Form(False, False, 8, 0, False, "", ""),
    Form(False, False, 0, 0, False, "", ""),
)
WHOLE = Form(False, True, 1000, 1000, True, "accept", " sweeps/s")  # of a log file


class _Bar(tqdm):
    """Counts and measures as tqdm does, and writes its own line; without tqdm's thread, which would outlive the run."""

    monitor_interval = 0

    def __init__(self, stream: TextIO, sweeps: int) -> None:
        self.phase, self.ended = PHASES["warmup"], False
        self.window: Window | None = None
        self.rhat: Finding | None = None
        self.ess: Finding | None = None
        self.part = ""  # of what these are, if not of all
        self.stored = ""  # draws, at the end
        self.terminal = stream.isatty()
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        super().__init__(
            total=sweeps,
            file=stream if self.terminal else _Lines(stream),
            mininterval=0.1 if self.terminal else 10.0,
            miniters=1,
        )

    def _width(self) -> int:
        """Columns of the terminal as it is now, but for the last: on some a full line wraps."""
        return (_columns(self.fp) or self.ncols or 80) - 1

    def __str__(self) -> str:
        state = {**self.format_dict, "accepted": self._accepted()}
        if not self.terminal:
            return self._line(WHOLE, state)
        width = self._width()
        lines = (self._line(form, state, width) for form in FORMS)
        line = next((line for line in lines if disp_len(line) <= width), None)
        return self.phase[:width] if line is None else line

    def _line(self, form: Form, state: Mapping[str, Any], width: int = 0) -> str:
        """The line in one form, its bar as long as the width leaves room for."""
        done = state["n"] / max(state["total"], 1)
        rest = self._readable(", ".join(self._parts(form, state)))
        if not form.bar:
            begin = self.phase if self.ended and done >= 1 else f"{self.phase} {done:.0%}"
            return ", ".join(filter(None, (begin, rest)))
        room = width - disp_len(f"{self.phase} || {rest}")
        return f"{self.phase} |{self._drawn(done, min(max(room, SHORTEST), LONGEST))}| {rest}"

    def _accepted(self) -> float | None:
        """Read from the device only when a line is written."""
        if self.window is None or not self.window.acceptance:
            return None
        return torch.stack([rates.double().mean() for rates in self.window.acceptance.values()]).mean().item()

    def _drawn(self, done: float, columns: int) -> str:
        """The bar itself, in eighths of a column if the stream can write them."""
        full, eighths = divmod(int(min(done, 1.0) * columns * 8), 8)
        bar = "█" * full + " ▏▎▍▌▋▊▉"[eighths] if self._unicode else "#" * full
        return f"{bar:{columns}}"[:columns]

    def _parts(self, form: Form, state: Mapping[str, Any]) -> Iterator[str]:
        rate, window = state["rate"] or state["n"] / max(state["elapsed"], 1e-9), self.window
        if form.counted and not (self.stored and state["n"] >= state["total"]):
            yield f"{state['n']}/{state['total']}"
        if self.stored:
            yield self.stored
        if self.ended:
            seconds = state["elapsed"]
            yield f"in {tqdm.format_interval(seconds) if seconds >= 60 else f'{seconds:.1f} s'}"
        elif rate:
            yield f"{tqdm.format_interval((state['total'] - state['n']) / rate)} left"
        if self.rhat is not None:
            yield self.rhat.text(form.rhat, form.thresholds)
        if self.ess is not None:
            yield self.ess.text(form.ess, form.thresholds)
        if self.part and (self.rhat is not None or self.ess is not None):
            yield self.part
        if window is not None and window.nan:
            yield f"NaN {window.nan}"
        if form.accept and (accepted := state["accepted"]) is not None:
            yield f"{form.accept} {accepted:.2f}"
        if rate and form.rate:
            yield f"{rate:,.0f}{form.rate}" if rate >= 100 else f"{rate:.3g}{form.rate}"

    @property
    def _unicode(self) -> bool:
        return self.encoding.lower().startswith("utf")

    def _readable(self, line: str) -> str:
        """The line in characters that the stream can write."""
        if self._unicode:
            return line
        return line.replace("≥", ">=").replace("…", "..").encode(self.encoding, "replace").decode(self.encoding)


def _columns(stream: TextIO) -> int:
    """Of the terminal that a stream writes to; 0 of what is none, or has no columns but says that it is one."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, AttributeError, ValueError):
        return 0


class _Lines:
    """A file that gets a whole line where tqdm would redraw one."""

    encoding = "ascii"

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            self._stream.write(line + "\n")

    def flush(self) -> None:
        self._stream.flush()


def _heading(run: RunInfo) -> Iterator[str]:
    """What is said before the first sweep, in paragraphs."""
    if run.priors:
        each = [f"{name} ~ {prior}".replace(" ", TIED) for name, prior in run.priors.items()]
        yield f"priors by the data's scale: {', '.join(each)}"
    if notes := sum(sentence.startswith("note: ") for sentence in run.findings):
        many = ("s", "them") if notes > 1 else ("", "it")
        yield f"{notes} note{many[0]}: data.check(model) lists {many[1]}"
