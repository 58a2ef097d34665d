"""Conditionally linear-Gaussian models by dense algebra, and a zoo of them written as users write them.

Given the other latents ("rest"), the linear ones u and the response y of such a model are

    u = m + A u + S e,     y = c + H u + diag(sd) e',     e, e' ~ Normal(0, I)

with A strictly lower triangular, since a prior reads earlier latents only. `affine` reads m, A, c and H off the model's
own prior means and likelihood mean, at zero and at one unit vector after the other. `dense` integrates u out.

Note [Accuracy of the dense reference]
With u = M + L z, z ~ Normal(0, I), and rows divided by their sd (G = H L / sd, r = (y - c - H M) / sd),

    log p(y | rest) = -sum log(sd sqrt(2 pi)) - log|I + G'G| / 2 - min_z (|r - G z|^2 + |z|^2) / 2

and the minimum is a least-squares problem in [G; I], solved by Householder reflections: no covariance is formed, so
neither sigma = 1e-8 nor a response of mean 1e6 costs digits, and a scale of 0 is fine. All of it is done in
`np.longdouble` (19 digits on x86; where it is a double, 16). A test holds it against 60-digit arithmetic.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Distribution,
    Gamma,
    Independent,
    LKJCholesky,
    MultivariateNormal,
    Normal,
    StudentT,
    Uniform,
)

import hiertorch as ht
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.discovery import collapse
from hiertorch.model.checks import inspect
from hiertorch.runtime.validating import validation

STEP = 2.0**20  # of a unit vector: a power of two loses nothing, and is large beside any constant in a mean
SIZES = (1, 2, 9, 4, 1, 13, 3, 6)  # rows of the schools
TIMES = 5


# The reference


@dataclass(frozen=True)
class Affine:
    """u = level + among u + root e and y = offset + design u + sd e', for one chain; rows of weight 0 are left out."""

    level: np.ndarray  # (latents,)
    among: np.ndarray  # (latents, latents), strictly lower triangular
    root: np.ndarray  # (latents, latents), lower triangular
    offset: np.ndarray  # (rows,)
    design: np.ndarray  # (rows, latents)
    sd: np.ndarray  # (rows,)
    y: np.ndarray  # (rows,)
    weights: np.ndarray  # (rows,), above 0
    rows: np.ndarray  # (rows,), their numbers in the data

    def take(self, keep: np.ndarray) -> "Affine":
        """Some of the rows."""
        kept = {name: getattr(self, name)[keep] for name in ("offset", "design", "sd", "y", "weights", "rows")}
        return Affine(self.level, self.among, self.root, **kept)

    def prior(self) -> tuple[np.ndarray, np.ndarray]:
        """M and L of u = M + L z, `(latents,)` and `(latents, latents)`."""
        unit = np.eye(len(self.level)) - self.among.astype(np.longdouble)
        return solve_lower(unit, self.level), solve_lower(unit, self.root)

    def solved(self) -> tuple[np.floating, np.ndarray, np.ndarray]:
        """log p(y | rest), and the mean and covariance of u given y and rest."""
        mean, root = self.prior()
        sd = self.sd.astype(np.longdouble) / np.sqrt(self.weights.astype(np.longdouble))
        residual = (self.y.astype(np.longdouble) - self.offset - self.design @ mean) / sd
        stacked = np.concatenate([(self.design @ root) / sd[:, None], np.eye(len(mean))])
        right, z, rest = least_squares(stacked, np.concatenate([residual, np.zeros(len(mean))]))
        log_density = -np.log(np.abs(np.diagonal(right))).sum() - rest / 2 - self.log_constant()
        spread = solve_lower(right.T, root.T).T  # L R^-1
        return log_density, mean + root @ z, spread @ spread.T

    def log_constant(self) -> np.floating:
        """sum_i w_i log(sd_i sqrt(2 pi)), of prod_i Normal(y_i; mean_i, sd_i)^w_i."""
        return (
            self.weights * (np.log(2 * np.pi, dtype=np.longdouble) / 2 + np.log(self.sd, dtype=np.longdouble))
        ).sum()


@dataclass(frozen=True)
class Dense:
    """log p(y | rest) with the linear latents integrated out, and their moments given y and rest, in long double."""

    log_marginal: np.ndarray  # (chains,)
    mean: np.ndarray  # (chains, latents): in declared order, each latent flattened from (size, *event)
    covariance: np.ndarray  # (chains, latents, latents)


def dense(model: ht.Model, data: ht.Data, rest: Mapping[str, Tensor], linear: Sequence[str]) -> Dense:
    """Integrates the linear latents out.

    Args:
        model: whose likelihood is Normal with a mean that is affine in the linear latents.
        data: with or without row weights.
        rest: constrained values of all other latents, `(chains, 1, *event)`.
        linear: names of the linear latents.

    Raises:
        ValueError: if the model is not linear-Gaussian in these latents.
    """
    solved = [part.solved() for part in affine(model, data, rest, linear)]
    log_marginal, mean, covariance = (np.stack(part) for part in zip(*solved, strict=True))
    return Dense(log_marginal, mean, covariance)


def log_group(
    model: ht.Model, data: ht.Data, values: Mapping[str, Tensor], linear: Sequence[str], plate: str
) -> np.ndarray:
    """log p(y_j | all latents but the effects of group j and of groups nested in it), `(chains, groups)`.

    Args:
        model: as in `dense`.
        data: as in `dense`.
        values: of all latents, `(chains, size, *event)`.
        linear: names of the linear latents.
        plate: the grouping j.
    """
    latents = model.latents
    own = [name for name in linear if (p := latents[name].plate) is not None and data.nests(p, plate)]
    held = {name: value for name, value in values.items() if name not in own}
    codes = data[plate].numpy()
    return np.array(
        [
            [part.take(codes[part.rows] == j).solved()[0] for j in range(data.size(plate))]
            for part in affine(model, data, held, own)
        ]
    )


def affine(model: ht.Model, data: ht.Data, rest: Mapping[str, Tensor], linear: Sequence[str]) -> list[Affine]:
    """The pieces of a model for each chain of `rest`, as the module says."""
    chains = next((value.shape[0] for value in rest.values()), 1)
    with validation(False), torch.no_grad():
        return [
            _affine(model, data, {name: value[b : b + 1] for name, value in rest.items()}, linear, b)
            for b in range(chains)
        ]


