"""Priors as wide as the data ask for, which ready structures take unless told otherwise.

With m and s the level and spread of the linear predictor that the response tells, a the ratio mean(x) / s_x of a
column, and s_x its sd, or a fifth of its range if that is more:

    coefficients ~ Normal(0, 2.5 s / s_x),  intercepts ~ Normal(m, 2.5 s |1, a|),  |1, a| = sqrt(1 + sum a^2),
    scales of effects ~ HalfStudentT(4, s |1, a|), those of slopes HalfStudentT(4, s / s_x),
    sigma_y and other scales of rows ~ HalfStudentT(4, s),  lambda ~ Gamma(1, s),
    other latents of rows in units of y (`Family.sizes`): the mean size of y times their own prior,
    sigma_time ~ HalfStudentT(4, s / sqrt(d)),  phi ~ Beta(d, 1),  d the mean gap between times,

the last so that phi^d, the correlation from one time to the next, is uniform. Less the offset, m and s are mean and sd
of y where eta is in units of y, the log odds of all trials and 1, or the log rate of all counts and the sd of the rows'
log rates, at least 1 (`Family.level_and_spread`). A coefficient of a product of columns has the product of their s_x.
Degrees of freedom, correlations and phi_y have no unit and keep their priors.

Why so: Goodrich et al. (2020), rstanarm, "Prior Distributions", has the factor 2.5 and the intercept at the predictors'
means. An intercept is the level where columns are 0, so that in these terms its variance is that at their means and
what each coefficient adds, a^2 times 1 (Capretto et al. 2022, Bambi; Westfall 2017). The sums run over the columns
whose coefficients meet the intercept: for the scale of groups' intercepts those whose slopes vary. Counts and trials
are centred at what they are, as brms does with counts, so that exposures have a unit, too, and events may be rare. A
fifth of the range is for indicators of few rows: one row in 1,000 has sd 0.03, and its coefficient is no larger than
that of others. A response with a chain axis counts as one: all chains have the same priors.

Rows that the data were made with weight 0 for do not count. The scales are those of the data that were fitted first:
folds, parts and later rows keep them (`Data.computed_once`), since a prior that moved with the rows would make another
model of each.

docs/decisions.md: Priors follow the data by default.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor
from torch.distributions import Beta, Distribution, Gamma, Independent, LogNormal, Normal

from hiertorch.data.table import Data
from hiertorch.errors import DataError
from hiertorch.families import Family
from hiertorch.families.family import sd
from hiertorch.model.distributions import HalfStudentT
from hiertorch.model.latent import Latent, Values

WIDE = 2.5
"""Scales of the response in the sd of a coefficient's prior."""

DF = 4.0
"""Degrees of freedom of the prior of a scale."""

INTERCEPTS = ("alpha", "mu", "mu_alpha", "mu_alpha0")
"""Latents at the level of eta."""

COEFFICIENTS = ("beta", "mu_beta", "gamma")
"""With which the names of latents begin that multiply columns."""

GAPS = ("sigma_time", "phi")
"""Latents whose unit is a matter of how far apart times are, in structures that have times."""

Columns = tuple[str, ...]
"""Whose product a coefficient multiplies; none of an intercept."""

SHARE = 0.2
"""Of a column's range that counts as its sd at least: an indicator of few rows has a small sd, and is no small unit."""


def autoscaled(
    latents: Mapping[str, Latent], names: Iterable[str], family: Family, offset: str | None, time: str | None
) -> dict[str, "Autoscaled"]:
    """Latent -> its prior scaled by the data, for latents of a ready structure whose prior is fixed and has a unit.

    Args:
        latents: all of them.
        names: those that have the structure's or the family's own prior.
        family: of the rows.
        offset: a column.
        time: the grouping of times, if the structure has one.
    """
    fixed = {name: one for name, one in latents.items() if isinstance(one.prior, Distribution)}
    roles = {name: "gap" if time and name in GAPS else _role(name, family) for name in fixed}
    columns = {name: _columns(latent) for name, latent in fixed.items()}
    found = {}
    for name in names:
        if role := roles.get(name):
            beside = [part for other in fixed if roles[other] == role for part in columns[other]]
            more = [[tuple(sorted({*one} - {*own})) for one in beside if {*one} > {*own}] for own in columns[name]]
            shape = tuple(len(axis) for axis in latents[name].axes)
            times = time if role == "gap" else None
            found[name] = Autoscaled(name, role, family, offset, times, columns[name], more, shape)
    return found


