"""Which columns a model reads, and at which level: what simulated data, advice on data and shares of variance ask.

The structures of `hiertorch.models` say it. So can any model of your own: one that is made from `Regression` or
`Grouped` has their design, and any other is a subclass of `Designed` in place of `ht.Model` that writes its own. Of a
plain `ht.Model` no design is known; it can be fitted and predicted from all the same.

docs/decisions.md: A structure says its design.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.families import Family
from hiertorch.model.latent import Values
from hiertorch.model.model import Model


@dataclass(frozen=True)
class Design:
    """Columns and groupings by what they are to a model; what is left out, it does not have.

    Attributes:
        family: what y is like around the linear predictor, which knows the columns of the likelihood such as trials.
        offset: column that is added to the linear predictor as it is.
        predictors: columns of rows that have a coefficient each.
        varying: plate -> those predictors whose coefficients vary over its groups.
        group_predictors: plate -> columns that are constant within its groups, and explain them.
        nested: groupings from the coarsest to the finest, if each group lies in one of the grouping before.
        times: groupings whose labels are numbers or dates.
        encoded: whether rows have columns that are made of a frame's, as a formula's are: nobody else can make them.
    """

    family: Family
    offset: str | None = None
    predictors: tuple[str, ...] = ()
    varying: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    group_predictors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    nested: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    encoded: bool = False


@dataclass(frozen=True)
class Population:
    """e_j = mean_j + scale * (root z_j), z_j standard normal: the prior of a grouping's effects, in the little language
    of exported models (`hiertorch.families.portable`), evaluated at one row of each group.

    Attributes:
        mean: `(draws, groups)`, or `(draws, groups, K)` of vectors of K effects.
        scale: likewise.
        root: of correlations, `(draws, 1, K, K)`; None where effects are independent.
    """

    mean: str
    scale: str
    root: str | None = None


@dataclass(frozen=True)
class Exported:
    """A linear predictor, and what stands around it, in the little language.

    Attributes:
        lets: name -> text, in this order: "eta" with its offset, and latents of the rows that are not read as they are.
        populations: latent that varies over groups -> its prior.
    """

    lets: Mapping[str, str]
    populations: Mapping[str, Population] = field(default_factory=dict)


class Designed(Model):
    """A model that says which columns it reads.

    Attributes:
        takes_priors: whether it is made with `priors=`, which has the data choose its priors or replaces them.

    Example:
        >>> import hiertorch as ht
        >>> from torch.distributions import HalfNormal, Normal
        >>> class Growth(Designed):
        ...     top, rate = ht.Latent(Normal(0.0, 1.0)), ht.Latent(HalfNormal(1.0))
        ...     sigma_y = ht.Latent(HalfNormal(1.0))
        ...
        ...     def likelihood(self, v, data):
        ...         return Normal(v.top * (1 - (-v.rate * data.age.abs()).exp()), v.sigma_y)
        ...
        ...     def design(self):
        ...         return Design(ht.families.Gaussian(), predictors=("age",))
        >>> ht.simulate_grouped(model=Growth(), seed=1).frame.columns.tolist()
        ['group', 'age', 'y']
    """

    takes_priors = False

    def design(self) -> Design:
        """Which columns it reads, and at which level; every subclass writes its own, or has that of its parent."""
        raise NotImplementedError

    def check_columns(self, data: Data) -> None:
        """See `Model.check_columns`: what the family asks for."""
        self.design().family.check_columns(data)

    def exported(self, data: Data) -> Exported | None:
        """`linear_predictor` and the priors of effects in the little language of exported models; None where they are
        not said, and then the model is exported as a program of torch.
        """
        return None

    def linear_predictor(self, v: Values, data: Data) -> Tensor | None:
        """eta with its offset, which broadcasts to `(chains, rows)`; None if the model does not tell it apart."""
        return None

    def row_parameters(self, v: Values, data: Data) -> Values:
        """The latents that the family reads, of which each row may have its own."""
        return v

    def coefficients(self) -> Mapping[str, Sequence[str]]:
        """Latent -> what its entries are called, of the coefficients that all rows share, for tables of them; empty if
        the model does not say, and then they are its population-level latents on the whole real line.
        """
        return {}


def design_of(model: Model) -> Design | None:
    """Which columns a model reads, and at which level; None if it does not say."""
    return model.design() if isinstance(model, Designed) else None


def family_of(model: Model) -> Family | None:
    """What y is like around the linear predictor; None if that is not known, as of a subclass that has the design of
    its parent and a likelihood of its own.
    """
    if not isinstance(model, Designed):
        return None
    likelihood, design = (
        next(i for i, kind in enumerate(type(model).__mro__) if name in vars(kind)) for name in ("likelihood", "design")
    )
    return model.design().family if likelihood >= design else None
