"""Runs configs to the end, each a process of its own, and prints the table of `results/published.json`.

    python benchmarks/configs_table.py                        # all of configs/
    python benchmarks/configs_table.py schools radon
    python benchmarks/configs_table.py schools --options "--sample.draws 100"

Seconds are those from the command to the printed summary: imports, reading, sampling and diagnostics. Parameters are
all that the summary has, groups included; worst R-hat and smallest bulk ESS are over all of these. Run folders are kept
under --folder only if it is given.
"""

import argparse
import contextlib
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hiertorch.commands.config import load, read_data
from hiertorch.errors import HiertorchError

ROOT = Path(__file__).parents[1]
HEAD = """| config | rows | groups | parameters | seconds | worst R-hat | smallest bulk ESS |
|---|--:|---|--:|--:|--:|--:|"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 if a config failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml") if not path.stem.startswith("compare_"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(every)}; all if left out")
    parser.add_argument("--options", default="", help="more options of scripts/train.py, as one text")
    parser.add_argument("--folder", type=Path, help="where run folders are kept; it must not hold these runs yet")
    asked = parser.parse_args(argv)
    if unknown := [name for name in asked.names if name not in every]:
        parser.error(f"there is no config {unknown[0]!r}; there are {', '.join(every)}")
    print(HEAD, flush=True)
    failed = []
    folder = asked.folder and asked.folder.resolve()
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(ROOT):  # where paths in configs start
        for name in asked.names or every:
            try:
                print(line(name, folder or Path(scratch), shlex.split(asked.options)), flush=True)
            except (HiertorchError, RuntimeError) as error:
                failed.append(f"{name}: {error}")
    for sentence in failed:
        print(f"error: {sentence}", file=sys.stderr)
    return 1 if failed else 0


def line(name: str, folder: Path, options: Sequence[str]) -> str:
    """A config's line of the table, after its run."""
    settings = ["--config", f"configs/{name}.yaml", "--sample.progress", "false", *options]
    start = time.perf_counter()
    command = [sys.executable, "scripts/train.py", *settings, "--log_dir", str(folder / name)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it failed without a message"])[-1])
    data = read_data(load(["--config", str(folder / name / "config.yaml")]))
    summary = pd.read_csv(folder / name / "summary.csv", index_col="parameter")
    summary = summary[summary.sd > 0]  # without the 0 and 1 in a Cholesky factor of correlations
    cells = [
        f"`{name}.yaml`",
        f"{data.n_rows:,}",
        ", ".join(f"{data.size(plate):,} {plate}" for plate in data.plates) or "none",
        f"{len(summary):,}",
        f"{seconds:.0f}",
        f"{summary.r_hat.max(skipna=False):.4f}",
        f"{float(f'{summary.ess_bulk.min(skipna=False):.3g}'):,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
