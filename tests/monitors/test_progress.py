"""The progress bar: what its line says, how it fits, and that log files get few whole lines."""

import contextlib
import errno
import fcntl
import io
import os
import pty
import re
import struct
import termios
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import windows
from arviz_stats.base import array_stats
from windows import SIZE, WARMUP
from windows import feed as seen

from hiertorch.draws.judgement import Worst
from hiertorch.monitors import ProgressBar, Seen
from hiertorch.monitors.bar import shortened
from hiertorch.monitors.governor import Governor, Tier

RUN = replace(
    windows.RUN,
    names=("beta", "alpha", "mu"),
    plates={"beta": None, "alpha": "school", "mu": None},
    labels={"school": pd.Index(["Åsa Skola", "St. Mary's / 7", " North\n"])},
    event_labels={"beta": (("SES", "sector"),), "alpha": (), "mu": ()},
)
NAMES = ("mu", "beta[SES]", "beta[sector]", "alpha[Åsa Skola]", "alpha[St. Mary's / 7]", "alpha[ North ]")
SHAPES = ("mu", "beta", "alpha")
AXES = {"chain_axis": 0, "draw_axis": 1}


def make_windows(*given, **options):
    """Without the matrix."""

    def without(values):
        return {name: x for name, x in values.items() if name in SHAPES}

    made = windows.make_windows(*given, **options)
    return [replace(w, values=without(w.values), draws=without(w.draws)) for w in made]


def feed(bar, windows, run=RUN, status="finished"):
    seen(bar, windows, run, status)


def arviz(window, step=1):
    """ArviZ's R-hat and smaller ESS of every parameter, from every so many-th draw."""
    draws = torch.cat([window.draws[name].flatten(2) for name in SHAPES], 2).double().numpy()
    draws = draws[:, (draws.shape[1] - 1) % step :: step]
    bulk = array_stats.ess(draws, method="bulk", **AXES)
    tail = array_stats.ess(draws, method="tail", prob=(0.05, 0.95), **AXES)
    return array_stats.rhat(draws, **AXES), np.minimum(bulk, tail)


def acceptance(window):
    return f"{np.mean([window.acceptance[block].mean() for block in ('joint', 'alpha')]):.2f}"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def start_without_pause(bar, run=RUN, columns=None):
    bar.start(run)
    bar._bar.mininterval = 0  # every window is shown
    if columns is not None:  # of what is no terminal
        bar._bar.ncols = columns


# What is said


def test_in_a_log_file_there_are_few_whole_lines():
    stream, windows = io.StringIO(), make_windows(spread=0.3)
    feed(ProgressBar(stream), windows)
    assert "\r" not in stream.getvalue()
    begun, turned, ended = stream.getvalue().splitlines()
    assert begun == "warm-up 0%, 0/160"
    turn = windows[WARMUP]  # the first window of sampling
    assert re.fullmatch(
        rf"sampling 31%, 50/160, 00:00 left, NaN 1, accept {acceptance(turn)}, [\d,.e+]+ sweeps/s", turned
    )
    rhat, ess = arviz(windows[-1])
    assert rhat.max() > 1.01 and ess.min() < 400
    expected = (
        f"finished, 160/160, in S s, R-hat {rhat.max():.3f} > 1.01 ({NAMES[rhat.argmax()]}), "
        f"ESS {ess.min():,.0f} < 400 ({NAMES[ess.argmin()]}), NaN 4, accept {acceptance(windows[-1])}, S sweeps/s"
    )
    assert re.sub(r"in [\d.]+ s", "in S s", re.sub(r"[\d,.e+]+ sweeps", "S sweeps", ended)) == expected


def test_a_log_file_gets_a_line_every_ten_seconds():
    stream, windows = io.StringIO(), make_windows(warmup=1, sampling=30)
    bar, now = ProgressBar(stream), [0.0]
    bar.start(replace(RUN, sweeps=310))
    bar._bar._time, bar._bar.start_t, bar._bar.last_print_t = lambda: now[0], 0.0, 0.0
    for window in windows:
        now[0] += 1.5
        bar.window(window)
    bar.stop("finished")
    shown = [int(sweep) for sweep in re.findall(r" (\d+)/310", stream.getvalue())]
    assert shown == [0, 20, 70, 140, 210, 280, 310]  # the turn at 3.0 s, then 10.5, 21.0, ... s