def _affine(model: ht.Model, data: ht.Data, rest: Mapping[str, Tensor], linear: Sequence[str], chain: int) -> Affine:
    linear = [name for name in model.latents if name in linear]
    drawn = model.sample_prior(data, 1, torch.Generator().manual_seed(0))
    shapes = {name: drawn[name].shape[1:] for name in linear}
    ends = np.cumsum([0, *(shapes[name].numel() for name in linear)])
    places = {name: slice(a, b) for name, a, b in zip(linear, ends, ends[1:], strict=False)}
    total = int(ends[-1])
    # chain 0 holds zeros, chain 1 + k the unit vector k, and the last a random vector, to see that all is affine
    check = np.random.default_rng(0).normal(size=total) * STEP
    vectors = np.concatenate([np.zeros((1, total)), STEP * np.eye(total), check[None]])
    moved = {name: torch.from_numpy(vectors[:, places[name]]).reshape(-1, *shapes[name]) for name in linear}
    v = model.values(
        {
            name: moved[name] if name in moved else rest[name].expand(len(vectors), *rest[name].shape[1:])
            for name in model.latents
        }
    )
    for name in rest:
        _same(f"the prior of {name!r}", model.log_prior_term(name, v, data))

    level, among, root = np.zeros(total), np.zeros((total, total)), np.zeros((total, total))
    for name in linear:
        prior, here = model.prior(name, v, data), places[name]
        mean, spread = _moments(f"the prior of {name!r}", prior, (len(vectors), *shapes[name]))
        level[here], among[here] = _coefficients(f"the prior mean of {name!r}", mean, check)
        root[here, here] = spread
    response = model.likelihood(v, data)
    if not isinstance(response, Normal):
        raise ValueError(f"the likelihood is {type(response).__name__}; expected Normal.")
    shape = (len(vectors), data.n_rows)
    offset, design = _coefficients("the mean of the likelihood", response.loc.expand(shape), check)
    sd = _same("the scale of the likelihood", response.scale.expand(shape))
    y, w = (_of_chain(x, chain, data) for x in (data.y, data.weights))
    whole = Affine(level, among, root, offset, design, sd, y, w, np.arange(data.n_rows))
    return whole.take(w > 0)


def _moments(what: str, prior: Distribution, shape: tuple[int, ...]) -> tuple[Tensor, np.ndarray]:
    """The mean, `(chains, *shape)`, and a root of the covariance of the flattened latent."""
    mean = prior.mean.expand(shape)
    base: Any = prior
    while isinstance(base, Independent):
        base = base.base_dist
    if isinstance(base, Normal):
        return mean, np.diag(_same(what, base.scale.expand(shape)).reshape(-1))
    if not isinstance(base, MultivariateNormal):
        raise ValueError(f"{what} is {type(base).__name__}; expected a normal one.")
    groups = _same(what, base.scale_tril.expand(*shape, shape[-1])).reshape(-1, shape[-1], shape[-1])
    root = np.zeros((len(groups), shape[-1], len(groups), shape[-1]))
    root[range(len(groups)), :, range(len(groups))] = groups
    return mean, root.reshape(len(groups) * shape[-1], -1)


