"""Tables of any kind as pandas frames."""

from collections.abc import Mapping
from typing import Protocol, TypeAlias

import numpy as np
import pandas as pd

from hiertorch.errors import DataError


class ArrowTable(Protocol):
    """A table with the Arrow interface, such as those of polars, pyarrow and DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Its columns, as a capsule."""


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
        return pyarrow.table(table).to_pandas()
    raise DataError(
        f"a table is a pandas DataFrame, a mapping of columns, or one with the Arrow interface; found "
        f"{type(table).__name__}."
    )
