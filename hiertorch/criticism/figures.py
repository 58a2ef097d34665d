"""Figures of predictive checks, by arviz-plots where it does more than draw."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from hiertorch import wording
from hiertorch.arguments import check_choice
from hiertorch.criticism import panels
from hiertorch.criticism.check import Check
from hiertorch.criticism.statistics import p_text
from hiertorch.draws.spacing import evenly
from hiertorch.errors import DataError
from hiertorch.runtime.silence import quiet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = 50
"""Replications in a figure of densities."""

ROWS = 10_000
"""Rows in a figure of densities, and of calibration, evenly spaced where there are more."""

COUNTED = 200
"""Replications in a rootogram."""

SHOWN = 60
"""Groups in a figure, evenly spaced by their means where there are more."""


def draw(check: Check, kind: str, plate: str | None) -> "Figure":
    """See `hiertorch.criticism.predictive.PredictiveCheck.plot`."""
    check_choice("kind", kind, tuple(KINDS))
    needed = {"calibration": "binary", "rootogram": "count"}.get(kind)
    if needed is not None and check.response != needed:
        fitting = [name for name in KINDS if name not in ("calibration", "rootogram")]
        fitting += {"binary": ["calibration"], "count": ["rootogram"]}.get(check.response, [])
        raise DataError(
            f"a figure of kind {kind!r} is of a {needed} response, and this one is {check.response}: take "
            f"{wording.listed(map(repr, fitting))}."
        )
    if plate is not None and kind != "groups":
        raise DataError(f"plate= is the grouping of a figure of groups; kind is {kind!r}: leave plate= out.")
    try:
        import arviz_plots  # noqa: F401
        from matplotlib import pyplot, rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise ImportError("figures need matplotlib and arviz-plots: pip install 'hiertorch[plots]'.") from error
    # A group may be called $x^$, which is no formula.
    # arviz-plots' notes on discrete data are taken account of here.
    with rc_context({"text.parse_math": False}), pyplot.ioff(), quiet(category=UserWarning):
        figure = _groups(check, plate) if kind == "groups" else KINDS[kind](check)
        pyplot.close(figure)
        FigureCanvasAgg(figure)  # so that no window is behind it
    return figure


def _density(check: Check) -> "Figure":
    """The response, and some replications of it: densities, or shares of counts."""
    from arviz_plots import plot_ppc_dist

    if check.response == "binary":
        return _statistics(check, ["proportion of ones"])
    if check.response == "category":
        return _statistics(check)
    y, replicated, rows = panels.responses(check, CURVES, ROWS)
    name, continuous = check.replications.data.name, check.response == "continuous"
    figure, axes = panels.drawn(
        plot_ppc_dist,
        panels.tree(replicated, y, whole=not continuous),
        {
            "remove_axis": False,
            "predictive_dist": {"color": panels.REPLICATED, "alpha": 0.25},
            "observed_dist": {"color": panels.OBSERVED, "zorder": 3},
        },
        kind="kde" if continuous else "ecdf",
        group="posterior_predictive",
        num_samples=len(replicated),
    )
    if continuous:
        panels.cut(axes)
    axes.set_xlabel(name)
    axes.set_ylabel("density" if continuous else "proportion of rows up to it")
    some = "" if rows == check.replications.data.n_rows else f", {rows:,} of its rows"
    panels.legend(axes, f"{len(replicated)} replications", "the data")
    return panels.titled(figure, check, f"{name}{some}")


def _statistics(check: Check, names: Sequence[str] = ()) -> "Figure":
    """T(y) among T(y_rep), one panel a statistic; without those that are the same in all replications."""
    wanted = names or [name for name, statistic in check.statistics.items() if statistic.drawn]
    parts = {name: panels.middle(check.replicated[name].numpy()) for name in wanted}
    parts = {name: x for name, x in parts.items() if np.ptp(x) > 0}
    if not parts:
        raise DataError("every statistic is the same in all replications, so that there is nothing to draw.")
    wide = min(4, len(parts))
    figure, grid = panels.grid(len(parts), 4, max(panels.SIZE[0] / wide, 2.7), 2.1, more=0.9)
    for axes, (name, x) in zip(grid, parts.items(), strict=True):
        axes.hist(x, bins=20, histtype="step", color=panels.REPLICATED)
        axes.axvline(check.observed[name], color=panels.OBSERVED, linewidth=2)
        axes.set_title(
            f"{name}\n{p_text(float(check.table['p'][name]), check.replications.draws)}",
            fontsize=9,
            fontweight="bold" if check.table["extreme"][name] else "normal",
        )
        axes.tick_params(labelsize=8)
        axes.locator_params(axis="x", nbins=4)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    what = "statistics" if len(parts) > 1 else next(iter(parts))
    return panels.titled(
        figure, check, f"{what} of {check.replications.data.name}: data (line), replications (histogram)"
    )


def _groups(check: Check, plate: str | None = None) -> "Figure":
    """Group means of the data, in their order, on the middle 90 % of replicated ones."""
    data = check.replications.data
    if plate is None:
        if not data.plates:
            raise DataError("these data have no grouping, so that there are no group means to show.")
        plate = data.plates[0]
    check_choice("plate", plate, data.plates)
    counts, codes = data.counts(plate), data.codes[plate]
    response = check.replications.y
    means = response.new_zeros(len(counts)).index_add_(0, codes, response) / counts.clamp(min=1)
    present = (counts > 0).nonzero()[:, 0]
    order = present[means[present].argsort(stable=True)]
    shown = order[evenly(len(order), SHOWN, order.device)]
    place = torch.full_like(counts, -1)
    place[shown] = torch.arange(len(shown), device=shown.device)
    rows = (place[codes] >= 0).nonzero()[:, 0]
    parts = []
    for y in check.replications:
        y = y[torch.isfinite(y).all(1)][:, rows].double()
        sums = y.new_zeros(len(y), len(shown)).index_add_(1, place[codes[rows]], y)
        parts.append(sums / counts[shown])
    replicated = torch.cat(parts)
    low, middle, high = replicated.quantile(replicated.new_tensor([0.05, 0.5, 0.95]), dim=0).cpu().numpy()
    seen = means[shown].cpu().numpy()
    outside = float(((seen < low) | (seen > high)).mean())
    figure, (axes,) = panels.grid(1, 1, max(6.0, 0.16 * len(shown) + 2), 4.2)
    at = np.arange(len(shown))
    axes.vlines(at, low, high, color=panels.REPLICATED, alpha=0.5, linewidth=4, label="replicated mean, middle 90 %")
    axes.plot(at, middle, "_", color=panels.REPLICATED, markersize=6)
    axes.plot(at, seen, "o", color=panels.OBSERVED, markersize=3.5, label="mean in the data")
    labels = [str(data.labels[plate][int(code)]) for code in shown]
    axes.set_xticks(at, labels, rotation=90, fontsize=7 if len(shown) > 20 else 9)
    axes.set_xlim(-1, len(shown))
    some = f", {len(shown)} of {len(order)}" if len(shown) < len(order) else ""
    axes.set_xlabel(f"{plate}{some}, in order of their means")
    axes.set_ylabel(f"mean {data.name}")
    axes.legend(frameon=False, loc="upper left", fontsize=8)
    fewer = "10 %" if check.groups == "new" else "fewer than 10 %"  # known effects follow the data
    return panels.titled(figure, check, f"means of {plate}; {outside:.0%} lie outside, where {fewer} are expected")


def _loo_pit(check: Check) -> "Figure":
    """Empirical distribution function of LOO-PIT less the uniform one, and its band."""
    pit = check.loo_pit
    figure, (axes,) = panels.grid(1, 1, *panels.SIZE)
    points, lower, upper = (np.pad(x, 1) for x in (pit.band.points, pit.band.lower, pit.band.upper))
    points[-1] = lower[-1] = upper[-1] = 1.0
    axes.fill_between(points, lower - points, upper - points, color=panels.REPLICATED, alpha=0.2, linewidth=0)
    axes.axhline(0, color="grey", linewidth=0.8)
    u = np.concatenate([[0.0], np.sort(pit.values), [1.0]])
    axes.plot(u, np.append(np.linspace(0, 1, len(u) - 1), 1.0) - u, color=panels.OBSERVED, drawstyle="steps-post")
    axes.set_xlabel("LOO-PIT")
    axes.set_ylabel("share of rows below, less the uniform one")
    verdict = "can't be told from uniform" if pit.uniform else "not uniform"
    return panels.titled(
        figure, check, f"LOO-PIT of {check.replications.data.name}, 99 % band: {verdict} ({p_text(pit.p, 1000)})"
    )


def _calibration(check: Check) -> "Figure":
    """Frequencies of ones by predicted probability, made monotone (Dimitriadis, Gneiting & Jordan 2021)."""
    from arviz_plots import plot_ppc_pava

    y, replicated, _ = panels.responses(check, check.replications.draws, ROWS)
    colors = {"lines": {"color": panels.OBSERVED}, "credible_interval": {"color": panels.REPLICATED}}
    tree = panels.tree(replicated, y, whole=True)
    figure, axes = panels.drawn(plot_ppc_pava, tree, colors, size=(5.2, 5.2), ci_prob=0.9)
    name = check.replications.data.name
    axes.set_xlabel(f"predicted probability of {name}")
    axes.set_ylabel(f"frequency of {name}")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    return panels.titled(figure, check, "frequencies made monotone; band: 90 % of replications")


def _rootogram(check: Check) -> "Figure":
    """How often each count occurs, on the square-root scale (Kleiber & Zeileis 2016)."""
    from arviz_plots import plot_ppc_rootogram

    y, replicated, rows = panels.responses(check, COUNTED, 10 * ROWS)
    colors = {key: {"color": panels.REPLICATED} for key in ("predictive_markers", "credible_interval")}
    colors["observed_markers"] = {"color": panels.OBSERVED}
    figure, axes = panels.drawn(plot_ppc_rootogram, panels.tree(replicated, y, whole=True), colors, ci_prob=0.9)
    name = check.replications.data.name
    axes.set_xlabel(name)
    axes.set_ylabel("rows with this count")
    some = "" if rows == check.replications.data.n_rows else f" in {rows:,} of its rows"
    axes.set_xlim(right=1.1 * max(float(y.max()), 1.0))
    panels.legend(axes, "replications, middle 90 %", "the data")
    return panels.titled(figure, check, f"how often each count of {name} occurs{some}")


KINDS: Mapping[str, Callable[[Check], "Figure"]] = {
    "density": _density,
    "statistics": _statistics,
    "groups": _groups,
    "loo_pit": _loo_pit,
    "calibration": _calibration,
    "rootogram": _rootogram,
}