def _coefficients(what: str, means: Tensor, check: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The constant `(size,)` and the slopes `(size, latents)` of means at zero, unit vectors and a check."""
    found = means.reshape(len(means), -1).numpy()
    with np.errstate(invalid="ignore"):
        constant, slopes = found[0], ((found[1:-1] - found[0]) / STEP).T
        error = np.abs(constant + slopes @ check - found[-1])
        if not np.all(error <= 1e-9 * (np.abs(constant) + STEP * (1 + np.abs(slopes).max(initial=0)))):
            raise ValueError(f"{what} is not affine in the linear latents.")
    return constant, slopes


def _same(what: str, values: Tensor) -> np.ndarray:
    """The value that all chains share."""
    if not bool((values == values[0]).all()):
        raise ValueError(f"{what} moves with the linear latents, but not as their mean.")
    return values[0].numpy()


def _of_chain(x: Tensor | None, chain: int, data: ht.Data) -> np.ndarray:
    if x is None:
        return np.ones(data.n_rows)
    return (x if x.dim() == 1 else x[chain]).numpy()


def least_squares(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.longdouble]:
    """R of a = Q R, the minimiser z of |b - a z|^2, and the minimum, by Householder reflections in long double."""
    table = np.column_stack([a, b]).astype(np.longdouble)
    columns = a.shape[1]
    for k in range(columns):
        reflector = table[k:, k].copy()
        reflector[0] += np.copysign(np.sqrt(reflector @ reflector), reflector[0])
        table[k:, k:] -= np.outer(reflector, (reflector @ table[k:, k:]) * (2 / (reflector @ reflector)))
    right = np.triu(table[:columns, :columns])
    tail = table[columns:, columns]
    flip = slice(None, None, -1)  # an upper triangle read backwards is a lower one
    return right, solve_lower(right[flip, flip], table[:columns, columns][flip])[flip], np.longdouble(tail @ tail)


def solve_lower(lower: np.ndarray, b: np.ndarray) -> np.ndarray:
    """x of `lower` x = b, in long double."""
    x = b.astype(np.longdouble)
    for k in range(len(x)):
        x[k] = (x[k] - lower[k, :k] @ x[:k]) / lower[k, k]
    return x


# The zoo: rows


def codes(rng: np.random.Generator, sizes: Sequence[int]) -> np.ndarray:
    """A code for each row, in random order."""
    return rng.permutation(np.repeat(np.arange(len(sizes)), sizes))


def rows(
    seed: int,
    groups: Mapping[str, np.ndarray],
    levels: Mapping[str, int] | None = None,
    weights: np.ndarray | None = None,
) -> ht.Data:
    """Predictors of every kind for given groups, with a response of zeros.

    Args:
        seed: of the predictors.
        groups: grouping -> the code of each row.
        levels: how many groups there are, where some have no rows.
        weights: of the rows.
    """
    rng = np.random.default_rng(seed)
    n = len(next(iter(groups.values())))
    return ht.Data(
        np.zeros(n),
        groups=groups,
        labels={plate: range(size) for plate, size in (levels or {}).items()},
        weights=weights,
        x=rng.normal(size=n),
        z=np.column_stack([np.ones(n), rng.normal(size=(n, 8))]),
        kind=rng.integers(2, size=n),
        time=rng.integers(TIMES, size=n),
        offset=rng.normal(3.0, 1.0, size=n),
        se=rng.uniform(0.5, 2.0, size=n),
        # constant within the groups of each grouping
        **{f"{plate}_u": rng.normal(size=int(of.max()) + 1)[of] for plate, of in groups.items()},
        **{f"{plate}_spread": rng.uniform(0.3, 3.0, size=int(of.max()) + 1)[of] for plate, of in groups.items()},
    )


def schools(seed: int, sizes: Sequence[int] = SIZES, **options: Any) -> ht.Data:
    """One grouping, of some sizes."""
    return rows(seed, {"school": codes(np.random.default_rng([seed, 1]), sizes)}, **options)


def nested(seed: int, **options: Any) -> ht.Data:
    """14 rooms of 1 to 6 rows in 8 schools of 1 to 3 rooms in 3 districts of 1 to 4 schools."""
    room = codes(np.random.default_rng([seed, 1]), (1, 2, 3, 1, 5, 4, 1, 2, 6, 1, 3, 2, 1, 4))
    school = np.array([0, 0, 1, 1, 1, 2, 3, 3, 4, 4, 5, 6, 7, 7])[room]
    return rows(
        seed, {"room": room, "school": school, "district": np.array([0, 0, 0, 1, 2, 2, 2, 2])[school]}, **options
    )


def crossed(seed: int, **options: Any) -> ht.Data:
    """8 schools, and 5 raters who each saw pupils of several; a school and a rater have one row each."""
    school = np.repeat(np.arange(len(SIZES)), SIZES)
    rng = np.random.default_rng([seed, 1])
    rater = np.append(rng.integers(4, size=len(school) - 1), 4)
    order = rng.permutation(len(school))
    return rows(seed, {"school": school[order], "rater": rater[order]}, **options)


def mixed(seed: int) -> ht.Data:
    """Rooms nested in schools, both crossed with raters."""
    room = nested(seed)
    rater = np.random.default_rng([seed, 2]).integers(5, size=room.n_rows)
    return rows(seed, {"room": room["room"].numpy(), "school": room["school"].numpy(), "rater": rater})


# The zoo: one grouping or none


class Pooled(ht.Model):
    """y_i ~ Normal(mu + beta x_i, sigma_y)."""

    mu = ht.Latent(Normal(0.0, 5.0))
    beta = ht.Latent(Normal(0.0, 2.0))
    sigma_y = ht.Latent(Gamma(2.0, 2.0))

    def likelihood(self, v, data):
        return Normal(v.mu + v.beta * data.x, v.sigma_y)


class Intercepts(Pooled):
    """y_ij ~ Normal(alpha_j + beta x_ij, sigma_y),  alpha_j ~ Normal(mu, sigma_a)."""

    sigma_a = ht.Latent(Gamma(2.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma_a), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school] + v.beta * data.x, v.sigma_y)


class NonCentred(Pooled):
    """y_ij ~ Normal(mu + sigma_a z_j + beta x_ij, sigma_y),  z_j ~ Normal(0, 1)."""

    sigma_a = ht.Latent(Gamma(2.0, 2.0))
    z = ht.Latent(Normal(0.0, 1.0), plate="school")

    def likelihood(self, v, data):
        return Normal(v.mu + v.sigma_a * v.z[:, data.school] + v.beta * data.x, v.sigma_y)


class Slopes(Pooled):
    """y_ij ~ Normal(mu + b_j x_ij, sigma_y),  b_j ~ Normal(beta, sigma_b)."""

    sigma_b = ht.Latent(Gamma(2.0, 2.0))
    b = ht.Latent(lambda v: Normal(v.beta, v.sigma_b), plate="school")

    def likelihood(self, v, data):
        return Normal(v.mu + v.b[:, data.school] * data.x, v.sigma_y)


class Mixed(Intercepts):
    """y_ij ~ Normal(alpha_j + b_j x_ij, sigma_y), with independent intercepts and slopes."""

    sigma_b = ht.Latent(Gamma(2.0, 2.0))
    b = ht.Latent(lambda v: Normal(v.beta, v.sigma_b), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school] + v.b[:, data.school] * data.x, v.sigma_y)


class Conditional(Intercepts):
    """b_j | alpha_j ~ Normal(beta + rho sigma_b / sigma_a (alpha_j - mu), sigma_b sqrt(1 - rho^2)), as in textbooks."""

    sigma_b = ht.Latent(Gamma(2.0, 2.0))
    rho = ht.Latent(Uniform(-1.0, 1.0))
    b = ht.Latent(
        lambda v: Normal(v.beta + v.rho * v.sigma_b / v.sigma_a * (v.alpha - v.mu), v.sigma_b * (1 - v.rho**2).sqrt()),
        plate="school",
    )

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school] + v.b[:, data.school] * data.x, v.sigma_y)


class Correlated(ht.Model):
    """y_ij ~ Normal(z_ij' effects_j, sigma_y),  effects_j ~ Normal(centre, diag(tau) R diag(tau)),  R ~ LKJ(2)."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.centre = ht.Latent(Normal(0.0, 2.0), event=k)
        self.tau = ht.Latent(Gamma(2.0, 2.0), event=k)
        self.corr = ht.Latent(LKJCholesky(k, 2.0))
        self.sigma_y = ht.Latent(Gamma(2.0, 2.0))
        self.effects = ht.Latent(
            lambda v: MultivariateNormal(v.centre, scale_tril=v.tau.unsqueeze(-1) * v.corr), plate="school"
        )

    def likelihood(self, v, data):
        return Normal((v.effects[:, data.school] * data.z[:, : self.k]).sum(-1), v.sigma_y)


class CorrelatedNonCentred(Correlated):
    """The same with effects_j = centre + diag(tau) L e_j,  e_j ~ Normal(0, I)."""

    def __init__(self, k: int) -> None:
        super().__init__(k)
        self.effects = ht.Latent(Normal(0.0, 1.0), plate="school", event=k)

    def likelihood(self, v, data):
        root = v.tau.unsqueeze(-1) * v.corr  # (chains, 1, k, k)
        effects = v.centre + (root @ v.effects.unsqueeze(-1)).squeeze(-1)
        return Normal((effects[:, data.school] * data.z[:, : self.k]).sum(-1), v.sigma_y)


class CorrelatedByGroup(Correlated):
    """The same with effects_j ~ Normal(centre, spread_j^2 diag(tau) R diag(tau))."""

    def __init__(self, k: int) -> None:
        super().__init__(k)
        self.effects = ht.Latent(self.prior_of_effects, plate="school")

    @staticmethod
    def prior_of_effects(v, data):
        spread = data.group_values("school_spread", "school")[:, None, None]
        return MultivariateNormal(v.centre, scale_tril=spread * v.tau.unsqueeze(-1) * v.corr)


class IndependentVector(Pooled):
    """effects_jk ~ Normal((mu, beta)_k, tau_k) for k = 1, 2: one latent of two independent effects."""

    tau = ht.Latent(Gamma(2.0, 2.0), event=2)
    effects = ht.Latent(
        lambda v: Independent(Normal(torch.stack([v.mu, v.beta], -1), v.tau), 1),
        plate="school",
    )

    def likelihood(self, v, data):
        effects = v.effects[:, data.school]
        return Normal(effects[..., 0] + effects[..., 1] * data.x, v.sigma_y)


class HierarchicalScales(Intercepts):
    """sigma_a ~ Gamma(2, rate),  rate ~ Gamma(1, 1)."""

    rate = ht.Latent(Gamma(1.0, 1.0))
    sigma_a = ht.Latent(lambda v: Gamma(2.0, v.rate))


class LogScales(Intercepts):
    """Scales exp(log_a) and exp(log_y) of normal latents: normal, but not linear in the density."""

    log_y = ht.Latent(Normal(0.0, 1.0))
    sigma_y = None  # type: ignore[assignment]
    log_a = ht.Latent(Normal(0.0, 1.0))
    sigma_a = None  # type: ignore[assignment]
    alpha = ht.Latent(lambda v: Normal(v.mu, v.log_a.exp()), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school] + v.beta * data.x, v.log_y.exp())


class GroupPredictor(Intercepts):
    """alpha_j ~ Normal(mu + gamma u_j, sigma_a)."""

    gamma = ht.Latent(Normal(0.0, 2.0))
    alpha = ht.Latent(
        lambda v, data: Normal(v.mu + v.gamma * data.group_values("school_u", "school"), v.sigma_a), plate="school"
    )


class KnownErrors(ht.Model):
    """y_j ~ Normal(theta_j, se_j),  theta_j ~ Normal(mu, tau)."""

    mu = ht.Latent(Normal(0.0, 10.0))
    tau = ht.Latent(Gamma(1.0, 0.1))
    theta = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="school")

    def likelihood(self, v, data):
        return Normal(v.theta[:, data.school], data.se)


