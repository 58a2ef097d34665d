"""The dense reference for conditionally linear-Gaussian models against closed forms, quadrature and 60 digits."""

import mpmath  # type: ignore[import-untyped]  # comes with torch
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import Gamma, Normal
from zoo import (
    REFUSED,
    SIZES,
    ZOO,
    Affine,
    Intercepts,
    Mixed,
    affine,
    dense,
    example,
    log_group,
    rows,
    schools,
)

import hiertorch as ht
from hiertorch.model.checks import inspect

LARGE = ("large_mean", "large_mean_correlated", "large_predictor")  # beyond what covariances in doubles can hold


M0, OMEGA, TAU, SIGMA = 1.5, 3.0, 0.8, 1.3


class OneWay(ht.Model):
    """y_ij ~ Normal(alpha_j, sigma_y),  alpha_j ~ Normal(mu, TAU),  mu ~ Normal(M0, OMEGA)."""

    mu = ht.Latent(Normal(M0, OMEGA))
    alpha = ht.Latent(lambda v: Normal(v.mu, TAU), plate="school")
    sigma_y = ht.Latent(Gamma(2.0, 2.0))

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school], v.sigma_y)


def scalar(value: float) -> Tensor:
    return torch.full((1, 1), value, dtype=torch.float64)


def test_balanced_one_way_effects() -> None:
    # In the basis of group means and deviations from them y has a diagonal covariance: sigma^2 within groups,
    # sigma^2 + n tau^2 between, sigma^2 + n tau^2 + N omega^2 for the grand mean (Searle, Casella & McCulloch 1992).
    groups, n = 5, 4
    codes = np.repeat(np.arange(groups), n)
    y = np.random.default_rng(0).normal(2.0, 1.5, size=groups * n)
    found = dense(OneWay(), ht.Data(y, groups={"school": codes}), {"sigma_y": scalar(SIGMA)}, ("mu", "alpha"))

    means, total = y.reshape(groups, n).mean(1), groups * n
    within, between, grand = SIGMA**2, SIGMA**2 + n * TAU**2, SIGMA**2 + n * TAU**2 + total * OMEGA**2
    log_marginal = -0.5 * (
        total * np.log(2 * np.pi)
        + groups * (n - 1) * np.log(within)
        + (groups - 1) * np.log(between)
        + np.log(grand)
        + ((y - means[codes]) ** 2).sum() / within
        + n * ((means - y.mean()) ** 2).sum() / between
        + total * (y.mean() - M0) ** 2 / grand
    )
    assert float(found.log_marginal[0]) == pytest.approx(log_marginal, rel=1e-13)
    precision = total / between + OMEGA**-2
    mu = (total * y.mean() / between + M0 / OMEGA**2) / precision
    shrink = n * TAU**2 / between  # the weight of a group's mean beside mu
    assert found.mean[0].astype(float) == pytest.approx([mu, *(shrink * means + (1 - shrink) * mu)], rel=1e-13)
    covariance = np.diag([0.0, *[TAU**2 * (1 - shrink)] * groups])
    slopes = np.array([1.0, *[1 - shrink] * groups])  # of the latents in mu
    covariance += np.outer(slopes, slopes) / precision
    assert found.covariance[0].astype(float) == pytest.approx(covariance, rel=1e-13)


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0]])
def test_two_latents_against_quadrature(weights: list[float] | None) -> None:
    y, w = np.array([0.3, 1.9, 2.2]), np.array(weights or [1.0, 1.0, 1.0])
    data = ht.Data(y, weights=weights, groups={"school": np.zeros(3)})
    found = dense(OneWay(), data, {"sigma_y": scalar(SIGMA)}, ("mu", "alpha"))

    # The trapezoidal rule is exact to rounding for a density that falls off like a normal one.
    mu, alpha = np.linspace(-30, 30, 601)[:, None], np.linspace(-8, 8, 601)
    log_density = stats.norm.logpdf(mu, M0, OMEGA) + stats.norm.logpdf(alpha, mu, TAU)
    log_density += sum(k * stats.norm.logpdf(y_i, alpha, SIGMA) for k, y_i in zip(w, y, strict=True))

    def integral(of: np.ndarray) -> float:
        return float(integrate.trapezoid(integrate.trapezoid(of * np.exp(log_density), alpha), mu[:, 0]))

    evidence = integral(np.ones_like(log_density))
    assert float(found.log_marginal[0]) == pytest.approx(np.log(evidence), rel=1e-12)
    mean = [integral(mu) / evidence, integral(alpha) / evidence]
    assert found.mean[0].astype(float) == pytest.approx(mean, rel=1e-12)
    deviations = [mu - mean[0], alpha - mean[1]]
    covariance = [[integral(a * b) / evidence for a in deviations] for b in deviations]
    assert found.covariance[0].astype(float) == pytest.approx(np.array(covariance), rel=1e-11)


