"""Updates against posteriors that are known: dense normal algebra, sums over a grid, and full refits.

A mean is off by 4 Monte Carlo standard errors with probability 6e-5, and by 3 with 3e-3; seeds are fixed.
"""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from builders import QUIET, Passed, Totalled, exact, gaussian, passed, pupils, read, scores, split, start

import hiertorch as ht
from hiertorch.draws.pareto import good_k
from hiertorch.errors import DataError, SamplingWarning
from hiertorch.families import Gaussian
from hiertorch.models import CorrelatedEffects, Nested, VaryingIntercepts
from hiertorch.models.autoscale import column_scale, response_scale
from hiertorch.posterior import Posterior
from hiertorch.refits.laterrows import Later
from hiertorch.refits.reweighting import reweighted
from hiertorch.refits.updating import update

pytestmark = pytest.mark.filterwarnings("ignore:(R-hat|Bulk|Tail|grouping).*:hiertorch.errors.SamplingWarning")


def assert_exact(posterior: Posterior, expected: dict[str, tuple[float, float]], within: float = 4.0) -> None:
    table = posterior.summary()
    assert set(table.index) == set(expected)
    for name, (mean, sd) in expected.items():
        row = table.loc[name]
        assert abs(row["mean"] - mean) < within * row["mcse_mean"], name
        assert abs(row["sd"] - sd) < within * row["mcse_sd"], name


def test_gaussian_update_is_the_exact_posterior():
    updated = gaussian().update(split(scores())[1], seed=3)
    assert_exact(updated, exact(scores()))
    assert updated.run["updated"]["by"] == "weights"
    assert updated.run["updated"]["rows"] == len(split(scores())[1])
    assert updated.run["updated"]["new_groups"] == {"school": 1}
    json.dumps(updated.run)


def test_old_posterior_is_another_one():
    """The check above is not met by doing nothing."""
    old, new = gaussian().summary(), exact(scores())
    assert abs(old.loc["mu", "mean"] - new["mu"][0]) > 10 * old.loc["mu", "mcse_mean"]


def test_second_update_goes_on_from_the_first(tmp_path):
    fitted, later = split(scores())
    once = gaussian().update(later.iloc[:5])
    twice = once.update(later.iloc[5:])
    assert_exact(twice, exact(scores()))
    assert list(twice.labels["school"]) == [*"abcdefg", "h"]
    data = twice.fitted.data
    assert list(data.index) == [*fitted.index, *later.index]
    twice.save(tmp_path / "twice.safetensors")
    again = Posterior.load(tmp_path / "twice.safetensors", model=Totalled(), data=data)
    assert torch.equal(again["alpha"], twice["alpha"])


def test_updated_posterior_predicts_and_redraws():
    unstored = ht.sample(
        Totalled(), read(split(scores())[0]), chains=8, draws=500, keep=["mu", "beta"], **QUIET
    ).update(split(scores())[1])
    expected = exact(scores())
    table = unstored.effects("alpha")
    for name in table.index:
        assert table.loc[name, "mean"] == pytest.approx(expected[name][0], abs=0.03), name  # 1,000 conditional means
        assert table.loc[name, "sd"] == pytest.approx(expected[name][1], rel=0.02), name
    assert unstored.log_marginal("school").shape == (4, 1000, 8)
    new = pd.DataFrame({"school": ["h", "zz"], "x": [0.0, 0.0]})
    mean = unstored.predict(new).summary["mean"]
    assert mean.iloc[0] == pytest.approx(expected["alpha[h]"][0], abs=0.05)
    assert mean.iloc[1] == pytest.approx(expected["mu"][0], abs=0.1)


