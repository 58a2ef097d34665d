"""What Poisson and negative binomial rows share."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hiertorch.data import admissible
from hiertorch.data.table import Data
from hiertorch.families import rowforms
from hiertorch.families.family import LOG, Family, check_column_name, sd, uniform


class Counts(Family):
    """Counts, whose mean is exposure_i exp(eta_i).

    Args:
        exposure: the column that holds what the mean is in proportion to, such as a population or a time; 1 if left
            out.
    """

    link, links = LOG, (LOG,)

    def __init__(self, exposure: str | None = None) -> None:
        self.exposure = exposure
        rate, self.mean_text = "y", "exp(eta)"
        if exposure is not None:
            check_column_name("exposure", exposure)
            self.columns = (exposure,)
            rate, self.mean_text = f"y / {exposure}", f"{exposure} exp(eta)"
        self.scale_texts = (f"log(mean({rate}))", f"sd(log({rate}))")

    def log_mean(self, eta: Tensor, data: Data) -> Tensor:
        """eta_i + log exposure_i."""
        return eta if self.exposure is None else eta + data[self.exposure].log()

    def form_of(self, kind: type[rowforms.RowForm], data: Data, latents: Mapping[str, str]) -> rowforms.FamilyForm:
        """A form of counts, whose offset is log exposure_i."""
        offset = None if self.exposure is None else data[self.exposure].log()
        return rowforms.FamilyForm(kind, offset=offset, latents=latents)

    def check_columns(self, data: Data) -> None:
        """Exposures are above 0."""
        if self.exposure is not None:
            admissible.positive(data, self.exposure, "exposures")

    def draw_columns(self, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Exposures, uniform on 0.5 to 2."""
        return {name: uniform(rows, 0.5, 2.0, generator) for name in self.columns}

    def level_and_spread(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """The log of all counts over all expected ones, exposure exp(offset), and the sd of the rows' log rates, at
        least 1. Half a count is added, without which none would be infinite.
        """
        expected = self.log_mean(offset, data).to(y)  # (rows,)
        y = (y if y.dim() == 1 else y.mean(0)).clamp(min=0.0)
        rates = (y + 0.5).log() - expected
        return (y.sum() + 0.5).log() - expected.logsumexp(0), sd(rates).clamp(min=1.0)
