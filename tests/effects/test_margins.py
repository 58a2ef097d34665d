"""Predictions, comparisons and slopes against closed forms, SciPy's integrals, and plain loops over stored draws."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from builders import QUIET, Switches, from_prior, refused
from scipy import integrate, special, stats
from torch.distributions import Normal, Poisson, StudentT

import hiertorch as ht
from hiertorch.models.design import Design, Designed

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
SHORT = {**QUIET, "chains": 4, "draws": 60, "warmup": 60}


@cache
def pupils() -> pd.DataFrame:
    r = np.random.default_rng(3)
    g = np.repeat(np.arange(12), 15)
    x, z = r.normal(size=(2, len(g)))
    kind = pd.Categorical(np.array(["low", "mid", "top"])[r.integers(3, size=len(g))], ["none", "top", "mid", "low"])
    u = r.multivariate_normal([0, 0], [[1.0, 0.3], [0.3, 0.25]], 12)
    eta = 0.5 + 0.5 * x + (kind == "mid") + u[g, 0] + u[g, 1] * x
    return pd.DataFrame(
        {
            "y": eta + 0.7 * r.normal(size=len(g)),
            "yes": (r.random(len(g)) < special.expit(eta)).astype(int),
            "count": r.poisson(np.exp(0.3 * eta)),
            "x": x,
            "z": z,
            "kind": kind,
            "treated": r.integers(2, size=len(g)),
            "school": g + 100,
            "sort": np.array(["p", "q", "r", "s"])[g % 4],
        }
    )


@cache
def gaussian() -> ht.Posterior:
    return ht.fit("y ~ x * kind + (x | school)", pupils(), **SHORT)


@cache
def logit() -> ht.Posterior:
    return ht.fit("yes ~ x + treated + (1 | school)", pupils(), family="bernoulli", **SHORT)


@cache
def counts() -> ht.Posterior:
    return ht.fit("count ~ x + (x | school) + (1 | sort)", pupils(), family="poisson", **SHORT)


def flat(x: torch.Tensor) -> np.ndarray:
    return x.flatten(0, 1).double().numpy()


def at_rows(frame: pd.DataFrame) -> np.ndarray:
    """eta of `logit`, `(draws, rows)`, with the effects of known schools."""
    p = logit()
    beta, u = flat(p["beta"]), flat(p["effects_school"])[:, :, 0]
    fixed = flat(p["mu"])[:, None] + beta[:, :1] * frame.x.to_numpy() + beta[:, 1:] * frame.treated.to_numpy()
    return fixed + u[:, frame.school.to_numpy() - 100]


def test_slopes_of_normal_rows_are_coefficients():
    found = gaussian().slopes("x")
    beta, u = flat(gaussian()["beta"]), flat(gaussian()["effects_school"])[:, :, 1]
    frame = pupils()
    expected = beta[:, :1] + u[:, frame.school.to_numpy() - 100]
    for k, level in enumerate(["mid", "low"]):  # behind top, the first of those that occur
        expected = expected + (frame.kind == level).to_numpy() * beta[:, 3 + k : 4 + k]
    np.testing.assert_allclose(flat(found.draws), expected, atol=1e-8)
    assert found.summary.index.equals(frame.index) and (found.summary["term"] == "x").all()


def test_comparisons_of_categories_are_against_the_first():
    found = gaussian().comparisons("kind", by="school")
    assert [*found.summary["contrast"].unique()] == ["mid - top", "low - top"]
    beta, x = flat(gaussian()["beta"]), pupils().groupby("school").x.mean().to_numpy()
    expected = np.concatenate([beta[:, 1:2] + beta[:, 3:4] * x, beta[:, 2:3] + beta[:, 4:5] * x], 1)
    np.testing.assert_allclose(flat(found.draws), expected, atol=1e-9)
    assert [*found.summary["school"][:12]] == [*range(100, 112)]
    two = gaussian().comparisons({"kind": ("mid", "low")}, average=True)
    expected = (beta[:, 2] - beta[:, 1]) + (beta[:, 4] - beta[:, 3]) * pupils().x.mean()
    np.testing.assert_allclose(flat(two.draws)[:, 0], expected, atol=1e-9)


def test_average_slopes_of_logits():
    """mean_i p_i (1 - p_i) beta, and h^2 beta^3 / 24 of a central difference."""
    found = logit().slopes("x", average=True)
    p = special.expit(at_rows(pupils()))
    expected = (p * (1 - p)).mean(1) * flat(logit()["beta"])[:, 0]
    np.testing.assert_allclose(flat(found.draws)[:, 0], expected, atol=1e-7)
    row = found.summary.iloc[0]
    np.testing.assert_allclose([row["mean"], row["sd"]], [expected.mean(), expected.std(ddof=1)], rtol=1e-5)


@pytest.mark.parametrize(
    ("variables", "low", "high", "label"),
    [
        ("x", {}, {"x": lambda x: x + 1}, "+1"),
        ({"x": 0.5}, {}, {"x": lambda x: x + 0.5}, "+0.5"),
        ({"x": (-1, 2)}, {"x": lambda x: 0 * x - 1}, {"x": lambda x: 0 * x + 2}, "2 - -1"),
        ({"x": "sd"}, {"x": lambda x: 0 * x + x.mean() - x.std() / 2}, {"x": lambda x: 0 * x + x.mean() + x.std() / 2},
         "mean + sd/2 - (mean - sd/2)"),
        ("treated", {"treated": lambda x: 0 * x}, {"treated": lambda x: 0 * x + 1}, "1 - 0"),
    ],
)  # fmt: skip
def test_comparisons_of_numbers(variables, low, high, label):
    found, frame = logit().comparisons(variables), pupils()
    one, other = (frame.assign(**{name: change(frame[name]) for name, change in side.items()}) for side in (low, high))
    expected = special.expit(at_rows(other)) - special.expit(at_rows(one))
    np.testing.assert_allclose(flat(found.draws), expected, atol=1e-10)
    assert (found.summary["contrast"] == label).all()


def test_slopes_of_zeros_and_ones_are_comparisons():
    found = logit().slopes(["treated"])
    torch.testing.assert_close(found.draws, logit().comparisons("treated").draws)
    assert [*found.summary["contrast"].unique()] == ["1 - 0"]


def test_what_would_fill_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr("hiertorch.effects.margins.MOST", 10_000)
    with refused(ht.DataError, "180 estimates of 240 draws", "average=True", "draws=55"):
        logit().predictions()
    assert logit().predictions(draws=40).draws.shape[-1] == 180
    assert logit().slopes("x", average=True).draws.shape[-1] == 1


def test_all_columns_that_predict_and_averages_over_two_columns():
    found = logit().comparisons(by=["treated"])
    assert [*zip(found.summary["term"], found.summary["treated"], strict=True)] == [
        ("x", 0), ("x", 1), ("treated", 0), ("treated", 1)
    ]  # fmt: skip
    frame = pupils()[::-1]
    cells = logit().predictions(frame, by=["sort", "treated"])
    p = pd.DataFrame(special.expit(at_rows(frame)).T, index=frame.index)
    expected = p.groupby([frame.sort, frame.treated]).mean()
    assert [*zip(cells.summary["sort"], cells.summary["treated"], strict=True)] == [*expected.index]
    np.testing.assert_allclose(flat(cells.draws).T, expected, atol=1e-12)
    one_each = logit().predictions(frame.head(4).assign(row=[3, 2, 1, 0]), by="row")
    np.testing.assert_allclose(flat(one_each.draws), flat(logit().predictions(frame.head(4)).draws)[:, ::-1])


def test_groups_that_are_left_out_are_averaged_over():
    """int expit(eta + s t) dN(t), by SciPy."""
    rows = pd.DataFrame({"x": [0.0, 2.0, -3.0], "treated": [0, 1, 1]})
    found = flat(logit().predictions(rows).draws)
    beta, mu, s = flat(logit()["beta"]), flat(logit()["mu"]), flat(logit()["sigma_school"])[:, 0]
    fixed = mu[:, None] + beta @ rows.to_numpy().T
    for k in (0, 100, 239):
        for i in range(3):
            expected, _ = integrate.quad(
                lambda t, k=k, i=i: special.expit(fixed[k, i] + s[k] * t) * stats.norm.pdf(t), -12, 12, epsabs=1e-12
            )
            np.testing.assert_allclose(found[k, i], expected, atol=1e-6)
    zero = flat(logit().predictions(rows, new_groups="population").draws)
    np.testing.assert_allclose(zero, special.expit(fixed), atol=1e-12)
    assert np.abs(found - zero).max() > 1e-3


def test_one_new_group_is_drawn_in_each_draw():
    """Standardised effects are independent standard normals: Kolmogorov-Smirnov at an error rate of 1e-3."""
    rows = pd.DataFrame({"x": [0.0, 1.0], "treated": [0, 0]})
    found = special.logit(flat(logit().predictions(rows, new_groups="sample", seed=4).draws))
    beta, mu, s = flat(logit()["beta"]), flat(logit()["mu"]), flat(logit()["sigma_school"])[:, 0]
    np.testing.assert_allclose(found[:, 1] - found[:, 0], beta[:, 0], atol=1e-8)  # both rows are of one group
    assert stats.kstest((found[:, 0] - mu) / s, "norm").pvalue > 1e-3
    difference = logit().comparisons("x", rows.head(1), new_groups="sample", seed=4)
    np.testing.assert_allclose(flat(difference.draws)[:, 0], special.expit(found[:, 1]) - special.expit(found[:, 0]))


def test_a_log_link_gains_half_the_variance():
    """exp(eta + z' S z / 2), S of intercepts and slopes, where the sort is known and the school is not."""
    rows = pd.DataFrame({"x": [0.5, -1.0], "sort": ["q", "s"]})
    p = counts()
    found = flat(p.predictions(rows).draws)
    root = flat(p["sigma_school"])[:, :, None] * flat(p["L_school"])
    known = flat(p["effects_sort"])[:, [1, 3], 0]
    z = np.stack([np.ones(2), rows.x])
    variance = ((root.transpose(0, 2, 1) @ z) ** 2).sum(1)
    eta = flat(p["mu"])[:, None] + flat(p["beta"])[:, :1] * rows.x.to_numpy() + known
    np.testing.assert_allclose(found, np.exp(eta + variance / 2), rtol=1e-8)


def test_a_mean_that_is_curved_in_a_straight_predictor():
    """exp(eta + sigma_y^2 / 2 + sigma_g^2 / 2) of lognormal rows, whose link is that of their logarithms."""
    frame = pupils().assign(size=lambda f: np.exp(f.y))
    p = ht.fit("size ~ x + (1 | school)", frame, family="lognormal", **SHORT)
    eta = flat(p["mu"]) + 0.5 * flat(p["beta"])[:, 0]
    expected = np.exp(eta + (flat(p["sigma_y"]) ** 2 + flat(p["sigma_school"])[:, 0] ** 2) / 2)
    np.testing.assert_allclose(flat(p.predictions(pd.DataFrame({"x": [0.5]})).draws)[:, 0], expected, rtol=1e-8)


def test_predictors_of_other_parameters_are_read():
    posterior = ht.fit("y ~ x + (1 | school)", pupils(), sigma="~ z", **SHORT)
    found = posterior.slopes(average=True)
    assert [*found.summary["term"]] == ["x", "z"]
    np.testing.assert_allclose(flat(found.draws)[:, 0], flat(posterior["beta"])[:, 0], atol=1e-8)
    np.testing.assert_allclose(flat(found.draws)[:, 1], 0, atol=1e-8)
    new = posterior.predictions(pd.DataFrame({"x": [1.0], "z": [0.0]}))
    np.testing.assert_allclose(flat(new.draws)[:, 0], flat(posterior["mu"]) + flat(posterior["beta"])[:, 0])


def test_a_ready_class_is_asked_by_its_own_columns():
    data = ht.Data.from_frame(pupils(), "y", {"g": "school"}, ["x", "z"])
    posterior = ht.sample(ht.models.VaryingIntercepts("g", ["x", "z"]), data, **SHORT)
    found = posterior.slopes(average=True)
    np.testing.assert_allclose(flat(found.draws), flat(posterior["beta"]), atol=1e-8)
    by = posterior.predictions(by="school")
    alpha = flat(posterior["alpha"])
    means = pupils().groupby("school")[["x", "z"]].mean().to_numpy()
    np.testing.assert_allclose(flat(by.draws), alpha + flat(posterior["beta"]) @ means.T, atol=1e-9)


def test_what_explains_groups_is_varied_for_new_ones():
    """E[y] of a new group moves by gamma, its coefficient; those of fitted groups were fitted with their values."""
    frame = pupils().assign(u=np.linspace(-1, 1, 12)[pupils().school - 100])
    data = ht.Data.from_frame(frame, "y", ["school"], ["x", "u"])
    posterior = ht.sample(ht.models.VaryingIntercepts("school", ["x"], group_predictors=["u"]), data, **SHORT)
    with refused(ht.DataError, "'u' explains the effects of 'school'", "new groups"):
        posterior.slopes()
    new = posterior.slopes("u", frame.drop(columns="school").head(2))
    np.testing.assert_allclose(flat(new.draws), np.repeat(flat(posterior["gamma"]), 2, 1), atol=1e-8)
    assert [*posterior.slopes("x", average=True).summary["term"]] == ["x"]


def test_a_loaded_posterior_answers_alike(tmp_path):
    logit().save(tmp_path / "logit")
    again = ht.Posterior.load(tmp_path / "logit")
    torch.testing.assert_close(again.slopes().draws, logit().slopes().draws)


def test_draws_are_thinned_evenly():
    few = logit().predictions(pupils().head(2), draws=40)
    assert few.draws.shape == (4, 10, 2)
    torch.testing.assert_close(few.draws, logit().predictions(pupils().head(2)).draws[:, ::6])


@pytest.mark.parametrize(
    ("ask", "parts"),
    [
        (lambda p: p.slopes("w"), ("'w' is no column that predicts", "x")),
        (lambda p: p.comparisons({"kind": 2}), ("categories", "two of its levels")),
        (lambda p: p.comparisons({"kind": ("mid", "best")}), ("no level 'best'", "mid")),
        (lambda p: p.comparisons({"x": "iqr"}), ("'x' is compared by", "'iqr'")),
        (lambda p: p.slopes({"x": 2}), ("slopes take names",)),
        (lambda p: p.predictions(by="w"), ("by= names 'w'",)),
        (lambda p: p.predictions(mean=True), ("mean= is not known", "average")),
        (lambda p: p.predictions([1]), ("DataFrame",)),
        (lambda p: p.slopes("x", pd.DataFrame({"kind": ["mid"]})), ("no column 'x'",)),
        (lambda p: p.predictions(new_groups="zero"), ("new_groups",)),
    ],
)
def test_wrong_questions(ask, parts):
    with refused(ht.DataError, *parts):
        ask(gaussian())


def test_what_has_no_original_columns_says_so():
    data = ht.Data.from_frame(pupils(), "y", ["school"], {"mid": "kind=mid"})
    posterior = ht.sample(ht.models.VaryingIntercepts("school", ["mid"]), data, **SHORT)
    with refused(ht.DataError, "made of others", "ht.fit"):
        posterior.slopes()
    later = gaussian().update(pupils().head(3), seed=1)
    with refused(ht.DataError, "3 were added by an update", "frame="):
        later.slopes()
    assert later.slopes("x", pupils().head(2)).draws.shape[-1] == 2


def test_new_groups_of_known_ones_and_new_ones_in_new_ones():
    """Classes around their schools: a new class of a known school varies by its own sd, of a new one by both."""
    frame = pupils().assign(room=lambda f: f.school * 10 + np.arange(len(f)) % 2)
    data = ht.Data.from_frame(frame, "yes", ["school", "room"], ["x"])
    family = ht.families.Bernoulli()
    posterior = ht.sample(ht.models.Nested(["school", "room"], ["x"], family=family), data, **SHORT)
    school, room = (flat(posterior[name])[:, None] for name in ("sigma_school", "sigma_room"))
    rows = pd.DataFrame({"x": [0.7], "school": [104]})
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    beta, mu, level = flat(posterior["beta"])[:, :1], flat(posterior["mu"])[:, None], flat(posterior["alpha_school"])
    for frame_given, centre, sd in (
        (rows, level[:, 4:5], room),
        (rows[["x"]], mu, np.sqrt(school**2 + room**2)),
    ):
        expected = special.expit(centre + 0.7 * beta + sd * nodes) @ weights / weights.sum()
        found = flat(posterior.predictions(frame_given).draws)[:, 0]
        np.testing.assert_allclose(found, expected, atol=2e-5)


class Curved(Designed):
    """log rate = exp(alpha_j) + beta x_j, which is not linear in the effects."""

    beta = ht.Latent(Normal(0.0, 1.0))
    alpha = ht.Latent(lambda v: Normal(0.0 * v.beta, 0.5), plate="school")

    def linear_predictor(self, v, data):
        return v.alpha[:, data.school].exp() + v.beta * data.x

    def likelihood(self, v, data):
        return Poisson(self.linear_predictor(v, data).exp())

    def design(self):
        return Design(ht.families.Poisson(), predictors=("x",))


class Heavy(Curved):
    """Effects have a Student distribution."""

    alpha = ht.Latent(lambda v: StudentT(4.0, 0.0 * v.beta, 0.5), plate="school")


@pytest.mark.parametrize(
    ("model", "y", "parts"),
    [
        (Curved(), "count", ("one linear predictor alone", "'alpha'", "new_groups='sample'")),
        (Heavy(), "count", ("need normal effects", "'alpha'")),
        (Switches(), "yes", ("Switches tells none", "new_groups='sample'")),
    ],
)
def test_averages_that_are_not_known_are_refused(model, y, parts):
    data = ht.Data.from_frame(pupils(), y, ["school"], ["x"])
    posterior = from_prior(model, data)
    rows = pd.DataFrame({"x": [0.0, 1.0]})
    with refused(ht.ModelError, *parts):
        posterior.predictions(rows)
    drawn = posterior.predictions(rows, new_groups="sample").draws
    assert posterior.predictions(pupils()[["x", "school"]].head(3)).draws.shape[-1] == 3 and len(drawn.unique()) > 10