def test_a_covariance_built_by_hand() -> None:
    # cov(y_i, y_k) = omega^2 + [same school] (sigma_a^2 + sigma_b^2 x_i x_k) + 4 x_i x_k + [i = k] sigma_y^2
    sigma_y, sigma_a, sigma_b = 0.6, 1.7, 0.4
    data = schools(3).replace(y=np.random.default_rng(3).normal(size=sum(SIZES)))
    values = {"sigma_y": sigma_y, "sigma_a": sigma_a, "sigma_b": sigma_b}
    found = dense(Mixed(), data, {k: scalar(s) for k, s in values.items()}, ("mu", "beta", "alpha", "b"))
    x, school = data["x"].numpy(), data["school"].numpy()
    products, same = np.outer(x, x), school[:, None] == school
    covariance = 25.0 + 4.0 * products + same * (sigma_a**2 + sigma_b**2 * products) + np.eye(len(x)) * sigma_y**2
    y = data.y.numpy()
    assert float(found.log_marginal[0]) == pytest.approx(stats.multivariate_normal(cov=covariance).logpdf(y), rel=1e-6)
    solved = np.linalg.solve(covariance, y)
    mu_alpha_b = [
        25.0 * solved.sum(),
        *(25.0 * solved.sum() + sigma_a**2 * (solved * (school == j)).sum() for j in range(8)),
    ]
    assert found.mean[0][[0, *range(2, 10)]].astype(float) == pytest.approx(mu_alpha_b, rel=1e-5)


