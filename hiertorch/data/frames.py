"""Tables of any kind as pandas frames."""

import os
from collections.abc import Mapping
from typing import Protocol, TypeAlias

import numpy as np
import pandas as pd

from hiertorch.errors import DataError


class ArrowTable(Protocol):
    """A table with the Arrow interface, such as those of polars, pyarrow and DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Its columns, as a capsule."""


CATEGORICAL = b"_PL_CATEGORICAL"
"""How polars marks columns of text whose levels are in no order but that of their appearance, unlike those of an Enum;
theirs are sorted, as those of text are.
"""

Table: TypeAlias = pd.DataFrame | Mapping[str, object] | ArrowTable
"""What users hand over as rows."""


def as_frame(table: object) -> pd.DataFrame:
    """A frame as it is, a mapping of columns as a frame, and a table with the Arrow interface likewise. A mapping of
    single values is one row.

    Raises:
        DataError: for anything else, and for columns of several lengths.
    """
    if isinstance(table, pd.DataFrame):
        return table
    if isinstance(table, Mapping):
        columns = dict(table)
        if columns and all(np.ndim(column) == 0 for column in columns.values()):
            columns = {name: [value] for name, value in columns.items()}
        try:
            return pd.DataFrame(columns)
        except ValueError as error:
            raise DataError(f"the columns make no table: {error}.") from error
    if hasattr(table, "__arrow_c_stream__") and not isinstance(table, pd.Series):
        try:
            import pyarrow
        except ImportError as error:
            advice = "pip install 'hiertorch[arrow]'"
            raise DataError(f"tables with the Arrow interface are read by pyarrow: {advice}.") from error
        try:
            read = pyarrow.table(table)
        except pyarrow.ArrowException as error:  # of a single column
            raise _no_table(table) from error
        frame = read.to_pandas()
        for field in read.schema:
            if any(key.startswith(CATEGORICAL) for key in field.metadata or ()):
                column = frame[field.name].cat
                frame[field.name] = column.reorder_categories(sorted(column.categories))
        return frame
    raise _no_table(table)


def _no_table(table: object) -> DataError:
    hint = ": collect() it first" if callable(getattr(table, "collect", None)) else ""
    hint = ": read it first, as by pandas.read_csv" if isinstance(table, str | os.PathLike) else hint
    return DataError(
        "a table is a pandas DataFrame, a mapping of columns, or one with the Arrow interface; found "
        f"{type(table).__name__}{hint}."
    )
