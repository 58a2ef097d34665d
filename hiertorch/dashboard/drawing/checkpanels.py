"""The figures of a dashboard at the end of a run: do replications look like the data, and can LOO be trusted?"""

from collections.abc import Sequence

import numpy as np

from hiertorch.dashboard.drawing.canvas import BLACK, BLUE, GREY, ORANGE, PALE, Panel
from hiertorch.dashboard.drawing.ticks import LARGEST, SMALLEST, short

__all__ = ["pareto_k", "predictive"]

REPLICATIONS, VALUES = 100, 120_000  # of which at most a figure is made
BARS, CELLS = 30, 128
SHOWN, ABOVE = 1_000, 300  # rows below and above the limit of k
COMMON = 0.7  # the limit of k that is known best


def predictive(y: np.ndarray, replicated: np.ndarray, discrete: bool, name: str = "y") -> bytes:
    """The response and replications of it: their densities, or of counts the frequencies of values, with the median
    and the 5 to 95 % band of 100 replications.

    Args:
        y: `(rows,)`; NaN is left out.
        replicated: `(replications, rows)`; NaN is left out.
        discrete: whether the response is a count.
        name: of the response.
    """
    panel = Panel("Predictive check", name, "share of rows" if discrete else "density")
    replicated = np.atleast_2d(np.asarray(replicated, dtype=np.float64))[:REPLICATIONS]
    y = np.asarray(y, dtype=np.float64).reshape(-1)
    some = slice(None, None, max(1, -(-replicated.size // VALUES)))
    y, replicated = y[some], replicated[:, some]
    y = np.clip(y[np.isfinite(y)], -LARGEST, LARGEST)
    replicated = np.where(np.isfinite(replicated), np.clip(replicated, -LARGEST, LARGEST), np.nan)
    replicated = replicated[np.isfinite(replicated).any(1)]
    if not len(y) or not len(replicated):
        panel.sentence = f"no {'finite response' if not len(y) else 'replication that is finite'}"
        return panel.png()
    panel.note = f"{len(replicated)} replications"
    inner = np.quantile(replicated[np.isfinite(replicated)], [0.005, 0.995])
    low, high = float(min(y.min(), inner[0])), float(max(y.max(), inner[1]))
    (_frequencies if discrete else _densities)(panel, y, replicated, low, high)
    return panel.png()


def _frequencies(panel: Panel, y: np.ndarray, replicated: np.ndarray, low: float, high: float) -> None:
    low, high = np.floor(low), np.floor(high)
    wide = max(1.0, np.ceil((high - low + 1) / BARS))  # values in a bar
    bars = int((high - low) // wide) + 1
    first = low + wide * np.arange(bars)
    seen = _shares(np.floor((y[None] - low) / wide), bars)[0]
    q05, median, q95 = np.quantile(_shares(np.floor((replicated - low) / wide), bars), [0.05, 0.5, 0.95], axis=0)
    middle = first + (wide - 1) / 2
    panel.x.whole = True
    panel.bars(middle, seen, 0.8 * wide, PALE)
    thick = 2.0 if bars > 12 else 3.0
    panel.intervals(middle, q05, q95, BLUE, thick)
    panel.points(middle, median, BLUE, 3.5 if bars > 12 else 5.0)
    panel.y.fixed = (0.0, 1.06 * float(max(seen.max(), q95.max())))
    panel.legend("bar", PALE, "data")
    panel.legend("dot", BLUE, "median and 5-95 %")


def _densities(panel: Panel, y: np.ndarray, replicated: np.ndarray, low: float, high: float) -> None:
    if not high - low > SMALLEST:
        panel.sentence = f"the response and its replications are all {short(low)}"
        return
    unit = high - low  # so that squares don't overflow
    sd, iqr = float((y / unit).std()) * unit, float(np.subtract(*np.quantile(y, [0.75, 0.25])))
    spread = min(sd, iqr / 1.34) or sd
    kernel_sd = 0.9 * spread * len(y) ** -0.2  # Silverman's rule
    # The curves end where the data must: at 0 for a positive response.
    start = 0.0 if min(y.min(), np.nanmin(replicated)) >= 0.0 and low < 3 * kernel_sd else low - 3 * kernel_sd
    low, high = start, high + 3 * kernel_sd
    cell = (high - low) / CELLS
    width = max(kernel_sd / cell, 1.0)  # in cells
    at = np.arange(CELLS)
    kernel = np.exp(-0.5 * ((at[:, None] - at) / width) ** 2)
    kernel /= kernel.sum(1, keepdims=True)  # what would pass the ends stays inside: a response may be positive
    # Values at the upper end, and none beyond, belong to the last cell.
    at_end = [np.where(x == high, CELLS - 1, np.floor((x - low) / cell)) for x in (y[None], replicated)]
    seen, every = (_shares(x, CELLS) @ kernel / cell for x in at_end)
    q05, median, q95 = np.quantile(every, [0.05, 0.5, 0.95], axis=0)
    x = low + (at + 0.5) * cell
    panel.band(x, q05, q95, BLUE, 0.22)
    panel.line(x, median, BLUE, 2.0)
    panel.line(x, seen[0], BLACK, 2.5)
    panel.y.fixed = (0.0, 1.06 * float(max(seen.max(), q95.max())))
    panel.legend("line", BLACK, "data")
    panel.legend("band", (199, 222, 237), "5-95 %")
    panel.legend("line", BLUE, "median")


def _shares(cells: np.ndarray, count: int) -> np.ndarray:
    """Of the finite values in each row, those in each of the cells 0 .. count - 1: `(rows, count)`."""
    known = np.isfinite(cells)
    inside = known & (cells >= 0) & (cells < count)
    flat = np.where(inside, cells, 0).astype(np.int64) + count * np.arange(len(cells))[:, None]
    counts = np.bincount(flat[inside], minlength=len(cells) * count).reshape(len(cells), count)
    return counts / np.maximum(known.sum(1, keepdims=True), 1)


def pareto_k(k: np.ndarray, labels: Sequence[str], limit: float) -> bytes:
    """Pareto k of rows or groups in their order; above the limit, LOO can't be trusted there.

    Args:
        k: `(rows,)`; infinity stands at the upper edge, NaN is left out.
        labels: of the rows; the three worst above the limit are named.
        limit: of k, given the number of draws: `good_k`.
    """
    panel = Panel("Pareto k of leave-one-out", "row or group, in order", "Pareto k")
    k = np.asarray(k, dtype=np.float64).reshape(-1)
    known = np.flatnonzero(~np.isnan(k))
    if not len(known):
        panel.sentence = "no Pareto k: none is a number"
        return panel.png()
    finite = k[np.isfinite(k)]
    top = 1.08 * float(max(limit, COMMON, finite.max(initial=0.0)))
    if np.isposinf(k).any():
        top *= 1.05
    bottom = float(min(0.0, finite.min(initial=0.0)))
    panel.y.fixed = (bottom - 0.03 * (top - bottom), top)
    height = np.clip(k, bottom, top - 0.012 * (top - bottom))  # a disc at the upper edge is whole
    above = known[k[known] > limit]
    above = above[np.argsort(-k[above], kind="stable")]
    below = known[k[known] <= limit]
    every = max(1, -(-len(below) // SHOWN))
    fine = below[::every]
    size = 4.0 if len(known) <= 200 else 2.5
    if abs(limit - COMMON) > 0.005:
        panel.across(COMMON, GREY, dashed=True)
    panel.across(limit, ORANGE, thick=2.0)
    panel.points(fine + 1.0, height[fine], BLUE, size, 0.8 if len(known) <= 200 else 0.5)
    panel.points(above[:ABOVE] + 1.0, height[above[:ABOVE]], ORANGE, size + 1.0)
    panel.x.see(np.array([1.0, float(len(k))]))
    panel.x.whole = True
    for row in above[:3].tolist():
        panel.label(row + 1.0, height[row], f"{labels[row]}: {short(k[row])}")
    if every > 1:
        panel.x.label += f" (one in {every} of those below)"
    panel.note = f"{len(above)} of {len(known)} above {short(limit)}"
    panel.legend("line", ORANGE, f"limit {short(limit)}")
    if abs(limit - COMMON) > 0.005:
        panel.legend("dash", GREY, str(COMMON))
    return panel.png()
