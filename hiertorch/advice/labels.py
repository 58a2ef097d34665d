"""What the labels of groups and the levels of predictors say about a data set that was put together by hand."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from hiertorch.advice.findings import Finding
from hiertorch.data.reading import EXACT
from hiertorch.data.spelling import clashes
from hiertorch.data.table import Data
from hiertorch.wording import many, show

LOOK = 300_000
"""Labels of a grouping, above which they are not compared: it would take more than a second."""


def label_findings(data: Data) -> Iterator[Finding]:
    """Labels that are most likely one group in two spellings, and numbers that were rounded before they came here."""
    for plate, labels in data.labels.items():
        if len(labels) <= LOOK and (pairs := clashes(labels)):
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
