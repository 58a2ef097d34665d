"""Posteriors of models of classes predict when they are loaded, with their rows and without."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from builders import QUIET, from_prior, refused
from safetensors.numpy import load_file
from torch.distributions import Gamma, HalfNormal, Independent, LKJCholesky, LogNormal, MultivariateNormal, Normal

import hiertorch as ht
from hiertorch import families, models
from hiertorch.data.table import is_first
from hiertorch.draws.constructing import class_named, said, spelled
from hiertorch.errors import SamplingWarning
from hiertorch.model.copies import prior_text

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
SHORT: dict[str, Any] = {**QUIET, "chains": 2, "draws": 6, "warmup": 10}


@cache
def pupils() -> pd.DataFrame:
    r = np.random.default_rng(2)
    room = np.repeat(np.arange(12), 6)
    x = r.normal(3.0, 2.0, len(room))
    frame = pd.DataFrame(
        {"school": np.array([*"abcd"])[room // 3], "room": room + 100, "x": x, "year": room % 6 + 2000}
    )
    frame["mean_x"] = frame.groupby("school")["x"].transform("mean")
    frame["kind"] = np.where(r.random(len(room)) < 0.4, "top", "low")
    frame["n"] = r.integers(1, 9, len(room))
    frame["wins"] = r.binomial(frame["n"], 0.4)
    frame["se"] = r.uniform(0.5, 1.0, len(room))
    frame["y"] = 2 + 0.5 * x + r.normal(size=4)[room // 3] + 0.4 * r.normal(size=len(room))
    return frame


def data_of(response: str = "y", groups: Any = ("school",), predictors: Any = ("x",), **more: Any) -> ht.Data:
    return ht.Data.from_frame(pupils(), response, [*groups], predictors, **more)


CASES: dict[str, Callable[[], tuple[ht.Model, ht.Data]]] = {
    "group-level predictors": lambda: (
        models.VaryingIntercepts("school", ["x"], group_predictors=["mean_x"]),
        data_of(predictors=["x", "mean_x"]),
    ),
    "correlated, with priors": lambda: (
        models.CorrelatedEffects("school", ["x"], priors={"sigma_y": HalfNormal(2.0), "mu_beta[x]": Normal(0.0, 1.0)}),
        data_of(),
    ),
    "nested": lambda: (models.Nested(["school", "room"], ["x"]), data_of(groups=["school", "room"])),
    "crossed": lambda: (models.Crossed(["school", "year"], ["x"]), data_of(groups=["school", "year"])),
    "in time": lambda: (models.TimeVarying("school", "year"), data_of(groups=["school", "year"], predictors=[])),
    "trials, by level": lambda: (
        models.VaryingIntercepts("school", ["top"], family=families.Binomial("n", link="probit")),
        data_of("wins", predictors={"top": "kind=top", "n": "n"}),
    ),
    "weighted": lambda: (models.MixedEffects("school", ["x"]), data_of(weights="se")),
    "standard errors": lambda: (models.EightSchools("school", "se"), data_of(predictors=["se"])),
    "every group by itself": lambda: (models.NoPooling("school", ["x"]), data_of()),
}


OFTEN = ("group-level predictors", "crossed", "weighted", "standard errors", "every group by itself")
"""Cases that differ little from others."""


def new_rows(data: ht.Data, *, fresh: bool) -> pd.DataFrame:
    """Some of the rows, with the columns that are read, of known groups or of new ones."""
    read = [*data.recipe.groups.values(), *(name.partition("=")[0] for name in data.recipe.columns.values())]
    frame = pupils().iloc[[3, 20, 50, 51]][list(dict.fromkeys(read))]
    if fresh:
        frame = frame.assign(**{name: frame[name].astype(object) for name in ("school", "room") if name in frame})
        frame.loc[frame.index[-2:], "school"] = "new"
        if "room" in frame:
            frame.loc[frame.index[-2:], "room"] = [900, 901]
    return frame


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in OFTEN)) for case in CASES])
def test_ready_models_predict_from_a_file(case: str, tmp_path: Path) -> None:
    """To the bit, with rows and without; of classes in schools new effects are other draws of the same prior, since
    theirs are drawn together with those of known groups, of which there are others.
    """
    model, data = CASES[case]()
    posterior = from_prior(model, data, 2, 6)
    posterior.save(tmp_path / "rows")
    posterior.save(tmp_path / "none", data=False)
    whole, outline = (ht.Posterior.load(tmp_path / name) for name in ("rows", "none"))
    assert whole.data.fingerprint == posterior.data.fingerprint and str(whole.model) == str(posterior.model)
    assert is_first(whole.data) and whole.data.index.equals(posterior.data.index)
    for fresh in [False] if case == "every group by itself" else [False, True]:
        rows, options = new_rows(data, fresh=fresh), {"new_groups": "sample", "seed": 3}
        expected = posterior.predict(rows, **options)
        assert torch.equal(whole.predict(rows, **options).draws, expected.draws)
        found = outline.predict(rows, **options)
        pd.testing.assert_index_equal(found.summary.index, expected.summary.index)
        if case == "nested" and fresh:
            assert torch.equal(found.draws[..., :2], expected.draws[..., :2])
        else:
            assert torch.equal(found.draws, expected.draws)
        again = posterior.predict(rows, "response", **options).draws
        assert torch.equal(whole.predict(rows, "response", **options).draws, again)


def test_without_rows_there_are_none_in_the_file(tmp_path: Path) -> None:
    """No number of the response or of the column is in it, but for the largest and the smallest."""
    model, data = CASES["correlated, with priors"]()
    from_prior(model, data, 2, 6).save(tmp_path / "none", data=False)
    tensors = {name: x for name, x in load_file(tmp_path / "none").items() if x.dtype == np.float64}
    for name in ("x", "y"):
        inner = np.sort(pupils()[name])[1:-1]
        assert not any(np.isin(inner, x).any() for x in tensors.values())
    outline = ht.Posterior.load(tmp_path / "none")
    with refused(ht.DataError, "saved without its rows", "load(path, model=..., data=...)"):
        outline.criterion()
    outline.save(tmp_path / "again", data=False)
    rows = new_rows(data, fresh=False)
    assert torch.equal(ht.Posterior.load(tmp_path / "again").predict(rows).draws, outline.predict(rows).draws)
    with refused(ht.DataError, "the frame has no column 'x'"):
        outline.predict(rows.drop(columns="x"))


def test_new_groups_are_conditioned_without_rows(tmp_path: Path) -> None:
    model, data = CASES["correlated, with priors"]()
    posterior = from_prior(model, data)
    posterior.save(tmp_path / "none", data=False)
    later = pupils().head(5)[["school", "x", "y"]].assign(school="new")
    expected, found = (one.condition(later, seed=1) for one in (posterior, ht.Posterior.load(tmp_path / "none")))
    pd.testing.assert_frame_equal(found.summary, expected.summary)


def test_effects_that_were_not_stored(tmp_path: Path) -> None:
    """Without rows there are new groups, and of known ones what is missing is said."""
    keep = ["mu_alpha", "sigma_alpha", "beta", "sigma_y"]
    posterior = ht.sample(models.VaryingIntercepts("school", ["x"]), data_of(), keep=keep, **SHORT)
    posterior.save(tmp_path / "p", data=False)
    loaded, rows = ht.Posterior.load(tmp_path / "p"), pupils().head(2)[["school", "x"]]
    new, options = rows.assign(school="new"), {"new_groups": "sample", "seed": 2}
    assert torch.equal(loaded.predict(new, **options).draws, posterior.predict(new, **options).draws)
    with refused(ht.DataError, "the draws of 'alpha' are needed", "keep="):
        loaded.predict(rows)


def test_float32_and_responses_by_chain(tmp_path: Path) -> None:
    data = data_of()
    shifted = data.replace(y=torch.stack([data.y, data.y + 1]))
    for k, one in enumerate([data.to(dtype=torch.float32), shifted]):
        posterior = from_prior(models.VaryingIntercepts("school", ["x"]), one, 2, 6)
        posterior.save(tmp_path / f"{k}")
        loaded = ht.Posterior.load(tmp_path / f"{k}")
        assert torch.equal(loaded.data.y, posterior.data.y) and loaded.data.fingerprint == one.fingerprint
        rows = new_rows(data, fresh=False)
        assert torch.equal(loaded.predict(rows).draws, posterior.predict(rows).draws)


# Classes of one's own

OWN = """
import hiertorch as ht
import torch
from torch.distributions import Gamma, Normal

