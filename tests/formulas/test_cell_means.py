"""Priors of coefficients that make the level of the rows, in place of an intercept."""

import warnings

import numpy as np
import pandas as pd
import pytest

import hiertorch as ht


@pytest.fixture(scope="module")
def frame():
    r = np.random.default_rng(5)
    kind, x = np.repeat([*"abc"], 20), r.normal(3.0, 0.5, 60)
    y = 40.0 + np.repeat([0.0, 1.0, -1.0], 20) + x + r.normal(size=60)
    return pd.DataFrame({"y": y, "x": x, "kind": kind, "g": np.tile([*"uvwxyz"], 10)})


def numbers(text, frame, latent="beta"):
    """Centre and sd of a latent's prior."""
    model, data = ht.formula(text, frame)
    prior = model.latents[latent].prior({}, data).base_dist
    return prior.loc.numpy(), prior.scale.numpy()


def test_means_of_cells_lie_where_an_intercept_does(frame):
    """Normal(m, 2.5 s / s_x |1, a|), a of the columns that are no part of the constant."""
    place, width = numbers("y ~ 0 + kind + x + (1 | g)", frame)
    m, s, a = frame.y.mean(), frame.y.std(), frame.x.mean() / frame.x.std()
    cell = 2.5 * s / (frame.kind == "a").std() * np.hypot(1, a)
    np.testing.assert_allclose(place, [m, m, m, 0.0], rtol=1e-9)
    np.testing.assert_allclose(width, [cell, cell, cell, 2.5 * s / frame.x.std()], rtol=1e-6)


def test_columns_that_make_no_constant_have_to_make_the_level(frame):
    place, width = numbers("y ~ 0 + x + (1 | g)", frame)
    expected = 2.5 * np.hypot(frame.y.mean(), frame.y.std()) / frame.x.std()
    np.testing.assert_allclose(place, [0.0])
    np.testing.assert_allclose(width, [expected], rtol=1e-6)


def test_cells_and_contrasts_are_one_model(frame):
    """Means and slopes of cells have the same posterior, and neither coding is warned of."""
    means = []
    for text in ("y ~ 0 + kind / I(x - 3) + (1 | g)", "y ~ kind * I(x - 3) + (1 | g)"):
        with warnings.catch_warnings():
            warnings.simplefilter("error", ht.SamplingWarning)
            posterior = ht.fit(text, frame, seed=1, progress=False, draws=400)
        means.append(posterior.fixef())
    cells, contrasts = means
    named = {"kind[b]": "Intercept", "kind[b]:I(x - 3)": "I(x - 3)"}  # to which the contrast adds
    for name, base in named.items():
        expected = contrasts.loc[base, "mean"] + contrasts.loc[name, "mean"]
        assert abs(cells.loc[name, "mean"] - expected) < 0.25 * cells.loc[name, "sd"]
