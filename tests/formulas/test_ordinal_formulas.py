"""Ordered responses in formulas: how they are coded, thresholds in place of an intercept, and probabilities."""

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
        assert list(model.latents) == ["cuts_y", "beta", "sigma_g", "effects_g"]
        assert model.family.categories == tuple(labels) and data.y.tolist() == (frame["n"] - 1).tolist()
        assert model.latents["cuts_y"].axes == ((f"{labels[0]}|{labels[1]}", f"{labels[1]}|{labels[2]}"),)
        assert model.check(data) == []


def test_density_by_scipy(frame):
    """And the prior of thresholds is as wide as that of an intercept: 2.5 |1, mean(x) / sd(x)|."""
    model, data = ht.formula("y ~ x", frame, family="cumulative")
    cuts, beta = torch.tensor([[[-0.4, 1.1]]], dtype=torch.float64), torch.tensor([[[0.7]]], dtype=torch.float64)
    below = stats.logistic.cdf(np.array([-0.4, 1.1]) - 0.7 * frame["x"].to_numpy()[:, None])
    p = np.diff(np.c_[np.zeros(60), below, np.ones(60)], axis=1)
    found = model.log_likelihood({"cuts_y": cuts, "beta": beta}, data)[0]
    np.testing.assert_allclose(found, np.log(p[np.arange(60), frame["n"] - 1]), rtol=1e-9)
    ratio = frame["x"].mean() / frame["x"].std()
    each = stats.norm(0, 2.5 * np.hypot(1, ratio)).logpdf([-0.4, 1.1]).sum()
    own = each + np.log(2.0) + stats.norm(0, 2.5 / frame["x"].std()).logpdf(0.7)
    assert float(model.log_prior({"cuts_y": cuts, "beta": beta}, data)[0]) == pytest.approx(own)


def test_priors_of_thresholds_are_put_in_order(frame):
    model, data = ht.formula("y ~ x", frame, family="cumulative", priors={"cuts_y": "Normal(0, 4)"})
    prior = model.latents["cuts_y"].prior
    assert isinstance(prior, Ordered) and prior.size == 2 and float(prior.base.scale) == 4.0
    assert model.check(data) == []
    model, data = ht.formula("y ~ x", frame, family="acat", priors={"cuts_y[low|middle]": Normal(0.0, 4.0)})
    assert model.check(data) == []
    with refused(ModelError, "has one prior for all of its entries"):
        ht.formula("y ~ x", frame, family="cumulative", priors={"cuts_y[low|middle]": "Normal(0, 4)"})


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
