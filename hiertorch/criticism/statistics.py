"""Statistics T(y) of a response that say what a model reproduces, and what to think of where it doesn't.

A statistic of your own is an object of this class, which `posterior.predictive_check([it])` asks:

    Statistic("slope", lambda y, data: slope(y, data["x"]), columns=("x",))
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.errors import DataError
from hiertorch.wording import listed

KINDS = ("continuous", "count", "binary", "category")


@dataclass(frozen=True)
class Statistic:
    """T: responses `(draws, rows)` -> `(draws,)`, and what it means if the data have another T than replications.

    Attributes:
        name: in tables, sentences and figures.
        function: T(y, data) of responses y and the rows that they are of: `data["x"]` is a column, `data["school"]` the
            code of each row's group.
        above: what is so of the data if T(y) is above T(y_rep), up to "than the model makes".
        below: likewise.
        advice_above: what to think of then.
        advice_below: likewise.
        only_above: whether T(y) below T(y_rep) is no misfit.
        kinds: of response that it can be asked of.
        groups: groupings that it reads.
        columns: columns that it reads.
        drawn: whether it has a panel in the figure of statistics.
    """

    name: str
    function: Callable[[Tensor, Data], Tensor]
    above: str = ""
    below: str = ""
    advice_above: str = ""
    advice_below: str = ""
    only_above: bool = False
    kinds: tuple[str, ...] = KINDS
    groups: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    drawn: bool = True

    def __call__(self, y: Tensor, data: Data) -> Tensor:
        """T of responses `(draws, rows)`, `(draws,)`, float64.

        Raises:
            DataError: if the function gives something of another shape, or no finite number.
        """
        found: object = self.function(y, data)
        if not isinstance(found, Tensor) or found.shape != y.shape[:1]:
            what = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise DataError(
                f"statistic {self.name!r} must make (draws,) = ({len(y)},) of responses (draws, rows) = "
                f"{tuple(y.shape)}; found {what}: reduce the last axis, as in lambda y: y.median(1).values."
            )
        if not bool(torch.isfinite(found).all()):
            at = int((~torch.isfinite(found)).nonzero()[0])
            raise DataError(
                f"statistic {self.name!r} is {float(found[at])} for a response of mean {float(y[at].mean()):.4g}: make "
                "it finite for every response that the model can make."
            )
        return found.double()

    def check(self, kind: str, data: Data) -> None:
        """Raises a DataError unless it can be asked of a response of this kind, and of these rows."""
        if kind not in self.kinds:
            raise DataError(f"statistic {self.name!r} is of a {' or '.join(self.kinds)} response; this one is {kind}.")
        for what, names, there in (("grouping", self.groups, data.plates), ("column", self.columns, data.columns)):
            if missing := [name for name in names if name not in there]:
                raise DataError(
                    f"statistic {self.name!r} reads the {what} {missing[0]!r}, and the data have "
                    f"{listed(map(repr, there)) if there else 'none'}."
                )

    def lies(self, above: bool) -> str:
        """What is so of the data, up to "than the model makes"."""
        said = self.above if above else self.below
        return said or f"Statistic {self.name!r} of the data is {'higher' if above else 'lower'}"


Statistics = Mapping[str, Callable[[Tensor], Tensor]] | Sequence[Statistic] | Statistic
"""Statistics of a user's own: functions of responses alone by name, or objects that may read groups and columns."""


def given(statistics: Statistics | None, taken: set[str]) -> Iterator[Statistic]:
    """A user's own.

    Raises:
        DataError: unless these are statistics, or functions, under names of their own.
    """
    own: list[object]
    if isinstance(statistics, Mapping):
        own = [_of_function(name, function) for name, function in statistics.items()]
    else:
        own = list(statistics) if isinstance(statistics, Sequence) else [] if statistics is None else [statistics]
    for one in own:
        if not isinstance(one, Statistic):
            raise DataError(
                "statistics= maps names to functions of a response (draws, rows), {'median': lambda y: "
                f"y.median(1).values}}, or is a list of Statistic; found {one!r}."
            )
        if one.name in taken:
            raise DataError(f"{one.name!r} is one of the statistics that are always there; give yours another name.")
        yield one


def _of_function(name: object, function: Callable[[Tensor], Tensor]) -> Statistic:
    if not isinstance(name, str):
        raise DataError(f"a statistic is called by a text, found {name!r}.")
    if not callable(function):
        raise DataError(f"statistic {name!r} is a function of a response (draws, rows); found {function!r}.")
    return Statistic(name, lambda y, _: function(y))


def p_text(p: float, draws: int) -> str:
    """A p-value for print, of so many replications."""
    least = 1 / draws
    return f"p < {least:g}" if p < least else f"p > {1 - least:g}" if p > 1 - least else f"p = {p:.3f}"
