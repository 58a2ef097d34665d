"""Functions of tensors, recorded once and replayed without the Python around the arithmetic.

Note [Recorded pieces]
Building `torch.distributions` objects costs more than the arithmetic of a small model, and most of what they compute
depends on constants. A density never branches on values, so each piece is recorded once as a graph of tensor operations
(`make_fx`), what depends on constants alone is computed there and then, and the rest is replayed. A piece that does
branch on values can't be recorded and runs as written. `torch.compile` of the recorded pass over the rows fuses it into
one loop, which pays when the run is long.

docs/decisions.md: Pieces of the density are recorded.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import Argument
from torch.fx.passes.split_module import split_module

from hiertorch.density.ranges import Range, ranges, settled, strictly
from hiertorch.errors import warn
from hiertorch.model.tolerance import tolerant

log = logging.getLogger("hiertorch")

_tracing = threading.RLock()
"""While torch records a function, it changes its own classes for the whole process: one thread at a time."""

Found = TypeVar("Found")

EXPAND = torch.ops.aten.expand.default
"""Repeats a tensor without copying it."""

VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
"""Reshapes that ask for one memory layout."""


def record(
    function: Callable[..., Found],
    example: tuple[Tensor, ...],
    *,
    compiled: bool = False,
    bounds: Sequence[Range | None] = (),
) -> Callable[..., Found]:
    """The function as a graph specialised to the shapes of `example`; the function itself if it can't be recorded.

    Args:
        function: of tensors alone, pure, with one tensor as result, or several.
        example: arguments like those of every later call.
        compiled: fuse the graph with `torch.compile`; a failure to compile is a warning, not an error.
        bounds: between which numbers the arguments must lie; a comparison that these decide is left out.
    """
    example = tuple(x.clone() for x in example)  # one tensor given twice would be recorded as one argument
    with _tracing:
        return _recorded(function, example, compiled, bounds)


def _recorded(
    function: Callable[..., Found], example: tuple[Tensor, ...], compiled: bool, bounds: Sequence[Range | None]
) -> Callable[..., Found]:
    try:
        # A graph has no errors; and torch notes shapes as tensors of a fake mode, or of a new one for each of them.
        shapes = FakeTensorMode(allow_fallback_kernels=True)
        with tolerant(), tracing(TracingContext(shapes)):
            graph = make_fx(function)(*example)
    except Exception as error:
        log.info("a piece of the density runs as written, since it can't be recorded: %s", error)
        return function
    if not any(map(_mutates, graph.graph.nodes)):
        _simplify(graph)
        if _prove(graph, {i: strictly(*pair) for i, pair in enumerate(bounds) if pair is not None}):
            _simplify(graph)
        _expand_late(graph, example)
        _multiply(graph, example)
        graph.recompile()
    return cast(Callable[..., Found], _compile(graph, example) if compiled else graph)


def _compile(graph: fx.GraphModule, example: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """What is small (log sigma, one number a chain) is computed outside the fused loop, which would do it for every
    row.
    """
    shapes = _shapes(graph, example)
    most = max(shape.numel() for shape in shapes.values())
    large: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if shapes.get(node, torch.Size()).numel() > most // 8 or any(n in large for n in node.all_input_nodes):
            large.add(node)
    try:
        halves = split_module(graph, graph, lambda node: int(node in large))
        for name, half in halves.named_children():
            if name.endswith("1"):
                setattr(halves, name, _Fused(half))
        halves(*example)
    except Exception as error:
        warn(f"torch.compile failed, so sampling goes on without it: {error}")
        return graph
    return halves


class _Fused(torch.nn.Module):
    """A compiled graph that is always called with tensors laid out as at its first call."""

    def __init__(self, graph: torch.nn.Module) -> None:
        super().__init__()
        self._fused = torch.compile(graph, dynamic=False)
        self._strides: list[tuple[int, ...]] = []

    def forward(self, *args: Tensor) -> Tensor:
        if not self._strides:  # dense, even if the first argument is an expanded view
            self._strides = [torch.empty_like(x).stride() for x in args]
        placed = [_laid_out(x, s) for x, s in zip(args, self._strides, strict=True)]
        try:
            return self._fused(*placed)
        except RuntimeError:  # torch refuses while another thread records
            with _tracing:
                return self._fused(*placed)


def _laid_out(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The same numbers in the memory layout that was compiled for; another one would compile everything again."""
    return x if x.stride() == stride else torch.empty_strided(x.shape, stride, dtype=x.dtype, device=x.device).copy_(x)


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and (schema.is_mutable or torch.Tag.nondeterministic_seeded in node.target.tags)  # type: ignore[union-attr]


def _simplify(graph: fx.GraphModule) -> None:
    """Computes what depends on constants alone, and what is written twice only once."""
    constants: dict[fx.Node, Argument] = {}
    seen: dict[Hashable, fx.Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            constants[node] = getattr(graph, str(node.target))
        if node.op != "call_function":
            continue
        key = (node.target, _frozen(node.args), _frozen(node.kwargs))
        if key in seen:
            node.replace_all_uses_with(seen[key])
            continue
        seen[key] = node
        if all(n in constants for n in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), constants.__getitem__)
            constants[node] = node.target(*args, **kwargs)
        elif (kept := _settled(node, constants)) is not None:
            node.replace_all_uses_with(kept)
    for node, value in constants.items():
        if node.op == "call_function" and isinstance(value, Tensor):
            name = f"_constant_{node.name}"
            graph.register_buffer(name, value)
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.get_attr(name))
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()


