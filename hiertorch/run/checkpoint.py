"""A run is written into its folder: its draws as they come, and now and then all that it needs to go on.

Note [Who writes what]
    Every process writes draws of its own chains when the first one says that it is time, and the first one, once all
    have, the state that names these files. What the first one writes alone are the draws up to the last window of a run
    that loses a process or is told to end: it has them, as it looks at them, and the others may be gone.

See Note [State and shards] of `hiertorch.run.runfolder`.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from hiertorch.data.stored import Stored
from hiertorch.draws import archive, storage
from hiertorch.draws.archive import Source
from hiertorch.draws.fit import Fit
from hiertorch.errors import DataError, RunFolderError, warn
from hiertorch.predict.keeping import source_of
from hiertorch.run.engine import filed
from hiertorch.run.gathering import Gathering
from hiertorch.run.looks import Looks
from hiertorch.run.runfolder import DRAWS, MADE, RUN, SHARD, SOURCE, STATE, Shard, number_of, part_name
from hiertorch.runtime.rooms import let_go

SPARE = 200
"""Times the CPU seconds that taking a state takes lie between two of them: small models have thousands of windows a
minute. So much is lost at most where a signal ends a run.
"""

MOST = 2**25
"""Bytes of draws in a shard."""


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
    """Writes a run into its folder; see Note [Who writes what].

    Args:
        folder: of this run alone, which all its processes have.
        every: seconds between two states at least.
        facts: of what is run, that whoever goes on is held against; what JSON can hold.
        outline: gives the posterior so far without its draws.
        gathering: what all chains have drawn, and those of this process.
        token: of the run, in all processes.
        shards: that are there already.
        interval: of their draws.
    """

    folder: Path
    every: float
    facts: Mapping[str, Any]
    outline: Callable[[int, Mapping[str, float]], Fit]
    gathering: Gathering
    token: str
    shards: list[Shard] = field(default_factory=list)
    interval: int = 1

    def __post_init__(self) -> None:
        self.latest: Mark | None = None
        self._written: Mark | None = None
        self._at = time.monotonic()
        self._taken = self._cost = 0.0  # CPU time when the last state was taken, and what it took
        self._given_up = False

    def due(self, *, over: bool) -> int:
        """On the first of several processes, after a window: the number of the file of draws that each is to write now,
        0 for none.
        """
        share = self.gathering.share
        if share.alone or not share.ranks.first or self._given_up or not (over or self._is_time()):
            return 0
        with suppress(OSError):
            return self._last() + 1
        return 1  # in a folder that has gone, as they will find

    def window(self, done: int, looks: Looks, seconds: Mapping[str, float], number: int = 0) -> None:
        """After a window: takes the state, if enough came since the last, and writes if it is time.

        Args:
            done: sweeps so far.
            looks: how long the run goes on.
            seconds: of each part of it.
            number: what the first of several processes has found to be `due`.
        """
        every = self.gathering
        began, due = time.process_time(), self._is_time() if every.share.alone else number > 0
        shards = self._by_all(number) if number else None
        if not every.share.ranks.first:
            return
        if self._given_up or not (due or looks.over or began - self._taken >= SPARE * self._cost):
            return
        store, acceptance = every.store, every.acceptance
        self.latest = Mark(
            done, every.noted(), looks.state(), acceptance.state(), acceptance.example, dict(seconds), store.draws(),
            store.log_density(), store.interval, store.made, looks.over,
        )  # fmt: skip
        self._taken = time.process_time()
        self._cost = self._taken - began
        if due:
            self.write(shards)

    def _is_time(self) -> bool:
        return time.monotonic() - self._at >= self.every

    def _last(self) -> int:
        """The number of the last file of draws."""
        return max((number_of(path.name) for path in self.folder.iterdir()), default=0)

    def _by_all(self, number: int) -> list[Shard] | None:
        """Every process writes draws of its chains that no file has yet; gives all files, None if one could not."""
        share, own = self.gathering.share, self.gathering.own
        ranks, found, trouble = share.ranks, self.shards, ""
        try:
            self._check_folder()
            found = self._shards(own.draws(), own.log_density(), own.interval, number, (ranks.rank, ranks.number))
        except (OSError, DataError) as error:
            trouble = str(error)
        said = [f"Process {k} of {ranks.number}: {x}" for k, x in enumerate(ranks.each(trouble)) if x]
        if not said and ranks.first and (lacking := self._lacking(found)):
            said = [f"{lacking} is not in {self.folder}, which is to be one folder of all processes."]
        if said:
            self._give_up(said[0])
            return None
        if not ranks.first:  # which waits for the state that names them
            self.shards, self.interval = found, own.interval
        return found

    def _lacking(self, shards: list[Shard]) -> str:
        return next((x for one in shards for x in one.files if not (self.folder / x).is_file()), "")

    def _check_folder(self) -> None:
        if not self.folder.is_dir():
            raise RunFolderError(f"the folder of the run, {self.folder}, has gone")

    def _give_up(self, why: object) -> None:
        self._given_up = True
        if self.gathering.share.ranks.first:
            warn(f"{why} From here on nothing is written into {self.folder}; the run goes on, its draws in memory.")

    def write(self, shards: list[Shard] | None = None) -> None:
        """The state that was taken last, and the draws up to there; a sentence if that can't be, once.

        Args:
            shards: that hold these draws, if they are written.
        """
        mark = self.latest
        if mark is None or mark is self._written or self._given_up:
            return
        try:
            self._check_folder()
            outline = self.outline(mark.done, mark.seconds)
            self._source(outline)
            if shards is None:
                shards = self._shards(mark.draws, mark.log_density, mark.interval, self._last() + 1)
            header, tensors = storage.packed(outline)
            parts = {**filed("engine", mark.engine), **filed("counts", mark.acceptance)}
            facts = {
                **self.facts,
                "token": self.token,
                "done": mark.done,
                "looks": mark.looks,
                "example": mark.example,
                "seconds": mark.seconds,
                "interval": mark.interval,
                "made": mark.made,
                "over": mark.over,
                "names": list(mark.draws),
                "shards": [list(shard) for shard in shards],
            }
            archive.write(
                self.folder / STATE,
                RUN,
                {"posterior": {**header, "interrupted": not mark.over}, "run": facts},
                {**filed("posterior", tensors), **parts},
            )
        except (OSError, DataError) as error:
            self._give_up(error)
            return
        self.shards, self.interval, self._written, self._at = shards, mark.interval, mark, time.monotonic()
        kept = {name for shard in shards for name in shard.files}
        with suppress(OSError):
            for path in self.folder.iterdir():
                if number_of(path.name) and path.name not in kept:
                    path.unlink()

    def _source(self, outline: Fit) -> None:
        """Writes what model and data are made again from, once; rows that are in files stay there."""
        if (self.folder / SOURCE).is_file():
            return
        found = Source({"why": "its rows are in files of their own"}, {})
        if outline.origin is None or not isinstance(outline.origin.data, Stored):
            found = source_of(outline, data=True) or found
        archive.write(self.folder / SOURCE, MADE, {"token": self.token, "source": found.header}, found.tensors)

    def _shards(
        self,
        draws: Mapping[str, Tensor],
        log_density: Tensor,
        interval: int,
        number: int,
        part: tuple[int, int] = (0, 1),
    ) -> list[Shard]:
        """Writes draws that no file has yet; gives all files.

        Args:
            draws: stored ones of all chains or of those of this process, `(chains, draws, size, *event)`.
            log_density: theirs, `(chains, draws)`.
            interval: every so many-th is stored.
            number: of the first new file.
            part: this process, and of how many.
        """
        shards = self.shards if interval == self.interval else []
        first, total = sum(shard.draws for shard in shards), log_density.shape[1]
        if first == total:
            return shards
        each = sum(x[:1, :1].numel() * x.element_size() for x in draws.values()) * self.gathering.share.chains
        per = max(1, MOST // each)  # copies are made of what is written
        for at, start in enumerate(range(first, total, per), number):
            some = slice(start, min(start + per, total))
            tensors = {**filed("draws", {n: x[:, some] for n, x in draws.items()})}
            tensors["log_density"] = log_density[:, some]
            archive.write(self.folder / part_name(at, *part), DRAWS, {"token": self.token}, tensors)
            shards = [*shards, Shard(SHARD.format(at), some.stop - start, part[1])]
            for x in draws.values():
                let_go(x)
        return shards
