"""The folded Student distribution, and that of logarithms, against scipy's, and against quadrature."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from hiertorch.run.folded import AWAY, FREEDOM, Folded

DRAWS = torch.tensor(np.random.default_rng(3).normal([0.3, -1.0], [0.4, 0.5], (400, 2)))


@pytest.fixture
def made():
    proposal = Folded([True, False])
    x = DRAWS.clone()
    x[:, 0] = x[:, 0].abs().log()
    return proposal, proposal.fit(x), x


def test_densities_by_scipy(made):
    """The sum over both signs of the scale, times the Jacobian of its logarithm."""
    proposal, tuning, u = made
    mean, root = tuning["mean"][0].numpy(), tuning["root"][0].numpy()
    student = stats.multivariate_t(mean, root @ root.T, df=FREEDOM)
    scale, other = u[:, 0].exp().numpy(), u[:, 1].numpy()
    own = sum(student.pdf(np.stack([sign * scale, other], 1)) for sign in (1.0, -1.0)) * scale
    np.testing.assert_allclose(proposal.log_density(tuning, u), np.log(own), rtol=1e-9)


def test_densities_integrate_to_1(made):
    proposal, tuning, _ = made

    scale, other = torch.linspace(-16.0, 4.0, 801).double(), torch.linspace(-14.0, 12.0, 601).double()
    places = torch.cartesian_prod(scale, other)
    density = proposal.log_density(tuning, places).exp().reshape(801, 601).numpy()
    total = integrate.simpson(integrate.simpson(density, x=other.numpy()), x=scale.numpy())
    assert abs(total - 1.0) < 1e-4


def test_draws_have_this_density(made):
    """Quantiles of 40,000 draws of the scale against the folded distribution function; p above 1e-3, fixed seed."""
    proposal, tuning, _ = made
    u = proposal.draw(tuning, 40_000, torch.Generator().manual_seed(2))
    mean, sd = float(tuning["mean"][0, 0]), float(tuning["root"][0, 0].square().sum().sqrt())
    student = stats.t(FREEDOM, mean, sd)
    scale = u[:, 0].exp().numpy()
    assert stats.kstest(scale, lambda x: student.cdf(x) - student.cdf(-np.asarray(x))).pvalue > 1e-3
    other = stats.t(FREEDOM, float(tuning["mean"][0, 1]), float(tuning["root"][0, 1].square().sum().sqrt()))
    assert stats.kstest(u[:, 1].numpy(), other.cdf).pvalue > 1e-3


def test_many_scales_are_not_folded():
    assert Folded([True] * 6).folded == list(range(6)) and Folded([True] * 7).folded == []


@pytest.fixture
def away():
    """One scale far from 0, one near it, and a number on the whole line."""
    rng = np.random.default_rng(5)
    x = np.stack([rng.gamma(30.0, 0.1, 900), abs(rng.normal(0.2, 0.3, 900)), rng.normal(size=900)], 1)
    u = torch.tensor(np.stack([np.log(x[:, 0]), np.log(x[:, 1]), x[:, 2]], 1))
    proposal = Folded([True, True, False])
    return proposal, proposal.fit(u), u


def test_scales_far_from_0_are_proposed_by_their_logarithms(away):
    proposal, tuning, u = away
    assert tuning["folds"].tolist() == [False, True, False]
    x = u.clone()
    x[:, 1] = x[:, 1].exp()
    torch.testing.assert_close(tuning["mean"][0], x.mean(0))
    mean, root = tuning["mean"][0].numpy(), tuning["root"][0].numpy()
    student = stats.multivariate_t(mean, root @ root.T, df=FREEDOM)
    own = sum(student.pdf(x.numpy() * np.array([1.0, sign, 1.0])) for sign in (1.0, -1.0)) * x[:, 1].numpy()
    np.testing.assert_allclose(proposal.log_density(tuning, u), np.log(own), rtol=1e-9)


def test_draws_of_both_forms_have_their_density(away):
    """Error rate 2e-3, fixed seed."""
    proposal, tuning, _ = away
    u, root = proposal.draw(tuning, 40_000, torch.Generator().manual_seed(2)).numpy(), tuning["root"][0]
    mean, sd = tuning["mean"][0].numpy(), root.square().sum(1).sqrt().numpy()
    assert stats.kstest(u[:, 0], stats.t(FREEDOM, mean[0], sd[0]).cdf).pvalue > 1e-3
    near = stats.t(FREEDOM, mean[1], sd[1])
    assert stats.kstest(np.exp(u[:, 1]), lambda x: near.cdf(x) - near.cdf(-np.asarray(x))).pvalue > 1e-3


@pytest.mark.parametrize("name, folds", [("folded", True), ("logs", False), ("near", True)])
def test_the_form_is_that_under_which_draws_are_more_probable(name, folds):
    """Of draws of either form, all but the last 2.5 sd away from 0; by scipy's densities of the same moments."""
    rng = np.random.default_rng(8)
    x = {
        "folded": abs(2.5 + rng.normal(size=4_000)),
        "logs": np.exp(0.42 * rng.normal(size=4_000)),
        "near": rng.gamma(2.5, 1.0, 4_000),  # better as logarithms, but too near to 0 to have its tail there
    }[name]
    u = np.log(x)
    student, own = stats.t(FREEDOM, x.mean(), x.std()), stats.t(FREEDOM, u.mean(), u.std()).logpdf(u).mean()
    better = (np.log(student.pdf(x) + student.pdf(-x)) + u).mean() > own
    assert better == (name == "folded")
    assert (x.mean() > AWAY * x.std()) == (name != "near")
    assert Folded([True]).fit(torch.tensor(u[:, None]))["folds"].tolist() == [folds]


