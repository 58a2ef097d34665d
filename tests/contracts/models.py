"""The contract of a model."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal

import hiertorch as ht

ROWS, GROUPS = 40, 6


def made_data(**options):
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=ROWS), "z": rng.normal(size=ROWS), "se": rng.uniform(1.0, 2.0, size=ROWS)}
    school = np.append(np.arange(GROUPS), rng.integers(GROUPS, size=ROWS - GROUPS))
    return ht.Data(rng.integers(0, 2, size=ROWS), groups={"school": school}, **columns, **options)


class ModelContract:
    """What every model keeps: batched equals stacked, densities by SciPy, its own randomness, a plan.

    A subclass, whose name begins with `Test`, says how the model is made and what its density is by SciPy.
    """

    chains = 4

    def model(self):
        raise NotImplementedError

    def data(self):
        """Rows that the model reads, the same ones at each call."""
        return made_data()

    def reference(self, v, data):
        """Log prior of one chain and log likelihood of its rows by SciPy, of values `(size, *event)` by name."""
        raise NotImplementedError

    def drawn(self, chains=None, seed=0):
        model, data = self.model(), self.data()
        return model, data, model.sample_prior(data, chains or self.chains, torch.Generator().manual_seed(seed))

    def test_check_finds_nothing(self):
        assert self.model().check(self.data()) == []

    def test_density_by_scipy(self):
        model, data, v = self.drawn()
        for chain in range(self.chains):
            log_prior, rows = self.reference({name: x[chain].numpy() for name, x in v.items()}, data)
            assert float(model.log_prior(v, data)[chain]) == pytest.approx(log_prior, rel=1e-6)
            np.testing.assert_allclose(model.log_likelihood(v, data)[chain], rows, rtol=1e-6, atol=1e-8)
            assert float(model.log_prob(v, data)[chain]) == pytest.approx(log_prior + rows.sum(), rel=1e-6)

    def test_batched_equals_stacked(self):
        model, data, v = self.drawn()
        weighted = data.replace(weights=np.arange(ROWS) % 3)
        for function, arguments in (
            (model.log_prior, (data,)),
            (model.log_likelihood, (data,)),
            (model.log_prob, (data,)),
            (model.log_prob, (weighted,)),
        ):
            batched = function(v, *arguments)
            one_by_one = [function({k: x[c : c + 1] for k, x in v.items()}, *arguments) for c in range(self.chains)]
            torch.testing.assert_close(batched, torch.cat(one_by_one), rtol=1e-12, atol=1e-12)

    def test_chains_with_data_of_their_own_equal_single_fits(self):
        model, data, v = self.drawn()
        y = model.simulate(v, data, torch.Generator().manual_seed(1))
        weights = torch.rand(self.chains, ROWS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        batched = model.log_prob(v, data.replace(y=y, weights=weights))
        for c in range(self.chains):
            alone = data.replace(y=y[c], weights=weights[c])
            torch.testing.assert_close(batched[c], model.log_prob({k: x[c : c + 1] for k, x in v.items()}, alone)[0])

    def test_simulations_are_possible_and_reproducible(self):
        model, data, v = self.drawn()
        y = model.simulate(v, data, torch.Generator().manual_seed(3))
        assert y.shape == (self.chains, ROWS)
        assert torch.isfinite(model.log_likelihood(v, data.replace(y=y))).all()
        assert torch.equal(y, model.simulate(v, data, torch.Generator().manual_seed(3)))

    def test_float32(self):
        model, data, v = self.drawn()
        low = model.log_prob({name: x.float() for name, x in v.items()}, data.to(dtype=torch.float32))
        assert low.dtype == torch.float32
        torch.testing.assert_close(low.double(), model.log_prob(v, data), rtol=1e-4, atol=1e-3)

    def test_a_plan_can_be_made(self):
        """One that integrates out where rows are Gaussian, and one of ordinary moves."""
        gaussian = type(self.model().likelihood(*reversed(self.drawn()[1:]))) is Normal
        for collapse in (True, False):
            plan = ht.plan(self.model(), self.data(), collapse=collapse)
            whole = plan.surrogate is not None or plan.steps == ()
            moved = set(plan.target.names) if whole else {name for step in plan.steps for name in step.move.block}
            assert moved == set(self.model().latents)
            assert (plan.collapsed is not None) == (gaussian and collapse)
