"""Priors of a formula's latents: as wide as the data ask for, and entry by entry what a user gives.

With m and s the level and spread of the linear predictor that the response tells, and mean_k and s_k those of a column
(`hiertorch.models.autoscale`):

    mu ~ Normal(m, 2.5 s |1, a|),  a_k = mean_k / s_k of the common columns,   beta_k ~ Normal(0, 2.5 s / s_k),
    sigma_g[Intercept] ~ HalfStudentT(4, s |1, a|), a of the grouping's other columns,   sigma_g[k] ~ HalfStudentT(4,
    s / s_k).

Without a common intercept the level is part of what coefficients have to make, and s is sqrt(s^2 + m^2).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.families import Family
from hiertorch.formulas.encoding import INTERCEPT
from hiertorch.model.distributions import EntryWise, HalfStudentT
from hiertorch.model.latent import Values
from hiertorch.models.autoscale import DF, SHARE, WIDE, response_scale
from hiertorch.models.regression import parsed
from hiertorch.wording import closest, listed

KEY = re.compile(r"(?P<name>[^\[\]]+)(?:\[(?P<entry>.+)\])?")


@dataclass(frozen=True, eq=False)
class Unit:
    """Level and spread of a linear predictor, as the response tells.

    Attributes:
        family: of the rows.
        offset: the data's column that is added to the predictor.
        latent: of the family, whose predictor it is, such as "sigma_y"; None for that of the mean.
        intercept: whether all rows share one; without, the level is part of what coefficients have to make.
    """

    family: Family
    offset: str | None
    latent: str | None
    intercept: bool

    def of(self, data: Data) -> tuple[Tensor, Tensor]:
        """Both, `()` each. Another parameter than the mean has a predictor on the scale of a logarithm or of log odds,
        whose unit is 1, and a scale of y is at the spread of y.
        """
        if self.latent is None:
            level, spread = response_scale(data, self.family, self.offset)
        else:
            known = response_scale(data, self.family) if self.latent in self.family.scales else None
            level, spread = (data.y.new_zeros(()) if known is None else known[1].log()), data.y.new_ones(())
        return level, spread if self.intercept else torch.hypot(level, spread)

    @property
    def texts(self) -> tuple[str, str]:
        """In words."""
        if self.latent is None:
            return self.family.scale_texts
        return (f"log({self.family.scale_texts[1]})" if self.latent in self.family.scales else "0"), "1"


@dataclass(frozen=True, eq=False)
class Following:
    """The prior of a latent that follows the data.

    Attributes:
        role: "intercept", "coefficient" or "scale".
        column: the data's column of the designs that its entries multiply, or that stand beside it.
        labels: of the designs.
        units: of each entry's predictor, or of the intercept's.
        own: entry -> a prior in place of the data's.
    """

    role: str
    column: str | None
    labels: tuple[str, ...]
    units: tuple[Unit, ...]
    own: Mapping[int, Distribution]

    def __call__(self, v: Values, data: Data) -> Distribution:
        """Independent over the entries; of an intercept a scalar."""
        of = [(unit.latent, unit.intercept) for unit in self.units]
        place, width = data.computed_once(("response", "formula", repr((self.role, self.column, of))), self._numbers)
        made: Distribution = HalfStudentT(DF, width) if self.role == "scale" else Normal(place, WIDE * width)
        if self.own:
            ready = [type(made)(*(getattr(made, name)[k] for name in made.arg_constraints)) for k in range(len(width))]
            return stacked([self.own.get(k, one) for k, one in enumerate(ready)], width)
        return Independent(made, 1) if width.dim() else made

    def _numbers(self, data: Data) -> Tensor:
        """Centre and width of every entry, `(2, entries)`, or `(2,)` of an intercept."""
        scales = column_scales(data, self.column) if self.column else None
        ratio = data.y.new_zeros(()) if scales is None else scales[0].square().sum()
        if self.role == "intercept":
            level, spread = self.units[0].of(data)
            return torch.stack([level, spread * (1 + ratio).sqrt()])
        assert scales is not None
        width = torch.stack(
            [
                unit.of(data)[1] * ((1 + ratio).sqrt() if label.endswith(INTERCEPT) else 1 / scale)
                for label, scale, unit in zip(self.labels, scales[1], self.units, strict=True)
            ]
        )
        return torch.stack([torch.zeros_like(width), width])

    @property
    def text(self) -> str:
        """For print."""
        level, spread = self.units[0].texts
        factors = [spread] if spread != "1" else []
        if self.role == "intercept":
            beside = ["|1, mean(x) / sd(x)|"] if self.column else []
            return f"Normal({level}, {' '.join([f'{WIDE:g}', *factors, *beside])})"
        slopes = any(not label.endswith(INTERCEPT) for label in self.labels)
        over = (" ".join(factors) or "1") + (" / sd(x)" if slopes else "")
        return f"HalfStudentT({DF:g}, {over})" if self.role == "scale" else f"Normal(0, {WIDE:g} {over})"


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


def stacked(parts: list[Distribution], like: Tensor) -> Distribution:
    """Independent entries, one of each distribution: of a vector of parameters where all are of one kind."""
    kind: Any = type(parts[0])
    names = list(parts[0].arg_constraints)
    if all(type(part) is kind for part in parts) and kind in (Normal, HalfStudentT):
        values = [torch.stack([torch.as_tensor(getattr(part, name)).to(like) for part in parts]) for name in names]
        return Independent(kind(*values), 1)
    return EntryWise(parts)


def taken_apart(
    priors: Mapping[str, object], entries: Mapping[str, list[str] | None]
) -> dict[str, dict[int | None, object]]:
    """Latent -> entry, or None for all of it -> prior, of a user's mapping.

    Args:
        priors: "beta", "beta[SES]", "sigma_School[SES]", ... -> prior.
        entries: latent -> labels of its entries; None of one without.

    Raises:
        ModelError: for a latent or an entry that there isn't.
    """
    found: dict[str, dict[int | None, object]] = {}
    for key, prior in priors.items():
        match = KEY.fullmatch(str(key))
        name, entry = (match["name"].strip(), match["entry"]) if match else (str(key), None)
        if name not in entries:
            raise ModelError(
                f"priors names {name!r}, which the model does not have; its latents are {listed(entries)}."
                f"{closest(name, entries)}"
            )
        labels = entries[name]
        if entry is not None and (labels is None or entry not in labels):
            known = "it has no entries" if labels is None else f"its entries: {listed(labels)}.{closest(entry, labels)}"
            raise ModelError(f"priors names {key!r}, and {name!r} has no entry {entry!r}; {known}")
        found.setdefault(name, {})[None if entry is None or labels is None else labels.index(entry)] = prior
    return found


def read(name: str, prior: object) -> Distribution | Callable[..., Distribution]:
    """A distribution, or a function, or text such as "Normal(0, 10)"."""
    return prior if isinstance(prior, Distribution) or callable(prior) else parsed(name, prior)


def entry(name: str, prior: object) -> Distribution:
    """The prior of one entry, a distribution of a number.

    Raises:
        ModelError: if it is none.
    """
    made = read(name, prior)
    if not isinstance(made, Distribution) or made.event_shape or made.batch_shape:
        raise ModelError(f'the prior of {name!r} is that of one number, such as "Normal(0, 1)"; found {prior!r}.')
    return made
