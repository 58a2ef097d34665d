"""The scales of columns and of the response, by which priors are chosen.

Rows that the data were made with weight 0 for do not count. The numbers are those of the data that were fitted first:
folds, parts and later rows keep them (`Data.computed_once`), since a prior that moved with the rows would make another
model of each.
"""

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.errors import DataError
from hiertorch.families import Family
from hiertorch.families.family import sd

SHARE = 0.2
"""Of a column's range that counts as its sd at least: an indicator of few rows has a small sd, and is no small unit."""


def column_scale(data: Data, name: str) -> Tensor:
    """Mean and scale of a column over rows, `(2,)`: its sd, or a fifth of its range if that is more; for a constant
    one its size, or 1 if it is 0.
    """

    def numbers(data: Data) -> Tensor:
        whole = data.whole_data  # of parts, too: columns are never replaced
        x = _counted(whole)[name].double()
        low, high = x.aminmax()
        size = torch.where(low == 0, torch.ones_like(low), low.abs())
        varies = torch.where(high > low, torch.maximum(sd(x), SHARE * (high - low)), size)
        return torch.stack([x.mean(), varies]).to(data.y)

    return data.computed_once(("column", name, "scale"), numbers)


def response_scale(data: Data, family: Family, offset: str | None = None) -> Tensor:
    """Level and spread of the linear predictor without its offset, as the response tells, `(2,)`; the responses of all
    chains count together.

    Raises:
        DataError: if the response has no spread.
    """

    def numbers(data: Data) -> Tensor:
        part = _counted(data)
        y = part.y.double()
        shift = torch.zeros_like(y) if offset is None else part[offset].double()
        level, spread = family.level_and_spread(y, shift, part)
        least = 8.0 * torch.finfo(data.dtype).eps * level.abs() * family.scaled  # less is rounding
        if not bool(level.isfinite() & spread.isfinite() & (spread > least)):
            raise DataError(
                f"the response {data.name!r} has no spread (one row, or one value in all), by which priors could be "
                'scaled: give all priors, priors={...}, or take priors="tutorial", which do not look at the data.'
            )
        return torch.stack([level, spread]).to(data.y)

    key = ("response", "scale", type(family).__qualname__, repr(family), repr(offset))
    return data.computed_once(key, numbers)


def _counted(data: Data) -> Data:
    """The rows that have had a weight in some chain."""
    if data.first_weights is None:
        return data
    kept = (data.first_weights > 0).reshape(-1, data.n_rows).any(0).nonzero()[:, 0]
    return data if len(kept) in (0, data.n_rows) else data.take(kept)
