"""What a structure declares enters its posterior: pooling, time, nesting, correlation, priors of priors.

Where a posterior has a closed form (scales held by priors a ten-thousandth wide) draws are compared with it by
`assert_matches`, at an error rate of 1e-3 each. Where an index is shuffled, posteriors before and after are held apart:
the 1% quantile of the one lies above the 99% quantile of the other, for data and seeds that are fixed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from references import Reference, assert_matches
from scipy import stats
from torch import Tensor

import hiertorch as ht
from hiertorch.models import (
    CompletePooling,
    CorrelatedEffects,
    HierarchicalPriors,
    Nested,
    NoPooling,
    TimeVarying,
    VaryingIntercepts,
)
from hiertorch.posterior import Posterior

Fit = Callable[..., Posterior]


def fixed(value: float) -> str:
    """A prior with mean `value` and an sd of 1e-4 of it."""
    return f"Gamma(1e8, {1e8 / value!r})"


@pytest.fixture
def fit(sample: Callable[..., Posterior]) -> Fit:
    """Runs that integrate out, 16 chains of 250 draws."""

    def run(model: ht.Model, data: ht.Data, **options: Any) -> Posterior:
        posterior = sample(model, data, **{"collapse": True, "chains": 16, "draws": 250, "seed": 1, **options})
        worst = posterior.diagnostics().loc["r_hat", "worst"]
        assert worst < 1.02
        return posterior

    return run


def apart(low: Tensor, high: Tensor) -> bool:
    """Whether the 99% quantile of one is below the 1% quantile of the other."""
    return bool(low.flatten().quantile(0.99) < high.flatten().quantile(0.01))


def normal(mean: Any, sd: Any) -> Reference:
    return Reference.of(*(stats.norm(m, s) for m, s in zip(np.atleast_1d(mean), np.atleast_1d(sd), strict=True)))


class TestPooling:
    """alpha_j ~ Normal(mu, tau), y_ij ~ Normal(alpha_j, s): with w_j = n_j tau^2 / (n_j tau^2 + s^2)

    E[alpha_j | y] = w_j ybar_j + (1 - w_j) E[mu | y],  var = w_j s^2 / n_j + (1 - w_j)^2 var(mu | y),
    var(mu | y)^-1 = 1/25 + sum_j (tau^2 + s^2 / n_j)^-1.
    """

    rows = np.array([2, 4, 15, 60])
    noise = 1.2
    made = ht.simulate_grouped(rows=rows.tolist(), effects=[2.0, -1.0, 1.2, -0.6], slope=0.0, noise=noise, seed=2)
    means = made.frame.groupby("group")["y"].mean().to_numpy()

    def partial(self, tau: float) -> tuple[Reference, Reference, np.ndarray]:
        """mu_alpha and alpha in closed form, and the weights w."""
        own = self.noise**2 / self.rows
        precision = 1 / (tau**2 + own)
        variance = 1 / (1 / 25 + precision.sum())
        mu = variance * (precision @ self.means)
        w = tau**2 * precision
        sd = np.sqrt(w * own + (1 - w) ** 2 * variance)
        return normal(mu, variance**0.5), normal(w * self.means + (1 - w) * mu, sd), w

    def varying(self, fit: Fit, tau: float) -> Posterior:
        priors = {"mu_alpha": "Normal(0, 5)", "sigma_alpha": fixed(tau), "sigma_y": fixed(self.noise)}
        return fit(VaryingIntercepts("group", priors=priors), self.made.data)

    def alone(self) -> Reference:
        """Each group's own mean against its Normal(0, 5)."""
        precision = self.rows / self.noise**2 + 1 / 25
        return normal(self.rows / self.noise**2 * self.means / precision, precision**-0.5)

    def together(self) -> Reference:
        """The mean of all rows against Normal(0, 5)."""
        precision = self.rows.sum() / self.noise**2 + 1 / 25
        return normal(self.made.frame["y"].sum() / self.noise**2 / precision, precision**-0.5)

    def test_no_pooling_is_each_group_by_itself(self, fit):
        posterior = fit(
            NoPooling("group", priors={"alpha": "Normal(0, 5)", "sigma_y": fixed(self.noise)}), self.made.data
        )
        assert_matches(posterior["alpha"], self.alone(), name="alpha")

    def test_complete_pooling_is_one_group(self, fit):
        posterior = fit(CompletePooling(priors={"alpha": "Normal(0, 5)", "sigma_y": fixed(self.noise)}), self.made.data)
        assert_matches(posterior["alpha"], self.together(), name="alpha")

    @pytest.mark.parametrize("tau", [0.3, 1.0])
    def test_partial_pooling_is_the_precision_weighted_mean(self, fit, tau):
        posterior = self.varying(fit, tau)
        mu, alpha, _ = self.partial(tau)
        assert_matches(posterior["mu_alpha"], mu, name="mu_alpha")
        assert_matches(posterior["alpha"], alpha, name="alpha")

    def test_it_lies_between_the_group_and_the_population(self, fit):
        """And groups with fewer rows move farther to the population: shares 1 - w of the way, each within 0.02."""
        posterior = self.varying(fit, 0.6)
        found, mu = posterior["alpha"].mean((0, 1)).numpy(), float(posterior["mu_alpha"].mean())
        shrunk = (self.means - found) / (self.means - mu)
        assert ((shrunk > 0) & (shrunk < 1)).all()
        assert (np.diff(shrunk) < 0).all()
        np.testing.assert_allclose(shrunk, 1 - self.partial(0.6)[2], atol=0.02)

    def test_the_two_extremes_are_its_limits(self, fit):
        """With tau near 0 it is complete pooling, with a large one no pooling: means within 0.08 sd, sds within 5%."""
        for tau, limit in ((1e-3, self.together()), (100.0, self.alone())):
            drawn = self.varying(fit, tau)["alpha"]
            expected, sd = np.broadcast_to(limit.mean, 4), np.broadcast_to(limit.sd, 4)
            # An sd of 100 for the groups stands in for one of 5, which counts a little with two rows.
            slack = 0.08 + (np.abs(limit.mean) / 25 * sd if tau > 1 else 0.0)
            assert (np.abs(drawn.mean((0, 1)).numpy() - expected) / sd < slack).all()
            np.testing.assert_allclose(drawn.flatten(0, 1).std(0), sd, rtol=0.05)


