"""Counts: those whose variance is their mean, and those whose variance grows with its square."""

from collections.abc import Mapping

import torch
from torch import Tensor, distributions
from torch.distributions import Gamma

from hiertorch.data import admissible
from hiertorch.data.table import Data
from hiertorch.families import rowforms
from hiertorch.families.family import LOG, Derivatives, Family, check_column_name, sd, uniform
from hiertorch.model.latent import Latent, Values


class Counts(Family):
    """Counts, whose mean is exposure_i exp(eta_i).

    Args:
        exposure: the column that holds what the mean is in proportion to, such as a population or a time; 1 if left
            out.
    """

    link, links = LOG, (LOG,)

    def __init__(self, exposure: str | None = None) -> None:
        self.exposure, rate = exposure, "y"
        if exposure is not None:
            check_column_name("exposure", exposure)
            self.columns, rate = (exposure,), f"y / {exposure}"
            self.formula = self.formula.replace("exp(eta)", f"{exposure} exp(eta)")
        self.scale_texts = (f"log(mean({rate}))", f"sd(log({rate}))")

    def log_mean(self, eta: Tensor, data: Data) -> Tensor:
        """eta_i + log exposure_i."""
        return eta if self.exposure is None else eta + data[self.exposure].log()

    def form_of(self, kind: type[rowforms.RowForm], data: Data, latents: Mapping[str, str]) -> rowforms.FamilyForm:
        """A form of counts, whose offset is log exposure_i."""
        offset = None if self.exposure is None else data[self.exposure].log()
        return rowforms.FamilyForm(kind, offset=offset, latents=latents)

    def check_columns(self, data: Data) -> None:
        """Exposures are above 0."""
        admissible.positive(data, self.exposure, "exposures")

    def draw_columns(self, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Exposures, uniform on 0.5 to 2."""
        return {name: uniform(rows, 0.5, 2.0, generator) for name in self.columns}

    def level_and_spread(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """The log of all counts over all expected ones, exposure exp(offset), and the sd of the rows' log rates, at
        least 1. Half a count is added, without which none would be infinite.
        """
        expected = self.log_mean(offset, data).to(y)  # (rows,)
        y = (y if y.dim() == 1 else y.mean(0)).clamp(min=0.0)
        rates = (y + 0.5).log() - expected
        return (y.sum() + 0.5).log() - expected.logsumexp(0), sd(rates).clamp(min=1.0)


class Poisson(Counts):
    """y_i ~ Poisson(exposure_i exp(eta_i)).

    Args:
        exposure: the column that holds it; 1 if left out.
    """

    name = "poisson"
    formula = "Poisson(exp(eta))"

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


class NegativeBinomial(Counts):
    """y_i ~ NegativeBinomial of mean m_i = exposure_i exp(eta_i) and variance m_i + m_i^2 / phi_y.

    phi_y ~ Gamma(2, 0.1).

    Args:
        exposure: the column that holds it; 1 if left out.
    """

    name = "negative_binomial"
    formula = "NegativeBinomial(mean exp(eta), phi_y)"
    latents = {"phi_y": Latent(Gamma(2.0, 0.1))}  # noqa: RUF012

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
