"""What fitting again costs: K folds as one run, and new rows, beside fits of their own. Writes a JSON result.

    python scripts/refits.py --out refits.json

Each case is timed `--pairs` times in turn, everything on one thread; medians are reported. A *fit* is `ht.sample` with
its defaults; a *small fit* has the chains and draws that one fold has. Ratios hold on a noisy machine, seconds do not.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

import hiertorch as ht
from hiertorch.config import load, read_data
from hiertorch.crossvalidation import CHAINS, DRAWS

CONFIGS = Path(__file__).parents[1] / "configs"


class Case(NamedTuple):
    """A config, and how many folds."""

    config: str
    k: int = 10
    by: str = "row"


CASES = {
    "radon, by row": Case("radon"),
    "radon, by county": Case("radon", 10, "county"),
    "schools, correlated, by row": Case("schools_correlated"),
    "Contraception, bernoulli, by row": Case("contraception"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Times the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("refits.json"))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--cases", nargs="*", choices=[*CASES], default=[*CASES])
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = {name: timed(CASES[name], given.pairs) for name in given.cases}
    given.out.write_text(json.dumps(found, indent=2))
    for name, one in found.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in one.items()))
    return 0


def timed(case: Case, pairs: int) -> dict[str, float]:
    """Seconds of a fit, a small fit and K folds, medians of some turns, and the ratios asked for."""
    config = load(["--config", str(CONFIGS / f"{case.config}.yaml")])
    model, data = config.model, read_data(config)
    posterior = fit(model, data)
    seconds: dict[str, list[float]] = {"fit": [], "small fit": [], "folds": []}
    runs: dict[str, Callable[[], Any]] = {
        "fit": lambda: fit(model, data),
        "small fit": lambda: fit(model, data, chains=CHAINS, draws=DRAWS),
        "folds": lambda: posterior.kfold(case.k, case.by, seed=1),
    }
    for _ in range(pairs):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    middle = {name: median(each) for name, each in seconds.items()}
    return {
        **middle,
        "k": float(case.k),
        "folds in fits": middle["folds"] / middle["fit"],
        "folds in small fits": middle["folds"] / middle["small fit"],
    }


def fit(model: ht.Model, data: ht.Data, **settings: Any) -> ht.Posterior:
    """A run with its defaults."""
    return ht.sample(model, data, seed=1, progress=False, **settings)


if __name__ == "__main__":
    sys.exit(main())
