"""Calls in formulas as text, with the brackets that `formulae` leaves out: I((a - b) / c) is no I(a - b / c)."""

from typing import Protocol, runtime_checkable

BINDS = {"==": 1, "!=": 1, "<": 1, "<=": 1, ">": 1, ">=": 1, "+": 2, "-": 2, "*": 3, "/": 3, "**": 5}
"""How tightly an operator of two sides binds."""

SIGN = 4
"""How tightly a sign does."""

ALONE = 6
"""What needs no brackets."""


@runtime_checkable
class Operation(Protocol):
    """Of one or two arguments."""

    symbol: str
    args: tuple[object, ...]


@runtime_checkable
class Called(Protocol):
    """A function's name and its arguments."""

    callee: str
    args: list[object]
    kwargs: dict[str, object]


def written(node: object) -> str:
    """The text of an expression that `formulae` has read."""
    return _text(node)[0]


def _text(node: object) -> tuple[str, int]:
    """Text, and how tightly it binds."""
    if isinstance(node, Called):
        named = [f"{name}={_text(one)[0]}" for name, one in node.kwargs.items()]
        return f"{node.callee}({', '.join([*(_text(one)[0] for one in node.args), *named])})", ALONE
    if not isinstance(node, Operation):
        return str(node), ALONE
    if len(node.args) == 1:
        return f"{node.symbol}{_bracketed(node.args[0], SIGN)}", SIGN
    own, (left, right) = BINDS[node.symbol], node.args
    chains = node.symbol in ("+", "*")  # a + (b + c) is a + b + c; a - (b - c) is no a - b - c
    sides = _bracketed(left, own + (node.symbol == "**")), _bracketed(right, own + (not chains))
    return f"{sides[0]} {node.symbol} {sides[1]}", own


def _bracketed(node: object, least: int) -> str:
    text, binds = _text(node)
    return text if binds >= least else f"({text})"
