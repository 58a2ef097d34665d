"""What structures with one grouping share: its name, group-level predictors, and predictors whose slopes vary."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.families import Family
from hiertorch.families.portable import codes, column, latent
from hiertorch.model.latent import Values
from hiertorch.models.design import Design
from hiertorch.models.regression import Regression, column_names, predictor


class Grouped(Regression):
    """y_ij ~ family(eta_ij) of row i in group j.

    Args:
        plate: the grouping j.
        predictors: names of columns x.
        varying: those of them whose slopes vary by group; all if left out, in structures whose slopes do.
        group_predictors: names of columns u that are constant within groups, which explain the groups' effects.
        family, offset, priors: see `hiertorch.models.Regression`.
    """

    slopes_vary = False
    slopes_needed = True

    def __init__(
        self,
        plate: str,
        predictors: Sequence[str] = (),
        *,
        varying: Sequence[str] | None = None,
        group_predictors: Sequence[str] = (),
        family: Family | str = "gaussian",
        offset: str | None = None,
        priors: Mapping[str, object] | str | None = "autoscale",
    ) -> None:
        if not isinstance(plate, str):
            raise ModelError(f"plate is the name of a grouping, found {plate!r}.")
        names = column_names("predictors", predictors)
        self.plate = plate
        self.group_predictors = column_names("group_predictors", group_predictors)
        self.varying = names if varying is None and self.slopes_vary else column_names("varying", varying or ())
        if unknown := [name for name in self.varying if name not in names]:
            raise ModelError(f"varying names {unknown[0]!r}, which is none of the predictors {list(names)}.")
        if self.varying and not self.slopes_vary:
            raise ModelError(
                f"slopes do not vary in {type(self).__name__}; take VaryingSlopes, MixedEffects or CorrelatedEffects."
            )
        if self.slopes_vary and self.slopes_needed and not self.varying:
            raise ModelError(
                f"{type(self).__name__} needs a predictor whose slope varies by group: predictors=['x'] (and "
                "varying=['x'] if others do not vary)."
            )
        self.common = tuple(name for name in names if name not in self.varying)
        super().__init__(names, family=family, offset=offset, priors=priors)

    def design(self) -> Design:
        """Predictors, those whose slopes vary, and those of groups."""
        varying = {self.plate: self.varying} if self.varying else {}
        explaining = {self.plate: self.group_predictors} if self.group_predictors else {}
        return replace(super().design(), varying=varying, group_predictors=explaining)

    def by_group(self, v: Values, data: Data, part: int | slice = slice(None)) -> Tensor | float:
        """sum_u gamma_u u_j, `(chains, groups)`; where gamma is a matrix sum_u gamma_ku u_j, `(chains, groups, K)`, or
        a part of it.
        """
        if not self.group_predictors:
            return 0.0
        u = torch.stack([data.group_values(name, self.plate) for name in self.group_predictors], -1)  # (groups, U)
        found = (v.gamma @ u.mT).squeeze(1)  # (chains, groups) or (chains, K, groups)
        return found if found.dim() == 2 else found.mT[..., part]

    def by_slope(self, coefficients: Tensor, data: Data) -> Tensor | float:
        """sum_k b_jk x_ik over the varying predictors, from coefficients of each row `(chains, rows, K)`."""
        return sum((coefficients[..., k] * predictor(data, name) for k, name in enumerate(self.varying)), start=0.0)

    def slopes_exported(self, name: str, first: int = 0) -> str:
        """`by_slope` of a latent's entries from `first` on, in the little language."""
        own = f"at({latent(name)}, {codes(self.plate)})"
        return "".join(f" + entry({own}, {first + k}) * {column(x)}" for k, x in enumerate(self.varying))

    def mean_text(self, mean: str) -> str:
        """A mean of effects with its group-level predictors, for print."""
        return " + ".join([mean, *([f"gamma . ({', '.join(self.group_predictors)})"] if self.group_predictors else [])])
