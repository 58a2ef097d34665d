"""Every group has a level of its own, drawn from a population of levels."""

from collections.abc import Sequence

from torch.distributions import Distribution, Gamma, Normal

from hiertorch.data import Data
from hiertorch.latent import Latent, Values
from hiertorch.model import Model
from hiertorch.models.linear import slopes, with_slopes

__all__ = ["VaryingIntercepts"]


class VaryingIntercepts(Model):
    """y_ij ~ Normal(alpha_j + x_ij' beta, sigma_y),  alpha_j ~ Normal(mu_alpha, sigma_alpha): partial pooling.

    mu_alpha ~ Normal(0, 5), beta_k ~ Normal(0, 2), sigma_alpha and sigma_y ~ Gamma(1, 1) (Gelman & Hill 2007, chapter
    12).

    Args:
        plate: the grouping j.
        predictors: names of the columns in x; one coefficient each, `(chains, 1, predictors)`.
    """

    mu_alpha = Latent(Normal(0.0, 5.0))
    sigma_alpha = Latent(Gamma(1.0, 1.0))
    sigma_y = Latent(Gamma(1.0, 1.0))

    def __init__(self, plate: str, predictors: Sequence[str] = ()) -> None:
        super().__init__()
        self.plate = plate
        if len(predictors):
            self.beta = slopes(predictors)
        self.predictors = tuple(predictors)
        self.alpha = Latent(lambda v: Normal(v.mu_alpha, v.sigma_alpha), plate=plate)

    def likelihood(self, v: Values, data: Data) -> Distribution:
        """Normal, `(chains, rows)`."""
        return Normal(with_slopes(v.alpha[:, data[self.plate]], v, data, self.predictors), v.sigma_y)
