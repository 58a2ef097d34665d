"""Between which numbers the results of a recorded graph must lie, whatever its arguments: interval arithmetic.

It proves that exp(eta) is never below 0, so that nobody needs to look (see Note [Impossible places] in
`hiertorch.model.support`). NaN is in no range, and is not spoken of: a comparison with it is False, as one that is
proved false is.
"""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

Range = tuple[float, float]
"""The least and the largest number that there may be."""

ALL: Range = (-math.inf, math.inf)
"""Nothing is known."""

SMALLEST, LARGEST = 5e-324, math.nextafter(math.inf, 0.0)
"""Positive and finite numbers."""

ROUNDED: Range = (1e-37, 3e38)
"""Beyond these arithmetic in float32 may round to 0 or infinity."""

aten = torch.ops.aten

KEPT: Any = {
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.slice.Tensor, aten.expand.default,
    aten.index.Tensor, aten.index_select.default, aten.gather.default, aten.select.int, aten.unsqueeze.default,
    aten.squeeze.dim, aten.squeeze.default, aten.permute.default, aten.transpose.int, aten.t.default,
    aten.clone.default, aten.amin.default, aten.amax.default, aten.alias.default, aten.diagonal.default,
    aten.narrow.default, aten.unfold.default,
}  # fmt: skip
"""Operations whose result has none but numbers of the first argument."""

FIXED: Mapping[Any, Range] = {
    aten.exp.default: (0.0, math.inf),
    aten.abs.default: (0.0, math.inf),
    aten.sqrt.default: (0.0, math.inf),
    aten.relu.default: (0.0, math.inf),
    aten.softplus.default: (0.0, math.inf),
    aten.sigmoid.default: (0.0, 1.0),
    aten._softmax.default: (0.0, 1.0),
    aten.tanh.default: (-1.0, 1.0),
}
"""What an operation can give at all."""


def strictly(low: float, high: float) -> Range:
    """The range of numbers strictly between two."""
    return (SMALLEST if low == 0.0 else low), (LARGEST if high == math.inf else high)


def ranges(
    graph: fx.GraphModule, given: Mapping[int, Range], constants: Mapping[fx.Node, object]
) -> dict[fx.Node, Range]:
    """Node -> its range, where one is known.

    Args:
        graph: as recorded.
        given: number of an argument -> its range.
        constants: node -> its value, of those that depend on no argument.
    """
    found: dict[fx.Node, Range] = {}
    arguments = 0
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            if arguments in given:
                found[node] = given[arguments]
            arguments += 1
        elif node in constants:
            value = constants[node]
            if isinstance(value, FakeTensor) or not isinstance(value, Tensor):
                continue
            if value.numel() and value.is_floating_point():
                found[node] = float(value.min()), float(value.max())
        elif node.op == "call_function" and (of := _range(node, found)) is not None and of != ALL:
            found[node] = of
    return {node: of for node, of in found.items() if not any(map(math.isnan, of))}


def settled(node: fx.Node, found: Mapping[fx.Node, Range]) -> bool:
    """Whether a comparison is proved to be False everywhere."""
    if node.target not in COMPARED or len(node.args) != 2:
        return False
    a, b = (_of(x, found) for x in node.args)
    return a is not None and b is not None and COMPARED[node.target](a, b)


COMPARED: Mapping[Any, Callable[[Range, Range], bool]] = {
    aten.lt.Scalar: lambda a, b: a[0] >= b[1],
    aten.le.Scalar: lambda a, b: a[0] > b[1],
    aten.gt.Scalar: lambda a, b: a[1] <= b[0],
    aten.ge.Scalar: lambda a, b: a[1] < b[0],
    aten.eq.Scalar: lambda a, b: a[1] < b[0] or a[0] > b[1],
}
"""Comparison -> whether it is False for all numbers in these ranges."""


def _of(x: object, found: Mapping[fx.Node, Range]) -> Range | None:
    if isinstance(x, fx.Node):
        return found.get(x, ALL)
    return (float(x), float(x)) if isinstance(x, int | float) and not isinstance(x, bool) else None


def _range(node: fx.Node, found: Mapping[fx.Node, Range]) -> Range | None:
    target, args = node.target, node.args
    if target in KEPT:
        return _of(args[0], found)
    if target in FIXED:
        return FIXED[target]
    if target is aten.pow.Tensor_Scalar and args[1] == 2:
        return 0.0, math.inf
    if target is aten.clamp.default:
        return _clamped(_of(args[0], found), *args[1:])
    if target in (aten.minimum.default, aten.maximum.default, aten.where.self):
        a, b = (_of(x, found) for x in args[-2:])
        if a is None or b is None:
            return None
        choose = {aten.minimum.default: (min, min), aten.maximum.default: (max, max)}.get(target, (min, max))
        return choose[0](a[0], b[0]), choose[1](a[1], b[1])
    if target in ARITHMETIC and len(args) == 2 and not node.kwargs:
        a, b = (_of(x, found) for x in args)
        return None if a is None or b is None else _rounded(*ARITHMETIC[target](a, b))
    return None


def _clamped(of: Range | None, low: object = None, high: object = None) -> Range | None:
    if of is None or any(isinstance(end, fx.Node) for end in (low, high)):
        return None
    least, most = (_of(low, {}) or ALL)[0], (_of(high, {}) or ALL)[1]
    return min(max(of[0], least), most), min(max(of[1], least), most)


def _corners(of: Callable[[float, float], float]) -> Callable[[Range, Range], Range]:
    """The range of an operation that is monotone in both arguments, from its values at their ends."""

    def both(a: Range, b: Range) -> Range:
        ends = [_end(of, x, y) for x in a for y in b]
        return min(ends), max(ends)

    return both


def _end(of: Callable[[float, float], float], x: float, y: float) -> float:
    """At a pair of ends; 0 x inf is 0, since the numbers between them are finite."""
    found = of(x, y)
    return 0.0 if math.isnan(found) and of is operator.mul else found


def _divided(a: Range, b: Range) -> Range:
    return (0.0, math.inf) if a[0] >= 0 and b[0] >= 0 else ALL


ARITHMETIC: Mapping[Any, Callable[[Range, Range], Range]] = {
    aten.mul.Tensor: _corners(operator.mul),
    aten.mul.Scalar: _corners(operator.mul),
    aten.add.Tensor: _corners(operator.add),
    aten.add.Scalar: _corners(operator.add),
    aten.sub.Tensor: _corners(operator.sub),
    aten.sub.Scalar: _corners(operator.sub),
    aten.rsub.Scalar: _corners(lambda x, y: y - x),
    aten.div.Tensor: _divided,
    aten.div.Scalar: _divided,
}
"""Operation of two numbers -> the range of its results."""


def _rounded(low: float, high: float) -> Range | None:
    """The same, where float32 may round outwards."""
    if math.isnan(low) or math.isnan(high):
        return None
    return (0.0 if 0.0 < low < ROUNDED[0] else low), (math.inf if high > ROUNDED[1] else high)
