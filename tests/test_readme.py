"""The README's example does what it says: it is run as printed."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def first_example() -> str:
    return re.search(r"```python\n(.*?)```", README.read_text(), re.S).group(1)


def test_the_readme_opens_with_an_example_of_25_lines_at_most():
    assert len(first_example().strip().splitlines()) <= 25
    assert README.read_text().index("```python") < 1000


@pytest.mark.slow
def test_the_example_ends_with_a_posterior_that_mixes(capsys):
    names: dict = {}
    exec(compile(first_example(), str(README), "exec"), names)
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("mu_alpha", "sigma_alpha", "beta", "sigma_y", "r_hat"))
    worst = names["posterior"].diagnostics()["worst"]
    assert worst["r_hat"] <= 1.01 and worst["ess_bulk"] >= 1000


@pytest.mark.slow
def test_the_plan_in_the_readme_is_the_plan_of_the_example():
    import hiertorch as ht

    names: dict = {}
    exec(compile(first_example().split("posterior =")[0], str(README), "exec"), names)
    plan = str(ht.plan(names["VaryingIntercepts"](), names["data"]))
    assert plan in README.read_text()
