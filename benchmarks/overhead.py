"""What watching costs: the same run with and without the TensorBoard dashboard, in turn. Writes a JSON result.

    python benchmarks/overhead.py --out overhead.json

Every run has a process of its own, so that imports count, on one thread, and the order alternates. Reported are medians
over pairs of the seconds of `ht.sample`, the processor's and the wall's: on a noisy machine the first say more.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

CONFIGS = Path(__file__).parents[1] / "configs"


class Case(NamedTuple):
    """A config, and how many draws of how many chains."""

    config: str
    chains: int
    draws: int


CASES = {
    "Contraception, a minute": Case("contraception", 64, 5_500),
    "Contraception, 5 s": Case("contraception", 16, 700),
    "schools, collapsed, 5 s": Case("schools", 128, 25_000),
    "radon, collapsed, a second": Case("radon", 128, 1_000),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Times the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("overhead.json"))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cases", nargs="*", choices=[*CASES], default=[*CASES])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # what a child is told: a case, on or off
    given = parser.parse_args(argv)
    if given.one:
        print(json.dumps(one(CASES[given.one[0]], watched=given.one[1] == "on")))
        return 0
    found = {name: case(name, given.pairs) for name in given.cases}
    given.out.write_text(json.dumps(found, indent=2))
    for name, numbers in found.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in numbers.items() if key != "pairs"))
    return 0


def case(name: str, pairs: int) -> dict[str, Any]:
    """Medians, and every pair as (without, with)."""
    made = []
    for k in range(pairs):
        order = ("off", "on") if k % 2 else ("on", "off")
        pair = {which: child(name, which) for which in order}
        made.append((pair["off"], pair["on"]))
        print(name, made[-1], file=sys.stderr)
    if len({off["sum"] for off, _ in made} | {on["sum"] for _, on in made}) > 1:
        raise SystemExit(f"{name}: watching changes draws")
    found: dict[str, Any] = {}
    for clock in ("wall", "cpu"):
        found[f"{clock}_s"] = median(off[clock] for off, _ in made)
        found[f"{clock}_more_s"] = median(on[clock] - off[clock] for off, on in made)
        found[f"{clock}_ratio"] = median(on[clock] / off[clock] for off, on in made)
    return {**found, "pairs": made}


def child(name: str, which: str) -> dict[str, float]:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--one", name, which]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def one(case: Case, *, watched: bool) -> dict[str, float]:
    """Seconds of a run, by two clocks, and a sum that tells its draws."""
    import torch

    import hiertorch as ht
    from hiertorch.commands.config import load, read

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, data = read(load(["--config", str(CONFIGS / f"{case.config}.yaml")]))
    options: dict[str, Any] = {"chains": case.chains, "draws": case.draws, "thin": 1, "compile": False}
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        posterior = ht.sample(model, data, seed=1, progress=False, log_dir=folder if watched else None, **options)
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return {**seconds, "sum": sum(float(x.double().sum()) for x in posterior.draws.values())}


if __name__ == "__main__":
    sys.exit(main())
