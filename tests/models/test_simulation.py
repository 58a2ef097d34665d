"""Simulated data: what was asked for is there, y follows the model, and nothing else is touched."""

import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal

import hiertorch as ht
from hiertorch.errors import DataError, ModelError

ALPHA = 1e-3
EFFECTS = [-1.2, -0.5, 0.2, 0.8, 1.1, 1.5]
ONE = {
    "complete pooling": ht.models.CompletePooling(["x"], priors="tutorial"),
    "no pooling": ht.models.NoPooling("school", ["x"], priors="tutorial"),
    "varying intercepts": ht.models.VaryingIntercepts(
        "school", ["x", "z"], group_predictors=["u"], offset="o", priors="tutorial"
    ),
    "varying slopes": ht.models.VaryingSlopes("school", ["x"], priors="tutorial"),
    "mixed effects": ht.models.MixedEffects("school", ["x"], group_predictors=["u"], priors="tutorial"),
    "correlated effects": ht.models.CorrelatedEffects("school", ["x", "z"], priors="tutorial"),
    "uniform correlation": ht.models.CorrelatedEffects("school", ["x"], correlation="uniform", priors="tutorial"),
    "hierarchical priors": ht.models.HierarchicalPriors("school", ["x"], priors="tutorial"),
    "eight schools": ht.models.EightSchools(),
    "priors by the data": ht.models.MixedEffects("school", ["x"]),
}
TIMED = {
    "random walk": ht.models.TimeVarying("school", "year", ["x"], priors="tutorial"),
    "AR(1)": ht.models.TimeVarying("school", "year", ["x"], dynamics="ar1", priors="tutorial"),
}
LEVELS = {
    "nested": ht.models.Nested(["school", "class"], ["x"], group_predictors={"school": ["u"]}, priors="tutorial"),
    "crossed": ht.models.Crossed(["school", "class"], ["x"], group_predictors={"class": ["u"]}, priors="tutorial"),
}
FAMILIES = {
    "gaussian": "gaussian",
    "se": ht.families.Gaussian("se"),
    "student_t": "student_t",
    "bernoulli": "bernoulli",
    "binomial": ht.families.Binomial("n"),
    "poisson": ht.families.Poisson("exposure"),
    "negative_binomial": ht.families.NegativeBinomial("exposure"),
}


class Narrow(ht.models.VaryingIntercepts):
    mu_alpha = ht.Latent(Normal(0.0, 1.0))
    beta = ht.Latent(Normal(0.0, 1.0))


EVERY = {
    **{name: (model, 5) for name, model in ONE.items()},
    **{name: (model, {"school": 5, "year": [1, 2, 5]}) for name, model in TIMED.items()},
    **{name: (model, {"school": 3, "class": 2}) for name, model in LEVELS.items()},
    **{name: (Narrow("school", ["x"], family=family, priors="tutorial"), 5) for name, family in FAMILIES.items()},
}


