"""Probabilities of ordered categories: their slopes and averages over groups, against SciPy."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from builders import QUIET, refused
from scipy import special

import hiertorch as ht

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
WORDS = ["low", "mid", "top"]


@cache
def posterior() -> ht.Posterior:
    r = np.random.default_rng(1)
    g = np.repeat(np.arange(8), 12)
    x = r.normal(size=len(g))
    level = np.digitize(x + r.normal(size=8)[g] + r.logistic(size=len(g)), [-1, 1])
    frame = pd.DataFrame({"y": pd.Categorical.from_codes(level, WORDS, ordered=True), "x": x, "g": g})
    return ht.fit("y ~ x + (1 | g)", frame, family="cumulative", **QUIET, chains=4, draws=30, warmup=60)


def probabilities(x: float, effect: np.ndarray) -> np.ndarray:
    """`(draws, effects, 3)`: differences of logistic functions of the thresholds."""
    v = {name: posterior().draws[name].flatten(0, 1)[:, 0].numpy() for name in ("cuts_y", "beta")}
    eta = v["beta"][:, :1] * x + effect
    below = special.expit(v["cuts_y"][:, None, :] - eta[:, :, None])
    padded = np.concatenate([np.zeros((*eta.shape, 1)), below, np.ones((*eta.shape, 1))], -1)
    return np.diff(padded, axis=-1)


def test_thresholds_are_coefficients():
    assert [*posterior().fixef().index] == ["low|mid", "mid|top", "x"]


def test_slopes_of_probabilities_sum_to_zero():
    found = posterior().slopes("x", kind="probability", by="g")
    assert [*found.summary["category"][:4]] == ["low", "mid", "top", "low"] and [*found.summary["g"][:4]] == [
        0,
        0,
        0,
        1,
    ]
    assert found.summary.index.equals(pd.RangeIndex(24))
    draws = found.draws.unflatten(-1, (8, 3))
    assert float(draws.sum(-1).abs().max()) < 1e-9
    frame, u = posterior().data.recipe.reader.frame, posterior()["effects_g"].flatten(0, 1).numpy()[:, :, 0]
    h = 1e-4 * np.ptp(frame.x)
    rows = [x for x, g in zip(frame.x, frame.g, strict=True) if g == 3]
    sides = [[probabilities(x + side * h / 2, u[:, 3:4])[:, 0] for x in rows] for side in (-1, 1)]
    expected = ((np.array(sides[1]) - np.array(sides[0])) / h).mean(0)
    np.testing.assert_allclose(draws[:, :, 3].flatten(0, 1), expected, atol=1e-8)


def test_new_groups_are_averaged_over():
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    sigma = posterior()["sigma_g"].flatten(0, 1).numpy()
    found = posterior().conditional_effects("x", kind="probability", values={"x": [-1.0, 0.5]})
    expected = [(probabilities(x, sigma * nodes) * weights[:, None]).sum(1) / weights.sum() for x in (-1.0, 0.5)]
    np.testing.assert_allclose(found.draws.flatten(0, 1), np.concatenate(expected, 1), atol=1e-6)
    assert found.effect == ("x", "category") and found.plot().axes[0].get_ylabel() == "P(y)"
    with refused(ht.DataError, "along one column"):
        posterior().conditional_effects("x:x", kind="probability")


def test_the_mean_is_that_of_codes():
    mean = posterior().predictions(average=True)
    each = posterior().predictions(average=True, kind="probability")
    np.testing.assert_allclose(mean.draws[..., 0], each.draws[..., 1] + 2 * each.draws[..., 2], atol=1e-12)


def test_other_responses_have_no_categories():
    r = np.random.default_rng(1)
    other = ht.fit("y ~ x", {"y": r.normal(size=30), "x": r.normal(size=30)}, **QUIET, chains=4, draws=20, warmup=40)
    with refused(ht.ModelError, "responses that are categories"):
        other.predictions(kind="probability")
