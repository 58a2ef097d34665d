"""A live dashboard: traces, acceptance, convergence and a verdict, as files that TensorBoard shows."""

import contextlib
import json
import logging
import os
import re
import shlex
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hiertorch.diagnostics import Convergence, convergence
from hiertorch.errors import RunFolderError, SamplingWarning
from hiertorch.monitors.base import COST, FEWEST, Budget, Monitor, RunInfo, Window, safe_tags, watch

if TYPE_CHECKING:
    from hiertorch.dashboard.records import Chart, EventFile

__all__ = ["TensorBoard"]

POINTS = 800  # a tag; the page keeps 1000
CHAINS = 8  # that are drawn as chains
TRACES = 24  # parameters
CHARTS = 6  # of traces in Custom Scalars: every chart asks the server once for every run
PARAMETERS = 100  # whose convergence is followed
VALUES = 500_000  # that one look at convergence may sort: 0.15 s on one core
LOOKS = 4  # of a short run, at its end
DRAWS = 100  # a chain, that a look should have at least
RHAT, ESS = 1.01, 400  # Vehtari et al. (2021)
NAMED = 5  # parameters that a verdict names
STUCK = 0.05  # an acceptance rate below this deserves a word

logger = logging.getLogger("hiertorch")


class TensorBoard(Monitor):
    """Writes a run to `log_dir`, and its first 8 chains to `log_dir/chain_0` to `log_dir/chain_7`.

    | tag | run | what |
    |---|---|---|
    | `trace/<parameter>` | chain | value in a window's last sweep: 24 parameters, population-level ones first |
    | `sampler/log_prob`, `sampler/accept_rate` | chain | unconstrained log density; acceptance, mean over blocks |
    | `sampler/block/<block>/accept_rate` | main | mean over chains and groups |
    | `sampler/phase`, `sampler/nan_log_density` | main | 0 in warm-up, 1 in sampling; NaN log densities so far |
    | `trace_quantiles/<parameter>/q05`, `q50`, `q95` | main | over all chains, if there are more than 8 |
    | `convergence/rhat_max`, `ess_bulk_min`, `ess_tail_min` | main | of the worst parameter, as draws come in |
    | `perf/draws_per_s`, `perf/monitor_share` | main | chains * sweeps a second; share of the run's time spent here |
    | `1_run/config`, `1_run/model_card`, `1_run/contents`, `2_summary/verdict` | main | text |

    A step is a sweep, warm-up included, and a tag has at most 800 points. Convergence is looked at every 5 s at most,
    within its share of the run's time, and once at the end. An error in writing (a full disk) ends the dashboard and
    not the run: `stop` warns of it.

    Args:
        log_dir: the run's folder, made if need be.
        share: of the run's time that looking at convergence may cost.

    Raises:
        RunFolderError: from `start`, if the folder can't be written.
    """

    def __init__(self, log_dir: str | os.PathLike[str], share: float = 0.02) -> None:
        self.log_dir, self.share = Path(log_dir), share
        self._files: list[EventFile] = []  # of the run and of its chains, while it goes on

    def start(self, run: RunInfo) -> None:
        """Opens the dashboard with what is known so far, and logs how to look at it."""
        from hiertorch.dashboard.records import EventFile  # here, so that importing hiertorch stays cheap

        self._run = run
        self._error: Exception | None = None
        self._last: Window | None = None
        self._found: Convergence | None = None
        self._stride = -(-run.sweeps // (POINTS - 1))  # the last point may come out of turn
        self._next = self._written = self._looked = 0  # sweeps
        plain = [
            block.replace("(", " ").replace(")", "").replace(",", "") for block in run.blocks
        ]  # else no curve is drawn
        self._blocks = dict(zip(run.blocks, safe_tags(plain), strict=True))
        # By block: the sum (chains,) over the windows since the last point, and how many; the points since warm-up.
        self._rates: dict[str, tuple[Tensor, int]] = {}
        self._sampling: dict[str, list[float]] = {}
        self._drawn: dict[int, int] = {}  # sweep -> draws a chain, of every window since warm-up
        self._budget = Budget(self.share, every=5.0, unit=COST)
        self._begun = self._then = time.perf_counter()
        self._spent = 0.0
        self._close()
        try:
            self._files = [EventFile(self.log_dir)]
            self._files[0].text(0, "1_run/config", _config(run))
            self._files[0].text(0, "1_run/model_card", _model_card(run))
        except OSError as error:
            self._close()
            raise RunFolderError(
                f"TensorBoard's folder {str(self.log_dir)!r} can't be written ({error.strerror or error}); "
                f"give another log_dir, or make this one writable."
            ) from error
        logger.info(
            "Live dashboard: tensorboard --logdir %s --host 127.0.0.1 --port 6006 --reload_interval 5\n"
            "then open http://127.0.0.1:6006/?smoothing=0#timeseries or "
            "http://127.0.0.1:6006/#custom_scalars&_smoothingWeight=0\n"
            "The page reloads by itself only if told to (gear, Reload data; every 30 s), its reload button at once.",
            shlex.quote(str(self.log_dir)),
        )

    def window(self, window: Window) -> None:
        """Adds a point, unless the tags have enough of them."""
        if not self._files or self._error is not None:
            return
        begun = time.perf_counter()
        try:
            self._see(window)
        except Exception as error:  # whatever it is, a picture is not worth the run
            self._error = error
        self._spent += time.perf_counter() - begun

    def stop(self, status: str) -> None:
        """Adds the last point, the final convergence and the verdict; warns if something could not be written."""
        if not self._files:
            return
        try:
            if self._error is None:
                self._finish(status)
        except Exception as error:
            self._error = error
        self._close()
        self._last = None  # it holds on to the draws
        if self._error is not None:
            warnings.warn(
                f"TensorBoard's files in {str(self.log_dir)!r} end at sweep {self._written} "
                f"({type(self._error).__name__}: {self._error}); the draws are complete without them.",
                SamplingWarning,
                stacklevel=2,
            )

    def _see(self, window: Window) -> None:
        if self._last is None:
            self._begin(window)
        self._last = window
        for block, rate in window.acceptance.items():  # (chains,) or (chains, groups)
            total, windows = self._rates.get(block, (0.0, 0))
            self._rates[block] = (total + rate.reshape(len(rate), -1).mean(1), windows + 1)
        if window.sweep >= self._next:
            self._write(window)
        if window.drawn >= FEWEST:
            self._drawn[window.sweep] = window.drawn
            if self._budget.allows(self._watched.size(window.draws, self._kept)):
                self._look(window.sweep, window.draws)

    def _begin(self, window: Window) -> None:
        """What needs the values' shapes: which parameters are shown, and the files of the chains."""
        from hiertorch.dashboard.records import EventFile

        run, chains = self._run, len(window.log_density)
        few = min(PARAMETERS, max(1, VALUES // (chains * DRAWS)))
        self._watched = watch(run, window.values, few)
        self._kept = max(DRAWS, VALUES // (chains * len(self._watched.names)))
        self._traces = watch(run, window.values, TRACES)
        self._tags = safe_tags(self._traces.names)
        self._bands = self._tags[: self._traces.population] if chains > CHAINS else []
        main = self._files[0]
        main.text(0, "1_run/contents", self._contents(chains))
        main.layout(self._layout())
        self._files += [EventFile(self.log_dir / f"chain_{c}") for c in range(min(chains, CHAINS))]
        for file in self._files:
            file.begin(window.sweep)

    def _write(self, window: Window) -> None:
        blocks = list(self._rates)
        means = [(total / windows)[:, None] for total, windows in self._rates.values()]
        self._rates.clear()
        # Side by side in one tensor, so that there is one copy from the device: (chains, 1 + blocks + traces).
        columns = [window.log_density[:, None], *means, self._traces.last(window.values)]
        host = torch.cat([column.to(window.log_density.device, torch.float64) for column in columns], 1).cpu()
        log_prob, accept, traces = host.split([1, len(blocks), len(self._tags)], 1)
        for c, file in enumerate(self._files[1:]):
            point = {"sampler/log_prob": log_prob[c].item(), **_named("trace/{}", self._tags, traces[c])}
            if blocks:
                point["sampler/accept_rate"] = accept[c].mean().item()
            file.scalars(window.sweep, point)
        rates = dict(zip(blocks, accept.mean(0).tolist(), strict=True))
        point = {"sampler/phase": float(window.phase == "sampling"), "sampler/nan_log_density": float(window.nan)}
        for block, rate in rates.items():
            point[f"sampler/block/{self._blocks[block]}/accept_rate"] = rate
            if window.phase == "sampling":
                self._sampling.setdefault(block, []).append(rate)
        if self._bands:
            for name, level in {"q05": 0.05, "q50": 0.5, "q95": 0.95}.items():
                row = traces[:, : len(self._bands)].quantile(level, 0)
                point |= _named(f"trace_quantiles/{{}}/{name}", self._bands, row)
        now = time.perf_counter()
        if self._written:  # where the first point began is not known
            point["perf/draws_per_s"] = (window.sweep - self._written) * len(host) / (now - self._then)
            point["perf/monitor_share"] = self._spent / (now - self._begun)
        self._files[0].scalars(window.sweep, point)
        self._written, self._next, self._then = window.sweep, window.sweep + self._stride, now

    def _look(self, sweep: int, draws: Mapping[str, Tensor]) -> None:
        with self._budget.spending(self._watched.size(draws, self._kept)):
            rhat, bulk, tail = convergence(self._watched.draws(draws, self._kept))
        # A parameter that never moved has none of the three, and nothing is worse.
        rhat, bulk, tail = (x.masked_fill(x.isnan(), w) for x, w in ((rhat, torch.inf), (bulk, 0.0), (tail, 0.0)))
        self._found = Convergence(rhat, bulk, tail)
        worst = {"ess_bulk_min": bulk.min(), "ess_tail_min": tail.min()}
        if len(next(iter(draws.values()))) > 1:  # R-hat compares chains
            worst["rhat_max"] = rhat.max()
        self._files[0].scalars(sweep, {f"convergence/{name}": value.item() for name, value in worst.items()})
        self._looked = sweep

    def _finish(self, status: str) -> None:
        last, sweeps = self._last, list(self._drawn)
        if last is not None and last.sweep > self._written:
            self._write(last)
        # A run of seconds had no time to look: its draws still tell how it went.
        for sweep in [sweeps[-(-len(sweeps) * k // LOOKS) - 1] for k in range(1, LOOKS + 1) if sweeps]:
            if last is not None and sweep > self._looked:
                self._look(sweep, {name: draws[:, : self._drawn[sweep]] for name, draws in last.draws.items()})
        step = 0 if last is None else last.sweep
        self._files[0].text(step, "2_summary/verdict", "\n".join(f"- {line}" for line in self._verdict(status)))

    def _close(self) -> None:
        files, self._files = self._files, []
        for file in files:
            with contextlib.suppress(OSError):  # of a full disk, which was met before
                file.close()

    def _contents(self, chains: int) -> str:
        """What is shown and what is not."""
        shown = f"all {chains} chains" if chains <= CHAINS else f"chains 0 to {CHAINS - 1} of {chains}"
        kept = "all draws" if self._kept >= self._run.sweeps else f"at most {self._kept} draws a chain, evenly thinned"
        lines = [
            f"**Traces** (`trace/`): the value in the last sweep of a window, of {shown}; {self._traces.text}.",
            f"**Convergence**: the worst of {self._watched.text}, from {kept}; as often as {self.share:.0%} of the "
            f"run's time allows, and at the end. The ESS of thinned draws may be too small, never much too large.",
            f"**Steps** are sweeps, warm-up included. A tag has at most {POINTS} points. A curve's ends "
            f"are cut off unless *Ignore outliers in chart scaling* is off.",
        ]
        if self._bands:
            lines.insert(1, f"**Quantiles** (`trace_quantiles/`): 5%, 50% and 95% over all {chains} chains at a sweep.")
        return "\n".join(f"- {line}" for line in lines)

    def _layout(self) -> dict[str, dict[str, "Chart"]]:
        layout: dict[str, dict[str, Chart]] = {
            "1 Health": {
                "R-hat, worst": ["convergence/rhat_max$"],
                "effective draws in the bulk, fewest": ["convergence/ess_bulk_min$"],
                "effective draws in the tails, fewest": ["convergence/ess_tail_min$"],
                "acceptance by chain": ["sampler/accept_rate$"],
                "acceptance by block": ["sampler/block/.*/accept_rate$"],
                "log density by chain": ["sampler/log_prob$"],
            },
            "2 Traces by chain": {tag: [f"trace/{re.escape(tag)}$"] for tag in self._tags[:CHARTS]},
        }
        if self._bands:
            layout["3 Median and 5% to 95% of all chains"] = {
                tag: tuple(f"trace_quantiles/{tag}/{level}" for level in ("q50", "q05", "q95"))
                for tag in self._bands[:CHARTS]
            }
        return layout

    def _verdict(self, status: str) -> Iterator[str]:
        """Sentences, the bad ones with a warning sign."""
        last, run = self._last, self._run
        if last is None:
            yield f"**{status.capitalize()}** before the first window of {run.sweeps} sweeps."
            return
        yield (
            f"**{status.capitalize()}** after {last.sweep} of {run.sweeps} sweeps of {len(last.log_density)} chains in "
            f"{time.perf_counter() - self._begun:.1f} s, with {last.drawn} draws a chain."
        )
        if self._found is None:
            yield f"Convergence is unknown: it needs {FEWEST} draws a chain."
        else:
            yield from _judge(self._found, self._watched.names, len(last.log_density))
        if self._sampling:
            means = {block: sum(rates) / len(rates) for block, rates in self._sampling.items()}
            yield "Acceptance in sampling: " + ", ".join(f"{block} {mean:.2f}" for block, mean in means.items()) + "."
            if stuck := [block for block, mean in means.items() if mean < STUCK]:
                yield f"⚠ Less than {STUCK:.0%} of the proposals were accepted in {', '.join(stuck)}."
        yield f"⚠ {last.nan} log densities were NaN (rejected)." if last.nan else "No log density was NaN."


def _judge(found: Convergence, names: Sequence[str], chains: int) -> Iterator[str]:
    bad = [k for k in found.rhat.argsort(descending=True).tolist() if found.rhat[k] > RHAT]
    if chains == 1:
        yield "R-hat is unknown: it compares chains, and there is one."
    elif bad:
        some = ", ".join(f"{names[k]} {found.rhat[k]:.3g}" for k in bad[:NAMED]) + ", ..." * (len(bad) > NAMED)
        yield f"⚠ R-hat is above {RHAT} for {len(bad)} of {len(names)} parameters ({some}): run longer."
    else:
        worst = int(found.rhat.argmax())
        value = f"{found.rhat[worst]:.3f}, {names[worst]}"
        yield f"R-hat is at most {RHAT} for each of {len(names)} parameters (worst {value})."
    bulk, tail = int(found.ess_bulk.argmin()), int(found.ess_tail.argmin())
    least = (
        f"{found.ess_bulk[bulk]:.0f} effective draws in the bulk ({names[bulk]}) and {found.ess_tail[tail]:.0f} in the "
        f"tails ({names[tail]})"
    )
    few = min(found.ess_bulk[bulk], found.ess_tail[tail]) < ESS
    yield f"⚠ At worst {least}, where {ESS} are wanted: run longer." if few else f"At least {least}."


def _config(run: RunInfo) -> str:
    """The settings, once to read and once to copy: a JSON value is a YAML value."""
    settings = {key: value for key, value in run.settings.items() if key != "findings"}  # they stand with the model
    values = {key: json.dumps(value, default=str, ensure_ascii=False) for key, value in settings.items()}
    cells = {key: values[key].strip('"').replace("|", "\\|") for key in values}
    table = ["| setting | value |", "|---|---|", *(f"| {key} | {cell} |" for key, cell in cells.items())]
    return "\n".join([*table, "", "```yaml", *(f"{key}: {value}" for key, value in values.items()), "```"])


def _model_card(run: RunInfo) -> str:
    parts = {f"## {run.model}": run.model_text}
    if run.findings:
        parts["## Data"] = "\n".join(run.findings)
    parts["## Plan"] = run.plan_text
    return "\n\n".join(f"{title}\n\n```\n{text.strip()}\n```" for title, text in parts.items())


def _named(pattern: str, names: Sequence[str], values: Tensor) -> dict[str, float]:
    return {pattern.format(name): value for name, value in zip(names, values.tolist(), strict=True)}