class ScaledErrors(Intercepts):
    """y_ij ~ Normal(alpha_j + beta x_ij, se_ij sigma_y)."""

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school] + v.beta * data.x, data.se * v.sigma_y)


class TwoErrors(Intercepts):
    """The scale of a row differs by a covariate of two levels."""

    sigma_y = ht.Latent(Gamma(2.0, 2.0), event=2)

    def likelihood(self, v, data):
        scale = torch.where(data.kind == 0, v.sigma_y[..., 0], v.sigma_y[..., 1])
        return Normal(v.alpha[:, data.school] + v.beta * data.x, scale)


class ScaleByGroup(Intercepts):
    """alpha_j ~ Normal(mu, sigma_a spread_j)."""

    alpha = ht.Latent(
        lambda v, data: Normal(v.mu, v.sigma_a * data.group_values("school_spread", "school")), plate="school"
    )


class NonzeroMeans(Intercepts):
    """mu ~ Normal(5, 2), beta ~ Normal(-1, 0.5), alpha_j ~ Normal(1 - mu, sigma_a)."""

    mu = ht.Latent(Normal(5.0, 2.0))
    beta = ht.Latent(Normal(-1.0, 0.5))
    alpha = ht.Latent(lambda v: Normal(1.0 - v.mu, v.sigma_a), plate="school")


class LargeMean(Intercepts):
    """mu ~ Normal(0, 1e6)."""

    mu = ht.Latent(Normal(0.0, 1e6))


class LargeMeanCorrelated(Correlated):
    """centre ~ Normal(0, 1e6)."""

    def __init__(self, k: int) -> None:
        super().__init__(k)
        self.centre = ht.Latent(Normal(0.0, 1e6), event=k)


class LargePredictor(Intercepts):
    """y_ij ~ Normal(alpha_j + beta (2000 + x_ij), sigma_y): a predictor such as a year."""

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school] + v.beta * (data.x + 2000.0), v.sigma_y)


class Collinear(Intercepts):
    """Predictors x and 2 x, and a column of ones beside the intercepts."""

    beta2 = ht.Latent(Normal(0.0, 2.0))
    beta0 = ht.Latent(Normal(0.0, 2.0))

    def likelihood(self, v, data):
        fixed = v.beta * data.x + v.beta2 * (2 * data.x) + v.beta0 * data.z[:, 0]
        return Normal(v.alpha[:, data.school] + fixed, v.sigma_y)


class EffectsAlone(Intercepts):
    """y_ij ~ Normal(alpha_j, sigma_y),  alpha_j ~ Normal(0, sigma_a): no coefficient of the population."""

    mu = None  # type: ignore[assignment]
    beta = None  # type: ignore[assignment]
    alpha = ht.Latent(lambda v: Normal(0.0, v.sigma_a), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school], v.sigma_y)


class Unread(Intercepts):
    """spare_j ~ Normal(alpha_j, 1), which no row reads."""

    spare = ht.Latent(lambda v: Normal(v.alpha, 1.0), plate="school")


class Ridge(Intercepts):
    """y_ij ~ Normal(alpha_j + z_ij' beta, sigma_y),  beta_k ~ Normal(0, tau), k = 1..5."""

    tau = ht.Latent(Gamma(2.0, 2.0))
    beta = ht.Latent(lambda v: Normal(0.0, v.tau), event=5)

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school] + (v.beta * data.z[:, 1:6]).sum(-1), v.sigma_y)


class FixedCovariance(Intercepts):
    """beta ~ Normal(m, C) with m and C known."""

    beta = ht.Latent(
        MultivariateNormal(
            torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64),
            torch.tensor([[2.0, 0.5, 0.1], [0.5, 1.0, -0.3], [0.1, -0.3, 0.7]], dtype=torch.float64),
        )
    )

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school] + (v.beta * data.z[:, 1:4]).sum(-1), v.sigma_y)


