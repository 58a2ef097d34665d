"""The model and the data that draws are of."""

import copy
import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.model.latent import Values
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads, watched
from hiertorch.runtime.validating import validation

NUMBERS = 1_000_000
"""Numbers of a latent that derived quantities are computed from at once."""

TRIALS = 8
"""Of random halves of the groups, each of which a row that reads two groups escapes with probability 3/4 or less."""

ROWS = 1000
"""Of the fitted data, in which it is looked up which columns and groupings a likelihood reads."""


class Fitted:
    """The model and the data behind a posterior, as they were fitted, in the dtype and on the device of some draws.

    Attributes:
        model, data: both.
        has_rows: whether the data are the rows that were fitted; without, it is known how new rows are read alone.
    """

    has_rows = True

    def __init__(self, model: Model, data: Data, like: Tensor) -> None:
        self.model = copy.deepcopy(model).to(like.device, like.dtype)
        self.data = data.to(like.device, like.dtype)
        self._first: dict[str, np.ndarray] = {}

    @cached_property
    def reads(self) -> Reads:
        """What the model reads, and a draw of all latents from the prior."""
        rows = self.data.rows(0, min(self.data.n_rows, ROWS))
        with torch.no_grad(), validation(False):
            return watched(self.model, self.data, torch.Generator(self.data.device).manual_seed(0), rows=rows)

    @property
    def response(self) -> Distribution | None:
        """The likelihood at a draw from the prior, in some rows; None where the model writes its density alone."""
        return self.reads.response

    def width(self, name: str) -> int:
        """Numbers that a group has of a latent."""
        return self.reads.values[name][0, 0].numel()

    def varies(self, plate: str) -> bool:
        """Whether groups of a plate have effects that new groups can be given."""
        latents = self.model.latents.values()
        return any(x.plate == plate for x in latents) and all(x.labels_of != plate for x in latents)

    def is_axis(self, plate: str) -> bool:
        """Whether the model reads a plate whose groups have no effects of their own."""
        named = any(latent.labels_of == plate for latent in self.model.latents.values())
        return named or (not self.varies(plate) and bool(self.reads.columns & {plate, "codes"}))

    @cached_property
    def across(self) -> frozenset[str]:
        """Plates of which rows read groups other than their own, such as a second tutor's; see Note [Proof by probing]
        in structure.py.
        """
        model, values = self.model, self.reads.values
        rows, found = self.data.rows(0, min(self.data.n_rows, ROWS)), set()
        generator = torch.Generator(self.data.device).manual_seed(0)
        plates = {latent.plate for latent in model.latents.values() if latent.plate in self.data.plates}
        with torch.no_grad(), validation(False):
            before = model.log_likelihood(model.values(values), rows) if plates else rows.y
            for plate in sorted(map(str, plates)):
                for _ in range(TRIALS):
                    size = self.data.size(plate)
                    moves = torch.rand(size, generator=generator, device=generator.device) < 0.5
                    moved = {
                        name: torch.where(moves.reshape(-1, *(1,) * (x.dim() - 2)), x.roll(1, 0), x)
                        if model.latents[name].plate == plate
                        else x
                        for name, x in values.items()
                    }
                    after = model.log_likelihood(model.values(moved), rows)
                    same = (before == after) | (before.isnan() & after.isnan()) | moves[rows.codes[plate]]
                    if not bool(same.all()):
                        found.add(plate)
        return frozenset(found)

    def first(self, plate: str) -> np.ndarray:
        """The first row of each group in the whole of the data, -1 if it has none: `(groups,)`."""
        if plate not in self._first:
            codes = self.data.whole_codes[plate]
            self._first[plate] = np.full(self.data.size(plate), -1)
            self._first[plate][codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # the last assignment stands
        return self._first[plate]

    def derived(self, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the model derives from latents, of those that it can be derived from: name -> `(chains, draws, size,
        *event)`, of draws likewise.
        """
        if not self.model.derived:
            return {}
        chains, draws = next(iter(drawn.values())).shape[:2]
        flat, order = {name: x.flatten(0, 1) for name, x in drawn.items()}, tuple(self.model.latents)
        per = max(1, NUMBERS // max(math.prod(x.shape[1:]) for x in flat.values()))
        found: dict[str, Tensor] = {}
        for name, quantity in self.model.derived.items():
            try:
                with torch.no_grad():
                    parts = [
                        quantity(Values({key: x[at : at + per] for key, x in flat.items()}, order), self.data)
                        for at in range(0, chains * draws, per)
                    ]
            except ModelError:  # it reads a latent that is not among them
                continue
            found[name] = torch.cat(parts).unflatten(0, (chains, draws))
        return found
