"""What figures of predictive checks share: data as ArviZ takes them, titles, legends and limits."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from arviz_plots import PlotCollection
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import DataTree

from hiertorch.criticism.check import Check
from hiertorch.draws.spacing import evenly
from hiertorch.palette import BLACK, BLUE

SIZE = (6.4, 4.2)
"""Of a figure with one panel, in inches."""

OBSERVED, REPLICATED = BLACK, BLUE


def responses(check: Check, draws: int, rows: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The response and some replications of evenly spaced rows, and how many these are."""
    data = check.replications.data
    which = evenly(data.n_rows, rows, data.device)
    replicated = check.replications.first(draws, which)
    return check.replications.y[which].cpu().numpy(), replicated.cpu().numpy(), len(which)


def tree(replicated: np.ndarray, observed: np.ndarray, *, whole: bool) -> "DataTree":
    """As ArviZ takes them: replications `(draws, rows)` as one chain, in whole numbers if they are counts."""
    from arviz_base import from_dict

    kind = np.int64 if whole else np.float64
    replications = {"y": replicated[None].astype(kind)}
    return from_dict({"posterior_predictive": replications, "observed_data": {"y": observed.astype(kind)}})


def drawn(
    plot: "Callable[..., PlotCollection]",
    content: "DataTree",
    visuals: Mapping[str, object],
    size: tuple[float, float] = SIZE,
    **options: object,
) -> tuple["Figure", "Axes"]:
    """What a function of arviz-plots draws, without its title: the figure and its first panel."""
    from matplotlib import pyplot

    visuals, kwargs = {"title": False, **visuals}, {"figsize": size}
    figure = plot(content, backend="matplotlib", visuals=visuals, figure_kwargs=kwargs, **options).viz["figure"].item()
    pyplot.close(figure)  # which else shows it a second time in a notebook
    return figure, figure.axes[0]


def grid(number: int, most: int, width: float, height: float, more: float = 0.0) -> tuple["Figure", Sequence["Axes"]]:
    """A figure of so many panels, at most so many in a row, each of this size in inches, with more height for a title.

    The figure is none of pyplot's, whose windows and settings belong to the whole process.
    """
    from hiertorch.criticism.picture import Picture

    wide = min(most, number)
    high = -(-number // wide)
    figure = Picture(figsize=(width * wide, height * high + more), layout="constrained")
    every = figure.subplots(high, wide, squeeze=False).flatten()
    for axes in every[number:]:
        axes.remove()
    for axes in every[:number]:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(every[:number])


def cut(axes: "Axes") -> None:
    """Densities of a few replications that hardly vary would leave the others no height."""
    peaks = np.array([np.max(np.asarray(line.get_ydata(), dtype=float)) for line in axes.get_lines()])
    axes.set_ylim(0, 1.1 * max(peaks[-1], np.quantile(peaks, 0.9)))  # the last line is the data's


def legend(axes: "Axes", replications: str, data: str) -> None:
    """What is in which colour."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=REPLICATED, label=replications), Line2D([], [], color=OBSERVED, label=data)]
    axes.legend(handles=handles, frameon=False, fontsize=8)


def titled(figure: "Figure", check: Check, what: str) -> "Figure":
    """With a title of two lines: model and kind of check, and what is shown."""
    who = "prior" if check.kind == "prior" else f"posterior, {check.groups} groups"
    figure.set_layout_engine("constrained")
    figure.suptitle(f"{check.model} ({who})\n{what}", fontsize=10)
    return figure


def middle(values: np.ndarray) -> np.ndarray:
    """Values without the outer 1 %: a few that are far away would leave all others in one bar."""
    low, high = np.quantile(values, [0.005, 0.995])
    return values[(values >= low) & (values <= high)]
