"""Groups, known and new, of exported models: formulas, ready structures, and classes of one's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from builders import from_prior, refused, sampled
from newgroups import by_torch
from torch.distributions import HalfNormal, Normal, Poisson, StudentT

import hiertorch as ht
from hiertorch import deploy
from hiertorch.errors import DataError, ModelError
from hiertorch.models import (
    CompletePooling,
    CorrelatedEffects,
    Crossed,
    EightSchools,
    HierarchicalPriors,
    MixedEffects,
    Nested,
    NoPooling,
    TimeVarying,
    VaryingIntercepts,
    VaryingSlopes,
)
from hiertorch.posterior import Posterior

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
SECTOR = dict(zip("ABCDEF", [0.0, 1.0, 0.0, 1.0, 1.0, 0.0], strict=True))


def frame() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), 60
    made = pd.DataFrame({"x": rng.normal(size=rows), "z": rng.uniform(1.0, 2.0, rows)})
    made["school"], made["room"] = rng.choice(list(SECTOR), rows), rng.integers(1, 4, rows)
    made["class"] = made.school + "/" + made.room.astype(str)
    made["year"], made["size"] = rng.choice([2001, 2002, 2005], rows), rng.choice(["small", "large"], rows)
    return made.assign(sector=made.school.map(SECTOR), y=rng.normal(size=rows))


FRAME = frame()


def posterior(model: ht.Model, groups: list[str], columns: list[str]) -> Posterior:
    data = ht.Data.from_frame(FRAME, response="y", groups=groups, predictors=columns)
    return from_prior(model, data, 2, 10)


def exported(fit: Posterior, path: Path) -> deploy.Exported:
    fit.export(path / "m.ht", draws=None)
    return deploy.load(path / "m.ht")


def new_rows(columns: list[str]) -> pd.DataFrame:
    """Rows of known groups, of new ones, and of new ones in known ones."""
    rows = FRAME.iloc[[0, 1, 2, 3, 4, 5]].copy()
    rows["school"] = ["A", "B", "new", "new", "other", "A"]
    rows["class"], rows["room"] = ["A/1", "B/9", "new/1", "new/1", "other/1", "A/9"], [1, 2, 9, 9, 3, 8]
    rows["sector"] = [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    return rows[columns]


class Heavy(VaryingIntercepts):
    """With a prior that is not normal."""

    alpha = ht.Latent(lambda v: StudentT(4.0, v.mu_alpha, v.sigma_alpha))


STRUCTURES: dict[str, tuple[Any, list[str], list[str]]] = {
    "complete": (CompletePooling(["x", "z"]), [], ["x", "z"]),
    "none": (NoPooling("school", ["x", "z"], varying=["x"]), ["school"], ["x", "z"]),
    "intercepts": (VaryingIntercepts("school", ["x"], group_predictors=["sector"]), ["school"], ["x", "sector"]),
    "priors": (HierarchicalPriors("school", ["x"], offset="z"), ["school"], ["x", "z"]),
    "levels": (VaryingIntercepts("school", ["size=small", "x"]), ["school"], ["size=small", "x"]),
    "slopes": (
        VaryingSlopes("school", ["x", "z"], varying=["x"], group_predictors=["sector"]),
        ["school"],
        ["x", "z", "sector"],
    ),
    "mixed": (MixedEffects("school", ["x", "z"], group_predictors=["sector"]), ["school"], ["x", "z", "sector"]),
    "correlated": (
        CorrelatedEffects("school", ["x", "z"], group_predictors=["sector"]),
        ["school"],
        ["x", "z", "sector"],
    ),
    "uniform": (CorrelatedEffects("school", ["x"], correlation="uniform"), ["school"], ["x"]),
    "nested": (
        Nested(["school", "class"], ["x"], group_predictors={"school": ["sector"]}),
        ["school", "class"],
        ["x", "sector"],
    ),
    "crossed": (Crossed(["school", "room"], ["x"]), ["school", "room"], ["x"]),
    "walk": (TimeVarying("school", "year", ["x"]), ["school", "year"], ["x"]),
    "ar1": (
        TimeVarying("school", "year", ["x"], dynamics="ar1", group_predictors=["sector"]),
        ["school", "year"],
        ["x", "sector"],
    ),
    "eight": (EightSchools("school", "z"), ["school"], ["z"]),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_ready_structures(name, tmp_path):
    model, groups, columns = STRUCTURES[name]
    fit = posterior(model, groups, columns)
    found = exported(fit, tmp_path)
    assert all(isinstance(one, deploy.Text) for _, one in found._lets) and found._lets
    rows = new_rows([*groups, *(column.partition("=")[0] for column in columns)])
    normals, expected = by_torch(fit, rows)
    prediction = found.predict(rows, new_groups="sample", normals=normals)
    np.testing.assert_allclose(prediction.draws, expected, rtol=1e-12, atol=1e-12)
    assert prediction.new.keys() == {plate for plate in groups if plate != "year"}
    level = found.predict(rows, new_groups="population").draws
    np.testing.assert_allclose(
        level, fit.predict(rows, new_groups="population").draws.flatten(0, 1), rtol=1e-12, atol=1e-12
    )


FORMULAS = {
    "y ~ x + (x || school) + (1 | school:room)": {},
    "y ~ x + (1 | school/class) + (0 + size | room)": {},
    "y ~ x + (x |i| school)": {"sigma": "~ z + (1 |i| school)"},
    "y ~ 0 + size + (0 + x + size | school) + (0 + z || school)": {"sigma": "~ 0 + x"},
}


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas(text, tmp_path):
    fit = from_prior(*ht.formula(text, FRAME, **FORMULAS[text]), 2, 10)
    rows = new_rows([*FRAME.columns]).drop(columns="y")
    normals, expected = by_torch(fit, rows)
    found = exported(fit, tmp_path).predict(rows, new_groups="sample", normals=normals)
    np.testing.assert_allclose(found.draws, expected, rtol=1e-12, atol=1e-12)


def test_effects_that_were_not_stored_are_drawn_again(tmp_path):
    model, data = ht.formula("y ~ x + (1 | school)", FRAME)
    fit = sampled(model, data, chains=4, warmup=100, draws=50, collapse=True, keep=["mu"], progress=False, seed=1)
    assert "effects_school" not in fit.draws
    found = exported(fit, tmp_path).predict(FRAME.iloc[:6]).summary["mean"]
    np.testing.assert_allclose(found, fit.predict(FRAME.iloc[:6]).summary["mean"], atol=0.1)


def test_a_posterior_without_its_rows_is_exported_likewise(tmp_path):
    fit = from_prior(*ht.formula("y ~ scale(x) + size + (x | school)", FRAME), 2, 10)
    fit.save(tmp_path / "rows")
    fit.save(tmp_path / "none", data=False)
    one, other = (exported(ht.Posterior.load(tmp_path / name), tmp_path) for name in ("rows", "none"))
    rows = FRAME.iloc[:5]
    assert np.array_equal(one.predict(rows).draws, other.predict(rows).draws)
    np.testing.assert_allclose(one.predict(rows).draws, fit.predict(rows).draws.flatten(0, 1), rtol=1e-12)


def test_draws_are_thinned(tmp_path):
    fit = from_prior(*ht.formula("y ~ x", FRAME), 4, 100)
    fit.export(tmp_path / "m.ht", draws=40)
    found = deploy.load(tmp_path / "m.ht")
    assert found.n_draws == 40
    np.testing.assert_allclose(
        found.predict(FRAME[:3]).draws, fit.taken(draws=slice(None, None, 10)).predict(FRAME[:3]).draws.flatten(0, 1)
    )


# What a reader says of groups


@pytest.fixture(scope="module")
def nested(tmp_path_factory):
    path = tmp_path_factory.mktemp("nested")
    model, groups, columns = STRUCTURES["nested"]
    return exported(posterior(model, groups, columns), path)


ROW = {"school": "A", "class": "A/1", "x": 0.1, "sector": 0.0}


def test_new_groups_are_announced(nested):
    assert nested.groups["school"] == [*SECTOR] or set(nested.groups["school"]) == {*SECTOR}
    with pytest.warns(UserWarning, match=r"not fitted, school 'new'; class 'new/1'.*pass new_groups='sample'"):
        nested.predict(ROW | {"school": "new", "class": "new/1"})
    with refused(deploy.DeployError, "new_groups='error'", "class 'A/7'"):
        nested.predict(ROW | {"class": "A/7"}, new_groups="error")


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"school": "a "}, ("school 'a ' is 'A' in the rows that were fitted, in another spelling",)),
        ({"school": "B", "sector": 1.0}, ("row 0", "another 'school' than other rows of its group of 'class'")),
        ({"sector": 1.0}, ("row 0", "another 'sector'", "'school'")),
        ({"school": None}, ("column 'school' lacks a value in row 0",)),
    ],
)
def test_groups_that_can_not_be_are_refused(nested, changed, parts):
    with refused(deploy.DeployError, *parts):
        nested.predict(ROW | changed)


def test_rows_of_one_new_group_agree(nested):
    rows = [ROW | {"school": "new", "class": "new/1", "sector": value} for value in (0.0, 1.0)]
    with refused(deploy.DeployError, "row 1 (from 0) has another 'sector'"):
        nested.predict(rows, new_groups="sample")


def test_a_new_group_has_one_effect_in_each_draw(nested):
    rows = [ROW | {"school": name, "class": f"{name}/1"} for name in ("new", "new", "other")]
    draws = nested.predict(rows, new_groups="sample", seed=1).draws
    assert np.array_equal(draws[:, 0], draws[:, 1]) and not np.isclose(draws[:, 0], draws[:, 2]).any()
    assert np.array_equal(draws, nested.predict(rows, new_groups="sample", seed=1).draws)
    assert not np.isclose(draws, nested.predict(rows, new_groups="sample", seed=2).draws).any()


def test_normal_numbers_have_the_shape_of_effects(nested):
    rows = ROW | {"school": "new", "class": "new/1"}
    with refused(deploy.DeployError, "normals of 'alpha_school' have shape (3, 1); expected (20, 1)"):
        nested.predict(rows, new_groups="sample", normals={"alpha_school": np.zeros((3, 1))})


def test_labels_that_are_numbers_or_days(tmp_path):
    days = pd.Timestamp("2020-01-01") + pd.to_timedelta(FRAME.room, unit="D")
    frame = FRAME.assign(day=days, number=FRAME.room * 1.0)
    fit = from_prior(*ht.formula("y ~ x + (1 | day) + (1 | number)", frame), 2, 10)
    found = exported(fit, tmp_path)
    expected = fit.predict(frame.iloc[:4]).draws.flatten(0, 1)
    as_python = [dict(zip(("x", "day", "number"), (x, d.to_pydatetime(), int(n)), strict=True))
                 for x, d, n in frame[["x", "day", "number"]].iloc[:4].itertuples(index=False)]  # fmt: skip
    for rows in (frame.iloc[:4], as_python):
        np.testing.assert_allclose(found.predict(rows, new_groups="error").draws, expected, rtol=1e-12)
    with refused(deploy.DeployError, "number '2' is 2.0", "distinct=True"):
        found.predict(frame.iloc[:1].assign(number="2"))
    fit = from_prior(*ht.formula("y ~ (1 | day)", frame.assign(day=days.dt.to_period("D").astype(object))), 2, 4)
    with refused(DataError, "grouping 'day' has labels such as", "with str, in the data"):
        exported(fit, tmp_path)


# Classes of one's own


class Growth(ht.Model):
    """y_i ~ Poisson(exp(a_j (1 - exp(-rate |x_i|)))), a curve of nobody else's."""

    top, rate, s = ht.Latent(Normal(0.0, 0.3)), ht.Latent(HalfNormal(1.0)), ht.Latent(HalfNormal(0.3))
    a = ht.Latent(lambda v: Normal(v.top, v.s), plate="school")

    def likelihood(self, v: Any, data: Any) -> Poisson:
        return Poisson((v.a[:, data.school] * (1 - (-v.rate * data.x.abs()).exp())).exp())


