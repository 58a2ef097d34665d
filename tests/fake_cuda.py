"""A GPU that isn't there: PyTorch's fake tensors know shape, dtype and device, and no values.

Whatever would mix devices raises, and so does whatever would wait for a value.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from hiertorch.moves.adaptation import Learning
from hiertorch.runtime.validating import validation

CUDA = torch.device("cuda:0")


class IndexingWithoutCuda(TorchFunctionMode):
    """`x[...]`, `x.contiguous()`, `x.index_add(...)` and copies by operators.

    The fast paths of the first three ask for a CUDA device guard, which builds of PyTorch without CUDA don't have, even
    for fake tensors; copies ask for storage, which fake tensors don't have.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.__deepcopy__:
            return args[0].clone()
        if args and isinstance(args[0], FakeTensor):
            if func is Tensor.__getitem__:
                return indexed(*args)
            if func is Tensor.__setitem__:
                return torch.ops.aten.copy_.default(indexed(args[0], args[1]), args[2])
            if func is Tensor.index_add:
                x, dim, index, source = args
                return torch.ops.aten.index_put.default(x, [None] * dim + [index], source, True)
            if func is Tensor.contiguous:
                return args[0].clone(memory_format=torch.contiguous_format)
        return func(*args, **(kwargs or {}))


def indexed(x, index):
    """x[index] for whole numbers, slices, None, one Ellipsis and tensors of whole numbers."""
    parts = list(index) if isinstance(index, tuple) else [index]
    dots = [i for i, part in enumerate(parts) if part is Ellipsis]
    if dots:
        missing = x.dim() - sum(part is not None for part in parts) + 1
        parts[dots[0] : dots[0] + 1] = [slice(None)] * missing
    dim, tensors = 0, {}
    for part in parts:
        if isinstance(part, Tensor):
            assert part.dtype == torch.int64
            tensors[dim] = part
        elif part is None:
            x = x.unsqueeze(dim)
        elif isinstance(part, int):
            x = torch.ops.aten.select.int(x, dim, part)
            continue
        else:
            x = torch.ops.aten.slice.Tensor(x, dim, part.start, part.stop, part.step or 1)
        dim += 1
    return torch.ops.aten.index.Tensor(x, [tensors.get(d) for d in range(dim)]) if tensors else x


@contextmanager
def fake_mode():
    with FakeTensorMode(allow_non_fake_inputs=True), IndexingWithoutCuda(), torch.no_grad(), validation(False):
        yield


class ToGpu(TorchFunctionMode):
    """Deep copies are made on the GPU, one of each tensor."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        x, memo = args
        return memo.setdefault(id(x), x.to(CUDA))


def tensors(*things) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists, mappings and dataclasses."""
    for thing in things:
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, dict):
            yield from tensors(*thing.values())
        elif isinstance(thing, list | tuple):
            yield from tensors(*thing)
        elif isinstance(thing, Learning):
            yield from tensors(*vars(thing).values())


def assert_on_gpu(*things):
    found = list(tensors(*things))
    assert found
    assert {x.device for x in found} == {CUDA}
    assert all(isinstance(x, FakeTensor) for x in found)
