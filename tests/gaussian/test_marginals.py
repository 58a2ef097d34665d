"""Densities by group against dense algebra and closed forms, for every structure of the zoo."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Gamma, Normal, StudentT
from zoo import (
    SIZES,
    ZOO,
    EffectsAlone,
    Example,
    HeldMean,
    Intercepts,
    Pooled,
    ThreeLevels,
    codes,
    collapsed,
    collapsed_of,
    example,
    log_group,
    nested,
    rows,
    schools,
    simulated,
)

import hiertorch as ht
from hiertorch.errors import DataError
from hiertorch.gaussian import marginals
from hiertorch.gaussian.affine import NotAffine
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.marginals import Marginals

CHAINS = 3


@cache
def built(name: str) -> tuple[Example, Collapsed, Marginals]:
    return example(name), collapsed(name), Marginals(collapsed(name).affine)


def from_prior(case: Example, chains: int = CHAINS) -> dict[str, Tensor]:
    return dict(case.model.sample_prior(case.data, chains, torch.Generator().manual_seed(8)))


def from_posterior(case: Example, found: Collapsed) -> dict[str, Tensor]:
    """The rest from its prior, all else given that and the response."""
    rest = case.draw(CHAINS, seed=5)
    generator = torch.Generator().manual_seed(1)
    return {**rest, **found.draw(rest, torch.randn(found.n_noise, CHAINS, dtype=torch.float64, generator=generator))}


def plates(case: Example) -> list[str]:
    return sorted({plate for name in case.linear if (plate := case.model.latents[name].plate) is not None})


def assert_dense(case: Example, found: Marginals, values: Mapping[str, Tensor], *over: str) -> None:
    for plate in over or plates(case):
        terms = found.log_group(values, plate)
        expected = log_group(case.model, case.data, values, case.linear, plate).astype(float)
        assert terms.shape == expected.shape and terms.dtype == torch.float64
        assert terms.numpy() == pytest.approx(expected, rel=1e-9, abs=1e-9), plate


# Values


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_grouping_of_the_zoo_at_draws_from_the_prior(name: str) -> None:
    case, _, found = built(name)
    assert_dense(case, found, from_prior(case))


@pytest.mark.parametrize("name", ZOO)
def test_every_grouping_of_the_zoo_at_draws_from_the_posterior(name: str) -> None:
    case, whole, found = built(name)
    assert_dense(case, found, from_posterior(case, whole))


def test_one_grouping_is_a_multivariate_normal_of_each_group() -> None:
    """y_j ~ Normal(mu + beta x_j, sigma_a^2 + sigma_y^2 I)."""
    case, _, found = built("varying_intercepts")
    values = from_prior(case)
    terms, data = found.log_group(values, "school"), case.data
    for b in range(CHAINS):
        mu, beta, between, within = (float(values[name][b, 0]) for name in ("mu", "beta", "sigma_a", "sigma_y"))
        for j, size in enumerate(SIZES):
            inside = data.school == j
            mean = mu + beta * data.x[inside].numpy()
            covariance = between**2 + within**2 * np.eye(size)
            expected = stats.multivariate_normal.logpdf(data.y[inside].numpy(), mean, covariance)
            assert float(terms[b, j]) == pytest.approx(expected, rel=1e-10)


class AllHeld(HeldMean):
    """Coefficients that are sampled: beta ~ StudentT(4)."""

    beta = ht.Latent(StudentT(4.0))


class DistrictsAlone(ThreeLevels):
    """Three levels about 0, and no coefficient of the population."""

    mu = None  # type: ignore[assignment]
    beta = None  # type: ignore[assignment]
    district = ht.Latent(lambda v: Normal(0.0, v.sigma_district), plate="district")

    def likelihood(self, v, data):
        return Normal(v.room[:, data.room], v.sigma_y)


@pytest.mark.parametrize(
    ("model", "data", "linear", "coarsest"),
    [
        (EffectsAlone(), schools(3), "alpha", "school"),
        (AllHeld(), schools(3), "alpha", "school"),
        (DistrictsAlone(), nested(3), "district school room", "district"),
    ],
)
def test_groups_add_up_where_no_more_is_integrated(model: ht.Model, data: ht.Data, linear: str, coarsest: str) -> None:
    case = simulated(3, model, data, linear)
    found, values = collapsed_of(case.model, case.data), from_prior(case)
    assert found.linear == case.linear
    terms = Marginals(found.affine).log_group(values, coarsest).sum(1)
    rest = {name: values[name] for name in case.rest}
    assert terms.numpy() == pytest.approx(found.log_marginal(rest).numpy(), rel=1e-11)


@pytest.mark.parametrize("name", ["mixed_effects", "nested_3", "three_groupings"])
def test_values_that_are_integrated_out_make_no_difference(name: str) -> None:
    case, _, found = built(name)
    values = from_prior(case)
    for plate in plates(case):
        own = [n for n in case.linear if (p := case.model.latents[n].plate) and case.data.nests(p, plate)]
        others = {**values, **{n: values[n] + 7.0 for n in own}}
        assert torch.equal(found.log_group(others, plate), found.log_group(values, plate))
        moved = {**values, "beta": values["beta"] + 7.0}
        assert not torch.allclose(found.log_group(moved, plate), found.log_group(values, plate))


# Plates that cross each other within a coarser one


class Within(Pooled):
    """Rooms and raters of a district, crossed there: y ~ Normal(mu + beta x + room + effects_rater' (1, z), sigma_y).

    room ~ Normal(district of the room, spread_room sigma_room),  district ~ Normal(0, sigma_district).
    """

    sigma_district = ht.Latent(Gamma(2.0, 2.0))
    sigma_room = ht.Latent(Gamma(2.0, 2.0))
    tau = ht.Latent(Gamma(2.0, 2.0), event=2)
    district = ht.Latent(lambda v: Normal(0.0, v.sigma_district), plate="district")
    room = ht.Latent(
        lambda v, data: Normal(
            v.district[:, data.parents("room", "district")], v.sigma_room * data.group_values("room_spread", "room")
        ),
        plate="room",
    )
    effects = ht.Latent(Normal(0.0, 1.0), plate="rater", event=2)

    def rater(self, v, data):
        return (v.tau * v.effects)[:, data.rater]

    def likelihood(self, v, data):
        mean = v.mu + v.beta * data.x + v.room[:, data.room] + (self.rater(v, data) * data.z[:, :2]).sum(-1)
        return Normal(mean, v.sigma_y)


class WithinPairs(Within):
    """The same with an effect of each pair of a room and a rater."""

    sigma_pair = ht.Latent(Gamma(2.0, 2.0))
    pair = ht.Latent(lambda v: Normal(0.0, v.sigma_pair), plate="pair")

    def likelihood(self, v, data):
        base = super().likelihood(v, data)
        return Normal(base.loc + v.pair[:, data.pair], base.scale)


def within() -> ht.Data:
    """90 rows of 9 rooms and 8 raters in 3 districts of unequal numbers of both."""
    rng = np.random.default_rng(4)
    room = codes(rng, (10,) * 9)
    district = np.array([0, 2, 1, 0, 0, 1, 0, 2, 0])[room]
    first, count = np.array([0, 3, 4]), np.array([3, 1, 4])
    rater = first[district] + rng.integers(8, size=90) % count[district]
    pair = np.unique(room * 8 + rater, return_inverse=True)[1]
    return rows(4, {"room": room, "rater": rater, "district": district, "pair": pair})


@pytest.mark.parametrize(("model", "more"), [(Within(), ""), (WithinPairs(), " pair")])
def test_plates_that_cross_within_a_plate_are_integrated_together(
    model: ht.Model, more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = simulated(4, model, within(), "mu beta district room effects" + more)
    whole = collapsed_of(case.model, case.data)
    assert whole.linear == case.linear
    found = Marginals(whole.affine)
    for values in (from_prior(case), from_posterior(case, whole)):
        assert_dense(case, found, values, "room", "rater", "district", *more.split())
    monkeypatch.setattr(
        marginals, "MOST_TOGETHER", 3 * 15**2 - 1
    )  # a district has up to 5 rooms and 4 raters of 2 effects
    with pytest.raises(
        NotAffine, match=r"'room', 'rater' cross each other within 'district'.* 675 numbers, more than 674"
    ):
        found.log_group(from_prior(case), "district")


# Rows


def test_groups_without_rows_have_density_1() -> None:
    case, _, found = built("correlated_2_empty")
    terms = found.log_group(from_prior(case), "school")
    empty = case.data.counts("school") == 0
    assert int(empty.sum()) == 3
    assert bool((terms[:, empty] == 0.0).all()) and bool((terms[:, ~empty] != 0.0).all())


def test_rooms_and_schools_that_lose_their_rows() -> None:
    whole = example("nested_3")
    keep = (whole.data.room != 4) & (whole.data.school != 5)
    case = Example(whole.model, whole.data.take(keep.nonzero()[:, 0]), whole.linear, whole.rest)
    found, values = Marginals(collapsed_of(case.model, case.data).affine), from_prior(case)
    assert_dense(case, found, values)
    assert bool((found.log_group(values, "room")[:, 4] == 0.0).all())
    assert bool((found.log_group(values, "school")[:, 5] == 0.0).all())


@pytest.mark.parametrize("name", ["mixed_effects", "two_errors", "crossed_slopes"])
def test_a_weight_of_n_is_n_equal_rows(name: str) -> None:
    case = example(name)
    times = torch.from_numpy(np.random.default_rng(6).integers(4, size=case.data.n_rows))
    every = torch.arange(case.data.n_rows).repeat_interleave(times)
    weighted = Marginals(collapsed_of(case.model, case.data.replace(weights=times)).affine)
    repeated = Marginals(collapsed_of(case.model, case.data.take(every)).affine)
    values = from_prior(case)
    for plate in plates(case):
        expected = repeated.log_group(values, plate).numpy()
        assert weighted.log_group(values, plate).numpy() == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("name", ["mixed_effects", "nested_3", "three_groupings", "two_errors", "row_weights"])
def test_a_pass_in_chunks_is_a_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, whole, found = built(name)
    sizes = []

    def small(data, width):
        for start in range(0, data.n_rows, 7):
            sizes.append(min(7, data.n_rows - start))
            yield data.rows(start, start + sizes[-1])

    monkeypatch.setattr(marginals, "chunks", small)
    chunked, values = Marginals(whole.affine), from_posterior(case, whole)
    assert sum(sizes) == case.data.n_rows and len(sizes) > 3
    for plate in plates(case):
        expected = found.log_group(values, plate).numpy()
        assert chunked.log_group(values, plate).numpy() == pytest.approx(expected, rel=1e-12, abs=1e-12)


class Watched(Intercepts):
    """Counts the rows that it reads."""

    seen = 0

    def likelihood(self, v, data):
        self.seen += data.n_rows
        return super().likelihood(v, data)


def test_rows_are_not_read_again() -> None:
    case = simulated(1, Watched(), schools(1), "mu beta alpha")
    assert isinstance(case.model, Watched)
    found = Marginals(collapsed_of(case.model, case.data).affine)
    before = case.model.seen
    found.log_group(from_prior(case), "school")
    assert case.model.seen - before < 10  # a witness of its scale


# Chains


@pytest.mark.parametrize("name", ["ridge", "nested_shrunk", "three_groupings", "two_errors", "held_mean"])
def test_chains_are_alone_and_together_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, _, found = built(name)
    values = from_prior(case, 7)
    every = {plate: found.log_group(values, plate).numpy() for plate in plates(case)}
    for numbers in (1, 3 * found.cells * 60):
        monkeypatch.setattr(marginals, "BATCH_NUMBERS", numbers)
        for plate, expected in every.items():
            assert found.log_group(values, plate).numpy() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    for plate, expected in every.items():
        alone = found.log_group({name: x[4:5] for name, x in values.items()}, plate).numpy()
        assert alone[0] == pytest.approx(expected[4], rel=1e-12, abs=1e-12)


# What can't be done


class Tied(Intercepts):
    """centre ~ Normal(average of alpha_j, 1)."""

    centre = ht.Latent(lambda v: Normal(v.alpha.mean(1, keepdim=True), 1.0))


def test_groups_that_another_prior_ties_are_refused() -> None:
    case = simulated(1, Tied(), schools(1), "mu beta alpha centre")
    found = Marginals(collapsed_of(case.model, case.data).affine)
    with pytest.raises(NotAffine, match="prior of 'centre' reads 'alpha', which ties the groups of 'school'"):
        found.log_group(from_prior(case), "school")


def test_groupings_without_effects_and_unknown_ones_are_refused() -> None:
    case, _, found = built("nested_2")
    values = from_prior(case)
    with pytest.raises(NotAffine, match="no effects vary over 'district'; they do over: school, room"):
        found.log_group(values, "district")
    with pytest.raises(DataError, match="no grouping 'class'"):
        found.log_group(values, "class")
    case, _, found = built("complete_pooling")
    with pytest.raises(NotAffine, match="no effects vary over 'school'; they do over: no grouping"):
        found.log_group(from_prior(case), "school")
