"""Logarithms that are taken of exponentials give what the exponential was taken of: log(a exp x) = x + log a.

A rate exp(eta) overflows where eta is far out, and no operation after it shows that its logarithm is linear in what
eta is linear in. Inside `Logarithms` the logarithm of such a product is made of eta itself.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

EXPONENTIALS = (torch.exp, Tensor.exp)
LOGARITHMS = (torch.log, Tensor.log)
PRODUCTS = (torch.mul, torch.multiply, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)


class Logarithms(TorchFunctionMode):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, tuple[Tensor, Tensor]] = {}  # id -> the tensor, which so lives on, and its logarithm

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        logarithms = [self.known[id(x)][1] if id(x) in self.known else None for x in args[:2]]
        if func in LOGARITHMS and logarithms[0] is not None:
            return logarithms[0]
        found = func(*args, **(kwargs or {}))
        if func in EXPONENTIALS and isinstance(found, Tensor) and isinstance(args[0], Tensor):
            self.known[id(found)] = found, args[0]
        elif func is torch.broadcast_tensors and isinstance(found, list | tuple):
            for x, logarithm in zip(found, logarithms, strict=False):
                if logarithm is not None:
                    self.known[id(x)] = x, logarithm.expand_as(x)
        elif func in PRODUCTS and isinstance(found, Tensor) and any(x is not None for x in logarithms):
            one, other = (
                known if known is not None else torch.as_tensor(x, dtype=found.dtype, device=found.device).log()
                for known, x in zip(logarithms, args, strict=False)
            )
            self.known[id(found)] = found, one + other
        return found
