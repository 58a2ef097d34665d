"""What is measured of every runner: effective draws, R-hat, and on Linux the memory that a part of a run needs."""

import math
import re
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cases import EFFECTS, is_scale

__all__ = ["Sampled", "measure", "memory_peak", "memory_used", "moments", "restart_memory_peak"]

MEGA = 2**20
AT_ONCE = 10_000_000
"""Draws that are given to arviz-stats at once."""


@dataclass
class Sampled:
    """What a runner hands back."""

    draws: dict[str, np.ndarray]  # name -> (chains, draws, size)
    seconds: float  # wall time with warm-up, without compilation
    compile_seconds: float
    details: dict[str, Any] = field(default_factory=dict)


def measure(draws: dict[str, np.ndarray], seconds: float) -> dict[str, Any]:
    """The smallest bulk ESS and worst rank R-hat over all parameters, `draws` being name -> (chains, draws, size)."""
    from arviz_stats.base import array_stats

    chains, length, _ = next(iter(draws.values())).shape
    ess = {name: _in_parts(array_stats.ess, values, method="bulk") for name, values in draws.items()}
    # R-hat needs two chains; a single one is compared with itself, half against half.
    halves = {name: _halved(values) if chains == 1 else values for name, values in draws.items()}
    with np.errstate(invalid="ignore"):  # of one that never moved it is NaN
        rhat = {name: _in_parts(array_stats.rhat, values) for name, values in halves.items()}
    for name, values in draws.items():  # arviz-stats calls a parameter that never moved perfectly sampled
        ess[name] = np.where(np.ptp(values, axis=(0, 1)) == 0, 0.0, ess[name])
    smallest = {name: float(np.min(values)) for name, values in ess.items()}
    worst = min(smallest, key=lambda name: smallest[name])
    population = min((smallest[name] for name in smallest if name not in EFFECTS), default=math.nan)
    scales = min((smallest[name] for name in smallest if is_scale(name)), default=math.nan)
    return {
        "chains": chains,
        "draws": length,
        "parameters": sum(values.shape[-1] for values in draws.values()),
        "min_ess": smallest[worst],
        "min_ess_at": worst,
        "min_ess_population": population,
        "ess_per_second": smallest[worst] / seconds,
        "ess_per_second_population": population / seconds,
        "ess_per_draw": smallest[worst] / (chains * length),
        "scale_ess_per_draw": scales / (chains * length),
        "min_ess_by_parameter": smallest,
        "worst_rhat": float(np.max([np.max(values) for values in rhat.values()])),
    }


def _in_parts(function: Callable[..., Any], values: np.ndarray, **settings: Any) -> np.ndarray:
    """A statistic of each parameter, `(size,)`, of some parameters at a time: copies of all draws may not fit."""
    step = max(1, AT_ONCE // (values.shape[0] * values.shape[1]))
    parts = (values[:, :, first : first + step] for first in range(0, values.shape[2], step))
    return np.concatenate([np.atleast_1d(function(part, chain_axis=0, draw_axis=1, **settings)) for part in parts])


def _halved(values: np.ndarray) -> np.ndarray:
    half = values.shape[1] // 2
    return np.concatenate([values[:, :half], values[:, -half:]])


def moments(draws: dict[str, np.ndarray]) -> dict[str, dict[str, list[float]]]:
    """Every parameter's mean and its Monte Carlo standard error, by which runners are compared."""
    from arviz_stats.base import array_stats

    return {
        "mean": {name: values.mean((0, 1)).tolist() for name, values in draws.items()},
        "mcse": {name: _in_parts(array_stats.mcse, values).tolist() for name, values in draws.items()},
    }


def restart_memory_peak() -> None:
    """Lets `memory_peak` begin anew, on Linux; elsewhere the peak stays that of the whole process."""
    control = Path("/proc/self/clear_refs")
    if control.exists():
        control.write_text("5")


def memory_peak() -> float:
    """The largest resident memory of this process so far, or since it was restarted, in megabytes."""
    if (found := _status("VmHWM")) is not None:
        return found
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MEGA if sys.platform == "darwin" else 2**10)


def memory_used() -> float:
    """Resident memory of this process now, in megabytes; where that can't be known, its peak."""
    return found if (found := _status("VmRSS")) is not None else memory_peak()


def _status(entry: str) -> float | None:
    path = Path("/proc/self/status")
    found = re.search(rf"^{entry}:\s+(\d+) kB", path.read_text(), re.MULTILINE) if path.exists() else None
    return int(found[1]) / 2**10 if found else None
