"""Runs that are killed and go on: are their draws, to the bit, those of a run that was never stopped?

    python benchmarks/kills.py --kills 100 --terms 20      # writes kills.json
    python benchmarks/kills.py --cost whitened             # CPU seconds of a longer run, and those of writing it

Every run is forked off this process, which has all imports and compiled code, and has made the same run in one piece.
Half of the SIGKILLs come at a random time, from a thread that looks at the process's CPU time; the others while a file
is written: when half of it is there, before it gets its name, or just after. After each kill the folder goes on, and is
killed again, up to five times until the run is let finish. SIGTERMs come at random times too, and each notes the last
window that a monitor was told of and that of the state. The cost is with the default of 30 seconds between two states.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hiertorch as ht
from hiertorch.draws import archive
from hiertorch.models import VaryingIntercepts
from hiertorch.monitors import Monitor, RunInfo, Window
from hiertorch.run.checkpoint import Checkpoint
from hiertorch.run.runfolder import RUN, STATE, is_run

HERE = Path(__file__).parent
EVERY = 0.05  # seconds between two states, so that there are some in a run of a second
CHAIN = 5  # kills of one run, at most
STAGES = ("half a file", "before its name", "after its name")

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ordinary": ("gaussian", {"collapse": False, "chains": 4, "warmup": 100, "draws": 200, "thin": 1}),
    "collapsed": ("gaussian", {"chains": 64, "draws": 1_500}),
    "whitened": ("bernoulli", {"chains": 16, "draws": 1_500}),
}
LONG: dict[str, dict[str, Any]] = {
    "ordinary": {"draws": 1_500},
    "collapsed": {"draws": 40_000},
    "whitened": {"draws": 40_000},
}


def rows(family: str) -> ht.Data:
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(12), 6), rng.normal(size=72)
    eta = 0.5 * x + rng.normal(size=12)[g]
    y = eta + rng.normal(size=72) if family == "gaussian" else (rng.random(72) < 1 / (1 + np.exp(-eta))).astype(float)
    return ht.Data(y=y, groups={"g": g}, x=x)


def sampled(case: str, **settings: Any) -> ht.Posterior:
    family, own = CASES[case]
    model = VaryingIntercepts("g", ["x"], family=family)
    return ht.sample(model, rows(family), **{"progress": False, "compile": False, "seed": 3, **own, **settings})


def fingerprint(posterior: ht.Posterior) -> str:
    """Of all draws, densities and rates of acceptance."""
    found = hashlib.sha256()
    stats = posterior.stats
    for x in (*posterior.draws.values(), stats.log_density, *stats.acceptance.values()):
        found.update(x.contiguous().numpy().tobytes())
    return found.hexdigest()


class Told(Monitor):
    """The last window, and the CPU time since which there is no state."""

    sweep, since = 0, 0.0

    def start(self, run: RunInfo) -> None:
        self.since, write = time.process_time(), Checkpoint.write

        def written(checkpoint: Checkpoint) -> None:
            write(checkpoint)
            self.since = time.process_time()

        setattr(Checkpoint, "write", written)  # noqa: B010  mypy takes no assignment

    def window(self, window: Window) -> None:
        self.sweep = window.sweep


def begun(case: str, folder: Path, told: Told) -> ht.Posterior:
    """The run, from its beginning or from where it was stopped."""
    if is_run(folder):
        return ht.resume(folder, progress=False, every=EVERY, monitors=[told])
    return sampled(case, checkpoint=folder, every=EVERY, monitors=[told])


def at_time(seconds: float, number: int, told: Told | None = None, pipe: int = 0) -> None:
    """Sends this process a signal when it has had so many seconds, and says before for how many there is no state."""
    end = time.process_time() + seconds

    def wait() -> None:
        while time.process_time() < end:
            time.sleep(0.001)
        if told is not None:
            os.write(pipe, json.dumps(time.process_time() - told.since if told.since else 0.0).encode())
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


def while_writing(number: int, stage: str) -> None:
    """Kills this process while it writes its so many-th file."""
    save, to_disk, count = archive.save_file, archive._to_disk, 0

    def saved(arrays: Any, part: Path, metadata: Any) -> None:
        nonlocal count
        count += 1
        save(arrays, part, metadata)
        if count == number and stage != STAGES[2]:
            if stage == STAGES[0]:
                os.truncate(part, part.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def synced(path: Path) -> None:
        to_disk(path)
        if count == number and path.is_dir():
            os.kill(os.getpid(), signal.SIGKILL)

    archive.save_file, archive._to_disk = saved, synced  # type: ignore[assignment]


def forked(body: Callable[[int], object]) -> tuple[int, Any]:
    """What a body gives, run in a process of its own, and how that ended."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            found = body(writing)
            os.write(writing, json.dumps(found).encode())
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    return os.waitpid(child, 0)[1], json.JSONDecoder().raw_decode(said.decode())[0] if said else None


def attempt(case: str, folder: Path, stage: str, seconds: float, number: int, pipe: int) -> str:
    """The run, killed at a time or while it writes its so many-th file, unless it is done before."""
    told = Told()
    if stage == "at a time":
        at_time(seconds, signal.SIGKILL, told, pipe)
    else:
        while_writing(number, stage)
    return fingerprint(begun(case, folder, told))


