"""Continuous shares, between 0 and 1."""

from torch import Tensor, distributions

from hiertorch.data.table import Data
from hiertorch.families import laws, portable
from hiertorch.families.successes import Successes
from hiertorch.model.continuous import OpenBeta
from hiertorch.model.latent import Latent, Values


class Beta(Successes):
    """y_i ~ Beta(m_i phi_y, (1 - m_i) phi_y) of mean m_i, logit(m_i) = eta_i, and variance m_i (1 - m_i) / (1 + phi_y)
    (Ferrari & Cribari-Neto 2004).

    phi_y ~ LogNormal(2, 1.5): an sd of 0.04 to 0.42 around a mean of 1 / 2 in 95 %.

    Args:
        link: "logit", "probit" or "cloglog".
    """

    name = "beta"
    formula = "Beta(mean logit^-1(eta), phi_y)"
    latents = {"phi_y": Latent(distributions.LogNormal(2.0, 1.5))}  # noqa: RUF012

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Distribution:
        """Beta."""
        odds = self.log_odds(eta)
        return OpenBeta(v.phi_y * odds.sigmoid(), v.phi_y * (-odds).sigmoid())

    def derivatives(self, y: Tensor, eta: Tensor, v: Values, data: Data) -> None:
        """Left to autograd."""

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor | None:
        """Of y, by the slope of the link: shares are no outcomes of a latent one."""
        return self.variance_by_slope(eta, v, data)

    def exported(self) -> portable.Portable:
        """Beta."""
        mean, rest = portable.probabilities(self.link)
        return laws.beta(mean, rest, "phi_y")
