"""Terms of a formula in the little language of `hiertorch.deploy`, with the levels, means and knots of the fitted rows.

A term is a product of parts. A part of numbers is arithmetic on columns, c["x"], in which what a transform remembers is
written as numbers; splines of all kinds are polynomials between their breaks. A part of categories is the row of its
contrasts for the label, t["f"].
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np

from hiertorch.errors import ModelError
from hiertorch.formulas import factors
from hiertorch.formulas import functions as own
from hiertorch.formulas.labels import written
from hiertorch.formulas.splines import Spline

PLAIN = (
    *("abs", "arccos", "arcsin", "arctan", "ceil", "cos", "cosh", "exp", "expm1", "floor", "log10", "log1p", "log2"),
    *("maximum", "minimum", "power", "round", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh", "where", "log"),
)
"""NumPy's functions that readers have under the same name."""

NAMES = {id(getattr(np, name)): name for name in PLAIN}

AS_THEY_ARE = ("I", "C", "T", "S", "relevel", "droplevels")
"""Functions that give a column's values back; their contrasts and order of levels are in the matrix of the part."""


def recipes(terms: Iterable[Any], numeric: Collection[str], categorical: Collection[str]) -> list[str]:
    """A text for each term of `formulae` but the intercept, `(rows,)` or `(rows, columns)`.

    Args:
        terms: as they were fitted.
        numeric: columns of numbers.
        categorical: columns of labels.

    Raises:
        ModelError: for a term that the language can't say, by its name.
    """
    found = []
    for term in terms:
        if parts := getattr(term, "components", None):
            texts = [_part(part, numeric, categorical) for part in parts]
            found.append(texts[0] if len(texts) == 1 else f"products({', '.join(texts)})")
    return found


def _part(part: Any, numeric: Collection[str], categorical: Collection[str]) -> str:
    call = getattr(part, "call", None)
    words = _Words(written(call) if call is not None else part.name, numeric, categorical, getattr(part, "env", None))
    if part.kind == "numeric":
        return words.number(call) if call is not None else words.column(part.name)
    if part.kind != "categoric":
        raise words.refusal(f"it is {part.kind}")
    labels = words.label(call) if call is not None else f"t[{part.name!r}]"
    matrix = np.asarray(part.contrast_matrix.matrix, np.float64).tolist()
    return f"coded({part.name!r}, {labels}, {words.constants(part.levels)}, {matrix!r})"


