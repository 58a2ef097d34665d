"""What stands for the rows that a formula was fitted to, where these are not kept.

Terms are encoded by `formulae` from a frame, so that there has to be one: each column of categories goes through its
levels, and numbers lie between the means of the lower and of the upper half of the rows, in order of one column after
the other. These are means of rows, so that a term that can be computed of the rows can mostly be computed of them
(log(x - z) is above 0 in a half plane). What transforms have remembered of the rows is put back afterwards.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from hiertorch.formulas.design import Encoding
from hiertorch.formulas.encoding import Matrix
from hiertorch.formulas.parsing import names_in

STEPS = 8
"""Values of a column of numbers."""

LEVELS = 32
"""Different numbers with decimals, up to which they may be levels, such as doses; more are measured, and cut()."""


def matrices_of(thing: object) -> Iterator[Matrix]:
    """All matrices in an encoding, in the order in which they were made."""
    if isinstance(thing, Matrix):
        yield thing
    elif isinstance(thing, Mapping | list | tuple):
        for part in thing.values() if isinstance(thing, Mapping) else thing:
            yield from matrices_of(part)
    elif type(thing).__module__.startswith("hiertorch.formulas."):
        yield from matrices_of([part for name, part in vars(thing).items() if name != "parts"])


def stand_in(encoding: Encoding) -> pd.DataFrame:
    """A frame with the columns and levels of the one that an encoding was made with."""
    frame, parts = encoding.frame, encoding.parts
    terms = parts.terms.values()
    texts = [parts.response, *parts.told.values(), *(one.common for one in terms)]
    texts += [text for one in terms for text in (*one.offsets, *(bar.effects for bar in one.bars))]
    read = {name for text in texts for name in names_in(text)}
    told = encoding.factors | ({encoding.response} if encoding.categories else set())
    stepped = {name for name in told if name in frame and not _is_measured(frame[name])}
    stepped |= {str(name) for name, column in frame.items() if not pd.api.types.is_numeric_dtype(column.dtype)}
    numbers = [name for name in frame.columns if name in read and name not in stepped]
    levels = {name: frame[name].drop_duplicates() for name in frame.columns if name in read and name in stepped}
    rows = np.arange(max([STEPS * max(1, len(numbers)), *map(len, levels.values())]))
    low, high = _halves(frame, numbers)
    found = dict[str, object]()
    for name, column in frame.items():
        if name in levels:
            found[str(name)] = levels[name].iloc[rows % len(levels[name])].reset_index(drop=True)
        elif name in numbers:
            k, by = numbers.index(name), rows // STEPS % len(numbers)
            values = low[by, k] + rows % STEPS / (STEPS - 1) * (high[by, k] - low[by, k])
            whole = pd.api.types.is_integer_dtype(column.dtype)
            found[str(name)] = (values.round() if whole else values).astype(column.dtype)
        else:  # it names groups, whose labels the data know
            found[str(name)] = np.zeros(len(rows), np.int64)
    return pd.DataFrame(found)


def _is_measured(column: pd.Series) -> bool:
    return column.dtype.kind == "f" and column.nunique() > LEVELS and bool((column != column.round()).any())


def _halves(frame: pd.DataFrame, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Means of columns of numbers over the lower and upper half of the rows by each of them, `(by, columns)`."""
    values = frame[names].to_numpy(np.float64)
    half = max(1, len(values) // 2)
    orders = [np.argsort(values[:, k], kind="stable") for k in range(len(names))]
    low = np.array([values[order[:half]].mean(0) for order in orders]).reshape(len(names), -1)
    high = np.array([values[order[len(values) // 2 :]].mean(0) for order in orders]).reshape(len(names), -1)
    return low, high
