"""A GPU that isn't there, with values: tensors that say that they are on it, and lie in memory of the CPU.

`fake_cuda` knows shapes alone, and can follow a sweep; here whole runs go to their end, since every value is known.
As on a card, operations on tensors of both devices raise, and so does `.numpy()`; reads of values, for which a card
would have to be waited for, are counted.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from hiertorch.density import target
from hiertorch.gaussian import tracing
from hiertorch.run import givencoefficients, rowweights

CUDA, NOWHERE = torch.device("cuda", 0), torch.device("meta")
"""What a tensor says, and what PyTorch believes: builds without CUDA can do nothing with the former."""

RECORDED = (target, rowweights, givencoefficients)
"""Modules that record pieces of a model and replay them, which `fake_cuda` follows."""

WAITS = {f"aten::{name}" for name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")}

MAY_MIX = {"aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put", "aten::index_put_", "aten::detach"}
"""Operations with an argument that may be on another device: positions, for one, are copied."""

waited: Counter[str] = Counter()
"""Where values were read -> how often."""


def _is_cuda(device: object) -> bool:
    return str(device).split(":")[0] == "cuda" if isinstance(device, str | torch.device) else False


class There(Tensor):
    """A tensor on the GPU; `here` has its values."""

    here: Tensor
    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda, is_cpu, is_meta = True, False, False
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: Tensor) -> "There":
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        made: There = Tensor._make_wrapper_subclass(cls, here.shape, device=NOWHERE, **layout)  # type: ignore[attr-defined]
        made.here = here
        return made

    def __repr__(self, **_: object) -> str:  # type: ignore[override]
        return f"There({self.here!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _values(x: object) -> object:
    x = x.here if isinstance(x, There) else x
    if isinstance(x, Tensor) and x._is_zerotensor():  # of forward derivatives: it has no memory
        return torch.zeros(x.shape, dtype=x.dtype)
    return x


def _run(func: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    """An operation, on the values; its results are where its arguments were, or where they are asked for."""
    name, device = func._schema.name, kwargs.get("device")  # type: ignore[attr-defined]
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = any(isinstance(x, There) for x in given)
    if there and name not in MAY_MIX and any(x.dim() and not isinstance(x, There) for x in given):
        raise RuntimeError(f"Expected all tensors to be on the same device, by {name}")
    if there and (
        name in WAITS or (name == "aten::_to_copy" and isinstance(device, torch.device) and device.type == "cpu")
    ):
        places = [f for f in traceback.extract_stack() if "/hiertorch/" in f.filename][-2:]
        waited[" < ".join(f"{f.filename.rsplit('/hiertorch/')[-1]}:{f.lineno}" for f in reversed(places))] += 1
    plain, options = tree_map(_values, args), tree_map(_values, dict(kwargs))
    if device is not None:
        options["device"] = torch.device("cpu")
    found = (torch.zeros if name == "aten::_efficientzerotensor" else func)(*plain, **options)
    if name == "aten::copy_":
        return args[0]
    if not (there if device is None else device == NOWHERE):
        return found
    made = tree_map(lambda x: There(x) if isinstance(x, Tensor) else x, found)
    return return_and_correct_aliasing(func, args, kwargs, made) if there else made


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Devices(TorchFunctionMode):
    """Where the GPU is asked for, before PyTorch looks for one."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, x = dict(kwargs or {}), args[0] if args else None
        args, wanted = tuple(NOWHERE if _is_cuda(a) else a for a in args), _is_cuda(kwargs.get("device"))
        if wanted:
            kwargs["device"] = NOWHERE
        if func in (torch.tensor, torch.as_tensor) and wanted:
            del kwargs["device"]
            made = func(*args, **kwargs)
            return made if isinstance(made, There) else made.to(NOWHERE)
        if func is Tensor.cuda:
            return x.to(NOWHERE)
        if isinstance(x, There):
            if func is Tensor.tolist:
                return x.cpu().tolist()
            if func is Tensor.numpy:
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            if func is Tensor.new_tensor:
                return torch.tensor(args[1], dtype=kwargs.get("dtype", x.dtype)).to(NOWHERE)
        return func(*args, **kwargs)


class _Generator(torch.Generator):
    """Of random numbers there, which are those of the CPU."""

    place: torch.device
    device = property(lambda self: self.place)  # type: ignore[assignment]

    def __new__(cls, device: str | torch.device = "cpu") -> "_Generator":
        made: _Generator = torch._C.Generator.__new__(cls, "cpu")
        made.place = CUDA if _is_cuda(device) else torch.device(device)
        return made

    def __init__(self, device: str | torch.device = "cpu") -> None:
        pass


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """A GPU named "cuda" in this thread."""
    memory = tracing._memory
    patches = (
        mock.patch.object(tracing, "_memory", lambda x: memory(x.here if isinstance(x, There) else x)),
        # torch's tracer takes these tensors for constants
        *(mock.patch.object(module, "record", lambda function, *_, **__: function) for module in RECORDED),
        mock.patch.object(torch, "Generator", _Generator),
        mock.patch.object(torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state()),
        mock.patch.object(torch.cuda, "set_rng_state", lambda state, *_: torch.set_rng_state(state)),
        mock.patch.object(torch.cuda, "mem_get_info", lambda *_: (2**34, 2**34)),
    )
    waited.clear()
    for patch in patches:
        patch.start()
    try:
        with _Operations(), _Devices():
            yield
    finally:
        for patch in patches:
            patch.stop()
