"""Chains that move what stands before coefficients given these leave the posterior as it is.

Broken steps are found by `tests/run/test_givencoefficients.py`, where the answer is known.

As in `test_whitened`, see Note [Exact starts] in `exactstarts`: error rates are 1e-3 a case, two-sided.
"""

from typing import Any

import exactstarts
import numpy as np
import pandas as pd
import pytest
import torch
from exactstarts import THREE, Case, X, Y, Z, failures
from torch.distributions import Bernoulli, Beta, Dirichlet, Gamma, Independent, Normal

import hiertorch as ht
from hiertorch.model.latent import Values
from hiertorch.run.byeffects import WhitenedByEffects

pytestmark = [pytest.mark.usefixtures("as_in_sampling"), pytest.mark.slow]


class Scaled(ht.Model):
    """Two coefficients with a scale each and one common to both, beside effects of groups."""

    mu = ht.Latent(Normal(0.0, 1.0))
    tau = ht.Latent(Gamma(2.0, 2.0))
    s = ht.Latent(Gamma(1.0, 1.0), event=2)
    sigma = ht.Latent(Gamma(2.0, 2.0))
    beta = ht.Latent(lambda v: Independent(Normal(torch.zeros_like(v.s), v.tau.unsqueeze(-1) * v.s), 1))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Bernoulli(logits=v.alpha[:, data.group] + v.beta[..., 0] * data.x + v.beta[..., 1] * data.z)


class Shared(ht.Model):
    """Three coefficients that share a variance."""

    mu = ht.Latent(Normal(0.0, 1.0))
    part = ht.Latent(Beta(2.0, 2.0))
    phi = ht.Latent(Dirichlet(torch.full((3,), 0.7, dtype=torch.float64)))
    beta = ht.Latent(
        lambda v: Independent(
            Normal(torch.zeros_like(v.phi), ((v.part / (1 - v.part)).unsqueeze(-1) * v.phi).sqrt()), 1
        )
    )

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        own = v.beta[..., 0] * data.x + v.beta[..., 1] * data.z + v.beta[..., 2] * data.x * data.z
        return Bernoulli(logits=v.mu + own)


CASES = {
    "scaled": Case(Scaled(), ht.Data(Y, groups=THREE, x=X, z=Z)),
    "shared": Case(Shared(), ht.Data(Y, groups=THREE, x=X, z=Z)),
}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiertorch.run.rounds.CYCLE", 4)
    for name, case in CASES.items():
        monkeypatch.setitem(exactstarts.CASES, name, case)


@pytest.mark.parametrize("name", CASES)
def test_the_posterior_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not failures(name, None, monkeypatch, WhitenedByEffects)


# Means and sds of NumPyro's NUTS, coefficients non-centred: 2 x 1,500 draws, target acceptance 0.99, R-hat 1.002, ESS
# 1,150 of lambda, 1,370 of tau and more of others, no divergent transition.
NUTS = {
    "beta": (
        [
            1.3927,
            -0.8454,
            0.7925,
            -0.6157,
            0.4807,
            0.0111,
            0.0691,
            -0.0173,
            0.0638,
            -0.2256,
            -0.0204,
            0.0607,
            -0.0555,
            0.11,
            -0.0359,
            0.0435,
            -0.0581,
            0.1214,
            -0.0477,
            -0.0159,
            -0.1376,
            0.0453,
            -0.0619,
            0.0828,
            0.0077,
            0.0226,
            0.1381,
            -0.0056,
            0.0519,
            0.0072,
        ],
        [
            0.1821,
            0.1582,
            0.1545,
            0.1531,
            0.1606,
            0.0765,
            0.1017,
            0.0727,
            0.0979,
            0.1518,
            0.0775,
            0.1068,
            0.0969,
            0.1145,
            0.0862,
            0.093,
            0.0969,
            0.1274,
            0.0862,
            0.0775,
            0.1311,
            0.093,
            0.1049,
            0.111,
            0.0762,
            0.0787,
            0.1321,
            0.0769,
            0.0928,
            0.0758,
        ],
    ),
    "lambda_beta": (
        [
            2.9754,
            2.0305,
            1.9886,
            1.8639,
            1.4525,
            -0.6103,
            -0.3242,
            -0.6569,
            -0.4493,
            0.5967,
            -0.5956,
            -0.4225,
            -0.4926,
            -0.0204,
            -0.5442,
            -0.5145,
            -0.3256,
            -0.0115,
            -0.4686,
            -0.5826,
            0.008,
            -0.5444,
            -0.4717,
            -0.2674,
            -0.6373,
            -0.5542,
            0.0764,
            -0.64,
            -0.3941,
            -0.6059,
        ],
        [
            1.1241,
            1.0092,
            1.0175,
            1.039,
            1.1384,
            1.3719,
            1.4114,
            1.3999,
            1.3333,
            1.1897,
            1.2716,
            1.4353,
            1.3402,
            1.3222,
            1.3804,
            1.3655,
            1.3424,
            1.3693,
            1.3119,
            1.4059,
            1.2683,
            1.3359,
            1.2906,
            1.2874,
            1.3082,
            1.2644,
            1.3359,
            1.305,
            1.3282,
            1.3304,
        ],
    ),
    "tau_beta": ([-1.9608], [0.4524]),
}
FEWEST = 1_150


def test_a_horseshoe_of_thirty_coefficients_is_that_of_nuts() -> None:
    """400 Bernoulli rows, 5 coefficients that are not 0. Means are within 5 standard errors of both runs; the largest
    of 61 is beyond once in 28,000. Logarithms of scales.
    """
    r = np.random.default_rng(3)
    x = r.normal(size=(400, 30))
    eta = 0.3 + x[:, :5] @ np.array([1.5, -1.0, 0.8, -0.6, 0.5])
    y = (r.random(400) < 1 / (1 + np.exp(-eta))).astype(float)
    frame = pd.DataFrame(x, columns=[f"x{k}" for k in range(30)]).assign(y=y)
    posterior = ht.fit(
        "y ~ .", frame, family="bernoulli", priors={"beta": "horseshoe(scale=0.1)"}, seed=1, draws=500, progress=False
    )
    ess = posterior.summary().filter(like="ess_bulk").min(axis=1)
    for name, (mean, sd) in NUTS.items():
        drawn = posterior.draws[name].double().flatten(0, 1).flatten(1).numpy()
        drawn = drawn if name == "beta" else np.log(drawn)
        own = float(ess[ess.index.astype(str).str.startswith(name)].min())
        error = (1 / own + 1 / FEWEST) ** 0.5
        assert own > 200
        assert (np.abs(drawn.mean(0) - mean) < 5 * error * np.array(sd)).all(), name
        assert (np.abs(np.log(drawn.std(0) / sd)) < 5 * error).all(), name
