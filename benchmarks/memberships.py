"""Generated rows that read several groups of one plate, and long NUTS runs on them by NumPyro.

    python benchmarks/memberships.py --json tests/statistics/several_groups.json

Writes for every population parameter and some effects the posterior mean, sd, 5 and 95 % quantiles, each with its Monte
Carlo standard error, and R-hat. The models are written with NumPyro here, and with hiertorch in the tests that read the
file (`tests/statistics/test_several_groups.py`).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from arviz_stats.base import array_stats

Numbers = np.ndarray[Any, np.dtype[Any]]

CHAINS = 4
WORST_R_HAT = 1.005


def schools() -> tuple[Numbers, Numbers, Numbers]:
    """1,000 pupils of two of 40 schools each, in equal parts (Browne, Goldstein & Rasbash 2001): y, first, second."""
    rng = np.random.default_rng(40)
    first, second = rng.integers(0, 40, (2, 1_000))
    first[:40] = np.arange(40)
    school = rng.normal(0.0, 1.0, 40)
    y = rng.random(1_000) < 1.0 / (1.0 + np.exp(-0.3 - 0.5 * (school[first] + school[second])))
    return y.astype(float), first, second


def matches() -> tuple[Numbers, Numbers, Numbers]:
    """300 matches of 20 players, each of two different ones (Bradley & Terry 1952): who won, one, other."""
    rng = np.random.default_rng(20)
    one = np.arange(300) % 20
    other = (one + rng.integers(1, 20, 300)) % 20
    skill = rng.normal(0.0, 1.0, 20)
    y = rng.random(300) < 1.0 / (1.0 + np.exp(-(skill[one] - skill[other])))
    return y.astype(float), one, other


def main() -> None:
    import jax
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import MCMC, NUTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=8_000, help="of each of the four chains, after 1,000 of warm-up")
    parser.add_argument("--json", type=Path, required=True)
    asked = parser.parse_args()
    numpyro.enable_x64()

    def of_schools(y: Numbers, first: Numbers, second: Numbers) -> None:
        mu, tau = numpyro.sample("mu", dist.Normal(0.0, 5.0)), numpyro.sample("tau", dist.HalfNormal(1.0))
        with numpyro.plate("schools", 40):
            school = numpyro.deterministic("school", tau * numpyro.sample("z", dist.Normal(0.0, 1.0)))
        numpyro.sample("y", dist.Bernoulli(logits=mu + 0.5 * (school[first] + school[second])), obs=y)

    def of_matches(y: Numbers, one: Numbers, other: Numbers) -> None:
        tau = numpyro.sample("tau", dist.HalfNormal(2.0))
        with numpyro.plate("players", 20):
            skill = numpyro.deterministic("skill", tau * numpyro.sample("z", dist.Normal(0.0, 1.0)))
        numpyro.sample("y", dist.Bernoulli(logits=skill[one] - skill[other]), obs=y)

    found: dict[str, Any] = {"numpyro": numpyro.__version__, "chains": CHAINS, "draws": asked.draws, "cases": {}}
    for name, model, rows in (("schools", of_schools, schools()), ("matches", of_matches, matches())):
        kernel = NUTS(model, target_accept_prob=0.9)
        chains = MCMC(
            kernel,
            num_warmup=1_000,
            num_samples=asked.draws,
            num_chains=CHAINS,
            chain_method="sequential",
            progress_bar=False,
        )
        chains.run(jax.random.PRNGKey(1), *rows)
        entries: dict[str, Numbers] = {}
        for latent, x in chains.get_samples(group_by_chain=True).items():
            if latent != "z":
                x = np.asarray(x)
                entries |= {latent: x} if x.ndim == 2 else {f"{latent}[{k}]": x[..., k] for k in (0, 7, 19)}
        found["cases"][name] = {entry: summary(x) for entry, x in entries.items()}
        worst = max(entry["r_hat"][0] for entry in found["cases"][name].values())
        print(name, f"worst R-hat {worst:.4f}", flush=True)
        if worst > WORST_R_HAT:
            raise SystemExit("too short to be a reference: take more --draws")
    asked.json.write_text(json.dumps(found, indent=1) + "\n")


def summary(x: Numbers) -> dict[str, list[float]]:
    """Of draws `(chains, draws)`."""

    def error(**settings: Any) -> float:
        return float(array_stats.mcse(x, **settings))

    return {
        "mean": [float(x.mean()), error(method="mean")],
        "sd": [float(x.std()), error(method="sd")],
        "q5": [float(np.quantile(x, 0.05)), error(method="quantile", prob=0.05)],
        "q95": [float(np.quantile(x, 0.95)), error(method="quantile", prob=0.95)],
        "r_hat": [float(array_stats.rhat(x))],
    }


if __name__ == "__main__":
    main()
