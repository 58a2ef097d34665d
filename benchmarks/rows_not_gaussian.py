"""Effective draws per second where rows are not normal: hiertorch beside NUTS of NumPyro and nutpie, on the same cores.

    python benchmarks/rows_not_gaussian.py --case a b c --cap 300 --json benchmarks/results/rows_not_gaussian.json
    python benchmarks/rows_not_gaussian.py --case growth_50 growth_500 --runners hiertorch
    python benchmarks/rows_not_gaussian.py --case a b --cold

Cases and models are in `glmm_cases`. Every runner has a process to itself. It samples until the worst of all
parameters, groups' effects included, has --ess effective draws (bulk ESS by arviz-stats), or until --cap seconds have
passed; peers after 1,000 draws of warm-up of each of four chains, in parallel, hiertorch with its default chains and
warm-up. Seconds have the warm-up in them and no compilation; NumPyro runs in single and in double precision, centred
and not, and the best counts. How many draws are needed is learnt from a first part, which for NumPyro belongs to the
run; hiertorch and nutpie make a shorter run first, which is not counted.

--cold times whole processes (imports, compilation, sampling) to R-hat 1.01 and 400 effective draws of all parameters:
hiertorch as it is by default, NumPyro in steps of 250 draws, nutpie with 1,000 draws.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from glmm_cases import CASES, TITLES, GlmmCase, hiertorch_data, hiertorch_model, named_draws, numpyro_model, pymc_model
from measures import measure
from reporting import machine, versions

CHAINS, WARMUP, CHUNK, FIRST = 4, 1_000, 250, 1_000
"""Of peers: chains, warm-up, draws between looks at the clock, draws after which the rate is known."""

MARGIN = 1.05
"""Times the draws that a rate asks for."""

R_HAT, COLD_ESS = 1.01, 400
"""At most, and at least, of all parameters, for a cold process to have an answer."""

REFERENCE_R_HAT, REFERENCE_ESS = 1.005, 1_500
"""At most, and at least, of all parameters, for a run to be a reference."""

TAILS = (0.05, 0.95)
"""Quantiles that references have."""

SHOWN = 4
"""Effects of each grouping in a reference."""

RUNNERS = ("hiertorch", "numpyro32", "numpyro64", "nutpie")


def sample_with_hiertorch(job: dict[str, Any], case: GlmmCase) -> dict[str, Any]:
    """Two runs: of the default length, and of the length that the first one says is needed."""
    ess, cap, seed = job["ess"], job["cap"], job["seed"]
    import torch

    import hiertorch as ht
    from hiertorch.monitors import Monitor, Window

    torch.broadcast_shapes((1,), (1,))  # imports sympy; nobody's imports are counted

    class Stopwatch(Monitor):
        """Looks at the clocks after every window: peers compute R-hat when they are asked, and so are not charged."""

        wall = cpu = 0.0

        def window(self, window: Window) -> None:
            self.wall, self.cpu = time.perf_counter(), time.process_time()

    def run(draws: int | None) -> tuple[Any, float, float]:
        model, data, watch = hiertorch_model(case), hiertorch_data(case), Stopwatch()
        wall, cpu = time.perf_counter(), time.process_time()
        posterior = ht.sample(model, data, seed=seed, draws=draws, progress=False, keep_all=True, monitors=[watch])
        return posterior, watch.wall - wall, watch.cpu - cpu

    clock = Clock()
    posterior, seconds, cpu = run(None)
    if job["cold"]:
        seen = clock.measure(named_draws(case, {name: np.asarray(x) for name, x in posterior.draws.items()}))
        return {**seen, "seconds": seconds, "cpu_seconds": cpu}
    first = measured(case, posterior, seconds)
    needed = int(MARGIN * ess / max(first["ess_per_draw"], 1e-6) / posterior.chains)
    rate = (posterior.run["seconds"]["sampling"]) / posterior.n_draws
    draws = min(needed, int(cap / rate))
    if draws > posterior.n_draws:
        posterior, seconds, cpu = run(draws)
    rates = {block: float(x.mean()) for block, x in posterior.stats.acceptance.items()}
    found = {"seconds": seconds, "cpu_seconds": cpu, "acceptance": rates, "phases": posterior.run["seconds"]}
    return {**measured(case, posterior, seconds), **found, "first": first}


def measured(case: GlmmCase, posterior: Any, seconds: float) -> dict[str, Any]:
    return measure(named_draws(case, {name: np.asarray(x) for name, x in posterior.draws.items()}), seconds)


def sample_with_numpyro(job: dict[str, Any], case: GlmmCase) -> dict[str, Any]:
    """A chunk of draws compiled ahead of time, one device a chain, and run again until there are enough."""
    clock, ess, cap = Clock(), job["ess"], job["cap"]
    import jax
    from numpyro.infer import NUTS
    from numpyro.infer.util import constrain_fn

    model = numpyro_model(case, job["centred"])
    kernel = NUTS(model)
    keys = jax.random.split(jax.random.PRNGKey(job["seed"]), CHAINS)
    states = [kernel.init(key, WARMUP, None, (), {}) for key in keys]
    state = jax.tree.map(lambda *x: jax.numpy.stack(x), *states)

    def chunk(state: Any) -> Any:
        def step(state: Any, _: None) -> Any:
            state = kernel.sample(state, (), {})
            return state, (state.z, state.num_steps, state.diverging)

        return jax.lax.scan(step, state, None, CHUNK)

    began = time.perf_counter()
    mapped = jax.pmap(chunk)
    compiled = mapped.lower(state).compile()
    state = jax.device_put(state, compiled.input_shardings[0][0])
    compile_seconds = time.perf_counter() - began
    places: list[Any] = []

    def draws() -> dict[str, np.ndarray]:
        z = {name: np.concatenate([p[name] for p in places], 1) for name in places[0]}
        flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in z.items()}
        found = jax.jit(jax.vmap(lambda u: constrain_fn(model, (), {}, u, return_deterministic=True)))(flat)
        shared = {n: np.asarray(x) for n, x in found.items() if n not in ("y", "z", "L") and not n.startswith("z_")}
        return {n: x.reshape(CHAINS, len(x) // CHAINS, -1) for n, x in shared.items()}

    steps, divergences, wall, cpu = 0, 0, 0.0, 0.0

    def run(number: int, *, kept: bool) -> None:
        nonlocal state, steps, divergences, wall, cpu
        for _ in range(-(-number // CHUNK)):
            if wall >= cap:
                return
            start = time.perf_counter(), time.process_time()
            state, (z, taken, diverging) = jax.block_until_ready(compiled(state))
            wall, cpu = wall + time.perf_counter() - start[0], cpu + time.process_time() - start[1]
            if kept:
                places.append(jax.tree.map(np.asarray, z))
                steps, divergences = steps + int(np.sum(taken)), divergences + int(np.sum(diverging))

    run(WARMUP, kept=False)
    warmup_seconds = wall
    while job["cold"] and wall < cap:
        run(CHUNK, kept=True)
        if is_answer(found := clock.measure(draws())) or wall >= cap:
            return {**found, "seconds": wall, "cpu_seconds": cpu, "compile_seconds": compile_seconds}
    run(FIRST, kept=True)
    if places:
        rate = measure(draws(), wall)["min_ess"] / len(places)
        run(int(MARGIN * CHUNK * ess / max(rate, 1e-6)) - CHUNK * len(places), kept=True)
    if not places:
        raise RuntimeError(f"no draws within {cap:.0f} s")
    values = draws()
    return {
        **measure(values, wall),
        "summary": summary(values),
        "seconds": wall,
        "cpu_seconds": cpu,
        "warmup_seconds": warmup_seconds,
        "compile_seconds": compile_seconds,
        "divergences": divergences,
        "steps_per_draw": steps / (CHAINS * CHUNK * len(places)),
    }


def sample_with_nutpie(job: dict[str, Any], case: GlmmCase) -> dict[str, Any]:
    """A run of 1,000 + 1,000; if these were too few, another of as many as needed, which alone counts."""
    from pymc_peer import imported

    clock, ess, cap = Clock(), job["ess"], job["cap"]
    nutpie: Any = imported("nutpie")
    began = time.perf_counter()
    compiled = nutpie.compile_pymc_model(pymc_model(case, job["centred"]))
    settings = {"chains": CHAINS, "cores": len(os.sched_getaffinity(0)), "progress_bar": False, "save_warmup": False}
    if not job["cold"]:
        nutpie.sample(compiled, tune=20, draws=20, seed=job["seed"] + 1, **settings)
    compile_seconds = time.perf_counter() - began
    number = FIRST
    for attempt in range(2):
        start = time.perf_counter(), time.process_time()
        trace = nutpie.sample(compiled, tune=WARMUP, draws=number, seed=job["seed"], **settings)
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        names = [str(n) for n in trace.posterior if not str(n).startswith(("z_", "half")) and str(n) != "z"]
        values = {n: np.asarray(trace.posterior[n].values, dtype=float) for n in names if not n.endswith("__")}
        found = clock.measure({n: x.reshape(*x.shape[:2], -1) for n, x in values.items()})
        found["ess_per_second"] = found["min_ess"] / wall
        if job["cold"]:
            break
        needed = int(MARGIN * number * ess / max(found["min_ess"], 1e-6))
        affordable = int((cap - wall * WARMUP / (WARMUP + number)) / (wall / (WARMUP + number)))
        if attempt or min(needed, affordable) <= number:
            break
        number = min(needed, affordable)
    return {**found, "seconds": wall, "cpu_seconds": cpu, "compile_seconds": compile_seconds}


def summary(draws: dict[str, np.ndarray]) -> dict[str, dict[str, list[float]]]:
    """Means, sds and quantiles with their Monte Carlo errors of every population parameter and some effects, by
    `name[k]`.
    """
    from arviz_stats.base import array_stats

    found = {}
    for name, x in draws.items():
        for k in range(min(x.shape[-1], SHOWN if name.startswith("alpha_") else x.shape[-1])):
            values = x[..., k].astype(float)
            quantiles = {f"q{100 * p:.0f}": {"method": "quantile", "prob": p} for p in TAILS}
            asked: dict[str, dict[str, Any]] = {"mean": {"method": "mean"}, "sd": {"method": "sd"}, **quantiles}
            estimates = [values.mean(), values.std(), *np.quantile(values, TAILS)]
            errors = [float(array_stats.mcse(values, **settings)) for settings in asked.values()]
            found[f"{name}[{k}]"] = {
                n: [float(e), error] for n, e, error in zip(asked, estimates, errors, strict=True)
            } | {"r_hat": [float(array_stats.rhat(values))]}
    return found


class Clock:
    """Seconds since this process began, but for what is measured."""

    def __init__(self) -> None:
        import psutil

        self.start = psutil.Process().create_time()

    def seconds(self) -> float:
        return time.time() - self.start

    def measure(self, draws: dict[str, np.ndarray]) -> dict[str, Any]:
        seconds, began = self.seconds(), time.time()
        found = measure(draws, seconds)
        self.start += time.time() - began
        return {**found, "cold_seconds": seconds}


def is_answer(found: dict[str, Any]) -> bool:
    return found["min_ess"] >= COLD_ESS and found["worst_rhat"] <= R_HAT


SAMPLERS = {
    "hiertorch": sample_with_hiertorch,
    "numpyro32": sample_with_numpyro,
    "numpyro64": sample_with_numpyro,
    "nutpie": sample_with_nutpie,
}


def child(job: dict[str, Any]) -> dict[str, Any]:
    """A runner's report, in the process that calls it."""
    if job["runner"].startswith("numpyro"):
        import numpyro

        numpyro.set_host_device_count(CHAINS)
        numpyro.enable_x64(job["runner"].endswith("64"))
    case = CASES[job["case"]]()
    before = os.getloadavg()[0]
    report = SAMPLERS[job["runner"]](job, case)
    kept = {name: x for name, x in report.items() if name != "min_ess_by_parameter"}
    if "first" in kept:
        kept["first"] = {name: x for name, x in kept["first"].items() if name != "min_ess_by_parameter"}
    return {**job, "rows": len(case.y), "load_before": before, **kept}


