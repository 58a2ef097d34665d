"""The source of a formula's model runs, and has the same density."""

import numpy as np
import pandas as pd
import pytest
import torch

import hiertorch as ht


@pytest.fixture(scope="module")
def frame():
    n, r = 60, np.random.default_rng(1)
    kind, groups = [*"abc"] * 20, np.repeat([*"uvwxyz"], 10)
    numbers = {"y": r.normal(size=n), "x": r.normal(size=n), "z": r.normal(size=n), "count": r.poisson(3, n)}
    numbers["spaced"] = ["on foot", "by car", "it's"] * 20
    return pd.DataFrame(
        {**numbers, "n": 9, "kind": pd.Categorical(kind, ordered=True), "A level": groups, "h": np.repeat([*"pqr"], 20)}
    )


CASES = [
    ("y ~ x * kind + (x | h)", {}),
    ("y ~ 0 + kind + (x || h) + (1 | `A level`)", {}),
    ("y ~ x + (x | h) + (0 + z | h)", {"sigma": "~ z + (1 | h)"}),
    ("y ~ x + (1 |i| h)", {"sigma": "~ z + (1 |i| h)"}),
    ("kind ~ x + (1 | h)", {"family": "acat"}),
    ("kind ~ x + offset(z)", {"family": "cumulative"}),
    ("kind ~ x + (x | h)", {"family": "categorical", "mu_c": "~ 0"}),
    ("`A level` ~ x + (1 |i| h)", {"family": ht.families.Categorical([*"uvwxyz"], "w")}),
    ("spaced ~ 1", {"family": "categorical"}),
    ("count ~ x", {"family": ht.families.Poisson(link="sqrt")}),
    ("count ~ x + offset(z) + (1 | h/kind)", {"family": "poisson"}),
    ("cbind(count, n) ~ x", {"family": "binomial", "priors": {"beta[x]": "StudentT(3, 0, 1)", "mu": "Normal(0, 2)"}}),
]


@pytest.mark.parametrize(("text", "options"), CASES)
def test_the_source_runs_and_has_the_same_density(frame, text, options):
    model, data = ht.formula(text, frame, **options)
    code = model.source(data)
    names: dict[str, object] = {}
    exec(compile(code, "source", "exec"), names)
    own = names["FromFormula"]()
    assert list(own.latents) == list(model.latents)
    v = model.sample_prior(data, 3, torch.Generator().manual_seed(1))
    v = {name: v[name] for name in model.latents}
    torch.testing.assert_close(own.log_prob(v, data), model.log_prob(v, data), rtol=1e-12, atol=1e-9)
    assert max(map(len, code.splitlines())) < 400
