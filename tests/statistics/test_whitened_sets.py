"""Whitened runs whose chains have weights of rows, or responses, of their own.

Chains begin at independent draws from the posterior of their own data set, made by rejection from the prior (see Note
[Exact starts] in `exactstarts`), and are compared with other such draws after a short warm-up and some sweeps, set by
set. Error rates are 1e-3 a case, two-sided, over all sets, functions and tests (Bonferroni).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from references import p_values
from scipy import stats
from torch import Tensor
from torch.distributions import Bernoulli, Gamma, LogNormal, NegativeBinomial, Normal, Poisson

import hiertorch as ht
from hiertorch.draws import diagnostics
from hiertorch.gaussian.ladder import Ladder
from hiertorch.model.latent import Values
from hiertorch.posterior import Posterior
from hiertorch.run import whitened
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.store import Store
from hiertorch.run.whitened import Whitened
from hiertorch.runtime.validating import validation

Sample = Callable[..., Posterior]
ALPHA = 1e-3
EACH, KNOWN = 1_000, 8_000
"""Chains and other draws of each data set."""
WARMUP, SWEEPS = 40, 12
BATCH = 150_000  # draws from the prior at once


@pytest.fixture(autouse=True)
def as_in_sampling() -> Iterator[None]:
    """Without gradients and argument checks, as `ht.sample` calls engines."""
    with torch.no_grad(), validation(False):
        yield


class Intercepts(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.5))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Bernoulli(logits=v.alpha[:, data.group])


class Counts(ht.Model):
    """With a parameter of rows, on which terms of the density without the predictor depend."""

    mu = ht.Latent(Normal(0.0, 1.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    phi = ht.Latent(LogNormal(0.5, 0.7))
    b = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return NegativeBinomial(v.phi, logits=v.b[:, data.group] - v.phi.log())


class Halls(ht.Model):
    """Groups in halls, and a coefficient."""

    beta = ht.Latent(Normal(0.0, 0.7))
    s = ht.Latent(Gamma(2.0, 3.0), event=2)
    hall = ht.Latent(lambda v: Normal(0.0, v.s[..., 0]), plate="hall")
    group = ht.Latent(lambda v, data: Normal(v.hall[:, data.parents("group", "hall")], v.s[..., 1]), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Poisson((v.group[:, data.group] + v.beta * data.x).exp())


class Items(ht.Model):
    """Crossed effects."""

    mu = ht.Latent(Normal(0.0, 1.0))
    tau = ht.Latent(Gamma(2.0, 2.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    item = ht.Latent(lambda v: Normal(0.0, v.tau), plate="item")
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Bernoulli(logits=v.alpha[:, data.group] + v.item[:, data.item])


@dataclass(frozen=True)
class Case:
    """A model, its few rows with a response or weights for each data set, and the largest log density of a row."""

    model: ht.Model
    data: ht.Data
    ceiling: Callable[[np.ndarray], np.ndarray] = np.zeros_like

    @property
    def sets(self) -> int:
        return self.data.by_chain


GROUP, X = {"group": [0, 0, 1, 1, 2, 2]}, [0.5, -1.0, 1.5, 0.2, -0.6, 1.0]
ONES, NUMBERS = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0], [2.0, 0.0, 1.0, 0.0, 4.0, 1.0]
WEIGHTS = [[1.0, 1.0, 1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0, 1.0, 0.0], [1.0, 2.0, 0.5, 1.0, 1.0, 1.0]]
"""Without a group; without rows of two groups; all rows, some more and some less."""


def most(y: np.ndarray) -> np.ndarray:
    """The largest log density of a Poisson distribution, which no negative binomial one exceeds."""
    return stats.poisson.logpmf(y, y)


CASES = {
    "weights": Case(Intercepts(), ht.Data(ONES, groups=GROUP, weights=torch.tensor(WEIGHTS))),
    "responses": Case(Intercepts(), ht.Data(torch.tensor([ONES, [0.0] * 6, [1.0, 1, 1, 1, 0, 0]]), groups=GROUP)),
    "counts": Case(Counts(), ht.Data(NUMBERS, groups=GROUP, weights=torch.tensor(WEIGHTS)), most),
    "nested": Case(
        Halls(), ht.Data(NUMBERS, groups={**GROUP, "hall": [0, 0, 0, 0, 1, 1]}, x=X, weights=torch.tensor(WEIGHTS)),
        most,
    ),
    "crossed": Case(
        Items(), ht.Data(ONES, groups={**GROUP, "item": [0, 1, 0, 1, 0, 1]}, weights=torch.tensor(WEIGHTS))
    ),
    "both": Case(
        Halls(),
        ht.Data(
            torch.tensor([NUMBERS, NUMBERS[::-1], [0.0, 0, 1, 2, 0, 0]]), groups={**GROUP, "hall": [0, 0, 0, 0, 1, 1]},
            x=X, weights=torch.tensor(WEIGHTS),
        ),
        most,
    ),
}  # fmt: skip


@cache
def exact(name: str) -> list[tuple[Values, Values]]:
    """Of each data set independent draws from its posterior, EACH to start from, and KNOWN others."""
    case, generator, found = CASES[name], torch.Generator().manual_seed(3), []
    for d in range(case.sets):
        data, kept = case.data.of_chains(d), list[dict[str, Tensor]]()
        weights = torch.ones_like(data.y) if data.weights is None else data.weights
        ceiling = float(case.ceiling(data.y.numpy()) @ weights.numpy())
        while sum(len(next(iter(v.values()))) for v in kept) < EACH + KNOWN:
            v = case.model.sample_prior(data, BATCH, generator)
            height = case.model.log_likelihood(v, data) @ weights - ceiling
            assert bool((height <= 1e-9).all())
            keep = torch.rand(BATCH, generator=generator, dtype=height.dtype).log() < height
            kept.append({key: x[keep] for key, x in v.items()})
        every = {key: torch.cat([v[key] for v in kept]) for key in kept[0]}
        parts = ((0, EACH), (EACH, EACH + KNOWN))
        found.append(tuple(Values({k: x[a:b] for k, x in every.items()}) for a, b in parts))
    return found


def evaluate(model: ht.Model, data: ht.Data, v: Values) -> dict[str, np.ndarray]:
    """Every element of every latent, and the terms of the density, each `(draws,)`."""
    found = {f"{name}[{i}]": x for name, value in v.items() for i, x in enumerate(value.flatten(1).unbind(1))}
    found |= {f"log p({name})": model.log_prior_term(name, v, data).sum(-1) for name in v}
    terms = model.log_likelihood(v, data)
    found |= {"log likelihood": terms.sum(1), "first row": terms[:, 0], "last row": terms[:, -1]}
    return {name: x.numpy() for name, x in found.items() if x.std() > 1e-9}  # not constants


def failures(name: str, broken: Callable[[Whitened], None] | None = None) -> dict[str, float]:
    """The tests that an engine fails after a warm-up and some sweeps from exact draws; broken after warm-up, if so."""
    case, known = CASES[name], exact(name)
    repeated = {k: x.repeat(EACH, 1) for k, x in {"y": case.data.y, "weights": case.data.weights}.items()
                if x is not None and x.dim() == 2}  # fmt: skip
    plan = ht.plan(case.model, case.data.replace(**repeated))
    assert plan.surrogate is not None and plan.surrogate.sets == case.sets, str(plan)
    engine = Whitened(plan.structure, plan.surrogate, EACH * case.sets, torch.Generator().manual_seed(5))
    starts = {key: torch.stack([start[key] for start, _ in known], 1).flatten(0, 1) for key in known[0][0]}
    engine.begin(starts, None)
    engine.prepare(compiled=False)
    store, acceptance = Store(engine.values(), engine.target.names, 1), Acceptance(engine.order)
    engine.advance(0, WARMUP, WARMUP, 1, store, acceptance)
    if broken is not None:
        broken(engine)
    engine.advance(WARMUP, SWEEPS, WARMUP, SWEEPS, store, acceptance)
    for k, rate in acceptance.window(sampling=True).items():
        assert float(rate.mean()) > 0.1, engine.blocks[k]
    if broken is None:
        engine.check(store)
    p = {}
    for d, (_, other) in enumerate(known):
        data, own = case.data.of_chains(d), Values({key: x[d :: case.sets] for key, x in engine.values().items()})
        sorted_ones = {n: np.sort(x) for n, x in evaluate(case.model, data, other).items()}
        found = p_values(evaluate(case.model, data, own), sorted_ones)
        p |= {f"{what} of set {d}": value for what, value in found.items()}
    return {what: value for what, value in p.items() if not value > ALPHA / len(p)}


@pytest.mark.parametrize("name", [n if n == "weights" else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_the_posterior_of_each_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fourth sweep walks. Error rate 1e-3 a case."""
    monkeypatch.setattr("hiertorch.run.rounds.CYCLE", 4)
    assert not failures(name)


