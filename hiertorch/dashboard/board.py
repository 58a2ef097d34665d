"""All of a dashboard's content: what is written when (tiers 0 to 2), and what at the end of a run.

Curves (tier 0) are cheap and have no budget. A look at convergence (tier 1) comes every 5 s at most, tables and
histograms every 10 s and figures every 30 s (tier 2), all of them only while the governor allows. What is left out for
an error is said at the end.
"""

import contextlib
import errno
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from hiertorch.dashboard import earlier, scores, texts
from hiertorch.dashboard.curves import CHAINS, POINTS, TRACES, Curves, block_tags, paths
from hiertorch.dashboard.layout import available, closed, layout
from hiertorch.dashboard.looks import Eye, Look
from hiertorch.dashboard.records import EventFile
from hiertorch.dashboard.snapshots import Snapshot
from hiertorch.draws.fit import Fit
from hiertorch.draws.judgement import Judgement
from hiertorch.monitors.base import FEWEST, RunInfo, Watch, Window, places, watch
from hiertorch.monitors.governor import Governor, Tier
from hiertorch.pooling.glance import Glance, Glances

if TYPE_CHECKING:
    from hiertorch.dashboard.closing import Closing

T = TypeVar("T")

PAGES = 45  # of tier 2 in a run, and some more at its end: TensorBoard shows 50 histograms
LOOKS = 3  # of a short run, at its end
CLOSING = 0.6  # seconds for PSIS-LOO and replications at the end of a run; more of a run of minutes
GLANCED = 200  # draws that tell how groups are pooled
BARRED = 4_000  # numbers of a histogram


