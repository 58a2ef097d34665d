"""Priors of a formula's latents: as wide as the data ask for.

With m and s the level and spread of the linear predictor that the response tells, and mean_k and s_k those of a column
(`hiertorch.models.autoscale`):

    mu ~ Normal(m, 2.5 s |1, a|),  a_k = mean_k / s_k of the common columns,   beta_k ~ Normal(0, 2.5 s / s_k),
    sigma_g[Intercept] ~ HalfStudentT(4, s |1, a|), a of the grouping's other columns,   sigma_g[k] ~ HalfStudentT(4,
    s / s_k).

Without a common intercept the level is what coefficients have to make. Where columns make up a constant, X c = 1, as
those of all levels of a factor do, beta_k ~ Normal(m c_k, 2.5 s / s_k), whose sd has the factor |1, a| of the columns
with c = 0 where c_k is not 0; else s is sqrt(s^2 + m^2).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from hiertorch.data.table import Data
from hiertorch.families import Family
from hiertorch.formulas.encoding import INTERCEPT
from hiertorch.model.distributions import HalfStudentT
from hiertorch.model.latent import Values
from hiertorch.model.ordering import Ordered
from hiertorch.models.autoscale import DF, SHARE, WIDE, response_scale, response_size

LEVELS = ("intercept", "thresholds", "ordered thresholds")
"""Roles of what stands at the level of eta."""


@dataclass(frozen=True, eq=False)
class Unit:
    """Level and spread of a linear predictor, as the response tells.

    Attributes:
        family: of the rows; of several predictors, that of the one (`Family.of_parameter`).
        offset: the data's column that is added to the predictor.
        latent: of the family, whose predictor it is, such as "sigma_y"; None for that of the mean.
        intercept: whether all rows share one; without, the level is part of what coefficients have to make.
        column: the data's column of the designs that all rows share, if there are any.
    """

    family: Family
    offset: str | None
    latent: str | None
    intercept: bool
    column: str | None = None

    def constant(self, data: Data) -> Tensor | None:
        """c of columns `(K,)` that make up a constant in place of an intercept; None if they don't, or there is one."""
        return None if self.intercept or self.column is None else constant_of(data, self.column)

    def of(self, data: Data) -> tuple[Tensor, Tensor]:
        """Both, `()` each. Another parameter than the mean has a predictor on the scale of a logarithm or of log odds,
        whose unit is 1, and a scale of y is at the spread of y.
        """
        if self.latent is None:
            level, spread, _ = response_scale(data, self.family, self.offset)
        else:
            level, spread = data.y.new_zeros(()), data.y.new_ones(())
            if self.latent in self.family.scales:
                level = response_scale(data, self.family)[2].log()
            elif self.latent in self.family.sizes:
                level = response_size(data, self.family).log()
        leveled = self.intercept or self.constant(data) is not None
        return level, spread if leveled else torch.hypot(level, spread)

    @property
    def texts(self) -> tuple[str, str]:
        """In words."""
        if self.latent is None:
            return self.family.scale_texts
        if self.latent in self.family.scales:
            return f"log({self.family.unit_text or self.family.scale_texts[1]})", "1"
        return "log(mean(y))" if self.latent in self.family.sizes else "0", "1"


