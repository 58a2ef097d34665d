"""Predictions of known and new groups, against what the stored draws and SciPy say.

Note [Standardised predictions]
Given the stored draw s of the population, the effects of a new group are normal with known mean and sd, and are drawn
independently for each draw. So standardised predictions are independent standard normals whatever the sampler did;
their distribution is tested by Kolmogorov-Smirnov and by the chi-square of their sum of squares together, their
independence by correlations, each at an error rate of 1e-3.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from builders import from_prior
from scipy import stats
from torch.distributions import Gamma, Normal

import hiertorch as ht
from hiertorch.errors import DataError, ModelError
from hiertorch.models import (
    CompletePooling,
    CorrelatedEffects,
    Crossed,
    Nested,
    NoPooling,
    TimeVarying,
    VaryingIntercepts,
)
from hiertorch.posterior import Posterior
from hiertorch.predict import scene as setting

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
Sample = Callable[..., Posterior]
ALPHA = 1e-3
SHORT: dict[str, Any] = {"chains": 8, "warmup": 150, "draws": 250, "progress": False, "compile": False, "seed": 1}
QUICK = {**SHORT, "warmup": 40, "draws": 100, "thin": 1}  # enough where draws need not have converged
FEWER = {**QUICK, "warmup": 10, "draws": 50}
# On the scale of a logit or a log rate.
NARROW = {"mu_alpha": Normal(0.0, 0.5), "sigma_alpha": Gamma(4.0, 8.0), "beta": Normal(0.0, 2.0)}
SECTOR = {"Abbey": 1.0, "Beacon": 0.0, "Mill": 1.0, "Quay": 0.0, "Zoo": 1.0}


def flat(x: Any) -> np.ndarray:
    """All draws in one row, `(draws, ...)`."""
    return x.flatten(0, 1).double().numpy()


def p_normal(z: np.ndarray) -> float:
    """Of standard normals; see Note [Standardised predictions]."""
    below = stats.chi2(len(z)).cdf((z**2).sum())
    return 2 * min(stats.kstest(z, "norm").pvalue, 2 * min(below, 1 - below))


def p_unrelated(a: np.ndarray, b: np.ndarray) -> float:
    return stats.pearsonr(a, b).pvalue


def pupils(seed: int = 0, rows: int = 120) -> pd.DataFrame:
    """Rows in schools, of a sector, in classes within schools; an index of its own."""
    rng = np.random.default_rng(seed)
    schools = np.array(list(SECTOR))
    school = np.append(np.arange(5), rng.integers(5, size=rows - 5))
    room = np.where(np.arange(rows) < 5, 0, rng.integers(3, size=rows))
    frame = pd.DataFrame(
        {
            "school": schools[school],
            "class": [f"{schools[s]}/{r}" for s, r in zip(school, room, strict=True)],
            "sector": [SECTOR[schools[s]] for s in school],
            "x": rng.normal(size=rows),
            "z": rng.normal(size=rows),
        },
        index=[f"pupil {i}" for i in range(rows)],
    )
    level = 1.0 + frame.school.map(dict(zip(schools, rng.normal(0, 1.5, 5), strict=True)))
    level += frame["class"].map({c: rng.normal(0, 0.7) for c in sorted(frame["class"].unique())})
    frame["score"] = level + 0.5 * frame.x + rng.normal(0, 0.8, rows)
    return frame


def of_schools(predictors: tuple[str, ...] = ("x",), **options: Any) -> ht.Data:
    return ht.Data.from_frame(pupils(), "score", ["school"], list(predictors), **options)


@cache
def fitted(collapse: bool = True, keep: tuple[str, ...] | None = None, dtype: Any = torch.float64) -> Posterior:
    model = VaryingIntercepts("school", ["x"], priors="tutorial")
    return ht.sample(model, of_schools(), collapse=collapse, keep=keep, dtype=dtype, **(SHORT if collapse else QUICK))


def new_rows(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns)


def centre_of(posterior: Posterior, x: float) -> np.ndarray:
    return flat(posterior["mu_alpha"]) + flat(posterior["beta"])[:, 0] * x


# One grouping


@pytest.mark.parametrize("collapse", [True, False])
def test_known_groups_have_their_effects(collapse: bool) -> None:
    posterior = fitted(collapse=collapse)
    found = posterior.predict(new_rows(school=["Zoo", "Abbey", "Zoo"], x=[0.3, -1.0, 2.0]))
    alpha, beta = posterior["alpha"], posterior["beta"]
    expected = torch.stack([alpha[:, :, 4], alpha[:, :, 0], alpha[:, :, 4]], -1) + beta * beta.new_tensor(
        [0.3, -1.0, 2.0]
    )
    torch.testing.assert_close(found.draws, expected, rtol=1e-14, atol=1e-14)
    assert found.new == {}


@pytest.mark.parametrize(
    "case",
    [{}, {"collapse": False}, {"keep": ("mu_alpha", "sigma_alpha", "beta", "sigma_y")}, {"dtype": torch.float32}],
    ids=["collapsed", "ordinary", "not stored", "float32"],
)
def test_new_groups_are_drawn_from_the_population(case: dict[str, Any]) -> None:
    """Error rate 4e-3 a case."""
    posterior = fitted(**case)
    frame = new_rows(school=["north", "Mill", "south", "north"], x=[0.5, 0.0, 0.5, 1.5])
    found = posterior.predict(frame)
    assert found.new["school"].tolist() == ["north", "south"]
    assert found.draws.dtype == posterior["mu_alpha"].dtype
    y, sigma = flat(found.draws), flat(posterior["sigma_alpha"])
    north, south = [(y[:, i] - centre_of(posterior, 0.5)) / sigma for i in (0, 2)]
    assert min(p_normal(north), p_normal(south)) > ALPHA
    assert p_unrelated(north, south) > ALPHA
    assert (north != south).all()
    np.testing.assert_allclose(y[:, 3] - y[:, 0], flat(posterior["beta"])[:, 0], rtol=1e-4, atol=1e-5)  # one effect
    again = flat(posterior.predict(frame, kind="response").draws)  # of the same seed: the same effects
    assert p_normal((again[:, 0] - y[:, 0]) / flat(fitted(**case)["sigma_y"])) > ALPHA
    assert p_unrelated(again[:, 0] - y[:, 0], again[:, 3] - y[:, 3]) > ALPHA


def test_wrong_draws_are_noticed() -> None:
    """The negative control of Note [Standardised predictions]."""
    posterior = fitted()
    y = flat(posterior.predict(new_rows(school=["north"], x=[0.5])).draws)[:, 0]
    z = (y - centre_of(posterior, 0.5)) / flat(posterior["sigma_alpha"])
    for wrong in (1.15 * z, z + 0.2, np.round(z)):
        assert p_normal(wrong) < ALPHA
    assert p_unrelated(z, z + np.random.default_rng(0).normal(0, 5, len(z))) < 1e-4


class Conjugate(ht.Model):
    """mu ~ Normal(0, 5), alpha_j ~ Normal(mu, 1.5), y ~ Normal(alpha_j, 0.8)."""

    mu = ht.Latent(Normal(0.0, 5.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, 1.5), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school], 0.8)


def test_a_new_group_by_closed_form() -> None:
    """Means of schools are Normal(mu, 1.5^2 + 0.8^2 / n_j), so mu is normal given them, and so is a new pupil. Error
    rate 4e-3.
    """
    posterior = ht.sample(Conjugate(), of_schools(()), **SHORT)
    groups = pupils().groupby("school").score
    precision = 1 / (1.5**2 + 0.8**2 / groups.count().to_numpy())
    variance = 1 / (precision.sum() + 1 / 25)
    mean = variance * (precision * groups.mean().to_numpy()).sum()
    frame = new_rows(school=["north", "Zoo"])
    for kind, more in (("mean", 0.0), ("response", 0.8**2)):
        found = posterior.predict(frame, kind=kind)
        sd = (variance + 1.5**2 + more) ** 0.5
        assert stats.kstest(flat(found.draws)[:, 0], stats.norm(mean, sd).cdf).pvalue > ALPHA
        row = found.summary.loc[0]
        assert row["mean"] == pytest.approx(mean, abs=3.3 * sd / 2000**0.5)  # p = 1e-3, two-sided
        assert row["sd"] == pytest.approx(sd, rel=3.3 / 4000**0.5)
        assert row["sd"] > 1.5 * found.summary.loc[1, "sd"]  # than of a school that is known


def test_total_variance() -> None:
    """Var[y] = Var[mu + beta x] + E[sigma_alpha^2] + E[sigma_y^2] within Monte Carlo error: 3.3 standard errors."""
    posterior = fitted()
    y = flat(posterior.predict(new_rows(school=["north"], x=[2.0]), kind="response").draws)[:, 0]
    centre = centre_of(posterior, 2.0)
    variance = flat(posterior["sigma_alpha"]) ** 2 + flat(posterior["sigma_y"]) ** 2
    error = np.std((y - centre) ** 2) / len(y) ** 0.5
    assert np.mean((y - centre) ** 2) == pytest.approx(variance.mean(), abs=3.3 * error)
    assert y.mean() == pytest.approx(centre.mean(), abs=3.3 * (variance.mean() / len(y)) ** 0.5)


def test_population_sets_new_groups_to_the_middle() -> None:
    posterior = fitted()
    found = posterior.predict(new_rows(school=["north", "Zoo"], x=[0.5, 0.5]), new_groups="population")
    np.testing.assert_allclose(flat(found.draws)[:, 0], centre_of(posterior, 0.5), rtol=1e-13)
    sampled = posterior.predict(new_rows(school=["north", "Zoo"], x=[0.5, 0.5]))
    torch.testing.assert_close(found.draws[..., 1], sampled.draws[..., 1])
    assert sampled.summary["sd"][0] > 1.5 * found.summary["sd"][0]


def test_summary_has_the_index_of_the_frame() -> None:
    posterior = fitted()
    frame = pupils().sample(7, random_state=1).iloc[[0, 1, 2, 3, 4, 5, 6, 0]]  # one row twice
    found = posterior.predict(frame, ci_prob=0.5)
    pd.testing.assert_index_equal(found.summary.index, frame.index)
    assert list(found.summary) == ["mean", "sd", "eti50_lb", "eti50_ub"]
    y = flat(found.draws)
    alpha, beta = flat(posterior["alpha"]), flat(posterior["beta"])
    for i, (school, x) in enumerate(zip(frame.school, frame.x, strict=True)):
        own = alpha[:, list(SECTOR).index(school)] + beta[:, 0] * x
        np.testing.assert_allclose(y[:, i], own, rtol=1e-12)
        expected = [own.mean(), own.std(ddof=1), *np.quantile(own, [0.25, 0.75])]
        np.testing.assert_allclose(found.summary.iloc[i], expected, rtol=1e-10)


def test_seeds() -> None:
    posterior, frame = fitted(), new_rows(school=["north"], x=[0.0])
    first = posterior.predict(frame).draws
    assert torch.equal(first, posterior.predict(frame).draws)
    assert torch.equal(first, posterior.predict(frame, seed=posterior.run["seed"]).draws)
    assert not torch.equal(first, posterior.predict(frame, seed=2).draws)
    before = torch.get_rng_state()
    posterior.predict(frame, kind="response")
    assert torch.equal(before, torch.get_rng_state())


def test_few_draws_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior, frame = fitted(), new_rows(school=["north", "Zoo", "north"], x=[0.5, 0.5, 0.5])
    whole = posterior.predict(frame).draws
    monkeypatch.setattr(setting, "NUMBERS", 300)
    parts = posterior.predict(frame).draws
    assert torch.equal(parts[..., 1], whole[..., 1])
    assert torch.equal(parts[..., 0], parts[..., 2])
    z = (flat(parts)[:, 0] - centre_of(posterior, 0.5)) / flat(posterior["sigma_alpha"])
    assert p_normal(z) > ALPHA
    assert len(np.unique(z)) == len(z)


# Other structures


def test_effects_of_a_new_group_are_correlated() -> None:
    """Intercept and slope whitened by the root of their covariance are independent. Error rate 3e-3."""
    rng = np.random.default_rng(2)
    effects = rng.multivariate_normal([1.0, 0.5], [[1.0, 0.8], [0.8, 1.0]], 25)
    group, x = np.repeat(np.arange(25), 8), rng.normal(size=200)
    y = effects[group, 0] + effects[group, 1] * x + rng.normal(0, 0.3, 200)
    data = ht.Data(y, groups={"school": group}, x=x)
    posterior = ht.sample(CorrelatedEffects("school", ["x"], priors="tutorial"), data, **SHORT)
    drawn = flat(posterior.predict(new_rows(school=[99, 99], x=[0.0, 1.0])).draws)
    mean = np.column_stack([flat(posterior["mu_alpha"]), flat(posterior["mu_beta"])[:, 0]])
    scale = np.column_stack([flat(posterior["sigma_alpha"]), flat(posterior["sigma_beta"])[:, 0]])
    raw = (np.column_stack([drawn[:, 0], drawn[:, 1] - drawn[:, 0]]) - mean) / scale
    rho = flat(posterior["rho"])[:, 0]
    assert rho.mean() > 0.5
    white = (raw[:, 1] - rho * raw[:, 0]) / np.sqrt(1 - rho**2)
    assert min(p_normal(raw[:, 0]), p_normal(white)) > ALPHA
    assert p_unrelated(raw[:, 0], white) > ALPHA
    assert np.corrcoef(raw.T)[0, 1] == pytest.approx(rho.mean(), abs=0.05)


@cache
def nested(keep: tuple[str, ...] | None = None, close: bool = False) -> Posterior:
    data = ht.Data.from_frame(pupils(), "score", ["school", "class"], ["x"])
    priors = {"sigma_class": Gamma(20.0, 200.0), "sigma_y": Gamma(20.0, 2.0)} if close else "tutorial"
    return ht.sample(Nested(["school", "class"], ["x"], priors=priors), data, keep=keep, **SHORT)


def test_classes_within_schools() -> None:
    """A new class lies around its school's effect, that of a new school around mu. Error rate 6e-3."""
    posterior = nested()
    frame = new_rows(
        school=["Zoo", "Zoo", "north", "north", "Mill"],
        **{"class": ["Zoo/9", "Zoo/8", "north/1", "north/2", "Mill/1"]},
        x=0.0,
    )
    found = posterior.predict(frame)
    assert {plate: labels.tolist() for plate, labels in found.new.items()} == {
        "school": ["north"],
        "class": ["Zoo/9", "Zoo/8", "north/1", "north/2"],
    }
    y = flat(found.draws)
    mu, of_school, of_class = [flat(posterior[name]) for name in ("mu", "sigma_school", "sigma_class")]
    zoo = flat(posterior.group("alpha_school", "Zoo"))
    one, other = (y[:, 0] - zoo) / of_class, (y[:, 1] - zoo) / of_class
    assert min(p_normal(one), p_normal(other), p_unrelated(one, other)) > ALPHA
    first = (y[:, 2] - mu) / np.hypot(of_school, of_class)
    apart = (y[:, 2] - y[:, 3]) / (2**0.5 * of_class)  # they share a school
    between = (y[:, 2] + y[:, 3] - 2 * mu) / np.sqrt(4 * of_school**2 + 2 * of_class**2)
    assert min(p_normal(first), p_normal(apart), p_normal(between)) > ALPHA
    np.testing.assert_allclose(y[:, 4], flat(posterior.group("alpha_class", "Mill/1")), rtol=1e-13)


