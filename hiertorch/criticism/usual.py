"""The statistics that every predictive check looks at, by the kind of the response, and those of each grouping."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from hiertorch.criticism.statistics import Statistic
from hiertorch.data.table import Data

BINS = 10
"""Of equally many rows, in which predicted probabilities are held against frequencies."""

TINY = 1e-300
TAILS = "think of a family with wider tails, such as student_t"
PRIOR = "look at offset, exposure and the priors that hold the intercept"
SKEWED = "think of bounds that the response has, or of another scale of it, such as a logarithm"
ROWS = "think of a negative_binomial family, or an effect of each row"
WIDE = "think of more predictors or effects, or of a family with wider tails, such as student_t"
SCALES, ROW_SCALE = "look at the priors of scales", "look at the prior of the scale of rows"


def _mean(y: Tensor, data: Data) -> Tensor:
    return y.double().mean(1)


def _dispersion(y: Tensor, data: Data) -> Tensor:
    """Var[y] / E[y], 0 where all counts are."""
    return y.double().var(1) / _mean(y, data).clamp(min=TINY)


def _skewness(y: Tensor, data: Data) -> Tensor:
    """m_3 / m_2^(3/2) of central moments, 0 where y does not vary."""
    y = y.double() - _mean(y, data).unsqueeze(1)
    y = y / y.abs().amax(1, keepdim=True).clamp(min=TINY)  # so that no power leaves the range of numbers
    return y.pow(3).mean(1) / y.square().mean(1).pow(1.5).clamp(min=TINY)


def _compared(name: str, what: str, function: Callable[[Tensor, Data], Tensor], high: str, low: str) -> Statistic:
    return Statistic(name, function, f"{what} lies higher", f"{what} lies lower", high, low)


MEAN = Statistic("mean", _mean, "The data lie higher", "The data lie lower", PRIOR, PRIOR)
SD = Statistic("sd", lambda y, _: y.double().std(1), "The data spread more", "The data spread less", WIDE, SCALES)
SMALLEST = _compared("smallest", "The smallest value", lambda y, _: y.double().amin(1), SKEWED, TAILS)
LARGEST = _compared("largest", "The largest value", lambda y, _: y.double().amax(1), TAILS, SKEWED)
SKEWNESS = Statistic(
    "skewness",
    _skewness,
    "The data are more skewed to the right",
    "The data are more skewed to the left",
    SKEWED,
    SKEWED,
)
ZEROS = Statistic(
    "zeros",
    lambda y, _: (y == 0).double().mean(1),
    "The data have more zeros",
    "The data have fewer zeros",
    "think of a negative_binomial or a zero-inflated family",
    "could zeros have been left out?",
)
DISPERSION = Statistic(
    "variance / mean",
    _dispersion,
    "The variance is a higher multiple of the mean",
    "The variance is a lower multiple of the mean",
    ROWS,
    "counts that vary less than Poisson ones may have a limit: think of a binomial family",
)
ONES = Statistic("proportion of ones", _mean, "The data have more ones", "The data have fewer ones", PRIOR, PRIOR)
OF_COUNTS = (replace(SD, advice_above=ROWS), replace(SMALLEST, advice_below=ROWS), replace(LARGEST, advice_above=ROWS))

BUILT_IN = {
    "continuous": (MEAN, SD, SMALLEST, LARGEST, SKEWNESS),
    "count": (MEAN, *OF_COUNTS, ZEROS, DISPERSION),
    "binary": (ONES,),
    "category": (),
}
"""Kind of response -> its statistics; those of categories are their shares, which families have."""


def usual(kind: str, data: Data) -> Iterator[Statistic]:
    """Those that fit a response of a kind of `BUILT_IN`, and those of each grouping whose groups have rows enough."""
    yield from BUILT_IN[kind]
    if kind == "category":  # whose codes have no mean
        return
    for plate in data.plates:
        counts = data.counts(plate)
        if int((counts > 0).sum()) >= 3 and int(counts.max()) >= 2:
            yield from _of_means(plate)
            if kind != "binary" and int((counts >= 2).sum()) >= 3:
                yield from _of_sds(plate, kind)


def _of_means(plate: str) -> Iterator[Statistic]:
    """How the means of groups differ."""
    yield Statistic(
        f"{plate}: sd of means",
        lambda y, data: group_means(y, data, plate).std(1),
        f"The means of {plate} differ more",
        f"The means of {plate} differ less",
        f"think of effects of {plate}, or, where it has some, of group-level predictors and slopes that vary over it",
        f"look at the prior of the scale of {plate}",
        groups=(plate,),
    )
    tails = f"look at the group that is so; effects of {plate} may have wider tails than the normal"
    for which, end in (("smallest", torch.amin), ("largest", torch.amax)):

        def extreme(y: Tensor, data: Data, end: Callable[[Tensor, int], Tensor] = end) -> Tensor:
            return end(group_means(y, data, plate), 1)

        yield _compared(f"{plate}: {which} mean", f"The {which} mean of {plate}", extreme, tails, tails)


def _of_sds(plate: str, kind: str) -> Iterator[Statistic]:
    """How rows spread within groups, and how this differs."""
    yield Statistic(
        f"{plate}: mean of sds",
        lambda y, data: group_sds(y, data, plate).mean(1),
        f"Within {plate} the data spread more",
        f"Within {plate} the data spread less",
        ROWS if kind == "count" else ROW_SCALE,
        ROW_SCALE,
        groups=(plate,),
    )
    yield Statistic(
        f"{plate}: sd of sds",
        lambda y, data: group_sds(y, data, plate).std(1),
        f"The spread within {plate} differs more between groups",
        f"The spread within {plate} differs less between groups",
        f"think of a scale for each {plate}, or of slopes that vary over it",
        groups=(plate,),
    )


def group_means(y: Tensor, data: Data, plate: str) -> Tensor:
    """Means of the groups that have rows, `(draws, those)`."""
    counts = data.counts(plate)
    return (_sums(y.double(), data, plate) / counts.clamp(min=1))[:, counts > 0]


def group_sds(y: Tensor, data: Data, plate: str) -> Tensor:
    """Standard deviations of the groups with two rows or more, `(draws, those)`."""
    counts, codes = data.counts(plate), data.codes[plate]
    means = _sums(y.double(), data, plate) / counts.clamp(min=1)
    squares = _sums((y.double() - means[:, codes]).square(), data, plate)
    return (squares[:, counts >= 2] / (counts[counts >= 2] - 1)).sqrt()


def _sums(y: Tensor, data: Data, plate: str) -> Tensor:
    return y.new_zeros(len(y), data.size(plate)).index_add_(1, data.codes[plate], y)


def calibration(probability: Tensor) -> Statistic:
    """sum_b (n_b / n) |frequency of ones in b - mean probability in b|, over ten bins of rows with similar predicted
    probabilities `(rows,)`: the expected calibration error (Naeini, Cooper & Hauskrecht 2015), with bins of equally
    many rows.

    Probabilities were fitted to y and not to y_rep, so that the data of a right model have a smaller error than most
    replications: only a larger one is a misfit, and a small misfit is not seen.
    """
    order = probability.argsort(stable=True)
    bins = [rows for rows in order.tensor_split(min(BINS, len(order))) if len(rows)]

    def error(y: Tensor, data: Data) -> Tensor:
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
