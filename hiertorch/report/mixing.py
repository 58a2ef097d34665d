"""What a report says about how well chains mixed."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.draws import diagnostics
from hiertorch.draws.fit import Fit
from hiertorch.draws.summaries import LIMITS
from hiertorch.report import figures
from hiertorch.report.page import note, paragraph, picture, table

WORST, DRAWN = 30, 6
"""Parameters in the table, and in the figures."""


def badness(frame: pd.DataFrame) -> pd.Series:
    """How far a parameter is beyond the limits: over 1 it is, by the worst of R-hat, bulk and tail ESS."""
    parts = [(frame["r_hat"] - 1) / (LIMITS["r_hat"] - 1)]
    parts += [LIMITS[column] / frame[column] for column in ("ess_bulk", "ess_tail")]
    return pd.concat(parts, axis=1).max(axis=1).fillna(-math.inf)


def _worst(posterior: Fit, frame: pd.DataFrame, most: int) -> tuple[pd.DataFrame, list[Tensor]]:
    """The rows of the parameters that are furthest beyond the limits, the worst first, and draws `(chains, draws)`."""
    order = np.argsort(-badness(frame).to_numpy(), kind="stable")[:most]
    places = [(x, k) for x in posterior.draws.values() for k in range(math.prod(x.shape[2:]))]  # in the order of rows
    return frame.iloc[order], [x.flatten(2)[..., k] for x, k in (places[i] for i in order)]


def convergence(posterior: Fit, frame: pd.DataFrame) -> Iterator[str]:
    """R-hat, ESS and MCSE of the worst parameters, from R-hat and ESS of all, and a line for each latent."""
    worst, each = _worst(posterior, frame, WORST)
    draws = torch.stack(each, -1)
    worst = worst.assign(
        mcse_mean=diagnostics.mcse_mean(draws).cpu().numpy(), mcse_sd=diagnostics.mcse_sd(draws).cpu().numpy()
    )
    yield paragraph(
        "R-hat compares chains and should be below 1.01; the effective number of draws (ESS) should be above 400 in "
        "the bulk and in the tails; the Monte Carlo standard error (MCSE) says how exact mean and sd are (Vehtari et "
        "al. 2021). A dash: the parameter never moved, which is as it should be for one that is constant by definition."
    )
    beyond = pd.DataFrame(False, index=worst.index, columns=worst.columns)
    beyond["r_hat"] = worst["r_hat"] > LIMITS["r_hat"]
    for column in ("ess_bulk", "ess_tail"):
        beyond[column] = worst[column] < LIMITS[column]
    all_of_them = "All parameters, the worst first" if len(frame) <= WORST else f"The {WORST} worst of {len(frame):,}"
    yield table(worst, all_of_them, beyond)
    if len(frame) > WORST:
        latent = frame.index.str.split("[").str[0]
        groups = frame.assign(over=badness(frame) > 1).groupby(latent, sort=False)
        summed = pd.DataFrame(
            {
                "parameters": groups.size(),
                "highest r_hat": groups["r_hat"].max(),
                "lowest ess_bulk": groups["ess_bulk"].min(),
                "lowest ess_tail": groups["ess_tail"].min(),
                "beyond a limit": groups["over"].sum(),
            }
        )
        yield table(summed, "All of them, by latent")


def traces(posterior: Fit, frame: pd.DataFrame) -> Iterator[str]:
    """Trace and rank plots of the worst parameters, from R-hat and ESS of all."""
    if posterior.n_draws < diagnostics.MIN_DRAWS:
        yield note("Left out: there are too few draws to draw.")
        return
    worst, each = _worst(posterior, frame, DRAWN)
    worst = worst[badness(worst) > -math.inf]  # those that never moved are the last
    if worst.empty:
        yield paragraph("No parameter moved.")
        return
    draws = dict(zip(map(str, worst.index), each, strict=False))
    odd = dict(zip(draws, worst["r_hat"] > LIMITS["r_hat"], strict=True))
    some = ""
    if posterior.chains > figures.CHAINS:
        far = "; where R-hat is too high, with the two that differ most" * any(odd.values())
        some = f" Of the {posterior.chains} chains there are {figures.CHAINS}, evenly spaced{far}."
    yield picture(
        figures.traces(draws, odd),
        "Traces of the worst parameters",
        f"Draws one after another, of the {len(draws)} parameters that mix worst. Chains should overlap, without "
        f"trends.{some}",
    )
    yield picture(
        figures.ranks(draws, odd),
        "Rank plots of the worst parameters",
        "The same parameters: distribution of the ranks of each chain's draws among those of all shown, less the even "
        "one. Lines should stay within the band (99 %, for draws that are independent).",
    )
