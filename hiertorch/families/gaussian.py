"""Normal rows."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Gamma, Normal

from hiertorch.data import admissible
from hiertorch.data.table import Data
from hiertorch.families import laws, portable, rowforms
from hiertorch.families.family import Derivatives, Family, check_column_name, sd, uniform
from hiertorch.families.links import IDENTITY, INVERSE, LOG, Link, slope
from hiertorch.model.latent import Latent, Values


class Gaussian(Family):
    """y_i ~ Normal(eta_i, sigma_y), or Normal(eta_i, se_i) with standard errors that are known; with another link than
    the identity the mean is its inverse of eta_i.

    Args:
        se: the column that holds them.
        link: "identity", "log" or "inverse".
    """

    name = "gaussian"
    formula = "Normal(eta, sigma_y)"
    links = (IDENTITY, LOG, INVERSE)
    latents = {"sigma_y": Latent(Gamma(1.0, 1.0))}  # noqa: RUF012
    scales: tuple[str, ...] = ("sigma_y",)
    scale_texts = ("mean(y)", "sd(y)")

    def __init__(self, se: str | None = None, link: Link | str | None = None) -> None:
        self.se = se
        self.set_link(link)
        if not self.scaled:
            name = self.link.name
            self.scale_texts, self.unit_text = (f"{name}(mean(y))", f"{name}'(mean(y)) sd(y)"), "sd(y)"
        if se is not None:
            check_column_name("se", se)
            self.formula = f"Normal({self.link.mean_text}, {se})"
            self.latents, self.scales, self.columns = {}, (), (se,)

    def distribution(self, eta: Tensor, v: Values, data: Data) -> Normal:
        """Normal."""
        return Normal(eta if self.scaled else self.link.inverse(eta), self._scale(v, data))

    def derivatives(self, y: Tensor, eta: Tensor, v: Values, data: Data) -> Derivatives | None:
        """(y - eta) / s^2 and -1 / s^2, with the identity."""
        if not self.scaled:
            return None
        precision = self._scale(v, data).square().reciprocal()
        first = (y - eta) * precision
        return Derivatives(first, (-precision).expand(first.shape))

    def row_form(self, data: Data) -> rowforms.FamilyForm | None:
        """Normal with sigma_y, or with the standard errors of the rows, and the identity."""
        if not self.scaled:
            return None
        if self.se is None:
            return rowforms.FamilyForm(rowforms.Normal, latents={"scale": "sigma_y"})
        return rowforms.FamilyForm(rowforms.Normal, {"se": data[self.se]})

    def exported(self) -> portable.Portable | None:
        """Normal."""
        if (mean := portable.inverse(self.link)) is None:
            return None
        made = laws.normal(mean, "sigma_y" if self.se is None else portable.column(self.se))
        return made if self.se is None else replace(made, checks=((self.se, "positive"),))

    def typical_row(self, data: Data) -> dict[str, Tensor]:
        """The root mean square of standard errors, whose square is the mean variance."""
        return {name: data[name].square().mean().sqrt() for name in self.columns}

    def check_columns(self, data: Data) -> None:
        """Standard errors are above 0."""
        admissible.positive(data, self.se, "standard errors")

    def draw_columns(self, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Standard errors, uniform on 0.5 to 1.5."""
        return {name: uniform(rows, 0.5, 1.5, generator) for name in self.columns}

    def level_and_spread(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """Mean and sd of y - offset; at least the root mean square of standard errors that are known, beside which
        estimates may happen to agree. With another link g, g(m) and |g'(m)| sd(y), m the mean.
        """
        if not self.scaled:
            level = self.link.forward(y.mean())
            return level - offset.mean(), sd(y) / slope(self.link, level).abs()
        level, spread = super().level_and_spread(y, offset, data)
        if self.se is None:
            return level, spread
        return level, torch.maximum(spread, data[self.se].to(y).square().mean().sqrt())

    def unit_of_scales(self, y: Tensor, offset: Tensor, data: Data) -> Tensor:
        """That of y; with the identity, of y - offset."""
        return super().unit_of_scales(y, offset, data) if self.scaled else sd(y)

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor | None:
        """sigma_y^2, by the slope of another link than the identity."""
        return self.variance(eta, v, data) if self.scaled else self.variance_by_slope(eta, v, data)

    def _scale(self, v: Values, data: Data) -> Tensor:
        return v.sigma_y if self.se is None else data[self.se]
