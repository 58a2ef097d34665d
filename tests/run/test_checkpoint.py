"""Runs in a folder: what is killed at any window goes on to the same draws, and every fault has a sentence."""

import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import HalfNormal, Normal

import hiertorch as ht
from hiertorch.draws import archive
from hiertorch.errors import DataError, HiertorchError, ModelError, RunFolderError, SamplingError, SamplingWarning
from hiertorch.model.latent import Values
from hiertorch.models import Crossed, VaryingIntercepts
from hiertorch.monitors import Monitor, Window
from hiertorch.posterior import Posterior
from hiertorch.run import runfolder
from hiertorch.run.runfolder import DRAWS, LOCK, SOURCE, STATE, Lock
from hiertorch.run.runfolder import RUN as KIND
from hiertorch.runtime.ranks import dealt_out

RUN: dict[str, Any] = {"progress": False, "compile": False, "seed": 3}


def rows(family: str, *, seed: int = 0) -> ht.Data:
    rng = np.random.default_rng(seed)
    g, h, x = np.repeat(np.arange(12), 6), np.tile(np.arange(6), 12), rng.normal(size=72)
    eta = 0.5 * x + rng.normal(size=12)[g]
    y = eta + rng.normal(size=72) if family == "gaussian" else (rng.random(72) < 1 / (1 + np.exp(-eta))).astype(float)
    return ht.Data(y=y, groups={"g": g, "h": h}, x=x)


def intercepts(family: str) -> VaryingIntercepts:
    return VaryingIntercepts("g", ["x"], family=family)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ordinary": ("gaussian", {"collapse": False, "chains": 4, "warmup": 60, "draws": 30, "thin": 2}),
    "ordinary until it suffices": ("bernoulli", {"collapse": False, "chains": 8, "until": ht.Until(ess=300, rhat=1.1)}),
    "collapsed": ("gaussian", {"chains": 16, "draws": 200}),
    "whitened": ("bernoulli", {"chains": 8, "draws": 200}),
    "whitened until it suffices": ("bernoulli", {"chains": 8, "until": ht.Until(ess=2000)}),
}


class Copies(Monitor):
    """Copies the folder as it is after some windows: what a run that was killed then leaves."""

    def __init__(self, folder: Path, at: set[int]) -> None:
        self.folder, self.at, self.windows = folder, at, 0
        self.phases: list[str] = []

    def window(self, window: Window) -> None:
        """The state on disk is that of the window before."""
        self.windows += 1
        if self.windows in self.at:
            self.phases.append(window.phase)
            shutil.copytree(self.folder, f"{self.folder}-{self.windows}")


def assert_same(one: Posterior, other: Posterior) -> None:
    assert one.names == other.names and one.n_draws == other.n_draws and one.draws
    for name, x in one.draws.items():
        assert torch.equal(x, other.draws[name]), name
    assert torch.equal(one.stats.log_density, other.stats.log_density)
    for name, x in one.stats.acceptance.items():
        assert torch.equal(x, other.stats.acceptance[name]), name
    same = ("warmup", "sweeps", "interval", "status", "draws", "until", "nan_example", "plan_text")
    assert {name: one.run.get(name) for name in same} == {name: other.run.get(name) for name in same}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * ("until" in name)) for name in CASES])
def test_a_run_that_was_killed_goes_on_to_the_same_draws(name: str, tmp_path: Path) -> None:
    family, settings = CASES[name]
    model, data, folder = intercepts(family), rows(family), tmp_path / "run"
    whole = ht.sample(model, data, **RUN, **settings)
    copies = Copies(folder, set(range(2, 60)))
    written = ht.sample(model, data, **RUN, **settings, checkpoint=folder, every=0.0, monitors=[copies])
    assert_same(written, whole)
    for k in {copies.phases.index("warmup"), copies.phases.index("sampling"), len(copies.phases) - 1}:
        one = folder.with_name(f"run-{k + 2}")
        unfinished = Posterior.load(one)
        assert unfinished.interrupted and unfinished.n_draws < whole.n_draws
        assert_same(ht.resume(one, model, data, progress=False, every=0.0), whole)
        finished = Posterior.load(one)
        assert not finished.interrupted
        assert all(torch.equal(x, whole.draws[latent]) for latent, x in finished.draws.items() if latent in whole.draws)