def _prove(graph: fx.GraphModule, given: dict[int, Range]) -> bool:
    """Replaces comparisons that are False whatever the arguments by constants; returns whether there were any."""
    constants = {n: getattr(graph, str(n.target)) for n in graph.graph.nodes if n.op == "get_attr"}
    found = ranges(graph, given, constants)
    proved = [node for node in graph.graph.nodes if settled(node, found) and "val" in node.meta]
    for node in proved:
        like, name = node.meta["val"], f"_false_{node.name}"
        graph.register_buffer(name, torch.zeros(like.shape, dtype=torch.bool, device=like.device))
        with graph.graph.inserting_before(node):
            false = graph.graph.get_attr(name)
        false.meta = dict(node.meta)
        node.replace_all_uses_with(false)
    return bool(proved)


def _settled(node: fx.Node, constants: dict[fx.Node, Argument]) -> fx.Node | None:
    """What a choice by a constant always chooses, and what an alternative to a constant False is, where that has the
    same shape.
    """
    if node.target is torch.ops.aten.where.self:
        mask = constants.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
        if not isinstance(mask, Tensor) or isinstance(mask, FakeTensor) or bool(mask.any()) != bool(mask.all()):
            return None
        kept = node.args[1] if bool(mask.any()) else node.args[2]
    elif node.target is torch.ops.aten.bitwise_or.Tensor:
        false = [_is_false(constants.get(x)) if isinstance(x, fx.Node) else False for x in node.args]
        kept = node.args[1 - false.index(True)] if True in false else None
    else:
        return None
    if isinstance(kept, fx.Node) and "val" in kept.meta and kept.meta["val"].shape == node.meta["val"].shape:
        return kept
    return None


def _is_false(mask: object) -> bool:
    return isinstance(mask, Tensor) and not isinstance(mask, FakeTensor) and not bool(mask.any())


def _expand_late(graph: fx.GraphModule, example: tuple[Tensor, ...]) -> None:
    """Leaves out expansions whose readers broadcast anyway, so that what is one number a chain is not computed by row.

    Where a reader does not broadcast (a sum, a reshape, the result) the expansion is made there.
    """
    before = _shapes(graph, example)
    now: dict[fx.Node, torch.Size] = {}
    for node in list(graph.graph.nodes):
        if node.target is EXPAND:
            source = node.args[0]
            if all(map(_broadcasts, node.users)):
                node.replace_all_uses_with(source)
                graph.graph.erase_node(node)
                continue
            node.args = (source, list(before[node]))
        if node.target in VIEWS:  # what it views may lie in memory in another way now
            node.target = torch.ops.aten.reshape.default
        if _broadcasts(node):
            parts = [now[source] for source in node.all_input_nodes if source in now]
            now[node] = before[node] if node.target is EXPAND else torch.broadcast_shapes(*parts)
            continue
        for source in node.all_input_nodes:
            if source in before and now[source] != before[source]:
                with graph.graph.inserting_before(node):
                    full = graph.graph.call_function(EXPAND, (source, list(before[source])))
                node.replace_input_with(source, full)
        if node in before:
            now[node] = before[node]


def _multiply(graph: fx.GraphModule, example: tuple[Tensor, ...]) -> None:
    """Divides by a small quantity by multiplying with its reciprocal: a slow division a chain instead of one a row."""
    shapes = _shapes(graph, example)
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.div.Tensor and isinstance(node.args[1], fx.Node):
            divisor = node.args[1]
            if divisor in shapes and 8 * shapes[divisor].numel() <= shapes[node].numel():
                with graph.graph.inserting_before(node):
                    reciprocal = graph.graph.call_function(torch.ops.aten.reciprocal.default, (divisor,))
                node.target, node.args = torch.ops.aten.mul.Tensor, (node.args[0], reciprocal)


def _broadcasts(node: fx.Node) -> bool:
    """Whether an operation takes broadcastable arguments and gives what expanded ones would, broadcast."""
    tags = getattr(node.target, "tags", ())
    return node.op == "call_function" and (node.target is EXPAND or torch.Tag.pointwise in tags)


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the shape of every result."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = value.shape
        return value


def _shapes(graph: fx.GraphModule, example: tuple[Tensor, ...]) -> dict[fx.Node, torch.Size]:
    interpreter = _Shapes(graph)
    interpreter.garbage_collect_values = False
    interpreter.run(*example)
    return interpreter.shapes


def _frozen(part: object) -> Hashable:
    if isinstance(part, list | tuple):
        return tuple(map(_frozen, part))
    if isinstance(part, dict):
        return tuple((key, _frozen(value)) for key, value in sorted(part.items()))
    return (type(part), part)
