"""Every ready structure and family against SciPy, by the contract of every model; and what they refuse."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from contracts.models import GROUPS, ROWS, ModelContract
from scipy import stats
from torch.distributions import Exponential, HalfNormal, Normal

import hiertorch as ht
from hiertorch import families, models
from hiertorch.errors import DataError, ModelError

TIMES = (0.0, 1.0, 2.5, 7.0)
RNG = np.random.default_rng(3)
SCHOOL = np.append(np.arange(GROUPS), RNG.integers(GROUPS, size=ROWS - GROUPS))
CLASS = SCHOOL * 2 + np.append(np.zeros(GROUPS, int), RNG.integers(2, size=ROWS - GROUPS))
COLUMNS = {
    "x": RNG.normal(size=ROWS),
    "z": RNG.normal(size=ROWS),
    "off": RNG.normal(size=ROWS),
    "u": np.linspace(-1.0, 1.0, GROUPS)[SCHOOL],
    "w": (np.arange(GROUPS) ** 2 / 10.0)[SCHOOL],
    "se": RNG.uniform(1.0, 2.0, size=ROWS),
    "trials": RNG.integers(1, 9, size=ROWS).astype(float),
    "time": RNG.uniform(0.5, 3.0, size=ROWS),
}
GROUPINGS = {
    "school": SCHOOL,
    "class": CLASS,
    "rater": np.append(np.arange(5), RNG.integers(5, size=ROWS - 5)),
    "year": np.append(TIMES, RNG.choice(TIMES, ROWS - 4)),
}
NEVER_READ = re.compile(r"grouping '\w+' is never read")


def made_data(plates=("school",), **options):
    y = RNG.integers(0, 2, size=ROWS)
    return ht.Data(y, groups={plate: GROUPINGS[plate] for plate in plates}, **COLUMNS, **options)


class StructureContract(ModelContract):
    plates = ("school",)

    def data(self):
        y = np.random.default_rng(1).integers(0, 2, size=ROWS)
        return ht.Data(y, groups={plate: GROUPINGS[plate] for plate in self.plates}, **COLUMNS)

    def mean(self, v):
        """eta of one chain by NumPy, from values `(size, *event)`."""
        raise NotImplementedError

    def prior(self, v):
        """Log prior of one chain by SciPy, without that of sigma_y."""
        raise NotImplementedError

    def reference(self, v, data):
        rows = stats.norm(self.mean(v), v["sigma_y"]).logpdf(data.y)
        return self.prior(v) + gamma(v["sigma_y"]), rows


def normal(x, mean=0.0, sd=2.0):
    return stats.norm(mean, sd).logpdf(x).sum()


def gamma(x, shape=1.0, rate=1.0):
    return stats.gamma(shape, scale=1.0 / rate).logpdf(x).sum()


def column(*names):
    return np.stack([COLUMNS[name] for name in names], -1)


def by_group(*names):
    first = [int(np.argmax(j == SCHOOL)) for j in range(GROUPS)]
    return column(*names)[first]  # (groups, U)


class TestNoPooling(StructureContract):
    def model(self):
        return models.NoPooling("school", ["x", "z"], varying=["x"], priors="tutorial")

    def prior(self, v):
        return normal(v["alpha"], sd=5.0) + normal(v["beta"]) + normal(v["beta_shared"])

    def mean(self, v):
        return v["alpha"][SCHOOL] + v["beta"][SCHOOL, 0] * COLUMNS["x"] + v["beta_shared"][0, 0] * COLUMNS["z"]


class TestNoPoolingOfIntercepts(StructureContract):
    def model(self):
        return models.NoPooling("school", priors="tutorial")

    def prior(self, v):
        return normal(v["alpha"], sd=5.0)

    def mean(self, v):
        return v["alpha"][SCHOOL]


class TestVaryingIntercepts(StructureContract):
    def model(self):
        return models.VaryingIntercepts("school", ["x"], group_predictors=["u", "w"], offset="off", priors="tutorial")

    def prior(self, v):
        mean = v["mu_alpha"] + by_group("u", "w") @ v["gamma"][0]
        own = normal(v["mu_alpha"], sd=5.0) + normal(v["beta"]) + normal(v["gamma"]) + gamma(v["sigma_alpha"])
        return own + normal(v["alpha"], mean, v["sigma_alpha"])

    def mean(self, v):
        return v["alpha"][SCHOOL] + v["beta"][0, 0] * COLUMNS["x"] + COLUMNS["off"]


class TestVaryingSlopes(StructureContract):
    def model(self):
        return models.VaryingSlopes(
            "school", ["x", "z", "off"], varying=["x", "z"], group_predictors=["u"], priors="tutorial"
        )

    def prior(self, v):
        mean = v["mu_beta"] + by_group("u") @ v["gamma"][0].T
        own = normal(v["alpha"], sd=5.0) + normal(v["mu_beta"]) + gamma(v["sigma_beta"])
        own += normal(v["beta_shared"]) + normal(v["gamma"])
        return own + normal(v["beta"], mean, v["sigma_beta"])

    def mean(self, v):
        slopes = (v["beta"][SCHOOL] * column("x", "z")).sum(-1)
        return v["alpha"] + slopes + v["beta_shared"][0, 0] * COLUMNS["off"]


class TestMixedEffects(StructureContract):
    def model(self):
        return models.MixedEffects("school", ["x", "z"], varying=["x"], group_predictors=["u"], priors="tutorial")

    def prior(self, v):
        more = by_group("u") @ v["gamma"][0].T  # (groups, 2)
        own = normal(v["mu_alpha"], sd=5.0) + normal(v["mu_beta"]) + gamma(v["sigma_alpha"]) + gamma(v["sigma_beta"])
        own += normal(v["beta_shared"]) + normal(v["gamma"])
        own += normal(v["alpha"], v["mu_alpha"] + more[:, 0], v["sigma_alpha"])
        return own + normal(v["beta"], v["mu_beta"] + more[:, 1:], v["sigma_beta"])

    def mean(self, v):
        return v["alpha"][SCHOOL] + v["beta"][SCHOOL, 0] * COLUMNS["x"] + v["beta_shared"][0, 0] * COLUMNS["z"]


class TestCorrelatedEffects(StructureContract):
    """K = 3: the LKJ density of L is prod_k L_kk^(K - k + 2 eta - 2) up to its constant (Lewandowski et al. 2009)."""

    def model(self):
        return models.CorrelatedEffects("school", ["x", "z"], group_predictors=["u"], priors="tutorial")

    def prior(self, v):
        mean = np.append(v["mu_alpha"], v["mu_beta"][0]) + by_group("u") @ v["gamma"][0].T
        root = np.append(v["sigma_alpha"], v["sigma_beta"][0])[:, None] * v["L"][0]
        own = normal(v["mu_alpha"], sd=5.0) + normal(v["mu_beta"]) + gamma(v["sigma_alpha"]) + gamma(v["sigma_beta"])
        own += normal(v["gamma"]) + lkj(v["L"][0], 2.0)
        return own + sum(
            stats.multivariate_normal(m, root @ root.T).logpdf(e) for m, e in zip(mean, v["effects"], strict=True)
        )

    def mean(self, v):
        return v["effects"][SCHOOL, 0] + (v["effects"][SCHOOL, 1:] * column("x", "z")).sum(-1)


def lkj(lower, eta):
    """Log density of a Cholesky factor of a 3 x 3 correlation matrix: the product of that of its partial correlations,
    Beta on (-1, 1), and the Jacobian to L."""
    partial = [lower[1, 0], lower[2, 0], lower[2, 1] / np.sqrt(1.0 - lower[2, 0] ** 2)]
    shapes = [eta + 0.5, eta + 0.5, eta]
    found = sum(stats.beta(a, a).logpdf((r + 1.0) / 2.0) - np.log(2.0) for a, r in zip(shapes, partial, strict=True))
    return found - 0.5 * np.log(1.0 - lower[2, 0] ** 2)


class TestUniformCorrelation(StructureContract):
    def model(self):
        return models.CorrelatedEffects("school", ["x", "z"], varying=["z"], correlation="uniform", priors="tutorial")

    def prior(self, v):
        scale, rho = np.append(v["sigma_alpha"], v["sigma_beta"]), float(v["rho"][0])
        covariance = np.outer(scale, scale) * np.array([[1.0, rho], [rho, 1.0]])
        own = normal(v["mu_alpha"], sd=5.0) + normal(v["mu_beta"]) + gamma(v["sigma_alpha"]) + gamma(v["sigma_beta"])
        own += normal(v["beta_shared"]) + stats.uniform(-0.9, 1.8).logpdf(rho)
        mean = np.append(v["mu_alpha"], v["mu_beta"])
        return own + stats.multivariate_normal(mean, covariance).logpdf(v["effects"]).sum()

    def mean(self, v):
        effects = v["effects"][SCHOOL]
        return effects[:, 0] + effects[:, 1] * COLUMNS["z"] + v["beta_shared"][0, 0] * COLUMNS["x"]


class TestHierarchicalPriors(StructureContract):
    def model(self):
        return models.HierarchicalPriors("school", ["x"], priors="tutorial")

    def prior(self, v):
        own = gamma(v["lambda_alpha"]) + gamma(v["lambda_y"]) + normal(v["mu_alpha"], sd=5.0) + normal(v["beta"])
        own += gamma(v["sigma_alpha"], 2.0, v["lambda_alpha"])
        own += gamma(v["sigma_y"], 2.0, v["lambda_y"]) - gamma(v["sigma_y"])
        return own + normal(v["alpha"], v["mu_alpha"], v["sigma_alpha"])

    def mean(self, v):
        return v["alpha"][SCHOOL] + v["beta"][0, 0] * COLUMNS["x"]


class TestRandomWalk(StructureContract):
    """Step by step, where the model has one multivariate normal."""

    plates = ("school", "year")

    def model(self):
        return models.TimeVarying("school", "year", ["x"], group_predictors=["u"], priors="tutorial")

    def prior(self, v):
        start = v["mu_alpha0"] + by_group("u") @ v["gamma"][0]
        own = normal(v["mu_alpha0"], sd=5.0) + normal(v["beta"]) + normal(v["gamma"])
        own += gamma(v["sigma_alpha"]) + gamma(v["sigma_time"]) + normal(v["alpha"][:, 0], start, v["sigma_alpha"])
        for t, gap in enumerate(np.diff(TIMES)):
            own += normal(v["alpha"][:, t + 1], v["alpha"][:, t], v["sigma_time"] * np.sqrt(gap))
        return own

    def mean(self, v):
        return v["alpha"][SCHOOL, np.searchsorted(TIMES, GROUPINGS["year"])] + v["beta"][0, 0] * COLUMNS["x"]


class TestAutoregression(TestRandomWalk):
    def model(self):
        return models.TimeVarying("school", "year", ["x"], dynamics="ar1", group_predictors=["u"], priors="tutorial")

    def prior(self, v):
        centre = v["mu_alpha0"] + by_group("u") @ v["gamma"][0]
        own = normal(v["mu_alpha0"], sd=5.0) + normal(v["beta"]) + normal(v["gamma"])
        own += gamma(v["sigma_alpha"]) + normal(v["alpha"][:, 0], centre, v["sigma_alpha"])  # phi ~ Uniform(0, 1): 0
        for t, gap in enumerate(np.diff(TIMES)):
            rho = v["phi"] ** gap
            mean = centre + rho * (v["alpha"][:, t] - centre)
            own += normal(v["alpha"][:, t + 1], mean, v["sigma_alpha"] * np.sqrt(1.0 - rho**2))
        return own


class TestNested(StructureContract):
    plates = ("school", "class")

    def model(self):
        return models.Nested(["school", "class"], ["x"], group_predictors={"school": ["u"]}, priors="tutorial")

    def prior(self, v):
        parent = np.array([label // 2 for label in np.unique(CLASS)])
        own = normal(v["mu"], sd=5.0) + normal(v["beta"]) + normal(v["gamma_school"])
        own += gamma(v["sigma_school"]) + gamma(v["sigma_class"])
        own += normal(v["alpha_school"], v["mu"] + by_group("u") @ v["gamma_school"][0], v["sigma_school"])
        return own + normal(v["alpha_class"], v["alpha_school"][parent], v["sigma_class"])

    def mean(self, v):
        return v["alpha_class"][np.searchsorted(np.unique(CLASS), CLASS)] + v["beta"][0, 0] * COLUMNS["x"]


class TestCrossed(StructureContract):
    plates = ("school", "rater")

    def model(self):
        return models.Crossed(["school", "rater"], ["x"], priors="tutorial")

    def prior(self, v):
        own = normal(v["mu"], sd=5.0) + normal(v["beta"]) + gamma(v["sigma_school"]) + gamma(v["sigma_rater"])
        own += normal(v["alpha_school"], 0.0, v["sigma_school"])
        return own + normal(v["alpha_rater"], 0.0, v["sigma_rater"])

    def mean(self, v):
        effects = v["alpha_school"][SCHOOL] + v["alpha_rater"][GROUPINGS["rater"]]
        return v["mu"] + effects + v["beta"][0, 0] * COLUMNS["x"]


# Priors


def test_priors_are_replaced_at_construction():
    priors = {"mu_alpha": Normal(1.0, 2.0), "sigma_alpha": "Exponential(3)", "beta": "Normal(0, scale=0.5)"}
    model = models.VaryingIntercepts("school", ["x", "z"], priors=priors)
    v = model.sample_prior(made_data(), 3, torch.Generator().manual_seed(0))
    terms = model.log_prior_terms(v, made_data())
    np.testing.assert_allclose(terms["mu_alpha"], stats.norm(1.0, 2.0).logpdf(v["mu_alpha"]), rtol=1e-6)
    np.testing.assert_allclose(terms["sigma_alpha"], stats.expon(scale=1 / 3).logpdf(v["sigma_alpha"]), rtol=1e-6)
    np.testing.assert_allclose(terms["beta"], stats.norm(0, 0.5).logpdf(v["beta"]).sum(-1), rtol=1e-6)
    assert list(model.latents) == list(models.VaryingIntercepts("school", ["x", "z"], priors="tutorial").latents)
    assert model.latents["beta"].labels == (("x", "z"),) and "Exponential(3)" in repr(model)


def test_a_prior_may_be_a_function_of_earlier_latents():
    model = models.VaryingIntercepts("school", priors={"sigma_y": lambda v: Exponential(1.0 / v.sigma_alpha)})
    assert model.check(made_data()) == []


def test_one_line_in_a_subclass_replaces_any_prior():
    class Own(models.Nested):
        beta = ht.Latent(Normal(0.0, 0.1))
        sigma_class = ht.Latent(HalfNormal(0.3))

    model = Own(["school", "class"], ["x", "z"], priors="tutorial")
    assert list(model.latents) == list(models.Nested(["school", "class"], ["x", "z"], priors="tutorial").latents)
    v = model.sample_prior(made_data(("school", "class")), 3, torch.Generator().manual_seed(0))
    terms = model.log_prior_terms(v, made_data(("school", "class")))
    np.testing.assert_allclose(terms["beta"], stats.norm(0, 0.1).logpdf(v["beta"]).sum(-1), rtol=1e-6)
    np.testing.assert_allclose(terms["sigma_class"], stats.halfnorm(0, 0.3).logpdf(v["sigma_class"]), rtol=1e-6)


@pytest.mark.parametrize(
    ("priors", "said"),
    [
        ({"mu": "Normal(0, 1)"}, "priors names 'mu', which VaryingIntercepts does not have here"),
        ({"mu_alpha": "Norml(0, 1)"}, "found 'Norml(0, 1)'"),
        ({"mu_alpha": "Normal(0, -1)"}, "found 'Normal(0, -1)'"),
        ({"mu_alpha": "Normal(0, x)"}, "found 'Normal(0, x)'"),
        ({"mu_alpha": "__import__('os')"}, "found"),
        ({"mu_alpha": "Normal"}, "found 'Normal'"),
        ({"mu_alpha": 3.0}, "the prior of 'mu_alpha' is a distribution, a function, or text"),
        ("wide", 'priors is "autoscale", "tutorial", or a mapping from latents to priors; found \'wide\''),
    ],
)
def test_priors_that_are_none(priors, said):
    with pytest.raises(ModelError, match=re.escape(said)):
        models.VaryingIntercepts("school", priors=priors)


def test_priors_follow_the_data_unless_told_otherwise():
    """2.5 sd(y) / sd(x) on coefficients, by NumPy's means and standard deviations. An intercept is the level where
    columns are 0: the variance at their means, and (mean / sd)^2 of it for each coefficient.
    """
    y = 250.0 + 40.0 * RNG.normal(size=ROWS)
    data = ht.Data(y, groups={"school": SCHOOL}, x=100.0 * COLUMNS["x"], z=COLUMNS["z"], u=COLUMNS["u"])
    model = models.CorrelatedEffects("school", ["x", "z"], group_predictors=["u"])
    v = model.sample_prior(data, 4, torch.Generator().manual_seed(0))
    terms = model.log_prior_terms(v, data)
    s, sds = y.std(ddof=1), np.array([100.0 * COLUMNS["x"].std(ddof=1), COLUMNS["z"].std(ddof=1)])
    a, b = (COLUMNS[name].mean() / COLUMNS[name].std(ddof=1) for name in ("x", "z"))
    c = COLUMNS["u"].mean() / COLUMNS["u"].std(ddof=1)
    slopes, upper = np.sqrt(1 + a**2 + b**2), np.sqrt(1 + c**2)

    def close(name, distribution):
        expected = distribution.logpdf(v[name].numpy()).reshape(4, -1).sum(1)
        np.testing.assert_allclose(terms[name].sum(1), expected, rtol=1e-6)

    class HalfT:
        def __init__(self, scale):
            self.scale = scale

        def logpdf(self, x):
            return np.log(2.0) + stats.t(4, scale=self.scale).logpdf(x)

    close("mu_alpha", stats.norm(y.mean(), 2.5 * s * slopes * upper))
    close("mu_beta", stats.norm(0.0, 2.5 * s / sds * upper))
    close("sigma_alpha", HalfT(s * slopes))
    close("sigma_beta", HalfT(s / sds))
    close("sigma_y", HalfT(s))
    widths = s * np.append(slopes, 1 / sds)[:, None] / COLUMNS["u"].std(ddof=1)
    close("gamma", stats.norm(0.0, 2.5 * widths))
    assert "Normal(mean(y), 2.5 sd(y) |1, mean(x) / sd(x)|)" in repr(model)


@pytest.mark.parametrize("priors", ["tutorial", "autoscale"])
@pytest.mark.parametrize("family", list(families.NAMES))
def test_every_structure_takes_every_family(family, priors):
    data = made_data(("school", "class", "rater", "year"))
    if not any(word in family for word in ("binomial", "poisson", "bernoulli", "geometric")):  # no whole numbers
        y = torch.linspace(0.1, 0.9, data.n_rows, dtype=data.dtype)
        data = data.replace(y=torch.where(y < 0.4, 0.0, y) if family in families.MADE else y)
    for model in (
        models.CompletePooling(["x"], family=family, priors=priors),
        models.NoPooling("school", ["x"], family=family, priors=priors),
        models.VaryingIntercepts("school", ["x"], group_predictors=["u"], family=family, priors=priors),
        models.VaryingSlopes("school", ["x"], family=family, priors=priors),
        models.MixedEffects("school", ["x"], family=family, priors=priors),
        models.CorrelatedEffects("school", ["x"], family=family, priors=priors),
        models.HierarchicalPriors("school", ["x"], family=family, priors=priors),
        models.TimeVarying("school", "year", ["x"], family=family, priors=priors),
        models.TimeVarying("school", "year", ["x"], dynamics="ar1", family=family, priors=priors),
        models.Nested(["school", "class"], ["x"], group_predictors={"school": ["u"]}, family=family, priors=priors),
        models.Crossed(["school", "rater"], ["x"], family=family, priors=priors),
    ):
        assert all(NEVER_READ.match(note) for note in model.check(data))
        density = model.log_prob(model.sample_prior(data, 3, torch.Generator().manual_seed(1)), data)
        assert density.shape == (3,) and not density.isnan().any()
        assert "eta" in repr(model)


# What a posterior has of them


@pytest.mark.slow
def test_correlations_are_reported(sample):
    model = models.CorrelatedEffects("school", ["x", "z"], priors="tutorial")
    posterior = sample(model, made_data(), chains=4, warmup=20, draws=10, seed=1)
    rho, lower = posterior["rho"], posterior["L"]
    assert list(posterior.summary("rho").index) == ["rho[intercept~x]", "rho[intercept~z]", "rho[x~z]"]
    matrix = (lower @ lower.mT).numpy()
    np.testing.assert_allclose(rho, np.stack([matrix[..., 1, 0], matrix[..., 2, 0], matrix[..., 2, 1]], -1))
    without = sample(model, made_data(), chains=4, warmup=20, draws=10, seed=1, keep=["mu_alpha", "sigma_y"])
    assert without.names == ["mu_alpha", "sigma_y"]


def test_derived_quantities_of_a_user(sample):
    class Ratio(models.VaryingIntercepts):
        icc = ht.Derived(lambda v: v.sigma_alpha**2 / (v.sigma_alpha**2 + v.sigma_y**2))
        away = ht.Derived(lambda v, data: v.alpha - v.mu_alpha + 0.0 * data.x.mean(), plate="school")

    posterior = sample(Ratio("school", priors="tutorial"), made_data(), chains=4, warmup=20, draws=10, seed=1)
    a, y = posterior["sigma_alpha"] ** 2, posterior["sigma_y"] ** 2
    torch.testing.assert_close(posterior["icc"], a / (a + y))
    torch.testing.assert_close(posterior["away"], posterior["alpha"] - posterior["mu_alpha"].unsqueeze(-1))
    assert posterior.group("away", 3).shape == (4, 10)
    with pytest.raises(ModelError, match="a derived quantity is a function of the latents"):
        ht.Derived(3.0)


@pytest.mark.parametrize(
    ("derived", "said"),
    [
        (ht.Derived(lambda v: v.sigma_z), "'sigma_z', which the model does not declare"),
        (ht.Derived(lambda v: v.alpha), "should be a tensor (chains, size, *event) that begins with (4, 1)"),
        (ht.Derived(lambda v: 3.0), "found float"),
        (ht.Derived(lambda v: v.alpha, plate="street"), "varies over plate 'street', which the data lack"),
        (
            ht.Derived(lambda v: v.beta, labels=["a", "b"]),
            "has labels for an event of shape (2,), but its event shape is (1,)",
        ),
    ],
)
def test_derived_quantities_are_checked_before_sampling(derived, said):
    model = models.VaryingIntercepts("school", ["x"], priors="tutorial")
    model.own = derived
    with pytest.raises(ModelError, match=re.escape(said)):
        model.check(made_data())


# Half-t


def test_half_student_t_against_scipy():
    scale, df = torch.tensor([0.5, 3.0], dtype=torch.float64), 4.0
    prior = ht.HalfStudentT(df, scale)
    x = torch.linspace(0.01, 9.0, 50, dtype=torch.float64)[:, None]
    expected = np.log(2.0) + stats.t(df, scale=scale.numpy()).logpdf(x.numpy())
    np.testing.assert_allclose(prior.log_prob(x), expected, rtol=1e-10)
    folded = [stats.t(df, scale=float(s)).expect(abs, epsabs=1e-9) for s in scale]
    np.testing.assert_allclose(prior.mean, folded, rtol=1e-6)
    np.testing.assert_allclose(prior.variance, scale.numpy() ** 2 * 2.0 - np.square(folded), rtol=1e-6)
    torch.manual_seed(0)
    draws = prior.expand((20_000, 2)).sample()[:, 1].numpy()  # error rate 1e-3
    assert stats.kstest(draws, lambda q: 2.0 * stats.t(df, scale=3.0).cdf(q) - 1.0).pvalue > 1e-3
    assert torch.isinf(ht.HalfStudentT(1.0, 1.0).mean) and torch.isinf(ht.HalfStudentT(2.0, 1.0).variance)
    with pytest.raises(ValueError, match="scale"):
        ht.HalfStudentT(4.0, -1.0)
    with pytest.raises(ValueError, match="support"):
        prior.log_prob(torch.tensor(-1.0))


# What is refused


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: models.VaryingSlopes("school", priors="tutorial"),
            "VaryingSlopes needs a predictor whose slope varies by group",
        ),
        (
            lambda: models.MixedEffects("school", ["x"], varying=[], priors="tutorial"),
            "MixedEffects needs a predictor whose slope varies",
        ),
        (
            lambda: models.VaryingSlopes("school", ["x"], varying=["z"], priors="tutorial"),
            "varying names 'z', which is none of the",
        ),
        (
            lambda: models.VaryingIntercepts("school", ["x"], varying=["x"], priors="tutorial"),
            "slopes do not vary in VaryingIntercepts",
        ),
        (
            lambda: models.VaryingIntercepts(["school"], priors="tutorial"),
            "plate is the name of a grouping, found ['school']",
        ),
        (
            lambda: models.NoPooling("school", group_predictors=["u"], priors="tutorial"),
            "NoPooling has no population of groups",
        ),
        (
            lambda: models.CorrelatedEffects("school", ["x"], correlation="none", priors="tutorial"),
            "correlation= is one of lkj, uniform",
        ),
        (
            lambda: models.CorrelatedEffects("school", ["x", "z"], correlation="uniform", priors="tutorial"),
            'correlation="uniform" is for an intercept and one slope, found 3 effects',
        ),
        (
            lambda: models.TimeVarying("school", "year", dynamics="ar2", priors="tutorial"),
            "dynamics= is one of random_walk, ar1",
        ),
        (lambda: models.Nested(["school"], priors="tutorial"), "Nested takes two groupings or more, found ['school']"),
        (lambda: models.Crossed(["school", "school"], priors="tutorial"), "plates names a column twice"),
        (
            lambda: models.Nested(["school", "class"], group_predictors={"year": ["u"]}, priors="tutorial"),
            "group_predictors names 'year', which is none of the plates ['school', 'class']",
        ),
        (lambda: models.Regression(["x"]), "Regression has no structure: write build(self) and eta(self, v, data)"),
    ],
)
def test_structures_that_make_no_sense(make, said):
    with pytest.raises(ModelError, match=re.escape(said)):
        make()


def test_group_predictors_that_vary_within_groups():
    model = models.VaryingIntercepts("school", group_predictors=["x"], priors="tutorial")
    with pytest.raises((ModelError, DataError), match="column 'x' varies within 'school'"):
        model.check(made_data())


def test_a_predictor_that_is_a_matrix():
    data = ht.Data(COLUMNS["x"], groups={"school": SCHOOL}, X=np.ones((ROWS, 3)))
    for model in (
        models.VaryingIntercepts("school", ["X"], priors="tutorial"),
        models.VaryingSlopes("school", ["X"], priors="tutorial"),
    ):
        with pytest.raises(ModelError, match=r"column 'X' is a matrix, \(40, 3\), and a predictor is one column"):
            model.check(data)


def test_groupings_that_do_not_nest():
    with pytest.raises((ModelError, DataError), match="'rater' does not nest in 'school'"):
        models.Nested(["school", "rater"]).check(made_data(("school", "rater")))


def test_times_that_are_no_numbers():
    data = ht.Data(COLUMNS["x"], groups={"school": SCHOOL, "year": [f"y{t}" for t in GROUPINGS["year"]]})
    with pytest.raises((ModelError, DataError), match="the labels of 'year' should be numbers or dates"):
        models.TimeVarying("school", "year").check(data)


def test_times_may_be_dates():
    days = pd.Timestamp("2024-03-01") + pd.to_timedelta(GROUPINGS["year"], unit="D")
    data = ht.Data(COLUMNS["x"], groups={"school": SCHOOL, "year": days})
    np.testing.assert_allclose(data.label_numbers("year"), TIMES)
    assert models.TimeVarying("school", "year", priors="tutorial").check(data) == []


# Columns by level


def test_columns_by_level():
    frame = pd.DataFrame({"y": ["no", "yes", "yes"], "g": [1, 1, 2], "kind": ["b", "a", "c=1"], "k=2": [1.0, 2.0, 3.0]})
    data = ht.Data.from_frame(frame, "y=yes", ["g"], ["kind=a", "kind=c=1", "k=2"])
    assert data.y.tolist() == [0.0, 1.0, 1.0] and data.name == "y=yes"
    assert data["kind=a"].tolist() == [0.0, 1.0, 0.0] and data["kind=c=1"].tolist() == [0.0, 0.0, 1.0]
    assert data["k=2"].tolist() == [1.0, 2.0, 3.0]  # a column of that very name
    columns, labels = data.read_rows(frame.iloc[[1]].drop(columns="y"))
    assert columns["kind=a"].tolist() == [1.0] and labels["g"].tolist() == [1]


def test_levels_that_are_none():
    frame = pd.DataFrame({"y": [1.0, 2.0, 3.0], "kind": ["a", "b", None], "g": [1, 1, 2]})
    with pytest.raises(DataError, match="column 'kind': 1 value is missing, first in row 2"):
        ht.Data.from_frame(frame, "y", ["g"], ["kind=a"])
    frame["kind"] = ["a", "b", "b"]
    with pytest.raises(DataError, match=r"column 'kind' has no level 'bb'; its levels: a, b. Did you mean 'b'"):
        ht.Data.from_frame(frame, "y", ["g"], ["kind=bb"])
    data = ht.Data.from_frame(frame, "y", ["g"], ["kind=b"])
    with pytest.raises(DataError, match="column 'kind' has level 'c', which the data that were fitted do not have"):
        data.read_rows(frame.assign(kind="c"))
    with pytest.raises(DataError, match="the frame has no column 'g'"):
        data.read_rows(frame.drop(columns="g"))
    data.read_rows(frame.assign(y=0.0))  # a column that was there, if it is not read, does no harm
    with pytest.raises(DataError, match="has column 'kinds', which the data that were fitted do not have"):
        data.read_rows(frame.assign(kinds=1.0))
    with pytest.raises(DataError, match=r"a table is a pandas DataFrame, .* found list"):
        data.read_rows([1])
    with pytest.raises(DataError, match="the frame of new rows is empty"):
        data.read_rows(frame.iloc[:0])


def test_groups_without_rows_of_a_frame():
    frame = pd.DataFrame({"y": [1.0, 2.0, 3.0], "g": ["a", "b", "a"]})
    data = ht.Data.from_frame(frame, "y", ["g"], labels={"g": ["a", "b", "c"]})
    assert data.size("g") == 3 and data.counts("g").tolist() == [2, 1, 0]