@pytest.mark.slow
def test_the_posterior_of_each_set_stays_by_the_users_own_density(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the closed form of the rows. Error rate 1e-3."""
    monkeypatch.setattr(whitened, "closed_weights", lambda *_: None)
    assert not failures("weights")


def surrogates_of_others(engine: Whitened) -> None:
    """Proposals by the surrogate of another data set, and ratios as if it were the own one's."""
    surrogate = engine.surrogate
    assert surrogate.weights is not None
    own, surrogate.weights = surrogate.weights, surrogate.weights.roll(1, 0)
    engine.ladder = Ladder(surrogate.given(engine.sites))
    surrogate.weights = own
    place = engine._standing_at(engine.at.position, engine.at.rungs.tail, engine.at.effects)
    engine.at = place._replace(proposal=engine.proposal.log_density(engine.tuning, place.position))


def weights_of_others(engine: Whitened) -> None:
    """Sums over rows with the weights of another data set."""
    assert engine.closed is not None and engine.closed.cells is not None
    of, weights, number = engine.closed.cells
    engine.closed.cells = of, weights.roll(1, 1), number


@pytest.mark.parametrize("broken", [surrogates_of_others, pytest.param(weights_of_others, marks=pytest.mark.slow)])
def test_what_belongs_to_others_is_noticed(broken: Callable[[Whitened], None]) -> None:
    assert failures("weights", broken)


# Through the public interface


def grouped(groups: int = 12, rows: int = 8, seed: int = 3) -> ht.Data:
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rows)
    odds = random.normal(0.3, 1.0, groups)[group]
    return ht.Data((random.random(len(group)) < 1 / (1 + np.exp(-odds))) * 1.0, groups={"group": group})


