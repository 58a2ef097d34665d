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

GROUPS = 5  # shown of a latent that has a row for every group
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
        print(f"dashboard:  tensorboard --logdir {config.log_dir}")
    return 0


def shortened(summary: pd.DataFrame, by_group: Sequence[str]) -> str:
    """The summary with the first rows only of the latents in `by_group`."""
    latent = summary.index.str.split("[").str[0]
    place = pd.Series(latent, index=summary.index).groupby(latent).cumcount()
    shown = summary[~latent.isin(by_group) | (place < GROUPS)]
    with pd.option_context("display.max_colwidth", 40):
        table = shown.to_string(line_width=WIDTH, float_format="{:.3g}".format)
    hidden = [f"{sum(latent == name) - GROUPS} of {name}" for name in by_group if sum(latent == name) > GROUPS]
    return "\n".join([table, *([f"and {', '.join(hidden)}"] if hidden else []), ""])


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    sys.exit(main())
