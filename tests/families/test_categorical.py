"""Categories without order: density, derivatives and refusals, by SciPy, autograd and the Bernoulli of two of them."""

import numpy as np
import pandas as pd
import pytest
import torch
from builders import refused
from scipy import special, stats

import hiertorch as ht
from hiertorch.errors import ModelError
from hiertorch.model.latent import Values
from hiertorch.randomness import seeded

CHAINS, ROWS, DRAWS = 3, 20, 4_000
NONE = Values({})
LEVEL = 1e-6
"""Of the one chi-squared test; its seed is fixed."""


def family(reference="b"):
    return ht.families.Categorical([*"abcd"], reference)


def somewhere(scale=1.5):
    generator = torch.Generator().manual_seed(1)
    eta = scale * torch.randn(CHAINS, ROWS, 3, generator=generator, dtype=torch.float64)
    return eta, torch.randint(4, (ROWS,), generator=generator).double(), ht.Data(np.zeros(ROWS))


def logits(eta):
    """With the 0 of the reference b, `(chains, rows, 4)`."""
    return np.insert(eta.numpy(), 1, 0.0, axis=-1)


def test_rows_by_scipy():
    eta, y, data = somewhere()
    found = family().distribution(eta, NONE, data)
    assert found.batch_shape == (CHAINS, ROWS)
    p = special.softmax(logits(eta), -1)
    each = stats.multinomial.logpmf(np.eye(4)[y.long()][None].repeat(CHAINS, 0), 1, p)
    np.testing.assert_allclose(found.log_prob(y), each, rtol=1e-10)
    np.testing.assert_allclose(found.probs, p, rtol=1e-10)


def test_derivatives_by_autograd():
    eta, y, data = somewhere()
    eta.requires_grad_()
    density = family().distribution(eta, NONE, data).log_prob(y)
    (first,) = torch.autograd.grad(density.sum(), eta, create_graph=True)
    second = torch.stack([torch.autograd.grad(first[..., k].sum(), eta, retain_graph=True)[0] for k in range(3)], -2)
    found = family().derivatives(y, eta.detach(), NONE, data)
    torch.testing.assert_close(found.first, first.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.second, second, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_far_out_densities_are_finite(dtype):
    eta = torch.tensor([[[80.0, -80.0, 0.0], [-80.0, -90.0, -100.0]]], dtype=dtype)
    for code in range(4):
        found = family().distribution(eta, NONE, None).log_prob(torch.full((2,), float(code), dtype=dtype))
        expected = special.log_softmax(logits(eta.double()), -1)[..., code]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-30)


def test_simulated_shares():
    eta, _, data = somewhere(scale=0.7)
    with seeded(torch.Generator().manual_seed(3), data.device):
        y = family().distribution(eta[:1, :5], NONE, data).sample((DRAWS,))[:, 0]
    p = special.softmax(logits(eta[0, :5]), -1)
    counts = np.stack([(y == code).sum(0) for code in range(4)], -1)
    chi2 = ((counts - DRAWS * p) ** 2 / (DRAWS * p)).sum()
    assert stats.chi2(5 * 3).sf(chi2) > LEVEL
    assert stats.chi2(5 * 3).sf(((counts - DRAWS * p[:, ::-1]) ** 2 / (DRAWS * p[:, ::-1])).sum()) < LEVEL


@pytest.mark.parametrize("reference", [None, "no"])
def test_two_categories_are_a_bernoulli(reference):
    """With all its priors, which both take from the same numbers; that of two references is the other's mirror."""
    r = np.random.default_rng(1)
    frame = pd.DataFrame({"x": r.normal(size=60), "g": np.repeat([*"uvwxyz"], 10), "word": ["no", "yes", "no"] * 20})
    frame["y"] = (frame["word"] == "yes").astype(int)
    kind = "categorical" if reference is None else ht.families.Categorical(["no", "yes"], reference)
    model, data = ht.formula("word ~ x + (x | g)", frame, family=kind)
    other, of_other = ht.formula("y ~ x + (x | g)", frame, family="bernoulli")
    assert [name.replace("_yes", "") for name in model.latents] == list(other.latents)
    v = other.sample_prior(of_other, 4, torch.Generator().manual_seed(1))
    own = dict(zip(model.latents, (v[name] for name in other.latents), strict=True))
    torch.testing.assert_close(model.log_prob(own, data), other.log_prob(v, of_other), rtol=1e-10, atol=1e-10)
    mirrored, again = ht.formula("word ~ x", frame, family=ht.families.Categorical(["no", "yes"], "yes"))
    one, _ = ht.formula("word ~ x", frame, family="categorical")
    v = one.sample_prior(data, 2, torch.Generator().manual_seed(2))
    mirror = {"mu_no": -v["mu_yes"], "beta_no": -v["beta_yes"]}
    torch.testing.assert_close(mirrored.log_prob(mirror, again), one.log_prob(v, data), rtol=1e-10, atol=1e-10)


def test_level_is_the_log_of_how_many_rows_there_are():
    y, offset = torch.tensor([0.0, 0, 1, 1, 1, 2, 3]).double(), torch.full((7,), 0.25).double()
    level, spread = family().of_parameter("c").level_and_spread(y, offset, None)
    assert float(level) == pytest.approx(np.log(1.5 / 3.5) - 0.25) and float(spread) == 1.0


def test_what_it_says_of_itself():
    assert family().parameters == ("a", "c", "d") and family().several
    assert family().formula == "Categorical(softmax(eta_a, 0, eta_c, eta_d))"
    assert repr(family("a")) == "Categorical(4)" and repr(family()) == "Categorical(4, reference='b')"
    y = torch.tensor([[0.0, 1.0, 1.0, 3.0]])
    assert [float(one(y)) for one in family().statistics().values()] == [0.25, 0.5, 0.0, 0.25]
    assert family().mean(None, NONE, None) is None and family().variance(None, NONE, None) is None


def test_what_is_no_family_of_categories_is_refused():
    for categories in (None, 1, "low", ["a", "a"], True):
        with refused(ModelError, "Categorical has two categories or more"):
            ht.families.Categorical(categories)
    with refused(ModelError, "the reference is one of the categories, 0, 1, 2; found 3"):
        ht.families.Categorical(3, 3)
    with refused(ModelError, "has the predictors a, c, d for each row", "write a formula"):
        ht.models.VaryingIntercepts("school", family=family())
    with refused(ModelError, "has the predictors 1 for each row", "write a formula"):
        ht.models.VaryingIntercepts("school", family=ht.families.Categorical(2))
    with refused(ModelError, "is told its categories", "Categorical(categories=4)"):
        ht.models.CompletePooling(family="categorical")
