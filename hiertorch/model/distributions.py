"""Distributions that `torch.distributions` lacks."""

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor
from torch.distributions import Distribution, StudentT, constraints
from torch.distributions.utils import broadcast_all


class HalfStudentT(Distribution):
    """|t| scale, t ~ StudentT(df): p(x) = 2 StudentT(x; df, 0, scale) for x >= 0, a weak prior for scales (Gelman
    2006, section 3.2).

    Args:
        df: degrees of freedom.
        scale: positive.
    """

    arg_constraints = {"df": constraints.positive, "scale": constraints.positive}  # noqa: RUF012
    support = constraints.positive

    def __init__(self, df: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        self.df, self.scale = broadcast_all(df, scale)
        super().__init__(self.df.shape, validate_args=validate_args)

    @property
    def _whole(self) -> StudentT:
        return StudentT(self.df, torch.zeros_like(self.scale), self.scale, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """2 scale sqrt(df / pi) Gamma((df + 1) / 2) / (Gamma(df / 2) (df - 1)); infinite for df <= 1."""
        ratio = (torch.lgamma((self.df + 1) / 2) - torch.lgamma(self.df / 2)).exp()
        mean = 2.0 * self.scale * (self.df / torch.pi).sqrt() * ratio / (self.df - 1)
        return torch.where(self.df > 1, mean, torch.inf)

    @property
    def variance(self) -> Tensor:
        """scale^2 df / (df - 2) - mean^2; infinite for df <= 2."""
        return torch.where(self.df > 2, self.scale.square() * self.df / (self.df - 2) - self.mean.square(), torch.inf)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws `(*sample_shape, *batch_shape)`."""
        return self._whole.rsample(torch.Size(sample_shape)).abs()

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value)."""
        if self._validate_args:
            self._validate_sample(value)
        df = self.df
        constant = torch.lgamma(0.5 * (df + 1.0)) - torch.lgamma(0.5 * df) - 0.5 * (torch.pi * df).log()
        constant = constant - self.scale.log() + log(2.0)
        return constant - 0.5 * (df + 1.0) * torch.log1p((value / self.scale).square() / df)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> "HalfStudentT":
        """The same with another batch shape."""
        new = self._get_checked_instance(HalfStudentT, _instance)
        new.df, new.scale = self.df.expand(batch_shape), self.scale.expand(batch_shape)
        super(HalfStudentT, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new


class EntryWise(Distribution):
    """p(x) = prod_k p_k(x_k): a vector whose entries have a distribution each, of any kinds with one support.

    Args:
        parts: of scalars; batch shapes broadcast.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, parts: Sequence[Distribution], validate_args: bool | None = None) -> None:
        self.parts = list(parts)
        batch = torch.broadcast_shapes(*(part.batch_shape for part in self.parts))
        super().__init__(batch, torch.Size([len(self.parts)]), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """That of the parts."""
        return constraints.independent(self.parts[0].support, 1)

    @property
    def mean(self) -> Tensor:
        """Of each entry."""
        return torch.stack([part.mean.expand(self.batch_shape) for part in self.parts], -1)

    @property
    def variance(self) -> Tensor:
        """Of each entry."""
        return torch.stack([part.variance.expand(self.batch_shape) for part in self.parts], -1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws `(*sample_shape, *batch_shape, entries)`."""
        shape = torch.Size(sample_shape)
        return torch.stack([part.expand(self.batch_shape).sample(shape) for part in self.parts], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), value `(..., entries)`."""
        return torch.stack([part.log_prob(value[..., k]) for k, part in enumerate(self.parts)], -1).sum(-1)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> "EntryWise":
        """The same with another batch shape."""
        new = self._get_checked_instance(EntryWise, _instance)
        new.parts = [part.expand(torch.Size(batch_shape)) for part in self.parts]
        super(EntryWise, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new
