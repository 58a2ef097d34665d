"""Means along columns against plain loops over stored draws, and their figures."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from builders import QUIET, refused
from scipy import special

import hiertorch as ht

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
SHORT = {**QUIET, "chains": 4, "draws": 30, "warmup": 60}


@cache
def posterior() -> ht.Posterior:
    r = np.random.default_rng(5)
    g = np.repeat(np.arange(10), 12)
    x, z = r.normal(size=(2, len(g)))
    kind = np.array(["b", "a", "c"])[r.integers(3, size=len(g))]
    n = r.integers(5, 10, len(g))
    u = r.normal(size=10)
    done = r.binomial(n, special.expit(0.5 * x + u[g]))
    frame = pd.DataFrame({"done": done, "n": n, "x": x, "z": z, "kind": kind, "g": g})
    return ht.fit("done | trials(n) ~ x * kind + z + (1 | g)", frame, family="binomial", **SHORT)


def eta(x: float, z: float, kind: str) -> np.ndarray:
    """`(draws,)`, without effects of groups."""
    mu, beta = (posterior()[name].flatten(0, 1).numpy() for name in ("mu", "beta"))
    b = dict(zip(posterior().event_labels["beta"][0], beta.T, strict=True))
    slope = b["x"] if kind == "a" else b["x"] + b[f"x:kind[{kind}]"]
    return mu + slope * x + b["z"] * z + (0 if kind == "a" else b[f"kind[{kind}]"])


def test_an_interaction_with_others_at_their_mean():
    found = posterior().conditional_effects("x:kind", new_groups="population", resolution=7)
    frame = posterior().data.recipe.reader.frame
    grid = np.linspace(frame.x.min(), frame.x.max(), 7)
    assert [*found.summary["kind"]] == [kind for kind in "abc" for _ in grid]
    np.testing.assert_allclose(found.summary["x"], np.tile(grid, 3))
    trials = round(frame.n.mean())
    expected = [trials * special.expit(eta(x, frame.z.mean(), kind)) for kind in "abc" for x in grid]
    np.testing.assert_allclose(found.draws.flatten(0, 1).T, expected, atol=1e-10)
    np.testing.assert_allclose(found.summary["mean"], np.mean(expected, 1))
    assert found.others == {"z": frame.z.mean()} and found.response == "done"


def test_groups_are_averaged_over():
    found = posterior().conditional_effects("x", values={"x": [-1, 2]})
    frame = posterior().data.recipe.reader.frame
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    sigma = posterior()["sigma_g"].flatten(0, 1).numpy()
    expected = [
        round(frame.n.mean())
        * (special.expit(eta(x, frame.z.mean(), "a")[:, None] + sigma * nodes) @ weights / weights.sum())
        for x in (-1, 2)
    ]
    np.testing.assert_allclose(found.draws.flatten(0, 1).T, expected, atol=1e-5)


@pytest.mark.parametrize("effect", ["x", "kind", "x:kind", "kind:x"])
def test_figures_show_the_summary(effect):
    found = posterior().conditional_effects(effect, resolution=20)
    (axes,) = found.plot().axes
    assert axes.get_xlabel() == effect.split(":")[0] and axes.get_ylabel() == "E[done]"
    second = effect.split(":")[1:]
    drawn = [line for line in axes.get_lines() if len(line.get_ydata()) > 1 and line.get_marker() in ("o", "None")]
    heights = np.concatenate([line.get_ydata() for line in drawn])
    np.testing.assert_allclose(heights[: len(found.summary)], found.summary["mean"])
    if second:
        assert axes.get_legend().get_title().get_text() == second[0]
        assert len(axes.get_legend().get_texts()) == 3


@pytest.mark.parametrize(
    ("ask", "parts"),
    [
        (lambda p: p.conditional_effects("w"), ("'w' is no column that predicts",)),
        (lambda p: p.conditional_effects("x:z:kind"), ("one column or of two",)),
        (lambda p: p.conditional_effects("x:x"), ("one column or of two",)),
        (lambda p: p.conditional_effects("g"), ("'g' is no column that predicts",)),
        (lambda p: p.conditional_effects("x", by="kind"), ("by= and average=",)),
        (lambda p: p.conditional_effects("x", values={"z": [1]}), ("values= names 'z'",)),
        (lambda p: p.conditional_effects("kind", values={"kind": ["d"]}), ("no level 'd'",)),
    ],
)
def test_wrong_effects(ask, parts):
    with refused(ht.DataError, *parts):
        ask(posterior())


def test_a_column_of_few_numbers_has_points():
    frame = pd.DataFrame(
        {"y": torch.randn(60, generator=torch.Generator().manual_seed(1)).tolist(), "d": [0, 1, 4] * 20}
    )
    found = ht.fit("y ~ d", frame, **SHORT).conditional_effects("d")
    assert [*found.summary["d"]] == [0.0, 1.0, 4.0]
    assert [tick.get_text() for tick in found.plot().axes[0].get_xticklabels()] == ["0", "1", "4"]


def test_a_notebook_shows_its_figure_with_and_without_pyplot():
    figure = posterior().conditional_effects("x", resolution=3).plot()
    assert figure._repr_png_().startswith(b"\x89PNG")