@pytest.mark.slow
def test_a_run_of_crossed_effects_goes_on(tmp_path: Path) -> None:
    model, data, folder = Crossed(["g", "h"], ["x"], family="bernoulli"), rows("bernoulli"), tmp_path / "run"
    settings: dict[str, Any] = {**RUN, "chains": 8, "draws": 120}
    whole = ht.sample(model, data, **settings)
    ht.sample(model, data, **settings, checkpoint=folder, every=0.0, monitors=[Copies(folder, {3})])
    assert_same(ht.resume(f"{folder}-3", model, data, progress=False), whole)


class Few(ht.Model):
    """y ~ Normal(mu, sigma)."""

    mu = ht.Latent(Normal(0.0, 1.0))
    sigma = ht.Latent(HalfNormal(1.0))

    def likelihood(self, v: Values, data: ht.Data) -> Normal:
        return Normal(v.mu, v.sigma)

    total = ht.Derived(lambda v: v.mu + v.sigma)


def test_where_draws_are_thinned_one_file_takes_the_place_of_all(tmp_path: Path) -> None:
    data, folder = rows("gaussian"), tmp_path / "run"
    settings: dict[str, Any] = {**RUN, "chains": 400, "draws": 150, "warmup": 20, "thin": 1, "collapse": False}
    whole = ht.sample(Few(), data, **settings)
    assert whole.run["interval"] == 2
    ht.sample(Few(), data, **settings, checkpoint=folder, every=0.0, monitors=[Copies(folder, {3, 4})])
    assert_same(ht.resume(f"{folder}-3", Few(), data, progress=False, every=0.0), whole)
    assert_same(ht.resume(f"{folder}-4", Few(), data, progress=False, every=0.0), whole)
    content, _ = archive.read(folder / STATE, KIND)
    shards = [name for name, *_ in content["run"]["shards"]]  # type: ignore[index]
    assert {path.name for path in folder.iterdir()} == {STATE, SOURCE, LOCK, *shards}
    assert shards[0] != "draws-000001.safetensors"
    assert "total" in ht.resume(folder, Few(), data, progress=False).draws  # which is derived again
    for loaded in (Posterior.load(folder), Posterior.load(folder, model=Few(), data=data)):
        assert torch.equal(loaded.draws["total"], whole.draws["total"])
        assert loaded.summary().equals(whole.summary())


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped after some draws, with the whole one beside it."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    ht.sample(
        intercepts("gaussian"), rows("gaussian"), **RUN, collapse=False, chains=4, warmup=50, draws=100, thin=1,
        checkpoint=folder, every=0.0, monitors=[Copies(folder, {3})],
    )  # fmt: skip
    return Path(f"{folder}-3")


