"""Figures of a report, as PNG."""

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from torch import Tensor

from hiertorch.criticism.panels import grid
from hiertorch.draws.ranks import band, differences
from hiertorch.draws.spacing import evenly
from hiertorch.palette import BLUE, GREY, LIGHT, ORANGE, PALE, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHAINS, TRACED, RANKED = 8, 400, 150
"""Of each parameter: chains that are drawn, and at most so many draws of each, evenly thinned."""

MOST, ENDS = 60, 20
"""Groups in a figure of shrinkage; of more, so many of those pooled least and most."""

OWN, POOLED = ORANGE, BLUE
"""Colors of estimates by a group's own rows alone, and of those of the model."""


def png(figure: "Figure", dpi: int = 110) -> bytes:
    """A figure as a PNG."""
    buffer = io.BytesIO()
    # Without a tight box, for which everything is drawn twice: layouts are constrained.
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


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
    even = evenly(len(others), CHAINS - len(far), x.device).tolist()
    return sorted([*far, *(others[i] for i in even)])


def traces(draws: Mapping[str, Tensor], odd: Mapping[str, bool]) -> bytes:
    """Draws of some parameters one after another, name -> `(chains, draws)`; `odd` says which have chains at odds."""
    return _panels(draws, odd, TRACED, lambda axes, x: axes.plot(x.T, linewidth=0.7))


def ranks(draws: Mapping[str, Tensor], odd: Mapping[str, bool]) -> bytes:
    """How evenly the ranks of each chain's draws are spread among those of all, as `hiertorch.draws.ranks` has it; name
    -> `(chains, draws)`.
    """

    def rank(axes: "Axes", x: np.ndarray) -> None:
        points, low, high = band(*x.shape)
        axes.fill_between(points, low, high, color=LIGHT, linewidth=0)
        axes.plot(points, differences(x).T, linewidth=0.8)

    return _panels(draws, odd, RANKED, rank)


def _panels(
    draws: Mapping[str, Tensor], odd: Mapping[str, bool], most: int, draw: Callable[["Axes", np.ndarray], object]
) -> bytes:
    """A panel for each parameter, of some chains and at most so many draws of each."""
    figure, panels = grid(len(draws), 2, 4.6, 2.2)
    for axes, (name, x) in zip(panels, draws.items(), strict=True):
        axes.set_prop_cycle(color=SERIES)
        draw(axes, x[chosen(x, odd[name]), :: max(1, -(-x.shape[1] // most))].cpu().numpy())
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
    return png(figure)


def shrinkage(groups: pd.DataFrame, title: str, centre: float) -> bytes:
    """Estimates of groups by their own rows alone, and as the model has them: the way between is how far each is drawn.
    The groups are rows of `Pooling.groups` of one level, and the centre is the mean of all estimates of the model.
    """
    shown, split = _shown(groups)
    at = np.arange(len(shown), dtype=float)
    at[split:] += 1.0 if split < len(shown) else 0.0  # a gap between least and most pooled
    mean, sd = shown["mean"].to_numpy(), shown["sd"].to_numpy()
    own, se = shown["no_pooling"].to_numpy(float), shown["se"].to_numpy(float)
    figure, (axes,) = grid(1, 1, 7.6, 1.1 + 0.2 * (len(shown) + 1))
    axes.axvline(centre, color=GREY, linewidth=1, linestyle="--", label="mean of all groups")
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
        axes.axhline(split, color=PALE, linewidth=0.8)
    axes.tick_params(axis="x", labelsize=8)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return png(figure, 120)


def _shown(groups: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """All groups in the order of their estimates; or of many, those pooled least, then those pooled most; and how many
    stand before the gap.
    """
    if len(groups) <= MOST:
        return groups.sort_values("mean", kind="stable"), len(groups)
    ordered = groups.sort_values("shrinkage", kind="stable", na_position="first")
    ends = [ordered.head(ENDS), ordered.tail(ENDS)]
    return pd.concat([part.sort_values("mean", kind="stable") for part in ends]), ENDS
