"""Draws beyond a budget of memory are in files: the same to the bit, and memory has few of them at a time."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import hiertorch as ht
from hiertorch.draws import diagnostics
from hiertorch.errors import SamplingError, SamplingWarning
from hiertorch.models import VaryingIntercepts
from hiertorch.posterior import Posterior
from hiertorch.run.store import Store
from hiertorch.runtime import rooms
from hiertorch.runtime.rooms import Place, gathered, is_mapped, mapped, pieces

SHAPES = {"mu": (1,), "beta": (1, 2), "alpha": (300,)}


def test_a_room_in_a_file_has_no_name_and_holds_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "PIECE", 4096)
    x, y = mapped((500, 30, 4), torch.float64, tmp_path), torch.randn(500, 30, 4, dtype=torch.float64)
    assert list(tmp_path.iterdir()) == [] and is_mapped(x) and not is_mapped(y)
    for part in pieces(x, 0):
        x[part] = y[part]
    assert len(list(pieces(x, 0))) > 100 and [*pieces(y, 0)] == [slice(0, 500)]
    assert torch.equal(x, y)
    turned = x.movedim(-1, 0)
    assert is_mapped(turned[:, 3:, 5:7]) and torch.equal(gathered(turned[:, ::3, 5:7]), y.movedim(-1, 0)[:, ::3, 5:7])


def test_a_store_in_files_is_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "PIECE", 4096)
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(90, 3, *shape, generator=generator) for name, shape in SHAPES.items()}
    density = torch.randn(90, 3, generator=generator)
    first = {name: x[0] for name, x in values.items()}
    one, other = (Store(first, tuple(SHAPES), 20, most=40, place=place) for place in (None, Place(tmp_path, 0.0)))
    for store in (one, other):  # grows, and is thinned twice
        for k in range(50):
            store.keep({name: x[k] for name, x in values.items()}, density[k])
        chosen = [*store.wanted(40)]
        store.fill({n: x[50:][chosen] for n, x in values.items()}, density[50:][chosen], store.n_draws)
        store.filled(store.n_draws + len(chosen))
    assert one.interval == other.interval == 4 and one.n_draws == other.n_draws
    assert all(is_mapped(x) and torch.equal(x, one.draws()[name]) for name, x in other.draws().items())
    assert torch.equal(one.log_density(), other.log_density()) and not is_mapped(next(iter(one.draws().values())))


def test_diagnostics_of_draws_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "PIECE", 2**14)
    monkeypatch.setattr(diagnostics, "PIECE", 2**14)
    x = torch.randn(120, 7, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[:, 2, 1, 3], x[5, 1, 0, 2] = 1.0, torch.nan
    y = mapped(x.shape, x.dtype, tmp_path)
    y[:] = x
    one, other = x.movedim(-1, 0), y.movedim(-1, 0)
    for found, wanted in zip(diagnostics.digest(other, [0.1, 0.9]), diagnostics.digest(one, [0.1, 0.9]), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert torch.equal(diagnostics.stuck(other), diagnostics.stuck(one)) and diagnostics.stuck(one).any()


def data() -> ht.Data:
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(10), 6), rng.normal(size=60)
    return ht.Data(y=0.5 * x + rng.normal(size=10)[g] + rng.normal(size=60), groups={"g": g}, x=x)


def test_what_is_asked_of_draws_in_files_has_the_same_answers(tmp_path: Path) -> None:
    model, settings = VaryingIntercepts("g", ["x"]), {"progress": False, "seed": 3, "chains": 8, "draws": 120}
    whole = ht.sample(model, data(), **settings)
    found = ht.sample(model, data(), **settings, checkpoint=tmp_path, keep_in_memory=0)
    again = ht.resume(tmp_path, progress=False, keep_in_memory="1 kB")
    for posterior in (found, again, Posterior.load(tmp_path, keep_in_memory=0.0)):
        assert all(is_mapped(x) and torch.equal(x, whole.draws[name]) for name, x in posterior.draws.items())
        pd.testing.assert_frame_equal(posterior.summary(), whole.summary())
        assert posterior.warnings() == whole.warnings()
        assert posterior.criterion("waic").elpd == whole.criterion("waic").elpd
        assert torch.equal(posterior.predict(kind="mean").draws, whole.predict(kind="mean").draws)
        posterior.save(tmp_path / "one")
        assert torch.equal(Posterior.load(tmp_path / "one").draws["alpha"], whole.draws["alpha"])
    assert not is_mapped(Posterior.load(tmp_path).draws["alpha"])


def test_where_the_disk_has_no_space_draws_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.warns(SamplingWarning, match=r"draws stay in memory.*No space left"):
        store = Store({"mu": torch.zeros(3, 1)}, ("mu",), 20, place=Place(tmp_path, 0.0))
    assert not is_mapped(store.draws()["mu"]) and list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_found_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiertorch.run.schedule.shutil.disk_usage", lambda path: SimpleNamespace(free=1_000))
    settings: dict[str, Any] = {"progress": False, "chains": 8, "draws": 120, "checkpoint": tmp_path / "run"}
    with pytest.raises(SamplingError, match=r"the draws need 0.0 GiB in .*run .* are free there; keep fewer latents"):
        ht.sample(VaryingIntercepts("g", ["x"]), data(), **settings, keep_in_memory=0)
    assert not (tmp_path / "run").exists()


def test_without_a_folder_draws_are_thinned_until_they_fit() -> None:
    settings: dict[str, Any] = {"progress": False, "seed": 3, "chains": 4, "draws": 400}
    numbers = 4 * 14 * 8  # bytes of a draw of all chains: 10 effects, their mean and scale, a slope, a scale
    found = ht.sample(VaryingIntercepts("g", ["x"]), data(), **settings, keep_in_memory=numbers * 100)
    assert found.run["interval"] == 4 and found.n_draws == 100
    with pytest.raises(SamplingError, match="keep_all=True with keep_in_memory= needs checkpoint="):
        ht.sample(VaryingIntercepts("g", ["x"]), data(), **settings, keep_in_memory="2 GiB", keep_all=True)


@pytest.mark.parametrize("value", ["2 gallons", "-1", -1, "", "GiB", True, "2,5 GB"])
def test_what_is_no_number_of_bytes(value: object) -> None:
    with pytest.raises(SamplingError, match=r"keep_in_memory= is a number of bytes, or text such as"):
        ht.sample(VaryingIntercepts("g", ["x"]), data(), keep_in_memory=value)  # type: ignore[arg-type]


PROGRAM = """
import resource, sys
import numpy as np, torch
import hiertorch as ht
from hiertorch.run.engine import Engine
from torch.distributions import Normal

