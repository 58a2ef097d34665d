"""The figures of a dashboard at the end of a run: do replications look like the data, and can LOO be trusted?"""

from collections.abc import Sequence

import numpy as np

from hiertorch.dashboard.sheet import AREA, DASHES, DISC, LARGEST, LINE, Sheet, name
from hiertorch.palette import BLACK, BLUE, GREY, ORANGE, PALE

REPLICATIONS, VALUES = 100, 120_000  # of which at most a figure is made
BARS, CELLS = 30, 128
SHOWN, ABOVE = 1_000, 300  # rows below and above the limit of k
BAND = "#c7dfed"  # blue, as it shines through
COMMON, FAR = 0.7, 10.0  # the limit of k that is known best, and what it is drawn up to


def predictive(y: np.ndarray, replicated: np.ndarray, discrete: bool) -> bytes:
    """The response `(rows,)` and replications of it, `(replications, rows)`: their densities, or of counts the
    frequencies of values, with the median and the 5 to 95 % band of 100 replications. NaN is left out.
    """
    sheet = Sheet("Predictive check", "y", "share of rows" if discrete else "density")
    replicated = np.atleast_2d(np.asarray(replicated, dtype=np.float64))[:REPLICATIONS]
    y = np.asarray(y, dtype=np.float64).reshape(-1)
    some = slice(None, None, max(1, -(-replicated.size // VALUES)))
    y, replicated = y[some], replicated[:, some]
    y = np.clip(y[np.isfinite(y)], -LARGEST, LARGEST)
    replicated = np.where(np.isfinite(replicated), np.clip(replicated, -LARGEST, LARGEST), np.nan)
    replicated = replicated[np.isfinite(replicated).any(1)]
    if not len(y) or not len(replicated):
        return sheet.says(f"no {'finite response' if not len(y) else 'replication that is finite'}")
    sheet.note = f"{len(replicated)} replications"
    inner = np.quantile(replicated[np.isfinite(replicated)], [0.005, 0.995])
    low, high = float(min(y.min(), inner[0])), float(max(y.max(), inner[1]))
    if not discrete and not high - low > 1e-9 * max(abs(low), abs(high)):
        return sheet.says(f"the response and its replications are all {low:.3g}")
    (_frequencies if discrete else _densities)(sheet, y, replicated, low, high)
    sheet.axes.set_ylim(0.0, None)
    return sheet.png()


def _frequencies(sheet: Sheet, y: np.ndarray, replicated: np.ndarray, low: float, high: float) -> None:
    low, high = np.floor(low), np.floor(high)
    wide = max(1.0, np.ceil((high - low + 1) / BARS))  # values in a bar
    bars = int((high - low) // wide) + 1
    middle = low + wide * np.arange(bars) + (wide - 1) / 2
    seen = _shares(np.floor((y[None] - low) / wide), bars)[0]
    q05, median, q95 = np.quantile(_shares(np.floor((replicated - low) / wide), bars), [0.05, 0.5, 0.95], axis=0)
    sheet.axes.bar(middle, seen, 0.8 * wide, color=PALE)
    sheet.axes.vlines(middle, q05, q95, BLUE, linewidth=1.5 if bars > 12 else 2.2)
    sheet.dots(middle, median, 24.0 if bars > 12 else 48.0, BLUE)
    sheet.key = [(AREA, PALE, "data"), (DISC, BLUE, "median and 5-95 %")]
    sheet.axes.locator_params("x", integer=True)


def _densities(sheet: Sheet, y: np.ndarray, replicated: np.ndarray, low: float, high: float) -> None:
    spread = min(float(y.std()), float(np.subtract(*np.quantile(y, [0.75, 0.25]))) / 1.34) or float(y.std())
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
    sheet.axes.plot(x, seen[0], color=BLACK, linewidth=1.8, zorder=3.0)
    sheet.axes.fill_between(x, q05, q95, color=BAND, linewidth=0.0)
    sheet.axes.plot(x, median, color=BLUE, linewidth=1.5)
    sheet.key = [(LINE, BLACK, "data"), (AREA, BAND, "5-95 %"), (LINE, BLUE, "median")]


def _shares(cells: np.ndarray, count: int) -> np.ndarray:
    """Of the finite values in each row, those in each of the cells 0 .. count - 1: `(rows, count)`."""
    known = np.isfinite(cells)
    inside = known & (cells >= 0) & (cells < count)
    flat = np.where(inside, cells, 0).astype(np.int64) + count * np.arange(len(cells))[:, None]
    counts = np.bincount(flat[inside], minlength=len(cells) * count).reshape(len(cells), count)
    return counts / np.maximum(known.sum(1, keepdims=True), 1)


def pareto_k(k: np.ndarray, labels: Sequence[str], limit: float) -> bytes:
    """Pareto k of rows or groups in their order, `(rows,)`; above the limit, LOO can't be trusted there, and the three
    worst are named. Infinity, or more than 10, stands at the upper edge, NaN is left out.
    """
    sheet = Sheet("Pareto k of leave-one-out", "row or group, in order", "Pareto k")
    k = np.asarray(k, dtype=np.float64).reshape(-1)
    known = np.flatnonzero(~np.isnan(k))
    if not len(known):
        return sheet.says("no Pareto k: none is a number")
    finite = np.clip(k[np.isfinite(k)], -FAR, FAR)
    top = 1.08 * float(max(limit, COMMON, finite.max(initial=0.0)))
    bottom = float(min(0.0, finite.min(initial=0.0)))
    height = np.clip(k, bottom, top)
    above = known[k[known] > limit]
    above = above[np.argsort(-k[above], kind="stable")]
    below = known[k[known] <= limit]
    every = max(1, -(-len(below) // SHOWN))
    size, alpha = (32.0, 0.8) if len(known) <= 200 else (12.0, 0.5)
    if abs(limit - COMMON) > 0.005:
        sheet.axes.axhline(COMMON, color=GREY, linestyle="--", linewidth=1.2)
        sheet.key = [(DASHES, GREY, f"{COMMON}")]
    sheet.axes.axhline(limit, color=ORANGE, linewidth=1.6)
    sheet.key.append((LINE, ORANGE, f"limit {limit:.3g}"))
    sheet.dots(below[::every] + 1.0, height[below[::every]], size, BLUE, alpha)
    sheet.dots(above[:ABOVE] + 1.0, height[above[:ABOVE]], 1.6 * size, ORANGE)
    sheet.axes.set_ylim(bottom - 0.03 * (top - bottom), top)
    room = 0.02 * len(k)
    sheet.axes.set_xlim(1 - room, len(k) + room)
    sheet.axes.locator_params("x", integer=True)
    if len(above):
        sheet.caption = f"worst: {', '.join(f'{name(labels[row], 14)} {k[row]:.3g}' for row in above[:3])}"
    if every > 1:
        sheet.x_label += f" (one in {every} of those below)"
    sheet.note = f"{len(above)} of {len(known)} above {limit:.3g}"
    return sheet.png()
