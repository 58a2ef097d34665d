"""Rows of another family that are censored, of which it is known only that they lie beyond a number, or truncated."""

import torch
from torch import Tensor

from hiertorch.data import admissible
from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.families import laws, portable
from hiertorch.families.around import Around
from hiertorch.families.counts import Counts
from hiertorch.families.family import Family, check_column_name
from hiertorch.families.ordinal import Ordinal
from hiertorch.families.successes import Bernoulli, Trials
from hiertorch.families.zeros import MoreZeros
from hiertorch.model import censoring
from hiertorch.model.latent import Values

DISCRETE = (Bernoulli, Trials, Counts, Ordinal, MoreZeros)
"""Families whose responses are not continuous, or not all of them."""


class Incomplete(Around):
    """A family of continuous rows of which not all is seen."""

    def __init__(self, base: Family, prefix: str, more: tuple[str, ...], columns: tuple[str, ...]) -> None:
        if isinstance(base, (*DISCRETE, Censored)):
            kind = "censored" if isinstance(base, Censored) else "of whole numbers, or in part"
            raise ModelError(
                f"{prefix} rows are those of a family of continuous ones, such as gaussian, lognormal or weibull; "
                f"{base.name} is {kind}."
            )
        super().__init__(base, prefix, more, columns=columns)

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor | None:
        """That of the base: of rows of which all is seen."""
        return self.base.link_variance(eta, spread, v, data)

    def typical_row(self, data: Data) -> dict[str, Tensor]:
        """That of the base, and the first row's columns, which its variance does not depend on."""
        return {name: data[name][0] for name in self.columns} | self.base.typical_row(data)

    def draw_columns(self, rows: int, generator: torch.Generator) -> dict[str, Tensor] | None:
        """Not known, if there are others than the base's."""
        return self.base.draw_columns(rows, generator) if self.columns == self.base.columns else None


class Censored(Incomplete):
    """p(y_i) where all is seen (code 0), 1 - F(y_i) where y_i was cut off above (1, right-censored), F(y_i) where it
    was below (-1, left-censored), and F(upper_i) - F(y_i) where it lies between two ends (2, interval-censored); p and
    F are the base's.

    What is simulated and predicted is what would be seen without censoring.

    Args:
        base: a family of continuous rows.
        how: the column of codes.
        upper: the column of upper ends; those of rows with another code than 2 are not looked at.

    Raises:
        ModelError: for counts and categories.
    """

    def __init__(self, base: Family, how: str = "cens", upper: str | None = None) -> None:
        check_column_name("how", how)
        if upper is not None:
            check_column_name("upper", upper)
        self.how, self.upper = how, upper
        columns = (how,) if upper is None else (how, upper)
        super().__init__(base, "censored", columns, columns)

    def distribution(self, eta: Tensor, v: Values, data: Data) -> censoring.Censored:
        """Of the base, with rows that are cut off."""
        upper = None if self.upper is None else data[self.upper]
        return censoring.Censored(self.base.distribution(eta, v, data), data[self.how], upper)

    def exported(self) -> portable.Portable | None:
        """That of the base: of what would be seen without censoring."""
        return self.base.exported()

    def check_columns(self, data: Data) -> None:
        """Codes are known, and those of two ends have both."""
        super().check_columns(data)
        codes = (-1, 0, 1) if self.upper is None else (-1, 0, 1, 2)
        told = "0 (seen), 1 (right-), -1 (left-)"
        last = "; an upper end makes 2 (interval-)" if self.upper is None else ", 2 (interval-)"
        admissible.among(data, self.how, codes, f"codes of censored rows are {told}{last}")

    def __repr__(self) -> str:
        return f"Censored({self.base!r}, {', '.join(self.columns[len(self.base.columns) :])})"


class Truncated(Incomplete):
    """p(y_i) / (F(high_i) - F(low_i)) for low_i <= y_i <= high_i: rows of the base that are seen only where they lie
    between.

    Args:
        base: a family of continuous rows.
        low: the lower end, a number or the column that holds it; None for none.
        high: the upper end, likewise.

    Raises:
        ModelError: for counts and categories, without both ends, and for a lower end that is not below the upper one.
    """

    def __init__(self, base: Family, low: float | str | None = None, high: float | str | None = None) -> None:
        if low is None and high is None:
            raise ModelError("truncated rows lie above low=, below high=, or between both; found neither.")
        for name, end in (("low", low), ("high", high)):
            if not (end is None or isinstance(end, str | int | float)) or isinstance(end, bool):
                raise ModelError(f"{name}= is a number or the name of a column, found {end!r}.")
        if isinstance(low, int | float) and isinstance(high, int | float) and not low < high:
            raise ModelError(f"truncated rows lie from low= to a higher high=; found {low!r} and {high!r}.")
        self.low, self.high = low, high
        told = ["-inf" if low is None else str(low), "inf" if high is None else str(high)]
        columns = tuple(end for end in (low, high) if isinstance(end, str))
        super().__init__(base, "truncated", (f"from {told[0]} to {told[1]}",), columns)

    def distribution(self, eta: Tensor, v: Values, data: Data) -> censoring.Truncated:
        """Of the base, between the ends."""
        low, high = (data[end] if isinstance(end, str) else end for end in (self.low, self.high))
        return censoring.Truncated(self.base.distribution(eta, v, data), low, high)

    def exported(self) -> portable.Portable | None:
        """The base between the ends."""
        return None if (base := self.base.exported()) is None else laws.truncated(base, self.low, self.high)

    def check_columns(self, data: Data) -> None:
        """Lower ends lie below upper ones."""
        super().check_columns(data)
        admissible.ascending(data, self.low, self.high, "rows are truncated below a number and above a higher one")

    def __repr__(self) -> str:
        return f"Truncated({self.base!r}, {self.low}, {self.high})"
