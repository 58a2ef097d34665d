"""Effects drawn again, their moments, and densities by group, against dense algebra.

Note [Whitened draws]
Given scales and coefficients the effects are normal with a mean and covariance that dense algebra gives. Draws that are
whitened by these are independent standard normals, which is tested by their means, their variances and their products,
each of all numbers together by a chi-square, two-sided, at an error rate of 1e-3 a call (Bonferroni).
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from builders import KnownScales
from scipy import stats
from torch import Tensor
from torch.distributions import Normal
from zoo import Example, Intercepts, collapsed, dense, example, log_group

import hiertorch as ht
from hiertorch.errors import DataError, UnknownNameError
from hiertorch.gaussian import redraw
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.redraw import Redraw
from hiertorch.posterior import Posterior

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
Sample = Callable[..., Posterior]
ALPHA = 1e-3
SCHOOLS = ["Zoo", "Abbey", "Mill", "Beacon", "Quay"]  # not in alphabetical order
CASES = [
    "varying_intercepts",
    "correlated_2",
    "effects_alone",
    "held_mean",
    "non_centred",
    "empty_groups",
    "conditional",
]
SEVERAL = ["nested_2", "nested_3", "nested_added", "nested_slopes", "crossed", "crossed_slopes", "three_groupings"]


def found(name: str) -> tuple[Example, Collapsed]:
    return example(name), collapsed(name)


def effects_of(case: Example) -> tuple[str, ...]:
    return tuple(name for name in case.linear if case.model.latents[name].plate is not None)


def population(case: Example, chains: int, seed: int = 3) -> dict[str, Tensor]:
    """All latents without a plate, drawn from their prior: `(chains, 1, *event)`."""
    drawn = case.model.sample_prior(case.data, chains, torch.Generator().manual_seed(seed))
    return {name: x for name, x in drawn.items() if case.model.latents[name].plate is None}


def repeated(values: Mapping[str, Tensor], chains: int, draws: int) -> dict[str, Tensor]:
    """One chain's values as every draw of a run, `(chains, draws, 1, *event)`."""
    return {name: x[:1].unsqueeze(0).expand(chains, draws, *x.shape[1:]) for name, x in values.items()}


def flat(parts: Mapping[str, Tensor]) -> np.ndarray:
    """`(draws of all chains, numbers)`."""
    return torch.cat([x.flatten(0, 1).flatten(1) for x in parts.values()], 1).double().numpy()