def test_the_middle_of_classes() -> None:
    posterior = nested()
    frame = new_rows(school=["Zoo", "north"], **{"class": ["Zoo/9", "north/1"]}, x=0.0)
    y = posterior.predict(frame, new_groups="population").draws
    torch.testing.assert_close(y[..., 0], posterior.group("alpha_school", "Zoo"))
    torch.testing.assert_close(y[..., 1], posterior["mu"])


@pytest.mark.parametrize(
    ("school", "room", "message"),
    [
        (
            "Mill",
            "Zoo/1",
            "class 'Zoo/1' has one school, but it is 'Zoo' in the data that were fitted and 'Mill' in row",
        ),
        ("north", "Zoo/1", "it is 'Zoo' in the data that were fitted and 'north' in row 'b' of the frame: correct the"),
        ("Mill", "new", "class 'new' has one school, but it is 'Zoo' in row 'a' and 'Mill' in row 'b' of the frame"),
    ],
)
def test_classes_stay_in_their_school(school: str, room: str, message: str) -> None:
    frame = pd.DataFrame({"school": ["Zoo", school], "class": ["new", room], "x": 0.0}, index=["a", "b"])
    with pytest.raises(DataError, match=re.escape(message)):
        nested().predict(frame)


@pytest.mark.parametrize("keep", [("mu", "sigma_school", "sigma_class", "beta", "sigma_y"), ("mu", "alpha_school")])
def test_effects_that_were_not_stored(keep: tuple[str, ...]) -> None:
    """The distribution of known classes, and of new ones in known schools, is that of stored effects; error rate 4e-3
    a case (every second draw: successive ones are hardly related). Priors have it that the classes of a school differ
    little, and that rows say little of them.
    """
    frame = new_rows(school=["Zoo", "Zoo", "Abbey"], **{"class": ["Zoo/1", "Zoo/9", "Abbey/0"]}, x=[0.0, 0.0, 1.0])
    posterior = nested(keep, close=True)
    assert "alpha_class" not in posterior.draws
    one, other = (flat(p.predict(frame).draws[:, ::2]) for p in (nested(close=True), posterior))
    for i in range(3):
        assert stats.ks_2samp(one[:, i], other[:, i]).pvalue > ALPHA
    gap = [x[:, 0] - x[:, 1] for x in (one, other)]  # a class and a new one beside it belong to one school
    assert stats.ks_2samp(*gap).pvalue > ALPHA


