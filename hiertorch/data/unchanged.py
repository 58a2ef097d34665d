"""Whether data are still those that were made.

Note [Changed in place]
    A likelihood that writes into a column (`data.x -= data.x.mean()`) changes it with every pass, and a caller who does
    after the fit gets criteria of other data than were fitted. Torch counts the writes into a tensor's memory, through
    whichever view they go, so that no value has to be looked at. Tensors that were made in inference mode do not count.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hiertorch.errors import DataError

if TYPE_CHECKING:
    from hiertorch.data.table import Data

__all__ = ["check_unchanged", "counted"]


def counted(data: "Data") -> dict[str, tuple[int, int]]:
    """Which tensors there are, and how often each was written to."""
    tensors = {f"the response {data.name!r}": data.y, "the weights": data.weights}
    tensors |= {f"column {name!r}": x for name, x in data.columns.items()}
    tensors |= {f"the codes of {plate!r}": x for plate, x in data.codes.items()}
    return {what: (id(x), 0 if x.is_inference() else x._version) for what, x in tensors.items() if x is not None}


def check_unchanged(data: "Data", before: Mapping[str, tuple[int, int]]) -> None:
    """Raises a DataError if the data are not as they were `counted` before."""
    now = counted(data)
    if changed := [what for what in {**before, **now} if before.get(what) != now.get(what)]:
        raise DataError(
            f"{changed[0]} was changed after the data were made, by the caller or by a likelihood that writes into its "
            "columns, so that results would mix two data sets: compute new tensors instead (x = data.x - 1, not "
            "data.x -= 1), and make the data anew (data.replace(y=...) for another response)."
        )
