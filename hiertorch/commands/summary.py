"""`hiertorch summary`: the table of a run."""

import argparse
import sys
from collections.abc import Sequence

from hiertorch.commands.files import write_table
from hiertorch.commands.program import Words, columns, paragraph, probability, status
from hiertorch.commands.runs import posterior_of
from hiertorch.commands.tables import GROUPS, shortened
from hiertorch.draws.summaries import CI_PROB

EXAMPLES = """\
  hiertorch summary runs/pupils
  hiertorch summary runs/pupils --latents beta sigma_school --ci 0.95
  hiertorch summary runs/pupils --out summary.csv

Columns: mean, sd, ends of the interval, effective draws (ess) in the bulk
and the tails, R-hat, and Monte Carlo errors (mcse) where there is room.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if there is no such latent, 2 if there is no such run."""
    return status(lambda: summed_up(_words(argv)))


def summed_up(asked: argparse.Namespace) -> int:
    """Prints what was run, the table, and what a reader should know."""
    posterior = posterior_of(asked.run)
    table = posterior.summary(asked.latents, ci_prob=asked.ci)
    if asked.out:
        print(f"summary: {write_table(table.rename_axis('parameter').reset_index(), asked.out)}")
        return 0
    early = f", {posterior.run['status']}" if posterior.interrupted and "status" in posterior.run else ""
    size = f"{posterior.chains} chains x {posterior.n_draws} draws"
    said = posterior.run.get("formula") or posterior.run.get("model", "model")
    print(paragraph(f"{said}: {size}{early}", sys.stdout))
    by_group = [name for name, plate in posterior.plates.items() if plate is not None]
    print(shortened(table, by_group, columns(), len(table) if asked.all else GROUPS))
    for sentence in posterior.warnings():
        print(paragraph(f"note: {sentence}", sys.stdout))
    return 0


def _words(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Words("summary", "RUN [options]", "Prints the table of what a run has found.", EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="a run folder, or a file of draws")
    parser.add_argument("--latents", nargs="+", metavar="NAME", help="these alone")
    parser.add_argument("--all", action="store_true", help=f"all groups, not the first {GROUPS} alone")
    parser.add_argument("--ci", type=probability, default=CI_PROB, metavar="P", help=f"of the interval: {CI_PROB:g}")
    parser.add_argument("--out", metavar="FILE", help="write the whole table: .csv, .tsv, .parquet, .feather")
    return parser.parse_args(argv)