def test_crossed_groupings() -> None:
    """New students of known lecturers and the other way round. Error rate 4e-3."""
    rng = np.random.default_rng(3)
    student, lecturer = rng.integers(12, size=150), rng.integers(7, size=150)
    y = 3 + rng.normal(0, 1, 12)[student] + rng.normal(0, 0.6, 7)[lecturer] + rng.normal(0, 0.5, 150)
    data = ht.Data(y, groups={"student": student, "lecturer": lecturer})
    posterior = ht.sample(Crossed(["student", "lecturer"], priors="tutorial"), data, **SHORT)
    found = posterior.predict(new_rows(student=[3, 99, 99, 3, 98], lecturer=[2, 2, 77, 77, 5]))
    assert {plate: labels.tolist() for plate, labels in found.new.items()} == {"student": [99, 98], "lecturer": [77]}
    y = flat(found.draws)
    mu, sigma = flat(posterior["mu"]), {p: flat(posterior[f"sigma_{p}"]) for p in ("student", "lecturer")}
    of_student, of_lecturer = flat(posterior.group("alpha_student", 3)), flat(posterior.group("alpha_lecturer", 2))
    np.testing.assert_allclose(y[:, 0], mu + of_student + of_lecturer, rtol=1e-12)
    student = (y[:, 1] - mu - of_lecturer) / sigma["student"]
    lecturer = (y[:, 3] - mu - of_student) / sigma["lecturer"]
    np.testing.assert_allclose(y[:, 2] - y[:, 1], y[:, 3] - y[:, 0], rtol=1e-8, atol=1e-10)  # the new lecturer's effect
    assert min(p_normal(student), p_normal(lecturer), p_unrelated(student, lecturer)) > ALPHA
    fifth = flat(posterior.group("alpha_lecturer", 5))
    assert p_unrelated(student, (y[:, 4] - mu - fifth) / sigma["student"]) > ALPHA


