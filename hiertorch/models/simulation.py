"""Grouped data whose truth is known, for every ready structure and family."""

import math
import secrets
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.arguments import check_seed
from hiertorch.data.table import Data
from hiertorch.errors import DataError, ModelError
from hiertorch.model.latent import Values
from hiertorch.model.means import centre
from hiertorch.model.model import Model
from hiertorch.models.dealing import Groups, dealt_codes, group_labels
from hiertorch.models.design import Design, design_of
from hiertorch.models.varying_intercepts import VaryingIntercepts
from hiertorch.runtime.surroundings import at_home
from hiertorch.wording import closest, listed

SLOPE = 0.5
"""Of x, without a model."""

NOISE = 1.0
"""Standard deviation of rows, without a model."""

CPU = torch.device("cpu")
"""Where simulated data are made, so that a seed makes the same ones everywhere."""


@dataclass(frozen=True)
class Simulated:
    """Rows with the values that they were drawn from.

    Attributes:
        frame: one row an observation, as a user would have it.
        data: the same, read from the frame.
        values: the true latents, name -> `(size, *event)`; size is the number of groups, 1 at the population level.
        seed: which makes the same again.
    """

    frame: pd.DataFrame
    data: Data
    values: dict[str, Tensor]
    seed: int

    def __repr__(self) -> str:
        width = max(map(len, self.values))
        truths = [f"  {name:<{width}} = {_shown(value)}" for name, value in self.values.items()]
        return "\n".join([f"Simulated with seed {self.seed}. {self.data!r}", "  true values:", *truths])


@at_home
def simulate_grouped(
    groups: Groups | None = None,
    rows: int | Sequence[int] = 15,
    *,
    effects: Sequence[float] | None = None,
    slope: float = SLOPE,
    noise: float = NOISE,
    model: Model | None = None,
    values: Mapping[str, object] | None = None,
    seed: int | None = None,
) -> Simulated:
    """y_ij = effect_j + slope x_ij + noise_ij with x_ij ~ Normal(0, 1); with `model`, y ~ p(y | values) of that model.

    With a model, latents that `values` does not give are drawn from their prior. Predictors and offsets are standard
    normal by row, group-level predictors standard normal by group, trials whole numbers from 1 to 20, exposures uniform
    on 0.5 to 2, known standard errors uniform on 0.5 to 1.5. Priors that the data choose
    (`hiertorch.models.autoscale`) see a response that lies around eta = 0, or 1 where eta has to be above 0, with sd 1
    where it is in units of eta.

    Args:
        groups: how many (6 if left out, or as many as `effects` or `rows` tell); by grouping, such as {"school": 6},
            where it matters what they are called or there are several. Labels instead of a number, such as {"school":
            12, "year": [2001, 2002, 2005]}, are taken in sorted order. In `Nested` it is the number within each group
            above; the labels are then such as "s1/c2".
        rows: of each group, one number for all or one for each: in `Nested` of the finest groups, in `Crossed` of those
            of the first grouping (the others are dealt out at random, each group at least once), in `TimeVarying` of
            those of the plate (the times follow one another through the rows).
        effects: without a model, the groups' true levels in the order of their labels; drawn from Normal(0, 1) if left
            out.
        slope: without a model.
        noise: without a model, the sd of the noise.
        model: a ready structure, a subclass of one, or another `hiertorch.models.design.Designed` model.
        values: with a model, latent -> true value that broadcasts to `(size, *event)`.
        seed: of all randomness, which leaves torch's own as it is; a random one if left out.

    Raises:
        DataError: for numbers of groups and rows that can't be.
        ModelError: for a model whose columns are not known, and values that it does not have or allow.

    Example:
        >>> simulated = simulate_grouped(effects=[-1.0, 0.0, 1.0], rows=[4, 4, 2], slope=0.5, noise=0.1, seed=1)
        >>> simulated.data
        Data: 10 rows, response 'y'
          columns: x
          groupings: group (3 groups of 2 to 4 rows)
        >>> simulated.values["alpha"]
        tensor([-1.,  0.,  1.], dtype=torch.float64)
    """
    check_seed(seed)
    seed = secrets.randbits(63) if seed is None else int(seed)
    generator = torch.Generator(CPU).manual_seed(seed)
    if model is not None:
        if effects is not None or (slope, noise) != (SLOPE, NOISE):
            raise ModelError(
                "effects=, slope= and noise= describe data without a model; with model= give the latents by name, "
                "values={'beta': 0.6}."
            )
        if values is not None and not isinstance(values, Mapping):
            raise ModelError(f"values are those of latents by name, values={{'beta': 0.6}}, found {values!r}.")
        return _simulated(model, groups, rows, dict(values or {}), seed, generator)
    if values is not None:
        raise ModelError("values= are those of a model's latents: give model=, or effects=, slope= and noise=.")
    if not isinstance(noise, int | float) or isinstance(noise, bool) or not 0 < noise < math.inf:
        raise DataError(f"noise is a standard deviation above 0, found {noise!r}.")
    if effects is not None and not isinstance(effects, Sized):
        raise DataError(f"effects are a list of numbers, one for each group, found {effects!r}.")
    if groups is None and effects is not None:
        groups = len(effects)
    names = list(groups) if isinstance(groups, Mapping) else ["group"]
    if len(names) != 1:
        raise DataError(f"without a model there is one grouping, found {listed(names)}; give model= for several.")
    structure = VaryingIntercepts(names[0], ["x"], priors="tutorial")  # all but x is given
    truth: dict[str, object] = {"mu_alpha": 0.0, "sigma_alpha": 1.0, "beta": slope, "sigma_y": noise}
    if effects is not None:
        truth["alpha"] = effects
    made = _simulated(structure, groups, rows, truth, seed, generator)
    shown = ["alpha", "beta", "sigma_y"] if effects is not None else list(made.values)
    return Simulated(made.frame, made.data, {name: made.values[name] for name in shown}, seed)


