"""What the wheel, the citation and the workflows say agrees with the package."""

import itertools
import re
import tomllib
from pathlib import Path

import yaml

import hiertorch as ht
from hiertorch.commands import verbs

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SPOKEN = [line.split(" :: ")[-1] for line in PROJECT["project"]["classifiers"] if " :: 3." in line]


def test_one_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == PROJECT["project"]["version"] == ht.__version__
    assert cited["license"] == PROJECT["project"]["license"]
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()


def test_the_command_is_what_the_entry_point_names():
    module, _, name = PROJECT["project"]["scripts"]["hiertorch"].partition(":")
    assert module == verbs.__name__ and getattr(verbs, name) is verbs.main


def test_types_and_configs_are_in_the_wheel():
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"configs": "hiertorch/configs"} and list((ROOT / "configs").glob("*.yaml"))
    assert (ROOT / "hiertorch" / "py.typed").is_file()


def test_workflows_try_every_pair_that_has_a_wheel():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    matrix = jobs["default"]["strategy"]["matrix"]
    assert matrix["python"] == SPOKEN
    left_out = {(one["python"], one["torch"]) for one in matrix["exclude"]}
    pairs = {*itertools.product(matrix["python"], matrix["torch"])} - left_out
    lowest = re.search(r"torch>=([\d.]+)", " ".join(PROJECT["project"]["dependencies"]))
    assert lowest and matrix["torch"][0] == lowest[1]
    assert {python for python, _ in pairs} == {*SPOKEN} and {torch for _, torch in pairs} == {*matrix["torch"]}
    without = {pair for pair in pairs if pair[0] == "3.14" and int(pair[1].split(".")[1]) < 9}
    assert not without and len(left_out) == 2
