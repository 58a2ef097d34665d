"""Rows on disk are those in memory, whatever is asked of them."""

import gc
import os
import pickle
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pandas as pd
import pytest
import torch

import hiertorch as ht
from hiertorch.advice import findings
from hiertorch.data import stored
from hiertorch.data.stored import Numbers, Store, Stored, narrowest
from hiertorch.errors import DataError
from hiertorch.gaussian import affine, columns
from hiertorch.model import rowchecks

refused = partial(builders.refused, DataError)

ROWS = 3_000


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    r = np.random.default_rng(0)
    g, x = r.integers(0, 40, ROWS), r.normal(size=ROWS).astype(np.float32)
    y = 0.7 + 0.4 * x + r.normal(0.0, 0.6, 40)[g] + r.normal(size=ROWS)
    flag, text = r.random(ROWS) < 0.3, r.choice([*"abcd"], ROWS)
    w = r.uniform(0.5, 2.0, ROWS)
    return pd.DataFrame({"y": y, "x": x, "flag": flag, "w": w, "group": 7 * g - 90, "text": text})


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks."""
    monkeypatch.setattr(stored, "BLOCK", 700)


def on_disk(
    frame: pd.DataFrame, response: str, groups: list[str], predictors: list[str], weights: str | None = None
) -> Stored:
    """The rows of a frame, in files."""
    data = ht.Data.from_frame(frame, response, groups, predictors, weights)

    def written(values: np.ndarray) -> Numbers:
        numbers = Numbers()
        for at in range(0, len(values), 450):
            numbers.append(values[at : at + 450])
        return numbers

    store = Store(
        written(data.y.numpy()),
        {name: written(x.numpy()) for name, x in data.columns.items()},
        {plate: written(x.numpy()) for plate, x in data.codes.items()},
        None if data.weights is None else written(data.weights.numpy()),
    )
    return Stored(data.name, store, data.labels, data.recipe)


def test_parts_of_rows_on_disk_are_ordinary_data(frame: pd.DataFrame) -> None:
    one = on_disk(frame, "y", ["group", "text"], ["x"], "w")
    other = ht.Data.from_frame(frame, "y", ["group", "text"], ["x"], "w")
    some = torch.tensor([2_999, 5, 5, 1_200, 0])
    for mine, theirs in (
        (one.rows(650, 1_500), other.rows(650, 1_500)),
        (one.take(some), other.take(some)),
        (one.rows(100, 900).take(some[1:3]), other.rows(100, 900).take(some[1:3])),
        (one.take_alone(some), other.take_alone(some)),
    ):
        assert type(mine) is ht.Data
        assert torch.equal(mine.y, theirs.y) and torch.equal(mine["x"], theirs["x"])
        assert torch.equal(mine["group"], theirs["group"]) and mine.index.equals(theirs.index)
        assert mine.weights is not None and torch.equal(mine.weights, theirs.weights)
        assert mine.labels["group"].equals(theirs.labels["group"])
    assert torch.equal(one.counts("group"), other.counts("group"))
    assert not one.nests("group", "text")
    assert one.rows(0, 9).whole_data is one
    assert repr(one).startswith(repr(other))


def test_facts_of_groups_are_the_same() -> None:
    r = np.random.default_rng(3)
    pupil = r.integers(0, 60, 2_000)
    frame = pd.DataFrame({"y": r.normal(size=2_000), "pupil": pupil, "school": pupil // 6, "u": 0.5 * (pupil // 6)})
    one = on_disk(frame, "y", ["pupil", "school"], ["u"])
    other = ht.Data.from_frame(frame, "y", ["pupil", "school"])
    assert torch.equal(one.parents("pupil", "school"), other.parents("pupil", "school"))
    assert torch.equal(one.group_values("u", "school"), other.group_values("u", "school"))
    with refused("'school' does not nest in 'pupil'"):
        one.parents("school", "pupil")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0.0, 1.0], bool),
        ([-1, 1], np.int8),
        ([0.0, 128.0], np.int16),
        ([40_000], np.int32),
        ([2**31], np.int64),
        ([0.5, 1.0], np.float32),
        ([0.1, 1.0], np.float64),
        ([-0.0, 1.0], np.float32),
        ([2.0**60, 1.0], np.float32),
        ([2.0**60 + 2.0**10, 1.0], np.float64),
        ([True, False], bool),
    ],
)
def test_the_narrowest_dtype_holds_all_numbers(values: list[Any], dtype: type) -> None:
    given = np.asarray(values)
    assert narrowest(given) == dtype
    numbers = Numbers()
    numbers.append(np.array([1, 0, 1]))
    numbers.append(given)
    read = numbers.read(0, numbers.length).astype(np.float64)
    assert read.tobytes() == np.concatenate([[1.0, 0.0, 1.0], given.astype(np.float64)]).tobytes()


def test_what_does_not_fit_into_memory_is_said(frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    data = on_disk(frame, "y", ["group"], ["x"])
    monkeypatch.setattr(stored, "free", lambda device: 8.0 * ROWS)
    with refused("'x' of all 3,000 rows takes 0.0 GiB of memory, and 0.0 GiB are free: ask for a part of the rows"):
        data["x"]
    with refused("3,000 rows of 3 columns take 0.0 GiB of memory, and 0.0 GiB are free: fit a part of the rows"):
        data.in_memory()
    assert data.rows(0, 10).n_rows == 10


def test_files_last_as_long_as_the_data(frame: pd.DataFrame) -> None:
    data: Any = on_disk(frame, "y", ["group"], ["x"])
    files, part = {x.file.fileno() for x in (data.store.y, data.store.columns["x"])}, data.to(dtype=torch.float32)
    assert deepcopy(data) is data
    again = pickle.loads(pickle.dumps(data))
    assert again.fingerprint == data.fingerprint and again.labels["group"].equals(data.labels["group"])
    del data
    assert part.rows(0, 5).dtype == torch.float32
    assert all(os.fstat(file).st_nlink == 0 for file in files)  # nothing is left of a process that is killed
    os.ftruncate(part.store.y.file.fileno(), 3_000)
    with refused("a file of rows on disk ends too soon"):
        part.rows(2_000, 2_005)
    del part
    gc.collect()
    for file in files:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(file)


@pytest.mark.parametrize("weights", [None, pytest.param("w", marks=pytest.mark.slow)])
def test_a_collapsed_model_has_the_same_draws_and_never_all_rows(
    frame: pd.DataFrame, weights: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((columns, "FEW_ROWS"), (affine, "PROBED_ROWS"), (rowchecks, "ROWS"), (findings, "LOOK")):
        monkeypatch.setattr(module, name, 500)
    monkeypatch.setattr(columns, "CHUNK_NUMBERS", 4_000)
    model = ht.models.MixedEffects("group", predictors=["x"])
    settings: dict[str, Any] = {"draws": 40, "chains": 4, "warmup": 40, "seed": 3, "progress": False}
    there = ht.sample(model, ht.Data.from_frame(frame, "y", ["group"], ["x"], weights), **settings)
    data = on_disk(frame, "y", ["group"], ["x"], weights)
    wholes, read = [], Numbers.read

    def noted(self: Numbers, start: int, stop: int) -> np.ndarray:
        wholes.append(stop - start == ROWS)
        return read(self, start, stop)

    monkeypatch.setattr(Numbers, "read", noted)
    here = ht.sample(model, data, **settings)
    assert here.run["collapsed"] and here.run["audit"]["sound"]
    for name, x in there.draws.items():
        assert torch.equal(here.draws[name], x)
    # For the scales of priors, and what advice says, one column after the other; none in a sweep.
    assert sum(wholes) <= 8


@pytest.mark.slow
def test_other_models_have_their_rows_in_memory(frame: pd.DataFrame) -> None:
    model = ht.models.VaryingIntercepts("group", predictors=["x"], family="bernoulli")
    settings: dict[str, Any] = {"draws": 20, "chains": 4, "warmup": 20, "seed": 3, "progress": False}
    there = ht.sample(model, ht.Data.from_frame(frame, "flag", ["group"], ["x"]), **settings)
    here = ht.sample(model, on_disk(frame, "flag", ["group"], ["x"]), **settings)
    for name, x in there.draws.items():
        assert torch.equal(here.draws[name], x)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
def test_a_posterior_of_rows_on_disk_answers_as_any(frame: pd.DataFrame, tmp_path: Path) -> None:
    model = ht.models.VaryingIntercepts("group", predictors=["x"])
    settings: dict[str, Any] = {"draws": 30, "chains": 4, "warmup": 30, "seed": 3, "progress": False}
    there = ht.sample(model, ht.Data.from_frame(frame, "y", ["group"], ["x"]), **settings)
    here = ht.sample(model, on_disk(frame, "y", ["group"], ["x"]), **settings)
    new = frame[["x", "group"]].head(5)
    for question in (
        lambda posterior: posterior.predict(new, seed=1).draws,
        lambda posterior: torch.tensor(posterior.criterion("loo").elpd),
        lambda posterior: torch.tensor(posterior.effects("alpha")["mean"].to_numpy()),
        lambda posterior: torch.tensor(posterior.summary()["mean"].to_numpy()),
    ):
        assert torch.equal(question(here), question(there))
    here.save(tmp_path / "posterior.safetensors")
    again = ht.Posterior.load(tmp_path / "posterior.safetensors")
    assert torch.equal(again.data.y, there.data.y)