class Cells(Pooled):
    """y_i ~ Normal(mu + cell[kind_i, time_i], sigma_y),  cell ~ Normal(0, tau): an event of two dimensions."""

    beta = None  # type: ignore[assignment]
    tau = ht.Latent(Gamma(2.0, 2.0))
    cell = ht.Latent(lambda v: Normal(0.0, v.tau), event=(2, TIMES))

    def likelihood(self, v, data):
        return Normal(v.mu + v.cell[:, 0, data.kind.long(), data.time.long()], v.sigma_y)


class HeldCoefficient(Intercepts):
    """beta ~ StudentT(4): sampled, with everything else of the mean integrated out."""

    beta = ht.Latent(StudentT(4.0))


class HeldMean(Intercepts):
    """mu ~ StudentT(4) in the prior mean of alpha."""

    mu = ht.Latent(StudentT(4.0))


class HeldParent(Intercepts):
    """mu ~ Normal(0, 5), but centre ~ StudentT(4, mu, 1), so that p(mu | y, rest) is not normal."""

    centre = ht.Latent(lambda v: StudentT(4.0, v.mu, 1.0))
    alpha = ht.Latent(lambda v: Normal(v.centre, v.sigma_a), plate="school")


class WalkOfVectors(ht.Model):
    """y_jt ~ Normal(mu + walk_jt, sigma_y),  walk_j ~ Normal(0, sigma_w^2 min(s, t)): a random walk of each group."""

    mu = ht.Latent(Normal(0.0, 5.0))
    sigma_w = ht.Latent(Gamma(2.0, 2.0))
    sigma_y = ht.Latent(Gamma(2.0, 2.0))
    walk = ht.Latent(
        lambda v: MultivariateNormal(
            v.mu.new_zeros(TIMES), scale_tril=v.sigma_w[..., None, None] * v.mu.new_ones(TIMES, TIMES).tril()
        ),
        plate="school",
    )

    def likelihood(self, v, data):
        return Normal(v.mu + v.walk[:, data.school, data.time.long()], v.sigma_y)


class WalkOfSteps(WalkOfVectors):
    """The same written by innovations: walk_jt = sigma_w (e_j1 + .. + e_jt),  e_jt ~ Normal(0, 1)."""

    walk = ht.Latent(Normal(0.0, 1.0), plate="school", event=TIMES)

    def likelihood(self, v, data):
        walk = v.sigma_w.unsqueeze(-1) * v.walk.cumsum(-1)
        return Normal(v.mu + walk[:, data.school, data.time.long()], v.sigma_y)


class Trend(WalkOfVectors):
    """y_jt ~ Normal(alpha_j + walk_t, sigma_y): one walk for all, crossed with intercepts."""

    walk = ht.Latent(WalkOfVectors.walk.prior)
    sigma_a = ht.Latent(Gamma(2.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma_a), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school] + v.walk[:, 0, data.time.long()], v.sigma_y)


class Autoregression(ht.Model):
    """y_jt ~ Normal(state_jt, sigma_y),  cov(state_js, state_jt) = sigma_w^2 phi^|s - t| / (1 - phi^2), mean mu."""

    mu = ht.Latent(Normal(0.0, 5.0))
    phi = ht.Latent(Uniform(-0.95, 0.95))
    sigma_w = ht.Latent(Gamma(2.0, 2.0))
    sigma_y = ht.Latent(Gamma(2.0, 2.0))

    def __init__(self) -> None:
        super().__init__()
        self.state = ht.Latent(self.prior_of_states, plate="school")

    @staticmethod
    def prior_of_states(v):
        time = torch.arange(TIMES)
        lags = (time - time[:, None]).abs()
        powers = v.phi[..., None, None] ** lags  # (chains, 1, times, times)
        variance = v.sigma_w**2 / (1 - v.phi**2)
        return MultivariateNormal(v.mu.unsqueeze(-1).expand(-1, -1, TIMES), variance[..., None, None] * powers)

    def likelihood(self, v, data):
        return Normal(v.state[:, data.school, data.time.long()], v.sigma_y)


# The zoo: several groupings


class TwoLevels(Pooled):
    """y ~ Normal(room + beta x, sigma_y),  room ~ Normal(school of the room, sigma_room),  school ~ Normal(mu, .)."""

    sigma_school = ht.Latent(Gamma(2.0, 2.0))
    sigma_room = ht.Latent(Gamma(2.0, 2.0))
    school = ht.Latent(lambda v: Normal(v.mu, v.sigma_school), plate="school")
    room = ht.Latent(lambda v, data: Normal(v.school[:, data.parents("room", "school")], v.sigma_room), plate="room")

    def likelihood(self, v, data):
        return Normal(v.room[:, data.room] + v.beta * data.x, v.sigma_y)


class ThreeLevels(TwoLevels):
    """school ~ Normal(district of the school, sigma_school),  district ~ Normal(mu, sigma_district)."""

    sigma_district = ht.Latent(Gamma(2.0, 2.0))
    district = ht.Latent(lambda v: Normal(v.mu, v.sigma_district), plate="district")
    school = ht.Latent(
        lambda v, data: Normal(v.district[:, data.parents("school", "district")], v.sigma_school), plate="school"
    )


class TwoLevelsNonCentred(TwoLevels):
    """school = mu + sigma_school e,  room = school + sigma_room e',  e and e' ~ Normal(0, 1)."""

    school = ht.Latent(Normal(0.0, 1.0), plate="school")
    room = ht.Latent(Normal(0.0, 1.0), plate="room")

    def likelihood(self, v, data):
        school = v.mu + v.sigma_school * v.school
        room = school[:, data.parents("room", "school")] + v.sigma_room * v.room
        return Normal(room[:, data.room] + v.beta * data.x, v.sigma_y)


class TwoLevelsAdded(TwoLevels):
    """y ~ Normal(mu + school + room + beta x, sigma_y), both with mean 0."""

    school = ht.Latent(lambda v: Normal(0.0, v.sigma_school), plate="school")
    room = ht.Latent(lambda v: Normal(0.0, v.sigma_room), plate="room")

    def likelihood(self, v, data):
        return Normal(v.mu + v.school[:, data.school] + v.room[:, data.room] + v.beta * data.x, v.sigma_y)


class TwoLevelsShrunk(TwoLevels):
    """room ~ Normal(rho school of the room, sigma_room),  rho ~ Beta(2, 2): a slope that is sampled."""

    rho = ht.Latent(Beta(2.0, 2.0))
    room = ht.Latent(
        lambda v, data: Normal(v.rho * v.school[:, data.parents("room", "school")], v.sigma_room), plate="room"
    )