class Leaning(ht.Model):
    mu = ht.Latent(Normal(0.0, 5.0))
    tau = ht.Latent(Gamma(2.0, 2.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))

    def __init__(self, plate, power=2, steps=None, twist=None):
        super().__init__()
        self.plate, self.power, self.twist = plate, power, twist
        self.register_buffer("steps", steps)
        self.alpha = ht.Latent(lambda v: Normal(v.mu, v.tau), plate=plate)

    def likelihood(self, v, data):
        x = data.x**self.power + self.steps.sum()
        return Normal(v.alpha[:, data[self.plate]] + (0.1 if self.twist is None else self.twist(0.1)) * x, v.sigma)
"""

READ = """
import sys, pandas as pd, torch, hiertorch as ht
rows = pd.DataFrame({"school": ["a", "new"], "x": [1.0, 2.0]})
posterior = ht.Posterior.load(sys.argv[1])
print(posterior.predict(rows, new_groups="sample", seed=3).draws.double().sum().item())
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module with a class, in a folder that is searched for modules."""
    (tmp_path / "leaning.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    import leaning  # type: ignore[import-not-found]

    yield leaning
    sys.modules.pop("leaning", None)


def leaning(module: Any, **arguments: Any) -> ht.Posterior:
    return from_prior(module.Leaning("school", steps=torch.tensor([0.5, 0.25]), **arguments), data_of(), 2, 6)


@pytest.mark.slow
@pytest.mark.parametrize("data", [True, False])
def test_a_class_of_one_s_own_predicts_in_a_new_process(own: Any, data: bool, tmp_path: Path) -> None:
    posterior = leaning(own, power=1)
    posterior.save(tmp_path / "p", data=data)
    rows = pd.DataFrame({"school": ["a", "new"], "x": [1.0, 2.0]})
    expected = posterior.predict(rows, new_groups="sample", seed=3).draws.sum().item()
    command = [sys.executable, "-W", "ignore", "-c", READ, str(tmp_path / "p")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert float(said) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        (("**self.power", "**(self.power + 1)"), ("density",)),
        (("Gamma(2.0, 2.0)", "Gamma(2.0, 3.0)"), ("the model is not the one that was fitted",)),
        (("class Leaning", "class Bent"), ("its class Leaning", "'leaning', which has no such class here")),
        (("power=2, ", ""), ("does not take the arguments", "power")),
        (
            ("import torch", "import no_such_module"),
            ("module 'leaning', which can't be imported here", "no_such_module"),
        ),
    ],
)
def test_a_class_that_is_another_now(
    own: Any, data: bool, change: tuple[str, str], sentences: tuple[str, ...], tmp_path: Path
) -> None:
    model = own.Leaning("school", power=1, steps=torch.tensor([0.5, 0.25]))
    noted = data and sentences == ("density",)  # by which the model is known is the log density of the run
    posterior = ht.sample(model, data_of(), **SHORT) if noted else from_prior(model, data_of(), 2, 6)
    posterior.save(tmp_path / "p", data=data)
    sys.modules.pop("leaning")
    (tmp_path / "leaning.py").write_text("# changed: another size than before\n" + OWN.replace(*change))
    posterior = ht.Posterior.load(tmp_path / "p")
    assert posterior.summary().shape[0] > 3
    with refused(ht.DataError, *sentences, "ht.Posterior.load(path, model=..., data=...)"):
        posterior.predict(pd.DataFrame({"school": ["a"], "x": [1.0]}))


@pytest.mark.parametrize("data", [True, False])
def test_what_a_file_can_not_hold_is_given(own: Any, data: bool, tmp_path: Path) -> None:
    posterior = leaning(own, twist=lambda x: 2 * x)
    posterior.save(tmp_path / "p", data=data)
    loaded, rows = ht.Posterior.load(tmp_path / "p"), pd.DataFrame({"school": ["a"], "x": [1.0]})
    with refused(
        ht.DataError, "argument 'twist' of Leaning is the function <lambda>", "load(path, model=..., data=...)"
    ):
        loaded.predict(rows)
    again = ht.Posterior.load(tmp_path / "p", model=posterior.model)
    assert torch.equal(again.predict(rows).draws, posterior.predict(rows).draws)
    if data:  # these draws are of the prior, and no density is noted
        return
    with refused(ht.ModelError, "density"):
        ht.Posterior.load(tmp_path / "p", model=own.Leaning("school", steps=torch.zeros(1), twist=lambda x: x))


@pytest.mark.parametrize("data", [True, False])
def test_a_class_of_a_function_is_found_by_nobody(data: bool, tmp_path: Path) -> None:
    class Local(models.VaryingIntercepts):
        pass

    posterior = from_prior(Local("school", ["x"]), data_of(), 2, 6)
    posterior.save(tmp_path / "p", data=data)
    rows = pupils().head(2)[["school", "x"]]
    with refused(ht.DataError, "its class Local was made inside of a function"):
        ht.Posterior.load(tmp_path / "p").predict(rows)
    again = ht.Posterior.load(tmp_path / "p", model=Local("school", ["x"]))
    assert torch.equal(again.predict(rows).draws, posterior.predict(rows).draws)


MAIN = """
import sys, pandas as pd, hiertorch as ht
from torch.distributions import Normal

