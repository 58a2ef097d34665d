"""Groups over processes: the density and the posterior of one process, and what can't be dealt out."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import RUN, crossed, rows, together
from scipy import stats
from torch import Tensor
from torch.distributions import Bernoulli, HalfNormal, Independent, Normal, Poisson

import hiertorch as ht
from hiertorch import fitting
from hiertorch.monitors import Monitor, Window
from hiertorch.run import ownrows
from hiertorch.run.byrows import why_not
from hiertorch.run.options import Options
from hiertorch.run.ownrows import RowsRefusedError, own_rows
from hiertorch.runtime.ranks import LostProcessError, Ranks, Share, Summed

GROUPS, SIZES = 14, (3, 9, 1, 6, 2, 8, 5, 4, 7, 3, 5, 2, 6, 4)


class Intercepts(ht.Model):
    """y_i ~ Bernoulli(logit = alpha[g]), whose posterior a quadrature knows."""

    mu = ht.Latent(Normal(0.0, 1.5))
    sigma = ht.Latent(HalfNormal(1.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="g")

    def likelihood(self, v: Any, data: ht.Data) -> Bernoulli:
        return Bernoulli(logits=v.alpha[:, data["g"]])


class Slopes(ht.Model):
    """Counts with an intercept and a slope in each group, and a coefficient."""

    mu = ht.Latent(Independent(Normal(torch.zeros(2), 1.0), 1))
    beta = ht.Latent(Normal(0.0, 1.0))
    sigma = ht.Latent(Independent(HalfNormal(torch.ones(2)), 1))
    effects = ht.Latent(lambda v: Independent(Normal(v.mu, v.sigma), 1), plate="g")

    def likelihood(self, v: Any, data: ht.Data) -> Poisson:
        own = v.effects[:, data["g"]]
        return Poisson((own[..., 0] + own[..., 1] * data["x"] + v.beta * data["z"]).exp())


def some(family: str) -> ht.Data:
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(GROUPS), SIZES)
    x, z = rng.normal(size=(2, len(g)))
    alpha = rng.normal(0.4, 0.9, GROUPS)[g]
    if family == "bernoulli":
        return ht.Data(y=(rng.random(len(g)) < 1 / (1 + np.exp(-alpha))).astype(float), groups={"g": g})
    return ht.Data(y=rng.poisson(np.exp(alpha + 0.2 * x + 0.3 * z)).astype(float), groups={"g": g}, x=x, z=z)


def known(data: ht.Data) -> dict[str, tuple[float, float]]:
    """Means and sds of mu, sigma and the first and last effect, by sums over grids."""
    g, y = data["g"].numpy(), data.y.numpy()
    ones, number = np.bincount(g, y), np.bincount(g)
    mu, sigma = np.linspace(-3, 4, 121), np.linspace(0.01, 4.5, 151)
    node, weight = np.polynomial.hermite_e.hermegauss(60)
    alpha = mu[:, None, None] + sigma[:, None] * node  # (mu, sigma, nodes)
    log_post = stats.norm.logpdf(mu, 0, 1.5)[:, None] + stats.halfnorm.logpdf(sigma)
    given = {}
    for k in range(GROUPS):
        inside = weight * np.exp(ones[k] * alpha - number[k] * np.logaddexp(0, alpha))
        total = inside.sum(-1)
        log_post = log_post + np.log(total)
        given[k] = [(inside * alpha**power).sum(-1) / total for power in (1, 2)]
    post = np.exp(log_post - log_post.max())
    post /= post.sum()

    def moments(first: Any, second: Any) -> tuple[float, float]:
        mean = float((post * first).sum())
        return mean, float((post * second).sum() - mean**2) ** 0.5

    ends = {f"alpha[{k}]": moments(*given[k]) for k in (0, GROUPS - 1)}
    return {"mu": moments(mu[:, None], mu[:, None] ** 2), "sigma": moments(sigma, sigma**2), **ends}


def kept(posterior: ht.Posterior) -> dict[str, Any]:
    return {"draws": dict(posterior.draws), "height": posterior.stats.log_density, "run": dict(posterior.run)}


def sampled(model: ht.Model, data: ht.Data, **more: Any) -> ht.Posterior:
    return ht.sample(model, data, **{**RUN, "chains": 16, "draws": 400, "spread": "rows", **more})


def refused(kind: type[ht.SamplingError], *arguments: Any, **more: Any) -> str:
    with pytest.raises(kind) as error:
        sampled(*arguments, **more)
    return str(error.value)


class Alone(Summed):
    """Leaves out what other processes have beside several parts of the population."""

    def total(self, own: Tensor, *once: Tensor) -> Tensor:
        return Share.total(self, own, *once) if len(once) > 1 else super().total(own, *once)


class Forgets(Summed):
    """Decides by its own rows: of all messages the one that decides a population move has two parts beside them."""

    def total(self, own: Tensor, *once: Tensor) -> Tensor:
        return Share.total(self, own, *once) if len(once) == 2 else super().total(own, *once)


def work() -> list[Any]:
    """Runs of two processes; then what can't be dealt out, and what forgets the others."""
    counts = some("poisson")
    found: list[Any] = [kept(sampled(Intercepts(), some("bernoulli"))), kept(sampled(Slopes(), counts, draws=60))]
    found.append(refused(RowsRefusedError, crossed(), rows("bernoulli")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ownrows, "Summed", Alone)
        found.append(refused(RowsRefusedError, Slopes(), counts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "Summed", Forgets)
        found.append(refused(ht.SamplingError, Slopes(), counts, draws=60))
    return found


@pytest.mark.slow
def test_two_processes_have_the_density_and_the_posterior_of_one(tmp_path: Path) -> None:
    """Means within 4.5 Monte Carlo errors of a quadrature: false alarms in 1e-4 of runs."""
    (one, slopes, no, differs, wrong), (other, *_, wrong_there) = together(2, tmp_path / "2", work)
    assert "spread='rows' needs" in no and "spread='chains'" in no
    assert "the parts of this model differ from the whole" in differs
    assert wrong == wrong_there and "processes have come apart" in wrong
    for model, data, found in ((Intercepts(), some("bernoulli"), one), (Slopes(), some("poisson"), slopes)):
        target = ht.plan(model, data).target
        values = {name: x.flatten(0, 1) for name, x in found["draws"].items()}
        height = target.log_density(target.space.join(target.space.unconstrain(values)))
        torch.testing.assert_close(found["height"].flatten(), height, rtol=1e-10, atol=1e-10)
        assert found["run"]["spread"] == {"rows": 2}
    draws = {**one["draws"], **{f"alpha[{k}]": one["draws"]["alpha"][..., k] for k in (0, GROUPS - 1)}}
    for name, (mean, sd) in known(some("bernoulli")).items():
        x = draws[name].flatten(2)[..., 0] if draws[name].dim() > 2 else draws[name]
        error = float(x.mean(1).std()) / len(x) ** 0.5
        assert abs(float(x.mean()) - mean) < 4.5 * error + 1e-3, name
        assert abs(float(x.std()) / sd - 1) < 0.1, name
    own = other["draws"]["alpha"]
    assert torch.equal(own, one["draws"]["alpha"][:, :, -own.shape[2] :]) and own.shape[2] < GROUPS
    assert torch.equal(other["draws"]["mu"], one["draws"]["mu"])


class Kills(Monitor):
    """Kills the other process after some windows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.left = folder, 3

    def window(self, window: Window) -> None:
        self.left -= 1
        if not self.left:
            os.kill(int((self.folder / "second").read_text()), signal.SIGKILL)


def killed(folder: Path) -> str:
    if torch.distributed.get_rank():
        (folder / "second").write_text(str(os.getpid()))
    with pytest.raises(LostProcessError) as error:
        sampled(Intercepts(), some("bernoulli"), draws=5000, monitors=[Kills(folder)])
    return str(error.value)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_other_one(tmp_path: Path) -> None:
    said, nothing = together(2, tmp_path / "killed", killed, tmp_path)
    assert nothing is None and "process 0 of 2 has lost another process of this run" in said


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"checkpoint": "x"}, "without checkpoint="),
        ({"init": {"mu": 0.0}}, "without init="),
        ({"collapse": False}, "integrated out"),
    ],
)
def test_what_is_asked_for_besides(more: dict[str, Any], why: str) -> None:
    with pytest.raises(RowsRefusedError, match=why):
        own_rows(Intercepts(), some("bernoulli"), Options(**more), Ranks(0, 2))


def test_groups_without_rows_and_too_few() -> None:
    data = ht.Data(y=[0.0, 1.0], groups={"g": ["a", "b"]}, labels={"g": ["a", "b", "c"]})
    with pytest.raises(RowsRefusedError, match="groups of 'g' that all have rows, 2 at least"):
        own_rows(Intercepts(), data, Options(), Ranks(0, 2))
    with pytest.raises(RowsRefusedError, match="3 at least"):
        own_rows(Intercepts(), ht.Data(y=[0.0, 1.0], groups={"g": ["a", "b"]}), Options(), Ranks(0, 3))


@pytest.mark.parametrize("number", [2, 3, 5, 14])
def test_every_process_has_some_groups_and_all_rows_are_dealt_out(number: int) -> None:
    data = some("bernoulli")
    every = [own_rows(Intercepts(), data, Options(), Ranks(rank, number)) for rank in range(number)]
    assert torch.equal(torch.cat([own.data.y for own in every]), data.y)  # which is sorted by group
    assert [k for own in every for k in own.groups.own] == list(range(GROUPS))
    assert all(len(own.data.labels["g"]) == len(own.groups.own) for own in every)
    assert max(own.data.n_rows for own in every) <= data.n_rows / number + max(SIZES)


def test_structures_that_are_not_dealt_out() -> None:
    surrogate = ht.plan(crossed(), rows("bernoulli")).surrogate
    assert surrogate is not None and "one grouping" in why_not(surrogate)
    surrogate = ht.plan(Intercepts(), some("bernoulli")).surrogate
    assert surrogate is not None and not why_not(surrogate)
