"""The figures of a dashboard while it runs: chains and parameters. Arguments are numpy arrays, results are PNGs."""

from collections.abc import Sequence

import numpy as np
import torch

from hiertorch.dashboard.sheet import AREA, DASHES, DISC, LINE, Sheet, finite, name
from hiertorch.draws.ranks import ERROR, band, differences
from hiertorch.draws.spacing import evenly
from hiertorch.draws.summaries import LIMITS
from hiertorch.palette import BLACK, BLUE, GREY, LIGHT, ORANGE, SERIES
from hiertorch.wording import many

RANKED, SORTED = 150, 25_000  # at most so many draws of a chain, and of all, thinned evenly: less dependent, too
MOST_CHAINS, NAMED, INSIDE = 256, 4, 16  # in a figure of ranks: judged; named outside the band; drawn inside it
ROWS = 18  # of a forest
DRAWS = 1_000  # of a pair
GROUPS = 2_000  # in a figure of acceptance
RHAT = LIMITS["r_hat"]


def rank(x: np.ndarray, parameter: str) -> bytes:
    """ECDF of each chain's ranks less the even one, and the band of `hiertorch.draws.ranks`: chains outside it have not
    found the same distribution as the others.

    Of draws of a parameter, `(chains, draws)`: of more than 256 chains some are judged, and of more than 150 draws
    (25,000 of all chains) every k-th. A chain with a draw that isn't finite is left out.
    """
    sheet = Sheet(f"Ranks of {parameter}", "rank of a draw among those of all chains, as a share", "ECDF difference")
    chains = _some(len(x), MOST_CHAINS)
    x = np.asarray(x, dtype=np.float64)[chains]
    known = np.isfinite(x).all(1)
    most = min(RANKED, SORTED // max(1, len(x)))
    x, chains = x[known, :: max(1, -(-x.shape[1] // most))], chains[known]
    if len(x) < 2 or x.shape[1] < 8:
        return sheet.says("ranks need two chains or more, of eight finite draws or more")
    if x.min() == x.max():
        return sheet.says(f"{name(parameter)} never moved: all its draws are {x[0, 0]:.3g}")
    points, low, high = band(*x.shape)
    lines = differences(x)
    excess = np.maximum(lines - high, low - lines).max(1)
    order = np.argsort(-excess, kind="stable")
    outside, inside = np.split(order, [int((excess > 1e-12).sum())])
    at, lines = np.array([0.0, *points, 1.0]), np.pad(lines, ((0, 0), (1, 1)))
    sheet.note = f"{len(outside)} of {len(x)} chains outside"
    sheet.axes.fill_between(at, np.pad(low, 1), np.pad(high, 1), color=LIGHT)
    sheet.axes.axhline(0.0, color=GREY, linewidth=0.8)
    sheet.key = [(AREA, LIGHT, f"{1 - ERROR:.0%} band")]
    for chain in inside[:: max(1, -(-len(inside) // INSIDE))]:  # more of them would be a grey block
        sheet.axes.plot(at, lines[chain], color="#969696", linewidth=1.0)
    for chain in outside[NAMED : NAMED + INSIDE]:
        sheet.axes.plot(at, lines[chain], color=BLACK, linewidth=1.0)
    for k, chain in enumerate(np.sort(outside[:NAMED])):
        sheet.axes.plot(at, lines[chain], color=SERIES[k], linewidth=1.6)
        sheet.key.append((LINE, SERIES[k], f"{'' if k else 'chain '}{chains[chain]}"))
    sheet.axes.set_xlim(0.0, 1.0)
    return sheet.png()


def forest(names: Sequence[str], mean: np.ndarray, levels: np.ndarray, rhat: np.ndarray) -> bytes:
    """Posterior means with 50 % (thick) and 90 % (thin) intervals, from the top; R-hat above 1.01 in orange, with the
    worst value. Of more than 18 parameters the first ones, and how many more there are.

    `levels` are 5, 25, 75 and 95 % quantiles, `(parameters, 4)`; means and R-hat `(parameters,)`, NaN of what never
    moved.
    """
    sheet = Sheet("Posterior", note="mean, 50 % and 90 % interval")
    shown = len(names) if len(names) <= ROWS else ROWS - 1
    rhat = np.asarray(rhat, dtype=np.float64)[:shown]
    columns = (part[:shown] for part in (np.arange(len(names)), mean, *np.transpose(levels)))
    at, mean, low, inner_low, inner_high, high = finite(*columns)
    if not len(at):
        return sheet.says("nothing to draw: no interval is finite")
    bad = rhat[at.astype(int)] > RHAT
    for colour, which in ((BLUE, ~bad), (ORANGE, bad)):
        sheet.axes.hlines(at[which], low[which], high[which], colour, linewidth=1.5)
        sheet.axes.hlines(at[which], inner_low[which], inner_high[which], colour, linewidth=4.0)
        sheet.dots(mean[which], at[which], 36.0 if shown > 8 else 54.0, colour, edge="white")
    if bad.any():
        sheet.key = [(DISC, ORANGE, f"R-hat above {RHAT}, worst {rhat[rhat > RHAT].max():.3g}")]
    sheet.rows = [(name(each), ORANGE if r > RHAT else BLACK) for each, r in zip(names, rhat, strict=False)]
    sheet.rows += [(f"… and {len(names) - shown} more", BLACK)] * (shown < len(names))
    sheet.axes.set_ylim(len(sheet.rows) - 0.4, -0.6)
    if low.min() < 0 < high.max():
        sheet.axes.axvline(0.0, color=GREY, linewidth=0.8, zorder=0.5)
    return sheet.png()


def shrinkage(alone: np.ndarray, pooled: np.ndarray, population: float, rows: np.ndarray, effect: str) -> bytes:
    """How groups are drawn to the population: off the identity line towards the population's mean, small groups most.

    Of estimates of groups by their own rows alone, NaN where there is none, their posterior means, and their numbers of
    rows, with which a marker's area grows, each `(groups,)`.
    """
    sheet = Sheet(f"Shrinkage of {effect}", "estimate from the group's own rows alone", "posterior mean")
    alone, pooled, rows = finite(alone, pooled, rows)
    if not len(alone):
        return sheet.says("no group has an estimate from its own rows alone")
    low, high = _middle(np.concatenate([alone, pooled, *finite([population])]))
    beyond = (alone < low) | (alone > high)
    areas = np.maximum(8.0, (200.0 if len(rows) <= 100 else 100.0) * rows / max(1.0, rows.max()))
    order = np.argsort(-areas, kind="stable")  # small ones on top
    inner, outer = order[~beyond[order]], order[beyond[order]]
    sheet.note = f"{many(len(alone), 'group')}{f' ({len(outer)} further out)' if len(outer) else ''}"
    sheet.axes.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1.2)
    sheet.key = [(DASHES, GREY, "no pooling")]
    if np.isfinite(population):
        sheet.axes.axhline(population, color=ORANGE, linewidth=1.6)
        sheet.key.append((LINE, ORANGE, "population"))
    sheet.dots(alone[inner], pooled[inner], areas[inner], BLUE, 0.55)
    sheet.dots(np.clip(alone[outer], low, high), pooled[outer], np.maximum(30.0, areas[outer]), "white", edge=BLUE)
    ends = np.append(pooled, population if np.isfinite(population) else pooled[0])
    room = 0.06 * (ends.max() - ends.min()) or 0.1 * abs(ends[0]) or 1.0
    sheet.axes.set_ylim(ends.min() - room, ends.max() + room)  # the line of no pooling is cut off, if need be
    return sheet.png()


def _middle(x: np.ndarray) -> tuple[float, float]:
    """Ends of a scale that a few far away don't set: all, or twice the span of the inner 90 % from its middle."""
    low, high = np.quantile(x, [0.05, 0.95])
    low, high = low - 1.5 * (high - low), high + 1.5 * (high - low)
    return (float(max(low, x.min())), float(min(high, x.max()))) if low < high else (float(x.min()), float(x.max()))


def pair(x: np.ndarray, y: np.ndarray, x_name: str, y_name: str, chain: np.ndarray) -> bytes:
    """Draws of two parameters, and which chain each is of, `(draws,)`: at most 1,000 of them, evenly spaced; up to 8
    chains have their colours.
    """
    return _scatter(Sheet(f"{name(x_name)} and {name(y_name)}", x_name, y_name), x, y, chain)


def funnel(
    effect: np.ndarray, log_scale: np.ndarray, effect_name: str, scale_name: str, chain: np.ndarray, rhat: float
) -> bytes:
    """Draws of a group's effect, and of the log scale of its prior, likewise: chains that can't enter the funnel's neck
    stop short of it. R-hat is the effect's.
    """
    sheet = Sheet(f"Funnel of {effect_name}", effect_name, f"log {scale_name}", f"R-hat {rhat:.3f}")
    return _scatter(sheet, effect, log_scale, chain)


def _scatter(sheet: Sheet, x: np.ndarray, y: np.ndarray, chain: np.ndarray) -> bytes:
    x, y, chain = finite(*(np.asarray(part)[_some(len(x), DRAWS)] for part in (x, y, chain)))
    if not len(x):
        return sheet.says("nothing to draw: no draw is finite")
    chains, which = np.unique(chain, return_inverse=True)
    few = len(chains) <= len(SERIES)
    order = np.random.default_rng(0).permutation(len(x))  # or the last chain would hide the others
    colours = [SERIES[k] for k in which[order]] if few else BLUE
    size, alpha = (16.0, 0.6) if len(x) > 200 else (28.0, 0.75)
    sheet.dots(x[order], y[order], size, colours, alpha)
    names = [f"{'' if k else 'chain '}{each:.0f}" for k, each in enumerate(chains)]
    labels = names if few else [f"{len(chains)} chains"]
    sheet.key = [(DISC, colour, label) for colour, label in zip(SERIES, labels, strict=False)]
    return sheet.png()


def acceptance(rates: np.ndarray, names: Sequence[str], block: str) -> bytes:
    """Acceptance of each group of a block that decides for groups, `(groups,)`, from the lowest, and their mean; of
    more than 2,000 groups so many are drawn. The three lowest are named.
    """
    sheet = Sheet(f"Acceptance of {block}", "groups, from the lowest", "acceptance")
    place, rates = finite(np.arange(len(rates)), rates)
    if not len(rates):
        return sheet.says("nothing to draw: no rate is finite")
    order, some = np.argsort(rates, kind="stable"), _some(len(rates), GROUPS)
    size, alpha = (40.0, 0.9) if len(rates) <= 100 else (12.0, 0.6)
    sheet.axes.axhline(rates.mean(), color=ORANGE, linewidth=1.6)
    sheet.key = [(LINE, ORANGE, f"mean {rates.mean():.2f}")]
    sheet.dots(some + 1.0, rates[order[some]], size, BLUE, alpha)
    sheet.axes.set_ylim(-0.02, 1.02)
    sheet.axes.locator_params("x", integer=True)
    sheet.note = many(len(rates), "group")
    if len(rates) > 3:
        lowest = (f"{name(names[int(place[k])], 14)} {rates[k]:.2f}" for k in order[:3])
        sheet.caption = f"lowest: {', '.join(lowest)}"
    return sheet.png()


def _some(count: int, most: int) -> np.ndarray:
    return evenly(count, most, torch.device("cpu")).numpy()
