"""A run is written into its folder: its draws as they come, and now and then all that it needs to go on.

See Note [State and shards] of `hiertorch.run.runfolder`.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from hiertorch.data.stored import Stored
from hiertorch.draws import archive, storage
from hiertorch.draws.archive import Source
from hiertorch.draws.fit import Fit
from hiertorch.errors import DataError, RunFolderError, warn
from hiertorch.predict.keeping import source_of
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.engine import filed
from hiertorch.run.looks import Looks
from hiertorch.run.runfolder import DRAWS, MADE, RUN, SHARD, SOURCE, STATE, Shard, number_of
from hiertorch.run.store import Store
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
    """Writes a run into its folder.

    Args:
        folder: of this run alone.
        every: seconds between two states at least.
        facts: of what is run, that whoever goes on is held against; what JSON can hold.
        outline: gives the posterior so far without its draws.
        token: of the run.
        shards: that are there already.
        interval: of their draws.
    """

    folder: Path
    every: float
    facts: Mapping[str, Any]
    outline: Callable[[int, Mapping[str, float]], Fit]
    token: str = field(default_factory=partial(secrets.token_hex, 8))
    shards: list[Shard] = field(default_factory=list)
    interval: int = 1

    def __post_init__(self) -> None:
        self.latest: Mark | None = None
        self._written: Mark | None = None
        self._at = time.monotonic()
        self._taken = self._cost = 0.0  # CPU time when the last state was taken, and what it took
        self._given_up = False

    def window(
        self,
        done: int,
        state: Callable[[], Mapping[str, Tensor]],
        looks: Looks,
        acceptance: Acceptance,
        store: Store,
        seconds: Mapping[str, float],
    ) -> None:
        """After a window: takes the state, if enough came since the last, and writes if it is time."""
        began, due = time.process_time(), time.monotonic() - self._at >= self.every
        if self._given_up or not (due or looks.over or began - self._taken >= SPARE * self._cost):
            return
        self.latest = Mark(
            done, state(), looks.state(), acceptance.state(), acceptance.example, dict(seconds), store.draws(),
            store.log_density(), store.interval, store.made, looks.over,
        )  # fmt: skip
        self._taken = time.process_time()
        self._cost = self._taken - began
        if due:
            self.write()

    def write(self) -> None:
        """The state that was taken last, and the draws up to there; a sentence if that can't be, once."""
        mark = self.latest
        if mark is None or mark is self._written or self._given_up:
            return
        try:
            if not self.folder.is_dir():
                raise RunFolderError(f"the folder of the run, {self.folder}, has gone")
            outline = self.outline(mark.done, mark.seconds)
            self._source(outline)
            shards = self._shards(mark)
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
                "shards": [[shard.name, shard.draws] for shard in shards],
            }
            archive.write(
                self.folder / STATE,
                RUN,
                {"posterior": {**header, "interrupted": not mark.over}, "run": facts},
                {**filed("posterior", tensors), **parts},
            )
        except (OSError, DataError) as error:
            self._given_up = True
            warn(f"{error} From here on nothing is written into {self.folder}; the run goes on, its draws in memory.")
            return
        self.shards, self.interval, self._written, self._at = shards, mark.interval, mark, time.monotonic()
        kept = {shard.name for shard in shards}
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

    def _shards(self, mark: Mark) -> list[Shard]:
        """Writes draws that no shard has yet; gives all shards."""
        shards = self.shards if mark.interval == self.interval else []
        first, number = sum(shard.draws for shard in shards), mark.log_density.shape[1]
        if number == first:
            return shards
        last = max((number_of(path.name) for path in self.folder.iterdir()), default=0)
        each = sum(x[:, :1].numel() * x.element_size() for x in mark.draws.values())
        per = max(1, MOST // each)  # copies are made of what is written
        for at, start in enumerate(range(first, number, per), last + 1):
            some = slice(start, min(start + per, number))
            tensors = {**filed("draws", {n: x[:, some] for n, x in mark.draws.items()})}
            tensors["log_density"] = mark.log_density[:, some]
            archive.write(self.folder / SHARD.format(at), DRAWS, {"token": self.token}, tensors)
            shards = [*shards, Shard(SHARD.format(at), some.stop - start)]
            for x in mark.draws.values():
                let_go(x)
        return shards
