"""The folder of a run: which files it has, who may use it, and what is read of it.

Note [State and shards]
    `state.safetensors` has the state of engine, looks and counters after some window, and names the shards that hold
    the draws up to there; it is replaced in one step. Shards, `draws-000001.safetensors` and so on, are written before
    the state that names them and never changed; where thinning has doubled new shards take the place of all, which
    are deleted once no state names them. So a run that is killed at any time, also while it writes, leaves a state and
    the draws that belong to it, and at most some shards that nobody names. Of several processes each writes the draws
    of its own chains: the shard has a file of each, `draws-000001-1of2.safetensors`, and one state names them all, so
    that any number of processes goes on. `model.safetensors` is written once, before
    the first state: what model and data are made again from. All have the token of their run, so that no file is taken
    for that of another one.

docs/decisions.md: A run goes on from a window.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from hiertorch.arguments import check_bytes
from hiertorch.draws import archive, storage
from hiertorch.draws.fit import Fit
from hiertorch.errors import DataError, RunFolderError
from hiertorch.run.engine import inside
from hiertorch.run.store import Store
from hiertorch.runtime.ranks import dealt_out
from hiertorch.runtime.rooms import Place

Kept = TypeVar("Kept", bound=Fit)

STATE, SOURCE, LOCK = "state.safetensors", "model.safetensors", "lock"
"""Names in the folder."""

SHARD, PART = "draws-{:06d}.safetensors", "draws-{:06d}-{}of{}.safetensors"
"""Of the draws of all chains, and of those of one of several processes."""

NAMED = re.compile(r"draws-(\d{6})(?:-([1-9]\d*)of([1-9]\d*))?\.safetensors", re.ASCII)

WRITER = "ht.sample(checkpoint=folder)"
RUN = archive.Kind("hiertorch run", 2, "a run", WRITER)
DRAWS = archive.Kind("hiertorch draws", 1, "draws of a run", WRITER)
MADE = archive.Kind("hiertorch model", 1, "model and data of a run", WRITER)

FACTS = (
    "options model model_text plan_text plan_given chains data versions fallback token earlier compiled done looks "
    "example seconds interval made over names shards"
)
"""What a state says of its run."""


class Shard(NamedTuple):
    """Draws that follow one another: the name of their file, how many there are of each chain, and the number of
    processes that have written them; of several each has a file of its own.
    """

    name: str
    draws: int
    parts: int = 1

    @classmethod
    def of(cls, name: object, draws: object, parts: object = 1) -> "Shard":
        """From a state; a name of any other form could be a file anywhere.

        Raises:
            DataError: for what is none.
        """
        counted = isinstance(draws, int) and isinstance(parts, int) and parts > 0
        if not isinstance(name, str) or not number_of(name) or name != SHARD.format(number_of(name)) or not counted:
            raise DataError(f"a state of a run names {name!r} as a file of its draws, which none has as its name.")
        return cls(name, draws, parts)  # type: ignore[arg-type]

    @property
    def files(self) -> list[str]:
        """Names, in the order of chains."""
        return [part_name(number_of(self.name), k, self.parts) for k in range(self.parts)]


def part_name(number: int, rank: int, parts: int) -> str:
    """Of the file that a process, counted from 0, writes of a shard."""
    return SHARD.format(number) if parts == 1 else PART.format(number, rank + 1, parts)


def number_of(name: str) -> int:
    """Of the shard that a file belongs to; 0 for any other name."""
    found = NAMED.fullmatch(name)
    return int(found[1]) if found else 0


@dataclass
class Resumed:
    """What a folder holds of a run.

    Attributes:
        folder: where it is.
        facts: as `Checkpoint` was given them, and where the run stands.
        outline: header and tensors of the posterior without draws.
        engine: its state.
        acceptance: state of the counters.
        shards: that hold the draws.
        source: what model and data are made again from; None if they were not known.
    """

    folder: Path
    facts: Mapping[str, Any]
    outline: tuple[Mapping[str, Any], Mapping[str, Tensor]]
    engine: Mapping[str, Tensor]
    acceptance: Mapping[str, Tensor]
    shards: list[Shard]
    source: archive.Source | None

    @property
    def draws(self) -> int:
        """Of each chain, that are stored."""
        return sum(shard.draws for shard in self.shards)

    def parts(self, chains: range | None = None) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Draws of one shard after another, `(chains, draws, size, *event)`, and their log densities.

        Args:
            chains: whose draws are wanted, all if left out; files of others are not opened.

        Raises:
            DataError: if a file is damaged or missing, or of another run.
        """
        wanted = range(self.facts["chains"]) if chains is None else chains
        for shard in self.shards:
            found = []
            for name, held in zip(shard.files, dealt_out(self.facts["chains"], shard.parts), strict=True):
                start, stop = max(wanted.start, held.start), min(wanted.stop, held.stop)
                if start < stop:
                    tensors = self._opened(self.folder / name, len(held), shard.draws)
                    found.append({key: x[start - held.start : stop - held.start] for key, x in tensors.items()})
            whole = found[0] if len(found) == 1 else {key: torch.cat([x[key] for x in found]) for key in found[0]}
            yield inside("draws", whole), whole["log_density"]

    def _opened(self, path: Path, chains: int, draws: int) -> dict[str, Tensor]:
        header, tensors = archive.read(path, DRAWS)
        density = tensors.get("log_density")
        if header.get("token") != self.facts["token"] or density is None or density.shape != (chains, draws):
            raise DataError(f"{path} belongs to another run, or to another time of this one: it was moved here.")
        return tensors


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the folder of a run that has written a state."""
    return isinstance(path, str | os.PathLike) and (Path(path) / STATE).is_file()


def refuse_unasked(folder: Path, *, overwrite: bool) -> None:
    """Raises a RunFolderError where a folder has a run already that nobody wants to replace."""
    if is_run(folder) and not overwrite:
        raise RunFolderError(
            f"{folder} has a run already. Go on with it by ht.resume({str(folder)!r}), give overwrite=True to replace "
            "it, or choose another folder."
        )


def cleared(folder: Path) -> Path:
    """A folder without the files of an earlier run; those of others stay."""
    with suppress(OSError):
        (folder / STATE).unlink(missing_ok=True)  # first: draws without a state are nobody's
        for path in folder.iterdir():
            if path.name == SOURCE or number_of(path.name):
                path.unlink()
    return folder


def read(folder: str | os.PathLike[str]) -> Resumed:
    """What there is of a run.

    Raises:
        DataError: if there is none, or a file of it is damaged or missing.
    """
    path = archive.checked_path(folder)
    if not path.is_dir():
        raise DataError(f"there is no folder {path}. The folder of a run is made by {WRITER}.")
    if not is_run(path):
        raise DataError(
            f"{path} has no {STATE}: no run was started there with {WRITER}, or it was stopped before its first "
            "window. Run it again."
        )
    content, tensors = archive.read(path / STATE, RUN)
    header: dict[str, Any] = content
    try:
        facts, outline = header["run"], header["posterior"]
        if lacks := set(FACTS.split()) - facts.keys():
            raise KeyError(", ".join(sorted(lacks)))
        shards = [Shard.of(*said) for said in facts["shards"]]
        if (most := max((shard.parts for shard in shards), default=1)) > facts["chains"]:
            raise ValueError(f"{most} processes have written draws of {facts['chains']} chains")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path / STATE} is not the state of a run, or that of another version: {error}.") from error
    return Resumed(
        path, facts, (outline, inside("posterior", tensors)), inside("engine", tensors), inside("counts", tensors),
        shards, _source(path, facts["token"]),
    )  # fmt: skip


def _source(folder: Path, token: object) -> archive.Source | None:
    if not (folder / SOURCE).exists():
        return None
    header, tensors = archive.read(folder / SOURCE, MADE)
    held: Any = header.get("source")
    if header.get("token") != token or not isinstance(held, dict):
        raise DataError(f"{folder / SOURCE} belongs to another run: it was moved here.")
    return archive.Source(held, tensors)


def so_far(folder: str | os.PathLike[str], face: type[Kept], keep_in_memory: float | str | None = None) -> Kept:
    """The draws that there are of a run, marked as interrupted while it has not ended, as of a kind of fit; in memory
    up to a number of bytes.
    """
    budget = check_bytes("keep_in_memory", keep_in_memory)
    there = read(folder)
    content, tensors = there.outline
    draws, density = dict[str, Tensor](), tensors["log_density"]
    if there.shards:
        first, _ = next(there.parts())
        like = {name: first[name][:, 0] for name in there.facts["names"]}
        store = Store(like, tuple(like), there.draws, place=Place(there.folder, budget))
        store.restore(there.parts(), there.draws, 1, there.draws)
        draws, density = store.draws(), store.log_density()
    names = [*draws] or content["draws"]
    header = {**content, "draws": [n for n in names if n not in content["more"]]}
    held = {f"{'more' if n in content['more'] else 'draws'}/{n}": x for n, x in draws.items()}
    found = storage.unpacked(there.folder, face, header, {**tensors, **held, "log_density": density})
    found.source = there.source
    return found


class Lock:
    """The folder of a run, for as long as the run goes on: another one there is refused. The system takes the lock
    away when a process ends, however it does. A folder in which nothing was written is taken away again.
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
        if self._file is None:
            return
        with suppress(OSError):
            if not is_run(self.folder):
                (self.folder / LOCK).unlink()
                self.folder.rmdir()
        self._file.close()
