"""What the mean of y does with x: predictions, comparisons and slopes, for each draw, averaged over rows if asked.

    predictions    E[y | x_i]
    comparisons    E[y | x_i, x_ik = b] - E[y | x_i, x_ik = a]
    slopes         (E[y | x_i, x_ik + h / 2] - E[y | x_i, x_ik - h / 2]) / h

The words and their meanings are those of the marginaleffects package (Arel-Bundock, Greifer & Heiss 2024, Journal of
Statistical Software 111(9)), of R: a gap goes forward from the row's own value, "sd" is from half an sd below the mean
to half an sd above, and what is 0 or 1 is compared at 0 and 1, also where slopes are asked for. Averages are over rows
within a draw, so that intervals are those of the average.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.arguments import check_probability, names_of
from hiertorch.data.frames import Table, as_frame
from hiertorch.draws.fit import Fit
from hiertorch.draws.summaries import CI_PROB, moments
from hiertorch.effects.means import means, thinned
from hiertorch.effects.rows import Columns, cells, missing
from hiertorch.errors import DataError
from hiertorch.predict.categories import KIND, asked, categories

DRAWS = 4_000
"""That are looked at unless more are asked for."""

MOST = 500_000_000
"""Draws x estimates that are held."""

STEP = {torch.float64: 1e-4, torch.float32: 3e-3}
"""Of slopes, as a share of the column's range; rounding takes a wider one."""


@dataclass(frozen=True)
class Estimates:
    """A number for each row, or for each cell of rows.

    Attributes:
        draws: `(chains, draws, estimates)`.
        summary: what each estimate is of, its mean, sd and equal-tailed interval.
    """

    draws: Tensor
    summary: pd.DataFrame

    def __repr__(self) -> str:
        return repr(self.summary)


@dataclass(frozen=True)
class Settings:
    """What predictions, comparisons and slopes have in common.

    Attributes:
        kind: "mean", or "probability" of each category of a response that is categories; of categories without order
            that is meant by "mean", too.
        by: columns, over whose cells of rows is averaged.
        average: over all rows, or those of a cell.
        new_groups: "average" over the effects of groups that were not fitted, "sample" draws one for each label, and
            "population" has them at the mean of their prior.
        draws: of all chains together; None takes all.
        ci_prob: probability within the interval.
        seed: of draws of new groups.
    """

    kind: str = "mean"
    by: str | Sequence[str] | None = None
    average: bool = False
    new_groups: str = "average"
    draws: int | None = DRAWS
    ci_prob: float = CI_PROB
    seed: int | None = None


def predictions(fit: Fit, frame: Table | None = None, **settings: object) -> Estimates:
    """See `hiertorch.posterior.Posterior.predictions`."""
    one = settings_of(fit, settings)
    columns = Columns.of(fit.fitted)
    given = columns.rows() if frame is None else as_frame(frame)
    rows = columns.with_groups(given, one.new_groups)
    code, named = cells(given, one.by, average=one.average)
    few = thinned(fit, one.draws)
    _check_size(few, len(named))
    drawn = means(few, rows, one.new_groups, one.seed, one.kind, _averages(code, len(named)))
    return Estimates(*estimated(fit, drawn, named, one))


def comparisons(
    fit: Fit,
    variables: str | Iterable[str] | Mapping[str, object] | None = None,
    frame: Table | None = None,
    **settings: object,
) -> Estimates:
    """See `hiertorch.posterior.Posterior.comparisons`."""
    return _contrasts(fit, variables, frame, settings, _pairs)


def slopes(
    fit: Fit, variables: str | Iterable[str] | None = None, frame: Table | None = None, **settings: object
) -> Estimates:
    """See `hiertorch.posterior.Posterior.slopes`."""
    step = STEP[fit.fitted.data.dtype]

    def around(columns: Columns, name: str, rows: pd.DataFrame, gap: object) -> list["Pair"]:
        if name in columns.factors or columns.is_binary(name):
            return _pairs(columns, name, rows, None)
        x, known = rows[name].to_numpy(np.float64), columns.frame[name].to_numpy(np.float64)
        h = step * float(np.ptp(known)) or step
        return [Pair("dE[y]/dx", x - h / 2, x + h / 2, h)]

    if isinstance(variables, Mapping):
        raise DataError("slopes take names of columns; gaps and pairs of values are for comparisons.")
    return _contrasts(fit, variables, frame, settings, around)


@dataclass(frozen=True)
class Pair:
    """Two values of a column, each one for all rows or one a row, and what their difference is divided by."""

    label: str
    low: Any
    high: Any
    by: float = 1.0


