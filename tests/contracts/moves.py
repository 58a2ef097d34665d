"""The contract of a move."""

from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from builders import numbers, sampled
from fake_cuda import CUDA, assert_on_gpu, fake_mode
from scipy import stats
from torch import Tensor

import hiertorch as ht
from hiertorch.density.state import State
from hiertorch.model.latent import Values
from hiertorch.moves.base import Move
from hiertorch.moves.metropolis import Noise, Tuning
from hiertorch.run.plan import MoveSpec, Plan
from hiertorch.run.sweeps import Sweep
from hiertorch.runtime.validating import validation

CHAINS = 6
MANY, FRESH, STEPS = 2_000, 10_000, 20  # chains that step, draws that they are compared with, steps of each move
ALPHA = 1e-3


class Case(NamedTuple):
    """What moves are tried on. The response is drawn from the model."""

    model: ht.Model
    data: ht.Data
    moves: Sequence[MoveSpec] | None = None


class Setting:
    """The moves of a case, with the state and the tuning that a short run ended with."""

    def __init__(self, case: Case) -> None:
        self.model, self.data, self.moves_asked = case
        generator = torch.Generator().manual_seed(31)
        _, y = self.joint(1, generator)
        options = {"chains": CHAINS, "warmup": 40, "draws": 4, "thin": 1, "seed": 32, "plan": self.moves_asked}
        posterior = sampled(self.model, self.data.replace(y=y[0]), **options)
        self.plan = self.plan_for(y[0])
        self.target = self.plan.target
        self.sweep = Sweep(self.plan, CHAINS)
        self.tuning: list[Tuning] = [dict(posterior.tuning[move.name]) for move in self.sweep.moves]
        last = {name: x[:, -1] for name, x in posterior.draws.items() if name in self.target.names}
        self.state = self.target.state(self.target.space.unconstrain(last))
        self.moves = [(self.sweep.moves[k], self.tuning[k]) for k in self.sweep.order]

    def joint(self, chains: int, generator: torch.Generator) -> tuple[Values, Tensor]:
        """Draws of (theta, y), one pair a chain."""
        v = self.model.sample_prior(self.data, chains, generator)
        return v, self.model.simulate(v, self.data, generator)

    def plan_for(self, y: Tensor) -> Plan:
        return ht.plan(self.model, self.data.replace(y=y), moves=self.moves_asked, collapse=False)

    def noises(self, seed: int) -> list[Noise]:
        """The numbers of one sweep, one part a move."""
        found = numbers(self.sweep, 1, self.state.cells, torch.Generator().manual_seed(seed))
        return self.sweep.noises(*(x[0] for x in found))

    def functions(self, v: Values, y: Tensor) -> dict[str, np.ndarray]:
        """Entries of the latents and the two densities, each `(chains,)`."""
        found = {f"{name}[{i}]": x for name, value in v.items() for i, x in enumerate(value.flatten(1).unbind(1))}
        found["log likelihood"] = self.model.log_likelihood(v, self.data.replace(y=y)).sum(1)
        found["log prior"] = self.model.log_prior(v, self.data)
        return {name: x.numpy() for name, x in found.items() if x.std() > 0}  # not the constants of a Cholesky factor


def flat(part: Any) -> dict[str, Tensor]:
    """Every tensor of a state, an info, a noise or a tuning, by path."""
    if isinstance(part, Tensor):
        return {"": part}
    items = part.items() if isinstance(part, dict) else part._asdict().items() if hasattr(part, "_asdict") else ()
    return {f"{name}.{rest}": x for name, value in items for rest, x in flat(value).items()}


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
    parts = [one_chain(x, chain) for x in part]
    return tuple(parts) if type(part) is tuple else type(part)(*parts)


def moved(before: State, after: State, move: Move) -> Tensor:
    """Where the block changed, `(chains, size)`."""
    parts = [(after.free[name] != before.free[name]).reshape(CHAINS, move.size, -1) for name in move.block]
    return torch.cat(parts, -1).any(-1)


