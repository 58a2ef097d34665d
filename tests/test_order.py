"""The districts of the package stand in one order: nothing imports from its right, or from between the same bars."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hiertorch"
ORDER = """errors wording markup arguments palette randomness runtime deploy | data | model | families | models density
    | advice gaussian moves | draws | predict comparison criticism pooling monitors | effects | run dashboard report
    | fitting | refits | posterior | sampling | priorgrid formulas | commands | __init__ __main__"""
PLACE = {district: place for place, between in enumerate(ORDER.split("|")) for district in between.split()}
DOORS = {  # Data.check and Data.from_parquet, ht.monitors
    "data.table": {"advice.requirements", "data.parquet"},
    "monitors.__init__": {"dashboard.monitor"},
}
FILES = {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in PACKAGE.rglob("*.py")}


def imported(source: str) -> set[str]:
    """The files that a file imports, inside functions and for types too."""
    froms = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    found = {f"{node.module}.{alias.name}".removeprefix("hiertorch.") for node in froms for alias in node.names}
    return {part for name in found for part in (name, name.rpartition(".")[0], f"{name}.__init__") if part in FILES}


@cache
def arrows() -> dict[str, set[str]]:
    """What each file imports, but for the doors."""
    return {name: imported(file.read_text()) - DOORS.get(name, set()) - {name} for name, file in FILES.items()}


def backwards(name: str, other: str) -> bool:
    """Whether an import goes to the right, or between the same bars; those between the first bars are free."""
    one, two = name.split(".")[0], other.split(".")[0]
    return one != two and PLACE[two] >= max(PLACE[one], 1)


def test_imports_go_one_way():
    assert [(name, other) for name, others in arrows().items() for other in others if backwards(name, other)] == []


def test_no_circles():
    assert len(list(TopologicalSorter(arrows()).static_order())) == len(FILES)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("model.model", "from hiertorch.moves.joint import Joint"),
        ("moves.joint", "def f():\n    from hiertorch.gaussian import grams"),
        ("draws.fit", "if TYPE_CHECKING:\n    from hiertorch.posterior import Posterior"),
    ],
)
def test_a_wrong_import_is_found(name, source):
    assert any(backwards(name, other) for other in imported(source))
