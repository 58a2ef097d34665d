"""Every question to a posterior, asked with arguments of all kinds, is answered or refused in a sentence."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import hiertorch as ht
from hiertorch import models
from hiertorch.errors import HiertorchError, SamplingWarning

ODD = [None, 3, -1, 2.5, "x", "", b"x", [], {}, float("nan"), object(), (1,), ["y"], True, {1}, int]
ODD += [torch.zeros(()), torch.zeros(2), np.float64(0.5), pd.DataFrame(), pd.Series([1])]

FRAME = pd.DataFrame({"g": np.repeat(np.arange(3), 10), "x": np.arange(30.0) / 10})
FRAME["y"] = np.random.default_rng(0).normal(size=30)
NEW = FRAME.head(2)
FRESH = NEW.assign(g=[7, 8])
DATA = ht.Data.from_frame(FRAME, "y", ["g"], ["x"])


@pytest.fixture(scope="module")
def posterior():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ht.sample(
            models.VaryingIntercepts("g", ["x"]), DATA, seed=1, chains=4, warmup=20, draws=30, progress=False
        )


QUESTIONS = {
    "name": lambda p, v: p[v],
    "contains": lambda p, v: v in p,
    "group of": lambda p, v: p.group(v, 0),
    "group": lambda p, v: p.group("alpha", v),
    "redraw of": lambda p, v: p.redraw(v),
    "redraw": lambda p, v: p.redraw("alpha", v),
    "effects": lambda p, v: p.effects(v),
    "log_marginal": lambda p, v: p.log_marginal(v),
    "predict frame": lambda p, v: p.predict(v),
    "predict kind": lambda p, v: p.predict(NEW, v),
    "predict new_groups": lambda p, v: p.predict(NEW, new_groups=v),
    "predict ci_prob": lambda p, v: p.predict(NEW, ci_prob=v),
    "predict seed": lambda p, v: p.predict(NEW, seed=v),
    "predict distinct": lambda p, v: p.predict(NEW, distinct=v),
    "condition frame": lambda p, v: p.condition(v),
    "condition draws": lambda p, v: p.condition(FRESH, prior_draws=v),
    "condition ci_prob": lambda p, v: p.condition(FRESH, prior_draws=5, ci_prob=v),
    "criterion kind": lambda p, v: p.criterion(v),
    "criterion by": lambda p, v: p.criterion(by=v),
    "kfold by": lambda p, v: p.kfold(99, v),
    "kfold stratify": lambda p, v: p.kfold(99, stratify=v),
    "kfold folds": lambda p, v: p.kfold(folds=v),
    "refit": lambda p, v: p.refit(v),
    "sensitivity": lambda p, v: p.sensitivity(v),
    "summary names": lambda p, v: p.summary(v),
    "summary ci_prob": lambda p, v: p.summary("mu_alpha", ci_prob=v),
    "summary kind": lambda p, v: p.summary("mu_alpha", kind=v),
    "summary round_to": lambda p, v: p.summary("mu_alpha", round_to=v),
    "update frame": lambda p, v: p.update(v),
    "update weights": lambda p, v: p.update(NEW, weights=v),
    "monitor": lambda p, v: ht.monitor(v, NEW),
    "monitor frame": lambda p, v: ht.monitor(p, v),
    "monitor false_alarm": lambda p, v: ht.monitor(p, v, false_alarm=v),
    "compare": lambda p, v: ht.compare(v),
    "compare one": lambda p, v: ht.compare({"a": p, "b": v}),
    "compare kind": lambda p, v: ht.compare({"a": p, "b": p}, kind=v),
    "compare by": lambda p, v: ht.compare({"a": p, "b": p}, by=v),
    "load": lambda p, v: ht.Posterior.load(v),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.filterwarnings("ignore")
def test_arguments_of_any_kind_give_a_sentence_or_an_answer(posterior, question, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = []
    for value in ODD:
        try:
            QUESTIONS[question](posterior, value)
        except HiertorchError:
            continue
        except Exception as error:
            raw.append((value, repr(error)))
    assert raw == []


READY = [
    models.CompletePooling(["x"]),
    models.NoPooling("g", ["x"]),
    models.VaryingIntercepts("g", ["x"]),
    models.VaryingIntercepts("g", ["x"], priors="tutorial"),
    models.VaryingSlopes("g", ["x"]),
    models.MixedEffects("g", ["x"], varying=["x"]),
    models.CorrelatedEffects("g", ["x"]),
    models.HierarchicalPriors("g", ["x"]),
    models.EightSchools("g", "x"),
    models.Nested(["h", "g"], ["x"]),
    models.TimeVarying("g", "h"),
]


@pytest.mark.parametrize("model", READY, ids=lambda model: type(model).__name__)
def test_ready_models_can_be_pickled(model):
    again = pickle.loads(pickle.dumps(model))
    assert str(again) == str(model)
    data = ht.Data.from_frame(FRAME.assign(h=[0] * 20 + [1] * 10, x=FRAME["x"] + 1.0), "y", ["g", "h"], ["x"])
    generators = (torch.Generator().manual_seed(3) for _ in range(2))
    one, two = (m.sample_prior(data, 2, generator) for m, generator in zip((model, again), generators, strict=True))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_posteriors_can_be_pickled(posterior):
    again = pickle.loads(pickle.dumps(posterior))
    assert again.fingerprint == posterior.fingerprint
    assert again.criterion().elpd == posterior.criterion().elpd


@pytest.mark.filterwarnings("ignore")
def test_rows_that_were_fitted_already_are_said(posterior):
    for rows in (FRAME, FRAME.tail(20)):
        with pytest.warns(SamplingWarning, match="new rows are the last that were fitted, value by value"):
            posterior.update(rows)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        posterior.update(FRAME.assign(y=FRAME["y"] + 0.1))
    assert not [one for one in caught if "value by value" in str(one.message)]
