"""Terms of formulas as exported models compute them, against R's columns and those of `formulae`."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import from_prior, refused

import hiertorch as ht
from hiertorch import deploy
from hiertorch.errors import ModelError
from hiertorch.formulas.encoding import INTERCEPT, Matrix
from hiertorch.formulas.every import written_out
from hiertorch.formulas.parsing import parse

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
R = Path(__file__).parents[1] / "formulas"
CASES = {case["formula"]: case for case in json.loads((R / "r_functions.json").read_text())}
del CASES['y ~ factor(k, labels = c("a", "b", "c"))']  # which names levels by the rows that it is given
FRAME = pd.DataFrame(json.loads((R / "r_designs.json").read_text())["frame"])
FRAME["size3"] = pd.Categorical(FRAME["size3"], categories=["small", "mid", "large"])


def matrix(text: str) -> Matrix:
    return Matrix(parse(written_out(text, {}, FRAME.columns)[0]).terms[""].common, FRAME, {})


def computed(made: Matrix, rows: pd.DataFrame) -> np.ndarray:
    """Columns of rows by what an exported model would have, in the order of the labels."""
    texts = [*(["1.0"] if INTERCEPT in made.labels else []), *made.recipes()]
    table = deploy.Rows(rows)
    scope = deploy.Scope({"c": table.of(table.numbers), "t": table.of(table.labels)}, (1, len(rows)), None)
    return deploy.Text(f"columns({', '.join(texts)})")(scope)


@pytest.mark.parametrize("text", CASES)
def test_columns_are_those_of_r(text):
    made, expected = matrix(text), np.array(CASES[text]["common"])
    found = computed(made, FRAME)
    distances = (np.abs(found[:, :, None] - expected[:, None, :]) / np.abs(expected).max(0).clip(1.0)).max(0)
    assert (distances.min(0) < 1e-8).all() and (distances.min(1) < 1e-8).all()
    np.testing.assert_allclose(found, made.values, rtol=1e-12, atol=1e-12)
    if CASES[text]["later"] is not None:
        later = FRAME.iloc[[2, 6, 10]].assign(t=[0.4, 5.05, 9.9], x=[-2.5, 0.1, 3.0])
        expected = np.array(CASES[text]["later"])[:, distances.argmin(1)]
        np.testing.assert_allclose(computed(made, later), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "text",
    [
        "x + I(t - mean(t)) + as.numeric(size3) + cut(t, 3) + dummy(kind) + relevel(kind, ref = 'red')",
        "I(x %in% c(0.95, 1.58)) + cr(t, df=4) + cc(x, period=3, df=4) + center(x) + standardize(t) + log(t, 2)",
        "C(kind, Sum) * x + factor(k, levels=c(9, 5, 2), labels=c('a', 'b', 'd')) + ifelse(x > 0, t, 1)",
        "I(x / (1 + t**2)) + I(kind == 'red') + qlogis(plogis(x)) + pmin(x, 0.5)",
        "0 + kind:x + cut(t, c(0, 4, 10), include.lowest=TRUE, right=FALSE) + poly(t, 2, raw=True)",
        "factor(k, labels=c('a', 'b', 'a')) + cut(t, quantile(t, c(0, 0.3, 1)), include.lowest=TRUE)",
        "I(t > quantile(t, 0.25)) + I(t / sum(t)) + I(x %in% c(0.95, 1.58)) + I(x^2) + droplevels(size3)",
    ],
)
def test_columns_of_later_rows_are_those_of_the_fitted_ones(text):
    made = matrix(f"y ~ {text}")
    later = FRAME.iloc[::-3].assign(x=lambda rows: rows.x * 1.5)
    later["t"] = later["t"].clip(2.0, 8.0) * 0.99
    np.testing.assert_allclose(computed(made, later), made.at(later), rtol=1e-12, atol=1e-12)


def test_what_readers_can_not_compute_is_refused_by_name(tmp_path):
    functions = {"twice": lambda x: 2 * x}
    model, data = ht.formula("y ~ kind + twice(x) + (1 | g)", FRAME, functions=functions)
    with refused(ModelError, "the term 'twice(x)' can't be exported: it calls twice()", "Compute a column"):
        from_prior(model, data, 2, 4).export(tmp_path / "m.ht")
    with refused(ModelError, "the term 'tp(t, df=4)'", "readers have no tp()"):
        matrix("y ~ tp(t, df=4)").recipes()
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.ht"
    told = "y | trials(n) ~ kind * x + offset(z) + (1 | g)"
    frame = FRAME.assign(n=9, y=FRAME.index % 4)
    from_prior(*ht.formula(told, frame, family="binomial"), 2, 10).export(path)
    return deploy.load(path)


ROW = {"kind": "red", "x": 0.5, "z": 1.0, "n": 3, "g": FRAME.g.iloc[0]}


def test_tables_of_many_kinds_are_read(model):
    assert model.needs == ["g", "kind", "n", "x", "z"]
    every = [ROW, {name: [value] for name, value in ROW.items()}, [ROW], pd.DataFrame([ROW]), pd.DataFrame([ROW]).T.T]
    found = [model.predict(rows).draws for rows in every]
    assert all(np.array_equal(one, found[0]) for one in found) and found[0].shape == (20, 1)


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"kind": "pink"}, ("column 'kind' has 'pink' in row 0", "their levels: 'blue', 'green', 'red'")),
        ({"x": "much"}, ("column 'x' holds numbers", "'much' in row 0")),
        ({"x": None}, ("column 'x' lacks a value in row 0",)),
        ({"x": float("nan")}, ("column 'x' lacks a value in row 0",)),
        ({"kind": None}, ("column 'kind' lacks a value in row 0",)),
        ({"x": float("inf")}, ("can't be computed in row 0",)),
        ({"x": [1.0]}, ("column 'x' holds numbers",)),
        ({"kind": {"a": 1}}, ("column 'kind' has {'a': 1} in row 0", "no label")),
        ({"g": pd.NA}, ("column 'g' lacks a value in row 0",)),
        ({"n": -1}, ("column 'trials' has -1 in row 0", "whole numbers")),
        ({"n": 2.5}, ("column 'trials' has 2.5 in row 0",)),
        ({"z": ...}, ("the rows have no column 'z'; their columns: 'kind'",)),
    ],
)
def test_rows_that_can_not_be_read_are_refused_in_words(model, changed, parts):
    row = {name: value for name, value in (ROW | changed).items() if value is not ...}
    with refused(deploy.DeployError, *parts):
        model.predict([row])


def test_questions_that_can_not_be_answered_are_refused_in_words(model):
    uneven = {"x": [1.0], "z": [1.0, 2.0]}
    for rows, sentence in (("x.csv", "rows are a frame"), ({}, "1 or more"), (uneven, "found lengths [1, 2]")):
        with refused(deploy.DeployError, sentence):
            model.predict(rows)
    with refused(deploy.DeployError, "kind is one of 'mean', 'response', 'probability'; found 'median'"):
        model.predict(ROW, "median")
    with refused(deploy.DeployError, "'probability' is not known of binomial; this model has 'mean', 'response'"):
        model.predict(ROW, "probability")
    for asked, sentence in (
        ({"ci_prob": 1.5}, "ci_prob is between 0 and 1; found 1.5"),
        ({"seed": -1}, "seed is a whole number from 0 on; found -1"),
        ({"normals": {"z": 1.0}}, "normals name 'z'; effects of new groups are 'effects_g'"),
    ):
        with refused(deploy.DeployError, sentence):
            model.predict(ROW, **asked)
