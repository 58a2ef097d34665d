"""Rows with one long tail."""

from torch import Tensor
from torch.distributions import Gamma, Normal

from hiertorch.data.table import Data
from hiertorch.families import laws, portable
from hiertorch.families.family import Family
from hiertorch.model import continuous
from hiertorch.model.latent import Latent, Values


class SkewNormal(Family):
    """y_i ~ SkewNormal of mean eta_i, sd sigma_y and skewness by alpha_y, 0 of normal rows (Azzalini 1985).

    alpha_y ~ Normal(0, 4), of both signs; beyond 10 a skew normal distribution is half of a normal one.
    """

    name = "skew_normal"
    formula = "SkewNormal(mean eta, sd sigma_y, alpha_y)"
    latents = {"sigma_y": Latent(Gamma(1.0, 1.0)), "alpha_y": Latent(Normal(0.0, 4.0))}  # noqa: RUF012
    scales = ("sigma_y",)
    scale_texts = ("mean(y)", "sd(y)")

    def distribution(self, eta: Tensor, v: Values, data: Data) -> continuous.SkewNormal:
        """Skew normal."""
        return continuous.SkewNormal(eta, v.sigma_y, v.alpha_y)

    def exported(self) -> portable.Portable:
        """Skew normal."""
        return laws.skew_normal("eta", "sigma_y", "alpha_y")
