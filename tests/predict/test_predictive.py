"""Predictive checks: what holds of a right model, what a wrong one shows, and closed forms."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch.distributions import Normal

import hiertorch as ht
from hiertorch.criticism import replications
from hiertorch.criticism.predictive import predictive_check, prior_check
from hiertorch.criticism.uniformity import loo_pit
from hiertorch.draws import pointwise
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.labelled import Stats
from hiertorch.models import CompletePooling, VaryingIntercepts
from hiertorch.posterior import Posterior

SEED = 5
SIZE = {"chains": 4, "draws": 250, "warmup": 120}


def known(model, data, **draws):
    """A posterior of given draws `(chains, draws, size, *event)`, or of one value in all draws."""
    values = {}
    for name, x in draws.items():
        x = torch.as_tensor(x, dtype=torch.float64)
        values[name] = x if x.ndim > 2 else x.reshape(1, 1, -1).expand(4, 250, -1)
    nothing = Stats({}, {}, torch.zeros(next(iter(values.values())).shape[:2]), {})
    plates = {name: model.latents[name].plate for name in values}
    predictor = Fitted(model, data, next(iter(values.values())))
    return Posterior(
        values, plates=plates, labels=data.labels, event_labels={}, stats=nothing, run={}, origin=predictor
    )


def school_data(y, groups):
    return ht.Data(y, groups={"school": groups})


@pytest.fixture(scope="module")
def pupils():
    """30 schools of 20 pupils whose scores are as VaryingIntercepts says."""
    return ht.simulate_grouped({"school": 30}, 20, slope=0.5, noise=1.0, seed=SEED + 1).data


@pytest.fixture(scope="module")
def fitted(sample, pupils):
    return sample(
        VaryingIntercepts("school", ["x"], priors="tutorial"), pupils, collapse=True, seed=SEED, chains=8, draws=500
    )


@pytest.fixture(scope="module")
def check(fitted):
    return predictive_check(fitted, seed=SEED)


# A right model


@pytest.mark.slow
def test_p_values_of_the_mean_are_uniform():
    """200 data sets from a model whose posterior is a point at the truth: p = Pr(Normal(0, 1) > mean sqrt(n)) within
    5 Monte Carlo errors (once in 8,000 tests of 200), and uniform (scipy's test at 0.001).
    """
    generator, n, found = torch.Generator().manual_seed(SEED), 30, []
    for _ in range(200):
        data = ht.Data(torch.randn(n, generator=generator, dtype=torch.float64))
        posterior = known(CompletePooling(priors="tutorial"), data, alpha=0.0, sigma_y=1.0)
        row = predictive_check(posterior, draws=400, seed=SEED).table.loc["mean"]
        exact = stats.norm.sf(float(data.y.mean()) * n**0.5)
        assert abs(row["p"] - exact) < 5 * row["p_error"]
        found.append(row["p"])
    assert stats.kstest(found, "uniform").pvalue > 0.001


def test_a_right_model_shows_nothing(check):
    """None of 10 statistics is extreme; each is for less than 5 % of data sets."""
    assert list(check.table.index[:5]) == ["mean", "sd", "smallest", "largest", "skewness"]
    assert check.warnings == []
    assert "No statistic is extreme." in repr(check)


def test_the_table(check):
    for name, row in check.table.iterrows():
        replicated, observed = check.replicated[name].numpy(), check.observed[name]
        assert len(replicated) == 1000
        assert row["p"] == pytest.approx((replicated > observed).mean())
        assert row["mean"] == pytest.approx(replicated.mean())
        assert [row["q05"], row["q95"]] == pytest.approx(list(np.quantile(replicated, [0.05, 0.95])))
        assert row["p_error"] == pytest.approx((row["p"] * (1 - row["p"]) / 1000) ** 0.5, abs=0.001)


def test_the_response_is_compared(check, pupils):
    assert check.observed["mean"] == pytest.approx(float(pupils.y.mean()))
    means = pd.Series(pupils.y.numpy()).groupby(pupils.school.numpy()).mean()
    assert check.observed["school: largest mean"] == pytest.approx(means.max())


def test_ties_count_half():
    data = ht.Data([0.0, 0.0, 1.0, 0.0])
    check = predictive_check(
        known(CompletePooling(family="bernoulli", priors="tutorial"), data, alpha=0.0), draws=4000, seed=SEED
    )
    exact = stats.binom(4, 0.5).sf(1) + stats.binom(4, 0.5).pmf(1) / 2
    assert check.table["p"]["proportion of ones"] == pytest.approx(exact, abs=4 * 0.008)


# Wrong models


def test_zeros_that_a_poisson_model_does_not_make(sample):
    generator = np.random.default_rng(SEED)
    y = generator.poisson(3.0, 400) * (generator.random(400) < 0.8)
    check = predictive_check(
        sample(CompletePooling(family="poisson", priors="tutorial"), ht.Data(y), seed=SEED, **SIZE), seed=SEED
    )
    assert check.response == "count"
    assert check.table["p"]["zeros"] == 0.0
    sentence = next(warning for warning in check.warnings if "zeros" in warning)
    assert sentence.startswith(f"The data have more zeros ({(y == 0).mean():.3g}) than the model makes (")
    assert "think of a negative_binomial or a zero-inflated family" in sentence


def test_poisson_counts_show_nothing(sample):
    y = np.random.default_rng(SEED).poisson(3.0, 400)
    check = predictive_check(
        sample(CompletePooling(family="poisson", priors="tutorial"), ht.Data(y), seed=SEED, **SIZE), seed=SEED
    )
    assert check.warnings == []


@pytest.mark.parametrize(
    ("family", "extreme"), [("gaussian", True), pytest.param("student_t", False, marks=pytest.mark.slow)]
)
def test_tails_that_a_normal_model_does_not_make(sample, family, extreme):
    y = np.random.default_rng(SEED).standard_t(2.5, 500)
    check = predictive_check(
        sample(CompletePooling(family=family, priors="tutorial"), ht.Data(y), seed=SEED, **SIZE), seed=SEED
    )
    assert bool(check.table["extreme"][["smallest", "largest"]].any()) == extreme
    assert any("student_t" in warning for warning in check.warnings) == extreme


def test_groups_that_complete_pooling_ignores(sample, pupils, check):
    pooled = predictive_check(sample(CompletePooling(["x"], priors="tutorial"), pupils, seed=SEED, **SIZE), seed=SEED)
    assert pooled.table["p"]["school: sd of means"] == 0.0
    assert any(warning.startswith("The means of school differ more") for warning in pooled.warnings)
    assert not check.table["extreme"]["school: sd of means"]


def test_scales_that_differ_between_groups(sample):
    generator = np.random.default_rng(SEED)
    groups = np.repeat(np.arange(20), 25)
    y = generator.normal(0.0, np.where(np.arange(20) % 2, 0.5, 2.0)[groups])
    posterior = sample(
        VaryingIntercepts("school", priors="tutorial"), school_data(y, groups), collapse=True, seed=SEED, **SIZE
    )
    check = predictive_check(posterior, seed=SEED)
    assert check.table["p"]["school: sd of sds"] == 0.0
    assert any("think of a scale for each school" in warning for warning in check.warnings)


def test_groups_far_from_their_population_show_when_effects_are_drawn_anew(sample):
    """One of 40 schools lies 12 population sds away: its effect follows it, so that known groups show nothing."""
    generator = np.random.default_rng(SEED)
    groups, effects = np.repeat(np.arange(40), 15), generator.normal(0.0, 1.0, 40)
    effects[7] = 12.0
    data = school_data(effects[groups] + generator.normal(0.0, 1.0, 600), groups)
    posterior = sample(VaryingIntercepts("school", priors="tutorial"), data, collapse=True, seed=SEED, **SIZE)
    row = "school: largest mean"
    assert not predictive_check(posterior, seed=SEED).table["extreme"][row]
    new = predictive_check(posterior, seed=SEED, groups="new")
    assert new.table["p"][row] < 0.005
    assert any(warning.startswith("The largest mean of school lies higher") for warning in new.warnings)


@pytest.mark.parametrize(("predictors", "extreme"), [(["x"], True), (["x", "square"], False)])
def test_calibration_of_probabilities(sample, predictors, extreme):
    generator = np.random.default_rng(SEED)
    x = generator.normal(size=800)
    y = generator.random(800) < 1 / (1 + np.exp(-(x + 1.5 * (x**2 - 1))))
    data = ht.Data(y.astype(float), x=x, square=x**2)
    posterior = sample(CompletePooling(predictors, family="bernoulli", priors="tutorial"), data, seed=SEED, **SIZE)
    check = predictive_check(posterior, seed=SEED)
    assert check.response == "binary"
    assert bool(check.table["extreme"]["calibration error"]) == extreme


def test_own_statistics(fitted, pupils):
    first = predictive_check(fitted, {"median": lambda y: y.median(1).values}, draws=200, seed=SEED)
    assert first.observed["median"] == float(pupils.y.median())
    off = predictive_check(fitted, {"sine": lambda y: (y - y + pupils.y).mean(1) + 9 * (len(y) == 1)}, seed=SEED)
    assert any(warning.startswith("Statistic 'sine' of the data is higher") for warning in off.warnings)


# Replications


def test_new_groups_are_drawn_from_their_population():
    """(J - 1) s^2 / (sigma_alpha^2 + sigma_y^2 / n) ~ chi^2(J - 1) of group means; scipy's test at 0.001."""
    data = school_data(torch.zeros(60), np.repeat(np.arange(12), 5))
    posterior = known(
        VaryingIntercepts("school", priors="tutorial"),
        data,
        mu_alpha=3.0,
        sigma_alpha=2.0,
        sigma_y=1.0,
        alpha=torch.zeros(12),
    )
    new = predictive_check(posterior, draws=2000, seed=SEED, groups="new").replicated["school: sd of means"]
    assert stats.kstest(11 * new.numpy() ** 2 / (4 + 1 / 5), stats.chi2(11).cdf).pvalue > 0.001
    old = predictive_check(posterior, draws=2000, seed=SEED).replicated["school: sd of means"]
    assert stats.kstest(11 * old.numpy() ** 2 / (1 / 5), stats.chi2(11).cdf).pvalue > 0.001


def test_effects_that_were_not_stored(sample, pupils, fitted, check, monkeypatch):
    """Are drawn again: means over 1,000 replications agree within 4.5 standard errors (10 statistics, 1 in 10,000)."""
    monkeypatch.setattr(replications, "NUMBERS", 100 * pupils.n_rows)
    keep = ["mu_alpha", "sigma_alpha", "sigma_y", "beta"]
    few = sample(
        VaryingIntercepts("school", ["x"], priors="tutorial"),
        pupils,
        collapse=True,
        seed=SEED,
        chains=8,
        draws=500,
        keep=keep,
    )
    assert "alpha" not in few and "alpha" in fitted
    redrawn = predictive_check(few, seed=SEED + 1)
    for name, stored in check.replicated.items():
        error = ((stored.var() + redrawn.replicated[name].var()) / 1000) ** 0.5
        assert abs(float(stored.mean() - redrawn.replicated[name].mean())) < 4.5 * float(error), name


def test_statistics_by_block_are_those_of_all_draws(fitted, pupils, monkeypatch):
    monkeypatch.setattr(replications, "NUMBERS", 7 * pupils.n_rows)
    check = predictive_check(fitted, draws=100, seed=SEED)
    blocks = list(check.replications)
    assert [len(y) for y in blocks] == [7] * 14 + [2]
    y = torch.cat(blocks).numpy()
    np.testing.assert_allclose(check.replicated["skewness"], stats.skew(y, axis=1), rtol=1e-9)
    by_school = pd.DataFrame(y.T).groupby(pupils.school.numpy())
    np.testing.assert_allclose(check.replicated["school: sd of means"], by_school.mean().std(), rtol=1e-9)
    np.testing.assert_allclose(check.replicated["school: mean of sds"], by_school.std().mean(), rtol=1e-9)


def test_same_seed_same_numbers(fitted, check):
    pd.testing.assert_frame_equal(predictive_check(fitted, seed=SEED).table, check.table)
    assert not predictive_check(fitted, seed=SEED + 1).table.equals(check.table)


def test_more_replications_than_draws():
    data = ht.Data(torch.randn(20, generator=torch.Generator().manual_seed(SEED)))
    check = predictive_check(known(CompletePooling(priors="tutorial"), data, alpha=0.0, sigma_y=1.0), draws=2500)
    assert len(check.replicated["mean"].unique()) == 2500


# The prior


def test_prior_moments():
    """y_i = alpha + noise of sd s_i, alpha ~ Normal(0, 5): the mean of y is normal, by a closed form; at 0.001."""
    se = torch.linspace(0.5, 3.0, 25, dtype=torch.float64)
    data = ht.Data(torch.full((25,), 14.0), se=se)
    model = CompletePooling(family=ht.families.Gaussian("se"), priors="tutorial")
    check = prior_check(model, data, draws=3000, seed=SEED)
    sd = float((25.0 + se.square().sum() / 25**2) ** 0.5)
    assert stats.kstest(check.replicated["mean"].numpy(), stats.norm(0.0, sd).cdf).pvalue > 0.001
    assert check.table["p"]["mean"] == pytest.approx(stats.norm.sf(14.0 / sd), abs=0.01)
    assert any(warning.startswith("The data lie higher (14) than the prior makes") for warning in check.warnings)


def test_prior_of_groups(pupils):
    check = prior_check(VaryingIntercepts("school", ["x"], priors="tutorial"), pupils, seed=SEED)
    assert check.groups == "new" and check.kind == "prior"
    with pytest.raises(ht.DataError, match="this checks a prior"):
        _ = check.loo_pit


def test_counts_beyond_all_numbers_are_left_out():
    data = ht.Data([1.0, 2.0, 3.0, 0.0], x=[0.0, 1.0, 2.0, 3.0])
    wide = CompletePooling(["x"], family="poisson", priors={"alpha": Normal(0.0, 5.0), "beta": Normal(0.0, 30.0)})
    check = prior_check(wide, data, draws=500, seed=SEED)
    left = check.replicated["mean"]
    assert 0 < check.lost < 500 and len(left) == 500 - check.lost and bool(torch.isfinite(left).all())
    assert check.warnings[0].startswith(f"In {check.lost} of 500 replications a mean is beyond all numbers")
    absurd = CompletePooling(family="poisson", priors={"alpha": Normal(5000.0, 1.0)})
    with pytest.raises(ht.ModelError, match="every prior draw is impossible: rate of Poisson"):
        prior_check(absurd, data, seed=SEED)


# LOO-PIT


def conjugate(n=40, draws=2000):
    """y_i ~ Normal(alpha, s_i), alpha ~ Normal(0, 5), and exact draws of alpha."""
    generator = torch.Generator().manual_seed(SEED)
    se = torch.linspace(0.5, 2.0, n, dtype=torch.float64)
    y = 1.0 + se * torch.randn(n, generator=generator, dtype=torch.float64)
    precision = 1 / 25 + (1 / se.square()).sum()
    mean = (y / se.square()).sum() / precision
    alpha = mean + torch.randn(4, draws, 1, generator=generator, dtype=torch.float64) / precision.sqrt()
    return (
        known(CompletePooling(family=ht.families.Gaussian("se"), priors="tutorial"), ht.Data(y, se=se), alpha=alpha),
        y,
        se,
    )


def test_loo_pit_of_a_conjugate_model():
    """Phi((y_i - m_-i) / sqrt(s_i^2 + v_-i)), m and v of alpha given the other rows; weights of 8,000 independent draws
    leave errors below 0.005 (with eight other seeds the largest of 40 is 0.0001 to 0.0022).
    """
    posterior, y, se = conjugate()
    found = loo_pit(posterior, draws=None, seed=SEED)
    weight = 1 / se.square()
    precision = 1 / 25 + weight.sum() - weight
    mean = ((y * weight).sum() - y * weight) / precision
    exact = stats.norm.cdf(((y - mean) / (se.square() + 1 / precision).sqrt()).numpy())
    assert np.abs(found.values.to_numpy() - exact).max() < 0.005
    full = (1 / 25 + weight.sum()).sqrt()
    fitted = stats.norm.cdf(((y - (y * weight).sum() / full**2) / (se.square() + 1 / full**2).sqrt()).numpy())
    assert np.abs(fitted - exact).max() > 0.01  # what leaving out no row would give
    assert found.uniform and "can't be told from uniform" in found.text
    assert bool((found.pareto_k < 0.7).all())


def test_loo_pit_is_that_of_arviz():
    """Which compares y with a simulated response of each draw: 8,000 of them, within 5 standard errors."""
    import arviz_stats
    from arviz_base import from_dict

    posterior, y, se = conjugate()
    noise = torch.randn(4, 2000, 40, generator=torch.Generator().manual_seed(SEED + 1), dtype=torch.float64)
    alpha = posterior.draws["alpha"]
    log_likelihood = Normal(alpha, se).log_prob(y)
    tree = from_dict(
        {
            "posterior": {"alpha": alpha[..., 0].numpy()},
            "posterior_predictive": {"y": (alpha + se * noise).numpy()},
            "log_likelihood": {"y": log_likelihood.numpy()},
            "observed_data": {"y": y.numpy()},
        }
    )
    found = loo_pit(posterior, draws=None).values.to_numpy()
    theirs = arviz_stats.loo_pit(tree)["y"].to_numpy()
    assert np.abs(found - theirs).max() < 5 * 0.5 / 8000**0.5


def test_loo_pit_by_chunks(monkeypatch, fitted):
    whole = loo_pit(fitted, draws=400, seed=SEED)
    monkeypatch.setattr(pointwise, "NUMBERS", 400 * 37)
    pd.testing.assert_series_equal(loo_pit(fitted, draws=400, seed=SEED).values, whole.values)


@pytest.mark.slow
def test_loo_pit_of_counts_is_uniform(sample):
    y = np.random.default_rng(SEED).poisson(1.0, 400)
    frame = pd.DataFrame({"y": y}, index=[f"row {i}" for i in range(400)])
    posterior = sample(
        CompletePooling(family="poisson", priors="tutorial"), ht.Data.from_frame(frame, "y"), seed=SEED, **SIZE
    )
    found = predictive_check(posterior, draws=50, seed=SEED).loo_pit
    assert list(found.values.index[:2]) == ["row 0", "row 1"]
    assert stats.kstest(found.values, "uniform").pvalue > 0.001
    assert found.uniform and found.values.between(0, 1).all()


def test_loo_pit_of_a_wrong_model(sample):
    y = np.random.default_rng(SEED).choice([-1.0, 1.0], 300) * 3 + np.random.default_rng(SEED).normal(size=300)
    found = loo_pit(sample(CompletePooling(priors="tutorial"), ht.Data(y), seed=SEED, **SIZE), seed=SEED)
    assert not found.uniform and found.p < 0.001
    assert "too wide" in found.text and "share in each tenth" in repr(found)


def test_loo_pit_where_all_draws_are_the_same():
    """Then leaving a row out changes nothing, and there is no tail whose k could be found."""
    data = ht.Data(torch.randn(20, generator=torch.Generator().manual_seed(SEED)))
    found = loo_pit(known(CompletePooling(priors="tutorial"), data, alpha=0.3, sigma_y=2.0))
    np.testing.assert_allclose(found.values, stats.norm.cdf(data.y.numpy(), 0.3, 2.0), rtol=1e-9)
    assert (found.pareto_k == -np.inf).all()


def test_loo_pit_names_rows_that_it_can_not_be_trusted_for():
    """One row of 21 says nearly all about alpha: the largest weights of 8,000 draws are on few."""
    se = torch.full((21,), 5.0, dtype=torch.float64)
    se[20] = 0.05
    y = torch.cat([torch.randn(20, generator=torch.Generator().manual_seed(SEED)), torch.tensor([1.0])]).double()
    precision = 1 / 25 + (1 / se.square()).sum()
    noise = torch.randn(4, 2000, 1, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    alpha = (y / se.square()).sum() / precision + noise / precision.sqrt()
    found = loo_pit(
        known(CompletePooling(family=ht.families.Gaussian("se"), priors="tutorial"), ht.Data(y, se=se), alpha=alpha)
    )
    assert "Pareto k is above 0.7 for 1 of them (rows 20)" in found.text


# Figures


@pytest.fixture(scope="module")
def counts(sample):
    y = np.random.default_rng(SEED).poisson(2.0, 90)
    data = school_data(y, np.repeat(np.arange(9), 10))
    return predictive_check(
        sample(CompletePooling(family="poisson", priors="tutorial"), data, seed=SEED, **SIZE), seed=SEED
    )


@pytest.fixture(scope="module")
def binary(sample):
    y = np.random.default_rng(SEED).integers(0, 2, 90)
    data = school_data(y, np.repeat(np.arange(9), 10))
    return predictive_check(
        sample(CompletePooling(family="bernoulli", priors="tutorial"), data, seed=SEED, **SIZE), seed=SEED
    )


def lines(axes):
    return [np.asarray(line.get_xydata(), dtype=float) for line in axes.get_lines()]


@pytest.mark.parametrize(
    ("which", "kind"),
    [
        *[("check", kind) for kind in ("density", "statistics", "groups", "loo_pit")],
        *[("counts", kind) for kind in ("density", "statistics", "groups", "loo_pit", "rootogram")],
        *[("binary", kind) for kind in ("density", "statistics", "groups", "loo_pit", "calibration")],
    ],
)
def test_figures(which, kind, request, tmp_path):
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    figure = request.getfixturevalue(which).plot(kind)
    assert isinstance(figure, Figure) and pyplot.get_fignums() == []
    figure.savefig(tmp_path / "figure.png", dpi=40)
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert request.getfixturevalue(which).model in figure.get_suptitle()
    if kind != "statistics" and (which, kind) != ("binary", "density"):
        assert figure.axes[0].get_xlabel() and figure.axes[0].get_ylabel()


def test_figure_of_statistics_shows_the_data(check):
    shown = [axes for axes in check.plot("statistics").axes if axes.has_data()]
    assert len(shown) == len(check.observed)
    for axes, (name, observed) in zip(shown, check.observed.items(), strict=True):
        assert axes.get_title().startswith(name)
        assert lines(axes)[-1][0, 0] == observed


def test_figure_of_groups_shows_their_means(check, pupils):
    means = pd.Series(pupils.y.numpy()).groupby(pupils.school.numpy()).mean().sort_values()
    axes = check.plot("groups", plate="school").axes[0]
    np.testing.assert_allclose(lines(axes)[-1][:, 1], means)
    assert [label.get_text() for label in axes.get_xticklabels()] == [pupils.labels["school"][i] for i in means.index]


def test_figure_of_loo_pit_shows_its_band(check):
    axes = check.plot("loo_pit").axes[0]
    vertices = axes.collections[0].get_paths()[0].vertices
    band = check.loo_pit.band
    for point, lower, upper in zip(band.points, band.lower, band.upper, strict=True):
        heights = vertices[np.isclose(vertices[:, 0], point), 1]
        assert heights.min() == pytest.approx(lower - point) and heights.max() == pytest.approx(upper - point)


def test_prints_within_a_terminal(check, counts, binary):
    assert max(len(line) for c in (check, counts, binary) for line in repr(c).splitlines()) <= 120


# Errors


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"draws": 0}, "draws= is a whole number from 1"),
        ({"draws": 2.5}, "draws= is a whole number from 1"),
        ({"groups": "old"}, "groups= is one of known, new"),
        ({"seed": -1}, "seed= is a whole number"),
        ({"statistics": {"rows": lambda y: y}}, r"must make \(draws,\)"),
        ({"statistics": {"root": lambda y: y.amin(1).sqrt()}}, "'root' is nan"),
        ({"statistics": {"mean": lambda y: y.mean(1)}}, "give yours another name"),
    ],
)
def test_bad_arguments(fitted, options, sentence):
    with pytest.raises(ht.DataError, match=sentence):
        predictive_check(fitted, **options)


