"""All families with all links, exported and read by NumPy alone, against `Posterior.predict`."""

import warnings
from functools import cache, partial

import numpy as np
import pandas as pd
import pytest
from builders import from_prior
from newgroups import by_torch
from scipy import stats

import hiertorch as ht
from hiertorch import deploy
from hiertorch.families import CODED, KINDS, MADE, Truncated
from hiertorch.families.counts import Counts
from hiertorch.families.zeros import Hurdle
from hiertorch.posterior import Posterior
from hiertorch.runtime.validating import validation

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
ROWS, ALPHA = 40, 1e-4
CALM = {"mu": "Normal(1, 0.1)", "beta": "Normal(0, 0.1)", "sigma_school": "HalfNormal(0.05)"}
LATENTS = {
    **{"sigma_y": "Gamma(20, 20)", "nu_y": "Gamma(50, 10)", "phi_y": "Gamma(20, 5)", "shape_y": "Gamma(20, 5)"},
    **{"alpha_y": "Normal(2, 1)", "quantile_y": "Beta(5, 5)"},
}
"""Priors under which no mean overflows."""

TRIALS = ("binomial", "beta_binomial", "zero_inflated_binomial")
CUT = {
    "truncated_student_t": lambda: Truncated(ht.families.StudentT(), low=-0.5, high=3.0),
    "truncated_above": lambda: Truncated(ht.families.StudentT(), high=2.0),
    "truncated_below": lambda: Truncated(ht.families.Gaussian(), low=0.5),
    **{f"truncated_{kind.name}": (lambda kind=kind: Truncated(kind(), low=0.2, high=3.0))
       for kind in KINDS if kind.name in ("gaussian", "skew_normal", "lognormal", "gamma", "exponential", "weibull",
                                          "inverse_gaussian")},
    "truncated_beta": lambda: Truncated(ht.families.Beta(), low=0.2, high=0.9),
    "truncated_asymmetric_laplace": lambda: Truncated(ht.families.AsymmetricLaplace(0.3), low=0.0),
    "hurdle_geometric": lambda: Hurdle(ht.families.Geometric()),
    "asymmetric_laplace_learnt": lambda: ht.families.AsymmetricLaplace(None),
    "weibull_low_shape": ht.families.Weibull,
}  # fmt: skip


def cases():
    """Name of a family, with its link if it has several -> how it is made."""
    found = {}
    for kind in (*KINDS, *CODED.values()):
        for link in kind.links:
            told = {"categories": 4} if kind.name in CODED else {}
            told |= {"link": link} if len(kind.links) > 1 else {}
            name = f"{kind.name} {link.name}" if len(kind.links) > 1 else kind.name
            found[name] = partial(kind, **told)
    return found | MADE | CUT


CASES = cases()


@cache
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    made = pd.DataFrame({"x": rng.normal(size=ROWS), "school": rng.choice(list("ABCDE"), ROWS)})
    counts, share = rng.poisson(2.0, ROWS), rng.uniform(0.25, 0.85, ROWS)
    return made.assign(
        real=rng.uniform(0.25, 1.9, ROWS), count=counts, share=share, n=counts + 3, yes=counts % 2,
        ends=np.where(counts == 0, 0.0, np.where(counts == 1, 1.0, share)), grade=np.arange(ROWS) % 4,
    )  # fmt: skip


def response(name: str, family: ht.families.Family) -> str:
    """The left side of a formula for a family."""
    if family.name in TRIALS:
        return "count | trials(n)"
    if family.name == "bernoulli":
        return "yes"
    if family.name in CODED:
        return "grade"
    base = getattr(family, "base", family)
    counts = isinstance(base, Counts) or family.name.startswith("zero_inflated")
    share = "ends" if "one_inflated" in family.name else "share" if base.name == "beta" else "real"
    return "count" if counts else share


def posterior(name: str, draws: int = 20) -> Posterior:
    """With draws from priors that are calm."""
    family = CASES[name]()
    left = response(name, family)
    with validation(False):
        model, _ = ht.formula(f"{left} ~ x + (x | school)", frame(), family=family)
    known = {k: v for k, v in (CALM | LATENTS).items() if k in model.latents}
    if family.several:
        known = {f"{k}_{p}": v for k, v in CALM.items() for p in family.parameters if f"{k}_{p}" in model.latents}
    model, data = ht.formula(f"{left} ~ x + (x | school)", frame(), family=family, priors=known)
    return from_prior(model, data, 2, draws)


