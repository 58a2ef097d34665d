"""`hiertorch resume`: goes on with a run in its folder."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hiertorch.commands.config import CHECKPOINT, go_on, load, run
from hiertorch.commands.ending import table, told
from hiertorch.commands.program import Words, amount, count, status
from hiertorch.errors import ConfigError
from hiertorch.run.runfolder import SOURCE, is_run
from hiertorch.run.until import Until
from hiertorch.sampling import resume

EXAMPLES = """\
  hiertorch resume runs/pupils
  hiertorch resume runs/pupils --draws 4000

A run that was stopped, however it was, goes on to the draws that it would
have had, to the bit; one that has ended goes on to more, if more are asked
for. The table is not read again.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if the run failed, 2 if there is none, 130 after Ctrl-C, 143 and 129 after SIGTERM and
    SIGHUP.
    """
    return status(lambda: resumed(_words(argv)))


def resumed(asked: argparse.Namespace) -> int:
    """Goes on, fills the folder, and prints the summary."""
    folder = Path(asked.run)
    goal = {name: value for name in ("ess", "seconds") if (value := getattr(asked, name)) is not None}
    settings: dict[str, Any] = {"until": Until(**goal)} if goal else {}
    settings |= {"draws": asked.draws} if asked.draws else {}
    if is_run(folder):  # of ht.sample(checkpoint=folder), which has no config
        print(table(resume(folder, **settings)))
        return 0
    if not is_run(folder / CHECKPOINT) or not (folder / "config.yaml").is_file():
        found = "a folder without a checkpoint" if folder.is_dir() else "a file" if folder.exists() else "nothing"
        raise ConfigError(
            f"expected the folder of a run of hiertorch fit or train that can go on, found {found} at {asked.run!r}."
        )
    config = load([f"--config={folder / 'config.yaml'}", f"--log_dir={folder}", "--resume=true"])
    config = replace(config, settings=settings)  # what is not asked for is in the folder, as it was asked for at first
    runs = go_on if (folder / CHECKPOINT / SOURCE).exists() else run
    again = f"hiertorch resume {asked.run} goes on from there"
    return told(lambda: runs(config), folder, again, report=asked.report)


def _words(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Words("resume", "RUN [options]", "Goes on with a run that was stopped, or to more draws.", EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="the run folder")
    parser.add_argument("--draws", type=count, metavar="N", help="of each chain, in all")
    parser.add_argument("--ess", type=amount, metavar="N", help="until every parameter has so many effective draws")
    parser.add_argument("--seconds", type=amount, metavar="S", help="of sampling, at most")
    parser.add_argument("--no-report", dest="report", action="store_false", help="write no report.html")
    return parser.parse_args(argv)
