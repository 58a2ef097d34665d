"""Ordered responses in formulas: how they are coded, thresholds in place of an intercept, and probabilities."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from builders import refused, sampled
from scipy import stats
from torch.distributions import Normal

import hiertorch as ht
from hiertorch.errors import DataError, ModelError
from hiertorch.model.ordering import Ordered

WORDS = ["low", "middle", "high"]


@pytest.fixture(scope="module")
def frame():
    r = np.random.default_rng(3)
    codes = np.append([0, 1, 2], r.integers(3, size=57))
    return pd.DataFrame(
        {
            "y": pd.Categorical.from_codes(codes, [*WORDS, "never"], ordered=True),
            "n": codes + 1,
            "half": codes / 2,
            "word": np.array(WORDS)[codes],
            "x": r.normal(2.0, 1.0, 60),
            "g": np.repeat([*"uvwxyz"], 10),
        }
    )


@pytest.mark.parametrize("family", ["cumulative", "sratio", "acat"])
def test_categories_that_occur_are_coded_in_order(frame, family):
    for name, labels in (("y", WORDS), ("n", ["1", "2", "3"])):
        model, data = ht.formula(f"{name} ~ x + (1 | g)", frame, family=family)
        assert [*model.latents] == ["centred_cuts_y", "beta", "sigma_g", "effects_g"] and [*model.derived] == ["cuts_y"]
        assert model.family.categories == tuple(labels) and data.y.tolist() == (frame["n"] - 1).tolist()
        assert model.latents["centred_cuts_y"].axes == ((f"{labels[0]}|{labels[1]}", f"{labels[1]}|{labels[2]}"),)
        assert model.check(data) == []


LAWS = {"cumulative": math.log(2.0), "sratio": 0.0}
"""Family -> what the prior density of two thresholds in order is more than that of two alone."""


@pytest.mark.parametrize("family", LAWS)
@pytest.mark.parametrize("text", ["y ~ x", "y ~ x + offset(far)", "y ~ offset(far)", "y ~ 1"])
def test_density_by_scipy(frame, text, family):
    """Thresholds have their prior, Normal(0, 2.5), for a row at the means of columns and offset, wherever these lie."""
    frame = frame.assign(far=frame["x"] - 300.0)
    model, data = ht.formula(text, frame, family=family)
    columns = {"x": "x" in text, "far": "far" in text}
    name = "centred_cuts_y" if any(columns.values()) else "cuts_y"
    v = {name: torch.tensor([[[-0.4, 1.1]]], dtype=torch.float64)}
    v |= {"beta": torch.tensor([[[0.7]]], dtype=torch.float64)} if columns["x"] else {}
    eta = 0.7 * columns["x"] * frame["x"] + columns["far"] * frame["far"]
    cuts = np.array([-0.4, 1.1]) + eta.mean()
    below = stats.logistic.cdf(cuts - eta.to_numpy()[:, None])
    low, high = below.T
    p = [low, high - low, 1 - high] if family == "cumulative" else [low, (1 - low) * high, (1 - low) * (1 - high)]
    found = model.log_likelihood(v, data)[0]
    np.testing.assert_allclose(found, np.log(np.stack(p, 1)[np.arange(60), frame["n"] - 1]), rtol=1e-9)
    own = stats.norm(0, 2.5).logpdf([-0.4, 1.1]).sum() + LAWS[family]
    own += stats.norm(0, 2.5 / frame["x"].std()).logpdf(0.7) if columns["x"] else 0.0
    assert float(model.log_prior(v, data)[0]) == pytest.approx(own)
    if name != "cuts_y":
        np.testing.assert_allclose(model.derived["cuts_y"](model.values(v), data)[0, 0], cuts, rtol=1e-12)


def test_a_prior_of_thresholds_is_theirs_where_columns_are_zero(frame):
    model, data = ht.formula("y ~ x", frame, family="cumulative", priors={"cuts_y": "Normal(0, 4)"})
    v = {"cuts_y": torch.tensor([[[-0.4, 1.1]]], dtype=torch.float64)}
    v |= {"beta": torch.tensor([[[0.7]]], dtype=torch.float64)}
    first = stats.logistic.logcdf(-0.4 - 0.7 * frame["x"].to_numpy())
    found = model.log_likelihood(v, data)[0].numpy()
    np.testing.assert_allclose(found[frame["n"] == 1], first[frame["n"] == 1], rtol=1e-9)
    assert not model.derived and list(model.latents) == ["cuts_y", "beta"]


def test_priors_of_thresholds_are_put_in_order(frame):
    model, data = ht.formula("y ~ x", frame, family="cumulative", priors={"cuts_y": "Normal(0, 4)"})
    prior = model.latents["cuts_y"].prior
    assert isinstance(prior, Ordered) and prior.size == 2 and float(prior.base.scale) == 4.0
    assert model.check(data) == []
    centred = "centred_cuts_y[low|middle]"
    model, data = ht.formula("y ~ x", frame, family="acat", priors={centred: Normal(0.0, 4.0)})
    assert model.check(data) == [] and ht.priors(model)["prior"]["centred_cuts_y"].startswith("Normal(0, 2.5)")
    with refused(ModelError, "has one prior for all of its entries"):
        ht.formula("y ~ x", frame, family="cumulative", priors={centred: "Normal(0, 4)"})
    with refused(ModelError, "Did you mean 'centred_cuts_y'"):
        ht.formula("y ~ x", frame, family="acat", priors={"cuts_y[low|middle]": "Normal(0, 4)"})


@pytest.mark.parametrize(
    ("text", "family", "error", "sentence"),
    [
        ("y ~ 0 + x", "cumulative", ModelError, "thresholds take the place of the intercept"),
        ("half ~ x", "cumulative", DataError, "categories in no order that is known"),
        ("word ~ x", "sratio", DataError, "categories in no order that is known"),
        ("log(n) ~ x", "acat", ModelError, "the response of ordered categories is a column alone"),
        ("y ~ x", ht.families.Cumulative(4), DataError, "has 4 categories, and the response 'y' has 3"),
    ],
)
def test_what_is_not_ordered_is_refused(frame, text, family, error, sentence):
    with refused(error, sentence):
        ht.formula(text, frame, family=family)


def test_a_name_alone_tells_no_categories():
    with refused(ModelError, "is told its categories", "Cumulative(categories=4)"):
        ht.models.CompletePooling(family="cumulative")


@pytest.fixture(scope="module")
def fitted(frame):
    model, data = ht.formula("y ~ x + (1 | g)", frame, family="cumulative")
    return sampled(model, data, seed=1, chains=4, warmup=40, draws=25, thin=1)


def test_probabilities_of_categories_are_predicted(fitted, frame):
    rows = frame[["x", "g"]].iloc[[4, 30]]
    found, mean = fitted.predict(rows, kind="probability"), fitted.predict(rows, kind="mean")
    assert found.draws.shape == (4, 25, 2, 3)
    assert found.summary.index.tolist() == [(row, word) for row in (4, 30) for word in WORDS]
    torch.testing.assert_close(found.draws @ torch.arange(3.0).double(), mean.draws)
    eta = fitted["beta"][..., 0] * rows["x"].iloc[1] + fitted["effects_g"][:, :, 3, 0]
    first = stats.logistic.cdf((fitted["cuts_y"][..., 0] - eta).numpy())
    np.testing.assert_allclose(found.draws[:, :, 1, 0], first, rtol=1e-6)
    assert set(fitted.predict(rows, kind="response", seed=1).draws.unique().tolist()) <= {0.0, 1.0, 2.0}


def test_without_rows_thresholds_are_the_same(fitted, frame, tmp_path):
    fitted.save(tmp_path / "p", data=False)
    rows = frame[["x", "g"]].iloc[[4, 30]]
    found = ht.Posterior.load(tmp_path / "p").predict(rows, kind="probability")
    torch.testing.assert_close(found.draws, fitted.predict(rows, kind="probability").draws)


def test_probabilities_of_conditioned_groups(fitted, frame):
    new = frame.iloc[:5].assign(g="new")
    found = fitted.condition(new, seed=2).predict(new.iloc[:2], kind="probability", seed=3)
    assert found.draws.shape == (4, 25, 2, 3) and found.summary.shape[0] == 6
    torch.testing.assert_close(found.draws.sum(-1), torch.ones(4, 25, 2).double())


def test_probabilities_are_those_of_categories():
    made = ht.simulate_grouped(seed=1)
    posterior = sampled(ht.models.CompletePooling(["x"]), made.data, seed=1, chains=4, warmup=20, draws=10)
    with refused(ModelError, "kind='probability' is for responses that are categories", "Normal"):
        posterior.predict(made.frame, kind="probability")
