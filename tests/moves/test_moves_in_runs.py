"""Runs of built-in moves: densities that are no numbers, and tuning that is frozen."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from contracts.engines import SCHOOLS
from references import Reference, assert_matches
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution, Gamma, Normal

import hiertorch as ht
from hiertorch.model.latent import Values
from hiertorch.models import CompletePooling, VaryingIntercepts
from hiertorch.posterior import Posterior

Sample = Callable[..., Posterior]


class Truncated(ht.Model):
    """theta ~ Normal(0, 1), y ~ Normal(theta, 1), and a log density that is `bad` below 0."""

    theta = ht.Latent(Normal(0.0, 1.0))

    def __init__(self, bad: float) -> None:
        super().__init__()
        self.bad = bad

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Normal(v.theta, torch.ones_like(v.theta))

    def log_prob(self, v: Any, data: ht.Data) -> Tensor:
        whole = self.log_prior(v) + self.log_likelihood(v, data).sum(-1)
        return torch.where(v.theta[:, 0] < 0, self.bad, whole)


class TruncatedEffects(ht.Model):
    """theta_j ~ Normal(0, 1), y_j ~ Normal(theta_j, 1) for each group j, with the root of a negative number below 0."""

    theta = ht.Latent(Normal(0.0, 1.0), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        theta = v.theta[:, data.group]
        return Normal(theta, torch.ones_like(theta))

    def log_likelihood(self, v: Any, data: ht.Data) -> Tensor:
        return super().log_likelihood(v, data) + 0.0 * v.theta[:, data.group].sqrt()


def half_normal(y: float) -> Any:
    """theta | y, theta > 0: Normal(y / 2, sqrt(1 / 2)) above 0."""
    return stats.truncnorm(-y / 2 / 0.5**0.5, np.inf, y / 2, 0.5**0.5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_densities_that_are_no_numbers_are_rejected_and_counted(bad: float, sample: Sample) -> None:
    """The rest of the posterior is right, at error rate 1e-3 a case. A density of 0 is no mistake, and not counted."""
    posterior = sample(Truncated(bad), ht.Data([0.4]), chains=200, warmup=100, draws=100, seed=1)
    assert_matches(posterior["theta"], Reference.of(half_normal(0.4)))
    (block, count), *_ = posterior.stats.nan.items()
    assert (count > 1000) == (bad != -torch.inf)
    said = [text for text in posterior.warnings() if "NaN" in text]
    assert [f"{count} in block {block!r}" in text for text in said] == ([True] if count else [])


def test_one_groups_nan_is_no_other_groups_business(sample: Sample) -> None:
    """Error rate 1e-3."""
    y = [0.4, 3.0, -1.0]
    data = ht.Data(y, groups={"group": range(3)})
    posterior = sample(TruncatedEffects(), data, chains=200, warmup=100, draws=100, seed=1)
    assert_matches(posterior["theta"], Reference.of(*map(half_normal, y)))
    (block, count), *_ = posterior.stats.nan.items()
    assert block == "groupwise(theta)" and count > 1000
    acceptance = posterior.stats.acceptance[block].mean(0)
    assert acceptance.shape == (3,) and bool((acceptance > 0.1).all())


class Vague(ht.Model):
    """y_i ~ Normal(a_j, 1), a_j ~ Normal(0, s) with a wide prior of log s."""

    s = ht.Latent(Gamma(0.02, 1.0))
    a = ht.Latent(lambda v: Normal(torch.zeros_like(v.s), v.s), plate="school")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        a = v.a[:, data.school]
        return Normal(a, torch.ones_like(a))


def test_a_scale_near_0_in_some_chains_does_not_stop_the_others(sample: Sample) -> None:
    """What is not finite in a chain must not be pooled, and a walk doesn't ask what a guess would have been."""
    s = torch.full((60, 1), 1e-161, dtype=torch.float64)  # 1 / s^2 is infinite to the computer
    s[:20] = 1.0
    posterior = sample(Vague(), SCHOOLS, chains=60, warmup=10, draws=40, seed=1, init={"s": s, "a": 0.0})
    rates = posterior.stats.acceptance["groupwise(a)"]
    for chains in (slice(0, 20), slice(20, None)):
        assert rates[chains].mean() > 0.2, f"{rates[chains].mean():.3f}, NaN: {dict(posterior.stats.nan)}"


def test_tuning_is_frozen_after_warm_up(watched: Callable[..., Any]) -> None:
    model = VaryingIntercepts("school", ["x"], priors="tutorial")
    options = {"chains": 4, "warmup": 20, "thin": 2, "seed": 7}
    short, long = (watched(model, SCHOOLS, draws=draws, **options) for draws in (1, 5))
    warming, sampling = long.tunings[:20], long.tunings[20:]
    assert len(sampling) == 10
    frozen = {(k, name): x for k, tuning in enumerate(sampling[0]) for name, x in tuning.items()}
    for tuning in sampling:  # the very same tensors,
        assert all(tuning[k][name] is x for (k, name), x in frozen.items())
    for (k, name), x in frozen.items():  # with the numbers that they had when warm-up ended
        assert torch.equal(x, short.tunings[-1][k][name])
    for k, tuning in enumerate(warming[0]):  # and warm-up did learn
        assert not torch.equal(tuning["root"], frozen[k, "root"])


def test_walks_learn_no_size_from_data_of_each_chain(sample):
    """Chains with data sets of their own lie far apart: their spread is no size for a walk. Acceptance was 0.004."""
    generator, x = torch.Generator().manual_seed(0), np.random.default_rng(0).normal(size=40)
    model, empty = CompletePooling(["x"], priors="tutorial"), ht.Data(np.zeros(40), x=x)
    y = model.simulate(model.sample_prior(empty, 50, generator), empty, generator).repeat_interleave(4, 0)
    posterior = sample(model, empty.replace(y=y), warmup=300, draws=20, seed=1)
    assert all(float(rate.mean()) > 0.08 for rate in posterior.stats.acceptance.values())
