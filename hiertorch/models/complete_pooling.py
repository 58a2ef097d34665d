"""One line for everybody."""

from collections.abc import Sequence

from torch.distributions import Distribution, Gamma, Normal

from hiertorch.data import Data
from hiertorch.latent import Latent, Values
from hiertorch.model import Model
from hiertorch.models.linear import slopes, with_slopes

__all__ = ["CompletePooling"]


class CompletePooling(Model):
    """y_i ~ Normal(alpha + x_i' beta, sigma_y): groups are ignored.

    alpha ~ Normal(0, 5), beta_k ~ Normal(0, 2), sigma_y ~ Gamma(1, 1).

    Args:
        predictors: names of the columns in x; one coefficient each, `(chains, 1, predictors)`.
    """

    alpha = Latent(Normal(0.0, 5.0))
    sigma_y = Latent(Gamma(1.0, 1.0))

    def __init__(self, predictors: Sequence[str] = ()) -> None:
        super().__init__()
        if len(predictors):
            self.beta = slopes(predictors)
        self.predictors = tuple(predictors)

    def likelihood(self, v: Values, data: Data) -> Distribution:
        """Normal, `(chains, rows)`."""
        return Normal(with_slopes(v.alpha, v, data, self.predictors), v.sigma_y)
