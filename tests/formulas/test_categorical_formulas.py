"""Responses of categories without order in formulas: a predictor for each, its names, and all that is asked of them."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from builders import from_prior, refused
from scipy import special

import hiertorch as ht
from hiertorch.errors import DataError, ModelError

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
WORDS = ["bus", "car", "train"]


@cache
def frame() -> pd.DataFrame:
    r = np.random.default_rng(3)
    codes = np.append([0, 1, 2], r.choice(3, 57, p=[0.3, 0.5, 0.2]))
    word = np.array(WORDS)[codes]
    return pd.DataFrame(
        {
            "word": word,
            "kind": pd.Categorical(word, ["never", "train", "bus", "car"]),
            "number": np.array([7, 3, 5])[codes],
            "half": np.array([2.5, 0.5, 1.5])[codes],
            "true": codes == 1,
            "mixed": pd.Series([(7, "b", "c")[k] for k in codes], dtype=object),
            "spaced": np.array(["on foot", "by car", "n/a"])[codes],
            "x": r.normal(2.0, 1.0, 60),
            "z": r.normal(size=60),
            "g": np.repeat([*"uvwxyz"], 10),
        }
    )


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("word", WORDS),
        ("kind", ["train", "bus", "car"]),
        ("number", ["3", "5", "7"]),
        ("half", ["0.5", "1.5", "2.5"]),
        ("true", ["False", "True"]),
        ("mixed", ["7", "b", "c"]),
        ("spaced", ["by car", "n/a", "on foot"]),
    ],
)
def test_labels_of_any_type(name, labels):
    """In their own order, or sorted; the first is the reference."""
    model, data = ht.formula(f"{name} ~ x + (1 | g)", frame(), family="categorical")
    expected = [[f"mu_{label}", f"beta_{label}"] for label in labels[1:]]
    expected += [[f"sigma_g_{label}", f"effects_g_{label}"] for label in labels[1:]]
    assert list(model.latents) == [one for each in expected for one in each]
    assert model.family.categories == tuple(labels) and model.check(data) == []
    assert [labels[int(code)] for code in data.y] == frame()[name].astype(str).tolist()
    assert "softmax(0, eta_" in str(model) and ht.priors(model, data).index[0] == f"mu_{labels[1]}"


def test_density_by_scipy():
    """Of predictors that differ, with an offset in one of them."""
    model, data = ht.formula("word ~ x + (1 | g)", frame(), family="categorical", mu_train="~ z + offset(x)")
    assert list(model.latents) == ["mu_car", "beta_car", "mu_train", "beta_train", "sigma_g_car", "effects_g_car"]
    v = model.sample_prior(data, 2, torch.Generator().manual_seed(1))
    for c in range(2):
        w = {name: x[c].numpy() for name, x in v.items()}
        effects = w["effects_g_car"][np.repeat(np.arange(6), 10), 0]
        car = w["mu_car"][0] + w["beta_car"][0, 0] * frame().x + effects
        train = w["mu_train"][0] + w["beta_train"][0, 0] * frame().z + frame().x
        p = special.log_softmax(np.stack([0 * car, car, train], 1), 1)
        codes = frame()["word"].map(WORDS.index)
        np.testing.assert_allclose(model.log_likelihood(v, data)[c], p[np.arange(60), codes], rtol=1e-9)


def test_priors_lie_at_the_log_odds_of_each_category():
    model, data = ht.formula("word ~ 1", frame(), family="categorical", priors={"mu_train": "Normal(0, 1)"})
    counts = frame()["word"].value_counts()
    prior = model.prior("mu_car", model.values({}), data)
    assert float(prior.mean) == pytest.approx(np.log((counts["car"] + 0.5) / (counts["bus"] + 0.5)), rel=1e-12)
    assert float(prior.stddev) == 2.5 and model.latents["mu_train"].text == "Normal(0, 1)"
    both, data = ht.formula("word ~ 1", frame(), family="categorical")
    means = [float(both.prior(name, both.values({}), data).mean) for name in ("mu_car", "mu_train")]
    assert means[1] == pytest.approx(np.log((counts["train"] + 0.5) / (counts["bus"] + 0.5))) and means[0] != means[1]


def test_effects_of_categories_may_be_correlated():
    model, data = ht.formula("word ~ 1 + (1 |i| g)", frame(), family="categorical")
    assert list(model.latents) == ["mu_car", "mu_train", "sigma_g", "L_g", "effects_g"]
    assert model.latents["sigma_g"].axes == (("car_Intercept", "train_Intercept"),)
    slopes, _ = ht.formula("word ~ x + (x | g)", frame(), family="categorical")
    assert {"L_g_car", "L_g_train", "effects_g_car"} <= {*slopes.latents}
    v = model.sample_prior(data, 1, torch.Generator().manual_seed(1))
    eta = model.linear_predictor(model.values(v), data)
    assert eta.shape == (1, 60, 2)
    torch.testing.assert_close(eta[0, :, 1], v["mu_train"][0] + v["effects_g"][0, data["g"], 1])


def test_a_label_with_a_slash_is_exported_and_kept(tmp_path):
    posterior = from_prior(*ht.formula("spaced ~ x + (1 | g)", frame(), family="categorical"), 2, 5)
    assert {"mu_n_a", "effects_g_n_a", "mu_on foot"} <= {*posterior.to_arviz()["posterior"].data_vars}
    posterior.save(tmp_path / "p")
    assert torch.equal(ht.Posterior.load(tmp_path / "p")["mu_n/a"], posterior["mu_n/a"])


def test_many_coefficients_are_whitened():
    """30 numbers in each row."""
    r = np.random.default_rng(4)
    columns = {f"x{k}": r.normal(size=80) for k in range(9)}
    table = pd.DataFrame({**columns, "y": r.integers(4, size=80), "g": np.arange(80) % 10})
    model, data = ht.formula(f"y ~ {' + '.join(columns)} + (1 | g)", table, family="categorical")
    assert ht.plan(model, data).surrogate is not None


REFUSED = [
    ("log(number) ~ x", {}, ModelError, "the response of categories is a column alone"),
    ("word['bus'] ~ x", {}, ModelError, "the response of categories is a column alone"),
    ("word ~ x", {"phi": "~ x"}, ModelError, "a predictor each, mu_car, mu_train, and the formula names 'phi'"),
    ("word ~ x", {"mu_bus": "~ x"}, ModelError, "and the formula names 'mu_bus'"),
    ("word ~ x", {"family": ht.families.Categorical(4)}, DataError, "has 4 categories, and the response 'word' has 3"),
    (
        "word ~ x",
        {"family": ht.families.Categorical(["car", "bus", "train"])},
        DataError,
        "in another order (bus, car, train): list them in this one",
    ),
    ("word | rate(number) ~ x", {}, ModelError, "rate() is for families with a log link"),
    ("one ~ x", {}, ModelError, "has two categories or more"),
]


@pytest.mark.parametrize(("text", "options", "error", "sentence"), REFUSED)
def test_what_can_not_be_is_refused(text, options, error, sentence):
    with refused(error, sentence):
        ht.formula(text, frame().assign(one="a"), **{"family": "categorical", **options})


def test_two_effects_of_one_name_are_refused():
    with refused(ModelError, "would both be called 'g_car'"):
        ht.formula("word ~ (1 | g) + (1 |i| g_car)", frame().assign(g_car=frame().g), family="categorical")


@cache
def posterior() -> ht.Posterior:
    """Draws from narrow priors, which serve as well as others."""
    narrow = dict.fromkeys(("mu_car", "mu_train", "beta_car", "beta_train"), "Normal(0, 0.5)")
    priors = {**narrow, "sigma_g": "HalfNormal(0.5)"}
    return from_prior(*ht.formula("word ~ x + (1 |i| g)", frame(), family="categorical", priors=priors), 4, 30)


def by_hand(x: float, effects: np.ndarray) -> np.ndarray:
    """Probabilities `(draws, ..., 3)`, given effects `(draws, ..., 2)`."""
    v = {name: posterior()[name].flatten(0, 1).numpy() for name in ("mu_car", "mu_train", "beta_car", "beta_train")}
    level = np.stack([v[f"mu_{word}"] + v[f"beta_{word}"][:, 0] * x for word in WORDS[1:]], -1)
    eta = level.reshape(len(level), *(1,) * (effects.ndim - 2), 2) + effects
    return special.softmax(np.concatenate([0 * eta[..., :1], eta], -1), -1)


def test_the_mean_of_categories_is_their_probability():
    rows = frame()[["x", "g"]].iloc[[4, 30]]
    found, mean = posterior().predict(rows, kind="probability"), posterior().predict(rows)
    assert torch.equal(found.draws, mean.draws) and found.draws.shape == (4, 30, 2, 3)
    assert found.summary.index.tolist() == [(row, word) for row in (4, 30) for word in WORDS]
    effects = posterior()["effects_g"].flatten(0, 1).numpy()[:, 3]
    np.testing.assert_allclose(found.draws[:, :, 1].flatten(0, 1), by_hand(rows.x.iloc[1], effects), rtol=1e-6)
    assert set(posterior().predict(rows, kind="response", seed=1).draws.unique().tolist()) <= {0.0, 1.0, 2.0}
    new = frame().iloc[:5].assign(g="new")
    of_new = posterior().condition(new, seed=2).predict(new.iloc[:2], seed=3)
    torch.testing.assert_close(of_new.draws.sum(-1), torch.ones(4, 30, 2).double())


def test_new_groups_are_averaged_over():
    """By a finer product rule, in the coordinates of the covariance's own root."""
    x, w = np.polynomial.hermite_e.hermegauss(40)
    nodes, weights = np.stack(np.meshgrid(x, x), -1).reshape(-1, 2), np.outer(w, w).ravel() / w.sum() ** 2
    sigma, root = (posterior()[name].flatten(0, 1).numpy() for name in ("sigma_g", "L_g"))
    effects = nodes @ (sigma[:, :, None] * root).transpose(0, 2, 1)
    found = posterior().conditional_effects("x", values={"x": [-1.0, 0.5]})
    expected = [(by_hand(at, effects) * weights[:, None]).sum(1) for at in (-1.0, 0.5)]
    np.testing.assert_allclose(found.draws.flatten(0, 1), np.concatenate(expected, 1), atol=2e-5)
    assert found.effect == ("x", "category") and found.plot().axes[0].get_ylabel() == "P(word)"


