"""Models whose rows have several predictors, or a curved one: data, and one posterior with hiertorch and NumPyro.

    location and scale   y ~ Normal(mu, exp(s)); mu, s linear in x with correlated effects of 50 groups of 20
    three classes        y ~ Categorical(softmax(0, e_1, e_2)); both e linear in x with effects of 50 groups of 20
    zero-inflated        y ~ 0 or Poisson(exp(e_1)) by logit e_2, each with effects of 50 groups of 20
    growth               Orange trees: y ~ Normal(a / (1 + exp((m - age) / scal)), sigma), a and m by tree
    emax                 y ~ Normal(e0 + emax dose / (ed50 + dose), sigma), all three by id, two of them in logarithms

    python benchmarks/several_predictors.py --references tests/statistics/several_predictors.json --cases growth emax
    python benchmarks/several_predictors.py                # hiertorch, whitened and by ordinary moves

torch and jax are imported inside functions.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

CHAINS, WARMUP, DRAWS = 4, 2_000, 5_000
"""Of references."""

SHOWN = 4
"""Groups in a reference."""

AGES = (118, 484, 664, 1004, 1231, 1372, 1582)
ORANGE = (
    (30, 58, 87, 115, 120, 142, 145),
    (33, 69, 111, 156, 172, 203, 203),
    (30, 51, 75, 108, 115, 139, 140),
    (32, 62, 112, 167, 179, 209, 214),
    (30, 49, 81, 125, 142, 174, 177),
)
"""Circumferences of five trees in mm, by age in days (Draper & Smith 1998, exercise 24.N)."""


class Rows(NamedTuple):
    """Data of a case: response, groups and a column."""

    y: np.ndarray
    group: np.ndarray
    x: np.ndarray


def grouped(seed: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """50 groups of 20 and a predictor."""
    rng = np.random.default_rng(seed)
    return rng, np.repeat(np.arange(50), 20), rng.standard_normal(1_000)


def location_scale_rows() -> Rows:
    rng, group, x = grouped(1)
    own = rng.standard_normal((50, 2)) @ np.linalg.cholesky([[1.0, 0.5], [0.5, 1.0]]).T * [0.8, 0.5]
    scale = np.exp(-0.3 + 0.2 * x + own[group, 1])
    return Rows(1.0 + 0.5 * x + own[group, 0] + scale * rng.standard_normal(1_000), group, x)


def classes_rows() -> Rows:
    rng, group, x = grouped(2)
    own = rng.standard_normal((50, 2)) * [0.9, 0.6]
    eta = np.stack([0.0 * x, 0.3 + 0.7 * x + own[group, 0], -0.4 - 0.5 * x + own[group, 1]], 1)
    share = np.exp(eta) / np.exp(eta).sum(1, keepdims=True)
    return Rows((rng.random((1_000, 1)) > share.cumsum(1)).sum(1).astype(float), group, x)


def zero_inflated_rows() -> Rows:
    rng, group, x = grouped(3)
    own, zero = 0.5 * rng.standard_normal(50), 0.8 * rng.standard_normal(50)
    none = rng.random(1_000) < 1.0 / (1.0 + np.exp(0.7 - zero[group]))
    return Rows(np.where(none, 0.0, rng.poisson(np.exp(0.8 + 0.3 * x + own[group]))), group, x)


def growth_rows() -> Rows:
    return Rows(np.array(ORANGE, float).ravel(), np.repeat(np.arange(5), 7), np.tile(AGES, 5).astype(float))


def emax_rows() -> Rows:
    rng, doses = np.random.default_rng(4), np.array([0.0, 1.0, 3.0, 10.0, 30.0, 100.0])
    group, x = np.repeat(np.arange(40), len(doses)), np.tile(doses, 40)
    own = np.array([5.0, 2.3, 2.0]) + rng.standard_normal((40, 3)) * [1.0, 0.3, 0.5]
    e0, top, half = own[group, 0], np.exp(own[group, 1]), np.exp(own[group, 2])
    return Rows(e0 + top * x / (x + half) + 0.7 * rng.standard_normal(len(x)), group, x)


ROWS: dict[str, Callable[[], Rows]] = {
    "location and scale": location_scale_rows,
    "three classes": classes_rows,
    "zero-inflated": zero_inflated_rows,
    "growth": growth_rows,
    "emax": emax_rows,
}


def hiertorch_data(case: str) -> Any:
    import hiertorch as ht

    rows = ROWS[case]()
    return ht.Data(rows.y, groups={"group": rows.group}, x=rows.x)


def hiertorch_model(case: str) -> Any:
    import torch
    from torch.distributions import (
        Categorical,
        Distribution,
        Independent,
        LKJCholesky,
        MultivariateNormal,
        Normal,
        Poisson,
        constraints,
    )

    import hiertorch as ht

    def half_normal(sd: float) -> Any:
        return torch.distributions.HalfNormal(sd)

    class Effects(ht.Model):
        """Two effects of each group."""

        beta = ht.Latent(Normal(0.0, 2.0), event=(2, 2))
        sd = ht.Latent(half_normal(1.0), event=2)
        b = ht.Latent(lambda v: Independent(Normal(0.0, v.sd), 1), plate="group")

        def eta(self, v: Any, data: Any) -> Any:
            return v.beta[..., 0] + v.beta[..., 1] * data.x.unsqueeze(1) + v.b[:, data.group]

    class LocationScale(Effects):
        L = ht.Latent(LKJCholesky(2, 2.0))
        b = ht.Latent(
            lambda v: MultivariateNormal(v.sd.new_zeros(2), scale_tril=v.sd.unsqueeze(-1) * v.L), plate="group"
        )

        def likelihood(self, v: Any, data: Any) -> Any:
            eta = self.eta(v, data)
            return Normal(eta[..., 0], eta[..., 1].exp())

    class Classes(Effects):
        def likelihood(self, v: Any, data: Any) -> Any:
            eta = self.eta(v, data)
            return Categorical(logits=torch.cat([torch.zeros_like(eta[..., :1]), eta], -1))

    class ZeroInflated(Distribution):
        arg_constraints: ClassVar[dict[str, Any]] = {}
        support = constraints.nonnegative_integer

        def __init__(self, log_rate: Any, zero: Any) -> None:
            self.log_rate, self.zero = log_rate, zero
            super().__init__(zero.shape, validate_args=False)

        def log_prob(self, value: Any) -> Any:
            softplus = torch.nn.functional.softplus
            counted = Poisson(self.log_rate.exp()).log_prob(value) - softplus(self.zero)
            return torch.where(value == 0, torch.logaddexp(counted, -softplus(-self.zero)), counted)

    class Counts(Effects):
        def likelihood(self, v: Any, data: Any) -> Any:
            eta = self.eta(v, data)
            return ZeroInflated(eta[..., 0], eta[..., 1])

    class Growth(ht.Model):
        asym, xmid = ht.Latent(Normal(190.0, 50.0)), ht.Latent(Normal(700.0, 200.0))
        scal = ht.Latent(torch.distributions.LogNormal(5.9, 0.3))
        tau, omega, sigma = ht.Latent(half_normal(40.0)), ht.Latent(half_normal(100.0)), ht.Latent(half_normal(20.0))
        a = ht.Latent(lambda v: Normal(v.asym, v.tau), plate="group")
        m = ht.Latent(lambda v: Normal(v.xmid, v.omega), plate="group")

        def likelihood(self, v: Any, data: Any) -> Any:
            share = ((data.x - v.m[:, data.group]) / v.scal).sigmoid()
            return Normal(v.a[:, data.group] * share, v.sigma)

    class Emax(ht.Model):
        mu = ht.Latent(Independent(Normal(torch.tensor([5.0, 2.0, 2.0]), torch.tensor([3.0, 1.0, 1.0])), 1))
        sd = ht.Latent(half_normal(1.0), event=3)
        sigma = ht.Latent(half_normal(1.0))
        b = ht.Latent(lambda v: Independent(Normal(v.mu, v.sd), 1), plate="group")

        def likelihood(self, v: Any, data: Any) -> Any:
            own = v.b[:, data.group]
            return Normal(own[..., 0] + own[..., 1].exp() * data.x / (data.x + own[..., 2].exp()), v.sigma)

    kinds = (LocationScale, Classes, Counts, Growth, Emax)
    return dict(zip(ROWS, kinds, strict=True))[case]()


def numpyro_model(case: str) -> Callable[[], None]:
    import jax
    import jax.numpy as jnp
    import numpyro.distributions as dist
    from numpyro import deterministic, handlers, sample

    rows = ROWS[case]()
    y, group, x, size = jnp.asarray(rows.y), rows.group, jnp.asarray(rows.x), int(rows.group.max()) + 1

    def effects(mean: Any, root: Any, width: int) -> Any:
        z = sample("z", dist.Normal(0.0, 1.0).expand([size, width]).to_event(2))
        return deterministic("b", mean + z @ root.T)

    def two() -> Any:
        beta = sample("beta", dist.Normal(0.0, 2.0).expand([2, 2]).to_event(2))
        sd = sample("sd", dist.HalfNormal(1.0).expand([2]).to_event(1))
        root = jnp.diag(sd)
        if case == "location and scale":
            root = sd[:, None] * sample("L", dist.LKJCholesky(2, 2.0))
        return beta[:, 0] + beta[:, 1] * x[:, None] + effects(0.0, root, 2)[group]

    def location_scale() -> None:
        eta = two()
        sample("y", dist.Normal(eta[:, 0], jnp.exp(eta[:, 1])), obs=y)

    def classes() -> None:
        logits = jnp.concatenate([jnp.zeros((len(y), 1)), two()], 1)
        sample("y", dist.Categorical(logits=logits), obs=y.astype(int))

    def counts() -> None:
        eta = two()
        with handlers.mask(mask=True):
            counted = dist.Poisson(jnp.exp(eta[:, 0])).log_prob(y) - jax.nn.softplus(eta[:, 1])
            both = jnp.where(y == 0, jnp.logaddexp(counted, -jax.nn.softplus(-eta[:, 1])), counted)
            sample("y", dist.Unit(both.sum()), obs=jnp.zeros(0))

    def growth() -> None:
        asym, xmid = sample("asym", dist.Normal(190.0, 50.0)), sample("xmid", dist.Normal(700.0, 200.0))
        scal, sigma = sample("scal", dist.LogNormal(5.9, 0.3)), sample("sigma", dist.HalfNormal(20.0))
        tau, omega = sample("tau", dist.HalfNormal(40.0)), sample("omega", dist.HalfNormal(100.0))
        a = deterministic("a", asym + tau * sample("za", dist.Normal(0.0, 1.0).expand([size])))
        m = deterministic("m", xmid + omega * sample("zm", dist.Normal(0.0, 1.0).expand([size])))
        sample("y", dist.Normal(a[group] * jax.nn.sigmoid((x - m[group]) / scal), sigma), obs=y)

    def emax() -> None:
        centre, spread = jnp.array([5.0, 2.0, 2.0]), jnp.array([3.0, 1.0, 1.0])
        mu, sd = (
            sample("mu", dist.Normal(centre, spread).to_event(1)),
            sample("sd", dist.HalfNormal(1.0).expand([3]).to_event(1)),
        )
        sigma = sample("sigma", dist.HalfNormal(1.0))
        own = sample("b", dist.Normal(mu, sd).to_event(1).expand([size]))[group]
        sample("y", dist.Normal(own[:, 0] + jnp.exp(own[:, 1]) * x / (x + jnp.exp(own[:, 2])), sigma), obs=y)

    return dict(zip(ROWS, (location_scale, classes, counts, growth, emax), strict=True))[case]


def entries(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers that are compared, `(chains, draws)` by entry: of the population, and of the first groups."""
    found: dict[str, np.ndarray] = {}
    for name, x in draws.items():
        if not name.startswith("z"):
            flat = x.reshape(*x.shape[:2], -1)
            group = {"b": SHOWN * x.shape[-1], "a": SHOWN, "m": SHOWN}.get(name, int(flat.shape[2]))
            found |= {f"{name}[{k}]": flat[..., k] for k in range(group) if flat[..., k].std() > 0}
    return found


