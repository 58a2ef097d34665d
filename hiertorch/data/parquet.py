"""Data from Parquet files: in memory, as from a frame, or read in batches into files of narrow columns.

docs/decisions.md: Rows on disk.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

import pandas as pd
import torch

from hiertorch.data import reading
from hiertorch.data.batches import LabelBatches, NumberBatches, label_batches
from hiertorch.data.frames import as_frame
from hiertorch.data.reading import check_column_name, check_mappings, read_column
from hiertorch.data.recipe import Recipe
from hiertorch.data.stored import Numbers, Store, Stored
from hiertorch.data.table import Data, check_all_names
from hiertorch.errors import DataError
from hiertorch.runtime.memory import free

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Dataset

SHARE = 16
"""Rows are held in memory if they take this part of what is free: reading and sorting them takes several times as much.
"""

BATCH = 1 << 17
"""Rows of a batch."""

AHEAD = 2
"""Batches that are read before they are asked for."""


def read(
    source: object,
    response: str,
    groups: Sequence[str] | Mapping[str, str],
    predictors: Sequence[str] | Mapping[str, str] | None,
    weights: str | None,
    labels: Mapping[str, Sequence[Hashable]] | None,
    dtype: torch.dtype,
    filters: object,
    on_disk: bool | None,
) -> Data:
    """See `Data.from_parquet`."""
    dataset, where = _opened(source), _expression(filters)
    empty = as_frame(dataset.schema.remove_metadata().empty_table())
    check_mappings(labels=labels)
    reading.check_dtype(dtype)
    grouped, kept = reading.wanted(empty, response, groups, predictors, weights)
    named = [response, *([] if weights is None else [weights]), *grouped.values(), *kept.values()]
    columns = list(dict.fromkeys(_column_of(empty, name) for name in named))
    if not isinstance(on_disk, bool | None):
        raise DataError(f"on_disk= is True, False, or None for what the size of the data asks for; found {on_disk!r}.")
    n_rows = dataset.count_rows(filter=where)
    every = tuple(dataset.schema.names)
    if n_rows == 0 or on_disk is False or (on_disk is None and 8 * n_rows * len(columns) * SHARE < free(CPU)):
        table = dataset.to_table(columns=columns, filter=where).replace_schema_metadata(None)
        data = Data.from_frame(table, response, groups, kept, weights, labels, dtype)
        data.recipe = data.recipe._replace(every=every)
        return data
    check_all_names(str(response), kept, grouped, labels or {})
    if by_level := [name for name in named if name not in every]:
        raise DataError(
            f"column {by_level[0]!r} is read by level, which is not possible while rows stay on disk: write a column "
            "of 0 and 1 into the files, or pass on_disk=False."
        )
    batches = dataset.scanner(
        columns=columns, filter=where, batch_size=BATCH, batch_readahead=AHEAD, fragment_readahead=1
    ).to_batches()
    names = _Names(str(response), grouped, kept, weights)
    store, found = _written(batches, dataset.schema, names, labels or {})
    return Stored(str(response), store, found, Recipe(str(response), grouped, kept, {}, every)).to(dtype=dtype)


CPU = torch.device("cpu")


class _Names:
    """Which column is what: new name -> column."""

    def __init__(
        self, response: str, groups: Mapping[str, str], columns: Mapping[str, str], weights: str | None
    ) -> None:
        self.response, self.groups, self.columns, self.weights = response, groups, columns, weights


def _written(
    batches: Iterable["pa.RecordBatch"],
    schema: "pa.Schema",
    names: _Names,
    labels: Mapping[str, Sequence[Hashable]],
) -> tuple[Store, dict[str, pd.Index]]:
    """The rows in files, and the labels of each grouping, in code order."""
    numbers = [(names.response, NumberBatches(f"the response {names.response!r}", Numbers()))]
    if names.weights is not None:
        numbers.append((names.weights, NumberBatches("the weights", Numbers())))
    first = len(numbers)
    numbers += [(column, NumberBatches(f"column {name!r}", Numbers())) for name, column in names.columns.items()]
    coded: dict[str, tuple[str, LabelBatches]] = {
        plate: (column, label_batches(plate, schema.field(column), Numbers(), Numbers()))
        for plate, column in names.groups.items()
    }
    try:
        before = 0
        for batch in batches:
            for column, into in (*numbers, *coded.values()):
                into.add(batch.column(column), before)
            before += batch.num_rows
        for _, one in (*numbers, *coded.values()):
            one.check()
        codes, found = dict[str, Numbers](), dict[str, pd.Index]()
        for plate, (_, one) in coded.items():
            codes[plate], found[plate] = one.coded(labels.get(plate))
    except OSError as error:
        raise DataError(
            f"the rows can't be written to {gettempdir()} ({error}): set TMPDIR to a folder with room for them, or "
            "pass on_disk=False."
        ) from error
    columns = {name: one.numbers for name, (_, one) in zip(names.columns, numbers[first:], strict=True)}
    weights = None if names.weights is None else numbers[1][1].numbers
    return Store(numbers[0][1].numbers, columns, codes, weights), found


def _opened(source: object) -> "Dataset":
    """The files as one data set."""
    try:
        import pyarrow
        import pyarrow.dataset
    except ImportError as error:
        raise DataError("Parquet files are read by pyarrow: pip install 'hiertorch[arrow]'.") from error
    if isinstance(source, pyarrow.dataset.Dataset):
        return source
    found = [source] if isinstance(source, str | Path) else list(source) if isinstance(source, list | tuple) else []
    if not found or not all(isinstance(one, str | Path) for one in found):
        raise DataError(
            "from_parquet reads a file, a folder of files, a list of either, or a pyarrow.dataset.Dataset; found "
            f"{source!r}."
        )
    try:
        every = [pyarrow.dataset.dataset(str(one), format="parquet", partitioning="hive") for one in found]
        opened = every[0] if len(every) == 1 else pyarrow.dataset.dataset(every)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{source!r} can't be read as Parquet: {str(error).splitlines()[0]}.") from error
    if not opened.schema.names:
        raise DataError(f"{source!r} has no Parquet files.")
    return opened


def _expression(filters: object) -> object:
    """What pyarrow's scanners take."""
    import pyarrow.compute
    import pyarrow.parquet

    if filters is None or isinstance(filters, pyarrow.compute.Expression):
        return filters
    try:
        return pyarrow.parquet.filters_to_expression(filters)
    except Exception as error:
        raise DataError(
            f'filters= takes what pyarrow.parquet.read_table does, such as [("year", ">=", 2020)]; found {filters!r}.'
        ) from error


def _column_of(empty: pd.DataFrame, name: str) -> str:
    """The column of the files that a name is read from: itself, or the part before the level in "column=level"."""
    check_column_name("from_parquet", name)
    base, equals, _ = str(name).partition("=")
    if name not in empty.columns and equals and base in empty.columns:
        return base
    read_column(empty, name)  # which says what is wrong with it
    return name
