"""Blocks of Python on the plain pages of the documentation run as they stand, one after another; notebooks are run when
the site is built.
"""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
QUICK = {"models.md"}  # where nothing is sampled
PAGES = {
    page.relative_to(DOCS).as_posix(): blocks
    for page in sorted(DOCS.rglob("*.md"))
    if not (text := page.read_text()).startswith("---") and (blocks := BLOCK.findall(text))
}


def test_pages_are_found():
    assert {"start.md", "models.md", "howto/time.md", "coming/brms.md"} <= PAGES.keys() and len(PAGES) > 15


@pytest.mark.parametrize("page", [pytest.param(p, marks=[] if p in QUICK else pytest.mark.slow) for p in PAGES])
def test_its_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, block in enumerate(PAGES[page], 1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