def test_paths_in_time() -> None:
    """A new group has a path over the fitted times, by steps of the walk; new times are refused. Error rate 3e-3."""
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({"child": np.repeat(np.arange(10), 5), "year": np.tile([1.0, 2.0, 3.5, 6.0, 7.0], 10)})
    frame["y"] = rng.normal(size=50) + frame.child / 5
    data = ht.Data.from_frame(frame, "y", ["child", "year"])
    posterior = ht.sample(TimeVarying("child", "year", priors="tutorial"), data, **SHORT)
    found = posterior.predict(new_rows(child=[99, 99, 99, 4], year=[2.0, 1.0, 6.0, 3.5]))
    y, walk = flat(found.draws), flat(posterior["sigma_time"])
    np.testing.assert_allclose(y[:, 3], flat(posterior["alpha"])[:, 4, 2])
    start = (y[:, 1] - flat(posterior["mu_alpha0"])) / flat(posterior["sigma_alpha"])
    steps = [(y[:, 0] - y[:, 1]) / walk, (y[:, 2] - y[:, 0]) / (walk * 2.0)]
    assert min(p_normal(z) for z in (start, *steps)) > ALPHA
    with pytest.raises(
        DataError, match=re.escape("grouping 'year' has new labels 8.0, 9.0: the model has no population")
    ):
        posterior.predict(new_rows(child=[4, 99, 4], year=[8.0, 9.0, 1.0]))


def test_group_level_predictors() -> None:
    """A new school's effect lies around mu + gamma u; a known school keeps its u. Error rate 1e-3."""
    data = ht.Data.from_frame(pupils(), "score", ["school"], ["x", "sector"])
    posterior = ht.sample(
        VaryingIntercepts("school", ["x"], group_predictors=["sector"], priors="tutorial"), data, **SHORT
    )
    frame = new_rows(school=["north", "south"], x=[0.0, 0.0], sector=[1.0, 0.0])
    mu, gamma = flat(posterior["mu_alpha"]), flat(posterior["gamma"])[:, 0]
    middle = flat(posterior.predict(frame, new_groups="population").draws)
    np.testing.assert_allclose(middle, np.column_stack([mu + gamma, mu]), rtol=1e-12)
    y = flat(posterior.predict(frame).draws)
    assert p_normal((y[:, 0] - mu - gamma) / flat(posterior["sigma_alpha"])) > ALPHA
    for school, sector in ((["Zoo", "Zoo"], [1.0, 0.0]), (["Zoo", "Mill"], [0.0, 1.0])):
        message = "school 'Zoo' has one value of 'sector', but it is 1.0 in the data that were fitted and 0.0 in row "
        with pytest.raises(DataError, match=message):
            posterior.predict(new_rows(school=school, x=[0.0, 0.0], sector=sector))


@pytest.mark.parametrize("family", ["binomial", "poisson", "negative_binomial", "student_t"])
def test_families(family: str) -> None:
    """Means follow from eta by the link, simulated responses from means. Error rate 2e-3 a family."""
    frame = pupils().assign(n=5.0, y=1.0)
    kind = {
        "binomial": ht.families.Binomial("n"),
        "poisson": ht.families.Poisson("n"),
        "negative_binomial": ht.families.NegativeBinomial("n"),
    }.get(family, family)
    data = ht.Data.from_frame(frame, "y", ["school"], ["x", "n"])
    priors = NARROW | ({"sigma_y": Gamma(1.0, 1.0)} if family == "student_t" else {})
    posterior = from_prior(VaryingIntercepts("school", ["x"], family=kind, priors=priors), data)
    rows = new_rows(school=["Zoo", "north", "north"], x=[0.5, 1.0, 1.0], n=[5, 7, 7])
    mean, y = (flat(posterior.predict(rows, kind=k).draws) for k in ("mean", "response"))
    linear = flat(posterior.group("alpha", "Zoo")) + 0.5 * flat(posterior["beta"])[:, 0]
    p = 1 / (1 + np.exp(-linear))
    expected = {"binomial": 5 * p, "student_t": linear}.get(family, 5 * np.exp(linear))
    np.testing.assert_allclose(mean[:, 0], expected, rtol=1e-10)
    np.testing.assert_array_equal(mean[:, 1], mean[:, 2])
    assert (y[:, 1] != y[:, 2]).any()
    if family == "student_t":
        nu, sigma = flat(posterior["nu_y"]), flat(posterior["sigma_y"])
        assert stats.kstest(stats.t(nu).cdf((y[:, 1] - mean[:, 1]) / sigma), "uniform").pvalue > ALPHA
        return
    most = {"binomial": 7}.get(family, np.inf)
    assert ((y >= 0) & (y <= most) & (y == np.round(y))).all()
    variance = {
        "binomial": lambda m: m * (1 - m / [5, 7, 7]),
        "poisson": lambda m: m,
        "negative_binomial": lambda m: m + m**2 / flat(posterior["phi_y"])[:, None],
    }[family](mean)
    scores = ((y - mean) / np.sqrt(variance))[:, :2]
    assert np.abs(scores.mean(0)).max() * len(y) ** 0.5 < 3.5  # p = 1e-3 for both rows
    assert (scores**2).mean() == pytest.approx(1.0, abs=3.3 * (scores**2).std() / scores.size**0.5)


