"""The collapsed density of models written at random (`generated.py`) against their own, where the posterior lies.

`python tests/statistics/test_soundness.py` compares all MODELS, which takes minutes, and writes `soundness.json`.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from generated import SPOILERS, STRUCTURES, Case, case
from torch import Tensor
from torch.distributions import Normal

import hiertorch as ht
from hiertorch.density.space import Space
from hiertorch.density.structure import coordinates_of
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.discovery import collapse
from hiertorch.model.checks import inspect
from hiertorch.model.latent import Values
from hiertorch.runtime.validating import validation

MODELS, SUBSET, FEW = 500, 40, (7, 8, 16)
RESULT = Path(__file__).with_name("soundness.json")
GAP = 1e-6
ROUNDING = 1e-11, 1e-15
"""Beside GAP: of log densities, and of the squared ratio of what effects add to the scale of the rows, the condition
number of the algebra. Both are very large only far out.
"""


@dataclass
class Found:
    """What came out for a model."""

    text: str
    linear_gaussian: bool
    reason: str  # why it is not collapsed, or nothing
    gap: float = 0.0  # the largest, less what rounding allows


def places(found: Collapsed, space: Space, drawn: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Values of the rest: draws of a run, the same three times as far out, and draws from the prior."""
    generator = torch.Generator().manual_seed(seed)
    data, model = found.data, found.composed.model
    fresh = model.sample_prior(data, 16, generator)
    at = {name: torch.cat([drawn[name], fresh[name]]) for name in found.rest}
    free = space.unconstrain(at)
    middle = {name: u.nanquantile(0.5, 0, keepdim=True) for name, u in free.items()}
    far = space.constrain({name: middle[name] + 3.0 * (u - middle[name]) for name, u in free.items()})
    return {name: torch.cat([at[name], far[name]]) for name in found.rest}


def gaps(found: Collapsed, rest: Mapping[str, Tensor], seed: int) -> float:
    """The largest difference of the two densities from their median, where the model's own is finite."""
    composed, data = found.composed, found.data
    chains = next((x.shape[0] for x in rest.values()), 8)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), validation(False):
        noise = torch.randn(found.n_noise, chains, generator=generator, dtype=torch.float64)
        values = {**rest, **found.draw(rest, noise)}
        v = Values({name: values[name] for name in composed.names}, composed.names)
        own = composed.model.log_prob(v, data)
        collapsed = found.log_marginal(values) + found.log_conditional(values)
        for name in found.rest:
            collapsed = collapsed + composed.model.log_prior_term(name, v, data).sum(-1)
        spread = composed.model.likelihood(composed.model.sample_prior(data, chains, generator, rest), data)
        ratio = ((spread.mean - spread.mean.mean(-1, keepdim=True)) / spread.stddev).abs().amax(-1)
    some = torch.isfinite(own)
    assert int(some.sum()) > chains // 4, "the model has no density to compare"
    difference, rounding = own - collapsed, ROUNDING[0] * own.abs() + ROUNDING[1] * ratio.square()
    beyond = ((difference - difference[some].median()).abs() - rounding)[some]
    return float(beyond.max().nan_to_num(torch.inf))


def examine(one: Case, seed: int) -> Found:
    """Collapses a model, runs it for a short while and compares."""
    reads = inspect(one.model, one.data)[0]
    found = collapse(one.model, one.data, reads)
    if isinstance(found, str):
        return Found(one.text, one.linear_gaussian, found)
    space = Space(coordinates_of(one.model, reads))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        post = ht.sample(one.model, one.data, chains=16, warmup=60, draws=2, thin=1, seed=seed, progress=False)
    shapes = {name: x.shape[1:] for name, x in reads.values.items()}
    drawn = {name: torch.as_tensor(np.asarray(post[name])).reshape(-1, *shapes[name])[:32] for name in found.rest}
    return Found(one.text, one.linear_gaussian, "", gaps(found, places(found, space, drawn, seed), seed))


def assert_sound(found: list[Found]) -> None:
    wrong = [f"{one.text}: {one.gap:.1e}" for one in found if one.gap > GAP]
    assert not wrong, "\n".join(wrong)
    linear = [one for one in found if one.linear_gaussian]
    missed = [f"{one.text}: {one.reason}" for one in linear if one.reason]
    assert len(missed) <= 0.05 * len(linear), "\n".join(missed)


def test_a_few_models() -> None:
    assert_sound([examine(case(seed), seed) for seed in FEW])


@pytest.mark.slow
def test_models_written_at_random() -> None:
    assert_sound([examine(case(seed), seed) for seed in range(SUBSET)])


def test_the_stored_result_is_of_all_models_and_none_differs() -> None:
    stored = json.loads(RESULT.read_text())
    assert stored["models"] == MODELS and stored["differ"] == 0
    assert stored["of them collapsed"] >= 0.95 * stored["linear-Gaussian"]


def test_the_comparison_can_fail() -> None:
    """The same model without its kink is another one, although few draws from the prior would tell."""
    one = next(one for one in map(case, range(MODELS)) if one.linear_gaussian)
    found = collapse(one.model, one.data, inspect(one.model, one.data)[0])
    assert isinstance(found, Collapsed)
    generator = torch.Generator().manual_seed(0)
    rest = {name: one.model.sample_prior(one.data, 8, generator)[name] for name in found.rest}
    assert gaps(found, rest, 0) < GAP
    own = one.model.likelihood
    one.model.likelihood = lambda v, data: Normal(own(v, data).mean, own(v, data).stddev.clamp(max=1e-3))  # type: ignore[method-assign]
    assert gaps(found, rest, 0) > GAP


def write_all() -> None:
    """Compares all models, and writes what was found beside this file."""
    found = [examine(case(seed), seed) for seed in range(MODELS)]
    linear = [one for one in found if one.linear_gaussian]
    texts = " ".join(one.text for one in found)
    assert all(word in texts for word in (*STRUCTURES, *SPOILERS))
    facts = {
        "models": len(found),
        "linear-Gaussian": len(linear),
        "of them collapsed": sum(not one.reason for one in linear),
        "others collapsed": sum(not one.reason for one in found if not one.linear_gaussian),
        "differ": sum(one.gap > GAP for one in found),
        "missed": [f"{one.text}: {one.reason}" for one in linear if one.reason],
        "wrong": [f"{one.text}: {one.gap:.1e}" for one in found if one.gap > GAP],
        "torch": torch.__version__,
    }
    RESULT.write_text(json.dumps(facts, indent=1) + "\n")
    assert_sound(found)


if __name__ == "__main__":
    write_all()
