"""Posteriors of runs that are named on a command line."""

from pathlib import Path

from hiertorch.commands.config import CHECKPOINT
from hiertorch.errors import ConfigError
from hiertorch.posterior import Posterior
from hiertorch.run.ending import DRAWS_FILE
from hiertorch.run.runfolder import is_run
from hiertorch.wording import listed


def posterior_of(path: str) -> Posterior:
    """Of a run folder, also of one in which a run goes on; of what `ht.sample(checkpoint=)` writes; or of a file that
    `Posterior.save` wrote.

    Raises:
        ConfigError: if it is none of these.
        DataError: for a file that is damaged.
    """
    folder = Path(path)
    for place in (folder, folder / DRAWS_FILE, folder / CHECKPOINT):
        if place.is_file() or is_run(place):
            return Posterior.load(place)
    below = sorted({str(file.parent) for file in folder.glob(f"*/{DRAWS_FILE}")})
    hint = f" In it there are {listed(below)}." if below else ""
    raise ConfigError(
        f"there is no run at {path!r}: expected the folder of a run of hiertorch fit or train, or a file of "
        f"draws.{hint}"
    )
