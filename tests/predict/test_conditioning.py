"""Effects of new groups given some of their rows, against normal conditionals and sums over a grid.

Note [Exact conditionals]
Given a draw of the population, the effects of a new group and its rows are jointly normal, so that the effects given
the rows are normal with a known mean and covariance, and the rows have a known density, which is the weight of that
draw. So the posterior draws make a mixture of normals, whose mean and sd `condition` must find, but for its own noise:
its weights are those of (effective) independent draws of the effects. A mean is off by 3.3 standard errors with
probability 1e-3.
"""

import re
import warnings
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from builders import from_prior
from scipy import stats
from torch.distributions import Gamma, Normal

import hiertorch as ht
from hiertorch.draws.pareto import smoothed
from hiertorch.errors import DataError, SamplingWarning
from hiertorch.models import CorrelatedEffects, Crossed, Nested, TimeVarying, VaryingIntercepts
from hiertorch.posterior import Posterior

pytestmark = pytest.mark.filterwarnings("ignore:(R-hat|Bulk|Tail|grouping).*:hiertorch.errors.SamplingWarning")
SHORT: dict[str, Any] = {"chains": 8, "warmup": 150, "draws": 250, "progress": False, "compile": False, "seed": 1}


def flat(x: Any) -> np.ndarray:
    return x.flatten(0, 1).double().numpy()


@cache
def pupils() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    school, room, x = rng.integers(12, size=240), rng.integers(3, size=240), rng.normal(size=240)
    level, slope, of_room = rng.normal(1, 1.2, 12), rng.normal(0.5, 0.5, 12), rng.normal(0, 0.7, (12, 3))
    y = level[school] + of_room[school, room] + slope[school] * x + rng.normal(0, 0.8, 240)
    rooms = [f"{s}/{r}" for s, r in zip(school, room, strict=True)]
    return pd.DataFrame({"school": [f"s{s}" for s in school], "class": rooms, "x": x, "score": y})


@cache
def fitted(kind: str, keep: tuple[str, ...] | None = None) -> Posterior:
    models = {
        "intercepts": lambda: VaryingIntercepts("school", ["x"], priors="tutorial"),
        "correlated": lambda: CorrelatedEffects("school", ["x"], priors="tutorial"),
        "nested": lambda: Nested(["school", "class"], ["x"], priors="tutorial"),
        "crossed": lambda: Crossed(["school", "class"], ["x"], priors="tutorial"),
    }
    plates = ["school", "class"] if kind in ("nested", "crossed") else ["school"]
    return ht.sample(models[kind](), ht.Data.from_frame(pupils(), "score", plates, ["x"]), keep=keep, **SHORT)


def rows(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns)


