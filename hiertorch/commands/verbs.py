"""`hiertorch`: one verb for each thing that people do with a model, each in a file of its name."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from hiertorch import __version__
from hiertorch.commands.program import status
from hiertorch.errors import ConfigError

VERBS = ("fit", "train", "resume", "summary", "predict", "report", "compare", "dashboard", "examples", "tutorial")

HELP = """\
usage: hiertorch VERB ...

Bayesian hierarchical models, from a table and a formula to a report.

  fit DATA FORMULA   fit a table: checks, priors, a bar, a summary, a report
  train              the same from a config file, for models of any kind
  resume RUN         go on with a run that was stopped, or to more draws
  summary RUN        the table of what was found, and whether to believe it
  predict RUN DATA   predictions for new rows, of known and of new groups
  report RUN         one HTML file with all of it
  compare RUN RUN    which of several models predicts best
  dashboard FOLDER   runs side by side in TensorBoard, also while they go on
  examples           ready configs on real data
  tutorial           four demonstrations where the truth is known

  hiertorch fit pupils.csv "score ~ ses + (ses | school)" --out runs/pupils
  hiertorch predict runs/pupils new.csv --out predictions.csv

hiertorch VERB --help says more, hiertorch --version which version this is.
Exit status: 0 done, 1 failed, 2 words or config wrong, 130 after Ctrl-C
(what was drawn is kept), 143 and 129 likewise after SIGTERM and SIGHUP."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of the verb that the first word names; see `HELP`."""
    if argv is None:  # a model of your own is imported from the working directory; installed ones come first
        sys.path.append(os.getcwd())
    return status(lambda: _done(list(sys.argv[1:] if argv is None else argv)))


def _done(words: list[str]) -> int:
    verb = words[0] if words else ""
    if verb in ("-h", "--help", "help", ""):
        print(HELP, file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if verb == "--version":
        print(f"hiertorch {__version__}")
        return 0
    if verb not in VERBS:
        from hiertorch.wording import closest

        raise ConfigError(f"there is no verb {verb!r}.{closest(verb, VERBS)} There are {', '.join(VERBS)}.")
    done: int = import_module(f"hiertorch.commands.{verb}").main(words[1:])
    return done
