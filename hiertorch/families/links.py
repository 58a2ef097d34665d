"""Links g: g(E[y_i]) = eta_i, for one trial or one unit of exposure where a family reads such a column."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Link(NamedTuple):
    """A one-to-one map from means to linear predictors.

    Attributes:
        name: for print.
        inverse: linear predictors of any shape -> means.
    """

    name: str
    inverse: Callable[[Tensor], Tensor]


IDENTITY = Link("identity", torch.positive)  # of real numbers
LOG = Link("log", torch.exp)  # of means above 0
LOGIT = Link("logit", torch.sigmoid)  # of probabilities
