"""What Bernoulli and binomial rows share."""

import math

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.families.family import LOGIT, Derivatives, Family, sd
from hiertorch.model.latent import Values


class Successes(Family):
    """Successes of trials, whose log odds are eta."""

    link, links = LOGIT, (LOGIT,)
    scale_texts = ("logit(mean(y))", "1")

    def trials_of(self, data: Data) -> Tensor:
        """Of each row, `(rows,)`, or `()` if all have the same number."""
        return data.y.new_ones(())

    def derivatives(self, y: Tensor, eta: Tensor, v: Values, data: Data) -> Derivatives:
        """y - n p and -n p (1 - p)."""
        p, trials = eta.sigmoid(), self.trials_of(data)
        return Derivatives(y - trials * p, -trials * p * (-eta).sigmoid())

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor:
        """pi^2 / 3, that of the logistic distribution."""
        return torch.full_like(eta, math.pi**2 / 3)

    def level_and_spread(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """The log odds of all trials together, less the mean offset, and 1, or the sd of the offset if that is more.
        Half a success and half a failure are added, without which none of either would be infinite.
        """
        trials = self.trials_of(data).to(y).expand_as(y)
        done, all_ = y.sum() + 0.5, trials.sum() + 1.0
        return torch.logit(done / all_) - offset.mean(), sd(offset).clamp(min=1.0)
