"""Functions of tensors, recorded once and replayed without the Python around the arithmetic.

Note [Recorded pieces]
Building `torch.distributions` objects costs more than the arithmetic of a small model, and most of what they compute
depends on constants. A density never branches on values, so each piece is recorded once as a graph of tensor operations
(`make_fx`), what depends on constants alone is computed there and then, and the rest is replayed. A piece that does
branch on values can't be recorded and runs as written. `torch.compile` of the recorded pass over the rows fuses it into
one loop, which pays when the run is long.
"""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from hiertorch.errors import SamplingWarning

__all__ = ["record"]

log = logging.getLogger("hiertorch")


def record(
    function: Callable[..., Tensor], example: tuple[Tensor, ...], *, compiled: bool = False
) -> Callable[..., Tensor]:
    """The function as a graph specialised to the shapes of `example`; the function itself if it can't be recorded.

    Args:
        function: of tensors alone, pure, with one tensor as result.
        example: arguments like those of every later call.
        compiled: fuse the graph with `torch.compile`; a failure to compile is a warning, not an error.
    """
    try:
        graph = make_fx(function)(*example)
    except Exception as error:
        log.info("a piece of the density runs as written, since it can't be recorded: %s", error)
        return function
    if all(isinstance(node.target, str) or not _mutates(node) for node in graph.graph.nodes):
        _simplify(graph)
    return _compile(graph, example) if compiled else graph


def _compile(graph: fx.GraphModule, example: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    fused = torch.compile(graph, dynamic=False)
    strides = [torch.empty_like(x).stride() for x in example]  # dense, even if an example is an expanded view

    def call(*args: Tensor) -> Tensor:
        return fused(*[_laid_out(x, s) for x, s in zip(args, strides, strict=True)])

    try:
        call(*example)
    except Exception as error:
        warnings.warn(f"torch.compile failed, so sampling goes on without it: {error}", SamplingWarning, stacklevel=6)
        return graph
    return call


def _laid_out(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The same numbers in the memory layout that was compiled for; another one would compile everything again."""
    return x if x.stride() == stride else torch.empty_strided(x.shape, stride, dtype=x.dtype, device=x.device).copy_(x)


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and (schema.is_mutable or torch.Tag.nondeterministic_seeded in node.target.tags)  # type: ignore[union-attr]


def _simplify(graph: fx.GraphModule) -> None:
    """Computes what depends on constants alone, and what is written twice only once."""
    constants: dict[fx.Node, Any] = {}
    seen: dict[Any, fx.Node] = {}
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
    for i, (node, value) in enumerate(constants.items()):
        if node.op == "call_function" and isinstance(value, Tensor):
            name = f"_constant_{i}"
            graph.register_buffer(name, value)
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.get_attr(name))
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()


def _frozen(part: Any) -> Any:
    if isinstance(part, list | tuple):
        return tuple(map(_frozen, part))
    if isinstance(part, dict):
        return tuple((key, _frozen(value)) for key, value in sorted(part.items()))
    return (type(part), part)
