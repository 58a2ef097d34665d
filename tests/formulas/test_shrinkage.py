"""Horseshoe and R2D2 of a formula's coefficients: what they imply against quadrature, posteriors against NUTS."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from fake_cuda import CUDA, ToGpu, assert_on_gpu, fake_mode
from scipy import stats
from torch.distributions import Normal

import hiertorch as ht
from hiertorch.errors import ModelError
from hiertorch.formulas.shrinkage import shrinkage_of
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.discovery import collapse
from hiertorch.model.checks import inspect

WIDTHS = np.linspace(0.5, 3.0, 8)


@pytest.fixture(scope="module")
def frame():
    r = np.random.default_rng(5)
    x = r.normal(size=(60, 8)) * WIDTHS
    y = 2 + x @ np.array([1.0, -0.5, 0.2, 0, 0, 0, 0, 0.1]) + r.normal(size=60)
    columns = {f"x{k}": x[:, k] for k in range(8)}
    return pd.DataFrame(
        {"y": y, "g": np.arange(60) % 6, "yes": y > 2, "kind": pd.Categorical([*"abc"] * 20, ordered=True), **columns}
    )


TEXT = "y ~ " + " + ".join(f"x{k}" for k in range(8))


def units(frame):
    x = frame[[f"x{k}" for k in range(8)]].to_numpy()
    return np.maximum(x.std(0, ddof=1), 0.2 * np.ptp(x, axis=0))


def draws(model, data, n=20_000):
    v = model.sample_prior(data, n, torch.Generator().manual_seed(3))
    return {name: v[name][:, 0].numpy() for name in model.latents}


def normal_given(sd, size):
    """P(|b| < size) of b ~ Normal(0, sd)."""
    return 2 * stats.norm.cdf(size / sd) - 1


def test_the_density_of_a_horseshoe_is_the_product_of_its_parts(frame):
    model, data = ht.formula(TEXT, frame, priors={"beta": "horseshoe(scale=0.3, slab=1.5, df=3, slab_df=6)"})
    names = ["tau_beta", "slab_beta", "lambda_beta", "beta"]
    assert list(model.latents) == ["mu", "sigma_y", *names]
    assert model.latents["lambda_beta"].axes == model.latents["beta"].axes
    v = model.sample_prior(data, 5, torch.Generator().manual_seed(1))
    given = {name: v[name] for name in model.latents}
    sigma, tau, slab, local, beta = (v[name].numpy() for name in ["sigma_y", *names])
    spread, s = frame.y.std(), units(frame)
    known = stats.halfcauchy.logpdf(tau, scale=0.3 * sigma)[:, 0]
    known += stats.invgamma.logpdf(slab, 3.0, scale=3.0 * (1.5 * spread) ** 2)[:, 0]
    known += (np.log(2) + stats.t.logpdf(local, 3)).sum((1, 2))
    square, tau2 = slab[..., None], tau[..., None] ** 2
    regular = square * local**2 / (square + tau2 * local**2)  # Piironen & Vehtari 2017, eq. 2.8
    known += stats.norm.logpdf(beta, 0, np.sqrt(tau2 * regular) / s).sum((1, 2))
    for name in ("mu", "sigma_y"):
        known += model.latents[name].prior(v, data).log_prob(v[name])[:, 0].numpy()
    torch.testing.assert_close(model.log_prior(given, data), torch.tensor(known), rtol=1e-10, atol=1e-9)


def test_a_horseshoe_has_the_marginal_of_quadrature(frame):
    """P(|beta| < q) of one coefficient; a part of 20,000 draws has an sd of at most 0.0035, and the
    largest of 4 errors is above 4.5 of them once in 37,000.
    """
    model, data = ht.formula(TEXT, frame, priors={"beta": "horseshoe(scale=0.5, slab=1)", "sigma_y": "Uniform(1, 2)"})
    beta = draws(model, data)["beta"][:, 2] * units(frame)[2]
    spread = frame.y.std()

    def within(size):
        """By quantiles of sigma, tau, lambda and c^2: midpoints of equal probabilities."""
        p = (np.arange(24) + 0.5) / 24
        wide = np.tan(np.pi * p / 2)
        sigma, tau, local, slab = np.meshgrid(
            1 + p, wide, wide, stats.invgamma.ppf(p, 2, scale=2 * spread**2), indexing="ij"
        )
        t = (1 / slab + 1 / (0.5 * sigma * tau * local) ** 2) ** -0.5
        return normal_given(t, size).mean()

    for size in (0.1, 0.5, 1.5, 4.0):
        assert abs((np.abs(beta) < size).mean() - within(size)) < 4.5 * 0.0035 + 0.003  # and what midpoints miss


def test_r2d2_explains_a_beta_part_of_the_variance(frame):
    """Kolmogorov-Smirnov at 1e-4 for R^2, and the marginal of a coefficient by quadrature."""
    priors = {"beta": "R2D2(mean=0.3, precision=4, concentration=0.5)", "sigma_y": "Uniform(1, 2)"}
    model, data = ht.formula(TEXT, frame, priors=priors)
    assert list(model.latents) == ["mu", "sigma_y", "r2_beta", "phi_beta", "beta"]
    found = draws(model, data)
    scale = np.sqrt(found["phi_beta"] * (found["r2_beta"] / (1 - found["r2_beta"]))[:, None])
    prior = model.latents["beta"].prior(model.sample_prior(data, 3, torch.Generator().manual_seed(1)), data)
    explained = (prior.stddev[:, 0].numpy() * units(frame)) ** 2  # of independent columns
    v = model.sample_prior(data, 3, torch.Generator().manual_seed(1))
    part = explained.sum(-1) / (explained.sum(-1) + v["sigma_y"][:, 0].numpy() ** 2)
    np.testing.assert_allclose(part, v["r2_beta"][:, 0].numpy(), rtol=1e-9)
    assert stats.kstest(found["r2_beta"], stats.beta(1.2, 2.8).cdf).pvalue > 1e-4
    assert stats.kstest(found["phi_beta"][:, 4], stats.beta(0.5, 3.5).cdf).pvalue > 1e-4
    z = found["beta"] * units(frame) / found["sigma_y"][:, None]
    np.testing.assert_allclose((z / scale).std(), 1.0, atol=0.02)

    def within(size):
        p = (np.arange(400) + 0.5) / 400
        share, part = np.meshgrid(stats.beta.ppf(p, 0.5, 3.5), stats.beta.ppf(p, 1.2, 2.8))
        return normal_given(np.sqrt(share * part / (1 - part)), size).mean()

    for size in (0.02, 0.1, 0.4, 1.0):
        assert abs((np.abs(z[:, 1]) < size).mean() - within(size)) < 4.5 * 0.0035 + 0.001


# Means and sds of NumPyro's NUTS, coefficients non-centred, lambda~ as in eq. 2.8: 4 x 5,000 draws, target acceptance
# 0.98, R-hat 1.0005, ESS above 6,000, 8 (horseshoe) and 0 divergent transitions.
NUTS = {
    "horseshoe(scale=0.2)": {
        "beta": (
            [1.5198, -0.4469, 0.1830, -0.0063, 0.0499, 0.0479, -0.0680, 0.1340],
            [0.3243, 0.1754, 0.1159, 0.0667, 0.0659, 0.0549, 0.0609, 0.0522],
        ),
        "sigma_y": ([1.0372], [0.1071]),
        "log tau_beta": ([-1.2928], [0.6273]),
    },
    "R2D2(mean=0.3)": {
        "beta": (
            [1.4652, -0.4473, 0.1832, -0.0063, 0.0534, 0.0512, -0.0713, 0.1318],
            [0.3227, 0.1691, 0.1133, 0.0704, 0.0675, 0.0550, 0.0599, 0.0504],
        ),
        "sigma_y": ([1.0426], [0.1073]),
        "r2_beta": ([0.5325], [0.1595]),
        "phi_beta": (
            [0.2598, 0.1615, 0.1149, 0.0557, 0.0720, 0.0760, 0.0954, 0.1647],
            [0.1525, 0.1295, 0.1182, 0.0879, 0.0984, 0.1003, 0.1116, 0.1334],
        ),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("prior", NUTS)
def test_posteriors_agree_with_nuts(frame, prior):
    """Means within 0.08 sd, sds within 8 %: both sides have 4,000 and more effective draws, whose means differ by 0.022
    sd at one sigma, 3.6 of which are 0.08. With a scale of 0.3, or a mean of 0.4, both fail by twice as much.
    """
    posterior = ht.fit(TEXT, frame, priors={"beta": prior}, seed=1)
    assert posterior.summary()["r_hat"].max() <= 1.015
    for name, (means, sds) in NUTS[prior].items():
        x = posterior[name.removeprefix("log ")].numpy()
        x = (np.log(x) if name.startswith("log") else x).reshape(-1, len(means))
        assert np.abs((x.mean(0) - means) / np.array(sds)).max() < 0.08
        assert np.abs(x.std(0) / np.array(sds) - 1).max() < 0.08


def test_an_entry_keeps_a_prior_of_its_own(frame):
    for prior, latent in (("horseshoe", "lambda_beta"), (ht.R2D2(), "phi_beta")):
        model, data = ht.formula(TEXT, frame, priors={"beta": prior, "beta[x2]": Normal(0.5, 0.1)})
        assert model.latents[latent].axes == (tuple(f"x{k}" for k in range(8) if k != 2),)
        assert "Normal(0.5, 0.1) for x2" in str(model)
        v = model.sample_prior(data, 4, torch.Generator().manual_seed(1))
        made, plain = model.latents["beta"].prior(v, data).base_dist, ht.formula(TEXT, frame, priors={"beta": prior})
        assert made.loc[0, 0].tolist() == [0, 0, 0.5, 0, 0, 0, 0, 0]
        assert torch.equal(made.scale[..., 2], torch.full((4, 1), 0.1, dtype=torch.float64))
        whole = {name: v[name] for name in model.latents}
        put = torch.ones(4, 1, 8, dtype=torch.float64)
        rest = [0, 1, 3, 4, 5, 6, 7]
        put[..., rest] = v[latent]
        others = plain[0].latents["beta"].prior({**whole, latent: put}, data).base_dist.scale
        torch.testing.assert_close(made.scale[..., rest], others[..., rest])


CASES = [
    (TEXT, {"priors": {"beta": "horseshoe"}}),
    (
        TEXT + " + kind + (1 | g)",
        {"priors": {"beta": "R2D2", "beta[x1]": "Normal(1, 0.3)", "sigma_g": "HalfNormal(2)"}},
    ),
    ("y ~ 0 + kind + x1", {"priors": {"beta": ht.Horseshoe(df=3), "tau_beta": "HalfNormal(0.3)"}}),
    ("yes ~ x1 + x2 + x3", {"family": "bernoulli", "priors": {"beta": "horseshoe", "beta[x2]": "Normal(1, 0.3)"}}),
    ("y ~ x1 + x2", {"sigma": "~ x1 + x2", "priors": {"beta": "R2D2", "beta_sigma": "horseshoe(scale=0.1)"}}),
    ("kind ~ x1 + x2", {"family": "cumulative", "priors": {"beta": "R2D2", "phi_beta": "Dirichlet([2.0, 1.0])"}}),
]


@pytest.mark.parametrize(("text", "options"), CASES)
def test_the_source_has_the_same_density_and_files_the_same_prior(frame, text, options):
    model, data = ht.formula(text, frame, **options)
    names: dict[str, object] = {}
    exec(compile(model.source(data), "source", "exec"), names)
    own = names["FromFormula"]()
    assert list(own.latents) == list(model.latents)
    v = model.sample_prior(data, 3, torch.Generator().manual_seed(1))
    v = {name: v[name] for name in model.latents}
    torch.testing.assert_close(own.log_prob(v, data), model.log_prob(v, data), rtol=1e-12, atol=1e-9)
    ht.plan(model, data)


def test_a_file_keeps_the_prior(frame, tmp_path):
    text, priors = "y ~ x1 + x2 + x3", {"beta": ht.Horseshoe(scale=0.1)}
    posterior = ht.fit(text, frame, priors=priors, seed=1, chains=2, draws=4, warmup=20)
    posterior.save(tmp_path / "it")
    again = ht.Posterior.load(tmp_path / "it")
    assert str(again.model) == str(posterior.model)
    assert "tau_beta    ~ HalfCauchy(0.1 sigma_y)" in str(again.model)
    assert np.array_equal(again["lambda_beta"], posterior["lambda_beta"])


def test_text_and_object_are_the_same():
    assert shrinkage_of("beta", "horseshoe(scale=0.1, slab=3)") == ht.Horseshoe(scale=0.1, slab=3)
    assert shrinkage_of("beta", " Horseshoe ") == shrinkage_of("beta", "horseshoe()") == ht.Horseshoe()
    assert shrinkage_of("beta", "r2d2(concentration=1)") == ht.R2D2(concentration=1)
    for one in (ht.Horseshoe(df=2), ht.R2D2(mean=0.2)):
        assert shrinkage_of("beta", str(one)) == one
    assert shrinkage_of("beta", "Normal(0, 1)") is None


WRONG = [
    ({"beta": "horseshoe(scale=0)"}, "scale= of horseshoe is a positive number; found 0"),
    ({"beta": "R2D2(mean=1)"}, "mean= of R2D2 is a number between 0 and 1"),
    ({"beta": "horseshoe(1)"}, "its arguments have names"),
    ({"beta": "horseshoe(scale_slab=2)"}, "has no scale_slab=.*Did you mean 'slab'"),
    ({"beta": "R2D2(presision=2)"}, "has no presision=.*precision"),
    ({"beta": "horseshoe(scale=x)"}, "is text such as"),
    ({"beta": "R2D2", "beta[x1]": "Gamma(1, 1)"}, "is a normal one"),
    ({"beta": "horseshoe", "beta[x1]": "Normal(0, 1)", "beta[x2]": "Normal(0, 1)"}, "leave out that of 'beta'"),
    ({"beta": "R2D2", "beta[x1]": "Normal(0, 1)"}, "two coefficients or more"),
    ({"beta": "horseshoe", "beta[x9]": "Normal(0, 1)"}, "no entry 'x9'"),
    ({"mu": "horseshoe"}, "all coefficients of a formula's predictor together.*found it for 'mu'"),
    ({"beta[x1]": ht.R2D2()}, "all coefficients of a formula's predictor together"),
    ({"tau_beta": "HalfNormal(1)"}, "does not have here"),
]


@pytest.mark.parametrize(("priors", "says"), WRONG)
def test_what_is_wrong_gets_a_sentence(frame, priors, says):
    with pytest.raises(ModelError, match=says):
        ht.formula("y ~ x1 + x2", frame, priors=priors)


@pytest.mark.parametrize("many", [20, 80])
def test_coefficients_and_effects_are_integrated_out(frame, many):
    """Given lambda, tau and the slab coefficients are normal. Where those are many beside the scale of effects, that
    has no move given effects, which needs a proposal for all others at once.
    """
    more = {f"z{k}": np.random.default_rng(k).normal(size=60) for k in range(many)}
    text = TEXT + "".join(f" + {name}" for name in more) + " + (1 | g)"
    model, data = ht.formula(text, frame.assign(**more), priors={"beta": "horseshoe"})
    collapsed = ht.plan(model, data).collapsed
    assert collapsed is not None
    assert collapsed.rest == ("sigma_y", "tau_beta", "slab_beta", "lambda_beta", "sigma_g")
    assert collapsed.covariances == ()


@pytest.mark.parametrize("prior", ["horseshoe", "R2D2"])
def test_densities_stay_on_a_gpu(frame, prior):
    model, data = ht.formula(TEXT, frame, priors={"beta": prior, "beta[x2]": "Normal(0, 1)"})
    found = collapse(model, data, inspect(model, data)[0])
    assert isinstance(found, Collapsed)
    drawn = model.sample_prior(data, 3, torch.Generator().manual_seed(1))
    with fake_mode():
        with ToGpu():
            there = copy.deepcopy(found)
        marginal = there.log_marginal({name: drawn[name].to(CUDA) for name in found.rest})
        assert_on_gpu(marginal)
        assert marginal.shape == (3,)


def test_another_response_has_scales_of_its_own(frame):
    """As every prior that follows the response: 10 y has coefficients 10 times as wide."""
    text, priors = "y ~ 0 + kind + x1", {"beta": "horseshoe"}
    model, data = ht.formula(text, frame, priors=priors)
    v = model.sample_prior(data, 3, torch.Generator().manual_seed(1))
    before = model.latents["beta"].prior(v, data)
    again, ten = ht.formula(text, frame.assign(y=10 * frame.y), priors=priors)
    more = {name: x * {"tau_beta": 10, "slab_beta": 100}.get(name, 1) for name, x in v.items()}
    after = again.latents["beta"].prior(more, ten)
    torch.testing.assert_close(after.mean, 10 * before.mean)
    torch.testing.assert_close(after.stddev, 10 * before.stddev)
    for name, factor in (("tau_beta", 10.0), ("slab_beta", 100.0)):
        old, new = (
            model.latents[name].prior(v, data),
            again.latents[name].prior({**v, "sigma_y": 10 * v["sigma_y"]}, ten),
        )
        x = torch.tensor(0.7, dtype=torch.float64)
        torch.testing.assert_close(new.log_prob(factor * x) + np.log(factor), old.log_prob(x))