def _pairs(columns: Columns, name: str, rows: pd.DataFrame, gap: object) -> list[Pair]:
    """Of comparisons: by a gap (a number, "sd", or two values); left out, +1, each level against the reference, and 0
    against 1.
    """
    two = isinstance(gap, Sequence) and not isinstance(gap, str) and len(gap) == 2
    if name in columns.factors:
        if gap is not None and not two:
            raise DataError(
                f"{name!r} is categories: compare two of its levels, (a, b), or leave them out; found {gap!r}."
            )
        reference, *others = columns.levels(name)
        compared = [(gap[0], gap[1])] if two else [(reference, other) for other in others]  # type: ignore[index]
        return [Pair(f"{high} - {low}", low, high) for low, high in compared]
    x, known = rows[name].to_numpy(np.float64), columns.frame[name].to_numpy(np.float64)
    if two:
        low, high = (float(value) for value in gap)  # type: ignore[attr-defined]
        return [Pair(f"{high:g} - {low:g}", low, high)]
    if gap == "sd":
        centre, half = float(known.mean()), float(known.std(ddof=1)) / 2
        return [Pair("mean + sd/2 - (mean - sd/2)", centre - half, centre + half)]
    if gap is None and columns.is_binary(name):
        return [Pair("1 - 0", 0.0, 1.0)]
    if gap is not None and (isinstance(gap, bool | str) or not isinstance(gap, int | float)):
        raise DataError(f'{name!r} is compared by a number, "sd" or two values (a, b); found {gap!r}.')
    width = 1.0 if gap is None else float(gap)
    return [Pair(f"+{width:g}", x, x + width)]


def _contrasts(
    fit: Fit,
    variables: str | Iterable[str] | Mapping[str, object] | None,
    frame: Table | None,
    settings: Mapping[str, object],
    pairs: Callable[[Columns, str, pd.DataFrame, object], list[Pair]],
) -> Estimates:
    one = settings_of(fit, settings)
    columns = Columns.of(fit.fitted)
    wanted: Mapping[str, object]
    if isinstance(variables, Mapping):
        wanted = variables
    else:
        wanted = dict.fromkeys(columns.inputs if variables is None else names_of("variables", variables))
    if not wanted:
        raise DataError("the model has no column that predicts.")
    rows = columns.rows() if frame is None else as_frame(frame)
    missing(rows, [columns.known(name) for name in wanted])
    code, named = cells(rows, one.by, average=one.average)
    average, few, n = _averages(code, len(named)), thinned(fit, one.draws), len(rows)
    _check_size(few, len(named) * len(wanted))
    drawn, tables = [], []
    for name, gap in wanted.items():
        columns.check_free(name, rows)
        for pair in pairs(columns, name, rows, gap):
            both = pd.concat([columns.set(rows, name, pair.low), columns.set(rows, name, pair.high)], ignore_index=True)

            def difference(y: Tensor, by: float = pair.by) -> Tensor:
                return average((y[:, n:] - y[:, :n]) / by)

            drawn.append(
                means(few, columns.with_groups(both, one.new_groups), one.new_groups, one.seed, one.kind, difference)
            )
            tables.append(named.assign(term=name, contrast=pair.label))
    table = pd.concat(tables)
    table = table[["term", "contrast", *(name for name in table.columns if name not in ("term", "contrast"))]]
    return Estimates(*estimated(fit, torch.cat(drawn, 2), table, one))


def settings_of(fit: Fit, given: Mapping[str, object]) -> Settings:
    """Settings by name, or a DataError for one that there isn't."""
    if unknown := [name for name in given if name not in Settings.__dataclass_fields__]:
        raise DataError(f"{unknown[0]}= is not known here; there are {', '.join(Settings.__dataclass_fields__)}.")
    named: dict[str, Any] = {**given}
    one = Settings(**named)
    check_probability(one.ci_prob)
    return replace(one, kind=asked(fit.fitted, one.kind))


def _check_size(few: Fit, number: int) -> None:
    """Raises a DataError for estimates whose draws would fill the memory."""
    if few.chains * few.n_draws * number > MOST:
        raise DataError(
            f"{number} estimates of {few.chains * few.n_draws} draws are too many to hold: average, by= or "
            f"average=True, or take draws={max(1, MOST // number)} or fewer."
        )


def _averages(code: np.ndarray, number: int) -> Callable[[Tensor], Tensor]:
    """From numbers of rows `(n, rows, *)` to means over cells, `(n, cells, *)`."""
    if len(code) == number and np.array_equal(code, np.arange(number)):
        return torch.positive
    counts = torch.from_numpy(np.bincount(code, minlength=number))
    at = torch.tensor(code)

    def average(y: Tensor) -> Tensor:
        total = y.new_zeros(len(y), number, *y.shape[2:]).index_add_(1, at.to(y.device), y)
        return total / counts.to(y).reshape(-1, *(1,) * (y.dim() - 2))

    return average


def estimated(fit: Fit, drawn: Tensor, named: pd.DataFrame, one: Settings) -> tuple[Tensor, pd.DataFrame]:
    """Draws `(chains, draws, cells)`, or with categories behind them, as `(chains, draws, estimates)`, and a table of
    them; each cell has a line for each category.
    """
    if one.kind == KIND:
        labels = categories(fit.fitted)
        named = named.iloc[np.repeat(np.arange(len(named)), len(labels))]
        named = named.assign(category=np.tile(np.array(labels, dtype=object), len(named) // len(labels)))
        drawn = drawn.flatten(2)
    if one.by is not None or one.average:
        named = named.reset_index(drop=True)  # lines are of cells, and no rows of the frame
    columns = {name: x.cpu().numpy() for name, x in moments(drawn, one.ci_prob).items()}
    taken = {name: f"{name}_" for name in named.columns if name in columns}
    return drawn, named.rename(columns=taken).assign(**columns)