@dataclass(frozen=True, eq=False)
class Following:
    """The prior of a latent that follows the data.

    Attributes:
        role: "intercept", "coefficient", "scale", or "thresholds" and "ordered thresholds" in place of an intercept.
        column: the data's column of the designs that its entries multiply, or that stand beside it.
        labels: of the designs.
        units: of each entry's predictor, or of the intercept's.
    """

    role: str
    column: str | None
    labels: tuple[str, ...]
    units: tuple[Unit, ...]

    def __call__(self, v: Values, data: Data) -> Distribution:
        """Independent over the entries; of an intercept a scalar."""
        place, width = self.numbers(data)
        made: Distribution = HalfStudentT(DF, width) if self.role == "scale" else Normal(place, WIDE * width)
        if self.role == "ordered thresholds":
            return Ordered(made, len(self.labels))
        if self.role == "thresholds":
            return Independent(made.expand(torch.Size([len(self.labels)])), 1)
        return Independent(made, 1) if width.dim() else made

    @property
    def key(self) -> str:
        """Of its numbers, among those that data keep."""
        return repr((self.role, self.column, [(unit.latent, unit.intercept, unit.family) for unit in self.units]))

    def numbers(self, data: Data) -> Tensor:
        """Centre and width of every entry, `(2, entries)`, or `(2,)` of an intercept."""
        return data.computed_once(("response", "formula", self.key), self._numbers)

    def _numbers(self, data: Data) -> Tensor:
        scales = column_scales(data, self.column) if self.column else None
        ratio = data.y.new_zeros(()) if scales is None else scales[0].square().sum()
        if self.role in LEVELS:
            level, spread = self.units[0].of(data)
            return torch.stack([level, spread * (1 + ratio).sqrt()])
        assert scales is not None
        width = torch.stack(
            [
                unit.of(data)[1] * ((1 + ratio).sqrt() if label.endswith(INTERCEPT) else 1 / scale)
                for label, scale, unit in zip(self.labels, scales[1], self.units, strict=True)
            ]
        )
        constant = self.units[0].constant(data) if self.role == "coefficient" else None
        if constant is None:
            return torch.stack([torch.zeros_like(width), width])
        beside = scales[0][constant == 0].square().sum()
        place = self.units[0].of(data)[0] * constant
        return torch.stack([place, torch.where(constant == 0, width, width * (1 + beside).sqrt())])

    @property
    def text(self) -> str:
        """For print."""
        level, spread = self.units[0].texts
        factors = [spread] if spread != "1" else []
        if self.role in LEVELS:
            beside = ["|1, mean(x) / sd(x)|"] if self.column else []
            each = f"Normal({level}, {' '.join([f'{WIDE:g}', *factors, *beside])})"
            return f"ordered({each}, {len(self.labels)})" if self.role == "ordered thresholds" else each
        slopes = any(not label.endswith(INTERCEPT) for label in self.labels)
        over = " / sd(x)" if slopes else ""
        if self.role == "scale":
            return f"HalfStudentT({DF:g}, {' '.join(factors) or '1'}{over})"
        place = "0" if self.units[0].intercept or level == "0" else f"0, or {level} of cells"
        return f"Normal({place}, {' '.join([f'{WIDE:g}', *factors])}{over})"


def column_scales(data: Data, name: str) -> Tensor:
    """mean / scale and scale of the columns of a matrix `(rows, K)`, `(2, K)`: the scale is the sd, or a fifth of the
    range if that is more; of a constant column its size, and its ratio is then 0, since it is no column beside others.
    """

    def numbers(data: Data) -> Tensor:
        x = data.whole_data[name].double()
        low, high = x.aminmax(dim=0)
        sd = x.std(0, correction=min(1, len(x) - 1))
        size = torch.where(low == 0, torch.ones_like(low), low.abs())
        varies = high > low
        scale = torch.where(varies, torch.maximum(sd, SHARE * (high - low)), size)
        return torch.stack([torch.where(varies, x.mean(0) / scale, 0.0), scale]).to(data.y)

    return data.computed_once(("column", name, "formula"), numbers)


def constant_of(data: Data, name: str) -> Tensor | None:
    """c `(K,)` of the columns of a matrix `(rows, K)` with X c = 1 in all rows, the shortest; None if there is none."""

    def numbers(data: Data) -> Tensor:
        x = data.whole_data[name].double()
        size = x.square().sum(0).sqrt().clamp(min=torch.finfo(x.dtype).tiny)
        scaled = x / size
        found = torch.linalg.pinv(scaled.mT @ scaled, hermitian=True, rtol=1e-10) @ scaled.sum(0)
        found = torch.where(found.abs() < 1e-7 * found.abs().max(), 0.0, found) / size
        gap = (x @ found - 1).abs().max()
        return torch.where(gap < 1e-6, found, torch.nan).to(data.y)

    found = data.computed_once(("column", name, "constant"), numbers)
    return None if bool(found.isnan().any()) else found