def _simulated(
    model: Model, groups: Groups | None, rows: object, values: dict[str, object], seed: int, generator: torch.Generator
) -> Simulated:
    """With every group, column and latent of a model."""
    if (design := design_of(model)) is None:
        found = f"{model.__name__}, a class: call it" if isinstance(model, type) else type(model).__name__
        raise ModelError(
            f"simulate_grouped knows which columns the structures of ht.models read; found {found}. For a model of "
            "your own make ht.Data with any response, and call model.simulate(values, data); or let it say its "
            "columns, as a hiertorch.models.design.Designed."
        )
    if design.encoded:
        raise ModelError(
            "simulate_grouped can't make the columns of a formula, which are made of a frame's: take a frame with any "
            "response that the family allows, model, data = ht.formula(...), and then model.simulate(values, data)."
        )
    labels = group_labels(model, design, groups, rows)
    coded = dealt_codes(design, labels, rows, generator)
    columns = _columns(design, coded, labels, generator)
    if taken := [name for name in (*coded, *columns) if name == "y"] or [name for name in columns if name in coded]:
        raise ModelError(f"{taken[0]!r} would be two columns of the data; the response is called 'y'. Rename it.")
    frame = pd.DataFrame({**{plate: labels[plate][codes] for plate, codes in coded.items()}, **columns})
    blank = _blank(design, Data.from_frame(frame.assign(y=0.0), "y", list(coded), [*columns]), generator)
    with torch.no_grad():
        shapes = model.sample_prior(blank, 1, torch.Generator(CPU).manual_seed(0))
        given = {name: _given(model, name, value, shapes).unsqueeze(0) for name, value in values.items()}
        truth = model.sample_prior(blank, 1, generator, given)
        for name in values:
            support: Any = model.prior(name, truth, blank).support
            if not bool(torch.as_tensor(support.check(truth[name])).all()):
                raise ModelError(f"the value given for {name!r}, {values[name]!r}, is outside its support, {support}.")
        y = model.simulate(truth, blank, generator)[0].numpy()
        kind: Any = model.likelihood(truth, blank).support
    frame = frame.assign(y=y.astype(np.int64) if kind.is_discrete else y)
    data = Data.from_frame(frame, "y", list(coded), list(columns))
    return Simulated(frame, data, {name: truth[name][0] for name in model.latents}, seed)


