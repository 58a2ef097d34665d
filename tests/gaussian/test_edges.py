"""Which densities have an edge where effects reach it, and which have none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, HalfNormal, LogNormal, Normal, Poisson, constraints

import hiertorch as ht
from hiertorch.model.latent import Values


class Own(Distribution):
    """A density of a user's own, of which torch has no link."""

    arg_constraints = {"eta": constraints.real}  # noqa: RUF012
    support = constraints.real

    def __init__(self, eta: Tensor) -> None:
        self.eta = eta
        super().__init__(eta.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Own":
        return type(self)(self.eta.expand(batch_shape))


class Shifted(Own):
    """y - eta ~ LogNormal(0, 1)."""

    def log_prob(self, value: Tensor) -> Tensor:
        gap = value - self.eta
        return torch.where(gap > 0, LogNormal(0.0, 1.0).log_prob(gap.clamp(min=1e-300)), -torch.inf)


class Near(Own):
    """y ~ Uniform(eta - 2, eta + 2)."""

    def log_prob(self, value: Tensor) -> Tensor:
        return (0.0 * self.eta - np.log(4.0)).masked_fill((value - self.eta).abs() > 2.0, -torch.inf)


class Counts(Own):
    """y ~ Poisson(exp(eta)), which is no number any more for eta above 709."""

    def log_prob(self, value: Tensor) -> Tensor:
        return value * self.eta - self.eta.exp() - (value + 1.0).lgamma()


class Rates(Own):
    """y ~ Poisson(eta), a density of torch's with another link."""

    def __new__(cls, eta: Tensor) -> Any:
        return Poisson(eta)


def intercepts(kind: Callable[[Tensor], Distribution], level: float, wide: float) -> ht.Model:
    def likelihood(self: ht.Model, v: Values, data: ht.Data) -> Distribution:
        return kind(v.alpha[:, data["g"]])

    return type("Intercepts", (ht.Model,), {
        "mu": ht.Latent(Normal(level, wide)),
        "sigma": ht.Latent(HalfNormal(1.0)),
        "alpha": ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="g"),
        "likelihood": likelihood,
    })()  # fmt: skip


@pytest.mark.parametrize(("kind", "level", "wide", "whitened"), [
    (Shifted, 0.0, 2.0, False),
    (Near, 0.0, 2.0, False),
    (Rates, 3.0, 0.5, False),  # beyond 0, where draws are mirrored
    (Counts, 0.0, 600.0, True),  # a prior that says nothing reaches where nothing can be computed
])  # fmt: skip
def test_edges_keep_a_model_from_being_whitened(kind: Any, level: float, wide: float, whitened: bool) -> None:
    data = ht.Data(y=np.tile([3.0, 2.0, 4.0], 4), groups={"g": np.repeat(range(4), 3)})
    plan = ht.plan(intercepts(kind, level, wide), data)
    assert (plan.surrogate is not None) == whitened
    assert whitened or "edge" in plan.not_whitened