def test_offsets_are_read() -> None:
    data = of_schools(("x", "z"))
    posterior = from_prior(VaryingIntercepts("school", ["x"], offset="z", priors="tutorial"), data)
    y = flat(posterior.predict(new_rows(school=["Zoo", "Zoo"], x=[0.0, 0.0], z=[0.0, 2.5])).draws)
    np.testing.assert_allclose(y[:, 1] - y[:, 0], 2.5, rtol=1e-12)


def test_priors_on_the_scale_of_the_fitted_data() -> None:
    """New groups without a population have the fitted prior, mean(y) and 2.5 sd(y), whatever the new rows. Error rate
    1e-3.
    """
    posterior = from_prior(NoPooling("school"), of_schools(()))
    y = flat(posterior.predict(new_rows(school=["north"])).draws)[:, 0]
    score = pupils().score
    assert p_normal((y - score.mean()) / (2.5 * score.std())) > ALPHA


class Trend(ht.Model):
    """alpha_d ~ Normal(mu + slope t_d, sigma), t in days since the first."""

    mu = ht.Latent(Normal(0.0, 5.0))
    slope = ht.Latent(Normal(0.0, 1.0))
    sigma = ht.Latent(Gamma(1.0, 1.0))
    alpha = ht.Latent(lambda v, data: Normal(v.mu + v.slope * data.label_numbers("day"), v.sigma), plate="day")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.day], 1.0)


def test_days_are_counted_from_the_first_that_was_fitted() -> None:
    days = pd.date_range("2024-03-01", periods=6, freq="2D")
    data = ht.Data(np.random.default_rng(6).normal(size=30), groups={"day": np.repeat(days, 5)})
    posterior = ht.sample(Trend(), data, **SHORT)
    mu, slope = flat(posterior["mu"]), flat(posterior["slope"])
    for frame in (
        new_rows(day=pd.to_datetime(["2024-03-16"])),
        new_rows(day=pd.to_datetime(["2024-03-16", "2024-02-20"])),
    ):
        y = flat(posterior.predict(frame, new_groups="population").draws)
        np.testing.assert_allclose(y[:, 0], mu + 15 * slope, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(y[:, 1], mu - 10 * slope, rtol=1e-9, atol=1e-9)


# Data of other kinds


def test_a_grouping_that_nothing_reads_may_have_new_labels() -> None:
    posterior = from_prior(CompletePooling(["x"], priors="tutorial"), of_schools())
    found = posterior.predict(new_rows(school=["north"], x=[2.0]))
    expected = flat(posterior["alpha"]) + 2.0 * flat(posterior["beta"])[:, 0]
    np.testing.assert_allclose(flat(found.draws)[:, 0], expected)
    assert found.new == {}


def test_groups_without_rows_are_known() -> None:
    labels = {"school": [*SECTOR, "Empty"]}
    posterior = ht.sample(VaryingIntercepts("school", ["x"], priors="tutorial"), of_schools(labels=labels), **SHORT)
    found = posterior.predict(new_rows(school=["Empty"], x=[0.0]), new_groups="error")
    torch.testing.assert_close(found.draws[..., 0], posterior.group("alpha", "Empty"))


def test_a_part_of_the_rows_keeps_the_groups_of_all() -> None:
    frame = pupils()
    data = ht.Data.from_frame(frame, "score", ["school", "class"], ["x"])
    kept = np.flatnonzero(~frame["class"].isin(["Zoo/1", "Zoo/0", "Zoo/2"]))
    posterior = ht.sample(Nested(["school", "class"], ["x"], priors="tutorial"), data.take(kept), **SHORT)
    found = posterior.predict(new_rows(school=["Zoo"], **{"class": ["Zoo/1"]}, x=[0.0]), new_groups="error")
    torch.testing.assert_close(found.draws[..., 0], posterior.group("alpha_class", "Zoo/1"))
    with pytest.raises(DataError, match="class 'Zoo/1' has one school"):
        posterior.predict(new_rows(school=["Mill"], **{"class": ["Zoo/1"]}, x=[0.0]))


@pytest.mark.parametrize("labels", [[(1, "a"), (1, "b"), (2, "a")], pd.Categorical(["low", "high", "mid"])])
def test_labels_of_other_kinds(labels: Any) -> None:
    rows = pd.Series(labels).repeat(8).reset_index(drop=True)
    frame = pd.DataFrame({"y": np.arange(24.0), "g": rows})
    posterior = ht.sample(Conjugate(), ht.Data.from_frame(frame, "y", {"school": "g"}), **SHORT)
    new = frame.iloc[[20, 3]].drop(columns="y")
    found = posterior.predict(new, new_groups="error")
    for i, label in enumerate(new.g):
        torch.testing.assert_close(found.draws[..., i], posterior.group("alpha", label))
    other = pd.concat([new, pd.DataFrame({"g": [(3, "c")]})])
    assert posterior.predict(other).new["school"].tolist() == [(3, "c")]


def test_columns_by_level() -> None:
    frame = pupils().assign(kind=np.resize(["a", "b", "c"], 120))
    data = ht.Data.from_frame(frame, "score", ["school"], {"b": "kind=b", "c": "kind=c"})
    posterior = from_prior(VaryingIntercepts("school", ["b", "c"], priors="tutorial"), data)
    y = flat(posterior.predict(new_rows(school=["Zoo", "Zoo"], kind=["c", "a"])).draws)
    np.testing.assert_allclose(y[:, 0] - y[:, 1], flat(posterior["beta"])[:, 1], rtol=1e-9)
    with pytest.raises(DataError, match="column 'kind' has level 'd', which the data that were fitted do not have"):
        posterior.predict(new_rows(school=["Zoo"], kind=["d"]))


# What is refused


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (new_rows(school=["Zoo"], X=[1.0]), {}, "the frame has no column 'x'; its columns: school, X."),
        (new_rows(scool=["Zoo"], x=[1.0]), {}, "the frame has no column 'school'; its columns: scool, x. Did you mean"),
        (new_rows(school=["Zoo", "Zoo"], x=[1.0, np.nan]), {}, "column 'x': 1 value is NaN, missing or infinite"),
        (new_rows(school=["Zoo", None], x=[1.0, 1.0]), {}, "grouping 'school': 1 value is missing"),
        (new_rows(school=[], x=[]), {}, "the frame of new rows is empty."),
        (
            ["Zoo"],
            {},
            "a table is a pandas DataFrame, a mapping of columns, or one with the Arrow interface; found list.",
        ),
        (
            new_rows(school=["north", "Zoo", "south", "north"], x=0.0),
            {"new_groups": "error"},
            "new_groups='error', and the frame has new groups: school 'north', 'south'.",
        ),
        (new_rows(school=["Zoo"], x=0.0), {"new_groups": "draw"}, "new_groups= is one of sample, population, error; f"),
        (
            new_rows(school=["Zoo"], x=0.0),
            {"kind": "responce"},
            "kind= is one of mean, response, probability; found 'responce'. Did",
        ),
        (new_rows(school=["Zoo"], x=0.0), {"ci_prob": 89}, "ci_prob= is a probability between 0 and 1; found 89."),
        (new_rows(school=["Zoo"], x=0.0), {"seed": -1}, "seed= is a whole number from 0 to 2^63 - 1; found -1."),
    ],
)
def test_refused(frame: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        fitted().predict(frame, **options)


def test_labels_of_another_type_are_no_new_groups() -> None:
    data = ht.Data(np.arange(12.0), groups={"school": np.repeat([1, 2, 3], 4)})
    posterior = ht.sample(Conjugate(), data, **SHORT)
    with pytest.raises(
        DataError, match="school '2' of the frame is 2 in the data that were fitted, in another spelling or type"
    ):
        posterior.predict(new_rows(school=["2", "3"]))
    assert posterior.predict(new_rows(school=[2.0]), new_groups="error").new == {}
    days = ht.Data(np.arange(12.0), groups={"school": np.repeat(pd.date_range("2024-03-01", periods=3), 4)})
    posterior = ht.sample(Conjugate(), days, **SHORT)
    with pytest.raises(DataError, match="school '2024-03-02' of the frame is Timestamp"):
        posterior.predict(new_rows(school=["2024-03-02", "a later day"]))
    assert posterior.predict(new_rows(school=["a later day"])).new["school"].tolist() == ["a later day"]


class Tutors(ht.Model):
    """Pupils of two tutors: rows read the effects of their first grouping through the codes of the second."""

    mu = ht.Latent(Normal(85.0, 20.0))
    u = ht.Latent(Normal(0.0, 4.0), plate="first")

    def likelihood(self, v, data):
        return Normal(v.mu + 0.5 * (v.u[:, data.first] + v.u[:, data.second]), 8.0)


def two_tutors(number: int = 16, labels: Any = None) -> Posterior:
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, number, 60), rng.integers(0, number, 60)
    every = range(number) if labels is None else labels
    data = ht.Data(
        rng.normal(85, 9, 60), groups={"first": first, "second": second}, labels={"first": every, "second": every}
    )
    return from_prior(Tutors(), data)


