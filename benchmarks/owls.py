"""The begging of owls' nestlings (glmmTMB's `Owls`) with zero-inflated counts, by hiertorch and by glmmTMB.

The data stand in glmmTMB, and not here. In R:

    library(glmmTMB); write.csv(Owls, "owls.csv", row.names = FALSE)
    f <- SiblingNegotiation ~ (FoodTreatment + ArrivalTime) * SexParent + offset(logBroodSize) + (1 | Nest)
    glmmTMB(f, Owls, poisson, ziformula = ~1); glmmTMB(f, Owls, nbinom2, ziformula = ~1)

    python benchmarks/owls.py --data owls.csv --out tests/statistics/owls.json

The file keeps glmmTMB's estimates and standard errors as it has them, and gets our means and sds beside them.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

FORMULA = "SiblingNegotiation ~ (FoodTreatment + ArrivalTime) * SexParent + offset(log(BroodSize)) + (1 | Nest)"


def ours(family: str, frame: pd.DataFrame) -> dict[str, object]:
    """Means, sds, R-hat and ESS of a fit with defaults."""
    import hiertorch as ht

    posterior = ht.fit(FORMULA, frame, family=family, seed=1, progress=False)
    table = posterior.summary([name for name, plate in posterior.plates.items() if plate is None])
    table = table[table["sd"] > 0]  # the one entry of a Cholesky factor is 1
    columns = {"mean": "mean", "sd": "sd", "r_hat": "r_hat", "ess": "ess_bulk"}
    return {
        str(name): {ours: round(float(row[theirs]), 5) for ours, theirs in columns.items()}
        for name, row in table.iterrows()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Fits both families, and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    stored = json.loads(given.out.read_text())
    for family, found in stored["families"].items():
        found["hiertorch"] = ours(family, pd.read_csv(given.data))
        print(json.dumps({family: found["hiertorch"]}, indent=1), flush=True)
    given.out.write_text(json.dumps(stored, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
