"""Fits a hierarchical model to a table, prints its summary and fills a run folder.

    python scripts/train.py --config configs/schools.yaml
    python scripts/train.py --config configs/schools.yaml --sample.draws 2000 --log_dir runs/longer

Every key of the config is an option; --help lists them. A model class of your own is imported from the working
directory.
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hiertorch.config import load, run
from hiertorch.errors import ConfigError, HiertorchError

GROUPS = 8  # shown of a latent that has a row for every group
WIDTH = 120  # columns of a terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if the fit failed, 2 if the config is wrong."""
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}\n"
    try:
        config = load(argv)
        posterior = run(config)
    except HiertorchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    print(
        shortened(posterior.summary(), [name for name, part in config.model.latents.items() if part.plate is not None])
    )
    if config.log_dir is None:
        print("nothing was kept; --log_dir DIR keeps draws, summary, config and dashboard")
    else:
        print(f"run folder: {config.log_dir} (draws.npz, summary.csv with every row, config.yaml)")
        print(f"dashboard:  python scripts/dashboard.py {config.log_dir}")
    return 0


def shortened(summary: pd.DataFrame, by_group: Sequence[str]) -> str:
    """The summary with the first rows only of the latents in `by_group`."""
    latent = pd.Series(summary.index.str.split("[").str[0], index=summary.index)
    grouped, place = latent.isin(by_group), latent.groupby(latent).cumcount()
    digits = {"ess": "{:.0f}", "r_hat": "{:.3f}", "sd": "{:.3g}", "mcse": "{:.3g}"}
    formats = {
        column: digits.get(column, digits.get(column.split("_")[0], "{:.6g}")).format for column in map(str, summary)
    }
    table = summary[~grouped | (place < GROUPS)].to_string(formatters=formats, line_width=WIDTH)
    hidden = latent[grouped & (place >= GROUPS)].value_counts(sort=False)
    return "\n".join([table, *(f"... and {count} more of {name}" for name, count in hidden.items())])


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    sys.exit(main())
