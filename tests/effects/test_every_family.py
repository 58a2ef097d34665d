"""Every family that a formula can name: what a posterior answers is what another road gives."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders import from_prior, refused

import hiertorch as ht
from hiertorch.families import CODED, NAMES

R = np.random.default_rng(2)
G = np.repeat(np.arange(6), 8)
CODES = np.tile([0, 1, 2], 16)

FRAME = pd.DataFrame(
    {
        "x": R.normal(size=48),
        "f": np.array([*"abc"])[R.permutation(CODES)],
        "g": [f"g{k}" for k in G],
        "n": R.integers(5, 9, 48),
        "real": R.normal(size=48),
        "positive": R.gamma(3.0, size=48),
        "share": R.uniform(0.1, 0.9, 48),
        "count": R.poisson(3.0, 48),
        "yes": CODES // 2,
        "kind": pd.Categorical.from_codes(R.permutation(CODES), ["low", "mid", "top"], ordered=True),
    }
).assign(zeros=lambda frame: np.where(CODES == 0, 0.0, frame["positive"]))
NEW = FRAME[["x", "f", "n"]].head(4)
"""Rows that name no group."""

RESPONSE = {
    **dict.fromkeys(["gaussian", "student_t", "skew_normal", "asymmetric_laplace"], "real"),
    **dict.fromkeys(["lognormal", "gamma", "exponential", "weibull", "inverse_gaussian"], "positive"),
    **dict.fromkeys(["beta", "zero_one_inflated_beta"], "share"),
    **dict.fromkeys(["binomial", "beta_binomial", "zero_inflated_binomial"], "count | trials(n + 9)"),
    **dict.fromkeys(["hurdle_gamma", "hurdle_lognormal"], "zeros"),
    **dict.fromkeys(CODED, "kind"),
    "bernoulli": "yes",
}


def posterior(family: str) -> ht.Posterior:
    model, data = ht.formula(f"{RESPONSE.get(family, 'count')} ~ x * f + (1 | g)", FRAME, family=family)
    return from_prior(model, data, 2, 15)


@pytest.mark.slow
@pytest.mark.parametrize("family", [*NAMES, *CODED])
def test_every_question_is_answered(family: str, tmp_path: Path) -> None:
    fit = posterior(family)
    probabilities = family == "categorical"  # what is meant by the mean of labels

    def plain(draws: torch.Tensor) -> np.ndarray:
        return draws.flatten(0, 1).flatten(1).numpy()

    rows = plain(fit.predictions().draws)
    np.testing.assert_allclose(rows, plain(fit.predict(FRAME).draws), rtol=1e-9)
    new, more = plain(fit.predictions(NEW).draws), plain(fit.predictions(NEW.assign(x=NEW.x + 1)).draws)
    assert np.isfinite(new).all()
    np.testing.assert_allclose(plain(fit.comparisons("x", NEW).draws), more - new, rtol=1e-6, atol=1e-9)
    assert np.isfinite(plain(fit.slopes("x", by="f").draws)).all()
    cells = 3 if probabilities else 1
    found = fit.conditional_effects("x", values={"x": [0.0, 1.0]})
    typical = NEW.head(2).assign(x=[0.0, 1.0], f="a", n=round(FRAME.n.mean()))
    np.testing.assert_allclose(plain(found.draws), plain(fit.predictions(typical).draws), rtol=1e-9)
    assert len(fit.conditional_effects("f").plot().axes) == 1

    names = [name.removeprefix("top_") for name in fit.fixef().index]
    assert {"x", "f[b]", "x:f[c]"} <= {*names} and len(fit.ranef()) == 6 * max(1, cells - 1)
    assert "g" in fit.varcorr().index.get_level_values(0)
    odds = fit.hypothesis("top_x > 0" if probabilities else "x > 0").iloc[0]
    beta = fit["beta_top" if probabilities else "beta"][..., 0]
    assert float((beta > 0).double().mean()) in [pytest.approx(float(x)) for x in odds if isinstance(x, float)]
    if probabilities:
        with refused(ht.ModelError, "categories without order have none"):
            fit.r2()
        with refused(ht.DataError, "probabilities of categories are along one column"):
            fit.conditional_effects("x:f")
    else:
        assert fit.r2()["mean"].between(0, 1).all()
        assert len(fit.conditional_effects("x:f").summary) == 300

    tree = fit.to_arviz(log_likelihood=True, posterior_predictive=True)
    likely, seen = (
        next(iter(tree[part].data_vars.values())).to_numpy() for part in ("log_likelihood", "posterior_predictive")
    )
    model, data = fit.fitted.model, fit.fitted.data
    flat = {name: fit[name].flatten(0, 1) for name in model.latents}
    whole = model.values({name: x if model.latents[name].plate else x.unsqueeze(1) for name, x in flat.items()})
    np.testing.assert_allclose(likely.reshape(30, 48), model.log_likelihood(whole, data), rtol=1e-9)
    told = ~np.isnan(seen.reshape(30, 48))  # counts that are too large to be told are NaN
    possible = model.likelihood(whole, data).support.check(torch.from_numpy(seen.reshape(30, 48))).numpy()
    assert possible[told].all() and told.mean() > 0.9

    for kept in (True, False):
        fit.save(tmp_path / f"{kept}", data=kept)
        again = ht.Posterior.load(tmp_path / f"{kept}").predict(NEW.assign(g="new"), "response", "sample", seed=4)
        torch.testing.assert_close(again.draws, fit.predict(NEW.assign(g="new"), "response", "sample", seed=4).draws)
