"""Ordered categories, whose thresholds take the place of an intercept."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from hiertorch.data.table import Data
from hiertorch.families import laws, portable
from hiertorch.families.coded import labels_of, shares
from hiertorch.families.family import Family
from hiertorch.families.links import LOGIT, PROBABILITIES, Link
from hiertorch.model import ordinals
from hiertorch.model.latent import Latent, Values
from hiertorch.model.ordering import Ordered

WIDE = 3.0
"""Sd of a threshold: nearly all of the logistic distribution lies within two of it, so that no category is left out."""

VARIANCES = {"logit": math.pi**2 / 3, "probit": 1.0, "cloglog": math.pi**2 / 6}
"""Of the distributions of which the links are the inverse."""


class Ordinal(Family):
    """Ordered categories, coded 0 to K - 1, with thresholds cuts_y between them: larger eta, later category.

    Args:
        categories: K, or the labels of the categories in their order.
        link: of the distribution function of which probabilities are made, a name or one of `links`.

    Raises:
        ModelError: for fewer than two categories, or a link that the family does not have.
    """

    thresholds = "cuts_y"
    kind: ClassVar[type[ordinals.Ordinal]]
    said: ClassVar[str] = ""  # in the little language of exported models
    ascending: ClassVar[bool] = False

    def __init__(self, categories: int | Sequence[object] | None = None, link: Link | str | None = None) -> None:
        self.categories = labels_of(type(self).__name__, categories)
        self.set_link(link)
        number = len(self.categories) - 1
        between = [f"{a}|{b}" for a, b in zip(self.categories[:-1], self.categories[1:], strict=True)]
        self.latents = {self.thresholds: Latent(self.thresholds_prior(Normal(0.0, WIDE), number), labels=[between])}
        name = type(self).__name__
        self.formula = (
            f"{name}(eta, cuts_y)" if self.link is self.links[0] else f"{name}(eta, cuts_y, {self.link.name})"
        )

    def thresholds_prior(self, each: Distribution, number: int) -> Distribution:
        """Of so many thresholds, from the law of each: put in order where they have to ascend."""
        return Ordered(each, number) if self.ascending else Independent(each.expand(torch.Size([number])), 1)

    def distribution(self, eta: Tensor, v: Values, data: Data) -> ordinals.Ordinal:
        """Of the category."""
        return self.kind(eta, v.cuts_y, self.link.name)

    def exported(self) -> portable.Portable | None:
        """Probabilities of categories."""
        return laws.thresholds(self.said, self.link.name) if self.said else None

    def statistics(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """The share of each category."""
        return shares(self.categories)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.categories)}, {self.link.name!r})"


class Cumulative(Ordinal):
    """P(y_i <= k) = F(cuts_y[k + 1] - eta_i), with ascending thresholds: categories of a continuous number (McCullagh
    1980).

    Args:
        categories: K, or labels in order.
        link: "logit", "probit" or "cloglog".
    """

    name = "cumulative"
    link, links = LOGIT, PROBABILITIES
    kind, ascending, said = ordinals.Cumulative, True, "cumulative"

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor:
        """That of the distribution F, of the continuous number around eta."""
        return torch.full_like(eta, VARIANCES[self.link.name])


class StoppingRatio(Ordinal):
    """P(y_i = k | y_i >= k) = F(cuts_y[k + 1] - eta_i): categories that are reached one after another (Tutz 1991).

    Args:
        categories: K, or labels in order.
        link: "logit", "probit" or "cloglog".
    """

    name = "sratio"
    link, links = LOGIT, PROBABILITIES
    kind, said = ordinals.StoppingRatio, "stopping"


class AdjacentCategories(Ordinal):
    """log(p_k / p_{k-1}) = eta_i - cuts_y[k]: each category against the one before it (Agresti 2010, section 4.1).

    Args:
        categories: K, or labels in order.
        link: "logit".
    """

    name = "acat"
    link, links = LOGIT, (LOGIT,)
    kind, said = ordinals.AdjacentCategories, "adjacent"