@pytest.fixture
def there(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it that may be spoilt."""
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


def resumed(folder: Path, **settings: Any) -> Posterior:
    return ht.resume(folder, intercepts("gaussian"), rows("gaussian"), progress=False, **settings)


@pytest.mark.slow
def test_a_longer_run_begins_with_the_shorter_one(there: Path) -> None:
    short = resumed(there)
    assert_same(resumed(there), short)
    long = resumed(there, draws=160)
    assert long.n_draws == 160 and long.run["status"] == "finished"
    assert all(torch.equal(x[:, :100], short.draws[name]) for name, x in long.draws.items())
    again = ht.sample(
        intercepts("gaussian"), rows("gaussian"), **RUN, collapse=False, chains=4, warmup=50, draws=160, thin=1
    )
    assert all(torch.equal(x, again.draws[name]) for name, x in long.draws.items())


def test_a_folder_has_its_model_and_data(there: Path) -> None:
    posterior = Posterior.load(there)
    assert posterior.interrupted and posterior.run["status"] == "unfinished"
    assert 25 <= posterior.n_draws < 100 and posterior.criterion("waic").elpd < 0.0
    whole = resumed(shutil.copytree(there, there.with_name("other")))
    assert_same(ht.resume(there, progress=False), whole)
    with pytest.raises(DataError, match="data and no model"):
        ht.resume(there, data=rows("gaussian"))
    with pytest.raises(ModelError, match="another latents or priors"):
        ht.resume(there, OTHERS["prior"][0])


def test_a_folder_of_a_formula_goes_on_alone(tmp_path: Path) -> None:
    folder, data = tmp_path / "run", rows("gaussian")
    frame = pd.DataFrame({"y": data.y.numpy(), "x": data.columns["x"].numpy(), "g": np.repeat(list("abcdefghijkl"), 6)})
    settings: dict[str, Any] = {**RUN, "chains": 4, "draws": 60, "warmup": 30}
    model, read = ht.formula("y ~ x + (1 | g)", frame)
    whole = ht.sample(model, read, **settings, checkpoint=folder, every=0.0, monitors=[Copies(folder, {3})])
    assert_same(ht.resume(f"{folder}-3", progress=False), whole)


def test_a_model_that_can_not_be_made_again_is_to_be_given(tmp_path: Path) -> None:
    class Here(Few):
        """y ~ Normal(mu, sigma), where nobody finds it."""

    folder = tmp_path / "run"
    settings: dict[str, Any] = {**RUN, "chains": 4, "draws": 40, "warmup": 30, "collapse": False}
    whole = ht.sample(Here(), rows("gaussian"), **settings, checkpoint=folder)
    with pytest.raises(DataError, match=r"made inside of a function.*give them, ht\.resume\("):
        ht.resume(folder)
    assert_same(ht.resume(folder, Here(), progress=False), whole)


def test_what_a_run_started_from_is_counted_after_it_was_stopped(tmp_path: Path) -> None:
    model, data, folder = intercepts("gaussian"), rows("gaussian"), tmp_path / "run"
    settings: dict[str, Any] = {"progress": False, "compile": False, "chains": 4, "draws": 40}
    first = ht.sample(model, data, seed=1, warmup=40, **settings)
    whole = ht.sample(model, data, seed=2, start=first, checkpoint=folder, every=0.0, monitors=[Copies(folder, {2})],
                      **settings)  # fmt: skip
    again = ht.resume(f"{folder}-2", progress=False)
    assert_same(again, whole)
    assert again.run["sweeps"] == first.run["sweeps"] + whole.run["warmup"] + 40 * whole.run["thin"]


@pytest.mark.slow
def test_curves_go_on_where_the_state_is(tmp_path: Path) -> None:
    """Every tag has each of its steps once, over both parts of the run, though the first wrote beyond the state."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    folder, board = tmp_path / "run", tmp_path / "board"
    settings: dict[str, Any] = {**RUN, "chains": 4, "draws": 200, "warmup": 100, "collapse": False, "thin": 1}
    ht.sample(intercepts("gaussian"), rows("gaussian"), **settings, checkpoint=folder, every=0.0, log_dir=board,
              monitors=[Copies(folder, {4})])  # fmt: skip
    done = archive.read(Path(f"{folder}-4") / STATE, KIND)[0]["run"]["done"]  # type: ignore[index]
    again = ht.resume(f"{folder}-4", progress=False, log_dir=board)
    for part in (board, board / "chain_0"):
        found = accumulator(str(part)).Reload()
        for tag in found.Tags()["scalars"]:
            steps = [one.step for one in found.Scalars(tag)]
            assert steps == sorted(set(steps)) and steps[-1] <= again.run["sweeps"], tag
    steps = [one.step for one in accumulator(str(board / "chain_0")).Reload().Scalars("trace/mu_alpha")]
    assert min(steps) <= 50 and 0 < len([step for step in steps if step < done]) < len(steps)


OTHERS: Mapping[str, tuple[VaryingIntercepts, ht.Data, dict[str, Any], type[Exception], str]] = {
    "data": (intercepts("gaussian"), rows("gaussian", seed=1), {}, DataError, "not the data of the run"),
    "prior": (
        VaryingIntercepts("g", ["x"], priors={"sigma_y": "HalfNormal(3)"}), rows("gaussian"), {}, ModelError,
        "another latents or priors",
    ),
    "model": (VaryingIntercepts("h", ["x"]), rows("gaussian"), {}, ModelError, "another"),
    "seed": (intercepts("gaussian"), rows("gaussian"), {"seed": 4}, SamplingError, "seed= can't be another"),
    "plan": (intercepts("gaussian"), rows("gaussian"), {"plan": []}, HiertorchError, "."),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_what_differs_is_named(what: str, there: Path) -> None:
    model, data, settings, error, words = OTHERS[what]
    before = (there / STATE).read_bytes()
    with pytest.raises(error, match=words):
        ht.resume(there, model, data, progress=False, **settings)
    assert (there / STATE).read_bytes() == before


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        resumed(tmp_path / "none")
    with pytest.raises(DataError, match="no run was started there"):
        resumed(tmp_path)


def test_a_folder_with_a_run_is_refused_unless_asked_for(there: Path) -> None:
    settings: dict[str, Any] = {**RUN, "collapse": False, "chains": 2, "warmup": 5, "draws": 5, "checkpoint": there}
    with pytest.raises(RunFolderError, match="has a run already"):
        ht.sample(intercepts("gaussian"), rows("gaussian"), **settings)
    new = ht.sample(intercepts("gaussian"), rows("gaussian"), **settings, overwrite=True)
    assert_same(resumed(there), new)
    assert len([path for path in there.iterdir() if path.name.startswith("draws-")]) == 1


def test_two_runs_in_one_folder_are_refused(there: Path) -> None:
    with Lock(there), pytest.raises(RunFolderError, match="another run is going on"):
        resumed(there)
    resumed(there)


def shard(folder: Path) -> Path:
    return min(path for path in folder.iterdir() if path.name.startswith("draws-"))


def cut(folder: Path) -> None:
    path = shard(folder)
    path.write_bytes(path.read_bytes()[:-100])


def flipped(folder: Path) -> None:
    path = shard(folder)
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(bytes(content))


def pickled(folder: Path) -> None:
    torch.save({"draws": torch.zeros(3)}, shard(folder))


def zipped(folder: Path) -> None:
    with zipfile.ZipFile(shard(folder), "w") as file:
        file.writestr("draws.pkl", b"cos\nsystem\n(S'touch owned'\ntR.")


def of_another_run(folder: Path) -> None:
    header, tensors = archive.read(shard(folder), DRAWS)
    archive.write(shard(folder), DRAWS, {**header, "token": "0" * 16}, tensors)


def shortened(folder: Path) -> None:
    header, tensors = archive.read(shard(folder), DRAWS)
    archive.write(shard(folder), DRAWS, header, {name: x[:, :-1] for name, x in tensors.items()})


@pytest.mark.parametrize(
    "spoil", [cut, flipped, pickled, zipped, of_another_run, shortened, lambda folder: shard(folder).unlink()]
)
def test_a_file_of_draws_that_is_damaged_is_named(spoil: Any, there: Path) -> None:
    name = shard(there).name
    spoil(there)
    for read in (lambda: resumed(there), lambda: Posterior.load(there)):
        with pytest.raises(DataError, match=name):
            read()


def test_draws_of_several_processes_are_one_run(there: Path) -> None:
    """Each has written the chains that it had; whoever goes on reads its own."""
    before, whole = runfolder.read(there), Posterior.load(there)
    chains = before.facts["chains"]
    header, tensors = archive.read(shard(there), DRAWS)
    first = shard(there)
    parts = [first.with_stem(f"{first.stem}-{k}of3") for k in (1, 2, 3)]
    for path, held in zip(parts, dealt_out(chains, 3), strict=True):
        part = {name: x[held.start : held.stop] for name, x in tensors.items()}
        archive.write(path, DRAWS, header, part)
    first.unlink()
    state, rest = archive.read(there / STATE, KIND)
    state["run"]["shards"][0][2] = 3  # type: ignore[index]
    archive.write(there / STATE, KIND, state, rest)
    found = Posterior.load(there)
    assert found.draws and all(torch.equal(found.draws[name], x) for name, x in whole.draws.items())
    assert torch.equal(found.stats.log_density, whole.stats.log_density)
    again = runfolder.read(there)
    for own in (*dealt_out(chains, 2), range(1, 2)):
        density = torch.cat([density for _, density in again.parts(own)], 1)
        assert torch.equal(density, whole.stats.log_density[own.start : own.stop])
    parts[1].unlink()
    assert next(again.parts(range(1)))[1].shape[0] == 1  # of the first file alone
    with pytest.raises(DataError, match=r"no file .*2of3"):
        Posterior.load(there)


@pytest.mark.parametrize(
    "name", ["../draws-000001.safetensors", "draws-000001-1of2.safetensors", "/etc/passwd", "draws-1.safetensors", 3]
)
def test_a_state_names_files_of_its_folder_alone(name: object, there: Path) -> None:
    header, tensors = archive.read(there / STATE, KIND)
    header["run"]["shards"] = [[name, 1]]  # type: ignore[index]
    archive.write(there / STATE, KIND, header, tensors)
    with pytest.raises(DataError, match="none has as its name"):
        resumed(there)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("options", "is not the state of a run.*'options'"),
        (None, "does not fit the engine"),
    ],
)
def test_a_state_that_lacks_something(part: str | None, words: str, there: Path) -> None:
    header, tensors = archive.read(there / STATE, KIND)
    if part is None:
        del tensors["engine/cells" if "engine/cells" in tensors else min(n for n in tensors if n.startswith("engine/"))]
    else:
        del header["run"][part]  # type: ignore[attr-defined]
    archive.write(there / STATE, KIND, header, tensors)
    with pytest.raises(DataError, match=words):
        resumed(there)


