"""Every group has slopes of its own and all share an intercept."""

from torch import Tensor
from torch.distributions import Distribution, Gamma, Independent, Normal

from hiertorch.data.table import Data
from hiertorch.model.latent import Latent, Values
from hiertorch.models.grouped import Grouped


class VaryingSlopes(Grouped):
    """eta_ij = alpha + x_ij' beta_j,  beta_jk ~ Normal(mu_beta_k + u_j' gamma_k, sigma_beta_k) (Gelman & Hill
    2007, section 13.1).

    Args:
        plate: the grouping j.
        predictors: names of the columns in x.
        varying: those whose slopes vary, all if left out: `beta` `(chains, groups, K)`; the others have one slope,
            `beta_shared`.
        group_predictors: names of columns u that are constant within groups, which explain slopes.
        family, offset, priors: see `hiertorch.models.Regression`.
    """

    alpha = Latent(Normal(0.0, 5.0))
    mu_beta = Latent(Normal(0.0, 2.0))
    sigma_beta = Latent(Gamma(1.0, 1.0))
    beta_shared = Latent(Normal(0.0, 2.0))
    gamma = Latent(Normal(0.0, 2.0))
    slopes_vary = True

    def build(self) -> None:
        """Slopes by group."""
        self.shape("mu_beta", self.varying)
        self.shape("sigma_beta", self.varying)
        self.shape("beta_shared", self.common)
        self.shape("gamma", [list(self.varying), list(self.group_predictors)])
        text = f"Normal({self.mean_text('mu_beta')}, sigma_beta)"
        self.add("beta", self.slopes, self.plate, [self.varying], text)
        self.eta_text = self.terms("alpha", **{f"beta[{self.plate}]": self.varying, "beta_shared": self.common})

    def slopes(self, v: Values, data: Data) -> Distribution:
        """Prior of beta, `(chains, groups)` of vectors `(K,)`."""
        return Independent(Normal(v.mu_beta + self.by_group(v, data), v.sigma_beta), 1)

    def eta(self, v: Values, data: Data) -> Tensor:
        """alpha + x_ij' beta_j."""
        slopes = self.by_slope(v.beta[:, data[self.plate]], data)
        return v.alpha + self.shared(v, data, "beta_shared", self.common) + slopes
