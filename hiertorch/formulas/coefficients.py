"""Coefficients of a predictor that have one prior together, which shrinks them (`hiertorch.formulas.shrinkage`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.formulas.shrinkage import Scope, Shrinkage, Written
from hiertorch.model.copies import exact
from hiertorch.model.latent import Latent, Values
from hiertorch.models.entries import entry


@dataclass(frozen=True, eq=False)
class Shrunk(Written):
    """The prior of coefficients beta, some of which may have one of their own.

    Attributes:
        beta: name of the latent.
        shrinkage: of the others.
        scope: of these.
        own: number of an entry -> its place and width.
    """

    beta: str
    shrinkage: Shrinkage
    scope: Scope
    own: Mapping[int, tuple[float, float]]

    @cached_property
    def others(self) -> list[int]:
        """Numbers of the entries that are shrunk."""
        return [k for k in range(len(self.scope.following.labels)) if k not in self.own]

    @cached_property
    def _takes(self) -> list[int] | None:
        """Of each entry, which of the shrunk ones it is, or any; None where all are."""
        return [self.others.index(k) if k in self.others else 0 for k in range(len(self._labels))] if self.own else None

    @property
    def _labels(self) -> tuple[str, ...]:
        return self.scope.following.labels

    def latents(self) -> dict[str, tuple[Latent, str]]:
        """What is declared before."""
        return self.shrinkage.latents(self.beta, self.scope, [self._labels[k] for k in self.others])

    @property
    def text(self) -> str:
        """For print."""
        each = [f"; Normal({m:g}, {s:g}) for {self._labels[k]}" for k, (m, s) in self.own.items()]
        return self.shrinkage.formula(self.beta, self.scope) + "".join(each)

    def _numbers(self, data: Data) -> tuple[Tensor, Tensor, Tensor]:
        """Place, factor of t and what is added to the sd, of each entry."""
        place, width = self.scope.following.numbers(data).clone()
        factor, more = width / self.scope.size(data), torch.zeros_like(width)
        for k, (m, s) in self.own.items():
            place[k], factor[k], more[k] = m, 0.0, s
        return place, factor, more

    def __call__(self, v: Values, data: Data) -> Distribution:
        """Independent over the entries."""
        key = ("response", "shrunk", repr((self.beta, self.scope.following.key, sorted(self.own.items()))))
        place, factor, more, takes = data.computed_once(key, self._kept)
        t = self.shrinkage.roots(self.beta, v, self.scope.unit(v, data), takes.long() if self.own else None)
        return Independent(Normal(place, t * factor + more if self.own else t * factor), 1)

    def _kept(self, data: Data) -> Tensor:
        """What the data keep, `(4, entries)`: on their device, so that no step of a chain takes anything there."""
        place, factor, more = self._numbers(data)
        return torch.stack([place, factor, more, torch.tensor(self._takes or [0] * len(place)).to(place)])

    def code(self, data: Data) -> str:
        """With the numbers of these data."""
        place, factor, more = (f"tensor({x.double().tolist()!r}, dtype=torch.float64)" for x in self._numbers(data))
        take = "" if self._takes is None else f"[..., {self._takes!r}]"
        scale = f"{self.shrinkage.code(self.beta, self.scope.code(data), take)} * {factor}"
        return f"lambda v: Independent(Normal({place}, {scale}{f' + {more}' if self.own else ''}), 1)"


def own_entries(beta: str, labels: Sequence[str], priors: Mapping[str, object]) -> dict[int, tuple[float, float]]:
    """Place and width of entries that have a prior of their own beside a shrinkage prior of the others.

    Raises:
        ModelError: if one is not normal, or all have one.
    """
    found = {}
    for k, label in enumerate(labels):
        if (key := f"{beta}[{label}]") in priors:
            made = exact(entry(key, priors[key]))
            if type(made) is not Normal:
                raise ModelError(
                    f"beside a prior that shrinks the other coefficients, that of {key!r} is a normal one, such as "
                    f'"Normal(0, 1)"; found {priors[key]!r}.'
                )
            found[k] = (float(made.loc), float(made.scale))
    if len(found) == len(labels):
        raise ModelError(f"all entries of {beta!r} have a prior of their own: leave out that of {beta!r}.")
    return found
