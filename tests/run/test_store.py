"""What is kept of a run is what was told, in whichever portions, and averages are those of all sweeps."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hiertorch.moves.metropolis import Info
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.store import Store

CHAINS, DRAWS = 3, 7
SHAPES = {"mu": (1,), "beta": (1, 2), "alpha": (5,), "corr": (1, 2, 2)}


def made(seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Values `(draws, chains, size, *event)` by name, and log densities `(draws, chains)`."""
    generator = torch.Generator().manual_seed(seed)
    values = {
        name: torch.randn(DRAWS, CHAINS, *shape, generator=generator, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }
    return values, torch.randn(DRAWS, CHAINS, generator=generator, dtype=torch.float64)


def one(values: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    return {name: x[k] for name, x in values.items()}


def some(values: dict[str, Tensor], start: int, end: int) -> dict[str, Tensor]:
    return {name: x[start:end] for name, x in values.items()}


def assert_holds(store: Store, values: dict[str, Tensor], density: Tensor, number: int) -> None:
    draws = store.draws()
    assert set(draws) == set(store.names) and store.n_draws == number
    for name, x in draws.items():
        assert torch.equal(x, values[name][:number].transpose(0, 1)), name
    assert torch.equal(store.log_density(), density[:number].mT)


def test_draws_are_kept_one_by_one_or_many_at_once() -> None:
    values, density = made()
    single, several = (Store(one(values, 0), tuple(SHAPES), DRAWS) for _ in range(2))
    assert_holds(single, values, density, 0)
    for k in range(DRAWS):
        single.keep(one(values, k), density[k])
        assert_holds(single, values, density, k + 1)
    for start, end in ((0, 1), (1, 1), (1, 5), (5, 7)):
        several.fill(some(values, start, end), density[start:end], start)
        several.filled(end)
        assert_holds(several, values, density, end)


def test_both_ways_may_take_turns() -> None:
    values, density = made()
    store = Store(one(values, 0), tuple(SHAPES), DRAWS)
    store.keep(one(values, 0), density[0])
    store.fill(some(values, 1, 4), density[1:4], 1)
    store.filled(4)
    store.keep(one(values, 4), density[4])
    assert_holds(store, values, density, 5)


def test_only_named_latents_are_kept() -> None:
    values, density = made()
    store = Store(one(values, 0), ("alpha", "mu"), DRAWS)
    store.fill(values, density, 0)
    store.filled(DRAWS)
    assert_holds(store, values, density, DRAWS)
    store = Store(one(values, 0), ("alpha",), DRAWS)
    store.fill({"alpha": values["alpha"]}, density, 0)  # others need not be there
    store.filled(DRAWS)
    assert_holds(store, values, density, DRAWS)


def test_what_was_kept_does_not_change_with_its_source() -> None:
    values, density = made()
    kept, before = {name: x.clone() for name, x in values.items()}, density.clone()
    store = Store(one(values, 0), tuple(SHAPES), DRAWS)
    store.keep(one(values, 0), density[0])
    store.fill(some(values, 1, DRAWS), density[1:], 1)
    store.filled(DRAWS)
    for x in (*values.values(), density):
        x.zero_()
    assert_holds(store, kept, before, DRAWS)


def test_draws_so_far_are_views() -> None:
    """A monitor that looks at all of them costs no copy."""
    values, density = made()
    store = Store(one(values, 0), tuple(SHAPES), DRAWS)
    store.keep(one(values, 0), density[0])
    early = store.draws()["alpha"]
    store.keep(one(values, 1), density[1])
    late = store.draws()["alpha"]
    assert early.data_ptr() == late.data_ptr() and late.shape == (CHAINS, 2, 5)


@pytest.mark.parametrize("many", [True, False])
def test_draws_may_be_kept_in_single_precision(many: bool) -> None:
    values, density = made()
    store = Store(one(values, 0), tuple(SHAPES), DRAWS, torch.float32)
    if many:
        store.fill(values, density, 0)
        store.filled(DRAWS)
    else:
        for k in range(DRAWS):
            store.keep(one(values, k), density[k])
    assert_holds(store, {name: x.float() for name, x in values.items()}, density.float(), DRAWS)
    assert store.log_density().dtype == store.draws()["mu"].dtype == torch.float32


# Thinning


def numbered(start: int, end: int) -> tuple[dict[str, Tensor], Tensor]:
    """Draws whose every value is their number, counted from 1."""
    number = torch.arange(start + 1.0, end + 1.0, dtype=torch.float64)
    values = {
        name: number.reshape(-1, 1, *(1,) * len(shape)).expand(-1, CHAINS, *shape) for name, shape in SHAPES.items()
    }
    return values, number[:, None].expand(-1, CHAINS)


def assert_evenly_thinned(store: Store, number: int, room: int) -> None:
    """Of so many draws every k-th is there, k the least power of 2 for which there is room."""
    k = 1
    while number // k > room:
        k *= 2
    expected = torch.arange(k, number + 1, k, dtype=torch.float64)
    assert store.interval == k and store.n_draws == len(expected) <= room
    assert number <= room or store.n_draws >= room // 2
    for x in (*store.draws().values(), store.log_density()):
        assert torch.equal(x, expected.reshape(1, -1, *(1,) * (x.dim() - 2)).expand(x.shape))


@pytest.mark.parametrize("room", [1, 2, 5, 8])
def test_a_run_of_any_length_fits_into_the_room_evenly_thinned(room: int) -> None:
    values, density = numbered(0, 1)
    store = Store(one(values, 0), tuple(SHAPES), room)
    for t in range(70):
        values, density = numbered(t, t + 1)
        store.keep(one(values, 0), density[0])
        assert_evenly_thinned(store, t + 1, room)


@pytest.mark.parametrize("portions", [(3, 4, 1, 20, 2, 40), (70,), (5, 0, 65), (1,) * 20])
def test_portions_are_thinned_as_single_draws_are(portions: tuple[int, ...]) -> None:
    store, done = Store(one(numbered(0, 1)[0], 0), tuple(SHAPES), 6), 0
    for portion in portions:
        chosen = store.wanted(portion)
        values, density = numbered(done, done + portion)
        end = store.n_draws + len(chosen)
        store.fill({n: x[chosen.start :: chosen.step] for n, x in values.items()}, density[list(chosen)], store.n_draws)
        store.filled(end)
        done += portion
        assert_evenly_thinned(store, done, 6)


def test_draws_that_are_looked_at_stay_as_they_are_when_others_take_their_place() -> None:
    store = Store(one(numbered(0, 1)[0], 0), tuple(SHAPES), 4)
    for t in range(4):
        store.keep(one(numbered(t, t + 1)[0], 0), numbered(t, t + 1)[1][0])
    seen, density = store.draws(), store.log_density()
    for t in range(4, 40):
        store.keep(one(numbered(t, t + 1)[0], 0), numbered(t, t + 1)[1][0])
    assert torch.equal(seen["mu"][0, :, 0], torch.arange(1.0, 5.0, dtype=torch.float64))
    assert torch.equal(density[0], torch.arange(1.0, 5.0, dtype=torch.float64))


@pytest.mark.parametrize("portions", [(1,) * 70, (3, 4, 1, 20, 2, 40), (70,), (5, 0, 65)])
@pytest.mark.parametrize("most", [12, 70, 100, float("inf")])
def test_the_room_grows_as_far_as_it_may_before_draws_are_thinned(most: float, portions: tuple[int, ...]) -> None:
    store, done = Store(one(numbered(0, 1)[0], 0), tuple(SHAPES), 5, most=most), 0
    for portion in portions:
        before, seen = done, store.draws()
        known = {name: x.clone() for name, x in seen.items()}
        chosen = store.wanted(portion)
        values, density = numbered(done, done + portion)
        end = store.n_draws + len(chosen)
        store.fill({n: x[chosen.start :: chosen.step] for n, x in values.items()}, density[list(chosen)], store.n_draws)
        store.filled(end)
        done += portion
        assert_evenly_thinned(store, done, int(min(most, 10**6)))
        assert before == 0 or all(torch.equal(x, known[name]) for name, x in seen.items())
    assert store.interval == (8 if most == 12 else 1)


# Acceptance


def info(accept: Tensor, nan: int = 0) -> Info:
    return Info(accept, torch.tensor(nan), None)


def test_acceptance_is_averaged_by_block_over_sweeps_and_repeats() -> None:
    """A sweep runs block 0 once, block 1 twice, and block 0 again."""
    rates = np.random.default_rng(1).random((10, 4, CHAINS, 1))
    acceptance = Acceptance((0, 1, 1, 0))
    windows = []
    for start, end, sampling in ((0, 3, False), (3, 5, True), (5, 10, True)):
        for t in range(start, end):
            acceptance.add([info(torch.from_numpy(x), t) for x in rates[t]])
        windows.append(acceptance.window(sampling=sampling))
        part = rates[start:end]
        np.testing.assert_allclose(windows[-1][0], part[:, [0, 3]].mean((0, 1)))
        np.testing.assert_allclose(windows[-1][1], part[:, [1, 2]].mean((0, 1)))
    total = acceptance.rates()
    np.testing.assert_allclose(total[0], rates[3:, [0, 3]].mean((0, 1)))
    np.testing.assert_allclose(total[1], rates[3:, [1, 2]].mean((0, 1)))
    assert acceptance.nans() == 4 * sum(range(10))  # of warm-up as well
    assert {k: int(n) for k, n in acceptance.nan.items()} == {0: 2 * 45, 1: 2 * 45}


def test_acceptance_by_group() -> None:
    acceptance = Acceptance((0, 1))
    for t in range(4):
        acceptance.add([info(torch.full((CHAINS, 5), t / 4)), info(torch.full((CHAINS, 1), 1.0))])
    found = acceptance.window(sampling=True)
    assert found[0].shape == (CHAINS, 5) and bool((found[0] == 0.375).all())
    assert found[1].shape == (CHAINS, 1) and bool((found[1] == 1.0).all())


def test_a_window_without_sweeps_changes_nothing() -> None:
    """As at the end of a run that is interrupted between windows."""
    acceptance = Acceptance((0,))
    acceptance.add([info(torch.full((CHAINS, 1), 0.5))])
    acceptance.window(sampling=True)
    assert acceptance.window(sampling=True) == {}
    assert torch.equal(acceptance.rates()[0], torch.full((CHAINS, 1), 0.5))


def test_nothing_is_known_before_the_first_sweep() -> None:
    acceptance = Acceptance((0,))
    assert acceptance.nans() == 0 and acceptance.rates() == {} and acceptance.window(sampling=True) == {}
