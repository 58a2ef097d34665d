"""Rows of 0 and 1."""

from torch import Tensor, distributions

from hiertorch.data.table import Data
from hiertorch.families import rowforms
from hiertorch.families.successes import Successes
from hiertorch.model.latent import Values


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
