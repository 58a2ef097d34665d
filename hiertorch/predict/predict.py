"""Predictions for rows of known groups, and of groups that were never seen.

E[y_i | theta^(s)],  y_i ~ p(y_i | theta^(s)),  or P(y_i = k | theta^(s)) of each category k,

for each stored draw s of the latents theta. The effects of a new group are drawn from p(effects | population^(s)), once
a draw: its rows share them, and its interval is wider.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from hiertorch import markup
from hiertorch.arguments import check_choice, check_probability
from hiertorch.data.frames import Table
from hiertorch.data.newrows import FrameRows, announce
from hiertorch.draws import summaries
from hiertorch.draws.fit import Fit
from hiertorch.errors import DataError
from hiertorch.predict.categories import asked, lines
from hiertorch.predict.scene import Setting
from hiertorch.runtime.validating import validation

KINDS = ("mean", "response", "probability")
NEW_GROUPS = ("sample", "population", "error")


@dataclass(frozen=True)
class Prediction:
    """What a posterior says about new rows.

    Attributes:
        draws: E[y | latents] or simulated y, `(chains, draws, rows)`; probabilities
            `(chains, draws, rows, categories)`.
        summary: mean, sd and equal-tailed interval of each row, with the index of the frame; of each row and category
            where they are probabilities.
        new: grouping -> labels that the fitted data do not have.
    """

    draws: Tensor
    summary: pd.DataFrame
    new: Mapping[str, pd.Index]

    def __repr__(self) -> str:
        return repr(self.summary)

    def _repr_html_(self) -> str:
        return markup.table(self.summary)


def predict(
    fit: Fit,
    frame: Table,
    *,
    kind: str = "mean",
    new_groups: str | None = None,
    ci_prob: float = summaries.CI_PROB,
    seed: int | None = None,
    distinct: bool = False,
) -> Prediction:
    """See `hiertorch.posterior.Posterior.predict`."""
    fitted = fit.readable
    check_choice("kind", kind, KINDS)
    kind = asked(fitted, kind)
    if new_groups is not None:
        check_choice("new_groups", new_groups, NEW_GROUPS)
    check_probability(ci_prob)
    generator = fit.generator("predict", seed, fitted.data.device)
    with torch.no_grad(), validation(False):
        rows = FrameRows.read(fitted.data, frame, distinct=distinct)
        setting = Setting(fitted, fit, rows)
        if new_groups == "error" and setting.new:
            raise DataError(
                f"new_groups='error', and the frame has new groups: {setting.news()}. Leave their rows out, or "
                "take new_groups='sample'."
            )
        at = torch.arange(fit.chains * fit.n_draws, device=fitted.data.device)
        flat = setting.predicted(at, kind, generator, population=new_groups == "population")
    if new_groups is None:
        announce(setting.new, "their effects are drawn from the population", "pass new_groups='sample'")
    draws = flat.unflatten(0, (fit.chains, fit.n_draws))
    return Prediction(draws, intervals(draws, ci_prob, lines(fitted, kind, rows.index)), setting.new)


def intervals(draws: Tensor, ci_prob: float, index: pd.Index) -> pd.DataFrame:
    """Mean, sd and equal-tailed interval of `(chains, draws, rows, ...)`, one line a number."""
    found = summaries.moments(draws.flatten(2), ci_prob)
    return pd.DataFrame({name: x.cpu().numpy() for name, x in found.items()}, index=index)