def test_a_good_run_shows_no_thresholds():
    stream, windows = io.StringIO(), make_windows(sampling=100)
    feed(ProgressBar(stream), windows, replace(RUN, sweeps=1040))
    rhat, ess = arviz(windows[-1])
    assert rhat.max() < 1.01 and ess.min() > 2000
    last = stream.getvalue().splitlines()[-1]
    assert f"R-hat {rhat.max():.3f} ({NAMES[rhat.argmax()]}), ESS {ess.min():,.0f} ({NAMES[ess.argmin()]})" in last


def test_the_ess_of_thinned_draws_is_a_bound_and_not_judged(monkeypatch):
    monkeypatch.setattr("hiertorch.monitors.progress.VALUES", 4 * len(NAMES) * 40)
    monkeypatch.setattr("hiertorch.monitors.progress.DRAWS", 40)
    stream, windows = io.StringIO(), make_windows()
    feed(ProgressBar(stream), windows)
    rhat, ess = arviz(windows[-1], step=3)  # 120 draws in all, 40 kept
    least = np.minimum(ess, 160)
    assert 50 < least.min() < 400
    assert f"R-hat {rhat.max():.3f}" in stream.getvalue()
    assert f"ESS ≥{least.min():,.0f} ({NAMES[least.argmin()]}), of 160 draws" in stream.getvalue()


def test_nothing_is_worse_than_a_parameter_that_never_moved():
    stream, windows = io.StringIO(), make_windows()
    for window in windows:
        for name, draws in window.draws.items():
            if name == "beta":
                draws[..., 1] = 2.0
    feed(ProgressBar(stream), windows)
    assert "R-hat inf > 1.01 (beta[sector]), ESS 0 < 400 (beta[sector])" in stream.getvalue()


def test_effects_that_are_not_stored_are_not_looked_at():
    stream, windows = io.StringIO(), make_windows()
    kept = [replace(w, draws={name: draws for name, draws in w.draws.items() if name != "alpha"}) for w in windows]
    feed(ProgressBar(stream), kept, replace(RUN, stored=("beta", "mu")))
    rhat, _ = arviz(windows[-1])
    assert f"R-hat {rhat[:3].max():.3f}" in stream.getvalue() and "(alpha" not in stream.getvalue()


def test_one_chain_has_an_ess_and_no_rhat():
    stream, windows = io.StringIO(), make_windows(chains=1)
    feed(ProgressBar(stream), windows)
    last = stream.getvalue().splitlines()[-1]
    assert "R-hat" not in last and f"ESS {arviz(windows[-1])[1].min():,.0f} < 400 (" in last


@pytest.mark.parametrize("status", ["finished", "interrupted", "failed"])
def test_a_run_without_a_window(status):
    stream = io.StringIO()
    feed(ProgressBar(stream), [], status=status)
    begun, ended = stream.getvalue().splitlines()
    assert begun == "warm-up 0%, 0/160" and re.fullmatch(rf"{status} 0%, 0/160, in 0.\d s", ended)


def test_both_phases_on_a_terminal():
    stream, windows = Terminal(), make_windows()
    bar = ProgressBar(stream)
    start_without_pause(bar)
    for window in windows:
        bar.window(window)
    bar.stop("interrupted", posterior=None)
    states = stream.getvalue().split("\r")
    for w in windows:
        phase = "warm-up" if w.phase == "warmup" else "sampling"
        shown = [state for state in states if state.startswith(f"{phase} |") and f"| {w.sweep}/160, " in state]
        assert len(shown) == 1 and f"accept {acceptance(w)}" in shown[0]
    assert re.match(r"interrupted( \|█+\| 160/160)?, in 0.\d s, R-hat ", states[-1]) and states[-1].endswith("\n")