def _role(name: str, family: Family) -> str:
    """What a latent of this name is in a ready structure; "" if it has no unit."""
    if name in family.latents:
        return "noise" if name in family.scales else "size" if name in family.sizes else ""
    if name in INTERCEPTS or name.startswith(COEFFICIENTS):
        return "coefficient"
    return "scale" if name.startswith("sigma") else "rate" if name.startswith("lambda") else ""


def _columns(latent: Latent) -> list[Columns]:
    """The columns of each entry of a latent's event, by its labels."""
    return [tuple(str(label) for label in entry if label != "intercept") for entry in product(*latent.axes)]


@dataclass(frozen=True, eq=False)
class Autoscaled:
    """The prior of a latent as a function of the data that the model was fitted to.

    Attributes:
        name: of the latent.
        role: "coefficient", "scale", "noise", "size", "rate" or "gap", see `autoscaled`.
        family, offset: of the model.
        times: the grouping of times whose gaps its unit is a matter of; None if there is none.
        columns: of each entry of its event.
        more: the further columns of coefficients, or scales, that stand beside each entry in eta.
        shape: of its event.
    """

    name: str
    role: str
    family: Family
    offset: str | None
    times: str | None
    columns: Sequence[Columns]
    more: Sequence[Sequence[Columns]]
    shape: tuple[int, ...]

    @cached_property
    def _key(self) -> tuple[str, ...]:
        """Of its numbers, among those that data keep."""
        return ("response", type(self.family).__qualname__, repr(self))

    def __call__(self, v: Values, data: Data) -> Distribution:
        """Independent over the entries of the event."""
        place, width = data.computed_once(self._key, self._numbers)
        made: Distribution
        if self.role == "coefficient":
            made = Normal(place, WIDE * width)
        elif self.role == "size":
            made = LogNormal(self._own[0] + width.log(), self._own[1])
        elif self.role == "rate":
            made = Gamma(torch.ones_like(width), width)
        elif self.name == "phi":
            made = Beta(width, torch.ones_like(width))
        else:
            made = HalfStudentT(DF, width)
        return Independent(made, len(self.shape)) if self.shape else made

    def _numbers(self, data: Data) -> Tensor:
        """Centre and width of every entry, `(2, *event)`."""
        if self.role == "size":
            return torch.stack([torch.zeros_like(size := response_size(data, self.family)), size])
        if self.name == "phi":
            return torch.stack([torch.zeros_like(gap := _gap(data, str(self.times))), gap])
        level, spread, unit = response_scale(data, self.family, self.offset)
        spread = unit if self.role == "noise" else spread
        widths = spread * torch.stack([_width(data, *each) for each in zip(self.columns, self.more, strict=True)])
        if self.times is not None:
            widths = widths / _gap(data, self.times).sqrt()
        place = level.expand(self.shape) if self.name in INTERCEPTS else level.new_zeros(self.shape)
        return torch.stack([place, widths.reshape(self.shape)])

    @cached_property
    def _own(self) -> tuple[float, float]:
        """Location and scale of a size's prior for responses of mean 1."""
        prior = self.family.latents[self.name].prior
        assert isinstance(prior, LogNormal)
        return float(prior.loc), float(prior.scale)

    @property
    def text(self) -> str:
        """For print, such as Normal(mean(y), 2.5 sd(y))."""
        if self.role == "size":
            return f"LogNormal({self._own[0]:g} + log(mean(y)), {self._own[1]:g})"
        level, spread = self.family.scale_texts
        spread = (self.family.unit_text or spread) if self.role == "noise" else spread
        factors = [spread] if spread != "1" else []
        factors += ["|1, mean(x) / sd(x)|"] if any(self.more) else []
        over = " / sd(x)" * len(self.shape) + (f" / sqrt(mean gap of {self.times})" if self.times else "")
        width = (" ".join(factors) or "1") + over
        if self.role == "coefficient":
            wide = " ".join([f"{WIDE}", *factors]) + over
            return f"Normal({level if self.name in INTERCEPTS else '0'}, {wide})"
        if self.role == "rate":
            return f"Gamma(1, {width})"
        return f"Beta(mean gap of {self.times}, 1)" if self.name == "phi" else f"HalfStudentT({DF:g}, {width})"


