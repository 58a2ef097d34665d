"""Thresholds of ordered categories, which take the place of an intercept.

    cuts_k = centred_cuts_k + sum_j m_j beta_j + o,     centred_cuts ~ Normal(0, 2.5), put in order where they ascend

m and o: means of the common columns and of the offset. The prior is that of thresholds for a row at these means, on the
scale of the link. One of thresholds where all columns are 0 would have to be as wide as what coefficients add up to
there, by which they move together, and would be as wide for the differences between them.

docs/decisions.md: Thresholds have their prior at the means of predictors.
"""

from dataclasses import dataclass

from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.formulas.predictors import Predictor
from hiertorch.model.latent import Values


@dataclass(frozen=True)
class Thresholds:
    """From thresholds at the means of predictors to those that a row's eta is held against.

    Attributes:
        name: of the latter, which the family reads.
        beta: the latent of coefficients.
        column: the data's column of designs, if there are any.
        offset: the data's column that is added to eta, if there is one.
    """

    name: str
    beta: str
    column: str | None
    offset: str | None

    @classmethod
    def of(cls, name: str, one: Predictor) -> "Thresholds | None":
        """Those of a predictor; None where it has neither columns nor an offset, and they are the latent itself."""
        return cls(name, one.called("beta"), one.column, one.offset) if one.column or one.offset else None

    @property
    def latent(self) -> str:
        """The name of the former."""
        return f"centred_{self.name}"

    def __call__(self, v: Values, data: Data) -> Tensor:
        """`(chains, 1, K)`."""
        found = v[self.latent]
        if self.column is not None:
            found = found + (v[self.beta][:, 0] @ means_of(data, self.column))[:, None, None]
        return found if self.offset is None else found + means_of(data, self.offset)

    def code(self, data: Data) -> str:
        """The same with the numbers of these data."""
        terms = [f"v.{self.latent}"]
        if self.column is not None:
            means = f"tensor({means_of(data, self.column).double().tolist()!r}, dtype=torch.float64).to(data.y)"
            terms.append(f"(v.{self.beta}[:, 0] @ {means})[:, None, None]")
        if self.offset is not None:
            terms.append(repr(float(means_of(data, self.offset))))
        return " + ".join(terms)


def means_of(data: Data, column: str) -> Tensor:
    """Of a column, `()`, or of those of a matrix, `(K,)`, over the rows that were fitted first."""

    def numbers(data: Data) -> Tensor:
        return data.whole_data[column].double().mean(0).to(data.y)

    return data.computed_once(("column", column, "means"), numbers)