def test_it_looks_at_convergence_on_the_way_when_it_may():
    stream, windows = Terminal(), make_windows(spread=0.3)
    now, bar = [0.0], ProgressBar(stream)
    start_without_pause(bar, columns=160)
    bar._looks = Tier(Governor(0.02, lambda: now[0], lambda: now[0]), every=5.0, cost=0.05)
    for window in windows[:-1]:
        now[0] += 2.0
        bar.window(window)
    looked = re.findall(r"(\d+)/160, [^\r]*R-hat ([\d.]+) > 1.01 [^\r]*ESS (\d+) < 400", stream.getvalue())
    assert looked[0][0] == "50"  # the first window with draws
    found = {sweep: (rhat, ess) for sweep, rhat, ess in looked}
    for sweep in ("50", "80", "110", "140"):
        rhat, ess = arviz(windows[int(sweep) // SIZE - 1])
        assert found[sweep] == (f"{rhat.max():.3f}", f"{ess.min():.0f}")
    assert found["60"] == found["70"] == found["50"]
    bar.stop("failed")  # a failed run isn't computed on
    assert stream.getvalue().split("\r")[-1].startswith("failed")
    assert f"R-hat {found['140'][0]}" in stream.getvalue().split("\r")[-1]


def test_above_the_bar_stand_priors_and_how_many_notes_there_are():
    chosen = {f"sigma_{k}": f"HalfStudentT(4, {k}.5)" for k in range(1, 5)}
    found = (
        "error: x: it varies within none of 3 groups of school. Make it a group-level predictor.",
        "warning: school: only 3 groups.",
        "note: y: 30 rows in all. Find more.",
        "note: school: the largest group has 20 rows.",
    )
    for stream in (io.StringIO(), Terminal()):
        feed(ProgressBar(stream), [], replace(RUN, findings=found, priors=chosen))
        head = re.split(r"\r?warm-up", stream.getvalue())[0].splitlines()
        assert head == [
            "priors by the data's scale: sigma_1 ~ HalfStudentT(4, 1.5), sigma_2 ~ HalfStudentT(4, 2.5),",
            "  sigma_3 ~ HalfStudentT(4, 3.5), sigma_4 ~ HalfStudentT(4, 4.5)",
            "2 notes: data.check(model) lists them",
        ]
    stream = io.StringIO()
    feed(ProgressBar(stream), [], replace(RUN, findings=found[2:3]))
    assert stream.getvalue().splitlines()[0] == "1 note: data.check(model) lists it"


def aiming(windows):
    """What a run that goes on until an ESS of 1000 tells: it has looked after 30 and after 60 draws."""
    looks = {
        3: Seen(30, Worst(1.034, "tau  x"), Worst(212.4, "tau  x")),
        6: Seen(60, Worst(1.004, "mu"), Worst(1620.0, "mu")),
    }
    seen, told = None, []
    for k, window in enumerate(windows, start=1 - WARMUP):
        seen = looks.get(k, seen)
        told.append(replace(window, foreseen=100 if k < 3 else 240 if k < 6 else 100, seen=seen))
    return told


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (80, "sampling 29%, 00:0S left, R-hat 1.034 > 1.01 (tau x), ESS 212 < 1,000, NaN 1"),
        (160, "sampling |█████▊    | 70/240, 00:0S left, R-hat 1.034 > 1.01 (tau x), ESS 212 < 1,000 (tau x), NaN 1"),
    ],
)
def test_a_run_with_a_goal_shows_the_worst_parameter_against_it(columns, expected):
    stream = Terminal()
    bar = ProgressBar(stream)
    start_without_pause(bar, replace(RUN, sweeps=100, ess=1000.0), columns)
    for window in aiming(make_windows(sampling=6)):
        bar.window(window)
    text = stream.getvalue()
    bar.stop("failed")
    states = [re.sub(r"00:0\d", "00:0S", re.sub(r"\|.*\|", "|B|", state)) for state in text.split("\r")]
    expected = re.sub(r"\|.*\|", "|B|", expected)
    at = next(k for k, state in enumerate(states) if state.startswith(expected))
    assert "R-hat" not in states[at - 2] and ("50/100" in states[at - 2] or "50%" in states[at - 2])
    assert "R-hat 1.004 (mu), ESS 1,620" in states[-1] and "< 1,000" not in states[-1]
    assert "100/100" in states[-1] or "100%" in states[-1]