def exported(fit: Posterior, path) -> deploy.Exported:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit.export(path / "model.ht", draws=None)
    return deploy.load(path / "model.ht")


def new_rows() -> pd.DataFrame:
    """Rows of known and of new schools."""
    return frame().iloc[:8].assign(school=["A", "new", "B", "other", "new", "C", "D", "E"])


@pytest.mark.parametrize("name", CASES)
def test_means_of_known_and_new_groups(name, tmp_path):
    fit = posterior(name)
    model = exported(fit, tmp_path)
    coded = name.split()[0] in CODED
    kinds = ["mean"] if not coded else ["probability"] if name == "categorical" else ["mean", "probability"]
    if name == "truncated_asymmetric_laplace":
        with pytest.raises(deploy.DeployError, match=r"'mean' is not known .* this model has 'response'"):
            model.predict(new_rows(), new_groups="sample")
        return
    for kind in kinds:
        normals, expected = by_torch(fit, new_rows(), kind)
        found = model.predict(new_rows(), kind, "sample", normals=normals)
        assert found.new == {"school": ["new", "other"]} and np.isfinite(found.draws).all()
        np.testing.assert_allclose(found.draws, expected, rtol=1e-12, atol=1e-12)
        assert found.draws.std(0).min() > 0.0


TOLD = {
    "count | rate(real) ~ x + offset(share) + (1 | school)": "poisson",
    "count | trials(20) ~ x + (1 | school)": "binomial",
    "cbind(count, n) ~ x + (1 | school)": "beta_binomial",
    "proportion(count, n) ~ x + (1 | school)": "binomial",
    "real | se(share) ~ x + (1 | school)": "gaussian",
    "real | cens(yes) ~ x + (1 | school)": "lognormal",
    "real | cens(yes) + trunc(lb=low, ub=3) ~ x + (1 | school)": "weibull",
    "real | weights(n) ~ x + (1 | school)": "gaussian",
    "size ~ x + (1 | school)": "cumulative",
    "size ~ x + (1 | school) ": "categorical",
}
"""What stands beside a response, which new rows need where predictions read it."""


@pytest.mark.parametrize("text", TOLD)
def test_what_is_told_of_rows(text, tmp_path):
    family = TOLD[text]
    sizes = np.array(["small", "mid", "large"])[frame()["grade"] % 3]
    rows = frame().assign(low=0.1 * frame()["share"], size=pd.Categorical(sizes, ["small", "mid", "large"]))
    model, _ = ht.formula(text, rows, family=family)
    calm = {k: v for k, v in (CALM | LATENTS).items() if k in model.latents}
    fit = from_prior(*ht.formula(text, rows, family=family, priors=calm), 2, 10)
    found = exported(fit, tmp_path)
    assert not {"yes", "size", "real" if "rate" not in text else "n"} & {*found.needs}
    later = rows.iloc[:8].assign(school=new_rows()["school"])
    kind = "probability" if family in CODED else "mean"
    normals, expected = by_torch(fit, later, kind)
    prediction = found.predict(later, kind, "sample", normals=normals)
    np.testing.assert_allclose(prediction.draws, expected, rtol=1e-12, atol=1e-12)
    assert prediction.categories == (["small", "mid", "large"] if family in CODED else [])


def test_summaries_are_those_of_the_posterior(tmp_path):
    fit = posterior("gamma log", 50)
    found = exported(fit, tmp_path).predict(frame().iloc[:5], ci_prob=0.8).summary
    expected = fit.predict(frame().iloc[:5], ci_prob=0.8).summary
    assert list(found) == list(expected)
    np.testing.assert_allclose(np.column_stack([*found.values()]), expected.to_numpy(), rtol=1e-12)


USUAL = [name for name, made in CASES.items() if made().has_default_link] + ["cumulative probit", "sratio cloglog"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if "truncated" in n else []) for n in USUAL])
def test_responses_are_drawn_from_the_same_law(name, tmp_path):
    """Draws of both, by Kolmogorov and Smirnov; a law that is moved by half an sd is another one."""
    fit = posterior(name, 1000)
    rows = frame().iloc[:1]
    found = exported(fit, tmp_path).predict(rows, "response", seed=3).draws.ravel()
    drawn = fit.predict(rows, kind="response", seed=4).draws.numpy().ravel()
    assert stats.ks_2samp(found, drawn).pvalue > ALPHA
    assert stats.ks_2samp(found + 0.5 * found.std(), drawn).pvalue < ALPHA
