"""Rows that read several groups of one plate, with defaults, against long runs of NumPyro's NUTS.

The references are those that `benchmarks/memberships.py` writes, of runs with R-hat at most 1.005: mean, sd and 5 and
95 % quantiles with their Monte Carlo standard errors. All differences, in combined standard errors, stay below the
normal quantile beyond which one of them is by chance in 1 of 100 seeds (Bonferroni).
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_not_gaussian import COMPARED, off
from torch.distributions import Bernoulli, HalfNormal, Normal

import hiertorch as ht
from hiertorch.model.latent import Values

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import memberships

REFERENCES = json.loads(Path(__file__).with_name("several_groups.json").read_text())["cases"]
BOUND = float(stats.norm.isf(0.01 / 2 / sum(len(COMPARED) * len(case) for case in REFERENCES.values())))


class Schools(ht.Model):
    mu = ht.Latent(Normal(0.0, 5.0))
    tau = ht.Latent(HalfNormal(1.0))
    school = ht.Latent(lambda v: Normal(0.0, v.tau), plate="first")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Bernoulli(logits=v.mu + 0.5 * (v.school[:, data.first] + v.school[:, data.second]))


class Matches(ht.Model):
    tau = ht.Latent(HalfNormal(2.0))
    skill = ht.Latent(lambda v: Normal(0.0, v.tau), plate="first")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Bernoulli(logits=v.skill[:, data.first] - v.skill[:, data.second])


MODELS: dict[str, tuple[ht.Model, Any]] = {
    "schools": (Schools(), memberships.schools),
    "matches": (Matches(), memberships.matches),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_posterior_is_what_nuts_finds(name: str) -> None:
    model, rows = MODELS[name]
    y, first, second = rows()
    data = ht.Data(y, groups={"first": first, "second": second})
    posterior = ht.sample(model, data, seed=1, progress=False)
    table = posterior.summary()
    assert float(table["r_hat"].max()) <= 1.01
    assert float(table[["ess_bulk", "ess_tail"]].to_numpy().min()) >= 1_000
    draws = {}
    for entry, known in REFERENCES[name].items():
        assert known["r_hat"][0] <= 1.005
        latent, _, k = entry.rstrip("]").partition("[")
        draws[entry] = np.asarray(posterior.draws[latent])[..., int(k or 0)]
    units = off(draws, REFERENCES[name])
    assert {entry: u for entry, u in units.items() if not abs(u) < BOUND} == {}
    # The same differences would not have hidden a shift by a fifth of an sd, nor an sd a sixth too large.
    shifted = off({entry: x + 0.2 * x.std() for entry, x in draws.items()}, REFERENCES[name])
    widened = off({entry: x.mean() + 7 / 6 * (x - x.mean()) for entry, x in draws.items()}, REFERENCES[name])
    assert all(abs(u) > BOUND for entry, u in shifted.items() if entry.startswith("mean"))
    assert all(abs(u) > BOUND for entry, u in widened.items() if entry.startswith("sd"))
