"""Options that there are not, and values that can't be, are errors in words wherever they are given."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import Normal

import hiertorch as ht
from hiertorch import families, models
from hiertorch.monitors import Monitor, ProgressBar

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.SamplingWarning")

FRAME = pd.DataFrame({"g": np.repeat(np.arange(6), 5), "x": np.linspace(-1, 1, 30)})
FRAME["y"] = FRAME["x"] + np.random.default_rng(0).normal(size=30)
SHORT = {"seed": 1, "chains": 2, "draws": 20, "warmup": 10, "progress": False}
NAN = float("nan")


@pytest.fixture(scope="module")
def data():
    return ht.Data.from_frame(FRAME, "y", ["g"], ["x"])


@pytest.fixture(scope="module")
def posterior(data):
    return ht.sample(models.VaryingIntercepts("g", ["x"]), data, **{**SHORT, "draws": 60})


WRONG = {
    "chains": ["3", 2.5, True, -1, 0, NAN],
    "warmup": ["3", 0, True, 1.0],
    "draws": ["3", 1e3, False],
    "thin": ["1", 0],
    "seed": ["1", -1, 1.5, True, 2**64],
    "device": [3.5, "gpu0", True, b"cpu"],
    "dtype": ["float32", torch.int64, torch.float16, float, None],
    "keep": ["alpah", 3, [3], ["alpah"], [], b"mu"],
    "keep_all": ["no", 1, None],
    "monitors": [3, "x", [3], Monitor(), Monitor, [Monitor], None],
    "progress": ["no", 1, None],
    "log_dir": [3, "", b"x", True],
    "plan": ["joint", 3, [("joint",)], [("jiont", ["beta"])], {"a": 1}],
    "collapse": ["off", 1, None, "auto", 0],
    "compile": ["no", "Auto", 1, 0, None],
    "init": [3, [1], {"x": 1}, {"beta": "a"}, {"beta": NAN}, {"sigma_y": -1}],
    "start": [3, "p"],
    "prior_only": ["no", 1, None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_options_of_sample(name, value, data):
    with pytest.raises(ht.HiertorchError) as error:
        ht.sample(models.VaryingIntercepts("g", ["x"]), data, **{**SHORT, name: value})
    assert "Traceback" not in str(error.value) and len(str(error.value)) > 20


HANDED_ON = {
    "update": lambda posterior, **options: posterior.update(FRAME.head(2), **options),
    "kfold": lambda posterior, **options: posterior.kfold(3, **options),
    "refit": lambda posterior, **options: posterior.refit(posterior.criterion(), **options),
    "prior_grid": lambda posterior, **options: ht.prior_grid(posterior.model, posterior.data, "beta", **options),
}


@pytest.mark.parametrize("use", HANDED_ON)
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"drws": 3}, r"no option drws=.*Did you mean 'draws'"),
        ({"collapse": "off"}, "collapse= is True or False"),
        ({"progress": "no"}, "progress= is True or False"),
        ({"chains": "3"}, "whole number"),
        ({"seed": "1"}, "whole number"),
        ({"monitors": 3}, "list of monitors"),
    ],
)
def test_options_that_are_handed_on(use, option, words, posterior):
    with pytest.raises(ht.HiertorchError, match=f"(?s){words}"):
        HANDED_ON[use](posterior, **option)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p, d: p.kfold(3, prior_only=True), "can't be chosen here"),
        (lambda p, d: p.update(FRAME.head(2), start=p), "can't be chosen here"),
        (lambda p, d: p.refit(p.criterion(), above="x"), "above="),
        (lambda p, d: p.refit(p.criterion(), above=NAN), "above="),
        (lambda p, d: ht.sample(p.model, d, drws=3), "no option drws=.*draws"),
        (lambda p, d: ht.plan(p.model, d, mvoes=[]), "no option mvoes=.*moves"),
        (lambda p, d: ht.plan(p.model, d, collapse="off"), "collapse= is True or False"),
        (lambda p, d: p.predict(FRAME.head(1), knd="mean"), "no option knd=.*kind"),
        (lambda p, d: ht.compare({}, avaraged=True), "no option avaraged="),
        (lambda p, d: ht.monitor(p, FRAME.head(2), sede=3), "no option sede=.*seed"),
        (lambda p, d: ht.monitor(3, FRAME.head(2)), "takes a posterior"),
        (lambda p, d: ht.prior_check(p.model, d, drws=3), "no option drws=.*draws"),
        (lambda p, d: ht.prior_grid(p.model, d, "beta", 3), "scales="),
        (lambda p, d: ht.prior_grid(p.model, d, "beta", names=3), "names="),
        (lambda p, d: p.model.check(d, prior_only="no"), "prior_only must be True"),
        (lambda p, d: p.sensitivity(3), "names="),
        (lambda p, d: p.group("alpha", [1]), "no group"),
        (lambda p, d: p.redraw("alpha", 3), "labels="),
        (lambda p, d: p.redraw("alpha", "ab"), "labels="),
        (lambda p, d: p.report(3), "path of a file"),
        (lambda p, d: p.report(None), "path of a file"),
        (lambda p, d: p.predictive_check({3: torch.mean}), "called by a text"),
        (lambda p, d: ht.simulate_grouped(effects=3), "effects are a list"),
        (lambda p, d: ht.simulate_grouped(noise="x"), "noise is"),
        (lambda p, d: ht.simulate_grouped(noise=NAN), "noise is"),
        (lambda p, d: ht.simulate_grouped(efects=[1.0]), "no option efects=.*effects"),
        (lambda p, d: ht.simulate_grouped(model=p.model, values=3), "by name"),
        (lambda p, d: p.model.sample_prior(d, "x"), "how many draws"),
        (lambda p, d: p.model.sample_prior(d, 2, 3), "torch.Generator"),
        (lambda p, d: p.model.sample_prior(d, 2, None, {"q": 3}), "given names 'q'"),
        (lambda p, d: p.model.simulate(3, d), "tensors by latent"),
        (lambda p, d: models.VaryingIntercepts("g", perdictors=["x"]), "no option perdictors=.*predictors"),
        (lambda p, d: models.CorrelatedEffects("g", ["x"], famly="poisson"), "no option famly=.*family"),
        (lambda p, d: models.VaryingIntercepts("g", 3), "list of column names"),
        (lambda p, d: models.VaryingIntercepts("g", offset=3), "offset is the name"),
        (lambda p, d: models.VaryingIntercepts("g", priors={"sigma_y": "HalfNormal('1')"}), "'1' is no number"),
        (lambda p, d: models.Nested(3), "list of column names"),
        (lambda p, d: models.Nested(["g", "h"], group_predictors=["u"]), "for each grouping"),
        (lambda p, d: models.TimeVarying("g", 3), "time is the name"),
        (lambda p, d: models.EightSchools("g", se=3), "names of a grouping and of a column"),
        (lambda p, d: families.Binomial(3), "trials= is the name"),
        (lambda p, d: families.Poisson(3), "exposure= is the name"),
        (lambda p, d: families.Gaussian(3), "se= is the name"),
        (lambda p, d: ht.Latent(Normal(0.0, 1.0), event=True), "event is a shape"),
        (lambda p, d: ht.Latent(Normal(0.0, 1.0), event=1.5), "event is a shape"),
        (lambda p, d: ht.Latent(Normal(0.0, 1.0), event=2, labels=3), "labels are a list"),
        (lambda p, d: ht.Latent(Normal(0.0, 1.0), evnt=2), "no option evnt=.*event"),
        (lambda p, d: ht.Derived(lambda v: v.mu, 3), "a plate is the name"),
        (lambda p, d: ht.Derived(lambda v: v.mu, labels=3), "labels are a list"),
        (lambda p, d: ProgressBar(3), "stream is where"),
    ],
)
def test_arguments_of_everything_else(call, words, posterior, data):
    with pytest.raises(ht.HiertorchError, match=f"(?s){words}"):
        call(posterior, data)


def test_an_unknown_option_is_a_type_error_too(data):
    with pytest.raises(TypeError, match="no option drws="):
        ht.sample(models.VaryingIntercepts("g"), data, drws=3)
