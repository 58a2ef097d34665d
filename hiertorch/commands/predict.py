"""`hiertorch predict`: a run and a table of new rows in, the table with predictions out."""

import argparse
from collections.abc import Sequence

import pandas as pd

from hiertorch.commands.files import check_readable, check_writable, read_file, write_table
from hiertorch.commands.program import Words, columns, probability, seed, status
from hiertorch.commands.runs import posterior_of
from hiertorch.draws.summaries import CI_PROB

SHOWN = 20
"""Rows on a terminal."""

EXAMPLES = """\
  hiertorch predict runs/pupils new.csv --out predictions.csv
  hiertorch predict runs/pupils new.csv --kind response --ci 0.95

The file has the columns of DATA and, behind them, mean, sd and the ends of
the interval of each row. A group that was not fitted gets an effect drawn
from the population, so that its interval is wider.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 for rows that can't be predicted, 2 if the words are wrong."""
    return status(lambda: predicted(_words(argv)))


def predicted(asked: argparse.Namespace) -> int:
    """Predicts, and writes or prints."""
    if asked.out:
        check_writable(asked.out)
    check_readable(asked.data)
    posterior = posterior_of(asked.run)
    frame = read_file(asked.data).reset_index(drop=True)
    found = posterior.predict(frame, asked.kind, asked.new_groups, ci_prob=asked.ci, seed=asked.seed).summary
    table = joined(frame, found)
    if asked.out:
        print(f"predictions of {len(frame):,} rows: {write_table(table, asked.out)}")
        return 0
    print(table.head(SHOWN).to_string(index=False, line_width=columns(), float_format="{:.6g}".format))
    if len(table) > SHOWN:
        print(f"... and {len(table) - SHOWN:,} more; --out FILE writes all")
    return 0


def joined(frame: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The rows with what was found of them; of categories one row of the table for each of them. Where the frame has a
    column of such a name already, all that is new is called predicted_...
    """
    if isinstance(found.index, pd.MultiIndex):
        found = found.reset_index(level=list(range(1, found.index.nlevels)))
    if {*found.columns} & {*frame.columns}:
        found = found.add_prefix("predicted_")
    return frame.join(found)


def _words(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Words("predict", "RUN DATA [options]", "Predicts new rows by a run.", EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="a run folder, or a file of draws")
    parser.add_argument("data", metavar="DATA", help=".csv, .tsv, .parquet or .feather, as for the fit")
    parser.add_argument("--out", metavar="FILE", help=f"of the predictions; left out, the first {SHOWN} are shown")
    what = "mean: of y; response: one y; probability: of categories"
    parser.add_argument("--kind", choices=("mean", "response", "probability"), default="mean", help=what)
    what = "left out, sample with a warning that names them"
    parser.add_argument("--new-groups", choices=("sample", "population", "error"), help=what)
    parser.add_argument("--ci", type=probability, default=CI_PROB, metavar="P", help=f"of the interval: {CI_PROB:g}")
    parser.add_argument("--seed", type=seed, metavar="N", help="of what is drawn; left out, by that of the run")
    return parser.parse_args(argv)