def in_child(job: dict[str, Any]) -> dict[str, Any]:
    """The report of a process of its own, with the seconds of the whole of it."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, "--job", json.dumps(job)], capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        return {**job, "failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return {**json.loads(done.stdout.splitlines()[-1]), "process_seconds": seconds}


def line(report: dict[str, Any]) -> str:
    """Of a table."""
    form = ", centred" if report["centred"] else ", not centred"
    runner = report["runner"] + ("" if report["runner"] == "hiertorch" else form)
    if "failed" in report:
        return f"| {report['case']} | {runner} | failed: {report['failed'][:80]} |"
    cut = " (cut)" if report["min_ess"] < 0.9 * report["ess"] else ""
    cells = [
        *(report["case"], runner, f"{report['chains']} x {report['draws']:,}", f"{report['min_ess']:,.0f}{cut}"),
        *(report["min_ess_at"], f"{report['ess_per_draw']:.3f}", f"{report['worst_rhat']:.4f}"),
        *(f"{report['seconds']:.1f}", f"{report['cpu_seconds']:.1f}", f"{report['ess_per_second']:,.0f}"),
        f"{report['min_ess'] / report['cpu_seconds']:,.0f}",
    ]
    if report["cold"]:
        cells[7:] = [f"cold {report['cold_seconds']:.1f}" + ("" if is_answer(report) else " (no answer yet)")]
    return f"| {' | '.join(cells)} |"


HEAD = """| case | runner | draws | ESS | of | a draw | R-hat | s | CPU s | ESS/s | ESS/CPU s |
|---|---|---|--:|---|--:|--:|--:|--:|--:|--:|"""


def ratios(reports: Sequence[dict[str, Any]]) -> str:
    """hiertorch's effective draws per second over those of the best peer that ran."""
    sound = [report for report in reports if "failed" not in report]
    own = next((report for report in sound if report["runner"] == "hiertorch"), None)
    peers = [report for report in sound if report["runner"] != "hiertorch"]
    if own is None or not peers:
        return ""
    best = max(peers, key=lambda report: report["ess_per_second"])
    times = own["ess_per_second"] / best["ess_per_second"]
    by_cpu = own["min_ess"] / own["cpu_seconds"] / max(r["min_ess"] / r["cpu_seconds"] for r in peers)
    title = TITLES.get(own["case"], "")
    return (
        f"{own['case']} {title}: {own['ess_per_second']:,.0f} against {best['ess_per_second']:,.1f} ESS/s of "
        f"{best['runner']}: {times:.1f} times ({by_cpu:.1f} by CPU)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=(*CASES,), default=[*TITLES])
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=list(RUNNERS))
    parser.add_argument("--forms", nargs="+", choices=("centred", "not"), default=["not", "centred"], help="of peers")
    parser.add_argument("--ess", type=float, default=20_000, help="effective draws of the worst parameter")
    parser.add_argument("--cap", type=float, default=300.0, help="seconds of a runner")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="results, to which those of earlier calls are kept")
    parser.add_argument("--cold", action="store_true", help="time whole processes to their first answer")
    parser.add_argument("--references", type=Path, help="where NumPyro's long runs are kept")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.job:
        print(json.dumps(child(json.loads(asked.job))))
        return 0
    print(HEAD, flush=True)
    verdicts = []
    for case in asked.case:
        reports = []
        for runner, form in itertools.product(asked.runners, asked.forms):
            if runner == "hiertorch" and form != asked.forms[0]:
                continue
            job = {name: getattr(asked, name) for name in ("ess", "cap", "seed", "cold")}
            reports.append(in_child({**job, "case": case, "runner": runner, "centred": form == "centred"}))
            print(line(reports[-1]), flush=True)
        if asked.json:
            reports = write(asked.json, f"{case} cold" if asked.cold else case, reports)
        verdicts.append("" if asked.cold else ratios(reports))
        if asked.references:
            write_reference(asked.references, case, reports)
    print("\n".join(filter(None, verdicts)))
    return 0


