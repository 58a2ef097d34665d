"""When warm-up of ordinary moves ends by itself: R-hat of its sweeps, and what a run makes of it."""

from typing import Any

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from torch.distributions import Normal

import hiertorch as ht
from hiertorch.density.state import State
from hiertorch.model.latent import Values
from hiertorch.run.agreement import AGREED, Agreement
from hiertorch.run.schedule import WARMUP

RUN: dict[str, Any] = {"progress": False, "compile": False, "seed": 1, "draws": 5, "chains": 16, "thin": 1}


class Mean(ht.Model):
    """y_i ~ Normal(mu, 1)."""

    mu = ht.Latent(Normal(0.0, 10.0))

    def likelihood(self, v: Values, data: ht.Data) -> Normal:
        return Normal(v.mu, 1.0)


class TwoMeans(Mean):
    """y_i ~ Normal(|mu|, 0.1): chains stay on their side of 0."""

    def likelihood(self, v: Values, data: ht.Data) -> Normal:
        return Normal(v.mu.abs(), 0.1)


@pytest.fixture
def data() -> ht.Data:
    rng = np.random.default_rng(0)
    return ht.Data(y=4.0 + rng.normal(size=20))


def states(x: torch.Tensor) -> list[State]:
    """Of numbers `(sweeps, chains)`."""
    return [State({"mu": row[:, None]}, {}, {"mu": row[:, None] * 0.0}, row[:, None].square()) for row in x]


def seen(x: torch.Tensor) -> Agreement:
    """All sweeps of `(sweeps, chains)`."""
    every = states(x)
    found = Agreement.of(every[0], ["mu"])
    for t, state in enumerate(every):
        found = found.seen(state, ["mu"], int(t >= len(every) // 2))
    return found


@pytest.mark.parametrize("apart", [0.0, 1.0, 1e6])
def test_r_hat_is_that_of_arviz(apart: float) -> None:
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x + apart * (1.0 + 0.3 * torch.arange(5))
    right = max(array_stats.rhat(values.T.numpy(), method="split") for values in (x, x.square()))
    assert seen(x).r_hat() == pytest.approx(right, rel=1e-9 if apart < 10 else 1e-6)


def test_chains_of_their_own_data_are_compared_with_themselves() -> None:
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    single = x[:, :1]
    halves = [values.view(2, 30).numpy() for values in (single, single.square())]
    right = max(array_stats.rhat(half, method="identity") for half in halves)
    assert seen(single).r_hat(alone=True) == pytest.approx(right, rel=1e-9)
    apart = seen(x + 10.0 * torch.arange(5))
    assert apart.r_hat(alone=True) < AGREED < apart.r_hat()


def test_a_chain_that_drifts_or_stands_agrees_with_nobody() -> None:
    noise = torch.randn(60, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert seen(noise).r_hat() < AGREED
    assert seen(noise + torch.linspace(0.0, 4.0, 60)[:, None]).r_hat() > AGREED
    assert seen(noise.clone()[:1].expand(60, 5)).r_hat() == float("inf")


def test_warm_up_ends_where_chains_agree(data: ht.Data) -> None:
    assert ht.sample(Mean(), data, collapse=False, **RUN).run["warmup"] == WARMUP // 4
    apart = ht.sample(TwoMeans(), data, collapse=False, init={"mu": torch.tensor([4.0, -4.0] * 8)[:, None]}, **RUN)
    assert apart.run["warmup"] == WARMUP
    assert ht.sample(Mean(), data, collapse=False, warmup=300, **RUN).run["warmup"] == 300
