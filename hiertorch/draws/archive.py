"""A file of named tensors and a header that JSON can hold: safetensors, which any language reads and in which there is
no code. Nothing here knows what the tensors mean.

Note [A file is whole or not there]
    A file is written under a name that nobody else has, in the folder of the one it is to replace, brought to the disk
    and then renamed, which is one step: threads, processes and power cuts leave the former file or the new one.
    Renaming makes a new file, so that the mode of the former one is set again, and a symbolic link is followed first.

Note [Checksums]
    safetensors has none. The header has one for each tensor, and the metadata one for the header: a bit that has
    changed on a disk is a sentence, not a draw.

docs/decisions.md: One file format.
"""

import errno
import json
import os
import secrets
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from hiertorch.errors import DataError, RunFolderError
from hiertorch.runtime.rooms import contiguous


class Kind(NamedTuple):
    """What a file holds."""

    name: str  # "hiertorch posterior"
    version: int  # of its layout; a reader knows all up to its own
    what: str  # "a posterior", for messages
    writer: str  # "posterior.save(path)", for messages


class Source(NamedTuple):
    """What a file has beside draws, of which their model and data are made again."""

    header: Mapping[str, Any]  # that JSON can hold
    tensors: Mapping[str, Tensor]


def write(
    path: str | os.PathLike[str], kind: Kind, header: Mapping[str, object], tensors: Mapping[str, Tensor]
) -> None:
    """Write a file, whole or not at all, of a header that JSON can hold and tensors on any device; folders are made.

    Raises:
        DataError: if the header has something that JSON can't hold.
        RunFolderError: if the file can't be written.
    """
    path = checked_path(path)
    with replacing(path) as part:
        held = {name: contiguous(tensor.detach().cpu(), part.parent) for name, tensor in tensors.items()}
        arrays = {name: tensor.numpy() for name, tensor in held.items()}
        versions = {package: version(package) for package in ("hiertorch", "torch", "safetensors")}
        sums = {name: crc32_of(array) for name, array in arrays.items()}
        try:
            text = json.dumps({"versions": versions, "checksums": sums, **header})
        except (TypeError, ValueError) as error:
            raise DataError(
                f"can't save {path.name}: run= must hold what JSON can: numbers, text, lists; {error}."
            ) from error
        metadata = {"format": kind.name, "version": str(kind.version), "header": text}
        metadata["crc32"] = str(crc32(metadata))
        try:
            save_file(arrays, part, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read(path: str | os.PathLike[str], kind: Kind) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Header and tensors (on the CPU) of a file made by `write`.

    Raises:
        DataError: if there is no such file, or it holds something else, is damaged, or was made by a later version.
    """
    path = checked_path(path)
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}. {kind.what.capitalize()} is written by {kind.writer}.") from error
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror or error}. {_advice(kind)}") from error
    if empty:
        raise DataError(f"{path} is empty: it was never written. {_advice(kind)}")
    while True:
        before = path.stat().st_ino
        try:
            return _opened(path, kind)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
            if path.exists() and path.stat().st_ino != before:  # replaced meanwhile: header and numbers of two files
                continue
            why = f"is not {kind.what} saved by hiertorch, or it is damaged ({error})"
            raise DataError(f"{path} {why}. {_advice(kind)}") from error


def _opened(path: Path, kind: Kind) -> tuple[dict[str, object], dict[str, Tensor]]:
    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != kind.name:
            raise ValueError(f"its format is {metadata.get('format')!r} and not {kind.name!r}")
        if (found := int(metadata["version"])) > kind.version:
            raise DataError(
                f"{path} has format {found}, and this hiertorch reads up to {kind.version}: upgrade hiertorch."
            )
        if metadata.pop("crc32", None) != str(crc32(metadata)):
            raise ValueError("its header has changed since it was written")
        header = json.loads(metadata["header"])
        # Copied: a file that is mapped into memory may be written over while its draws are in use.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  it is no mapping
    sums = {name: crc32_of(tensor.numpy()) for name, tensor in tensors.items()}
    if sums != header.pop("checksums"):
        raise ValueError("its numbers have changed since they were written")
    return header, tensors


def crc32(metadata: Mapping[str, str]) -> int:
    """The checksum of everything that the metadata say."""
    return zlib.crc32(json.dumps(sorted(metadata.items())).encode())


def crc32_of(array: np.ndarray) -> int:
    """The checksum of an array's dtype, shape and bytes."""
    head = zlib.crc32(f"{array.dtype.name}{array.shape}".encode())
    return zlib.crc32(array.reshape(-1).view(np.uint8).data, head)


def _advice(kind: Kind) -> str:
    return f"Give a file written by {kind.writer}."


def checked_path(path: object) -> Path:
    """The path of a file, or a RunFolderError for what is none."""
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise RunFolderError(f"the path of a file is text or a pathlib.Path; found {path!r}.")
    if "\0" in os.fspath(path) or not os.fspath(path):
        raise RunFolderError(f"{os.fspath(path)!r} can't be the path of a file: give a name without NUL characters.")
    return Path(path)


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that is there under its name when all of it is written, or not at all.

    Raises:
        RunFolderError: if it can't be written.
    """
    with replacing(path) as part, part.open("wb") as file:
        yield file


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what is to take the place of a file once it is whole; see the note.

    Raises:
        RunFolderError: if it can't be written.
    """
    try:
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        former = target.stat() if target.exists() else None
        if former is not None and not stat.S_ISREG(former.st_mode):
            raise OSError(errno.EEXIST, "a folder or device of that name is in the way")
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if former is not None and not os.access(target, os.W_OK):
            raise OSError(errno.EACCES, "the file that is there may not be written to")
        part = target.with_name(f".hiertorch-{secrets.token_hex(8)}.part")
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # the system takes the umask off
        try:
            mode = stat.S_IMODE((former or part.stat()).st_mode)
            yield part
            part.chmod(mode)  # who writes may have made another file of that name
            _to_disk(part)
            os.replace(part, target)
            with suppress(OSError):  # not every file system has folders that can be brought to the disk
                _to_disk(target.parent)
        finally:
            part.unlink(missing_ok=True)
    except RunFolderError:
        raise
    except OSError as error:
        raise RunFolderError(
            f"can't write {path}: {error.strerror or error}. Choose a folder that you may write to, with enough space."
        ) from error


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
