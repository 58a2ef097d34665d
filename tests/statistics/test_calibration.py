"""Simulation-based calibration: the rank of the truth among posterior draws is uniform (Talts et al. 2018).

Draw theta* from the prior and y from the likelihood, then sample the posterior: theta* is one more draw from it, so its
rank among L independent draws is uniform on 0 .. L. All data sets are sampled as one batch through `data.y` with a
chain axis, some chains for each. Besides every latent the log density is ranked, which sees errors that no single
latent shows (Modrak et al. 2023). Ranks are tested by chi-square and by the largest distance from the uniform
distribution function.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from references import failures, uniformity
from torch.distributions import Bernoulli, Distribution, Gamma, Normal

import hiertorch as ht
from hiertorch.model.latent import Values
from hiertorch.models import VaryingIntercepts
from hiertorch.posterior import Posterior

Sample = Callable[..., Posterior]
SCHOOL = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 4, 4, 4, 4]
X = np.random.default_rng(5).normal(size=len(SCHOOL)).round(2)


class Intercepts(VaryingIntercepts):
    """The ready model with scales that are seldom below 0.1, so that a few hundred sweeps are enough everywhere."""

    sigma_alpha = ht.Latent(Gamma(3.0, 3.0))
    sigma_y = ht.Latent(Gamma(3.0, 3.0))

    def __init__(self) -> None:
        super().__init__("school", ["x"], priors="tutorial")


class Switches(ht.Model):
    """y_i ~ Bernoulli(logit = alpha_j + beta x_i)."""

    mu = ht.Latent(Normal(0.0, 1.5))
    sigma = ht.Latent(Gamma(3.0, 3.0))
    beta = ht.Latent(Normal(0.0, 1.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="school")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Bernoulli(logits=v.alpha[:, data.school] + v.beta * data.x)


def calibration(model: ht.Model, sample: Sample, data_sets: int, thin: int = 15) -> dict[str, float]:
    """p-values of uniform ranks: parameter and test -> p."""
    chains, draws, generator = 4, 25, torch.Generator().manual_seed(21)
    empty = ht.Data(torch.zeros(len(SCHOOL)), groups={"school": SCHOOL}, x=X)
    with torch.no_grad():
        truth = model.sample_prior(empty, data_sets, generator)
        data = empty.replace(y=model.simulate(truth, empty, generator).repeat_interleave(chains, 0))
        posterior = sample(model, data, chains=data_sets * chains, warmup=250, draws=draws, thin=thin, seed=22)
        target = ht.plan(model, empty.replace(y=data.y[::chains]), collapse=False).target
        density = target.state(target.space.unconstrain(truth)).log_density()

    return uniformity(
        {**posterior.draws, "log density": posterior.stats.log_density},
        {**truth, "log density": density},
        chains * draws,
    )


def calibration_one_by_one(model: ht.Model, sample: Sample, data_sets: int) -> dict[str, float]:
    """The same of runs that integrate out, each with rows of its own summed up; the density is that of what is left."""
    chains, draws, generator = 4, 25, torch.Generator().manual_seed(23)
    empty = ht.Data(torch.zeros(len(SCHOOL)), groups={"school": SCHOOL}, x=X)
    runs, densities = [], []
    with torch.no_grad():
        truth = model.sample_prior(empty, data_sets, generator)
        responses = model.simulate(truth, empty, generator)
        for k, y in enumerate(responses):
            data = empty.replace(y=y)
            plan = ht.plan(model, data)
            move = plan.collapsed
            assert move is not None
            runs.append(sample(model, data, plan=plan, chains=chains, draws=draws, thin=3, seed=k))
            left = {name: truth[name][k : k + 1] for name in move.rest}
            densities.append(move.log_density(move.space.join(move.space.unconstrain(left))))
    every = {name: torch.cat([run.draws[name] for run in runs]) for name in truth}
    every["log density"] = torch.cat([run.stats.log_density for run in runs])
    return uniformity(every, {**truth, "log density": torch.cat(densities)}, chains * draws)


@pytest.mark.slow
def test_varying_intercepts(sample: Sample) -> None:
    """Error rate 1e-3."""
    assert not failures(calibration(Intercepts(), sample, 200))


@pytest.mark.slow
@pytest.mark.parametrize("model", [Intercepts(), Switches()], ids=["varying intercepts", "bernoulli"])
def test_many_data_sets(model: ht.Model, sample: Sample) -> None:
    """Error rate 1e-3 a model."""
    assert not failures(calibration(model, sample, 1000, thin=30))


@pytest.mark.slow
def test_runs_that_integrate_out(sample: Sample) -> None:
    """Error rate 1e-3."""
    assert not failures(calibration_one_by_one(Intercepts(), sample, 300))


@pytest.mark.slow
def test_broken_runs_that_integrate_out_are_noticed(sample: Sample, sabotage: Any) -> None:
    sabotage.jacobian()
    assert failures(calibration_one_by_one(Intercepts(), sample, 300))


BROKEN: dict[str, Callable[[Any], None]] = {
    "square root rule": lambda sabotage: sabotage.rule("square root"),
    "no Jacobian": lambda sabotage: sabotage.jacobian(),
    "stale sums over rows": lambda sabotage: sabotage.cache("cells"),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", BROKEN)
def test_broken_samplers_are_noticed(how: str, sample: Sample, sabotage: Any) -> None:
    BROKEN[how](sabotage)
    assert failures(calibration(Intercepts(), sample, 200))


@pytest.mark.slow
def test_a_broken_sampler_is_noticed(sample: Sample, sabotage: Any) -> None:
    """With few data sets and draws that are hardly thinned, since it shows at once."""
    sabotage.rule("square root")
    assert failures(calibration(Intercepts(), sample, 100, thin=4))
