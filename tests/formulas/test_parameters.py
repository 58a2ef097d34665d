"""Predictors of other parameters of the rows than their mean."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import hiertorch as ht


@pytest.fixture(scope="module")
def frame():
    """log sigma = 0.2 + 0.5 z + an effect of the group of sd 0.4, correlated 0.8 with that on the mean, of sd 1."""
    n, r = 40, np.random.default_rng(2)
    effects = r.multivariate_normal([0, 0], [[1.0, 0.32], [0.32, 0.16]], n)
    g = np.repeat(np.arange(n), 25)
    x, z = r.normal(size=(2, len(g)))
    sigma = np.exp(0.2 + 0.5 * z + effects[g, 1])
    y = 1.0 + 0.7 * x + effects[g, 0] + sigma * r.normal(size=len(g))
    return pd.DataFrame({"y": y, "x": x, "z": z, "g": g, "count": r.poisson(3, len(g))})


def test_the_density_is_that_of_rows_with_a_scale_each(frame):
    some = frame.iloc[::20]
    model, data = ht.formula("y ~ x + (1 | g)", some, sigma="~ z + (1 | g)")
    names = ["mu", "beta", "mu_sigma", "beta_sigma", "sigma_g", "effects_g", "sigma_g_sigma", "effects_g_sigma"]
    assert list(model.latents) == names
    r = torch.Generator().manual_seed(1)
    shapes = {name: (len(data.labels["g"]) if name.startswith("effects") else 1) for name in names}
    v = {name: torch.randn(2, size, 1, generator=r, dtype=torch.float64) for name, size in shapes.items()}
    v |= {name: v[name][..., 0] for name in ("mu", "mu_sigma")}
    found = model.log_likelihood(model.values(v), data)
    at = data.codes["g"].numpy()
    for c in range(2):
        w = {name: value[c].numpy() for name, value in v.items()}
        mean = w["mu"][0] + w["beta"][0, 0] * some.x + w["effects_g"][at, 0]
        scale = np.exp(w["mu_sigma"][0] + w["beta_sigma"][0, 0] * some.z + w["effects_g_sigma"][at, 0])
        np.testing.assert_allclose(found[c], stats.norm.logpdf(some.y, mean, scale), atol=1e-10)


def test_effects_of_two_predictors_may_be_correlated(frame):
    model, data = ht.formula("y ~ x + (1 |i| g)", frame.iloc[::20], sigma="~ z + (1 |i| g)")
    assert [str(label) for label in model.latents["sigma_g"].axes[0]] == ["Intercept", "sigma_Intercept"]
    assert model.latents["effects_g"].plate == "g" and "L_g" in model.latents
    apart, _ = ht.formula("y ~ x + (1 |i| g) + (0 + x | g)", frame.iloc[::20], sigma="~ (1 |i| g)")
    assert {"sigma_g", "sigma_g_i", "effects_g", "effects_g_i", "L_g_i"} <= {*apart.latents}
    assert data[model.encoding.effects[0].column].shape[1] == 2


def test_priors_of_a_scale_s_predictor_lie_at_the_log_of_the_spread(frame):
    model, data = ht.formula("y ~ x", frame, sigma="~ z")
    prior = model.prior("mu_sigma", model.values({}), data)
    ratio = frame.z.mean() / max(frame.z.std(), 0.2 * (frame.z.max() - frame.z.min()))
    np.testing.assert_allclose(prior.mean, np.log(frame.y.std()), rtol=1e-6)
    np.testing.assert_allclose(prior.stddev, 2.5 * np.sqrt(1 + ratio**2), rtol=1e-6)


def test_other_families_parameters_have_predictors(frame):
    model, data = ht.formula("count ~ x", frame, family="negative_binomial", phi="~ z")
    v = {"mu": torch.ones(1, 1), "beta": torch.full((1, 1, 1), 0.1), "mu_phi": torch.full((1, 1), 0.5)}
    v = {name: x.double() for name, x in (v | {"beta_phi": torch.full((1, 1, 1), 0.3)}).items()}
    mean, size = np.exp(1 + 0.1 * frame.x), np.exp(0.5 + 0.3 * frame.z)
    found = model.log_likelihood(model.values(v), data)[0]
    np.testing.assert_allclose(found, stats.nbinom.logpmf(frame["count"], size, size / (size + mean)), atol=1e-9)


@pytest.mark.slow
def test_location_and_scale_are_recovered(frame):
    posterior = ht.fit("y ~ x + (1 |i| g)", frame, sigma="~ z + (1 |i| g)", seed=1, progress=False)
    found = posterior.summary()
    assert found["r_hat"].max() < 1.02
    truth = {"mu": 1.0, "beta[x]": 0.7, "mu_sigma": 0.2, "beta_sigma[z]": 0.5}
    truth |= {"sigma_g[Intercept]": 1.0, "sigma_g[sigma_Intercept]": 0.4, "L_g[1, 0]": 0.8}
    for name, value in truth.items():
        assert abs(found["mean"][name] - value) < 3.5 * found["sd"][name], name
    predicted = posterior.predict(frame.head(3), kind="response", seed=1)
    assert predicted.draws.shape[-1] == 3


def test_zeros_have_a_predictor_of_their_own():
    """zi_i = logit^-1(mu_zi + beta_zi x_i), by SciPy."""
    r = np.random.default_rng(4)
    frame = pd.DataFrame({"y": r.poisson(2.0, 30) * r.integers(2, size=30), "x": r.normal(size=30)})
    model, data = ht.formula("y ~ x", frame, family="zero_inflated_poisson", zi="~ x")
    assert list(model.latents) == ["mu", "beta", "mu_zi", "beta_zi"]
    v = {name: torch.tensor([[value]]).double() for name, value in (("mu", 0.5), ("mu_zi", -1.0))}
    v |= {name: torch.tensor([[[value]]]).double() for name, value in (("beta", 0.25), ("beta_zi", 0.75))}
    share = stats.logistic.cdf(-1.0 + 0.75 * frame.x)
    p = share * (frame.y == 0) + (1 - share) * stats.poisson(np.exp(0.5 + 0.25 * frame.x)).pmf(frame.y)
    np.testing.assert_allclose(model.log_likelihood(v, data)[0], np.log(p), rtol=1e-6)


def test_trials_of_zero_inflated_counts():
    frame = pd.DataFrame({"y": [0, 1, 3, 0], "n": [4, 4, 5, 6], "x": [0.1, 0.2, 0.3, 0.5]})
    model, data = ht.formula("y | trials(n) ~ x", frame, family="zero_inflated_binomial")
    assert model.check(data) == [] and list(model.latents) == ["mu", "beta", "zi_y"]
