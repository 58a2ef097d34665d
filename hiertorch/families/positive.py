"""Continuous responses above 0 around their mean: gamma, exponential, Weibull and inverse Gaussian rows."""

import math

import torch
from torch import Tensor, distributions
from torch.distributions import LogNormal

from hiertorch.data.table import Data
from hiertorch.families import laws, portable
from hiertorch.families.family import Derivatives, Family, sd
from hiertorch.families.links import IDENTITY, INVERSE, LOG, SOFTPLUS, Link
from hiertorch.model import continuous
from hiertorch.model.continuous import PositiveGamma
from hiertorch.model.latent import Latent, Values


class Positive(Family):
    """Responses above 0, whose mean is exp(eta_i), or another link's inverse of eta_i.

    Args:
        link: "log", "inverse", "softplus" or "identity"; with the inverse and the identity predictors are impossible at
            which the mean is negative.
    """

    link, links = LOG, (LOG, INVERSE, SOFTPLUS, IDENTITY)

    def __init__(self, link: Link | str | None = None) -> None:
        self.set_link(link)
        name = self.link.name
        self.scale_texts = (f"{name}(mean(y))", f"{name}'(mean(y)) sd(y)")
        if self.has_default_link:
            self.scale_texts = ("log(mean(y))", "sd(log(y))")
        if self.scaled:
            self.scale_texts = ("mean(y)", "sd(y)")

    def level_and_spread(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """The log of the mean response over that of exp(offset), and the sd of log y - offset, at least 1. With another
        link g it is g(m) and |g'(m)| times the sd of y, m its mean, or m if that is more.
        """
        if not self.has_default_link:
            return self.level_and_spread_of_mean(y, offset, 1.0)
        y = (y if y.dim() == 1 else y.mean(0)).clamp(min=torch.finfo(y.dtype).tiny)
        return y.sum().log() - offset.logsumexp(0), sd(y.log() - offset).clamp(min=1.0)

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor | None:
        """That of log y with the log link; by the slope of another one."""
        return self.log_variance(eta, v) if self.has_default_link else self.variance_by_slope(eta, v, data)

    def log_variance(self, eta: Tensor, v: Values) -> Tensor | None:
        """Var(log y) of a row, `(chains, 1)`; None where it isn't known."""
        return None


class Gamma(Positive):
    """y_i ~ Gamma(shape_y, shape_y / m_i) of mean m_i = exp(eta_i) and variance m_i^2 / shape_y.

    shape_y ~ LogNormal(2, 1.5): a coefficient of variation, 1 / sqrt(shape_y), of 0.08 to 1.6 in 95 %.

    Args:
        link: "log", "inverse", "softplus" or "identity".
    """

    name = "gamma"
    formula = "Gamma(mean exp(eta), shape_y)"
    latents = {"shape_y": Latent(LogNormal(2.0, 1.5))}  # noqa: RUF012

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Distribution:
        """Gamma."""
        over = (-eta).exp() if self.link == LOG else self.link.inverse(eta).reciprocal()  # 1 / m
        return PositiveGamma(v.shape_y, v.shape_y * over)

    def exported(self) -> portable.Portable | None:
        """Gamma."""
        return None if (mean := portable.inverse(self.link)) is None else laws.gamma("shape_y", mean)

    def derivatives(self, y: Tensor, eta: Tensor, v: Values, data: Data) -> Derivatives | None:
        """shape (y / m - 1) and -shape y / m, with the log link."""
        if not self.has_default_link:
            return None
        ratio = v.shape_y * y * (-eta).exp()
        return Derivatives(ratio - v.shape_y, -ratio)

    def log_variance(self, eta: Tensor, v: Values) -> Tensor:
        """trigamma(shape_y) (Nakagawa, Johnson & Schielzeth 2017, table 1)."""
        return torch.polygamma(1, v.shape_y)


class Exponential(Positive):
    """y_i ~ Exponential of mean m_i = exp(eta_i), from 0 on.

    Args:
        link: "log", "inverse", "softplus" or "identity".
    """

    name = "exponential"
    formula = "Exponential(mean exp(eta))"

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Exponential:
        """Exponential."""
        return distributions.Exponential((-eta).exp() if self.link == LOG else self.link.inverse(eta).reciprocal())

    def exported(self) -> portable.Portable | None:
        """Exponential."""
        return None if (mean := portable.inverse(self.link)) is None else laws.exponential(mean)

    def derivatives(self, y: Tensor, eta: Tensor, v: Values, data: Data) -> Derivatives | None:
        """y / m - 1 and -y / m, with the log link."""
        if not self.has_default_link:
            return None
        ratio = y * (-eta).exp()
        return Derivatives(ratio - 1.0, -ratio)

    def log_variance(self, eta: Tensor, v: Values) -> Tensor:
        """pi^2 / 6."""
        return torch.full_like(eta, math.pi**2 / 6.0)


class Weibull(Positive):
    """y_i ~ Weibull of shape shape_y and mean m_i = exp(eta_i), whose scale is m_i / Gamma(1 + 1 / shape_y).

    shape_y ~ LogNormal(0.5, 1): hazards from steeply falling (0.2) to steeply rising (12) in 95 %.

    Args:
        link: "log", "inverse", "softplus" or "identity".
    """

    name = "weibull"
    formula = "Weibull(mean exp(eta), shape_y)"
    latents = {"shape_y": Latent(LogNormal(0.5, 1.0))}  # noqa: RUF012

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Weibull:
        """Weibull."""
        over = torch.lgamma(1.0 + 1.0 / v.shape_y)
        scale = (eta - over).exp() if self.link == LOG else self.link.inverse(eta) * (-over).exp()
        return distributions.Weibull(scale, v.shape_y)

    def exported(self) -> portable.Portable | None:
        """Weibull."""
        return None if (mean := portable.inverse(self.link)) is None else laws.weibull("shape_y", mean)

    def log_variance(self, eta: Tensor, v: Values) -> Tensor:
        """pi^2 / (6 shape_y^2), since log y is a Gumbel number over shape_y."""
        return math.pi**2 / 6.0 / v.shape_y.square()


class InverseGaussian(Positive):
    """y_i ~ InverseGaussian of mean m_i = exp(eta_i) and variance m_i^3 / shape_y.

    shape_y ~ LogNormal(2, 1.5) for responses of mean 1, and in proportion to the mean response of others, since it is
    in units of y: a coefficient of variation at the mean, sqrt(mean / shape_y), of 0.08 to 1.6 in 95 %.

    Args:
        link: "log", "inverse", "softplus" or "identity".
    """

    name = "inverse_gaussian"
    formula = "InverseGaussian(mean exp(eta), shape_y)"
    latents = {"shape_y": Latent(LogNormal(2.0, 1.5))}  # noqa: RUF012
    sizes = ("shape_y",)

    def distribution(self, eta: Tensor, v: Values, data: Data) -> continuous.InverseGaussian:
        """Inverse Gaussian."""
        return continuous.InverseGaussian(self.link.inverse(eta), v.shape_y)

    def exported(self) -> portable.Portable | None:
        """Inverse Gaussian."""
        return None if (mean := portable.inverse(self.link)) is None else laws.inverse_gaussian(mean, "shape_y")

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor | None:
        """log(1 + Var(y) / m^2) with the log link, as if y were lognormal, m = exp(eta + spread / 2) the mean over
        effects (Nakagawa, Johnson & Schielzeth 2017, section 3).
        """
        if not self.has_default_link:
            return self.variance_by_slope(eta, v, data)
        return ((eta + 0.5 * spread).exp() / v.shape_y).log1p()
