"""Tables of any kind: as what is fitted, and as new rows of every question."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import from_prior, refused

import hiertorch as ht
from hiertorch.data.frames import as_frame

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")


@cache
def rows() -> pd.DataFrame:
    r = np.random.default_rng(0)
    frame = pd.DataFrame({"y": r.normal(size=40), "x": r.normal(size=40), "kind": r.choice([*"abc"], 40)})
    return frame.assign(g=np.repeat([*"pqrs"], 10), w=r.uniform(0.5, 1.5, 40))


@cache
def fitted() -> ht.Posterior:
    return from_prior(*ht.formula("y ~ x + kind + (1 | g)", rows()), 4, 50)


def polars(frame: pd.DataFrame) -> Any:
    pytest.importorskip("pyarrow")
    found = pytest.importorskip("polars").from_pandas(frame)
    return found.with_columns(found["kind"].cast(pytest.importorskip("polars").Categorical))


def arrow(frame: pd.DataFrame) -> Any:
    return pytest.importorskip("pyarrow").Table.from_pandas(frame)


def duckdb(frame: pd.DataFrame) -> Any:
    pytest.importorskip("pyarrow")
    module = pytest.importorskip("duckdb")
    return module.connect().from_df(frame)


def columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return frame.to_dict("list")


class Interface:
    """A table of which nothing is known but its interface."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.table = arrow(frame)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


QUESTIONS: dict[str, Callable[[ht.Posterior, Any], Any]] = {
    "predict": lambda fit, table: fit.predict(table, new_groups="sample").summary,
    "predictions": lambda fit, table: fit.predictions(table).summary["mean"],
    "comparisons": lambda fit, table: fit.comparisons("kind", table, average=True).summary["mean"],
    "slopes": lambda fit, table: fit.slopes("x", table, average=True).summary["mean"],
    "update": lambda fit, table: fit.update(table, new_groups="sample", seed=1, draws=20, progress=False).summary("mu"),
    "monitor": lambda fit, table: ht.monitor(fit, table, new_groups=0.5, seed=1).calibration,
    "condition": lambda fit, table: fit.condition(table, seed=1).summary,
}


@pytest.mark.parametrize(
    "question", [pytest.param(one, marks=[pytest.mark.slow] * (one == "update")) for one in QUESTIONS]
)
@pytest.mark.parametrize("kind", [columns, polars, duckdb, Interface])
def test_new_rows_come_in_any_table(kind: Callable[[pd.DataFrame], Any], question: str) -> None:
    later = rows().head(4).assign(g=["new", "new", "p", "q"])
    later = later.head(2) if question == "condition" else later
    ask = QUESTIONS[question]
    if question == "update":  # by weights
        later = later.assign(y=[0.1, -0.1, 0.2, 0.0])
    one, other = ask(fitted(), later), ask(fitted(), kind(later))
    same = pd.testing.assert_frame_equal if isinstance(one, pd.DataFrame) else pd.testing.assert_series_equal
    same(one, other)


@pytest.mark.parametrize("kind", [columns, polars, arrow, duckdb, Interface])
def test_data_are_read_from_any_table(kind: Callable[[pd.DataFrame], Any]) -> None:
    one, other = (ht.Data.from_frame(table, "y", ["g"], ["x", "kind=b"], "w") for table in (rows(), kind(rows())))
    assert one.fingerprint == other.fingerprint
    formula = "y | weights(w) ~ x + kind + (1 | g)"
    assert ht.formula(formula, kind(rows()))[1].fingerprint == ht.formula(formula, rows())[1].fingerprint


def test_single_values_are_a_row() -> None:
    found = as_frame({"x": 1.0, "g": "p", "n": np.int64(3)})
    pd.testing.assert_frame_equal(found, pd.DataFrame({"x": [1.0], "g": ["p"], "n": [3]}))


@pytest.mark.parametrize("table", [[1, 2], "rows.csv", None, pd.Series([1.0]), np.zeros((2, 2))])
def test_what_is_no_table(table: object) -> None:
    with refused(
        ht.DataError, "a table is a pandas DataFrame, a mapping of columns, or", f"found {type(table).__name__}"
    ):
        as_frame(table)


def test_levels_of_polars() -> None:
    """Sorted, but for an Enum, whose order somebody has chosen."""
    table = polars(rows())
    enum = table.with_columns(table["kind"].cast(pytest.importorskip("polars").Enum([*"cab"])))
    assert [*as_frame(table)["kind"].cat.categories] == [*"abc"]
    assert [*as_frame(enum)["kind"].cat.categories] == [*"cab"]
    assert as_frame(table)["kind"].tolist() == rows()["kind"].tolist()


def test_a_lazy_table_and_a_column_of_polars() -> None:
    table = polars(rows())
    with refused(ht.DataError, "found LazyFrame: collect() it first."):
        as_frame(table.lazy())
    with refused(ht.DataError, "found Series"):
        as_frame(table["x"])


@pytest.mark.slow
def test_weights_of_new_rows_are_those_of_the_formula() -> None:
    """As if they were named."""
    posterior = from_prior(*ht.formula("y | weights(w) ~ x + w + (1 | g)", rows()), 4, 50)
    later = rows().head(3).assign(y=[0.1, -0.1, 0.0])
    one, other = (posterior.update(later, seed=1, draws=20, progress=False, **more) for more in ({}, {"weights": "w"}))
    pd.testing.assert_frame_equal(one.summary("mu"), other.summary("mu"))
    assert one.data.weights is not None and one.data.weights[-3:].tolist() == rows()["w"].head(3).tolist()
