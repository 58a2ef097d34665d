"""`hiertorch fit`: a table and a formula in; checks, priors, a bar, a summary, a run folder and a report out.

The words become those of `hiertorch train` with a formula (`hiertorch.commands.byformula`), so that the run folder is
the same, and its config.yaml repeats the run.
"""

import json
import re
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from hiertorch.advice.priortable import priors
from hiertorch.commands.config import Config, Door, load, read, refuse_earlier, run
from hiertorch.commands.ending import told
from hiertorch.commands.files import check_readable
from hiertorch.commands.program import Words, amount, count, pairs, paragraph, seed, status
from hiertorch.data.table import Data
from hiertorch.errors import ConfigError, SamplingWarning
from hiertorch.model.model import Model
from hiertorch.monitors import ProgressBar
from hiertorch.posterior import Posterior
from hiertorch.wording import listed, many

EXAMPLES = """\
  hiertorch fit pupils.csv "score ~ ses + (ses | school)" --out runs/pupils
  hiertorch fit ticks.csv "ticks ~ height + (1 | brood)" --family poisson \\
      --prior "beta[height]=Normal(0, 1)"

Everything is in the run folder afterwards: draws, summary.csv, report.html,
and config.yaml, which repeats the run. hiertorch train has more options.
"""

OPTIONS = {
    "data.source": "",
    "sample.device": "--device",
    "sample.until": "--ess, --seconds",
    "family": "--family",
    "priors": "--prior",
    "parameters": "--parameter",
}
"""Key of a config -> what says it here."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if the fit failed, 2 if the words are wrong, 130 after Ctrl-C, 143 and 129 after SIGTERM and
    SIGHUP.
    """
    return status(lambda: fitted(_words(argv)))


def fitted(asked: Namespace) -> int:
    """Fits, and tells what there is to know before and after."""
    check_readable(asked.data)
    again = f"hiertorch resume {folder_of(asked)}"
    try:
        config = replace(_config(asked), door=Door("--out", f"{again} to go on with it", "--overwrite"))
        refuse_earlier(folder_of(asked), config)
        model, data = read(config)
    except ConfigError as error:
        raise ConfigError(spoken(str(error))) from error
    model.check(data)
    findings = data.check(model)
    for line in heading(asked, model, data, findings):
        print(paragraph(line, sys.stdout, "    "))
    sys.stdout.flush()

    def runs() -> Posterior:
        with warnings.catch_warnings():
            for found in findings.itertuples():  # which are told above
                warnings.filterwarnings("ignore", f".*{re.escape(str(found.finding))}", SamplingWarning)
            return run(config, (model, data))

    return told(runs, folder_of(asked), f"{again} goes on from there", report=asked.report)


def folder_of(asked: Namespace) -> Path:
    """The run folder."""
    return Path(asked.out or Path("runs") / Path(asked.data.rpartition(":")[2]).name.partition(".")[0])


def spoken(sentence: str) -> str:
    """A sentence on a key of a config, with the option that says it here."""
    key, colon, rest = sentence.partition(": ")
    for name, option in OPTIONS.items():
        if colon and (key == name or key.startswith(f"{name}.")):
            return ": ".join(filter(None, [option + key[len(name) :].replace(".", " ", 1), rest]))
    return sentence


def heading(asked: Namespace, model: Model, data: Data, findings: pd.DataFrame) -> list[str]:
    """What is known before the first sweep: rows, groups, what the checks of the data found, and priors."""
    groups = listed(f"{plate} ({data.size(plate):,})" for plate in data.plates)
    lines = [f"{asked.data}: {many(data.n_rows, 'row')}; groups: {groups}", f"{asked.formula}, {asked.family}"]
    lines += ["checks: nothing was found"] if findings.empty else ["checks:"]
    lines += [f"  {one.severity}: {one.about}: {one.finding} {one.advice}" for one in findings.itertuples()]
    table = priors(model, data)["prior"]
    entries = table.index.str.contains("[", regex=False) & table.str.startswith("as ")
    width = max((len(name) for name in table.index[~entries]), default=0)
    return [*lines, "priors:", *(f"  {name:{width}} ~ {prior}" for name, prior in table[~entries].items())]


def _words(argv: Sequence[str] | None) -> Namespace:
    what = "Fits a table by a formula, as in brms and lme4, and fills a run folder."
    parser = Words("fit", "DATA FORMULA [options]", what, EXAMPLES)
    parser.add_argument("data", metavar="DATA", help=".csv, .tsv, .parquet or .feather")
    parser.add_argument("formula", metavar="FORMULA", help="response ~ terms + (terms | group)")
    parser.add_argument("--family", default="gaussian", metavar="NAME", help="gaussian, bernoulli, poisson, ...")
    what = "such as 'beta[ses]=Normal(0, 1)'; repeatable"
    parser.add_argument("--prior", action="append", default=[], metavar="NAME=PRIOR", help=what)
    what = "of another parameter: 'sigma=~ ses'; repeatable"
    parser.add_argument("--parameter", action="append", default=[], metavar="NAME=TERMS", help=what)
    parser.add_argument("--na", choices=("error", "drop"), default="error", help="rows that lack a value")
    parser.add_argument("--out", metavar="FOLDER", help="the run folder; left out, runs/ and the name of DATA")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run there")
    parser.add_argument("--no-report", dest="report", action="store_false", help="write no report.html")
    parser.add_argument("--chains", type=count, metavar="N", help="left out, by the model's size")
    parser.add_argument("--draws", type=count, metavar="N", help="of each chain; left out, until ESS is reached")
    parser.add_argument("--ess", type=amount, metavar="N", help="effective draws of every parameter: 1000")
    parser.add_argument("--seconds", type=amount, metavar="S", help="of sampling, at most")
    parser.add_argument("--seed", type=seed, metavar="N", help="of all randomness")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, ...")
    return parser.parse_args(argv)


def _config(asked: Namespace) -> Config:
    """What `train` would be told."""
    out = asked.out or str(Path("runs") / Path(asked.data.rpartition(":")[2]).name.partition(".")[0])
    words = {
        "data.source": asked.data,
        "formula": asked.formula,
        "family": asked.family,
        "log_dir": out,
        "na": asked.na,
    }
    if asked.prior:
        words["priors"] = json.dumps(pairs("--prior", "beta[ses]=Normal(0, 1)", asked.prior))
    if asked.parameter:
        words["parameters"] = json.dumps(pairs("--parameter", "sigma=~ ses", asked.parameter))
    goal = {name: value for name in ("ess", "seconds") if (value := getattr(asked, name)) is not None}
    if goal:
        words["sample.until"] = json.dumps(goal)
    for name in ("chains", "draws", "seed", "device"):
        if (value := getattr(asked, name)) is not None:
            words[f"sample.{name}"] = str(value)
    words |= {"overwrite": "true"} if asked.overwrite else {}
    config = load([f"--{name}={value}" for name, value in words.items()])
    settings = config.settings | {"progress": False, "monitors": [ProgressBar(heading=False)]}  # which is told before
    return replace(config, settings=settings)
