"""A model whose chains have different priors in turn: chain c has that of c mod the number of priors.

So `hiertorch.priorgrid` fits several priors in one run, and `hiertorch.gaussian.discovery` knows that each of them is a
setting of its own. The count stands behind a name that no class of a user can have.
"""

from collections.abc import Mapping, MutableMapping

import torch

from hiertorch.data.table import Data
from hiertorch.model.drawing import Share
from hiertorch.model.latent import Values
from hiertorch.model.model import Model

__all__ = ["InTurn", "priors_in_turn", "take_turns"]


class InTurn(Model):
    """See the module; made by `take_turns` alone."""

    __count: int
    __drawing: list[int]  # how many chains there are, while the first latent is drawn, which reads no other

    def sample_prior(
        self,
        data: Data,
        chains: int,
        generator: torch.Generator | None = None,
        given: Mapping[str, torch.Tensor] | None = None,
        met: MutableMapping[str, Share] | None = None,
    ) -> Values:
        """See `Model.sample_prior`."""
        self.__drawing[0] = chains
        try:
            return super().sample_prior(data, chains, generator, given, met)
        finally:
            self.__drawing[0] = 1

    def _take_turns(self, count: int, drawing: list[int]) -> None:
        self.__count, self.__drawing = count, drawing

    def _count_of_priors(self) -> int:
        return self.__count


def take_turns(model: Model, count: int, drawing: list[int]) -> None:
    """Makes a model one whose chains have `count` priors in turn.

    Args:
        model: is changed.
        count: of its priors.
        drawing: its one number is kept at how many chains are drawn from the prior.
    """
    model.__class__ = type(type(model).__name__, (InTurn, type(model)), {"__doc__": type(model).__doc__})
    assert isinstance(model, InTurn)
    model._take_turns(count, drawing)


def priors_in_turn(model: Model) -> int:
    """How many priors the chains of a model have in turn, 1 for all models but these."""
    return model._count_of_priors() if isinstance(model, InTurn) else 1
