"""Formulas and ready structures that say one model have one density, to 1e-10, whatever their latents are.

`test_formula_models.py` has those with varying intercepts and slopes together. Not among them is `TimeVarying`, whose
walks in time no formula says.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import Gamma, HalfNormal, Normal

import hiertorch as ht
from hiertorch import models

R = np.random.default_rng(4)
ROOM = np.repeat(np.arange(12), 5)
FRAME = pd.DataFrame(
    {
        "y": R.normal(size=60),
        "x": R.normal(1.0, 2.0, 60),
        "z": R.uniform(1, 2, 60),
        "school": np.array([*"pqr"])[ROOM // 4],
        "room": [f"{k:02d}" for k in ROOM],  # in order of the schools
        "month": np.arange(60) % 7,
    }
)
LEVEL, SLOPE, SCALE, NOISE = Normal(1.0, 5.0), Normal(0.5, 2.0), HalfNormal(2.0), Gamma(2.0, 1.0)
ROWS = {"mu": LEVEL, "beta": SLOPE, "sigma_y": NOISE}
LATE, SMALL = torch.tensor(1.7, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)

Given = dict[str, torch.Tensor]


def of_schools(v: Given) -> Given:
    return {"mu": v["mu"], "beta": v["beta"], "sigma_y": v["sigma_y"]}


def nested(v: Given) -> Given:
    school = v["mu"] + v["effects_school"][..., 0]
    sigma = {"sigma_school": v["sigma_school"][..., 0], "sigma_room": v["sigma_school:room"][..., 0]}
    lies_in = torch.from_numpy(np.arange(12) // 4)
    return {
        **of_schools(v),
        **sigma,
        "alpha_school": school,
        "alpha_room": school[:, lies_in] + v["effects_school:room"][..., 0],
    }


def crossed(v: Given) -> Given:
    names = ("school", "month")
    more = {f"sigma_{one}": v[f"sigma_{one}"][..., 0] for one in names}
    return {**of_schools(v), **more, **{f"alpha_{one}": v[f"effects_{one}"][..., 0] for one in names}}


def slopes(v: Given) -> Given:
    return {
        "alpha": v["mu"], "mu_beta": v["beta"][..., :1], "beta_shared": v["beta"][..., 1:], "sigma_y": v["sigma_y"],
        "sigma_beta": v["sigma_school"], "beta": v["beta"][..., :1] + v["effects_school"],
    }  # fmt: skip


def apart(v: Given) -> Given:
    return {
        "alpha": v["beta"][:, 0, :3],
        "beta": v["beta"][:, 0, 3:, None],
        "sigma_y": v["sigma_y"],
    }


def around_zero(v: Given) -> Given:
    return {"mu": v["mu"], "tau": v["sigma_school"][..., 0], "theta": v["mu"] + v["effects_school"][..., 0]}


def with_rates(v: Given) -> Given:
    one = torch.ones_like(v["mu"])
    level = {"mu_alpha": v["mu"], "sigma_alpha": v["sigma_school"][..., 0]}
    rates = {"lambda_alpha": LATE * one, "lambda_y": SMALL * one}
    return {
        **level,
        **rates,
        "beta": v["beta"],
        "sigma_y": v["sigma_y"],
        "alpha": v["mu"] + v["effects_school"][..., 0],
    }


CASES: dict[str, tuple[str, dict[str, Any], ht.Model, list[str], Callable[[Given], Given]]] = {
    "complete pooling": (
        "y ~ x + z", ROWS,
        models.CompletePooling(["x", "z"], priors={"alpha": LEVEL, "beta": SLOPE, "sigma_y": NOISE}),
        [], lambda v: {"alpha": v["mu"], "beta": v["beta"], "sigma_y": v["sigma_y"]},
    ),
    "no pooling": (
        "y ~ 0 + school + school:x", {"beta": SLOPE, "sigma_y": NOISE},
        models.NoPooling("school", ["x"], priors={"alpha": SLOPE, "beta": SLOPE, "sigma_y": NOISE}),
        ["school"], apart,
    ),
    "varying slopes": (
        "y ~ x + z + (0 + x | school)", {**ROWS, "sigma_school": SCALE},
        models.VaryingSlopes(
            "school", ["x", "z"], varying=["x"],
            priors={"alpha": LEVEL, "mu_beta": SLOPE, "beta_shared": SLOPE, "sigma_beta": SCALE, "sigma_y": NOISE},
        ),
        ["school"], slopes,
    ),
    "hierarchical priors": (
        "y ~ x + (1 | school)", {**ROWS, "sigma_school": Gamma(2.0, LATE), "sigma_y": Gamma(2.0, SMALL)},
        models.HierarchicalPriors("school", ["x"], priors={"mu_alpha": LEVEL, "beta": SLOPE}),
        ["school"], with_rates,
    ),
    "nested": (
        "y ~ x + (1 | school/room)", {**ROWS, "sigma_school": SCALE, "sigma_school:room": SCALE},
        models.Nested(["school", "room"], ["x"], priors={**ROWS, "sigma_school": SCALE, "sigma_room": SCALE}),
        ["school", "room"], nested,
    ),
    "crossed": (
        "y ~ x + (1 | school) + (1 | month)", {**ROWS, "sigma_school": SCALE, "sigma_month": SCALE},
        models.Crossed(["school", "month"], ["x"], priors={**ROWS, "sigma_school": SCALE, "sigma_month": SCALE}),
        ["school", "month"], crossed,
    ),
    "eight schools": (
        "y | se(z) ~ 1 + (1 | school)", {"mu": Normal(0.0, 10.0), "sigma_school": Gamma(1.0, 0.1)},
        models.EightSchools("school", "z"), ["school"], around_zero,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_model_has_one_density(name: str) -> None:
    text, priors, ready, groups, values = CASES[name]
    model, data = ht.formula(text, FRAME, priors=priors)
    columns = [one for one in ("x", "z") if one in text]
    other = ht.Data.from_frame(FRAME, "y", groups, columns)
    v = dict(model.sample_prior(data, 3, torch.Generator().manual_seed(1)))
    w = values(v)
    assert set(w) == set(ready.latents)
    expected = ready.log_prob(w, other)
    if name == "hierarchical priors":
        of = ready.values(w)
        expected = expected - sum(ready.log_prior_term(one, of, other).sum(-1) for one in ("lambda_alpha", "lambda_y"))
    torch.testing.assert_close(model.log_prob(v, data), expected, rtol=1e-12, atol=1e-10)