def test_row_weights():
    rng = np.random.default_rng(1)
    frame = scores().assign(w=rng.choice([0.5, 1.0, 2.0], size=60))
    fitted, later = split(frame)
    data = ht.Data.from_frame(fitted, "y", ["school"], ["x"], weights="w")
    posterior = ht.sample(Totalled(), data, chains=8, draws=500, **QUIET)
    assert_exact(posterior.update(later, weights="w"), exact(frame, frame["w"].to_numpy()))
    with pytest.raises(DataError, match="the fitted rows have weights, and the new rows need theirs"):
        posterior.update(later)
    with pytest.raises(DataError, match="the fitted rows have no weights"):
        gaussian().update(later.drop(columns="w"), weights="y")


def test_rows_that_were_taken_from_more_are_updated_with_these():
    """A fold keeps the groups of the whole, and its update the rows of the fold."""
    frame = scores()
    whole, fold = read(frame), np.flatnonzero(np.arange(60) % 3 > 0)
    posterior = ht.sample(Totalled(), whole.take(fold), chains=8, draws=500, **QUIET)
    rest = frame.iloc[np.flatnonzero(np.arange(60) % 3 == 0)]
    assert_exact(posterior.update(rest), exact(frame))


@pytest.mark.parametrize("each", [pytest.param(20, marks=pytest.mark.slow), 10])
def test_weights_of_all_latents_and_new_groups(each):
    """A few rows of known groups, and all ten of a new one."""
    fitted, later = split(pupils(), each=each)
    posterior = start(fitted)
    updated = posterior.update(later)
    assert updated.run["updated"]["by"] == "weights"
    table = updated.summary()
    for name, mean in passed(pupils()).items():
        assert abs(table.loc[name, "mean"] - mean) < 4 * table.loc[name, "mcse_mean"], name
    v = {name: x[0, :5] for name, x in updated.draws.items()}
    expected = Passed().log_prob(v, updated.fitted.data)
    assert torch.allclose(updated.stats.log_density[0, :5], expected)


def test_refit_where_weights_fail():
    """Four times as many rows from elsewhere: no draw is near, which is said."""
    fitted, later = pupils(24), pupils(160, shift=-3.0, seed=4)
    with pytest.warns(SamplingWarning, match=r"can't be weighted by 160 new rows: .*; so the model was fitted again"):
        updated = start(fitted).update(later, thin=1)
    assert updated.run["updated"]["by"] == "refit"
    assert "160 new rows" in updated.run["updated"]["why"]
    table = updated.summary()
    for name, mean in passed(pd.concat([fitted, later])).items():
        assert abs(table.loc[name, "mean"] - mean) < 4 * table.loc[name, "mcse_mean"], name
    json.dumps(updated.run)


def test_draws_from_weights_have_an_honest_ess():
    """For independent draws and weights w, means have variance sum w^2 (x - m)^2: MCSE^2 of the copies must say so."""
    posterior = start(pupils(40))
    found = reweighted(Later(posterior, pupils(16, shift=-1.0, seed=9)))
    assert not isinstance(found, str)
    again = Posterior.of(found.posterior).summary("mu").loc["mu"]
    assert found.ess < 4000  # of 8,000: the weights are uneven
    assert again["ess_bulk"] == pytest.approx(found.ess, rel=0.5)
    assert again["ess_bulk"] < 0.9 * posterior.chains * posterior.n_draws


def test_limit_of_k_is_that_of_the_paper():
    assert good_k(100) == pytest.approx(0.5)
    assert good_k(2000) == pytest.approx(1 - 1 / np.log10(2000))
    assert good_k(10**6) == 0.7


def test_priors_scaled_by_the_data_stay():
    frame = scores()
    fitted, later = frame.iloc[:50], frame.iloc[50:].assign(y=lambda f: f["y"] + 100)
    model = VaryingIntercepts("school", ["x"])
    posterior = ht.sample(model, read(fitted), chains=4, draws=100, **QUIET)
    data = Later(posterior, later).data
    assert response_scale(data, Gaussian())[1].item() == pytest.approx(fitted["y"].std())
    assert column_scale(data, "x")[1].item() == pytest.approx(fitted["x"].std())
    assert data.n_rows == 60
    with pytest.warns(SamplingWarning, match="the model was fitted again"):  # 100 units away
        again = Later(posterior.update(later, draws=100), later).data
    assert response_scale(again, Gaussian())[1].item() == pytest.approx(fitted["y"].std())


