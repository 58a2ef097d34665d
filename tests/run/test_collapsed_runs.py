"""Runs of models whose effects and coefficients are integrated out: what they give, keep and report."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from builders import EIGHT_SCHOOLS, KnownScales
from contracts.engines import SCHOOLS, Curious, assert_equal_draws
from references import Reference, assert_matches, normal_mean, normal_sample
from scipy import stats
from torch import Tensor
from torch.distributions import Gamma, Normal
from zoo import Intercepts, dense

import hiertorch as ht
from hiertorch.errors import ModelError, SamplingError, SamplingWarning
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.discovery import collapse
from hiertorch.model.checks import inspect
from hiertorch.models import CompletePooling, EightSchools, VaryingIntercepts
from hiertorch.posterior import Posterior
from hiertorch.run.independence import Independence

Sample = Callable[..., Posterior]
Run = Callable[..., Posterior]
RUN: dict[str, Any] = {"chains": 4, "warmup": 40, "draws": 60, "seed": 7, "collapse": True}


@pytest.fixture(scope="module")
def run(sample: Sample) -> Run:
    """A short run of varying intercepts."""
    return lambda **options: sample(
        VaryingIntercepts("school", ["x"], priors="tutorial"), SCHOOLS, **{**RUN, **options}
    )


@pytest.fixture(scope="module")
def whole(run: Run) -> Posterior:
    """The run as it is without further options."""
    return run()


# What a run gives


def test_draws_have_the_shapes_of_all_latents(whole: Posterior) -> None:
    shapes = {"mu_alpha": (1,), "sigma_alpha": (1,), "sigma_y": (1,), "beta": (1, 1), "alpha": (4,)}
    assert {name: tuple(x.shape) for name, x in whole.draws.items()} == {n: (4, 60, *s) for n, s in shapes.items()}
    assert whole.names == list(VaryingIntercepts("school", ["x"], priors="tutorial").latents)
    assert all(bool(x.isfinite().all()) for x in whole.draws.values())
    assert {x.dtype for x in whole.draws.values()} == {torch.float64}
    assert whole.stats.log_density.shape == (4, 60)
    assert list(whole.summary("alpha").index) == [f"alpha[{label}]" for label in "abcd"]


def test_a_run_reports_what_was_run(whole: Posterior, run: Run) -> None:
    assert whole.run["plan_text"] == str(ht.plan(VaryingIntercepts("school", ["x"], priors="tutorial"), SCHOOLS))
    assert {key: whole.run[key] for key in ("chains", "warmup", "draws", "thin", "seed")} == {
        "chains": 4, "warmup": 40, "draws": 60, "thin": 1, "seed": 7,
    }  # fmt: skip
    assert whole.run["compiled"] is False and whole.run["status"] == "finished"
    (block,) = whole.stats.acceptance
    assert block == "collapsed(sigma_alpha, sigma_y)" and whole.stats.blocks == {block: None}
    rates = whole.stats.acceptance[block]
    assert rates.shape == (4,) and bool(((rates > 0.3) & (rates <= 1.0)).all())
    assert whole.stats.nan == {block: 0}
    ordinary = run(collapse=False)
    assert "collapsed" not in ordinary.run["plan_text"] and len(ordinary.stats.acceptance) == 4


def test_default_runs_need_no_warning() -> None:
    """Nor a bar nor settings: 256 chains of a small model, and the draws of the first look, at the end of a window."""
    made = ht.simulate_grouped({"school": 12}, 5, seed=1).data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *said, **_: pytest.fail(str(said)))
        posterior = ht.sample(VaryingIntercepts("school", ["x"]), made, seed=1, progress=False)
    assert (posterior.chains, posterior.n_draws, posterior.run["warmup"]) == (256, 120, 40)
    assert (posterior.run["draws"], posterior.interval, posterior.run["until"]["looks"]) == (120, 1, 1)
    worst = posterior.diagnostics()["worst"]
    assert worst["ess_bulk"] > 0.7 * 256 * 120 and worst["r_hat"] < 1.01


def test_effects_that_are_looked_at_have_their_law(sample: Sample) -> None:
    """In a model of which nothing is left to be sampled, of 4,000 chains. Error rate 1e-3."""
    curious = Curious()
    sample(KnownScales(), SCHOOLS, collapse=True, chains=4000, warmup=1, draws=1, seed=1, monitors=[curious])
    seen = curious.values[-1]
    assert_whitened(torch.cat([seen[name].flatten(1) for name in ("mu", "beta", "alpha")], 1).numpy())


# Thinning


def test_thinned_draws_are_the_same_posterior(sample: Sample) -> None:
    """Error rate 1e-3 for each."""
    y = np.array([0.3, 1.9, 2.2, -0.4])
    expected = normal_sample(y, 1.0, 2.0, stats.gamma(3, scale=0.5))
    for thin in (1, 3):
        posterior = sample(MeanAndScale(), ht.Data(y), collapse=True, chains=100, draws=200, thin=thin, seed=2)
        for name in ("mu", "sigma"):
            assert_matches(posterior[name], expected[name], alpha=5e-4, name=f"{name}, thin={thin}")


# Precision


def test_single_precision(run: Run, whole: Posterior) -> None:
    """What is integrated out is computed in double precision; draws are kept in single precision."""
    posterior = run(dtype=torch.float32)
    assert {x.dtype for x in posterior.draws.values()} == {torch.float32} == {posterior.stats.log_density.dtype}
    assert posterior.run["dtype"] == "float32"
    for name in whole.names:
        torch.testing.assert_close(posterior.draws[name].double(), whole.draws[name], rtol=1e-3, atol=1e-3)


class MeanAndScale(ht.Model):
    """y_i ~ Normal(mu, sigma), mu ~ Normal(1, 2), sigma ~ Gamma(3, 2): no plates."""

    mu = ht.Latent(Normal(1.0, 2.0))
    sigma = ht.Latent(Gamma(3.0, 2.0))

    def likelihood(self, v, data):
        return Normal(v.mu, v.sigma)


@pytest.mark.parametrize("chains", [2, 200])
def test_a_model_without_plates(chains: int, sample: Sample) -> None:
    """Error rate 1e-3."""
    y = np.array([0.3, 1.9, 2.2, -0.4])
    expected = normal_sample(y, 1.0, 2.0, stats.gamma(3, scale=0.5))
    posterior = sample(MeanAndScale(), ht.Data(y), collapse=True, chains=chains, draws=20_000 // chains, seed=1)
    for name in ("mu", "sigma"):
        assert_matches(posterior[name], expected[name], alpha=5e-4, name=name)


def test_a_ready_model_without_predictors(sample: Sample) -> None:
    """Whose only coefficient is its mean."""
    posterior = sample(CompletePooling(priors="tutorial"), SCHOOLS, collapse=True, chains=8, draws=50, seed=1)
    first, second = posterior.run["plan_text"].splitlines()[1:3]
    assert first.split()[:3] == ["sigma_y", "collapsed", "chain"] and second.split()[:2] == ["alpha", "exact"]
    assert posterior["alpha"].shape == (8, 50)


# Nothing left to sample


def assert_whitened(x: np.ndarray) -> None:
    """Draws `(n, 6)` of mu, beta and alpha have the posterior of `KnownScales`; error rate 1e-3 by Bonferroni."""
    exact = dense(KnownScales(), SCHOOLS, {}, ("mu", "beta", "alpha"))
    mean, lower = exact.mean[0].astype(float), np.linalg.cholesky(exact.covariance[0].astype(float))
    z, (n, d) = np.linalg.solve(lower, (x - mean).T).T, x.shape
    assert d == 6
    products = (z.T @ z / n)[np.tril_indices(d, -1)]
    scores = (z.mean(0) * n**0.5, ((z**2).mean(0) - 1) * (n / 2) ** 0.5, products * n**0.5)
    p = [stats.chi2(len(score)).cdf((score**2).sum()) for score in scores]
    p += [stats.kstest(column, "norm").pvalue for column in z.T]
    assert all(1e-3 / 18 < value < 1 - 1e-3 / 18 for value in p[:3]) and min(p[3:]) > 1e-3 / 9, p


def test_a_model_of_which_nothing_is_left(sample: Sample) -> None:
    """Independent draws of the exact posterior, none of them refused."""
    posterior = sample(KnownScales(), SCHOOLS, collapse=True, chains=8, draws=600, thin=2, seed=1)
    assert "nothing is left to sample" in posterior.run["plan_text"]
    draws = torch.cat([posterior.draws[name].flatten(2) for name in ("mu", "beta", "alpha")], 2)
    assert_whitened(draws.flatten(0, 1).numpy())
    centred = draws - draws.mean((0, 1))
    lagged = (centred[:, 1:] * centred[:, :-1]).mean((0, 1)) / centred.square().mean((0, 1))
    assert bool((lagged.abs() < 5 / (8 * 599) ** 0.5).all())
    (rates,) = posterior.stats.acceptance.values()
    assert bool((rates == 1.0).all()) and posterior.stats.nan == {"collapsed()": 0}
    expected = dense(KnownScales(), SCHOOLS, {}, ("mu", "beta", "alpha")).log_marginal[0]
    np.testing.assert_allclose(posterior.stats.log_density, float(expected), rtol=1e-10)
    assert posterior.warnings() == []


def test_one_mean_of_known_scale(sample: Sample) -> None:
    """Error rate 1e-3."""

    class Mean(ht.Model):
        theta = ht.Latent(Normal(1.0, 2.0))

        def likelihood(self, v, data):
            return Normal(v.theta, 0.7)

    y = np.array([0.3, 1.9, 2.2, -0.4])
    posterior = sample(Mean(), ht.Data(y), collapse=True, chains=50, draws=200, seed=1)
    assert_matches(posterior["theta"], normal_mean(y, 0.7, 1.0, 2.0))


# Starts


def begun(model: ht.Model, data: ht.Data, chains: int = 6, **init: Any) -> dict[str, Tensor]:
    """Where the chains of a run would begin."""
    plan = ht.plan(model, data)
    assert plan.collapsed is not None
    with torch.no_grad():
        engine = Independence(plan.collapsed, chains, torch.Generator().manual_seed(1))
        engine.begin(init, None)
        return {name: engine.values()[name] for name in plan.collapsed.rest}


def test_chains_begin_where_init_says() -> None:
    scale = torch.linspace(0.5, 3.0, 6, dtype=torch.float64)[:, None]
    at = begun(VaryingIntercepts("school", priors="tutorial"), SCHOOLS, sigma_alpha=scale)
    torch.testing.assert_close(at["sigma_alpha"], scale)
    free = begun(VaryingIntercepts("school", priors="tutorial"), SCHOOLS)
    assert torch.equal(at["sigma_y"], free["sigma_y"]) and len(free["sigma_y"].unique()) > 1


@pytest.fixture(scope="module")
def unhurried(sample: Sample) -> Posterior:
    model = VaryingIntercepts("school", ["x"], priors="tutorial")
    return sample(model, SCHOOLS, collapse=True, chains=50, draws=400, seed=2)


@pytest.mark.parametrize("init", [{"sigma_alpha": 30.0}, {"sigma_y": 1e-3, "sigma_alpha": 50.0}, {"alpha": 1e3}])
def test_runs_come_back_from_far_starts(init: dict[str, float], sample: Sample, unhurried: Posterior) -> None:
    """Latents that are drawn exactly start nowhere: any value that they could have is taken. Error rate 1e-3."""
    posterior = sample(
        VaryingIntercepts("school", ["x"], priors="tutorial"),
        SCHOOLS,
        collapse=True,
        chains=50,
        draws=100,
        seed=1,
        init=init,
    )
    for name in unhurried.names:
        one, two = posterior.summary(name), unhurried.summary(name)
        error = np.hypot(one["mcse_mean"], two["mcse_mean"])
        assert ((one["mean"] - two["mean"]).abs() < stats.norm.isf(1e-3 / 18) * error).all(), name


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ({"nu": 1.0}, "init names 'nu'; the model's latents are mu_alpha, sigma_alpha"),
        ({"sigma_y": -1.0}, r"init\['sigma_y'\] is not inside the support of its prior"),
        ({"alpha": np.zeros(3)}, r"init\['alpha'\] must broadcast to \(chains, size, \*event\) = \(4, 4\)"),
        ([1.0], "init must be a mapping"),
    ],
)
def test_an_init_that_does_not_fit(init: Any, words: str, run: Run) -> None:
    with pytest.raises(SamplingError, match=words):
        run(init=init)


@pytest.mark.parametrize("value", [1e-100, 1e-12, 1e12, 1e100])
def test_chains_leave_a_start_of_hardly_any_density(value: float, run: Run) -> None:
    last = run(init={"sigma_y": value, "sigma_alpha": 1.0})["sigma_y"][:, -1]
    assert bool(((last > 1e-3) & (last < 1e3)).all())


@pytest.mark.parametrize("factor", [1e6, 1e10, 1e100])
def test_log_densities_far_below_any_other_are_no_obstacle(factor: float, sample: Sample) -> None:
    """Of a response that is hardly possible at the known scale of its rows."""
    posterior = sample(KnownRows(), SCHOOLS.replace(y=factor * SCHOOLS.y), collapse=True, chains=20, draws=50, seed=1)
    assert all(bool(x.isfinite().all()) for x in posterior.draws.values())
    assert bool((posterior["tau"].std(1) > 0).all())


class KnownRows(ht.Model):
    """y_ij ~ Normal(alpha_j, 1),  alpha_j ~ Normal(0, tau)."""

    tau = ht.Latent(Gamma(2.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(0.0, v.tau), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school], 1.0)


# What falls back


def test_priors_alone_are_sampled_by_ordinary_moves(sample: Sample) -> None:
    """Error rate 1e-3."""
    posterior = sample(MeanAndScale(), SCHOOLS, collapse=True, prior_only=True, chains=100, draws=300, seed=1)
    assert "collapsed" not in posterior.run["plan_text"]
    assert_matches(posterior["mu"], Reference.of(stats.norm(1, 2)), alpha=5e-4)
    assert_matches(posterior["sigma"], Reference.of(stats.gamma(3, scale=0.5)), alpha=5e-4)


def test_a_plan_is_taken_or_refused(run: Run, whole: Posterior, sample: Sample) -> None:
    model = VaryingIntercepts("school", ["x"], priors="tutorial")
    named = [("collapsed", list(model.latents))]
    for plan in (named, ht.plan(model, SCHOOLS), ht.plan(model, SCHOOLS).spec):
        assert_equal_draws(whole, run(plan=plan, collapse=False))
    ordinary = run(plan=ht.plan(model, SCHOOLS, collapse=False))
    assert len(ordinary.stats.acceptance) == 4
    with pytest.raises(ModelError, match="the move 'collapsed' is not possible: the model overrides log_prob"):
        sample(Opaque("school", ["x"]), SCHOOLS, plan=named)
    with pytest.raises(ModelError, match="the move 'collapsed' is not possible: the likelihood is left out"):
        run(plan=named, prior_only=True)


class Opaque(VaryingIntercepts):
    def log_prob(self, v, data):
        return super().log_prob(v, data)


def test_eight_schools_are_sampled_by_what_is_integrated_out() -> None:
    """The ready model with standard errors that are known; one scale is left."""
    found = collapse(EightSchools(), EIGHT_SCHOOLS, inspect(EightSchools(), EIGHT_SCHOOLS)[0])
    assert isinstance(found, Collapsed) and found.rest == ("tau",)


def test_a_note_of_an_unread_grouping_is_said_once() -> None:
    data = ht.Data(SCHOOLS.y, groups={"school": list("abcabdda"), "day": list("xyxyxyxy")}, x=SCHOOLS.x)
    with pytest.warns(SamplingWarning, match="grouping 'day' is never read") as said:
        ht.sample(Intercepts(), data, chains=64, draws=200, seed=1, progress=False)
    assert sum("never read" in str(one.message) for one in said) == 1
