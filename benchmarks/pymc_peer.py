"""The benchmark's models in PyMC, and how they are sampled: by nutpie's NUTS with its defaults, in float64.

The forms are those of `peers`. Two correlated effects are written with `LKJCholeskyCov`, as PyMC's users write them.
"""

import importlib
import time
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
from cases import Case
from measures import Sampled
from peers import is_centred, shared_names

__all__ = ["pymc_model", "sample_with_nutpie"]


def imported(name: str) -> Any:
    """The module `name`: pymc or nutpie."""
    # Both import arviz 0.23, which reads matplotlib.style.core; matplotlib 3.11 has it, but no longer imports it.
    with warnings.catch_warnings(), suppress(ModuleNotFoundError):
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("matplotlib.style.core")
    return importlib.import_module(name)


def pymc_model(case: Case, *, form: str) -> Any:
    """The case's form as a `pymc.Model`."""
    pm = imported("pymc")
    locations = {"correlated": _correlated, "nested": _nested, "crossed": _crossed}
    with pm.Model() as model:
        location = locations.get(case.form, _intercepts)(pm, case, form)
        if case.form == "logits":
            pm.Bernoulli("y", logit_p=location, observed=case.y)
        else:
            scale = case.columns["se"] if case.form == "known" else pm.Gamma("sigma_y", 1.0, 1.0)
            pm.Normal("y", location, scale, observed=case.y)
    return model


def _effect(pm: Any, case: Case, form: str, name: str, grouping: str, mean: Any, scale: Any) -> Any:
    if is_centred(form, name):
        return pm.Normal(name, mean, scale, shape=case.size(grouping))
    return mean + scale * pm.Normal(f"z_{name}", 0.0, 1.0, shape=case.size(grouping))


def _intercepts(pm: Any, case: Case, form: str) -> Any:
    mu = pm.Normal("mu_alpha", 0.0, 5.0)
    sigma = pm.HalfCauchy("sigma_alpha", 5.0) if case.form == "known" else pm.Gamma("sigma_alpha", 1.0, 1.0)
    location = _effect(pm, case, form, "alpha", "group", mu, sigma)[case.groups["group"]]
    return location + pm.Normal("beta", 0.0, 2.0) * case.columns["x"] if "x" in case.columns else location


def _correlated(pm: Any, case: Case, form: str) -> Any:
    mu = pm.Normal("mu", 0.0, [5.0, 2.0])
    factor, _, _ = pm.LKJCholeskyCov("factor", n=2, eta=2.0, sd_dist=pm.Gamma.dist(1.0, 1.0, shape=2))
    size, group = (case.size("group"), 2), case.groups["group"]
    if form == "centred":
        effects = pm.MvNormal("effects", mu, chol=factor, shape=size)
    elif form == "non-centred":
        effects = mu + pm.math.dot(pm.Normal("z_effects", 0.0, 1.0, shape=size), factor.T)
    else:
        first = pm.Normal("first", mu[0], factor[0, 0], shape=size[0])
        z = (first - mu[0]) / factor[0, 0], pm.Normal("z_second", 0.0, 1.0, shape=size[0])
        effects = pm.math.stack([first, mu[1] + factor[1, 0] * z[0] + factor[1, 1] * z[1]], axis=1)
    return effects[group, 0] + effects[group, 1] * case.columns["x"]


def _nested(pm: Any, case: Case, form: str) -> Any:
    mu = pm.Normal("mu", 0.0, 5.0)
    school = _effect(pm, case, form, "school", "school", mu, pm.Gamma("sigma_school", 1.0, 1.0))
    mean, sigma = school[case.parents("classroom", "school")], pm.Gamma("sigma_classroom", 1.0, 1.0)
    return _effect(pm, case, form, "classroom", "classroom", mean, sigma)[case.groups["classroom"]]


def _crossed(pm: Any, case: Case, form: str) -> Any:
    mu = pm.Normal("mu", 0.0, 5.0)
    student = _effect(pm, case, form, "student", "student", 0.0, pm.Gamma("sigma_student", 1.0, 1.0))
    lecturer = _effect(pm, case, form, "lecturer", "lecturer", 0.0, pm.Gamma("sigma_lecturer", 1.0, 1.0))
    return mu + student[case.groups["student"]] + lecturer[case.groups["lecturer"]]


def sample_with_nutpie(
    case: Case, *, seed: int, chains: int = 4, warmup: int, draws: int, form: str, cores: int
) -> Sampled:
    """NUTS compiled by numba beforehand; a rehearsal of a few draws, so that the timed call compiles nothing."""
    nutpie = imported("nutpie")
    start = time.perf_counter()
    compiled = nutpie.compile_pymc_model(pymc_model(case, form=form))
    settings = {"chains": chains, "cores": cores, "progress_bar": False, "save_warmup": False}
    nutpie.sample(compiled, tune=20, draws=20, seed=seed + 1, **settings)
    compile_seconds = time.perf_counter() - start
    start = time.perf_counter()
    trace = nutpie.sample(compiled, tune=warmup, draws=draws, seed=seed, **settings)
    seconds = time.perf_counter() - start
    details = {
        "leapfrog_steps_per_draw": float(trace.sample_stats["n_steps"].mean()),
        "divergences": int(trace.sample_stats["diverging"].sum()),
    }
    return Sampled(nutpie_draws(case, trace), seconds, compile_seconds, details)


def nutpie_draws(case: Case, trace: Any) -> dict[str, np.ndarray]:
    """What a trace holds by the names that all runners share, `(chains, draws, size)`."""
    names = [str(name) for name in trace.posterior if not str(name).endswith("__")]  # those are on log scales and such
    values = {name: np.asarray(trace.posterior[name].values, dtype=float) for name in names}
    if case.form == "correlated":
        del values["factor"]
        values["sigma"] = values.pop("factor_stds")
        # The factor of the correlation matrix is (1, 0) above (rho, sqrt(1 - rho^2)).
        rho = values.pop("factor_corr")[..., 1, 0]
        values["L"] = np.stack([np.ones_like(rho), np.zeros_like(rho), rho, np.sqrt(1 - rho**2)], -1)
    return shared_names(case, {name: x.reshape(*x.shape[:2], -1) for name, x in values.items()})
