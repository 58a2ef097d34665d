"""log p(y_i | theta^(s)): how well each draw of a posterior predicts each row that it was fitted to, chunk by chunk.

Chains x draws x rows numbers are never held: rows come in chunks, and draws are thinned evenly to some thousands, more
than which add nothing to what a criterion is uncertain of.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.arguments import check_count
from hiertorch.data.table import Data
from hiertorch.draws.fit import Fit
from hiertorch.errors import DataError
from hiertorch.gaussian.redraw import Redraw
from hiertorch.model.declared import refuse_own_density
from hiertorch.model.densities import weighted
from hiertorch.model.intervals import bounds
from hiertorch.model.latent import Values
from hiertorch.runtime.rooms import gathered
from hiertorch.runtime.validating import validation

DRAWS = 4_000
"""Of all chains together: draws that are looked at unless more are asked for."""

REAL = (-math.inf, math.inf)
NEAR = 0.01
LOOKED_AT = 8
"""Draws at which an overridden `log_prob` is held against its pieces."""

NUMBERS = 1_000_000
"""Draws x rows that are held at once."""


class Pointwise:
    """Some draws of a posterior, and log densities of the rows that it was fitted to.

    Args:
        posterior: knows its model and data.
        draws: of all chains together, at least; the draws of each chain are thinned evenly. None takes all.

    Attributes:
        model: that was fitted.
        data: likewise.
        chains: all of them.
        draw: numbers of the draws that are looked at, of every chain the same, `(draws,)`.
        stored: name -> these draws of a latent that was stored, `(chains, draws, size, *event)`.
        unstored: names of the latents that were not stored.
        redraw: what draws these again; None if there are none.

    Raises:
        DataError: if the posterior does not know its model and data, or each chain has data of its own.
    """

    def __init__(self, posterior: Fit, draws: int | None = DRAWS) -> None:
        check_count("draws", draws, none="for all")
        fitted = posterior.fitted
        self.posterior, self.model, self.data = posterior, fitted.model, fitted.data
        if self.data.by_chain:
            raise DataError(
                "each chain of this posterior was fitted to data of its own, so that no row has one density: fit a "
                "response and weights of shape (rows,)."
            )
        self.chains = posterior.chains
        step = 1 if draws is None else max(1, self.chains * posterior.n_draws // draws)
        self.draw = torch.arange(0, posterior.n_draws, step)
        held = {**posterior.more, **posterior.draws}
        some = {name: gathered(x[:, ::step]) for name, x in held.items() if name in self.model.latents}
        self._flat = {name: x.flatten(0, 1) for name, x in some.items()}
        self.stored = {name: x.unflatten(0, (self.chains, len(self.draw))) for name, x in self._flat.items()}
        effects = posterior.unstored
        self.unstored = tuple(name for name in self.model.latents if name not in self._flat)
        if self.unstored and not (effects is not None and set(self.unstored) <= set(effects.names)):
            raise DataError(
                f"the draws of {wording.listed(map(repr, self.unstored))} are needed, and the posterior does not hold "
                "them: name them in keep= of ht.sample."
            )
        self.redraw = effects.taken(slice(None), slice(None, None, step)) if self.unstored and effects else None
        if not self.unstored:
            with torch.no_grad(), validation(False):
                some = {name: x[:: max(1, self.number // LOOKED_AT)] for name, x in self._flat.items()}
                refuse_own_density(self.model, some, self.data, "what is asked of this posterior")

    @property
    def number(self) -> int:
        """Draws that are looked at, of all chains together."""
        return self.chains * len(self.draw)

    @property
    def flat(self) -> Values:
        """The draws that are at hand, chains and draws in one axis: `(chains x draws, size, *event)`."""
        return self.model.values(self._flat)

    @property
    def together(self) -> list[str]:
        """Effects that were not stored, and stored ones of the same groups, which are drawn again with them: a group's
        effects belong together.
        """
        if self.redraw is None:
            return []
        latents, linear = self.model.latents, self.redraw.collapsed.linear
        plates = {latents[name].plate for name in self.unstored}
        return [name for name in latents if latents[name].plate in plates and name in linear]

    def hold(self) -> None:
        """Draws again, once for all rows, what was not stored."""
        if self.redraw is not None:
            self._flat |= {name: x.flatten(0, 1) for name, x in self.redraw.draws(self.together).items()}
            self.redraw = None

    @cached_property
    def told(self) -> Tensor:
        """Numbers of the rows that say something of the latents, `(n,)`. Others are no rows for any criterion: those of
        weight 0, and those whose log density is 0 whatever the latents, such as rows without trials.

        Latents are drawn from their prior for this, and once more near 0: far out, where a probability rounds to 1, the
        log density of any row may be 0.
        """
        fitted = self.posterior.fitted
        reads, data = fitted.reads, self.data
        real = {name for name, prior in reads.distributions.items() if prior.support and bounds(prior.support) == REAL}
        near = {name: NEAR * x if name in real else x for name, x in reads.values.items()}
        silent = []
        with torch.no_grad(), validation(False):
            for start in range(0, data.n_rows, NUMBERS // LOOKED_AT):
                rows = data.rows(start, min(start + NUMBERS // LOOKED_AT, data.n_rows))
                terms = [weighted(self.model.log_likelihood(v, rows), rows.weights) for v in (reads.values, near)]
                silent.append((torch.cat(terms) == 0).all(0))
        return (~torch.cat(silent)).nonzero()[:, 0]

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Numbers of rows `(n,)`, all that are `told` in turn, with their log densities `(chains, draws, n)`, times the
        row weights where there are any.
        """
        for rows in self.told.split(max(1, NUMBERS // self.number)):
            yield rows, self.log_likelihood(rows)

    def log_likelihood(self, rows: Tensor) -> Tensor:
        """Log densities of some rows, `(chains, draws, rows)`, times the row weights where there are any."""
        found = []
        with torch.no_grad(), validation(False):
            for v, part in self.at(rows):
                found.append(weighted(self.model.log_likelihood(v, part), part.weights))
        return torch.cat(found).unflatten(0, (self.chains, len(self.draw)))

    def at(self, rows: Tensor) -> Iterator[tuple[Values, Data]]:
        """Values of all latents for some of the draws in turn, chains and draws in one axis, with the rows that they
        are read with. Of effects that were not stored there are those of these rows' groups.
        """
        part, values = self.data.take(rows), dict(self._flat)
        if self.redraw is not None:
            part, drawn = self._drawn_again(part, self.redraw)
            values |= {name: x.flatten(0, 1) for name, x in drawn.items()}
        each = max(len(rows), max(math.prod(x.shape[1:]) for x in values.values()))
        for at in torch.arange(self.number, device=self.data.device).split(max(1, NUMBERS // each)):
            some: Mapping[str, Tensor] = {name: x[at] for name, x in values.items()}
            yield self.model.values(some), part

    def _drawn_again(self, part: Data, effects: Redraw) -> tuple[Data, dict[str, Tensor]]:
        """Rows whose groups are numbered anew, and the effects of these groups."""
        codes, groups = dict(part.codes), {}
        for plate in {str(self.model.latents[name].plate) for name in self.unstored}:
            groups[plate], codes[plate] = part.codes[plate].unique(return_inverse=True)
        part = copy.copy(part)
        part.codes = codes
        return part, effects.draws(self.together, groups)


def labels_of(data: Data, rows: np.ndarray) -> list[str]:
    """Rows as they are called in messages."""
    return [wording.show(data.index[int(row)]) for row in rows]
