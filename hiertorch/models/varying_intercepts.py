"""Every group has a level of its own, drawn from a population whose scale may have a learnt prior."""

from torch import Tensor
from torch.distributions import Distribution, Gamma, Normal

from hiertorch.data.table import Data
from hiertorch.families.portable import codes, dotted, latent
from hiertorch.model.latent import Latent, Values
from hiertorch.models.design import Population
from hiertorch.models.grouped import Grouped


class VaryingIntercepts(Grouped):
    """eta_ij = alpha_j + x_ij' beta,  alpha_j ~ Normal(mu_alpha + u_j' gamma, sigma_alpha): partial pooling (Gelman &
    Hill 2007, chapter 12; group-level predictors u: section 12.6).

    Args:
        plate: the grouping j.
        predictors: names of the columns in x; one coefficient each, `(chains, 1, predictors)`.
        group_predictors: names of columns u that are constant within groups.
        family, offset, priors: see `hiertorch.models.Regression`.
    """

    mu_alpha = Latent(Normal(0.0, 5.0))
    sigma_alpha = Latent(Gamma(1.0, 1.0))
    beta = Latent(Normal(0.0, 2.0))
    gamma = Latent(Normal(0.0, 2.0))

    def build(self) -> None:
        """Intercepts by group."""
        self.shape("beta", self.predictors)
        self.shape("gamma", self.group_predictors)
        text = f"Normal({self.mean_text('mu_alpha')}, sigma_alpha)"
        self.add("alpha", self.intercepts, self.plate, text=text)
        self.eta_text = self.terms(f"alpha[{self.plate}]", beta=self.predictors)

    def intercepts(self, v: Values, data: Data) -> Distribution:
        """Prior of alpha, `(chains, groups)`."""
        return Normal(v.mu_alpha + self.by_group(v, data), v.sigma_alpha)

    def eta_exported(self) -> str:
        """alpha_j + x_ij' beta."""
        return f"at({latent('alpha')}, {codes(self.plate)})" + self.shared_exported()

    def populations(self, data: Data) -> dict[str, Population]:
        """Of alpha."""
        mean = latent("mu_alpha") + dotted("gamma", self.group_predictors)
        return {"alpha": Population(mean, latent("sigma_alpha"))}

    def eta(self, v: Values, data: Data) -> Tensor:
        """alpha_j + x_ij' beta."""
        return v.alpha[:, data[self.plate]] + self.shared(v, data)


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