class Plain(ht.Model):
    mu = ht.Latent(Normal(0.0, 5.0))
    def likelihood(self, v, data):
        return Normal(v.mu, 1.0)

data = ht.Data([1.0, 2.0, 0.5])
ht.sample(Plain(), data, chains=2, draws=5, warmup=5, seed=1, progress=False).save(sys.argv[1])
"""


@pytest.mark.slow
def test_a_class_of_a_script(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", MAIN, str(tmp_path / "p")]
    subprocess.run(command, capture_output=True, text=True, check=True)
    posterior = ht.Posterior.load(tmp_path / "p")
    with refused(ht.DataError, "its class Plain was written in the script or notebook that was run"):
        posterior.predict(pd.DataFrame({"x": [1.0]}))


class Reading(models.VaryingIntercepts):
    """Effects of groups have a prior by a number that it makes of the fitted rows itself."""

    def intercepts(self, v: Any, data: ht.Data) -> Normal:
        return Normal(v.mu_alpha, v.sigma_alpha * data.computed_once(("own", "sd"), lambda first: first.x.std()))


def test_models_that_read_more_than_an_outline_has(tmp_path: Path) -> None:
    posterior = from_prior(Reading("school", ["x"]), data_of(), 2, 6)
    with pytest.warns(SamplingWarning, match="predicts nothing without model and data: predictions of this model read"):
        posterior.save(tmp_path / "p", data=False)


def test_a_changed_model_is_not_made_again_by_its_arguments(tmp_path: Path) -> None:
    model = models.VaryingIntercepts("school", ["x"])
    model.sigma_y = ht.Latent(Gamma(3.0, 1.0))
    from_prior(model, data_of(), 2, 6).save(tmp_path / "p")
    with refused(ht.DataError, "VaryingIntercepts was changed after it was made"):
        ht.Posterior.load(tmp_path / "p").predict(pupils().head(2)[["school", "x"]])


# Arguments


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        0.1,
        "text",
        ["a", [1, 2.5]],
        ("a", (1,)),
        {"a": {"b": (1, 2)}},
        {0: 0.5, 2: 1.5},
        {"$odd": 1},
        np.arange(6.0).reshape(2, 3),
        np.int64(4),
        torch.tensor([[1.0, 2.0]]),
        torch.float32,
    ],
    ids=str,
)
def test_values_come_back(value: object) -> None:
    tensors = dict[str, torch.Tensor]()
    again = said(spelled(value, "it", tensors), tensors)
    if isinstance(value, np.ndarray | torch.Tensor):
        assert type(again) is type(value) and again.dtype == value.dtype
        np.testing.assert_array_equal(np.asarray(again), np.asarray(value))
    else:
        assert again == value and (type(again) is type(value) or isinstance(value, np.generic))


@pytest.mark.parametrize(
    "prior",
    [
        Normal(0.1, 2.0),
        HalfNormal(0.3),
        LogNormal(0.1, 0.7),
        Gamma(2.0, 0.1),
        ht.HalfStudentT(4, 2.5),
        LKJCholesky(3, 2.0),
        MultivariateNormal(torch.zeros(2), covariance_matrix=torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
        Independent(Normal(torch.zeros(2), torch.tensor([1.0, 2.0])), 1),
        ht.ordered(Normal(0.0, 2.0), 3),
    ],
    ids=prior_text,
)
def test_priors_come_back(prior: Any) -> None:
    """With the same log density to the bit at a draw."""
    tensors = dict[str, torch.Tensor]()
    again = said(spelled(prior, "it", tensors), tensors)
    assert type(again) is type(prior)
    x = prior.sample()
    assert torch.equal(again.log_prob(x), prior.log_prob(x))


@pytest.mark.parametrize(
    "family",
    [families.Binomial("n", link="probit"), families.Hurdle(families.Poisson()), families.Cumulative(4)],
    ids=repr,
)
def test_families_come_back(family: families.Family) -> None:
    tensors = dict[str, torch.Tensor]()
    again = said(spelled(family, "it", tensors), tensors)
    assert repr(again) == repr(family) and again.formula == family.formula and again.link == family.link


@pytest.mark.parametrize("value", [print, object(), {1, 2}, 1j, torch.tensor([1j]), np.array(["a"]), pd.Series([1])])
def test_what_is_refused(value: object) -> None:
    with refused(ht.DataError, "the argument is", "and a file holds"):
        spelled(value, "the argument", {})


def test_a_file_s_class_is_a_model() -> None:
    for module, name in (("os", "PathLike"), ("subprocess", "Popen"), ("builtins", "eval"), ("torch.nn", "Linear")):
        with refused(ht.DataError, "which has no such class here"):
            class_named([module, name], (ht.Model,))