def test_a_scale_near_0_in_one_data_set_is_folded():
    rng = np.random.default_rng(6)
    far, near = rng.gamma(30.0, 0.1, 500), abs(rng.normal(0.2, 0.3, 500))
    u = torch.tensor(np.log(np.stack([far, near], 1).reshape(-1, 1)))  # sets in turn
    assert Folded([True]).fit(u, sets=2)["folds"].tolist() == [True]
    assert Folded([True]).fit(torch.tensor(np.log(far)[:, None]))["folds"].tolist() == [False]


@pytest.mark.parametrize("shape", [30.0, 1.0])
def test_independence_chains_of_a_scale_have_their_target(shape):
    """Gamma(shape, 1), far from 0 and near it, by 200 chains of 200 steps: the mean at 4.5 errors by the spread of the
    chains, one in 100,000 seeds. Without the Jacobian of a folded scale it is another one.
    """
    rng = np.random.default_rng(7)
    proposal, target = Folded([True]), stats.gamma(shape)
    tuning = proposal.fit(torch.tensor(np.log(rng.gamma(shape, 1.0, (500, 1)))))
    assert tuning["folds"].tolist() == [shape == 1.0]
    off = []
    for wrong in (False, True):
        generator = torch.Generator().manual_seed(3)
        u = proposal.draw(tuning, 200 * 200, generator)
        log_ratio = torch.tensor(target.logpdf(u.exp())) + u - proposal.log_density(tuning, u).unsqueeze(1)
        log_ratio = (log_ratio - u if wrong else log_ratio).view(200, 200)
        uniform, x = torch.rand(200, 200, generator=generator, dtype=torch.float64).log(), u.exp().view(200, 200)
        at, here, seen = x[0], log_ratio[0], []
        for t in range(1, 200):
            accepted = uniform[t] < log_ratio[t] - here
            at, here = torch.where(accepted, x[t], at), torch.where(accepted, log_ratio[t], here)
            seen.append(at)
        means = torch.stack(seen).mean(0)
        off.append(abs(float(means.mean()) - shape) / float(means.std()) * 200**0.5)
    assert off[0] < 4.5 < off[1]
