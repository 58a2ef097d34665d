"""Chains that move what stands before coefficients given these leave the posterior as it is, and broken ones do not.

As in `test_whitened`, see Note [Exact starts] in `exactstarts`: error rates are 1e-3 a case, two-sided.
"""

from typing import Any

import exactstarts
import pytest
import torch
from exactstarts import THREE, Case, X, Y, Z, failures
from torch import Tensor
from torch.distributions import Bernoulli, Beta, Dirichlet, Gamma, Independent, Normal

import hiertorch as ht
from hiertorch.model.latent import Values
from hiertorch.run import givencoefficients
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


@pytest.mark.parametrize("name", CASES)
def test_stale_numbers_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows from what was moved given coefficients is not computed anew."""

    def broken(engine: WhitenedByEffects, patch: pytest.MonkeyPatch) -> None:
        right = engine._given

        def stale(sweep: int) -> Any:
            before = engine.at
            found = right(sweep)
            engine.at = engine.at._replace(density=before.density)
            return found

        patch.setattr(engine, "_given", stale)

    assert failures(name, broken, monkeypatch, WhitenedByEffects)


def test_steps_that_lean_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(engine: WhitenedByEffects, patch: pytest.MonkeyPatch) -> None:
        right = givencoefficients._steps

        def leaning(uniform: Tensor, unit: float) -> Tensor:
            return right(uniform, unit) + 0.3

        patch.setattr(givencoefficients, "_steps", leaning)

    assert failures("scaled", broken, monkeypatch, WhitenedByEffects)
