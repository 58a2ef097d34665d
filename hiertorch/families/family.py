"""The contract of a family, with "not known" as the answer to what a family leaves out.

A new family is one subclass of `Family` in one file, of the package or of anybody's: `distribution` is all that it must
write. What else it writes, from columns for simulated data to shares of variance, the rest of the package asks for.

docs/decisions.md: A family answers for itself.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.families.links import IDENTITY, INVERSE, SQRT, Link, chosen, slope
from hiertorch.families.portable import Portable
from hiertorch.families.rowforms import FamilyForm
from hiertorch.model.latent import Latent, Values
from hiertorch.model.means import centre


class Derivatives(NamedTuple):
    """Derivatives of log p(y_i | eta_i) in eta_i, `(chains, rows)` each."""

    first: Tensor
    second: Tensor


class Family:
    """p(y_i | eta_i): a distribution of each row, given its linear predictor.

    Methods take eta `(chains, rows)`, latents `(chains, 1)` by name and the data of the rows, whose columns are
    `(rows,)`; all broadcast.

    Attributes:
        name: by which configs and messages call it.
        formula: of a row, for print.
        link: from the mean to eta, or from what its docstring says in place of the mean; in a class its default.
        links: those that it can be made with, the default first.
        parameters: the linear predictors that each row has. Of K others than "eta" alone, eta is
            `(chains, rows, K)`, first derivatives are the same and second ones `(chains, rows, K, K)`; formulas build
            them all (`of_parameter`), ready structures one.
        latents: those that it reads beside eta, with their prior for data whose response has an sd of about 1.
        scales: those of its latents that are scales in a unit of y (`unit_of_scales`), whose prior the data can choose.
        sizes: those of its latents that are in units of y and no spread of it, with a lognormal prior for responses of
            mean 1; that of other data is `unit_of_sizes` times as large.
        columns: names of the columns that it reads.
        thresholds: the latent that takes the place of an intercept, so that models have none; "" if there is none.
        categories: labels of the categories that responses 0, 1, ... stand for; none where responses are numbers.
        scale_texts: `level_and_spread` in words, for print.
        unit_text: `unit_of_scales` in words, if it is not the spread.

    Example:
        >>> import hiertorch as ht
        >>> from torch.distributions import Exponential
        >>> class Waiting(ht.families.Family):
        ...     name, formula = "waiting", "Exponential(mean exp(eta))"
        ...     link, links = ht.families.LOG, (ht.families.LOG,)
        ...
        ...     def distribution(self, eta, v, data):
        ...         return Exponential((-eta).exp())
        >>> ht.models.VaryingIntercepts("ward", family=Waiting()).formula()[0]
        'y ~ Exponential(mean exp(eta))'
    """

    name: str = ""
    formula: str = ""
    link: Link = IDENTITY
    links: tuple[Link, ...] = (IDENTITY,)
    parameters: tuple[str, ...] = ("eta",)
    latents: Mapping[str, Latent] = MappingProxyType({})
    scales: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    thresholds: str = ""
    categories: tuple[str, ...] = ()
    scale_texts: tuple[str, str] = ("0", "1")
    unit_text: str = ""

    def set_link(self, link: Link | str | None) -> None:
        """Takes one of its links, by name or itself; its default if None.

        Raises:
            ModelError: if it has none of that name.
        """
        self.link = chosen(link, self.links, self.name)
        self.formula = self.formula.replace(self.links[0].mean_text, self.link.mean_text)

    @property
    def has_default_link(self) -> bool:
        """Whether its closed forms hold, which are those of its default link."""
        return self.link == self.links[0]

    @property
    def several(self) -> bool:
        """Whether eta has a last axis, of the predictors that `parameters` names."""
        return self.parameters != Family.parameters

    def of_parameter(self, name: str) -> "Family":
        """The family that says level and spread of one of its predictors, itself if it has but one."""
        return self

    @property
    def scaled(self) -> bool:
        """Whether eta is in units of y, so that the spread of y says how wide priors have to be."""
        return self.link == IDENTITY

    @property
    def usual_predictor(self) -> float:
        """A predictor that is possible: 0, or 1 where it has to be above 0, by the link or for the mean to be."""
        return 1.0 if self.link in (INVERSE, SQRT) or (self.scaled and self.links[0] != IDENTITY) else 0.0

    def distribution(self, eta: Tensor, v: Values, data: Data) -> Distribution:
        """Of y, with batch shape `(chains, rows)`; its support says what y can be, and it draws simulated responses."""
        raise ModelError(f"{type(self).__name__} does not say what y is like: write distribution(self, eta, v, data).")

    def derivatives(self, y: Tensor, eta: Tensor, v: Values, data: Data) -> Derivatives | None:
        """First and second derivative of log p(y | eta) in eta, for responses y `(rows,)` or `(chains, rows)`; None
        where no closed form is known.
        """
        return None

    def row_form(self, data: Data) -> FamilyForm | None:
        """log p(y_i | eta_i) in one of the forms of `hiertorch.families.rowforms`; None where it has none of them."""
        return None

    def exported(self) -> Portable | None:
        """The same in the little language of exported models (`hiertorch.families.portable`); None where it can't say
        it, and then a model with this family is exported as a program of torch.
        """
        return None

    def mean(self, eta: Tensor, v: Values, data: Data) -> Tensor | None:
        """E[y | eta], `(chains, rows)`, the middle of a distribution that has none; None where it isn't known."""
        with suppress(NotImplementedError):
            return centre(self.distribution(eta, v, data))
        return None

    def variance(self, eta: Tensor, v: Values, data: Data) -> Tensor | None:
        """Var(y | eta), `(chains, rows)`; None where it isn't known."""
        with suppress(NotImplementedError):
            return self.distribution(eta, v, data).variance
        return None

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor | None:
        """Variance of a row around eta on the scale of the link, `(chains, 1)`, beside which shares of variance set the
        variance of effects: that of y where eta is in units of y. None where it isn't known.

        It is taken at eta `(chains, 1)`, that of the means of predictors and effects, around which effects have the
        variance `spread`, `(chains, 1)`, in data of one row (`typical_row`).
        """
        return self.variance(eta, v, data) if self.scaled else None

    def typical_row(self, data: Data) -> dict[str, Tensor]:
        """Column -> its value in the one row for which shares of variance are given, `()` each: the means."""
        return {name: data[name].mean() for name in self.columns}

    def check_columns(self, data: Data) -> None:
        """Raises a DataError for rows that the likelihood can't take, with what was expected, what was found in which
        row, and what to do; responses outside the distribution's support are refused without it.
        """

    def informative(self, data: Data) -> Tensor | None:
        """Which rows say something, `(rows,)` of bool; None if all do."""
        return None

    def draw_columns(self, rows: int, generator: torch.Generator) -> dict[str, Tensor] | None:
        """Column -> values for simulated data, `(rows,)`, on the generator's device; None where it isn't known what the
        columns that it reads hold.
        """
        return None if self.columns else {}

    def statistics(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """What predictive checks look at beside what they look at in any continuous, counted or binary response, name
        -> function of responses `(draws, rows)` to `(draws,)`.
        """
        return {}

    def level_and_spread(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """Where eta without its offset lies, and how widely it may differ from row to row, as a response tells, `()`
        each: mean and sd of y - offset where eta is in units of y, and 0 and 1 where nothing is known.

        Args:
            y: the response, `(rows,)` or `(chains, rows)`, float64.
            offset: `(rows,)`, zeros without one.
            data: the same rows, for columns that the family reads.
        """
        if not self.scaled:
            return y.new_zeros(()), y.new_ones(())
        centred = y - offset
        return centred.mean(), sd(centred)

    def unit_of_scales(self, y: Tensor, offset: Tensor, data: Data) -> Tensor:
        """How wide the prior of a latent among `scales` is, `()`: the spread of eta, whose units they mostly have."""
        return self.level_and_spread(y, offset, data)[1]

    def unit_of_sizes(self, y: Tensor, data: Data) -> Tensor:
        """What multiplies latents among `sizes`, `()`: the mean size of y."""
        return y.abs().mean()

    def level_and_spread_of_mean(self, y: Tensor, offset: Tensor, power: float) -> tuple[Tensor, Tensor]:
        """g(m) less the mean offset, and |g'(m)| sd(y), m the mean of y: `level_and_spread` by the link alone. An sd is
        taken to be m^power at least.
        """
        mean = y.mean() if self.scaled else y.mean().clamp(min=torch.finfo(y.dtype).tiny)
        level = self.link.forward(mean)
        return level - offset.mean(), torch.maximum(sd(y), mean.abs() ** power) / slope(self.link, level).abs()

    def variance_by_slope(self, eta: Tensor, v: Values, data: Data) -> Tensor | None:
        """Var(y) / (dm / deta)^2: `link_variance` by the link (Nakagawa, Johnson & Schielzeth 2017, section 3)."""
        variance = self.variance(eta, v, data)
        return None if variance is None else variance / slope(self.link, eta).square()

    def __repr__(self) -> str:
        told = [*self.columns, *([] if self.has_default_link else [f"link={self.link.name!r}"])]
        return f"{type(self).__name__}({', '.join(told)})"


def check_column_name(argument: str, column: object) -> None:
    """Raises a ModelError unless an argument is the name of a column."""
    if not isinstance(column, str):
        raise ModelError(f"{argument}= is the name of a column, found {column!r}.")


def sd(x: Tensor) -> Tensor:
    """Standard deviation of all entries, `()`; 0 of a single one."""
    return x.std(correction=min(1, x.numel() - 1))


def uniform(rows: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Random numbers between two, `(rows,)`, for columns of simulated data."""
    return low + (high - low) * torch.rand(rows, generator=generator, dtype=torch.float64, device=generator.device)
