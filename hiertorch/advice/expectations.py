"""Priors against the scale of the data: the response by simulation, coefficients by the spread of their columns."""

import copy
import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Normal

from hiertorch.advice.findings import BROKEN, LOOK, Finding, differs_by_chain
from hiertorch.data.reading import spread_rows
from hiertorch.data.table import Data
from hiertorch.families import LOG, Family
from hiertorch.model.declared import overrides
from hiertorch.model.latent import Values
from hiertorch.model.means import centre
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads
from hiertorch.model.transport import location_scale
from hiertorch.models.autoscale import INTERCEPTS, Autoscaled
from hiertorch.models.design import Design, Designed, design_of

TIGHT = 5.0
"""Prior sds. No coefficient of one predictor explains more than sd(y) / sd(x): beyond 5 of them the prior all but
excludes half of that, an ordinary effect.
"""

WIDE = 100.0
"""Times sd(y) / sd(x): a prior so wide says that the column's unit was not thought of."""

OFF_CENTRE = 3.0
"""Sds from 0, or prior sds of the intercept."""

FAR = 10.0
"""A response that varies less than any simulated one is a warning beyond this factor only: with wide priors on several
coefficients, as the data choose them for ready structures, simulated responses vary more than any real one, which does
no harm. So it is with means under a log link, such as those of counts, since that of the simulated ones is of the
largest.
"""

CLOSE = 0.01
"""Beyond the largest that is no finding: the sd of as many 1 as 0 is the largest that there is."""

DRAWS = 200
"""Data sets simulated from the prior. Beyond all of them lies 1 % of what the prior expects."""

ROWS = 2_000
"""Of each such data set."""

NUMBERS = 1_000_000
"""Of effects, that may be drawn for all of them."""

FINITE = 1e15
"""Counts of a larger mean are not simulated: they leave the range of whole numbers."""


def scale_findings(model: Model, data: Data, reads: Reads) -> Iterator[Finding]:
    """Priors against the scale of the response and of predictors, by simulation from the prior."""
    if any(overrides(model, method) for method in ("log_prob", "log_prior_term")):  # declared priors may be unused
        return
    some = _thinned(model, data, reads)
    if some is None:
        return
    some = some.to("cpu", torch.float64)
    model = copy.deepcopy(model).to("cpu", torch.float64)
    generator = torch.Generator("cpu").manual_seed(0)
    try:
        draws = model.sample_prior(some, DRAWS, generator)
    except BROKEN:
        return
    yield from _response_findings(model, some, draws, generator)
    if (design := design_of(model)) is not None:
        gaussian = isinstance(reads.response, Normal)
        yield from _coefficient_findings(model, design, data, some, draws, gaussian=gaussian)


def _response_findings(model: Model, data: Data, draws: Values, generator: torch.Generator) -> Iterator[Finding]:
    """Mean and sd of y against those of simulated responses: beyond all of them lies 1 % of what the prior expects."""
    simulated = _simulated(model, data, draws, generator)
    if simulated is None or data.n_rows < 2:
        return
    how = "priors on the data's scale, or rescale y."
    if isinstance(model, Designed) and model.takes_priors:
        how = ("" if _chosen(model) else 'priors="autoscale", or ') + f"priors={{...}} with {how}"
    y = data.y.reshape(-1, data.n_rows)
    statistics = (y.mean(-1), y.std(-1, correction=0))
    design = design_of(model)
    slacks = (FAR if design is not None and design.family.link == LOG else 1.0, FAR)
    for what, found, expected, slack in zip(("mean", "sd"), statistics, simulated, slacks, strict=True):
        expected = expected[~expected.isnan()]
        if len(expected) < DRAWS // 2:
            continue
        low, high = float(expected.min()), float(expected.max())
        varies = (y != y[:, :1]).any(-1)  # a constant y is told already
        outside = (found > high + CLOSE * abs(high)) | (found < low / slack) & varies
        if 2 * int(outside.sum()) > len(found):  # of data sets by chain, most
            typical = float(found.median())
            finding = (
                f"its {what} is {typical:.4g}, where the priors expect {low:.3g} to {high:.3g} ({DRAWS} simulated "
                "data sets)."
            )
            yield Finding("warning", data.name, finding, f"Use {how}")


