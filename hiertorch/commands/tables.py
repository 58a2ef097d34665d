"""Summaries as a terminal has room for them."""

from collections.abc import Sequence

import pandas as pd

from hiertorch.commands.program import WIDTH

GROUPS = 8
"""Shown of a latent that has a row for every group."""


def shortened(summary: pd.DataFrame, by_group: Sequence[str], columns: int = WIDTH, groups: int = GROUPS) -> str:
    """The summary with the first rows only of the latents in `by_group`; where so many columns have no room for it,
    without Monte Carlo errors, then with fewer digits, then without the ESS of the tails.
    """
    latent = pd.Series(summary.index.str.split("[").str[0], index=summary.index)
    grouped, place = latent.isin(by_group), latent.groupby(latent).cumcount()
    shown, digits = summary[~grouped | (place < groups)], 6
    errors = [name for name in map(str, shown) if name.startswith("mcse")][::-1]
    for step in [*errors, 4, "ess_tail", 3]:
        if len(text(shown, digits).partition("\n")[0]) <= columns:
            break
        shown, digits = (shown, step) if isinstance(step, int) else (shown.drop(columns=step, errors="ignore"), digits)
    hidden = latent[grouped & (place >= groups)].value_counts(sort=False)
    fits = len(text(shown, digits).partition("\n")[0]) <= columns
    table = text(shown, digits, None if fits else columns)
    return "\n".join([table, *(f"... and {count} more of {name}" for name, count in hidden.items())])


def text(table: pd.DataFrame, digits: int, columns: int | None = None) -> str:
    """A table with so many digits, in blocks below one another where it has more columns than these; a dash for what a
    constant does not have, such as the R-hat of the one entry of a Cholesky factor that is 1.
    """
    few = {"ess": "{:.0f}", "r_hat": "{:.3f}", "sd": "{:.3g}", "mcse": "{:.3g}"}
    formats = {name: few.get(name, few.get(name.split("_")[0], f"{{:.{digits}g}}")).format for name in map(str, table)}
    return table.to_string(formatters=formats, line_width=columns, na_rep="-")
