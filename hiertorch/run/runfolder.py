"""The folder of a run: which files it has, who may use it, and what is read of it.

Note [State and shards]
    `state.safetensors` has the state of engine, looks and counters after some window, and names the shards that hold
    the draws up to there; it is replaced in one step. Shards, `draws-000001.safetensors` and so on, are written before
    the state that names them and never changed; where thinning has doubled new shards take the place of all, which
    are deleted once no state names them. So a run that is killed at any time, also while it writes, leaves a state and
    the draws that belong to it, and at most some shards that nobody names. `model.safetensors` is written once, before
    the first state: what model and data are made again from. All have the token of their run, so that no file is taken
    for that of another one.

docs/decisions.md: A run goes on from a window.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from torch import Tensor

from hiertorch.arguments import check_bytes
from hiertorch.draws import archive, storage
from hiertorch.draws.fit import Fit
from hiertorch.errors import DataError, RunFolderError
from hiertorch.run.engine import inside
from hiertorch.run.store import Store
from hiertorch.runtime.rooms import Place

Kept = TypeVar("Kept", bound=Fit)

STATE, SOURCE, LOCK = "state.safetensors", "model.safetensors", "lock"
"""Names in the folder."""

SHARD = "draws-{:06d}.safetensors"

WRITER = "ht.sample(checkpoint=folder)"
RUN = archive.Kind("hiertorch run", 1, "a run", WRITER)
DRAWS = archive.Kind("hiertorch draws", 1, "draws of a run", WRITER)
MADE = archive.Kind("hiertorch model", 1, "model and data of a run", WRITER)

FACTS = (
    "options model model_text plan_text plan_given chains data versions fallback token earlier compiled done looks "
    "example seconds interval made over names shards"
)
"""What a state says of its run."""


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
        if not isinstance(name, str) or not isinstance(draws, int) or not number_of(name):
            raise DataError(f"a state of a run names {name!r} as a file of its draws, which none has as its name.")
        return cls(name, draws)


def number_of(name: str) -> int:
    """Of a shard; 0 for any other name."""
    digits = name.removeprefix("draws-").removesuffix(".safetensors")
    return int(digits) if len(digits) == 6 and digits.isdecimal() and name == SHARD.format(int(digits)) else 0


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

    def parts(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Draws of one shard after another, `(chains, draws, size, *event)`, and their log densities.

        Raises:
            DataError: if a file is damaged or missing, or of another run.
        """
        for shard in self.shards:
            path = self.folder / shard.name
            header, tensors = archive.read(path, DRAWS)
            density = tensors.get("log_density")
            if header.get("token") != self.facts["token"] or density is None or density.shape[1] != shard.draws:
                raise DataError(f"{path} belongs to another run, or to another time of this one: it was moved here.")
            yield inside("draws", tensors), density


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
        shards = [Shard.of(*pair) for pair in facts["shards"]]
    except (KeyError, TypeError, AttributeError) as error:
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
