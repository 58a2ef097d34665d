"""Proposals of groups with heavier tails, against scipy; stays, by hand."""

import pandas as pd
import pytest
import torch
from builders import sampled
from scipy import stats
from torch.distributions import Bernoulli, Gamma, Normal

import hiertorch as ht
from hiertorch.draws.judgement import beside
from hiertorch.run.heavytails import FREEDOM, HEAVIER, HeavyTails
from hiertorch.run.stays import Stays, facts

NUMBER = 20_000


@pytest.mark.parametrize("width", [1, 2])
def test_numbers_of_groups_have_a_student_distribution(width):
    """Of 8 degrees of freedom, and of 4 for the group that stayed. Error rate 1e-3 for all."""
    tails, source = HeavyTails(), torch.Generator().manual_seed(1)
    tails.widen(0, torch.tensor([[3, 50], [51, 0]]))
    normal = torch.randn(width, 2, NUMBER, generator=source, dtype=torch.float64)
    uniform = 1.0 - torch.rand(FREEDOM // 2, 2, NUMBER, generator=source, dtype=torch.float64)
    drawn = tails.drawn(normal, uniform, 0)
    for group, freedom in enumerate((FREEDOM, HEAVIER)):
        for x in drawn[:, group]:
            assert stats.kstest(x.numpy(), stats.t(freedom).cdf).pvalue > 1e-3 / 4
        at = drawn[:, group].mT.numpy()
        one = torch.eye(width).numpy()
        known = stats.multivariate_t(shape=one, df=freedom).logpdf(at) - stats.multivariate_normal(cov=one).logpdf(at)
        gap = tails.heavier(drawn, 0)[group].numpy() - known
        assert abs(gap - gap[0]).max() < 1e-9


def test_stays_are_counted_by_hand():
    stays = Stays()
    for accepted in ([1, 0, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1]):
        stays.add(0, torch.tensor(accepted).bool())
        stays.add(1, torch.tensor([accepted, accepted[::-1]]).bool())
    assert stays.longest[0].tolist() == [2, 4, 1] and stays.now[0].tolist() == [0, 4, 0]
    assert stays.longest[1].tolist() == [[2, 4, 1], [1, 4, 2]]
    again = Stays.of(stays.tensors())
    assert all(torch.equal(again.longest[k], x) for k, x in stays.longest.items())
    told = facts({"a": stays.longest[0], "b": stays.longest[1][1:]}, {"a": None, "b": "g"}, {"g": pd.Index(["x"])})
    assert told == {
        "a": {"sweeps": 4, "chain": 1},
        "b": {"sweeps": 4, "chain": 1, "plate": "g", "group": "x"},
    }
    stays.forget()
    assert not stays.longest


class Switches(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v, data):
        return Bernoulli(logits=v.alpha[:, data.group])


def test_a_reader_is_told_of_long_stays(monkeypatch):
    data = ht.Data([1.0, 0.0, 1.0, 1.0], groups={"group": list("abba")})
    posterior = sampled(Switches(), data, collapse=True, chains=4, warmup=30, draws=40, seed=1)
    stays = posterior.run["stays"]
    assert list(stays) == ["whitened(sigma, mu)", "whitened(alpha)"]
    assert all(0 < stay["sweeps"] < 40 for stay in stays.values()) and stays["whitened(alpha)"]["group"] in "ab"
    assert not any("stayed" in sentence for sentence in posterior.warnings())
    monkeypatch.setattr("hiertorch.draws.judgement.LONG_STAY", 0)
    told = [sentence for sentence in beside(posterior) if "stayed" in sentence]
    stay = stays["whitened(alpha)"]
    assert told[1].startswith(
        f"Block 'whitened(alpha)' of group {stay['group']!r} stayed where it was for {stay['sweeps']} sweeps in chain "
        f"{stay['chain']} (counted from 0)"
    )
    assert told[0].startswith("Block 'whitened(sigma, mu)' stayed where it was for")
