"""What the sampler gives a dashboard after each window: copies of what changes, references to what does not."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from hiertorch.draws.fit import Fit
from hiertorch.monitors.base import Watch, Window


@dataclass(frozen=True)
class Snapshot:
    """A window, in tensors that no later sweep changes, on the run's device."""

    phase: str
    sweep: int
    nan: int
    time: float  # of day
    log_density: Tensor  # (chains,)
    trace: Tensor | None  # (chains, elements), in warm-up; later they are among the draws
    rates: Mapping[str, Tensor]  # block -> acceptance (chains,)
    by_group: Mapping[str, Tensor]  # block of groups -> acceptance (groups,)
    draws: Mapping[str, Tensor]
    log_densities: Tensor | None
    tuning: Mapping[str, Mapping[str, Tensor]]
    so_far: "Callable[[Mapping[str, Tensor]], Fit] | None"
    interval: int = 1  # draws that a stored one stands for

    @property
    def drawn(self) -> int:
        """Draws a chain so far."""
        return next((draws.shape[1] for draws in self.draws.values()), 0)


def snapshot(window: Window, traces: Watch) -> Snapshot:
    """A few operations on the device, and no synchronisation with it: stored draws are written once, acceptances and
    tuning are made anew for each window, so only the present values are copied.
    """
    rates = {block: rate.reshape(len(rate), -1) for block, rate in window.acceptance.items()}
    drawn = {name: window.draws[name] for name in traces.at if name in window.draws}
    return Snapshot(
        phase=window.phase,
        sweep=window.sweep,
        nan=window.nan,
        time=time.time(),
        log_density=window.log_density.clone(),
        trace=None if len(drawn) == len(traces.at) else traces.last(window.values),
        rates={block: rate.mean(1) for block, rate in rates.items()},
        by_group={block: rate.mean(0) for block, rate in rates.items() if rate.shape[1] > 1},
        draws=window.draws,
        log_densities=window.log_densities,
        tuning=window.tuning,
        so_far=window.so_far,
        interval=window.interval,
    )
