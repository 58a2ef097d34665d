"""Rows of generated Parquet files, more than one likes to have in memory: read, fitted, compared with the truth.

    python benchmarks/large_data.py --rows 100_000_000 --groups 1_000_000 --json benchmarks/large_data.json

Rows come in random order of their groups, in files of ten million, float32 numbers and int32 labels. Gaussian rows
have varying intercepts and slopes, Bernoulli rows varying intercepts. The fit runs in a process of its own, whose peak
memory is measured; each run adds an entry to the JSON file.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]

PART = 10_000_000
"""Rows of a file."""

BATCH = 1_000_000
"""Rows that are generated at once."""

TRUTH = {"mu_alpha": 1.0, "mu_beta[x]": 0.5, "sigma_alpha": 0.6, "sigma_beta[x]": 0.3, "sigma_y": 1.5}
BERNOULLI = {"mu_alpha": -0.4, "beta[x]": 0.5, "sigma_alpha": 0.7}


def effects(groups: int, family: str) -> tuple[Numbers, Numbers]:
    """The intercept and slope of each group."""
    r, told = np.random.default_rng(1), TRUTH if family == "gaussian" else BERNOULLI
    alpha = r.normal(told["mu_alpha"], told["sigma_alpha"], groups)
    if family != "gaussian":
        return alpha, np.full(groups, told["beta[x]"])
    return alpha, r.normal(told["mu_beta[x]"], told["sigma_beta[x]"], groups)


def generate(folder: Path, rows: int, groups: int, family: str) -> None:
    """Writes the files, unless they are there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    alpha, beta = effects(groups, family)
    folder.mkdir(parents=True, exist_ok=True)
    for k, start in enumerate(range(0, rows, PART)):
        if (path := folder / f"part-{k:03d}.parquet").exists():
            continue
        kinds = [
            ("y", pa.float32() if family == "gaussian" else pa.bool_()),
            ("x", pa.float32()),
            ("group", pa.int32()),
        ]
        schema, beside = pa.schema(kinds), path.with_suffix(".writing")
        with pq.ParquetWriter(beside, schema, compression="zstd", use_dictionary=False) as file:
            for at in range(start, min(start + PART, rows), BATCH):
                r, n = np.random.default_rng([2, at]), min(BATCH, rows - at)
                group = r.integers(0, groups, n, dtype=np.int32)
                x = r.normal(size=n).astype(np.float32)
                eta = alpha[group] + beta[group] * x
                if family == "gaussian":
                    y: Numbers = (eta + TRUTH["sigma_y"] * r.normal(size=n)).astype(np.float32)
                else:
                    y = r.random(n) < 1.0 / (1.0 + np.exp(-eta))
                file.write_table(pa.table([pa.array(y), pa.array(x), pa.array(group)], schema=schema))
        beside.rename(path)


def fitted(folder: Path, groups: int, family: str, on_disk: bool | None, chains: int | None) -> dict[str, Any]:
    """Reads and fits; what it took, and how far estimates are from the truth."""
    import hiertorch as ht

    clocks = [(time.perf_counter(), time.process_time())]

    def clock() -> dict[str, float]:
        clocks.append((time.perf_counter(), time.process_time()))
        wall, cpu = (b - a for a, b in zip(*clocks[-2:], strict=True))
        return {"seconds": round(wall, 1), "cpu": round(cpu, 1), "peak_gb": peak()}

    data = ht.Data.from_parquet(folder, "y", groups=["group"], predictors=["x"], on_disk=on_disk)
    found: dict[str, Any] = {"rows": data.n_rows, "groups": data.size("group"), "on_disk": hasattr(data, "store")}
    found["reading"] = clock()
    model: ht.Model
    if family == "gaussian":
        model, truth = ht.models.MixedEffects("group", predictors=["x"]), TRUTH
    else:
        model, truth = ht.models.VaryingIntercepts("group", predictors=["x"], family="bernoulli"), BERNOULLI
    posterior = ht.sample(model, data, seed=1, chains=chains, progress=os.isatty(2))
    found["sampling"] = {**clock(), "run": posterior.run["seconds"]}
    keys = ("chains", "warmup", "sweeps", "interval")
    found["run"] = {key: posterior.run[key] for key in keys} | {
        "until": posterior.run.get("until"),
        "draws": posterior.n_draws,
    }
    summary: Any = posterior.summary()
    found["parameters"] = {
        name: {
            "truth": true,
            **{key: float(summary.loc[name, key]) for key in ("mean", "sd", "mcse_mean", "r_hat", "ess_bulk")},
            "z": round(float((summary.loc[name, "mean"] - true) / summary.loc[name, "sd"]), 2),
        }
        for name, true in truth.items()
    }
    if family == "gaussian":
        found["effects"] = {}
        for name, true in zip(("alpha", "beta"), effects(groups, family), strict=True):
            table: Any = posterior.effects(name)
            z = (table["mean"].to_numpy() - true[data.labels["group"].to_numpy()]) / table["sd"].to_numpy()
            found["effects"][name] = {
                "mean_square_z": float(np.mean(z**2)),
                "within_2_sd": float(np.mean(np.abs(z) < 2)),
            }
        found["of_effects"] = clock()
    found["peak_gb"] = peak()
    return found


def peak() -> float:
    """Memory of this process at most so far, in GB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--groups", type=int, default=10_000)
    parser.add_argument("--family", choices=["gaussian", "bernoulli"], default="gaussian")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir(), "large_data"), help="where the files are written"
    )
    parser.add_argument("--on-disk", choices=["yes", "no", "auto"], default="auto")
    parser.add_argument("--chains", type=int, help="as many as hiertorch chooses if left out")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--fit", action="store_true", help="fit alone, and print what it took")
    asked = parser.parse_args()
    folder = asked.folder / f"{asked.family}-{asked.rows}-{asked.groups}"
    if asked.fit:
        on_disk = {"yes": True, "no": False, "auto": None}[asked.on_disk]
        print(json.dumps(fitted(folder, asked.groups, asked.family, on_disk, asked.chains)))
        return
    began = time.perf_counter()
    generate(folder, asked.rows, asked.groups, asked.family)
    print(f"written or found in {time.perf_counter() - began:.0f} s")
    again = [sys.executable, __file__, "--fit", *sys.argv[1:]]
    found = {"family": asked.family, **json.loads(subprocess.run(again, check=True, stdout=subprocess.PIPE).stdout)}
    found["files_gb"] = round(sum(x.stat().st_size for x in folder.iterdir()) / 1e9, 2)
    print(json.dumps(found, indent=1))
    if asked.json is not None:
        every = json.loads(asked.json.read_text()) if asked.json.exists() else []
        same = {key: found[key] for key in ("family", "rows", "groups", "on_disk")}
        every = [one for one in every if {key: one[key] for key in same} != same]
        asked.json.write_text(json.dumps([*every, found], indent=1) + "\n")


if __name__ == "__main__":
    main()