def reference(case: str) -> dict[str, Any]:
    """Mean, sd and quantiles with Monte Carlo errors, and R-hat, of NumPyro's NUTS."""
    import jax
    import numpyro
    from arviz_stats.base import array_stats
    from numpyro.infer import MCMC, NUTS

    numpyro.enable_x64()
    kernel = NUTS(numpyro_model(case), target_accept_prob=0.95)
    mcmc = MCMC(kernel, num_warmup=WARMUP, num_samples=DRAWS, num_chains=CHAINS, progress_bar=False,
                chain_method="vectorized")  # fmt: skip
    mcmc.run(jax.random.PRNGKey(1))
    found: dict[str, Any] = {}
    for name, x in entries({name: np.asarray(x) for name, x in mcmc.get_samples(group_by_chain=True).items()}).items():
        parts = {"mean": x.mean(), "sd": x.std(), "q5": np.quantile(x, 0.05), "q95": np.quantile(x, 0.95)}
        error = {"q5": {"method": "quantile", "prob": 0.05}, "q95": {"method": "quantile", "prob": 0.95}}
        found[name] = {
            part: [float(value), float(array_stats.mcse(x, **error.get(part, {"method": part})))]
            for part, value in parts.items()
        } | {"r_hat": [float(array_stats.rhat(x))]}
    return found


def measured(case: str, **settings: Any) -> str:
    """Of a run with defaults: the least ESS a draw, the worst R-hat and processor seconds."""
    import hiertorch as ht

    model, data = hiertorch_model(case), hiertorch_data(case)
    began = time.process_time()
    posterior = ht.sample(model, data, seed=1, progress=False, **settings)
    seconds, summary = time.process_time() - began, posterior.summary()
    draws = next(iter(posterior.draws.values()))
    number = draws.shape[0] * draws.shape[1]
    ess, worst = float(summary["ess_bulk"].min()), float(summary["r_hat"].max())
    return f"{case:20} ESS {ess:7.0f} of {number:7,} draws ({ess / number:.2f}), R-hat {worst:.3f}, {seconds:6.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--references", type=Path, help="where NumPyro's long runs are kept")
    asked = parser.parse_args()
    for case in asked.cases:
        if asked.references is None:
            print("whitened ", measured(case))
            print("ordinary ", measured(case, collapse=False))
            continue
        known = json.loads(asked.references.read_text()) if asked.references.exists() else {}
        asked.references.write_text(json.dumps(known | {case: reference(case)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
