"""Whitened engines that start from exact draws of small models, and what tests their draws.

Note [Exact starts]
Data of a few rows have so large a likelihood that draws from the prior, kept with the probability likelihood over its
bound, are thousands of independent draws from the posterior itself. Chains begin there, at all latents, and go through
a short warm-up and some sweeps with what it learnt; then they are compared with other such draws. Nothing has to
converge, and thousands of chains show what a single run would hide. What warm-up learns hangs on each of these chains
by one part in thousands, far below what is seen. So few rows are far from what a Gaussian surrogate says of them: what
is exact here is exact where it fits better.

Error rates are 1e-3 a case, two-sided, over all functions and tests (Bonferroni; `references.p_values`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from references import p_values
from scipy import stats
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Gamma,
    Independent,
    LKJCholesky,
    LogNormal,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    Uniform,
)

import hiertorch as ht
from hiertorch.model.latent import Values
from hiertorch.moves.metropolis import Info
from hiertorch.run import heavytails, whitened
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.adjusted import Adjusted
from hiertorch.run.heavytails import HEAVIER
from hiertorch.run.rounds import LONGEST_WARMUP
from hiertorch.run.store import Store
from hiertorch.run.whitened import Whitened

ALPHA = 1e-3
CHAINS, KNOWN = 3000, 20_000
WARMUP, SWEEPS = 40, 20
BATCH = 250_000  # draws from the prior at once


class Intercepts(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.5))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Bernoulli(logits=v.alpha[:, data.group])


class Slopes(ht.Model):
    """Two correlated effects, a coefficient with heavy tails, and a scale that may be 0."""

    beta = ht.Latent(StudentT(3.0, 0.0, 1.0))
    sd = ht.Latent(Gamma(1.0, 1.0), event=2)
    L = ht.Latent(LKJCholesky(2, 1.0))
    b = ht.Latent(
        lambda v: MultivariateNormal(torch.zeros(2, dtype=v.sd.dtype), scale_tril=v.sd[..., None] * v.L), plate="group"
    )

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        own = v.b[:, data.group]
        return Bernoulli(logits=own[..., 0] + own[..., 1] * data.x + v.beta * data.z)


class Nested(ht.Model):
    """Groups in halls, and an effect of each row."""

    mu = ht.Latent(Normal(0.0, 1.0))
    s = ht.Latent(Gamma(2.0, 3.0), event=3)
    hall = ht.Latent(lambda v: Normal(v.mu, v.s[..., 0]), plate="hall")
    group = ht.Latent(lambda v, data: Normal(v.hall[:, data.parents("group", "hall")], v.s[..., 1]), plate="group")
    own = ht.Latent(lambda v: Normal(0.0, v.s[..., 2]), plate="row")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Poisson((v.group[:, data.group] + v.own[:, data.row]).exp())


class Crossed(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.0))
    beta = ht.Latent(Normal(0.0, 1.0))
    tau = ht.Latent(Gamma(2.0, 2.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    item = ht.Latent(lambda v: Normal(0.0, v.tau), plate="item")
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Bernoulli(logits=v.alpha[:, data.group] + v.item[:, data.item] + v.beta * data.x)


class CrossedTrials(Crossed):
    """Whose rows say more."""

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Binomial(data.trials, logits=v.alpha[:, data.group] + v.item[:, data.item] + v.beta * data.x)


class Ratings(ht.Model):
    """Two effects of each item, and days across both; days' columns depend on their scale."""

    beta = ht.Latent(Normal(0.0, 1.0))
    tau = ht.Latent(Gamma(2.0, 2.0), event=2)
    sigma = ht.Latent(Gamma(2.0, 2.0))
    spread = ht.Latent(Gamma(1.0, 1.0))
    day = ht.Latent(Normal(0.0, 1.0), plate="day")
    item = ht.Latent(lambda v: Independent(Normal(v.beta.unsqueeze(-1), v.tau), 1), plate="item")
    alpha = ht.Latent(lambda v: Normal(0.0, v.sigma), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        own = v.item[:, data.item]
        days = v.spread * v.day[:, data.day]
        return Bernoulli(logits=v.alpha[:, data.group] + own[..., 0] + own[..., 1] * data.x + days)


class Counts(ht.Model):
    """With a parameter of rows, an offset, and effects in the direction of x."""

    mu = ht.Latent(Normal(0.0, 1.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    phi = ht.Latent(LogNormal(0.5, 0.7))
    b = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return NegativeBinomial(v.phi, logits=v.b[:, data.group] * data.x + 0.3 * data.z - v.phi.log())


class Outliers(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.0))
    tau = ht.Latent(Gamma(2.0, 2.0))
    scale = ht.Latent(Uniform(0.5, 2.0))
    a = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return StudentT(3.0, v.a[:, data.group], v.scale)


class Ordered(ht.Model):
    """Three grades by thresholds that are sampled; no family, a likelihood of a user's own."""

    mu = ht.Latent(Normal(0.0, 1.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    gap = ht.Latent(LogNormal(0.0, 0.5))
    a = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        eta = v.a[:, data.group]
        low, high = eta.neg().sigmoid(), (v.gap - eta).sigmoid()
        return Categorical(probs=torch.stack([low, (high - low).clamp(min=1e-12), (1.0 - high).clamp(min=1e-12)], -1))


class Classes(ht.Model):
    """Two predictors of each row, and an effect of each group in both."""

    mu = ht.Latent(Normal(0.0, 1.0), event=2)
    sigma = ht.Latent(Gamma(2.0, 2.0), event=2)
    a = ht.Latent(lambda v: Independent(Normal(v.mu, v.sigma), 1), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        eta = v.a[:, data.group]
        return Categorical(logits=torch.cat([torch.zeros_like(eta[..., :1]), eta], -1))


class Spreads(ht.Model):
    """Locations by group, scales by item."""

    mu = ht.Latent(Normal(0.0, 1.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    tau = ht.Latent(Gamma(2.0, 3.0))
    a = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")
    s = ht.Latent(lambda v: Normal(0.0, v.tau), plate="item")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Normal(v.a[:, data.group], 0.5 + v.s[:, data.item].exp())


class Curve(ht.Model):
    """A chance that rises along a curve to a ceiling, both of them by group; the curve's slope is no effect."""

    mu = ht.Latent(Normal(0.0, 1.0), event=2)
    sigma = ht.Latent(Gamma(2.0, 2.0), event=2)
    slope = ht.Latent(LogNormal(0.0, 0.5))
    a = ht.Latent(lambda v: Independent(Normal(v.mu, v.sigma), 1), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        own = v.a[:, data.group]
        return Bernoulli(own[..., 0].sigmoid() * (v.slope * (data.x - own[..., 1])).sigmoid())


class Trials(ht.Model):
    """Some rows have no trials, some no weight."""

    mu = ht.Latent(Normal(0.0, 1.5))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Binomial(data.trials, logits=v.alpha[:, data.group])


class Matches(ht.Model):
    """Two players a row, one of them at home (Bradley & Terry 1952)."""

    beta = ht.Latent(Normal(0.0, 1.0))
    tau = ht.Latent(Gamma(2.0, 2.0))
    skill = ht.Latent(lambda v: Normal(0.0, v.tau), plate="player")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Bernoulli(logits=v.beta + v.skill[:, data.player] - v.skill[:, data.guest])


class Tutors(ht.Model):
    """Groups, and two tutors a row in unequal parts, with slopes."""

    mu = ht.Latent(Normal(0.0, 1.0))
    tau = ht.Latent(Gamma(2.0, 2.0), event=2)
    sigma = ht.Latent(Gamma(2.0, 2.0))
    u = ht.Latent(lambda v: Independent(Normal(torch.zeros_like(v.tau), v.tau), 1), plate="tutor")
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        own = 0.7 * v.u[:, data.tutor] + 0.3 * v.u[:, data.other]
        return Bernoulli(logits=v.alpha[:, data.group] + own[..., 0] + own[..., 1] * data.x)


X, Z = [0.5, -1.0, 1.5, 0.2, -0.6, 1.0], [1.0, 0.0, -1.0, 1.0, 0.5, 0.0]
THREE = {"group": [0, 0, 1, 1, 2, 2]}
Y = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0]


@dataclass(frozen=True)
class Case:
    """A model, its few rows, and the largest value that their likelihood takes, in logarithms."""

    model: ht.Model
    data: ht.Data
    ceiling: float = 0.0


def of_counts(y: list[float]) -> float:
    """The largest likelihood of a Poisson distribution, which no negative binomial one exceeds."""
    return float(stats.poisson.logpmf(y, y).sum())


HITS = [3.0, 1.0, 4.0, 3.0, 2.0, 1.0]
COUNTS, TIMES, TRIALS = [2.0, 0.0, 1.0, 0.0, 4.0], [0.3, -0.4, 1.2, 2.4], [3.0, 0.0, 2.0, 1.0, 2.0, 4.0]
CASES = {
    "intercepts": Case(Intercepts(), ht.Data(Y, groups=THREE)),
    "all 0": Case(Intercepts(), ht.Data([0.0] * 6, groups=THREE)),
    "a group without rows": Case(
        Intercepts(), ht.Data(Y, groups={"group": [0, 0, 1, 1, 3, 3]}, labels={"group": range(4)})
    ),
    "slopes": Case(Slopes(), ht.Data(Y, groups=THREE, x=X, z=Z)),
    "nested": Case(
        Nested(),
        ht.Data(COUNTS, groups={"row": range(5), "group": [0, 1, 2, 2, 3], "hall": [0, 0, 1, 1, 1]}),
        of_counts(COUNTS),
    ),
    "crossed": Case(Crossed(), ht.Data(Y, groups={**THREE, "item": [0, 1, 0, 1, 0, 1]}, x=X)),
    "crossed trials": Case(
        CrossedTrials(),
        ht.Data(HITS, groups={**THREE, "item": [0, 1, 0, 1, 0, 1]}, x=X, trials=[6.0] * 6),
        float(stats.binom(6, np.array(HITS) / 6).logpmf(HITS).sum()),
    ),
    "ratings": Case(
        Ratings(), ht.Data(Y, groups={**THREE, "item": [0, 1, 0, 1, 0, 1], "day": [0, 0, 1, 0, 1, 1]}, x=X)
    ),
    "matches": Case(Matches(), ht.Data(Y, groups={"player": [0, 0, 1, 1, 2, 2], "guest": [1, 2, 2, 0, 0, 1]})),
    "tutors": Case(
        Tutors(), ht.Data(Y, groups={**THREE, "tutor": [0, 1, 0, 1, 0, 1], "other": [1, 1, 0, 0, 1, 0]}, x=X)
    ),
    "negative binomial": Case(Counts(), ht.Data(COUNTS, groups={"group": [0, 0, 1, 1, 2]}, x=X[:5], z=Z[:5]),
                              of_counts(COUNTS)),
    "heavy tails": Case(Outliers(), ht.Data(TIMES, groups={"group": [0, 0, 1, 2]}),
                        4 * float(stats.t(3, 0, 0.5).logpdf(0.0))),
    "ordinal": Case(Ordered(), ht.Data([0.0, 1.0, 2.0, 2.0], groups={"group": [0, 0, 1, 2]})),
    "classes": Case(Classes(), ht.Data([0.0, 1.0, 2.0, 2.0, 1.0], groups={"group": [0, 0, 1, 1, 2]})),
    "spreads": Case(Spreads(), ht.Data(TIMES, groups={"group": [0, 0, 1, 2], "item": [0, 1, 0, 1]}),
                    4 * float(stats.norm(0, 0.5).logpdf(0.0))),
    "curve": Case(Curve(), ht.Data(Y, groups=THREE, x=X)),
    "trials": Case(
        Trials(), ht.Data([1.0, 0.0, 2.0, 0.0, 0.0, 1.0], groups=THREE, trials=TRIALS, weights=[1, 1, 1, 2, 1, 0])
    ),
}  # fmt: skip


@cache
def exact(name: str) -> tuple[Values, Values]:
    """Independent draws from the posterior: CHAINS to start from, and KNOWN others. See Note [Exact starts]."""
    case, generator, kept = CASES[name], torch.Generator().manual_seed(3), list[dict[str, Tensor]]()
    weights = torch.ones_like(case.data.y) if case.data.weights is None else case.data.weights
    while sum(len(v["mu" if "mu" in v else "beta"]) for v in kept) < CHAINS + KNOWN:
        v = case.model.sample_prior(case.data, BATCH, generator)
        height = case.model.log_likelihood(v, case.data) @ weights - case.ceiling
        assert bool((height <= 1e-9).all())
        keep = torch.rand(BATCH, generator=generator, dtype=height.dtype).log() < height
        kept.append({key: x[keep] for key, x in v.items()})
    every = {key: torch.cat([v[key] for v in kept]) for key in kept[0]}
    starts, known = ({k: x[a:b] for k, x in every.items()} for a, b in ((0, CHAINS), (CHAINS, CHAINS + KNOWN)))
    return Values(starts), Values(known)


def evaluate(case: Case, v: Values) -> dict[str, np.ndarray]:
    """Every element of every latent, and the terms of the density, each `(draws,)`."""
    found = {f"{name}[{i}]": x for name, value in v.items() for i, x in enumerate(value.flatten(1).unbind(1))}
    found |= {f"log p({name})": case.model.log_prior_term(name, v, case.data).sum(-1) for name in v}
    terms = case.model.log_likelihood(v, case.data)
    found |= {"log likelihood": terms.sum(1), "first row": terms[:, 0], "last row": terms[:, -1]}
    return {name: x.numpy() for name, x in found.items() if x.std() > 1e-9}  # not constants


Break = Callable[[Whitened, pytest.MonkeyPatch], None]


def engine_of(case: Case, chains: int, seed: int = 5, made: type[Whitened] = Whitened) -> Whitened:
    plan = ht.plan(case.model, case.data)
    assert plan.surrogate is not None, str(plan)
    return made(plan.structure, plan.surrogate, chains, torch.Generator().manual_seed(seed))


def advanced(engine: Whitened, done: int, sweeps: int, warmup: int) -> dict[str, Tensor]:
    """The draws of some sweeps, of each chain the last."""
    store, acceptance = Store(engine.values(), tuple(engine.values()), sweeps), Acceptance(engine.order)
    engine.advance(done, sweeps, warmup, 1, store, acceptance)
    for k, rate in acceptance.window(sampling=True).items():
        assert float(rate.mean()) > 0.02, engine.blocks[k]
    return store.draws()


def failures(
    name: str,
    broken: Break | None = None,
    patch: pytest.MonkeyPatch | None = None,
    made: type[Whitened] = Whitened,
    settles: bool = False,
) -> dict[str, float]:
    """The tests that an engine fails after a warm-up and some sweeps from exact draws; broken after warm-up, if so.
    Warm-up has WARMUP sweeps, or ends where the engine has settled.
    """
    case = CASES[name]
    starts, known = exact(name)
    engine = engine_of(case, CHAINS, made=made)
    engine.begin(dict(starts), None)
    engine.prepare(compiled=False)
    store, acceptance = Store(engine.values(), engine.target.names, 1), Acceptance(engine.order)
    done, most = 0, LONGEST_WARMUP if settles else WARMUP
    while done < most and not (settles and engine.settled()):
        ahead = engine.course.ahead if settles else WARMUP
        engine.advance(done, ahead, most, 1, store, acceptance)
        done += ahead
    assert not settles or done < most, name
    if broken is not None and patch is not None:
        broken(engine, patch)
    advanced(engine, done, SWEEPS, done)
    p = p_values(
        evaluate(case, Values(dict(engine.values()))), {n: np.sort(x) for n, x in evaluate(case, known).items()}
    )
    return {what: value for what, value in p.items() if not value > ALPHA / len(p)}


def far_too_much(patch: pytest.MonkeyPatch) -> None:
    """Any coefficients are exact: these are none that fit."""

    def fitted(position: Tensor, noise: Tensor, rung: Any) -> Adjusted:
        own, generator = noise.shape[:2], torch.Generator().manual_seed(8)
        column, slopes = (torch.rand(*own, n, generator=generator, dtype=noise.dtype) for n in (1, position.shape[1]))
        return Adjusted(position.mean(0), position.std(0), column, slopes, column - 0.5, 0.4 * (slopes - 0.5))

    patch.setattr("hiertorch.run.adjusted.POOR", 2.0)
    patch.setattr(heavytails, "LONG", 4)
    patch.setattr(whitened, "fitted", fitted)


def adjusted(engine: Whitened, patch: pytest.MonkeyPatch) -> None:
    """Nothing is broken, but there is something to break."""
    assert engine.adjusted is not None
    assert any(float(freedom.min()) == HEAVIER for freedom in engine.tails.freedom.values())


def population_alone(engine: Whitened, patch: pytest.MonkeyPatch) -> None:
    """Groups are left where they are: what moves the population must be right by itself."""
    nothing = Info(torch.ones(CHAINS, 1), torch.zeros(()), None)
    patch.setattr(engine, "_groups", lambda level: nothing)
