"""What the tests of scripts share: a folder with a table, a config and a model of one's own."""

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import write_pupils

OWN = """
import hiertorch as ht
from hiertorch.models import VaryingIntercepts
from torch.distributions import Gamma

class Steep(VaryingIntercepts):
    sigma_y = ht.Latent(Gamma(2.0, 2.0))
"""


@pytest.fixture(autouse=True)
def formatwarning(monkeypatch: pytest.MonkeyPatch, no_figures: None) -> None:
    """What a script changes for its whole program is put back; and no test of commands looks at figures."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """`project(config, schools, rows, spread)` makes a working directory with a table of so many rows in each school,
    whose levels are so far apart, a module `own` with a model, and a config.
    """

    def made(config: str, schools: int, rows: int, spread: float) -> Path:
        write_pupils(tmp_path, schools, rows, spread)
        (tmp_path / "fit.yaml").write_text(config)
        (tmp_path / "own.py").write_text(OWN)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    yield made
    sys.modules.pop("own", None)
