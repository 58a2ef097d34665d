"""An engine from outside the package, in one file: slice sampling along random directions."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from builders import refused
from contracts.engines import SCHOOLS, EngineContract
from references import assert_matches, normal_sample
from scipy import stats
from torch import Tensor
from torch.distributions import Gamma, Normal

import hiertorch as ht
from hiertorch.density.initial import initial_state
from hiertorch.density.structure import Structure
from hiertorch.errors import ModelError
from hiertorch.moves.joint import Joint
from hiertorch.moves.metropolis import Info
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.engine import Engine
from hiertorch.run.store import Store
from hiertorch.run.warmstart import WarmStart


class Slices(Engine):
    """u' ~ Uniform on {u + t d : log density > log density(u) - e}, d a random direction, e ~ Exponential(1).

    An interval of random length lies about u at random; points are drawn in it and shrink it until one is on the slice
    (Neal 2003, section 3 and section 5), or until there were too many, which leaves the chain where it is.

    Args:
        width: median length of the interval.
        tries: points at most.
    """

    def __init__(
        self, structure: Structure, chains: int, generator: torch.Generator, width: float = 4.0, tries: int = 3
    ) -> None:
        super().__init__(structure, chains, generator)
        self.width, self.tries = width, tries

    def begin(self, init: Mapping[str, object], earlier: WarmStart | None) -> None:
        start = initial_state(self.target, self.chains, self.generator, init)
        self.position, self.density = self.target.space.join(start.free), start.log_density()

    def prepare(self, *, compiled: bool) -> None:
        self.target.record(compiled=compiled)

    def advance(self, done: int, sweeps: int, warmup: int, thin: int, store: Store, acceptance: Acceptance) -> None:
        options: Any = {"generator": self.generator, "dtype": torch.float64}
        for t in range(done + 1, done + sweeps + 1):
            direction = torch.randn(self.position.shape, **options)
            direction = direction / direction.norm(dim=1, keepdim=True)
            level = self.density + torch.rand(self.chains, **options).log()
            length = self.width * torch.randn(self.chains, **options).exp()
            low = -length * torch.rand(self.chains, **options)
            high, found = low + length, torch.zeros(self.chains, dtype=torch.bool)
            position, density = self.position, self.density
            for _ in range(self.tries):
                at = low + (high - low) * torch.rand(self.chains, **options)
                there = self.position + at[:, None] * direction
                height = self.target.log_density(there)
                fits = ~found & (height > level)
                position, density = torch.where(fits[:, None], there, position), torch.where(fits, height, density)
                found = found | fits
                low, high = torch.where(at < 0.0, at, low), torch.where(at < 0.0, high, at)
            self.position, self.density = position, density
            acceptance.add([Info(found.double()[:, None], height.isnan().sum(), None)])
            if t > warmup and (t - warmup) % thin == 0:
                store.keep(self.values(), self.height())

    def values(self) -> Mapping[str, Tensor]:
        return self.target.space.constrain(self.target.space.split(self.position))

    def height(self) -> Tensor:
        return self.density

    def state(self) -> dict[str, Tensor]:
        return {"position": self.position, "density": self.density, "generator": self.generator.get_state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.position, self.density = state["position"], state["density"]
        self.generator.set_state(state["generator"])


class TestSlices(EngineContract):
    engine, options = Slices, {"plan": partial(Slices, width=1.0, tries=1)}
    moved = ("mu_alpha", "sigma_alpha", "sigma_y", "beta", "alpha")


class MeanAndScale(ht.Model):
    """y_i ~ Normal(mu, sigma), mu ~ Normal(1, 2), sigma ~ Gamma(3, 2)."""

    mu = ht.Latent(Normal(1.0, 2.0))
    sigma = ht.Latent(Gamma(3.0, 2.0))

    def likelihood(self, v: Any, data: ht.Data) -> Normal:
        return Normal(v.mu, v.sigma)


def test_its_draws_are_of_the_posterior(tmp_path: Any) -> None:
    """By quadrature, at an error rate of 1e-3; and what comes back is judged, saved and gone on from as any other."""
    y = np.array([0.3, 1.9, 2.2, -0.4])
    run: dict[str, Any] = {"chains": 200, "draws": 60, "thin": 3, "seed": 2, "progress": False}
    posterior = ht.sample(MeanAndScale(), ht.Data(y), plan=partial(Slices, width=3.0), warmup=50, **run)
    expected = normal_sample(y, 1.0, 2.0, stats.gamma(3, scale=0.5))
    for name in ("mu", "sigma"):
        assert_matches(posterior[name], expected[name], alpha=5e-4, name=name)
    assert posterior.run["plan_text"] == f"Slices(width=3.0): {Slices.__doc__.splitlines()[0]}"
    assert list(posterior.stats.acceptance) == ["Slices"] and posterior.stats.acceptance["Slices"].shape == (200,)
    posterior.save(tmp_path / "draws.safetensors")
    assert torch.equal(ht.Posterior.load(tmp_path / "draws.safetensors")["mu"], posterior["mu"])
    later = ht.sample(MeanAndScale(), ht.Data(y), plan=Slices, start=posterior, **{**run, "warmup": 1})
    assert_matches(later["mu"], expected["mu"], alpha=5e-4, name="mu")


def test_a_plan_says_which_engine_runs() -> None:
    plan = ht.plan(MeanAndScale(), SCHOOLS, moves=partial(Slices, tries=4))
    assert str(plan).startswith("Slices(tries=4): u' ~ Uniform on")
    with pytest.warns(ht.SamplingWarning):
        posterior = ht.sample(MeanAndScale(), SCHOOLS, plan=plan, chains=2, warmup=5, draws=5, progress=False)
    assert posterior.run["plan_text"] == str(plan)


def test_other_classes_are_no_plan() -> None:
    for wrong in (Joint, partial(print, "x"), dict):
        with refused(ModelError, "a class of engines", "is no hiertorch.run.engine.Engine", "stands in a list"):
            ht.plan(MeanAndScale(), SCHOOLS, moves=wrong)
