"""Functions of formulas against R's own: columns of 77 formulas, made once by R 4 with splines and lme4."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hiertorch as ht
from hiertorch.errors import DataError
from hiertorch.formulas.encoding import Matrix
from hiertorch.formulas.every import written_out
from hiertorch.formulas.parsing import parse

HERE = Path(__file__).parent
CASES = {case["formula"]: case for case in json.loads((HERE / "r_functions.json").read_text())}


def frame() -> pd.DataFrame:
    table = pd.DataFrame(json.loads((HERE / "r_designs.json").read_text())["frame"])
    return table.assign(size3=pd.Categorical(table["size3"], categories=["small", "mid", "large"]))


def columns_of(text: str, table: pd.DataFrame) -> Matrix:
    """Of all rows, with the intercept's."""
    return Matrix(parse(written_out(text, {}, table.columns)[0]).terms[""].common, table, {})


@pytest.mark.parametrize("text", CASES)
def test_columns_are_those_of_r(text):
    """In whatever order; and of later rows, whose splines go on beyond the fitted ones."""
    made, expected = columns_of(text, frame()), np.array(CASES[text]["common"])
    assert made.values.shape == expected.shape
    scale = np.abs(expected).max(0).clip(1.0)
    distances = (np.abs(made.values[:, :, None] - expected[:, None, :]) / scale).max(0)
    assert (distances.min(0) < 1e-8).all() and (distances.min(1) < 1e-8).all()
    if CASES[text]["later"] is not None:
        later = made.at(frame().iloc[[2, 6, 10]].assign(t=[0.4, 5.05, 9.9], x=[-2.5, 0.1, 3.0]))
        order = distances.argmin(1)
        np.testing.assert_allclose(later, np.array(CASES[text]["later"])[:, order], rtol=1e-7, atol=1e-8)


def test_means_levels_and_breaks_are_those_of_the_fitted_rows():
    table = frame()
    text = "y ~ I(t - mean(t)) + as.numeric(size3) + cut(t, 3) + dummy(kind) + relevel(kind, ref = 'red')"
    text += " + I(x / np.std(x))"
    made, some = columns_of(text, table), [4, 7]
    later = table.iloc[some].assign(size3=lambda rows: rows["size3"].cat.remove_unused_categories())
    np.testing.assert_allclose(made.at(later), made.values[some], atol=1e-12)


@pytest.mark.parametrize("text", [text for text in CASES if "~ ." not in text])
def test_rows_are_read_alone_as_among_those_that_are_fitted(text):
    table = frame()
    made = columns_of(text, table)
    for some in ([3], [8, 2], [5, 4, 9]):
        np.testing.assert_allclose(made.at(table.iloc[some]), made.values[some], atol=1e-9)


def test_levels_have_the_names_that_they_had_when_they_were_fitted(tmp_path):
    """Later rows that lack a level, also of a model that was read from a file."""
    table = frame()
    labelled = 'y ~ factor(k, labels = c("a", "b", "c")) + cut(t, quantile(t), include.lowest = TRUE)'
    model, data = ht.formula(labelled, table)
    posterior = ht.sample(model, data, draws=20, warmup=20, chains=2, seed=1, progress=False)
    posterior.save(tmp_path / "saved", data=False)
    later = table[table["k"] > 2]
    found = ht.Posterior.load(tmp_path / "saved").predict(later, kind="mean").draws
    expected = posterior.predict(table, kind="mean").draws
    np.testing.assert_allclose(found, expected[..., np.flatnonzero(table["k"] > 2)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("y ~ np.cumsum(t)", "read a row otherwise alone"),
        ("y ~ I(t > np.percentile(t, 50))", "read a row otherwise alone"),
        ("y ~ before(t) + x", "read a row otherwise alone"),
        ("y ~ x + mean(t)", "the same number in all rows"),
        ("y ~ cut(t, c(1, 1, 9))", "all different"),
        ("y ~ I(t > quantile(t, 50))", "probabilities between 0 and 1"),
        ('y ~ factor(k, labels = c("a", "b"))', "has 3 levels (2, 5, 9) and 2 labels"),
    ],
)
def test_what_later_rows_could_not_be_read_by_is_refused(text, said):
    with pytest.raises(DataError) as refused:
        ht.formula(text, frame(), functions={"before": lambda x: np.concatenate([[0.0], np.asarray(x)[:-1]])})
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "term",
    [*("factor(k)", "factor(k, levels = c(9, 5, 2))", 'relevel(factor(k), ref = "5")', "as.numeric(factor(k))"),
     *("interaction(k, kind)", "dummy(k)", "C(k, Sum)")],
)  # fmt: skip
def test_levels_that_no_fitted_row_has_are_named_beside_the_known_ones(term):
    made = columns_of(f"y ~ {term}", frame())
    with pytest.raises(DataError, match=r"7.*which the rows that were fitted do not have; (?:its|their) levels: .*2"):
        made.at(frame().assign(k=7))


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("y ~ us(x | g)", "y ~ (x | g)"),
        ("y ~ diag(x | g)", "y ~ (x || g)"),
        ("y ~ (1 | interaction(g, h))", "y ~ (1 | g:h)"),
        ("y ~ x + Q('t')", "y ~ x + t"),
        ("y ~ I(x * 1e-3) + I(2L * t) + I(t / 2.)", "y ~ I(x * 0.001) + I(2 * t) + I(t / 2.0)"),
        ("y \u223c x", "y ~ x"),
    ],
)
def test_other_spellings_are_the_same_model(text, same):
    found, expected = (ht.formula(one, frame())[0] for one in (text, same))
    assert [*found.latents] == [*expected.latents] and str(found.latents) == str(expected.latents)


