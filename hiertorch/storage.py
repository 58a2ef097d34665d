"""A posterior kept: in one file (a NumPy archive of arrays and a JSON header, no pickled code), or as ArviZ's type.

Note [Labels keep their type]
    JSON has strings, numbers, booleans and null. A label of another type is written as `{type: value}`, so that group
    3 does not come back as group "3", nor a date as text: a group is looked up by its label.
"""

import datetime
import json
import os
import zipfile
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.errors import DataError, RunFolderError

if TYPE_CHECKING:
    from xarray import DataTree

    from hiertorch.posterior import Posterior

__all__ = [
    "decode_index",
    "decode_label",
    "encode_index",
    "encode_label",
    "label_text",
    "load",
    "save",
    "to_arviz",
    "whole",
]

HEADER = "header"
FORMAT = "hiertorch posterior"
VERSION = 1


def save(path: str | os.PathLike[str], posterior: "Posterior") -> None:
    """Write a posterior. See `Posterior.save`."""
    stats = posterior.stats
    header = {
        "plates": posterior.plates,
        "labels": {plate: encode_index(index) for plate, index in posterior.labels.items()},
        "event_labels": {
            name: [[encode_label(label) for label in axis] for axis in axes]
            for name, axes in posterior.event_labels.items()
        },
        "blocks": dict(stats.blocks),
        "nan": dict(stats.nan),
        "run": posterior.run,
        "interrupted": posterior.interrupted,
    }
    arrays = {f"draws/{name}": x for name, x in posterior.draws.items()}
    arrays |= {f"acceptance/{block}": rate for block, rate in stats.acceptance.items()}
    write(path, header, {**arrays, "log_density": stats.log_density})


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments that make the saved posterior again. See `Posterior.load`."""
    header, arrays = read(path)
    parts: dict[str, dict[str, Tensor]] = {"draws": {}, "acceptance": {}}
    for key, array in arrays.items():
        kind, _, name = key.partition("/")
        if kind in parts:
            parts[kind][name] = array
    return {
        "draws": parts["draws"],
        "plates": header["plates"],
        "labels": {plate: decode_index(index) for plate, index in header["labels"].items()},
        "event_labels": {
            name: tuple(tuple(decode_label(label) for label in axis) for axis in axes)
            for name, axes in header["event_labels"].items()
        },
        "stats": {
            "acceptance": parts["acceptance"],
            "blocks": header["blocks"],
            "log_density": arrays["log_density"],
            "nan": header["nan"],
        },
        "run": header["run"],
        "interrupted": header["interrupted"],
    }


def to_arviz(posterior: "Posterior") -> "DataTree":
    """A posterior as ArviZ's type. See `Posterior.to_arviz`."""
    import arviz_base  # takes a second, and few runs are exported

    stats = posterior.stats
    taken = {"chain", "draw", *posterior.names}  # xarray can't have a variable and a dimension of one name
    plates = {plate: f"{plate}_group" if plate in taken else plate for plate in posterior.labels}
    coords: dict[Any, Any] = {plates[plate]: coordinates(index) for plate, index in posterior.labels.items()}
    dims = {}
    for name, axes in posterior.event_labels.items():
        plate = posterior.plates[name]
        events = {f"{name}_dim_{i}": coordinates(pd.Index(axis, tupleize_cols=False)) for i, axis in enumerate(axes)}
        dims[name] = [*([] if plate is None else [plates[plate]]), *events]
        coords |= events
    groups = {
        "posterior": {name: posterior[name].cpu().numpy() for name in posterior},
        "sample_stats": {"lp": stats.log_density.cpu().numpy()},
    }
    attrs = {key: json.dumps(value) for key, value in posterior.run.items()}
    attrs |= {"inference_library": "hiertorch", "interrupted": json.dumps(posterior.interrupted)}
    tree = arviz_base.from_dict(groups, coords=coords, dims=dims, attrs={"posterior": attrs})
    rates = {f"acceptance_{block}".replace("/", "_"): block for block in stats.acceptance}  # DataTree's "/" is a path
    tree["sample_stats"].update(
        arviz_base.dict_to_dataset(
            {variable: stats.acceptance[block].cpu().numpy() for variable, block in rates.items()},
            sample_dims=["chain"],
            dims={v: [plates[plate]] for v, block in rates.items() if (plate := stats.blocks[block]) is not None},
            coords=coords,
        )
    )
    return tree


def coordinates(index: pd.Index) -> np.ndarray:
    """Labels as xarray can index and store them: numbers and dates as they are, all else as text."""
    if isinstance(index.dtype, np.dtype) and index.dtype.kind in "biufM":
        return index.to_numpy()
    return np.array([label_text(label) for label in index], dtype=str)


