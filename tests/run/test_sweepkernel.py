"""What the compiled sweeps are made of, beside NumPy and SciPy."""

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("numba")

from hiertorch.run.sweepnumbers import WIDTH, cosine, draw, draw_words, sine, uniform


def streams(seed: int) -> tuple[list[np.random.SFC64], np.ndarray]:
    """NumPy's generators, one for each chain, and their states side by side."""
    sources = [np.random.SFC64(seed + c) for c in range(WIDTH)]
    return sources, np.stack([source.state["state"]["state"] for source in sources], 1)


def test_words_are_those_of_numpy() -> None:
    sources, state = streams(3)
    words = np.empty(WIDTH, np.uint64)
    for _ in range(50):
        draw_words(state, words)
        assert words.tolist() == [int(source.random_raw()) for source in sources]


def test_uniform_numbers_are_the_first_bits_of_a_word() -> None:
    words = np.array([0, 2**12 - 1, 2**12, 2**63, 2**64 - 1], np.uint64)
    assert [uniform(word) for word in words] == [1.0, 1.0, 1.0 - 2.0**-52, 0.5, 2.0**-52]


def test_sines() -> None:
    w = np.linspace(-0.5, 0.5, 2001)
    np.testing.assert_allclose([sine(x) for x in w], np.sin(np.pi * w), rtol=0, atol=3e-16)
    np.testing.assert_allclose([cosine(x) for x in w], np.cos(np.pi * w), rtol=0, atol=3e-16)


@pytest.mark.parametrize("effects", [1, 2, 3])
@pytest.mark.parametrize("freedom", [8.0, 4.0])
def test_numbers_of_groups_are_students(effects: int, freedom: float) -> None:
    """Each number, the sum of all of a group, and their square length; and log t - log N. Error rate 1e-3 a case."""
    groups = 3000
    noise, heavy, (_, state) = np.empty((effects * groups, WIDTH)), np.empty((groups, WIDTH)), streams(8)
    draw(noise, heavy, state, np.full(groups, freedom))
    e = noise.reshape(effects, -1)
    tests = [stats.kstest(x, stats.t(freedom).cdf).pvalue for x in e]
    tests.append(stats.kstest(e.sum(0) / effects**0.5, stats.t(freedom).cdf).pvalue)
    tests.append(stats.kstest((e**2).sum(0) / effects, stats.f(effects, freedom).cdf).pvalue)
    assert min(tests) > 1e-3 / len(tests)
    some = e[:, :100].T
    known = stats.multivariate_t(np.zeros(effects), np.eye(effects), df=freedom).logpdf(some)
    known -= stats.multivariate_normal(np.zeros(effects)).logpdf(some)
    np.testing.assert_allclose(heavy.flatten()[:100] - heavy[0, 0], known - known[0], atol=1e-12)
