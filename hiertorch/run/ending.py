"""How a run ended, and what comes back of it: no draw is lost, whatever ended it.

docs/decisions.md: What was drawn comes back, whatever ends a run.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hiertorch.draws.fit import Fit
from hiertorch.errors import HiertorchError, InterruptedRunError, RunFolderError, warn
from hiertorch.predict.keeping import save
from hiertorch.runtime.interruption import Signals

DRAWS_FILE = "draws.safetensors"
"""What a run folder calls its posterior."""

Result = TypeVar("Result")


@dataclass
class Ending:
    """Sweeps done, seconds of each part, and what ended the run early, None if nothing did."""

    sweeps: int
    seconds: Mapping[str, float]
    cause: BaseException | None

    @property
    def status(self) -> str:
        """The word for it: "finished", "interrupted" by Ctrl-C or a signal, "failed" by an error."""
        if self.cause is None:
            return "finished"
        code = self.cause.code if isinstance(self.cause, SystemExit) else None
        signalled = isinstance(self.cause, KeyboardInterrupt) or code in (129, 143)
        return "interrupted" if signalled else "failed"

    @property
    def returns(self) -> bool:
        """Whether the draws are returned, or the exception is raised that ended the run."""
        return self.cause is None or isinstance(self.cause, KeyboardInterrupt)

    def closing(self, signals: Signals, part: Callable[[], Result]) -> Result | None:
        """What is done once all draws are there: Ctrl-C ends this part alone, any other exception is raised later."""
        try:
            with signals.listening():
                return part()
        except BaseException as error:
            if self.returns and not isinstance(error, KeyboardInterrupt):
                self.cause = error
        return None

    def give(self, posterior: Fit, signals: Signals, log_dir: str | Path | None) -> None:
        """Leaves the posterior to be returned, or raises what ended the run with the posterior as its attribute, which
        `log_dir` keeps.
        """
        if self.returns:
            self.cause = next((error for error in signals.met if isinstance(error, SystemExit)), self.cause)
        if self.cause is None or isinstance(self.cause, KeyboardInterrupt):
            return
        if log_dir is not None and posterior.n_draws:
            _rescue(posterior, Path(log_dir) / DRAWS_FILE)
        self.cause.posterior = posterior  # type: ignore[attr-defined]
        raise self.cause


def keep(posterior: Fit, path: Path) -> Path:
    """Saves a posterior, in a folder that is made again if it has gone; elsewhere, with a warning, if that can't be.

    Raises:
        HiertorchError: if it can be saved nowhere.
    """
    name = f"{path.parent.name}-{posterior.run.get('seed', 'run')}-{path.name}"
    elsewhere = [Path.cwd() / name, Path(tempfile.gettempdir()) / name]
    for place in (path, *elsewhere):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            save(place, posterior)
        except OSError as error:  # a RunFolderError is one too
            why = f"{error.strerror or error}"
            continue
        if place is not path:
            warn(f"{str(path)!r} can't be written ({why}); the draws are in {str(place)!r}.")
        return place
    raise RunFolderError(f"the draws could be saved neither as {str(path)!r} nor in {Path.cwd()} ({why}).")


def _rescue(posterior: Fit, path: Path) -> None:
    try:
        keep(posterior, path)
    except HiertorchError as error:
        warn(f"the run was ended by {posterior.run['ended_by']}: {error} They are the `posterior` of the exception.")


def uninterrupted(run: Fit, what: str) -> Fit:
    """The posterior of a run that is a means to something else, or an InterruptedRunError if it was stopped: what is
    computed from a part of it would look like the whole.
    """
    if not run.interrupted:
        return run
    done, asked = run.n_draws, run.run.get("draws", "more")
    raise InterruptedRunError(
        f"{what} was stopped after {done} of {asked} draws, and nothing is computed from a part: run it again. What "
        "was drawn is the `posterior` of this error.",
        run,
    )
