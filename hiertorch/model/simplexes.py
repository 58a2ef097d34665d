"""Priors of shares, which are positive and sum to 1."""

from collections.abc import Sequence

import torch
from torch.distributions import Dirichlet

from hiertorch.errors import ModelError


def simplex(size: int, concentration: float | Sequence[float] = 1.0) -> Dirichlet:
    """A prior of shares x_1, ..., x_K, positive and of sum 1: p(x) = Gamma(sum a) prod_k x_k^(a_k - 1) / Gamma(a_k).

    It is sampled by the numbers V' log x (`hiertorch.model.bijections.LogRatios`).

    Args:
        size: K.
        concentration: a, of each share, or the same of all: with 1 all shares are equally probable, with more they are
            alike, with less some are near 0. The mean of x_k is a_k / sum a, and a prior of it is as many rows' worth
            as the sum.

    Raises:
        ModelError: for a size below 2, and a concentration that is not positive or is none of each share.

    Example:
        >>> import hiertorch as ht
        >>> ht.Latent(ht.simplex(3, [2.0, 2.0, 1.0]), labels=["bus", "car", "train"]).text
        'Dirichlet([2, 2, 1])'
    """
    if not isinstance(size, int) or isinstance(size, bool) or size < 2:
        raise ModelError(f"size is the number of shares, 2 or more; found {size!r}.")
    try:
        a = torch.as_tensor(concentration, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        a = torch.zeros(0)
    if a.shape not in ((), (size,)) or not bool((a.isfinite() & (a > 0)).all()):
        raise ModelError(
            f"concentration is a positive number, or one for each of the {size} shares; found {concentration!r}."
        )
    return Dirichlet(a.expand(size).clone())