class TwoLevelsSlopes(Correlated):
    """Correlated intercepts and slopes of schools; rooms vary about their school's intercept."""

    def __init__(self) -> None:
        super().__init__(2)
        self.sigma_room = ht.Latent(Gamma(2.0, 2.0))
        self.room = ht.Latent(
            lambda v, data: Normal(v.effects[:, data.parents("room", "school"), 0], v.sigma_room), plate="room"
        )

    def likelihood(self, v, data):
        return Normal(v.room[:, data.room] + v.effects[:, data.school, 1] * data.z[:, 1], v.sigma_y)


class TwoLevelsCorrelated(Correlated):
    """Intercepts and slopes of rooms, correlated, about those of their school, correlated too."""

    def __init__(self) -> None:
        super().__init__(2)
        self.tau_room = ht.Latent(Gamma(2.0, 2.0), event=2)
        self.corr_room = ht.Latent(LKJCholesky(2, 1.0))
        self.room = ht.Latent(
            lambda v, data: MultivariateNormal(
                v.effects[:, data.parents("room", "school")], scale_tril=v.tau_room.unsqueeze(-1) * v.corr_room
            ),
            plate="room",
        )

    def likelihood(self, v, data):
        return Normal((v.room[:, data.room] * data.z[:, :2]).sum(-1), v.sigma_y)


class Crossed(Pooled):
    """y ~ Normal(mu + school + rater + beta x, sigma_y)."""

    sigma_school = ht.Latent(Gamma(2.0, 2.0))
    sigma_rater = ht.Latent(Gamma(2.0, 2.0))
    school = ht.Latent(lambda v: Normal(0.0, v.sigma_school), plate="school")
    rater = ht.Latent(lambda v: Normal(0.0, v.sigma_rater), plate="rater")

    def likelihood(self, v, data):
        return Normal(v.mu + v.school[:, data.school] + v.rater[:, data.rater] + v.beta * data.x, v.sigma_y)


class CrossedSlopes(Correlated):
    """Correlated intercepts and slopes of schools, crossed with those of raters."""

    def __init__(self) -> None:
        super().__init__(2)
        self.tau_rater = ht.Latent(Gamma(2.0, 2.0), event=2)
        self.rater = ht.Latent(lambda v: Independent(Normal(0.0, v.tau_rater), 1), plate="rater")

    def likelihood(self, v, data):
        effects = v.effects[:, data.school] + v.rater[:, data.rater]
        return Normal((effects * data.z[:, :2]).sum(-1), v.sigma_y)


class ThreeGroupings(ht.Model):
    """y ~ Normal(offset + beta x + room + effects_rater' (1, z), sigma_y): rooms in schools, crossed with raters.

    room ~ Normal(school of the room, sigma_room), school ~ Normal(gamma_0 + gamma_1 u, sigma_school), and raters have
    correlated intercepts and slopes of mean 0.
    """

    gamma = ht.Latent(Normal(0.0, 2.0), event=2)
    beta = ht.Latent(Normal(0.0, 2.0))
    sigma_school = ht.Latent(Gamma(2.0, 2.0))
    sigma_room = ht.Latent(Gamma(2.0, 2.0))
    tau = ht.Latent(Gamma(2.0, 2.0), event=2)
    corr = ht.Latent(LKJCholesky(2, 2.0))
    sigma_y = ht.Latent(Gamma(2.0, 2.0))
    school = ht.Latent(
        lambda v, data: Normal(
            v.gamma[..., 0] + v.gamma[..., 1] * data.group_values("school_u", "school"), v.sigma_school
        ),
        plate="school",
    )
    room = ht.Latent(lambda v, data: Normal(v.school[:, data.parents("room", "school")], v.sigma_room), plate="room")
    effects = ht.Latent(
        lambda v: MultivariateNormal(torch.zeros_like(v.tau), scale_tril=v.tau.unsqueeze(-1) * v.corr), plate="rater"
    )

    def likelihood(self, v, data):
        rater = (v.effects[:, data.rater] * data.z[:, :2]).sum(-1)
        return Normal(data.offset + v.beta * data.x + v.room[:, data.room] + rater, v.sigma_y)


# Models that do not collapse


class Yes(Intercepts):
    """A Bernoulli likelihood."""

    sigma_y = None  # type: ignore[assignment]

    def likelihood(self, v, data):
        return Bernoulli(logits=v.alpha[:, data.school] + v.beta * data.x)


class Outliers(Intercepts):
    """Student's t likelihood."""

    def likelihood(self, v, data):
        return StudentT(4.0, v.alpha[:, data.school] + v.beta * data.x, v.sigma_y)


class OutlyingGroups(Intercepts):
    """Student's t effects."""

    alpha = ht.Latent(lambda v: StudentT(4.0, v.mu, v.sigma_a), plate="school")


class Quadratic(Intercepts):
    """A mean that is quadratic in an effect."""

    def likelihood(self, v, data):
        alpha = v.alpha[:, data.school]
        return Normal(alpha + 0.1 * alpha**2 + v.beta * data.x, v.sigma_y)


class Exponential(Intercepts):
    """A mean that is the exponential of an effect."""

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school].exp() + v.beta * data.x, v.sigma_y)


class ScaleOfEffect(Intercepts):
    """A scale that moves with an effect."""

    def likelihood(self, v, data):
        alpha = v.alpha[:, data.school]
        return Normal(alpha + v.beta * data.x, v.sigma_y * alpha.exp())


class OwnDensity(Intercepts):
    """The whole density written by the user."""

    def log_prob(self, v, data):
        return super().log_prob(v, data)


class OwnRows(Intercepts):
    """The density of the rows written by the user."""

    def log_likelihood(self, v, data):
        return super().log_likelihood(v, data)


class OwnPrior(Intercepts):
    """The density of a prior written by the user, and not that of its distribution: alpha within (-20, 20)."""

    def log_prior_term(self, name, v, data=None):
        term = super().log_prior_term(name, v, data)
        return torch.where(v.alpha.abs() < 20.0, term, -torch.inf) if name == "alpha" else term


class ScalesByGroup(Intercepts):
    """A scale for each group."""

    sigma_y = ht.Latent(Gamma(2.0, 2.0), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school] + v.beta * data.x, v.sigma_y[:, data.school])


# The zoo by name


