"""Successes of trials: rows of 0 and 1, and rows whose trials a column counts."""

import math

import torch
from torch import Tensor, distributions

from hiertorch.data import admissible
from hiertorch.data.table import Data
from hiertorch.families import rowforms
from hiertorch.families.family import LOGIT, Derivatives, Family, check_column_name, sd
from hiertorch.model.latent import Values

MOST = 20
"""Trials of a simulated row."""


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


class Bernoulli(Successes):
    """y_i ~ Bernoulli(p_i), logit(p_i) = eta_i."""

    name = "bernoulli"
    formula = "Bernoulli(logit^-1(eta))"

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Bernoulli:
        """Bernoulli."""
        return distributions.Bernoulli(logits=eta)

    def row_form(self, data: Data) -> rowforms.FamilyForm:
        """Of 0 and 1."""
        return rowforms.FamilyForm(rowforms.Bernoulli)


class Binomial(Successes):
    """y_i ~ Binomial(n_i, p_i), logit(p_i) = eta_i.

    Args:
        trials: the column that holds n_i.
    """

    name = "binomial"

    def __init__(self, trials: str = "trials") -> None:
        check_column_name("trials", trials)
        self.trials, self.columns = trials, (trials,)
        self.formula = f"Binomial({trials}, logit^-1(eta))"
        self.scale_texts = (f"logit(sum(y) / sum({trials}))", "1")

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Binomial:
        """Binomial."""
        return distributions.Binomial(data[self.trials], logits=eta)

    def row_form(self, data: Data) -> rowforms.FamilyForm:
        """Successes of trials."""
        return rowforms.FamilyForm(rowforms.Binomial, {"trials": data[self.trials]})

    def trials_of(self, data: Data) -> Tensor:
        """The column."""
        return data[self.trials]

    def typical_row(self, data: Data) -> dict[str, Tensor]:
        """One trial: shares of variance are those of its success."""
        return {self.trials: data.y.new_ones(())}

    def check_columns(self, data: Data) -> None:
        """Trials are whole and not negative, and successes among them."""
        admissible.whole(data, self.trials, "trials")
        admissible.at_most(data, self.trials, "successes are whole numbers from 0 to the number of trials")

    def informative(self, data: Data) -> Tensor:
        """Rows with trials."""
        return data[self.trials] > 0

    def draw_columns(self, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Trials, whole numbers from 1 to 20."""
        return {self.trials: torch.randint(1, MOST + 1, (rows,), generator=generator, device=generator.device)}
