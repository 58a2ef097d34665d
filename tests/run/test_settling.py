"""When warm-up of collapsed models ends by itself: the rule, what it is told, and what a run makes of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import HalfNormal, Normal

import hiertorch as ht
from hiertorch.model.latent import Values
from hiertorch.run import independence
from hiertorch.run.independence import CYCLE, SUFFICE, Independence
from hiertorch.run.rounds import has_settled
from hiertorch.run.stays import moved

RUN: dict[str, Any] = {"progress": False, "compile": False, "seed": 1, "draws": 20}


class Intercepts(ht.Model):
    """y_i ~ Normal(a_j, 1), a_j ~ Normal(0, tau)."""

    tau = ht.Latent(HalfNormal(2.0))
    a = ht.Latent(lambda v: Normal(0.0, v.tau), plate="g")

    def likelihood(self, v: Values, data: ht.Data) -> Normal:
        return Normal(v.a[:, data["g"]], 1.0)


class Nothing(Intercepts):
    """Of which nothing is left to be sampled."""

    tau = ht.Latent(Normal(0.0, 1.0))
    a = ht.Latent(lambda v: Normal(v.tau, 1.0), plate="g")


@pytest.fixture
def data() -> ht.Data:
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(12), 4)
    return ht.Data(y=rng.normal(size=12)[g] + rng.normal(size=48), groups={"g": g})


@pytest.mark.parametrize(
    ("rate", "before", "longest", "ends"),
    [
        (0.9, 0.3, 3, True),  # most are accepted
        (0.5, 0.49, 3, True),  # no more than before
        (0.5, 0.6, 3, True),  # fewer
        (0.5, 0.4, 3, False),  # there is still something to learn
        (0.9, None, 3, False),  # the first
        (0.9, 0.9, 11, False),  # somebody has stayed
    ],
)
def test_the_rule(rate: float, before: float | None, longest: int, ends: bool) -> None:
    assert has_settled(rate, before, longest, 20) == ends


def test_moves_and_stays_are_counted() -> None:
    steps = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    positions = torch.cat([torch.zeros(1, 4), steps.mT.cumsum(0)]).unsqueeze(2).expand(-1, -1, 2)
    for chain, (share, longest) in enumerate([(1.0, 0), (0.2, 2), (0.4, 3), (0.0, 5)]):
        rate, stay = moved(positions[:, [chain]])
        assert (rate, stay) == (pytest.approx(share), longest)
    assert moved(positions) == (pytest.approx(0.4), 5)


def test_warm_up_ends_with_the_window_that_settles(data: ht.Data) -> None:
    posterior = ht.sample(Intercepts(), data, chains=SUFFICE // CYCLE, **RUN)
    assert posterior.run["warmup"] == 2 * CYCLE and posterior.run["sweeps"] == 2 * CYCLE + 20
    few = ht.sample(Intercepts(), data, chains=SUFFICE // (4 * CYCLE), **RUN)
    assert few.run["warmup"] == 4 * CYCLE  # fewer would have drawn too little


def test_a_warm_up_that_is_given_has_its_length(data: ht.Data) -> None:
    assert ht.sample(Intercepts(), data, chains=128, warmup=90, **RUN).run["warmup"] == 90


def test_a_warm_up_that_does_not_settle_has_an_end(data: ht.Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(independence, "has_settled", lambda *_: False)
    assert ht.sample(Intercepts(), data, chains=128, **RUN).run["warmup"] == 100


def test_where_nothing_is_left_there_is_nothing_to_learn(data: ht.Data) -> None:
    assert ht.sample(Nothing(), data, chains=16, **RUN).run["warmup"] == CYCLE


def test_what_was_learnt_is_frozen(data: ht.Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the end of the last window of warm-up on."""
    found, right = list[tuple[bool, Any]](), Independence.advance

    def advance(engine: Independence, done: int, sweeps: int, warmup: int, *more: Any) -> None:
        right(engine, done, sweeps, warmup, *more)
        found.append((done < warmup, engine.tuning))

    monkeypatch.setattr(Independence, "advance", advance)
    ht.sample(Intercepts(), data, chains=128, **RUN | {"draws": 300})
    warm, frozen = ([tuning for warming, tuning in found if warming == which] for which in (True, False))
    assert len(warm) == 2 and len(frozen) > 1 and warm[0] is not warm[1]
    assert all(tuning is warm[-1] for tuning in frozen)


def test_proposals_that_fit_badly_at_first_are_given_longer(data: ht.Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of proposals so wide that few are accepted, those fitted to the first draws are accepted far more often."""
    right: Callable[..., Any] = independence.found_around_modes

    def wide(*given: Any) -> Any:
        position, pool, proposal = right(*given)
        return position, pool.mean(0) + 30.0 * (pool - pool.mean(0)), proposal

    monkeypatch.setattr(independence, "found_around_modes", wide)
    posterior = ht.sample(Intercepts(), data, chains=128, **RUN)
    assert posterior.run["warmup"] > 2 * CYCLE
    assert float(next(iter(posterior.stats.acceptance.values())).mean()) > 0.8


def test_a_restored_engine_settles_alike(data: ht.Data) -> None:
    plan = ht.plan(Intercepts(), data)
    assert plan.collapsed is not None
    engines = [Independence(plan.collapsed, 128, torch.Generator().manual_seed(1)) for _ in range(2)]
    with torch.no_grad():
        for engine in engines:
            engine.begin({}, None)
    assert "rate" not in engines[0].state() and not engines[0].settled()
    engines[0].rate, engines[0].over = 0.625, True
    engines[1].restore(engines[0].state())
    assert engines[1].rate == 0.625 and engines[1].settled()


@pytest.mark.slow
def test_draws_of_many_short_runs_have_the_law_of_the_posterior(data: ht.Data) -> None:
    """E tau over 60 runs that keep 5 draws after the window that settles, against a sum over a grid, at 4.5 errors by
    the spread of the runs: one in 20,000 seeds. Of draws with a Jacobian too many the mean is far from that.
    """
    tau = torch.linspace(1e-3, 8.0, 20_000, dtype=torch.float64)
    means = torch.as_tensor(data.y).view(12, 4).mean(1)
    height = -0.125 * tau.square() + Normal(0.0, (tau.square() + 0.25).sqrt()).log_prob(means[:, None]).sum(0)
    found = torch.stack(
        [_mean(ht.sample(Intercepts(), data, chains=128, **RUN | {"draws": 5, "seed": seed})) for seed in range(60)]
    )
    off = []
    for log_density in (height, height + tau.log()):
        weight = (log_density - log_density.max()).exp()
        off.append(abs(float(found.mean() - (weight * tau).sum() / weight.sum())) / float(found.std()) * 60**0.5)
    assert off[0] < 4.5 < off[1]


def _mean(posterior: ht.Posterior) -> Tensor:
    assert posterior.run["warmup"] == 2 * CYCLE
    return torch.as_tensor(posterior.draws["tau"]).mean()