def p_values(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> list[float]:
    """See Note [Whitened draws]; `(n, d)`, `(d,)` and `(d, d)`."""
    n, d = x.shape
    lower = np.linalg.cholesky(covariance.astype(float))
    z = np.linalg.solve(lower, (x - mean.astype(float)).T).T
    products = (z.T @ z / n)[np.tril_indices(d, -1)]
    squares = [(z.mean(0) * n**0.5, d), (((z**2).mean(0) - 1) * (n / 2) ** 0.5, d), (products * n**0.5, len(products))]
    cdfs = [stats.chi2(df).cdf((score**2).sum()) for score, df in squares if df]
    return [2 * min(p, 1 - p) for p in cdfs]


def assert_normal(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> None:
    p = p_values(x, mean, covariance)
    assert min(p) > ALPHA / len(p), f"p-values of means, variances, products: {p}"


# Draws


@pytest.mark.parametrize("name", CASES + SEVERAL)
def test_effects_have_their_conditional_mean_and_covariance(name: str) -> None:
    case, collapsed = found(name)
    values, names = population(case, 1), effects_of(case)
    expected = dense(case.model, case.data, values, names)
    drawn = Redraw(collapsed, repeated(values, 4, 600), 5).draws(names)
    shapes = {n: x.shape for n, x in case.model.sample_prior(case.data, 1).items()}
    assert {n: tuple(x.shape) for n, x in drawn.items()} == {n: (4, 600, *shapes[n][1:]) for n in names}
    assert_normal(flat(drawn), expected.mean[0], expected.covariance[0])


def test_wrong_moments_are_noticed() -> None:
    case, collapsed = found("varying_intercepts")
    values, names = population(case, 1), effects_of(case)
    right = dense(case.model, case.data, values, names)
    x = flat(Redraw(collapsed, repeated(values, 4, 600), 5).draws(names))
    mean, covariance = right.mean[0], right.covariance[0]
    for wrong in ((mean + 0.1 * covariance.diagonal() ** 0.5, covariance), (mean, 1.1 * covariance)):
        assert min(p_values(x, *wrong)) < 1e-4
    assert min(p_values(np.concatenate([x[:, 1:], x[:, :1]], 1), mean, covariance)) < 1e-4


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("varying_intercepts", {"school": [4, 0, 5]}),
        ("correlated_2", {"school": [3]}),
        ("conditional", {"school": [2, 1]}),
        ("nested_2", {"room": [13, 2, 4]}),
        ("nested_2", {"room": [13, 2, 4], "school": [7, 1]}),
        ("nested_2", {"school": [7, 1]}),
        ("nested_3", {"room": [5, 6], "district": [1]}),
        ("crossed", {"school": [5, 2]}),
        ("crossed", {"rater": [1, 0]}),
        ("crossed_slopes", {"school": [4], "rater": [3]}),
        ("three_groupings", {"room": [9, 0], "rater": [2, 4]}),
    ],
)
def test_some_groups_alone_have_the_same_joint_law(name: str, wanted: dict[str, list[int]]) -> None:
    """Of several latents, in the order asked for; those of plates not named here are drawn whole."""
    case, collapsed = found(name)
    values, names = population(case, 1), effects_of(case)
    expected, chosen, start = dense(case.model, case.data, values, names), [], 0
    for latent in names:
        shape = case.model.sample_prior(case.data, 1)[latent].shape[1:]
        codes = wanted.get(str(case.model.latents[latent].plate), range(shape[0]))
        chosen.append((start + np.arange(shape.numel()).reshape(shape[0], -1))[list(codes)].flatten())
        start += shape.numel()
    at = np.concatenate(chosen)
    groups = {plate: torch.tensor(codes) for plate, codes in wanted.items()}
    drawn = Redraw(collapsed, repeated(values, 3, 900), 6).draws(names, groups)
    assert_normal(flat(drawn), expected.mean[0][at], expected.covariance[0][np.ix_(at, at)])


@pytest.mark.slow
def test_every_draw_has_the_law_that_its_own_population_gives() -> None:
    """Whitened by its own mean and covariance, each of 12 x 40 draws of other scales and coefficients."""
    case, collapsed = found("mixed_effects")
    values, names = population(case, 480), effects_of(case)
    stored = {n: x.unflatten(0, (12, 40)) for n, x in values.items()}
    drawn = flat(Redraw(collapsed, stored, 7).draws(names))
    expected = dense(case.model, case.data, values, names)
    mean, covariance = expected.mean.astype(float), expected.covariance.astype(float)
    z = np.linalg.solve(np.linalg.cholesky(covariance), (drawn - mean)[..., None])[..., 0]
    assert_normal(z, np.zeros(z.shape[1]), np.eye(z.shape[1]))


def test_the_same_groups_asked_for_again_are_the_same() -> None:
    case, collapsed = found("nested_2")
    stored = repeated(population(case, 1), 2, 30)
    one, other = Redraw(collapsed, stored, 8), Redraw(collapsed, stored, 9)
    groups = {"room": torch.tensor([3, 1])}
    assert torch.equal(one.draws(["room"], groups)["room"], one.draws(["room"], groups)["room"])
    assert not torch.equal(one.draws(["room"], groups)["room"], other.draws(["room"], groups)["room"])


def test_torchs_own_generator_is_left_alone() -> None:
    case, collapsed = found("nested_2")
    before = torch.get_rng_state()
    made = Redraw(collapsed, repeated(population(case, 1), 2, 30), 8)
    made.draws(["room"]), made.moments("room")
    assert torch.equal(torch.get_rng_state(), before)


