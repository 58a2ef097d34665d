"""Rows whose logarithm is normal."""

import torch
from torch import Tensor, distributions
from torch.distributions import Gamma

from hiertorch.data.table import Data
from hiertorch.families import laws, portable
from hiertorch.families.family import Derivatives, Family, sd
from hiertorch.families.links import LOG
from hiertorch.model.latent import Latent, Values


class LogNormal(Family):
    """log y_i ~ Normal(eta_i, sigma_y): the link is from the median, exp(eta_i), beside the mean exp(eta_i +
    sigma_y^2 / 2).
    """

    name = "lognormal"
    formula = "LogNormal(eta, sigma_y)"
    link, links = LOG, (LOG,)
    latents = {"sigma_y": Latent(Gamma(1.0, 1.0))}  # noqa: RUF012
    scales = ("sigma_y",)
    scale_texts = ("mean(log(y))", "sd(log(y))")

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.LogNormal:
        """Lognormal."""
        return distributions.LogNormal(eta, v.sigma_y)

    def derivatives(self, y: Tensor, eta: Tensor, v: Values, data: Data) -> Derivatives:
        """(log y - eta) / s^2 and -1 / s^2."""
        precision = v.sigma_y.square().reciprocal()
        first = (y.log() - eta) * precision
        return Derivatives(first, (-precision).expand(first.shape))

    def exported(self) -> portable.Portable:
        """Lognormal."""
        return laws.lognormal("eta", "sigma_y")

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor:
        """sigma_y^2."""
        return v.sigma_y.square()

    def level_and_spread(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """Mean and sd of log y - offset."""
        logs = y.clamp(min=torch.finfo(y.dtype).tiny).log() - offset
        return logs.mean(), sd(logs)