def test_new_groups_are_averaged_over_in_three_dimensions():
    """By a product rule of 20 nodes along each."""
    table = frame().assign(y=np.arange(60) % 4)
    priors = dict.fromkeys(("mu_1", "mu_2", "mu_3"), "Normal(0, 0.5)") | {"sigma_g": "HalfNormal(1)"}
    drawn = from_prior(*ht.formula("y ~ 1 + (1 |i| g)", table, family="categorical", priors=priors), 2, 6)
    x, w = np.polynomial.hermite_e.hermegauss(20)
    nodes = np.stack(np.meshgrid(x, x, x), -1).reshape(-1, 3)
    weights = np.einsum("i,j,k->ijk", w, w, w).ravel() / w.sum() ** 3
    v = {name: drawn[name].flatten(0, 1).numpy() for name in ("mu_1", "mu_2", "mu_3", "sigma_g", "L_g")}
    effects = nodes @ (v["sigma_g"][:, :, None] * v["L_g"]).transpose(0, 2, 1)
    eta = np.stack([v["mu_1"], v["mu_2"], v["mu_3"]], -1)[:, None] + effects
    p = special.softmax(np.concatenate([0 * eta[..., :1], eta], -1), -1)
    found = drawn.predictions(pd.DataFrame(index=[0]).assign(x=0.0)).draws.flatten(0, 1)
    np.testing.assert_allclose(found, (p * weights[:, None]).sum(1), atol=2e-3)


