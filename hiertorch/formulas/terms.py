"""The terms of a text, as `formulae` reads them, with calls that can be compared.

Two terms are one where their calls are equal; `formulae`'s own calls (0.9) can't be compared with expressions that are
no calls, as in I(log(x)) + I(x**2), nor can its values be hashed.
"""

from typing import Any

from formulae.parser import Parser
from formulae.resolver import Resolver
from formulae.scanner import Scanner
from formulae.terms import Call, Term
from formulae.terms.call_resolver import CallResolver, LazyCall, LazyValue
from formulae.terms.terms import Model


class _Call(LazyCall):
    """Equal to calls of the same function with equal arguments."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LazyCall) and bool(super().__eq__(other))

    def __hash__(self) -> int:
        return hash((self.callee, *self.args, *self.kwargs))


class _Value(LazyValue):
    """Equal to the same value, written alike."""

    def __eq__(self, other: object) -> bool:
        return bool(super().__eq__(other))

    def __hash__(self) -> int:
        return hash((self.value, self.lexeme))


class _Expressions(CallResolver):
    """What stands in a call."""

    def visitCallExpr(self, expr: Any) -> LazyCall:  # noqa: N802  # formulae's name
        made = super().visitCallExpr(expr)
        return _Call(made.callee, made.args, made.kwargs)

    def visitLiteralExpr(self, expr: Any) -> LazyValue:  # noqa: N802
        return _Value(expr.value, expr.lexeme)


class _Terms(Resolver):
    """What stands outside of calls."""

    def visitCallExpr(self, expr: Any) -> Term:  # noqa: N802
        return Term(Call(_Expressions(expr).resolve()))


def described(text: str) -> Model:
    """The model of a text such as "1 + x * f"."""
    found = _Terms(Parser(Scanner(text).scan()).parse()).resolve()
    return found if isinstance(found, Model) else Model(found)
