"""Successes of trials that a column counts."""

import torch
from torch import Tensor, distributions

from hiertorch.data import admissible
from hiertorch.data.table import Data
from hiertorch.families import rowforms
from hiertorch.families.family import check_column_name
from hiertorch.families.successes import Successes
from hiertorch.model.latent import Values

MOST = 20
"""Trials of a simulated row."""


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
