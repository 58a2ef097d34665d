"""`hiertorch report`: one HTML file of a run."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hiertorch.commands.program import Words, status
from hiertorch.commands.runs import posterior_of

EXAMPLES = """\
  hiertorch report runs/pupils
  hiertorch report runs/pupils --out pupils.html

The file needs nothing beside it and can be sent as it is. It has the verdict,
the summary, the model and its plan, convergence, groups and how far they are
pooled, predictive checks, LOO, and how much priors matter.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if it can't be written, 2 if there is no such run."""
    return status(lambda: reported(_words(argv)))


def reported(asked: argparse.Namespace) -> int:
    """Writes the report and says where it is."""
    folder = Path(asked.run)
    beside = folder / "report.html" if folder.is_dir() else folder.with_suffix(".html")
    print(f"report: {posterior_of(asked.run).report(asked.out or beside)}")
    return 0


def _words(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Words("report", "RUN [--out FILE]", "Writes one HTML file that says what was fitted and found.", EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="a run folder, or a file of draws")
    parser.add_argument("--out", metavar="FILE", help="left out, report.html in the run folder")
    return parser.parse_args(argv)
