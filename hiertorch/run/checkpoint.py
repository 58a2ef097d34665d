"""A run in a folder: its draws as they come, and now and then all that it needs to go on after it was killed.

Note [State and shards]
    `state.safetensors` has the state of engine, looks and counters after some window, and names the shards that hold
    the draws up to there; it is replaced in one step. Shards, `draws-000001.safetensors` and so on, are written before
    the state that names them and never changed; where thinning has doubled one new shard takes the place of all, which
    are deleted once no state names them. So a run that is killed at any time, also while it writes, leaves a state and
    the draws that belong to it, and at most some shards that nobody names.

docs/decisions.md: A run goes on from a window.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from hiertorch.draws import archive, storage
from hiertorch.draws.fit import Fit
from hiertorch.errors import DataError, RunFolderError, warn
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.engine import Engine, filed, inside
from hiertorch.run.looks import Looks
from hiertorch.run.store import Store

Kept = TypeVar("Kept", bound=Fit)

STATE, LOCK = "state.safetensors", "lock"
"""Names in the folder."""

SHARD = "draws-{:06d}.safetensors"

RUN = archive.Kind("hiertorch run", 1, "a run", "ht.sample(checkpoint=folder)")
DRAWS = archive.Kind("hiertorch draws", 1, "draws of a run", "ht.sample(checkpoint=folder)")


class Shard(NamedTuple):
    """A file of draws: its name, and how many of each chain it has."""

    name: str
    draws: int

    @classmethod
    def of(cls, name: object, draws: object) -> "Shard":
        """From a state; a name of any other form could be a file anywhere.

        Raises:
            DataError: for what is none.
        """
        if not isinstance(name, str) or not isinstance(draws, int) or not _number(name):
            raise DataError(f"a state of a run names {name!r} as a file of its draws, which none has as its name.")
        return cls(name, draws)


@dataclass
class Mark:
    """All that goes on after a window. Nothing writes into these tensors later."""

    done: int  # sweeps
    engine: Mapping[str, Tensor]
    looks: Mapping[str, object]
    acceptance: Mapping[str, Tensor]
    example: str
    seconds: Mapping[str, float]
    draws: Mapping[str, Tensor]  # stored ones, (chains, draws, size, *event)
    log_density: Tensor
    interval: int
    made: int  # draws, stored or not
    over: bool


@dataclass
class Checkpoint:
    """Writes a run into its folder.

    Args:
        folder: of this run alone.
        every: seconds between two states at least.
        facts: of what is run, that whoever goes on is held against; what JSON can hold.
        outline: gives the posterior so far without its draws.
        shards: that are there already.
        interval: of their draws.
    """

    folder: Path
    every: float
    facts: Mapping[str, Any]
    outline: Callable[[int, Mapping[str, float]], Fit]
    shards: list[Shard] = field(default_factory=list)
    interval: int = 1

    def __post_init__(self) -> None:
        self.latest: Mark | None = None
        self._written: Mark | None = None
        self._at = time.monotonic()
        self._given_up = False

    def window(
        self,
        done: int,
        engine: Engine,
        looks: Looks,
        acceptance: Acceptance,
        store: Store,
        seconds: Mapping[str, float],
    ) -> None:
        """After a window: writes if it is time to."""
        if self._given_up:
            return
        self.latest = Mark(
            done, engine.state(), looks.state(), acceptance.state(), acceptance.example, dict(seconds), store.draws(),
            store.log_density(), store.interval, store.made, looks.over,
        )  # fmt: skip
        if time.monotonic() - self._at >= self.every:
            self.write()

    def write(self) -> None:
        """The state after the last window, and the draws up to there; a sentence if that can't be, once."""
        mark = self.latest
        if mark is None or mark is self._written or self._given_up:
            return
        try:
            if not self.folder.is_dir():
                raise RunFolderError(f"the folder of the run, {self.folder}, has gone")
            shards = self._shards(mark)
            header, tensors = storage.packed(self.outline(mark.done, mark.seconds))
            parts = {**filed("engine", mark.engine), **filed("counts", mark.acceptance)}
            facts = {
                **self.facts,
                "done": mark.done,
                "looks": mark.looks,
                "example": mark.example,
                "seconds": mark.seconds,
                "interval": mark.interval,
                "made": mark.made,
                "over": mark.over,
                "shards": [[shard.name, shard.draws] for shard in shards],
            }
            archive.write(
                self.folder / STATE,
                RUN,
                {"posterior": {**header, "interrupted": not mark.over}, "run": facts},
                {**filed("posterior", tensors), **parts},
            )
        except (RunFolderError, DataError) as error:
            self._given_up = True
            warn(f"{error} From here on nothing is written into {self.folder}; the run goes on, its draws in memory.")
            return
        self.shards, self.interval, self._written, self._at = shards, mark.interval, mark, time.monotonic()
        kept = {shard.name for shard in shards}
        with suppress(OSError):
            for path in self.folder.iterdir():
                if _number(path.name) and path.name not in kept:
                    path.unlink()

    def _shards(self, mark: Mark) -> list[Shard]:
        """Writes draws that no shard has yet; gives all shards."""
        shards = self.shards if mark.interval == self.interval else []
        first, number = sum(shard.draws for shard in shards), mark.log_density.shape[1]
        if number == first:
            return shards
        last = max((_number(path.name) for path in self.folder.iterdir()), default=0)
        new = Shard(SHARD.format(last + 1), number - first)
        tensors = {f"draws/{name}": x[:, first:] for name, x in mark.draws.items()}
        archive.write(self.folder / new.name, DRAWS, {}, {**tensors, "log_density": mark.log_density[:, first:]})
        return [*shards, new]