class TestTime:
    # With one row a school and year, noise and steps are told apart by a prior that keeps noise away from 0.
    _wide = dict.fromkeys(("sigma_alpha", "sigma_time"), "Gamma(1, 1)")
    model = TimeVarying("school", "year", priors={"mu_alpha0": "Normal(0, 5)", "sigma_y": "Gamma(3, 6)", **_wide})

    @pytest.mark.slow
    def test_shuffled_times_change_the_posterior(self, fit):
        """Steps of 0.5 a year are found (mean 0.6); in shuffled years there are none (0.1), and levels that moved
        count as noise: sigma_y rises from 0.2 to 0.8. Paths are lost: their distance from the truth doubles
        at least.
        """
        values = {"sigma_time": 0.5, "sigma_alpha": 1.0, "sigma_y": 0.3, "mu_alpha0": 0.0}
        made = ht.simulate_grouped({"school": 8, "year": 10}, 10, model=self.model, values=values, seed=1)
        shuffled = made.frame.assign(year=1 + np.random.default_rng(0).permutation(10)[made.frame["year"] - 1])
        before = fit(self.model, made.data)
        after = fit(self.model, ht.Data.from_frame(shuffled, "y", ["school", "year"]))
        assert apart(after["sigma_time"], before["sigma_time"])
        assert apart(before["sigma_y"], after["sigma_y"])
        errors = [(p["alpha"].mean((0, 1)) - made.values["alpha"]).square().mean().sqrt() for p in (before, after)]
        assert errors[1] > 2 * errors[0]

    @pytest.mark.parametrize("dynamics", ["random_walk", "ar1"])
    def test_a_missing_time_is_interpolated_across_unequal_gaps(self, fit, dynamics):
        """School a has rows in the years 1 and 6 alone, b in 1, 2 and 6; the whole posterior of a's path is closed.

        alpha_a ~ Normal(mu, K) with K = sigma_alpha^2 + tau^2 (min(t, t') - 1) for the walk from year 1, sigma_alpha^2
        phi^|t - t'| for AR(1) (Rasmussen & Williams 2006, eq. A.6). Besides, the walk's alpha_a2 has, given its
        neighbours, mean 4/5 alpha_a1 + 1/5 alpha_a6 and variance tau^2 (1 x 4) / 5.
        """
        tau, spread, noise, phi = 0.7, 1.5, 0.2, 0.8
        times = np.array([1.0, 2.0, 6.0])
        if dynamics == "random_walk":
            kernel = spread**2 + tau**2 * (np.minimum.outer(times, times) - 1)
            moving = {"sigma_time": fixed(tau)}
        else:
            kernel = spread**2 * phi ** np.abs(np.subtract.outer(times, times))
            moving = {"phi": "Beta(8e7, 2e7)"}
        priors = {"sigma_alpha": fixed(spread), "sigma_y": fixed(noise), "mu_alpha0": "Normal(0, 2)", **moving}
        model = TimeVarying("school", "year", dynamics=dynamics, priors=priors)
        data = ht.Data([0.5, 3.0, -1.0, -0.5, 0.4], groups={"school": list("aabbb"), "year": [1, 6, 1, 2, 6]})
        posterior = fit(model, data, draws=500)

        prior = np.kron(np.eye(2), kernel) + 4.0  # of (a, b) at all times; mu has variance 4
        seen = [0, 2, 3, 4, 5]
        gain = prior[:, seen] @ np.linalg.inv(prior[np.ix_(seen, seen)] + noise**2 * np.eye(5))
        mean, covariance = gain @ data.y.numpy(), prior - gain @ prior[seen]
        reference = normal(mean, np.sqrt(np.diag(covariance)))
        assert_matches(posterior["alpha"].flatten(2), reference, name="alpha")

        if dynamics == "random_walk":
            first, between, last = posterior["alpha"][:, :, 0].unbind(-1)
            residual = between - 0.8 * first - 0.2 * last
            assert_matches(residual, normal(0.0, tau * (1 * 4 / 5) ** 0.5), name="what is between")

    @pytest.mark.parametrize("dynamics", ["random_walk", "ar1"])
    def test_steps_grow_with_the_gap(self, fit, dynamics):
        """Without rows in the years 2 and 6 the levels there follow from that of year 1: steps over gaps of 1 and 4
        have sds tau and 2 tau in the walk; in AR(1) innovations have sigma_alpha sqrt(1 - phi^2) and sqrt(1 - phi^8).
        """
        tau, spread, phi = 0.7, 1.5, 0.8
        walk = dynamics == "random_walk"
        moving = {"sigma_time": fixed(tau)} if walk else {"phi": "Beta(8e7, 2e7)"}
        priors = {"sigma_alpha": fixed(spread), "sigma_y": fixed(0.2), "mu_alpha0": "Normal(0, 1)", **moving}
        model = TimeVarying("school", "year", dynamics=dynamics, priors=priors)
        data = ht.Data([0.5, -1.0], groups={"school": list("ab"), "year": [1, 1]}, labels={"year": [1, 2, 6]})
        posterior = fit(model, data, draws=500)
        away = posterior["alpha"] if walk else posterior["alpha"] - posterior["mu_alpha0"][..., None, None]
        first, second, third = away[:, :, 0].unbind(-1)
        decay = (1.0, 1.0) if walk else (phi, phi**4)
        sds = (tau, 2 * tau) if walk else (spread * (1 - phi**2) ** 0.5, spread * (1 - phi**8) ** 0.5)
        assert_matches(second - decay[0] * first, normal(0.0, sds[0]), name="the step over one year")
        assert_matches(third - decay[1] * second, normal(0.0, sds[1]), name="the step over four years")


