"""Findings about data: predictors that do not vary, over all rows or within groups, or say the same; what labels of
groups and levels of predictors say about a data set that was put together by hand; and what all checks of data need.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.data.reading import EXACT, spread_rows
from hiertorch.data.spelling import clashes
from hiertorch.data.table import Data
from hiertorch.model.model import Model
from hiertorch.models.design import design_of
from hiertorch.wording import many, quoted, show

LEVELS = ("error", "warning", "note")
"""Of severity, the gravest first."""

COLUMNS = ("severity", "about", "finding", "advice")
"""Of the table of findings."""

LOOK = 200_000
"""Columns are summed up over so many rows, spread evenly over all."""

BROKEN = (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
"""What a model may raise at draws from its prior, or at a few rows alone: a buffer with an entry for each row, a
distribution that can't be drawn from, parameters that overflow, memory that runs out.
"""

SINGULAR = 1e-3
"""Of singular values over the largest: one predictor is the others' sum within a thousandth. Also above float32's
rounding.
"""

LABELS = 300_000
"""Labels of a grouping, above which they are not compared: it would take more than a second."""


class Finding(NamedTuple):
    """Something that a model asks for and the data lack."""

    severity: Literal["error", "warning", "note"]
    about: str  # a grouping, column or latent
    finding: str  # what was found, with its numbers
    advice: str

    @property
    def sentence(self) -> str:
        """For logs and bars."""
        return f"{self.severity}: {self.about}: {self.finding} {self.advice}"


def differs_by_chain(scale: Tensor) -> bool:
    """Whether a scale `(chains, ...)` is learnt: each chain has its own."""
    return scale.dim() > 1 and bool((scale != scale[:1]).any())


def column_findings(model: Model, data: Data) -> Iterator[Finding]:
    """Predictors that do not vary, over all rows or within groups, or that say the same."""
    if (design := design_of(model)) is None:
        return
    constant = []
    for name in design.predictors:
        x = data.rows(0, min(data.n_rows, LOOK))[name]
        if data.n_rows > 1 and bool((x == x[0]).all()) and bool((data[name] == x[0]).all()):
            constant.append(name)
            finding = f"it is {float(x[0]):.4g} in all rows, so its coefficient can't be told from the intercept."
            yield Finding("warning", name, finding, "Leave it out.")
    yield from _collinear([name for name in design.predictors if name not in constant], data.columns, "rows")
    for plate, columns in design.group_predictors.items():
        filled = data.counts(plate) > 0
        values = {name: data.group_values(name, plate)[filled] for name in columns}
        for name in columns:
            if filled.sum() > 1 and bool((values[name] == values[name][0]).all()):
                finding = f"it is {float(values[name][0]):.4g} in all groups of {plate}, so it can't explain them."
                yield Finding("warning", name, finding, "Leave it out.")
                del values[name]
        yield from _collinear(list(values), values, f"groups of {plate}")
    for plate, columns in design.varying.items():
        for name in columns:
            if name not in constant:
                yield from _slope(name, plate, data)


def _slope(name: str, plate: str, data: Data) -> Iterator[Finding]:
    """In how many groups of two rows or more a predictor stays the same."""
    several = data.counts(plate) > 1
    groups = int(several.sum())
    first = torch.zeros(data.size(plate), dtype=data.dtype, device=data.device)
    moves, met = torch.zeros_like(several), torch.zeros_like(several)
    for at in range(0, data.n_rows, LOOK):  # rows in random order show all groups soon
        rows = data.rows(at, min(at + LOOK, data.n_rows))
        x, codes = rows[name], rows[plate]
        new = ~met[codes]
        first[codes[new]], met[codes] = x[new], True  # any row of a group serves
        moves[codes[x != first[codes]]] = True
        if int(moves.sum()) == groups:
            return
    still = groups - int(moves.sum())
    if groups == 0 or still == 0:
        return
    if still == groups:
        finding = f"it varies within none of {many(groups, f'group of {plate}', f'groups of {plate}')}."
        advice = "A slope by group can't be learnt; make it a group-level predictor, or leave it out of varying=."
        yield Finding("error", name, finding, advice)
        return
    finding = f"it does not vary within {still} of {groups} groups of {plate}, whose own rows do not show their slope."
    yield Finding("warning" if 10 * still >= groups else "note", name, finding, "Their slopes come from the others.")


def _collinear(names: Sequence[str], columns: Mapping[str, Tensor], what: str) -> Iterator[Finding]:
    """Predictors, each centred and scaled, of which some sum is 0: by the singular values of their matrix."""
    if len(names) < 2 or len(columns[names[0]]) <= len(names) + 1:
        return

    def design(rows: Tensor | slice) -> Tensor:
        x = torch.stack([columns[name][rows] for name in names], -1).double()
        x = x - x.mean(0)
        return x / x.square().sum(0).sqrt().clamp(min=torch.finfo(x.dtype).tiny)

    # If some rows show that all predictors differ, they do.
    some = design(spread_rows(len(columns[names[0]]), LOOK // 10, columns[names[0]].device))
    _, values, vectors = torch.linalg.svd(some, full_matrices=False)
    if float(values[-1]) > SINGULAR * float(values[0]):
        return
    if len(some) < len(columns[names[0]]):
        x = design(slice(None))
        squares, vectors = torch.linalg.eigh(x.mT @ x)  # accurate to 1e-8 of the largest singular value
        values, vectors = squares.clamp(min=0.0).sqrt().flip(0), vectors.mT.flip(0)
    null = vectors[values <= SINGULAR * values[0]]
    if len(null) == 0:
        return
    involved = [name for name, part in zip(names, null.abs().amax(0).tolist(), strict=True) if part > 0.01]
    rank = len(involved) - len(null)
    finding = f"{quoted(involved)} are collinear over {what}: {many(rank, 'of them tells', 'of them tell')} all."
    yield Finding("warning", involved[0], finding, f"Leave {len(null)} of them out.")


def label_findings(data: Data) -> Iterator[Finding]:
    """Labels that are most likely one group in two spellings, and numbers that were rounded before they came here."""
    for plate, labels in data.labels.items():
        if len(labels) <= LABELS and (pairs := clashes(labels)):
            one, other = pairs[0]
            more = f" (with {many(len(pairs) - 1, 'further pair')})" if len(pairs) > 1 else ""
            finding = f"labels {show(other)} and {show(one)} are two groups{more}, and may be one in two spellings."
            yield Finding("warning", plate, finding, "If they are one, write them alike in the frame.")
        if labels.dtype.kind == "f" and bool((far := np.abs(labels.to_numpy()) >= EXACT).any()):
            finding = f"label {show(labels[int(np.argmax(far))])} is a number beyond 2^53, which float64 rounds."
            advice = "Groups may have been merged: read the column as text, or as whole numbers."
            yield Finding("warning", plate, finding, advice)
    for column, levels in data.recipe.levels.items():
        if pairs := clashes(pd.Index(levels, dtype=object)):
            finding = f"levels {pairs[0][1]!r} and {pairs[0][0]!r} are two, and may be one in two spellings."
            yield Finding("warning", column, finding, "If they are one, write them alike in the frame.")
