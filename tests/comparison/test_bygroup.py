"""log p(y_j | population) by quadrature and importance sampling, against closed forms and scipy's integration.

No test here compares random numbers with their expectation, but for one, which says so: integrals are held against
other integrals at the same draws.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Distribution, Gamma, HalfNormal, Independent, Normal, Poisson, StudentT

import hiertorch as ht
from hiertorch.comparison import bygroup, quadrature
from hiertorch.comparison.bygroup import ClosedForm, Numerical, by_group
from hiertorch.draws.pointwise import Pointwise
from hiertorch.errors import DataError
from hiertorch.model.latent import Values
from hiertorch.posterior import Posterior

J, N = 8, 60
RNG = np.random.default_rng(20)
SCHOOL = np.arange(N) % J
CLASS = SCHOOL * 3 + RNG.integers(0, 3, N)
X, X2 = RNG.normal(size=(2, N))
ETA = 0.3 + RNG.normal(size=J)[SCHOOL] + (0.5 + 0.4 * RNG.normal(size=J))[SCHOOL] * X
Y = ETA + 0.5 * RNG.normal(size=3 * J)[CLASS] + 0.7 * RNG.normal(size=N)
COUNTS = RNG.poisson(np.exp(ETA))
BINARY = (RNG.uniform(size=N) < 1 / (1 + np.exp(-ETA))).astype(float)
OTHER = RNG.integers(0, 5, N)
MODELS = ht.models


def data(y: np.ndarray = Y, weights: np.ndarray | None = None, **more: object) -> ht.Data:
    groups = {"school": SCHOOL, "klass": CLASS, "other": OTHER}
    return ht.Data(y, groups=groups, weights=weights, x=X, x2=X2, **more)


def log_marginals(posterior: Posterior, plate: str, draws: int | None = 4_000) -> torch.Tensor:
    """log p(y_j | rest) at some of the draws, the way that is taken."""
    return by_group(Pointwise(posterior, draws), plate).log_density()


@pytest.fixture(scope="module")
def fitted(sample: Callable[..., Posterior]) -> Callable[..., Posterior]:
    """A few draws, far from the end of warm-up: what is tested holds at any values of the latents."""

    def fit(model: ht.Model, rows: ht.Data, **options: object) -> Posterior:
        return sample(model, rows, **{"chains": 2, "warmup": 15, "draws": 12, "seed": 3, **options})

    return fit


@pytest.fixture(scope="module")
def counted(fitted: Callable[..., Posterior]) -> Posterior:
    """Counts by school."""
    return fitted(Count(), data(COUNTS))


GAUSSIAN = {
    "intercepts": (lambda: MODELS.VaryingIntercepts("school", ["x"], priors="tutorial"), "school", 1e-9),
    "intercept and slope": (lambda: MODELS.MixedEffects("school", ["x"], priors="tutorial"), "school", 1e-9),
    "correlated": (lambda: MODELS.CorrelatedEffects("school", ["x"], priors="tutorial"), "school", 1e-9),
    "three correlated": (lambda: MODELS.CorrelatedEffects("school", ["x", "x2"], priors="tutorial"), "school", 1e-9),
    "nested, outer": (lambda: MODELS.Nested(["school", "klass"], ["x"], priors="tutorial"), "school", 1e-9),
    "nested, inner": (lambda: MODELS.Nested(["school", "klass"], ["x"], priors="tutorial"), "klass", 1e-9),
    "crossed": (lambda: MODELS.Crossed(["school", "other"], ["x"], priors="tutorial"), "school", 1e-9),
}


@pytest.mark.parametrize("name", GAUSSIAN)
def test_numerical_integrals_of_gaussian_models_equal_the_closed_form(fitted, name):
    """At every draw and group, with row weights: a rule that is exact for normal densities gives many digits."""
    model, plate, close = GAUSSIAN[name]
    weights = np.where(np.arange(N) % 7 == 0, 2.5, 1.0)
    posterior = fitted(model(), data(weights=weights), draws=5, collapse=True)
    pointwise = Pointwise(posterior, None)
    closed = by_group(pointwise, plate)
    assert isinstance(closed, ClosedForm)
    assert closed.error() is None
    exact, found = closed.log_density(), Numerical(pointwise, plate).log_density()
    assert found.shape == (*posterior["mu_alpha" if "mu_alpha" in posterior else "mu"].shape[:2], exact.shape[-1])
    assert exact.std() > 0.1
    torch.testing.assert_close(found, exact, atol=close * float(exact.abs().max()), rtol=0.0)


def test_closed_form_of_a_run_that_was_not_collapsed_is_a_multivariate_normal(fitted):
    posterior = fitted(MODELS.VaryingIntercepts("school", ["x"], priors="tutorial"), data())
    found = log_marginals(posterior, "school", None)
    for c, s, j in [(0, 0, 0), (1, 5, 3), (1, 11, 7)]:
        rows = j == SCHOOL
        v = {name: posterior[name][c, s].numpy() for name in ("mu_alpha", "beta", "sigma_y", "sigma_alpha")}
        covariance = v["sigma_y"] ** 2 * np.eye(rows.sum()) + v["sigma_alpha"] ** 2
        expected = stats.multivariate_normal(v["mu_alpha"] + v["beta"] * X[rows], covariance).logpdf(Y[rows])
        assert float(found[c, s, j]) == pytest.approx(expected, rel=1e-9)


def test_a_collapsed_run_gives_what_the_posterior_gives(fitted):
    posterior = fitted(MODELS.VaryingIntercepts("school", ["x"], priors="tutorial"), data(), collapse=True)
    expected = posterior.log_marginal("school")
    torch.testing.assert_close(log_marginals(posterior, "school", None), expected)
    thinned = log_marginals(posterior, "school", 8)
    torch.testing.assert_close(thinned, expected[:, ::3])


def test_effects_that_were_not_stored_are_not_needed(fitted):
    model, rows = MODELS.VaryingIntercepts("school", ["x"], priors="tutorial"), data()
    stored = fitted(model, rows, collapse=True)
    unstored = fitted(model, rows, collapse=True, keep=["mu_alpha", "sigma_alpha", "beta", "sigma_y"])
    assert "alpha" not in unstored
    torch.testing.assert_close(log_marginals(unstored, "school", None), log_marginals(stored, "school", None))


def quad(function: Callable[[float], float], centre: float, width: float) -> float:
    """log of the integral of exp(function), which has its mass within 12 widths of the centre."""
    top = max(function(centre + width * z) for z in np.linspace(-6, 6, 121))
    places = [centre + width * z for z in (-3, -1, 0, 1, 3)]
    value, _ = integrate.quad(
        lambda e: math.exp(function(e) - top), centre - 12 * width, centre + 12 * width, points=places, limit=400
    )
    return top + math.log(value)


LOGPMF = {
    "bernoulli": (BINARY, lambda y, eta, v: -np.logaddexp(0.0, np.where(y == 1, -eta, eta)), 1e-3),
    "poisson": (COUNTS, lambda y, eta, v: stats.poisson.logpmf(y, np.exp(eta)), 1e-3),
    "student_t": (Y, lambda y, eta, v: stats.t.logpdf(y, v["nu_y"], eta, v["sigma_y"]), 2e-3),
}


@pytest.mark.parametrize("family", LOGPMF)
def test_one_effect_against_scipy(fitted, family):
    """Within the error that the check by a finer rule reports, or close to it."""
    y, log_density, close = LOGPMF[family]
    posterior = fitted(MODELS.VaryingIntercepts("school", ["x"], family=family, priors="tutorial"), data(y))
    numerical = by_group(Pointwise(posterior, None), "school")
    assert isinstance(numerical, Numerical)
    found, error = numerical.log_density(), numerical.error()
    assert float(error.max()) < 2 * close
    for c, s, j in [(0, 0, 0), (0, 7, 5), (1, 3, 2), (1, 11, 7)]:
        rows = j == SCHOOL
        names = [name for name in ("mu_alpha", "beta", "sigma_alpha", "nu_y", "sigma_y") if name in posterior]
        v = {name: float(posterior[name][c, s]) for name in names}

        def joint(e: float, v: dict = v, rows: np.ndarray = rows) -> float:
            prior = stats.norm.logpdf(e, v["mu_alpha"], v["sigma_alpha"])
            return prior + float(log_density(y[rows], e + v["beta"] * X[rows], v).sum())

        assert float(found[c, s, j]) == pytest.approx(quad(joint, v["mu_alpha"], v["sigma_alpha"]), abs=close)


@pytest.mark.slow
def test_two_effects_against_scipy(fitted):
    posterior = fitted(MODELS.MixedEffects("school", ["x"], family="poisson", priors="tutorial"), data(COUNTS))
    found = log_marginals(posterior, "school", None)
    for c, s, j in [(0, 2, 1), (1, 9, 6)]:
        rows = j == SCHOOL
        v = {name: posterior[name][c, s].flatten().numpy() for name in posterior}
        mean, sd = (
            [float(v[name][0]) for name in ("mu_alpha", "mu_beta")],
            [float(v[name][0]) for name in ("sigma_alpha", "sigma_beta")],
        )

        nodes, weights = np.polynomial.legendre.leggauss(160)
        a, b = (m + 7 * s * nodes for m, s in zip(mean, sd, strict=True))
        rate = np.exp(a[:, None, None] + b[:, None] * X[rows])
        grid = stats.norm.logpdf(a, mean[0], sd[0])[:, None] + stats.norm.logpdf(b, mean[1], sd[1])
        grid = grid + stats.poisson.logpmf(COUNTS[rows], rate).sum(-1)
        top = grid.max()
        expected = top + math.log(49 * sd[0] * sd[1] * weights @ np.exp(grid - top) @ weights)
        assert float(found[c, s, j]) == pytest.approx(
            expected, abs=3e-3
        )  # of the quadrature at a draw with wide effects


@pytest.mark.slow
def test_nested_effects_against_scipy(fitted):
    """Classes in schools, binary responses: an integral over the school of a product of integrals over its classes."""
    posterior = fitted(MODELS.Nested(["school", "klass"], family="bernoulli", priors="tutorial"), data(BINARY), draws=5)
    found = log_marginals(posterior, "school", None)
    c, s, j = 1, 2, 4
    mu, sigma_s, sigma_c = (float(posterior[name][c, s]) for name in ("mu", "sigma_school", "sigma_klass"))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    log_weights = np.log(weights / weights.sum())
    total = np.empty(80)
    for k, a in enumerate(mu + sigma_s * nodes):
        total[k] = log_weights[k]
        for inner in np.unique(CLASS[j == SCHOOL]):
            eta = a + sigma_c * nodes[:, None]
            log_p = LOGPMF["bernoulli"][1](BINARY[inner == CLASS], eta, {}).sum(1)
            total[k] += np.logaddexp.reduce(log_weights + log_p)
    assert float(found[c, s, j]) == pytest.approx(float(np.logaddexp.reduce(total)), abs=1e-4)


@pytest.mark.slow
def test_many_effects_against_plain_monte_carlo(fitted):
    """Three correlated effects and counts, by importance sampling: within 5 standard errors of both (1e-6 two-sided,
    four comparisons) of means over 200,000 draws from the prior of the effects.
    """
    posterior = fitted(
        MODELS.CorrelatedEffects("school", ["x", "x2"], family="poisson", priors="tutorial"), data(COUNTS), draws=6
    )
    numerical = by_group(Pointwise(posterior, None), "school")
    found, error = numerical.log_density(), numerical.error()
    assert float(error.max()) < 0.03
    rng = np.random.default_rng(0)
    for c, s, j in [(0, 0, 0), (0, 5, 3), (1, 1, 5), (1, 4, 7)]:
        v = {name: posterior[name][c, s].numpy() for name in posterior}
        root = np.diag(np.concatenate([[v["sigma_alpha"]], v["sigma_beta"]])) @ v["L"]
        e = np.concatenate([[v["mu_alpha"]], v["mu_beta"]]) + rng.normal(size=(200_000, 3)) @ root.T
        rows = j == SCHOOL
        eta = e @ np.stack([np.ones(rows.sum()), X[rows], X2[rows]])
        log_p = stats.poisson.logpmf(COUNTS[rows], np.exp(np.minimum(eta, 20.0))).sum(1)
        p = np.exp(log_p - log_p.max())
        expected, se = log_p.max() + math.log(p.mean()), p.std() / p.mean() / math.sqrt(len(p))
        assert float(found[c, s, j]) == pytest.approx(expected, abs=5 * math.hypot(se, float(error[j])))


class Scales(ht.Model):
    """y_ij ~ Normal(0, s_j), s_j ~ Gamma(a, 2): an effect that is positive."""

    a = ht.Latent(Gamma(4.0, 2.0))
    s = ht.Latent(lambda v: Gamma(v.a, 2.0), plate="school")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Normal(0.0, v.s[:, data.school])


def test_positive_effects_against_scipy(fitted):
    posterior = fitted(Scales(), data())
    found = log_marginals(posterior, "school", None)
    for c, s, j in [(0, 4, 0), (1, 10, 6)]:
        a, rows = float(posterior["a"][c, s]), j == SCHOOL

        def joint(scale: float, a: float = a, rows: np.ndarray = rows) -> float:
            if scale <= 0:
                return -math.inf
            return stats.gamma.logpdf(scale, a, scale=0.5) + stats.norm.logpdf(Y[rows], 0.0, scale).sum()

        assert float(found[c, s, j]) == pytest.approx(quad(joint, 1.5, 0.5), abs=1e-3)


class Count(ht.Model):
    """y_ij ~ Poisson(exp(a_j)), a_j ~ Normal(mu, sigma)."""

    mu = ht.Latent(Normal(0.0, 2.0))
    sigma = ht.Latent(HalfNormal(1.0))
    a = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="school")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Poisson(v.a[:, data.school].exp())


@pytest.mark.parametrize("sigma", [1e-4, 0.03, 3.0])
def test_populations_narrow_and_wide(counted, sigma):
    """Where the start of the search for the mode, the spread of all draws, is a thousand times too wide."""
    numerical = by_group(Pointwise(counted, None), "school")
    mu = 0.4
    values = {
        "mu": torch.full((1, 1), mu),
        "sigma": torch.full((1, 1), sigma),
        "a": torch.full((1, J), 0.9),
    }
    found = numerical.at({name: x.double() for name, x in values.items()})[0]
    for j in range(J):

        def joint(e: float, j: int = j) -> float:
            return stats.norm.logpdf(e, mu, sigma) + stats.poisson.logpmf(COUNTS[j == SCHOOL], math.exp(e)).sum()

        assert float(found[j]) == pytest.approx(quad(joint, mu, sigma), abs=1e-3)


def test_groups_without_rows_and_rows_of_weight_0(fitted):
    labels = {"school": [*range(J), 99]}
    weights = np.where(SCHOOL == 2, 0.0, 1.0)
    posterior = fitted(Count(), data(COUNTS, weights=weights, labels=labels))
    found = log_marginals(posterior, "school", None)
    assert bool((found[..., J] == 0).all())
    torch.testing.assert_close(found[..., 2], torch.zeros_like(found[..., 2]), atol=1e-6, rtol=0.0)
    assert float(found[..., :2].max()) < -0.5


def test_draws_come_in_batches(counted, monkeypatch):
    posterior = counted
    once = log_marginals(posterior, "school", None)
    monkeypatch.setattr(bygroup, "NUMBERS", 5 * N)
    torch.testing.assert_close(log_marginals(posterior, "school", None), once, atol=1e-5, rtol=0.0)


def test_the_check_sees_a_rule_that_is_too_coarse(counted, monkeypatch):
    posterior = counted
    monkeypatch.setitem(quadrature.RULE, 1, 2)
    coarse = by_group(Pointwise(posterior, None), "school").error()
    monkeypatch.setitem(quadrature.RULE, 1, 15)
    fine = by_group(Pointwise(posterior, None), "school").error()
    assert float(coarse.max()) > max(1e-4, 10 * float(fine.max()))


def test_single_precision_is_integrated_in_double(fitted):
    posterior = fitted(Count(), data(COUNTS), dtype=torch.float32)
    found = log_marginals(posterior, "school", None)
    assert posterior["mu"].dtype == torch.float32
    assert found.dtype == torch.float64
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("width", [1, 2, 3, 6])
@pytest.mark.parametrize("finer", [False, True])
def test_rules_integrate_normal_densities(width, finer):
    u, log_w = quadrature.rule(width, finer=finer)
    log_normal = torch.from_numpy(stats.multivariate_normal(np.zeros(width)).logpdf(u.numpy())).reshape(-1)
    assert float((log_normal + log_w).logsumexp(0)) == pytest.approx(0.0, abs=1e-10)
    moment = ((log_normal + log_w).exp() * u[:, 0].square()).sum()
    assert float(moment) == pytest.approx(1.0, abs=1e-10 if width < 3 else 0.1)


def test_modes_of_awkward_functions():
    """Newton steps from far away on exp(3 x - exp(x)), whose mode is log 3 and curvature there 3."""
    centre = torch.tensor([[-20.0], [12.0], [1.0]], dtype=torch.float64).unsqueeze(0)
    root = torch.ones(1, 3, 1, 1, dtype=torch.float64)
    found, scale = quadrature.mode(lambda x: (3.0 * x - x.exp()).squeeze(-1), centre, root)
    torch.testing.assert_close(found.squeeze(), torch.full((3,), math.log(3.0)).double(), atol=0.05, rtol=0.0)
    torch.testing.assert_close(scale.squeeze(), torch.full((3,), 3**-0.5).double(), atol=0.07, rtol=0.0)


class Mixed(ht.Model):
    """The likelihood reads the mean of all groups' effects."""

    a = ht.Latent(Normal(0.0, 1.0), plate="school")
    nu = ht.Latent(Gamma(4.0, 1.0))

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return StudentT(2.0 + v.nu, v.a[:, data.school] - v.a.mean(1, keepdim=True), 1.0)