def test_files_of_another_run_are_refused(there: Path, tmp_path: Path) -> None:
    """A state of other data or another dtype in this folder, or the model of another run."""
    settings: dict[str, Any] = {**RUN, "collapse": False, "chains": 4, "warmup": 10, "draws": 10, "thin": 1}
    other = tmp_path / "other"
    ht.sample(intercepts("gaussian"), rows("gaussian"), **settings, dtype=torch.float32, checkpoint=other)
    with pytest.raises(SamplingError, match="dtype= can't be another"):
        resumed(other, dtype=torch.float64)
    for name in (SOURCE, STATE):
        kept = (there / name).read_bytes()
        shutil.copy(other / name, there / name)
        for read in (lambda: resumed(there), lambda: Posterior.load(there)):
            with pytest.raises(DataError, match="belongs to another run"):
                read()
        (there / name).write_bytes(kept)
    resumed(there)


def test_files_of_others_stay(there: Path) -> None:
    (there / "notes.txt").write_text("mine")
    (there / "draws-1.safetensors").write_text("mine, too")
    resumed(there, every=0.0)
    settings: dict[str, Any] = {**RUN, "collapse": False, "chains": 2, "warmup": 5, "draws": 5, "checkpoint": there}
    ht.sample(intercepts("gaussian"), rows("gaussian"), **settings, overwrite=True)
    assert (there / "notes.txt").read_text() == "mine" and (there / "draws-1.safetensors").exists()


