"""Docstrings are plain text: formulas in them, y_j ~ N(a | b), are no markup.

Outside of `code`, characters that reStructuredText reads as markup are escaped, before Napoleon reads the sections.
What is indented deeper than the paragraph above it, outside of sections such as Args, is shown as it stands.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Example|Examples|Yields|References|Note.*|Reference):$")
MARKUP = re.compile(r"(?<!\\)([*|])|(?<=\w)_(?=\W|$)")


def setup(app: object) -> dict[str, bool]:
    """Reads docstrings before Napoleon does."""
    app.connect("autodoc-process-docstring", plain, priority=100)  # type: ignore[attr-defined]
    return {"parallel_read_safe": True}


def plain(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Rewrites the lines of a docstring in place."""
    lines[:] = [*displayed(list(escaped(lines)))]


def escaped(lines: list[str]) -> Iterator[str]:
    """Lines without markup; examples stay as they are."""
    example = False
    for line in lines:
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        parts = line.split("`")
        if example or len(parts) % 2 == 0:  # code that goes on in the next line
            yield line
        else:
            yield "`".join(part if k % 2 else MARKUP.sub(r"\\\g<0>", part) for k, part in enumerate(parts))


def displayed(lines: list[str]) -> Iterator[str]:
    """Lines with `::` above what is indented, up to the first section."""
    inside = section = False
    for before, line in pairwise(["", *lines]):
        section = section or bool(SECTION.match(line))
        indented = line.startswith("    ")
        if indented and not before.strip() and not inside and not section:
            inside = True
            yield from ("::", "")
        inside = inside and (indented or not line.strip())
        yield line.replace("\\", "") if inside else line