def moments(draws: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Means of all numbers and of their squares, with their Monte Carlo errors, of draws `(chains, draws, ...)`."""
    found = {}
    for name, x in draws.items():
        for what, value in ((name, x), (f"{name}^2", x.square())):
            found[what] = value.mean((0, 1)).flatten(), diagnostics.mcse_mean(value).flatten()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("by", ["group", "row"])
def test_folds_are_as_many_runs_on_fewer_rows(by: str, sample: Sample) -> None:
    """Means and mean squares of every number of each of four folds, by combined Monte Carlo errors; 1 % over all."""
    data, folds = grouped(), 4
    group = data["group"]
    fold = group % folds if by == "group" else torch.arange(len(group)) % folds
    kept = torch.stack([fold != f for f in range(folds)])
    every = data.replace(weights=kept.double().repeat(12, 1))
    assert "whitened" in str(ht.plan(Intercepts(), every))
    run = sample(Intercepts(), every, collapse=True, chains=12 * folds, draws=500, seed=11)
    z = []
    for f in range(folds):
        one = {name: x[f::folds] for name, x in run.draws.items()}
        assert max(float(diagnostics.rhat(x).max()) for x in one.values()) < 1.03
        rows = kept[f].nonzero()[:, 0]
        alone = sample(Intercepts(), data.take(rows), collapse=True, chains=16, draws=1_000, seed=12 + f)
        for (mean, error), (other, its) in zip(moments(one).values(), moments(dict(alone.draws)).values(), strict=True):
            z += ((mean - other).abs() / (error**2 + its**2).sqrt()).tolist()
    assert max(z) < float(stats.norm.isf(0.005 / len(z))), max(z)


def test_folds_and_calibration_are_whitened() -> None:
    """By the plan; crossed effects by the hundred are not."""
    data = grouped(4, 3)
    weights = (torch.arange(12) % 3 != torch.arange(3).unsqueeze(1)).double()
    responses = torch.stack([data.y, 1.0 - data.y])
    for of_chains in ({"weights": weights.repeat(2, 1)}, {"y": responses.repeat(2, 1)}):
        assert "whitened" in str(ht.plan(Intercepts(), data.replace(**of_chains)))
    items = ht.Data(torch.ones(260), groups={"group": np.arange(260) % 130, "item": np.arange(260) // 4})
    assert ht.plan(Items(), items).surrogate is not None
    refused = ht.plan(Items(), items.replace(weights=torch.eye(2).repeat(1, 130).double()))
    assert "chains have data of their own, and many effects are crossed" in str(refused)


def test_runs_that_begin_at_others_are_whitened(sample: Sample) -> None:
    """Folds go on from the fit to all rows, from as many chains as there are."""
    data = grouped(6, 6)
    posterior = sample(Intercepts(), data, collapse=True, chains=4, warmup=20, draws=40, seed=1)
    weights = (torch.arange(36) % 2 != torch.arange(2).unsqueeze(1)).double().repeat(4, 1)
    every = data.replace(weights=weights)
    run = sample(Intercepts(), every, collapse=True, chains=8, draws=40, start=posterior, seed=2)
    assert any(name.startswith("whitened") for name in run.stats.blocks)
    assert run.run["warmup"] <= 40 and all(bool(x.isfinite().all()) for x in run.draws.values())
