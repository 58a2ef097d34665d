"""Rows whose linear predictor is a quantile."""

from torch import Tensor
from torch.distributions import Beta, Gamma

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.families import laws, portable
from hiertorch.families.family import Family
from hiertorch.model import continuous
from hiertorch.model.latent import Latent, Values


class AsymmetricLaplace(Family):
    """y_i ~ AsymmetricLaplace(eta_i, sigma_y, q): eta_i is the q-th quantile of y_i (Yu & Moyeed 2001), in place of the
    mean eta_i + sigma_y (1 - 2 q) / (q (1 - q)).

    Args:
        quantile: q, between 0 and 1, such as 0.9 for a regression of that quantile; None for a latent quantile_y ~
            Beta(1, 1), by which rows are skewed.
    """

    name = "asymmetric_laplace"
    latents = {"sigma_y": Latent(Gamma(1.0, 1.0)), "quantile_y": Latent(Beta(1.0, 1.0))}  # noqa: RUF012
    scales = ("sigma_y",)
    scale_texts = ("mean(y)", "sd(y)")

    def __init__(self, quantile: float | None = 0.5) -> None:
        fixed = isinstance(quantile, int | float) and not isinstance(quantile, bool)
        if quantile is not None and not (fixed and 0.0 < quantile < 1.0):
            raise ModelError(f"quantile is between 0 and 1, or None for one that is learnt; found {quantile!r}.")
        self.quantile = quantile
        self.formula = f"AsymmetricLaplace(eta, sigma_y, {'quantile_y' if quantile is None else f'{quantile:g}'})"
        if quantile is not None:
            self.latents = {"sigma_y": self.latents["sigma_y"]}

    def distribution(self, eta: Tensor, v: Values, data: Data) -> continuous.AsymmetricLaplace:
        """Asymmetric Laplace."""
        return continuous.AsymmetricLaplace(eta, v.sigma_y, v.quantile_y if self.quantile is None else self.quantile)

    def exported(self) -> portable.Portable:
        """Asymmetric Laplace."""
        return laws.asymmetric_laplace(
            "eta", "sigma_y", "quantile_y" if self.quantile is None else repr(float(self.quantile))
        )

    def __repr__(self) -> str:
        return f"AsymmetricLaplace({self.quantile})"