@dataclass(frozen=True)
class Example:
    """A model with data simulated from it, and which of its latents are linear."""

    model: ht.Model
    data: ht.Data
    linear: tuple[str, ...]  # in declared order
    rest: tuple[str, ...]

    def draw(self, chains: int, seed: int = 0) -> dict[str, Tensor]:
        """The rest drawn from its prior, `(chains, 1, *event)`."""
        drawn = self.model.sample_prior(self.data, chains, torch.Generator().manual_seed(seed))
        return {name: drawn[name] for name in self.rest}

    def extremes(self) -> dict[str, dict[str, Tensor]]:
        """The rest at a draw, with scales of effects at 1e-8, 1e-4 and 1e4, and with the scale of rows at 1e-4."""
        drawn = self.draw(1, seed=9)
        of_rows = [name for name in self.rest if name in ("sigma_y", "log_y")]
        of_effects = [name for name in self.rest if name.startswith(("sigma", "tau", "log_")) and name not in of_rows]

        def at(scale: float, names: list[str]) -> dict[str, Tensor]:
            values = {name: math.log(scale) if name.startswith("log_") else scale for name in names}
            return drawn | {name: torch.full_like(drawn[name], value) for name, value in values.items()}

        found = {f"effects {scale:g}": at(scale, of_effects) for scale in (1e-8, 1e-4, 1e4) if of_effects}
        return found | ({"rows 0.0001": at(1e-4, of_rows)} if of_rows else {})


def simulated(seed: int, model: ht.Model, data: ht.Data, linear: str, **given: float | list[float]) -> Example:
    """An example with a response drawn from the model, all but the `given` latents being drawn from their priors."""
    generator = torch.Generator().manual_seed(seed)
    held = {name: torch.tensor(value, dtype=data.dtype)[None, None] for name, value in given.items()}
    drawn = model.sample_prior(data, 1, generator, given=held)
    response = model.simulate(drawn, data, generator)[0]
    names = tuple(linear.split())
    return Example(model, data.replace(y=response), names, tuple(name for name in model.latents if name not in names))


def _weights(seed: int, data: ht.Data, empty: int | None = None) -> ht.Data:
    """Weights of 0, 1 and fractions; those of one school all 0."""
    rng = np.random.default_rng([seed, 3])
    weights = rng.choice([0.0, 1.0, 0.3, 2.5], size=data.n_rows)
    if empty is not None:
        weights[data["school"].numpy() == empty] = 0.0
    return data.replace(weights=weights)


_EMPTY = {"school": len(SIZES) + 3}
_TWO = "mu beta school room"

ZOO: dict[str, Callable[[int], Example]] = {
    "complete_pooling": lambda s: simulated(s, Pooled(), schools(s), "mu beta"),
    "varying_intercepts": lambda s: simulated(s, Intercepts(), schools(s), "mu beta alpha"),
    "empty_groups": lambda s: simulated(s, Intercepts(), schools(s, levels=_EMPTY), "mu beta alpha"),
    "one_group": lambda s: simulated(s, Intercepts(), schools(s, (12,)), "mu beta alpha"),
    "two_groups": lambda s: simulated(s, Intercepts(), schools(s, (1, 12)), "mu beta alpha"),
    "one_row_groups": lambda s: simulated(s, Intercepts(), schools(s, (1,) * 10), "mu beta alpha"),
    "many_groups": lambda s: simulated(s, Intercepts(), schools(s, SIZES * 5), "mu beta alpha"),
    "effects_alone": lambda s: simulated(s, EffectsAlone(), schools(s), "alpha"),
    "unread": lambda s: simulated(s, Unread(), schools(s), "mu beta alpha spare"),
    "non_centred": lambda s: simulated(s, NonCentred(), schools(s), "mu beta z"),
    "varying_slopes": lambda s: simulated(s, Slopes(), schools(s), "mu beta b"),
    "mixed_effects": lambda s: simulated(s, Mixed(), schools(s), "mu beta alpha b"),
    "independent_vector": lambda s: simulated(s, IndependentVector(), schools(s), "mu beta effects"),
    "correlated_2": lambda s: simulated(s, Correlated(2), schools(s), "centre effects"),
    "correlated_2_empty": lambda s: simulated(s, Correlated(2), schools(s, levels=_EMPTY), "centre effects"),
    "correlated_2_non_centred": lambda s: simulated(s, CorrelatedNonCentred(2), schools(s), "centre effects"),
    "correlated_by_group": lambda s: simulated(s, CorrelatedByGroup(2), schools(s), "centre effects"),
    "correlated_3": lambda s: simulated(s, Correlated(3), schools(s), "centre effects"),
    "correlated_9": lambda s: simulated(s, Correlated(9), schools(s), "centre effects"),
    "conditional": lambda s: simulated(s, Conditional(), schools(s), "mu beta alpha b"),
    "hierarchical_scales": lambda s: simulated(s, HierarchicalScales(), schools(s), "mu beta alpha"),
    "log_scales": lambda s: simulated(s, LogScales(), schools(s), "mu beta alpha"),
    "group_predictor": lambda s: simulated(s, GroupPredictor(), schools(s), "mu beta gamma alpha"),
    "nested_2": lambda s: simulated(s, TwoLevels(), nested(s), _TWO),
    "nested_3": lambda s: simulated(s, ThreeLevels(), nested(s), "mu beta district school room"),
    "nested_non_centred": lambda s: simulated(s, TwoLevelsNonCentred(), nested(s), _TWO),
    "nested_added": lambda s: simulated(s, TwoLevelsAdded(), nested(s), _TWO),
    # Where a room without rows lies is unknown, so that rooms do not nest.
    "nested_added_empty": lambda s: simulated(s, TwoLevelsAdded(), nested(s, levels={"room": 16, "school": 9}), _TWO),
    "nested_shrunk": lambda s: simulated(s, TwoLevelsShrunk(), nested(s), _TWO),
    "nested_slopes": lambda s: simulated(s, TwoLevelsSlopes(), nested(s), "centre effects room"),
    "nested_correlated": lambda s: simulated(s, TwoLevelsCorrelated(), nested(s), "centre effects room"),
    "crossed": lambda s: simulated(s, Crossed(), crossed(s), "mu beta school rater"),
    "crossed_empty": lambda s: simulated(
        s, Crossed(), crossed(s, levels={**_EMPTY, "rater": 7}), "mu beta school rater"
    ),
    "crossed_slopes": lambda s: simulated(s, CrossedSlopes(), crossed(s), "centre effects rater"),
    "three_groupings": lambda s: simulated(s, ThreeGroupings(), mixed(s), "gamma beta school room effects"),
    "walk_of_vectors": lambda s: simulated(s, WalkOfVectors(), schools(s), "mu walk"),
    "walk_of_steps": lambda s: simulated(s, WalkOfSteps(), schools(s), "mu walk"),
    "trend": lambda s: simulated(s, Trend(), schools(s), "mu walk alpha"),
    "autoregression": lambda s: simulated(s, Autoregression(), schools(s), "mu state"),
    "known_errors": lambda s: simulated(s, KnownErrors(), schools(s, (1,) * 8), "mu theta"),
    "scaled_errors": lambda s: simulated(s, ScaledErrors(), schools(s), "mu beta alpha"),
    "two_errors": lambda s: simulated(s, TwoErrors(), schools(s), "mu beta alpha"),
    "row_weights": lambda s: simulated(s, Intercepts(), _weights(s, schools(s)), "mu beta alpha"),
    "weightless_group": lambda s: simulated(s, Mixed(), _weights(s, schools(s), 3), "mu beta alpha b"),
    "ridge": lambda s: simulated(s, Ridge(), schools(s), "mu beta alpha"),
    "cells": lambda s: simulated(s, Cells(), schools(s), "mu cell"),
    "fixed_covariance": lambda s: simulated(s, FixedCovariance(), schools(s), "mu beta alpha"),
    "held_coefficient": lambda s: simulated(s, HeldCoefficient(), schools(s), "mu alpha"),
    "held_mean": lambda s: simulated(s, HeldMean(), schools(s), "beta alpha"),
    "held_parent": lambda s: simulated(s, HeldParent(), schools(s), "beta alpha"),
    "collinear": lambda s: simulated(s, Collinear(), schools(s), "mu beta alpha beta2 beta0"),
    "large_mean": lambda s: simulated(s, LargeMean(), schools(s), "mu beta alpha", mu=1e6, sigma_y=1.0),
    "large_mean_correlated": lambda s: simulated(
        s, LargeMeanCorrelated(2), schools(s), "centre effects", centre=[1e6, 1.0], sigma_y=1.0
    ),
    "large_predictor": lambda s: simulated(s, LargePredictor(), schools(s), "mu beta alpha"),
    "nonzero_means": lambda s: simulated(s, NonzeroMeans(), schools(s), "mu beta alpha"),
    "scale_by_group": lambda s: simulated(s, ScaleByGroup(), schools(s), "mu beta alpha"),
    "ready_pooling": lambda s: simulated(
        s, ht.models.CompletePooling(["x"], priors="tutorial"), schools(s), "alpha beta"
    ),
    "ready_intercepts": lambda s: simulated(
        s, ht.models.VaryingIntercepts("school", ["x"], priors="tutorial"), schools(s), "mu_alpha beta alpha"
    ),
    "ready_eight_schools": lambda s: simulated(s, ht.models.EightSchools(), schools(s, (1,) * 8), "mu theta"),
}


