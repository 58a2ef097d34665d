"""What a pass over the rows costs: row weights by group, nanoseconds of CPU time a row and chain. Writes a JSON result.

    python benchmarks/rowpass.py --out benchmarks/rowpass.json
    python benchmarks/rowpass.py --out benchmarks/rowpass.json --cold

Each is the least of several repeats on one thread, after a first call; with `--cold`, what the first call costs in a
process of its own, with nothing kept on disk and with, in seconds of CPU beyond imports. The ways:

    plain       hiertorch.density.rowblocks, torch operation by operation
    compiled    hiertorch.density.rowloops, by Numba; rows in double and in single precision
    inductor    the plain formula of all rows at once, by torch.compile
    extension   the same loop in C++, by torch.utils.cpp_extension: cold alone
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.density import rowloops
from hiertorch.density.rowpass import Effects, RowPass
from hiertorch.families import rowforms

LEAST = 10_000_000
"""Rows times chains of a repeat."""

REPEATS = 5


class Case(NamedTuple):
    groups: int
    size: int  # rows of a group, in the mean
    columns: int
    chains: int
    ragged: bool = False
    items: int = 0  # crossed


CASES = (
    Case(200, 16, 2, 32),
    Case(200, 16, 2, 64),
    Case(200, 16, 30, 32),
    Case(200, 16, 2, 32, ragged=True),
    Case(316, 24, 4, 32, items=24),
    Case(2000, 3, 2, 32),
    Case(10_000, 100, 2, 32),
)

FORMS = (
    rowforms.Bernoulli,
    rowforms.Binomial,
    rowforms.Poisson,
    rowforms.NegativeBinomial,
    rowforms.StudentT,
    rowforms.Normal,
)

IMPORTS = "import torch\nfrom benchmarks_rowpass import Case, inductor, made\n"

EXTENSION = """
#include <torch/extension.h>
#include <cmath>
torch::Tensor rows(torch::Tensor eta, torch::Tensor y) {
  auto out = torch::zeros_like(eta);
  auto e = eta.accessor<double, 2>(); auto o = out.accessor<double, 2>(); auto r = y.accessor<double, 1>();
  for (int64_t i = 0; i < eta.size(0); i++)
    for (int64_t c = 0; c < eta.size(1); c++) o[i][c] = r[i] * e[i][c] - std::log1p(std::exp(e[i][c]));
  return out;
}
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cold", action="store_true", help="only the first calls, in processes of their own")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    found: dict[str, object] = {}
    if arguments.out and arguments.out.exists():
        found = json.loads(arguments.out.read_text())
    found.update(machine=platform.processor() or platform.machine(), torch=torch.__version__)
    if arguments.cold:
        found["cold seconds"] = cold()
    else:
        cases = [(case, form) for case in CASES for form in (FORMS if case.groups == 200 else FORMS[:3])]
        with torch.no_grad():
            found["nanoseconds"] = [row(case, form) for case, form in cases]
            found["milliseconds of the clock, 10,000 groups"] = shared()
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def row(case: Case, form: type[rowforms.RowForm]) -> dict[str, object]:
    """The ways side by side, in one case."""
    ways: dict[str, float] = {}
    plain, at = made(case, form, compiled=False)
    ways["plain"] = nanoseconds(lambda: plain.weights(*at), case)
    exact = plain.weights(*at)
    for name, rows in (("compiled", "float64"), ("compiled, float32", "float32")):
        built, _ = made(case, form, compiled=True, rows=rows)
        ways[name] = nanoseconds(lambda built=built: built.weights(*at), case)  # type: ignore[misc]
    error = (built.weights(*at) - exact).abs().max().item()
    if form is rowforms.Bernoulli and case.groups == 200 and not case.ragged:
        fused = inductor(plain, case)
        ways["inductor"] = nanoseconds(lambda: fused(at[0], at[1][0][0]), case)
    result = {**case._asdict(), "form": form.__name__, **{name: round(x, 2) for name, x in ways.items()}}
    print(result, f"float32 error {error:.1e}", flush=True)
    return {**result, "float32 error of a group": float(f"{error:.1e}")}


def shared() -> dict[str, float]:
    """The largest case by one worker, and by as many as there are cores: the least by the clock."""
    built, at = made(CASES[-1], rowforms.Bernoulli, compiled=True)
    found = {}
    for name, least in (("one worker", sys.maxsize), ("a worker a core", 0)):
        rowloops.SHARED = least
        built.weights(*at)
        taken = []
        for _ in range(2 * REPEATS):
            start = time.perf_counter()
            built.weights(*at)
            taken.append(time.perf_counter() - start)
        found[name] = round(1e3 * min(taken), 1)
    print(found, flush=True)
    return found