def write(path: Path, case: str, reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Puts reports in the place of earlier ones of the same runners; gives all of the case."""
    written = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    written |= {"machine": machine(), "versions": versions()}
    every = {(report["runner"], report["centred"]): report for report in written["cases"].get(case, []) + reports}
    written["cases"][case] = list(every.values())
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(written, indent=1) + "\n")
    return written["cases"][case]


def write_reference(path: Path, case: str, reports: list[dict[str, Any]]) -> None:
    """NumPyro's longest run with an R-hat low enough, in double precision if there is one; the case's part of the file
    is replaced.
    """
    sound = [r for r in reports if r["runner"].startswith("numpyro") and "failed" not in r]
    long = [r for r in sound if r["worst_rhat"] <= REFERENCE_R_HAT and r["min_ess"] >= REFERENCE_ESS]
    best = max(long, key=lambda r: (r["runner"].endswith("64"), r["min_ess"]), default=None)
    if best is None:
        print(f"{case}: no run is long enough to be a reference", file=sys.stderr)
        return
    written = json.loads(path.read_text()) if path.exists() else {"cases": {}, "runs": {}}
    written["cases"][case] = best["summary"]
    facts = ("runner", "chains", "draws", "centred", "seed", "min_ess", "worst_rhat", "divergences")
    written["runs"][case] = {name: best[name] for name in facts}
    path.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