def test_a_run_that_is_refused_leaves_what_was_there(there: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in there.iterdir()}
    for folder in (there, tmp_path / "new"):
        with pytest.raises(HiertorchError):
            ht.sample(VaryingIntercepts("none"), rows("gaussian"), **RUN, checkpoint=folder, overwrite=True)
    assert before == {path.name: path.read_bytes() for path in there.iterdir()} and not (tmp_path / "new").exists()


def test_a_model_that_prints_alike_and_is_another(tmp_path: Path) -> None:
    def likelihood(self: Few, v: Values, data: ht.Data) -> Normal:
        return Normal(v.mu, 2.0 * v.sigma)

    other, folder = type("Few", (Few,), {"likelihood": likelihood, "__doc__": Few.__doc__}), tmp_path / "run"
    settings: dict[str, Any] = {**RUN, "chains": 4, "draws": 60, "warmup": 30, "collapse": False}
    ht.sample(Few(), rows("gaussian"), **settings, checkpoint=folder)
    with pytest.raises(ModelError, match="prints as the model of the run and is another"):
        ht.resume(folder, other(), rows("gaussian"), progress=False)
    ht.resume(folder, Few(), rows("gaussian"), progress=False)


def test_what_is_no_state_is_no_run(there: Path) -> None:
    shutil.copy(shard(there), there / STATE)
    with pytest.raises(DataError, match="is not a run"):
        resumed(there)