def made(
    case: Case, form: type[rowforms.RowForm], **options: object
) -> tuple[RowPass, tuple[Tensor, list[Tensor], list[Tensor], dict[str, Tensor]]]:
    """Rows, and latents of all chains."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n = case.groups * case.size
    group = torch.arange(case.groups).repeat_interleave(case.size)
    if case.ragged:
        group = torch.randint(case.groups, (n,), generator=generator).sort().values
    ones = torch.ones(n, 1, dtype=torch.float64)
    y = torch.randint(2, (n,), generator=generator).double()
    columns = {"trials": y + 3.0} if form is rowforms.Binomial else {}
    crossed = []
    if case.items:
        crossed = [Effects(ones, torch.randint(case.items, (n,), generator=generator), case.items)]
    rows = RowPass(
        form, y, columns, None, normal(n, case.columns), [Effects(ones, group, case.groups)], crossed, group,
        case.groups, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    rows.sites(normal(n), 0.25 * torch.rand(n, generator=generator, dtype=torch.float64))
    items = [normal(1, case.items, case.chains)] if case.items else []
    own = {name: 4.0 + normal(case.chains).square() for name in form.parameters}
    return rows, (0.2 * normal(case.columns, case.chains), [normal(1, case.groups, case.chains)], items, own)


def inductor(rows: RowPass, case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    """Bernoulli rows of balanced groups, by torch.compile."""
    n = case.groups * case.size
    generator = torch.Generator().manual_seed(2)
    design, half, linear = (torch.randn(n, k, generator=generator, dtype=torch.float64) for k in (case.columns, 1, 1))

    @torch.compile
    def weights(root: Tensor, effects: Tensor) -> Tensor:
        eta = (design @ root).view(case.groups, case.size, -1) + effects.unsqueeze(1)
        quadratic = (half.view(case.groups, case.size, 1) * eta + linear.view(case.groups, case.size, 1)) * eta
        away = eta.abs()
        return (quadratic - 0.5 * away - torch.log1p(torch.exp(-away))).sum(1)

    return weights


def nanoseconds(work: Callable[[], Tensor], case: Case) -> float:
    """A row and chain, the least of several repeats."""
    numbers = case.groups * case.size * case.chains
    times = max(1, LEAST // numbers)
    work(), work()
    best = float("inf")
    for _ in range(REPEATS):
        start = time.process_time()
        for _ in range(times):
            work()
        best = min(best, time.process_time() - start)
    return 1e9 * best / (times * numbers)


def cold() -> dict[str, float]:
    """CPU seconds of the first call, in processes of their own, children of theirs counted."""
    made_ = "from hiertorch.families import rowforms\nrows, at = made(Case(200, 16, 2, 32), rowforms.Bernoulli, "
    bodies = {
        "plain": made_ + "compiled=False)\nrows.weights(*at)",
        "compiled": made_ + "compiled=True)\nrows.weights(*at)",
        "inductor": made_ + "compiled=False)\nwith torch.no_grad():\n"
        "    inductor(rows, Case(200, 16, 2, 32))(at[0], at[1][0][0])",
        "extension": "from torch.utils.cpp_extension import load_inline\n"
        f"load_inline('rows', {EXTENSION!r}, functions=['rows'], extra_cflags=['-O3'])",
    }
    found = {}
    for name, body in bodies.items():
        with tempfile.TemporaryDirectory() as folder:
            kept = {"NUMBA_CACHE_DIR": "numba", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TORCH_EXTENSIONS_DIR": "ext"}
            places = {key: str(Path(folder) / value) for key, value in kept.items()}
            source = Path(folder) / "benchmarks_rowpass.py"
            source.write_text(Path(__file__).read_text())
            path = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
            for again in ("", ", kept on disk"):
                run = [sys.executable, "-c", IMPORTS + body]
                start = sum(os.times()[2:4])
                done = subprocess.run(
                    run, env={**os.environ, **places, "PYTHONPATH": path}, capture_output=True, text=True
                )
                if done.returncode:
                    print(name, "does not run here:", done.stderr.strip().splitlines()[-1:])
                    break
                spent = sum(os.times()[2:4]) - start
                found[name + again] = round(spent - importing(path), 2)
                print(name + again, found[name + again], flush=True)
    return found


def importing(path: str) -> float:
    """CPU seconds of a process that imports alone."""
    start = sum(os.times()[2:4])
    run = [sys.executable, "-c", IMPORTS]
    subprocess.run(run, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=True)
    return sum(os.times()[2:4]) - start


if __name__ == "__main__":
    sys.exit(main())
