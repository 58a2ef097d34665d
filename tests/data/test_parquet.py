"""Data from Parquet files: those of the frame, whether rows are in memory or on disk."""

import datetime
from functools import partial
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pandas as pd
import pytest
import torch

import hiertorch as ht
from hiertorch.data import parquet, stored
from hiertorch.data.stored import Numbers, Stored
from hiertorch.errors import DataError

refused = partial(builders.refused, DataError)

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = 3_000
DAYS = [datetime.date(2020, 1, day) for day in range(1, 8)]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    r = np.random.default_rng(0)
    g = r.integers(0, 40, ROWS)
    x = r.normal(size=ROWS).astype(np.float32)
    return pd.DataFrame({
        "y": 0.7 + 0.4 * x + r.normal(0.0, 0.6, 40)[g] + r.normal(size=ROWS),
        "x": x,
        "n": r.integers(-3, 300, ROWS),
        "flag": r.random(ROWS) < 0.3,
        "large": r.integers(0, 2**40, ROWS),
        "w": r.uniform(0.5, 2.0, ROWS),
        "group": 7 * g - 90,
        "far": r.choice([-(2**60), 5, 2**61], ROWS),
        "text": r.choice(["b", "a", "ä", "Z"], ROWS),
        "kind": pd.Categorical(r.choice(["low", "high"], ROWS), categories=["none", "low", "mid", "high"]),
        "day": r.choice(np.array(DAYS, dtype=object), ROWS),
        "half": r.choice([0.5, -1.5, 3.0], ROWS),
        "year": np.repeat([2019, 2020, 2021], ROWS // 3),
    })  # fmt: skip


@pytest.fixture(scope="module")
def file(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    frame.to_parquet(path, row_group_size=800)
    return path


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches and blocks."""
    monkeypatch.setattr(parquet, "BATCH", 500)
    monkeypatch.setattr(stored, "BLOCK", 700)


GROUPS = ["group", "far", "text", "kind", "day", "half", "flag"]
PREDICTORS = ["x", "n", "large"]


def same(one: ht.Data, other: ht.Data) -> None:
    """To the bit, with their labels and dtypes."""
    assert one.name == other.name and one.n_rows == other.n_rows and one.dtype == other.dtype
    assert one.y.dtype == other.y.dtype and torch.equal(one.y, other.y)
    assert [*one.columns] == [*other.columns] and one.plates == other.plates
    for name, column in other.columns.items():
        assert torch.equal(one[name], column) and one[name].dtype == column.dtype
    for plate, codes in other.codes.items():
        assert torch.equal(one[plate], codes) and one[plate].dtype == codes.dtype
        assert one.labels[plate].equals(other.labels[plate]) and one.labels[plate].dtype == other.labels[plate].dtype
    assert (one.weights is None) == (other.weights is None)
    if one.weights is not None and other.weights is not None:
        assert torch.equal(one.weights, other.weights)
    assert one.fingerprint == other.fingerprint
    assert one.recipe == other.recipe


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_are_those_of_the_frame(file: Path, frame: pd.DataFrame, on_disk: bool, dtype: torch.dtype) -> None:
    read = ht.Data.from_parquet(file, "y", GROUPS, PREDICTORS, "w", dtype=dtype, on_disk=on_disk)
    assert isinstance(read, Stored) is on_disk
    same(read, ht.Data.from_frame(frame, "y", GROUPS, PREDICTORS, "w", dtype=dtype))
    same(read.in_memory(), read)


@pytest.mark.parametrize("on_disk", [True, False])
def test_folders_datasets_and_filters(file: Path, frame: pd.DataFrame, tmp_path: Path, on_disk: bool) -> None:
    for k in range(3):
        part = frame[["y", "x", "group", "text"]].iloc[k * 1_000 : (k + 1) * 1_000]
        (tmp_path / f"year={2019 + k}").mkdir()
        part.to_parquet(tmp_path / f"year={2019 + k}" / "part.parquet")
    names = {"groups": ["group", "year"], "predictors": ["x"]}
    expected = ht.Data.from_frame(frame[["y", "x", "group", "text", "year"]].astype({"year": np.int32}), "y", **names)
    same(ht.Data.from_parquet(tmp_path, "y", **names, on_disk=on_disk), expected)
    every = pytest.importorskip("pyarrow.dataset").dataset(tmp_path, format="parquet", partitioning="hive")
    same(ht.Data.from_parquet(every, "y", **names, on_disk=on_disk), expected)
    late = frame[(frame["year"] >= 2020) & (frame["x"] > 0.0)].reset_index(drop=True)
    read = ht.Data.from_parquet(file, "y", **names, filters=[("year", ">=", 2020), ("x", ">", 0.0)], on_disk=on_disk)
    same(read, ht.Data.from_frame(late, "y", **names))
    files = [tmp_path / "year=2019" / "part.parquet", tmp_path / "year=2021" / "part.parquet"]
    two = ht.Data.from_parquet(files, "y", ["group"], ["x"], on_disk=on_disk)
    rest = frame[frame["year"] != 2020][["y", "x", "group", "text", "year"]].reset_index(drop=True)
    same(two, ht.Data.from_frame(rest, "y", ["group"], ["x"]))


def test_given_labels_and_other_names(file: Path, frame: pd.DataFrame) -> None:
    labels = {"letter": ["Z", "ä", "none", "a", "b"]}
    names = {"groups": {"letter": "text"}, "predictors": {"z": "x"}, "labels": labels}
    one = ht.Data.from_parquet(file, "y", **names, on_disk=True)
    other = ht.Data.from_frame(frame, "y", **names)
    same(one, other)
    with refused("grouping 'letter' has 'ä', which is not in its labels=: add it there."):
        ht.Data.from_parquet(file, "y", groups={"letter": "text"}, labels={"letter": ["Z", "a", "b"]}, on_disk=True)
    assert one.read_rows({"x": [1.0], "text": ["a"]})[0]["z"].tolist() == [1.0]


def test_all_numeric_columns_are_predictors(file: Path, frame: pd.DataFrame) -> None:
    one = ht.Data.from_parquet(file, "y", ["group"], on_disk=True)
    assert [*one.columns] == [*ht.Data.from_frame(frame, "y", ["group"]).columns]


def wrong(tmp_path: Path, on_disk: bool = True, **columns: object) -> ht.Data:
    frame: dict[str, Any] = {"y": np.arange(2_000.0), "x": np.ones(2_000), "g": np.arange(2_000) % 5}
    pq.write_table(pa.table({**frame, **columns}), tmp_path / "rows.parquet")
    return ht.Data.from_parquet(tmp_path / "rows.parquet", "y", ["g"], ["x"], on_disk=on_disk)


def holes(at: list[int], values: list[Any]) -> list[Any]:
    found = list(values)
    for k in at:
        found[k] = None
    return found


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_is_wrong_is_said_with_its_column(tmp_path: Path, on_disk: bool) -> None:
    ones, fives = [1.0] * 2_000, [k % 5 for k in range(2_000)]
    with refused("column 'x': 2 values are NaN, missing or infinite in float64, first in row 1203 (from 0). Drop"):
        wrong(tmp_path, on_disk, x=holes([1_203, 1_700], ones))
    with refused("the response 'y': 1 value is NaN, missing or infinite in float64, first in row 1900 (from 0). Drop"):
        wrong(tmp_path, on_disk, y=[*ones[:1_900], np.inf, *ones[1_901:]])
    for labels in (fives, [str(k) for k in fives], [0.5 * k for k in fives]):
        with refused("grouping 'g': 3 values are missing (None, NaN or NaT), first in row 7 (from 0). Drop those rows"):
            wrong(tmp_path, on_disk, g=holes([7, 8, 1_999], labels))
    with refused("grouping 'g': 1 value is missing (None, NaN or NaT), first in row 600 (from 0). Drop those rows"):
        wrong(tmp_path, on_disk, g=[*map(float, fives[:600]), np.nan, *map(float, fives[601:])])
    with refused("column 'x' is not numeric: found str"):
        wrong(tmp_path, on_disk, x=["a"] * 2_000)
    with refused("column 'x' has 9007199254740993 in row 1500 (from 0), and float64 holds whole numbers beyond 2^53"):
        wrong(tmp_path, on_disk, x=[*[1] * 1_500, 2**53 + 1, *[1] * 499])


def test_what_can_not_be_read_is_said(file: Path, tmp_path: Path) -> None:
    with refused("can't be read as Parquet"):
        ht.Data.from_parquet(tmp_path / "nothing.parquet", "y")
    (tmp_path / "text.parquet").write_text("x,y\n1,2\n")
    with refused("can't be read as Parquet"):
        ht.Data.from_parquet(tmp_path / "text.parquet", "y")
    with refused("from_parquet reads a file, a folder of files"):
        ht.Data.from_parquet(3, "y")
    with refused("the frame has no column 'yy'"):
        ht.Data.from_parquet(file, "yy")
    with refused("filters= takes what pyarrow.parquet.read_table does"):
        ht.Data.from_parquet(file, "y", filters="x > 0")
    with refused("column 'kind=low' is read by level"):
        ht.Data.from_parquet(file, "y", predictors=["kind=low"], on_disk=True)
    with refused("on_disk= is True, False, or None"):
        ht.Data.from_parquet(file, "y", on_disk="no")
    with refused("column 'y' has the name of an attribute of Data"):
        ht.Data.from_parquet(file, "y", predictors=["y"], on_disk=True)


def test_the_weights_are_looked_at(tmp_path: Path) -> None:
    pq.write_table(pa.table({"y": [1.0, 2.0, 3.0], "w": [1.0, -0.5, 1.0]}), tmp_path / "rows.parquet")
    with refused("the weights: 1 value is negative (such as -0.5), first in row 1"):
        ht.Data.from_parquet(tmp_path, "y", weights="w", on_disk=True)


def test_rows_that_are_many_stay_on_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(ht.Data.from_parquet(file, "y", ["group"], ["x"])) is ht.Data
    needed = 8 * ROWS * 3
    monkeypatch.setattr(parquet, "free", lambda device: float(parquet.SHARE * needed))
    assert type(ht.Data.from_parquet(file, "y", ["group"], ["x"])) is Stored


def test_a_full_disk_is_said(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Numbers, values: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Numbers, "append", full)
    with refused("No space left on device"):
        ht.Data.from_parquet(file, "y", ["group"], ["x"], on_disk=True)