def test_questions_about_each_category():
    slopes = posterior().slopes("x", average=True)
    assert [*slopes.summary["category"]] == WORDS and float(slopes.draws.sum(-1).abs().max()) < 1e-9
    assert posterior().comparisons({"x": 1.0}, average=True).draws.shape == (4, 30, 3)
    average = posterior().predictions(average=True).draws.sum(-1)
    torch.testing.assert_close(average, torch.ones(4, 30).double())
    assert [*posterior().fixef().index] == ["car_Intercept", "car_x", "train_Intercept", "train_x"]
    assert posterior().hypothesis("car_x - train_x > 0")["probability"].between(0, 1).all()
    assert posterior().varcorr().index.tolist() == [
        ("g", "car_Intercept", ""),
        ("g", "train_Intercept", ""),
        ("g", "car_Intercept", "train_Intercept"),
    ]
    assert posterior().ranef().shape[0] == 12
    with refused(ModelError, "R^2 is the share of a variance, and categories without order have none"):
        posterior().r2()
    assert any("several predictors" in one for one in posterior().pooling().messages)
    checked = posterior().predictive_check(draws=40)
    assert [*checked.table.index] == [f"share of {word}" for word in WORDS]
    later = frame().iloc[:8].assign(g="new")
    assert "slopes" in ht.monitor(posterior(), later).calibration.index


def test_a_posterior_is_saved_with_its_categories(tmp_path):
    posterior().save(tmp_path / "p")
    loaded, rows = ht.Posterior.load(tmp_path / "p"), frame()[["x", "g"]].head(3)
    found = loaded.predict(rows)
    assert torch.equal(found.draws, posterior().predict(rows).draws)
    assert [*found.summary.loc[1].index] == WORDS
    posterior().save(tmp_path / "q", data=False)
    assert torch.equal(ht.Posterior.load(tmp_path / "q").predict(rows).draws, found.draws)
    tree = posterior().to_arviz(log_likelihood=True)
    assert tree["posterior"]["sigma_g"].coords["sigma_g_dim_0"].values.tolist() == ["car_Intercept", "train_Intercept"]
    np.testing.assert_array_equal(tree["observed_data"]["word"], frame()["word"].map(WORDS.index))
