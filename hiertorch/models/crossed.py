"""Groupings that do not nest: every rating is of one lecturer by one student."""

from dataclasses import replace

from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.model.latent import Values
from hiertorch.models.design import Design
from hiertorch.models.nested import Nested


class Crossed(Nested):
    """eta_i = mu + sum over groupings p of alpha_p[g_p[i]] + x_i' beta,  alpha_p ~ Normal(u' gamma_p, sigma_p)
    (Gelman & Hill 2007, section 13.5).

    Args:
        plates: the groupings, two or more, in any order: latents `alpha_student`, `sigma_student` and so on.
        predictors: names of the columns in x; one coefficient each, `(chains, 1, predictors)`.
        group_predictors: plate -> names of columns that are constant within its groups, whose coefficients are
            `gamma_student` and so on.
        family, offset, priors: see `hiertorch.models.Regression`.
    """

    def build(self) -> None:
        """Levels side by side."""
        super().build()
        self.eta_text = self.terms("mu", *(f"alpha_{plate}[{plate}]" for plate in self.plates), beta=self.predictors)

    def design(self) -> Design:
        """No grouping nests in another."""
        return replace(super().design(), nested=())

    def around(self, plate: str) -> str | None:
        """Nothing: mu stands in eta."""
        return None

    def eta(self, v: Values, data: Data) -> Tensor:
        """mu + effects + x_i' beta."""
        effects = [v[f"alpha_{plate}"][:, data[plate]] for plate in self.plates]
        return sum(effects, start=v.mu) + self.shared(v, data)