@dataclass
class Resumed:
    """What a folder holds of a run.

    Attributes:
        folder: where it is.
        facts: as `Checkpoint` was given them, and where the run stands.
        outline: header and tensors of the posterior without draws.
        engine: its state.
        acceptance: state of the counters.
        draws: that are stored, `(chains, draws, size, *event)`.
        log_density: of these.
        shards: that hold them.
    """

    folder: Path
    facts: Mapping[str, Any]
    outline: tuple[Mapping[str, Any], Mapping[str, Tensor]]
    engine: Mapping[str, Tensor]
    acceptance: Mapping[str, Tensor]
    draws: Mapping[str, Tensor]
    log_density: Tensor
    shards: list[Shard]


def refuse_unasked(folder: Path, *, overwrite: bool) -> None:
    """Raises a RunFolderError where a folder has a run already; or makes room for a new one."""
    if not is_run(folder):
        return
    if not overwrite:
        raise RunFolderError(
            f"{folder} has a run already. Go on with it by ht.resume({str(folder)!r}, model, data), give "
            "overwrite=True to replace it, or choose another folder."
        )
    (folder / STATE).unlink()  # first: draws without a state are nobody's


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the folder of a run that has written a state."""
    return isinstance(path, str | os.PathLike) and (Path(path) / STATE).is_file()


def read(folder: str | os.PathLike[str]) -> Resumed:
    """What there is of a run.

    Raises:
        DataError: if there is none, or a file of it is damaged or missing.
    """
    path = archive.checked_path(folder)
    if not path.is_dir():
        raise DataError(f"there is no folder {path}. The folder of a run is made by {RUN.writer}.")
    if not is_run(path):
        raise DataError(
            f"{path} has no {STATE}: no run was started there with {RUN.writer}, or it was stopped before its first "
            "window. Run it again."
        )
    content, tensors = archive.read(path / STATE, RUN)
    header: dict[str, Any] = content
    try:
        facts, outline = header["run"], header["posterior"]
        shards = [Shard.of(*pair) for pair in facts["shards"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path / STATE} is not the state of a run: {error}.") from error
    parts = [archive.read(path / shard.name, DRAWS)[1] for shard in shards]
    rest = inside("posterior", tensors)
    names = [name.removeprefix("draws/") for name in (parts[0] if parts else {}) if name.startswith("draws/")]
    draws = {name: torch.cat([part[f"draws/{name}"] for part in parts], 1) for name in names}
    log_density = torch.cat([part["log_density"] for part in parts], 1) if parts else rest["log_density"]
    if log_density.shape[1] != sum(shard.draws for shard in shards):
        raise DataError(f"the files of {path} have {log_density.shape[1]} draws, and its state says otherwise.")
    return Resumed(
        path, facts, (outline, rest), inside("engine", tensors), inside("counts", tensors), draws, log_density,
        shards,
    )  # fmt: skip


def so_far(folder: str | os.PathLike[str], face: type[Kept]) -> Kept:
    """The draws that there are of a run, marked as interrupted while it has not ended, as of a kind of fit."""
    there = read(folder)
    content, tensors = there.outline
    held = {f"draws/{name}": x for name, x in there.draws.items()}
    names = [*there.draws] or content["draws"]
    header = {**content, "draws": [n for n in names if n not in content["more"]]}
    more = {f"more/{n}": there.draws[n] for n in content["more"] if n in there.draws}
    return storage.unpacked(there.folder, face, header, {**tensors, **held, **more, "log_density": there.log_density})


def _number(name: str) -> int:
    """Of a shard; 0 for any other name."""
    digits = name.removeprefix("draws-").removesuffix(".safetensors")
    return int(digits) if len(digits) == 6 and digits.isdecimal() and name == SHARD.format(int(digits)) else 0


class Lock:
    """The folder of a run, for as long as the run goes on: another one there is refused. The system takes the lock
    away when a process ends, however it does.
    """

    def __init__(self, folder: Path, *, there: bool = False) -> None:
        self.folder, self.there = folder, there
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "Lock":
        """Raises:
        RunFolderError: if the folder can't be made, or another run is going on in it.
        """
        try:
            if self.there and not self.folder.is_dir():
                return self  # which the reader has words for
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = (self.folder / LOCK).open("ab")
        except OSError as error:
            raise RunFolderError(
                f"can't write into {self.folder}: {error.strerror or error}. Choose a folder that you may write to."
            ) from error
        try:
            import fcntl
        except ImportError:  # Windows
            return self
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise RunFolderError(
                f"another run is going on in {self.folder}. Wait for its end, or choose another folder."
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
