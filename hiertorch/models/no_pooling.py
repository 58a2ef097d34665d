"""A line for every group by itself."""

from torch import Tensor
from torch.distributions import Normal

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.families.portable import codes, latent
from hiertorch.model.latent import Latent, Values
from hiertorch.models.grouped import Grouped


class NoPooling(Grouped):
    """eta_ij = alpha_j + x_ij' beta_j: groups learn nothing from one another (but share the spread of rows). Each
    effect has a prior by itself, without a population.

    Args:
        plate: the grouping j.
        predictors: names of the columns in x; one coefficient each in every group, `(chains, groups, predictors)`.
        varying: those whose slopes differ by group, all if left out; the others have one slope, `beta_shared`.
        family, offset, priors: see `hiertorch.models.Regression`.
    """

    alpha = Latent(Normal(0.0, 5.0))
    beta = Latent(Normal(0.0, 2.0))
    beta_shared = Latent(Normal(0.0, 2.0))
    slopes_vary = True
    slopes_needed = False

    def build(self) -> None:
        """All by group."""
        if self.group_predictors:
            raise ModelError(
                "NoPooling has no population of groups that group_predictors could explain; leave them out."
            )
        self.shape("alpha", plate=self.plate)
        self.shape("beta", self.varying, self.plate)
        self.shape("beta_shared", self.common)
        slopes = {f"beta[{self.plate}]": self.varying, "beta_shared": self.common}
        self.eta_text = self.terms(f"alpha[{self.plate}]", **slopes)

    def eta_exported(self) -> str:
        """alpha_j + x_ij' beta_j."""
        shared = self.shared_exported("beta_shared", self.common)
        return f"at({latent('alpha')}, {codes(self.plate)})" + shared + self.slopes_exported("beta")

    def eta(self, v: Values, data: Data) -> Tensor:
        """alpha_j + x_ij' beta_j."""
        group = data[self.plate]
        eta = v.alpha[:, group] + self.shared(v, data, "beta_shared", self.common)
        return eta + self.by_slope(v.beta[:, group], data) if self.varying else eta
