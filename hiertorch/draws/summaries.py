"""What is made of draws for people: tables of parameters, and sentences on what not to believe."""

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from torch import Tensor

from hiertorch.draws import diagnostics
from hiertorch.draws.naming import parameter_texts

if TYPE_CHECKING:
    from hiertorch.posterior import Posterior

__all__ = ["CI_PROB", "LIMITS", "MIXING", "columns", "listed", "mixing", "moments", "table", "warnings", "worst"]

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
    mixing = (found.ess_bulk, found.ess_tail, found.rhat, found.mcse_mean, diagnostics.mcse_sd(x))
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
    """R-hat and ESS as they are held against their limits: what never moved, though it could, is worse than all else.

    Args:
        x: draws, `(chains, draws, size, *event)`.
        columns: of their summary, each `(size, *event)`.
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


OFTEN = 0.01
"""Share of proposals with impossible parameters from which on a reader is told."""


def warnings(posterior: "Posterior") -> list[str]:
    """What a reader should know before believing the numbers, and what to do about it."""
    return [*_of_the_run(posterior), *_stuck(posterior), *mixing(posterior)]


def mixing(posterior: "Posterior") -> list[str]:
    """Those of R-hat and ESS."""
    return list(_mixing(posterior))


def _of_the_run(posterior: "Posterior") -> Iterator[str]:
    if posterior.interrupted:
        yield posterior.stopped
    if posterior.n_draws < diagnostics.MIN_DRAWS:
        least = diagnostics.MIN_DRAWS
        yield f"R-hat and ESS need at least {least} draws in each chain, and there are {posterior.n_draws}: take more."
    if posterior.chains < MIN_CHAINS:
        yield f"R-hat compares chains, and there are only {posterior.chains}: run at least {MIN_CHAINS}."
    if met := {block: count for block, count in posterior.stats.nan.items() if count}:
        blocks = ", ".join(f"{count} in block {block!r}" for block, count in met.items())
        yield (
            f"The log density of a proposal was NaN, and the proposal rejected: {blocks}. "
            f"Look for 0/0, inf - inf or the log of a negative number in the likelihood and priors."
            f"{posterior.run.get('nan_example', '')}"
        )
    for name, (count, of) in posterior.run.get("impossible", {}).items():
        if count >= OFTEN * of:
            yield (
                f"{name[:1].upper()}{name[1:]} was impossible at {count / of:.0%} of the places where it was computed: "
                "such proposals were rejected, as they must be. A prior that keeps to what is possible, or a link "
                "such as exp, wastes none."
            )
    if broken := [name for name, x in posterior.draws.items() if not x.isfinite().all()]:
        yield (
            f"Some draws of {listed(broken)} are not finite and have no diagnostics: "
            f"look for a prior that is improper, or wider than numbers are."
        )


def _stuck(posterior: "Posterior") -> Iterator[str]:
    for name, x in posterior.draws.items() if posterior.n_draws >= diagnostics.MIN_DRAWS else ():
        stuck = diagnostics.stuck(x)  # (chains, parameters)
        chains, parameters = (stuck.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
        if not parameters:
            continue
        what = name
        if len(parameters) < stuck.shape[1]:
            what = posterior._frame(name, {"stuck": stuck.any(0)}).index[parameters[0]]
        if 1 < len(parameters) < stuck.shape[1]:
            what = f"{name} ({len(parameters)} of its {stuck.shape[1]} parameters, such as {what})"
        where = "any chain" if stuck[:, parameters].all() else f"chain {listed(chains)} (counted from 0)"
        yield (
            f"{what} never moved in {where}, in {posterior.n_draws} draws: these draws say nothing about it. "
            f"Run a longer warm-up or another seed, and don't use such a chain."
        )


def _mixing(posterior: "Posterior") -> Iterator[str]:
    """Of what moved: the rest was told."""
    if not posterior.n_draws:
        return
    number = sum(math.prod(x.shape[2:]) for x in posterior.draws.values())
    moved = {name: posterior._frame(name, columns) for name, columns in posterior._looked_at.items()}
    for column, row in worst(moved).iterrows():
        if row["beyond"]:
            yield ADVICE[str(column)].format_map({"number": number, **row})


def table(name: str, axes: Sequence[Iterable[Hashable]], columns: Mapping[str, Tensor]) -> pd.DataFrame:
    """Columns of one number a parameter, whose axes have these labels."""
    index = parameter_texts(name, axes)
    return pd.DataFrame({column: x.flatten().cpu().numpy() for column, x in columns.items()}, index=index)


def listed(names: Iterable[object], most: int = 12) -> str:
    """Some names for a message."""
    texts = [str(name) for name in names]
    return (", ".join(texts[:most]) or "none") + (f" and {len(texts) - most} more" if len(texts) > most else "")
