"""Derivatives of rows in closed form, against differences of the user's own density."""

import numpy as np
import pandas as pd
import pytest
import torch
from exactstarts import CASES

import hiertorch as ht
from hiertorch.data.table import Data
from hiertorch.gaussian.sites import RowDerivatives
from hiertorch.gaussian.surrogate import Surrogate
from hiertorch.model.model import Model
from hiertorch.run.closedweights import ClosedWeights, closed_weights
from hiertorch.run.rowweights import RowWeights
from hiertorch.run.standing import Standing
from hiertorch.runtime.validating import validation


def parts(model: Model, data: Data) -> tuple[ClosedWeights | None, RowWeights, Surrogate]:
    """The closed form, what it stands for, and the surrogate of a model."""
    plan = ht.plan(model, data)
    surrogate, structure = plan.surrogate, plan.structure
    assert surrogate is not None
    levels, standing = surrogate.first.grams.levels, Standing(structure.target, surrogate.first.rest)
    weigh = RowWeights(structure, surrogate, levels[0].plate)
    return closed_weights(structure, surrogate, standing, weigh), weigh, surrogate


@pytest.mark.parametrize("name", ["intercepts", "negative binomial", "heavy tails", "trials"])
def test_derivatives_are_differences_of_the_users_density(name: str) -> None:
    """Of rows with weights, some of them 0, and with parameters that chains have."""
    case = CASES[name]
    with torch.no_grad(), validation(False):
        closed, weigh, surrogate = parts(case.model, case.data)
        assert closed is not None
        values = case.model.sample_prior(case.data, 6, torch.Generator().manual_seed(3))
        found, known = closed.derivatives(values), RowDerivatives(weigh.terms, surrogate)(values)
    assert float(found.weight) == float(known.weight) == found.number == known.number
    torch.testing.assert_close(found.eta, known.eta, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.first, known.first, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.second, known.second, rtol=1e-3, atol=1e-3)


def graded(link: str) -> tuple[Model, Data]:
    """Three grades of 40 rows of five groups, with weights and a predictor far from 0."""
    r = np.random.default_rng(1)
    frame = pd.DataFrame({"y": np.arange(40) % 3, "x": r.normal(9.0, 1.0, 40), "w": r.uniform(size=40)})
    family = ht.families.Cumulative([0, 1, 2], link)
    return ht.formula("y | weights(w) ~ x + (1 | g)", frame.assign(g=np.arange(40) % 5), family=family)


def test_thresholds_shift_sites_in_closed_form() -> None:
    pytest.importorskip("numba")
    with torch.no_grad(), validation(False):
        model, data = graded("logit")
        closed, weigh, surrogate = parts(model, data)
        assert closed is not None and closed.rows.compiled and parts(*graded("probit"))[0] is None
        values = model.sample_prior(data, 6, torch.Generator().manual_seed(3))
        found, known = closed.derivatives(values), RowDerivatives(weigh.terms, surrogate)(values)
    for name in ("eta", "first", "second"):
        torch.testing.assert_close(getattr(found, name), getattr(known, name), rtol=1e-3, atol=1e-3)
    mixed, other = (x.mixed["centred_cuts_y"] for x in (found, known))
    torch.testing.assert_close(mixed, other, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.means["centred_cuts_y"], known.means["centred_cuts_y"])