class MoveContract:
    """What every move keeps: it leaves its target invariant, is a function of its arguments, and keeps to a device.

    A subclass, whose name begins with `Test`, says what its moves are tried on.

    Attributes:
        cases: by name.
        thorough: the cases for the tests that take a while.
    """

    cases: ClassVar[dict[str, Case]]
    thorough: ClassVar[tuple[str, ...]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        for argument, names in {"name": tuple(self.cases), "thorough_name": self.thorough}.items():
            if argument in metafunc.fixturenames:
                metafunc.parametrize(argument, names)

    @pytest.fixture(autouse=True)
    def as_in_sampling(self) -> Any:
        """Without gradients and argument checks, as `ht.sample` calls targets and moves."""
        with torch.no_grad(), validation(False):
            yield

    @classmethod
    @cache
    def setting(cls, name: str) -> Setting:
        return Setting(cls.cases[name])

    def test_a_step_changes_none_of_its_arguments(self, name: str) -> None:
        setting = self.setting(name)
        for (move, tuning), noise in zip(setting.moves, setting.noises(1), strict=True):
            arguments = (setting.state, tuning, noise)
            before = [{key: x.clone() for key, x in flat(part).items()} for part in arguments]
            move.step(*arguments)
            for part, copy in zip(arguments, before, strict=True):
                assert_same(flat(part), copy)

    def test_the_declared_random_numbers_suffice(self, name: str) -> None:
        """The same noise gives the same step, and no other numbers are drawn."""
        setting, before = self.setting(name), torch.get_rng_state()
        for (move, tuning), noise in zip(setting.moves, setting.noises(2), strict=True):
            assert noise.normal.shape == (CHAINS, move.size, move.normals) and len(noise.more) == move.uniforms
            first, second = (move.step(setting.state, tuning, noise) for _ in range(2))
            for a, b in zip(first, second, strict=True):
                assert_same(flat(a), flat(b))
        assert torch.equal(torch.get_rng_state(), before)

    def test_chains_do_not_meet(self, name: str) -> None:
        """All chains at once equal each chain by itself."""
        setting = self.setting(name)
        for (move, tuning), noise in zip(setting.moves, setting.noises(3), strict=True):
            after, info = move.step(setting.state, tuning, noise)
            nan = 0
            for chain in range(CHAINS):
                alone, its = move.step(one_chain(setting.state, chain), tuning, one_chain(noise, chain))
                assert_same(flat(one_chain(after, chain)), flat(alone), 1e-10)
                torch.testing.assert_close(info.accept[chain : chain + 1], its.accept, rtol=1e-10, atol=1e-10)
                nan += int(its.nan)
            assert nan == int(info.nan)

    def test_cached_pieces_are_those_of_a_fresh_evaluation(self, name: str) -> None:
        setting = self.setting(name)
        state, seen = setting.state, {move.name: set[bool]() for move, _ in setting.moves}
        for seed in range(12):
            for (move, tuning), noise in zip(setting.moves, setting.noises(seed), strict=True):
                after, _ = move.step(state, tuning, noise)
                assert_same(flat(after), flat(setting.target.state(after.free)), 1e-10)
                seen[move.name] |= set(moved(state, after, move).flatten().tolist())
                state = after
        assert all(outcomes == {True, False} for outcomes in seen.values())  # accepted as well as rejected

    def test_what_is_accepted_is_what_the_probability_says(self, name: str) -> None:
        setting = self.setting(name)
        for seed in range(5):
            for (move, tuning), noise in zip(setting.moves, setting.noises(seed), strict=True):
                after, info = move.step(setting.state, tuning, noise)
                assert info.accept.shape == (CHAINS, move.size) and info.nan.shape == () and int(info.nan) == 0
                assert bool(((info.accept >= 0) & (info.accept <= 1)).all())
                assert torch.equal(moved(setting.state, after, move), noise.log_uniform < info.accept.log())
                others = set(setting.state.free) - set(move.moved)
                assert all(after.free[other] is setting.state.free[other] for other in others)

    def test_recorded_pieces_are_those_written(self, name: str) -> None:
        """A run replays recordings, made at the first call: the same arguments must not be taken for one another later.
        The tuning that was learnt with a plan serves one that is made again.
        """
        setting = self.setting(name)
        recorded, state = Sweep(setting.plan.to("cpu"), CHAINS), setting.state
        recorded.rehearse(state, setting.tuning, compiled=False)
        for seed in range(3):
            for k, noise in zip(recorded.order, setting.noises(seed), strict=True):
                after, info = setting.sweep.moves[k].step(state, setting.tuning[k], noise)
                again, same = recorded.moves[k].step(state, setting.tuning[k], noise)
                assert_same(flat(after), flat(again), 1e-10)
                torch.testing.assert_close(info.accept, same.accept, rtol=1e-9, atol=1e-9)
                state = after

    def test_learning_starts_from_what_was_learnt(self, name: str) -> None:
        setting = self.setting(name)
        for move, tuning in zip(setting.sweep.moves, setting.tuning, strict=True):
            begun = move.learning(setting.state)
            assert begun.tuning.keys() == tuning.keys()
            assert_same(begun.told(tuning).tuning, tuning)

    def test_the_target_is_left_invariant(self, thorough_name: str) -> None:
        """Chains that start at draws of (theta, y) are at such draws after any number of steps given y. Each entry and
        both densities are compared with other draws by the test of Kolmogorov and Smirnov. Error rate 1e-3 a move.

        Each chain has data of its own, and tuning is that of other data: a move in four dimensions so is accepted once
        in a third of the chains.
        """
        setting, generator = self.setting(thorough_name), torch.Generator().manual_seed(13)
        v, y = setting.joint(MANY, generator)
        known = setting.functions(*setting.joint(FRESH, generator))
        plan = setting.plan_for(y)
        sweep, start = Sweep(plan, MANY), plan.target.state(plan.target.space.unconstrain(v))
        sweep.rehearse(start, setting.tuning, compiled=False)
        for k, move in enumerate(sweep.moves):
            state = start
            for _ in range(STEPS):
                found = numbers(sweep, 1, state.cells, generator)
                noise = sweep.noises(*(x[0] for x in found))[sweep.order.index(k)]
                state, _ = move.step(state, setting.tuning[k], noise)
            found = setting.functions(Values(state.values), y)
            p = {what: stats.ks_2samp(x, known[what], method="asymp").pvalue for what, x in found.items()}
            failed = {what: value for what, value in p.items() if not value > ALPHA / len(p)}
            assert not failed, f"{move.name} does not leave its target invariant: {failed}"
            share = (state.free[move.block[0]] != start.free[move.block[0]]).double().mean()
            assert share > 0.3, f"{move.name} hardly moves"

    def test_steps_and_what_they_teach_stay_on_the_gpu(self, thorough_name: str) -> None:
        plan = self.setting(thorough_name).plan
        with fake_mode():
            there = plan.to(CUDA)
            free = {
                name: torch.randn(CHAINS, c.size, *c.free_event, dtype=torch.float64, device=CUDA)
                for name, c in there.space.coordinates.items()
            }
            sweep, state = Sweep(there, CHAINS), there.target.state(free)
            learning = [move.learning(state) for move in sweep.moves]
            for t in (6, 7):  # when no window of warm-up ends
                noises = sweep.noises(*(x[0] for x in numbers(sweep, 1, state.cells, None)))
                state, infos = sweep(state, [part.tuning for part in learning], noises)
                learning = sweep.adapt(learning, state, infos, noises, t, 40)
                assert_on_gpu(state, infos, [part.tuning for part in learning])
