"""A progress bar: phase, rate, acceptance and, now and then, the worst R-hat."""

import sys
import textwrap
from collections.abc import Iterator
from typing import TextIO

import torch
from tqdm import tqdm

from hiertorch.diagnostics import rhat
from hiertorch.monitors.base import COST, FEWEST, Budget, Monitor, RunInfo, Watch, Window, watch

__all__ = ["ProgressBar"]

PHASES = {"warmup": "warm-up"}
PARAMETERS = 50
DRAWS = 200  # a chain, evenly thinned
VALUES = 500_000  # that one R-hat may sort: 0.15 s on one core
WIDTH = 110  # of what is said before the bar
TIED = "\N{NO-BREAK SPACE}"  # where no line ends


class ProgressBar(Monitor):
    """`sampling |######    | 620/1000 [00:12<00:08, 45.10/s, accept 0.31, R-hat 1.02 (tau)]`, in sweeps.

    The acceptance is the mean over blocks, chains and groups in the last window. R-hat is the worst of the
    population-level parameters and, if these are fewer than 50, of some groups': from at most 200 draws a chain,
    every 5 s at most, within its share of the run's time, and once at the end. On a terminal one line is redrawn;
    elsewhere (a log file, a pipe) a line is added every 10 s at most. Above the bar stand priors that the data chose,
    and what `Data.check` found, but notes are counted only.

    Args:
        stream: where to write; standard error if None.
        share: of the run's time that R-hat may cost.
    """

    def __init__(self, stream: TextIO | None = None, share: float = 0.02) -> None:
        self.stream, self.share = stream, share
        self._bar: _Bar | None = None

    def start(self, run: RunInfo) -> None:
        """Shows an empty bar."""
        self._run = run
        self._budget = Budget(self.share, every=5.0, unit=COST)
        self._watch: Watch | None = None
        self._last: Window | None = None
        self._worst: str | None = None
        self._looked = 0  # sweep of the last R-hat
        stream = self.stream or sys.stderr
        for text in _heading(run):
            lines = textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
            stream.write(lines.replace(TIED, " ") + "\n")
        self._bar = _Bar.on(stream, run.sweeps)

    def window(self, window: Window) -> None:
        """Moves the bar."""
        if self._bar is None:
            return
        self._last = window
        if _ready(window):
            if self._watch is None:
                few = min(PARAMETERS, max(1, VALUES // (len(window.log_density) * DRAWS)))
                self._watch = watch(self._run, window.values, few)
            if self._budget.allows(self._watch.size(window.draws, DRAWS)):
                self._look(self._watch, window)
        self._bar.set_description_str(PHASES.get(window.phase, window.phase), refresh=False)
        self._bar.set_postfix_str(self._state(window), refresh=False)
        self._bar.update(window.sweep - self._bar.n)

    def stop(self, status: str) -> None:
        """Leaves the last state, under the run's status."""
        if self._bar is None:
            return
        bar, self._bar, last, self._last = self._bar, None, self._last, None  # let go of the draws
        try:
            if last is not None and status != "failed":
                if self._watch is not None and self._looked < last.sweep:
                    self._look(self._watch, last)
                bar.set_postfix_str(self._state(last), refresh=False)
        finally:
            bar.set_description_str(status, refresh=False)
            bar.close()

    def _look(self, watched: Watch, window: Window) -> None:
        with self._budget.spending(watched.size(window.draws, DRAWS)):
            # A parameter that never moved has no R-hat, and nothing is worse.
            values = rhat(watched.draws(window.draws, DRAWS))
            values = values.masked_fill(values.isnan(), torch.inf)
            worst = int(values.argmax())
        self._worst = f"R-hat {values[worst]:.2f} ({watched.names[worst]})"
        self._looked = window.sweep

    def _state(self, window: Window) -> str:
        rates = [rate.double().mean() for rate in window.acceptance.values()]
        accept = f"accept {torch.stack(rates).mean():.2f}" if rates else None
        nan = f"NaN {window.nan}" if window.nan else None
        return ", ".join(part for part in (accept, nan, self._worst) if part)


def _heading(run: RunInfo) -> Iterator[str]:
    """What is said before the first sweep, in paragraphs."""
    if run.priors:
        each = [f"{name} ~ {prior}".replace(" ", TIED) for name, prior in run.priors.items()]
        yield f"priors by the data's scale: {', '.join(each)}"
    grave = [sentence for sentence in run.findings if not sentence.startswith("note: ")]
    yield from grave
    if notes := len(run.findings) - len(grave):
        many = ("s", "them") if notes > 1 else ("", "it")
        yield f"{notes} note{many[0]}: data.check(model) lists {many[1]}"


def _ready(window: Window) -> bool:
    """R-hat compares chains that have some draws."""
    return len(window.log_density) > 1 and window.drawn >= FEWEST


class _Bar(tqdm):
    """Without tqdm's thread, which would outlive the run."""

    monitor_interval = 0

    @classmethod
    def on(cls, stream: TextIO, sweeps: int) -> "_Bar":
        """One line that is redrawn on a terminal, few lines elsewhere."""
        terminal = stream.isatty()
        return cls(
            total=sweeps,
            desc=PHASES["warmup"],
            unit="",
            file=stream if terminal else _Lines(stream),
            mininterval=0.1 if terminal else 10.0,
            miniters=1,
            dynamic_ncols=terminal,
            bar_format=("{desc} |{bar}| " if terminal else "{desc} {percentage:3.0f}% ")
            + "{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]",
        )


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