# How it fits


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("tau", 3, "tau"),
        ("effects[1224, intercept]", 24, "effects[1224, intercept]"),
        ("effects[1224, intercept]", 16, "effects[…ercept]"),
        ("effects[1224, intercept]", 15, "effects…ercept]"),
        ("abcdefgh", 2, "a…"),
        ("mu[東京都港区]", 9, "mu[東…区]"),  # two columns each
    ],
)
def test_long_names_are_shortened_in_the_middle(name, width, expected):
    assert shortened(name, width) == expected


@contextlib.contextmanager
def pseudo_terminal(columns):
    """A text stream to a terminal of that width, and a function that closes it and returns what arrived."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    arrived = []

    def read():
        with contextlib.suppress(OSError):  # the other end was closed
            while part := os.read(ours, 65536):
                arrived.append(part)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    stream = os.fdopen(theirs, "w", encoding="utf-8")

    def close():
        with contextlib.suppress(OSError) as _:
            stream.close()
        reader.join(30)
        return b"".join(arrived).decode()

    try:
        yield stream, close
    finally:
        try:
            stream.close()
        except OSError as error:
            assert error.errno == errno.EBADF
        os.close(ours)


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 90, 100, 110, 120, 200])
def test_the_line_fits_the_terminal(columns):
    """Every state is one line that ends before the last column, and no sign of a sentence is left at its end."""
    run = replace(
        RUN,
        names=("effects", "mu"),
        plates={"effects": "school", "mu": None},
        labels={"school": pd.Index([f"school number {k}" for k in range(1224, 1227)])},
        event_labels={"effects": (("intercept",),), "mu": ()},
        sweeps=160,
    )
    windows = [
        replace(
            w,
            values={"mu": w.values["mu"], "effects": w.values["alpha"][..., None]},
            draws={"mu": w.draws["mu"], "effects": w.draws["alpha"][..., None]} if w.draws else {},
            nan=123,
        )
        for w in make_windows(spread=0.5)
    ]
    with pseudo_terminal(columns) as (stream, close):
        bar = ProgressBar(stream)
        start_without_pause(bar, run)
        bar._looks = Tier(Governor(1e9), every=0.0, cost=0.0)
        for window in windows:
            bar.window(window)
        bar.stop("interrupted")
        text = close()
    states = [state.rstrip(" \r\n") for state in text.split("\r")]
    states = [state for state in states if state]
    assert len(states) == len(windows) + 2
    assert max(map(len, states)) < columns
    assert not any("\n" in state or state.endswith((",", "(", "…", ">")) for state in states)
    last = states[-1]
    assert last.startswith("interrupted")
    if columns >= 60:
        assert re.search(r"in [\d.]+ s, R-hat [\d.]+", last)
    if columns >= 80:
        assert re.search(r"R-hat [\d.]+( > 1.01)? \(effe.*pt\]\)", last) and "ESS " in last and "NaN 123" in last
    if columns >= 100:
        assert re.search(r"acc(ept)? [\d.]+", last)
    if columns == 200:
        assert re.search(r"R-hat [\d.]+ > 1.01 \(effects\[school number 122\d, intercept\]\), ESS \d+ < 400 \(", last)


@pytest.mark.parametrize(("encoding", "name"), [("ascii", "alpha[?sa Skola]"), ("latin-1", "alpha[Åsa Skola]")])
def test_a_stream_of_few_characters_gets_what_it_can_write(encoding, name, monkeypatch):
    monkeypatch.setattr("hiertorch.monitors.progress.VALUES", 4 * len(NAMES) * 40)
    monkeypatch.setattr("hiertorch.monitors.progress.DRAWS", 40)
    windows = make_windows()
    for window in windows:
        for draws in (window.draws[key] for key in window.draws if key == "alpha"):
            draws[..., 0] = 1.0
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    stream.isatty = lambda: True
    bar = ProgressBar(stream)
    start_without_pause(bar, columns=160)
    for window in windows:
        bar.window(window)
    bar.stop("finished")
    stream.flush()
    text = raw.getvalue().decode(encoding)
    assert "|###" in text and name in text and "ESS >=0" in text
