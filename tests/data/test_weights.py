"""Weights that nobody learns are refused, wherever a model reads them; frozen ones are constants."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import HalfNormal, Normal

import hiertorch as ht

NET = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double()
WEIGHT = torch.ones(3, dtype=torch.float64, requires_grad=True)


class Plain(ht.Model):
    sigma = ht.Latent(HalfNormal(1.0))
    alpha = ht.Latent(Normal(0.0, 1.0), plate="g")

    def curve(self, x):
        return 0.0 * x

    def likelihood(self, v, data):
        return Normal(self.curve(data.x) + v.alpha[:, data.g], v.sigma)


class Registered(Plain):
    def __init__(self):
        super().__init__()
        self.net = NET

    def curve(self, x):
        return self.net(x[:, None])[:, 0]


class Listed(Plain):
    def __init__(self):
        super().__init__()
        self.nets = [NET]

    def curve(self, x):
        return self.nets[0](x[:, None])[:, 0]


class Global(Plain):
    def curve(self, x):
        return NET(x[:, None])[:, 0]


class InPrior(Plain):
    sigma = ht.Latent(lambda v: HalfNormal(WEIGHT.sum()))


class InPriorItself(Plain):
    sigma = ht.Latent(HalfNormal(torch.tensor(1.0, requires_grad=True)))


class InDerived(Plain):
    ratio = ht.Derived(lambda v: v.sigma * WEIGHT.sum())


class InDensity(Global):
    def log_prob(self, v, data):
        v = self.values(v)
        return self.log_prior(v, data) + self.likelihood(v, data).log_prob(data.y).sum(-1)


@pytest.fixture
def data():
    x = np.linspace(-2.0, 2.0, 40)
    return ht.Data(np.sin(2 * x), groups={"g": np.repeat(np.arange(4), 10)}, x=x)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Registered, r"net.0.weight \(4, 1\)"),
        (Listed, r"nets\[0\].0.weight"),
        (Global, "NET.0.weight"),
        (InDensity, "NET.0.weight"),
        (InPrior, r"WEIGHT \(3,\)"),
        (InPriorItself, "prior of 'sigma'"),
        (InDerived, "'ratio'"),
    ],
)
@pytest.mark.parametrize(
    "start", [ht.plan, lambda model, data: model.check(data), lambda m, d: ht.sample(m, d, seed=1)]
)
def test_weights_that_require_gradients_are_refused_by_name(model, name, start, data):
    with pytest.raises(ht.ModelError, match=name) as error, torch.no_grad():
        start(model(), data)
    assert "requires_grad_(False)" in str(error.value) and "ht.Latent(" in str(error.value)


def test_frozen_and_detached_weights_are_constants(data):
    frozen = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 1)).double().requires_grad_(False)
    model = Registered()
    model.net = frozen
    ht.plan(model, data)

    class Detached(Plain):
        def curve(self, x):
            return NET(x[:, None])[:, 0].detach()

    ht.plan(Detached(), data)
