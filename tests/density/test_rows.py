"""Rows sorted into cells and blocks: sums by cell and by group are those of pandas, and the sorting shows nowhere."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import Gamma, Normal

import hiertorch as ht
from hiertorch.density.rows import Rows
from hiertorch.density.structure import agrees, analyse, probe
from hiertorch.model.checks import inspect

CHAINS = 3


def unbalanced(rng, groups, rows):
    """Codes with a few large groups and some singletons; not every code occurs."""
    return rng.choice(groups, size=rows, p=rng.dirichlet(np.full(groups, 0.3)))


def made(kind, seed):
    """A data set with groupings of one kind, and the groupings to sum by."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 400))
    if kind == "none":
        groups, labels = {}, {}
    elif kind == "one":
        groups, labels = {"a": unbalanced(rng, 30, rows)}, {}
    elif kind == "nested":
        fine = unbalanced(rng, 40, rows)
        groups, labels = {"a": fine, "b": rng.integers(6, size=40)[fine]}, {}
    elif kind == "crossed":
        groups, labels = (
            {"a": unbalanced(rng, 12, rows), "b": unbalanced(rng, 9, rows), "c": rng.integers(2, size=rows)},
            {},
        )
    elif kind == "empty":
        groups, labels = {"a": unbalanced(rng, 20, rows) + 3}, {"a": np.arange(40)[::-1]}
    elif kind == "singletons":
        groups, labels = {"a": rng.permutation(rows), "b": np.arange(rows) // 2}, {}
    elif kind == "balanced":
        groups, labels = {"a": np.repeat(np.arange(rows), 8), "b": np.tile(np.arange(8), rows)}, {}
        rows *= 8
    return ht.Data(rng.normal(size=rows), groups=groups, labels=labels, x=rng.normal(size=rows)), tuple(groups)


KINDS = ("none", "one", "nested", "crossed", "empty", "singletons", "balanced")


@pytest.mark.parametrize("blocked", [True, False])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_those_of_pandas(kind, seed, blocked):
    data, plates = made(kind, seed)
    rows = Rows(data, plates, blocked=blocked)
    terms = torch.randn(CHAINS, data.n_rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cells = rows.sum_cells(rows.sum_blocks(terms[:, rows.source]))
    frame = pd.DataFrame(terms.T.numpy())
    codes = [data.codes[plate].numpy() for plate in plates]
    by_cell = frame.groupby(codes).sum() if codes else frame.sum().to_frame().T
    assert cells.shape == (CHAINS, rows.n_cells) == (CHAINS, len(by_cell))
    np.testing.assert_allclose(cells, by_cell.to_numpy().T, rtol=1e-9, atol=1e-12)
    for k, plate in enumerate(plates):
        expected = frame.groupby(codes[k]).sum().reindex(range(data.size(plate)), fill_value=0.0)
        np.testing.assert_allclose(rows.by_group(cells, plate), expected.to_numpy().T, rtol=1e-9, atol=1e-12)
        of_cells = by_cell.index.get_level_values(k).to_numpy(copy=True)
        numbers = torch.randn(CHAINS, data.size(plate), dtype=torch.float64)
        assert torch.equal(rows.of_group(numbers, plate), numbers[:, of_cells])


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_held_and_counted_once(kind):
    for seed in range(4):
        data, plates = made(kind, seed)
        rows = Rows(data, plates)
        real = torch.ones(len(rows.source), dtype=torch.bool) if rows.real is None else rows.real
        assert sorted(rows.source[real].tolist()) == list(range(data.n_rows))
        assert torch.equal(rows.data.y, data.y[rows.source])
        assert torch.equal(rows.data.x, data.x[rows.source])
        for plate in plates:
            assert torch.equal(rows.data[plate], data[plate][rows.source])
        assert len(rows.source) % rows.block == 0


def test_copies_that_fill_a_block_count_for_nothing():
    """Whatever the copies give, NaN included."""
    data = ht.Data(np.zeros(100), groups={"g": np.repeat(np.arange(5), 20)})
    rows = Rows(data, ("g",))
    assert rows.block > 1
    data = ht.Data(np.zeros(102), groups={"g": np.append(np.repeat(np.arange(5), 20), [0, 3])})
    rows = Rows(data, ("g",))
    assert rows.real is not None
    terms = torch.where(rows.real, 1.0, torch.nan).expand(CHAINS, -1)
    sums = rows.by_group(rows.sum_cells(rows.sum_blocks(terms)), "g")
    assert sums.tolist() == [[21.0, 20.0, 20.0, 21.0, 20.0]] * CHAINS


def test_fewer_numbers_are_scattered_than_there_are_rows():
    data = ht.Data(np.zeros(4000), groups={"g": np.arange(4000) % 20})
    rows = Rows(data, ("g",))
    assert rows.block in (8, 16)
    assert len(rows.source) <= 1.1 * data.n_rows
    assert rows.sum_blocks(torch.zeros(1, len(rows.source))).shape[1] <= 500


def test_rows_on_another_device():
    data, plates = made("crossed", 1)
    rows, there = Rows(data, plates), Rows(data, plates).to("meta")
    assert {x.device.type for x in (there.source, there.data.y, there._block_cell, *there.cell_groups.values())} == {
        "meta"
    }
    cells = there.sum_cells(there.sum_blocks(torch.zeros(CHAINS, len(rows.source), device="meta")))
    assert there.by_group(cells, "a").shape == (CHAINS, data.size("a"))
    assert rows.source.device.type == "cpu"


# Rows in the density


class Effects(ht.Model):
    tau = ht.Latent(Gamma(2.0, 1.0))
    sigma = ht.Latent(Gamma(2.0, 1.0))
    beta = ht.Latent(Normal(0.0, 1.0))
    alpha = ht.Latent(lambda v: Normal(0.0, v.tau), plate="a")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.a] + v.beta * data.x, v.sigma)


