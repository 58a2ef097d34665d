"""What fitting again costs: K folds as one run, and new rows, beside fits of their own. Writes a JSON result.

    python benchmarks/refits.py --out refits.json

Each case is timed `--pairs` times in turn, everything on one thread; medians are reported. A *fit* is `ht.sample` with
its defaults; a *small fit* has the chains and draws that one fold has. Ratios hold on a noisy machine, seconds do not.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

import hiertorch as ht
from hiertorch.commands.config import Config, load, read
from hiertorch.data.sources import read_table
from hiertorch.refits.folds import CHAINS, DRAWS

CONFIGS = Path(__file__).parents[1] / "configs"


SHARE = 20
"""One row in so many is new."""


class Folds(NamedTuple):
    """A config, how many folds, and of what."""

    config: str
    k: int = 10
    by: str = "row"


class Later(NamedTuple):
    """A config, of whose rows one in SHARE comes later."""

    config: str


CASES: dict[str, Folds | Later] = {
    "radon, 10 folds of rows": Folds("radon"),
    "radon, 10 folds of counties": Folds("radon", 10, "county"),
    "schools, correlated, 10 folds of rows": Folds("schools_correlated"),
    "Contraception, bernoulli, 10 folds of rows": Folds("contraception"),
    "radon, 5 % new rows": Later("radon"),
    "schools, correlated, 5 % new rows": Later("schools_correlated"),
    "Contraception, bernoulli, 5 % new rows": Later("contraception"),
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


def timed(case: Folds | Later, pairs: int) -> dict[str, float]:
    """Seconds, and the ratios asked for."""
    config = load(["--config", str(CONFIGS / f"{case.config}.yaml")])
    return folds(case, config, pairs) if isinstance(case, Folds) else later(config, pairs)


def folds(case: Folds, config: Config, pairs: int) -> dict[str, float]:
    """A fit, a small fit, and K folds as one run."""
    model, data = read(config)
    posterior = fit(model, data)
    found = medians(
        {
            "fit": lambda: fit(model, data),
            "small fit": lambda: fit(model, data, chains=CHAINS, draws=DRAWS),
            "folds": lambda: posterior.kfold(case.k, case.by, seed=1),
        },
        pairs,
    )
    return {
        **found,
        "k": float(case.k),
        "folds in fits": found["folds"] / found["fit"],
        "folds in small fits": found["folds"] / found["small fit"],
    }


def later(config: Config, pairs: int) -> dict[str, float]:
    """A fit to all rows, and an update of the fit to the others; how far apart their means are, in Monte Carlo errors,
    at the population level.
    """
    frame = read_table(config.source, config.reader)
    new = np.random.default_rng(1).permutation(len(frame)) < len(frame) // SHARE
    model, data = read(config)
    before = fit(model, ht.Data.from_frame(frame[~new], **config.columns))
    updated, again = before.update(frame[new], seed=2), fit(model, data)
    names = [name for name in again.names if again.plates[name] is None]
    one, two = updated.summary(names), again.summary(names)
    z: float = ((one["mean"] - two["mean"]).abs() / np.hypot(one["mcse_mean"], two["mcse_mean"])).max()
    found = medians({"fit": lambda: fit(model, data), "update": lambda: before.update(frame[new], seed=2)}, pairs)
    return {
        **found,
        "update in fits": found["update"] / found["fit"],
        "by weights": float(updated.run["updated"]["by"] == "weights"),
        "pareto k": float(updated.run["updated"]["pareto_k"] or np.nan),
        "largest difference in MCSE": float(z),
    }


def medians(runs: Mapping[str, Callable[[], Any]], pairs: int) -> dict[str, float]:
    """Median seconds of some turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(pairs):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: median(each) for name, each in seconds.items()}


def fit(model: ht.Model, data: ht.Data, **settings: Any) -> ht.Posterior:
    """A run with its defaults."""
    return ht.sample(model, data, seed=1, progress=False, **settings)


if __name__ == "__main__":
    sys.exit(main())
