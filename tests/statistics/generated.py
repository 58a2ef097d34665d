"""Models written at random, each of which knows whether it is linear-Gaussian in all that is not a scale.

A model is one structure (intercepts, slopes, correlated effects, nested, crossed or time-varying ones ...), priors of
many families on a scale between 1e-3 and 1e6, written centred or not, with its latents declared in a random order. Some
have a nonlinear parameter, or a kink that few draws from the prior would meet.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Distribution,
    Exponential,
    Gamma,
    HalfCauchy,
    HalfNormal,
    Independent,
    Laplace,
    LKJCholesky,
    LogNormal,
    MultivariateNormal,
    Normal,
    StudentT,
    Uniform,
)

import hiertorch as ht
from hiertorch.model.latent import Latent

STRUCTURES = (
    "population", "intercepts", "noncentred", "slopes", "mixed", "correlated", "correlated noncentred", "nested",
    "crossed", "walk", "steps", "two scales", "known errors", "group predictor", "conditional", "horseshoe",
    "horseshoe noncentred", "steps of all",
)  # fmt: skip
SPOILERS = (
    "emax",
    "decay",
    "logistic",
    "power",
    "loading",
    "clamp",
    "relu",
    "where",
    "round",
    "abs",
    "branch",
    "scale",
)
GROUPS, ROOMS, TIMES, ROWS = 6, 12, 5, 60


class Generated(ht.Model):
    """Latents and a likelihood that are given."""

    def __init__(self, latents: dict[str, Latent], likelihood: Callable[[Any, Any], Distribution]) -> None:
        super().__init__()
        self._own = likelihood
        for name, latent in latents.items():
            setattr(self, name, latent)

    def likelihood(self, v, data):
        return self._own(v, data)


@dataclass
class Case:
    """A model with data, and what is known of it."""

    model: ht.Model
    data: ht.Data
    text: str
    linear_gaussian: bool


@dataclass
class _Draft:
    """What a model is put together from: latents with their parents, and parts of the mean."""

    rng: np.random.Generator
    unit: float
    latents: dict[str, Latent] = field(default_factory=dict)
    parents: dict[str, set[str]] = field(default_factory=dict)
    mean: list[Callable[[Any, Any], Tensor]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def add(self, name: str, prior: Any, *parents: str, **options: Any) -> None:
        self.latents[name] = Latent(prior, **options)
        self.parents[name] = set(parents)

    def location(self, name: str, at: float, sd: float, **options: Any) -> None:
        """A latent of any sign."""
        kind = self.rng.choice(["normal", "normal", "normal", "student", "laplace", "uniform"])
        prior = {
            "normal": lambda: Normal(at, sd),
            "student": lambda: StudentT(4.0, at, sd),
            "laplace": lambda: Laplace(at, sd),
            "uniform": lambda: Uniform(at - 3 * sd, at + 3 * sd),
        }[kind]()
        self.words.append(f"{name}:{kind}")
        self.add(name, prior, **options)

    def scale(self, name: str, size: float) -> Callable[[Any], Tensor]:
        """A positive latent of some size, or what is made of another one; returns how it is read, `(chains, 1)`."""
        kind = str(self.rng.choice([
            "half normal", "gamma", "lognormal", "exponential", "half cauchy", "uniform", "beta", "log", "softplus",
            "variance", "clamped",
        ]))  # fmt: skip
        priors: dict[str, Distribution] = {
            "half normal": HalfNormal(size), "clamped": HalfNormal(size), "gamma": Gamma(2.0, 2.0 / size),
            "lognormal": LogNormal(np.log(size), 0.5), "exponential": Exponential(1.0 / size),
            "half cauchy": HalfCauchy(0.5 * size), "uniform": Uniform(0.1 * size, 3.0 * size), "beta": Beta(2.0, 2.0),
            "log": Normal(np.log(size), 0.5), "softplus": Normal(1.0, 1.0), "variance": Gamma(2.0, 2.0 / size**2),
        }  # fmt: skip
        reading: dict[str, Callable[[Tensor], Tensor]] = {
            "beta": lambda x: 2.0 * size * x, "log": torch.exp, "variance": torch.sqrt,
            "softplus": lambda x: size * torch.nn.functional.softplus(x), "clamped": lambda x: x.clamp(min=1e-4 * size),
        }  # fmt: skip
        self.words.append(f"{name}:{kind}")
        self.add(name, priors[kind])
        read = reading.get(kind, lambda x: x)
        return lambda v: read(v[name])

    def effects(self, name: str, plate: str, sd: Callable[[Any], Tensor], of: str, around: str | None = None) -> None:
        """Effects of groups, around a latent or 0."""
        if around is None:
            self.add(name, lambda v: Normal(0.0, sd(v)), of, plate=plate)
        else:
            self.add(name, lambda v: Normal(v[around], sd(v)), of, around, plate=plate)

    def ordered(self) -> dict[str, Latent]:
        """In a random order in which every prior finds what it reads."""
        left, found = list(self.latents), dict[str, Latent]()
        while left:
            free = [name for name in left if self.parents[name] <= set(found)]
            name = free[int(self.rng.integers(len(free)))]
            found[name] = self.latents[name]
            left.remove(name)
        return found


def case(seed: int) -> Case:
    """A model; the same for the same seed."""
    rng = np.random.default_rng([2024, seed])
    unit = float(10.0 ** rng.integers(-3, 7))
    draft = _Draft(rng, unit)
    structure = STRUCTURES[seed % len(STRUCTURES)]
    spoiler = str(rng.choice(SPOILERS)) if rng.random() < 0.3 else ""
    columns = _columns(rng)
    sd = draft.scale("sigma", unit)
    row_scale = _structure(draft, structure, sd)
    linear_gaussian = _spoil(draft, spoiler)
    if spoiler == "scale":
        before = row_scale
        row_scale = lambda v, d: before(v, d) * (1.0 + torch.relu(v.b0 / unit - 40.0))  # noqa: E731
    mean = draft.mean

    def likelihood(v: Any, data: Any) -> Distribution:
        return Normal(sum((part(v, data) for part in mean[1:]), start=mean[0](v, data)), row_scale(v, data))

    model = Generated(draft.ordered(), likelihood)
    weights = rng.choice([0.0, 1.0, 0.5, 2.0], ROWS) if rng.random() < 0.25 else None
    data = ht.Data(np.zeros(ROWS), weights=weights, **columns)
    data = data.replace(y=_response(model, data, seed))
    text = f"{seed}: {structure}{', ' + spoiler if spoiler else ''}, unit {unit:g}, {' '.join(draft.words)}"
    nothing = structure == "population" and not any(word in ("b0:normal", "b1:normal") for word in draft.words)
    return Case(model, data, text, linear_gaussian and not nothing)


def _columns(rng: np.random.Generator) -> dict[str, Any]:
    room = np.r_[np.arange(ROOMS), rng.integers(0, ROOMS, ROWS - ROOMS)]
    late = (rng.random(ROWS) < 0.5) * 1.0
    late[:2] = 0.0, 1.0
    return {
        "groups": {"g": room % GROUPS, "room": room, "h": np.r_[np.arange(4), rng.integers(0, 4, ROWS - 4)]},
        "x": rng.normal(size=ROWS), "X": rng.normal(size=(ROWS, 4)),
        "dose": np.tile([0.0, 1.0, 3.0, 10.0, 30.0, 100.0], ROWS // 6),
        "late": late, "se": rng.uniform(0.5, 2.0, ROWS), "time": rng.integers(0, TIMES, ROWS) * 1.0,
        "u": np.linspace(-1.0, 1.0, GROUPS)[room % GROUPS],
    }  # fmt: skip


def _structure(draft: _Draft, structure: str, sd: Callable[[Any], Tensor]) -> Callable[[Any, Any], Any]:
    """Adds latents and parts of the mean; returns the scale of the rows."""
    unit, mean = draft.unit, draft.mean
    centre = unit * float(draft.rng.choice([0.0, 3.0, 50.0]))
    draft.location("b0", centre, 3.0 * unit)
    draft.location("b1", 0.0, 2.0 * unit)
    slope = lambda v, d: v.b1 * d.x  # noqa: E731
    if structure == "population":
        mean += [lambda v, d: v.b0, slope]
    elif structure in ("intercepts", "two scales", "known errors", "group predictor"):
        tau = draft.scale("tau", unit)
        if structure == "group predictor":
            draft.location("gamma", 0.0, unit)
            prior = lambda v, d: Normal(v.b0 + v.gamma * d.group_values("u", "g"), tau(v))  # noqa: E731
            draft.add("a", prior, "b0", "tau", "gamma", plate="g")
        else:
            draft.effects("a", "g", tau, "tau", "b0")
        mean += [lambda v, d: v.a[:, d.g], slope]
    elif structure == "noncentred":
        tau = draft.scale("tau", unit)
        draft.add("z", Normal(0.0, 1.0), plate="g")
        mean += [lambda v, d: v.b0 + tau(v) * v.z[:, d.g], slope]
    elif structure in ("slopes", "mixed"):
        tau = draft.scale("tau", unit)
        draft.effects("s", "g", tau, "tau", "b1")
        if structure == "mixed":
            tau0 = draft.scale("tau0", unit)
            draft.effects("a", "g", tau0, "tau0", "b0")
        mean += [
            (lambda v, d: v.a[:, d.g]) if structure == "mixed" else (lambda v, d: v.b0),
            lambda v, d: v.s[:, d.g] * d.x,
        ]
    elif structure.startswith("correlated"):
        draft.add("L", LKJCholesky(2, 2.0))
        tau, tau1 = draft.scale("tau", unit), draft.scale("tau1", unit)

        def root(v: Any) -> Tensor:
            return torch.stack([tau(v), tau1(v)], -1).unsqueeze(-1) * v.L

        if structure == "correlated":
            prior = lambda v: MultivariateNormal(torch.stack([v.b0, v.b1], -1), scale_tril=root(v))  # noqa: E731
            draft.add("e", prior, "L", "tau", "tau1", "b0", "b1", plate="g")
            mean += [lambda v, d: v.e[:, d.g, 0] + v.e[:, d.g, 1] * d.x]
        else:
            draft.add("e", Normal(0.0, 1.0), plate="g", event=2)

            def effects(v: Any, d: Any) -> Tensor:
                e = (root(v) @ v.e.unsqueeze(-1)).squeeze(-1)[:, d.g]
                return v.b0 + e[..., 0] + (v.b1 + e[..., 1]) * d.x

            mean += [effects]
    elif structure == "nested":
        tau, tau1 = draft.scale("tau", unit), draft.scale("tau1", unit)
        draft.effects("a", "g", tau, "tau", "b0")
        draft.add("r", lambda v, d: Normal(v.a[:, d.parents("room", "g")], tau1(v)), "a", "tau1", plate="room")
        mean += [lambda v, d: v.r[:, d.room], slope]
    elif structure == "crossed":
        tau, tau1 = draft.scale("tau", unit), draft.scale("tau1", unit)
        draft.effects("a", "g", tau, "tau", "b0")
        draft.effects("r", "h", tau1, "tau1")
        mean += [lambda v, d: v.a[:, d.g] + v.r[:, d.h], slope]
    elif structure == "walk":
        tau = draft.scale("tau", 0.5 * unit)
        lower = torch.ones(TIMES, TIMES, dtype=torch.float64).tril()
        zero = torch.zeros(TIMES, dtype=torch.float64)
        prior = lambda v: MultivariateNormal(zero, scale_tril=tau(v)[..., None, None] * lower)  # noqa: E731
        draft.add("w", prior, "tau", plate="g")
        mean += [lambda v, d: v.b0 + v.w[:, d.g, d.time.long()], slope]
    elif structure == "steps":
        tau = draft.scale("tau", 0.5 * unit)
        draft.add("z", Normal(0.0, 1.0), plate="g", event=TIMES)
        walk = lambda v, d: (tau(v).unsqueeze(-1) * v.z.cumsum(-1))[:, d.g, d.time.long()]  # noqa: E731
        mean += [lambda v, d: v.b0 + walk(v, d), slope]
    elif structure == "conditional":
        tau, tau1 = draft.scale("tau", unit), draft.scale("tau1", unit)
        draft.add("rho", Uniform(-0.9, 0.9))
        draft.effects("a", "g", tau, "tau", "b0")
        prior = lambda v: Normal(v.b1 + v.rho * tau1(v) / tau(v) * (v.a - v.b0), tau1(v))  # noqa: E731
        draft.add("s", prior, "a", "b0", "b1", "rho", "tau", "tau1", plate="g")
        mean += [lambda v, d: v.a[:, d.g] + v.s[:, d.g] * d.x]
    elif structure.startswith("horseshoe"):
        tau = draft.scale("tau", unit)
        draft.add("lam", HalfCauchy(1.0), event=4)
        size = lambda v: v.lam * tau(v).unsqueeze(-1)  # noqa: E731
        if structure == "horseshoe":
            draft.add("b", lambda v: Independent(Normal(0.0, size(v)), 1), "lam", "tau")
            mean += [lambda v, d: v.b0 + (v.b @ d.X.mT).squeeze(1)]
        else:
            draft.add("z", Normal(0.0, 1.0), event=4)
            mean += [lambda v, d: v.b0 + ((v.z * size(v)) @ d.X.mT).squeeze(1)]
    elif structure == "steps of all":
        tau = draft.scale("tau", unit)
        draft.add("z", Normal(0.0, 1.0), event=TIMES)
        walk = lambda v, d: (tau(v).unsqueeze(-1) * v.z).cumsum(-1)[:, 0, d.time.long()]  # noqa: E731
        mean += [lambda v, d: v.b0 + walk(v, d), slope]
    if structure == "two scales":
        sd2 = draft.scale("sigma2", 2.0 * unit)
        return lambda v, d: torch.where(d.late > 0.0, sd2(v), sd(v))
    return (lambda v, d: sd(v) * d.se) if structure == "known errors" else (lambda v, d: sd(v))


def _spoil(draft: _Draft, spoiler: str) -> bool:
    """Adds what is not linear; returns whether the model is linear-Gaussian still."""
    unit, mean = draft.unit, draft.mean
    if spoiler in ("emax", "decay", "logistic", "power"):
        draft.location("top", 5.0 * unit, 2.0 * unit)
        size = 10.0 if spoiler != "power" else 1.0
        k = draft.scale("k", size)
        curve: Callable[[Tensor, Tensor], Tensor] = {
            "emax": lambda dose, k: dose / (dose + k), "decay": lambda dose, k: (-dose / k).exp(),
            "logistic": lambda dose, k: torch.sigmoid((dose - k) / 5.0), "power": lambda dose, k: (dose / 100.0) ** k,
        }[spoiler]  # fmt: skip
        mean.append(lambda v, d: v.top * curve(d.dose, k(v)))
    elif spoiler == "loading":  # linear in the others, given it
        draft.location("load", 1.0, 0.5)
        first = mean[0]
        mean[0] = lambda v, d: v.load * first(v, d)
    elif spoiler in ("clamp", "relu", "where", "round", "abs", "branch"):
        draft.location("c", 0.0, unit)
        kinked: Callable[[Tensor], Tensor] = {
            "clamp": lambda c: c.clamp(max=5.0 * unit), "relu": lambda c: torch.relu(c - 5.0 * unit),
            "where": lambda c: torch.where(c > 6.0 * unit, 2.0 * c, c), "round": lambda c: (c * (1e3 / unit)).round(),
            "abs": lambda c: (c + 8.0 * unit).abs(), "branch": _branch(unit),
        }[spoiler]  # fmt: skip
        factor = 1e-3 * unit if spoiler == "round" else 1.0
        mean.append(lambda v, d: factor * kinked(v.c) * d.late)
    return spoiler == ""


def _branch(unit: float) -> Callable[[Tensor], Tensor]:
    def branch(c: Tensor) -> Tensor:
        return torch.stack([2.0 * x if float(x) > 5.0 * unit else x for x in c.flatten()]).reshape(c.shape)

    return branch


def _response(model: ht.Model, data: ht.Data, seed: int) -> Tensor:
    """Drawn from the model at the prior draw, of many, that is the least extreme."""
    generator = torch.Generator().manual_seed(seed)
    drawn = model.sample_prior(data, 64, generator)
    few = {name: x.flatten(1) for name, x in drawn.items() if model.latents[name].plate is None}
    ranks = torch.cat([(x.argsort(0).argsort(0) / 63.0 - 0.5).abs() for x in few.values()], 1)
    best = int(ranks.amax(1).argmin())
    one = {name: x[best : best + 1] for name, x in drawn.items()}
    return model.simulate(one, data, generator)[0]
