"""Counts whose variance grows with the square of their mean."""

import torch
from torch import Tensor, distributions
from torch.distributions import Gamma

from hiertorch.data.table import Data
from hiertorch.families import rowforms
from hiertorch.families.counts import Counts
from hiertorch.families.family import Derivatives
from hiertorch.model.latent import Latent, Values


class NegativeBinomial(Counts):
    """y_i ~ NegativeBinomial of mean m_i = exposure_i exp(eta_i) and variance m_i + m_i^2 / phi_y.

    phi_y ~ Gamma(2, 0.1).

    Args:
        exposure: the column that holds it; 1 if left out.
    """

    name = "negative_binomial"
    latents = {"phi_y": Latent(Gamma(2.0, 0.1))}  # noqa: RUF012

    def __init__(self, exposure: str | None = None) -> None:
        super().__init__(exposure)
        self.formula = f"NegativeBinomial(mean {self.mean_text}, phi_y)"

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.NegativeBinomial:
        """Negative binomial; torch's total_count is phi, and its odds are m / phi."""
        return distributions.NegativeBinomial(v.phi_y, logits=self.log_mean(eta, data) - v.phi_y.log())

    def derivatives(self, y: Tensor, eta: Tensor, v: Values, data: Data) -> Derivatives:
        """y - (y + phi) q and -(y + phi) q (1 - q) with q = m / (m + phi)."""
        logit = self.log_mean(eta, data) - v.phi_y.log()
        q, total = logit.sigmoid(), y + v.phi_y
        return Derivatives(y - total * q, -total * q * (-logit).sigmoid())

    def row_form(self, data: Data) -> rowforms.FamilyForm:
        """Counts with phi_y."""
        return self.form_of(rowforms.NegativeBinomial, data, {"phi": "phi_y"})

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor:
        """trigamma(1 / (1 / m + 1 / phi)), m = exp(eta + spread / 2) (Nakagawa, Johnson & Schielzeth 2017, table 1)."""
        more = (-self.log_mean(eta + 0.5 * spread, data)).exp()  # 1 / m
        return torch.polygamma(1, 1.0 / (more + 1.0 / v.phi_y))
