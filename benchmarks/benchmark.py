"""Effective draws per second of hiertorch and of NUTS in NumPyro, PyMC (by nutpie) and Pyro, on the same data.

    python benchmarks/benchmark.py --case tutorial radon --peers numpyro nutpie pyro --json benchmark.json

Every runner has a process to itself, one after the other on the same cores, so that peak memory is its own. Times
contain warm-up; compilation is given apart. Bulk ESS and rank R-hat come from arviz-stats for all. The data are in
`cases`, the models in `own_models`, `peers` and `pymc_peer`.

Some cases are tables of several data sets or settings: "rows" and "group_counts" are times a draw, "groups" and
"overhead" have other numbers of groups and chains, "cold" times whole processes, see there.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cases import EFFECTS, LARGE, make_case
from cold import run_cold
from measures import Sampled, measure, memory_peak, moments
from own_models import sample_with_hiertorch
from peers import FORMS, MIXED, sample_with_numpyro, sample_with_pyro
from pymc_peer import sample_with_nutpie
from reporting import compare, machine, row, table, versions

# Note [Light parent]
# Linux hands a process's peak memory on to the children it starts (exec folds it into ru_maxrss), so the parent imports
# NumPy and no more: torch, jax and pandas are imported inside the functions that only children call.

CASES = (
    *("tutorial", "eight_schools", "radon", "correlated", "nested", "million", "ten_million", "insteval", "cold"),
    *("rows", "group_counts", "bernoulli", "schools", "groups", "overhead"),
)
PEERS = ("numpyro", "nutpie", "pyro")
ROWS = (10_000, 100_000, 1_000_000, 10_000_000)
GROUPS = (100, 1_000, 10_000, 100_000)


@dataclass(frozen=True)
class Job:
    """One runner on one case: what a child process is told."""

    case: str
    runner: str  # "hiertorch" or a peer
    settings: dict[str, Any]  # keyword arguments of the runner
    seed: int
    threads: int
    effects: bool = True  # whether groups' effects are measured, or the population's parameters alone
    cold: bool = False  # whether whole processes are timed
    device: str = "cpu"

    @property
    def label(self) -> str:
        return " ".join((self.runner, *(self.settings[key] for key in ("form", "method") if key in self.settings)))


RUNNERS: dict[str, Callable[..., Sampled]] = {
    "hiertorch": sample_with_hiertorch,
    "numpyro": sample_with_numpyro,
    "nutpie": sample_with_nutpie,
    "pyro": sample_with_pyro,
}


def run_job(job: Job) -> dict[str, Any]:
    """Samples and measures, in the process that calls it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])
    case = make_case(job.case)
    report = {
        "label": job.label,
        **asdict(job),
        "rows": len(case.y),
        "groups": {grouping: case.size(grouping) for grouping in case.groups},
        "data": case.digest,
        "load_average_before": os.getloadavg()[0],
    }
    if job.cold:
        sampled = run_cold(case, job.runner, job.settings, seed=job.seed)
    else:
        if job.runner in ("hiertorch", "pyro"):
            import torch

            torch.set_num_threads(job.threads)
        there = {"device": job.device} if job.runner == "hiertorch" else {}  # of NumPyro JAX_PLATFORMS says it
        sampled = RUNNERS[job.runner](case, seed=job.seed, **job.settings, **there)
        earlier = sampled.details.get("earlier_peak_megabytes", 0.0)
        sampled.details["peak_megabytes"] = max(earlier, memory_peak())
    draws = {name: x for name, x in sampled.draws.items() if job.effects or name not in EFFECTS}
    return {
        **report,
        **measure(draws, sampled.seconds),
        "seconds": sampled.seconds,
        "compile_seconds": sampled.compile_seconds,
        "peak_megabytes": sampled.details["peak_megabytes"],
        "details": sampled.details,
        **moments(draws),
    }


