"""What a run is by default, and settings that can't work, each refused in words before anything is sampled."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal

import hiertorch as ht


class Mean(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.0))

    def likelihood(self, v, data):
        return Normal(v.mu, 1.0)


def run(data, **options):
    return ht.sample(
        Mean(), data, **{"warmup": 20, "draws": 8, "seed": 1, "progress": False, "compile": False, **options}
    )


DATA = ht.Data(torch.arange(5.0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "nonsense"}, "device 'nonsense'"),
        ({"log_dir": 3}, "log_dir must be the path"),
        ({"plan": 3}, "a plan is a list of moves"),
        ({"plan": "joint"}, "a plan is a list of moves"),
        ({"keep": []}, "keep is empty"),
        ({"chains": 10**9}, "GiB"),
    ],
)
def test_settings_that_cannot_work(options, words):
    with pytest.raises(ht.HiertorchError, match=words):
        run(DATA, **options)


def test_chains_follow_data_that_hold_a_set_for_each():
    """The posterior of a normal mean with prior and noise of sd 1 is Normal(sum y / (n + 1), 1 / (n + 1)), by chain."""
    y = torch.randn(6, 40, generator=torch.Generator().manual_seed(1)) + torch.arange(6.0)[:, None]
    posterior = run(ht.Data(y), warmup=300, draws=1500, thin=4)
    assert posterior.chains == 6
    np.testing.assert_allclose(posterior["mu"].mean(1), y.sum(1) / 41, atol=5 * 41**-0.5 / 400**0.5)
    with pytest.raises(ht.SamplingError, match="one set for each of 6 chains, and chains=4"):
        run(ht.Data(y), chains=4)


def test_one_chain_runs():
    assert run(ht.Data(torch.zeros(8), groups={"g": [0, 0, 1, 1, 2, 2, 3, 3]}), chains=1)["mu"].shape == (1, 8)


@pytest.mark.parametrize(("rows", "chains", "thin"), [(10, 64, 2), (12_573, 32, 1), (100_000, 8, 1)])
def test_defaults_follow_the_rows(rows, chains, thin):
    from hiertorch.settings import schedule

    chosen = schedule(ht.plan(Mean(), ht.Data(torch.zeros(rows))), None, None, None, None)
    assert (chosen.chains, chosen.warmup, chosen.draws, chosen.thin) == (chains, 500, 1000, thin)


def test_threads_are_put_back():
    before = torch.get_num_threads()
    run(DATA)
    assert torch.get_num_threads() == before
