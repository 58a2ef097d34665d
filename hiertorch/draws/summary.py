"""The table of all parameters: what they are, and how well the draws say it."""

from collections.abc import Sequence

import pandas as pd
from torch import Tensor

from hiertorch.arguments import check_choice, check_count, check_probability, names_of
from hiertorch.draws import summaries
from hiertorch.draws.labelled import LabelledDraws
from hiertorch.draws.summaries import CI_PROB, MIXING
from hiertorch.errors import DataError
from hiertorch.wording import listed

KINDS = ("all", "stats", "diagnostics")


def summary(
    draws: LabelledDraws,
    names: str | Sequence[str] | None = None,
    *,
    ci_prob: float = CI_PROB,
    kind: str = "all",
    round_to: int | None = None,
) -> pd.DataFrame:
    """See `hiertorch.posterior.Posterior.summary`."""
    check_choice("kind", kind, KINDS)
    check_probability(ci_prob)
    check_count("round_to", round_to, 0, none="for the numbers as they are")
    draws.drawn()
    wanted = draws.names if names is None else names_of("names", names)
    if not wanted:
        raise DataError(f"names= is empty: name some of {listed(draws.names)}, or leave it out for all.")
    parts = [draws.table(name, _columns(draws, draws.known(name), ci_prob, kind)) for name in wanted]
    frame = pd.concat(parts)
    return frame if round_to is None else frame.round(round_to)


def _columns(draws: LabelledDraws, name: str, ci_prob: float, kind: str) -> dict[str, Tensor]:
    if kind == "stats":
        return summaries.moments(draws.draws[name], ci_prob)
    every = draws.columns[name]
    if kind == "all" and ci_prob == CI_PROB:
        return every
    found = summaries.moments(draws.draws[name], ci_prob) if kind == "all" else {}
    return found | {column: every[column] for column in MIXING}