def test_classes_in_other_schools_change_the_posterior(fit):
    """Schools differ with an sd of 1.5 (found: 1.7) and classes with 0.4; when classes are dealt out to schools at
    random, schools hardly differ (0.4) and classes by as much as schools did.
    """
    model = Nested(["school", "class"], priors="tutorial")
    values = {"sigma_school": 1.5, "sigma_class": 0.4, "sigma_y": 0.8, "mu": 0.0}
    made = ht.simulate_grouped({"school": 12, "class": 3}, 6, model=model, values=values, seed=1)
    classes = list(made.data.labels["class"])
    schools = np.random.default_rng(0).permutation([label.split("/")[0] for label in classes])
    dealt = made.frame.assign(school=made.frame["class"].map(dict(zip(classes, schools, strict=True))))
    before, after = fit(model, made.data), fit(model, ht.Data.from_frame(dealt, "y", ["school", "class"]))
    assert apart(before["sigma_class"], after["sigma_class"])
    assert float(after["sigma_school"].mean()) < 0.3 * float(before["sigma_school"].mean())
    assert float(before["sigma_school"].quantile(0.01)) > 1.0


VALUES = {"mu_alpha": 1.0, "mu_beta": 0.5, "sigma_alpha": 1.0, "sigma_beta": 0.7, "sigma_y": 1.0}


