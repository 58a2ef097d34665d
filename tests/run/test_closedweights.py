"""Derivatives of rows in closed form, against differences of the user's own density."""

import pytest
import torch
from exactstarts import CASES

import hiertorch as ht
from hiertorch.gaussian.sites import RowDerivatives
from hiertorch.run.closedweights import closed_weights
from hiertorch.run.rowweights import RowWeights
from hiertorch.run.standing import Standing
from hiertorch.runtime.validating import validation


@pytest.mark.parametrize("name", ["intercepts", "negative binomial", "heavy tails", "trials"])
def test_derivatives_are_differences_of_the_users_density(name: str) -> None:
    """Of rows with weights, some of them 0, and with parameters that chains have."""
    case = CASES[name]
    with torch.no_grad(), validation(False):
        plan = ht.plan(case.model, case.data)
        surrogate, structure = plan.surrogate, plan.structure
        assert surrogate is not None
        levels, standing = surrogate.first.grams.levels, Standing(structure.target, surrogate.first.rest)
        weigh = RowWeights(structure, surrogate, levels[0].plate)
        closed = closed_weights(structure, surrogate, standing, weigh)
        assert closed is not None
        values = case.model.sample_prior(case.data, 6, torch.Generator().manual_seed(3))
        found, known = closed.derivatives(values), RowDerivatives(weigh.terms, surrogate)(values)
    assert float(found.weight) == float(known.weight) == found.number == known.number
    torch.testing.assert_close(found.eta, known.eta, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.first, known.first, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.second, known.second, rtol=1e-3, atol=1e-3)
