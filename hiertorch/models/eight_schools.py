"""A meta-analysis: one estimate for each group, with a standard error that is known."""

from torch import Tensor
from torch.distributions import Distribution, Gamma, Normal

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.families import Gaussian
from hiertorch.families.portable import codes, latent
from hiertorch.model.latent import Latent, Values
from hiertorch.models.design import Design, Designed, Exported, Population


class EightSchools(Designed):
    """y_j ~ Normal(theta_j, se_j),  theta_j ~ Normal(mu, tau): se_j is a column of the data (Rubin 1981; Gelman et al.
    2013, section 5.5).

    mu ~ Normal(0, 10), tau ~ Gamma(1, 0.1) (mean 10): fixed, for effects of some ten units. Where the data are far from
    that a warning says so: replace the priors in a subclass, or take `VaryingIntercepts(plate,
    family=ht.families.Gaussian(se))`, the same model with priors that the data choose.

    Args:
        plate: the grouping j, one row each or more.
        se: the column that holds the standard errors.
    """

    mu = Latent(Normal(0.0, 10.0))
    tau = Latent(Gamma(1.0, 0.1))

    def __init__(self, plate: str = "school", se: str = "se") -> None:
        super().__init__()
        if not isinstance(plate, str) or not isinstance(se, str):
            raise ModelError(f"plate and se are the names of a grouping and of a column, found {plate!r} and {se!r}.")
        self.plate, self.se = plate, se
        self.theta = Latent(_population, plate=plate)

    def likelihood(self, v: Values, data: Data) -> Distribution:
        """Normal, `(chains, rows)`."""
        return Normal(self.linear_predictor(v, data), data[self.se])

    def linear_predictor(self, v: Values, data: Data) -> Tensor:
        """theta_j."""
        return v.theta[:, data[self.plate]]

    def exported(self, data: Data) -> Exported:
        """theta_j."""
        eta = f"at({latent('theta')}, {codes(self.plate)})"
        return Exported({"eta": eta}, {"theta": Population(latent("mu"), latent("tau"))})

    def design(self) -> Design:
        """Known standard errors."""
        return Design(Gaussian(self.se))


def _population(v: Values) -> Distribution:
    """Of the effects; a function with a name, so that models can be pickled."""
    return Normal(v.mu, v.tau)
