"""What linear predictors share: coefficients named by their columns."""

from collections.abc import Sequence

from torch import Tensor
from torch.distributions import Normal

from hiertorch.data import Data
from hiertorch.errors import ModelError
from hiertorch.latent import Latent, Values

__all__ = ["slopes", "with_slopes"]


def slopes(predictors: Sequence[str]) -> Latent:
    """beta_k ~ Normal(0, 2) for each predictor, labelled by its name."""
    if isinstance(predictors, str) or not all(isinstance(name, str) for name in predictors):
        raise ModelError(f"predictors must be a list of column names, found {predictors!r}; write predictors=['x'].")
    if len(set(predictors)) < len(predictors):
        raise ModelError(f"predictors names a column twice: {list(predictors)}.")
    return Latent(Normal(0.0, 2.0), event=len(predictors), labels=list(predictors))


def with_slopes(intercept: Tensor, v: Values, data: Data, predictors: Sequence[str]) -> Tensor:
    """intercept_i + sum_k beta_k x_ik, `(chains, rows)`; `intercept` broadcasts to it."""
    for k, name in enumerate(predictors):
        intercept = intercept + v.beta[..., k] * data[name]
    return intercept
