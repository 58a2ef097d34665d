"""Everybody who watches a run, told together; what goes wrong for one of them costs no draw.

docs/decisions.md: Monitors get copies.
"""

from collections.abc import Iterable

from hiertorch.draws.fit import Fit
from hiertorch.errors import warn
from hiertorch.monitors.base import Monitor, RunInfo, Window


class Audience(Monitor):
    """Passes every call on. An error in `start` stops the run, a later one that monitor alone, with a warning."""

    def __init__(self, monitors: Iterable[Monitor]) -> None:
        self._monitors = list(monitors)
        self._started: list[Monitor] = []

    def start(self, run: RunInfo) -> None:
        """See `Monitor.start`; monitors that had started are stopped again if one fails."""
        for monitor in self._monitors:
            try:
                monitor.start(run)
            except BaseException:
                self.stop("failed")
                raise
            self._started.append(monitor)

    def window(self, window: Window) -> None:
        """See `Monitor.window`."""
        for monitor in list(self._started):
            try:
                monitor.window(window if monitor.only_looks else window.copied())
            except Exception as error:
                self._started.remove(monitor)
                problems = [_given_up(monitor, error)]
                try:
                    monitor.stop("failed")
                except Exception as another:
                    problems.append(_given_up(monitor, another))
                for problem in problems:
                    warn(problem)

    def stop(self, status: str, posterior: Fit | None = None) -> None:
        """See `Monitor.stop`. All are told, and then Ctrl-C or SystemExit, which one of them met, is raised."""
        problems, ended = list[str](), list[BaseException]()
        for monitor in self._started:
            try:
                monitor.stop(status, posterior)
            except Exception as error:
                problems.append(_given_up(monitor, error))
            except BaseException as error:
                ended.append(error)
        self._started = []
        for problem in problems:
            warn(problem)
        if ended:
            raise ended[0]


def _given_up(monitor: Monitor, error: Exception) -> str:
    return f"{type(monitor).__name__} stopped watching: {type(error).__name__}: {error}. The draws are not affected."
