"""References for persons x items, cases h and i of `glmm_cases`, on which NUTS takes hours: persons integrated out.

    p(y | b, beta, sigma) = prod over persons p of  int N(z) prod over items k of p(y_pk | b_k + x_p' beta + sigma z) dz

z is on an even grid; for so smooth a function the trapezoidal sum is exact to many digits (Trefethen & Weideman 2014,
SIAM Review 56, section 3), which is held against a grid twice as fine. Items' b_k = mu + x_k' beta + alpha_k and the
population are left to NumPyro's NUTS in double precision; some persons are drawn afterwards, by the inverse of their
distribution function on a finer grid.

    python benchmarks/persons_out.py h i --references tests/statistics/not_gaussian.json
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from glmm_cases import CASES, FREEDOM, LOCATION, GlmmCase
from rows_not_gaussian import REFERENCE_ESS, REFERENCE_R_HAT, SHOWN, summary

GRID = np.linspace(-7.0, 7.0, 71)
"""Of z; sums over it have weights N(z) times the distance of two places."""

FINE = np.linspace(-7.0, 7.0, 1_401)
"""Of z, where persons are drawn."""

CHAINS, WARMUP, DRAWS = 4, 1_000, 5_000
"""Unless the command line says other numbers of warm-up and draws."""

RADIUS = 0.5
"""Of the places where chains begin, unconstrained: from within 2 one went to where the grid is too coarse, and stayed.
"""

DIFFERENCE = 1e-5
"""Of log densities on the grid and on one twice as fine, at most."""


class Table:
    """Answers of persons to items, every person to every item.

    Args:
        case: with the groupings person and item.
    """

    def __init__(self, case: GlmmCase) -> None:
        person, item = case.groups["person"], case.groups["item"]
        persons, items = case.size("person"), case.size("item")
        assert len(person) == persons * items == len(np.unique(person * items + item))
        self.y = np.zeros((persons, items))
        self.y[person, item] = case.y
        of_person, of_item = (case.x[case.first_rows(name)] for name in ("person", "item"))
        constant = np.array([(x == of_item[item, k]).all() for k, x in enumerate(case.x.T)], bool)
        self.x_item, self.x_person = of_item * constant, of_person * ~constant
        assert (self.x_item[item] + self.x_person[person] == case.x).all()
        self.kinds, self.kind = np.unique(self.x_person, axis=0, return_inverse=True)  # persons alike in predictors


def log_likelihood(xp: Any, logsumexp: Any, table: Table, b: Any, beta: Any, sigma: Any, grid: np.ndarray) -> Any:
    """The logarithm of the product over persons; xp is numpy or jax.numpy."""
    weights = -0.5 * grid**2 + np.log((grid[1] - grid[0]) / np.sqrt(2 * np.pi))
    level = (table.kinds @ beta)[:, None] + sigma * grid  # (kinds, grid)
    none_right = -xp.logaddexp(0.0, level[..., None] + b).sum(-1)
    right = table.y.sum(1)[:, None] * level[table.kind] + (table.y @ b)[:, None]
    return logsumexp(right + none_right[table.kind] + weights, 1).sum()


def model(case: GlmmCase, table: Table) -> None:
    """Of NumPyro."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from jax.scipy.special import logsumexp

    half_t = dist.FoldedDistribution(dist.StudentT(FREEDOM, 0.0, 1.0))
    mu = numpyro.sample("mu", dist.Normal(0.0, LOCATION))
    beta = jnp.zeros(0)
    if case.x.shape[1]:
        beta = numpyro.sample("beta", dist.Normal(0.0, jnp.asarray(case.widths)).to_event(1))
    sigma, width = (numpyro.sample(f"sigma_{name}", half_t) for name in ("person", "item"))
    middle = mu + table.x_item @ beta
    b = numpyro.sample("b", dist.Normal(middle, width).to_event(1))
    numpyro.deterministic("alpha_item", b - middle)
    numpyro.factor("y", log_likelihood(jnp, logsumexp, table, b, beta, sigma, GRID))


def persons(table: Table, draws: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """alpha of the first persons, `(chains, draws, SHOWN)`."""
    from scipy.special import expit

    found = np.empty((*draws["mu"].shape, SHOWN))
    half = -0.5 * FINE**2
    for at in np.ndindex(draws["mu"].shape):
        b, sigma = draws["b"][at], draws["sigma_person"][at]
        beta = draws["beta"][at] if "beta" in draws else np.zeros(0)
        for p in range(SHOWN):
            eta = table.x_person[p] @ beta + sigma * FINE[:, None] + b
            height = half + np.log(expit(np.where(table.y[p] > 0, eta, -eta))).sum(1)
            below = np.cumsum(np.exp(height - height.max()))
            found[(*at, p)] = sigma * np.interp(rng.random(), below / below[-1], FINE)
    return found


def reference(name: str, seed: int, warmup: int, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is compared, and facts of the run."""
    import jax
    import numpyro
    from scipy.special import logsumexp

    case = CASES[name]()
    table = Table(case)
    begin = numpyro.infer.init_to_uniform(radius=RADIUS)
    kernel = numpyro.infer.NUTS(lambda: model(case, table), init_strategy=begin)
    run = numpyro.infer.MCMC(kernel, num_warmup=warmup, num_samples=number, num_chains=CHAINS, progress_bar=False)
    run.run(jax.random.PRNGKey(seed), extra_fields=("diverging",))
    draws = {key: np.asarray(x, float) for key, x in run.get_samples(group_by_chain=True).items()}
    finer = np.linspace(GRID[0], GRID[-1], 2 * len(GRID) - 1)
    for at in np.ndindex(CHAINS, 20):
        place = draws["b"][at], draws["beta"][at] if "beta" in draws else np.zeros(0), draws["sigma_person"][at]
        both = [log_likelihood(np, logsumexp, table, *place, grid) for grid in (GRID, finer)]
        assert abs(both[0] - both[1]) < DIFFERENCE, both
    draws["alpha_person"] = persons(table, draws, np.random.default_rng(seed))
    del draws["b"]
    shown = {key: x.reshape(*x.shape[:2], -1) for key, x in draws.items()}
    found = summary(shown)
    from arviz_stats.base import array_stats

    ess = min(float(array_stats.ess(x[..., k])) for x in shown.values() for k in range(x.shape[-1]))
    facts = {"runner": "numpyro64, persons integrated out", "chains": CHAINS, "draws": number, "seed": seed}
    facts |= {"min_ess": ess, "worst_rhat": max(entry["r_hat"][0] for entry in found.values())}
    facts |= {"divergences": int(np.asarray(run.get_extra_fields()["diverging"]).sum())}
    return found, facts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="+", choices=("h", "i"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=WARMUP, help="of each chain")
    parser.add_argument("--draws", type=int, default=DRAWS, help="of each chain")
    parser.add_argument("--references", type=Path, required=True)
    asked = parser.parse_args()
    import numpyro

    numpyro.set_host_device_count(CHAINS)
    numpyro.enable_x64()
    for name in asked.case:
        found, facts = reference(name, asked.seed, asked.warmup, asked.draws)
        print(name, facts)
        if facts["worst_rhat"] > REFERENCE_R_HAT or facts["min_ess"] < REFERENCE_ESS:
            print(f"{name}: not long enough to be a reference", file=sys.stderr)
            return 1
        written = json.loads(asked.references.read_text())
        written["cases"][name], written["runs"][name] = found, facts
        asked.references.write_text(json.dumps(written, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
