"""Formulas that say nothing that can be fitted, and the sentence that each one gets."""

import warnings

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
            "mixed": [1, "a"] * 12,
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
    "y ~ C(kind, Foo)": "name the contrasts 'Foo', which there are none of; there are Treatment, Sum, Helmert, Poly",
    "y ~ poly(x, 30)": r"'poly\(x, 30\)' have a polynomial of degree 30, and its column has 24 different values",
    "y ~ x + (0 + poly(n, 5) | g)": "have a polynomial of degree 5, and its column has 5 different values",
    "y ~ poly(x, 0)": r"the degree of poly\(\) is a whole number from 1 on; found 0",
    "y ~ poly(x, 2.5)": "a whole number from 1 on; found 2.5",
    "y ~ cut(x, 1)": r"cut\(\) makes two intervals or more",
    "c(y, x) ~ z": "there are no several responses at once",
    "y ~ offset(x, z)": r"at 'offset\(x, z\)': an offset is one expression",
    "y ~ weights(z) + x": r"told of rows behind the response: write y \| weights\(column\)",
    "y ~ x + (1 | gr(g, by = kind))": r"gr\(\) is not known here: there are no options of groupings",
    "y ~ s(x)": r"s\(\) is not known here: there are no smooth terms",
    "y ~ gp(x)": r"gp\(\) is not known here: there are no Gaussian processes",
    "y ~ x + mo(kind)": r"mo\(\) is not known here: there are no monotonic effects",
    "y ~ ar(x)": "there are no autoregressive rows",
    "mvbind(y, x) ~ z": "there are no several responses at once",
    "y | cens(x) ~ z": r"cens\(x\) is .* in row 0 \(from 0\); it takes \"none\", \"right\"",
    "y | trunc(x, 0, z) ~ z": r"at 'trunc\(x, 0, z\)': trunc\(\) takes lb, ub",
    "y | foo(n) ~ x": r"behind the \| of a response stand trials\(column\), weights\(column\)",
    "y | trials(n) | weights(x) ~ z": r"stands behind one \|",
    "y | trials(n) + trials(n) ~ x": r"trials\(\) is told twice",
    "y | trials(n) ~ x": 'take family="binomial"',
    "count | rate(n) ~ x": r"rate\(\) is for families with a log link; family='gaussian' has identity",
    "cbind(y) ~ x": r"takes two counts, as in cbind\(successes, failures\)",
    "y ~ xx": "no column 'xx'.* Did you mean 'x'",
    "y ~ kind %in% (g + x)": "'%in%' is not known here; for a %in% b write a:b",
    "y ~ x %*% z": r"'%\*%' is not known here; write I\(a \* b\)",
    "y ~ x + Error(g)": r"no strata of an analysis of variance \(write \(1 \| block\)\)",
    "y ~ x + frailty(g)": r"write \(1 \| id\)",
    "cbind(y, x) ~ z": 'take family="binomial". There are no several responses at once',
    "y ~ x & z": "'&' is not known here; for an interaction write a:b",
    "y ~ df$x": r"'\$' is not known here; columns are called by their name alone",
    "y ~ hole": '1 row of 24 lack a value that the formula reads .*: take na="drop"',
    "y ~ log(x)": r"log\(x\) is nan in row",
    "y ~ when": "column 'when', which 'when' reads, holds datetime64",
    "y ~ offset(kind)": "the offset 'kind' must be one number a row; found 3 columns",
    "y ~ x - offset(z)": r"an offset is added: write offset\(-\(...\)\)",
    "y ~ x = 3": "at 'x = 3'",
    "y ~ x, z": "it can't be read from ',' on",
    "y ~ x **": r"at 'x \*\*'",
    "y ~ kind/(x + z)": "write the sum out",
    "y ~ ti(x)": "there are no smooth terms",
    "y ~ x + ar1(x | g)": "there are no autoregressive effects",
    "Surv(x, z) ~ kind": r"there are no pairs of time and status \(write time \| cens",
    "y ~ SSlogis(x, z)": "there are no predictors nonlinear in parameters",
    "y ~ x^2": r"at 'x\^2': a power of one column is that column alone, as in R: write I\(x\^2\)",
    "y ~ (x^2 | g)": r"write I\(x\^2\)",
    "y ~ 2 * x": r"a number multiplies no term \(2 \*\): write I\(2 \* x\)",
    "y ~ x/2": r"a number multiplies no term \(/2\): write I\(x/2\)",
    "y ~ x:2": r"write I\(x:2\)",
    "y ~ (x > 0) * z": r"a condition is a column of 0 and 1 in I\(\)",
    "y ~ I(x > 0 & z > 1)": r"for both of two conditions \(a > 0\) \* \(b > 0\)",
    "y ~ I(x %% 2)": r"write np.mod\(a, b\)",
    "y ~ df['x']": r"'\[' is not known here; columns are called by their name alone",
    "y ~ _x": "a name that begins so stands in backticks, `_x`",
    "y ~ x y": "it can't be read from 'y' on; a name with blanks stands in backticks, `a b`",
    "y ~ (1 | g + kind)": r"found 'g \+ kind': write \(1 \| g\) \+ \(1 \| kind\)",
    "y ~ (1 | g * kind)": r"write \(1 \| g\) \+ \(1 \| kind\) \+ \(1 \| g:kind\)",
    "Y ~ x": "no column 'Y'; .* Did you mean 'y'",
    "y ~ lgo(x)": r"call lgo\(\), which is no function that formulas know. Did you mean 'log'",
    "y ~ as.foo(x)": r"call as.foo\(\), which is no function",
    "y ~ log(kind)": "the terms 'log\\(kind\\)' can't be computed: .* Column 'kind' holds text",
    "log(y) ~ x": r"^log\(y\) is nan in row",
    "y ~ relevel(kind)": "missing 1 required positional argument: 'ref'",
    "y ~ relevel(kind, ref='q')": "relevel.* names 'q', which is none of the levels a, b, c",
    "y ~ dummy(kind, 'q')": "dummy.* names 'q', which is none of the levels a, b, c",
    "y ~ factor(kind, levels=c('a', 'b'))": "is told the levels a, b, and its column has 'c'",
    "y ~ cut(z, c(0, 1.5))": "cut.* has no interval for",
    "y ~ ns(z, 0)": r"the df of ns\(\) is a whole number, at least 1 here; found 0",
    "y ~ bs(z, 2)": r"the df of bs\(\) is a whole number, at least 3 here; found 2",
    "y ~ ns(zero, 4)": r"the inner knots of ns\(\) lie between its ends 0 and 0",
    "y ~ mixed": r"column 'mixed' holds values of several kinds \(int, str\)",
    "yes ~ x": r"the response 'yes' is no number \(no, yes\), .* take family=\"bernoulli\"",
    "kind ~ z": r"the response 'kind' is no number \(a, b, c\), .* take a family of categories",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_formula_gets_its_sentence(frame, text):
    with pytest.raises(ht.HiertorchError, match=WRONG[text]) as found:
        ht.formula(text, frame)
    said = str(found.value)
    assert len(said) < 400 and said.endswith((".", "?"))