class _Words:
    """A part of a term as text.

    Args:
        shown: the part as the user wrote it.
        numeric, categorical: columns.
        env: of its functions.
    """

    def __init__(self, shown: str, numeric: Collection[str], categorical: Collection[str], env: Any) -> None:
        self.shown, self.numeric, self.categorical, self.env = own.restored(shown), numeric, categorical, env

    def refusal(self, why: str) -> ModelError:
        """That the part can't be said."""
        return ModelError(
            f"the term {self.shown!r} can't be exported: {why}. Compute a column of the frame, and name that in the "
            "formula."
        )

    def column(self, name: str) -> str:
        """A column of numbers."""
        return f"c[{name!r}]"

    def constants(self, values: Iterable[object]) -> str:
        """Levels as a list."""
        found = [x.item() if isinstance(x, np.generic) else x for x in values]
        if other := [x for x in found if not isinstance(x, str | int | float | bool)]:
            raise self.refusal(f"its levels are of the type {type(other[0]).__name__}, and a file has text and numbers")
        return repr(found)

    def number(self, node: Any) -> str:
        """An expression of numbers."""
        if hasattr(node, "callee"):
            return self._called(node)
        if hasattr(node, "symbol"):
            sides = [self.number(one) for one in node.args]
            return f"({node.symbol}{sides[0]})" if len(sides) == 1 else f"({sides[0]} {node.symbol} {sides[1]})"
        if hasattr(node, "value"):
            return self._constant(node.value)
        if node.name in self.numeric:
            return self.column(node.name)
        if node.name in self.categorical:
            return f"t[{node.name!r}]"
        return self._constant(self.env.namespace.get(node.name))

    def _constant(self, value: object) -> str:
        if isinstance(value, float) and not np.isfinite(value):
            return "inf" if value > 0 else "(-inf)"
        if not isinstance(value, str | int | float | bool):
            raise self.refusal(f"a file has numbers and text, and no {type(value).__name__}")
        return repr(value)

    def label(self, node: Any) -> str:
        """An expression of labels."""
        if hasattr(node, "callee"):
            function, given = self._function(node), [*node.args, *node.kwargs.values()]
            if node.callee in AS_THEY_ARE:
                return self.label(given[0])
            if function is factors.interaction:
                return f"interaction({', '.join(map(self.label, node.args))})"
            if function is np.where:
                return f"where({self.number(node.args[0])}, {', '.join(map(self.label, node.args[1:]))})"
            if isinstance(node.stateful_transform, factors.Factor):
                return self._factor(node)
            if isinstance(node.stateful_transform, factors.Cut):
                return self._cut(node)
            raise self.refusal(f"readers have no {own.restored(node.callee)}()")
        if hasattr(node, "value"):
            return self._constant(node.value)
        if not hasattr(node, "name"):
            raise self.refusal("it makes categories of an expression")
        return f"t[{node.name!r}]"

    def _function(self, node: Any) -> object:
        from formulae.terms.call_resolver import get_function_from_module

        return get_function_from_module(node.callee, self.env)

    def _values(self, node: Any) -> tuple[list[Any], dict[str, Any]]:
        """Arguments behind the first, which are constants."""
        return [one.eval({}, self.env) for one in node.args[1:]], {
            name: one.eval({}, self.env) for name, one in node.kwargs.items()
        }

    def _factor(self, node: Any) -> str:
        made, labels = node.stateful_transform, self.label(node.args[0])
        if made.names == made.levels:
            return labels
        return f"renamed({self.shown!r}, {labels}, {self.constants(made.levels)}, {self.constants(made.names)})"

    def _cut(self, node: Any) -> str:
        places = dict(zip(("breaks", "labels", "include_lowest", "right"), node.args[1:], strict=False)) | node.kwargs
        told = {name: one.eval({}, self.env) for name, one in places.items() if name not in ("breaks", "x")}
        made = node.stateful_transform  # which knows its breaks: those of a formula may be quantiles of a column
        inner = made.breaks[np.isfinite(made.breaks)]
        ends = made.breaks.clip(inner[0] - 1.0, inner[-1] + 1.0) if len(inner) else np.array([-1.0, 1.0])
        middles = 0.5 * (ends[1:] + ends[:-1])
        numbers = told.get("labels") is False
        named = {name: one for name, one in told.items() if not (numbers and name == "labels")}
        names = made(middles, breaks=made.breaks, **named).categories.tolist()
        right, lowest = bool(told.get("right", True)), bool(told.get("include_lowest", False))
        found = f"cut({self.number(node.args[0])}, {made.breaks.tolist()!r}, {right}, {lowest}, {names!r})"
        return f"place({self.shown!r}, {found}, {names!r})" if numbers else found

    def _called(self, node: Any) -> str:
        made, function = node.stateful_transform, self._function(node)
        first = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
        if isinstance(made, factors.Cut):
            return self._cut(node)
        if made is not None:
            return self._remembered(made, first, node.callee)
        if node.callee == "I":
            return self.number(first)
        if function is own.log:
            base = [*node.args[1:], *node.kwargs.values()]
            return f"log({self.number(first)})" + (f" / log({self.number(base[0])})" if base else "")
        if function is own.FUNCTIONS["logit"]:
            p = self.number(first)
            return f"(log({p}) - log1p(-{p}))"
        if function is own.FUNCTIONS["plogis"]:
            return f"(1.0 / (1.0 + exp(-{self.number(first)})))"
        if function is own.one_of:
            return f"is_one({self.label(first)}, {self.constants(self._values(node)[0])})"
        if node.kwargs or id(function) not in NAMES:
            raise self.refusal(f"it calls {own.restored(node.callee)}(), which readers do not have")
        return f"{NAMES[id(function)]}({', '.join(map(self.number, node.args))})"

    def _remembered(self, made: Any, first: Any, name: str) -> str:
        for kind, said in SAID.items():
            if isinstance(made, kind):
                return said(self, made, first)
        known = vars(made)
        x = self.number(first)
        if type(made).__name__ in ("Center", "Scale") and "mean" in known:  # those of formulae
            centred = f"({x} - {float(made.mean)!r})"
            return centred if (sd := known.get("std")) is None else f"({centred} / {float(sd)!r})"
        if getattr(made, "__transform_name__", "") == "poly":
            if made.raw:
                return f"powers({x}, {made.degree})"
            alphas = [float(made.alpha[k]) for k in range(made.degree)]
            return f"poly({x}, {alphas!r}, {[float(made.norms2[k]) for k in range(made.degree + 1)]!r})"
        if type(made).__name__ in ("NaturalCubicSpline", "CyclicCubicSpline"):
            return self._cubic(x, known, cyclic="_period" in known)
        raise self.refusal(f"readers have no {own.restored(name)}()")

    def _cubic(self, x: str, known: Mapping[str, Any], *, cyclic: bool) -> str:
        """Cubic splines of formulae."""
        spline, centring = known["_spline"], known["_centering_matrix"]

        def columns(at: np.ndarray, derivative: int) -> np.ndarray:
            found = spline(at, derivative, extrapolate=True)  # else periodic ones round a knot into the piece before
            return found if centring is None or not known["_center"] else found @ centring

        breaks, pieces = polynomials(columns, spline.x, 3, linear=not cyclic)
        low = float(known["_lower_bound"])
        x = f"({low!r} + mod({x} - {low!r}, {float(known['_period'])!r}))" if cyclic else x
        return f"piecewise({x}, {breaks!r}, {pieces!r})"