# Moments


def expected_moments(case: Example, values: Mapping[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of the mixture over draws of the population, by dense algebra."""
    given = dense(case.model, case.data, values, effects_of(case))
    within = np.diagonal(given.covariance, axis1=1, axis2=2).mean(0)
    return given.mean.mean(0).astype(float), np.sqrt(within + given.mean.var(0)).astype(float)


@pytest.mark.parametrize("name", ["varying_intercepts", "correlated_2", "correlated_3", "effects_alone", "held_mean"])
@pytest.mark.parametrize("numbers", [redraw.NUMBERS, 200])
def test_moments_are_mixtures_of_conditional_ones(name: str, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly so with one grouping: nothing is drawn for them."""
    monkeypatch.setattr(redraw, "NUMBERS", numbers)
    case, collapsed = found(name)
    values, (latent,) = population(case, 60), effects_of(case)
    mean, sd = Redraw(collapsed, {n: x.unflatten(0, (4, 15)) for n, x in values.items()}, 5).moments(latent)
    expected = expected_moments(case, values)
    assert mean.shape == sd.shape == case.model.sample_prior(case.data, 1)[latent].shape[1:]
    np.testing.assert_allclose(mean.flatten(), expected[0], rtol=1e-8, atol=1e-8 * expected[1].max())
    np.testing.assert_allclose(sd.flatten(), expected[1], rtol=1e-7)


def test_moments_of_very_many_groups_are_those_of_fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    case, collapsed = found("correlated_2")
    values, (latent,) = population(case, 150), effects_of(case)
    made, few = Redraw(collapsed, {n: x.unsqueeze(0) for n, x in values.items()}, 5), torch.arange(10) * 149 // 9
    for draws, some in ((redraw.MOMENT_DRAWS, values), (10, {n: x[few] for n, x in values.items()})):
        monkeypatch.setattr(redraw, "MOMENT_NUMBERS", draws * collapsed.composed.part[latent].size * 2)
        monkeypatch.setattr(redraw, "FEWER_DRAWS", 10)
        for one, other in zip(made.moments(latent), expected_moments(case, some), strict=True):
            np.testing.assert_allclose(one.flatten(), other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", SEVERAL)
def test_moments_with_several_groupings(name: str) -> None:
    """Within Monte Carlo error of 1,000 draws, those of the finer levels given drawn coarser ones."""
    case, collapsed = found(name)
    values = population(case, 1)
    made = Redraw(collapsed, repeated(values, 4, 500), 5)
    mean, sd = expected_moments(case, values)
    found_mean, found_sd = (
        np.concatenate([made.moments(latent)[k].flatten().numpy() for latent in effects_of(case)]) for k in (0, 1)
    )
    bound = stats.norm.isf(ALPHA / 4 / len(mean))
    assert (np.abs(found_mean - mean) <= bound * sd / redraw.MOMENT_DRAWS**0.5 + 1e-9 * np.abs(mean)).all()
    assert (np.abs(found_sd / sd - 1) <= bound / (2 * redraw.MOMENT_DRAWS) ** 0.5 + 1e-9).all()


def test_a_mean_far_from_0_costs_no_digits_of_the_sd() -> None:
    case, collapsed = found("large_mean")
    values = population(case, 1) | {"mu": torch.full((1, 1), 1e6, dtype=torch.float64)}
    mean, sd = Redraw(collapsed, repeated(values, 2, 20), 5).moments("alpha")
    expected = expected_moments(case, values)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-10)
    np.testing.assert_allclose(sd, expected[1], rtol=1e-4)


# Densities by group


@pytest.mark.parametrize("name", ["varying_intercepts", "correlated_2", "effects_alone", "row_weights", "known_errors"])
def test_log_densities_by_group_integrate_their_own_effects_out(name: str) -> None:
    case, collapsed = found(name)
    values = population(case, 6)
    stored = {n: x.unflatten(0, (2, 3)) for n, x in values.items()}
    zeros = {n: x for n, x in case.model.sample_prior(case.data, 6).items() if n not in values}
    expected = log_group(case.model, case.data, {**values, **zeros}, case.linear, "school")
    terms = Redraw(collapsed, stored, 5).log_group("school", stored)
    assert terms.shape == (2, 3, case.data.size("school"))
    np.testing.assert_allclose(terms.flatten(0, 1), expected.astype(float), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["nested_2", "crossed", "three_groupings"])
@pytest.mark.parametrize("numbers", [redraw.NUMBERS, 1])
def test_effects_of_other_plates_are_drawn_again_or_taken_as_stored(
    name: str, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, collapsed = found(name)
    values = population(case, 6)
    stored = {n: x.unflatten(0, (2, 3)) for n, x in values.items()}
    made = Redraw(collapsed, stored, 5)
    every = {**made.draws(effects_of(case)), **stored}
    for plate in {str(case.model.latents[latent].plate) for latent in effects_of(case)}:
        inner = {n for n in effects_of(case) if case.data.nests(str(case.model.latents[n].plate), plate)}
        outer = tuple(n for n in effects_of(case) if n not in inner)
        again = {**every, **(made.draws(outer) if outer else {})}
        for given, all_of in ((stored, again), (every, every)):
            expected = log_group(
                case.model, case.data, {n: x.flatten(0, 1) for n, x in all_of.items()}, case.linear, plate
            )
            with monkeypatch.context() as patch:
                patch.setattr(redraw, "NUMBERS", numbers)
                if numbers == 1 and given is stored and outer:
                    continue  # numbers are drawn in another order
                terms = made.log_group(plate, given)
            np.testing.assert_allclose(terms.flatten(0, 1), expected.astype(float), rtol=1e-9, atol=1e-9)


# What a posterior gives


def pupils() -> ht.Data:
    rng = np.random.default_rng(4)
    code = np.append(np.arange(5), rng.integers(4, size=19))
    x = rng.normal(size=24)
    y = np.array([2.0, -1.0, 0.5, 1.0, 3.0])[code] + 0.5 * x + 0.7 * rng.normal(size=24)
    frame = pd.DataFrame(
        {"y": y, "x": x, "school": pd.Categorical.from_codes(code, SCHOOLS), "day": rng.integers(3, size=24)}
    )
    return ht.Data.from_frame(frame.astype({"school": object}), "y", groups=["school", "day"], predictors=["x"])


POPULATION = {Intercepts: ["mu", "beta", "sigma_y", "sigma_a"], KnownScales: ["mu", "beta"]}


@cache
def fitted(model: type[ht.Model], keep: bool, **options: Any) -> Posterior:
    names = None if keep else POPULATION[model]
    settings: dict[str, Any] = {"chains": 8, "draws": 400, "seed": 3, "progress": False, **options}
    return ht.sample(model(), pupils(), keep=names, **settings)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("labels", [None, ["Quay", "Abbey", "Beacon"]])
def test_effects_and_coefficients_have_their_joint_law(keep: bool, labels: list[str] | None) -> None:
    """Stored, or drawn again given the coefficients that were: independent draws of one normal distribution."""
    posterior, data = fitted(KnownScales, keep), pupils()
    expected = dense(KnownScales(), data, {}, ("mu", "beta", "alpha"))
    codes = [list(data.labels["school"]).index(label) for label in labels or data.labels["school"]]
    at = np.array([0, 1, *(2 + code for code in codes)])
    effects = posterior.redraw("alpha", labels)
    assert effects.shape == (8, 400, len(codes))
    joint = {"mu": posterior.draws["mu"], "beta": posterior.draws["beta"], "alpha": effects}
    assert_normal(flat(joint), expected.mean[0][at], expected.covariance[0][np.ix_(at, at)])


def test_what_is_stored_is_what_redraw_gives() -> None:
    posterior = fitted(Intercepts, True)
    assert torch.equal(posterior.redraw("alpha"), posterior["alpha"])
    some = posterior.redraw("alpha", ["Mill", "Zoo"])
    assert torch.equal(some[:, :, 0], posterior.group("alpha", "Mill"))
    assert torch.equal(some[:, :, 1], posterior.group("alpha", "Zoo"))


def test_a_group_named_twice_is_drawn_once() -> None:
    for posterior in (fitted(Intercepts, True), fitted(Intercepts, False)):
        twice = posterior.redraw("alpha", ["Mill", "Zoo", "Mill"])
        assert torch.equal(twice[..., 0], twice[..., 2]) and not torch.equal(twice[..., 0], twice[..., 1])


def test_stored_and_drawn_again_agree() -> None:
    """Two runs of 8 x 400 draws of one posterior: their means and sds differ by Monte Carlo errors."""
    stored, again = fitted(Intercepts, True), fitted(Intercepts, False)
    summary = stored.summary("alpha")
    one, other = stored.effects("alpha"), again.effects("alpha")
    assert list(one.columns) == list(other.columns) == ["mean", "sd"]
    assert list(one.index) == list(other.index) == list(summary.index)
    pd.testing.assert_frame_equal(one, summary[["mean", "sd"]], check_exact=True)
    assert ((one - other)["mean"].abs() < 6 * summary["mcse_mean"]).all()
    assert ((one - other)["sd"].abs() < 6 * summary["mcse_sd"]).all()
    redrawn = again.redraw("alpha").flatten(0, 1)
    assert ((other["mean"] - redrawn.mean(0).numpy()).abs() < 6 * summary["mcse_mean"]).all()


def test_rows_of_effects_carry_the_right_labels() -> None:
    mean = fitted(Intercepts, False).effects("alpha")["mean"]
    assert set(mean.index) == {f"alpha[{label}]" for label in SCHOOLS}
    assert mean["alpha[Quay]"] > mean["alpha[Zoo]"] > mean["alpha[Abbey]"]
    posterior = fitted(Intercepts, False)
    for label in SCHOOLS:
        drawn = posterior.redraw("alpha", [label]).mean().item()
        assert drawn == pytest.approx(mean[f"alpha[{label}]"], abs=0.1)


def test_effects_of_vectors_have_a_row_for_each_number(sample: Sample) -> None:
    case = example("correlated_2")
    keep = [name for name in case.model.latents if name != "effects"]
    posterior = sample(case.model, case.data, collapse=True, keep=keep, chains=4, draws=50, seed=1)
    table, groups = posterior.effects("effects"), list(posterior.labels["school"])
    assert list(table.index) == [f"effects[{label}, {k}]" for label in groups for k in (0, 1)]
    assert posterior.redraw("effects", groups[:2]).shape == (4, 50, 2, 2)


def test_log_marginal_of_a_posterior() -> None:
    data = pupils()
    for posterior in (fitted(Intercepts, True), fitted(Intercepts, False)):
        terms = posterior.log_marginal("school")
        assert terms.shape == (8, 400, 5)
        some = {name: x[:1, ::100].flatten(0, 1) for name, x in posterior.draws.items()}
        some["alpha"] = torch.zeros(4, 5, dtype=torch.float64)
        expected = log_group(Intercepts(), data, some, ("mu", "beta", "alpha"), "school")
        np.testing.assert_allclose(terms[0, ::100], expected.astype(float), rtol=1e-9, atol=1e-9)


# What can't be had


def test_effects_that_were_not_stored_have_no_draws_by_name() -> None:
    posterior = fitted(Intercepts, False)
    assert "alpha" not in posterior and "not stored, drawn again by redraw(): alpha" in repr(posterior)
    for lookup in (
        lambda: posterior["alpha"],
        lambda: posterior.group("alpha", "Mill"),
        lambda: posterior.summary("alpha"),
    ):
        with pytest.raises(
            UnknownNameError, match=r"draws of 'alpha' were not stored: posterior.effects\('alpha'\) has"
        ):
            lookup()
    assert list(posterior.summary().index) == POPULATION[Intercepts]
    assert posterior.to_arviz()["posterior"].data_vars.keys() == set(POPULATION[Intercepts])


@pytest.mark.parametrize("keep", [True, False])
def test_names_and_labels_that_are_none(keep: bool) -> None:
    posterior = fitted(Intercepts, keep)
    with pytest.raises(UnknownNameError, match=r"'school' has no group 'Milk'. Closest of its 5 labels: 'Mill'"):
        posterior.redraw("alpha", ["Zoo", "Milk"])
    with pytest.raises(UnknownNameError, match=r"'mu' has no groups to draw again; use posterior\['mu'\]"):
        posterior.redraw("mu")
    for lookup in (posterior.redraw, posterior.effects):
        with pytest.raises(UnknownNameError, match="the posterior has no latent 'gamma'; it has mu, "):
            lookup("gamma")
    assert list(posterior.effects("mu").index) == ["mu"]
    assert posterior.redraw("alpha", []).shape == (8, 400, 0)


@pytest.mark.parametrize("keep", [True, False])
def test_densities_of_groupings_without_effects(keep: bool) -> None:
    with pytest.raises(DataError, match="no effects vary over 'day'; there are school"):
        fitted(Intercepts, keep).log_marginal("day")


def test_a_run_by_ordinary_moves_has_no_closed_form(sample: Sample) -> None:
    posterior = sample(Intercepts(), pupils(), chains=4, warmup=20, draws=10, keep=["mu"], seed=1)
    with pytest.raises(DataError, match="has a closed form only where effects were integrated out"):
        posterior.log_marginal("school")
    with pytest.raises(UnknownNameError, match="the posterior has no latent 'alpha'; it has mu"):
        posterior.redraw("alpha")


def test_a_file_without_rows_does_not_hold_what_draws_again(tmp_path: Path) -> None:
    posterior = fitted(Intercepts, False)
    posterior.save(tmp_path / "a", data=False)
    again = Posterior.load(tmp_path / "a")
    with pytest.raises(DataError, match="the draws of 'alpha' were not stored; they can be drawn again with the model"):
        again.redraw("alpha")
    with pytest.raises(DataError, match="or was loaded from a file"):
        again.log_marginal("school")
    fitted(Intercepts, True).save(tmp_path / "b")
    whole = Posterior.load(tmp_path / "b")
    pd.testing.assert_frame_equal(whole.effects("alpha"), fitted(Intercepts, True).effects("alpha"))


class Tied(Intercepts):
    """centre ~ Normal(average of alpha_j, 1)."""

    centre = ht.Latent(lambda v: Normal(v.alpha.mean(1, keepdim=True), 1.0))


def test_groups_that_a_prior_ties_have_no_density_of_their_own(sample: Sample) -> None:
    posterior = sample(Tied(), pupils(), collapse=True, chains=4, draws=10, seed=1)
    with pytest.raises(DataError, match="ties the groups of 'school'"):
        posterior.log_marginal("school")


def test_single_precision(sample: Sample) -> None:
    """Of a run in single precision, in which what is integrated out is computed in double precision."""
    exact = fitted(Intercepts, False)
    posterior = fitted(Intercepts, False, dtype=torch.float32)
    assert {x.dtype for x in posterior.draws.values()} == {torch.float32}
    drawn = posterior.redraw("alpha", ["Mill", "Quay"])
    assert drawn.dtype == torch.float32 and drawn.shape == (8, 400, 2)
    torch.testing.assert_close(drawn, exact.redraw("alpha", ["Mill", "Quay"]).float(), rtol=1e-3, atol=1e-3)
    table = posterior.effects("alpha")
    np.testing.assert_allclose(table, exact.effects("alpha"), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(posterior.log_marginal("school"), exact.log_marginal("school"), rtol=1e-2, atol=1e-2)
