"""Rows with several linear predictors and many numbers: a few numbers whose derivatives carry those of all others.

    d log f_i / dx = A_i' d log f_i / dx_c,     d^2 log f_i / dx dx' = A_i' (d^2 log f_i / dx_c dx_c') A_i

x: the numbers that a row reads, with a normal prior; x_c: R of them, the carriers, as many as a row has predictors,
such as the intercepts of all; A_i `(R, numbers)`, one for each row whatever x is, since a row's density is a function
of R numbers that are linear in x. So joint sites (`hiertorch.gaussian.jointsites`) take R (R + 1) second derivatives,
and not as many as the square of all numbers. That A_i is the same everywhere is looked up at several places.
"""

import torch
from torch import Tensor

from hiertorch.gaussian.affine import NotAffine

MOST = 100
"""Numbers that a row may read."""

CLOSE = 1e-6
"""Of a row's largest slope, up to which others are made of those of the carriers."""

FEW = 8
"""Carriers, at most."""

APART = 1e-3
"""Of a row's largest slope, what a carrier has at least that no earlier one has."""


def find_carriers(slopes: Tensor) -> tuple[tuple[int, ...], Tensor]:
    """Which numbers carry all others, and A `(rows, carriers, numbers)`.

    Args:
        slopes: of the rows' log densities in all numbers at several places, `(places, rows, numbers)`.

    Raises:
        NotAffine: if no numbers do.
    """
    length = slopes.square().sum(2, keepdim=True).sqrt()
    known = length.isfinite() & (length > 0)
    whole = torch.where(known, slopes / length, 0.0).transpose(0, 1)  # (rows, places, numbers)
    left, chosen = whole.clone(), list[int]()
    largest = whole.square().sum(1).sqrt().amax(1, keepdim=True)
    while bool((left.abs().amax(1) > CLOSE * largest).any()):
        size = left.square().sum(1).sqrt()  # (rows, numbers)
        worst = torch.where(largest > 0, size / largest, 1.0).amin(0)
        chosen.append(int(worst.argmax()))
        if float(worst.amax()) < APART or len(chosen) > FEW:
            raise NotAffine("no few numbers of the rows carry the derivatives of all others")
        own = left[:, :, chosen[-1]]
        own = own / own.square().sum(1, keepdim=True).sqrt().clamp(min=torch.finfo(own.dtype).tiny)
        left = left - own.unsqueeze(2) * (own.unsqueeze(1) @ left)
    return tuple(chosen), torch.linalg.pinv(whole[:, :, chosen]) @ whole
