"""Figures of a report, as PNG."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.draws.ranks import band, differences

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plain_text", "png", "ranks", "require", "shrinkage", "traces"]

CHAINS, TRACED, RANKED = 8, 400, 150
"""Of each parameter: chains that are drawn, and at most so many draws of each, evenly thinned."""

MOST, ENDS = 60, 20
"""Groups in a figure of shrinkage; of more, so many of those pooled least and most."""

OWN, POOLED = "#c25b12", "#1f5fa8"


def require() -> None:
    """Raises an ImportError that says how to get what figures need."""
    try:
        import arviz_plots  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("figures need matplotlib and arviz-plots: pip install 'hiertorch[plots]'.") from error


def png(figure: "Figure", dpi: int = 110) -> bytes:
    """A figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


@contextmanager
def plain_text() -> Iterator[None]:
    """Labels as they are: a group may be called "$x$"."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}):
        yield


def chosen(x: Tensor, odd: bool) -> list[int]:
    """Numbers of the chains to draw, of draws `(chains, draws)`: evenly spaced; with the two that are furthest from the
    rest if chains are known to be at odds (of chains that agree, these would look as if they weren't).
    """
    chains = x.shape[0]
    if chains <= CHAINS:
        return list(range(chains))
    ranks = x.flatten().argsort().argsort().reshape(x.shape).double()  # the middle of a heavy tail is no mean
    far = (ranks.mean(1) - ranks.mean()).abs().argsort(descending=True)[:2].tolist() if odd else []
    others = [c for c in range(chains) if c not in far]
    even = np.linspace(0, len(others) - 1, CHAINS - len(far)).round().astype(int)
    return sorted([*far, *(others[i] for i in even)])


def traces(draws: Mapping[str, Tensor], odd: Mapping[str, bool]) -> bytes:
    """Draws of some parameters one after another, name -> `(chains, draws)`; `odd` says which have chains at odds."""
    from arviz_base import from_dict
    from arviz_plots import plot_trace
    from matplotlib import pyplot

    parts = {f"p{k}": _some(x, odd[name], TRACED) for k, (name, x) in enumerate(draws.items())}  # names xarray takes
    wide, size = _layout(len(draws))
    with pyplot.ioff(), plain_text():
        tree = from_dict({"posterior": parts})
        collection = plot_trace(tree, backend="matplotlib", col_wrap=wide, figure_kwargs={"figsize": size})
        figure = collection.viz["figure"].item()
        pyplot.close(figure)
        for axes, name in zip([axes for axes in figure.axes if axes.has_data()], draws, strict=True):
            axes.set_title(name, fontsize=9)
            axes.set_xlabel("")
            axes.tick_params(labelsize=7)
            for line in axes.lines:
                line.set_linewidth(0.7)
        figure.subplots_adjust(hspace=0.4)
        return png(figure)


def ranks(draws: Mapping[str, Tensor], odd: Mapping[str, bool]) -> bytes:
    """How evenly the ranks of each chain's draws are spread among those of all, as `hiertorch.draws.ranks` has it; name
    -> `(chains, draws)`.

    Drawn here since the lines of `arviz_plots.plot_rank` (0.8) stay near 0 for a chain that stands apart from the rest.
    """
    from matplotlib.figure import Figure

    wide, size = _layout(len(draws))
    with plain_text():
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(-(-len(draws) // wide), wide, squeeze=False).flatten()
        for axes, (name, every) in zip(grid, draws.items(), strict=False):
            x = _some(every, odd[name], RANKED)
            points, low, high = band(*x.shape)
            axes.fill_between(points, low, high, color="#dddddd", linewidth=0)
            for line in differences(x):
                axes.plot(points, line, linewidth=0.8)
            axes.set_title(name, fontsize=9)
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in grid[len(draws) :]:
            axes.set_visible(False)
        return png(figure)


def _some(x: Tensor, odd: bool, most: int) -> np.ndarray:
    """Some chains and draws of `(chains, draws)`."""
    return x[chosen(x, odd), :: max(1, -(-x.shape[1] // most))].cpu().numpy()


def _layout(panels: int) -> tuple[int, tuple[float, float]]:
    """Panels in a row, and the size of the figure."""
    wide = min(2, panels)
    return wide, (4.6 * wide, 2.2 * -(-panels // wide))


@plain_text()
def shrinkage(groups: pd.DataFrame, title: str, centre: float) -> bytes:
    """Estimates of groups by their own rows alone, and as the model has them: the way between is how far each is drawn.

    Args:
        groups: rows of `Pooling.groups` of one level.
        title: of the horizontal axis.
        centre: the mean of all estimates of the model, for the line.
    """
    from matplotlib.figure import Figure

    shown, split = _shown(groups)
    at = np.arange(len(shown), dtype=float)
    at[split:] += 1.0 if split < len(shown) else 0.0  # a gap between least and most pooled
    mean, sd = shown["mean"].to_numpy(), shown["sd"].to_numpy()
    own, se = shown["no_pooling"].to_numpy(float), shown["se"].to_numpy(float)
    figure = Figure(figsize=(7.6, 1.1 + 0.2 * (len(shown) + 1)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(centre, color="#888888", linewidth=1, linestyle="--", label="mean of all groups")
    axes.hlines(at + 0.17, own - 1.6 * se, own + 1.6 * se, color=OWN, linewidth=0.8, alpha=0.55)
    axes.hlines(at, mean - 1.6 * sd, mean + 1.6 * sd, color=POOLED, linewidth=2.2, alpha=0.8)
    axes.plot(own, at + 0.17, "o", color=OWN, markersize=4, markerfacecolor="white", label="by its own rows alone")
    axes.plot(mean, at, "o", color=POOLED, markersize=4, label="partially pooled")
    low, high = (mean - 1.6 * sd).min(), (mean + 1.6 * sd).max()
    room = high - low  # estimates of one or two rows may be anywhere: they don't set the scale
    inside = own[np.isfinite(own) & (own > low - room) & (own < high + room)]
    ends = np.concatenate([[low, high], inside])
    axes.set_xlim(ends.min() - 0.04 * np.ptp(ends), ends.max() + 0.04 * np.ptp(ends))
    labels = [f"{group} ({rows})" for group, rows in zip(shown["group"], shown["rows"], strict=True)]
    axes.set_yticks(at, [label if len(label) < 32 else label[:30] + "…" for label in labels], fontsize=7.5)
    axes.set_ylim(at[-1] + 0.8, -0.8)
    axes.set_xlabel(title, fontsize=9)
    if split < len(shown):
        axes.axhline(split, color="#cccccc", linewidth=0.8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return png(figure, 120)


def _shown(groups: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """All groups in the order of their estimates; or of many, those pooled least, then those pooled most; and how many
    stand before the gap.
    """
    if len(groups) <= MOST:
        return groups.sort_values("mean", kind="stable"), len(groups)
    ordered = groups.sort_values("shrinkage", kind="stable", na_position="first")
    ends: Sequence[pd.DataFrame] = [ordered.head(ENDS), ordered.tail(ENDS)]
    return pd.concat([part.sort_values("mean", kind="stable") for part in ends]), ENDS


def parameter(draws: Tensor, at: int) -> Tensor:
    """Draws of one parameter, `(chains, draws)`, by its place in `(size, *event)`."""
    return torch.as_tensor(draws).flatten(2)[..., at]
