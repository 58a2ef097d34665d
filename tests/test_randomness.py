"""One law of streams: a seed and a path name a stream, whatever else is drawn."""

import numpy as np
import torch
from scipy import stats

from hiertorch.randomness import derived, stream

CPU = torch.device("cpu")


def test_each_use_has_a_stream_of_its_own():
    paths = [(), ("a",), ("b",), ("a", 1), ("a", 2), ("a1",), ("a", "1"), (1, "a"), ("a", 1, 2), ("a", 12)]
    seeds = [derived(seed, *path) for seed in (0, 1, 2**32, 2**32 + 1, 2**63 - 1) for path in paths]
    assert len(set(seeds)) == len(seeds) == len({seed % 2**32 for seed in seeds})
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived(np.int64(3), "a") == derived(3, "a")


def test_a_stream_is_the_same_again():
    one, other = (torch.randn(5, generator=stream(3, "predict", device=CPU)) for _ in range(2))
    assert torch.equal(one, other)


def test_neighboring_streams_are_independent():
    """Uniform means and correlations of 200 neighbors; two-sided, each by chance once in a thousand."""
    drawn = np.stack([torch.rand(500, generator=stream(s, "chain", c, device=CPU)) for s in (0, 1) for c in range(100)])
    assert stats.kstest(drawn[:, 0], "uniform").pvalue > 1e-3
    r = np.corrcoef(drawn)[np.triu_indices(200, 1)] * np.sqrt(500)
    assert stats.kstest(r, "norm").pvalue > 1e-3