class TestWithoutAModel:
    """y_ij = effect_j + slope x_ij + noise, as in the tutorial."""

    def test_rows_follow_the_formula(self):
        """Residuals are Normal(0, noise) and x is Normal(0, 1): Kolmogorov's test, error rate 1e-3 each."""
        made = ht.simulate_grouped({"school": 6}, 500, effects=EFFECTS, slope=0.6, noise=0.8, seed=123)
        assert made.frame["school"].value_counts().to_dict() == {f"s{k}": 500 for k in range(1, 7)}
        effect = made.frame["school"].map(dict(zip(sorted(set(made.frame["school"])), EFFECTS, strict=True)))
        noise = made.frame["y"] - effect - 0.6 * made.frame["x"]
        assert stats.kstest(noise, stats.norm(0, 0.8).cdf).pvalue > ALPHA
        assert stats.kstest(made.frame["x"], stats.norm().cdf).pvalue > ALPHA
        assert abs(stats.pearsonr(noise, made.frame["x"]).statistic) < stats.norm.isf(ALPHA / 2) / 3000**0.5

    def test_truth_is_returned_by_name(self):
        made = ht.simulate_grouped(effects=EFFECTS, slope=0.6, noise=0.8, seed=123)
        assert made.values["alpha"].tolist() == EFFECTS
        assert {name: x.tolist() for name, x in made.values.items() if name != "alpha"} == {
            "beta": [[0.6]],
            "sigma_y": [0.8],
        }
        assert made.data.n_rows == 90

    def test_effects_are_drawn_if_left_out(self):
        """From Normal(0, 1): Kolmogorov's test, error rate 1e-3."""
        made = ht.simulate_grouped(2000, 1, seed=4)
        assert stats.kstest(made.values["alpha"], stats.norm().cdf).pvalue > ALPHA
        assert made.values["mu_alpha"].tolist() == [0.0] and made.values["sigma_alpha"].tolist() == [1.0]

    def test_unbalanced(self):
        made = ht.simulate_grouped(rows=[1, 30, 4], seed=1)
        assert made.data.counts("group").tolist() == [1, 30, 4]

    def test_default_number_of_groups(self):
        assert ht.simulate_grouped(seed=1).data.size("group") == 6

    def test_code_order_is_the_order_of_effects(self):
        """Twelve groups are s01 .. s12, which sort as they are numbered."""
        levels = np.arange(12.0) * 10
        made = ht.simulate_grouped({"school": 12}, 3, effects=levels, slope=0.0, noise=0.01, seed=1)
        assert list(made.data.labels["school"])[:2] == ["s01", "s02"]
        np.testing.assert_allclose(made.frame.groupby("school")["y"].mean(), levels, atol=0.05)

    def test_labels_of_ones_own(self):
        made = ht.simulate_grouped({"town": ["Ulm", "Bern"]}, 3, effects=[0.0, 100.0], seed=1)
        means = made.frame.groupby("town")["y"].mean()
        assert abs(means["Bern"]) < 10 < 90 < means["Ulm"]

    def test_printed(self):
        shown = repr(ht.simulate_grouped({"school": 3}, 4, effects=[-1, 0, 0.25], slope=0.6, noise=0.8, seed=12))
        assert shown == (
            "Simulated with seed 12. Data: 12 rows, response 'y'\n"
            "  columns: x\n"
            "  groupings: school (3 groups of 4 rows)\n"
            "  true values:\n"
            "  alpha   = -1, 0, 0.25\n"
            "  beta    = 0.6\n"
            "  sigma_y = 0.8"
        )


