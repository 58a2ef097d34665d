"""Room for tensors in memory or, beyond a budget, in a file that is mapped into it.

Note [A room in a file]
    The file has no name: its space is there for as long as a tensor looks at it, and gone with the process, however
    that ends. It is taken beforehand, since a disk that is full can't be told of when a page is written. Who goes
    through a mapped tensor does so by `pieces`, after each of which memory keeps none of its pages.
"""

import ctypes
import mmap
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from hiertorch.runtime.memory import free

PIECE = 2**25
"""Bytes of a mapped tensor that are in memory at once, when all of it is gone through."""

SHARE = 0.5
"""Of the memory that is free, the budget unless another is given."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Place:
    """Where draws are held: in memory, or beyond a budget in files.

    Args:
        folder: for these; None where there is none.
        budget: bytes that may be in memory; half of what is free if left out.
    """

    folder: Path | None = None
    budget: float | None = None

    def outside(self, needed: float, device: torch.device = CPU) -> Path | None:
        """The folder for so many bytes; None if they are to be in memory, or on another device."""
        if self.folder is None or device.type != "cpu" or not hasattr(os, "posix_fallocate"):
            return None
        return None if needed <= (SHARE * free(CPU) if self.budget is None else self.budget) else self.folder


def mapped(shape: Sequence[int], dtype: torch.dtype, folder: Path) -> Tensor:
    """A tensor of zeros in a file without a name.

    Raises:
        OSError: if there is no space for it.
    """
    numbers = prod(shape)
    if not numbers:
        return torch.zeros(tuple(shape), dtype=dtype)
    path = folder / f".hiertorch-{secrets.token_hex(8)}.part"
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        os.posix_fallocate(handle, 0, numbers * dtype.itemsize)
        return torch.from_file(str(path), shared=True, size=numbers, dtype=dtype).view(tuple(shape))
    finally:
        os.close(handle)
        path.unlink()


def is_mapped(x: Tensor) -> bool:
    """Whether a tensor is in a file."""
    return x.device.type == "cpu" and x.untyped_storage().filename is not None


def pieces(x: Tensor, axis: int) -> Iterator[slice]:
    """Slices that make up an axis: one of all, or of a mapped tensor such that each is a PIECE of its file."""
    number = x.shape[axis]
    if not is_mapped(x):
        yield slice(0, number)
        return
    step = max(1, PIECE // max(1, x.stride(axis) * x.element_size()))  # around what is read the system maps more
    for start in range(0, number, step):
        yield slice(start, min(number, start + step))
        let_go(x)


def gathered(x: Tensor, at: Tensor | None = None) -> Tensor:
    """Draws `(chains, draws, size, ...)` in memory, also of those in a file; of some groups, if these are given."""
    if not is_mapped(x):
        return x if at is None else x[:, :, at]
    return torch.cat([x[:, part].clone() if at is None else x[:, part][:, :, at] for part in pieces(x, 1)], 1)


def contiguous(x: Tensor, folder: Path) -> Tensor:
    """The same numbers in the order of its axes; of draws `(chains, draws, ...)` in a file in another file.

    Raises:
        OSError: if there is no space for it.
    """
    if not is_mapped(x) or x.is_contiguous():
        return x.contiguous()
    found = mapped(x.shape, x.dtype, folder)
    for part in pieces(x, 1):
        found[:, part] = x[:, part]
        let_go(found)
    return found


def let_go(x: Tensor) -> None:
    """Memory keeps no page of a mapped tensor: what is asked for later is read from its file."""
    if is_mapped(x):
        held = x.untyped_storage()
        madvise = ctypes.CDLL(None).madvise
        madvise(ctypes.c_void_p(held.data_ptr()), ctypes.c_size_t(held.nbytes()), mmap.MADV_DONTNEED)
