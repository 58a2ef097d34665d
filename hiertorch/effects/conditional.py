"""E[y] along one column, or along one for some values of another, with all others at a typical value.

Numbers are at their mean and categories at their reference level, and groups are averaged over (`means.py`), as in
brms' `conditional_effects`, whose groups however have effects of 0: that is `new_groups="population"`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from hiertorch import wording
from hiertorch.arguments import check_count, check_probability
from hiertorch.criticism.panels import SIZE, grid
from hiertorch.draws.fit import Fit
from hiertorch.draws.naming import label_text
from hiertorch.effects.margins import Estimates, estimated, settings_of
from hiertorch.effects.means import means, thinned
from hiertorch.effects.rows import Columns
from hiertorch.errors import DataError
from hiertorch.palette import SERIES
from hiertorch.predict.categories import KIND

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESOLUTION = 100
"""Values of a column of numbers along which the mean is computed."""

FEW = 12
"""Values of a column of numbers, up to which each has a point of its own."""

WIDE = 0.5
"""Of the room between two categories, what their points take that stand side by side."""


@dataclass(frozen=True, repr=False)
class ConditionalEffects(Estimates):
    """Means along a column.

    Attributes:
        draws: `(chains, draws, rows)`.
        summary: the values of one or two columns, and of E[y] there mean, sd and equal-tailed interval.
        effect: the columns; behind them "category" if there is a probability of each.
        others: at which all other columns are.
        response: what is predicted.
    """

    effect: tuple[str, ...]
    others: Mapping[str, Any]
    response: str

    def plot(self) -> "Figure":
        """E[y] along the first column, with its interval, one colour for each value of the second."""
        from matplotlib import rc_context

        with rc_context({"text.parse_math": False}):  # a level may be called $x^$
            figure, (axes,) = grid(1, 1, *SIZE)
            first, *second = self.effect
            groups = self.summary.groupby(second[0], sort=False, observed=True) if second else [("", self.summary)]
            values = list(dict.fromkeys(self.summary[first]))
            lines = pd.api.types.is_numeric_dtype(self.summary[first].dtype) and len(values) > FEW
            for k, (label, part) in enumerate(groups):
                shift = (k - (len(groups) - 1) / 2) * WIDE / max(1, len(groups))
                self._draw(axes, part, values, lines, shift, SERIES[k % len(SERIES)], _text(label) if second else "")
            if not lines:
                axes.set_xticks(range(len(values)), [_text(value) for value in values])
                axes.set_xlim(-0.6, len(values) - 0.4)
            axes.set_xlabel(first)
            axes.set_ylabel(f"P({self.response})" if second == ["category"] else f"E[{self.response}]")
            if second:
                axes.legend(title=second[0], frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
            if self.others:
                said = ", ".join(f"{name} = {_text(value)}" for name, value in self.others.items())
                axes.set_title(f"at {said}", fontsize="small", color="0.4", loc="left", wrap=True)
        return figure

    def _draw(
        self, axes: "Axes", part: pd.DataFrame, values: list[object], lines: bool, shift: float, colour: str, label: str
    ) -> None:
        low, high = (part.filter(like=end).iloc[:, 0].to_numpy() for end in ("_lb", "_ub"))
        mean = part["mean"].to_numpy()
        if lines:
            x = part[self.effect[0]].to_numpy(np.float64)
            axes.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
            axes.plot(x, mean, color=colour, label=label)
        else:
            at = np.array([values.index(value) for value in part[self.effect[0]]]) + shift
            axes.errorbar(at, (low + high) / 2, yerr=(high - low) / 2, fmt="none", ecolor=colour, capsize=3)
            axes.plot(at, mean, "o", color=colour, label=label)  # of long tails it may lie outside the interval


def conditional_effects(
    fit: Fit,
    effect: str | Sequence[str],
    *,
    values: Mapping[str, Iterable[object]] | None = None,
    resolution: int = RESOLUTION,
    **settings: object,
) -> ConditionalEffects:
    """See `hiertorch.posterior.Posterior.conditional_effects`."""
    check_count("resolution", resolution, 2)
    one = settings_of(fit, settings)
    if one.by is not None or one.average:
        raise DataError("conditional_effects has one mean for each value: by= and average= are for predictions.")
    check_probability(one.ci_prob)
    columns = Columns.of(fit.fitted)
    parts = effect.split(":") if isinstance(effect, str) else list(effect)
    names = [columns.known(str(name).strip().strip("`")) for name in parts]
    if one.kind == KIND and len(names) > 1:
        raise DataError(f"probabilities of categories are along one column; found {effect!r}.")
    if len(names) > 2 or len(set(names)) < len(names):
        raise DataError(f'an effect is that of one column or of two, such as "x" or "x:z"; found {effect!r}.')
    if unknown := [name for name in values or {} if name not in names]:
        raise DataError(f"values= names {unknown[0]!r}; the effect has {wording.listed(names)}.")
    axes = [list((values or {}).get(name, ())) or _values(columns, name, k, resolution) for k, name in enumerate(names)]
    typical = columns.typical()
    firsts = [value for _ in (axes[1] if len(axes) > 1 else [None]) for value in axes[0]]
    rows = typical.loc[np.zeros(len(firsts), np.int64)].reset_index(drop=True)
    rows = columns.set(rows, names[0], firsts)
    if len(axes) > 1:
        rows = columns.set(rows, names[1], [value for value in axes[1] for _ in axes[0]])
    few = thinned(fit, one.draws)
    drawn = means(few, columns.with_groups(rows, one.new_groups), one.new_groups, one.seed, one.kind, torch.positive)
    drawn, table = estimated(fit, drawn, rows[names], one)
    others = {str(name): column.iloc[0] for name, column in typical.items() if name not in names}
    others = {name: value for name, value in others.items() if name in columns.inputs}
    effects = (*names, "category") if one.kind == KIND else tuple(names)
    return ConditionalEffects(drawn, table.reset_index(drop=True), effects, others, fit.fitted.data.name)


def _values(columns: Columns, name: str, place: int, resolution: int) -> list[object]:
    """Of a column, along which the mean is computed: all levels, or numbers from the smallest to the largest; of the
    second column the mean and one sd to both sides.
    """
    if name in columns.factors:
        return columns.levels(name)
    if columns.is_binary(name):
        return [0.0, 1.0]
    x = columns.frame[name].to_numpy(np.float64)
    if place == 0:
        few = np.unique(x)
        return (few if len(few) <= FEW else np.linspace(x.min(), x.max(), resolution)).tolist()
    return [float(x.mean() + k * x.std(ddof=1)) for k in (-1, 0, 1)]


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else label_text(value)
