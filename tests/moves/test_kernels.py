"""The contract of every move: pure steps, caches that hold, tuning that is frozen.

The moves are those of the default plans of models that between them have every kind of move: one decision a chain or a
group, effects of one or two dimensions, parents of nested and crossed groupings, bijections other than the identity.
"""

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from builders import MOVED, PUPILS, plan_for
from contracts.engines import SCHOOLS
from references import Reference, assert_matches
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution, Gamma, Normal

import hiertorch as ht
from hiertorch.density.state import State
from hiertorch.model.latent import Values, validation
from hiertorch.models import CompletePooling, VaryingIntercepts
from hiertorch.moves import groupwise, noncentred
from hiertorch.moves import joint as joint_move
from hiertorch.moves.base import Move
from hiertorch.moves.metropolis import Noise
from hiertorch.posterior import Posterior
from hiertorch.run.plan import Plan
from hiertorch.run.sweeps import Sweep

Sample = Callable[..., Posterior]
CHAINS = 6
NAMES = ["varying intercepts", "overridden log_prob", "nested", "crossed", "correlated effects", "positive effects"]


@pytest.fixture(autouse=True, scope="module")
def as_in_sampling() -> Any:
    """Without gradients and argument checks, as `ht.sample` calls targets and moves."""
    with torch.no_grad(), validation(False):
        yield


class Setting:
    """A model's moves, with the state and the tuning that a short run ended with."""

    def __init__(self, run: Any, plan: Plan) -> None:
        self.run, self.plan = run, plan
        self.target = plan.target  # pieces as written, for any number of chains; run.sweep has the recorded ones
        self.state: State = run.state
        self.sweep = Sweep(plan, CHAINS)
        self.moves = [(self.sweep.moves[k], run.tuning[k]) for k in self.sweep.order]

    def noises(self, seed: int) -> list[Noise]:
        """The numbers of one sweep, one part a move."""
        numbers = self.sweep.numbers(1, self.state.cells, torch.Generator().manual_seed(seed))
        return self.sweep.noises(*(x[0] for x in numbers))


@pytest.fixture(scope="module")
def settings(watched: Callable[..., Any]) -> Callable[[str], Setting]:
    @lru_cache
    def setting(name: str) -> Setting:
        model = MOVED[name]
        generator = torch.Generator().manual_seed(31)
        y = model.simulate(model.sample_prior(PUPILS, 1, generator), PUPILS, generator)[0]
        run = watched(model, PUPILS.replace(y=y), chains=CHAINS, warmup=60, draws=4, thin=1, seed=32)
        return Setting(run, plan_for(MOVED[name], y))

    return setting


@pytest.fixture(params=NAMES)
def setting(request: pytest.FixtureRequest, settings: Callable[[str], Setting]) -> Setting:
    return settings(request.param)


def flat(part: Any) -> dict[str, Tensor]:
    """Every tensor of a state, an info, a noise or a tuning, by path."""
    if isinstance(part, Tensor):
        return {"": part}
    items = part.items() if isinstance(part, dict) else part._asdict().items() if hasattr(part, "_asdict") else ()
    return {f"{name}.{rest}": x for name, value in items for rest, x in flat(value).items()}


def copied(part: Any) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in flat(part).items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 0.0) -> None:
    assert a.keys() == b.keys()
    for name, x in a.items():
        close = torch.allclose(x, b[name], rtol=tolerance, atol=tolerance, equal_nan=True)
        assert close, f"{name} differs by {(x - b[name]).abs().max()}"


def one_chain(part: Any, chain: int) -> Any:
    """The chain's part of a state or of noise."""
    if isinstance(part, Tensor):
        return part[chain : chain + 1]
    if isinstance(part, dict):
        return {name: one_chain(x, chain) for name, x in part.items()}
    return type(part)(*(one_chain(x, chain) for x in part))


def moved(before: State, after: State, move: Move) -> Tensor:
    """Where the block changed, `(chains, size)`."""
    parts = [(after.free[name] != before.free[name]).reshape(CHAINS, move.size, -1) for name in move.block]
    return torch.cat(parts, -1).any(-1)


@pytest.mark.slow
def test_every_kind_of_move_is_met(settings: Callable[[str], Setting]) -> None:
    assert {move.kind for name in NAMES for move, _ in settings(name).moves} == {
        "groupwise",
        "centred",
        "joint",
        "non-centred",
    }
    classes = {groupwise.Groupwise, joint_move.Centred, joint_move.Joint, noncentred.NonCentred}
    assert {type(move) for name in NAMES for move, _ in settings(name).moves} == classes


