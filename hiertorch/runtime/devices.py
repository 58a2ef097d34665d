"""What may be asked of tensors on another device without waiting for it, and which devices a run can be on."""

import torch
from torch import Tensor

from hiertorch.errors import SamplingError

WITHOUT_DOUBLE = ("mps",)
"""Kinds of devices that have no float64, in which sums over rows and what is learnt from draws are held."""


def check_double(device: object) -> None:
    """Of what `torch.device` takes; other things are not looked at.

    Raises:
        SamplingError: for a device that has no float64.
    """
    try:
        kind = torch.device(device).type  # type: ignore[call-overload]
    except (RuntimeError, TypeError):
        return
    if kind in WITHOUT_DOUBLE:
        raise SamplingError(
            f"device {str(device)!r} has no float64, which sums over rows need, also of float32 rows; "
            'expected "cpu" or "cuda". Give device="cpu", where the same run works.'
        )


def any_here(mask: Tensor) -> bool:
    """Whether a mask holds anywhere; on a device that would have to be waited for, True: it may. So a shortcut is
    taken where values lie at hand, and elsewhere what it leaves out is done.
    """
    return mask.device.type != "cpu" or bool(mask.any())
