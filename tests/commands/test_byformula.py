"""Configs whose model a formula says: what they become, and a sentence with its place in the file for what is wrong."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders import refused

import hiertorch as ht
from hiertorch.commands import train
from hiertorch.commands.config import load, read, run
from hiertorch.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
YAML = """
data: {source: pupils.csv}
formula: score ~ hours * kind + (hours | school)
family: student_t
parameters:
  sigma: ~ hours
priors:
  "beta[hours]": Normal(0, 0.5)
  "beta[hours:kind[top]]": Normal(0, 0.25)
  L_school: LKJ(4)
sample: {chains: 4, warmup: 20, draws: 15, seed: 3, progress: false}
log_dir: out
"""


SIMPLE = ["--family", "gaussian", "--parameters", "{}"]
"""Whose runs are short."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    r = np.random.default_rng(0)
    table = pd.DataFrame({"school": np.repeat([*"abcd"], 8), "hours": r.normal(size=32), "score": r.normal(size=32)})
    table.assign(kind=r.choice(["low", "top"], 32)).to_csv(tmp_path / "pupils.csv", index=False)
    (tmp_path / "fit.yaml").write_text(YAML)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_formula_is_what_ht_formula_makes_of_it(folder: Path) -> None:
    model, data = read(load(["--config", "fit.yaml"]))
    priors = {"beta[hours]": "Normal(0, 0.5)", "beta[hours:kind[top]]": "Normal(0, 0.25)", "L_school": "LKJ(4)"}
    text, frame = "score ~ hours * kind + (hours | school)", pd.read_csv("pupils.csv")
    same, of_frame = ht.formula(text, frame, family="student_t", priors=priors, sigma="~ hours")
    assert str(model) == str(same) and data.fingerprint == of_frame.fingerprint
    values = same.sample_prior(data, 3, torch.Generator().manual_seed(1))
    assert torch.equal(model.log_prob(values, data), same.log_prob(values, data))


@pytest.mark.slow
def test_the_run_folder_repeats_the_run_and_predicts(folder: Path) -> None:
    first = run(load(["--config", "fit.yaml", *SIMPLE]))
    again = run(load(["--config", "out/config.yaml", "--log_dir", "again"]))
    np.testing.assert_array_equal(first["beta"], again["beta"])
    assert Path("again/config.yaml").read_text() == Path("out/config.yaml").read_text().replace(": out", ": again")
    rows = pd.DataFrame({"hours": [0.5], "kind": ["top"], "school": ["a"]})
    assert torch.equal(ht.Posterior.load("out/draws.safetensors").predict(rows).draws, first.predict(rows).draws)


def test_options_win_over_the_file(folder: Path) -> None:
    options = ["--formula", "score ~ 1 + (1 | school)", "--priors", "null", "--parameters", "{}", "--family=gaussian"]
    model, _ = read(load(["--config", "fit.yaml", *options, "--data.source", "pupils.csv"]))
    assert list(model.latents) == ["mu", "sigma_school", "effects_school", "sigma_y"]
    only, _ = read(load([*options, "--data.source=pupils.csv", "--sample.seed=1"]))
    assert str(only) == str(model)


def test_a_family_as_a_class(folder: Path) -> None:
    (folder / "links.yaml").write_text(
        "data: {source: pupils.csv}\nformula: I(score > 0) ~ hours\n"
        "family: {class_path: hiertorch.families.Bernoulli, init_args: {link: probit}}\n"
    )
    model, _ = read(load(["--config", "links.yaml", "--formula", "kind ~ hours"]))
    assert "probit" in repr(model.family)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("hours * kind", "hours * s(kind)", "fit.yaml, line 3: formula: in the formula 'score ~ hours * s(kind)"),
        ("family: student_t", "family: students", "fit.yaml, line 4: family: there is no family 'students'"),
        (
            "sigma: ~ hours",
            "tau: ~ hours",
            "fit.yaml, line 6: parameters.tau: family 'student_t' has no parameter 'tau'",
        ),
        ("beta[hours]", "beta[hour]", "fit.yaml, line 8: priors.beta[hour]: priors names 'beta[hour]'"),
        ("LKJ(4)", "LKJ(a)", "fit.yaml, line 10: priors.L_school: the prior of 'L_school'"),
        ("Normal(0, 0.5)", "Normals(0, 0.5)", "fit.yaml, line 8: priors.beta[hours]: the prior of 'beta[hours]'"),
        ("draws: 15", "draws: many", "fit.yaml, line 11: sample.draws: expected int or null, found many."),
        ("source: pupils.csv", "source: pupils.csv, response: score", "fit.yaml, line 2: data.response: the formula"),
        ("log_dir: out", "model: VaryingIntercepts", "fit.yaml, line 12: model: the config has a formula, too"),
        ("family:", "familie:", "fit.yaml, line 4: familie: there is no such key. Did you mean 'family'?"),
        ("priors:\n", "priors: wide\nothers:\n", "fit.yaml, line 7: priors: expected"),
    ],
)
def test_what_is_wrong_has_its_place(folder: Path, before: str, after: str, sentence: str) -> None:
    assert before in YAML
    (folder / "fit.yaml").write_text(YAML.replace(before, after))
    with pytest.raises(ConfigError) as error:
        read(load(["--config", "fit.yaml"]))
    assert str(error.value).startswith(sentence) and "\n" not in str(error.value)


def test_columns_and_missing_values_are_said_beside_the_formula(folder: Path) -> None:
    (folder / "fit.yaml").write_text(YAML.replace("score ~ hours *", "score ~ hour *"))
    with refused(DataError, "fit.yaml, line 3: formula: the frame has no column 'hour'", "Did you mean 'hours'?"):
        read(load(["--config", "fit.yaml"]))
    table = pd.read_csv("pupils.csv")
    table.loc[3, "hours"] = np.nan
    table.to_csv("pupils.csv", index=False)
    (folder / "fit.yaml").write_text(YAML)
    with refused(DataError, "fit.yaml, line 3: formula: 1 row of 32 lack", "1 of 'hours'", 'na="drop"'):
        read(load(["--config", "fit.yaml"]))
    assert read(load(["--config", "fit.yaml", "--na", "drop"]))[1].n_rows == 31


def test_a_word_of_the_command_line_has_no_place(folder: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read(load(["--config", "fit.yaml", "--formula", "score ~ s(hours)"]))
    assert str(error.value).startswith("formula: in the formula")


def test_the_script_says_it_and_fits_a_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert train.main(["--config", "fit.yaml", "--log_dir=null", *SIMPLE]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(re.match(r"beta\[hours:kind\[top\]\] +-?\d", line) for line in lines)
    assert train.main(["--config", "fit.yaml", "--formula", "score ~ s(hours)"]) == 2
    assert capsys.readouterr().err.startswith("error: formula: ")


def test_priors_by_entry_of_ready_classes(folder: Path) -> None:
    (folder / "ready.yaml").write_text(
        "data: {source: pupils.csv, response: score, groups: [school], predictors: {hours: hours, top: kind=top}}\n"
        "model:\n  class_path: VaryingIntercepts\n  init_args:\n    plate: school\n    predictors: [hours, top]\n"
        '    priors: {"beta[top]": "Normal(0, 0.25)"}\n'
    )
    model, _ = read(load(["--config", "ready.yaml"]))
    assert "Normal(0, 0.25) for top" in str(model)
