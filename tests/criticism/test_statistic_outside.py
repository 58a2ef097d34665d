"""Statistics that the package does not have, in one file: predictive checks and their figures take them."""

import numpy as np
import pytest
from contracts.statistics import StatisticContract

import hiertorch as ht
from hiertorch.criticism.statistics import Statistic
from hiertorch.criticism.usual import DISPERSION
from hiertorch.models import CompletePooling


def between(y, data):
    """The share of the variance of y that lies between schools."""
    codes, counts = data["school"], data.counts("school")
    means = y.new_zeros(len(y), len(counts)).index_add_(1, codes, y) / counts
    return (means[:, codes] - y.mean(1, keepdim=True)).square().mean(1) / y.var(1, correction=0)


def slope(y, data):
    """Least squares of y on x."""
    x = (data["x"] - data["x"].mean()).to(y)
    return (y - y.mean(1, keepdim=True)) @ x / x.square().sum()


BETWEEN = Statistic(
    "share between schools",
    between,
    "Schools differ more",
    "Schools differ less",
    "think of effects of school",
    groups=("school",),
)
SLOPE = Statistic("slope of x", slope, columns=("x",), kinds=("continuous",), drawn=False)


class TestBetween(StatisticContract):
    def statistic(self):
        return BETWEEN

    def expected(self, y, frame):
        means = frame.assign(y=y).groupby("school")["y"].transform("mean")
        return np.var(means) / np.var(y)


class TestSlope(StatisticContract):
    def statistic(self):
        return SLOPE

    def expected(self, y, frame):
        return np.polyfit(frame["x"], y, 1)[0]


class TestBuiltIn(StatisticContract):
    kind = "count"

    def statistic(self):
        return DISPERSION

    def expected(self, y, frame):
        return y.var(ddof=1) / y.mean()


@pytest.fixture(scope="module")
def checked():
    """Of a model without effects of schools, and data in which these differ."""
    generator = np.random.default_rng(1)
    school = np.repeat(np.arange(8), 10)
    y = 2.0 * generator.normal(size=8)[school] + generator.normal(size=80)
    data = ht.Data(y, x=generator.normal(size=80), groups={"school": school})
    return ht.prior_check(CompletePooling(priors="tutorial"), data, [BETWEEN, SLOPE], draws=200, seed=1)


def test_a_check_asks_it(checked):
    y, data = checked.replications.data.y.unsqueeze(0), checked.replications.data
    assert checked.observed["share between schools"] == pytest.approx(float(between(y, data)))
    assert checked.replicated["slope of x"].shape == (200,)
    (sentence,) = (warning for warning in checked.warnings if warning.startswith("Schools differ more ("))
    assert "than the prior makes" in sentence
    shown = checked.plot("statistics")
    titles = [axes.get_title().split("\n")[0] for axes in shown.axes]
    assert "share between schools" in titles and "slope of x" not in titles


def test_what_does_not_fit_is_refused_in_words():
    model, rows = CompletePooling(priors="tutorial"), ht.Data([0.2, 1.0, 3.0])
    with pytest.raises(ht.DataError, match=r"reads the grouping 'school', and the data have none"):
        ht.prior_check(model, rows, [BETWEEN], draws=20, seed=1)
    with pytest.raises(ht.DataError, match=r"'slope of x' is of a continuous response; this one is count"):
        ht.prior_check(CompletePooling(family="poisson", priors="tutorial"), ht.Data([0, 1, 3]), [SLOPE], seed=1)
    with pytest.raises(ht.DataError, match="reduce the last axis"):
        ht.prior_check(model, rows, [Statistic("y", lambda y, data: y)], draws=20, seed=1)
    alone = ht.prior_check(model, rows, Statistic("total", lambda y, _: y.sum(1)), draws=20, seed=1)
    assert alone.observed["total"] == pytest.approx(4.2)
