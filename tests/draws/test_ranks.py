"""Ranks of chains: differences of ECDFs, and a band that has its level."""

import numpy as np
import pytest
from scipy import stats

from hiertorch.draws import ranks


def test_differences_are_those_of_ranks():
    x = np.random.default_rng(1).normal(size=(5, 40))
    normalised = (stats.rankdata(x) / x.size).reshape(5, 40)
    points = ranks.band(5, 40)[0]
    ecdf = (normalised[:, :, None] <= points + 1e-12).mean(1)
    np.testing.assert_allclose(ranks.differences(x), ecdf - points, atol=1e-12)


def test_a_chain_elsewhere_leaves_the_band():
    draws = np.random.default_rng(4).normal(size=(8, 120))
    draws[2] -= 10.0
    _, low, high = ranks.band(8, 120)
    lines = ranks.differences(draws)
    assert lines[2].max() == pytest.approx(1 - 1 / 8, abs=0.02)  # all of its draws are among the lowest eighth
    assert (lines > high).any() and (low < 0).all() and (high > 0).all()
    same = ranks.differences(np.ones((4, 500)))  # equal draws are shared evenly, within 6 standard errors
    assert np.abs(same).max() < 6 * 0.5 / 500**0.5


def test_counts_are_hypergeometric():
    lowest = np.array([1, 7, 40, 99])
    expected = stats.hypergeom(100, lowest[:, None], 25).pmf(np.arange(26))
    np.testing.assert_allclose(ranks._hypergeometric(100, lowest, 25), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("chains", "draws"),
    [(2, 100), pytest.param(4, 150, marks=pytest.mark.slow), (8, 40), pytest.param(32, 60, marks=pytest.mark.slow)],
)
def test_the_band_has_its_level(chains, draws):
    """8,000 data sets of chains that agree: a band of error 1 % fails one such test in 10,000, a band of Bonferroni's
    nearly all, as does one without regard to the number of chains. There are as many ties as a kernel makes.
    """
    rng = np.random.default_rng(20 + chains)
    _, low, high = ranks.band(chains, draws)
    left = 0
    for _ in range(8_000):
        lines = ranks.differences(rng.integers(0, 50, size=(chains, draws)) / 7)
        left += bool(((lines < low - 1e-12) | (lines > high + 1e-12)).any())
    expected = stats.binom(8_000, ranks.ERROR)
    assert expected.ppf(5e-5) <= left <= expected.ppf(1 - 5e-5)
