"""Fits a hierarchical model to a table, prints its summary and fills a run folder.

    python scripts/train.py --config configs/schools.yaml
    python scripts/train.py --config configs/schools.yaml --sample.draws 2000 --log_dir runs/longer
    python scripts/train.py --config configs/schools.yaml --resume true
    python scripts/train.py --config configs/formula_schools.yaml --formula "MathAch ~ SES + (1 | School)" --priors null

Chains are dealt out to the processes of torchrun --nproc-per-node 2 scripts/train.py --config ..., if it starts some.

Every key of the config is an option; --help lists them. A model class of your own is imported from the working
directory. --resume true goes on with the run in the run folder, however it was stopped, or begins one.
"""

import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hiertorch.commands.config import CHECKPOINT, load, run
from hiertorch.commands.program import INTERRUPTED, status
from hiertorch.errors import HiertorchError
from hiertorch.posterior import Posterior
from hiertorch.run.ending import DRAWS_FILE
from hiertorch.run.runfolder import is_run
from hiertorch.runtime.ranks import started_by_torchrun

GROUPS = 8  # shown of a latent that has a row for every group
WIDTH = 120  # columns of a terminal
RESUME = "--resume true goes on from there"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if the fit failed, 2 if the config is wrong, 130 after Ctrl-C, 143 and 129 after SIGTERM and
    SIGHUP.
    """
    with started_by_torchrun() as first:
        return status(lambda: trained(argv, first=first))


def trained(argv: Sequence[str] | None, *, first: bool = True) -> int:
    """Fits what the config says, and prints the summary and where the draws are; of several processes the first one."""
    config = load(argv)
    try:
        posterior = run(config)
    except (Exception, SystemExit) as error:
        if isinstance(error, HiertorchError) or not hasattr(error, "posterior"):
            raise
        if isinstance(error, Exception):  # of the model's own code: where it was met helps
            traceback.print_exc()
        if first:
            print(ended(error.posterior, config.log_dir), file=sys.stderr)
        return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    if posterior.n_draws == 0:
        if first:
            print(ended(posterior, config.log_dir), file=sys.stderr)
        return INTERRUPTED
    if not first:
        return INTERRUPTED if posterior.interrupted else 0
    by_group = [name for name, plate in posterior.plates.items() if plate is not None]
    columns = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    print(shortened(posterior.summary(), by_group, columns))
    if config.log_dir is None:
        print("nothing was kept; --log_dir DIR keeps draws, summary, config and dashboard")
    else:
        print(f"run folder: {config.log_dir} ({DRAWS_FILE}, summary.csv, config.yaml)")
        print(f"dashboard:  python scripts/dashboard.py {config.log_dir}")
        if posterior.interrupted and is_run(config.log_dir / CHECKPOINT):
            print(f"unfinished: {RESUME}")
    return INTERRUPTED if posterior.interrupted else 0


def ended(posterior: Posterior, folder: Path | None) -> str:
    """What became of the draws of a run that was ended early, and how it goes on."""
    goes_on = folder is not None and is_run(folder / CHECKPOINT)
    if posterior.n_draws == 0:
        found = f"ended by {posterior.run['ended_by']} in the warm-up: nothing was drawn, and "
        return found + (f"{RESUME} (run folder: {folder})." if goes_on else "nothing is kept.")
    kept = "--log_dir was not given, so they are lost" if folder is None else f"run folder: {folder}"
    return f"{posterior.stopped} {kept}" + f"; {RESUME}" * goes_on


def shortened(summary: pd.DataFrame, by_group: Sequence[str], columns: int = WIDTH) -> str:
    """The summary with the first rows only of the latents in `by_group`; where so many columns have no room for it,
    without Monte Carlo errors, then with fewer digits, then without the ESS of the tails.
    """
    latent = pd.Series(summary.index.str.split("[").str[0], index=summary.index)
    grouped, place = latent.isin(by_group), latent.groupby(latent).cumcount()
    shown, digits = summary[~grouped | (place < GROUPS)], 6
    errors = [name for name in map(str, shown) if name.startswith("mcse")][::-1]
    for step in [*errors, 4, "ess_tail", 3]:
        if len(_text(shown, digits).partition("\n")[0]) <= columns:
            break
        shown, digits = (shown, step) if isinstance(step, int) else (shown.drop(columns=step, errors="ignore"), digits)
    hidden = latent[grouped & (place >= GROUPS)].value_counts(sort=False)
    fits = len(_text(shown, digits).partition("\n")[0]) <= columns
    table = _text(shown, digits, None if fits else columns)
    return "\n".join([table, *(f"... and {count} more of {name}" for name, count in hidden.items())])


def _text(table: pd.DataFrame, digits: int, columns: int | None = None) -> str:
    few = {"ess": "{:.0f}", "r_hat": "{:.3f}", "sd": "{:.3g}", "mcse": "{:.3g}"}
    formats = {name: few.get(name, few.get(name.split("_")[0], f"{{:.{digits}g}}")).format for name in map(str, table)}
    return table.to_string(formatters=formats, line_width=columns)


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    sys.exit(main())