def test_levels_of_a_response_are_in_the_order_that_the_formula_says():
    table = frame()
    _, known = ht.formula("size3 ~ x", table, family="cumulative")
    texts = table.assign(size3=table["size3"].astype(str))
    for left in ("ordered(size3, levels = c('small', 'mid', 'large'))", "factor(size3, c('small', 'mid', 'large'))"):
        _, data = ht.formula(f"{left} ~ x", texts, family="cumulative")
        assert data.y.tolist() == known.y.tolist() and data.name == "size3"
    assert ht.formula("factor(k) ~ x", table, family="cumulative")[1].y.max() == 2.0


def test_a_number_of_trials_is_the_same_in_all_rows():
    for left in ("proportion(k, 10)", "k | trials(10)"):
        _, data = ht.formula(f"{left} ~ x", frame(), family="binomial")
        assert data["trials"].tolist() == [10.0] * 24


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("y ~ . + (x | g)", "y ~ (x + z + t + `one two`) + (x | g)"),
        ("log(t) | weights(z) ~ . + (1 | g/y)", "log(t) | weights(z) ~ (x + `one two`) + (1 | g/y)"),
        ("y ~ .^2 - x + (1 | g) + I(x / .5)", "y ~ (x + z + t + `one two`)^2 - x + (1 | g) + I(x / .5)"),
        ("y ~ ifelse(x > 0, '.', 'b') + .:x", "y ~ ifelse(x > 0, '.', 'b') + (x + z + t + `one two` + g):x"),
    ],
)
def test_a_dot_is_all_other_columns(text, same):
    assert written_out(text, {}, ["y", "x", "z", "t", "one two", "g"]) == (same, {})


def test_a_dot_is_what_it_was_in_a_file(tmp_path):
    """With columns that come later, and without; the formula that is kept names them."""
    table = frame()[["y", "x", "kind", "g"]]
    model, data = ht.formula("y ~ . + (1 | g)", table, sigma="~ . - kind")
    assert model.latents["beta"].axes == (("x", "kind[green]", "kind[red]"),)
    assert model.latents["beta_sigma"].axes == (("x",),)
    assert model.encoding.remake.arguments["text"] == "y ~ (x + kind) + (1 | g)"
    columns, _ = data.read_rows(frame())
    assert columns["common design"].shape == (24, 3)


def test_contrasts_name_what_they_compare():
    found = ht.design("y ~ C(size3, Poly) + C(kind, Helmert) + C(h, Sum)", frame())
    names = ["C(size3, Poly)[L]", "C(size3, Poly)[Q]", "C(kind, Helmert)[green]", "C(kind, Helmert)[red]"]
    assert found.columns.tolist()[1:5] == names
    assert found.attrs["reference"] == {}


def test_a_dot_of_nothing_gets_its_sentence():
    with pytest.raises(ht.ModelError, match=r"at '\.': the frame has no columns but 'g' and 'y'|at '\.'.*g, y"):
        ht.formula("y ~ . + (1 | g)", frame()[["y", "g"]])
