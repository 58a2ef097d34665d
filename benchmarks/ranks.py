"""What several processes save: the same run by one process and by two, each on one thread, in turn. Writes JSON.

    python benchmarks/ranks.py --out benchmarks/results/ranks.json
    python benchmarks/ranks.py --pairs 1 --cases rows --out benchmarks/results/rows.json

Every run has new processes, begun as `torchrun` begins them. Reported are, of every pair, the processor's seconds of
`ht.sample` of one process and of each of two: the largest of these is how long a machine that has nothing else to do
would take. Wall seconds stand beside them, and say little where others compute. A sweep's seconds are those from the
end of warm-up on; memory in MB is the most of the process from `ht.sample` on, and what it had before, its data among
it; messages after warm-up are counted by kind, with the bytes that a process gives each.
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from measures import memory_peak, memory_used, restart_memory_peak
from torch import multiprocessing

import hiertorch as ht
from hiertorch.models import VaryingIntercepts
from hiertorch.monitors import Monitor, Window

CASES: dict[str, tuple[int, int, dict[str, Any]]] = {
    "whitened": (2_000, 20, {"chains": 32, "draws": 150}),
    "ordinary": (500, 20, {"chains": 32, "warmup": 100, "draws": 50, "thin": 1, "collapse": False}),
    "rows": (10_000, 100, {"chains": 4, "warmup": 40, "draws": 60, "thin": 1, "spread": "rows"}),
}
"""Groups, rows of each, and options."""


class Meter(Monitor):
    """The processor's seconds and the messages of sampling, without warm-up."""

    def __init__(self) -> None:
        self.messages: dict[str, list[int]] = {}
        self.at_warm: tuple[int, float] = (0, 0.0)
        self.at_last = self.at_warm
        for kind in ("all_reduce", "all_gather", "gather", "broadcast"):
            self._count(kind)

    def _count(self, kind: str) -> None:
        send, mine = getattr(torch.distributed, kind), 1 if kind == "all_gather" else 0  # which argument is sent

        def counted(*arguments: Any, **more: Any) -> Any:
            number, size = self.messages.setdefault(kind, [0, 0])
            self.messages[kind] = [number + 1, size + arguments[mine].nbytes]
            return send(*arguments, **more)

        setattr(torch.distributed, kind, counted)

    def window(self, window: Window) -> None:
        self.at_last = (window.sweep, time.process_time())
        if window.phase == "warmup":
            self.at_warm, self.messages = self.at_last, {}

    def found(self) -> dict[str, Any]:
        """Of a sweep, and of all that were counted; nothing where monitors are not told, as in the second process."""
        if not self.at_warm[0]:
            return {}
        sweeps = self.at_last[0] - self.at_warm[0]
        kinds = {kind: {"messages": number, "bytes": size} for kind, (number, size) in self.messages.items()}
        spent = (self.at_last[1] - self.at_warm[1]) / max(sweeps, 1)
        return {"sweeps": sweeps, "processor a sweep": round(spent, 4), "sent": kinds}


def main(argv: Sequence[str] | None = None) -> int:
    """Times the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("ranks.json"))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--cases", nargs="*", choices=[*CASES], default=[*CASES])
    given = parser.parse_args(argv)
    found = {name: case(name, given.pairs) for name in given.cases}
    given.out.write_text(json.dumps(found, indent=2) + "\n")
    for name, numbers in found.items():
        print(f"{name}: {numbers['times faster']:.2f} times faster in two processes, by processor time")
    return 0


def case(name: str, pairs: int) -> dict[str, Any]:
    """Every pair, and the median of how many times faster two are."""
    groups, rows, options = CASES[name]
    made = [{str(number): seconds(name, number) for number in (1, 2)} for _ in range(pairs)]
    faster = [pair["1"][0]["processor"] / max(one["processor"] for one in pair["2"]) for pair in made]
    about = {"groups": groups, "rows": groups * rows, "family": "bernoulli", **options}
    return {"case": about, "times faster": median(faster), "pairs": made}


def seconds(name: str, number: int) -> list[dict[str, Any]]:
    """Of each of so many processes."""
    with TemporaryDirectory() as folder:
        multiprocessing.spawn(work, (name, number, folder), nprocs=number)
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(number)]


def work(rank: int, name: str, number: int, folder: str) -> None:
    """What a process does."""
    torch.set_num_threads(1)
    os.environ["LOCAL_WORLD_SIZE"] = "2"  # so that one has one worker as well
    warnings.simplefilter("ignore")
    if number > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=number)
    groups, rows, options = CASES[name]
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(groups), rows), rng.normal(size=groups * rows)
    p = 1 / (1 + np.exp(-(0.3 + 0.5 * x + rng.normal(size=groups)[g])))
    data = ht.Data(y=(rng.random(len(g)) < p).astype(float), groups={"g": g}, x=x)
    model = VaryingIntercepts("g", ["x"], family="bernoulli")
    del g, x, p
    meter, before = Meter(), memory_used()
    restart_memory_peak()
    wall, processor = time.perf_counter(), time.process_time()
    ht.sample(model, data, seed=1, progress=False, compile=False, monitors=[meter], **options)
    spent = {"processor": time.process_time() - processor, "wall": time.perf_counter() - wall}
    spent |= {"memory before": before, "most memory": memory_peak()}
    found = {key: round(x, 2) for key, x in spent.items()} | meter.found()
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    raise SystemExit(main())
