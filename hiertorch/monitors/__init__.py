"""Side effects of a run, at its edge: a progress bar and a live dashboard. A monitor changes no draw."""

from hiertorch.monitors.audience import Audience
from hiertorch.monitors.base import Monitor, RunInfo, Window, parameter_names
from hiertorch.monitors.progress import ProgressBar
from hiertorch.monitors.tensorboard import TensorBoardMonitor

__all__ = ["Audience", "Monitor", "ProgressBar", "RunInfo", "TensorBoardMonitor", "Window", "parameter_names"]
