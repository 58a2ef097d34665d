"""Designs of formulas against R's `model.matrix` and `lme4::lFormula`, made once by R 4 with lme4 1.1."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hiertorch as ht
from hiertorch.formulas.predictors import COMMON

STORED = json.loads((Path(__file__).parent / "r_designs.json").read_text())
CASES = {case["formula"]: case for case in STORED["cases"]}


def frame() -> pd.DataFrame:
    table = pd.DataFrame(STORED["frame"])
    table["size3"] = pd.Categorical(table["size3"], categories=["small", "mid", "large"])
    return table


def same_columns(found: np.ndarray, expected: np.ndarray, scale: float = 1.0) -> None:
    """The same columns, in whatever order."""
    assert found.shape == expected.shape
    distances = np.abs(found[:, :, None] - expected[:, None, :]).max(0)
    assert (distances.min(0) < 1e-8 * scale).all() and (distances.min(1) < 1e-8 * scale).all()


@pytest.mark.parametrize("text", CASES)
def test_designs_are_those_of_r(text):
    case, table = CASES[text], frame()
    model, data = ht.formula(text, table)
    encoding, mean = model.encoding, model.encoding.predictors[0]
    common = data[COMMON].numpy() if mean.labels else np.zeros((24, 0))
    whole = np.column_stack([np.ones(24), common]) if mean.intercept else common
    same_columns(whole, np.array(case["common"]), max(1.0, float(np.abs(whole).max())))
    if case["offset"] is None:
        assert "offset" not in data
    else:
        np.testing.assert_allclose(data["offset"].numpy(), case["offset"], rtol=1e-9)
    expected: dict[str, list[np.ndarray]] = {}
    for part in case["effects"]:
        plate = ":".join(sorted(part["plate"].split(":")))
        expected.setdefault(plate, []).append(np.array(part["design"]))
        groups = part["groups"]
        assert [len(data.labels[name]) for name in data.plates if ":".join(sorted(name.split(":"))) == plate] == [
            groups
        ]
    assert {":".join(sorted(effects.plate.split(":"))) for effects in encoding.effects} == {*expected}
    for effects in encoding.effects:
        parts = expected[":".join(sorted(effects.plate.split(":")))]
        same_columns(data[effects.column].numpy(), np.column_stack(parts))
        wide = [part.shape[1] for part in parts if part.shape[1] > 1]
        assert sorted(part.stop - part.start for part in effects.roots) == sorted(wide)


@pytest.mark.parametrize("text", [text for text in CASES if "poly" in text or "scale" in text or "kind" in text])
def test_later_rows_are_encoded_as_the_fitted_ones(text):
    """Alone, in another order, with columns in another order and more of them: levels, means and polynomials stay."""
    _, data = ht.formula(text, frame())
    some = frame().iloc[[7, 3, 11]].drop(columns="y").assign(more=1.0)
    columns, labels = data.read_rows(some[some.columns[::-1]])
    for name, column in columns.items():
        assert np.allclose(column.numpy(), data[name].numpy()[[7, 3, 11]], atol=1e-12), name
    for plate, rows in labels.items():
        assert rows.tolist() == data.labels[plate][data[plate].numpy()[[7, 3, 11]]].tolist()


def test_scale_in_r_s_words_has_the_sd_of_n_minus_1():
    _, data = ht.formula("y ~ scale(x)", frame())
    x = frame()["x"].to_numpy()
    np.testing.assert_allclose(data[COMMON].numpy()[:, 0], (x - x.mean()) / x.std(ddof=1))


@pytest.mark.parametrize(
    "term",
    [
        "I((x - z) / t)", "I(x - z / t)", "I(x / (z * t))", "I(x * (z + t) - 1)", "I(x - (z - t))", "I(x - z - t)",
        "I((x + z) ** 2)", "I(t ** (z + 1))", "I(-(x + z))", "I(-x ** 2)", "I(exp(-x) * (t > 4))",
        "I(exp(-x ** 2 / 2))", "I(x - z ** 2)", "log(t + (x + 2) * 3)", "I(2 * -t ** 2)",
        "I((-x) ** 2)", "poly((t - 1) / 2, 2, raw=True)",
    ],
)  # fmt: skip
def test_labels_are_the_terms_as_they_are_written(term):
    """Python computes the term, and its label, and has the column."""
    found, table = ht.design(f"y ~ {term}", frame()), frame()
    label = found.columns[1]
    if "poly" in term:
        assert label == f"{term}[0]"
        return
    names = {**{name: table[name] for name in table}, "I": lambda x: x, "exp": np.exp, "log": np.log}
    np.testing.assert_allclose(eval(label, names), found[label], rtol=1e-12)
    np.testing.assert_allclose(eval(term, names), found[label], rtol=1e-12)


def test_the_design_is_a_frame_with_names_and_references():
    found = ht.design("y ~ kind * x + (x | g)", frame(), sigma="~ size3")
    names = ["Intercept", "kind[green]", "kind[red]", "x", "kind[green]:x", "kind[red]:x", "sigma: Intercept"]
    names += ["sigma: size3[mid]", "sigma: size3[large]", "Intercept | g", "x | g"]
    assert found.columns.tolist() == names and len(found) == 24
    assert found.attrs["reference"] == {"kind": "blue", "size3": "small"}
    assert ht.design("y ~ 0 + kind", frame()).attrs["reference"] == {}