def covariance_form(part: Affine) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and covariance of y given the rest, in doubles, and what row weights add to its log density."""
    inverse = np.linalg.inv(np.eye(len(part.level)) - part.among)
    mean, root = inverse @ part.level, inverse @ part.root
    covariance = part.design @ root @ root.T @ part.design.T + np.diag(part.sd**2 / part.weights)
    # N(y; m, s)^w = N(y; m, s / sqrt(w)) (2 pi s^2)^((1 - w) / 2) / sqrt(w)
    more = ((1 - part.weights) / 2 * np.log(2 * np.pi * part.sd**2) - np.log(part.weights) / 2).sum()
    return part.offset + part.design @ mean, covariance, more


@pytest.mark.parametrize("name", [name for name in ZOO if name not in LARGE])
def test_the_zoo_against_covariances(name: str) -> None:
    case, rest = example(name), example(name).draw(3)
    found = dense(case.model, case.data, rest, case.linear)
    for b, part in enumerate(affine(case.model, case.data, rest, case.linear)):
        mean, covariance, more = covariance_form(part)
        expected = stats.multivariate_normal(mean, covariance).logpdf(part.y) + more
        assert float(found.log_marginal[b]) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_against_the_models_own_density(name: str) -> None:
    """log p(y, u, rest) = log p(y | rest) + log Normal(u; mean, covariance) + log p(rest)."""
    case, rest = example(name), example(name).draw(3)
    model, data = case.model, case.data
    found = dense(model, data, rest, case.linear)
    drawn = model.sample_prior(data, 3, torch.Generator().manual_seed(2))
    mean, factor = found.mean.astype(float), np.linalg.cholesky(found.covariance.astype(float))
    noise = np.random.default_rng(2).normal(size=mean.shape)
    u = mean + (factor @ noise[..., None])[..., 0]
    values, start = dict(rest), 0
    for latent in case.linear:
        shape = drawn[latent].shape[1:]
        values[latent] = torch.from_numpy(u[:, start : start + shape.numel()]).reshape(-1, *shape)
        start += shape.numel()
    diagonal = np.diagonal(factor, axis1=1, axis2=2)
    conditional = -np.log(diagonal).sum(1) - 0.5 * (noise**2).sum(1) - 0.5 * noise.shape[1] * np.log(2 * np.pi)
    terms = model.log_prior_terms(values, data)
    prior_of_rest = sum((terms[latent].sum(-1).numpy() for latent in case.rest), np.zeros(3))
    total = found.log_marginal.astype(float) + conditional + prior_of_rest
    # u is rounded, so that a large mean costs digits of the residuals on the model's side
    assert model.log_prob(values, data).numpy() == pytest.approx(total, rel=1e-7 if name in LARGE else 1e-9)


def in_60_digits(part: Affine) -> tuple[mpmath.mpf, mpmath.matrix, mpmath.matrix]:
    """log p(y | rest), and the mean and covariance of u given y and rest, by the covariance of y."""
    inverse = (mpmath.eye(len(part.level)) - mpmath.matrix(part.among)) ** -1
    mean, root, design = (
        inverse * mpmath.matrix(part.level),
        inverse * mpmath.matrix(part.root),
        mpmath.matrix(part.design),
    )
    noise = [mpmath.mpf(s) ** 2 / mpmath.mpf(w) for s, w in zip(part.sd, part.weights, strict=True)]
    prior = root * root.T
    covariance = design * prior * design.T + mpmath.diag(noise)
    residual = mpmath.matrix(part.y) - mpmath.matrix(part.offset) - design * mean
    precision = covariance**-1
    log_density = -(residual.T * precision * residual)[0] / 2 - mpmath.log(mpmath.det(covariance)) / 2
    for s, w in zip(part.sd, map(mpmath.mpf, part.weights), strict=True):
        log_density += (1 - w) * mpmath.log(s) - mpmath.log(w) / 2 - w * mpmath.log(2 * mpmath.pi) / 2
    gain = prior * design.T * precision
    return log_density, mean + gain * residual, prior - gain * design * prior


def difference(exact: mpmath.matrix, found: np.ndarray) -> np.ndarray:
    """Exact less found, in doubles."""
    numbers = zip(exact, found.ravel(), strict=True)
    return np.array([float(a - mpmath.mpf(str(b))) for a, b in numbers]).reshape(found.shape)


EXTREME = ("large_mean", "row_weights")
FURTHER = [name for name in (*LARGE, "varying_intercepts", "nested_2", "conditional") if name not in EXTREME]


@pytest.mark.parametrize("name", [*EXTREME, *(pytest.param(name, marks=pytest.mark.slow) for name in FURTHER)])
def test_extreme_scales_in_60_digits(name: str) -> None:
    case = example(name)
    for rest in ({"drawn": case.draw(1)} | case.extremes()).values():
        (part,) = affine(case.model, case.data, rest, case.linear)
        some = part.take(np.arange(10))  # 60 digits are slow
        log_density, mean, covariance = some.solved()
        with mpmath.workdps(60):
            exact_log_density, exact_mean, exact_covariance = in_60_digits(some)
            sd = np.array([float(mpmath.sqrt(exact_covariance[k, k])) for k in range(len(mean))])
            error = abs(float(exact_log_density - mpmath.mpf(str(log_density))))
            assert error < 1e-12 * max(1e3, abs(float(log_density)))
            # a double holds a mean to 1e-16 of itself
            assert (np.abs(difference(exact_mean, mean)) < 1e-10 * sd + 1e-16 * np.abs(mean)).all()
            assert (np.abs(difference(exact_covariance, covariance)) < 1e-10 * np.outer(sd, sd)).all()


def test_weights_are_repetitions() -> None:
    case = example("varying_intercepts")
    counts = np.random.default_rng(4).integers(0, 4, size=case.data.n_rows)
    assert {0, 1, 2, 3} <= set(counts)
    rest = case.draw(2)
    weighted = dense(case.model, case.data.replace(weights=counts.astype(float)), rest, case.linear)
    repeated = dense(case.model, case.data.take(np.repeat(np.arange(len(counts)), counts)), rest, case.linear)
    for field in ("log_marginal", "mean", "covariance"):
        assert getattr(weighted, field).astype(float) == pytest.approx(
            getattr(repeated, field).astype(float), rel=1e-12
        )


def test_every_chain_its_own_response_and_weights() -> None:
    case, rest = example("row_weights"), example("row_weights").draw(2)
    assert case.data.weights is not None
    y, w = (torch.stack([column, column.flip(0)]) for column in (case.data.y, case.data.weights))
    both = dense(case.model, case.data.replace(y=y, weights=w), rest, case.linear)
    for b in range(2):
        one = {name: value[b : b + 1] for name, value in rest.items()}
        alone = dense(case.model, case.data.replace(y=y[b], weights=w[b]), one, case.linear)
        assert both.log_marginal[b] == alone.log_marginal[0]
        assert (both.mean[b] == alone.mean[0]).all()


def test_two_ways_to_write_a_model_agree() -> None:
    pairs = [
        ("varying_intercepts", "non_centred", "mu"),
        ("correlated_2", "correlated_2_non_centred", "centre"),
        ("nested_2", "nested_non_centred", "mu"),
        ("nested_2", "nested_added", "mu"),
        ("walk_of_vectors", "walk_of_steps", "mu"),
    ]
    for one, other, first in pairs:
        a, b = example(one), example(other)
        rest = a.draw(2)
        assert a.linear[0] == b.linear[0] == first and set(a.rest) == set(b.rest)
        found, again = dense(a.model, a.data, rest, a.linear), dense(b.model, a.data, rest, b.linear)
        assert found.log_marginal.astype(float) == pytest.approx(again.log_marginal.astype(float), rel=1e-13)
        assert found.mean[:, 0].astype(float) == pytest.approx(again.mean[:, 0].astype(float), rel=1e-12)


def test_a_held_latent_and_its_own_conditional_make_the_whole() -> None:
    """p(y | rest) = p(y | rest, mu) p(mu | rest) / p(mu | y, rest) at any mu."""
    case, rest = example("varying_intercepts"), example("varying_intercepts").draw(2)
    whole = dense(case.model, case.data, rest, case.linear)
    mu = torch.tensor([[0.3], [-2.0]], dtype=torch.float64)
    held = dense(case.model, case.data, {**rest, "mu": mu}, ("beta", "alpha"))
    posterior = stats.norm.logpdf(
        mu[:, 0], whole.mean[:, 0].astype(float), whole.covariance[:, 0, 0].astype(float) ** 0.5
    )
    expected = held.log_marginal.astype(float) + stats.norm.logpdf(mu[:, 0], 0.0, 5.0) - posterior
    assert whole.log_marginal.astype(float) == pytest.approx(expected, rel=1e-13)


def test_groups_of_one_grouping() -> None:
    """y_j | mu, beta ~ Normal(mu + beta x, sigma_a^2 + [i = k] sigma_y^2); their product is p(y | mu, beta, rest)."""
    case = example("empty_groups")
    values = case.model.sample_prior(case.data, 2, torch.Generator().manual_seed(5))
    found = log_group(case.model, case.data, values, case.linear, "school")
    x, y, school = (column.numpy() for column in (case.data["x"], case.data.y, case.data["school"]))
    assert found.shape == (2, len(SIZES) + 3) and (found[:, len(SIZES) :] == 0).all()
    for b in range(2):
        mu, beta, sigma_y, sigma_a = (float(values[name][b, 0]) for name in ("mu", "beta", "sigma_y", "sigma_a"))
        for j in range(len(SIZES)):
            rows_of = school == j
            covariance = sigma_a**2 + np.eye(rows_of.sum()) * sigma_y**2
            expected = stats.multivariate_normal(mu + beta * x[rows_of], covariance).logpdf(y[rows_of])
            assert float(found[b, j]) == pytest.approx(expected, rel=1e-10)
    held = {name: value for name, value in values.items() if name != "alpha"}
    whole = dense(case.model, case.data, held, ("alpha",)).log_marginal
    assert found.sum(1).astype(float) == pytest.approx(whole.astype(float), rel=1e-13)


def test_groups_of_nested_groupings() -> None:
    """A school's density integrates its rooms' effects as well, a room's is given its school's effect."""
    case = example("nested_2")
    values = case.model.sample_prior(case.data, 1, torch.Generator().manual_seed(5))
    mu, beta, sigma_y, s_school, s_room = (
        float(values[name][0, 0]) for name in ("mu", "beta", "sigma_y", "sigma_school", "sigma_room")
    )
    x, y, room, school = (t.numpy() for t in (case.data["x"], case.data.y, case.data["room"], case.data["school"]))
    same_room, same_school = room[:, None] == room, school[:, None] == school
    noise = np.eye(len(y)) * sigma_y**2 + same_room * s_room**2
    by_school = log_group(case.model, case.data, values, case.linear, "school")[0]
    by_room = log_group(case.model, case.data, values, case.linear, "room")[0]
    for j in range(8):
        k = np.flatnonzero(school == j)
        covariance = (noise + same_school * s_school**2)[np.ix_(k, k)]
        expected = stats.multivariate_normal(mu + beta * x[k], covariance).logpdf(y[k])
        assert float(by_school[j]) == pytest.approx(expected, rel=1e-9)
    for j in range(14):
        k = np.flatnonzero(room == j)
        centre = values["school"][0].numpy()[school[k]] + beta * x[k]
        expected = stats.multivariate_normal(centre, noise[np.ix_(k, k)]).logpdf(y[k])
        assert float(by_room[j]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_is_sound(name: str) -> None:
    case = example(name)
    inspect(case.model, case.data)
    assert [latent for latent in case.model.latents if latent in case.linear] == list(case.linear)
    assert {*case.linear, *case.rest} == set(case.model.latents) and case.rest
    assert all(case.model.latents[latent].plate is None for latent in case.rest)
    assert not torch.equal(case.data.y, ZOO[name](2).data.y) and torch.equal(case.data.y, ZOO[name](1).data.y)


def test_the_zoo_has_what_is_hard() -> None:
    counts = [case.data.counts(plate) for case in map(example, ZOO) for plate in case.data.plates]
    assert sum(len(n.unique()) > 2 for n in counts) > 50  # unbalanced
    assert sum(bool((n == 1).any()) for n in counts) > 50
    assert sum(bool((n == 0).any()) for n in counts) >= 6
    assert not example("crossed").data.nests("school", "rater") and not example("crossed").data.nests("rater", "school")
    assert not example("nested_added_empty").data.nests("room", "school") and example("nested_2").data.nests(
        "room", "school"
    )
    assert float(example("large_mean").data.y.mean()) == pytest.approx(1e6, rel=1e-3)


LINEAR = ("mu", "beta", "alpha")


@pytest.mark.parametrize("name", REFUSED)
def test_refused_models_are_sound(name: str) -> None:
    model, data, words = REFUSED[name]
    inspect(model, data)
    assert words


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bernoulli", "the likelihood is Bernoulli; expected Normal"),
        ("student_t_likelihood", "the likelihood is StudentT; expected Normal"),
        ("student_t_effects", "the prior of 'alpha' is StudentT; expected a normal one"),
        ("quadratic", "the mean of the likelihood is not affine"),
        ("exponential", "the mean of the likelihood is not affine"),
        ("scale_of_effect", "the scale of the likelihood moves with the linear latents"),
    ],
)
def test_the_reference_refuses_what_is_not_linear(name: str, message: str) -> None:
    model, data, _ = REFUSED[name]
    drawn = model.sample_prior(data, 1, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=message):
        dense(model, data, {latent: drawn[latent] for latent in drawn if latent not in LINEAR}, LINEAR)


def test_the_reference_refuses_a_prior_that_reads_a_linear_latent() -> None:
    case = example("held_parent")
    drawn = case.model.sample_prior(case.data, 1, torch.Generator().manual_seed(0))
    rest = {name: drawn[name] for name in case.rest if name != "mu"}
    with pytest.raises(ValueError, match="the prior of 'centre' moves with the linear latents"):
        dense(case.model, case.data, rest, ("mu", *case.linear))


def test_a_wrong_design_is_noticed() -> None:
    """The negative control: rows that read another group's effect have another density."""
    case, rest = example("varying_intercepts"), example("varying_intercepts").draw(1)
    school = np.roll(case.data["school"].numpy(), 1)
    other = rows(1, {"school": school}).replace(y=case.data.y)
    other.columns.update(case.data.columns)
    found, wrong = (dense(Intercepts(), data, rest, case.linear).log_marginal[0] for data in (case.data, other))
    assert abs(float(found - wrong)) > 0.1
