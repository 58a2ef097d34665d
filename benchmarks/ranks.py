"""What several processes save: the same run by one process and by two, each on one thread, in turn. Writes JSON.

    python benchmarks/ranks.py --out benchmarks/results/ranks.json

Every run has new processes, begun as `torchrun` begins them. Reported are, of every pair, the processor's seconds of
`ht.sample` of one process and of each of two: the largest of these is how long a machine that has nothing else to do
would take. Wall seconds stand beside them, and say little where others compute.
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
from torch import multiprocessing

import hiertorch as ht
from hiertorch.models import VaryingIntercepts

CASES: dict[str, tuple[int, int, dict[str, Any]]] = {
    "whitened": (2_000, 20, {"chains": 32, "draws": 150}),
    "ordinary": (500, 20, {"chains": 32, "warmup": 100, "draws": 50, "thin": 1, "collapse": False}),
}
"""Groups, rows of each, and options."""


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


def seconds(name: str, number: int) -> list[dict[str, float]]:
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
    wall, processor = time.perf_counter(), time.process_time()
    ht.sample(model, data, seed=1, progress=False, compile=False, **options)
    found = {"processor": time.process_time() - processor, "wall": time.perf_counter() - wall}
    (Path(folder) / f"{rank}.json").write_text(json.dumps({key: round(x, 2) for key, x in found.items()}))


if __name__ == "__main__":
    raise SystemExit(main())
