"""Posteriors of models with several predictors a row, or a curved one, against long runs of NumPyro's NUTS.

The references are those that `benchmarks/several_predictors.py --references` writes: 4 chains of 5,000 draws. All
differences of means, sds and quantiles, in combined standard errors, stay below the normal quantile beyond which one of
them is by chance in 1 of 100 seeds (Bonferroni).
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import stats

import hiertorch as ht

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from several_predictors import entries, hiertorch_data, hiertorch_model

REFERENCES = json.loads(Path(__file__).with_name("several_predictors.json").read_text())
PARTS = {
    "mean": (np.mean, {"method": "mean"}),
    "sd": (np.std, {"method": "sd"}),
    "q5": (lambda x: np.quantile(x, 0.05), {"method": "quantile", "prob": 0.05}),
    "q95": (lambda x: np.quantile(x, 0.95), {"method": "quantile", "prob": 0.95}),
}
BOUND = float(stats.norm.isf(0.01 / 2 / sum(len(PARTS) * len(case) for case in REFERENCES.values())))


def off(draws: dict[str, np.ndarray], reference: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    """Differences in combined standard errors, of draws `(chains, draws)` by entry."""
    found = {}
    for entry, known in reference.items():
        for part, (of, settings) in PARTS.items():
            error = np.hypot(float(array_stats.mcse(draws[entry], **settings)), known[part][1])
            found[f"{part} of {entry}"] = float((of(draws[entry]) - known[part][0]) / error)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_the_posterior_is_what_nuts_finds(name: str) -> None:
    reference = REFERENCES[name]
    assert all(known["r_hat"][0] <= 1.005 for known in reference.values())
    model, data = hiertorch_model(name), hiertorch_data(name)
    posterior = ht.sample(model, data, chains=32, draws=250, seed=1, progress=False)
    said = " ".join(posterior.run["plan_text"].split())
    assert "effects and coefficients together" in said and "not whitened" not in said
    every = entries({latent: np.asarray(x) for latent, x in posterior.draws.items()})
    draws = {entry: every[entry] for entry in reference}
    units = off(draws, reference)
    assert {entry: u for entry, u in units.items() if not abs(u) < BOUND} == {}
    # The same differences would not have hidden a shift by a third of an sd.
    shifted = off({entry: x + x.std() / 3 for entry, x in draws.items()}, reference)
    assert all(abs(u) > BOUND for entry, u in shifted.items() if entry.startswith("mean"))