def _blank(design: Design, data: Data, generator: torch.Generator) -> Data:
    """The rows with a response around eta = 0, by which priors are chosen before there is one."""
    noughts = torch.randn(data.n_rows, generator=generator, dtype=torch.float64)
    noughts = (noughts - noughts.mean()) / (noughts.std() if data.n_rows > 1 else 1.0)
    shift = torch.zeros(data.n_rows, dtype=data.dtype) if design.offset is None else data[design.offset]
    family = design.family
    halves = Values(
        {
            name: torch.full((1, 1, *map(len, latent.axes)), 0.5, dtype=torch.float64)
            for name, latent in family.latents.items()
        }
    )
    eta = family.usual_predictor + shift.to(noughts) + (noughts if family.scaled or family.scales else 0.0)
    if family.usual_predictor > 0.0:
        eta = eta.clamp(min=0.1)
    return data.replace(y=centre(family.distribution(eta.unsqueeze(0), halves, data))[0])


def _columns(
    design: Design, codes: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], generator: torch.Generator
) -> dict[str, np.ndarray]:
    """Every column that the model reads beside its groupings, `(rows,)`."""
    total = len(next(iter(codes.values())))

    def normal(number: int) -> np.ndarray:
        return torch.randn(number, generator=generator, dtype=torch.float64, device=CPU).numpy()

    found = {name: normal(total) for name in design.predictors}
    for plate, names in design.group_predictors.items():
        found |= {name: normal(len(labels[plate]))[codes[plate]] for name in names}
    if design.offset is not None:
        found[design.offset] = normal(total)
    of_rows = design.family.draw_columns(total, generator)
    if of_rows is None:
        raise ModelError(
            f"nothing is known of column {design.family.columns[0]!r}, which {design.family!r} reads: give the family "
            "draw_columns(rows, generator), or make ht.Data with it and call model.simulate(values, data)."
        )
    return found | {name: x.numpy() for name, x in of_rows.items()}


def _given(model: Model, name: str, value: object, shapes: Mapping[str, Tensor]) -> Tensor:
    """A true value as `(size, *event)`."""
    if name not in model.latents:
        derived = " It is computed from them: give those." if name in model.derived else ""
        raise ModelError(
            f"values names {name!r}, which is no latent of {type(model).__name__}; its latents are "
            f"{', '.join(model.latents)}.{derived or closest(name, list(model.latents))}"
        )
    shape = shapes[name].shape[1:]
    try:
        return torch.as_tensor(np.asarray(value, np.float64)).expand(shape).clone()
    except (TypeError, ValueError, RuntimeError) as error:
        given = getattr(value, "shape", None) or np.asarray(value, object).shape
        found = f"shape {tuple(given)}" if given else repr(value)
        raise ModelError(
            f"the value given for {name!r} should be numbers that broadcast to (size, *event) = {tuple(shape)}; found "
            f"{found}."
        ) from error


def _shown(value: Tensor) -> str:
    """A number, a few numbers, or the range of many."""
    numbers = value.flatten().tolist()
    if len(numbers) == 1:
        return f"{numbers[0]:.3g}"
    if len(numbers) <= 8 and value.dim() == 1:
        return ", ".join(f"{x:.3g}" for x in numbers)
    return f"{tuple(value.shape)}, from {min(numbers):.3g} to {max(numbers):.3g}"