def test_a_step_mutates_none_of_its_arguments(setting: Setting) -> None:
    for (move, tuning), noise in zip(setting.moves, setting.noises(1), strict=True):
        arguments = (setting.state, tuning, noise)
        before = [copied(part) for part in arguments]
        move.step(*arguments)
        for part, copy in zip(arguments, before, strict=True):
            assert_same(flat(part), copy)


def test_the_same_noise_gives_the_same_step(setting: Setting) -> None:
    for (move, tuning), noise in zip(setting.moves, setting.noises(2), strict=True):
        first, second = (move.step(setting.state, tuning, noise) for _ in range(2))
        for a, b in zip(first, second, strict=True):
            assert_same(flat(a), flat(b))


def test_chains_do_not_meet(setting: Setting) -> None:
    """All chains at once equal each chain by itself."""
    for (move, tuning), noise in zip(setting.moves, setting.noises(3), strict=True):
        after, info = move.step(setting.state, tuning, noise)
        nan = 0
        for chain in range(CHAINS):
            alone, its = move.step(one_chain(setting.state, chain), tuning, one_chain(noise, chain))
            assert_same(flat(one_chain(after, chain)), flat(alone), 1e-10)
            torch.testing.assert_close(info.accept[chain : chain + 1], its.accept, rtol=1e-10, atol=1e-10)
            nan += int(its.nan)
        assert nan == int(info.nan)


def test_cached_pieces_are_those_of_a_fresh_evaluation(setting: Setting) -> None:
    state, seen = setting.state, {move.name: set[bool]() for move, _ in setting.moves}
    for seed in range(25):
        for (move, tuning), noise in zip(setting.moves, setting.noises(seed), strict=True):
            after, _ = move.step(state, tuning, noise)
            assert_same(flat(after), flat(setting.target.state(after.free)), 1e-10)
            seen[move.name] |= set(moved(state, after, move).flatten().tolist())
            state = after
    assert all(outcomes == {True, False} for outcomes in seen.values())  # accepted as well as rejected


@pytest.mark.parametrize("piece", ["prior", "cells"])
@pytest.mark.parametrize("kind", [groupwise.Groupwise, joint_move.Joint, noncentred.NonCentred])
def test_a_stale_piece_is_noticed(piece: str, kind: Any, settings: Callable[[str], Setting], sabotage: Any) -> None:
    sabotage.cache(piece, kind)
    with pytest.raises(AssertionError, match=rf"{piece}\S* differs"):
        test_cached_pieces_are_those_of_a_fresh_evaluation(settings("varying intercepts"))


def test_recorded_pieces_are_those_written(setting: Setting) -> None:
    """A run replays recordings, made at the first call: the same arguments must not be taken for one another later."""
    state = setting.state
    for seed in range(3):
        for k, (noise, (move, tuning)) in enumerate(zip(setting.noises(seed), setting.moves, strict=True)):
            recorded = setting.run.sweep.moves[setting.sweep.order[k]]
            after, info = move.step(state, tuning, noise)
            again, same = recorded.step(state, tuning, noise)
            assert_same(flat(after), flat(again), 1e-10)
            torch.testing.assert_close(info.accept, same.accept, rtol=1e-9, atol=1e-9)
            state = after


def test_what_is_accepted_is_what_the_probability_says(setting: Setting) -> None:
    for (move, tuning), noise in itertools.chain(
        *(zip(setting.moves, setting.noises(s), strict=True) for s in range(5))
    ):
        after, info = move.step(setting.state, tuning, noise)
        assert info.accept.shape == (CHAINS, move.size) and info.nan.shape == () and int(info.nan) == 0
        assert bool(((info.accept >= 0) & (info.accept <= 1)).all())
        assert torch.equal(moved(setting.state, after, move), noise.log_uniform < info.accept.log())
        others = set(setting.state.free) - set(move.block) - set(getattr(move, "carried", ()))
        assert all(after.free[name] is setting.state.free[name] for name in others)


def test_walks_of_a_chain_are_accepted_by_the_change_of_the_whole_density(setting: Setting) -> None:
    """min(1, exp(log_density(u') - log_density(u))), where u' is what is taken when everything is accepted."""
    for (move, tuning), noise in zip(setting.moves, setting.noises(6), strict=True):
        if move.kind not in ("joint", "centred"):
            continue
        walk = {**tuning, "log_share": torch.tensor(-torch.inf)} if move.guess is not None else tuning
        proposed, info = move.step(
            setting.state, walk, noise._replace(log_uniform=torch.full_like(noise.log_uniform, -1e30))
        )
        space = setting.target.space
        before, after = (setting.target.log_density(space.join(s.free)) for s in (setting.state, proposed))
        torch.testing.assert_close(info.accept[:, 0], (after - before).clamp(max=0.0).exp(), rtol=1e-8, atol=1e-12)


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
