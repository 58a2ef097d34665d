"""What the tests of sampling share: one thread, quiet runs, and the kernel that warm-up leaves behind.

Whatever loads torch is imported late: the process that deals tests out to workers runs none.
"""

import gc
import shutil
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from watching import Run, Sabotage

    from hiertorch.density.state import State
    from hiertorch.posterior import Posterior

pytest.register_assert_rewrite("contracts", "exactstarts", "references", "server", "windows", "zoo")


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
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def as_in_sampling() -> Iterator[None]:
    """Without gradients and argument checks, as `ht.sample` calls engines."""
    import torch

    from hiertorch.runtime.validating import validation

    with torch.no_grad(), validation(False):
        yield


@pytest.fixture(scope="session")
def sample() -> "Callable[..., Posterior]":
    """`builders.sampled`."""
    from builders import sampled

    return sampled


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """`builders.unpainted`."""
    from builders import unpainted

    unpainted(monkeypatch)


@pytest.fixture(scope="session")
def watched() -> "Callable[..., Run]":
    """`watching.watched`."""
    from watching import watched

    return watched


@pytest.fixture(scope="session")
def advance() -> "Callable[..., State]":
    """`watching.advance`."""
    from watching import advance

    return advance


@pytest.fixture
def sabotage(monkeypatch: pytest.MonkeyPatch) -> "Sabotage":
    """`watching.Sabotage`."""
    from watching import Sabotage

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
