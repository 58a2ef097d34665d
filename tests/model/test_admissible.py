"""Rows that no likelihood can take are refused at the fit and in new rows alike, with row and value."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import Binomial, Categorical, MixtureSameFamily, Normal, Poisson

import hiertorch as ht
from hiertorch.errors import DataError
from hiertorch.model import rowchecks
from hiertorch.models import EightSchools, VaryingIntercepts

RNG = np.random.default_rng(0)
TRIALS = RNG.integers(5, 20, 60)
FRAME = pd.DataFrame(
    {
        "g": np.repeat(np.arange(4), 15),
        "n": TRIALS,
        "k": RNG.binomial(TRIALS, 0.4),
        "c": RNG.poisson(3, 60),
        "e": 1.0,
        "y": RNG.normal(size=60),
        "s": 0.5,
    }
)
KINDS = {
    "binomial": (VaryingIntercepts("g", family=ht.families.Binomial("n"), priors="tutorial"), "k", "n"),
    "poisson": (VaryingIntercepts("g", family=ht.families.Poisson("e"), priors="tutorial"), "c", "e"),
    "negative binomial": (
        VaryingIntercepts("g", family=ht.families.NegativeBinomial("e"), priors="tutorial"),
        "c",
        "e",
    ),
    "gaussian": (VaryingIntercepts("g", family=ht.families.Gaussian("s"), priors="tutorial"), "y", "s"),
    "eight schools": (EightSchools("g", "s"), "y", "s"),
}
BAD = [
    ("binomial", 2.5, "trials are whole numbers, 0 or more"),
    ("binomial", -3.0, "trials are whole numbers, 0 or more"),
    *((kind, bad, "exposures are above 0") for kind in ("poisson", "negative binomial") for bad in (0.0, -1.0)),
    *((kind, bad, "standard errors are above 0") for kind in ("gaussian", "eight schools") for bad in (0.0, -1.0)),
]


def read(kind, frame):
    _, response, column = KINDS[kind]
    return ht.Data.from_frame(frame, response, ["g"], [column])


@pytest.fixture(scope="module")
def posteriors():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of short runs
        return {
            kind: ht.sample(model, read(kind, FRAME), seed=1, chains=2, warmup=20, draws=20, progress=False)
            for kind, (model, *_) in KINDS.items()
        }


def changed(column, bad, rows=(3, 5, 7)):
    frame = FRAME.astype({column: float})
    frame.loc[list(rows), column] = bad
    return frame


@pytest.mark.parametrize(("kind", "bad", "expected"), BAD)
def test_at_the_fit(kind, bad, expected):
    model, _, column = KINDS[kind]
    data = read(kind, changed(column, bad))
    sentence = f"column {column!r} has {bad:g} in row 3 (from 0); {expected}. So have 2 more rows. Correct the rows"
    for call in (ht.sample, ht.plan):
        with pytest.raises(DataError, match=re.escape(sentence)):
            call(model, data)
    assert data.check(model)["severity"].tolist() == ["error"]
    assert data.check(model)["about"].tolist() == [column]


@pytest.mark.parametrize(("kind", "bad", "expected"), BAD)
@pytest.mark.parametrize("asked", ["mean", "response", "condition", "monitor", "update"])
def test_in_new_rows(posteriors, kind, bad, expected, asked):
    posterior, column = posteriors[kind], KINDS[kind][2]
    new = FRAME[:2].astype({column: float}).set_axis(["a", "b"])
    new.loc["b", column] = bad
    sentence = f"column {column!r} has {bad:g} in row 'b' of the frame; {expected}. Correct"
    ask = {
        "condition": lambda: posterior.condition(new.assign(g=[7, 8]), prior_draws=10),
        "monitor": lambda: ht.monitor(posterior, new),
        "update": lambda: posterior.update(new),
    }.get(asked, lambda: posterior.predict(new, kind=asked))
    with pytest.raises(DataError, match=re.escape(sentence)):
        ask()


def test_more_successes_than_trials(posteriors):
    frame = FRAME.copy()
    frame.loc[[2, 9], "k"] = frame.loc[[2, 9], "n"] + 1
    k, n = frame.loc[2, ["k", "n"]]
    sentence = f"the response 'k' has {k} in row 2 (from 0), where 'n' has {n}; successes are whole numbers from 0 to"
    with pytest.raises(DataError, match=re.escape(sentence)):
        ht.sample(KINDS["binomial"][0], read("binomial", frame))
    for ask in (posteriors["binomial"].update, lambda f: ht.monitor(posteriors["binomial"], f)):
        with pytest.raises(DataError, match=r"the response 'k' has \d+ in row 2 of the frame, where 'n' has"):
            ask(frame[:4])


def test_what_can_be_is_taken(posteriors):
    """Zero trials are no fault, and a new row needs no response."""
    assert posteriors["binomial"].predict(pd.DataFrame({"g": [0], "n": [0]})).draws.abs().max() == 0.0
    assert np.isfinite(posteriors["poisson"].predict(pd.DataFrame({"g": [0], "e": [1e-9]})).summary["mean"].iloc[0])
    ht.plan(KINDS["binomial"][0], read("binomial", FRAME.assign(n=FRAME["n"].where(FRAME.index > 0, FRAME["k"]))))


# Models of one's own, which say nothing of their columns


class Estimates(ht.Model):
    mu = ht.Latent(Normal(0.0, 5.0))
    alpha = ht.Latent(Normal(0.0, 2.0), plate="g")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.g] + v.mu, data.s)


class Successes(Estimates):
    def likelihood(self, v, data):
        return Binomial(data.n, logits=v.alpha[:, data.g])


class Counts(Estimates):
    def likelihood(self, v, data):
        return Poisson(data.e * v.alpha[:, data.g].exp())


class Mixture(Estimates):
    def likelihood(self, v, data):
        mean = torch.stack([v.alpha[:, data.g], v.alpha[:, data.g] + 1.0], -1)
        each = Normal(mean, data.s[:, None].expand(-1, 2))
        return MixtureSameFamily(Categorical(torch.ones_like(mean)), each)


OWN = [
    (Estimates(), "y", "s", 0.0, "the scale of Normal is 0 there, and must be positive"),
    (Estimates(), "y", "s", -1.0, "the scale of Normal is -1 there, and must be positive"),
    (Successes(), "k", "n", 7.5, "the total_count of Binomial is 7.5 there, and must be a whole number"),
    (Successes(), "k", "n", -3.0, "the total_count of Binomial is -3 there, and must be a whole number"),
    (Mixture(), "y", "s", 0.0, "the scale of Normal is 0 there, and must be positive"),
]


@pytest.mark.parametrize(("model", "response", "column", "bad", "said"), OWN)
def test_columns_that_a_model_of_ones_own_reads(model, response, column, bad, said):
    frame = FRAME.astype({column: float})
    data = ht.Data.from_frame(frame, response, ["g"], [column])
    posterior = ht.sample(model, data, seed=1, chains=4, warmup=20, draws=20, progress=False)
    frame.loc[3, column] = bad
    with pytest.raises(DataError, match=re.escape(f"row 3 (from 0) has no likelihood: {said}")):
        ht.sample(model, ht.Data.from_frame(frame, response, ["g"], [column]))
    for ask in (posterior.predict, lambda f: ht.monitor(posterior, f), posterior.update):
        with pytest.raises(DataError, match=re.escape(f"row 3 of the frame has no likelihood: {said}")):
            ask(frame[2:5])


def test_a_column_that_makes_a_mean_impossible_whatever_the_latents():
    frame = FRAME.assign(e=FRAME["e"].where(FRAME.index != 3, -2.0))
    said = r"row 3 \(from 0\) has no likelihood in 100% of \d+ draws from the prior: the rate of Poisson is -"
    with pytest.raises(DataError, match=said):
        ht.sample(Counts(), ht.Data.from_frame(frame, "c", ["g"], ["e"]))
    data = ht.Data.from_frame(FRAME, "c", ["g"], ["e"])
    posterior = ht.sample(Counts(), data, seed=1, chains=4, warmup=20, draws=20, progress=False)
    for kind in ("mean", "response"):
        with pytest.raises(DataError, match="row 3 of the frame has no likelihood in 100% of the draws: the rate of"):
            posterior.predict(frame[:5], kind=kind)


def test_many_rows_are_looked_at_in_parts(monkeypatch):
    monkeypatch.setattr(rowchecks, "ROWS", 7)
    frame = FRAME.assign(s=FRAME["s"].where(FRAME.index != 51, 0.0))
    with pytest.raises(DataError, match=re.escape("row 51 (from 0) has no likelihood")):
        ht.plan(Estimates(), ht.Data.from_frame(frame, "y", ["g"], ["s"]))


class Line(Estimates):
    """Its rate is negative for some latents, at which the density is 0."""

    b = ht.Latent(Normal(0.0, 1.0))

    def likelihood(self, v, data):
        return Poisson(3.0 + v.b * data.e)


def test_latents_that_make_a_row_impossible_are_no_fault_of_the_row():
    x = np.linspace(-1, 1, 60)
    data = ht.Data.from_frame(FRAME.assign(e=x), "c", ["g"], ["e"])
    posterior = ht.sample(Line(), data, seed=1, chains=4, warmup=50, draws=50, progress=False)
    assert posterior.predict(pd.DataFrame({"g": [0], "e": [1.0]})).draws.min() >= 0
    with pytest.raises(DataError, match=r"row 0 of the frame has no likelihood in \d+% of the draws: the rate of"):
        posterior.predict(pd.DataFrame({"g": [0], "e": [30.0]}))
