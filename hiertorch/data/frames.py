"""Tables of any kind as pandas frames."""

from collections.abc import Mapping

import pandas as pd

from hiertorch.errors import DataError


def as_frame(table: object) -> pd.DataFrame:
    """A frame as it is, a mapping of columns as a frame, and a table with the Arrow interface likewise.

    Raises:
        DataError: for anything else, and for columns of several lengths.
    """
    if isinstance(table, pd.DataFrame):
        return table
    if isinstance(table, Mapping):
        try:
            return pd.DataFrame(dict(table))
        except ValueError as error:
            raise DataError(f"the columns make no table: {error}.") from error
    if hasattr(table, "__arrow_c_stream__"):
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
