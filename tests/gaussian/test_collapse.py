"""Collapsed densities and exact conditional draws against dense algebra, for every structure of the zoo."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal
from zoo import (
    REFUSED,
    ZOO,
    Intercepts,
    assert_moments,
    collapsed,
    collapsed_of,
    dense,
    example,
    log_group,
    moments,
    stacked,
)

import hiertorch as ht

CHAINS = 3
LARGE = ("large_mean", "large_mean_correlated", "large_predictor")


# What is found


@pytest.mark.parametrize("name", ZOO)
def test_the_linear_latents_are_discovered(name: str) -> None:
    found, case = collapsed(name), example(name)
    assert found.linear == case.linear
    assert found.rest == case.rest


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_collapse_is_refused_with_the_reason(name: str) -> None:
    model, data, words = REFUSED[name]
    reason = collapsed_of(model, data)
    assert isinstance(reason, str)
    assert all(word in reason for word in words), reason


class Loading(Intercepts):
    """y_ij ~ Normal(loading alpha_j + beta x_ij, sigma_y): linear in either factor, given the other."""

    loading = ht.Latent(Normal(1.0, 0.5))

    def likelihood(self, v, data):
        return Normal(v.loading * v.alpha[:, data.school] + v.beta * data.x, v.sigma_y)


def test_a_product_of_two_normal_latents_is_not_taken_for_linear_in_both() -> None:
    data = example("varying_intercepts").data
    model = Loading()
    found = collapsed_of(model, data)
    if isinstance(found, str):
        assert "loading" in found
        return
    assert ("loading" in found.rest) and ("alpha" in found.linear)
    drawn = model.sample_prior(data, CHAINS, torch.Generator().manual_seed(0))
    rest = {name: drawn[name] for name in found.rest}
    expected = dense(model, data, rest, found.linear).log_marginal.astype(float)
    assert found.log_marginal(rest).numpy() == pytest.approx(expected, rel=1e-9)


# The density


@pytest.mark.parametrize("name", ZOO)
def test_log_marginal_is_that_of_dense_algebra(name: str) -> None:
    case = example(name)
    for seed in (0, 1):
        rest = case.draw(CHAINS, seed)
        found = collapsed(name).log_marginal(rest)
        assert found.shape == (CHAINS,) and found.dtype == torch.float64
        expected = dense(case.model, case.data, rest, case.linear).log_marginal.astype(float)
        assert found.numpy() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ZOO)
def test_log_marginal_at_extreme_scales(name: str) -> None:
    case = example(name)
    for what, rest in case.extremes().items():
        expected = float(dense(case.model, case.data, rest, case.linear).log_marginal[0])
        rel = 1e-8 if what == "effects 10000" else 1e-9
        assert float(collapsed(name).log_marginal(rest)[0]) == pytest.approx(expected, rel=rel), what


@pytest.mark.parametrize("name", LARGE)
def test_a_large_mean_costs_no_digits_of_differences(name: str) -> None:
    """What Metropolis-Hastings reads is a difference; beside a mean of 1e6, y'y is 4e13."""
    case, rest = example(name), example(name).draw(8, seed=3)
    found = collapsed(name).log_marginal(rest).numpy()
    expected = dense(case.model, case.data, rest, case.linear).log_marginal
    assert found == pytest.approx(expected.astype(float), rel=1e-9)
    assert np.diff(found) == pytest.approx(np.diff(expected).astype(float), abs=1e-6)


@pytest.mark.parametrize("name", ["varying_intercepts", "large_mean", "nested_3", "three_groupings", "row_weights"])
def test_the_order_of_the_rows_does_not_matter(name: str) -> None:
    case, rest = example(name), example(name).draw(CHAINS)
    order = np.random.default_rng(0).permutation(case.data.n_rows)
    found = collapsed_of(case.model, case.data.take(order))
    assert not isinstance(found, str), found
    assert found.log_marginal(rest).numpy() == pytest.approx(collapsed(name).log_marginal(rest).numpy(), rel=1e-10)


@pytest.mark.parametrize(
    "name", ["varying_intercepts", "correlated_2", "nested_2", "crossed", "autoregression", "two_errors", "conditional"]
)
def test_the_gradient_is_that_of_dense_algebra(name: str) -> None:
    """Against central differences, of steps of 1e-5 in the logarithm of a positive latent."""
    case, step = example(name), 1e-5
    scales = [latent for latent in case.rest if latent.startswith(("sigma", "tau"))]
    rest = {latent: value.requires_grad_(latent in scales) for latent, value in case.draw(1, seed=4).items()}
    collapsed(name).log_marginal(rest).sum().backward()
    plain = {latent: value.detach() for latent, value in rest.items()}
    for latent in scales:
        for k in range(plain[latent].numel()):
            factor = torch.ones_like(plain[latent])
            factor.view(-1)[k] = np.exp(step)
            up, down = (
                dense(case.model, case.data, {**plain, latent: moved}, case.linear).log_marginal[0]
                for moved in (plain[latent] * factor, plain[latent] / factor)
            )
            slope = float(up - down) / (2 * step)
            found = float((rest[latent].grad * plain[latent]).view(-1)[k])
            assert found == pytest.approx(slope, rel=1e-6, abs=1e-6), (latent, k)


