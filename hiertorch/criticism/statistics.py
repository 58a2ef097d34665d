"""Statistics T(y) of a response that say what a model reproduces, and what to think of where it doesn't."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.errors import DataError

__all__ = ["Statistic", "calibration", "given", "p_text", "usual"]

BINS = 10
"""Of equally many rows, in which predicted probabilities are held against frequencies."""

TINY = 1e-300
TAILS = "think of a family with wider tails, such as student_t"
PRIOR = "look at offset, exposure and the priors that hold the intercept"
SKEWED = "think of bounds that the response has, or of another scale of it, such as a logarithm"
ROWS = "think of a negative_binomial family, or an effect of each row"


@dataclass(frozen=True)
class Statistic:
    """T: responses `(draws, rows)` -> `(draws,)`, and what it means if the data have another T than replications.

    Attributes:
        name: in tables.
        function: T.
        above: what is so of the data if T(y) is above T(y_rep), up to "than the model makes".
        below: likewise.
        advice_above: what to think of then.
        advice_below: likewise.
        only_above: whether T(y) below T(y_rep) is no misfit.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    above: str
    below: str
    advice_above: str = ""
    advice_below: str = ""
    only_above: bool = False


def usual(kind: str, data: Data) -> Iterator[Statistic]:
    """Those that fit the response, and those of each grouping whose groups have rows enough.

    Args:
        kind: of the response: "continuous", "count" or "binary".
        data: for its groupings.
    """
    if kind == "binary":
        yield Statistic(
            "proportion of ones", _mean, "The data have more ones", "The data have fewer ones", PRIOR, PRIOR
        )
    else:
        yield from _of_all_rows(kind)
    for plate in data.plates:
        counts = data.counts(plate)
        present = counts > 0
        if int(present.sum()) >= 3 and int(counts.max()) >= 2:
            yield from _of_groups(plate, Groups(data.codes[plate], counts), kind)


def _of_all_rows(kind: str) -> Iterator[Statistic]:
    wide = ROWS if kind == "count" else "think of more predictors or effects, or of " + TAILS.removeprefix("think of ")
    yield Statistic("mean", _mean, "The data lie higher", "The data lie lower", PRIOR, PRIOR)
    yield Statistic("sd", _sd, "The data spread more", "The data spread less", wide, "look at the priors of scales")
    tails = ROWS if kind == "count" else TAILS
    yield Statistic("smallest", _min, "The smallest value lies higher", "The smallest value lies lower", SKEWED, tails)
    yield Statistic("largest", _max, "The largest value lies higher", "The largest value lies lower", tails, SKEWED)
    if kind == "continuous":
        right, left = "The data are more skewed to the right", "The data are more skewed to the left"
        yield Statistic("skewness", _skewness, right, left, SKEWED, SKEWED)
        return
    zeros, truncated = "think of a negative_binomial or a zero-inflated family", "could zeros have been left out?"
    yield Statistic("zeros", _zeros, "The data have more zeros", "The data have fewer zeros", zeros, truncated)
    yield Statistic(
        "variance / mean",
        _dispersion,
        "The variance is a higher multiple of the mean",
        "The variance is a lower multiple of the mean",
        ROWS,
        "counts that vary less than Poisson ones may have a limit: think of a binomial family",
    )


def _of_groups(plate: str, groups: "Groups", kind: str) -> Iterator[Statistic]:
    few = (
        f"think of effects of {plate}, or, where it has some, of group-level predictors and of slopes that vary over it"
    )
    tails = f"look at the group that is so; effects of {plate} may have wider tails than the normal"
    yield Statistic(
        f"{plate}: sd of means",
        lambda y: groups.spread(groups.means(y)),
        f"The means of {plate} differ more",
        f"The means of {plate} differ less",
        few,
        f"look at the prior of the scale of {plate}",
    )
    yield Statistic(
        f"{plate}: smallest mean",
        lambda y: groups.means(y)[:, groups.present].amin(1),
        f"The smallest mean of {plate} lies higher",
        f"The smallest mean of {plate} lies lower",
        tails,
        tails,
    )
    yield Statistic(
        f"{plate}: largest mean",
        lambda y: groups.means(y)[:, groups.present].amax(1),
        f"The largest mean of {plate} lies higher",
        f"The largest mean of {plate} lies lower",
        tails,
        tails,
    )
    if kind == "binary" or int((groups.counts >= 2).sum()) < 3:
        return
    own = f"think of a scale for each {plate}, or of slopes that vary over it"
    yield Statistic(
        f"{plate}: mean of sds",
        lambda y: groups.sds(y).mean(1),
        f"Within {plate} the data spread more",
        f"Within {plate} the data spread less",
        ROWS if kind == "count" else "look at the prior of the scale of rows",
        "look at the prior of the scale of rows",
    )
    yield Statistic(
        f"{plate}: sd of sds",
        lambda y: groups.sds(y).std(1),
        f"The spread within {plate} differs more between groups",
        f"The spread within {plate} differs less between groups",
        own,
        "",
    )


