"""Options of `sample`, and of those who hand them on (folds, refits, grids, updates), checked before anything runs."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch

from hiertorch.errors import OptionError, SamplingError
from hiertorch.wording import closest, listed

__all__ = ["check_handed_on", "check_options"]

FLAGS = {
    "progress": "shows a bar",
    "collapse": "integrates effects out where it can",
    "prior_only": "leaves the likelihood out",
    "keep_all": "stores every draw",
}
COUNTS = ("chains", "warmup", "draws", "thin")
NEEDED = ("compile", "dtype", "monitors")
HOOKS = ("start", "window", "stop")


def check_options(options: Mapping[str, Any]) -> None:
    """Raises a SamplingError for an option of `sample` whose type or value can't be; those left out are fine."""
    for name, value in options.items():
        if name in FLAGS and not isinstance(value, bool):
            raise SamplingError(f"{name} must be True ({FLAGS[name]}) or False, found {value!r}.")
        if name in COUNTS and value is not None:
            _check_count(name, value)
        check = CHECKS.get(name)
        if check is not None and (value is not None or name in NEEDED):
            check(value)


def check_handed_on(settings: Mapping[str, Any], of: Callable[..., Any], without: Mapping[str, str]) -> None:
    """Settings that are handed on to a function of keywords, such as `sample`.

    Args:
        settings: name -> value.
        of: the function.
        without: options of it that can't be chosen here -> why.

    Raises:
        OptionError: for a name that it does not have.
        SamplingError: for a value that can't be.
    """
    known = [name for name in keywords(of) if name not in without]
    for name in settings:
        if name in without:
            raise OptionError(f"{name}= can't be chosen here: {without[name]}; leave it out.")
        if name not in known:
            raise OptionError(f"there is no option {name}=; there are {', '.join(known)}.{closest(name, known)}")
    check_options(settings)


@cache
def keywords(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the arguments that are given by name alone."""
    return tuple(name for name, part in signature(function).parameters.items() if part.kind == Parameter.KEYWORD_ONLY)


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SamplingError(
            f"{name} must be a whole number of at least 1, found {value!r}; leave it out for a default."
        )


def _check_dtype(dtype: Any) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise SamplingError(f"dtype must be torch.float64 or torch.float32, found {dtype!r}.")


def _check_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise SamplingError(f"seed must be a whole number from 0 to 2^63 - 1, found {seed!r}.")


def _check_compile(compile_: Any) -> None:
    if not isinstance(compile_, bool) and compile_ != "auto":
        raise SamplingError(f'compile must be True, False or "auto", found {compile_!r}.')


def _check_log_dir(log_dir: Any) -> None:
    if not isinstance(log_dir, str | Path) or log_dir == "":
        raise SamplingError(f"log_dir must be the path of a folder, found {log_dir!r}.")


def _check_keep(keep: Any) -> None:
    if not isinstance(keep, Iterable) or isinstance(keep, bytes):
        raise SamplingError(f"keep must be names of latents, such as ['mu', 'tau'], found {keep!r}.")


def _check_monitors(monitors: Any) -> None:
    if isinstance(monitors, str) or not isinstance(monitors, Iterable):
        raise SamplingError(f"monitors must be a list of monitors, found {monitors!r}; write monitors=[...].")
    if isinstance(monitors, list | tuple):  # anything else might be read once only
        for monitor in monitors:
            if isinstance(monitor, type):
                raise SamplingError(f"monitors holds {monitor!r}, a class: call it, as in monitors=[Monitor()].")
            if lacking := [hook for hook in HOOKS if not callable(getattr(monitor, hook, None))]:
                what = f"monitors holds {monitor!r}, which has no {listed(lacking)}"
                raise SamplingError(f"{what}: see ht.monitors.Monitor.")


def _check_device(device: Any) -> None:
    if not isinstance(device, str | torch.device | int) or isinstance(device, bool):
        raise SamplingError(f'device must be "cpu", "cuda" or a torch.device, found {device!r}.')


CHECKS: dict[str, Callable[[Any], None]] = {
    "dtype": _check_dtype,
    "seed": _check_seed,
    "compile": _check_compile,
    "log_dir": _check_log_dir,
    "keep": _check_keep,
    "monitors": _check_monitors,
    "device": _check_device,
}
