"""What several tests build: models and data, posteriors known in closed form or by sums, scripts as modules.

`MOVED` are models on the rows `PUPILS` that between them have every kind of move: one decision a chain or a group,
effects of one or two dimensions, parents of nested and crossed groupings, bijections other than the identity.
"""

import importlib.util
import re
import sys
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Distribution,
    Exponential,
    Gamma,
    LKJCholesky,
    LogNormal,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
    TransformedDistribution,
)

import hiertorch as ht
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.labelled import Stats
from hiertorch.errors import SamplingWarning
from hiertorch.model.latent import Values
from hiertorch.models import VaryingIntercepts
from hiertorch.posterior import Posterior
from hiertorch.run.plan import Plan
from hiertorch.run.sweeps import Sweep

ROOT = Path(__file__).parents[1]
QUIET: dict[str, Any] = {"progress": False, "compile": False, "seed": 1}


def refused(error: type[Exception], *parts: str) -> Any:
    """An error of this class whose message has all the parts, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(re.escape(part) for part in parts))


def sampled(model: ht.Model, data: ht.Data, **options: Any) -> Posterior:
    """`ht.sample` without bar, compiler and notes such as that a grouping is never read; by the moves that serve any
    model, unless `collapse=True` is given.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        return ht.sample(model, data, **{"compile": False, "progress": False, "collapse": False, **options})


def unpainted(patch: pytest.MonkeyPatch) -> None:
    """Dashboards and reports come without figures: for tests of what is said beside them."""
    patch.setattr("hiertorch.dashboard.figures.figures", lambda *_: {})
    patch.setattr("hiertorch.dashboard.figures.criticism", lambda *_: {})
    patch.setattr("hiertorch.report.figures.png", lambda *_: b"")


def write_pupils(folder: Path, schools: int, rows: int, spread: float) -> None:
    """A table of so many rows in each school, whose levels are so far apart."""
    rng = np.random.default_rng(0)
    school = np.repeat([chr(ord("a") + k) for k in range(schools)], rows)
    hours = rng.normal(size=len(school))
    level = np.repeat(np.linspace(-spread, spread, schools), rows)
    score = level + 0.6 * hours + 0.5 * rng.normal(size=len(school))
    frame = pd.DataFrame({"school": school, "hours": hours, "score": score})
    frame.to_csv(folder / "pupils.csv", index=False)