class TestWithAModel:
    @pytest.mark.parametrize("name", EVERY)
    def test_every_structure_and_family_fits_its_data(self, name):
        """Its own density of the rows is finite, the model finds nothing wrong, and values have the shapes of draws."""
        model, groups = EVERY[name]
        made = ht.simulate_grouped(groups, 6, model=model, seed=7)
        notes = model.check(made.data)
        assert notes == (["grouping 'group' is never read: " + NEVER] if name == "complete pooling" else [])
        chains = {latent: value.unsqueeze(0) for latent, value in made.values.items()}
        assert torch.isfinite(model.log_prob(chains, made.data)).all()
        drawn = model.sample_prior(made.data, 1)
        assert {k: x.shape[1:] for k, x in drawn.items()} == {k: x.shape for k, x in made.values.items()}
        assert list(made.values) == list(model.latents)

    @pytest.mark.parametrize("name", EVERY)
    def test_the_frame_gives_the_same_data(self, name):
        model, groups = EVERY[name]
        made = ht.simulate_grouped(groups, 6, model=model, seed=7)
        again = ht.Data.from_frame(made.frame, "y", list(made.data.plates))
        assert torch.equal(again.y, made.data.y)
        assert set(again.columns) == set(made.data.columns)
        assert all(torch.equal(again.columns[k], x) for k, x in made.data.columns.items())
        assert all(torch.equal(again.codes[k], x) for k, x in made.data.codes.items())
        assert all(again.labels[k].equals(x) for k, x in made.data.labels.items())

    def test_latents_are_drawn_from_their_prior(self):
        """mu_alpha over 300 seeds against Normal(0, 5): Kolmogorov's test, error rate 1e-3."""
        model = ht.models.VaryingIntercepts("school", priors="tutorial")
        drawn = [float(ht.simulate_grouped(2, 1, model=model, seed=k).values["mu_alpha"]) for k in range(300)]
        assert stats.kstest(drawn, stats.norm(0, 5).cdf).pvalue > ALPHA

    def test_given_values_are_kept_and_used(self):
        """Slopes of 400 groups with sds 1 and 2 and correlation 0.8; sample moments within 4 standard errors."""
        model = ht.models.CorrelatedEffects("school", ["x"], priors="tutorial")
        values = {"L": [[1, 0], [0.8, 0.6]], "sigma_alpha": 1.0, "sigma_beta": 2.0, "mu_alpha": 3, "mu_beta": -1}
        made = ht.simulate_grouped(400, 2, model=model, values=values, seed=3)
        effects = made.values["effects"].numpy()
        assert effects.mean(0) == pytest.approx([3, -1], abs=4 * 2 / 20)
        assert effects.std(0) == pytest.approx([1, 2], rel=4 / 800**0.5)
        assert np.corrcoef(effects.T)[0, 1] == pytest.approx(0.8, abs=4 * (1 - 0.64) / 20)
        assert made.values["mu_alpha"].tolist() == [3.0]

    @pytest.mark.parametrize(
        ("family", "values", "law"),
        [
            ("poisson", {}, lambda d: stats.poisson(np.exp(0.5))),
            (ht.families.Poisson("e"), {}, lambda d: stats.poisson(np.exp(0.5) * d.e.numpy())),
            (ht.families.Binomial("n"), {}, lambda d: stats.binom(d.n.numpy(), 1 / (1 + np.exp(-0.5)))),
            ("bernoulli", {}, lambda d: stats.bernoulli(1 / (1 + np.exp(-0.5)))),
            ("negative_binomial", {"phi_y": 2.0}, lambda d: stats.nbinom(2, 2 / (2 + np.exp(0.5)))),
            (ht.families.Gaussian("se"), {}, lambda d: stats.norm(0.5, d.se.numpy())),
            ("student_t", {"nu_y": 5.0, "sigma_y": 2.0}, lambda d: stats.t(5, 0.5, 2)),
        ],
    )
    def test_rows_follow_the_family(self, family, values, law):
        """Mean and variance of 4,000 standardised rows by SciPy, z-tests at an error rate of 1e-3 each."""
        model = ht.models.VaryingIntercepts("school", family=family, priors="tutorial")
        made = ht.simulate_grouped(4, 1000, model=model, values={"alpha": 0.5, **values}, seed=11)
        expected = law(made.data)
        z = (made.frame["y"].to_numpy() - expected.mean()) / expected.std()
        bound = stats.norm.isf(ALPHA / 2)
        assert abs(z.mean()) * 4000**0.5 < bound
        assert abs((z**2).mean() - 1) < bound * (z**2).std() / 4000**0.5

    def test_columns_are_such_as_the_family_needs(self):
        counts = ht.models.VaryingIntercepts("school", family=ht.families.Binomial("n"), priors="tutorial")
        n = ht.simulate_grouped(4, 200, model=counts, seed=1).frame["n"]
        assert (n.dtype, n.min(), n.max()) == (np.int64, 1, 20)
        errors = ht.models.VaryingIntercepts("school", family=ht.families.Gaussian("se"), priors="tutorial")
        assert (ht.simulate_grouped(4, 200, model=errors, seed=1).frame["se"] > 0).all()

    def test_group_predictors_are_constant_within_groups(self):
        frame = ht.simulate_grouped(5, 4, model=EVERY["varying intercepts"][0], seed=1).frame
        assert frame.groupby("school")["u"].nunique().tolist() == [1] * 5
        assert frame["u"].nunique() == 5
        assert frame["x"].nunique() == 20

    def test_classes_lie_in_schools(self):
        made = ht.simulate_grouped({"school": 3, "class": 2}, [1, 2, 3, 4, 5, 6], model=LEVELS["nested"], seed=1)
        assert list(made.data.labels["class"]) == ["s1/c1", "s1/c2", "s2/c1", "s2/c2", "s3/c1", "s3/c2"]
        assert made.data.parents("class", "school").tolist() == [0, 0, 1, 1, 2, 2]
        assert made.data.counts("class").tolist() == [1, 2, 3, 4, 5, 6]

    def test_three_levels(self):
        model = ht.models.Nested(["town", "school", "class"], priors="tutorial")
        made = ht.simulate_grouped({"town": 2, "school": 2, "class": 3}, 1, model=model, seed=1)
        assert made.data.n_rows == 12
        assert list(made.data.labels["class"])[3:7] == ["t1/s2/c1", "t1/s2/c2", "t1/s2/c3", "t2/s1/c1"]
        assert made.data.nests("class", "school") and made.data.nests("school", "town")

    def test_crossed_groups_all_have_rows_and_do_not_nest(self):
        made = ht.simulate_grouped(
            {"school": 20, "class": 30}, 2, model=ht.models.Crossed(["school", "class"], priors="tutorial"), seed=1
        )
        assert made.data.counts("school").tolist() == [2] * 20
        assert (made.data.counts("class") >= 1).all() and made.data.n_rows == 40
        assert not made.data.nests("class", "school") and not made.data.nests("school", "class")

    def test_times_are_numbers_and_all_occur(self):
        made = ht.simulate_grouped({"school": 4, "year": [1990, 1991, 1999]}, 2, model=TIMED["AR(1)"], seed=1)
        assert made.data.label_numbers("year").tolist() == [1990.0, 1991.0, 1999.0]
        assert (made.data.counts("year") >= 2).all()
        again = ht.simulate_grouped({"school": 4, "year": 3}, 6, model=TIMED["AR(1)"], seed=1)
        assert again.data.labels["year"].tolist() == [1, 2, 3]
        assert (again.frame.groupby(["school", "year"]).size() == 2).all()

    def test_a_structure_of_ones_own(self):
        class Steep(ht.models.VaryingIntercepts):
            beta = ht.Latent(Normal(10.0, 0.01))

        assert ht.simulate_grouped(3, model=Steep("s", ["x"], priors="tutorial"), seed=1).values[
            "beta"
        ].item() == pytest.approx(10, 0.01)


