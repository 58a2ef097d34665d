"""What warm-up learns is compared with what is known: exact conditionals of normal models, and the best walk of a
normal target.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

import hiertorch as ht
from hiertorch.density.state import State
from hiertorch.moves.adaptation import Adaptation, acceptance_target, walk_root
from hiertorch.moves.guesses import WIDEN, Regression, Site, log_share
from hiertorch.moves.metropolis import Noise, decide, propose

F64 = torch.float64


def normal_groups(chains: int, seed: int):
    """alpha_j | mu, sigma, y exactly, for 4 groups of known noise and prior parameters that differ by chain, sigma down
    to nearly 0.
    """
    g = torch.Generator().manual_seed(seed)
    precision = torch.tensor([0.5, 2.0, 8.0, 40.0], dtype=F64)  # n_j / noise^2
    pull = precision * torch.tensor([-1.0, 0.5, 3.0, 2.0], dtype=F64)  # times the mean of y
    mu = torch.randn(chains, 1, dtype=F64, generator=g)
    sigma = torch.randn(chains, 1, dtype=F64, generator=g).mul(1.5).exp()
    total = precision + sigma**-2
    mean = (pull + mu / sigma**2) / total
    alpha = mean + torch.randn(chains, 4, dtype=F64, generator=g) / total.sqrt()
    return precision, pull, torch.stack([mu, sigma]), alpha, mean, total


def test_site_learns_the_exact_conditional_of_a_normal_model_from_draws_alone():
    """Stein's two equations give n_j / noise^2 and its product with the mean of y: within 5 %, five standard errors at
    200,000 draws.
    """
    precision, pull, place, alpha, mean, total = normal_groups(200_000, seed=1)
    target = SimpleNamespace(
        space=SimpleNamespace(coordinates={"alpha": SimpleNamespace(size=4)}), location_scale=lambda name, values: place
    )
    site = Site(target, "alpha")
    state = State({"alpha": alpha}, {}, {}, alpha)
    tuning = site.fit(site.observe(state), len(alpha))
    torch.testing.assert_close(tuning["precision"], precision, rtol=0.05, atol=0.0)
    torch.testing.assert_close(tuning["pull"], pull, rtol=0.05, atol=0.05)
    guess, spread, inverse = site.normal(state, {"precision": precision, "pull": pull})
    torch.testing.assert_close(guess[..., 0], mean)
    torch.testing.assert_close(spread[..., 0, 0], WIDEN / total.sqrt())
    torch.testing.assert_close(spread * inverse, torch.ones_like(spread))


def test_regression_learns_the_conditional_mean_and_covariance_of_a_joint_normal():
    g = torch.Generator().manual_seed(2)
    n = 100_000
    other = torch.randn(n, 1, dtype=F64, generator=g) * 3 + 100
    effects = torch.randn(n, 5, dtype=F64, generator=g) * 2 + other  # their mean is the second feature
    root = torch.tensor([[0.5, 0.0], [0.3, 0.2]], dtype=F64)
    noise = torch.randn(n, 2, dtype=F64, generator=g) @ root.mT
    block = torch.tensor([7.0, -50.0], dtype=F64) + 0.4 * other - 0.9 * effects.mean(1, keepdim=True) + noise

    def coordinate(plate, size, width):
        return SimpleNamespace(plate=plate, size=size, width=width)

    coordinates = {"b": coordinate(None, 1, 2), "mu": coordinate(None, 1, 1), "alpha": coordinate("school", 5, 1)}
    guess = Regression(SimpleNamespace(space=SimpleNamespace(coordinates=coordinates), memory={}), ("b",))
    state = State({"b": block.reshape(n, 1, 2), "mu": other, "alpha": effects}, {}, {}, other)
    tuning = guess.fit(guess.observe(state), n)
    mean, spread, inverse = guess.normal(state, tuning)
    torch.testing.assert_close(mean[:, 0], block - noise, rtol=0.0, atol=0.02)
    torch.testing.assert_close(spread @ spread.mT / WIDEN**2, root @ root.mT, rtol=0.03, atol=1e-3)
    torch.testing.assert_close(spread @ inverse, torch.eye(2, dtype=F64))


def test_guess_ratio_is_that_of_the_normal_it_draws_from():
    """log q(u) - log q(u') against scipy, and the proposal's own mean and covariance."""
    n = 50_000
    g = torch.Generator().manual_seed(3)
    mean = torch.tensor([1.0, -2.0], dtype=F64).expand(n, 1, 2)
    spread = torch.tensor([[2.0, 0.0], [0.7, 0.5]], dtype=F64)
    inverse = torch.linalg.inv(spread)
    now = torch.randn(n, 1, 2, dtype=F64, generator=g) * 3
    noise = Noise(torch.randn(n, 1, 2, dtype=F64, generator=g), torch.zeros(n, 1), torch.full((n, 1), -0.5, dtype=F64))
    tuning = {"root": torch.eye(2, dtype=F64)[None], "log_share": torch.zeros((), dtype=F64)}
    [new], log_q, guessed = propose([now], tuning, noise, normal=(mean, spread, inverse))
    q = stats.multivariate_normal([1.0, -2.0], (spread @ spread.mT).numpy())
    np.testing.assert_allclose(log_q[:, 0].numpy(), q.logpdf(now[:, 0]) - q.logpdf(new[:, 0]), rtol=1e-8, atol=1e-8)
    assert guessed.all()
    np.testing.assert_allclose(np.cov(new[:, 0].numpy().T), (spread @ spread.mT).numpy(), rtol=0.05)
    [walked], log_q, guessed = propose(
        [now], {**tuning, "log_share": torch.tensor(-math.inf)}, noise, normal=(mean, spread, inverse)
    )
    torch.testing.assert_close(walked, now + noise.normal)
    assert (log_q == 0).all() and not guessed.any()


@pytest.mark.parametrize("width", [1, pytest.param(2, marks=pytest.mark.slow), 5])
def test_walks_learn_size_and_shape_of_a_normal_target(width):
    """After 3,000 pooled steps the acceptance lies within 0.03 of its target and the covariance is proportional to the
    target's within 15 %.
    """
    g = torch.Generator().manual_seed(4)
    shape = torch.linalg.cholesky(torch.eye(width, dtype=F64) * 0.3 + 0.7 * torch.ones(width, width, dtype=F64))
    scale = torch.linspace(0.5, 2.0, width, dtype=F64)
    factor = scale[:, None] * shape
    inverse = torch.linalg.inv(factor)
    chains = 50
    u = (torch.randn(chains, width, dtype=F64, generator=g) @ factor.mT)[:, None]
    root = torch.eye(width, dtype=F64)[None] * 0.5
    rates = []
    for t in range(1, 3001):
        z = torch.randn(chains, 1, width, dtype=F64, generator=g)
        noise = Noise(
            z, -torch.empty(chains, 1, dtype=F64).exponential_(generator=g), torch.full((chains, 1), -1.0, dtype=F64)
        )
        [new], log_q, guessed = propose([u], {"root": root}, noise)
        energy = [0.5 * (x @ inverse.mT).square().sum(-1) for x in (u, new)]
        accepted, info = decide(energy[0] - energy[1], noise.log_uniform, guessed, log_q)
        u = torch.where(accepted[..., None], new, u)
        root = walk_root(root, z, info.accept - acceptance_target(width), t)
        rates.append(float(info.accept.mean()))
    assert abs(np.mean(rates[-1000:]) - acceptance_target(width)) < 0.03
    learnt, wanted = (root @ root.mT)[0], factor @ factor.mT
    ratio = torch.linalg.eigvals(torch.linalg.solve(wanted, learnt)).real
    assert float(ratio.max() / ratio.min()) < 1.35


def test_acceptance_targets_fall_from_044_to_0234():
    assert [acceptance_target(d) for d in (1, 2, 3, 4, 7, 50)] == [0.44, 0.35, 0.32, 0.28, 0.234, 0.234]


def test_share_grows_with_acceptance_and_keeps_some_of_both():
    shares = [math.exp(log_share(a, 2)) for a in (0.0, 0.05, 0.3, 0.9, 1.0)]
    assert shares == sorted(shares) and shares[0] == pytest.approx(0.02) and 0.8 < shares[-1] <= 0.9


class Schools(ht.Model):
    mu = ht.Latent(torch.distributions.Normal(0.0, 5.0))
    tau = ht.Latent(torch.distributions.Gamma(2.0, 1.0))
    theta = ht.Latent(lambda v: torch.distributions.Normal(v.mu, v.tau), plate="school")

    def likelihood(self, v, data):
        return torch.distributions.Normal(v.theta[:, data.school], 1.0)


@pytest.mark.slow
def test_guesses_are_accepted_nearly_always_where_the_conditional_is_normal():
    """theta | mu, tau, y is exactly normal: with a guess nine times in ten, four in five are accepted (walks: 0.44)."""
    g = torch.Generator().manual_seed(5)
    data = ht.Data(y=torch.randn(40, dtype=F64, generator=g) * 2, groups={"school": torch.arange(40) % 10})
    posterior = ht.sample(
        Schools(), data, chains=16, warmup=600, draws=600, thin=1, seed=1, progress=False, compile=False, collapse=False
    )
    assert float(posterior.stats.acceptance["groupwise(theta)"].mean()) > 0.8
    assert posterior.diagnostics()["worst"]["ess_bulk"] > 1000


def test_adaptation_leaves_its_input_alone_and_fits_only_at_the_ends_of_windows():
    guess = SimpleNamespace(
        tuning=lambda like: {"log_share": like.new_full((), -math.inf), "fitted": like.new_zeros(())},
        observe=lambda state: torch.ones(1, dtype=F64),
        fit=lambda sums, count: {"fitted": sums[0] / count},
    )
    state = State({"mu": torch.zeros(4, 1, dtype=F64)}, {}, {}, torch.zeros(4, 1, dtype=F64))
    now = Adaptation.begin(state, ["mu"], 1, 1, 0.44, guess)
    fits = []
    for t in range(1, 101):
        before = now
        kept = dict(before.tuning)
        now = before.observe(state, t, 100)
        assert before.tuning == kept
        if float(now.tuning["fitted"]) != 0.0 and now.tuning is not before.tuning:
            fits.append(t)
    assert fits == [11, 22, 45, 90]
    assert float(now.tuning["fitted"]) == pytest.approx(0.25)