def _scaled(words: _Words, made: Any, first: Any) -> str:
    return f"(({words.number(first)} - {made.known[0]!r}) / {made.known[1]!r})"


def _one_number(words: _Words, made: Any, first: Any) -> str:
    return repr(float(made.known))  # of several quantiles none is a number, and cut() has them as its breaks


def _numbers(words: _Words, made: Any, first: Any) -> str:
    if made.levels is not None:
        return f"place({words.shown!r}, {words.label(first)}, {words.constants(made.levels)})"
    told = getattr(first, "name", None) in words.categorical  # numbers that are written as text
    return f"numbers({words.label(first)})" if told else f"(1.0 * {words.number(first)})"


def _dummy(words: _Words, made: Any, first: Any) -> str:
    each = [f"is_one({words.label(first)}, {words.constants([level])})" for level in made.levels]
    return each[0] if len(each) == 1 else f"columns({', '.join(each)})"


def _spline(words: _Words, made: Any, first: Any) -> str:
    """Columns of splines as polynomials in the distance from the break before: exact, since between breaks they are."""
    breaks, pieces = polynomials(made.columns, np.unique(made.knots), made.degree, linear=made.conditions > 0)
    return f"piecewise({words.number(first)}, {breaks!r}, {pieces!r})"


def polynomials(
    columns: Callable[[np.ndarray, int], np.ndarray], knots: np.ndarray, degree: int, *, linear: bool
) -> tuple[list[float], list[list[list[float]]]]:
    """Breaks, and coefficients `(degree + 1, pieces, columns)`, highest powers first.

    Args:
        columns: numbers `(n,)` and the number of a derivative -> that of each column, `(n, columns)`.
        knots: in ascending order.
        degree: of the pieces.
        linear: whether columns are tangents beyond the outermost knots, in place of their own polynomials.
    """
    starts = knots[:-1]
    terms = [columns(starts, k) / np.prod(np.arange(1.0, k + 1)) for k in range(degree, -1, -1)]
    pieces, breaks = np.stack(terms), starts
    if linear:
        low, high = knots[[0]], knots[[-1]]
        ends = [np.zeros((degree + 1, 1, pieces.shape[2])) for _ in range(2)]
        for end, at in zip(ends, (low, high), strict=True):
            end[-1, 0], end[-2, 0] = columns(at, 0)[0], columns(at, 1)[0]
        ends[0][-1, 0] = columns(low, 0)[0] - columns(low, 1)[0]  # from a break one before the first knot
        pieces, breaks = np.concatenate([ends[0], pieces, ends[1]], 1), np.concatenate([low - 1.0, knots])
    return breaks.tolist(), pieces.tolist()


SAID: Mapping[type, Callable[[_Words, Any, Any], str]] = {
    own.Scale: _scaled,
    own.Mean: _one_number,
    own.Quantile: _one_number,
    factors.Numbers: _numbers,
    factors.Dummy: _dummy,
    Spline: _spline,
}
"""Transforms of the package that remember something of the fitted rows."""