def mixture(
    y: np.ndarray, design: np.ndarray, shift: np.ndarray, mean: np.ndarray, spread: np.ndarray, sigma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of effects e given y = design e + shift + Normal(0, sigma): see Note [Exact conditionals].

    Args:
        y: `(rows,)`.
        design: `(rows, effects)`.
        shift: `(draws, rows)`.
        mean: of the effects, `(draws, effects)`.
        spread: their covariance, `(draws, effects, effects)`.
        sigma: `(draws,)`.
    """
    logs, means, squares = [], [], []
    for s in range(len(sigma)):
        covariance = design @ spread[s] @ design.T + sigma[s] ** 2 * np.eye(len(y))
        centre = design @ mean[s] + shift[s]
        logs.append(stats.multivariate_normal(centre, covariance).logpdf(y))
        gain = np.linalg.solve(covariance, design @ spread[s]).T
        means.append(mean[s] + gain @ (y - centre))
        squares.append(np.diag(spread[s] - gain @ design @ spread[s]) + means[-1] ** 2)
    weight = np.exp(np.array(logs) - max(logs))
    weight /= weight.sum()
    first, second = weight @ np.array(means), weight @ np.array(squares)
    return first, np.sqrt(second - first**2)


def assert_found(found: pd.DataFrame, ess: float, mean: np.ndarray, sd: np.ndarray) -> None:
    """Error rate 1e-3 a number: a normal sd is off by sd / sqrt(2 n)."""
    np.testing.assert_array_less(np.abs(found["mean"] - mean), 3.3 * sd / ess**0.5)
    np.testing.assert_array_less(np.abs(found["sd"] - sd), 3.3 * sd / (2 * ess) ** 0.5)


class Conjugate(ht.Model):
    """mu ~ Normal(0, 5), alpha_j ~ Normal(mu, 1.5), y ~ Normal(alpha_j, 0.8)."""

    mu = ht.Latent(Normal(0.0, 5.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, 1.5), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school], 0.8)


def test_closed_form() -> None:
    """All variances known: mu given the fitted schools, then alpha given its rows, are normal. Error rate 4e-3."""
    posterior = ht.sample(Conjugate(), ht.Data.from_frame(pupils(), "score", ["school"], []), **SHORT)
    groups = pupils().groupby("school").score
    precision = 1 / (1.5**2 + 0.8**2 / groups.count().to_numpy())
    variance = 1 / (precision.sum() + 1 / 25)
    mean = variance * (precision * groups.mean().to_numpy()).sum()
    y = np.array([2.5, 3.1, 1.9])
    found = posterior.condition(rows(school=["new"] * 3, score=y))
    after = 1 / (1 / (variance + 1.5**2) + 3 / 0.8**2)
    centre = after * (mean / (variance + 1.5**2) + y.sum() / 0.8**2)
    row = found.summary.loc["alpha[new]"]
    n = 1 / (1 / float(found.ess.iloc[0]) + 1 / 2000)  # the draws of mu are 2000
    assert_found(found.summary, n, np.array([centre]), np.array([after**0.5]))
    ends = stats.norm(centre, after**0.5).ppf([0.055, 0.945])
    error = 3.3 * (0.055 * 0.945 / n) ** 0.5 / stats.norm(centre, after**0.5).pdf(ends)  # of a quantile
    np.testing.assert_array_less(np.abs(row[["eti89_lb", "eti89_ub"]].to_numpy(float) - ends), error)
    assert found.pareto_k.iloc[0] < 0.5
    assert found.warnings == []


@pytest.mark.parametrize("keep", [None, ("mu_alpha", "sigma_alpha", "beta", "sigma_y")], ids=["stored", "not stored"])
@pytest.mark.parametrize("n", [1, pytest.param(3, marks=pytest.mark.slow), 8])
def test_intercepts(n: int, keep: tuple[str, ...] | None) -> None:
    """Mean and sd; error rate 2e-3 a case. What is resampled agrees with what is weighted."""
    posterior = fitted("intercepts", keep)
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=n), rng.normal(2.0, 0.8, n)
    found = posterior.condition(rows(school=["new"] * n, x=x, score=y))
    v = {name: flat(posterior[name]) for name in ("mu_alpha", "sigma_alpha", "sigma_y", "beta")}
    mean, sd = mixture(
        y,
        np.ones((n, 1)),
        v["beta"] * x,
        v["mu_alpha"][:, None],
        v["sigma_alpha"][:, None, None] ** 2,
        v["sigma_y"],
    )
    ess = float(found.ess.loc[("school", "new")])
    assert 100 < ess <= 40_000
    assert_found(found.summary, ess, mean, sd)
    drawn = found.effects["alpha"]
    assert drawn.shape == (8, 250, 1)
    assert flat(drawn).mean() == pytest.approx(found.summary["mean"].iloc[0], abs=3.3 * sd[0] / 2000**0.5)
    assert flat(drawn).std() == pytest.approx(found.summary["sd"].iloc[0], rel=3.3 / min(2000, ess) ** 0.5)
    assert found.pareto_k.iloc[0] < 0.7


def test_correlated_effects_inform_one_another() -> None:
    """Rows at x = 2 alone say something of both intercept and slope. Error rate 4e-3."""
    posterior = fitted("correlated")
    x, y = np.array([2.0, 2.0]), np.array([5.0, 5.5])
    found = posterior.condition(rows(school=["new"] * 2, x=x, score=y))
    mean = np.column_stack([flat(posterior["mu_alpha"]), flat(posterior["mu_beta"])[:, 0]])
    scale = np.column_stack([flat(posterior["sigma_alpha"]), flat(posterior["sigma_beta"])[:, 0]])
    rho = flat(posterior["rho"])[:, 0]
    correlation = np.stack([np.stack([rho**0, rho], -1), np.stack([rho, rho**0], -1)], -2)
    spread = scale[:, :, None] * correlation * scale[:, None, :]
    design = np.column_stack([np.ones(2), x])
    expected = mixture(y, design, np.zeros((len(rho), 2)), mean, spread, flat(posterior["sigma_y"]))
    assert list(found.summary.index) == ["effects[new, intercept]", "effects[new, x]"]
    assert_found(found.summary, float(found.ess.iloc[0]), *expected)


def test_a_new_school_with_its_classes() -> None:
    """Three effects at once: two classes and their school. A new class of a known school is by itself. Error rate
    8e-3.
    """
    posterior = fitted("nested")
    frame = pd.DataFrame(
        {
            "school": ["new", "s3", "new", "new", "s3"],
            "class": ["new/1", "s3/9", "new/2", "new/1", "s3/9"],
            "x": [0.0, 0.5, 1.0, -1.0, 0.0],
            "score": [2.0, -0.5, 3.5, 1.5, 0.2],
        }
    )
    found = posterior.condition(frame)
    v = {name: flat(posterior[name]) for name in ("mu", "sigma_school", "sigma_class", "sigma_y", "beta")}
    mean = np.repeat(v["mu"][:, None], 3, 1)
    a, c = v["sigma_school"][:, None, None] ** 2, v["sigma_class"][:, None, None] ** 2
    spread = a * np.ones((3, 3)) + c * np.diag([0.0, 1.0, 1.0])
    design = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    expected = mixture(np.array([2.0, 3.5, 1.5]), design, v["beta"] * [0.0, 1.0, -1.0], mean, spread, v["sigma_y"])
    names = ["alpha_school[new]", "alpha_class[new/1]", "alpha_class[new/2]"]
    assert_found(found.summary.loc[names], float(found.ess.loc[("school", "new")]), *expected)
    known = flat(posterior.group("alpha_school", "s3"))[:, None]
    expected = mixture(np.array([-0.5, 0.2]), np.ones((2, 1)), v["beta"] * [0.5, 0.0], known, c, v["sigma_y"])
    assert_found(found.summary.loc[["alpha_class[s3/9]"]], float(found.ess.loc[("class", "s3/9")]), *expected)
    assert found.labels["class"].tolist() == ["new/1", "new/2", "s3/9"]
    assert found.effects["alpha_class"].shape == (8, 250, 3)
    k = found.pareto_k
    assert k.loc[("class", "new/1")] == k.loc[("class", "new/2")] == k.loc[("school", "new")]
    assert k.loc[("class", "s3/9")] != k.loc[("school", "new")]


def test_groups_that_meet_through_others_are_conditioned_together() -> None:
    frame = pd.DataFrame({"school": ["a", "b", "b", "s1", "d"], "class": ["p", "p", "q", "q", "r"], "x": 0.0})
    found = fitted("crossed").condition(frame.assign(score=1.0))
    k = found.pareto_k
    together = {k.loc[key] for key in (("school", "a"), ("school", "b"), ("class", "p"), ("class", "q"))}
    assert len(together) == 1
    assert {k.loc[("school", "d")], k.loc[("class", "r")]}.isdisjoint(together)


def test_counts() -> None:
    """Poisson rows: posterior moments by a sum over a grid of alpha for every draw. Error rate 2e-3."""
    data = ht.Data(np.ones(20), groups={"school": np.repeat([1, 2], 10)})
    narrow = {"mu_alpha": Normal(0.5, 0.5), "sigma_alpha": Gamma(4.0, 8.0)}
    posterior = from_prior(VaryingIntercepts("school", family="poisson", priors=narrow), data)
    new = np.array([6, 4, 9])
    found = posterior.condition(rows(school=["new"] * 3, y=new))
    grid = np.linspace(-4, 6, 801)
    mu, sigma = flat(posterior["mu_alpha"])[:, None], flat(posterior["sigma_alpha"])[:, None]
    density = stats.norm(mu, sigma).pdf(grid) * stats.poisson(np.exp(grid)[:, None]).pmf(new).prod(1)
    density = density.sum(0) / density.sum()
    mean = density @ grid
    sd = (density @ (grid - mean) ** 2) ** 0.5
    assert_found(found.summary, float(found.ess.iloc[0]), np.array([mean]), np.array([sd]))


def test_further_rows() -> None:
    """A pupil of a school that was conditioned on: mean and sd given the other pupils; error rate 3e-3. Further rows
    alone, and of two schools at once, are as those of each.
    """
    posterior = fitted("intercepts")
    frame = rows(school=["a", "b", "a"], x=[0.0, 1.0, 0.5], score=[3.0, 0.0, 3.5])
    found = posterior.condition(frame)
    new = pd.DataFrame({"x": [1.0, 1.0, 0.0], "school": ["b", "a", "a"]}, index=["p", "q", "r"])
    mean = found.predict(new)
    pd.testing.assert_index_equal(mean.summary.index, new.index)
    y = flat(mean.draws)
    np.testing.assert_allclose(y[:, 2], flat(found.effects["alpha"])[:, 0], rtol=1e-12)  # x = 0
    beta = y[:, 1] - y[:, 2]
    assert set(np.round(beta, 9)) <= set(np.round(flat(posterior["beta"])[:, 0], 9))
    sigma = flat(posterior["sigma_y"])
    v = {name: flat(posterior[name]) for name in ("mu_alpha", "sigma_alpha", "beta")}
    own = frame[frame.school == "a"]
    centre, sd = mixture(
        own.score.to_numpy(),
        np.ones((2, 1)),
        v["beta"] * own.x.to_numpy(),
        v["mu_alpha"][:, None],
        v["sigma_alpha"][:, None, None] ** 2,
        sigma,
    )
    response = found.predict(new, "response").summary.loc["r"]
    total = float(np.hypot(sd[0], (sigma**2).mean() ** 0.5))  # sigma_y is known to within a few percent
    assert response["mean"] == pytest.approx(centre[0], abs=3.3 * total / 1500**0.5)
    assert response["sd"] == pytest.approx(total, rel=3.3 / 3000**0.5 + 0.02)
    assert torch.equal(found.predict(new).draws, mean.draws)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (rows(school=["a", "c"], x=0.0), "row 1 has none of the groups that were conditioned on"),
        (rows(school=["s1"], x=0.0), "row 0 has none of the groups that were conditioned on"),
        (rows(school=["a"], z=0.0), "the frame has no column 'x'"),
    ],
)
def test_further_rows_of_other_groups(frame: pd.DataFrame, message: str) -> None:
    found = fitted("intercepts").condition(rows(school=["a"], x=[0.0], score=[1.0]))
    with pytest.raises(DataError, match=re.escape(message)):
        found.predict(frame)


def test_further_rows_belong_to_the_draws_that_were_weighted() -> None:
    """mu, the effect of the known class and that of the new school make the mean of a further row together: more is
    known of it than of the new school's effect alone. Error rate 2e-3.
    """
    posterior = fitted("crossed")
    y = np.array([1.0, 2.0, 1.5])
    found = posterior.condition(rows(school=["new"] * 3, **{"class": ["1/0"] * 3}, x=0.0, score=y))
    predicted = found.predict(rows(school=["new"], **{"class": ["1/0"]}, x=0.0)).summary
    centre = flat(posterior["mu"]) + flat(posterior.group("alpha_class", "1/0"))
    spread, sigma = flat(posterior["sigma_school"])[:, None, None] ** 2, flat(posterior["sigma_y"])
    mean, sd = mixture(y, np.ones((3, 1)), np.zeros((len(sigma), 3)), centre[:, None], spread, sigma)
    assert_found(predicted, 1 / (1 / float(found.ess.iloc[0]) + 1 / 2000), mean, sd)
    assert sd[0] < 0.7 * flat(found.effects["alpha_school"]).std()


def test_further_rows_beside_other_known_groups() -> None:
    """Where effects are drawn again, those that the weights were made of are drawn for the same groups alone. Error
    rate 1e-3.
    """
    first = rows(school=["new"] * 3, **{"class": ["1/0"] * 3}, x=0.0, score=[1.0, 2.0, 1.5])
    same, other = (rows(school=["new"], **{"class": [room]}, x=0.0) for room in ("1/0", "2/0"))
    found = fitted("crossed").condition(first)
    less = fitted("crossed", ("mu", "sigma_school", "sigma_class", "beta", "sigma_y")).condition(first)
    one, two = (x.predict(same).summary.loc[0, "mean"] for x in (found, less))
    assert one == pytest.approx(two, abs=3.3 * found.predict(same).summary.loc[0, "sd"] * (2 / 1000) ** 0.5)
    assert np.isfinite(found.predict(other).summary).all(axis=None)
    with pytest.raises(DataError, match="the rows have other known groups than those that were conditioned on"):
        less.predict(other)


def test_further_rows_that_contradict_the_first() -> None:
    first = pd.DataFrame({"school": ["a", "b"], "class": ["a/1", "b/1"], "x": 0.0, "score": 1.0}, index=["p", "q"])
    found = fitted("nested").condition(first)
    for school, room, message in (
        ("a", "b/1", "row 'r' has new groups that did not meet in the rows that they were conditioned on"),
        ("s1", "b/1", "class 'b/1' has one school, but it is 'b' in row 'q' and 's1' in row 'r' of the frame"),
        ("a", "a/2", "new group 'a/2' was not among the rows that were conditioned on"),
    ):
        with pytest.raises(DataError, match=re.escape(message)):
            found.predict(pd.DataFrame({"school": [school], "class": [room], "x": 0.0}, index=["r"]))
    further = pd.DataFrame({"school": ["a"], "class": ["a/1"], "x": 0.0}, index=["r"])
    torch.testing.assert_close(found.predict(further).draws[..., 0], found.effects["alpha_class"][..., 0])


@pytest.mark.parametrize(("n", "score"), [(3, 12.0), (60, 20.0), (200, 1.0)])
def test_weights_that_cannot_be_trusted_are_reported(n: int, score: float) -> None:
    """Rows so far out, or so many, that few draws of the prior come near."""
    posterior = fitted("intercepts")
    frame = rows(school=["far"] * n + ["near"], x=0.0, score=[score] * n + [1.0])
    with pytest.warns(
        SamplingWarning, match=r"school 'far': Pareto k is (\d+\.\d\d|inf), above 0.7: too few draws carry"
    ):
        found = posterior.condition(frame)
    assert len(found.warnings) == 1
    assert found.pareto_k.loc[("school", "far")] > 0.7 > found.pareto_k.loc[("school", "near")]
    assert found.ess.loc[("school", "far")] < 20
    assert np.isfinite(found.summary).all(axis=None)


def test_smoothed_weights() -> None:
    """Weights 1 / x^a of uniform x are Pareto with k = a: found within 0.15 (Vehtari et al. 2024, figure 3)."""
    x = np.random.default_rng(0).uniform(size=40_000)
    for a in (0.2, 0.5, 0.9):
        weight, k = smoothed(-a * np.log(x))
        assert k == pytest.approx(a, abs=0.15)
        assert weight.sum() == pytest.approx(1.0)
        assert np.corrcoef(np.log(weight), np.log(x))[0, 1] == pytest.approx(-1.0, abs=0.01)
    weight, k = smoothed(np.full(500, -3.0))
    assert k == -np.inf
    np.testing.assert_allclose(weight, 1 / 500)
    weight, k = smoothed(np.append(np.full(499, -np.inf), -5000.0))
    assert k == np.inf and weight[-1] == 1.0
    assert smoothed(-800.0 * np.arange(500.0))[1] == np.inf


def test_seeds_and_draws() -> None:
    posterior = fitted("intercepts")
    frame = rows(school=["a"], x=[0.0], score=[2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, again, other = (posterior.condition(frame, seed=s, ci_prob=0.5) for s in (1, 1, 2))
    assert torch.equal(one.effects["alpha"], again.effects["alpha"])
    assert not torch.equal(one.effects["alpha"], other.effects["alpha"])
    assert list(one.summary) == ["mean", "sd", "eti50_lb", "eti50_ub"]
    few, many = (float(posterior.condition(frame, prior_draws=n).ess.iloc[0]) for n in (1, 10))
    assert few <= 2000 and many == pytest.approx(10 * few, rel=0.2)


def test_a_few_draws_are_too_few() -> None:
    posterior = ht.sample(Conjugate(), ht.Data.from_frame(pupils(), "score", ["school"], []), **{**SHORT, "draws": 4})
    with pytest.raises(
        DataError, match=re.escape("32 draws x prior_draws=2 are too few to weight: take prior_draws=4")
    ):
        posterior.condition(rows(school=["new"], score=[1.0]), prior_draws=2)


def test_paths_in_time() -> None:
    """The first level of a path given, the later ones follow the walk from there; error rate 1e-3 (see below)."""
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({"child": np.repeat(np.arange(10), 3), "year": np.tile([1.0, 2.0, 3.0], 10)})
    frame["y"] = rng.normal(size=30) + frame.child / 5
    posterior = ht.sample(
        TimeVarying("child", "year", priors="tutorial"), ht.Data.from_frame(frame, "y", ["child", "year"]), **SHORT
    )
    found = posterior.condition(rows(child=[99], year=[1.0], y=[4.0]))
    mean, start, walk = (flat(posterior[name]) for name in ("mu_alpha0", "sigma_alpha", "sigma_time"))
    spread = start[:, None, None] ** 2 * np.ones((3, 3))
    spread = spread + walk[:, None, None] ** 2 * np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 2.0]])
    expected = mixture(
        np.array([4.0]),
        np.array([[1.0, 0.0, 0.0]]),
        np.zeros((len(mean), 1)),
        np.repeat(mean[:, None], 3, 1),
        spread,
        flat(posterior["sigma_y"]),
    )
    assert list(found.summary.index) == ["alpha[99, 1.0]", "alpha[99, 2.0]", "alpha[99, 3.0]"]
    np.testing.assert_array_less(
        np.abs(found.summary["mean"] - expected[0]), 3.3 * expected[1] / float(found.ess.iloc[0]) ** 0.5
    )


def test_the_response_by_level() -> None:
    frame = pupils().assign(use=np.where(pupils().score > 1, "Y", "N"))
    data = ht.Data.from_frame(frame, "use=Y", ["school"], ["x"])
    posterior = ht.sample(VaryingIntercepts("school", ["x"], priors="tutorial"), data, **SHORT)
    yes, no = (posterior.condition(rows(school=["new"] * 6, x=0.0, use=[level] * 6)) for level in "YN")
    assert yes.summary["mean"].iloc[0] > flat(posterior["mu_alpha"]).mean() > no.summary["mean"].iloc[0]
    with pytest.raises(DataError, match="column 'use' has level 'maybe'"):
        posterior.condition(rows(school=["new"], x=0.0, use=["maybe"]))


def test_responses_outside_of_the_support() -> None:
    data = ht.Data((pupils().score > 1).astype(float), groups={"school": pupils().school}, x=pupils().x)
    model = VaryingIntercepts("school", ["x"], family="bernoulli", priors="tutorial")
    posterior = from_prior(model, data)
    with pytest.raises(DataError, match="the response of row 1 of school 'new' has no density in any draw"):
        posterior.condition(rows(school=["new"] * 2, x=0.0, y=[1.0, 2.0]))


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (
            rows(school=["s1", "a"], x=0.0, score=1.0),
            {},
            "row 0 has only groups that were fitted: condition is for new",
        ),
        (rows(school=["a"], x=0.0), {}, "the frame has no column 'score'"),
        (rows(school=["a"], x=0.0, score=[np.nan]), {}, "the response 'score': 1 value is NaN"),
        (rows(school=["a"], x=0.0, score=1.0), {"prior_draws": 0}, "prior_draws= is a whole number from 1; found 0."),
        (
            rows(school=["a"], x=0.0, score=1.0),
            {"prior_draws": 2.5},
            "prior_draws= is a whole number from 1; found 2.5.",
        ),
        (
            rows(school=["a"], x=0.0, score=1.0),
            {"ci_prob": 2.0},
            "ci_prob= is a probability between 0 and 1; found 2.0",
        ),
        (rows(school=["a"], x=0.0, score=1.0), {"seed": "x"}, "seed= is a whole number from 0 to 2^63 - 1; found 'x'."),
    ],
)
def test_refused(frame: pd.DataFrame, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        fitted("intercepts").condition(frame, **options)
