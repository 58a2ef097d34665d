"""`.` in a formula: all columns of the frame that it does not name as its response, beside it, or as a grouping."""

import re
from collections.abc import Iterable, Mapping

from hiertorch import wording
from hiertorch.errors import ModelError
from hiertorch.formulas.parsing import NAME, names_in

DOT = re.compile(r"(?<![\w.)\]])\.(?![\w.(])")

QUOTED = re.compile(r"(\"[^\"]*\"|'[^']*'|`[^`]*`)")

GROUPINGS = re.compile(r"\|([^|()]*)\)")


def written_out(
    text: object, parameters: Mapping[str, object], columns: Iterable[str]
) -> tuple[object, dict[str, object]]:
    """A formula and those of other parameters with the columns in place of each `.` on their right sides.

    Raises:
        ModelError: if there are no other columns.
    """
    if not any(isinstance(one, str) and _has_dot(one) for one in (text, *parameters.values())):
        return text, dict(parameters)
    named = names_in(text.partition("~")[0]) if isinstance(text, str) else set()
    for one in (text, *parameters.values()):
        for grouping in GROUPINGS.findall(one.partition("~")[2]) if isinstance(one, str) else ():
            named |= names_in(grouping)
    others = [name if NAME.fullmatch(name) else f"`{name}`" for name in map(str, columns) if name not in named]

    def whole(one: object) -> object:
        if not isinstance(one, str) or not _has_dot(one):
            return one
        if not others:
            raise ModelError(
                f"in the formula {one!r}, at '.': the frame has no columns but {wording.listed(sorted(named))}, which "
                "it names elsewhere; name the columns, or write 1."
            )
        left, tilde, right = one.partition("~")
        pieces = QUOTED.split(right)
        pieces[::2] = [DOT.sub(f"({' + '.join(others)})", piece) for piece in pieces[::2]]
        return "".join([left, tilde, *pieces])

    return whole(text), {name: whole(one) for name, one in parameters.items()}


def _has_dot(text: str) -> bool:
    return any(DOT.search(piece) for piece in QUOTED.split(text.partition("~")[2])[::2])
