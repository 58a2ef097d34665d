"""What the tests of sampling share: one thread, quiet runs, and the kernel that warm-up leaves behind."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import hiertorch as ht
from hiertorch.errors import SamplingWarning
from hiertorch.kernels import Tuning
from hiertorch.posterior import Posterior
from hiertorch.state import State
from hiertorch.sweep import Sweep


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tensors here are small: threads only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _sample(model: ht.Model, data: ht.Data, **options: Any) -> Posterior:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        return ht.sample(model, data, **{"compile": False, "progress": False, **options})


@pytest.fixture
def sample() -> Callable[..., Posterior]:
    """`ht.sample` without bar, compiler and notes such as that a grouping is never read."""
    return _sample


@dataclass
class Run:
    """A run, and what its sweeps were given."""

    posterior: Posterior
    sweep: Sweep
    tunings: list[list[Tuning]]  # one a sweep, the rehearsal first
    state: State  # after the last sweep

    @property
    def tuning(self) -> list[Tuning]:
        """As warm-up left it."""
        return self.tunings[-1]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """`watched(model, data, **options)` samples and notes what every sweep was given."""

    def run(model: ht.Model, data: ht.Data, **options: Any) -> Run:
        sweeps: list[Sweep] = []
        tunings: list[list[Tuning]] = []
        states: list[State] = []
        call = Sweep.__call__

        def spy(self: Sweep, state: State, tuning: list[Tuning], *numbers: Any) -> Any:
            after, infos = call(self, state, tuning, *numbers)
            tunings.append(tuning)
            sweeps[:], states[:] = [self], [after]
            return after, infos

        with monkeypatch.context() as patch:
            patch.setattr(Sweep, "__call__", spy)
            posterior = _sample(model, data, **options)
        return Run(posterior, sweeps[0], tunings, states[0])

    return run


@pytest.fixture
def advance() -> Callable[..., State]:
    """`advance(sweep, state, tuning, sweeps, generator)`: the state after some sweeps with frozen tuning."""

    def run(sweep: Sweep, state: State, tuning: list[Tuning], sweeps: int, generator: torch.Generator) -> State:
        for done in range(0, sweeps, 20):
            numbers = sweep.numbers(min(20, sweeps - done), state.cells, generator)
            for parts in zip(*numbers, strict=True):
                state, _ = sweep(state, tuning, *parts)
        return state

    return run
