"""The figures of a dashboard while it runs: chains and parameters. Arguments are numpy arrays, results are PNGs."""

from collections.abc import Sequence

import numpy as np

from hiertorch.dashboard.drawing.canvas import BLACK, BLUE, CHAINS, GREY, LIGHT, ORANGE, Panel
from hiertorch.dashboard.drawing.ticks import short
from hiertorch.dashboard.drawing.typesetting import Colour
from hiertorch.draws.ranks import ERROR, band, differences

__all__ = ["block_acceptance", "forest", "funnel", "pair", "rank", "shrinkage"]

RANKED, SORTED = 150, 25_000  # at most so many draws of a chain, and of all, thinned evenly: less dependent, too
MOST_CHAINS, NAMED, INSIDE = 256, 4, 16  # in a figure of ranks: judged; named outside the band; drawn inside it
ROWS = 18  # of a forest
DRAWS = 1_000  # of a pair
GROUPS = 2_000  # in a figure of acceptance
RHAT = 1.01  # above it chains have not mixed
FINE: Colour = (0, 90, 150)
MIDDLE: Colour = (150, 150, 150)  # of lines on the light grey of the band


def rank(x: np.ndarray, name: str) -> bytes:
    """ECDF of each chain's ranks less the even one, and the band of `hiertorch.draws.ranks`: chains outside
    it have not found the same distribution as the others.

    Args:
        x: draws of a parameter, `(chains, draws)`; of more than 256 chains some are judged, and of more than 150 draws
            (25,000 of all chains) every k-th. A chain with a draw that isn't finite is left out.
        name: of the parameter.
    """
    panel = Panel(f"Ranks of {name}", "rank of a draw among those of all chains, as a share", "ECDF difference")
    chains = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_CHAINS)).round().astype(int))
    x = np.asarray(x, dtype=np.float64)[chains]
    finite = np.isfinite(x).all(1)
    most = min(RANKED, SORTED // max(1, len(x)))
    x, chains = x[finite, :: max(1, -(-x.shape[1] // most))], chains[finite]
    if len(x) < 2 or x.shape[1] < 8:
        panel.sentence = "ranks need two chains or more, of eight draws or more, all of them finite"
        return panel.png()
    if x.min() == x.max():
        panel.sentence = f"{name} never moved: all its draws are {short(x[0, 0])}"
        return panel.png()
    points, low, high = band(*x.shape)
    lines = differences(x)
    excess = np.maximum(lines - high, low - lines).max(1)
    order = np.argsort(-excess, kind="stable")
    outside = order[excess[order] > 1e-12]
    at, edge = np.concatenate([[0.0], points, [1.0]]), np.zeros((len(x), 1))
    lines = np.hstack([edge, lines, edge])
    panel.x.fixed = (0.0, 1.0)
    panel.band(at, np.array([0.0, *low, 0.0]), np.array([0.0, *high, 0.0]), LIGHT, 1.0)
    panel.across(0.0, GREY, thick=1.0)
    inside = order[len(outside) :]
    for chain in inside[:: max(1, -(-len(inside) // INSIDE))].tolist():  # more of them would be a grey block
        panel.line(at, lines[chain], MIDDLE, 1.5)
    for chain in outside[NAMED : NAMED + INSIDE].tolist():
        panel.line(at, lines[chain], BLACK, 1.5)
    named = np.sort(outside[:NAMED]).tolist()
    for k, chain in enumerate(named):
        panel.line(at, lines[chain], CHAINS[k], 2.0)
    panel.note = f"{len(outside)} of {len(x)} chains outside"
    panel.legend("band", LIGHT, f"{1 - ERROR:.0%} band")
    for k, chain in enumerate(named):
        panel.legend("line", CHAINS[k], f"{'chain ' if k == 0 else ''}{chains[chain]}")
    return panel.png()


def forest(
    names: Sequence[str],
    mean: np.ndarray,
    low: np.ndarray,
    inner_low: np.ndarray,
    inner_high: np.ndarray,
    high: np.ndarray,
    rhat: np.ndarray,
) -> bytes:
    """Posterior means with 50 % (thick) and 90 % (thin) intervals, from the top; R-hat above 1.01 in orange, with its
    value. Of more than 18 parameters the first ones, and how many more there are.

    Args:
        names: of the parameters.
        mean: posterior means, `(parameters,)`, as all that follow.
        low: 5 % quantiles.
        inner_low: 25 % quantiles.
        inner_high: 75 % quantiles.
        high: 95 % quantiles.
        rhat: `(parameters,)`; NaN of what never moved.
    """
    panel = Panel("Posterior", note="mean, 50 % and 90 % interval")
    shown = len(names) if len(names) <= ROWS else ROWS - 1
    rows = [str(name) for name in names[:shown]]
    bad = np.asarray(rhat, dtype=np.float64)[:shown] > RHAT
    at = np.arange(shown, dtype=np.float64)
    parts = [np.asarray(part, dtype=np.float64)[:shown] for part in (mean, low, inner_low, inner_high, high)]
    thin, thick, size = (2.0, 5.0, 4.5) if shown > 8 else (2.0, 7.0, 6.0)
    for colour, dark, which in ((BLUE, FINE, ~bad), (ORANGE, ORANGE, bad)):
        middle, outer_low, quarter, three, outer_high = (part[which] for part in parts)
        panel.intervals(at[which], outer_low, outer_high, colour, thin, level=True)
        panel.intervals(at[which], quarter, three, colour, thick, level=True)
        panel.points(middle, at[which], (255, 255, 255), size)
        panel.points(middle, at[which], dark, size - 1.5)
    panel.y.rows = [*rows, f"… and {len(names) - shown} more"] if shown < len(names) else rows
    panel.y.colours = [ORANGE if each else BLACK for each in bad] + [GREY] * (len(panel.y.rows) - shown)
    if not panel.empty:
        low_end, high_end = panel.x.limits()
        if low_end < 0 < high_end:
            panel.upright(0.0, GREY, thick=1.0)
            panel.marks.insert(0, panel.marks.pop())  # behind the others
    if bad.any():
        panel.legend("dot", ORANGE, f"R-hat above {RHAT}, worst {short(float(np.max(np.asarray(rhat)[:shown][bad])))}")
    return panel.png()


def shrinkage(alone: np.ndarray, pooled: np.ndarray, population: float, rows: np.ndarray, name: str) -> bytes:
    """How groups are drawn to the population: off the identity line towards the population's mean, small groups most.

    Args:
        alone: estimates of groups by their own rows alone, `(groups,)`; NaN where there is none.
        pooled: posterior means, `(groups,)`.
        population: the mean that groups are drawn to.
        rows: of each group, `(groups,)`: a marker's area grows with them.
        name: of the effect.
    """
    panel = Panel(f"Shrinkage of {name}", "estimate from the group's own rows alone", "posterior mean")
    alone, pooled = np.asarray(alone, dtype=np.float64), np.asarray(pooled, dtype=np.float64)
    kept = np.isfinite(alone) & np.isfinite(pooled)
    alone, pooled, rows = alone[kept], pooled[kept], np.maximum(np.asarray(rows, dtype=np.float64)[kept], 0.0)
    if not len(alone):
        panel.sentence = "no group has an estimate from its own rows alone"
        return panel.png()
    ends = _middle(np.concatenate([alone, pooled, np.atleast_1d(population)]))
    beyond = (alone < ends[0]) | (alone > ends[1])
    panel.identity(GREY)
    panel.across(float(population), ORANGE, thick=2.0)
    largest = rows.max() if np.isfinite(rows).all() and rows.max() > 0 else 1.0
    radius = np.maximum(2.0, (10.0 if len(rows) <= 100 else 7.0) * np.sqrt(rows / largest))
    order = np.argsort(-radius, kind="stable")  # small ones on top
    inner, outer = order[~beyond[order]], order[beyond[order]]
    panel.points(alone[inner], pooled[inner], BLUE, radius[inner], 0.55)
    panel.points(np.clip(alone[outer], *ends), pooled[outer], BLUE, np.maximum(4.0, radius[outer]), hollow=True)
    panel.note = f"{len(alone)} group{'s' * (len(alone) > 1)}" + (
        f" ({beyond.sum()} further out)" if beyond.any() else ""
    )
    panel.legend("line", ORANGE, "population")
    panel.legend("dash", GREY, "no pooling")
    return panel.png()


def _middle(x: np.ndarray) -> tuple[float, float]:
    """Ends of a scale that a few far away don't set: all, or twice the span of the inner 90 % from its middle."""
    low, high = np.quantile(x, [0.05, 0.95])
    low, high = low - 1.5 * (high - low), high + 1.5 * (high - low)
    return (float(max(low, x.min())), float(min(high, x.max()))) if low < high else (float(x.min()), float(x.max()))


def pair(x: np.ndarray, y: np.ndarray, x_name: str, y_name: str, chain: np.ndarray) -> bytes:
    """Draws of two parameters, at most 1,000 of them, evenly spaced.

    Args:
        x: `(draws,)`.
        y: `(draws,)`.
        x_name: of the first parameter.
        y_name: of the second.
        chain: which chain each draw is of, `(draws,)`; up to 8 chains have their colours.
    """
    return _scatter(Panel(f"{x_name} and {y_name}", x_name, y_name), x, y, chain)


def funnel(
    effect: np.ndarray, log_scale: np.ndarray, effect_name: str, scale_name: str, chain: np.ndarray, rhat: float
) -> bytes:
    """Draws of a group's effect, and of the log scale of its prior: chains that can't enter the funnel's neck stop
    short of it.

    Args:
        effect: `(draws,)`.
        log_scale: `(draws,)`.
        effect_name: of the effect.
        scale_name: of the scale, without its log.
        chain: which chain each draw is of, `(draws,)`.
        rhat: of the effect.
    """
    title, note = f"Funnel of {effect_name}", f"R-hat {rhat:.3f}" if np.isfinite(rhat) else f"R-hat {short(rhat)}"
    return _scatter(Panel(title, effect_name, f"log {scale_name}", note), effect, log_scale, chain)


def _scatter(panel: Panel, x: np.ndarray, y: np.ndarray, chain: np.ndarray) -> bytes:
    x, y, chain = (np.asarray(part).reshape(-1) for part in (x, y, chain))
    some = np.unique(np.linspace(0, max(0, len(x) - 1), min(len(x), DRAWS)).round().astype(int))
    x, y, chain = x[some].astype(np.float64), y[some].astype(np.float64), chain[some]
    radius, alpha = (3.0, 0.6) if len(x) > 200 else (4.0, 0.75)
    chains = np.unique(chain)
    if len(chains) > len(CHAINS):
        panel.points(x, y, BLUE, radius, alpha)
        panel.legend("dot", BLUE, f"{len(chains)} chains")
        return panel.png()
    # In turns, or the last chain would hide the others.
    for part in np.array_split(np.random.default_rng(0).permutation(len(x)), 12):
        for k, each in enumerate(chains):
            mine = part[chain[part] == each]
            panel.points(x[mine], y[mine], CHAINS[k], radius, alpha)
    for k, each in enumerate(chains):
        panel.legend("dot", CHAINS[k], f"{'chain ' if k == 0 else ''}{each}")
    return panel.png()


def block_acceptance(rates: np.ndarray, names: Sequence[str], block: str = "") -> bytes:
    """Acceptance of each group of a block that decides for groups, from the lowest, and their mean.

    Args:
        rates: `(groups,)`, between 0 and 1; of more than 2,000 groups so many are drawn.
        names: of the groups; the three lowest are named.
        block: of the plan.
    """
    panel = Panel(f"Acceptance of {block}" if block else "Acceptance by group", "groups, from the lowest", "acceptance")
    rates = np.asarray(rates, dtype=np.float64).reshape(-1)
    finite = np.flatnonzero(np.isfinite(rates))
    if not len(finite):
        return panel.png()
    order = finite[np.argsort(rates[finite], kind="stable")]
    mean, total = float(rates[order].mean()), len(order)
    place = np.unique(np.linspace(0, total - 1, min(total, GROUPS)).round().astype(int))
    panel.across(mean, ORANGE, thick=2.0)
    panel.points(place + 1.0, rates[order[place]], BLUE, 4.5 if total <= 100 else 2.5, 0.9 if total <= 100 else 0.6)
    panel.y.fixed = (0.0, 1.0)
    panel.x.whole = True
    lowest = order[:3] if total > 3 else order[:0]
    height, side = (0.3, float(total)) if mean > 0.4 else (0.94, 1.0)  # where there are no points
    if len(lowest):
        panel.label(side, height, "lowest:", GREY)
    for k, group in enumerate(lowest.tolist()):
        panel.label(side, height - 0.085 * (k + 1), f"{names[group]} ({rates[group]:.2f})")
    panel.note = f"{total} group{'s' * (total > 1)}"
    panel.legend("line", ORANGE, f"mean {mean:.2f}")
    return panel.png()
