"""Counts whose variance is their mean."""

from torch import Tensor, distributions

from hiertorch.data.table import Data
from hiertorch.families import rowforms
from hiertorch.families.counts import Counts
from hiertorch.families.family import Derivatives
from hiertorch.model.latent import Values


class Poisson(Counts):
    """y_i ~ Poisson(exposure_i exp(eta_i)).

    Args:
        exposure: the column that holds it; 1 if left out.
    """

    name = "poisson"

    def __init__(self, exposure: str | None = None) -> None:
        super().__init__(exposure)
        self.formula = f"Poisson({self.mean_text})"

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Poisson:
        """Poisson."""
        return distributions.Poisson(self.log_mean(eta, data).exp())

    def derivatives(self, y: Tensor, eta: Tensor, v: Values, data: Data) -> Derivatives:
        """y - m and -m."""
        m = self.log_mean(eta, data).exp()
        return Derivatives(y - m, -m)

    def row_form(self, data: Data) -> rowforms.FamilyForm:
        """Counts whose variance is their mean."""
        return self.form_of(rowforms.Poisson, data, {})

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor:
        """log(1 + 1 / m), m = exp(eta + spread / 2) the mean over effects (Nakagawa & Schielzeth 2010, table 2)."""
        return (-self.log_mean(eta + 0.5 * spread, data)).exp().log1p()