def run_in_child(job: Job) -> dict[str, Any]:
    """The job's report, from a process of its own; if that fails, a report with the last line of its error."""
    threads = str(job.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    environment |= {"JAX_PLATFORMS": "cuda,cpu"} if job.device == "cuda" else {}  # without a card for JAX it fails
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, __file__, "--job", json.dumps(asdict(job)), "--json", str(path)]
        child = subprocess.run(command, env=environment, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
        if child.returncode == 0:
            return json.loads(path.read_text())
    return {"label": job.label, **asdict(job), "failed": (child.stderr.strip().splitlines() or ["no message"])[-1]}


def plan(case: str, args: argparse.Namespace) -> list[Job]:
    """The jobs of a case, hiertorch first."""

    def job(case: str, runner: str, settings: dict[str, Any], **more: bool) -> Job:
        settings = {name: value for name, value in settings.items() if value is not None}
        return Job(case, runner, settings, args.seed, args.threads, **more, device=args.device)

    own: dict[str, Any] = {name: getattr(args, name) for name in ("chains", "warmup", "draws", "thin")}
    own |= {name: {"on": True, "off": False, None: None}[getattr(args, name)] for name in ("compile", "collapse")}
    few = {**own, "chains": args.chains or 16}  # 5,000 groups x 16 chains x 500 draws are 40 million numbers
    if case == "groups":
        return [job(f"groups_{count}", "hiertorch", few) for count in (50, 500, 5_000)]
    if case == "overhead":
        return [job("tutorial", "hiertorch", {**own, "chains": chains}) for chains in (64, 512)]
    if case in ("rows", "group_counts"):
        names = [f"rows_{n}" for n in ROWS] if case == "rows" else [f"groups_{n}" for n in GROUPS]
        return [job(name, "hiertorch", {**few, "draws": args.draws or 100}, effects=False) for name in names]
    data, cold = "radon" if case == "cold" else case, case == "cold"
    jobs = [] if args.peers_only else [job(data, "hiertorch", own, cold=cold)]
    if case not in LARGE or args.peers_of_large:
        jobs += [job(data, peer, settings, cold=cold) for peer, settings in peer_settings(case, args)]
    return jobs


def peer_settings(case: str, args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each peer that is asked for with each setting that it is tried with; the best will count."""
    forms = [form for form in args.forms if form != "mixed" or case in MIXED]
    warmup, lengths = args.peer_warmup, args.peer_draws
    if case == "cold":  # of whose data centred is the better form; draws are a first trial
        forms, warmup, lengths = ["centred"], 500, [500]
    slow = {name: getattr(args, f"pyro_{name}") for name in ("chains", "warmup", "draws", "cap")}
    for peer, form in itertools.product(args.peers, forms):
        if peer == "pyro":
            yield peer, {**slow, "form": form, "jit": True}
            continue
        for draws in lengths:
            nuts = {"chains": args.peer_chains, "warmup": warmup, "draws": draws, "form": form}
            if peer == "nutpie":
                yield peer, {**nuts, "cores": args.threads}
            else:
                yield from ((peer, {**nuts, "method": method}) for method in args.chain_methods)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=(*CASES, "all"), default=["radon"], help="one or several")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[])
    parser.add_argument("--peers-only", action="store_true", help="leave hiertorch out")
    parser.add_argument("--peers-of-large", action="store_true", help="run peers on the largest data too, for hours")
    parser.add_argument("--json", type=Path, help="where to write everything measured")
    parser.add_argument("--seed", type=int, default=1, help="of the samplers; the data's seed is fixed")
    parser.add_argument("--threads", type=int, default=2, help="cores and threads of each runner")
    for name in ("chains", "warmup", "draws", "thin"):
        parser.add_argument(f"--{name}", type=int, help="of hiertorch; default: its own")
    for name in ("compile", "collapse"):
        parser.add_argument(f"--{name}", choices=("on", "off"), help="of hiertorch; default: its own")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="of the peers' models")
    methods = ("parallel", "vectorized", "sequential")
    parser.add_argument("--chain-methods", nargs="+", choices=methods, default=["parallel", "vectorized"])
    parser.add_argument("--peer-chains", type=int, default=4, help="of NumPyro and nutpie")
    parser.add_argument("--peer-warmup", type=int, default=1_000, help="of NumPyro and nutpie")
    parser.add_argument("--peer-draws", type=int, nargs="+", default=[1_000], help="of NumPyro and nutpie, each tried")
    parser.add_argument("--pyro-chains", type=int, default=2)
    parser.add_argument("--pyro-warmup", type=int, default=200)
    parser.add_argument("--pyro-draws", type=int, default=200)
    parser.add_argument("--pyro-cap", type=float, default=180.0, help="seconds for all of Pyro's chains")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of hiertorch and NumPyro")
    parser.add_argument("--job", help=argparse.SUPPRESS)  # what a child is told
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not args.job and (why := without_card(args)):
        parser.error(f"--device cuda: {why}")
    return args


def without_card(args: argparse.Namespace) -> str:
    """Why what is asked for can't run on a card, and what to do; "" if it can."""
    if "cold" in args.case or "all" in args.case:
        return "whole processes (--case cold) are timed on the CPU alone; name other cases."
    if other := [peer for peer in args.peers if peer != "numpyro"]:
        return f"of the peers NumPyro alone runs on a card, not {other[0]}; leave that out."
    asked = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 3)"  # not here: Note [Light parent]
    if subprocess.run([sys.executable, "-c", asked]).returncode:
        return "PyTorch finds no card here that has CUDA; give --device cpu, or run this where there is one."
    return ""


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.job:
        args.json.write_text(json.dumps(run_job(Job(**json.loads(args.job)))))
        return 0
    results: list[dict[str, Any]] = []
    for case in CASES if "all" in args.case else args.case:
        reports = []
        for job in plan(case, args):
            reports.append(run_in_child(job))
            print("  ".join(row(reports[-1])), file=sys.stderr, flush=True)
        ratios = compare(reports)
        print(f"{case}\n{table(reports, ratios)}\n", flush=True)
        kept = [{k: v for k, v in report.items() if k not in ("mean", "mcse")} for report in reports]
        results.append({"case": case, "runs": kept, "ratios": ratios})
        if args.json:  # after each case, so that an interrupted run leaves the earlier ones
            written = {"machine": machine(), "versions": versions(), "cases": results}
            args.json.write_text(json.dumps(written, indent=2) + "\n")
    return 1 if any("failed" in report for result in results for report in result["runs"]) else 0


if __name__ == "__main__":
    sys.exit(main())
