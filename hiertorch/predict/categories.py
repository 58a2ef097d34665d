"""Probabilities of the categories of a response."""

from collections.abc import Hashable

import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

from hiertorch.draws.fitted import Fitted
from hiertorch.errors import ModelError
from hiertorch.model.ordinals import Ordinal
from hiertorch.models.design import family_of
from hiertorch.runtime.validating import validation

KIND = "probability"


def asked(fitted: Fitted, kind: str) -> str:
    """The kind of prediction: of categories without order, whose codes have no mean, "mean" is that of the indicator of
    each, its probability.
    """
    if kind != "mean":
        return kind
    with torch.no_grad(), validation(False):
        return KIND if isinstance(fitted.response, Categorical) else kind


def probabilities(response: Distribution | None) -> Tensor:
    """P(y = k | latents), `(..., categories)`.

    Raises:
        ModelError: for a response without categories.
    """
    if isinstance(response, Ordinal | Categorical):
        return response.probs
    name = "a log_likelihood of its own" if response is None else type(response).__name__
    raise ModelError(
        f"kind='probability' is for responses that are categories, and the likelihood is {name}; take kind='mean', "
        "which of 0 and 1 is the probability of 1, or kind='response'."
    )


def event(fitted: Fitted, kind: str) -> tuple[int, ...]:
    """The axes of the prediction of one row: that of the categories, if it has probabilities.

    Raises:
        ModelError: for probabilities of a response without categories.
    """
    return (probabilities(fitted.response).shape[-1],) if kind == KIND else ()


def categories(fitted: Fitted) -> list[Hashable]:
    """Their labels in order, or their codes.

    Raises:
        ModelError: for a response without categories.
    """
    family, (number,) = family_of(fitted.model), event(fitted, KIND)
    return [*(family.categories if family is not None and family.categories else range(number))]


def lines(fitted: Fitted, kind: str, index: pd.Index) -> pd.Index:
    """The index of a table of predictions: that of the rows, or of rows and categories."""
    if kind != KIND:
        return index
    labels = categories(fitted)
    names = [index.name or "row", "category"]
    return pd.MultiIndex.from_tuples([(row, label) for row in index for label in labels], names=names)
