"""What families of categories have in common, whether these are in an order or not: labels, and the share of each."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from hiertorch.errors import ModelError


def labels_of(family: str, categories: int | Sequence[object] | None) -> tuple[str, ...]:
    """Of K categories, 0 to K - 1, or of those that are listed.

    Raises:
        ModelError: unless there are two or more, all of them different.
    """
    if isinstance(categories, int) and not isinstance(categories, bool):
        categories = range(categories)
    if isinstance(categories, Sequence) and not isinstance(categories, str):
        labels = tuple(map(str, categories))
        if len(labels) >= 2 and len(set(labels)) == len(labels):
            return labels
    raise ModelError(
        f"{family} has two categories or more, {family}(categories=4) or {family}(categories=['low', 'high']); found "
        f"{categories!r}."
    )


def shares(categories: Sequence[str]) -> dict[str, Callable[[Tensor], Tensor]]:
    """The share of each category among responses `(draws, rows)`, by name."""
    return {f"share of {label}": partial(_share, code) for code, label in enumerate(categories)}


def _share(code: int, y: Tensor) -> Tensor:
    return (y == code).to(y).mean(1)
