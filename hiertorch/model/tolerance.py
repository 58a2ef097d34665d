"""Computing on where one chain's numbers are impossible, so that its proposal is rejected and the others live.

`torch.linalg.cholesky` raises for a whole batch if one of its matrices is not positive definite; and where it was
recorded as a graph, the check is left out and the factor is garbage. Under `tolerant` the factor of such a matrix is
NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class tolerant(TorchFunctionMode):  # noqa: N801 - used as `with tolerant():`
    """Inside the block (and this thread) Cholesky factors of matrices that have none are NaN."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """See `TorchFunctionMode`."""
        if func in (torch.linalg.cholesky, torch.cholesky, Tensor.cholesky) and not (kwargs or {}).get("out"):
            factor: Callable[..., Tensor] = _factor
            return factor(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _factor(matrix: Tensor, upper: bool = False) -> Tensor:
    root, info = torch.linalg.cholesky_ex(matrix, upper=upper)
    return torch.where((info == 0)[..., None, None], root, torch.nan)


def attempted(function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    """What a function of the user's gives; under `tolerant` if some chain is at a place where it raises."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        if not is_of_a_place(error):
            raise
        with tolerant():
            return function(*args, **kwargs)


def is_of_a_place(error: BaseException | None) -> bool:
    """Whether it is torch that finds a parameter or a matrix impossible, which other places need not be."""
    if error is None:
        return False
    if isinstance(error, torch.linalg.LinAlgError):
        return True
    if isinstance(error, ValueError) and (trace := error.__traceback__) is not None:
        while trace.tb_next is not None:
            trace = trace.tb_next
        if str(trace.tb_frame.f_globals.get("__name__", "")).startswith("torch.distributions"):
            return True
    return is_of_a_place(error.__cause__)
