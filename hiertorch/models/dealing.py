"""Groups of simulated data: their labels, and which rows are dealt to which group."""

from collections.abc import Iterable, Mapping, Sequence, Sized
from numbers import Integral

import numpy as np
import pandas as pd
import torch

from hiertorch.errors import DataError
from hiertorch.model.model import Model
from hiertorch.models.design import Design
from hiertorch.wording import listed

GROUPS = 6
"""Where nobody says how many."""

Groups = int | Mapping[str, int | Sequence[object]]
"""How many, or by grouping how many, or their labels."""


def group_labels(model: Model, design: Design, groups: Groups | None, rows: object) -> dict[str, np.ndarray]:
    """Grouping -> labels of its groups; those of a time are numbers."""
    own = [latent.plate for latent in model.latents.values() if latent.plate is not None]
    plates = tuple(dict.fromkeys([*own, *design.times]))
    if not isinstance(groups, Mapping):
        if len(plates) > 1:
            raise DataError(
                f"{type(model).__name__} has the groupings {listed(plates)}: say how many groups each has, groups="
                f"{{{', '.join(f'{plate!r}: {GROUPS}' for plate in plates)}}}."
            )
        if groups is None:
            groups = len(rows) if isinstance(rows, Sized) else GROUPS
        groups = {plates[0] if plates else "group": groups}
    plates = plates or tuple(groups)
    if set(groups) != set(plates) or not plates:
        raise DataError(
            f"groups must name the groupings of {type(model).__name__}, {listed(plates)}; found {listed(groups)}."
        )
    found: dict[str, np.ndarray] = {}
    above = np.array([""])
    for plate in plates:
        names = _names(plate, groups[plate], numbers=plate in design.times)
        if plate in design.nested:
            names = np.array([f"{parent}{name}" for parent in above for name in names])
            above = np.array([f"{name}/" for name in names])
        found[plate] = names
    return found


def _names(plate: str, groups: int | Sequence[object], *, numbers: bool) -> np.ndarray:
    """Labels in the order in which data are coded: s1 .. s9, s01 .. s12, or 1 .. 12; or those given."""
    if isinstance(groups, Integral) and not isinstance(groups, bool) and int(groups) >= 1:
        count = np.arange(1, int(groups) + 1)
        return count if numbers else np.array([f"{plate[0]}{k:0{len(str(groups))}d}" for k in count])
    if isinstance(groups, Iterable) and not isinstance(groups, str) and len(given := list(groups)) > 0:
        index = pd.Index(given)
        if not index.is_unique:
            raise DataError(f"the labels of {plate!r} name {index[index.duplicated()][0]!r} twice.")
        try:
            return np.asarray(index.sort_values())
        except TypeError as error:
            raise DataError(f"the labels of {plate!r} can't be sorted: {error}. Give labels of one kind.") from error
    raise DataError(f"the groups of {plate!r} are a whole number of at least 1, or their labels; found {groups!r}.")


def dealt_codes(
    design: Design, labels: Mapping[str, np.ndarray], rows: object, generator: torch.Generator
) -> dict[str, np.ndarray]:
    """Grouping -> code of every row."""
    plates = list(labels)
    led = design.nested[-1] if design.nested else plates[0]  # whose groups have so many rows each
    counts = _counts(led, len(labels[led]), rows)
    codes = {led: np.repeat(np.arange(len(counts)), counts)}
    total = int(counts.sum())
    for plate in plates:
        size = len(labels[plate])
        if size > total:
            raise DataError(f"{size} groups of {plate!r} need as many rows at least, found {total}: raise rows=.")
        if plate in design.nested:
            codes[plate] = codes[led] // (len(labels[led]) // size)
        elif plate in design.times:
            times = np.arange(total) % size
            codes[plate] = times[np.lexsort((times, codes[led]))]
        elif plate != led:
            more = torch.randint(size, (total - size,), generator=generator, device=generator.device)
            dealt = torch.cat([torch.arange(size, device=generator.device), more])
            codes[plate] = dealt[torch.randperm(total, generator=generator, device=generator.device)].numpy()
    return {plate: codes[plate] for plate in plates}


def _counts(plate: str, size: int, rows: object) -> np.ndarray:
    """The number of rows of each group."""
    each = [rows] * size if isinstance(rows, Integral) else list(rows) if isinstance(rows, Iterable) else [rows]
    if len(each) != size:
        raise DataError(f"rows has {len(each)} numbers, and {plate!r} has {size} groups: give one a group, or one.")
    counts = pd.Series(each)
    if not pd.api.types.is_integer_dtype(counts) or (counts < 1).any():
        raise DataError(f"rows must be whole numbers of at least 1, found {rows!r}.")
    return counts.to_numpy()
