"""Rows that came later: read as the fitted ones were, and set behind them.

Note [The prior stays]
    Priors that were scaled by the data (`hiertorch.models.autoscale`) stay those of the data that were fitted first: a
    prior that moved with every update would make another model of each, and no weights lead from one to the other.
"""

import numpy as np
import pandas as pd
import torch

from hiertorch.data import reading
from hiertorch.data.frames import Table, as_frame
from hiertorch.data.newrows import FrameRows, appended, shown
from hiertorch.data.reading import read_column
from hiertorch.data.table import Data
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.errors import DataError
from hiertorch.predict.scene import Setting
from hiertorch.runtime.validating import validation

ALIKE = 20
"""Rows of which fewer may be like others by chance, where responses and predictors have few values."""


class Later:
    """New rows, read as the fitted ones were, and the data that they make together; arguments are those of
    `hiertorch.refits.monitoring.monitor`.

    `data` are all rows, `rows` the new ones, with response `y` and weights `w` (None without); `fresh` has the new
    groups of each plate.

    Raises:
        DataError: for rows that `Posterior.predict` refuses, and a response or weights that are missing.
    """

    def __init__(self, posterior: Fit, table: Table, weights: str | None = None, *, distinct: bool = False) -> None:
        self.posterior = posterior
        fitted = posterior.fitted
        self.fitted: Fitted = fitted
        data = fitted.data
        if data.by_chain:
            raise DataError(
                "each chain of this posterior was fitted to data of its own, and new rows belong to all: update one "
                "that was fitted to a response and weights of shape (rows,)."
            )
        frame, reader = as_frame(table), data.recipe.reader
        told = reader.weights(frame) if reader and weights is None else None
        if (weights is None and told is None) != (data.weights is None):
            raise DataError(
                "the fitted rows have weights, and the new rows need theirs: name their column, weights='w'."
                if weights is None
                else f"the fitted rows have no weights, so the new ones can't have weights={weights!r}: leave it out."
            )
        self.w = None
        if weights is not None:
            named = reading.predictor(weights, read_column(frame, weights), len(frame), data.dtype, data.device)
            frame = frame if reader or weights in {*data.recipe.columns.values()} else frame.drop(columns=weights)
        self.rows = FrameRows.read(data, frame, distinct=distinct)
        self.y = data.read_response(frame)
        if (w := told if weights is None else named) is not None:
            self.w = reading.row_weights(w, self.y)
        with torch.no_grad(), validation(False):
            Setting(fitted, posterior, self.rows, self.y)  # which says whether they can be read
        self.fresh = self.rows.fresh(data)
        self.data = self._merged()

    def _merged(self) -> Data:
        data = self.fitted.data
        whole = data.whole_data
        n, at = whole.n_rows, torch.from_numpy(np.arange(whole.n_rows)[data.whole_rows])
        codes, labels = {}, {}
        for plate, rows in self.rows.labels.items():
            known, new = data.labels[plate], self.fresh[plate]
            found = known.get_indexer(rows)
            behind = np.where(found >= 0, found, len(known) + new.get_indexer(rows))
            codes[plate] = np.concatenate([data.whole_codes[plate], behind])
            labels[plate] = appended(known, new)
        before = (whole.y if whole.y.ndim == 1 else whole.y[0]).to(data.device, data.dtype)
        columns = {name: torch.cat([whole.columns[name].to(x), x]) for name, x in self.rows.columns.items()}
        index = appended(whole.index, self.rows.index)
        merged = Data.beside(data, torch.cat([before, self.y]), columns, codes, labels, index)
        if len(at) < n or not torch.equal(at, torch.arange(n)):
            merged = merged.take(torch.cat([at, n + torch.arange(len(self.y))]))
        w = None if data.weights is None or self.w is None else torch.cat([data.weights, self.w])
        return merged.replace(y=torch.cat([data.y, self.y]), weights=w)

    @property
    def fitted_before(self) -> bool:
        """Whether the new rows are the last of the fitted ones, in all that they hold."""
        data, n = self.fitted.data, len(self.y)
        if not ALIKE <= n <= data.n_rows or any(len(labels) for labels in self.fresh.values()):
            return False
        known, later = data.rows(data.n_rows - n, data.n_rows), self.data.rows(data.n_rows, data.n_rows + n)
        one, other = known.fingerprint, later.fingerprint
        return (one.response, one.columns) == (other.response, other.columns)

    @property
    def new(self) -> dict[str, pd.Index]:
        """Plate -> new groups that effects vary over, where there are any."""
        return {plate: labels for plate, labels in self.fresh.items() if len(labels) and self.fitted.varies(plate)}

    def news(self) -> str:
        """New groups for a message."""
        return "; ".join(f"{plate} {shown(labels)}" for plate, labels in self.new.items())

    def numbers(self) -> dict[str, object]:
        """What a run says of an update, but for how it was made."""
        new = {plate: len(labels) for plate, labels in self.fresh.items() if len(labels)}
        return {"rows": len(self.y), "new_groups": new}
