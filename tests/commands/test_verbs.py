"""`hiertorch`: its verbs from words to files, its help, and what it says of words that are wrong."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from builders import write_pupils

import hiertorch as ht
from hiertorch.commands.program import paragraph
from hiertorch.commands.verbs import HELP, VERBS, main
from hiertorch.run.independence import Independence

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
ROOT = Path(__file__).parents[2]
FORMULA = "score ~ hours + (1 | school)"
FIT = ["fit", "pupils.csv", FORMULA, "--chains", "4", "--draws", "20", "--seed", "3"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Runs of the table of `folder`: `a`, and `b` without schools."""
    made = tmp_path_factory.mktemp("fitted")
    with contextlib.chdir(made), pytest.MonkeyPatch.context() as patch:
        write_pupils(made, 10, 3, 1.0)
        patch.setattr(warnings, "formatwarning", warnings.formatwarning)
        for name, formula in {"a": FORMULA, "b": "score ~ hours"}.items():
            assert main([*FIT[:2], formula, *FIT[3:], "--out", f"runs/{name}", "--no-report"]) == 0
    return made / "runs"


@pytest.fixture
def folder(project, monkeypatch):
    """A working directory with a table of 30 pupils in 10 schools, and a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    return project("", 10, 3, 1.0)


@pytest.fixture
def run(folder, fitted):
    """The folder of a fit of that table."""
    shutil.copytree(fitted, "runs")
    return "runs/a"


def error_of(words, capsys, status=2):
    """The one sentence that is said of wrong words."""
    assert main(words) == status
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err.removeprefix("error: ").rstrip("\n")


# Fit


def test_fit_shows_checks_priors_and_table_and_fills_the_folder(folder, capsys):
    assert main([*FIT, "--prior", "beta[hours]=Normal(0, 1)"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[:3] == ["pupils.csv: 30 rows; groups: school (10)", f"{FORMULA}, gaussian", "checks:"]
    assert any(line.startswith("  note: ") for line in lines)
    assert any(re.match(r"  beta +~ Normal\(0, 1\)", line) for line in lines)
    assert any(re.match(r"beta\[hours\] +0\.\d", line) for line in lines)
    assert max(len(line) for line in lines if not line.startswith("  note: ")) <= 80  # which a terminal gets in lines
    assert "finished, 4 x 20 draws" in said.err and "priors by" not in said.err
    assert (
        lines[-1] == "report:     runs/pupils/report.html" and Path("runs/pupils/report.html").stat().st_size > 10_000
    )
    assert {"draws.safetensors", "summary.csv", "config.yaml"} <= {path.name for path in Path("runs/pupils").iterdir()}
    config = yaml.safe_load(Path("runs/pupils/config.yaml").read_text())
    assert config["formula"] == FORMULA and config["priors"] == {"beta[hours]": "Normal(0, 1)"}


def test_fit_is_ht_fit(run):
    frame = pd.read_csv("pupils.csv")
    posterior = ht.fit(FORMULA, frame, chains=4, draws=20, seed=3, progress=False)
    kept = ht.Posterior.load(f"{run}/draws.safetensors")
    assert all(torch.equal(x, kept.draws[name]) for name, x in posterior.draws.items())


def test_what_the_checks_have_said_is_no_warning_as_well(folder, capsys):
    frame = pd.read_csv("pupils.csv")
    frame[frame.school < "c"].assign(constant=1.0).to_csv("few.csv", index=False)
    assert main(["fit", "few.csv", FORMULA, "--chains", "4", "--draws", "20", "--no-report"]) == 0
    said = capsys.readouterr()
    found = [line for line in said.out.splitlines() if line.startswith("  warning: school: ")]
    assert len(found) == 1 and "2 groups" in found[0] and "2 groups" not in said.err


@pytest.mark.parametrize("ending", ["tsv", "parquet", "feather", "csv.gz"])
def test_tables_of_other_kinds(ending, folder, run, capsys):
    frame, source = pd.read_csv("pupils.csv"), f"pupils.{ending}"
    if ending in ("parquet", "feather"):
        pytest.importorskip("pyarrow")
        getattr(frame, f"to_{ending}")(source)
    else:
        frame.to_csv(source, index=False, sep="\t" if ending == "tsv" else ",")
    assert main(["predict", run, source, "--out", f"p.{ending}"]) == 0
    assert main(["predict", run, "pupils.csv", "--out", "p.csv"]) == 0
    capsys.readouterr()
    read = {"tsv": lambda path: pd.read_csv(path, sep="\t"), "csv.gz": pd.read_csv}
    found = read.get(ending, getattr(pd, f"read_{ending}", None))(f"p.{ending}")
    pd.testing.assert_frame_equal(found, pd.read_csv("p.csv"))


# What is done with a run


def test_predict_is_posterior_predict(run, capsys):
    new = pd.DataFrame({"school": ["a", "z"], "hours": [0.5, 1.0], "mean": ["mine", "too"]})
    new.to_csv("new.csv", index=False)
    words = ["predict", run, "new.csv", "--kind", "response", "--new-groups", "sample", "--ci", "0.5", "--seed", "7"]
    assert main([*words, "--out", "deep/pred.csv"]) == 0
    assert capsys.readouterr().out == "predictions of 2 rows: deep/pred.csv\n"
    posterior = ht.Posterior.load(f"{run}/draws.safetensors")
    expected = posterior.predict(new, "response", "sample", ci_prob=0.5, seed=7).summary
    found = pd.read_csv("deep/pred.csv")
    assert list(found) == ["school", "hours", "mean", *(f"predicted_{name}" for name in expected)]
    np.testing.assert_allclose(found.iloc[:, 3:], expected, rtol=1e-12)
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:3] == ["school", "hours", "mean"]


def test_summary(run, capsys):
    assert main(["summary", run]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{FORMULA}: 4 chains x 20 draws" and "... and 2 more of effects_school" in lines
    assert max(len(line) for line in lines if not line.startswith("note: ")) <= 80
    assert main(["summary", run, "--latents", "beta", "--ci", "0.5"]) == 0
    table = capsys.readouterr().out
    assert "eti50_lb" in table and "beta[hours]" in table and "\nsigma_y" not in table
    assert main(["summary", run, "--out", "all.csv"]) == 0
    kept = ht.Posterior.load(f"{run}/draws.safetensors").summary()
    assert pd.read_csv("all.csv").parameter.tolist() == [*kept.index]


def test_compare_is_ht_compare(run, capsys):
    assert main(["compare", run, "runs/b", "--out", "both"]) == 0
    out = capsys.readouterr().out
    posteriors = {name: ht.Posterior.load(f"runs/{name}/draws.safetensors") for name in "ab"}
    expected = ht.compare(posteriors)
    assert repr(expected) in out
    np.testing.assert_allclose(pd.read_csv("both/loo_by_row.csv", index_col=0).elpd, expected.table.elpd, rtol=1e-9)


def test_report(run, capsys):
    assert main(["report", run]) == 0
    assert capsys.readouterr().out == "report: runs/a/report.html\n"
    assert Path("runs/a/report.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.slow
def test_what_was_stopped_goes_on_to_the_same_draws_without_its_table(folder, monkeypatch, capsys):
    assert main([*FIT, "--out", "whole", "--no-report"]) == 0
    advance, met = Independence.advance, []

    def interrupted(self, done, *arguments):
        if done >= 110 and not met:
            met.append(done)
            raise KeyboardInterrupt
        return advance(self, done, *arguments)

    monkeypatch.setattr(Independence, "window", lambda self, *, warming: 10)
    assert main([*FIT, "--out", "whole", "--overwrite", "--no-report"]) == 0
    monkeypatch.setattr(Independence, "advance", interrupted)
    assert main([*FIT, "--out", "part"]) == 130
    assert "unfinished: hiertorch resume part goes on from there" in capsys.readouterr().out
    Path("pupils.csv").unlink()
    assert main(["resume", "part"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "report:     part/report.html"
    one, other = (ht.Posterior.load(f"{name}/draws.safetensors") for name in ("whole", "part"))
    assert all(torch.equal(x, other.draws[name]) for name, x in one.draws.items()) and not other.interrupted
    assert main(["resume", "part", "--draws", "30", "--no-report"]) == 0
    assert ht.Posterior.load("part/draws.safetensors").n_draws == 30


# Examples


def test_examples_are_written_so_that_they_run(folder, capsys):
    assert main(["examples"]) == 0
    lines = capsys.readouterr().out.splitlines()
    configs = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    assert [line.split()[0] for line in lines[:-1]] == configs and max(map(len, lines)) <= 88
    assert main(["examples", "eight_schools", "--out", "mine"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["mine/eight_schools.yaml", "mine/eight_schools.csv"]
    assert main(["train", "--config", "mine/eight_schools.yaml", "--sample.draws", "20", "--log_dir", "null"]) == 0
    capsys.readouterr()
    Path("mine/eight_schools.csv").write_text("changed")
    assert "is there already, and differs" in error_of(["examples", "eight_schools", "--out", "mine"], capsys, 1)
    assert main(["examples", "all"]) == 0
    for config in configs:
        assert Path(f"configs/{config}.yaml").read_text() == (ROOT / f"configs/{config}.yaml").read_text()


# Words


def test_help_fits_a_screen_and_has_an_example(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for verb in VERBS:
        try:
            assert main([verb, "--help"]) == 0
        except SystemExit as end:
            assert end.code == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) <= 30 and max(map(len, lines)) <= 80, verb
        assert sum(line.startswith(f"  hiertorch {verb}") for line in lines) >= 1, verb
        assert re.search(rf"^  {verb}\b", HELP, re.MULTILINE)
    assert len(HELP.splitlines()) <= 24 and max(map(len, HELP.splitlines())) <= 79


def test_the_first_help_comes_at_once():
    code = "import sys; from hiertorch.commands.verbs import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"torch", "numpy", "pandas", "jsonargparse"} & {*done.stdout.split()} == set()


def test_the_command_is_installed_under_its_name(folder):
    script = Path(sys.executable).with_name("hiertorch")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "hiertorch"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--version"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"hiertorch {ht.__version__}\n"
    done = subprocess.run([*command, "summry"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: there is no verb 'summry'. Did you mean 'summary'?")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fit"], "DATA and FORMULA: not given; write hiertorch fit DATA FORMULA [options]."),
        (["fit", "pupils.csv"], "FORMULA: not given;"),
        (["fit", "pupil.csv", FORMULA], "there is no file 'pupil.csv' in "),
        (["fit", "pupils.xlsx", FORMULA], "expected a table in a file, .csv, .csv.gz, .tsv,"),
        (
            ["fit", "pupils.csv", "score", "~", "hours"],
            "'~' is a word too many; what has spaces in it stands in",
        ),
        (["fit", "pupils.csv", "score ~ hours +"], "formula: "),
        (["fit", "pupils.csv", FORMULA, "--family", "normal"], "--family: "),
        (["fit", "pupils.csv", FORMULA, "--draws", "many"], "--draws: expected a whole number above 0, found 'many'."),
        (["fit", "pupils.csv", FORMULA, "--famly", "x"], "there is no option --famly. Did you mean '--family'?"),
        (["fit", "pupils.csv", FORMULA, "--prior", "Normal(0, 1)"], "--prior: expected a name and a value, such as "),
        (["fit", "pupils.csv", FORMULA, "--prior", "bet=Normal(0, 1)"], "--prior bet: "),
        (["fit", "pupils.csv", FORMULA, "--na", "skip"], "--na: expected one of error, drop, found 'skip'."),
        (["fit", "pupils.csv", FORMULA, "--device", "gpu"], "--device: there is no device 'gpu';"),
        (["predict", "runs/none", "pupils.csv"], "there is no run at 'runs/none': expected the folder of a run of "),
        (["predict", "runs/none", "pupils.csv", "--out", "p.xlsx"], "--out: expected a file that ends in one of .csv,"),
        (
            ["predict", "runs/none", "pupils.csv", "--ci", "89"],
            "--ci: expected a number between 0 and 1, such as",
        ),
        (["summary"], "RUN: not given;"),
        (
            ["resume", "runs/none"],
            "expected the folder of a run of hiertorch fit or train that can go on, found",
        ),
        (["compare", "runs/none"], "expected two runs or more, or --config FILE, found 1."),
        (["examples", "radom"], "there is no example 'radom'. Did you mean 'radon'?"),
        (["train", "--config", "none.yaml"], "config: File does not exist: "),
        (["dashboard", "runs"], "expected a folder of runs, found nothing at runs."),
        (["tutorial", "all", "--fast"], "there is no option --fast."),
        (["fiit"], "there is no verb 'fiit'. Did you mean 'fit'? There are fit, train,"),
    ],
)
def test_wrong_words_are_one_sentence(words, sentence, folder, capsys):
    assert error_of(words, capsys).startswith(sentence)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fit", "pupils.csv", "score ~ hour"], "formula: "),
        (["summary", "runs/a", "--latents", "gamma"], ""),
        (["predict", "runs/a", "new.csv"], ""),
        (["report", "runs/a", "--out", "pupils.csv/report.html"], ""),
        (["predict", "runs/a", "pupils.csv", "--out", "pupils.csv/p.csv"], "'pupils.csv/p.csv' can't be written "),
        ([*FIT, "--out", "runs/a"], "the run folder 'runs/a' holds an earlier run (draws.safetensors); give another "
         "--out, hiertorch resume runs/a to go on with it, or --overwrite to replace it."),
        ([*FIT, "--out", "own.py"], "the run folder 'own.py' can't be written (File exists); give another --out."),
    ],
)  # fmt: skip
def test_what_fails_is_one_sentence(words, sentence, run, capsys):
    Path("new.csv").write_text("school\na\n")
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {sentence}") and said.count("\n") == 1
    assert before == {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}


def test_sentences_are_broken_where_a_terminal_ends(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    terminal = io.StringIO()
    assert paragraph("word " * 30, terminal) == "word " * 30
    terminal.isatty = lambda: True
    lines = paragraph("word " * 30, terminal).splitlines()
    assert max(map(len, lines)) <= 40 and all(line.startswith("  word") for line in lines[1:])


def test_a_reader_that_goes_away_is_no_error():
    code = (
        "import sys; from hiertorch.commands.program import status; sys.exit(status(lambda: print('x' * 10**6) or 0))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    pipes = {"stdout": writer, "stderr": subprocess.PIPE, "text": True}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_every_verb_has_a_main_and_scripts_are_doors():
    for verb in VERBS:
        assert callable(import_module(f"hiertorch.commands.{verb}").main)
    for path in (ROOT / "scripts").glob("*.py"):
        assert f"from hiertorch.commands.{path.stem} import main" in path.read_text()
        assert len(path.read_text().splitlines()) < 15
