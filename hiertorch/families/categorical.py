"""Categories without order, with a linear predictor of each but the reference."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, distributions

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.families import laws, portable
from hiertorch.families.coded import labels_of, shares
from hiertorch.families.family import Derivatives, Family, sd
from hiertorch.families.links import LOGIT
from hiertorch.model.latent import Values
from hiertorch.wording import listed


class Categorical(Family):
    """P(y_i = k) = exp(eta_ik) / sum_l exp(eta_il), eta_i = 0 of the reference: categories without order, coded 0 to
    K - 1, each with log odds eta_ik against the reference (Agresti 2013, section 8.1).

    `parameters` are the other categories; eta is `(chains, rows, K - 1)`, in their order. A formula makes the
    predictors of each.

    Args:
        categories: K, or labels.
        reference: the label whose predictor is 0; the first if left out.

    Raises:
        ModelError: for fewer than two categories, or a reference that is none of them.
    """

    name = "categorical"
    link, links = LOGIT, (LOGIT,)

    def __init__(self, categories: int | Sequence[object] | None = None, reference: object = None) -> None:
        self.categories = labels_of(type(self).__name__, categories)
        self.reference = self.categories[0] if reference is None else str(reference)
        if self.reference not in self.categories:
            raise ModelError(f"the reference is one of the categories, {listed(self.categories)}; found {reference!r}.")
        self.parameters = tuple(label for label in self.categories if label != self.reference)
        each = ("0" if label == self.reference else f"eta_{label}" for label in self.categories)
        self.formula = f"Categorical(softmax({', '.join(each)}))"

    def logits(self, eta: Tensor) -> Tensor:
        """eta of all categories, `(chains, rows, K)`, with that of the reference."""
        at = self.categories.index(self.reference)
        return torch.cat([eta[..., :at], torch.zeros_like(eta[..., :1]), eta[..., at:]], -1)

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Categorical:
        """Of the category's code."""
        return distributions.Categorical(logits=self.logits(eta))

    def exported(self) -> portable.Portable:
        """The softmax of all predictors, that of the reference 0."""
        at = self.categories.index(self.reference)
        return laws.categories(f"softmax(inserted(eta, {at}))", ordered=False)

    def derivatives(self, y: Tensor, eta: Tensor, v: Values, data: Data) -> Derivatives:
        """1(y = k) - p_k and p_k p_l - 1(k = l) p_k."""
        others = [code for code, label in enumerate(self.categories) if label != self.reference]
        p = self.logits(eta).softmax(-1)[..., others]
        own = (y.unsqueeze(-1) == torch.tensor(others, device=y.device)).to(p)
        return Derivatives(own - p, p.unsqueeze(-1) * p.unsqueeze(-2) - p.diag_embed())

    def mean(self, eta: Tensor, v: Values, data: Data) -> None:
        """There is none: codes stand for labels."""
        return

    def variance(self, eta: Tensor, v: Values, data: Data) -> None:
        """Nor this."""
        return

    def of_parameter(self, name: str) -> Family:
        """Of the predictor of a category."""
        return Versus(name, self.reference, (self.categories.index(name), self.categories.index(self.reference)))

    def statistics(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """The share of each category."""
        return shares(self.categories)

    def __repr__(self) -> str:
        own = "" if self.reference == self.categories[0] else f", reference={self.reference!r}"
        return f"{type(self).__name__}({len(self.categories)}{own})"


class Versus(Family):
    """One category against the reference: what the response tells of its predictor.

    Args:
        category, reference: labels.
        codes: of both.
    """

    link, links = LOGIT, (LOGIT,)

    def __init__(self, category: str, reference: str, codes: tuple[int, int]) -> None:
        self.category, self.reference, self.codes = category, reference, codes
        self.scale_texts = (f"log(rows of {category} / rows of {reference})", "1")

    def level_and_spread(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """The log of how many rows of the category there are for each of the reference, half a row added to both, less
        the mean offset; and 1, or the sd of the offset if that is more: of two categories those of their log odds.
        """
        own, other = ((y == code).to(y).sum() + 0.5 for code in self.codes)
        return (own / other).log() - offset.mean(), sd(offset).clamp(min=1.0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.category!r}, {self.reference!r})"