class Wide(ht.Model):
    alpha = ht.Latent(Normal(0.0, 1.0), plate="g")
    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.g], 1.0)

class Made(Engine):
    "Normal draws, one after another."
    def begin(self, init, earlier):
        self.x = torch.zeros(4, GROUPS, dtype=torch.float64)
        self.generator_ = torch.Generator().manual_seed(1)
    def window(self, *, warming):
        return 50
    def advance(self, done, sweeps, warmup, thin, store, acceptance):
        for _ in range(sweeps):
            self.x = torch.randn(4, GROUPS, dtype=torch.float64, generator=self.generator_)
            if done >= warmup:
                store.keep({"alpha": self.x}, self.height())
    def values(self):
        return {"alpha": self.x}
    def height(self):
        return self.x[:, 0]
    def state(self):
        return {"x": self.x, "generator": self.generator_.get_state()}
    def restore(self, state):
        self.begin({}, None)
        self.x = state["x"]
        self.generator_.set_state(state["generator"])

GROUPS, DRAWS = 2000, int(sys.argv[2])
data = ht.Data(y=np.zeros(GROUPS), groups={"g": np.arange(GROUPS)})
def run(draws, **settings):
    settings |= {"plan": Made, "chains": 4, "warmup": 50, "thin": 1, "progress": False, "keep_all": True}
    found = ht.sample(Wide(), data, draws=draws, **settings)
    mean = found.summary(["alpha"], kind="stats")["mean"].sum()
    elpd = found.criterion("waic", draws=200).elpd
    return found.n_draws, mean, elpd
def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
run(200)
before = most()
found = run(DRAWS, **({"checkpoint": sys.argv[1], "keep_in_memory": "16 MiB"} if sys.argv[1] else {}))
print(*found, most() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in kilobytes on Linux")
def test_memory_has_few_of_many_draws(tmp_path: Path) -> None:
    """256 MB of draws with a budget of 16 MiB: a run, its summary and a criterion take less than the draws, for what
    they compute with; in memory they take all the draws beside.
    """
    program = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path / "run"), "4000"]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    draws, mean, elpd, taken = (float(x) for x in done.stdout.split())
    assert draws == 4_000 and abs(mean) < 5 * (2_000 / 16_000) ** 0.5 * 2 and elpd < 0.0
    assert taken < 0.75 * (4_000 * 4 * 2_000 * 8)