class Opaque(ht.Model):
    """A density in one piece."""

    a = ht.Latent(Normal(0.0, 1.0), plate="school")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return StudentT(4.0, v.a[:, data.school], 1.0)

    def log_prob(self, v: Values, data: ht.Data) -> torch.Tensor:
        return super().log_prob(v, data)


class Crossing(ht.Model):
    """Two groupings that cross each other within a third."""

    a = ht.Latent(Normal(0.0, 1.0), plate="half")
    b = ht.Latent(Normal(0.0, 1.0), plate="first")
    c = ht.Latent(Normal(0.0, 1.0), plate="second")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return StudentT(4.0, v.a[:, data.half] + v.b[:, data.first] + v.c[:, data.second], 1.0)


def test_what_can_not_be_integrated_is_refused_in_a_sentence(fitted, counted):
    with pytest.raises(DataError, match="not independent given the population"):
        log_marginals(fitted(Mixed(), data()), "school")
    with pytest.raises(DataError, match="overrides log_prob"):
        log_marginals(fitted(Opaque(), data()), "school")
    half = np.arange(N) % 2
    groups = {"half": half, "first": half * 10 + RNG.integers(0, 3, N), "second": half * 10 + RNG.integers(0, 3, N)}
    with pytest.raises(DataError, match="cross each other within 'half'"):
        log_marginals(fitted(Crossing(), ht.Data(Y, groups=groups)), "half")
    posterior = counted
    with pytest.raises(DataError, match="whole number from 1"):
        log_marginals(posterior, "school", 0)


class Vectors(ht.Model):
    """Two counts' worth of effects in one vector latent, and an effect of its own beside it."""

    sigma = ht.Latent(HalfNormal(1.0))
    e = ht.Latent(lambda v: Independent(Normal(torch.zeros(2).to(v.sigma), v.sigma.unsqueeze(-1)), 1), plate="school")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        e = v.e[:, data.school]
        return Poisson((e[..., 0] + e[..., 1]).clamp(max=20.0).exp())


def test_a_sum_of_two_effects_is_one_effect(fitted, counted):
    """e_1 + e_2 ~ Normal(0, sigma sqrt 2): an integral over two effects equals one over their sum."""
    posterior = fitted(Vectors(), data(COUNTS))
    found = log_marginals(posterior, "school", None)
    one = by_group(Pointwise(counted, None), "school")
    sigma = posterior["sigma"].flatten()[:, None]
    values = {"mu": torch.zeros_like(sigma), "sigma": sigma * math.sqrt(2.0), "a": torch.zeros(len(sigma), J).double()}
    torch.testing.assert_close(found.flatten(0, 1), one.at(values), atol=1e-3, rtol=0.0)
