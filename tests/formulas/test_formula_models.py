"""Models of formulas: densities against ready structures and SciPy, priors, and what is asked of posteriors."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch.distributions import Gamma, HalfNormal, Independent, Normal, StudentT

import hiertorch as ht
from hiertorch.formulas.predictors import COMMON
from hiertorch.model.distributions import EntryWise

FIXED = {"mu": Normal(1.0, 5.0), "beta": Normal(0.5, 2.0), "sigma_y": Gamma(2.0, 1.0)}


@pytest.fixture(scope="module")
def frame():
    n, r = 60, np.random.default_rng(1)
    return pd.DataFrame(
        {
            "y": r.normal(size=n),
            "x": r.normal(1.0, 2.0, n),
            "z": r.uniform(1, 2, n),
            "count": r.poisson(3, n),
            "n": r.integers(4, 9, n),
            "t": r.uniform(0.5, 3.0, n),
            "kind": [*"abc"] * 20,
            "yes": r.choice(["no", "yes"], n),
            "g": np.repeat([*"uvwxyz"], 10),
            "h": np.repeat([*"pqr"], 20),
            "k": [*"stuv"] * 15,
        }
    )


def randoms(model, data, chains=3, seed=0):
    """A place of every chain, from standard normal numbers."""
    r = torch.Generator().manual_seed(seed)
    found = {}
    for name, latent in model.latents.items():
        size = 1 if latent.plate is None else len(data.labels[latent.plate])
        shape = (chains, size, *(len(axis) for axis in latent.axes))
        x = torch.randn(shape, generator=r, dtype=torch.float64)
        if name.startswith("L_"):
            x = torch.eye(2, dtype=torch.float64).expand(chains, 1, 2, 2).clone()
            rho = torch.rand(chains, 1, generator=r, dtype=torch.float64) - 0.5
            x[..., 1, 0], x[..., 1, 1] = rho, (1 - rho**2).sqrt()
        found[name] = x.exp() if name.startswith("sigma") else x
    return found


def frame_data(frame, groups, predictors=(), **more):
    return ht.Data.from_frame(frame, more.pop("response", "y"), groups=groups, predictors=list(predictors), **more)


def test_varying_intercepts_have_the_density_of_the_class(frame):
    model, data = ht.formula("y ~ x + z + (1 | g)", frame, priors={**FIXED, "sigma_g": HalfNormal(2.0)})
    ready = ht.models.VaryingIntercepts(
        "g",
        ["x", "z"],
        priors={
            "mu_alpha": FIXED["mu"],
            "sigma_alpha": HalfNormal(2.0),
            "beta": FIXED["beta"],
            "sigma_y": FIXED["sigma_y"],
        },
    )
    v = randoms(model, data)
    w = {"mu_alpha": v["mu"], "sigma_alpha": v["sigma_g"][..., 0], "beta": v["beta"], "sigma_y": v["sigma_y"]}
    w["alpha"] = v["mu"] + v["effects_g"][..., 0]
    other = frame_data(frame, ["g"], ["x", "z"])
    torch.testing.assert_close(model.log_prob(v, data), ready.log_prob(w, other), rtol=1e-12, atol=1e-10)


def test_correlated_effects_have_the_density_of_the_class(frame):
    priors = {**FIXED, "sigma_g": HalfNormal(2.0), "beta": FIXED["beta"]}
    model, data = ht.formula("y ~ x + (x | g)", frame, priors=priors)
    assert list(model.latents) == ["mu", "beta", "sigma_g", "L_g", "effects_g", "sigma_y"]
    ready = ht.models.CorrelatedEffects(
        "g",
        ["x"],
        priors={
            "mu_alpha": FIXED["mu"],
            "mu_beta": FIXED["beta"],
            "sigma_alpha": HalfNormal(2.0),
            "sigma_beta": HalfNormal(2.0),
            "sigma_y": FIXED["sigma_y"],
        },
    )
    v = randoms(model, data)
    mean = torch.cat([v["mu"][..., None], v["beta"]], -1)
    w = {
        "mu_alpha": v["mu"],
        "mu_beta": v["beta"],
        "sigma_alpha": v["sigma_g"][..., 0],
        "sigma_beta": v["sigma_g"][..., 1:],
        "L": v["L_g"],
        "effects": v["effects_g"] + mean,
        "sigma_y": v["sigma_y"],
    }
    other = frame_data(frame, ["g"], ["x"])
    torch.testing.assert_close(model.log_prob(v, data), ready.log_prob(w, other), rtol=1e-12, atol=1e-10)


def test_independent_slopes_have_the_density_of_the_class(frame):
    model, data = ht.formula("y ~ x + (x || g)", frame, priors={**FIXED, "sigma_g": HalfNormal(2.0)})
    assert "L_g" not in model.latents
    priors = {"mu_alpha": FIXED["mu"], "mu_beta": FIXED["beta"], "sigma_y": FIXED["sigma_y"]}
    scales = {"sigma_alpha": HalfNormal(2.0), "sigma_beta": HalfNormal(2.0)}
    ready = ht.models.MixedEffects("g", ["x"], priors={**priors, **scales})
    v = randoms(model, data)
    w = {"mu_alpha": v["mu"], "mu_beta": v["beta"], "sigma_alpha": v["sigma_g"][..., 0], "sigma_y": v["sigma_y"]}
    w |= {"sigma_beta": v["sigma_g"][..., 1:], "alpha": v["mu"] + v["effects_g"][..., 0]}
    w["beta"] = v["beta"] + v["effects_g"][..., 1:]
    other = frame_data(frame, ["g"], ["x"])
    torch.testing.assert_close(model.log_prob(v, data), ready.log_prob(w, other), rtol=1e-12, atol=1e-10)


def chance(eta):
    return 1 / (1 + np.exp(-eta))


def by_hand(frame, v, c, rows):
    """eta of "... ~ x * kind + offset(log(t)) + (0 + x | g) + (1 | h/k)" in plain loops, one chain."""
    found = np.zeros(len(rows))
    coefficient = dict(zip(["x", "b", "c", "x:b", "x:c"], v["beta"][c, 0].tolist(), strict=True))
    for i, row in enumerate(rows.to_dict("records")):
        eta = float(v["mu"][c, 0]) + coefficient["x"] * row["x"] + np.log(row["t"])
        if row["kind"] != "a":
            eta += coefficient[row["kind"]] + coefficient["x:" + row["kind"]] * row["x"]
        eta += float(v["effects_g"][c, "uvwxyz".index(row["g"]), 0]) * row["x"]
        eta += float(v["effects_h"][c, "pqr".index(row["h"]), 0])
        eta += float(v["effects_h:k"][c, sorted({*(frame.h + ":" + frame.k)}).index(f"{row['h']}:{row['k']}"), 0])
        found[i] = eta
    return found


def few(row, eta):
    return stats.binom.logpmf(row["n"] - 4, row["n"], chance(eta))


@pytest.mark.parametrize(
    ("left", "family", "density"),
    [
        ("count", "poisson", lambda row, eta: stats.poisson.logpmf(row["count"], np.exp(eta))),
        ("yes", "bernoulli", lambda row, eta: stats.bernoulli.logpmf(row["yes"] == "yes", chance(eta))),
        ('yes["no"]', "binomial", lambda row, eta: stats.bernoulli.logpmf(row["yes"] == "no", chance(eta))),
        ("cbind(n - 4, 4)", "binomial", few),
        ("n - 4 | trials(n)", "binomial", few),
        ("proportion(n - 4, n)", "binomial", few),
        ("count | rate(z)", "poisson", lambda row, eta: stats.poisson.logpmf(row["count"], row["z"] * np.exp(eta))),
        ("log(z) | se(t)", "gaussian", lambda row, eta: stats.norm.logpdf(np.log(row["z"]), eta, row["t"])),
        ("y | weights(z)", "student_t", None),
    ],
)  # fmt: skip
def test_rows_have_the_density_that_the_left_side_says(frame, left, family, density):
    model, data = ht.formula(f"{left} ~ x * kind + offset(log(t)) + (0 + x | g) + (1 | h/k)", frame, family=family)
    v = randoms(model, data)
    v = {name: 0.3 * x if name != "nu_y" else x.abs() + 3 for name, x in v.items()}
    found = model.log_likelihood(model.values(v), data)
    for c in range(3):
        eta = by_hand(frame, v, c, frame)
        if density is None:
            scale, df = float(v["sigma_y"][c, 0]), float(v["nu_y"][c, 0])
            expected = stats.t.logpdf(frame["y"], df, eta, scale)
            np.testing.assert_allclose(data.weights, frame["z"])
        else:
            expected = [density(row, e) for row, e in zip(frame.to_dict("records"), eta, strict=True)]
        np.testing.assert_allclose(found[c], expected, atol=1e-10)


def test_default_priors_are_those_of_the_ready_classes(frame):
    model, data = ht.formula("y ~ x + (x | g)", frame)
    ready = ht.models.CorrelatedEffects("g", ["x"])
    other = frame_data(frame, ["g"], ["x"])
    x = torch.tensor(1.7, dtype=torch.float64)
    for name, at, known in [
        ("mu", (), "mu_alpha"),
        ("beta", (0,), "mu_beta"),
        ("sigma_g", (0,), "sigma_alpha"),
        ("sigma_g", (1,), "sigma_beta"),
        ("sigma_y", (), "sigma_y"),
    ]:
        mine, its = model.prior(name, model.values({}), data), ready.prior(known, ready.values({}), other)
        mine, its = (getattr(prior, "base_dist", prior).log_prob(x) for prior in (mine, its))
        torch.testing.assert_close(mine[(..., *at)].squeeze(), its.squeeze())


def test_priors_by_entry(frame):
    model, data = ht.formula(
        "y ~ x + z + kind + (x | g)",
        frame,
        priors={
            "beta": "Normal(0, 2)",
            "beta[z]": "StudentT(3, 1, 0.5)",
            "sigma_g[x]": "HalfNormal(0.1)",
            "mu": "Cauchy(0, 1)",
        },
    )
    values = model.values({})
    beta = model.prior("beta", values, data)
    x = torch.tensor([0.3, -0.7, 1.1, 0.2], dtype=torch.float64)
    expected = stats.norm.logpdf(x[[0, 2, 3]], 0, 2).sum() + stats.t.logpdf(-0.7, 3, 1, 0.5)
    np.testing.assert_allclose(beta.log_prob(x), expected)
    sigma = model.prior("sigma_g", values, data)
    s = torch.tensor([0.4, 0.05], dtype=torch.float64)
    ready, _ = ht.formula("y ~ x + z + kind + (x | g)", frame)
    first = ready.prior("sigma_g", values, data).base_dist.log_prob(s)[..., 0]
    np.testing.assert_allclose(sigma.log_prob(s), first + stats.halfnorm.logpdf(0.05, scale=0.1))
    assert "StudentT(3, 1, 0.5) for z" in repr(model)


def test_priors_of_correlations_are_text(frame):
    model, data = ht.formula("y ~ x + (x | g)", frame, priors={"L_g": "LKJ(4)"})
    assert float(model.prior("L_g", model.values({}), data).concentration) == 4.0
    with pytest.raises(ht.ModelError, match="is no correlation"):
        ht.formula("y ~ x + (x | g)", frame, priors={"beta": "LKJ(4)"})


@pytest.mark.parametrize(
    "prior",
    ["Normal([0, 1], [1, 2])", Normal(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))],
)
def test_a_vector_of_priors_is_one_for_each_entry(frame, prior):
    made = [
        ht.formula("y ~ x + z + (1 | g)", frame, priors={"beta": prior}),
        (ht.models.VaryingIntercepts("g", ["x", "z"], priors={"beta": prior}), frame_data(frame, ["g"], ["x", "z"])),
    ]
    for model, data in made:
        assert "collapsed" in str(ht.plan(model, data))
        found = model.prior("beta", model.values({}), data).log_prob(torch.tensor([0.3, -0.7], dtype=torch.float64))
        np.testing.assert_allclose(found, stats.norm.logpdf([0.3, -0.7], [0, 1], [1, 2]).sum(), rtol=1e-6)
    model, data = ht.formula("y ~ x + z + (1 | g)", frame, priors={"beta": prior, "beta[z]": "Normal(5, 3)"})
    found = model.prior("beta", model.values({}), data).log_prob(torch.tensor([0.3, -0.7], dtype=torch.float64))
    np.testing.assert_allclose(found, stats.norm.logpdf([0.3, -0.7], [0, 5], [1, 3]).sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("priors", "sentence"),
    [
        ({"beta": "Normal([0, 0, 0], [1, 2, 3])"}, r"has 3 entries, and 'beta' has 2 \(x, z\): give one for each"),
        ({"beta": Independent(Normal(torch.zeros(3), 1.0), 1)}, r"3 entries, and 'beta' has 2 .* an entry, beta\[x\]"),
        ({"mu": "Normal([0, 0], [1, 2])"}, "the prior of 'mu' has 2 entries, and 'mu' has one"),
        ({"L_g": "LKJCholesky(3, 2)"}, r"'L_g' is of 2 effects, and .* of 3: write \"LKJ\(2\)\""),
        ({"L_g": "Normal(0, 1)"}, r"factor of correlations of 2 effects, .* \"LKJ\(2\)\".* found Normal\(0, 1\)"),
    ],
)
def test_priors_of_another_size_are_refused_at_once(frame, priors, sentence):
    with pytest.raises(ht.ModelError, match=sentence):
        ht.formula("y ~ x + z + (x | g)", frame, priors=priors)


def test_ready_classes_take_priors_of_correlations_as_text():
    for text in ("LKJ(4)", "lkj(eta = 4)", "LKJCholesky(2, 4)", "LKJCholesky(dim=2, concentration=4)"):
        ready = ht.models.CorrelatedEffects("g", ["x"], priors={"L": text})
        assert float(ready.latents["L"].prior.concentration) == 4.0


def test_ready_classes_take_priors_by_entry(frame):
    ready = ht.models.VaryingIntercepts("g", ["x", "z"], priors={"beta[z]": "Normal(1, 0.1)"})
    data = frame_data(frame, ["g"], ["x", "z"])
    v = ready.values({})
    plain = ht.models.VaryingIntercepts("g", ["x", "z"])
    mine, its = ready.prior("beta", v, data).base_dist, plain.prior("beta", v, data).base_dist
    assert mine.mean[..., 1] == 1.0 and mine.stddev[..., 1] == pytest.approx(0.1)
    torch.testing.assert_close(mine.stddev[..., 0].squeeze(), its.stddev[..., 0].squeeze())
    assert "Normal(1, 0.1) for z" in repr(ready) and "collapsed" in str(ht.plan(ready, data))
    fixed = ht.models.VaryingIntercepts("g", ["x", "z"], priors={"beta": "Normal(0, 3)", "beta[x]": "Normal(0, 1)"})
    assert fixed.prior("beta", v, data).base_dist.stddev.squeeze().tolist() == [1.0, 3.0]
    with pytest.raises(ht.ModelError, match=r"has no entry 'zz'; its entries: x, z\. Did you mean 'z'"):
        ht.models.VaryingIntercepts("g", ["x", "z"], priors={"beta[zz]": "Normal(1, 0.1)"})


def test_normal_entries_stay_normal_and_the_model_collapses(frame):
    model, data = ht.formula("y ~ x + z + (1 | g)", frame, priors={"beta[z]": "Normal(1, 0.1)"})
    assert isinstance(model.prior("beta", model.values({}), data).base_dist, Normal)
    assert "collapsed" in str(ht.plan(model, data))


def test_entries_of_several_kinds_against_scipy():
    made = EntryWise([Normal(1.0, 2.0), StudentT(4.0, 0.0, 0.5)])
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    expected = stats.norm.logpdf(x[:, 0], 1, 2) + stats.t.logpdf(x[:, 1], 4, 0, 0.5)
    np.testing.assert_allclose(made.log_prob(x), expected, rtol=1e-5)
    torch.manual_seed(1)
    drawn = made.expand((2,)).sample((20_000,))
    assert drawn.shape == (20_000, 2, 2) and made.mean.tolist() == [1.0, 0.0] and made.variance.tolist() == [4.0, 0.5]
    assert stats.kstest(drawn[:, 0, 0], stats.norm(1, 2).cdf).pvalue > 1e-3
    assert stats.kstest(drawn[:, 1, 1], stats.t(4, 0, 0.5).cdf).pvalue > 1e-3


def test_missing_values_are_dropped_when_that_is_asked_for(frame):
    some = frame.assign(x=frame["x"].where(frame["x"] > -1.5), other=np.nan)
    with pytest.raises(ht.DataError, match='take na="drop"'):
        ht.formula("y ~ x + (1 | g)", some)
    with pytest.warns(ht.SamplingWarning, match="rows lack a value"):
        _, data = ht.formula("y ~ x + (1 | g)", some, na="drop")
    assert data.n_rows == some["x"].notna().sum() and data.index.equals(some.index[some["x"].notna()])


def test_columns_may_have_any_name(frame):
    """Attributes of data, names of our own columns, dots and blanks."""
    names = {"x": "size", "z": "index", "g": "rows", "h": "weights", "y": "name", "k": "A level", "t": "a.b"}
    odd = frame.rename(columns=names)
    model, data = ht.formula("name ~ size * index + log(a.b) + (size | rows) + (1 | weights) + (1 | `A level`)", odd)
    plain, other = ht.formula("y ~ x * z + log(t) + (x | g) + (1 | h) + (1 | k)", frame)
    assert data.plates == ("rows", "weights", "A level")
    torch.testing.assert_close(data[COMMON], other[COMMON])
    v = randoms(plain, other)
    w = {name: x for name, x in zip(model.latents, v.values(), strict=True)}
    torch.testing.assert_close(model.log_prob(w, data), plain.log_prob(v, other))


def test_a_table_may_be_a_mapping(frame):
    model, data = ht.formula("y ~ x + (1 | g)", {name: frame[name].tolist() for name in ("y", "x", "g")})
    assert data.n_rows == 60 and list(model.latents) == ["mu", "beta", "sigma_g", "effects_g", "sigma_y"]
    with pytest.raises(ht.DataError, match="a table is a pandas DataFrame"):
        ht.formula("y ~ x", [1, 2, 3])


def test_a_table_may_have_the_arrow_interface(frame):
    pyarrow = pytest.importorskip("pyarrow")
    _, data = ht.formula("y ~ kind + (1 | g)", pyarrow.Table.from_pandas(frame))
    _, other = ht.formula("y ~ kind + (1 | g)", frame)
    torch.testing.assert_close(data[COMMON], other[COMMON])
    assert data.labels["g"].tolist() == other.labels["g"].tolist()


def test_one_line_fits_and_raw_frames_are_predicted(frame):
    """Rows of known and new groups, columns in another order; conditioning and updating read the response, too."""
    posterior = ht.fit("y ~ scale(x) + kind + (1 | g)", frame, seed=1, progress=False, chains=8, draws=100)
    assert {"mu", "sigma_g[Intercept]", "beta[scale(x)]", "beta[kind[b]]"} <= {*posterior.summary().index}
    new = frame.iloc[[5, 17]].drop(columns=["y", "count"])[["g", "kind", "x"]]
    found = posterior.predict(new)
    v = {name: posterior.draws[name] for name in ("mu", "beta", "effects_g")}
    x = (new["x"].to_numpy() - frame["x"].mean()) / frame["x"].std()
    for i, (_, row) in enumerate(new.iterrows()):
        eta = v["mu"][:, :, 0] + v["beta"][:, :, 0, 0] * x[i]
        if row["kind"] != "a":
            eta = eta + v["beta"][:, :, 0, "abc".index(row["kind"])]
        eta = eta + v["effects_g"][:, :, "uvwxyz".index(row["g"]), 0]
        torch.testing.assert_close(found.draws[:, :, i], eta)
    fresh = posterior.predict(new.assign(g="new"), new_groups="sample", seed=1)
    assert fresh.new["g"].tolist() == ["new"] and (fresh.summary["sd"] > found.summary["sd"]).all()
    more = frame.iloc[:3].assign(g="new")
    assert posterior.condition(more, seed=1) is not None
    assert posterior.update(more, seed=1) is not None


def test_the_table_of_priors_names_what_may_be_set(frame):
    model, data = ht.formula("y ~ x + z + (x | g)", frame, priors={"mu": "Normal(0, 3)"})
    table = ht.priors(model, data)
    names = ["mu", "beta", "beta[x]", "beta[z]", "sigma_g", "sigma_g[Intercept]", "sigma_g[x]", "L_g", "sigma_y"]
    assert table.index.tolist() == names and table.loc["mu"].tolist() == ["Normal(0, 3)", False]
    scale = 2.5 * frame["y"].std() / frame["x"].std()
    assert f"{scale:.4g}" in table["prior"]["beta"] and table["follows"]["beta"]
    for name in table.index:  # each can be given
        given = "LKJ(3)" if name == "L_g" else "HalfNormal(1)" if name.startswith("sigma") else "Normal(0, 1)"
        ht.formula("y ~ x + z + (x | g)", frame, priors={name: given})
    assert "sd(y)" in ht.priors(model)["prior"]["beta"]


def test_columns_of_a_formula_are_not_simulated():
    table = pd.DataFrame({"y": [0, 1, 2, 1], "x": [1.0, 2.0, 0.5, 1.5], "g": [*"aabb"]})
    for text, family in (
        ("y ~ x + (1 | g)", "gaussian"),
        ("y ~ (x | g)", "poisson"),
        ("y ~ 1 + (1 | g)", "categorical"),
    ):
        model, _ = ht.formula(text, table, family=family)
        with pytest.raises(ht.ModelError, match="can't make the columns of a formula"):
            ht.simulate_grouped(model=model, groups={"g": 3}, seed=1)
