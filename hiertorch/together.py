"""log p(y_j | theta) = sum_i log p(y_ij | theta): groups j between whose rows nothing but the population makes a tie.

So complete pooling can be asked how well it predicts a new group, and be compared with models that have effects of
groups, which `hiertorch.bygroup` integrates out.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from hiertorch import reading
from hiertorch.criteria import Criterion, _trust, question
from hiertorch.elpd import Rows, dic, loo, total, waic
from hiertorch.errors import DataError
from hiertorch.pointwise import DRAWS, Pointwise
from hiertorch.posterior import Posterior

__all__ = ["Together", "criterion_of"]


def criterion_of(posterior: Posterior, kind: Any, by: str, *, draws: int | None = DRAWS) -> Criterion:
    """`posterior.criterion(kind, by)`, also by a grouping of the data that no effects of the model vary over.

    Raises:
        DataError: for a grouping that the data don't have, and for all that `Posterior.criterion` refuses.
    """
    fitted = posterior._fitted()
    plates = {latent.plate for latent in fitted.model.latents.values()} - {None}
    if by == "row" or any(by == plate or (by in fitted.data and fitted.data.nests(plate, by)) for plate in plates):
        return posterior.criterion(kind, by, draws=draws)
    if by not in fitted.data.plates:
        raise DataError(
            f"by= is 'row' or a grouping of the data that were fitted ({reading.listed(fitted.data.plates)}); found "
            f"{by!r}: name it in groups= of ht.Data, also for a model that ignores it."
        )
    by_row = {"loo": loo, "waic": waic, "dic": dic}
    if kind not in by_row:
        raise DataError(f"kind= is one of {reading.listed(by_row)}; found {kind!r}.")
    source = Together(Pointwise(posterior, draws), by)
    found, details = by_row[kind](source)
    elpd, se = total(found["elpd"])
    columns = {name: found[name] for name in ("elpd", "p", "pareto_k") if name in found}
    return Criterion(
        kind,
        by,
        elpd,
        se,
        float(found["p"].sum()),
        pd.DataFrame(columns, index=source.index),
        {**details, "draws": float(source.pointwise.number)},
        type(fitted.model).__name__,
        question(by),
        [*_trust(kind, found, details, source), *source.notes()],
    )


class Together:
    """Groups that have rows, and the log density of all rows of each; a `hiertorch.elpd.Source`.

    Args:
        pointwise: the draws.
        plate: a grouping of the data.
    """

    what = "group"

    def __init__(self, pointwise: Pointwise, plate: str) -> None:
        self.pointwise, self._codes = pointwise, pointwise.data.codes[plate]
        self._kept = (pointwise.data.counts(plate) > 0).nonzero()[:, 0]
        self._size = pointwise.data.size(plate)
        self.index = pointwise.data.labels[plate][self._kept.cpu().numpy()]
        self.details: dict[str, float] = {}

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """See `hiertorch.elpd.Source`; all groups at once."""
        shape = (self.pointwise.chains, len(self.pointwise.draw), self._size)
        sums = torch.zeros(shape, dtype=torch.float64, device=self._codes.device)
        for rows, log_density in self.pointwise.chunks():
            sums.index_add_(2, self._codes[rows], log_density.double())
        yield torch.arange(len(self._kept), device=self._codes.device), sums[..., self._kept]

    def at_mean(self, units: Tensor) -> Tensor:
        """See `hiertorch.elpd.Source`."""
        rows = torch.arange(self.pointwise.data.n_rows, device=self._codes.device)
        log_density = Rows(self.pointwise).at_mean(rows).double()
        return log_density.new_zeros(self._size).index_add(0, self._codes, log_density)[self._kept][units]

    def notes(self) -> list[str]:
        """Which groups were left out."""
        missing = self._size - len(self._kept)
        return [f"{missing} of {self._size} groups have no rows, and are left out."] if missing else []