NEVER = "no latent varies over it and nothing uses its codes."


class TestRandomness:
    def test_same_seed_same_data(self):
        a, b, c = (ht.simulate_grouped(seed=seed) for seed in (5, 5, 6))
        assert a.frame.equals(b.frame)
        assert not a.frame["y"].equals(c.frame["y"])

    @pytest.mark.parametrize("model", [None, *ONE.values()])
    def test_torch_keeps_its_state(self, model):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        one = ht.simulate_grouped(3, 2, model=model, seed=9).frame
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert one.equals(ht.simulate_grouped(3, 2, model=model, seed=9).frame)

    def test_without_a_seed_it_says_which_it_took(self):
        a, b = ht.simulate_grouped(), ht.simulate_grouped()
        assert a.seed != b.seed
        assert a.frame.equals(ht.simulate_grouped(seed=a.seed).frame)


class Own(ht.Model):
    """Reads who knows what."""

    mu = ht.Latent(Normal(0.0, 1.0))


class Odd(ht.families.Family):
    columns = ("width",)


INTERCEPTS = ht.models.VaryingIntercepts("school", ["x"], priors="tutorial")
WRONG = {
    "no groups": (dict(groups=0), DataError, "whole number of at least 1"),
    "half a group": (dict(groups=2.5), DataError, "whole number of at least 1"),
    "no labels": (dict(groups={"school": []}), DataError, "whole number of at least 1"),
    "a label twice": (dict(groups={"school": ["a", "a"]}), DataError, "name 'a' twice"),
    "labels of two kinds": (dict(groups={"school": ["a", 1]}), DataError, "can't be sorted"),
    "no rows": (dict(rows=0), DataError, "whole numbers of at least 1, found 0"),
    "half a row": (dict(rows=1.5), DataError, "rows"),
    "rows of another length": (dict(groups=3, rows=[1, 2]), DataError, "rows has 2 numbers, and 'group' has 3 groups"),
    "effects of another length": (dict(groups=3, effects=[1.0, 2.0]), ModelError, "'alpha' should be numbers"),
    "no noise": (dict(noise=0.0), DataError, "noise is a standard deviation above 0"),
    "a negative seed": (dict(seed=-1), DataError, "seed= is a whole number"),
    "values without a model": (dict(values={"beta": 1}), ModelError, "give model="),
    "two groupings without a model": (dict(groups={"a": 2, "b": 2}), DataError, "one grouping, found a, b"),
    "effects with a model": (dict(model=INTERCEPTS, effects=[1.0]), ModelError, "values={'beta': 0.6}"),
    "an unknown latent": (dict(model=INTERCEPTS, values={"bta": 1}), ModelError, "'bta', which is no latent of Var"),
    "a derived quantity": (
        dict(model=ht.models.CorrelatedEffects("school", ["x"], priors="tutorial"), values={"rho": 0.8}),
        ModelError,
        "computed from them",
    ),
    "a wrong shape": (dict(model=INTERCEPTS, values={"beta": [1, 2]}), ModelError, "(size, *event) = (1, 1); found sh"),
    "no number": (dict(model=INTERCEPTS, values={"beta": "steep"}), ModelError, "found 'steep'"),
    "outside the support": (dict(model=INTERCEPTS, values={"sigma_y": -1.0}), ModelError, "outside its support"),
    "NaN": (dict(model=INTERCEPTS, values={"beta": float("nan")}), ModelError, "outside its support"),
    "another grouping": (dict(model=INTERCEPTS, groups={"class": 2}), DataError, "VaryingIntercepts, school; found cl"),
    "a number for two groupings": (dict(model=LEVELS["nested"], groups=3), DataError, "{'school': 6, 'class': 6}"),
    "a missing grouping": (dict(model=LEVELS["crossed"], groups={"school": 3}), DataError, "found school"),
    "more times than rows": (
        dict(model=TIMED["AR(1)"], groups={"school": 2, "year": 9}, rows=3),
        DataError,
        "9 groups of 'year' need as many rows",
    ),
    "a model of one's own": (dict(model=Own()), ModelError, "found Own"),
    "a class": (dict(model=ht.models.VaryingIntercepts), ModelError, "call it"),
    "a family of one's own": (
        dict(model=ht.models.VaryingIntercepts("school", family=Odd(), priors="tutorial")),
        ModelError,
        "nothing is known of column 'width'",
    ),
    "two columns of a name": (
        dict(model=ht.models.VaryingIntercepts("school", ["school"], priors="tutorial")),
        ModelError,
        "'school' would be two columns",
    ),
    "the response's name": (
        dict(model=ht.models.VaryingIntercepts("school", ["y"], priors="tutorial")),
        ModelError,
        "'y' would be two columns",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(case):
    arguments, error, words = WRONG[case]
    with pytest.raises(error, match=re.escape(words)):
        ht.simulate_grouped(**{"seed": 1, **arguments})
