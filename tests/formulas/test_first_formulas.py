"""Formulas that somebody writes first: coefficients, groupings, and the linear predictor by NumPy alone."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import hiertorch as ht

N, R = 72, np.random.default_rng(8)
B = np.repeat(np.arange(12), 6)
X, Z = R.normal(size=N), R.gamma(3.0, 1.0, N)
F, S = np.array([*"lmt"])[np.arange(N) % 3], np.array(["no", "yes"])[R.permutation(np.arange(N)) % 2]
DOSE, YEAR = R.integers(1, 4, N) * 10, 1990 + np.arange(N) % 8
LOW, MID, TOP = (np.char.equal(F, one) * 1.0 for one in "lmt")
FRAME = pd.DataFrame(
    {
        "y": R.normal(size=N),
        "x": X,
        "z": Z,
        "f": F,
        "s": S,
        "dose": DOSE,
        "year": YEAR,
        "count": R.poisson(3.0, N),
        "n": R.integers(12, 15, N),
        "won": R.permutation(np.arange(N)) % 2,
        "g": B // 2,
        "a": np.array([*"klmn"])[B // 3],
        "b": np.array([*"uvw"])[B % 3],
        "blood pressure": X**3,
    }
)
ONE = np.ones(N)
G = {"g": [ONE]}
BOTH = {"g": [ONE, X]}
DEVIATES = X - X.mean()

FORMULAS: dict[str, tuple[list[np.ndarray], dict[str, list[np.ndarray]]]] = {
    "y ~ 1": ([], {}),
    "y ~ x": ([X], {}),
    "y ~ 1 + (1 | g)": ([], G),
    "y~x+z+(1|g)": ([X, Z], G),
    "y ~ x + (x | g)": ([X], BOTH),
    "y ~ 1 + x + (1 + x | g)": ([X], BOTH),
    "y ~ x + (x || g)": ([X], BOTH),
    "y ~ x + (1 | g) + (0 + x | g)": ([X], BOTH),
    "y ~ x + (1 | g) + (x - 1 | g)": ([X], BOTH),
    "y ~ x * z + (1 | g)": ([X, Z, X * Z], G),
    "y ~ (x + z)^2 + (1 | g)": ([X, Z, X * Z], G),
    "y ~ x + z + x:z + (1 | g)": ([X, Z, X * Z], G),
    "y ~ x + I(x^2) + (1 | g)": ([X, X**2], G),
    "y ~ x + I(x**2) + (1 | g)": ([X, X**2], G),
    "y ~ poly(x, 2, raw = TRUE) + (1 | g)": ([X, X**2], G),
    "y ~ log(z) + (1 | g)": ([np.log(Z)], G),
    "y ~ np.log(z) + sqrt(z)": ([np.log(Z), np.sqrt(Z)], {}),
    "y ~ scale(x) + (1 | g)": ([DEVIATES / X.std(ddof=1)], G),
    "y ~ center(x) + (1 | g)": ([DEVIATES], G),
    "y ~ I(x - mean(x)) + (1 | g)": ([DEVIATES], G),
    "y ~ f + (1 | g)": ([MID, TOP], G),
    "y ~ f - 1 + (1 | g)": ([LOW, MID, TOP], G),
    "y ~ 0 + f + (1 | g)": ([LOW, MID, TOP], G),
    "y ~ x * f + (1 | g)": ([X, MID, TOP, X * MID, X * TOP], G),
    "y ~ x:f + (1 | g)": ([X * LOW, X * MID, X * TOP], G),
    "y ~ f / x": ([MID, TOP, X * LOW, X * MID, X * TOP], {}),
    "y ~ relevel(f, ref = 't') + (1 | g)": ([LOW, MID], G),
    "y ~ C(dose) + (1 | g)": ([(DOSE == 20) * 1.0, (DOSE == 30) * 1.0], G),
    "y ~ as.factor(dose) + (1 | g)": ([(DOSE == 20) * 1.0, (DOSE == 30) * 1.0], G),
    "y ~ s + (1 | g)": ([(S == "yes") * 1.0], G),
    "y ~ (f | g)": ([], {"g": [ONE, MID, TOP]}),
    "y ~ (0 + f | g)": ([], {"g": [LOW, MID, TOP]}),
    "y ~ x + (1 | a/b)": ([X], {"a": [ONE], "a:b": [ONE]}),
    "y ~ x + (1 | a) + (1 | a:b)": ([X], {"a": [ONE], "a:b": [ONE]}),
    "y ~ x + (1 | a) + (x | year)": ([X], {"a": [ONE], "year": [ONE, X]}),
    "y ~ year + (year | g)": ([YEAR * 1.0], {"g": [ONE, YEAR * 1.0]}),
    "y ~ I(x > 0) + (1 | g)": ([(X > 0) * 1.0], G),
    "y ~ ifelse(x > 0, x, 0)": ([np.maximum(X, 0)], {}),
    "y ~ cos(2 * pi * year / 8) + sin(2 * pi * year / 8)": (
        [np.cos(np.pi * YEAR / 4), np.sin(np.pi * YEAR / 4)],
        {},
    ),
    "`y` ~ `blood pressure` + (1 | g)": ([X**3], G),
    "log(z) ~ x + (1 | g)": ([X], G),
    "won ~ x + (1 | g)": ([X], G),
    's["yes"] ~ x + (1 | g)': ([X], G),
    "s ~ x + (1 | g)": ([X], G),
    "count ~ x + offset(log(z)) + (1 | g)": ([X], G),
    "count | rate(z) ~ x + (1 | g)": ([X], G),
    "count | trials(n) ~ x + (1 | g)": ([X], G),
    "cbind(count, n - count) ~ x + (1 | g)": ([X], G),
    "y | weights(z) ~ x + (1 | g)": ([X], G),
}
"""Text -> columns of coefficients, and grouping -> columns of its effects, in order."""


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_what_it_says(text: str) -> None:
    columns, groupings = FORMULAS[text]
    left = text.partition("~")[0]
    family = (
        "binomial" if "n)" in left or "cbind" in left else "poisson" if "count" in left else
        "bernoulli" if left.strip()[0] in "sw" else "gaussian"
    )  # fmt: skip
    model, data = ht.formula(text, FRAME, family=family)
    v: dict[str, Any] = dict(model.sample_prior(data, 2, torch.Generator().manual_seed(1)))
    v = {name: 0.3 * x if name.startswith(("mu", "beta", "effects")) else x for name, x in v.items()}
    leveled = "0 +" not in text.partition("(")[0] and "- 1" not in text.partition("(")[0]
    assert ("mu" in v) == leveled and (v["beta"].shape[-1] if columns else 0) == len(columns)
    assert {f"effects_{name}" for name in groupings} == {name for name in v if name.startswith("effects_")}
    eta = v["mu"].numpy() + np.zeros(N) if leveled else np.zeros((2, N))
    for k, column in enumerate(columns):
        eta = eta + v["beta"][:, 0, k, None].numpy() * column
    for name, each in groupings.items():
        labels = FRAME["a"] + ":" + FRAME["b"] if name == "a:b" else FRAME[name]
        at = np.unique(labels, return_inverse=True)[1]
        for k, column in enumerate(each):
            eta = eta + v[f"effects_{name}"][:, at, k].numpy() * column
    offset = np.log(Z) if family == "poisson" else 0.0
    made = model.linear_predictor(model.values(v), data).expand(2, N)
    np.testing.assert_allclose(made, eta + offset, rtol=1e-9, atol=1e-9)
    y = FRAME["count"] if "count" in left else FRAME["won"] if left.startswith("won") else (S == "yes") * 1.0
    chance = 1 / (1 + np.exp(-eta))
    expected = {
        "poisson": lambda: stats.poisson(Z * np.exp(eta)).logpmf(y),
        "binomial": lambda: stats.binom(FRAME["n"], chance).logpmf(y),
        "bernoulli": lambda: stats.bernoulli(chance).logpmf(y),
        "gaussian": lambda: stats.norm(eta, v["sigma_y"].numpy()).logpdf(np.log(Z) if "log" in left else FRAME["y"]),
    }[family]()
    np.testing.assert_allclose(model.log_likelihood(model.values(v), data), expected, rtol=1e-8, atol=1e-8)
    assert data.weights is None or np.array_equal(data.weights, Z)
