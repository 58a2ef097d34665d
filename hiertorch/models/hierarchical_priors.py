"""Varying intercepts whose scales have priors that are learnt, too."""

from torch.distributions import Distribution, Gamma

from hiertorch.model.latent import Latent, Values
from hiertorch.models.varying_intercepts import VaryingIntercepts


def _of_groups(v: Values) -> Distribution:
    """Of sigma_alpha; a function with a name, so that models can be pickled."""
    return Gamma(2.0, v.lambda_alpha)


def _of_rows(v: Values) -> Distribution:
    """Of sigma_y."""
    return Gamma(2.0, v.lambda_y)


class HierarchicalPriors(VaryingIntercepts):
    """As `VaryingIntercepts`, with sigma_alpha ~ Gamma(2, lambda_alpha), sigma_y ~ Gamma(2, lambda_y) and
    lambda_alpha, lambda_y ~ Gamma(1, sd(y)); with `priors="tutorial"` Gamma(1, 1).

    Args:
        plate: the grouping j.
        predictors: names of the columns in x; one coefficient each, `(chains, 1, predictors)`.
        group_predictors: names of columns u that are constant within groups.
        family, offset, priors: see `hiertorch.models.Regression`.
    """

    lambda_alpha = Latent(Gamma(1.0, 1.0))
    sigma_alpha = Latent(_of_groups)
    lambda_y = Latent(Gamma(1.0, 1.0))
    sigma_y = Latent(_of_rows)

    def build(self) -> None:
        """Intercepts by group."""
        super().build()
        self.texts["sigma_alpha"] = "Gamma(2, lambda_alpha)"
        if "sigma_y" in self.latents:
            self.texts["sigma_y"] = "Gamma(2, lambda_y)"
        else:  # the family has no scale
            self.drop("lambda_y")