def script(path: str) -> ModuleType:
    """A file such as `scripts/train.py` as a module."""
    spec = importlib.util.spec_from_file_location(f"{Path(path).stem}_script", ROOT / path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Models of every kind of move


class Intercepts(VaryingIntercepts):
    """The ready model with priors under which all scales occur, but none so small that draws need more digits."""

    sigma_alpha = ht.Latent(Gamma(2.0, 2.0))
    sigma_y = ht.Latent(Gamma(2.0, 2.0))

    def __init__(self) -> None:
        super().__init__("school", ["x"], priors="tutorial")


class Opaque(Intercepts):
    """The same density as one number."""

    def log_prob(self, v: Any, data: ht.Data) -> Tensor:
        return self.log_prior(v, data) + self.log_likelihood(v, data).sum(-1)


class Nested(ht.Model):
    """y_i ~ Normal(b_k, s_y),  b_k ~ Normal(a_j, s_b) for a class k of school j,  a_j ~ Normal(mu, s_a)."""

    mu = ht.Latent(Normal(0.0, 2.0))
    s_a = ht.Latent(Gamma(2.0, 2.0))
    s_b = ht.Latent(Gamma(3.0, 4.0))
    s_y = ht.Latent(Gamma(3.0, 3.0))
    a = ht.Latent(lambda v: Normal(v.mu, v.s_a), plate="school")
    b = ht.Latent(lambda v, data: Normal(v.a[:, data.parents("room", "school")], v.s_b), plate="room")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Normal(v.b[:, data.room], v.s_y)


class Crossed(ht.Model):
    """y_i ~ Normal(mu + a_j + c_k, s_y), rooms k crossed with schools j; heavy-tailed c."""

    mu = ht.Latent(Normal(0.0, 2.0))
    s_a = ht.Latent(Gamma(2.0, 2.0))
    s_c = ht.Latent(LogNormal(-0.5, 0.5))
    s_y = ht.Latent(Gamma(3.0, 3.0))
    a = ht.Latent(lambda v: Normal(0.0, v.s_a), plate="school")
    c = ht.Latent(lambda v: StudentT(4.0, 0.0, v.s_c), plate="month")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Normal(v.mu + v.a[:, data.school] + v.c[:, data.month], v.s_y)


class Switches(ht.Model):
    """y_i ~ Bernoulli(logit = alpha_j + beta x_i)."""

    mu = ht.Latent(Normal(0.0, 1.5))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    beta = ht.Latent(Normal(0.0, 1.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="school")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Bernoulli(logits=v.alpha[:, data.school] + v.beta * data.x)


class Slopes(ht.Model):
    """y_i ~ Normal(b_j0 + b_j1 x_i, s_y),  b_j ~ MultivariateNormal(mu, diag(scale) root), root root' ~ LKJ(2)."""

    mu = ht.Latent(Normal(0.0, 2.0), event=2)
    scale = ht.Latent(Gamma(3.0, 3.0), event=2)
    root = ht.Latent(LKJCholesky(2, 2.0))
    s_y = ht.Latent(Gamma(3.0, 3.0))
    b = ht.Latent(lambda v: MultivariateNormal(v.mu, scale_tril=v.scale.unsqueeze(-1) * v.root), plate="school")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        b = v.b[:, data.school]
        return Normal(b[..., 0] + b[..., 1] * data.x, v.s_y)


class Counts(ht.Model):
    """y_i ~ Poisson(rate_j + extra_i),  rate_j ~ Gamma(2, decay): positive effects of two groupings."""

    decay = ht.Latent(Gamma(4.0, 4.0))
    rare = ht.Latent(Gamma(4.0, 2.0))
    rate = ht.Latent(lambda v: Gamma(2.0, v.decay), plate="school")
    extra = ht.Latent(lambda v: Exponential(v.rare), plate="room")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Poisson(v.rate[:, data.school] + v.extra[:, data.room])


class Scales(ht.Model):
    """y_i ~ Normal(a_j, s_j): a group's level and its scale, a_j ~ Normal(mu, tau s_j), log s_j ~ Normal(m, 0.5)."""

    mu = ht.Latent(Normal(0.0, 2.0))
    tau = ht.Latent(Gamma(3.0, 3.0))
    m = ht.Latent(Normal(0.0, 0.5))
    s = ht.Latent(lambda v: LogNormal(v.m, 0.5 * torch.ones_like(v.m)), plate="school")
    a = ht.Latent(lambda v: Normal(v.mu, v.tau * v.s), plate="school")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Normal(v.a[:, data.school], v.s[:, data.school])


class Stretched(ht.Model):
    """y_i ~ Normal(a_j, s_y),  a_j = 1 + 2 (mu + s z_j): effects whose prior is a transformed distribution."""

    mu = ht.Latent(Normal(0.0, 1.0))
    s = ht.Latent(Gamma(3.0, 3.0))
    s_y = ht.Latent(Gamma(3.0, 3.0))
    a = ht.Latent(lambda v: TransformedDistribution(Normal(v.mu, v.s), [AffineTransform(1.0, 2.0)]), plate="school")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Normal(v.a[:, data.school], v.s_y)


class Neighbours(ht.Model):
    """y_i ~ Normal(alpha_j - 0.8 alpha_(j-1), s_y) for a row i of group j: rows read two groups."""

    s_y = ht.Latent(Gamma(3.0, 3.0))
    alpha = ht.Latent(Normal(0.0, 1.0), plate="school")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        return Normal((v.alpha - 0.8 * v.alpha.roll(1, 1))[:, data.school], v.s_y)


MOVED: dict[str, ht.Model] = {
    "varying intercepts": Intercepts(),
    "overridden log_prob": Opaque(),
    "nested": Nested(),
    "crossed": Crossed(),
    "bernoulli": Switches(),
    "correlated effects": Slopes(),
    "positive effects": Counts(),
    "scales by group": Scales(),
    "transformed effects": Stretched(),
    "neighbours": Neighbours(),
}

SCHOOL = [0, 2, 1, 1, 2, 0, 2, 1, 1, 0]  # rows unsorted, groups unbalanced
ROOM = [0, 4, 2, 3, 5, 1, 4, 2, 2, 0]
PUPILS = ht.Data(
    torch.zeros(10),
    groups={"school": SCHOOL, "room": ROOM, "month": [0, 1, 0, 1, 0, 1, 0, 1, 0, 0]},
    x=[0.5, -1.0, 0.3, 1.2, -0.7, 0.1, -1.5, 0.9, -0.2, 1.8],
)


def plan_for(model: ht.Model, y: Tensor, moves: Any = None) -> Plan:
    """How `PUPILS` with this response are sampled by ordinary moves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)  # of groupings that the model does not use
        return ht.plan(model, PUPILS.replace(y=y), moves=moves, collapse=False)


# Posteriors that are known


class KnownScales(ht.Model):
    """y_ij ~ Normal(alpha_j + beta x_ij, 0.7),  alpha_j ~ Normal(mu, 1.2)."""

    mu = ht.Latent(Normal(0.0, 5.0))
    beta = ht.Latent(Normal(0.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, 1.2), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school] + v.beta * data.x, 0.7)


class Totalled(KnownScales):
    """The same with a derived quantity."""

    total = ht.Derived(lambda v: v.mu + v.beta)


class Passed(ht.Model):
    """y_ij ~ Bernoulli(logit^-1(alpha_j)),  alpha_j ~ Normal(mu, 1),  mu ~ Normal(0, 1.5)."""

    mu = ht.Latent(Normal(0.0, 1.5))
    alpha = ht.Latent(lambda v: Normal(v.mu, 1.0), plate="school")

    def likelihood(self, v, data):
        return Bernoulli(logits=v.alpha[:, data.school])


@cache
def scores(seed: int = 0, rows: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    school, x = np.array(list("abcdefgh"))[rng.integers(8, size=rows)], rng.normal(size=rows)
    level = dict(zip("abcdefgh", rng.normal(0.5, 1.2, 8), strict=True))
    y = np.array([level[s] for s in school]) + 0.6 * x + 0.7 * rng.normal(size=rows)
    return pd.DataFrame({"school": school, "x": x, "y": y})


def split(frame: pd.DataFrame, out: str = "h", each: int = 10) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fitted rows, and new ones: every so many, and all of one school."""
    new = (np.arange(len(frame)) % each == 0) | (frame["school"] == out).to_numpy()
    return frame[~new], frame[new]


def read(frame: pd.DataFrame) -> ht.Data:
    return ht.Data.from_frame(frame, "y", ["school"])


def exact(frame: pd.DataFrame, weights: np.ndarray | None = None) -> dict[str, tuple[float, float]]:
    """Posterior mean and sd of every parameter of `Totalled`, from its normal equations."""
    schools = sorted(frame["school"].unique())
    design = np.column_stack([frame["x"], *[(frame["school"] == s).astype(float) for s in schools]])
    design = np.column_stack([np.zeros(len(frame)), design])  # mu, beta, alpha
    k = design.shape[1]
    precision = np.diag([1 / 25, 1 / 4, *[1 / 1.44] * len(schools)])
    precision[0, 0] += len(schools) / 1.44
    precision[0, 2:] = precision[2:, 0] = -1 / 1.44
    w = np.ones(len(frame)) if weights is None else weights
    precision += (design * w[:, None]).T @ design / 0.49
    cov = np.linalg.inv(precision)
    mean = cov @ (design * w[:, None]).T @ frame["y"].to_numpy() / 0.49
    names = ["mu", "beta", *[f"alpha[{s}]" for s in schools]]
    found = {name: (mean[i], cov[i, i] ** 0.5) for i, name in enumerate(names)}
    return {**found, "total": (mean[0] + mean[1], (cov[:2, :2].sum()) ** 0.5)} if k else found


@cache
def gaussian() -> Posterior:
    return ht.sample(Totalled(), read(split(scores())[0]), chains=8, draws=500, **QUIET)


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


def passed(frame: pd.DataFrame) -> dict[str, float]:
    """E[mu | y] and E[alpha_j | y] of `Passed`, by sums over a grid of mu and Gauss-Hermite quadrature."""
    mu = np.linspace(-6, 6, 1201)
    log_p, inner = stats.norm.logpdf(mu, 0, 1.5), {}
    alpha = mu[:, None] + NODES
    for school, y in frame.groupby("school")["y"]:
        like = special.expit(alpha) ** y.sum() * special.expit(-alpha) ** (len(y) - y.sum()) * WEIGHTS
        log_p, inner[school] = log_p + np.log(like.sum(1)), (alpha * like).sum(1) / like.sum(1)
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    return {"mu": float(p @ mu), **{f"alpha[{school}]": float(p @ mean) for school, mean in inner.items()}}


@cache
def pupils(rows: int = 80, shift: float = 0.0, seed: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    school = np.array(list("abcdefgh"))[np.arange(rows) % 8]
    level = dict(zip("abcdefgh", np.random.default_rng(5).normal(0.5 + shift, 1.0, 8), strict=True))
    return pd.DataFrame(
        {"school": school, "y": rng.binomial(1, special.expit([level[s] for s in school])).astype(float)}
    )


def start(frame: pd.DataFrame) -> Posterior:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        return ht.sample(Passed(), read(frame), chains=32, warmup=100, draws=250, thin=1, **QUIET)


# Posteriors that no run made


def plain(draws: dict[str, Tensor], **arguments: Any) -> Posterior:
    """A posterior of population-level latents, or as the arguments say."""
    chains, n_draws = next(iter(draws.values())).shape[:2]
    defaults: dict[str, Any] = {
        "plates": {},
        "labels": {},
        "event_labels": {},
        "stats": Stats({}, {}, torch.zeros(chains, n_draws), {}),
        "run": {"draws": n_draws},
    }
    return Posterior(draws, **{**defaults, **arguments})


def from_prior(model: ht.Model, data: ht.Data, chains: int = 8, draws: int = 150) -> Posterior:
    """A posterior whose draws are those of the prior: what is predicted from draws does not depend on their origin."""
    drawn = model.sample_prior(data, chains * draws, torch.Generator().manual_seed(1))
    return Posterior(
        {name: x.unflatten(0, (chains, draws)) for name, x in drawn.items()},
        plates={name: latent.plate for name, latent in model.latents.items()},
        labels=data.labels,
        event_labels={name: labels for name, latent in model.latents.items() if (labels := latent.event_labels(data))},
        stats=Stats({}, {}, torch.zeros(chains, draws), {}),
        run={"seed": 1, "model_text": str(model)},
        origin=Fitted(model, data, data.y),
    )


# Data


# Estimated effects of coaching in eight schools, and their standard errors (Rubin 1981).
EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
EIGHT_SCHOOLS = ht.Data(EFFECTS, groups={"school": list("ABCDEFGH")}, se=ERRORS)


def ten_schools(response: str = "y") -> ht.Data:
    """Ten schools of eight pupils."""
    numbers = np.random.default_rng(5)
    school, x = np.repeat(np.arange(10), 8), numbers.normal(size=80)
    eta = numbers.normal(0.0, 0.8, 10)[school] + 0.5 * x
    y = eta + numbers.normal(0.0, 0.7, 80)
    names = np.array([f"School {k}" for k in school])
    frame = pd.DataFrame({"school": names, "x": x, "y": y, "yes": (y > 0).astype(float)})
    return ht.Data.from_frame(frame, response=response, groups=["school"], predictors=["x"])


def numbers(sweep: Sweep, window: int, like: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The random numbers of some sweeps, of one generator for all chains."""
    shape = (window * (sweep.n_normal + sweep.n_uniform), sweep.chains)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device=like.device).clamp(min=2.0**-54)
    return sweep.numbers(uniform, like)
