"""What somebody types who has never seen the package: twelve tasks, a line each."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import from_prior, refused

import hiertorch as ht

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
FEW: dict[str, Any] = {"seed": 1, "progress": False, "chains": 4, "draws": 25, "warmup": 40}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    r = np.random.default_rng(0)
    b = np.repeat(np.arange(12), 8)
    a, x, n = b // 3, r.normal(size=len(b)), len(b)
    frame = pd.DataFrame({"a": np.array([*"klmn"])[a], "b": b, "g": b // 2, "x": x, "z": r.gamma(3.0, 1.0, n)})
    frame["f"] = r.choice(["low", "mid", "top"], n)
    eta = 0.5 * x + r.normal(size=12)[b] + 0.3 * (frame["f"] == "top")
    frame["y"] = 2 + eta + 0.5 * r.normal(size=n)
    frame["w"], frame["days"], frame["won"] = r.uniform(0.5, 1.5, n), r.uniform(1.0, 9.0, n), (eta > 0).astype(int)
    frame["grade"] = pd.Categorical.from_codes(np.digitize(eta, [-0.7, 0.7]), ["bad", "fair", "good"], ordered=True)
    frame["gap"] = np.where(r.random(n) < 0.1, np.nan, x)
    return frame.assign(y1=frame["y"], y2=frame["y"] ** 2, y3=-frame["y"], y4=frame["y"] + x)


def test_1_varying_intercepts(frame: pd.DataFrame) -> None:
    posterior = ht.fit("y ~ x + (1 | g)", frame, **FEW)
    assert [*posterior.fixef().index] == ["Intercept", "x"]
    assert posterior.fixef().loc["x", "mean"] == pytest.approx(0.5, abs=0.3)


def test_2_an_interaction_with_three_levels(frame: pd.DataFrame) -> None:
    posterior = ht.fit("y ~ x * f + (1 | g)", frame, **FEW)
    assert [*posterior.fixef().index] == ["Intercept", "x", "f[mid]", "f[top]", "x:f[mid]", "x:f[top]"]


def test_3_polynomials_logarithms_and_nesting(frame: pd.DataFrame) -> None:
    posterior = ht.fit("y ~ poly(x, 2) + log(z) + (1 | a/b)", frame, **FEW)
    assert [*posterior.fixef().index] == ["Intercept", "poly(x, 2)[0]", "poly(x, 2)[1]", "log(z)"]
    assert {"sigma_a", "sigma_a:b"} <= {*posterior.names}


@pytest.mark.slow
def test_4_logistic_with_offset_and_weights(frame: pd.DataFrame) -> None:
    posterior = ht.fit("won | weights(w) ~ x + offset(log(days)) + (1 | g)", frame, family="bernoulli", **FEW)
    assert posterior.data.weights is not None and "offset" in posterior.data.columns


def test_5_a_prior_on_one_coefficient(frame: pd.DataFrame) -> None:
    posterior = ht.fit("y ~ x + z + (1 | g)", frame, priors={"beta[x]": "Normal(0.5, 0.0001)"}, **FEW)
    assert posterior.fixef().loc["x", "mean"] == pytest.approx(0.5, abs=0.001)


@pytest.mark.slow
def test_6_a_conditional_effects_plot(frame: pd.DataFrame, tmp_path: Path) -> None:
    posterior = ht.fit("y ~ x * f + (1 | g)", frame, **FEW)
    posterior.conditional_effects("x:f").plot().savefig(tmp_path / "effects.png")
    assert (tmp_path / "effects.png").read_bytes().startswith(b"\x89PNG")


def test_7_predictions_with_new_groups_to_csv(frame: pd.DataFrame, tmp_path: Path) -> None:
    posterior = ht.fit("y ~ x + (1 | g)", frame, **FEW)
    new = pd.DataFrame({"x": [0.0, 1.0], "g": [0, 99]})
    posterior.predict(new, new_groups="sample").summary.to_csv(tmp_path / "new.csv")
    read = pd.read_csv(tmp_path / "new.csv", index_col=0)
    assert [*read.columns[:2]] == ["mean", "sd"] and read.loc[1, "sd"] > read.loc[0, "sd"]


def test_8_save_load_elsewhere_and_predict(frame: pd.DataFrame, tmp_path: Path) -> None:
    posterior = ht.fit("y ~ x + (1 | g)", frame, **FEW)
    posterior.save(tmp_path / "fit.safetensors")
    line = "print(ht.Posterior.load(sys.argv[1]).predict({'x': 1.0, 'g': 3}).summary['mean'][0])"
    command = [sys.executable, "-c", f"import sys, hiertorch as ht; {line}", str(tmp_path / "fit.safetensors")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(said) == pytest.approx(posterior.predict({"x": 1.0, "g": 3}).summary["mean"][0], rel=1e-12)


@pytest.mark.slow
def test_9_four_outcomes_in_a_loop(frame: pd.DataFrame) -> None:
    posteriors = {y: ht.fit(f"{y} ~ x + (1 | g)", frame, **FEW) for y in ("y1", "y2", "y3", "y4")}
    table = pd.concat({y: posterior.fixef() for y, posterior in posteriors.items()})
    assert table.loc[("y1", "x"), "mean"] == pytest.approx(-table.loc[("y3", "x"), "mean"], abs=0.1)


def test_10_missing_values(frame: pd.DataFrame) -> None:
    missing = int(frame["gap"].isna().sum())
    with refused(ht.DataError, f"{missing} rows of 96 lack a value", f"({missing} of 'gap')", 'na="drop"'):
        ht.fit("y ~ gap + (1 | g)", frame, **FEW)
    with pytest.warns(ht.SamplingWarning, match=f"{missing} rows lack a value"):
        posterior = ht.fit("y ~ gap + (1 | g)", frame, na="drop", **FEW)
    assert posterior.data.n_rows == len(frame) - missing


def test_11_a_polars_frame(frame: pd.DataFrame) -> None:
    polars, _ = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    table = polars.DataFrame({name: frame[name].to_list() for name in ("y", "x", "f", "g")})
    posterior = ht.fit("y ~ x + f + (1 | g)", table, **FEW)
    same = ht.fit("y ~ x + f + (1 | g)", frame, **FEW)
    pd.testing.assert_frame_equal(posterior.fixef(), same.fixef())
    pd.testing.assert_frame_equal(posterior.predict(table.head(3)).summary, same.predict(frame.head(3)).summary)


@pytest.mark.slow
def test_12_ordered_categories(frame: pd.DataFrame) -> None:
    posterior = ht.fit("grade ~ x + (1 | g)", frame, family="cumulative", **FEW)
    found = posterior.predict({"x": [0.0], "g": [3]}, "probability").summary["mean"]
    assert [*found.index.get_level_values("category")] == ["bad", "fair", "good"]
    assert found.sum() == pytest.approx(1.0)


def test_the_design_is_a_frame(frame: pd.DataFrame) -> None:
    found = ht.design("~ x * f", frame)
    assert [*found.columns] == ["Intercept", "x", "f[mid]", "f[top]", "x:f[mid]", "x:f[top]"]
    assert found.attrs["reference"] == {"f": "low"} and repr(found).endswith("reference levels  f: 'low'")
    np.testing.assert_array_equal(found["x:f[top]"], frame["x"] * (frame["f"] == "top"))


# What people type by habit, and what it says or does


@pytest.fixture(scope="module")
def posterior(frame: pd.DataFrame) -> ht.Posterior:
    return from_prior(*ht.formula("y ~ x * f + (1 | g)", frame), 2, 30)


def test_the_frame_by_another_name(frame: pd.DataFrame) -> None:
    one, two = ht.formula("y ~ x + (1 | g)", data=frame)[1], ht.formula("y ~ x + (1 | g)", frame)[1]
    assert one.fingerprint == two.fingerprint
    assert ht.design("~ x", data=frame).equals(ht.design("~ x", frame))
    for given in ({}, {"frame": frame, "data": frame}):
        with refused(ht.OptionError, "give the rows once, as the second argument"):
            ht.formula("y ~ x", **given)
    with refused(ht.ModelError, "a formula is text such as", "found a DataFrame."):
        ht.fit(frame, "y ~ x")  # type: ignore[arg-type]
    with refused(ht.DataError, "found str: read it first, as by pandas.read_csv."):
        ht.fit("y ~ x", "rows.csv")
    with refused(ht.ModelError, "bf() is not known here", 'sigma="~ x"'):
        ht.formula("bf(y ~ x, sigma ~ x)", frame)


def test_a_family_by_its_class(frame: pd.DataFrame) -> None:
    model, _ = ht.formula("won ~ x + (1 | g)", frame, family=ht.families.Bernoulli)  # type: ignore[arg-type]
    assert isinstance(model.family, ht.families.Bernoulli)
    with refused(ht.DataError, "'won/b' is a share of trials: write proportion(won, b), or won | trials(b)"):
        ht.formula("won/b ~ x + (1 | g)", frame, family="binomial")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("x", "beta[x]"), ("b_x", "beta[x]"), ("Intercept", "mu"), ("sigma", "sigma_y"), ("sd_g", "sigma_g")],
)
def test_priors_by_other_packages_names(name: str, meant: str, frame: pd.DataFrame) -> None:
    with refused(ht.ModelError, f"priors names {name!r}", f"Did you mean {meant!r}?"):
        ht.formula("y ~ x + (1 | g)", frame, priors={name: "Normal(0, 1)"})


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"newdata": None}, "Did you mean frame=?"),
        ({"allow_new_levels": True}, "Did you mean new_groups=?"),
        ({"kind": "prob"}, "Did you mean 'probability'?"),
    ],
)
def test_options_of_predict(option: dict[str, Any], sentence: str, posterior: ht.Posterior) -> None:
    with refused(ht.HiertorchError, sentence):
        posterior.predict(**option)


def test_predictions_of_the_fitted_rows(frame: pd.DataFrame, posterior: ht.Posterior) -> None:
    pd.testing.assert_frame_equal(posterior.predict().summary, posterior.predict(frame).summary)
    assert repr(posterior.predict(frame.head(2))) == repr(posterior.predict(frame.head(2)).summary)
    with refused(ht.DataError, "no column 'g', which names groups", "posterior.predictions(frame)"):
        posterior.predict(frame.drop(columns="g"))


def test_effects_by_a_list(posterior: ht.Posterior) -> None:
    one, two = posterior.conditional_effects(["x", "f"]), posterior.conditional_effects("x:f")
    pd.testing.assert_frame_equal(one.summary, two.summary)


def test_names_that_other_packages_have(posterior: ht.Posterior) -> None:
    with refused(AttributeError, "no attribute 'loo': posterior.criterion(\"loo\")"):
        posterior.loo()
    with refused(AttributeError, "no attribute 'nothing'"):
        posterior.nothing()
    assert not hasattr(posterior, "plot")
    with refused(AttributeError, "hiertorch.Posterior.load(path)"):
        ht.load("fit")  # type: ignore[attr-defined]
    with refused(ht.HiertorchError, "'x' is an entry of 'beta': see posterior.fixef()."):
        posterior["x"]
    with refused(ht.HiertorchError, "names 'ftop'", "Did you mean 'f[top]'?"):
        posterior.hypothesis("ftop > 0")