# Conditional draws


# Nine effects a group take ten times as long as the others together.
FIRST = [pytest.param(name, marks=pytest.mark.slow) if name == "correlated_9" else name for name in ZOO]


@pytest.mark.parametrize("name", FIRST)
def test_draws_have_the_conditional_mean_and_covariance(name: str) -> None:
    assert_moments(collapsed(name), example(name), example(name).draw(CHAINS, seed=5), CHAINS, rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST)
def test_draws_at_extreme_scales(name: str) -> None:
    for rest in example(name).extremes().values():
        assert_moments(collapsed(name), example(name), rest, 1, rel=1e-5)


@pytest.mark.parametrize("name", FIRST)
def test_draws_are_affine_in_the_noise(name: str) -> None:
    case, found, rest = example(name), collapsed(name), example(name).draw(CHAINS)
    shapes = {n: v.shape for n, v in case.model.sample_prior(case.data, CHAINS).items() if n in case.linear}
    noise = torch.randn(found.n_noise, CHAINS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = found.draw(rest, noise)
    assert {n: v.shape for n, v in drawn.items()} == shapes
    mean, root, _ = moments(found, rest, CHAINS)
    expected = mean + (root @ noise.numpy().T[:, :, None])[..., 0]
    scale = np.abs(mean) + np.abs(root).sum(-1)
    off = np.abs(stacked(drawn, found.linear) - expected) / scale
    assert off.max() < 1e-11


@pytest.mark.parametrize("name", ZOO)
def test_the_pieces_make_the_models_density(name: str) -> None:
    """log p(y, u, rest) = log p(y | rest) + log p(u | y, rest) + log p(rest), at draws from the posterior and prior."""
    case, found, rest = example(name), collapsed(name), example(name).draw(CHAINS, seed=6)
    noise = torch.randn(found.n_noise, CHAINS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    drawn = case.model.sample_prior(case.data, CHAINS, torch.Generator().manual_seed(7), given=rest)
    for values in ({**rest, **found.draw(rest, noise)}, dict(drawn)):
        terms = case.model.log_prior_terms(values, case.data)
        log_prior = torch.stack([terms[latent].sum(-1) for latent in case.rest]).sum(0)
        total = found.log_marginal(rest) + found.log_conditional(values) + log_prior
        assert total.numpy() == pytest.approx(case.model.log_prob(values, case.data).numpy(), rel=1e-8)


# Chains and groups


@pytest.mark.parametrize("name", ZOO)
def test_a_batch_equals_its_chains_one_by_one(name: str) -> None:
    found, rest = collapsed(name), example(name).draw(CHAINS)
    noise = torch.randn(found.n_noise, CHAINS, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    drawn = found.draw(rest, noise)
    whole = found.log_marginal(rest), found.log_conditional({**rest, **drawn})
    for b in range(CHAINS):
        one = {latent: value[b : b + 1] for latent, value in rest.items()}
        alone = found.draw(one, noise[:, b : b + 1])
        assert float(found.log_marginal(one)[0]) == pytest.approx(float(whole[0][b]), rel=1e-11)
        assert stacked(alone, found.linear)[0] == pytest.approx(stacked(drawn, found.linear)[b], rel=1e-11, abs=1e-11)
        held = {latent: value[b : b + 1] for latent, value in drawn.items()}
        assert float(found.log_conditional({**one, **held})[0]) == pytest.approx(float(whole[1][b]), rel=1e-11)


@pytest.mark.parametrize("name", ZOO)
def test_densities_by_group(name: str) -> None:
    case, found = example(name), collapsed(name)
    values = case.model.sample_prior(case.data, CHAINS, torch.Generator().manual_seed(8))
    plates = {case.model.latents[latent].plate for latent in case.linear} - {None}
    for plate in sorted(plates):
        expected = log_group(case.model, case.data, values, case.linear, plate)
        terms = found.marginals.log_group(values, plate)
        assert terms.shape == expected.shape
        assert terms.numpy() == pytest.approx(expected.astype(float), rel=1e-9, abs=1e-9), plate


class Watched(Intercepts):
    """Counts the rows that are read."""

    reads = 0

    def likelihood(self, v, data):
        self.reads += data.n_rows
        return super().likelihood(v, data)


def test_rows_are_read_in_one_pass_only() -> None:
    case, model = example("varying_intercepts"), Watched()
    found = collapsed_of(model, case.data)
    assert not isinstance(found, str), found
    before, rest = model.reads, case.draw(CHAINS)
    found.log_marginal(rest)
    assert model.reads - before == 2  # a row that tells the scale of all, here and at the anchor
    drawn = found.draw(rest, torch.zeros(found.n_noise, CHAINS, dtype=torch.float64))
    found.log_conditional({**rest, **drawn})
    assert model.reads - before == 6 < case.data.n_rows