class Removes(Monitor):
    """Takes the folder away, or the right to write into it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.windows = folder, 0

    def window(self, window: Window) -> None:
        self.windows += 1
        if self.windows == 2:
            shutil.rmtree(self.folder)


def test_a_folder_that_goes_leaves_the_run_going(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings: dict[str, Any] = {**RUN, "collapse": False, "chains": 4, "warmup": 50, "draws": 300, "thin": 1}
    with pytest.warns(SamplingWarning, match="has gone.*the run goes on"):
        found = ht.sample(
            intercepts("gaussian"), rows("gaussian"), **settings, checkpoint=folder, every=0.0,
            monitors=[Removes(folder)],
        )  # fmt: skip
    assert found.n_draws == 300 and found.run["status"] == "finished" and not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_is_full_leaves_the_run_going(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, calls = archive.save_file, []

    def full(*given: Any) -> None:
        calls.append(given)
        if len(calls) > 3:  # what its model is made again from, draws and a state are there
            raise OSError(number, os.strerror(number))
        right(*given)

    monkeypatch.setattr(archive, "save_file", full)
    settings: dict[str, Any] = {**RUN, "collapse": False, "chains": 4, "warmup": 50, "draws": 300, "thin": 1}
    with pytest.warns(SamplingWarning, match=f"{os.strerror(number)}.*the run goes on") as met:
        found = ht.sample(intercepts("gaussian"), rows("gaussian"), **settings, checkpoint=tmp_path / "run", every=0.0)
    assert found.n_draws == 300 and len(calls) == 4
    assert len([one for one in met if os.strerror(number) in str(one.message)]) == 1
    monkeypatch.undo()
    assert_same(resumed(tmp_path / "run"), found)  # from the state that was written last


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with little room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1000k", "none", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems can't be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_real_disk_that_is_full_leaves_the_run_going(small_disk: Path) -> None:
    settings: dict[str, Any] = {**RUN, "collapse": False, "chains": 8, "warmup": 50, "draws": 1_500, "thin": 1}
    with pytest.warns(SamplingWarning, match="No space left on device.*the run goes on"):
        found = ht.sample(
            intercepts("gaussian"), rows("gaussian"), **settings, checkpoint=small_disk / "run", every=0.0
        )
    assert found.n_draws == 1_500
    assert 0 < Posterior.load(small_disk / "run").n_draws < 1_500
    shutil.copytree(small_disk / "run", small_disk.parent / "copy")
    assert_same(resumed(small_disk.parent / "copy"), found)  # from the state that was written last


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="can't write into"):
        ht.sample(intercepts("gaussian"), rows("gaussian"), **RUN, checkpoint=tmp_path / "file")


@pytest.mark.parametrize(("name", "value"), [("checkpoint", 3), ("checkpoint", ""), ("every", -1), ("every", "30")])
def test_options_that_can_not_be(name: str, value: object) -> None:
    with pytest.raises(SamplingError, match=name):
        ht.sample(intercepts("gaussian"), rows("gaussian"), **RUN, **{name: value})


def child(folder: str, kind: str) -> None:
    """Runs, or goes on, in a process of its own."""
    torch.set_num_threads(1)
    family, settings = CASES[kind]
    settings = {**settings, "draws": 1_500}
    if (Path(folder) / STATE).exists():
        ht.resume(folder, intercepts(family), rows(family), progress=False, every=0.0)
    else:
        ht.sample(intercepts(family), rows(family), **RUN, **settings, checkpoint=folder, every=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ordinary", "collapsed", "whitened"])
def test_killed_twice_at_any_time(kind: str, tmp_path: Path) -> None:
    """SIGKILL and SIGTERM while it writes after every window: six kills of processes in all."""
    context, folder = multiprocessing.get_context("spawn"), tmp_path / "run"
    family, settings = CASES[kind]
    whole = ht.sample(intercepts(family), rows(family), **RUN, **{**settings, "draws": 1_500})
    for stop in ("kill", "terminate"):
        process = context.Process(target=child, args=(str(folder), kind))
        process.start()
        before = (folder / STATE).stat().st_mtime_ns if (folder / STATE).exists() else 0
        while process.is_alive() and not ((folder / STATE).exists() and (folder / STATE).stat().st_mtime_ns != before):
            process.join(0.01)
        process.join(0.05)
        getattr(process, stop)()
        process.join()
    assert_same(ht.resume(folder, intercepts(family), rows(family), progress=False), whole)
