"""`hiertorch train`: fits the model of a config, prints its summary and fills a run folder."""

import sys
from collections.abc import Sequence

from hiertorch.commands.config import load, run
from hiertorch.commands.ending import told
from hiertorch.commands.program import status
from hiertorch.runtime.ranks import started_by_torchrun

RESUME = "--resume true goes on from there"

HELP = """\
usage: hiertorch train --config FILE [--KEY VALUE ...]

Fits the model of a config, prints its summary and fills a run folder.

  --config FILE        YAML; hiertorch examples has ready ones
  --KEY VALUE          any key of it, in place of what the file says:
  --sample.draws N       of each chain; left out, until all is known well
  --sample.seed N        of all randomness
  --sample.device NAME   cpu, cuda, ...
  --data.source FILE     .csv, .tsv, .parquet, .feather
  --formula FORMULA      in place of a model's class and its columns
  --log_dir FOLDER       the run folder; null writes nothing
  --resume true        go on with the run there, however it was stopped, or
                       begin one
  --overwrite true     replace an earlier run there
  --keys               all keys, with their types and defaults

  hiertorch train --config configs/schools.yaml --log_dir runs/schools
  hiertorch train --config configs/schools.yaml --sample.draws 2000
  hiertorch train --config runs/schools/config.yaml --log_dir runs/again

A model class of your own is imported from the working directory. Of several
processes, torchrun --nproc-per-node 2 -m hiertorch train ..., each runs some
of the chains."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if the fit failed, 2 if the config is wrong, 130 after Ctrl-C, 143 and 129 after SIGTERM and
    SIGHUP.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & {*words} or not words:
        print(HELP)
        return 0 if words else 2
    with started_by_torchrun() as first:
        return status(lambda: trained(words, first=first))


def trained(words: Sequence[str], *, first: bool = True) -> int:
    """Fits what the config says, and prints the summary and where the draws are; of several processes the first one."""
    config = load(["--help" if word == "--keys" else word for word in words])
    return told(lambda: run(config), config.log_dir, RESUME, first=first)
