"""Evenly spaced places."""

import torch
from torch import Tensor


def evenly(number: int, most: int, device: torch.device) -> Tensor:
    """At most so many of the places 0 to `number` - 1, the first and the last among them; computed in double precision,
    in which no place is rounded to another.
    """
    return torch.linspace(0, number - 1, min(most, number), dtype=torch.float64, device=device).round().long()