class TestCorrelation:
    @pytest.mark.parametrize(
        ("correlation", "prior"), [("lkj", stats.beta(2, 2, loc=-1, scale=2)), ("uniform", stats.uniform(-0.9, 1.8))]
    )
    def test_rho_is_found(self, fit, correlation, prior):
        """Of 60 groups with rho = 0.8: the 99% interval covers it and excludes 0, and has less than a quarter of the
        prior (LKJ(2) of two effects: (rho + 1) / 2 ~ Beta(2, 2)).
        """
        model = CorrelatedEffects("school", ["x"], correlation=correlation, priors="tutorial")
        root = {"L": [[1.0, 0.0], [0.8, 0.6]]} if correlation == "lkj" else {"rho": 0.8}
        made = ht.simulate_grouped(60, 12, model=model, values={**VALUES, **root}, seed=1)
        ends = torch.tensor([0.005, 0.995], dtype=torch.float64)
        low, high = fit(model, made.data)["rho"].flatten().quantile(ends).tolist()
        assert 0.3 < low < 0.8 < high
        assert prior.cdf(high) - prior.cdf(low) < 0.25

    def test_it_is_0_where_effects_are_independent(self, fit):
        model = CorrelatedEffects("school", ["x"], priors="tutorial")
        root = {"L": [[1.0, 0.0], [0.0, 1.0]]}
        made = ht.simulate_grouped(60, 12, model=model, values={**VALUES, **root}, seed=1)
        ends = torch.tensor([0.005, 0.995], dtype=torch.float64)
        low, high = fit(model, made.data)["rho"].flatten().quantile(ends).tolist()
        assert low < 0.0 < high < 0.8


def test_priors_of_priors_are_learnt(fit):
    """lambda | sigma ~ Gamma(3, 1 + sigma), since its prior is Gamma(1, 1) and sigma ~ Gamma(2, lambda): by its
    distribution function draws are uniform. Groups that differ much make lambda_alpha small, rows that do not make
    lambda_y large.
    """
    model = HierarchicalPriors("school", ["x"], priors="tutorial")
    values = {"sigma_alpha": 5.0, "sigma_y": 0.3, "mu_alpha": 0.0}
    made = ht.simulate_grouped(30, 8, model=model, values=values, seed=1)
    posterior = fit(model, made.data)
    for which, below_prior in (("alpha", True), ("y", False)):
        scale, rate = posterior[f"sigma_{which}"].numpy(), posterior[f"lambda_{which}"].numpy()
        uniform = stats.gamma(3, scale=1 / (1 + scale)).cdf(rate)
        assert_matches(uniform, Reference.of(stats.uniform()), name=f"lambda_{which} given sigma_{which}")
        assert (rate.mean() < 0.6) if below_prior else (rate.mean() > 1.8)
