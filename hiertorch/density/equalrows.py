"""Rows that have the same linear predictor whatever the latents are."""

from collections.abc import Sequence

import torch
from torch import Tensor

SEED = 0
"""Of the numbers by which columns are added up to one; any will do, since what they find is compared exactly."""


def equal_rows(columns: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The place of each row among rows that differ, `(rows,)`, and one row of each place, `(places,)`, given the
    columns in which rows may differ, `(rows,)` or `(rows, n)` each.

    Rows are sorted by one number, a random sum of their columns, and not by all of them, which takes ten times as long;
    if rows that differ should have the same number, all are taken to differ.
    """
    flat = torch.cat([x.double().reshape(len(x), -1) for x in columns], 1)  # groups too: whole numbers below 2^53
    generator = torch.Generator().manual_seed(SEED)
    factors = torch.rand(flat.shape[1], generator=generator, dtype=torch.float64).to(flat.device)
    _, place, counts = (flat * factors).sum(1).unique(return_inverse=True, return_counts=True)
    one = place.argsort(stable=True)[counts.cumsum(0) - counts]  # the first row of each place
    if torch.equal(flat[one[place]], flat):
        return place, one
    each = torch.arange(len(flat), device=flat.device)
    return each, each


def summed(x: Tensor, place: Tensor, places: int) -> Tensor:
    """Sums by place, `(rows,)` to `(places,)`."""
    return x.new_zeros(places).index_add_(0, place, x)
