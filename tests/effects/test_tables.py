"""Coefficients, effects, scales, hypotheses and R^2, against sums over the stored draws and closed forms."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from builders import QUIET, refused

import hiertorch as ht

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
SHORT = {**QUIET, "chains": 4, "draws": 60, "warmup": 60}


def pupils() -> pd.DataFrame:
    r = np.random.default_rng(3)
    g = np.repeat(np.arange(12), 15)
    x, z = r.normal(size=(2, len(g)))
    kind = np.array(["a", "b", "c"])[r.integers(3, size=len(g))]
    u = r.multivariate_normal([0, 0], [[1.0, 0.3], [0.3, 0.25]], 12)
    y = 1 + 0.5 * x + (kind == "b") + u[g, 0] + u[g, 1] * x + 0.7 * r.normal(size=len(g))
    yes = (r.random(len(g)) < 1 / (1 + np.exp(-y))).astype(int)
    return pd.DataFrame({"y": y, "x": x, "z": z, "kind": kind, "school": g + 100, "yes": yes, "sort": g % 3})


@cache
def gaussian() -> ht.Posterior:
    return ht.fit("y ~ x * kind + (x | school)", pupils(), **SHORT)


@cache
def ready() -> ht.Posterior:
    data = ht.Data.from_frame(pupils(), "y", ["school"], ["x", "z"])
    return ht.sample(ht.models.VaryingIntercepts("school", ["x", "z"]), data, **SHORT)


def check(row: pd.Series, draws: torch.Tensor) -> None:
    x = draws.double().flatten()
    expected = [x.mean(), x.std(), torch.quantile(x, 0.055), torch.quantile(x, 0.945)]
    np.testing.assert_allclose(row.to_numpy(float), torch.stack(expected).numpy(), rtol=2e-3, atol=2e-3)


def test_coefficients_have_the_terms_labels():
    posterior = gaussian()
    table = posterior.fixef()
    assert [*table.index] == ["Intercept", "x", "kind[b]", "kind[c]", "x:kind[b]", "x:kind[c]"]
    assert [*table.columns] == ["mean", "sd", "eti89_lb", "eti89_ub"]
    check(table.loc["Intercept"], posterior["mu"])
    for k, name in enumerate(table.index[1:]):
        check(table.loc[name], posterior["beta"][..., k])


def test_coefficients_of_another_parameter_say_so():
    posterior = ht.fit("y ~ x", pupils(), sigma="~ z", **SHORT)
    assert [*posterior.fixef().index] == ["Intercept", "x", "sigma_Intercept", "sigma_z"]
    check(posterior.fixef().loc["sigma_z"], posterior["beta_sigma"])


def test_a_ready_class_has_coefficients_deviations_and_scales():
    posterior = ready()
    assert [*posterior.fixef().index] == ["mu_alpha", "beta[x]", "beta[z]"]
    deviation = posterior["alpha"] - posterior["mu_alpha"].unsqueeze(-1)
    table = posterior.ranef()
    assert table.index.names == ["grouping", "group", "effect"] and len(table) == 12
    check(table.loc[("school", 103, "alpha")], deviation[:, :, 3])
    scales = posterior.varcorr()
    check(scales.loc[("school", "alpha", "")], posterior["sigma_alpha"])
    check(scales.loc[("rows", "sigma_y", "")], posterior["sigma_y"])


def test_effects_and_their_covariance():
    posterior = gaussian()
    table = posterior.ranef()
    assert [*table.index[:2]] == [("school", 100, "Intercept"), ("school", 100, "x")]
    check(table.loc[("school", 104, "x")], posterior["effects_school"][:, :, 4, 1])
    scales = posterior.varcorr()
    assert [*scales.index] == [
        ("school", "Intercept", ""),
        ("school", "x", ""),
        ("school", "Intercept", "x"),
        ("rows", "sigma_y", ""),
    ]
    check(scales.loc[("school", "x", "")], posterior["sigma_school"][..., 1])
    check(scales.loc[("school", "Intercept", "x")], posterior["rho_school"])


def test_effects_that_were_not_stored_are_drawn_again():
    """Against the closed-form means; the error of a mean of 240 draws is sd / 15, and 4.5 of these fail 24 right ones
    with a probability below 2e-4.
    """
    keep = ["mu", "beta", "sigma_school", "L_school", "sigma_y"]
    posterior = ht.fit("y ~ x + (x | school)", pupils(), keep=keep, **SHORT)
    assert "effects_school" not in posterior
    known, found = posterior.effects("effects_school"), posterior.ranef()
    z = (found["mean"].to_numpy() - known["mean"].to_numpy()) / (known["sd"].to_numpy() / np.sqrt(240))
    assert np.abs(z).max() < 4.5


def test_long_runs_are_thinned_for_effects_alone(monkeypatch):
    monkeypatch.setattr("hiertorch.effects.tables.DRAWS", 40)
    posterior = gaussian()
    check(posterior.varcorr().loc[("rows", "sigma_y", "")], posterior["sigma_y"])
    check(posterior.ranef().loc[("school", 104, "x")], posterior["effects_school"][:, ::6, 4, 1])
    monkeypatch.setattr("hiertorch.effects.tables.FEWEST", 40)
    monkeypatch.setattr("hiertorch.effects.tables.NUMBERS", 40)
    check(posterior.varcorr().loc[("rows", "sigma_y", "")], posterior["sigma_y"][:, ::6])


def test_without_groups_there_are_scales_of_the_rows():
    posterior = ht.fit("y ~ x", pupils(), **SHORT)
    assert [*posterior.varcorr().index] == [("rows", "sigma_y", "")]
    with refused(ht.DataError, "no effects of groups"):
        posterior.ranef()


def test_two_blocks_have_no_correlation():
    posterior = ht.fit("y ~ x + (x || school) + (1 | sort)", pupils(), **SHORT)
    assert [*posterior.varcorr().index] == [
        ("school", "Intercept", ""),
        ("school", "x", ""),
        ("sort", "Intercept", ""),
        ("rows", "sigma_y", ""),
    ]


@pytest.mark.parametrize(
    ("sentence", "of"),
    [
        ("x > 0", lambda v: v["x"]),
        ("x < 2 * kind[b] - 0.3", lambda v: v["x"] - 2 * v["kind[b]"] + 0.3),
        ("x:kind[b] - x:kind[c] > x^2", lambda v: v["x:kind[b]"] - v["x:kind[c]"] - v["x"] ** 2),
        ("exp(Intercept) > exp(x) + 1", lambda v: v["Intercept"].exp() - v["x"].exp() - 1),
        ("`kind[b]` = 1", lambda v: v["kind[b]"] - 1),
        ("sigma_school[Intercept] > sigma_school[x]", None),
    ],
)
def test_hypotheses(sentence, of):
    posterior = gaussian()
    v = dict(zip(posterior.fixef().index[1:], posterior["beta"].unbind(-1), strict=True)) | {
        "Intercept": posterior["mu"]
    }
    sigma = posterior["sigma_school"]
    x = sigma[..., 0] - sigma[..., 1] if of is None else of(v)
    row = posterior.hypothesis(sentence).loc[sentence]
    check(row.iloc[:4], x)
    if "=" in sentence:
        assert np.isnan(row["probability"])
        return
    p = float(((x > 0) if ">" in sentence else (x < 0)).double().mean())
    assert row["probability"] == p
    np.testing.assert_allclose(row["evidence_ratio"], np.inf if p == 1 else p / (1 - p))


def test_a_name_may_have_a_sign():
    posterior = ht.fit("y ~ bs(x, df=4)", pupils(), **SHORT)
    row = posterior.hypothesis("bs(x, df=4)[3] >= bs(x, df=4)[0]").iloc[0]
    check(row.iloc[:4], posterior["beta"][..., 3] - posterior["beta"][..., 0])


def test_wrong_hypotheses():
    posterior = gaussian()
    with refused(ht.DataError, "left > right", "'x'"):
        posterior.hypothesis("x")
    with pytest.raises(KeyError, match=r"(?s)names 'w'.*coefficients: .*kind\[b\]"):
        posterior.hypothesis("w > 0")
    with refused(ht.DataError, "can't read", "numbers"):
        posterior.hypothesis("x.real > __import__('os')")


def test_r2_by_a_loop():
    """Gaussian rows, whose variance is sigma_y^2."""
    posterior, frame = gaussian(), pupils()
    found = posterior.r2()
    conditional, marginal = [], []
    beta, u = posterior["beta"].flatten(0, 1).numpy(), posterior["effects_school"].flatten(0, 1).numpy()
    at = (frame["school"] - 100).to_numpy()
    for s, (mu, sigma) in enumerate(
        zip(posterior["mu"].flatten().tolist(), posterior["sigma_y"].flatten().tolist(), strict=True)
    ):
        fixed = mu + beta[s, 0] * frame.x
        for k, one in enumerate("bc"):
            fixed = fixed + (frame.kind == one) * (beta[s, 1 + k] + beta[s, 3 + k] * frame.x)
        eta = fixed + u[s, at, 0] + u[s, at, 1] * frame.x
        total = np.var(eta) + sigma**2
        conditional.append(np.var(eta) / total)
        marginal.append(np.var(fixed) / total)
    check(found.loc["conditional"], torch.tensor(conditional))
    check(found.loc["marginal"], torch.tensor(marginal))


def test_r2_of_yes_and_no():
    posterior = ht.fit("yes ~ x", pupils(), family="bernoulli", **SHORT)
    p = torch.sigmoid(posterior["mu"].unsqueeze(-1) + posterior["beta"] * torch.tensor(pupils().x.to_numpy()))
    spread = p.var(-1, correction=0)
    check(posterior.r2().loc["conditional"], spread / (spread + (p * (1 - p)).mean(-1)))
    assert [*posterior.r2().index] == ["conditional"]
