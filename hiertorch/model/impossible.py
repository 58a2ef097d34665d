"""Rows whose likelihood has a parameter that can't be: because of the row's own columns, or in draws of the latents.

Where only some latents make it impossible, the density is 0 there (`hiertorch.model.support`), and chains keep away.
But a row with a standard error of 0, or trials of 2.5, has a likelihood nowhere, and an error that names a latent names
the wrong one.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch.errors import DataError
from hiertorch.model.support import Condition, conditions, violated

ADVICE = "Correct the columns of the row, or leave it out."
"""The end of a sentence on a row."""


def refuse_fixed(response: Distribution, shape: tuple[int, int], where: Callable[[int], str]) -> None:
    """Raises a DataError for a row with an impossible parameter that no latent changes.

    Args:
        response: the likelihood given some draws of the latents, which differ.
        shape: `(draws, rows)`.
        where: the row of a number, in words.
    """
    for condition, bad in _violations(response, shape):
        fixed = bad.all(0) & _fixed(condition, shape) & _by_row(condition, shape)[0].isfinite().all(-1)
        if bool(fixed.any()):
            row = int(fixed.nonzero()[0])
            raise DataError(f"{where(row)} has no likelihood: {_said(condition, shape, 0, row)}. {ADVICE}")


def reads_rows(response: Distribution, shape: tuple[int, int]) -> bool:
    """Whether a parameter that could be impossible is another one in some rows, whatever the latents."""
    for condition in conditions(response):
        x = _by_row(condition, shape)
        if bool(_fixed(condition, shape).all()) and bool((x != x[:, :1]).any()):
            return True
    return False


def suspects(response: Distribution, shape: tuple[int, int]) -> Tensor:
    """Numbers of the rows that have no likelihood in any of the draws, unless none has, which is no row's fault."""
    bad = [bad for _, bad in _violations(response, shape)]
    every = violated(bad).all(0) if bad else torch.zeros(shape[1:], dtype=torch.bool)
    return every.nonzero()[: 0 if bool(every.all()) else len(every), 0]


def refuse_shares(
    response: Distribution, shape: tuple[int, int], where: Callable[[int], str], of: str, least: float = 0.0
) -> None:
    """Raises a DataError for a row that has no likelihood in some of the draws, which are `of` what, and in so large a
    share of them at least.
    """
    for condition, bad in _violations(response, shape):
        shares = bad.double().mean(0)
        if bool((found := (shares > 0) & (shares >= least)).any()):
            row = int(found.nonzero()[0])
            draw = int(bad[:, row].nonzero()[0])
            raise DataError(
                f"{where(row)} has no likelihood in {float(shares[row]):.0%} of {of}: "
                f"{_said(condition, shape, draw, row)}. {ADVICE}"
            )


def _violations(response: Distribution, shape: tuple[int, int]) -> Iterator[tuple[Condition, Tensor]]:
    for condition in conditions(response):
        yield condition, violated(condition.violated()).expand(shape)


def _fixed(condition: Condition, shape: tuple[int, int]) -> Tensor:
    """Which rows have the same parameter in all draws, `(rows,)`."""
    x = _by_row(condition, shape)
    return ((x == x[:1]) | (x.isnan() & x[:1].isnan())).all(-1).all(0)


def _by_row(condition: Condition, shape: tuple[int, int]) -> Tensor:
    """The parameter of each row, `(draws, rows, numbers)`."""
    x = condition.value
    more = condition.events if condition.found is None else max(0, x.dim() - condition.found.dim())
    event = x.shape[x.dim() - more :]
    return x.expand(*shape, *event).reshape(*shape, -1)


def _said(condition: Condition, shape: tuple[int, int], draw: int, row: int) -> str:
    x = _by_row(condition, shape)[draw, row]
    value = f"{float(x[0]):.6g}" if len(x) == 1 else f"{[float(f'{float(v):.4g}') for v in x[:6]]}"
    return f"the {condition.name} is {value} there, and must be {condition.wanted()}"