class Branching(Growth):
    """With a branch on a value."""

    def likelihood(self, v: Any, data: Any) -> Poisson:
        return super().likelihood(v, data) if float(v.rate.sum()) > 1e-9 else Poisson(v.rate)


class Bent(VaryingIntercepts):
    """A ready structure whose predictor is another one than it says."""

    def eta(self, v: Any, data: ht.Data) -> torch.Tensor:
        return super().eta(v, data) + 0.1 * data.x**2


def counted() -> Posterior:
    data = ht.Data.from_frame(FRAME.assign(y=1.0), response="y", groups=["school"], predictors=["x"])
    return from_prior(Growth(), data, 2, 10)


@pytest.mark.parametrize("name", ["growth", pytest.param("bent", marks=pytest.mark.slow)])
def test_classes_of_ones_own_go_as_programs(name, tmp_path):
    fit = counted() if name == "growth" else posterior(Bent("school", ["x"]), ["school"], ["x"])
    found = exported(fit, tmp_path)
    for rows in (new_rows(["school", "x"]), new_rows(["school", "x"]).iloc[:1], new_rows(["school", "x"]).iloc[2:3]):
        normals, expected = by_torch(fit, rows)
        prediction = found.predict(rows, new_groups="sample", normals=normals)
        np.testing.assert_allclose(prediction.draws, expected, rtol=1e-12)
    y = found.predict(new_rows(["school", "x"]), "response", "sample", seed=1).draws
    assert y.shape == (20, 6) and (name == "bent" or np.array_equal(y, y.round()))
    assert y.std() > 0.0


def test_what_torch_can_not_record_is_said(tmp_path):
    data = ht.Data.from_frame(FRAME.assign(y=1.0), response="y", groups=["school"], predictors=["x"])
    with refused(ModelError, "the likelihood of Branching can't be exported", "without branches on their values"):
        exported(from_prior(Branching(), data, 2, 4), tmp_path)


def test_effects_that_are_not_normal_have_no_new_groups(tmp_path):
    found = exported(posterior(Heavy("school", ["x"]), ["school"], ["x"]), tmp_path)
    assert found.predict({"school": ["A"], "x": [0.0]}).draws.shape == (20, 1)
    with refused(deploy.DeployError, "'school' can have no new labels ('new')", "the prior of 'alpha' is StudentT"):
        found.predict({"school": ["new"], "x": [0.0]}, new_groups="sample")


def test_a_time_that_was_not_fitted_is_refused(tmp_path):
    model, groups, columns = STRUCTURES["walk"]
    with refused(deploy.DeployError, "'year' has new labels 2009", "known ones: 2001, 2002, 2005"):
        exported(posterior(model, groups, columns), tmp_path).predict({"school": "A", "year": 2009, "x": 0.0})
