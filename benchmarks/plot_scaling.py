"""Time against rows and against groups, as measured by `benchmark.py --case rows group_counts --json scaling.json`.

python benchmarks/plot_scaling.py scaling.json scaling.png
"""

import argparse
import json
from pathlib import Path


def main() -> None:
    """Draws seconds before sampling and microseconds a draw on logarithmic axes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path)
    parser.add_argument("png", type=Path)
    args = parser.parse_args()
    import matplotlib.pyplot as plt

    cases = {case["case"]: case["runs"] for case in json.loads(args.json.read_text())["cases"]}
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, (name, title) in zip(
        axes, {"rows": "rows, 100 groups", "group_counts": "groups of 20 rows"}.items(), strict=True
    ):
        runs = cases[name]
        x = [run["rows"] if name == "rows" else run["groups"]["group"] for run in runs]
        axis.loglog(x, [1e6 * run["details"]["seconds_per_draw"] for run in runs], "o-", label="a draw (µs)")
        axis.loglog(x, [1e3 * run["details"]["setup_seconds"] for run in runs], "s--", label="before sampling (ms)")
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(args.png, dpi=110)


if __name__ == "__main__":
    main()
