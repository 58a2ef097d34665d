"""What the tests of sampling share: one thread, quiet runs, and the kernel that warm-up leaves behind."""

import gc
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from builders import numbers, sampled, unpainted
from torch import Tensor

import hiertorch as ht
from hiertorch.density import structure
from hiertorch.density.state import State
from hiertorch.density.target import Target
from hiertorch.moves import base, groupwise, metropolis, noncentred
from hiertorch.moves import joint as joint_move
from hiertorch.moves.metropolis import Tuning
from hiertorch.posterior import Posterior
from hiertorch.run.sweeps import Sweep

pytest.register_assert_rewrite("contracts", "references", "server", "windows", "zoo")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None]:
    """What libraries and thousands of tests leave behind stays to the end: garbage is not looked for in it, which would
    take a third of the time of collection.
    """
    gc.disable()
    yield
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tensors here are small: threads only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sample() -> Callable[..., Posterior]:
    """`builders.sampled`."""
    return sampled


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """`builders.unpainted`."""
    unpainted(monkeypatch)


@dataclass
class Run:
    """A run, and what its sweeps were given."""

    posterior: Posterior
    sweep: Sweep
    tunings: list[list[Tuning]]  # one a sweep
    state: State  # after the last sweep

    @property
    def tuning(self) -> list[Tuning]:
        """As warm-up left it."""
        return self.tunings[-1]


@pytest.fixture(scope="session")
def watched() -> Callable[..., Run]:
    """`watched(model, data, **options)` samples and notes what every sweep was given."""

    def run(model: ht.Model, data: ht.Data, **options: Any) -> Run:
        sweeps: list[Sweep] = []
        tunings: list[list[Tuning]] = []
        states: list[State] = []
        call = Sweep.__call__

        def spy(self: Sweep, state: State, tuning: list[Tuning], noises: Any) -> Any:
            after, infos = call(self, state, tuning, noises)
            tunings.append(tuning)
            sweeps[:], states[:] = [self], [after]
            return after, infos

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Sweep, "__call__", spy)
            posterior = sampled(model, data, **options)
        return Run(posterior, sweeps[0], tunings, states[0])

    return run


@pytest.fixture(scope="session")
def advance() -> Callable[..., State]:
    """`advance(sweep, state, tuning, sweeps, generator)`: the state after some sweeps with frozen tuning."""

    def run(sweep: Sweep, state: State, tuning: list[Tuning], sweeps: int, generator: torch.Generator) -> State:
        for done in range(0, sweeps, 20):
            found = numbers(sweep, min(20, sweeps - done), state.cells, generator)
            for parts in zip(*found, strict=True):
                state, _ = sweep(state, tuning, sweep.noises(*parts))
        return state

    return run


BROKEN_RULES: dict[str, Callable[[Tensor], Tensor]] = {  # what is decided on in place of the log ratio
    "always": torch.zeros_like,
    "never": lambda log_ratio: torch.full_like(log_ratio, -torch.inf),
    "reversed": lambda log_ratio: -log_ratio,
    "square root": lambda log_ratio: log_ratio / 2,
    "lenient": lambda log_ratio: log_ratio + 0.2,
}


class Sabotage:
    """Ways to break the sampler for one test: what the statistical tests must notice."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch

    def rule(self, name: str) -> None:
        """Every move accepts by a wrong rule."""
        right, wrong = metropolis.decide, BROKEN_RULES[name]
        self.patch.setattr(base, "decide", lambda ratio, *more: right(wrong(ratio), *more))

    def jacobian(self) -> None:
        """No log |d theta / d u|."""
        right = Target.log_jacobian
        self.patch.setattr(Target, "log_jacobian", staticmethod(lambda *args: torch.zeros_like(right(*args))))

    def cache(self, piece: str, *kinds: Any) -> None:
        """Moves of some kinds (all by default) leave a cached piece of the density as it was, accepted or not."""
        for kind in kinds or (groupwise.Groupwise, joint_move.Joint, noncentred.NonCentred):

            def step(move: Any, state: State, *more: Any, right: Any = kind.step) -> Any:
                new, info = right(move, state, *more)
                return new._replace(**{piece: getattr(state, piece)}), info

            self.patch.setattr(kind, "step", step)

    def independence(self) -> None:
        """Groups are taken for independent whatever the rows read."""
        self.patch.setattr(structure, "_mixes", lambda *args: None)


@pytest.fixture
def sabotage(monkeypatch: pytest.MonkeyPatch) -> Sabotage:
    return Sabotage(monkeypatch)


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location, options.page_load_strategy = chromium, "eager"
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1500,2000"):
        options.add_argument(f"--{argument}")
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        yield browser
