"""One line for everybody."""

from torch import Tensor
from torch.distributions import Normal

from hiertorch.data.table import Data
from hiertorch.families.portable import latent
from hiertorch.model.latent import Latent, Values
from hiertorch.models.regression import Regression


class CompletePooling(Regression):
    """eta_i = alpha + x_i' beta: groups are ignored.

    Args:
        predictors: names of the columns in x; one coefficient each, `(chains, 1, predictors)`.
        family, offset, priors: see `hiertorch.models.Regression`.
    """

    alpha = Latent(Normal(0.0, 5.0))
    beta = Latent(Normal(0.0, 2.0))

    def build(self) -> None:
        """Coefficients by predictor."""
        self.shape("beta", self.predictors)
        self.eta_text = self.terms("alpha", beta=self.predictors)

    def eta_exported(self) -> str:
        """alpha + x_i' beta."""
        return latent("alpha") + self.shared_exported()

    def eta(self, v: Values, data: Data) -> Tensor:
        """alpha + x_i' beta."""
        return v.alpha + self.shared(v, data)