def label_text(label: Hashable) -> str:
    """A label in words; the parts of a tuple are joined as in `state:county`."""
    return ":".join(map(label_text, label)) if isinstance(label, tuple) else str(label)


def write(path: str | os.PathLike[str], header: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> None:
    """Write a file whole or not at all: an interrupted write leaves what was there before.

    Raises:
        DataError: if the header has something that JSON can't hold.
        RunFolderError: if the file can't be written.
    """
    path = Path(path)
    try:
        text = json.dumps({"format": FORMAT, "version": VERSION, **header})
    except (TypeError, ValueError) as error:
        raise DataError(
            f"can't save {path.name}: run= must hold what JSON can: numbers, text, lists; {error}."
        ) from error
    contents = {name: tensor.detach().cpu().numpy() for name, tensor in arrays.items()}
    with whole(path) as file:
        np.savez(file, **{HEADER: np.frombuffer(text.encode(), np.uint8)}, **contents)  # type: ignore[arg-type]


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that is there under its name when all of it is written, or not at all.

    Raises:
        RunFolderError: if it can't be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # in the same folder, as only there a rename is atomic
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"can't write {path}: {error.strerror or error}. Choose a folder that you may write to, with enough space."
        ) from error


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors (on the CPU) of a file made by `write`.

    Raises:
        DataError: if there is no such file, or it is not one of these, or is damaged, or was made by a later version.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            header = json.loads(archive[HEADER].tobytes())
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise ValueError(f"its header doesn't say {FORMAT!r}")
            if header["version"] > VERSION:
                raise DataError(
                    f"{path} has format {header['version']}, and this hiertorch reads up to {VERSION}: upgrade it."
                )
            return header, {name: torch.from_numpy(archive[name]) for name in archive.files if name != HEADER}
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}. A posterior is written by posterior.save(path).") from error
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is no posterior saved by hiertorch, or it is damaged ({error}). "
            f"Give a file written by posterior.save(path)."
        ) from error


def encode_index(index: pd.Index) -> dict[str, Any]:
    """An index of labels as JSON: its labels, their dtype and its name."""
    return {
        "labels": [encode_label(label) for label in index],
        "dtype": str(index.dtype),
        "name": encode_label(index.name),
    }


def decode_index(encoded: Mapping[str, Any]) -> pd.Index:
    """The index that `encode_index` was given."""
    labels = [decode_label(label) for label in encoded["labels"]]
    return pd.Index(labels, dtype=encoded["dtype"], name=decode_label(encoded["name"]), tupleize_cols=False)


def encode_label(label: Hashable) -> Any:
    """A label as JSON. Note [Labels keep their type].

    Raises:
        DataError: for a label of a type that this file format does not know.
    """
    kind = type(label)
    if label is None or kind in (str, int, float, bool):
        return label
    if isinstance(label, tuple):
        return {"tuple": [encode_label(part) for part in label]}
    if isinstance(label, np.str_ | np.bool_ | np.integer | np.floating) and kind is not np.longdouble:
        return {f"numpy.{kind.__name__}": label.item()}
    if isinstance(label, pd.Timestamp):
        return {"timestamp": [label.isoformat(), label.unit, None if label.tz is None else str(label.tz)]}
    if isinstance(label, datetime.date) and kind in (datetime.date, datetime.datetime):
        return {kind.__name__: label.isoformat()}
    raise DataError(
        f"can't save label {label!r}: its type is {kind.__module__}.{kind.__qualname__}, and a file keeps text, "
        f"numbers, booleans, None, dates, timestamps and tuples of these. Make such labels text, with str, in the data."
    )


def decode_label(encoded: Any) -> Any:
    """The label that `encode_label` was given."""
    if not isinstance(encoded, dict):
        return encoded
    ((kind, value),) = encoded.items()
    if kind == "tuple":
        return tuple(decode_label(part) for part in value)
    if kind == "timestamp":
        text, unit, zone = value
        stamp = pd.Timestamp(text)
        return (stamp if zone is None else stamp.tz_convert(zone)).as_unit(unit)
    if kind == "datetime":
        return datetime.datetime.fromisoformat(value)
    if kind == "date":
        return datetime.date.fromisoformat(value)
    scalar = getattr(np, kind.removeprefix("numpy."), None) if kind.startswith("numpy.") else None
    if isinstance(scalar, type) and issubclass(scalar, np.generic):
        return scalar(value)
    raise ValueError(f"a label of unknown type {kind!r}")
