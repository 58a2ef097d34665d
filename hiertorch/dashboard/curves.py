"""Curves that cost nothing to make: traces, log densities, acceptance, step sizes and speed (tier 0).

In warm-up a trace has a point a window; afterwards its points are stored draws, so that a run of a second has as many
as one of a day: at most POINTS a tag.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hiertorch.dashboard.records import EventFile
from hiertorch.dashboard.snapshots import Snapshot
from hiertorch.monitors.base import RunInfo, Watch, safe_tags

POINTS = (
    396  # a tag, with four more that come out of turn at most 400: a card on the page is hardly as many pixels wide
)
CHAINS = 8  # that are drawn as chains
TRACES = 24  # parameters
JUMPS, SUCCESSIVE = 5, 200  # points of a batch that tell of jumps, and draws that these are measured on
Point = tuple[dict[str, float], list[dict[str, float]]]
"""Values by tag, of the run and of each of its first chains."""

LEVELS = {"q05": 0.05, "q50": 0.5, "q95": 0.95}


def block_tags(run: RunInfo) -> dict[str, str]:
    """Block -> its name in tags, without signs for which Custom Scalars draws no curve."""
    plain = [block.replace("(", " ").replace(")", "").replace(",", "") for block in run.blocks]
    return dict(zip(run.blocks, safe_tags(plain), strict=True))


def paths(kind: str, tags: Sequence[str], population: int) -> list[str]:
    """`trace/mu`, and of effects of groups `trace_groups/alpha[1]`: the page sorts by name, and would show them first.
    The first `population` tags are those of the population.
    """
    return [f"{kind}{'' if k < population else '_groups'}/{tag}" for k, tag in enumerate(tags)]


class Curves:
    """Tier 0 of a dashboard, in the files of the run and of its first chains; `offset` are the steps of the runs that
    this one goes on from.
    """

    def __init__(self, files: Sequence[EventFile], run: RunInfo, traces: Watch, chains: int, offset: int) -> None:
        self._main, self._files = files[0], files[1:]
        self._run, self._traces, self._chains, self._offset = run, traces, chains, offset
        self.tags = safe_tags(traces.names)
        self.bands = self.tags[: traces.population] if chains > CHAINS else []
        self._blocks = block_tags(run)
        self.stride = -(-run.sweeps // POINTS)
        self._next = 0  # sweep of the next point
        self._traced = run.done or -self.stride  # sweep of the last draw in a curve
        self._jumped = run.done  # sweep up to which jumps were measured
        self._rates: dict[str, list[Tensor]] = {}  # since the last point
        self._scales: dict[str, float] = {}
        self._before: tuple[int, float] | None = None  # sweep and time of the last point
        self._latest: Snapshot | None = None
        self._clock: list[tuple[int, float]] = []  # sweep and time of snapshots
        self.written: set[str] = set()  # tags
        self.sampling: dict[str, list[float]] = {}  # block -> acceptance at points after warm-up

    def add(self, snapshots: Sequence[Snapshot], share: float, *, last: bool = False) -> None:
        """Adds what is new; `share` is that of the time so far which the dashboard took. After the `last` time the run
        is over, so that curves end where it ended.
        """
        if snapshots:
            self._latest = snapshots[-1]
        elif last and self._latest is not None:  # it was met before it was known to be the last
            snapshots = [replace(self._latest, rates={})]
        else:
            return
        self._clock = [*self._clock[-1:], *((s.sweep, s.time) for s in snapshots)]
        points: list[Snapshot] = []
        known: list[Point] = []
        for s in snapshots:
            self.stride = max(self.stride, -(-(s.foreseen or 0) // POINTS))
            for block, rate in s.rates.items():
                self._rates.setdefault(block, []).append(rate)
            ends = last and s is snapshots[-1] and (self._before is None or s.sweep > self._before[0])
            if s.sweep >= self._next or ends:
                points.append(s)
                known.append(self._window(s, share))
                self._next = s.sweep + self.stride
        self._write(self._main, [(s.sweep, s.time, main) for s, (main, _) in zip(points, known, strict=True)])
        for c, file in enumerate(self._files):
            self._write(file, [(s.sweep, s.time, chains[c]) for s, (_, chains) in zip(points, known, strict=True)])
        each = max(1, -(-len(points) // JUMPS))
        some = [(s, self._jumps(s)) for s in points[(len(points) - 1) % each :: each]]  # the last one among them
        for c, file in enumerate(self._files):
            self._write(file, [(s.sweep, s.time, jumps[c]) for s, jumps in some if jumps])
        if early := [s for s in points if s.trace is not None]:
            values = torch.stack([torch.cat([s.log_density[:, None], s.trace], 1) for s in early], 1)  # type: ignore[list-item]
            times = np.array([s.time for s in early])
            host, sweeps = values.double().cpu().numpy(), np.array([s.sweep for s in early])
            self._draw(sweeps, times, host)
            if self.bands:
                self._quantiles(sweeps, times, host[:, :, 1 : 1 + len(self.bands)])
        if (s := snapshots[-1]).trace is None:
            self._drawn(s, last=last)

    def _drawn(self, s: Snapshot, *, last: bool) -> None:
        """Stored draws since the last time."""
        warmup, apart = self._warmup(s), self._apart(s)
        first = max(0, -(-(self._traced + self.stride - warmup) // apart) - 1)
        at = np.arange(first, s.drawn, -(-self.stride // apart))
        if last and warmup + s.drawn * apart > (warmup + (at[-1] + 1) * apart if len(at) else self._traced):
            at = np.append(at, s.drawn - 1)
        if not len(at):
            return
        sweeps = warmup + (at + 1) * apart
        self._traced = int(sweeps[-1])
        times = np.interp(sweeps, *np.array(self._clock).T)
        index = torch.from_numpy(at).to(s.log_density.device)
        shown = len(self._files)
        columns = [] if s.log_densities is None else [s.log_densities[:shown, index, None]]
        columns += _columns(s.draws, self._traces.at, index, shown)
        values = torch.cat(columns, 2).double().cpu().numpy()  # one copy from the device
        self._draw(sweeps, times, values, density=s.log_densities is not None)
        if self.bands:
            population = {name: k for name, k in self._traces.at.items() if self._run.plates.get(name) is None}
            every = torch.cat(_columns(s.draws, population, index, self._chains), 2)
            self._quantiles(sweeps, times, every.double().cpu().numpy())

    def _apart(self, s: Snapshot) -> int:
        """Sweeps from one stored draw to the next."""
        return max(1, self._run.thin) * s.interval

    def _draw(self, sweeps: np.ndarray, times: np.ndarray, values: np.ndarray, *, density: bool = True) -> None:
        """Values `(chains, points, traces)`, the log density before them if there is one."""
        tags = [*(["sampler/log_prob"] if density else []), *paths("trace", self.tags, self._traces.population)]
        self.written |= set(tags)
        for file, x in zip(self._files, values, strict=False):
            file.block(tags, self._offset + sweeps, x, times)

    def _quantiles(self, sweeps: np.ndarray, times: np.ndarray, values: np.ndarray) -> None:
        """Over the chains of values `(chains, points, bands)`."""
        tags = [f"trace_quantiles/{tag}/{level}" for level, tag in itertools.product(LEVELS, self.bands)]
        self.written |= set(tags)
        quantiles = np.quantile(values, list(LEVELS.values()), axis=0)
        self._main.block(tags, self._offset + sweeps, np.concatenate(list(quantiles), 1), times)

    def _write(self, file: EventFile, points: list[tuple[int, float, dict[str, float]]]) -> None:
        """Points of one file, sweep, time and values by tag; those after another that have the same tags at once."""
        for tags, run in itertools.groupby(points, lambda point: tuple(point[2])):
            sweeps, times, values = zip(*run, strict=True)
            self.written |= set(tags)
            table = np.array([list(each.values()) for each in values], dtype=np.float64).reshape(len(times), len(tags))
            file.block(tags, self._offset + np.array(sweeps), table, np.array(times))

    def _window(self, s: Snapshot, share: float) -> Point:
        """What is known of a window as a whole."""
        point = {"sampler/phase": float(s.phase == "sampling"), "sampler/nan_log_density": float(s.nan)}
        chains: list[dict[str, float]] = [{} for _ in self._files]
        every = []
        for block, rates in self._rates.items():
            mean = torch.stack(rates).mean(0).double().cpu()
            every.append(mean)
            tag = f"sampler/block/{self._blocks.get(block, block)}/accept_rate"
            point[tag] = mean.mean().item()
            for chain, rate in zip(chains, mean.tolist(), strict=False):
                chain[tag] = rate
            if s.phase == "sampling":
                self.sampling.setdefault(block, []).append(point[tag])
        if every:
            for chain, rate in zip(chains, torch.stack(every).mean(0).tolist(), strict=False):
                chain["sampler/accept_rate"] = rate
        self._rates.clear()
        point |= self._steps(s.tuning)
        if self._before is not None and s.time > self._before[1]:
            point["perf/draws_per_s"] = (s.sweep - self._before[0]) * self._chains / (s.time - self._before[1])
        point["perf/monitor_share"] = share
        self._before = s.sweep, s.time
        return point, chains

    def _steps(self, tuning: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
        """Size of the random walks of each block, and by how much the one that changed most has changed."""
        scales = {
            block: learnt["root"].diagonal(dim1=-2, dim2=-1).abs().log().mean().item()
            for block, learnt in tuning.items()
            if "root" in learnt and learnt["root"].numel()
        }
        changes = [abs(scale - self._scales[block]) for block, scale in scales.items() if block in self._scales]
        self._scales = scales
        point = {f"sampler/block/{self._blocks.get(b, b)}/step_scale": float(np.exp(x)) for b, x in scales.items()}
        return point | ({"sampler/adapt_delta": max(changes)} if changes else {})

    def _warmup(self, s: Snapshot) -> int:
        return self._run.warmup if s.warmup is None else s.warmup

    def _jumps(self, s: Snapshot) -> list[dict[str, float]]:
        """By chain: E (x' - x)^2 / 2 Var x of successive draws, averaged over traces, which is 1 if they are
        independent; and the longest run of draws at one log density.
        """
        warmup, apart = self._warmup(s), self._apart(s)
        start = max((self._jumped - warmup) // apart, s.drawn - SUCCESSIVE, 0)
        if s.trace is not None or s.drawn - start < 3:
            return []
        self._jumped, shown = warmup + s.drawn * apart, len(self._files)
        index = torch.arange(start, s.drawn, device=s.log_density.device)
        x = torch.cat(_columns(s.draws, self._traces.at, index, shown), 2).double()
        jump = x.diff(dim=1).square().mean(1) / (2 * x.flatten(0, 1).var(0))
        found = [{"sampler/esjd": value} for value in jump.nanmean(1).tolist()]
        if s.log_densities is not None:
            still = (s.log_densities[:shown, start:].diff(dim=1) == 0).cpu().numpy()
            for chain, row in zip(found, still, strict=True):
                chain["sampler/stuck_max"] = float(
                    max((sum(1 for _ in run) for same, run in itertools.groupby(row) if same), default=0)
                )
        return found


def _columns(draws: Mapping[str, Tensor], at: Mapping[str, Tensor], index: Tensor, chains: int) -> list[Tensor]:
    """Elements of some draws of the first chains, each `(chains, index, elements)`, and no other is copied."""
    return [draws[name].flatten(2)[:chains, index[:, None], k.to(index.device)] for name, k in at.items()]
