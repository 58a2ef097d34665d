"""Slopes that vary by group: beside one intercept, beside intercepts by group, or together with these."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, Independent, LKJCholesky, MultivariateNormal, Normal, Uniform

from hiertorch.arguments import check_choice
from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.families.portable import codes, dotted, latent
from hiertorch.model.latent import Derived, Latent, Values
from hiertorch.models.design import Population
from hiertorch.models.grouped import Grouped

CONCENTRATION = 2.0
"""Of the LKJ prior: 2 keeps a little away from correlations of -1 and 1 (Stan user's guide, section 1.13)."""


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

    def eta_exported(self) -> str:
        """alpha + x_ij' beta_j."""
        return latent("alpha") + self.shared_exported("beta_shared", self.common) + self.slopes_exported("beta")

    def populations(self, data: Data) -> dict[str, Population]:
        """Of beta."""
        return {"beta": Population(latent("mu_beta") + dotted("gamma", self.group_predictors), latent("sigma_beta"))}

    def eta(self, v: Values, data: Data) -> Tensor:
        """alpha + x_ij' beta_j."""
        slopes = self.by_slope(v.beta[:, data[self.plate]], data)
        return v.alpha + self.shared(v, data, "beta_shared", self.common) + slopes


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

    def eta_exported(self) -> str:
        """alpha_j + x_ij' beta_j."""
        alpha = f"at({latent('alpha')}, {codes(self.plate)})"
        return alpha + self.shared_exported("beta_shared", self.common) + self.slopes_exported("beta")

    def populations(self, data: Data) -> dict[str, Population]:
        """Of alpha and beta."""
        more = dotted("gamma", self.group_predictors)
        alpha = latent("mu_alpha") + (f" + entry({more[3:]}, 0)" if more else "")
        beta = latent("mu_beta") + (f" + rest({more[3:]}, 1)" if more else "")
        return {
            "alpha": Population(alpha, latent("sigma_alpha")),
            "beta": Population(beta, latent("sigma_beta")),
        }

    def eta(self, v: Values, data: Data) -> Tensor:
        """alpha_j + x_ij' beta_j."""
        group = data[self.plate]
        intercept = v.alpha[:, group] + self.shared(v, data, "beta_shared", self.common)
        return intercept + self.by_slope(v.beta[:, group], data)


class CorrelatedEffects(MixedEffects):
    """eta_ij = (1, x_ij)' e_j,  e_j = (alpha_j, beta_j) ~ MultivariateNormal(mu + Gamma u_j, D L L' D),
    mu = (mu_alpha, mu_beta), D = diag(sigma_alpha, sigma_beta), L L' a correlation matrix.

    L ~ LKJCholesky(K, 2) (Gelman & Hill 2007, section 13.3; Lewandowski et al. 2009). `rho`, the correlations of each
    pair of effects, is in the posterior.

    Args:
        plate: the grouping j.
        predictors: names of the columns in x.
        varying: those whose slopes vary, all if left out: `effects` `(chains, groups, K)` with the intercept first; the
            others have one slope, `beta_shared`.
        group_predictors: names of columns u that are constant within groups, which explain intercepts and slopes.
        correlation: "lkj", or "uniform" for rho ~ Uniform(-0.9, 0.9), with one varying slope.
        family, offset, priors: see `hiertorch.models.Regression`.
    """

    def __init__(
        self,
        plate: str,
        predictors: Sequence[str] = (),
        *,
        correlation: Literal["lkj", "uniform"] = "lkj",
        **options: Any,
    ) -> None:
        check_choice("correlation", correlation, ("lkj", "uniform"), ModelError)
        self.correlation = correlation
        super().__init__(plate, predictors, **options)

    def build(self) -> None:
        """Vectors of effects by group."""
        every = ["intercept", *self.varying]
        self.population()
        pairs = [f"{a}~{b}" for a, b in combinations(every, 2)]
        if self.correlation == "lkj":
            self.add("L", LKJCholesky(len(every), CONCENTRATION))
            self.rho = Derived(_correlations, labels=pairs)
        elif len(every) == 2:
            self.add("rho", Uniform(-0.9, 0.9))
        else:
            raise ModelError(
                f'correlation="uniform" is for an intercept and one slope, found {len(every)} effects: uniform '
                'correlations of three would not be a correlation matrix. Take "lkj".'
            )
        mean = self.mean_text("(mu_alpha, mu_beta)")
        root = "L" if self.correlation == "lkj" else "L(rho)"
        text = f"MultivariateNormal({mean}, D {root} {root}' D), D = diag(sigma_alpha, sigma_beta)"
        self.add("effects", self.vectors, self.plate, [every], text)
        slopes = {f"effects[{self.plate}]": ["1", *self.varying], "beta_shared": self.common}
        self.eta_text = self.terms(**slopes)

    def vectors(self, v: Values, data: Data) -> Distribution:
        """Prior of effects, `(chains, groups)` of vectors `(K,)`."""
        mean = torch.cat([v.mu_alpha.unsqueeze(-1), v.mu_beta], -1) + self.by_group(v, data)
        scale = torch.cat([v.sigma_alpha.unsqueeze(-1), v.sigma_beta], -1)
        if self.correlation == "lkj":
            root = v.L
        else:
            one, zero = torch.ones_like(v.rho), torch.zeros_like(v.rho)
            rows = [one, zero, v.rho, (1.0 - v.rho.square()).sqrt()]
            root = torch.stack(rows, -1).unflatten(-1, (2, 2))
        return MultivariateNormal(mean, scale_tril=scale.unsqueeze(-1) * root)

    def eta_exported(self) -> str:
        """(1, x_ij)' e_j."""
        alpha = f"entry(at({latent('effects')}, {codes(self.plate)}), 0)"
        return alpha + self.shared_exported("beta_shared", self.common) + self.slopes_exported("effects", 1)

    def populations(self, data: Data) -> dict[str, Population]:
        """Of the vectors of effects."""
        mean, scale = (f"joined({latent(f'{one}_alpha')}, {latent(f'{one}_beta')})" for one in ("mu", "sigma"))
        root = latent("L") if self.correlation == "lkj" else f"pair({latent('rho')})"
        return {"effects": Population(mean + dotted("gamma", self.group_predictors), scale, root)}

    def eta(self, v: Values, data: Data) -> Tensor:
        """(1, x_ij)' e_j."""
        effects = v.effects[:, data[self.plate]]  # (chains, rows, K)
        shared = self.shared(v, data, "beta_shared", self.common)
        return effects[..., 0] + self.by_slope(effects[..., 1:], data) + shared


def _correlations(v: Values) -> Tensor:
    """The correlations below the diagonal of L L', column by column: `(chains, 1, pairs)`."""
    matrix = v.L @ v.L.mT
    a, b = torch.triu_indices(matrix.shape[-1], matrix.shape[-1], 1, device=matrix.device)
    return matrix[..., b, a]
