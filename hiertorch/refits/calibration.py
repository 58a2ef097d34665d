"""Whether new rows are what a posterior expects of them, by statistics whose chance distribution is simulated.

Note [What chance does]
    New rows of one group share its effect, and all rows share the parameters, so that how many of them lie in their
    intervals is not binomial. What chance does is found by simulation instead: whole sets of new rows are drawn from
    the posterior predictive distribution, each from one draw, and looked at by the same statistics. If the model holds,
    the new rows are one more such set (Box 1980, for rows that were not fitted), and each test has the error rate that
    it states.
"""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.data.newrows import FrameRows
from hiertorch.draws.spacing import evenly
from hiertorch.model.censoring import Censored
from hiertorch.predict.scene import Setting
from hiertorch.randomness import seeded

PROBABILITIES = (0.5, 0.9)
STATISTICS = ("50% intervals", "90% intervals", "log score", "mean residual", "slopes", "group means")

MIXED, SCORED = 250, 300
"""Draws whose average is the predictive density of a row, and rows whose log scores are averaged, spread evenly."""

SETS = 400
"""Simulated sets of new rows, at least."""

NUMBERS, HELD = 2_000_000, 40_000_000
"""Numbers that are computed with at once, and of predictions that are held."""


def calibrated(
    setting: Setting, rows: FrameRows, y: Tensor, level: float, generator: torch.Generator
) -> tuple[pd.DataFrame, pd.Series]:
    """A row for each of STATISTICS: what was found, what is expected, from `low` to `high` where chance puts it in all
    but `level` of sets, and p. With it the PIT of each row, Pr(y_rep < y_i) + u Pr(y_rep = y_i) for a uniform u.

    Shares of rows in central predictive intervals and the mean residual (y_i - E y_i) / sd(y_i) are tested on both
    sides; the mean log score where it is low; and where they are high the largest mean product of residuals and a
    column ("slopes") and the largest mean residual of a group, both in units of their sd by chance.

    Half of the draws predict, and new rows are simulated from others. The setting has the new rows with the draws,
    `rows` has them as they were read, and y is their response, `(rows,)`.
    """
    total = setting.posterior.chains * setting.posterior.n_draws
    y = _completed(setting, y, generator)
    sets = max(SETS, math.ceil(4 / level))
    own, other = torch.arange(0, total, 2, device=y.device), torch.arange(1, total, 2, device=y.device)
    other = other[torch.randperm(len(other), generator=generator, device=generator.device)]
    own = own[:: -(-len(own) * len(y) // HELD)]
    predicted = setting.predicted(own, "response", generator)  # (draws, rows)
    simulated = setting.predicted(other.repeat(-(-sets // len(other)))[:sets], "response", generator)
    every = torch.cat([y.unsqueeze(0), simulated])  # the new rows first
    found = {}
    ordered, last = predicted.sort(0).values, len(predicted) - 1
    for probability in PROBABILITIES:
        low, high = ordered[round(last * (1 - probability) / 2)], ordered[round(last * (1 + probability) / 2)]
        held = ((every >= low) & (every <= high)).double().mean(1)
        found[f"{probability:.0%} intervals"] = _check(held, level, "both")
    found["log score"] = _check(_log_scores(setting, own, every, generator), level, "low")
    sd = predicted.std(0)
    residuals = torch.where(sd > 0, (every - predicted.mean(0)) / sd, 0.0)
    found["mean residual"] = _check(residuals.mean(1), level, "both")
    every_column = (x for column in rows.columns.values() for x in column.reshape(len(y), -1).unbind(1))
    columns = [x for x in every_column if len(x) > 1 and bool(x.std() > 0)]
    if columns:
        z = torch.stack([(x - x.mean()) / x.std() for x in columns], 1)
        found["slopes"] = _check(_largest(residuals @ z / len(y)), level, "high")
    means = [_group_means(residuals, labels) for plate, labels in rows.labels.items() if setting.fitted.varies(plate)]
    if means:
        found["group means"] = _check(_largest(torch.cat(means, 1)), level, "high")
    u = torch.rand(len(y), generator=generator, device=y.device, dtype=y.dtype)
    pit = (predicted < y).to(y).mean(0) + u * (predicted == y).to(y).mean(0)
    return pd.DataFrame.from_dict(found, orient="index"), pd.Series(pit.cpu().numpy(), index=rows.index, name="pit")


def _completed(setting: Setting, y: Tensor, generator: torch.Generator) -> Tensor:
    """The response, drawn where it was cut off, given what is known of it and one draw, so that it is of the kind of
    what is predicted.
    """
    if not isinstance(setting.fitted.reads.response, Censored):
        return y
    model, count = setting.fitted.model, setting.posterior.chains * setting.posterior.n_draws
    at = torch.randint(count, (1,), generator=generator, device=generator.device)
    with seeded(generator, y.device):
        likelihood = model.likelihood(model.values(setting.values(at)), setting.rows)
        assert isinstance(likelihood, Censored)
        return likelihood.expand(torch.Size((1, len(y)))).completed(y)[0]


def _log_scores(setting: Setting, at: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Mean over rows of log (1/S) sum_s p(y_i | theta^(s)), of each of several responses `(sets, rows)`: `(sets,)`."""
    model = setting.fitted.model
    rows = evenly(y.shape[1], SCORED, y.device)
    some = at[evenly(len(at), MIXED, y.device)]
    with seeded(generator, y.device):
        v = model.values(setting.values(some))
    likelihood = model.likelihood(v, setting.rows.take(rows))
    likelihood = likelihood.base if isinstance(likelihood, Censored) else likelihood  # y is completed
    terms = [
        (likelihood.log_prob(part.unsqueeze(1)).logsumexp(1) - math.log(len(some))).mean(-1)
        for part in y[:, rows].split(max(1, NUMBERS // (len(some) * len(rows))))
    ]
    return torch.cat(terms)


def _group_means(residuals: Tensor, labels: pd.Index) -> Tensor:
    """Of `(sets, rows)`, by group: `(sets, groups)`."""
    codes = torch.from_numpy(pd.factorize(labels)[0]).to(residuals.device)
    sums = residuals.new_zeros(len(residuals), int(codes.max()) + 1).index_add_(1, codes, residuals)
    return sums / torch.bincount(codes)


def _largest(x: Tensor) -> Tensor:
    """The furthest entry of each set, in units of the simulated sets' sd: `(sets, k)` to `(sets,)`."""
    sd = x[1:].std(0)
    return torch.where(sd > 0, (x - x[1:].mean(0)) / sd, 0.0).abs().amax(1)


def _check(statistic: Tensor, level: float, side: str) -> dict[str, float]:
    """The first of `(1 + sets,)`, that of the new rows, against the others, of simulated ones."""
    found, simulated = float(statistic[0]), statistic[1:].double().cpu().numpy()
    number = len(simulated) + 1
    below, above = (1 + (simulated <= found).sum()) / number, (1 + (simulated >= found).sum()) / number
    p = {"low": below, "high": above, "both": min(1.0, 2 * min(below, above))}[side]
    tail = level / 2 if side == "both" else level
    low, high = np.quantile(simulated, [0.0 if side == "high" else tail, 1.0 if side == "low" else 1 - tail])
    return {"found": found, "expected": simulated.mean(), "low": low, "high": high, "p": p}
