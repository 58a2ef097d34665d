"""What may be asked of tensors on another device without waiting for it."""

from torch import Tensor


def any_here(mask: Tensor) -> bool:
    """Whether a mask holds anywhere; on a device that would have to be waited for, True: it may. So a shortcut is
    taken where values lie at hand, and elsewhere what it leaves out is done.
    """
    return mask.device.type != "cpu" or bool(mask.any())