def _refused(model: ht.Model, *words: str) -> tuple[ht.Model, ht.Data, tuple[str, ...]]:
    drawn = simulated(1, model, schools(1), "")
    return model, drawn.data, words


REFUSED: dict[str, tuple[ht.Model, ht.Data, tuple[str, ...]]] = {  # model, data, words of the reason
    "bernoulli": _refused(Yes(), "Bernoulli"),
    "student_t_likelihood": _refused(Outliers(), "StudentT"),
    "student_t_effects": _refused(OutlyingGroups(), "alpha", "StudentT"),
    "quadratic": _refused(Quadratic(), "alpha", "affine"),
    "exponential": _refused(Exponential(), "alpha", "affine"),
    "scale_of_effect": _refused(ScaleOfEffect(), "alpha", "scale"),
    "own_density": _refused(OwnDensity(), "log_prob"),
    "own_rows": _refused(OwnRows(), "log_likelihood"),
    "own_prior": _refused(OwnPrior(), "log_prior_term"),
    "scales_by_group": _refused(ScalesByGroup(), "sigma_y", "varies over"),
}


# Collapsed models against the reference


def collapsed_of(model: ht.Model, data: ht.Data) -> Collapsed | str:
    return collapse(model, data, inspect(model, data)[0])


@cache
def example(name: str) -> Example:
    """One of the zoo, with data of seed 1."""
    return ZOO[name](1)


@cache
def collapsed(name: str) -> Collapsed:
    """The same, collapsed."""
    found = collapsed_of(example(name).model, example(name).data)
    assert not isinstance(found, str), found
    return found


def stacked(parts: Mapping[str, Tensor], linear: tuple[str, ...]) -> np.ndarray:
    """`(chains, latents)`, in declared order."""
    return torch.cat([parts[name].flatten(1) for name in linear], 1).numpy()


def moments(found: Collapsed, values: Mapping[str, Tensor], chains: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and root of the covariance of the linear latents, of draws that are mean + root noise."""
    n = found.n_noise
    zero, unit = torch.zeros(n, chains), torch.eye(n).repeat_interleave(chains, 1)
    every = {name: x.repeat(n + 1, *[1] * (x.dim() - 1)) for name, x in values.items()}  # all in one batch
    drawn = stacked(found.draw(every, torch.cat([zero, unit], 1).double()), found.linear).reshape(n + 1, chains, -1)
    root = np.moveaxis(drawn[1:] - drawn[0], 0, -1)  # (chains, latents, noise)
    return drawn[0], root, root @ root.swapaxes(1, 2)


def assert_moments(found: Collapsed, case: Example, values: Mapping[str, Tensor], chains: int, rel: float) -> None:
    """Means to `rel` sd and covariances to `rel` of the sds' product, beside what rounding a draw costs."""
    expected = dense(case.model, case.data, values, case.linear)
    sd = np.sqrt(np.diagonal(expected.covariance, axis1=1, axis2=2)).astype(float)
    mean, _, covariance = moments(found, values, chains)
    rounding = np.abs(mean) / sd
    off = np.abs(mean - expected.mean).astype(float) / sd
    assert (off <= rel + 1e-14 * rounding).all(), f"means off by up to {off.max():.1e} sd"
    off = np.abs(covariance - expected.covariance).astype(float) / (sd[:, :, None] * sd[:, None, :])
    bound = rel + 2e-15 * (rounding[:, :, None] + rounding[:, None, :])
    assert (off <= bound).all(), f"covariances off by up to {off.max():.1e} of the sds' product"
