"""Rows taken from a data set, and the same rows elsewhere, with another response or other weights.

Note [Changed in place]
    A likelihood that writes into a column (`data.x -= data.x.mean()`) changes it with every pass, and a caller who does
    after the fit gets criteria of other data than were fitted. Torch counts the writes into a tensor's memory, through
    whichever view they go, so that no value has to be looked at. Tensors that were made in inference mode do not count.
"""

from collections.abc import Callable, Mapping
from typing import Self

import pandas as pd
import torch
from torch import Tensor

from hiertorch.data import reading
from hiertorch.data.facts import Facts
from hiertorch.data.fingerprint import Fingerprint
from hiertorch.data.reading import check_aligned
from hiertorch.errors import DataError
from hiertorch.runtime.surroundings import feels_at_home


@feels_at_home
class Parts(Facts):
    """What is made of `Data`, and whether they are still those that were made."""

    _index: pd.Index  # of the whole
    _mark: Fingerprint | None  # None before anyone has asked
    _exact: Self | None  # the same data before they were rounded on a device
    _state: dict[str, tuple[int, int]]  # which tensors these are, and how often each was written to, see `counted`

    @property
    def index(self) -> pd.Index:
        """The frame's index of these rows, or their numbers."""
        return self._index if self._rows is None else self._index[self.whole_rows]

    @property
    def fingerprint(self) -> Fingerprint:
        """Of response, weights, columns and groupings in float64: data in float32 have that of what they were made
        from.
        """
        if self._mark is None:
            self._mark = Fingerprint.of(self._exact or self)
        return self._mark

    def to(self, device: torch.device | str | int | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same data on another device or in another floating dtype; codes stay long."""
        reading.check_dtype(self.dtype if dtype is None else dtype)
        self.check_unchanged()

        def moved(tensor: Tensor, row_axis: int = 0) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        try:
            rows = moved(self._rows) if isinstance(self._rows, Tensor) else self._rows
            new = self._mapped(moved, _rows=rows, _cache={key: moved(tensor) for key, tensor in self._cache.items()})
        except (AssertionError, RuntimeError, TypeError) as error:  # torch has one for each way of not having a device
            raise reading.no_device(device, error) from error
        if dtype in (None, self.dtype):
            new._mark, new._exact = self._mark, self._exact
        elif self.device.type != "cpu":  # whose values are not asked for
            new._mark, new._exact = self._mark, self._exact or self
        else:
            new._mark = self.fingerprint
            new._check_finite()  # some numbers are too large for float32
        return new

    def _check_finite(self) -> None:
        for name, column in self.columns.items():
            reading.check_finite(f"column {name!r}", column, row_axis=0)
        for what, x in ((f"the response {self.name!r}", self.y), ("the weights", self.weights)):
            if x is not None:
                reading.check_finite(what, x, row_axis=-1)

    def take(self, rows: object, weights: object = None) -> Self:
        """Some rows in a given order; a row may come twice. Groups and their nesting stay those of the whole data set.

        Args:
            rows: row numbers from 0, long tensor `(taken,)`; those on another device than the CPU are not looked at.
            weights: `(taken,)` or `(chains, taken)`, in place of the rows' own; their values are not looked at.

        Raises:
            DataError: for what are no row numbers, or none of these data.
        """
        numbers = reading.row_numbers(rows, self.n_rows).to(self.device)

        def taken(tensor: Tensor, row_axis: int = 0) -> Tensor:
            return tensor.index_select(row_axis, numbers)

        if isinstance(self._rows, slice):
            new = self._part(taken, numbers + self._rows.start)
        else:
            new = self._part(taken, numbers if self._rows is None else taken(self._rows))
        if weights is not None:
            new.weights = reading.row_weights(weights, new.y, check_values=False)
            new._state = counted(new)
        return new

    def rows(self, start: int, stop: int) -> Self:
        """Rows start to stop - 1 as views, without a copy. Groups and their nesting stay those of the whole data set.

        Raises:
            DataError: unless 0 <= start < stop <= `n_rows`.
        """
        reading.check_span(start, stop, self.n_rows)

        def viewed(tensor: Tensor, row_axis: int = 0) -> Tensor:
            return tensor.narrow(row_axis, start, stop - start)

        if isinstance(self._rows, Tensor):
            return self._part(viewed, viewed(self._rows))
        before = 0 if self._rows is None else self._rows.start
        return self._part(viewed, slice(before + start, before + stop))

    def take_alone(self, rows: Tensor) -> Self:
        """Some rows, long tensor `(taken,)`, as a data set of their own, which knows no other groups than theirs."""
        part = self.take(rows)
        codes, labels = {}, {}
        for plate in self.plates:
            present, codes[plate] = part.codes[plate].unique(return_inverse=True)
            labels[plate] = self.labels[plate][present.cpu().numpy()]
        cache = {key: x for key, x in self._cache.items() if key[0] in ("response", "column")}
        return part._changed(
            codes=codes,
            labels=labels,
            whole_codes={plate: x.cpu().numpy() for plate, x in codes.items()},
            _index=part.index,
            _whole=None,
            _rows=None,
            _cache=cache,
        )

    def replace(self, *, y: object = None, weights: object = None) -> Self:
        """The same rows with another response or other weights, `(rows,)` or `(chains, rows)`; None keeps them. Priors
        that the data choose follow another response, not other weights: a fold has the priors of all rows.

        Raises:
            DataError: as when data are made.
        """
        cache = {key: x for key, x in self._cache.items() if y is None or key[0] != "response"}
        check_aligned([("y", y), ("weights", weights)], self.index)
        new = self.y if y is None else reading.response(self.name, y, self.dtype, self.device)
        reading.check_length("the new response", new.shape[-1], self.n_rows)
        weights = self.weights if weights is None else weights
        return self._changed(
            y=new, weights=None if weights is None else reading.row_weights(weights, new), _cache=cache
        )

    def with_columns(self, columns: Mapping[str, Tensor]) -> Self:
        """The same rows with further columns, `(rows, *trailing)`, of the dtype and on the device of the others."""
        return self._changed(columns={**self.columns, **columns})

    def of_chains(self, at: int | Tensor) -> Self:
        """The response and weights of a chain, or of some, where each chain has its own; priors stay those of all."""

        def chosen(x: Tensor) -> Tensor:
            return x[at] if x.dim() == 2 else x

        return self._changed(y=chosen(self.y), weights=None if self.weights is None else chosen(self.weights))

    def _part(self, function: Callable[[Tensor, int], Tensor], rows: Tensor | slice) -> Self:
        """These rows of the whole, each tensor by a function of it and of the axis of its rows."""
        cache = {key: tensor for key, tensor in self._cache.items() if key[0] != "counts"}
        return self._mapped(function, _whole=self.whole_data, _rows=rows, _cache=cache)

    def _mapped(self, function: Callable[[Tensor, int], Tensor], **attributes: object) -> Self:
        """Every tensor replaced by a function of it and of the axis of its rows."""
        return self._changed(
            y=function(self.y, -1),
            weights=None if self.weights is None else function(self.weights, -1),
            first_weights=None if self.first_weights is None else function(self.first_weights, -1),
            columns={name: function(column, 0) for name, column in self.columns.items()},
            codes={plate: function(codes, 0) for plate, codes in self.codes.items()},
            **attributes,
        )

    def _changed(self, **attributes: object) -> Self:
        new = type(self).__new__(type(self))
        new.__dict__.update({**self.__dict__, "_mark": None, "_exact": None, **attributes})
        new._state = counted(new)
        return new

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._state = counted(self)  # copies count anew

    def check_unchanged(self) -> None:
        """Raises a DataError if a tensor was written to, or replaced, since the data were made."""
        now = counted(self)
        if changed := [what for what in {**self._state, **now} if self._state.get(what) != now.get(what)]:
            raise DataError(
                f"{changed[0]} was changed after the data were made, by the caller or by a likelihood that writes into "
                "its columns, so that results would mix two data sets: compute new tensors instead (x = data.x - 1, "
                "not data.x -= 1), and make the data anew (data.replace(y=...) for another response)."
            )


def counted(data: Facts) -> dict[str, tuple[int, int]]:
    """Which tensors there are, and how often each was written to."""
    tensors = {f"the response {data.name!r}": data.y, "the weights": data.weights}
    tensors |= {f"column {name!r}": x for name, x in data.columns.items()}
    tensors |= {f"the codes of {plate!r}": x for plate, x in data.codes.items()}
    return {what: (id(x), 0 if x.is_inference() else x._version) for what, x in tensors.items() if x is not None}
