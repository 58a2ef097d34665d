"""A model of a user's may have attributes of any name; those that would break it are refused in words."""

import numpy as np
import pytest
import torch
from torch.distributions import HalfNormal, Normal

import hiertorch as ht


class Plain(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.0))
    sigma = ht.Latent(HalfNormal(1.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, 1.0), plate="g")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.g], v.sigma)


@pytest.fixture
def data():
    y = np.random.default_rng(0).normal(size=24)
    return ht.Data(y, groups={"g": np.repeat(np.arange(4), 6)}, t=np.arange(24.0) % 3 + 1)


pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.SamplingWarning")  # these runs are short

NAMES = [
    "settings",
    "data",
    "names",
    "plan",
    "size",
    "family",
    "plate",
    "group_predictors",
    "predictors",
    "offset",
    "space",
]


@pytest.mark.parametrize("value", [3, "x", {"a": 1}, ht.families.Poisson(exposure="t"), None])
def test_attributes_of_a_model_change_nothing(value, data):
    settings = {"seed": 1, "progress": False, "chains": 4, "draws": 60, "warmup": 40}
    plain = ht.sample(Plain(), data, **settings)

    class Furnished(Plain):
        settings = plan = value

        def __init__(self):
            super().__init__()
            for name in NAMES:
                setattr(self, name, value)

    found = ht.sample(Furnished(), data, **settings)
    assert torch.equal(found["sigma"], plain["sigma"]) and torch.equal(found["alpha"], plain["alpha"])
    assert found.pooling().variance.equals(plain.pooling().variance)
    assert list(Furnished().check(data)) == list(Plain().check(data))


@pytest.mark.parametrize(
    "name", ["latents", "derived", "values", "check", "prior", "likelihood", "log_prob", "to", "parameters"]
)
def test_attributes_that_hide_what_a_model_has_are_refused(name):
    with pytest.raises(ht.ModelError, match=f"attribute '{name}'.*another name"):
        type(Plain)("Broken", (Plain,), {name: 3})
    with pytest.raises(ht.ModelError, match=f"attribute '{name}'.*another name"):
        setattr(Plain(), name, 3)


def test_methods_that_are_meant_to_be_written_may_be(data):
    class Own(Plain):
        def simulate(self, v, data, generator=None):
            return super().simulate(v, data, generator) + 1.0

        @property
        def forward(self):
            return None

    assert "Own" in repr(Own())
