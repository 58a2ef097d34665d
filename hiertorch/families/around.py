"""Families that are made of another one."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.families.family import Family
from hiertorch.model.latent import Latent


class Around(Family):
    """A family made of another one, whose predictor, columns, link and latents it has.

    Args:
        base: the other one.
        prefix: of its name.
        more: what its formula says behind that of the base.
        latents: beside those of the base.
        columns: likewise.
    """

    def __init__(
        self,
        base: Family,
        prefix: str,
        more: tuple[str, ...],
        latents: Mapping[str, Latent] | None = None,
        columns: tuple[str, ...] = (),
    ) -> None:
        if not isinstance(base, Family):
            raise ModelError(
                f"{type(self).__name__} is made of a family, such as ht.families.Poisson(); found {base!r}."
            )
        self.base, self.name = base, f"{prefix}_{base.name}"
        self.formula = f"{type(self).__name__}({', '.join([base.formula, *more])})"
        self.link, self.links, self.scales, self.sizes = base.link, base.links, base.scales, base.sizes
        self.columns = (*base.columns, *columns)
        self.scale_texts, self.unit_text = base.scale_texts, base.unit_text
        self.latents = {**base.latents, **(latents or {})}

    @property
    def has_default_link(self) -> bool:
        """As the base has it."""
        return self.base.has_default_link

    @property
    def scaled(self) -> bool:
        """As the base has it."""
        return self.base.scaled

    @property
    def usual_predictor(self) -> float:
        """That of the base."""
        return self.base.usual_predictor

    def typical_row(self, data: Data) -> dict[str, Tensor]:
        """That of the base."""
        return self.base.typical_row(data)

    def check_columns(self, data: Data) -> None:
        """As the base asks for."""
        self.base.check_columns(data)

    def informative(self, data: Data) -> Tensor | None:
        """Rows that the base learns from."""
        return self.base.informative(data)

    def draw_columns(self, rows: int, generator: torch.Generator) -> dict[str, Tensor] | None:
        """Those of the base."""
        return self.base.draw_columns(rows, generator)

    def statistics(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Those of the base."""
        return self.base.statistics()

    def level_and_spread(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """Those of the base."""
        return self.base.level_and_spread(y, offset, data)

    def unit_of_scales(self, y: Tensor, offset: Tensor, data: Data) -> Tensor:
        """That of the base."""
        return self.base.unit_of_scales(y, offset, data)

    def unit_of_sizes(self, y: Tensor, data: Data) -> Tensor:
        """That of the base."""
        return self.base.unit_of_sizes(y, data)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base!r})"