def calibration(probability: Tensor) -> Statistic:
    """sum_b (n_b / n) |frequency of ones in b - mean probability in b|, over ten bins of rows with similar predicted
    probabilities: the expected calibration error (Naeini, Cooper & Hauskrecht 2015), with bins of equally many rows.

    Probabilities were fitted to y and not to y_rep, so that the data of a right model have a smaller error than most
    replications: only a larger one is a misfit, and a small misfit is not seen.

    Args:
        probability: predicted, `(rows,)`.
    """
    order = probability.argsort(stable=True)
    bins = [rows for rows in order.tensor_split(min(BINS, len(order))) if len(rows)]

    def error(y: Tensor) -> Tensor:
        gaps = [(y.double()[:, rows].mean(1) - probability[rows].mean()).abs() * len(rows) for rows in bins]
        return torch.stack(gaps).sum(0) / len(order)

    return Statistic(
        "calibration error",
        error,
        "Predicted probabilities are farther from the frequencies",
        "Predicted probabilities are closer to the frequencies",
        "think of predictors, interactions or curves that are missing",
        only_above=True,
    )


def given(statistics: Mapping[str, Callable[[Tensor], Tensor]] | None, taken: set[str]) -> Iterator[Statistic]:
    """A user's own, which are looked at when they are computed.

    Raises:
        DataError: unless these are functions under names of their own.
    """
    if statistics is not None and not isinstance(statistics, Mapping):
        raise DataError(
            f"statistics= maps names to functions of a response (draws, rows), {{'median': lambda y: "
            f"y.median(1).values}}; found {type(statistics).__name__}."
        )
    for name, function in (statistics or {}).items():
        if not isinstance(name, str):
            raise DataError(f"a statistic is called by a text, found {name!r}.")
        if not callable(function):
            raise DataError(f"statistic {name!r} is a function of a response (draws, rows); found {function!r}.")
        if name in taken:
            raise DataError(f"{name!r} is one of the statistics that are always there; give yours another name.")
        lies = f"Statistic {name!r} of the data is"
        yield Statistic(str(name), _checked(name, function), f"{lies} higher", f"{lies} lower")


def p_text(p: float, draws: int) -> str:
    """A p-value for print, of so many replications."""
    least = 1 / draws
    return f"p < {least:g}" if p < least else f"p > {1 - least:g}" if p > 1 - least else f"p = {p:.3f}"


def _checked(name: str, function: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def checked(y: Tensor) -> Tensor:
        found = function(y)
        if not isinstance(found, Tensor) or found.shape != y.shape[:1]:
            what = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise DataError(
                f"statistic {name!r} must make (draws,) = ({len(y)},) of responses (draws, rows) = {tuple(y.shape)}; "
                f"found {what}: reduce the last axis, as in lambda y: y.median(1).values."
            )
        if not bool(torch.isfinite(found).all()):
            at = int((~torch.isfinite(found)).nonzero()[0])
            raise DataError(
                f"statistic {name!r} is {float(found[at])} for a response of mean {float(y[at].mean()):.4g}: make it "
                "finite for every response that the model can make."
            )
        return found.double()

    return checked


class Groups:
    """Moments of the rows of each group, `(draws, groups)`.

    Args:
        codes: group of each row.
        counts: rows of each group.
    """

    def __init__(self, codes: Tensor, counts: Tensor) -> None:
        self.codes, self.counts, self.present = codes, counts, counts > 0

    def means(self, y: Tensor) -> Tensor:
        """Of all groups; 0 for those without rows."""
        return self._sums(y.double()) / self.counts.clamp(min=1)

    def sds(self, y: Tensor) -> Tensor:
        """Of the groups with two rows or more, `(draws, those)`."""
        deviations = y.double() - self.means(y)[:, self.codes]
        enough = self.counts >= 2
        return (self._sums(deviations.square())[:, enough] / (self.counts[enough] - 1)).sqrt()

    def spread(self, values: Tensor) -> Tensor:
        """Standard deviation between the groups that have rows, `(draws,)`."""
        return values[:, self.present].std(1)

    def _sums(self, y: Tensor) -> Tensor:
        return y.new_zeros(len(y), len(self.counts)).index_add_(1, self.codes, y)


def _mean(y: Tensor) -> Tensor:
    return y.double().mean(1)


def _sd(y: Tensor) -> Tensor:
    return y.double().std(1)


def _min(y: Tensor) -> Tensor:
    return y.double().amin(1)


def _max(y: Tensor) -> Tensor:
    return y.double().amax(1)


def _zeros(y: Tensor) -> Tensor:
    return (y == 0).double().mean(1)


def _dispersion(y: Tensor) -> Tensor:
    """Var[y] / E[y], 0 where all counts are."""
    return y.double().var(1) / _mean(y).clamp(min=TINY)


def _skewness(y: Tensor) -> Tensor:
    """m_3 / m_2^(3/2) of central moments, 0 where y does not vary."""
    y = y.double() - _mean(y).unsqueeze(1)
    y = y / y.abs().amax(1, keepdim=True).clamp(min=TINY)  # so that no power leaves the range of numbers
    return y.pow(3).mean(1) / y.square().mean(1).pow(1.5).clamp(min=TINY)
