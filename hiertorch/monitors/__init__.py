"""Side effects of a run, at its edge: a progress bar and a live dashboard. A monitor changes no draw."""

from typing import TYPE_CHECKING

from hiertorch.monitors.audience import Audience
from hiertorch.monitors.base import Monitor, RunInfo, Seen, Window, parameter_names
from hiertorch.monitors.progress import ProgressBar

if TYPE_CHECKING:
    from hiertorch.dashboard.monitor import TensorBoardMonitor

__all__ = ["Audience", "Monitor", "ProgressBar", "RunInfo", "Seen", "TensorBoardMonitor", "Window", "parameter_names"]


def __getattr__(name: str) -> object:
    """The dashboard's monitor, whose district lies to the right: it arrives when it is asked for."""
    if name == "TensorBoardMonitor":
        from hiertorch.dashboard.monitor import TensorBoardMonitor

        return TensorBoardMonitor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