def _simulated(model: Model, data: Data, draws: Values, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
    """Mean and sd over rows of a response simulated for each draw, `(draws,)` each: infinite where it overflows, NaN
    where the likelihood is; None if it can't be drawn from.
    """
    try:
        centres = centre(model.likelihood(draws, data)).expand(DRAWS, data.n_rows)
        fine = (centres.abs() < FINITE).all(-1)
        if not bool(fine.any()):
            return None
        y = model.simulate({name: x[fine] for name, x in draws.items()}, data, generator)
    except BROKEN:
        return None
    means = centres.sum(-1) * math.inf
    sds = means.abs()
    means[fine], sds[fine] = y.mean(-1), y.std(-1, correction=0)
    return means, sds


def _coefficient_findings(
    model: Model, design: Design, data: Data, some: Data, draws: Values, *, gaussian: bool
) -> Iterator[Finding]:
    """Prior sds of coefficients against sd(y) / sd(x), or 1 / sd(x) where eta has a scale of its own; Gaussian rows let
    coefficients be integrated out together, wherever columns are centred.
    """
    rows = spread_rows(data.n_rows, LOOK, data.device)
    looked_at = data.take(rows)
    unit = _unit(design.family, looked_at)
    levels = [_prior_sd(model, name, draws, some) for name in INTERCEPTS if name in draws]
    columns: list[tuple[str, Tensor, tuple[str, ...]]]
    columns = [(name, looked_at[name], ("beta", "mu_beta")) for name in design.predictors]
    for plate, names in design.group_predictors.items():
        filled = data.counts(plate) > 0
        columns += [(name, data.group_values(name, plate)[filled], ("gamma",)) for name in names]
    for name, x, prefixes in columns:
        mean, sd, step = _summed_up(x)
        prior_sd = _coefficient_sd(model, name, prefixes, draws, some)
        if prior_sd is None or not sd > 0 or not unit > 0:
            continue
        wanted = unit / step
        where = f"it has mean {mean:.4g} and sd {sd:.4g}"
        sizes = f"effects of the data's size are some {wanted:.3g} a unit, and the prior's sd {prior_sd:.3g}."
        if wanted > TIGHT * prior_sd:
            how = "" if _chosen(model) else ' (priors="autoscale")'
            advice = f"Measure it in units nearer its sd, or widen the prior of its coefficient{how}."
            yield Finding("warning", name, f"{where}: {sizes}", advice)
        elif wanted * WIDE < prior_sd:
            advice = "Measure it in larger units, or narrow the prior of its coefficient."
            yield Finding("note", name, f"{where}: {sizes}", advice)
        away = abs(mean) / sd
        if away <= OFF_CENTRE:
            continue
        finding = f"{where}, so that the intercept, the level at 0, lies {away:.3g} sds away from the rows"
        advice = f"Centre it: subtract {mean:.4g}."
        if levels and abs(mean) * wanted > OFF_CENTRE * max(levels):
            finding += f", where its prior, of sd {max(levels):.3g}, may exclude it."
            yield Finding("warning", name, finding, advice)
        elif not gaussian:
            finding += ": chains move slowly along what the two leave open, a higher level and a lower slope."
            yield Finding("warning", name, finding, advice)


def _unit(family: Family, data: Data) -> float:
    """Of eta: the sd of y, or what the family says of it where it has a scale of rows on the scale of the link."""
    y = data.y.double()
    if family.scaled:
        return float(y.std(-1).mean())
    return (
        float(family.level_and_spread(y, torch.zeros_like(y.reshape(-1, data.n_rows)[0]), data)[1])
        if family.scales
        else 1.0
    )


def _chosen(model: Model) -> bool:
    """Whether the data choose the priors that the user did not."""
    return any(isinstance(latent.prior, Autoscaled) for latent in model.latents.values())


def _coefficient_sd(model: Model, column: str, prefixes: tuple[str, ...], draws: Values, some: Data) -> float | None:
    """Prior sd of a column's coefficient, found by the labels of population-level latents, or else of groups'."""
    for population in (True, False):
        for name, latent in model.latents.items():
            axes = latent.axes
            if (latent.plate is None) is not population or not name.startswith(prefixes) or not axes:
                continue
            if column in axes[-1] and (len(axes) == 1 or axes[0][0] == "intercept"):
                at = list(axes[-1]).index(column)
                return _prior_sd(model, name, draws, some, (at,) if len(axes) == 1 else (0, at))
    return None


def _prior_sd(model: Model, name: str, draws: Values, data: Data, at: tuple[int, ...] = ()) -> float:
    """Of an entry of a latent's event: the prior's own scale if it is one number, otherwise the sd of a normal
    distribution with the quartiles of the draws, since heavy tails have no sd.
    """
    found = location_scale(model.prior(name, draws, data))
    if found is not None and not differs_by_chain(found[1]):
        return float(_entry(found[1].expand(draws[name].shape), at).median())
    quartiles = torch.tensor([0.25, 0.75], dtype=torch.float64)
    low, high = _entry(draws[name], at).flatten().nanquantile(quartiles).tolist()
    return (high - low) / 1.349


def _entry(values: Tensor, at: tuple[int, ...]) -> Tensor:
    """Of the events, the entry at an index; all of them without one."""
    for i, k in enumerate(at):
        values = values.select(i - len(at), k)
    return values


def _summed_up(x: Tensor) -> tuple[float, float, float]:
    """Mean, sd, and what counts as a large change: an sd, or for two values the way from one to the other."""
    x = x.double()
    mean, low, high = float(x.mean()), float(x.min()), float(x.max())
    sd = float(x.std()) if len(x) > 1 else 0.0
    binary = bool(((x == low) | (x == high)).all())  # a rare group of rows has a small sd, and is no small unit
    return mean, sd, high - low if binary else sd


def _thinned(model: Model, data: Data, reads: Reads) -> Data | None:
    """Rows spread evenly over all, for which draws of all latents are cheap; None if they never are."""
    widths = Counter[str]()  # the cost of a group: its numbers, and the matrix that draws of vectors take
    for name, latent in model.latents.items():
        if latent.plate is not None:
            numbers = math.prod(reads.values[name].shape[2:])
            widths[latent.plate] += numbers + numbers**2 // 8
    rows = spread_rows(data.n_rows, ROWS, data.device)
    if DRAWS * sum(width * data.size(plate) for plate, width in widths.items()) <= NUMBERS:
        return data if len(rows) == data.n_rows else data.take(rows)
    fewer = NUMBERS // (DRAWS * sum(widths.values()))
    return data.take_alone(rows[spread_rows(len(rows), fewer, rows.device)]) if fewer >= 2 else None