def killed(case: str, wanted: int, chance: random.Random, length: float, files: int, whole: str) -> dict[str, Any]:
    """So many kills of runs of a case, each of which goes on until it is done."""
    counts = {"at a time": 0, **dict.fromkeys(STAGES, 0)}
    number, runs, before, equal, lost = 0, 0, 0, 0, 0.0
    while number < wanted:
        with tempfile.TemporaryDirectory() as place:
            folder, runs = Path(place) / "run", runs + 1
            for _ in range(min(CHAIN, wanted - number)):
                stage = chance.choice(STAGES) if number % 2 else "at a time"
                seconds, which = chance.uniform(0.0, 0.7 * length), chance.randint(1, max(2, files // 2))
                status, found = forked(partial(attempt, case, folder, stage, seconds, which))
                if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
                    number, counts[stage] = number + 1, counts[stage] + 1
                    before += not is_run(folder)
                    lost = max(lost, found or 0.0)
                else:
                    assert found is not None
            found = forked(lambda _, at=folder: fingerprint(begun(case, at, Told())))[1]  # type: ignore[misc]
            equal += found == whole
    print(f"{case}: {number} kills of {runs} runs, {equal} equal, {lost:.2f} s of CPU lost at most", flush=True)
    return {
        "kills": number, "by stage": counts, "before the first state": before, "runs": runs, "equal": equal,
        "CPU seconds lost at most": round(lost, 3),
    }  # fmt: skip


def terminated(case: str, wanted: int, chance: random.Random, length: float, whole: str) -> dict[str, Any]:
    """So many SIGTERMs, each of another run."""
    number, equal, behind = 0, 0, []
    while number < wanted:
        with tempfile.TemporaryDirectory() as place:
            folder, seconds = Path(place) / "run", chance.uniform(0.0, length)

            def body(_: int, at: Path = folder, seconds: float = seconds) -> object:
                told = Told()
                at_time(seconds, signal.SIGTERM)
                try:
                    begun(case, at, told)
                except SystemExit as error:
                    return [error.code, told.sweep]
                return None

            found = forked(body)[1]
            if found is None:  # it was done before
                continue
            number += 1
            done = archive.read(folder / STATE, RUN)[0]["run"]["done"] if is_run(folder) else 0  # type: ignore[index]
            behind.append(found[1] - done)
            equal += forked(lambda _, at=folder: fingerprint(begun(case, at, Told())))[1] == whole  # type: ignore[misc]
    print(f"{case}: {number} SIGTERMs, {equal} equal, sweeps lost {behind}", flush=True)
    return {"signals": number, "equal": equal, "sweeps of whole windows lost": sum(behind)}


def cost(case: str) -> dict[str, Any]:
    """CPU seconds of a long run, and how many of them it was told of windows and wrote: on a machine that others use as
    well, runs with and without differ by much more.
    """
    with tempfile.TemporaryDirectory(dir=HERE) as place:

        def body(_: int) -> object:
            spent = {"window": 0.0, "write": 0.0}

            def timed(name: str) -> None:
                function = getattr(Checkpoint, name)

                def called(*given: Any) -> None:
                    began = time.process_time()
                    function(*given)
                    spent[name] += time.process_time() - began

                setattr(Checkpoint, name, called)

            for name in spent:
                timed(name)
            began, wall = time.process_time(), time.perf_counter()
            sampled(case, **LONG[case], checkpoint=Path(place) / "run")
            last = spent["write"]  # windows that write are in both
            return [time.process_time() - began, time.perf_counter() - wall, spent["window"], last]

        seconds, wall, windows, writing = forked(body)[1]
    found = {"CPU seconds": seconds, "wall seconds": wall, "told of windows": windows, "writing": writing}
    print(case, found, flush=True)
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, help="of all engines together")
    parser.add_argument("--terms", type=int, default=0, help="likewise")
    parser.add_argument("--cost", choices=LONG, help="of this engine")
    parser.add_argument("--out", type=Path, default=HERE / "kills.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    found["machine"] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.machine(),
    }
    if asked.cost:
        found.setdefault("cost", {})[asked.cost] = cost(asked.cost)
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    for k, case in enumerate(CASES) if asked.kills + asked.terms else ():
        whole = fingerprint(sampled(case))
        chance = random.Random(k)
        with tempfile.TemporaryDirectory() as place:
            count, save = [0], archive.save_file

            def counted(*given: Any, count: list[int] = count, save: Any = save) -> None:
                count[0] += 1
                save(*given)

            archive.save_file = counted  # type: ignore[assignment]
            began = time.process_time()
            assert fingerprint(begun(case, Path(place) / "run", Told())) == whole
            length = time.process_time() - began
            archive.save_file = save
        print(f"{case}: {length:.2f} s, {count[0]} files", flush=True)
        each = [len(range(k, n, len(CASES))) for n in (asked.kills, asked.terms)]
        one: dict[str, Any] = {"seconds between states": EVERY, "CPU seconds of a run": round(length, 2)}
        one |= {"SIGKILL": killed(case, each[0], chance, length, count[0], whole)} if each[0] else {}
        one |= {"SIGTERM": terminated(case, each[1], chance, length, whole)} if each[1] else {}
        found[case] = one
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
