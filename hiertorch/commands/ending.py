"""What is said of a run once it has ended, however it did."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from hiertorch.commands.config import CHECKPOINT
from hiertorch.commands.program import INTERRUPTED, columns, paragraph
from hiertorch.commands.tables import shortened
from hiertorch.errors import HiertorchError
from hiertorch.posterior import Posterior
from hiertorch.run.ending import DRAWS_FILE
from hiertorch.run.runfolder import is_run


def told(
    run: Callable[[], Posterior], folder: Path | None, go_on: str, *, first: bool = True, report: bool = False
) -> int:
    """Runs, prints the summary and where the draws are, and gives the exit status; of several processes the first one
    prints.

    Args:
        run: gives the posterior.
        folder: that it fills.
        go_on: how a run that was stopped goes on, in words.
        first: whether this process is that one.
        report: whether a run that has ended gets a report, too.
    """
    try:
        posterior = run()
    except (Exception, SystemExit) as error:
        if isinstance(error, HiertorchError) or not hasattr(error, "posterior"):
            raise
        if isinstance(error, Exception):  # of the model's own code: where it was met helps
            traceback.print_exc()
        if first:
            print(paragraph(ended(error.posterior, folder, go_on), sys.stderr), file=sys.stderr)
        return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    if posterior.n_draws == 0:
        if first:
            print(paragraph(ended(posterior, folder, go_on), sys.stderr), file=sys.stderr)
        return INTERRUPTED
    if first:
        print(table(posterior))
        for line in places(posterior, folder, go_on):
            print(line, flush=True)
        if report and folder is not None and not posterior.interrupted:
            print(f"report:     {posterior.report(folder / 'report.html')}")
    return INTERRUPTED if posterior.interrupted else 0


def table(posterior: Posterior) -> str:
    """The summary, in the columns of the terminal, with the first groups alone."""
    by_group = [name for name, plate in posterior.plates.items() if plate is not None]
    return shortened(posterior.summary(), by_group, columns())


def places(posterior: Posterior, folder: Path | None, go_on: str) -> list[str]:
    """Where everything is."""
    if folder is None:
        return ["nothing was kept; --log_dir DIR keeps draws, summary, config and dashboard"]
    unfinished = posterior.interrupted and is_run(folder / CHECKPOINT)
    return [
        f"run folder: {folder} ({DRAWS_FILE}, summary.csv, config.yaml)",
        f"dashboard:  hiertorch dashboard {folder}",
        *([f"unfinished: {go_on}"] if unfinished else []),
    ]


def ended(posterior: Posterior, folder: Path | None, go_on: str) -> str:
    """What became of the draws of a run that was ended early, and how it goes on."""
    goes_on = folder is not None and is_run(folder / CHECKPOINT)
    if posterior.n_draws == 0:
        found = f"ended by {posterior.run['ended_by']} in the warm-up: nothing was drawn, and "
        return found + (f"{go_on} (run folder: {folder})." if goes_on else "nothing is kept.")
    kept = "--log_dir was not given, so they are lost" if folder is None else f"run folder: {folder}"
    return f"{posterior.stopped} {kept}" + f"; {go_on}" * goes_on
