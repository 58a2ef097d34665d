"""The line of a progress bar: what it says, in the first form that fits the terminal."""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

import torch
from tqdm import tqdm
from tqdm.utils import disp_len

from hiertorch.monitors.base import Window

LONGEST, SHORTEST = 20, 6  # columns that a bar is drawn in
NOTEBOOK = 100  # columns of a line in a notebook, whose width is not known


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


SHORT = (Form(False, False, 16, 0, True, "acc", ""), Form(False, False, 16, 0, True, "", ""))  # while something does

# The first that fits is taken.
FORMS = (
    Form(True, True, 60, 60, True, "accept", " sweeps/s"),
    Form(True, True, 30, 30, True, "accept", " sweeps/s"),
    Form(True, True, 24, 16, True, "accept", "/s"),
    Form(True, True, 24, 0, True, "accept", "/s"),
    Form(False, True, 24, 0, True, "accept", "/s"),
    Form(False, False, 24, 0, True, "accept", "/s"),
    Form(False, False, 16, 0, True, "accept", "/s"),
    *SHORT,
    Form(False, False, 16, 0, False, "accept", "/s"),
    Form(False, False, 12, 0, False, "acc", "/s"),
    Form(False, False, 10, 0, False, "acc", "/s"),
    Form(False, False, 8, 0, False, "acc", "/s"),
    Form(False, False, 8, 0, False, "acc", ""),
    Form(False, False, 8, 0, False, "", ""),
    Form(False, False, 0, 0, False, "", ""),
)
WHOLE = Form(False, True, 1000, 1000, True, "accept", " sweeps/s")  # of a log file


class Bar(tqdm):
    """Counts and measures as tqdm does, and writes its own line; without tqdm's thread, which would outlive the run."""

    monitor_interval = 0

    def __init__(self, stream: TextIO, sweeps: int, done: int = 0) -> None:
        self.phase, self.ended = "warm-up", False
        self.window: Window | None = None
        self.rhat: Finding | None = None
        self.ess: Finding | None = None
        self.part = ""  # of what these are, if not of all
        self.stored = ""  # draws, at the end
        self.sweeps = max(sweeps, 1)
        notebook = in_notebook(stream)
        self.terminal = notebook or stream.isatty()
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        super().__init__(
            total=sweeps,
            initial=done,
            file=_Shown() if notebook else stream if self.terminal else _Lines(stream),
            ncols=NOTEBOOK if notebook else None,
            mininterval=0.1 if self.terminal else 10.0,
            miniters=1,
        )

    def _width(self) -> int:
        """Columns of the terminal as it is now, but for the last: on some a full line wraps."""
        return (columns(self.fp) or self.ncols or 80) - 1

    def __str__(self) -> str:
        self.accepted = self._accepted()
        if not self.terminal:
            return self._line(WHOLE)
        width = self._width()
        short = any(found is not None and found.bad for found in (self.rhat, self.ess))
        lines = (self._line(form, width) for form in FORMS if short or form not in SHORT)
        line = next((line for line in lines if disp_len(line) <= width), None)
        return self.phase[:width] if line is None else line

    def _line(self, form: Form, width: int = 0) -> str:
        """The line in one form, its bar as long as the width leaves room for."""
        done, rest = self.n / self.sweeps, self._readable(", ".join(self._parts(form)))
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

    def _parts(self, form: Form) -> Iterator[str]:
        measured, window = self.format_dict, self.window
        elapsed = measured["elapsed"]
        rate = measured["rate"] or (self.n - self.initial) / max(
            elapsed, 1e-9
        )  # sweeps a second of late, if that is known yet
        if form.counted and not (self.stored and self.n >= self.sweeps):
            yield f"{self.n}/{self.total}"
        if self.stored:
            yield self.stored
        if self.ended:
            yield f"in {tqdm.format_interval(elapsed) if elapsed >= 60 else f'{elapsed:.1f} s'}"
        elif rate:
            yield f"{tqdm.format_interval((self.sweeps - self.n) / rate)} left"
        if self.rhat is not None:
            yield self.rhat.text(form.rhat, form.thresholds)
        if self.ess is not None:
            yield self.ess.text(form.ess, form.thresholds)
        if self.part and (self.rhat is not None or self.ess is not None):
            yield self.part
        if window is not None and window.nan:
            yield f"NaN {window.nan}"
        if form.accept and self.accepted is not None:
            yield f"{form.accept} {self.accepted:.2f}"
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


def columns(stream: TextIO) -> int:
    """Of the terminal that a stream writes to; 0 of what is none, or has no columns but says that it is one."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, AttributeError, ValueError):
        return 0


def in_notebook(stream: TextIO) -> bool:
    """Whether what is written there is shown by a Jupyter front end, which says that it is no terminal."""
    return type(stream).__module__ == "ipykernel.iostream"


class _Shown:
    """A file of which a notebook shows the last line alone, also once it is saved.

    That is what `tqdm.auto` is for; its bars need ipywidgets, and leave nothing in a saved notebook.
    """

    encoding = "utf-8"

    def __init__(self) -> None:
        self._handle: Any = None

    def write(self, text: str) -> None:
        if not (line := text.strip("\r\n ")):
            return
        from IPython.display import display  # which a kernel has

        shown = {"text/plain": line}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    def flush(self) -> None:
        """Nothing is held back."""


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
