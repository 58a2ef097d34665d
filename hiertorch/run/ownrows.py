"""Which groups a process has, with their rows, where groups are dealt out; and that the parts make the whole.

docs/decisions.md: Groups over processes.
"""

from typing import NamedTuple

import torch

from hiertorch.data.table import Data
from hiertorch.errors import SamplingError
from hiertorch.gaussian.audit import LIMIT, ROUNDING
from hiertorch.model.checks import inspect
from hiertorch.model.model import Model
from hiertorch.randomness import stream
from hiertorch.run.options import Options
from hiertorch.runtime.ranks import Ranks, Share, Summed

MANY = 5_000_000
"""Rows from which on groups are dealt out unasked, where that can be: a process then holds its own alone."""

TRIALS = 4
"""Draws from the prior at which the parts are held against the whole."""


class RowsRefusedError(SamplingError):
    """The groups of this model can't be dealt out."""

    def __init__(self, needs: str) -> None:
        super().__init__(f"spread='rows' needs {needs}; use spread='chains'.")


class OwnRows(NamedTuple):
    """The groups of a process."""

    data: Data  # their rows
    groups: Share  # which they are of all
    plate: str


def wants_rows(options: Options, data: object, ranks: Ranks) -> bool:
    """Whether groups are to be dealt out, and not chains."""
    if ranks.number == 1 or options.spread == "chains" or not isinstance(data, Data):
        return False
    return options.spread == "rows" or data.n_rows >= MANY


def own_rows(model: Model, data: Data, options: Options, ranks: Ranks) -> OwnRows:
    """Consecutive groups of the one grouping that has latents, for each process nearly as many rows.

    Raises:
        RowsRefusedError: for models, data and options for which that can't be.
    """
    if not isinstance(model, Model):
        inspect(model, data)
    if options.checkpoint is not None:
        raise RowsRefusedError("a run without checkpoint= (checkpoint: false in a config), from which it can't go on")
    unmet = {"init": options.init, "start": options.start, "plan": options.plan}
    if given := [name for name, x in unmet.items() if x is not None]:
        raise RowsRefusedError(f"a run without {given[0]}=")
    if options.prior_only or not options.collapse:
        raise RowsRefusedError("a run with the likelihood, of which effects are integrated out of a surrogate")
    plates = {latent.plate for latent in model.latents.values() if latent.plate is not None}
    if len(plates) != 1:
        raise RowsRefusedError(f"effects of one grouping alone, and here {len(plates)} have effects")
    (plate,) = plates
    if plate not in data.codes:
        inspect(model, data)  # says so
    data = data.in_memory()
    codes, number = data.codes[plate], len(data.labels[plate])
    rows = torch.bincount(codes, minlength=number).cpu()
    if number < ranks.number or not int(rows.min()):
        raise RowsRefusedError(f"groups of {plate!r} that all have rows, {ranks.number} at least")
    upto, ends = rows.cumsum(0).double(), [0]
    for k in range(1, ranks.number):
        near = int((upto - data.n_rows * k / ranks.number).abs().argmin()) + 1
        ends.append(min(max(near, ends[-1] + 1), number - ranks.number + k))
    dealt = [range(start, stop) for start, stop in zip(ends, [*ends[1:], number], strict=True)]
    groups = Share(number, ranks, dealt)
    model.sample_prior(data, 1, stream(0, "rows", device=data.device))  # priors are scaled by all rows, now
    mine = (codes >= groups.own.start) & (codes < groups.own.stop)
    return OwnRows(data.take_alone(mine.nonzero().flatten()), groups, plate)


def check_parts(model: Model, data: Data, own: OwnRows) -> None:
    """Holds the sum of what all processes have against the model's own density of all rows, at draws from the prior.

    Raises:
        RowsRefusedError: if they differ.
    """
    ranks = own.groups.ranks
    summed, device = Summed(TRIALS, ranks), own.data.device
    drawn = model.sample_prior(own.data, TRIALS, stream(1, "rows", device=device))
    population = {n: summed.of_first(x) for n, x in drawn.items() if model.latents[n].plate is None}
    values = dict(model.sample_prior(own.data, TRIALS, stream(1, "rows", ranks.rank, device=device), population))
    terms = model.log_prior_terms(values, own.data)
    once = [terms[name].sum(-1) for name in population]
    part = model.log_prob(values, own.data)
    total = summed.total(part - torch.stack(once).sum(0), *once)
    grouped = [name for name in values if name not in population]
    every = own.groups.at_first([values[name] for name in grouped], [1] * len(grouped))
    gap = 0.0
    if ranks.first:
        whole = model.log_prob({**population, **dict(zip(grouped, every, strict=True))}, data)
        finite = whole.isfinite() & total.isfinite()
        allowed = LIMIT + ROUNDING * whole.abs().nan_to_num(0.0, 0.0, 0.0)
        gap = float((((total - whole).abs() - allowed)[finite]).clamp(min=0.0).sum()) if bool(finite.any()) else 0.0
    if ranks.agreed([gap])[0]:
        raise RowsRefusedError(
            "a density that is a sum over groups given population latents, and the parts of this model differ from the "
            f"whole by {gap:.3g}, as where a prior or a row reads other groups"
        )
