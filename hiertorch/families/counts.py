"""Counts: those whose variance is their mean, and those whose variance grows with its square."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, distributions
from torch.distributions import Gamma, LogNormal

from hiertorch.data import admissible
from hiertorch.data.table import Data
from hiertorch.families import laws, portable, rowforms
from hiertorch.families.family import Derivatives, Family, check_column_name, sd, uniform
from hiertorch.families.links import IDENTITY, LOG, SOFTPLUS, SQRT, Link
from hiertorch.model.latent import Latent, Values


class Counts(Family):
    """Counts, whose mean is exposure_i exp(eta_i), or another link's inverse of eta_i in place of the exponential.

    Args:
        exposure: the column that holds what the mean is in proportion to, such as a population or a time; 1 if left
            out.
        link: "log", "sqrt", "softplus" or "identity", which makes predictors impossible at which the mean is negative.
    """

    link = LOG
    links: tuple[Link, ...] = (LOG, SQRT, SOFTPLUS, IDENTITY)

    def __init__(self, exposure: str | None = None, link: Link | str | None = None) -> None:
        self.exposure, rate = exposure, "y"
        self.set_link(link)
        if exposure is not None:
            check_column_name("exposure", exposure)
            self.columns, rate = (exposure,), f"y / {exposure}"
            mean = self.link.mean_text
            self.formula = self.formula.replace(mean, f"{exposure} {mean}")
        self.scale_texts = (f"log(mean({rate}))", f"sd(log({rate}))")
        if not self.has_default_link:
            name = "" if self.scaled else self.link.name
            self.scale_texts = (
                f"{name}(mean({rate}))" if name else f"mean({rate})",
                f"{name}'(mean({rate})) sd({rate})" if name else f"sd({rate})",
            )

    def log_mean(self, eta: Tensor, data: Data) -> Tensor:
        """eta_i + log exposure_i, with the log link."""
        return eta if self.exposure is None else eta + data[self.exposure].log()

    def mean_of(self, eta: Tensor, data: Data) -> Tensor:
        """exposure_i times the inverse of the link."""
        if self.link == LOG:
            return self.log_mean(eta, data).exp()
        mean = self.link.inverse(eta)
        return mean if self.exposure is None else mean * data[self.exposure]

    def mean_text(self) -> str | None:
        """The mean in the little language; None for a link that is not the package's."""
        mean = portable.inverse(self.link)
        return mean if self.exposure is None or mean is None else f"{portable.column(self.exposure)} * ({mean})"

    def exposed(self, made: portable.Portable) -> portable.Portable:
        """With what `check_columns` asks of new rows."""
        return made if self.exposure is None else replace(made, checks=((self.exposure, "positive"),))

    def form_of(
        self, kind: type[rowforms.RowForm], data: Data, latents: Mapping[str, str]
    ) -> rowforms.FamilyForm | None:
        """A form of counts, whose offset is log exposure_i, with the log link."""
        if not self.has_default_link:
            return None
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
        least 1. Half a count is added, without which none would be infinite. With another link g it is g(m) and
        |g'(m)| times the sd of the rows' rates, m their mean, or m^(1/2) if that is more.
        """
        if not self.has_default_link:
            rates = y if self.exposure is None else y / data[self.exposure].to(y)
            return self.level_and_spread_of_mean(rates, offset, 0.5)
        expected = self.log_mean(offset, data).to(y)  # (rows,)
        y = (y if y.dim() == 1 else y.mean(0)).clamp(min=0.0)
        rates = (y + 0.5).log() - expected
        return (y.sum() + 0.5).log() - expected.logsumexp(0), sd(rates).clamp(min=1.0)


class Poisson(Counts):
    """y_i ~ Poisson(exposure_i exp(eta_i)).

    Args:
        exposure: the column that holds it; 1 if left out.
        link: "log", "sqrt", "softplus" or "identity".
    """

    name = "poisson"
    formula = "Poisson(exp(eta))"

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Poisson:
        """Poisson."""
        return distributions.Poisson(self.mean_of(eta, data))

    def exported(self) -> portable.Portable | None:
        """Poisson."""
        return None if (mean := self.mean_text()) is None else self.exposed(laws.poisson(mean))

    def derivatives(self, y: Tensor, eta: Tensor, v: Values, data: Data) -> Derivatives | None:
        """y - m and -m, with the log link."""
        if not self.has_default_link:
            return None
        m = self.log_mean(eta, data).exp()
        return Derivatives(y - m, -m)

    def row_form(self, data: Data) -> rowforms.FamilyForm | None:
        """Counts whose variance is their mean."""
        return self.form_of(rowforms.Poisson, data, {})

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor | None:
        """log(1 + 1 / m), m = exp(eta + spread / 2) the mean over effects (Nakagawa & Schielzeth 2010, table 2); by the
        slope of another link.
        """
        if not self.has_default_link:
            return self.variance_by_slope(eta, v, data)
        return (-self.log_mean(eta + 0.5 * spread, data)).exp().log1p()


class NegativeBinomial(Counts):
    """y_i ~ NegativeBinomial of mean m_i = exposure_i exp(eta_i) and variance m_i + m_i^2 / phi_y.

    phi_y ~ Gamma(2, 0.1).

    Args:
        exposure: the column that holds it; 1 if left out.
        link: "log", "sqrt", "softplus" or "identity".
    """

    name = "negative_binomial"
    formula = "NegativeBinomial(mean exp(eta), phi_y)"
    latents = {"phi_y": Latent(Gamma(2.0, 0.1))}  # noqa: RUF012

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.NegativeBinomial:
        """Negative binomial; torch's total_count is phi, and its odds are m / phi."""
        if not self.has_default_link:
            m = self.mean_of(eta, data)
            return distributions.NegativeBinomial(v.phi_y, m / (m + v.phi_y))
        return distributions.NegativeBinomial(v.phi_y, logits=self.log_mean(eta, data) - v.phi_y.log())

    def exported(self) -> portable.Portable | None:
        """Negative binomial."""
        if (mean := self.mean_text()) is None:
            return None
        return self.exposed(laws.negative_binomial("phi_y", f"{mean} / phi_y"))

    def derivatives(self, y: Tensor, eta: Tensor, v: Values, data: Data) -> Derivatives | None:
        """y - (y + phi) q and -(y + phi) q (1 - q) with q = m / (m + phi), with the log link."""
        if not self.has_default_link:
            return None
        logit = self.log_mean(eta, data) - v.phi_y.log()
        q, total = logit.sigmoid(), y + v.phi_y
        return Derivatives(y - total * q, -total * q * (-logit).sigmoid())

    def row_form(self, data: Data) -> rowforms.FamilyForm | None:
        """Counts with phi_y."""
        return self.form_of(rowforms.NegativeBinomial, data, {"phi": "phi_y"})

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor | None:
        """trigamma(1 / (1 / m + 1 / phi)), m = exp(eta + spread / 2) (Nakagawa, Johnson & Schielzeth 2017, table 1); by
        the slope of another link.
        """
        if not self.has_default_link:
            return self.variance_by_slope(eta, v, data)
        more = (-self.log_mean(eta + 0.5 * spread, data)).exp()  # 1 / m
        return torch.polygamma(1, 1.0 / (more + 1.0 / v.phi_y))


