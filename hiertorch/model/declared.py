"""What a model declares against the densities that it writes itself.

`log_prior_term`, `log_likelihood` and `log_prob` may be overridden; then `prior` and `likelihood`, from which effects
of new groups, simulated responses and shares of variance are taken, need not be what was fitted. Whether they are is
looked up at the very values at which they are used.

docs/decisions.md: Declared densities only where they are fitted.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.model.densities import Densities

CLOSE = 1e-6
"""Relative difference up to which two log densities are the same."""


def overrides(model: Densities, method: str) -> bool:
    """Whether the model writes a method of `Model` itself, in its class or as an attribute of the instance."""
    return method in vars(model) or getattr(type(model), method) is not getattr(Densities, method)


def refuse_own_priors(
    model: Densities, v: Mapping[str, Tensor], data: Data, what: str, names: Iterable[str] | None = None
) -> None:
    """Raises a ModelError if declared priors, of some latents or all, would be used for `what`, and are not those that
    were fitted: `log_prior_term` is another log density at some of these values, by more than a constant.
    """
    kind = type(model).__name__
    if overrides(model, "log_prob"):
        raise ModelError(
            f"{what} would come from declared priors and likelihood, and {kind} overrides log_prob, which need not use "
            "them: write log_prior_term for what belongs to a prior, and likelihood for the rows."
        )
    v = model.values(v)
    for name in model.latents if names is None else names:
        if _is_other(model, "log_prior_term", name, v, data):
            raise ModelError(
                f"{what} would come from the declared prior of {name!r}, and {kind} overrides log_prior_term, which "
                "gives it another density: declare the whole of its prior, as a torch.distributions object."
            )


def refuse_own_density(model: Densities, v: Mapping[str, Tensor], data: Data, what: str) -> None:
    """Raises a ModelError if `log_prob` is overridden and is not the sum of declared pieces at these values, up to a
    constant.
    """
    if _is_other(model, "log_prob", model.values(v), data):
        raise ModelError(
            f"{what} needs the density of each row, and {type(model).__name__} overrides log_prob, which is not the "
            "sum of its priors and its likelihood: write log_prior_term for what belongs to a prior, and likelihood "
            "for the rows."
        )


def refuse_own_likelihood(model: Densities, v: Mapping[str, Tensor], data: Data, what: str) -> None:
    """Raises a ModelError if the declared likelihood would be used for `what`, and is not the one that was fitted."""
    if _is_other(model, "log_likelihood", model.values(v), data):
        kind = type(model).__name__
        raise ModelError(
            f"{what} would come from the likelihood that {kind} declares, and {kind} overrides log_likelihood, which "
            "gives the rows another density: return one distribution from likelihood, whose log_prob is that of the "
            "rows, or write simulate(self, v, data, generator)."
        )


def _is_other(model: Densities, method: str, *arguments: object) -> bool:
    """Whether a method is overridden, and its log density another than the declared one, by more than a constant."""
    if not overrides(model, method):
        return False
    one: Tensor = getattr(model, method)(*arguments)
    other: Tensor = getattr(Densities, method)(model, *arguments)
    finite = torch.isfinite(one)
    gap = (one - other)[finite]
    if bool((finite != torch.isfinite(other)).any()):
        return True
    return bool(((gap - gap[:1]).abs() > CLOSE * (1.0 + one[finite].abs())).any())
