"""Formulas that say nothing that can be fitted, and the sentence that each one gets."""

import numpy as np
import pandas as pd
import pytest

import hiertorch as ht


@pytest.fixture(scope="module")
def frame():
    n, r = 24, np.random.default_rng(0)
    return pd.DataFrame(
        {
            "y": r.normal(size=n),
            "x": r.normal(size=n),
            "z": r.uniform(1, 2, n),
            "count": r.poisson(3, n),
            "n": r.integers(4, 9, n),
            "kind": [*"abc"] * 8,
            "g": [*"uvwxyz"] * 4,
            "yes": ["no", "yes"] * 12,
            "when": pd.date_range("2020-01-01", periods=n),
            "hole": [np.nan] + [1.0] * (n - 1),
            "zero": np.zeros(n),
        }
    )


WRONG = {
    "": "a formula is text such as",
    "y": 'a formula has a response, "~" and terms',
    "y ~": 'a formula has a response, "~" and terms',
    "~ x": "it has no response: write its column before the ~",
    "y ~ x ~ z": 'a formula has a response, "~" and terms',
    "y ~ x +": r"at 'x \+': a \+ or - has no term behind it",
    "y ~ (x": r"lacks a '\)'",
    "y ~ x)": r"has a '\)' that closes nothing",
    "y ~ 'x": 'lacks a "\'"',
    "y ~ (x | g": r"lacks a '\)'",
    "y ~ x | g": "a term of their own in brackets",
    "y ~ (x | )": r"at '\(x \| \)': groups' effects are \(effects \| grouping\)",
    "y ~ ( | g)": "as in (1 | school)".replace("(", r"\(").replace(")", r"\)").replace("|", r"\|"),
    "y ~ (1 | 2 | g)": "or || where they are not correlated".replace("|", r"\|"),
    "y ~ (x || g || g)": "or || where they are not correlated".replace("|", r"\|"),
    "y ~ x - (1 | g)": "can't be taken away: leave the term out",
    "y ~ x:(1 | g)": "a term of their own in brackets",
    "y ~ (0 | g)": r"the terms of 'g' have no effects: write \(1 \| g\)",
    "y ~ (1 | g) + (x | g)": "name 'Intercept' twice: write it in one term",
    "y ~ (1 | x + g)": r"a grouping is a column, a:b or a/b; found 'x \+ g'",
    "y ~ (1 | log(x))": r"a grouping is a column, a:b or a/b; found 'log\(x\)'",
    "y ~ x + (1 | gg)": "no column 'gg'; its columns: .* Did you mean 'g'",
    "y ~ s(x)": r"s\(\) is not known here: there are no smooth terms",
    "y ~ gp(x)": r"gp\(\) is not known here: there are no Gaussian processes",
    "y ~ x + mo(kind)": r"mo\(\) is not known here: there are no monotonic effects",
    "y ~ ar(x)": "there are no autoregressive rows",
    "mvbind(y, x) ~ z": "there are no several responses at once",
    "y | cens(x) ~ z": r"at 'cens\(x\)': cens\(\) is not known here: there are no censored rows",
    "y | trunc(0) ~ z": "there are no truncated rows",
    "y | foo(n) ~ x": r"behind the \| of a response stand trials\(column\), weights\(column\)",
    "y | trials(n) | weights(x) ~ z": r"stands behind one \|",
    "y | trials(n) + trials(n) ~ x": r"trials\(\) is told twice",
    "y | trials(n) ~ x": 'take family="binomial"',
    "count | rate(n) ~ x": r"rate\(\) is for families with a log link; family='gaussian' has identity",
    "cbind(y) ~ x": r"takes two counts, as in cbind\(successes, failures\)",
    "kind ~ x": r'has 3 levels \(a, b, c\): name the level that counts as 1, kind\["a"\]',
    'yes["maybe"] ~ x': "has no level 'maybe'; its levels: no, yes",
    "y ~ xx": "no column 'xx'.* Did you mean 'x'",
    "y ~ logg(x)": r"call logg\(\), which is no function that formulas know",
    "y ~ kind %in% g": r"'%in%' is not known here; for a %in% b write a:b",
    "y ~ x & z": "'&' is not known here; for an interaction write a:b",
    "y ~ df$x": r"'\$' is not known here; columns are called by their name alone",
    "y ~ .": r"'\.' is not known here; name the columns",
    "y ~ hole": '1 row of 24 lack a value that the formula reads .*: take na="drop"',
    "y ~ log(x)": r"log\(x\) is nan in row",
    "y ~ when": "column 'when', which 'when' reads, holds datetime64",
    "y ~ offset(kind)": "the offset 'kind' must be one number a row; found 3 columns",
    "y ~ x - offset(z)": r"an offset is added: write offset\(-\(...\)\)",
    "y ~ x = 3": "at 'x = 3'",
    "y ~ x, z": "it can't be read from ',' on",
    "y ~ x **": r"at 'x \*\*'",
    "y ~ kind/(x + z)": "write the sum out",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_formula_gets_its_sentence(frame, text):
    with pytest.raises(ht.HiertorchError, match=WRONG[text]) as found:
        ht.formula(text, frame)
    said = str(found.value)
    assert len(said) < 400 and said.endswith((".", "?"))


@pytest.mark.parametrize(
    ("priors", "sentence"),
    [
        (
            {"gamma": "Normal(0, 1)"},
            "priors names 'gamma', which the model does not have here",
        ),
        ({"beta[X]": "Normal(0, 1)"}, r"'beta' has no entry 'X'; its entries: x, z"),
        ({"mu[x]": "Normal(0, 1)"}, "it has no entries"),
        ({"beta": "Normal"}, "the prior of 'beta' is a distribution, a function, or text"),
        ({"beta[x]": "Normal(0, [1, 2])"}, r"the prior of 'beta\[x\]' is that of one number"),
        ({"effects_g": "Normal(0, 1)"}, "is what the formula says"),
    ],
)
def test_a_wrong_prior_gets_its_sentence(frame, priors, sentence):
    with pytest.raises(ht.ModelError, match=sentence):
        ht.formula("y ~ x + z + (1 | g)", frame, priors=priors)


def test_unseen_categories_are_refused_with_the_known_ones(frame):
    _, data = ht.formula("y ~ kind", frame)
    with pytest.raises(ht.DataError, match=r"column 'kind' has 'd' in row 0 of the frame, .*; their levels: a, b, c"):
        data.read_rows(frame.head(2).assign(kind="d"))


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"nu": "~ x"}, "family 'gaussian' has no parameter 'nu' that a formula could predict; it has sigma"),
        ({"sigma": "x"}, 'a formula has a response, "~" and terms'),
        ({"sigma": "y ~ x"}, "the formula of sigma has no response: begin it with ~"),
        ({"sigma": 3}, "sigma= is the formula of a predictor"),
        ({"sigma": "~ xx"}, "no column 'xx'"),
    ],
)
def test_a_wrong_predictor_of_a_parameter_gets_its_sentence(frame, parameters, sentence):
    with pytest.raises(ht.HiertorchError, match=sentence):
        ht.formula("y ~ x", frame, **parameters)
