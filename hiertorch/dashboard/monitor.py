"""A live dashboard in TensorBoard: is it converging, what is known already, how strongly are groups pooled."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import torch

from hiertorch.arguments import check_flag
from hiertorch.draws.fit import Fit
from hiertorch.errors import RunFolderError, SamplingError, warn
from hiertorch.monitors.base import Monitor, RunInfo, Window

if TYPE_CHECKING:
    from hiertorch.dashboard.board import Board
    from hiertorch.dashboard.snapshots import Snapshot
    from hiertorch.dashboard.worker import Worker
    from hiertorch.monitors.base import Watch

COLUMNS = ("model", "kernel", "seed")  # of the HParams tab, which every run has


class TensorBoardMonitor(Monitor):
    """Writes a run to `log_dir`, and its first 8 chains to `log_dir/chain_0` to `log_dir/chain_7`.

    | tag | run | what |
    |---|---|---|
    | `convergence/rhat_max`, `rhat_p95`, `n_bad_rhat` | main | R-hat: the worst, that of 95 %, how many above 1.01 |
    | `convergence/rhat_max_minus_1`, `rhat_p95_minus_1`, `rhat_limit_minus_1` | main | the same less 1, up to 0.05 |
    | `convergence/ess_bulk_min`, `ess_tail_min`, `ess_median`, `mcse_over_sd_max` | main | effective draws; MCSE |
    | `posterior/<parameter>/mean`, `q05`, `q95`, and a histogram | main | of the draws so far |
    | `pooling/<level>`, `variance/<level>/of_y`, `share` | main | pooling factors; variances of y by level |
    | `trace/<parameter>`, `sampler/log_prob` | chain | draws of 24 parameters; log density |
    | `trace_quantiles/<parameter>/q05`, `q50`, `q95` | main | over all chains, if there are more than 8 |
    | `sampler/accept_rate`, `esjd`, `stuck_max` | chain | acceptance; relative squared jumps; draws at one density |
    | `sampler/block/<block>/accept_rate` | main, chain | by block; by group as a histogram, `accept_by_group` |
    | `sampler/block/<block>/step_scale`, `sampler/adapt_delta` | main | size of random walks, its last change |
    | `sampler/phase`, `sampler/nan_log_density` | main | 0 in warm-up, 1 in sampling; NaN log densities so far |
    | `perf/draws_per_s`, `ess_per_s`, `eta_s`, `monitor_share` | main | speed, seconds left, cost of watching |
    | `metric/elpd_loo`, `p_loo`, `rhat_max`, `ess_min`, `ess_per_s` | main | columns of HParams; effective parameters |
    | `1_run/...`, `2_summary/...` | main | texts: settings, model, verdict, posterior, groups that mix worst |
    | `figures/rank`, `forest`, `shrinkage`, `pair`, `funnel`, `acceptance`, `predictive`, `pareto_k` | main | images |

    Effects of groups are in `trace_groups/` and `posterior_groups/`.
    A step is a sweep, warm-up included; a tag has at most 400 points and 50 histograms, or up to four times as many if
    a run goes far beyond its first look at its goal (`ht.Until`). The sampler only hands copies over: one thread
    writes, and looks at convergence every 5 s at most, makes tables every 10 s and figures every 30 s,
    within its share of the run's time. The last look is at all draws and parameters, as in the posterior's summary.
    What only a finished run can tell is written at its end.

    A run that starts from a posterior (`start=`) whose run has the same `log_dir` continues its curves, and so does one
    that goes on (`ht.resume`); any other run takes the place of what the folder held. An error ends the part of the
    dashboard that it is met in, never the run: `stop` warns of it.

    Args:
        log_dir: the run's folder, made if need be.
        share: of the run's time that watching may cost.
        hparams: further columns of the HParams tab, beside model, kernel and seed; all runs side by side need the same
            names.
        announce: say at the start how to look at it.
        stream: where to say so; standard error if None.

    Raises:
        RunFolderError: from `start`, if the folder can't be written.
        SamplingError: for a folder, share or hparams that can't be.
    """

    only_looks = True

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        *,
        share: float = 0.012,
        hparams: Mapping[str, str | bool | float] | None = None,
        announce: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise SamplingError(f"share= is the part of a run's time that watching may cost, 0 to 1; found {share!r}.")
        if not isinstance(log_dir, str | os.PathLike):
            raise SamplingError(f"log_dir must be the path of a folder, found {log_dir!r}.")
        check_flag("announce", announce, error=SamplingError)
        for name, value in (hparams or {}).items():
            if not isinstance(name, str) or not isinstance(value, str | bool | int | float):
                raise SamplingError(f"hparams= are names with a text, a number or a bool; found {name!r}: {value!r}.")
            if name in COLUMNS:
                raise SamplingError(f"hparams= come beside {', '.join(COLUMNS)}; found {name!r}: choose another name.")
        self.log_dir, self.share, self.hparams = Path(log_dir), share, dict(hparams or {})
        self._announce, self._stream = announce, stream
        self._board: Board | None = None
        self._worker: Worker[Snapshot] | None = None

    def start(self, run: RunInfo) -> None:
        """Opens the dashboard with what is known so far, and says how to look at it."""
        from hiertorch.dashboard.board import Board  # here, so that importing hiertorch stays cheap
        from hiertorch.dashboard.links import announcement

        self._error: BaseException | None = None
        self._traces: Watch | None = None
        self._overhead = 0.0  # seconds that the sampler has lost
        try:
            self._board = Board(self.log_dir, run, self.share, self.hparams)
        except OSError as error:
            raise RunFolderError(
                f"TensorBoard's folder {str(self.log_dir)!r} can't be written ({error.strerror or error}); "
                f"give another log_dir, or make this one writable."
            ) from error
        if self._announce:
            (self._stream or sys.stderr).write(announcement(self.log_dir) + "\n")

    def window(self, window: Window) -> None:
        """Hands a copy over."""
        from hiertorch.dashboard.snapshots import snapshot
        from hiertorch.dashboard.worker import Worker

        if self._board is None or self._error is not None:
            return
        begun = time.perf_counter()
        try:
            if self._traces is None:
                self._traces = self._board.begin(window)
            if self._worker is None:
                self._worker = Worker(self._handle, self._board.prepare)
            self._worker.put(snapshot(window, self._traces))
        except Exception as error:  # whatever it is, a picture is not worth the run
            self._error = error
        self._overhead += time.perf_counter() - begun

    def _handle(self, snapshots: "list[Snapshot]") -> None:
        """In the worker's thread."""
        assert self._board is not None
        if self._error is None:
            try:
                with torch.no_grad():
                    self._board.add(snapshots, self._overhead)
            except BaseException as error:  # SystemExit too: the thread must go on taking what it is given
                self._error = error

    def stop(self, status: str, posterior: Fit | None = None) -> None:
        """Adds what is left and what only a finished run can tell; warns of what could not be written."""
        board, worker = self._board, self._worker
        if board is None:
            return
        try:
            waiting = worker.end() if worker is not None else []
            if self._error is None:
                with torch.no_grad():
                    board.finish(waiting, status, posterior, self._overhead)
        except (Exception, KeyboardInterrupt) as error:  # a second Ctrl-C must not cost the draws
            self._error = error
        self._board = self._worker = None
        board.close()
        if self._error is not None:
            warn(
                f"TensorBoard's files in {str(self.log_dir)!r} end at sweep {board.written} "
                f"({type(self._error).__name__}: {self._error}); the draws are complete without them."
            )
        for part, problem in board.problems.items():
            warn(
                f"TensorBoard's files in {str(self.log_dir)!r} have no {part} "
                f"({type(problem).__name__}: {problem}); the draws are not affected."
            )