def test_a_posterior_without_its_model():
    nothing = Stats({}, {}, torch.zeros(2, 5), {})
    bare = Posterior({"a": torch.zeros(2, 5, 1)}, plates={}, labels={}, event_labels={}, stats=nothing, run={})
    with pytest.raises(ht.DataError, match="does not know its model and data"):
        predictive_check(bare)
    with pytest.raises(ht.DataError, match="does not know its model and data"):
        loo_pit(bare)


def test_bad_arguments_of_the_prior(pupils):
    model = VaryingIntercepts("school", ["x"], priors="tutorial")
    with pytest.raises(ht.DataError, match=r"takes an ht.Model and ht.Data; found Data"):
        prior_check(pupils, pupils)
    with pytest.raises(ht.DataError, match="each chain of these data"):
        prior_check(model, pupils.replace(y=pupils.y.expand(3, -1)))
    with pytest.raises(ht.DataError, match="draws= is a whole number from 1"):
        prior_check(model, pupils, draws=-1)
    with pytest.raises(ht.DataError, match="seed="):
        prior_check(model, pupils, seed="one")
    with pytest.raises(ht.HiertorchError, match="'z'"):
        prior_check(VaryingIntercepts("school", ["z"]), pupils)


def test_bad_figures(check, counts, monkeypatch):
    with pytest.raises(ht.DataError, match="kind= is one of density"):
        check.plot("densities")
    with pytest.raises(ht.DataError, match="of a count response, and this one is continuous"):
        check.plot("rootogram")
    with pytest.raises(ht.DataError, match="of a binary response, and this one is count"):
        counts.plot("calibration")
    with pytest.raises(ht.DataError, match="plate= is one of school"):
        check.plot("groups", plate="class")
    with pytest.raises(ht.DataError, match="leave plate= out"):
        check.plot("density", plate="school")
    monkeypatch.setitem(sys.modules, "arviz_plots", None)
    with pytest.raises(ImportError, match=r"pip install 'hiertorch\[plots\]'"):
        check.plot()
