"""Statistics against numpy, pandas and scipy; distribution functions against scipy; the test of uniformity."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch.distributions import Bernoulli, Binomial, NegativeBinomial, Normal, Poisson, StudentT

import hiertorch as ht
from hiertorch.criticism import statistics, uniformity, usual

SEED = 20
LABELS = np.repeat(["a", "b", "c", "d", "e"], [20, 17, 12, 10, 1])


def grouped(y):
    """60 rows in five groups, one of a single row, and a sixth without rows."""
    return ht.Data(y, groups={"school": LABELS}, labels={"school": ["a", "b", "c", "d", "e", "f"]})


def computed(kind, y):
    data = grouped(y[0])
    return {s.name: s(torch.as_tensor(y), data).numpy() for s in usual.usual(kind, data)}


def expected_of_groups(y):
    frame = pd.DataFrame(y.T).groupby(LABELS)
    means, sds = frame.mean(), frame.std().dropna()  # columns are draws; a group of one row has no sd
    return {
        "school: sd of means": means.std(),
        "school: smallest mean": means.min(),
        "school: largest mean": means.max(),
        "school: mean of sds": sds.mean(),
        "school: sd of sds": sds.std(),
    }


def test_statistics_of_a_continuous_response():
    y = np.random.default_rng(SEED).gamma(2.0, 3.0, (7, 60)) + 1000.0
    expected = {
        "mean": y.mean(1),
        "sd": y.std(1, ddof=1),
        "smallest": y.min(1),
        "largest": y.max(1),
        "skewness": stats.skew(y, axis=1),
        **expected_of_groups(y),
    }
    found = computed("continuous", y)
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, err_msg=name)


def test_statistics_of_counts():
    y = np.random.default_rng(SEED).poisson(1.5, (7, 60)).astype(float)
    expected = {
        "mean": y.mean(1),
        "sd": y.std(1, ddof=1),
        "smallest": y.min(1),
        "largest": y.max(1),
        "zeros": (y == 0).mean(1),
        "variance / mean": y.var(1, ddof=1) / y.mean(1),
        **expected_of_groups(y),
    }
    found = computed("count", y)
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12, err_msg=name)


def test_statistics_of_a_binary_response():
    y = np.random.default_rng(SEED).integers(0, 2, (7, 60)).astype(float)
    expected = expected_of_groups(y)
    found = computed("binary", y)
    assert list(found) == ["proportion of ones", *list(expected)[:3]]
    np.testing.assert_allclose(found["proportion of ones"], y.mean(1))
    for name in list(expected)[:3]:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12, err_msg=name)


def test_what_does_not_vary_has_finite_statistics():
    assert computed("count", np.zeros((1, 60)))["variance / mean"] == 0.0
    assert computed("continuous", np.full((1, 60), 7.0))["skewness"] == 0.0


def test_skewness_of_huge_numbers():
    y = np.random.default_rng(SEED).gamma(2.0, 1.0, (3, 60))
    np.testing.assert_allclose(computed("continuous", 1e120 * y)["skewness"], stats.skew(y, axis=1), rtol=1e-9)


def test_groups_of_single_rows_have_no_statistics():
    data = ht.Data(torch.randn(60), groups={"row": range(60), "half": [0, 1] * 30})
    assert [s.name for s in usual.usual("count", data)] == [
        "mean",
        "sd",
        "smallest",
        "largest",
        "zeros",
        "variance / mean",
    ]


def test_calibration_error_by_hand():
    generator = np.random.default_rng(SEED)
    p, y = generator.random(95), generator.integers(0, 2, (4, 95)).astype(float)
    bins = np.array_split(np.argsort(p), 10)  # 95 rows: bins of 10 and of 9
    expected = [sum(abs(row[b].mean() - p[b].mean()) * len(b) for b in bins) / 95 for row in y]
    found = usual.calibration(torch.as_tensor(p))(torch.as_tensor(y), ht.Data(y[0]))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"total": lambda y: y.sum()}, r"'total' must make \(draws,\) = \(2,\).*found a tensor \(\)"),
        ({"total": lambda y: y.numpy().sum(1)}, "found ndarray"),
        ({"log": lambda y: y.log().mean(1)}, "'log' is nan for a response of mean -2"),
        ({"mean": lambda y: y.mean(1)}, "'mean' is one of the statistics that are always there"),
        ({"mine": "mean"}, "'mine' is a function"),
        ([torch.mean], "statistics= maps names to functions"),
        (torch.mean, "statistics= maps names to functions"),
    ],
)
def test_bad_statistics(given, sentence):
    with pytest.raises(ht.DataError, match=sentence):
        for statistic in statistics.given(given, {"mean"}):
            statistic(torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]]), ht.Data([1.0, 2.0, 3.0]))


COLUMN = torch.linspace(0.3, 2.5, 9, dtype=torch.float64).unsqueeze(1)  # of draws
COUNT = torch.tensor([0.0, 1.0, 2.0, 5.0], dtype=torch.float64)
RATE = COLUMN.numpy()


@pytest.mark.parametrize(
    ("likelihood", "y", "reference"),
    [
        (Normal(COLUMN, 1.5), COUNT - 1.7, stats.norm(RATE, 1.5)),
        (Poisson(COLUMN.expand(9, 4)), COUNT, stats.poisson(RATE)),
        (Bernoulli(COLUMN / 3), COUNT.clamp(max=1), stats.bernoulli(RATE / 3)),
    ],
    ids=lambda part: type(part).__name__,
)
def test_distribution_functions(likelihood, y, reference):
    below, equal = uniformity.masses(likelihood.expand(torch.Size((9, 4))), y, torch.Generator())
    up_to = reference.cdf(y.numpy())
    at = reference.pmf(y.numpy()) if hasattr(reference.dist, "pmf") else np.zeros((9, 4))
    np.testing.assert_allclose((below + equal).numpy(), up_to, atol=1e-7)
    np.testing.assert_allclose(equal.numpy(), at, atol=1e-7)


@pytest.mark.parametrize(
    ("likelihood", "reference"),
    [
        (StudentT(3.0, 0.5, 2.0), stats.t(3.0, 0.5, 2.0)),
        (Binomial(7, torch.tensor(0.3)), stats.binom(7, 0.3)),
        (NegativeBinomial(2.5, torch.tensor(0.6)), stats.nbinom(2.5, 0.4)),
    ],
    ids=["StudentT", "Binomial", "NegativeBinomial"],
)
def test_distribution_functions_by_simulation(likelihood, reference):
    """40,000 draws, 4 values: beyond 4.5 standard errors once in 10^5 values."""
    generator = torch.Generator().manual_seed(SEED)
    below, equal = uniformity.masses(likelihood.expand(torch.Size((40_000, 4))), COUNT, generator)
    up_to = reference.cdf(COUNT.numpy())
    found = (below + equal).mean(0).numpy()
    assert (np.abs(found - up_to) < 4.5 * np.sqrt(up_to * (1 - up_to) / 40_000) + 1e-12).all()
    if hasattr(reference.dist, "pmf"):
        mass = reference.pmf(COUNT.numpy())
        assert (np.abs(equal.mean(0).numpy() - mass) < 4.5 * np.sqrt(mass / 40_000)).all()


def test_tail_probabilities_of_counts():
    binomial = stats.binom(200, 0.15)
    count = np.arange(201)
    expected = 2 * np.minimum(binomial.cdf(count), binomial.sf(count - 1))
    np.testing.assert_allclose(uniformity._two_sided(200, 0.15), expected, rtol=1e-9, atol=1e-300)


def test_uniform_values_are_called_so():
    """400 samples of 200: p <= 0.1 in 10 % of them, beyond 4 standard errors of a binomial once in 15,000 tests; the
    band and p agree in each.
    """
    generator = np.random.default_rng(SEED)
    low, inside = 0, 0
    for _ in range(400):
        values = generator.random(200)
        band = uniformity.uniform_band(values)
        share = (values[:, None] <= band.points).mean(0)
        kept = bool(((share >= band.lower - 1e-12) & (share <= band.upper + 1e-12)).all())
        assert kept == (band.p > 0.01)
        low, inside = low + (band.p <= 0.1), inside + kept
    assert abs(low - 40) < 4 * np.sqrt(36)
    assert inside >= 400 - 4 - 4 * np.sqrt(4)


@pytest.mark.parametrize("shape", [(1.6, 1.6), (0.7, 0.7), (1.0, 1.4)], ids=["too wide", "too narrow", "too high"])
def test_other_values_are_not(shape):
    """Of 1,000; the Kolmogorov-Smirnov test has p < 0.001 for each of these samples, too."""
    values = np.random.default_rng(SEED).beta(*shape, 1_000)
    assert stats.kstest(values, "uniform").pvalue < 0.001
    assert uniformity.uniform_band(values).p < 0.001
    sentence = "; ".join(uniformity._shape(values))
    assert {(1.6, 1.6): "too wide", (0.7, 0.7): "too narrow", (1.0, 1.4): "too high"}[shape] in sentence


def test_band_is_that_of_arviz():
    """Width at 1/2: theirs looks at 999 points in place of 19, and is wider by up to a quarter for it."""
    from arviz_stats.ecdf_utils import ecdf_pit

    n = 1_000
    points, _, lower, upper = ecdf_pit(np.linspace(0, 1, n), 0.99, 1_000, rng=np.random.default_rng(SEED))
    band = uniformity.uniform_band(np.linspace(0, 1, n))
    middle, theirs = np.searchsorted(band.points, 0.499), np.searchsorted(points, 0.4999)
    own, other = band.upper[middle] - band.lower[middle], upper[theirs] - lower[theirs]
    assert 0.75 < own / other <= 1.02
