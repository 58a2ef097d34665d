"""The log density of a model of which each process has some groups with their rows.

    log_density(u) = sum over population latents [ log prior + log Jacobian ]
                     + sum over processes [ the same of their groups' latents + log likelihood of their rows ]

docs/decisions.md: Groups over processes.
"""

from typing import Self

from torch import Tensor

from hiertorch.density.target import Target
from hiertorch.runtime.ranks import Summed


class SummedTarget(Target):
    """A target whose data are those of this process's groups, and whose log density is that of all of them."""

    share: Summed

    @classmethod
    def of(cls, own: Target, share: Summed) -> Self:
        """The whole of which a process has `own`."""
        new = cls.__new__(cls)
        new.__dict__.update(own.__dict__)
        new.share = share
        return new

    def log_density(self, position: Tensor) -> Tensor:
        """log density `(chains,)` of flat positions `(chains, dim)` of the population and of this process's groups; all
        processes ask together.
        """
        state, once = self.state(self.space.split(position)), []
        own = state.cells.sum(-1)
        for name, term in state.prior.items():
            if self.space.coordinates[name].plate is None:
                once.append(term.sum(-1))
            else:
                own = own + term.sum(-1)
        return self.share.total(own, *once)
