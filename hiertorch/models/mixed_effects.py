"""Intercepts and slopes both vary, and know nothing of each other."""

from torch import Tensor
from torch.distributions import Distribution, Gamma, Independent, Normal

from hiertorch.data.table import Data
from hiertorch.model.latent import Latent, Values
from hiertorch.models.grouped import Grouped


class MixedEffects(Grouped):
    """eta_ij = alpha_j + x_ij' beta_j,  alpha_j ~ Normal(mu_alpha + u_j' gamma_0, sigma_alpha),
    beta_jk ~ Normal(mu_beta_k + u_j' gamma_k, sigma_beta_k) (Gelman & Hill 2007, section 13.1).

    Args:
        plate: the grouping j.
        predictors: names of the columns in x.
        varying: those whose slopes vary, all if left out: `beta` `(chains, groups, K)`; the others have one slope,
            `beta_shared`.
        group_predictors: names of columns u that are constant within groups, which explain intercepts and slopes.
        family, offset, priors: see `hiertorch.models.Regression`.
    """

    mu_alpha = Latent(Normal(0.0, 5.0))
    mu_beta = Latent(Normal(0.0, 2.0))
    sigma_alpha = Latent(Gamma(1.0, 1.0))
    sigma_beta = Latent(Gamma(1.0, 1.0))
    beta_shared = Latent(Normal(0.0, 2.0))
    gamma = Latent(Normal(0.0, 2.0))
    slopes_vary = True

    def build(self) -> None:
        """Intercepts and slopes by group."""
        self.population()
        self.add("alpha", self.intercepts, self.plate, text=f"Normal({self.mean_text('mu_alpha')}, sigma_alpha)")
        text = f"Normal({self.mean_text('mu_beta')}, sigma_beta)"
        self.add("beta", self.slopes, self.plate, [self.varying], text)
        slopes = {f"beta[{self.plate}]": self.varying, "beta_shared": self.common}
        self.eta_text = self.terms(f"alpha[{self.plate}]", **slopes)

    def population(self) -> None:
        """What groups share: means and scales of their effects, and coefficients."""
        self.shape("mu_beta", self.varying)
        self.shape("sigma_beta", self.varying)
        self.shape("beta_shared", self.common)
        self.shape("gamma", [["intercept", *self.varying], list(self.group_predictors)])

    def intercepts(self, v: Values, data: Data) -> Distribution:
        """Prior of alpha, `(chains, groups)`."""
        return Normal(v.mu_alpha + self.by_group(v, data, 0), v.sigma_alpha)

    def slopes(self, v: Values, data: Data) -> Distribution:
        """Prior of beta, `(chains, groups)` of vectors `(K,)`."""
        return Independent(Normal(v.mu_beta + self.by_group(v, data, slice(1, None)), v.sigma_beta), 1)

    def eta(self, v: Values, data: Data) -> Tensor:
        """alpha_j + x_ij' beta_j."""
        group = data[self.plate]
        intercept = v.alpha[:, group] + self.shared(v, data, "beta_shared", self.common)
        return intercept + self.by_slope(v.beta[:, group], data)