def _width(data: Data, own: Columns, more: Sequence[Columns]) -> Tensor:
    """|1, a| / s_x of an entry with these columns, where coefficients of more columns stand beside it."""
    squares = torch.ones((), dtype=data.dtype, device=data.device)
    for names in more:
        scales = [column_scale(data, name) for name in names]
        squares = squares + torch.stack([mean / sd for mean, sd in scales]).prod().square()
    width = squares.sqrt()
    for name in own:
        width = width / column_scale(data, name)[1]
    return width


def _gap(data: Data, times: str) -> Tensor:
    """Mean gap between the labels of a grouping; 1 if it has one."""
    labels = data.label_numbers(times)
    return (labels[-1] - labels[0]) / (len(labels) - 1) if len(labels) > 1 else torch.ones_like(labels[0])


def column_scale(data: Data, name: str) -> Tensor:
    """Mean and scale of a column over rows, `(2,)`: its sd, or a fifth of its range if that is more; for a constant
    one its size, or 1 if it is 0.
    """

    def numbers(data: Data) -> Tensor:
        whole = data.whole_data  # of parts, too: columns are never replaced
        x = _counted(whole)[name].double()
        low, high = x.aminmax()
        size = torch.where(low == 0, torch.ones_like(low), low.abs())
        varies = torch.where(high > low, torch.maximum(sd(x), SHARE * (high - low)), size)
        return torch.stack([x.mean(), varies]).to(data.device, data.dtype)

    return data.computed_once(("column", name, "scale"), numbers)


def response_scale(data: Data, family: Family, offset: str | None = None) -> Tensor:
    """Level and spread of the linear predictor without its offset, and the unit of scales of rows, as the response
    tells, `(3,)`; the responses of all chains count together.

    Raises:
        DataError: if the response has no spread.
    """

    def numbers(data: Data) -> Tensor:
        part = _counted(data)
        y = part.y.double()
        shift = torch.zeros_like(y) if offset is None else part[offset].double()
        level, spread = family.level_and_spread(y, shift, part)
        least = 8.0 * torch.finfo(data.dtype).eps * level.abs() * family.scaled  # less is rounding
        unit = family.unit_of_scales(y, shift, part)
        low, high = (float(end) for end in y.aminmax())
        if low < high and not bool(level.isfinite() & spread.isfinite()):
            raise DataError(
                f"the response {data.name!r} goes from {low:g} to {high:g}, which rows of family {family.name!r} "
                "don't: take another family, or correct the data."
            )
        if not bool(level.isfinite() & spread.isfinite() & (spread > least) & (unit > 0)):
            raise DataError(
                f"the response {data.name!r} has no spread (one row, or one value in all), by which priors could be "
                'scaled: give all priors, priors={...}, or take priors="tutorial", which do not look at the data.'
            )
        return torch.stack([level, spread, unit]).to(data.device, data.dtype)

    key = ("response", "scale", type(family).__qualname__, repr(family), repr(offset))
    return data.computed_once(key, numbers)


def response_size(data: Data, family: Family) -> Tensor:
    """What multiplies latents among a family's sizes, `()`."""

    def number(data: Data) -> Tensor:
        part = _counted(data)
        return family.unit_of_sizes(part.y.double(), part).to(data.device, data.dtype)

    return data.computed_once(("response", "size", type(family).__qualname__, repr(family)), number)


def _counted(data: Data) -> Data:
    """The rows that have had a weight in some chain."""
    if data.first_weights is None:
        return data
    kept = (data.first_weights > 0).reshape(-1, data.n_rows).any(0).nonzero()[:, 0]
    return data if len(kept) in (0, data.n_rows) else data.take(kept)
