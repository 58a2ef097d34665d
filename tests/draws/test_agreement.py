"""A model that prints alike and is another is found out by its density; the one that was fitted never is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Dirichlet, Distribution, Gamma, Normal

import hiertorch as ht
from hiertorch.errors import ModelError
from hiertorch.models import CorrelatedEffects, Nested, TimeVarying, VaryingIntercepts
from hiertorch.posterior import Posterior

Sample = Callable[..., Posterior]


class Line(ht.Model):
    """y ~ Normal(alpha_j + beta t, sigma)."""

    power, width, shift = 1.0, 1.0, 0.0
    sigma = ht.Latent(Gamma(2.0, 2.0))
    beta = ht.Latent(Normal(0.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(0.0, v.sigma), plate="g")

    def likelihood(self, v: Any, data: Any) -> Distribution:
        return Normal(v.alpha[:, data.g] + v.beta * data.t**self.power + self.shift, self.width * v.sigma)


def with_changes(**changes: Any) -> ht.Model:
    return type("Line", (Line,), {"__doc__": Line.__doc__, "__module__": __name__, **changes})()


def made() -> ht.Data:
    rng = np.random.default_rng(3)
    t, g = rng.uniform(0.5, 3.0, 40), np.arange(40) % 5
    return ht.Data(1.0 + t + rng.normal(size=40), groups={"g": g}, t=t, weights=rng.uniform(0.5, 2.0, 40))


@pytest.fixture(scope="module")
def files(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, data = tmp_path_factory.mktemp("files"), made()
    settings: dict[str, dict[str, Any]] = {
        "collapsed": {"collapse": True, "draws": 30},
        "ordinary": {"warmup": 5, "draws": 10, "thin": 1},
        "single": {"warmup": 5, "draws": 10, "thin": 1, "dtype": torch.float32},
        "prior": {"warmup": 5, "draws": 10, "thin": 1, "prior_only": True},
    }
    for name, chosen in settings.items():
        sample(Line(), data, chains=4, seed=1, **chosen).save(folder / name)
    return {name: folder / name for name in settings}


@pytest.mark.parametrize("run", ["collapsed", "ordinary", "single", "prior"])
def test_the_model_that_was_fitted_is_taken(run: str, files: dict[str, Path]) -> None:
    Posterior.load(files[run], model=Line(), data=made())


OTHERS = {
    "a power": {"power": 2.0},
    "a shift": {"shift": 0.5},
    "a scale": {"width": 1.5},
    "a prior": {"alpha": ht.Latent(lambda v: Normal(0.0, 2.0 * v.sigma), plate="g")},
}


@pytest.mark.parametrize("run", ["collapsed", "ordinary", "single"])
@pytest.mark.parametrize("what", OTHERS)
def test_another_that_prints_alike_is_refused(run: str, what: str, files: dict[str, Path]) -> None:
    other = with_changes(**OTHERS[what])
    assert str(other) == str(Line())
    with pytest.raises(
        ModelError, match=r"prints as the one that was fitted and is another: .* by up to .* Give the model"
    ):
        Posterior.load(files[run], model=other, data=made())


def test_of_a_prior_the_priors_alone_count(files: dict[str, Path]) -> None:
    Posterior.load(files["prior"], model=with_changes(**OTHERS["a shift"]), data=made())
    with pytest.raises(ModelError, match="is another"):
        Posterior.load(files["prior"], model=with_changes(**OTHERS["a prior"]), data=made())


class Shares(ht.Model):
    """A simplex and a whole density of one's own."""

    share = ht.Latent(Dirichlet(torch.tensor([2.0, 3.0, 4.0])))
    tau = ht.Latent(Gamma(2.0, 2.0))

    def likelihood(self, v: Any, data: Any) -> Distribution:
        return Normal(v.share[..., 0].expand(-1, data.n_rows), v.tau)

    def log_prob(self, v: Any, data: Any) -> Any:
        return super().log_prob(v, data) - v["tau"][:, 0]


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (Shares(), {}),
        pytest.param(CorrelatedEffects("g", ["t"]), {}, marks=pytest.mark.slow),
        (CorrelatedEffects("g", ["t"]), {"collapse": True}),
        pytest.param(VaryingIntercepts("g", ["t"], family="student_t"), {}, marks=pytest.mark.slow),
        pytest.param(Nested(["h", "g"], ["t"]), {"collapse": True}, marks=pytest.mark.slow),
        pytest.param(TimeVarying("h", "day", []), {"collapse": True}, marks=pytest.mark.slow),
        (VaryingIntercepts("g", ["t"]), {"collapse": True, "dtype": torch.float32}),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, ht.Model) else " ".join(x),
)
def test_models_of_all_kinds_are_taken(
    model: ht.Model, settings: dict[str, Any], sample: Sample, tmp_path: Path
) -> None:
    data = made()
    g = data.codes["g"].numpy()
    data = ht.Data(data.y, groups={"g": g, "h": g % 2, "day": np.arange(40) // 5}, t=data.columns["t"])
    short = {"warmup": 3, "draws": 8, "thin": 1, "chains": 4, "seed": 1}
    sample(model, data, **{**short, **settings}).save(tmp_path / "a")
    Posterior.load(tmp_path / "a", model=model, data=data)
