"""What the sampler gives a dashboard after each window: copies of what changes, references to what does not."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from hiertorch.monitors.base import Watch, Window


@dataclass(frozen=True)
class Snapshot(Window):
    """A window, in tensors that no later sweep changes, on the run's device; without the last sweep's values."""

    time: float = 0.0  # of day
    trace: Tensor | None = None  # (chains, elements), in warm-up; later they are among the draws
    rates: Mapping[str, Tensor] = field(default_factory=dict)  # block -> acceptance (chains,)
    by_group: Mapping[str, Tensor] = field(default_factory=dict)  # block of groups -> acceptance (groups,)


def snapshot(window: Window, traces: Watch) -> Snapshot:
    """A few operations on the device, and no synchronisation with it: stored draws are written once, acceptances and
    tuning are made anew for each window, so only the present values are copied.
    """
    rates = {block: rate.reshape(len(rate), -1) for block, rate in window.acceptance.items()}
    return Snapshot(
        **{**vars(window), "values": {}, "acceptance": {}, "log_density": window.log_density.clone()},
        time=time.time(),
        trace=None if traces.at.keys() <= window.draws.keys() else traces.last(window.values),
        rates={block: rate.mean(1) for block, rate in rates.items()},
        by_group={block: rate.mean(0) for block, rate in rates.items() if rate.shape[1] > 1},
    )