def test_effects_that_are_read_through_another_grouping() -> None:
    posterior = two_tutors()
    mu, u = posterior["mu"], posterior["u"]
    for rows in ([(0, 1)], [(0, 1), (3, 7), (5, 15)], [(15, 15)]):
        frame = new_rows(first=[a for a, _ in rows], second=[b for _, b in rows])
        expected = torch.stack([mu + 0.5 * (u[..., a] + u[..., b]) for a, b in rows], -1)
        torch.testing.assert_close(posterior.predict(frame).draws, expected)
    found = posterior.predict(new_rows(first=[99, 99, 0], second=[1, 2, 1]), new_groups="sample").draws
    torch.testing.assert_close(found[..., 2], mu + 0.5 * (u[..., 0] + u[..., 1]))
    fresh = 2.0 * (found[..., 0] - mu) - u[..., 1]  # the new tutor's effect, one for both rows
    torch.testing.assert_close(2.0 * (found[..., 1] - mu) - u[..., 2], fresh)
    assert abs(float(fresh.std()) - 4.0) < 0.5
    with pytest.raises(DataError, match="grouping 'second' has new labels 99"):
        posterior.predict(new_rows(first=[0], second=[99]))


class Both(Tutors):
    """Both groupings have effects of their own, and those of the first are read through both."""

    w = ht.Latent(Normal(0.0, 1.0), plate="second")

    def likelihood(self, v, data):
        mean = v.mu + 0.5 * (v.u[:, data.first] + v.u[:, data.second]) + v.w[:, data.second]
        return Normal(mean, 8.0)


def test_a_new_group_of_one_grouping_is_not_read_as_one_of_another() -> None:
    data = two_tutors().data
    posterior = from_prior(Both(), data)
    mu, u, w = posterior["mu"], posterior["u"], posterior["w"]
    found = posterior.predict(new_rows(first=[9], second=[3])).draws[..., 0]
    torch.testing.assert_close(found, mu + 0.5 * (u[..., 9] + u[..., 3]) + w[..., 3])
    assert posterior.predict(new_rows(first=[99], second=[3]), new_groups="sample").draws.isfinite().all()
    with pytest.raises(DataError, match="reads effects of 'first' through the codes of other groupings"):
        posterior.predict(new_rows(first=[99], second=[98]))


def test_matrices_are_refused() -> None:
    class Matrix(Conjugate):
        def likelihood(self, v, data):
            return Normal(v.alpha[:, data.school] + data.x.sum(-1), 0.8)

    data = ht.Data(np.arange(12.0), groups={"school": np.repeat([1, 2, 3], 4)}, x=np.ones((12, 2)))
    posterior = from_prior(Matrix(), data)
    with pytest.raises(DataError, match="column 'x' is a matrix in the data that were fitted"):
        posterior.predict(new_rows(school=[1], x=[1.0]))


