"""Links: one-to-one maps from the mean of a row, or what a family names in its place, to its linear predictor."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.errors import ModelError


class Link(NamedTuple):
    """g(E[y_i]) = eta_i: a one-to-one map from means to linear predictors, for one trial or unit of exposure where a
    family reads such a column.

    Attributes:
        name: for print, and what `link=` takes.
        inverse: linear predictors of any shape -> means.
        forward: means of any shape -> linear predictors.
        log_odds: of a link of probabilities, linear predictors -> log(p / (1 - p)), which stays exact where p rounds to
            0 or 1.
        text: of the inverse, for print; name^-1(eta) if left out.
    """

    name: str
    inverse: Callable[[Tensor], Tensor]
    forward: Callable[[Tensor], Tensor] = torch.positive
    log_odds: Callable[[Tensor], Tensor] | None = None
    text: str = ""

    @property
    def mean_text(self) -> str:
        """The mean as a function of eta, for print."""
        return self.text or f"{self.name}^-1(eta)"


def _probit_log_odds(eta: Tensor) -> Tensor:
    return torch.special.log_ndtr(eta) - torch.special.log_ndtr(-eta)


def _cloglog_log_odds(eta: Tensor) -> Tensor:
    """log(exp(x) - 1), x = exp(eta), which stays finite."""
    x = eta.clamp(max=math.log(torch.finfo(eta.dtype).max) - 1.0).exp()
    return x + (-torch.expm1(-x.clamp(min=torch.finfo(eta.dtype).tiny))).log()


def _root(mean: Tensor) -> Tensor:
    return mean.clamp(min=0.0).sqrt()


def _square(eta: Tensor) -> Tensor:
    """eta^2 from 0 on, and 0 below, so that one mean has one predictor."""
    return eta.clamp(min=0.0).square()


def _softplus_forward(mean: Tensor) -> Tensor:
    """log(exp(mean) - 1)."""
    return mean + (-torch.expm1(-mean)).log()


def _softplus(eta: Tensor) -> Tensor:
    """log(1 + exp(eta))."""
    return torch.logaddexp(eta, torch.zeros_like(eta))


def _cloglog(p: Tensor) -> Tensor:
    return (-torch.log1p(-p)).log()


def _cloglog_inverse(eta: Tensor) -> Tensor:
    return -torch.expm1(-eta.exp())


IDENTITY = Link("identity", torch.positive, text="eta")  # of real numbers
LOG = Link("log", torch.exp, torch.log, text="exp(eta)")  # of means above 0
INVERSE = Link("inverse", torch.reciprocal, torch.reciprocal, text="1 / eta")  # of means above 0, with eta above 0
SQRT = Link("sqrt", _square, _root, text="eta^2")  # of means from 0 on
SOFTPLUS = Link("softplus", _softplus, _softplus_forward, text="log(1 + exp(eta))")  # of means above 0
LOGIT = Link("logit", torch.sigmoid, torch.logit, torch.positive)  # of probabilities
PROBIT = Link("probit", torch.special.ndtr, torch.special.ndtri, _probit_log_odds, text="Phi(eta)")
CLOGLOG = Link("cloglog", _cloglog_inverse, _cloglog, _cloglog_log_odds)

PROBABILITIES = (LOGIT, PROBIT, CLOGLOG)


def chosen(link: Link | str | None, links: tuple[Link, ...], family: str) -> Link:
    """The link of that name among those that a family has; the first of them if none is given.

    Raises:
        ModelError: if it has none of that name.
    """
    if link is None:
        return links[0]
    for one in links:
        if link == one.name or link is one:
            return one
    names = ", ".join(one.name for one in links)
    found = link.name if isinstance(link, Link) else link
    raise ModelError(f"the links of {family} are {names}; found {found!r}.")


def slope(link: Link, at: Tensor) -> Tensor:
    """d mean / d eta of a link, at linear predictors of any shape."""
    with torch.enable_grad():
        eta = at.detach().clone().requires_grad_()
        return torch.autograd.grad(link.inverse(eta).sum(), eta)[0]