class Board:
    """The dashboard of one run, which may spend a share of its time; `hparams` are further columns of the HParams tab.

    Raises:
        OSError: if the folder can't be written.
    """

    def __init__(self, folder: Path, run: RunInfo, share: float, hparams: Mapping[str, str | bool | float]) -> None:
        self.folder, self.run = folder, run
        self.governor = Governor(share)
        self.problems: dict[str, Exception] = {}
        self.written = 0  # sweep that the files have got to
        self.look: Look | None = None
        self._curves: Curves | None = None
        self._looks = Tier(self.governor, every=5.0, cost=0.03, most=POINTS)
        self._tables = Tier(self.governor, every=10.0, cost=0.03, most=PAGES)
        self._figures = Tier(self.governor, every=30.0, cost=0.3, most=PAGES)
        self._warm = time.time() - run.spent  # when warm-up ended
        self._last: Snapshot | None = None
        self._barred = 0  # sweep of the last histograms
        self._groups: dict[str, torch.Tensor] = {}
        self._glances: Glances | None = None
        self._glance: Glance | None = None
        self._judgement: Judgement | None = None
        self._closing: Closing | None = None
        self._tags: set[str] = set()
        chains = min(int(run.settings.get("chains", CHAINS)), CHAINS)
        self._first, self._carried = earlier.succeeded(folder, run.earlier + run.done, chains)
        self.offset = max(0, self._first - run.done)  # of sweeps that are counted from the beginning of this run
        self._files: list[EventFile] = [self._opened(folder)]
        main = self._files[0]
        main.text(self._first, "1_run/config", texts.config(run))
        main.text(self._first, "1_run/model_card", texts.model_card(run))
        kinds = sorted({block.split("(")[0] for block in run.blocks})
        kernel = kinds[0] if len(kinds) == 1 else "ordinary"  # the model card has them all
        settings = {"model": run.model, "kernel": kernel, "seed": str(run.settings.get("seed", ""))}
        main.hparams({**settings, **hparams}, scores.METRICS)

    def _opened(self, folder: Path) -> EventFile:
        file = EventFile(folder)
        again = [value for value in self._carried.get(folder, ()) if not value.tag.startswith("1_run/")]
        file.begin(self._first, again)
        return file

    def begin(self, window: Window) -> Watch:
        """What needs shapes: which parameters are shown, and the files of the chains. Returns what is traced."""
        run, chains = replace(self.run, names=self.run.shown), len(window.log_density)
        traces = watch(run, window.values, TRACES)
        self._eye = Eye(run, traces, places(run, window.values))
        self._files += [self._opened(self.folder / f"chain_{c}") for c in range(min(chains, CHAINS))]
        self._curves = curves = Curves(self._files, self.run, traces, chains, self.offset)
        main = self._files[0]
        main.text(self._first, "1_run/contents", texts.contents(run, traces, chains, POINTS + 4, self.governor.share))
        self._paths = paths("posterior", curves.tags, traces.population)
        self._charts = layout(curves.tags, traces.population, curves.bands)
        walks = any("root" in learnt for learnt in window.tuning.values())
        without = [*([] if chains > 1 else ["rhat"]), *([] if walks else ["step_scale"])]
        without += [] if run.alike else ["convergence/", "posterior/", "pooling/", "variance/", "ess_per_s"]
        main.layout(available(self._charts, None, without), closed(self._charts))
        main.text(self._first, "2_summary/verdict", f"**Running**: {run.sweeps} sweeps of {chains} chains have begun.")
        return traces

    # While a run goes on

    @staticmethod
    def prepare() -> None:
        """Imports what the end of every run needs, and loads matplotlib's fonts, while the sampler works."""
        with contextlib.suppress(Exception):  # which is met again, and told, where it is needed
            from hiertorch.dashboard import closing, figures, panels  # noqa: F401

            panels.Sheet("", note="ready").says("")

    def add(self, snapshots: Sequence[Snapshot], overhead: float) -> None:
        """What is new, and what is due; `overhead` are the seconds that the sampler has lost by making snapshots."""
        with self.governor.spending():
            self._add(snapshots, overhead)
        last = snapshots[-1]
        sweeps = last.foreseen or self.run.sweeps
        if not self._enough(last):
            return
        if self._looks.may(last.sweep, sweeps):
            with self._looks.turn(last.sweep):
                self._see(last, last.sweep, last.drawn)
                if not self._barred:  # a single histogram, at the end, makes no picture
                    self._histograms(last.sweep)
        if self.look is None:
            return
        if self._tables.may(last.sweep, sweeps):
            with self._tables.turn(last.sweep):
                self._tell(last, "running")
        if self._figures.may(last.sweep, sweeps):
            with self._figures.turn(last.sweep):
                self._show(last)

    def _add(self, snapshots: Sequence[Snapshot], overhead: float, *, last: bool = False) -> None:
        assert self._curves is not None
        if not self._files[0].path.exists():  # writing would go on, into a file that nobody can open
            raise FileNotFoundError(errno.ENOENT, "the folder or its files have vanished", str(self.folder))
        for s in snapshots:
            if s.phase == "warmup":
                self._warm = s.time
            for block, rate in s.by_group.items():
                self._groups[block] = rate
        share = (self.governor.total + overhead) / max(self.governor.passed, 1e-9)
        self._curves.add(snapshots, share, last=last)
        if snapshots:
            self._last = snapshots[-1]
            self.written = snapshots[-1].sweep

    def _try(self, what: str, part: Callable[[], T]) -> T | None:
        """A part whose error costs that part alone, and is not met again; but a disk that is full ends it all."""
        if what not in self.problems:
            try:
                return part()
            except OSError:
                raise
            except Exception as error:
                self.problems[what] = error
        return None

    # Tier 1

    def _enough(self, s: Snapshot) -> bool:
        """Whether the draws, which must be of one posterior, can say anything about it."""
        return s.drawn >= FEWEST and self.run.alike

    def _see(self, s: Snapshot, sweep: int, drawn: int, effort: float = 0.5) -> None:
        """A look at the draws up to a sweep."""
        draws = {name: x[:, :drawn] for name, x in s.draws.items()}
        self._write(s, sweep, drawn, self._eye.look(draws, effort), draws)

    def _conclude(self, s: Snapshot, posterior: Fit) -> None:
        """The last look: what the posterior's summary and warnings say as well."""
        self._judgement = found = posterior.judgement
        if found.part or not found.known:  # of very many parameters
            self._see(s, s.sweep, s.drawn, 1.0)
        else:
            self._write(s, s.sweep, s.drawn, self._eye.conclude(posterior, s.draws), s.draws)

    def _write(self, s: Snapshot, sweep: int, drawn: int, look: Look, draws: Mapping[str, torch.Tensor]) -> None:
        """What a look found, as curves."""
        self.look = look
        point = scores.convergence(look, self._judgement) | scores.means(look, self._paths)
        if (seconds := (s.time - self._warm) * drawn / s.drawn) > 0:
            point["perf/ess_per_s"] = point["metric/ess_per_s"] = point["metric/ess_min"] / seconds
        point["perf/eta_s"] = (
            self.governor.passed * ((s.foreseen or self.run.sweeps) - sweep) / (s.sweep - self.run.done)
        )
        self._scalars(sweep, point | (self._try("pooling", lambda: self._pooled(s, draws)) or {}))

    def _pooled(self, s: Snapshot, draws: Mapping[str, torch.Tensor], *, alone: bool = False) -> dict[str, float]:
        """Pooling factors and shares of variance, from some of the draws."""
        if s.so_far is None or not any(plate is not None for plate in self.run.plates.values()):
            return {}
        posterior = s.so_far(draws)
        if self._glances is None:
            self._glances = Glances(posterior)
        self._glance = self._glances.at(posterior, GLANCED, alone=alone)
        return scores.pooling(self._glance)

    def _scalars(self, sweep: int, point: Mapping[str, float]) -> None:
        self._tags |= set(point)
        self._files[0].scalars(self.offset + sweep, point)

    # Tier 2

    def _tell(self, s: Snapshot, status: str) -> None:
        """Histograms and tables."""
        assert self.look is not None
        self._histograms(s.sweep)
        self._text(s.sweep, "2_summary/posterior", texts.summary(self.look, self._judgement))
        if rows := texts.worst(self.look, self.run.plates):
            self._text(s.sweep, "2_summary/worst_groups", rows)
        if status == "running":
            self._verdict(status)

    def _text(self, sweep: int, tag: str, markdown: str) -> None:
        self._files[0].text(self.offset + sweep, tag, markdown)

    def _histograms(self, sweep: int) -> None:
        """Of the shown parameters, and of acceptance by group."""
        assert self.look is not None and self._curves is not None
        if sweep <= self._barred:
            return
        self._barred = sweep
        every = self.look.draws.flatten(0, 1)
        x = every[:: max(1, len(every) // BARRED)].double().numpy()
        for k, path in enumerate(self._paths):
            self._files[0].histogram(self.offset + sweep, path, x[:, k])
        for block, rates in self._groups.items():
            tag = f"sampler/block/{block_tags(self.run).get(block, block)}/accept_by_group"
            self._files[0].histogram(self.offset + sweep, tag, rates.double().cpu().numpy())

    def _verdict(self, status: str, *, last: bool = False) -> None:
        s, passed = self._last, self.governor.passed
        acceptance = {} if self._curves is None else self._curves.sampling
        lines = list(texts.verdict(status, self.run, s, passed, self.look, acceptance, self._judgement))
        if last:
            unstored = [name for name in self.run.names if name not in self.run.shown]
            lines += texts.ending(self._closing, self.problems, unstored)
        self._text(0 if s is None else s.sweep, "2_summary/verdict", "\n".join(f"- {line}" for line in lines))

    def _show(self, s: Snapshot) -> None:
        """Figures."""
        from hiertorch.dashboard.figures import figures

        assert self.look is not None
        self._try("pooling", lambda: self._pooled(s, s.draws, alone=True))
        self._draw(s.sweep, figures(self.run, self.look, self._glance, self._groups))

    def _draw(self, sweep: int, made: Mapping[str, Callable[[], bytes]]) -> None:
        for name, figure in made.items():
            if (png := self._try(f"figures/{name}", figure)) is not None:
                self._files[0].image(self.offset + sweep, f"figures/{name}", png)

    # At the end

    def finish(self, snapshots: Sequence[Snapshot], status: str, posterior: Fit | None, overhead: float) -> None:
        """The last points, looks that a short run had no time for, and what only a finished run can tell."""
        if self._curves is not None:
            self._add(snapshots, overhead, last=True)
        s = self._last
        if s is not None and self._enough(s) and status not in ("failed", "discarded"):
            for k in range(1, LOOKS + 1):  # at draws, since a quick run may have had a single window
                drawn = -(-s.drawn * k // LOOKS)
                sweep = s.sweep - (s.drawn - drawn) * max(1, self.run.thin) * s.interval
                if k == LOOKS and posterior is not None:
                    self._conclude(s, posterior)
                elif drawn >= FEWEST and sweep > max(self._looks.sweep, self.run.done):
                    self._see(s, sweep, drawn, 0.5 if k < LOOKS else 1.0)
                    if k < LOOKS:
                        self._histograms(sweep)  # a single one makes no picture
            self._tell(s, status)
            self._show(s)
            if posterior is not None:
                self._try("2_summary/prediction", lambda: self._close_up(s, posterior))
        self._verdict(status, last=s is not None)
        if self._curves is not None:
            self._files[0].layout(available(self._charts, self._tags | self._curves.written), closed(self._charts))
        if status not in ("interrupted", "discarded"):  # it goes on, and the first word on how a run ended stands
            self._files[0].session_end(status)

    def _close_up(self, s: Snapshot, posterior: Fit) -> None:
        from hiertorch.dashboard.closing import closing
        from hiertorch.dashboard.figures import criticism

        self._closing = found = closing(posterior, max(CLOSING, 3 * self.governor.share * self.governor.passed))
        if found.elpd is not None and found.p is not None:
            self._scalars(s.sweep, {"metric/elpd_loo": found.elpd, "metric/p_loo": found.p})
        self._draw(s.sweep, criticism(found))
        self._text(s.sweep, "2_summary/prediction", texts.prediction(found))

    def close(self) -> None:
        """Nothing can be written after."""
        files, self._files = self._files, []
        for file in files:
            with contextlib.suppress(OSError):  # of a full disk, which was met before
                file.close()