class Held(ht.Model):
    """A model that holds a fact about each school itself."""

    mu = ht.Latent(Normal(0.0, 5.0))

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.register_buffer("fact", torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0], dtype=torch.float64))
        own = (lambda v: Normal(v.mu + self.fact, 1.5)) if where == "prior" else (lambda v: Normal(v.mu, 1.5))
        self.alpha = ht.Latent(own, plate="school")

    def likelihood(self, v, data):
        effect = v.alpha[:, data.school]
        return Normal(effect + self.fact[data.school] if self.where == "likelihood" else effect, 0.8)


@pytest.mark.parametrize("where", ["likelihood", "prior"])
@pytest.mark.parametrize("school", ["Zoo", "north"])
def test_models_that_read_groups_by_their_codes_are_noticed(where: str, school: str) -> None:
    posterior = from_prior(Held(where), of_schools(()))
    if where == "likelihood" and school == "north":
        school = "Mill"
    with pytest.raises(ModelError):
        posterior.predict(new_rows(school=[school]))


def test_what_was_not_kept_is_missing() -> None:
    model = VaryingIntercepts("school", ["x"], priors="tutorial")
    some = ht.sample(model, of_schools(), collapse=False, keep=["mu_alpha", "sigma_alpha", "beta", "sigma_y"], **FEWER)
    frame = new_rows(school=["north"], x=[0.5])
    y = flat(some.predict(frame).draws)[:, 0]
    assert p_normal((y - centre_of(some, 0.5)) / flat(some["sigma_alpha"])) > ALPHA  # error rate 1e-3
    with pytest.raises(DataError, match="the draws of 'alpha' are needed, and the posterior does not hold them"):
        some.predict(new_rows(school=["Zoo"], x=[0.5]))
    less = fitted(keep=("mu_alpha",))  # of a collapsed run, which holds the whole population
    assert less.names == ["mu_alpha"]
    torch.testing.assert_close(less.predict(frame).draws, fitted().predict(frame).draws)


# Files


def test_a_file_has_model_and_data_or_is_given_them(tmp_path: Path) -> None:
    posterior, frame = fitted(), new_rows(school=["north", "Zoo"], x=[0.5, 0.5])
    posterior.save(tmp_path / "a.safetensors")
    assert torch.equal(Posterior.load(tmp_path / "a.safetensors").predict(frame).draws, posterior.predict(frame).draws)
    again = Posterior.load(
        tmp_path / "a.safetensors", model=VaryingIntercepts("school", ["x"], priors="tutorial"), data=of_schools()
    )
    assert torch.equal(again.predict(frame).draws, posterior.predict(frame).draws)
    low = fitted(dtype=torch.float32)
    low.save(tmp_path / "b.safetensors")
    again = Posterior.load(
        tmp_path / "b.safetensors", model=VaryingIntercepts("school", ["x"], priors="tutorial"), data=of_schools()
    )
    assert torch.equal(again.predict(frame).draws, low.predict(frame).draws)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (None, of_schools(), "load takes model= and data= together"),
        (VaryingIntercepts("school", ["z"], priors="tutorial"), None, "the model is not the one that was fitted"),
        (
            VaryingIntercepts("school", ["z"], priors="tutorial"),
            of_schools(("x", "z")),
            "the model is not the one that was fitted",
        ),
        (
            VaryingIntercepts("school", ["x"], family="student_t", priors="tutorial"),
            of_schools(),
            "the model is not the one that was fit",
        ),
        (
            VaryingIntercepts("school", ["x"], priors="tutorial"),
            ht.Data([1.0, 2.0], groups={"school": ["Zoo", "Mill"]}, x=[1.0, 2.0]),
            "the groups of 'school' were 'Abbey', 'Beacon', 'Mill', 'Quay', 'Zoo'; the data have 'Mill', 'Zoo'.",
        ),
        (
            VaryingIntercepts("school", ["x"], priors="tutorial"),
            ht.Data([1.0, 2.0], groups={"class": ["Zoo", "Mill"]}, x=[1.0, 2.0]),
            "the data have no such grouping.",
        ),
    ],
)
def test_a_file_refuses_another_model_or_data(tmp_path: Path, model: Any, data: Any, message: str) -> None:
    fitted().save(tmp_path / "a.safetensors")
    with pytest.raises((DataError, ModelError), match=re.escape(message)):
        Posterior.load(tmp_path / "a.safetensors", model=model, data=data)


def test_a_file_refuses_a_model_of_other_latents(tmp_path: Path) -> None:
    posterior = fitted()
    for run, model, message in (
        (
            {},
            CompletePooling(["x"], priors="tutorial"),
            "the posterior has 'mu_alpha', which the model does not declare",
        ),
        (
            {},
            VaryingIntercepts("school", ["z", "x"], priors="tutorial"),
            "'beta' is (1, 2) over None in the model, and the posterior's is",
        ),
        (
            {},
            VaryingIntercepts("school", ["z"], priors="tutorial"),
            "the entries of 'beta' are (('z',),) in the model, and (('x',),) in",
        ),
    ):
        bare = Posterior(
            posterior.draws,
            plates=posterior.plates,
            labels=posterior.labels,
            event_labels=posterior.event_labels,
            stats=posterior.stats,
            run=run,  # of a posterior that does not say how its model prints
        )
        bare.save(tmp_path / "c.safetensors")
        with pytest.raises(ModelError, match=re.escape(message)):
            Posterior.load(tmp_path / "c.safetensors", model=model, data=of_schools(("x", "z")))


# Coverage