class Centres(Effects):
    """Reads its rows together: sorting does no harm, repeating rows would."""

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.a] + v.beta * (data.x - data.x.mean()), v.sigma)


class Neighbours(Effects):
    """Reads its rows in their order."""

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.a] + v.beta * (data.x - data.x.roll(1)), v.sigma)


class Buffer(Effects):
    """Has a number of its own for each row of the user's."""

    def __init__(self, rows):
        super().__init__()
        self.register_buffer("offset", torch.linspace(-1, 1, rows, dtype=torch.float64))

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.a] + self.offset, v.sigma)


class Counts(Effects):
    """Asks how many rows a group has."""

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.a], v.sigma / data.counts("a")[data.a].sqrt())


def structure(model, data):
    return analyse(model, data, inspect(model, data)[0])


def lopsided(rows=203, seed=0, **options):
    rng = np.random.default_rng(seed)
    return ht.Data(rng.normal(size=rows), groups={"a": unbalanced(rng, 12, rows)}, x=rng.normal(size=rows), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_by_themselves_are_sorted_and_filled(dtype):
    target = structure(Effects(), lopsided(dtype=dtype)).target
    assert target.rows.block > 1
    assert target.rows.data is not target.data


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", [Centres(), Neighbours(), Buffer(203), Counts()], ids=lambda m: type(m).__name__)
def test_rows_read_together_stay_as_they_are(model, dtype):
    """Detected, and the density is that of the model as written."""
    data, model = lopsided(dtype=dtype), copy.deepcopy(model).to(dtype)
    found = structure(model, data)
    target = found.target
    assert target.rows.data is data
    assert not agrees(target, Rows(data, ("a",)), probe(target, found.reads))
    v = model.sample_prior(data, 4, torch.Generator().manual_seed(2))
    free = target.space.unconstrain(v)
    state = target.state(free)
    rows = model.log_likelihood(v, data)
    by_group = pd.DataFrame(rows.T.double().numpy()).groupby(data.a.numpy()).sum().to_numpy().T
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    np.testing.assert_allclose(state.cells, by_group, rtol=tolerance)


@pytest.mark.parametrize("shape", ["rows", "chains"])
def test_chain_axes_on_response_and_weights(shape):
    rng = np.random.default_rng(5)
    size = (4, 203) if shape == "chains" else (203,)
    weights = rng.integers(0, 3, size=size).astype(float)
    data = lopsided().replace(y=rng.normal(size=(4, 203)), weights=weights)
    model = Effects()
    target = structure(model, data).target
    assert target.rows.block > 1
    v = model.sample_prior(data, 4, torch.Generator().manual_seed(2))
    state = target.state(target.space.unconstrain(v))
    terms = (model.log_likelihood(v, data) * data.weights).T.numpy()
    expected = pd.DataFrame(terms).groupby(data.a.numpy()).sum().to_numpy().T
    np.testing.assert_allclose(state.cells, expected, rtol=1e-9, atol=1e-9)