class Geometric(Counts):
    """y_i ~ Geometric of mean m_i = exposure_i exp(eta_i) and variance m_i + m_i^2: failures before the first success.

    Args:
        exposure: the column that holds it; 1 if left out.
        link: "log", "sqrt", "softplus" or "identity".
    """

    name = "geometric"
    formula = "Geometric(mean exp(eta))"

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.NegativeBinomial:
        """Negative binomial of phi 1, whose rows have a closed form."""
        one = torch.ones((), dtype=eta.dtype, device=eta.device)
        if self.has_default_link:
            return distributions.NegativeBinomial(one, logits=self.log_mean(eta, data))
        m = self.mean_of(eta, data)
        return distributions.NegativeBinomial(one, m / (m + 1.0))

    def exported(self) -> portable.Portable | None:
        """Negative binomial."""
        return None if (mean := self.mean_text()) is None else self.exposed(laws.negative_binomial("1.0", mean))

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor | None:
        """trigamma(1 / (1 / m + 1)), m = exp(eta + spread / 2), as of the negative binomial; by the slope of another
        link.
        """
        if not self.has_default_link:
            return self.variance_by_slope(eta, v, data)
        return torch.polygamma(1, 1.0 / ((-self.log_mean(eta + 0.5 * spread, data)).exp() + 1.0))


class NegativeBinomial1(Counts):
    """y_i ~ NegativeBinomial of mean m_i = exposure_i exp(eta_i) and variance m_i (1 + phi_y), in proportion to the
    mean (Hardin & Hilbe 2018, glmmTMB's nbinom1): phi_y is 0 for Poisson counts.

    phi_y ~ LogNormal(0, 1.5): variances of 1.05 to 20 times those of Poisson counts in 95 %.

    Args:
        exposure: the column that holds it; 1 if left out.
        link: "log", "softplus" or "identity", with which predictors are impossible at which the mean is negative.
    """

    name = "negative_binomial_1"
    formula = "NegativeBinomial(mean exp(eta), variance (1 + phi_y) mean)"
    links = (LOG, SOFTPLUS, IDENTITY)
    latents = {"phi_y": Latent(LogNormal(0.0, 1.5))}  # noqa: RUF012

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.NegativeBinomial:
        """Negative binomial; torch's total_count is m / phi, and its odds are phi."""
        return distributions.NegativeBinomial(self.mean_of(eta, data) / v.phi_y, logits=v.phi_y.log())

    def exported(self) -> portable.Portable | None:
        """Negative binomial."""
        if (mean := self.mean_text()) is None:
            return None
        return self.exposed(laws.negative_binomial(f"{mean} / phi_y", "phi_y"))

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor | None:
        """log(1 + (1 + phi_y) / m), m = exp(eta + spread / 2), as if y were lognormal (Nakagawa, Johnson & Schielzeth
        2017, section 3); by the slope of another link.
        """
        if not self.has_default_link:
            return self.variance_by_slope(eta, v, data)
        return ((1.0 + v.phi_y) * (-self.log_mean(eta + 0.5 * spread, data)).exp()).log1p()
