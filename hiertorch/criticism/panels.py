"""What figures of predictive checks share: data as ArviZ takes them, titles, legends and limits."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from arviz_plots import PlotCollection
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import DataTree

from hiertorch.criticism.check import Check
from hiertorch.draws.spacing import evenly

SIZE = (6.4, 4.2)
"""Of a figure with one panel, in inches."""

OBSERVED, REPLICATED = "black", "C0"


def responses(check: Check, draws: int, rows: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The response and some replications of evenly spaced rows, and how many these are."""
    data = check.replications.data
    which = evenly(data.n_rows, rows, data.device)
    replicated = check.replications.first(draws, which)
    return data.y[which].cpu().numpy(), replicated.cpu().numpy(), len(which)


def tree(replicated: Mapping[str, np.ndarray], observed: Mapping[str, np.ndarray], whole: bool = False) -> "DataTree":
    """As ArviZ takes them: replications `(draws, ...)` as one chain."""
    from arviz_base import from_dict

    kind = np.int64 if whole else np.float64
    return from_dict(
        {
            "posterior_predictive": {name: x[None].astype(kind) for name, x in replicated.items()},
            "observed_data": {name: x.astype(kind) for name, x in observed.items()},
        }
    )


def cut(axes: "Axes") -> None:
    """Densities of a few replications that hardly vary would leave the others no height."""
    peaks = np.array([np.max(np.asarray(line.get_ydata(), dtype=float)) for line in axes.get_lines()])
    axes.set_ylim(0, 1.1 * max(peaks[-1], np.quantile(peaks, 0.9)))  # the last line is the data's


def figure_of(collection: "PlotCollection") -> tuple["Figure", "Axes"]:
    """What arviz-plots drew, and its first panel."""
    figure = collection.viz["figure"].item()
    return figure, figure.axes[0]


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
    """Values without the outer 1 %, the first of them twice to keep their number: a few that are far away would leave
    all others in one bar.
    """
    low, high = np.quantile(values, [0.005, 0.995])
    kept = values[(values >= low) & (values <= high)]
    return np.resize(kept, values.shape)