OF_FAMILIES = {
    ("kind ~ x", "bernoulli"): r'has 3 levels \(a, b, c\): name the level that counts as 1, kind\["a"\]',
    ('yes["maybe"] ~ x', "bernoulli"): "has no level 'maybe'; its levels: no, yes",
    ("count ~ x", "binomial"): r"without trials are 0 or 1: write count \| trials\(n\), cbind\(successes, failures\)",
    ("y ~ x", "Gaussian"): "there is no family 'Gaussian'; .* Did you mean 'gaussian'",
    ("y ~ x", None): "family is one of gaussian, .* found None",
    ("count ~ x", "nbinom2"): "Did you mean 'negative_binomial'",
    ("yes ~ x", "binomial(link='probit')"): r"Write ht.families.Binomial\(link=ht.families.PROBIT\)",
    ("factor(kind, levels = c('a', 'b')) ~ x", "cumulative"): "names the levels a, b of 'kind', which has 'c', too",
}


@pytest.mark.parametrize(("text", "family"), OF_FAMILIES)
def test_a_response_that_a_family_does_not_take_gets_its_sentence(frame, text, family):
    with pytest.raises(ht.HiertorchError, match=OF_FAMILIES[text, family]):
        ht.formula(text, frame, family=family)


def test_priors_are_not_scaled_by_a_response_that_the_family_does_not_have(frame):
    model, data = ht.formula("z ~ x", frame, family="beta")
    with pytest.raises(ht.HiertorchError, match=r"'z' goes from 1.* to 1.*, which rows of family 'beta' don't"):
        ht.plan(model, data)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"REML": False}, "there is no option REML=: all parameters have priors"),
        ({"random": "~ 1 | g"}, r"groups' effects are terms of the formula"),
        ({"weights": "z"}, r"write \"y \| weights\(w\) ~ ...\""),
        ({"ziformula": "~ 1"}, 'write zi="~ x"'),
        ({"drawz": 100}, "drawz= is no option of ht.sample.* Did you mean 'draws'"),
        ({"dropna": True}, 'there is no option dropna=: write na="drop".'),
    ],
)
def test_options_of_other_packages_get_their_sentence(frame, option, sentence):
    with pytest.raises(ht.OptionError, match=sentence):
        ht.fit("y ~ x", frame, **option)


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
        ({"x": "Normal(0, 1)"}, r"Did you mean 'beta\[x\]'"),
        ({"beta": "normal(0, 1)"}, "there is no normal. Did you mean 'Normal'"),
        ("Normal(0, 1)", "priors are a mapping of names"),
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
        ({"sigma": "x"}, "sigma= is the formula of a predictor, such as"),
        ({"sigma": "y ~ x"}, "the formula of sigma has no response: begin it with ~"),
        ({"sigma": 3}, "sigma= is the formula of a predictor"),
        ({"sigma": "~ xx"}, "no column 'xx'"),
    ],
)
def test_a_wrong_predictor_of_a_parameter_gets_its_sentence(frame, parameters, sentence):
    with pytest.raises(ht.HiertorchError, match=sentence):
        ht.formula("y ~ x", frame, **parameters)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("y ~ x + I(2 * x)", r"1 column .* is made up of the columns before it .* 'I\(2 \* x\)'. Priors alone"),
        ("y ~ x + zero", "'zero'"),
        ("y ~ 0 + kind + x + I(x + 1)", r"'I\(x \+ 1\)'"),
        ("y ~ kind:yes + kind:g", "columns of the formula are made up .* 'kind"),
        ("y ~ x + (1 | zero)", "grouping 'zero' has one group"),
    ],
)
def test_terms_that_say_nothing_new_are_warned_of(frame, text, sentence):
    with pytest.warns(ht.SamplingWarning, match=sentence):
        ht.formula(text, frame)


def test_columns_far_from_zero_are_no_multiples_of_one_another(frame):
    """Years and their squares, and a timestamp, are known apart from the intercept."""
    table = frame.assign(year=np.arange(24) + 1990, second=1.7e9 + np.arange(24.0) ** 1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ht.SamplingWarning)
        ht.formula("y ~ year + I(year^2) + second", table)
