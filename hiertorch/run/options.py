"""Options of `sample`, and of those who hand them on (folds, refits, grids, updates), checked before anything runs.

docs/decisions.md: What a run can be told is one object.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from hiertorch.arguments import check_bytes, check_count, check_flag, check_seed, is_number
from hiertorch.draws.fit import Fit
from hiertorch.errors import OptionError, SamplingError
from hiertorch.monitors import Monitor
from hiertorch.run.engine import EngineMaker
from hiertorch.run.plan import MoveSpec, Plan
from hiertorch.run.until import Until
from hiertorch.wording import closest, listed

HOOKS = ("start", "window", "stop")


@dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """What a run can be told; `hiertorch.sampling.sample` says what each means.

    Raises:
        SamplingError: for one whose type or value can't be. What needs the model to be told is told later.
    """

    chains: int | None = None
    warmup: int | None = None
    draws: int | None = None
    thin: int | None = None
    until: Until | None = None
    seed: int | None = None
    device: torch.device | str | None = None
    dtype: torch.dtype = torch.float64
    keep: Iterable[str] | None = None
    keep_all: bool = False
    monitors: Iterable[Monitor] = ()
    progress: bool = True
    log_dir: str | Path | None = None
    checkpoint: str | Path | None = None
    every: float = 30.0
    overwrite: bool = False
    keep_in_memory: float | str | None = None
    spread: Literal["chains", "rows"] | None = None
    plan: Plan | EngineMaker | Sequence[MoveSpec] | None = None
    collapse: bool = True
    compile: bool | Literal["auto"] = "auto"
    init: Mapping[str, object] | None = None
    start: Fit | None = None
    prior_only: bool = False

    def __post_init__(self) -> None:
        for name in ("chains", "warmup", "draws", "thin"):
            check_count(name, getattr(self, name), none="for a default", error=SamplingError)
        if self.checkpoint is not None and (not isinstance(self.checkpoint, str | Path) or self.checkpoint == ""):
            raise SamplingError(f"checkpoint must be the path of a folder, found {self.checkpoint!r}.")
        if not is_number(self.every) or not self.every >= 0:
            raise SamplingError(f"every must be a number of seconds, such as 30, found {self.every!r}.")
        check_bytes("keep_in_memory", self.keep_in_memory, error=SamplingError)
        if self.keep_in_memory is not None and self.keep_all and self.checkpoint is None:
            raise SamplingError("keep_all=True with keep_in_memory= needs checkpoint=, a folder for draws beyond that.")
        for name in ("overwrite", "keep_all", "progress", "collapse", "prior_only"):
            check_flag(name, getattr(self, name), error=SamplingError)
        if self.until is not None and not isinstance(self.until, Until):
            raise SamplingError(f"until must be an ht.Until, such as ht.Until(ess=1000), found {self.until!r}.")
        check_seed(self.seed, error=SamplingError)
        if self.spread not in (None, "chains", "rows"):
            raise SamplingError(f'spread must be "chains" or "rows", or left out, found {self.spread!r}.')
        if self.dtype not in (torch.float32, torch.float64):
            raise SamplingError(f"dtype must be torch.float64 or torch.float32, found {self.dtype!r}.")
        if not isinstance(self.compile, bool) and self.compile != "auto":
            raise SamplingError(f'compile must be True, False or "auto", found {self.compile!r}.')
        device, folder, keep = self.device, self.log_dir, self.keep
        if device is not None and (not isinstance(device, str | torch.device | int) or isinstance(device, bool)):
            raise SamplingError(f'device must be "cpu", "cuda" or a torch.device, found {device!r}.')
        if folder is not None and (not isinstance(folder, str | Path) or folder == ""):
            raise SamplingError(f"log_dir must be the path of a folder, found {folder!r}.")
        if keep is not None and (not isinstance(keep, Iterable) or isinstance(keep, bytes)):
            raise SamplingError(f"keep must be names of latents, such as ['mu', 'tau'], found {keep!r}.")
        _check_monitors(self.monitors)


def check_handed_on(settings: Mapping[str, object], without: Mapping[str, str]) -> None:
    """Options that are handed on to a run.

    Args:
        settings: name -> value.
        without: options that can't be chosen here -> why.

    Raises:
        OptionError: for a name that there is not.
        SamplingError: for a value that can't be.
    """
    known = [field.name for field in fields(Options) if field.name not in without]
    for name in settings:
        if name in without:
            raise OptionError(f"{name}= can't be chosen here: {without[name]}; leave it out.")
        if name not in known:
            raise OptionError(f"there is no option {name}=; there are {', '.join(known)}.{closest(name, known)}")
    given: dict[str, Any] = {**settings}
    Options(**given)


def _check_monitors(monitors: object) -> None:
    if isinstance(monitors, str) or not isinstance(monitors, Iterable):
        raise SamplingError(f"monitors must be a list of monitors, found {monitors!r}; write monitors=[...].")
    if isinstance(monitors, list | tuple):  # anything else might be read once only
        for monitor in monitors:
            if isinstance(monitor, type):
                raise SamplingError(f"monitors holds {monitor!r}, a class: call it, as in monitors=[Monitor()].")
            if lacking := [hook for hook in HOOKS if not callable(getattr(monitor, hook, None))]:
                what = f"monitors holds {monitor!r}, which has no {listed(lacking)}"
                raise SamplingError(f"{what}: see ht.monitors.Monitor.")