def test_rows_that_cannot_be_read():
    later = split(scores())[1]
    with pytest.raises(DataError, match="no column 'y'"):
        gaussian().update(later.drop(columns="y"))
    with pytest.raises(DataError, match=r"a table is a pandas DataFrame, .* found Series"):
        gaussian().update(later["y"])
    bare = Posterior(
        gaussian().draws,
        plates=gaussian().plates,
        labels=gaussian().labels,
        event_labels={},
        stats=gaussian().stats,
        run={},
    )
    with pytest.raises(DataError, match="does not know its model and data"):
        update(bare, later)
    each = read(scores()).replace(y=read(scores()).y.expand(4, -1))
    many = ht.sample(Totalled(), each, chains=4, warmup=20, draws=20, collapse=False, **QUIET)
    with pytest.raises(DataError, match="data of its own"):
        many.update(later)


def test_rows_that_contradict_the_nesting():
    frame = pd.DataFrame({"school": list("aabb"), "class": ["1", "2", "3", "4"], "y": [0.0, 1.0, 2.0, 1.5]})
    noise = np.random.default_rng(0).normal(size=12)
    data = ht.Data.from_frame(pd.concat([frame] * 3).assign(y=noise), "y", ["school", "class"])
    posterior = ht.sample(Nested(["school", "class"], priors="tutorial"), data, chains=4, draws=100, **QUIET)
    with pytest.raises(DataError, match="correct the row"):
        posterior.update(frame.assign(school=list("bbaa")))


MODELS = {
    "intercepts": lambda: VaryingIntercepts("g", ["x"], priors="tutorial"),
    "correlated": lambda: CorrelatedEffects("g", ["x"], priors="tutorial"),
    "nested": lambda: Nested(["g", "c"], ["x"], priors="tutorial"),
    "bernoulli": lambda: VaryingIntercepts("g", ["x"], family="bernoulli", priors="tutorial"),
    "student": lambda: VaryingIntercepts("g", ["x"], family="student_t", priors="tutorial"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_update_agrees_with_a_full_refit(kind):
    """5 % of rows are new, and a group among them: population-level means within 3 MCSE, of 8 at most (2 %), and those
    of 80 effects within 4.5 (6e-4).
    """
    model, groups = MODELS[kind](), {"g": 10, "c": 3} if kind == "nested" else {"g": 40}
    frame = ht.simulate_grouped(groups, 20, model=model, seed=11).frame
    new = (np.random.default_rng(0).random(len(frame)) < 0.03) | (frame["g"] == frame["g"].iloc[-1]).to_numpy()
    run = {"chains": 32, "warmup": 200, "draws": 500, "thin": 1}
    posterior = ht.sample(model, ht.Data.from_frame(frame[~new], "y", [*groups]), **QUIET, **run)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*so the model was fitted again")
        updated = posterior.update(frame[new])
    assert updated.run["updated"]["by"] == "weights" or kind == "student"  # whose weights are at the limit
    refit = ht.sample(model, ht.Data.from_frame(frame, "y", [*groups]), **{**QUIET, **run, "seed": 2})
    for within, names in (
        (3.0, [name for name in refit.names if refit.plates[name] is None]),
        (4.5, [name for name in refit.names if refit.plates[name] is not None]),
    ):
        one, two = updated.summary(names), refit.summary(names)
        two = two[two["sd"] > 0]
        one = one.loc[two.index]
        z = (one["mean"] - two["mean"]) / np.hypot(one["mcse_mean"], two["mcse_mean"])
        assert z.abs().max() < within
        assert np.allclose(one["sd"] / two["sd"], 1.0, atol=0.12)
