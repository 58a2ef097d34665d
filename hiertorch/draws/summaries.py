"""What is made of draws for people: tables of parameters, and sentences on what not to believe."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from hiertorch.draws import diagnostics

CI_PROB = 0.89  # of intervals; ArviZ's default
MIXING = ("ess_bulk", "ess_tail", "r_hat", "mcse_mean", "mcse_sd")
MIN_CHAINS = 4  # this and the limits: Vehtari et al. (2021)
LIMITS = {"r_hat": 1.01, "ess_bulk": 400, "ess_tail": 400}
ADVICE = {
    "r_hat": "R-hat is above {limit:g} for {beyond} of {number} parameters, highest {worst:.4g} for {parameter}: the "
    "chains disagree. Take a longer warm-up and more draws; if that doesn't help, look for parameters that the data "
    "can't tell apart.",
    "ess_bulk": "Bulk ESS is below {limit:g} for {beyond} of {number} parameters, lowest {worst:.4g} for {parameter}: "
    "means and medians are uncertain. Take more draws, or more chains.",
    "ess_tail": "Tail ESS is below {limit:g} for {beyond} of {number} parameters, lowest {worst:.4g} for {parameter}: "
    "the ends of intervals are uncertain. Take more draws, or more chains.",
}


def moments(x: Tensor, ci_prob: float) -> dict[str, Tensor]:
    """Mean, sd and equal-tailed interval of draws `(chains, draws, *shape)`, by column."""
    return _stats(ci_prob, *diagnostics.moments(x), diagnostics.quantile(x, _edges(ci_prob)))


def columns(x: Tensor) -> dict[str, Tensor]:
    """All of draws `(chains, draws, *shape)` that a summary shows, by column."""
    found = diagnostics.digest(x, _edges(CI_PROB))
    mixing = (found.ess_bulk, found.ess_tail, found.rhat, found.mcse_mean, found.mcse_sd)
    few = x.shape[1] < diagnostics.MIN_DRAWS  # a digest of them is NaN
    stats = moments(x, CI_PROB) if few else _stats(CI_PROB, found.mean, found.sd, found.quantiles)
    return stats | dict(zip(MIXING, mixing, strict=True))


def _edges(ci_prob: float) -> tuple[float, float]:
    """Of an equal-tailed interval."""
    edge = (1 - ci_prob) / 2
    return edge, 1 - edge


def _stats(ci_prob: float, mean: Tensor, sd: Tensor, quantiles: Tensor) -> dict[str, Tensor]:
    percent = int(ci_prob * 100)
    return {"mean": mean, "sd": sd, f"eti{percent}_lb": quantiles[..., 0], f"eti{percent}_ub": quantiles[..., 1]}


def judged(x: Tensor, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """R-hat and ESS of draws `(chains, draws, size, *event)` as they are held against their limits, of the columns of
    their summary: what never moved, though it could, is worse than all else.
    """
    found = {column: columns[column] for column in LIMITS}
    if x.shape[1] < diagnostics.MIN_DRAWS or not any(bool(values.isnan().any()) for values in found.values()):
        return found
    moves, worse = ~diagnostics.fixed(x), {"r_hat": math.inf, "ess_bulk": 0.0, "ess_tail": 0.0}
    if x.shape[0] == 1:
        del worse["r_hat"]  # which compares chains
    return found | {column: found[column].masked_fill(found[column].isnan() & moves, worse[column]) for column in worse}


def worst(mixing: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The worst of each diagnostic, of tables by latent with a row a parameter."""
    every, rows = pd.concat(list(mixing.values())), {}
    for column, limit in LIMITS.items():
        sign = 1 if column == "r_hat" else -1
        badness = sign * every[column].to_numpy()
        at = None if np.isnan(badness).all() else int(np.nanargmax(badness))
        rows[column] = {
            "worst": math.nan if at is None else every[column].iloc[at],
            "parameter": None if at is None else every.index[at],
            "limit": limit,
            "beyond": int((badness > sign * limit).sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def table(index: list[str], columns: Mapping[str, Tensor]) -> pd.DataFrame:
    """Columns of one number a parameter."""
    return pd.DataFrame({column: x.flatten().cpu().numpy() for column, x in columns.items()}, index=index)
