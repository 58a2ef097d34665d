"""E[y | latents] of a likelihood, or why there is none."""

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, StudentT

from hiertorch.errors import ModelError, warn
from hiertorch.model.censoring import Censored, Truncated


def centre(y: Distribution) -> Tensor:
    """E[y_i], or the middle of Student's t, which need not have a mean; of what would be seen without censoring."""
    y = _seen(y)
    return y.loc if isinstance(y, StudentT) else y.mean


def without_mean(y: Distribution) -> str | None:
    """Why a distribution has no mean in any row, or None if it has one in some; where nothing can be computed since its
    parameters are NaN, that is not the reason.
    """
    y = _seen(y)
    kind = type(y).__name__
    if isinstance(y, Categorical):
        return f"the likelihood, {kind}, has no mean: its values are labels"
    if isinstance(y, StudentT) and bool((y.df <= 1).all()):
        return f"the likelihood, {kind} with df = {float(y.df.max()):.3g}, has no mean: that takes a df above 1"
    try:
        mean = centre(y)
    except NotImplementedError:
        return f"the likelihood, {kind}, tells no mean"
    return f"the likelihood, {kind}, has no mean" if bool(mean.isnan().all()) and not _is_nan(y) else None


def expected(y: Distribution) -> Tensor:
    """E[y | latents], which broadcasts to `(draws, rows)`; of Student's t with a df up to 1 in some draws, there its
    middle.

    Raises:
        ModelError: if there is none.
    """
    y = _seen(y)
    why = without_mean(y)
    if why is None and bool((lost := centre(y).isnan()).any()) and not _is_nan(y):
        why = f"the likelihood, {type(y).__name__}, has no mean in {float(lost.double().mean()):.1%} of draws and rows"
    if why is not None:
        raise ModelError(f"{why}; take kind='response', and of what is drawn the share of each value, or quantiles.")
    if isinstance(y, StudentT) and bool((few := y.df <= 1).any()):
        share = float(few.double().mean())
        warn(f"Student's t has no mean where its df is 1 or less, in {share:.2%} of draws: its middle is given.")
    return centre(y)


def _seen(y: Distribution) -> Distribution:
    return y.base if isinstance(y, Censored) else y


def _is_nan(y: Distribution) -> bool:
    """Whether a parameter is NaN somewhere."""
    if isinstance(y, Independent):
        return _is_nan(y.base_dist)
    if isinstance(y, Truncated):
        return _is_nan(y.base)
    parameters = (vars(y).get(name) for name in y.arg_constraints)
    return any(isinstance(x, Tensor) and bool(torch.isnan(x).any()) for x in parameters)