@pytest.mark.slow
def test_intervals_of_held_out_schools_cover(sample: Sample) -> None:
    """400 data sets from the prior, one a chain, each fitted, and two pupils of a school held out of each: 90 %
    intervals cover their response, and a school's mean, in Binomial(400, 0.9) data sets; error rate 2e-3. Where its
    truth lies within the draws is uniform: error rate 2e-3.
    """
    sets, schools, each = 400, 10, 4
    rng = np.random.default_rng(8)
    school = np.repeat(np.arange(schools + 1), each)  # the last one is held out
    x = rng.normal(size=len(school))
    whole = ht.Data(np.zeros(len(school)), groups={"school": school}, x=x)
    model = VaryingIntercepts("school", ["x"], priors="tutorial")
    generator = torch.Generator().manual_seed(9)
    truth = model.sample_prior(whole, sets, generator)
    y = model.simulate(truth, whole, generator)
    kept = schools * each
    data = ht.Data(y[:, :kept], groups={"school": school[:kept]}, x=x[:kept])
    posterior = sample(model, data, chains=sets, warmup=500, draws=250, thin=8, seed=3)
    frame = new_rows(school=[schools] * each, x=x[kept:])
    held = model.likelihood(truth, whole).mean[:, kept]
    for kind, target in (("response", y[:, kept]), ("mean", held)):
        draws = posterior.predict(frame, kind=kind).draws[..., 0]
        low, high = draws.quantile(0.05, 1), draws.quantile(0.95, 1)
        covered = int(((low <= target) & (target <= high)).sum())
        assert stats.binomtest(covered, sets, 0.9).pvalue > ALPHA
        place = (draws < target[:, None]).double().mean(1).numpy()
        assert stats.kstest(place, "uniform").pvalue > ALPHA
        narrow = posterior.predict(frame, kind=kind, new_groups="population").draws[..., 0]  # too sure of itself
        inside = (narrow.quantile(0.05, 1) <= target) & (target <= narrow.quantile(0.95, 1))
        assert stats.binomtest(int(inside.sum()), sets, 0.9).pvalue < 1e-4


def test_a_loaded_posterior_of_priors_scaled_by_the_data(tmp_path: Path) -> None:
    """Its model's text ends with the priors that the data chose."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"y": rng.normal(250.0, 40.0, 30), "x": rng.normal(size=30), "school": np.arange(30) % 6})
    data = ht.Data.from_frame(frame, "y", ["school"])
    model = VaryingIntercepts("school", ["x"])
    posterior = ht.sample(model, data, chains=4, warmup=40, draws=20, seed=1, progress=False)
    posterior.save(tmp_path / "draws.safetensors")
    again = ht.Posterior.load(tmp_path / "draws.safetensors", model=model, data=data)
    new = frame[["school", "x"]].head(3)
    assert torch.equal(again.predict(new).draws, posterior.predict(new).draws)


# Likelihoods without a mean


class Labels(ht.Model):
    """y is one of three labels."""

    mu = ht.Latent(Normal(0.0, 1.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, 1.0), plate="g")

    def likelihood(self, v, data):
        eta = v.alpha[:, data.g]
        return torch.distributions.Categorical(logits=torch.stack([0.0 * eta, eta, -eta], -1))


class Heavy(Labels):
    def likelihood(self, v, data):
        return torch.distributions.Cauchy(v.alpha[:, data.g], 1.0)


class HeavyMixture(Labels):
    def likelihood(self, v, data):
        eta = v.alpha[:, data.g]
        weights = torch.distributions.Categorical(torch.ones(2, dtype=eta.dtype))
        return torch.distributions.MixtureSameFamily(
            weights, torch.distributions.Cauchy(torch.stack([eta, eta + 1.0], -1), 1.0)
        )


class HeavyT(Labels):
    def likelihood(self, v, data):
        return torch.distributions.StudentT(0.9, v.alpha[:, data.g], 1.0)


class SometimesHeavy(Labels):
    nu = ht.Latent(torch.distributions.Gamma(2.0, 1.0))

    def likelihood(self, v, data):
        return torch.distributions.StudentT(v.nu, v.alpha[:, data.g], 1.0)


@pytest.fixture(scope="module")
def three_labels():
    y = np.random.default_rng(0).integers(0, 3, 60)
    return pd.DataFrame({"g": np.repeat(np.arange(5), 12), "y": y.astype(float)})


@pytest.mark.filterwarnings("ignore::hiertorch.SamplingWarning")
@pytest.mark.parametrize("model", [Heavy, HeavyMixture, HeavyT])
def test_a_mean_that_does_not_exist_is_refused(model, three_labels):
    data = ht.Data.from_frame(three_labels, "y", ["g"])
    posterior = ht.sample(model(), data, seed=1, chains=2, draws=20, warmup=10, progress=False)
    new = three_labels.head(2)
    with pytest.raises(ht.ModelError, match=r"has no mean.*kind='response'"):
        posterior.predict(new)
    with pytest.raises(ht.ModelError, match=r"has no mean.*kind='response'"):
        posterior.condition(new.assign(g=9), prior_draws=100).predict(new.assign(g=9))
    draws = posterior.predict(new, "response").draws
    assert torch.isfinite(draws).all()
    assert any("has no mean" in message for message in posterior.pooling().messages)


@pytest.mark.filterwarnings("ignore::hiertorch.SamplingWarning")
def test_the_mean_of_labels_is_the_probability_of_each(three_labels):
    data = ht.Data.from_frame(three_labels, "y", ["g"])
    posterior = ht.sample(Labels(), data, seed=1, chains=2, draws=20, warmup=10, progress=False)
    new = three_labels.iloc[[0, 13]]
    eta = posterior["alpha"][:, :, :2].double()
    expected = torch.stack([0.0 * eta, eta, -eta], -1).softmax(-1)
    torch.testing.assert_close(posterior.predict(new).draws, expected)
    of_new = posterior.condition(new.assign(g=9), prior_draws=100).predict(new.assign(g=9), seed=1)
    torch.testing.assert_close(of_new.draws.sum(-1), torch.ones(2, 20, 2).double())
    assert set(posterior.predict(new, "response").draws.unique().tolist()) <= {0.0, 1.0, 2.0}
    assert any("has no mean" in message for message in posterior.pooling().messages)


@pytest.mark.filterwarnings("ignore:(R-hat|Bulk|Tail)")
def test_a_mean_that_some_draws_have_not_is_said(three_labels):
    data = ht.Data.from_frame(three_labels, "y", ["g"])
    posterior = ht.sample(SometimesHeavy(), data, seed=1, chains=2, draws=100, warmup=5, thin=1, progress=False)
    posterior.draws["nu"][:] = torch.linspace(0.5, 5.0, 200).reshape(2, 100, 1)  # 23 of 200 up to 1
    with pytest.warns(ht.SamplingWarning, match="no mean where its df is 1 or less, in 11.50%"):
        posterior.predict(three_labels.head(3))
