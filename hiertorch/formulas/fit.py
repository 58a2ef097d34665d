"""`ht.formula` and `ht.fit`: text and a frame in, a model and its data, or a posterior, out."""

import inspect
from collections.abc import Hashable, Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from hiertorch import wording
from hiertorch.arguments import check_choice
from hiertorch.data.frames import as_frame
from hiertorch.data.remake import Remake
from hiertorch.data.table import Data
from hiertorch.errors import DataError, ModelError, OptionError, warn
from hiertorch.families import CODED, Bernoulli, Binomial, Family, Gaussian, named
from hiertorch.formulas.categories import by_category, categories_of
from hiertorch.formulas.columns import NA, complete, in_order
from hiertorch.formulas.design import Encoding
from hiertorch.formulas.every import written_out
from hiertorch.formulas.habits import check_options, check_priors
from hiertorch.formulas.model import FormulaModel
from hiertorch.formulas.notes import matrices_of, stand_in
from hiertorch.formulas.parsing import Parts, check_formula, parse
from hiertorch.formulas.predictors import Predictor, effects_of
from hiertorch.formulas.ranks import check_degrees, warn_of_groups, warn_of_spare
from hiertorch.formulas.responses import check_family, check_response
from hiertorch.formulas.shrinkage import Shrinkage
from hiertorch.posterior import Posterior
from hiertorch.runtime.surroundings import at_home
from hiertorch.sampling import sample


@at_home
def formula(
    text: str,
    frame: object = None,
    *,
    family: Family | str = "gaussian",
    priors: Mapping[str, object] | None = None,
    na: str = "error",
    functions: Mapping[str, object] | None = None,
    dtype: torch.dtype = torch.float64,
    data: object = None,
    **parameters: str,
) -> tuple[FormulaModel, Data]:
    """The model that a formula says, and the data of a frame for it.

    Args:
        text: such as "MathAch ~ SES * Sector + (SES | School)"; docs/formulas.md says what can be written. `.` on the
            right is all columns that are not named as the response, beside it, or as a grouping. Behind a response
            stands what is told of its rows: `y | cens(c, y2)` says which are censored, c "none", "right", "left" or
            "interval" (0, 1, -1, 2, or True where right-censored), from y to y2; `y | trunc(lb, ub)` that rows are seen
            only from lb to ub. Predictions of censored rows are of what would be seen without.
        frame: a pandas DataFrame, a mapping of columns, or a table with the Arrow interface (polars, pyarrow, DuckDB).
        family: "gaussian", "bernoulli", "binomial", "poisson", "negative_binomial", "student_t", or another of
            `hiertorch.families`, by name or as an object. The response of "cumulative", "sratio" and "acat" is whole
            numbers or a `pandas.Categorical`, whose categories that occur count, in their order; that of "categorical"
            is any labels, of which the first is the reference. With trials(n), cbind() or proportion() "binomial" is
            that of counts, without them of rows of 0 and 1.
        priors: latent, or latent[entry], such as "beta[SES]" -> prior, a distribution or text such as "Normal(0, 1)",
            in place of those that the data choose. Of many coefficients "beta" may have one that shrinks them together,
            "horseshoe(scale=0.1)" (`ht.Horseshoe`) or "R2D2(mean=0.5)" (`ht.R2D2`).
        na: "error", or "drop" for rows that lack a value that the formula reads.
        functions: by name, which the formula may call beside those of NumPy and `formulae`.
        dtype: of the data, float64 or float32.
        data: the frame, where it is given by this name.
        parameters: predictors of other parameters of the rows, sigma="~ z + (1 | school)": log(sigma) is linear, as is
            that of any positive one, and logit(zi) of any probability. (1 |i| school) in two predictors makes effects
            of both correlated. "categorical" has a predictor for each category but the reference, with the terms of
            the formula or those of mu_<category>="~ 1", whose latents and entries end or begin with the category; (1
            |i| school) makes effects of all correlated.

    Raises:
        ModelError: for a formula that can't be read, with the place; for a family or prior that doesn't fit.
        DataError: for columns that there aren't, missing values, and terms that can't be computed.

    Example:
        >>> import hiertorch as ht
        >>> frame = {"y": [1.0, 2.0, 4.0, 3.0], "x": [0.0, 1.0, 2.0, 3.0], "g": ["a", "a", "b", "b"]}
        >>> model, data = ht.formula("y ~ x + (1 | g)", frame)
        >>> list(model.latents)
        ['mu', 'beta', 'sigma_g', 'effects_g', 'sigma_y']
    """
    check_choice("na", na, NA)
    check_options(parameters)
    frame = _only(frame, data)
    check_family(family)
    check_priors(priors)
    check_formula(text)
    rows = as_frame(frame)
    whole, more = written_out(text, parameters, rows.columns)
    parts = parse(whole, more)
    table, dropped = complete(rows, parts, na)
    table = in_order(table, parts)
    check_response(family, parts, table)
    if dropped:
        warn(f"{dropped} rows lack a value that the formula reads, and are left out.")
    own, parts, categories = _told_categories(family, parts, table)
    encoding = Encoding(parts, table, functions or {}, categories)
    check_degrees(matrices_of(encoding))
    model = FormulaModel(encoding, _family(own, encoding), priors)
    for one in encoding.predictors:
        warn_of_spare(one, one.all_at(table), leveled=one.intercept)
    warn_of_groups(encoding.effects, table)
    said = {name: str(one) if isinstance(one, Shrinkage) else one for name, one in (priors or {}).items()}
    given = {"priors": None if priors is None else said, "functions": dict(functions) if functions else None}
    arguments = {"text": whole, "family": family, **given, "parameters": more}
    encoding.remake = Remake(__name__, f"{FormulaModel.__module__}.FormulaModel", arguments, encoding.frame)
    return model, encoding.data(table, dtype)


def again(arguments: Mapping[str, object], frame: pd.DataFrame) -> tuple[FormulaModel, Data]:
    """The model and the data that a file says; see `hiertorch.data.remake`."""
    given: dict[str, Any] = {**arguments}
    more = given.pop("parameters")
    return formula(given.pop("text"), frame, **given, **more)


def noted(reader: object) -> tuple[pd.DataFrame, object]:
    """A frame that stands for the rows of a formula's data, and what its terms remember of them; see
    `hiertorch.data.remake`.

    Raises:
        DataError: for what has not read a formula.
    """
    if not isinstance(reader, Encoding):
        raise DataError(f"{type(reader).__name__} is no encoding of a formula")
    return stand_in(reader), [matrix.state for matrix in matrices_of(reader)]


def from_notes(arguments: Mapping[str, object], frame: pd.DataFrame, notes: object) -> tuple[FormulaModel, Encoding]:
    """The model of a formula, and how it reads frames, from what `noted` gives."""
    given: dict[str, Any] = {**arguments}
    parts, states = parse(given["text"], given["parameters"]), cast(list[list[dict[str, object]]], notes)
    own, parts, categories = _told_categories(given["family"], parts, frame)
    encoding = Encoding(parts, frame, given["functions"] or {}, categories)
    for matrix, state in zip(matrices_of(encoding), states, strict=True):
        matrix.recall(state)
    return FormulaModel(encoding, _family(own, encoding), given["priors"]), encoding


class Columns(pd.DataFrame):
    """A frame that prints the reference levels of its columns of categories, too."""

    def __repr__(self) -> str:
        levels = [f"{name}: {wording.show(level)}" for name, level in self.attrs.get("reference", {}).items()]
        return "\n".join([super().__repr__(), *(["reference levels  " + ", ".join(levels)] if levels else [])])


@at_home
def design(
    text: str,
    frame: object = None,
    *,
    na: str = "error",
    functions: Mapping[str, object] | None = None,
    data: object = None,
    **parameters: str,
) -> pd.DataFrame:
    """The columns that a formula makes of a frame, one row a row: to look at before anything is fitted.

    Columns of groups' effects are called "x | school", those of other predictors "sigma: x". `attrs["reference"]` says
    of each column of categories which level is the reference of the others, if one is, and so does its print.

    Args:
        text: the formula, "~ x * f" or with a response, which is not looked at.
        frame: its rows.
        na: what becomes of rows that lack a value.
        functions: which the formula may call.
        data: the frame, where it is given by this name.
        parameters: predictors of other parameters, as of `ht.formula`.

    Raises:
        ModelError, DataError: see `ht.formula`.

    Example:
        >>> import hiertorch as ht
        >>> found = ht.design("y ~ f + (1 | g)", {"y": [1, 2, 3], "f": ["b", "a", "c"], "g": [1, 1, 2]})
        >>> found.columns.tolist(), found.attrs["reference"]
        (['Intercept', 'f[b]', 'f[c]', 'Intercept | g'], {'f': 'a'})
    """
    check_choice("na", na, NA)
    rows = as_frame(_only(frame, data))
    whole, more = written_out(text, parameters, rows.columns)
    parts = parse(whole, more, response=False)
    table, _ = complete(rows, parts, na)
    predictors = [Predictor(name, terms, table, functions or {}) for name, terms in parts.terms.items()]
    effects = effects_of(parts.terms, table, functions or {})
    check_degrees(matrices_of([predictors, effects]))
    columns = dict[str, np.ndarray]()
    for one in predictors:
        prefix = f"{one.parameter}: " if one.parameter else ""
        columns |= {prefix + label: x for label, x in zip(one.all_labels, one.all_at(table).T, strict=True)}
    for each in effects:
        every = zip(each.labels, each.at(table).T, strict=True)
        columns |= {f"{label} | {each.plate}": x for label, x in every}
    found = Columns(columns, index=table.index)
    found.attrs["reference"] = {name: level for one in predictors for name, level in one.references.items()}
    return found


@at_home
def fit(
    text: str,
    frame: object = None,
    *,
    family: Family | str = "gaussian",
    priors: Mapping[str, object] | None = None,
    na: str = "error",
    functions: Mapping[str, object] | None = None,
    data: object = None,
    **options: Any,
) -> Posterior:
    """A posterior of the model that a formula says, in one line: `ht.formula`, then `ht.sample` with `options`.

    Args:
        text: the formula.
        frame: its rows.
        family: of the response.
        priors: in place of those that the data choose.
        na: what becomes of rows that lack a value.
        functions: which the formula may call; for all of these see `ht.formula`.
        data: the frame, where it is given by this name.
        options: of `ht.sample`, such as `seed=1`, and predictors of other parameters, such as sigma="~ z".

    Raises:
        ModelError, DataError, SamplingError: as both do.
    """
    known = {*inspect.signature(sample).parameters} - {"model", "data"}
    parameters = {name: options.pop(name) for name in [*options] if name not in known}
    check_options(parameters)
    if strange := [name for name, given in parameters.items() if not isinstance(given, str)]:
        raise OptionError(
            f'{strange[0]}= is no option of ht.sample, nor the formula of a predictor, such as {strange[0]}="~ x"; '
            f"found {parameters[strange[0]]!r}.{wording.closest(strange[0], known)}"
        )
    model, rows = formula(
        text, _only(frame, data), family=family, priors=priors, na=na, functions=functions, **parameters
    )
    return sample(model, rows, **options)


def _only(frame: object, data: object) -> object:
    """The one of both that is given."""
    if (frame is None) == (data is None):
        raise OptionError("give the rows once, as the second argument: a pandas DataFrame, or another table.")
    return data if frame is None else frame


def _told_categories(
    given: Family | str, parts: Parts, frame: pd.DataFrame
) -> tuple[Family | str, Parts, tuple[Hashable, ...]]:
    """A family that is of categories with those of the response, the formula with a predictor for each of them where
    the family has several, and these categories; any other family and formula as they are.
    """
    if not (given in CODED if isinstance(given, str) else isinstance(given, Family) and given.categories):
        return given, parts, ()
    kind = CODED[given] if isinstance(given, str) else type(given)
    found = categories_of(parts.response, frame, ordered=bool(kind.thresholds))
    family = CODED[given](found) if isinstance(given, str) else given
    known, labels = family.categories, tuple(map(str, found))
    if len(known) != len(labels):
        raise DataError(
            f"{family!r} has {len(known)} categories, and the response {parts.response!r} has {len(labels)} "
            f"({wording.listed(labels)})."
        )
    if known != labels and {*known} == {*labels}:
        raise DataError(
            f"{family!r} has the categories {wording.listed(known)}, and the response {parts.response!r} has them in "
            f"another order ({wording.listed(labels)}): list them in this one."
        )
    return family, by_category(parts, family.parameters) if family.several else parts, found


def _family(given: Family | str, encoding: Encoding) -> Family:
    """A family that reads what the formula tells of rows."""
    trials, se = "trials" in encoding.told, "se" in encoding.told
    if isinstance(given, str) and given == "binomial":
        family: Family = Binomial("trials") if trials else Bernoulli()
    elif isinstance(given, str) and given == "gaussian" and se:
        family = Gaussian(se="se")
    else:
        family = named(given)
    if trials and "trials" not in family.columns:
        several = " There are no several responses at once." if encoding.parts.response.startswith("cbind") else ""
        raise ModelError(
            f'the formula tells trials, which family={given!r} does not read: take family="binomial".{several}'
        )
    if se and not (isinstance(family, Gaussian) and family.se):
        raise ModelError(f'the formula tells standard errors, which family={given!r} does not read: take "gaussian".')
    if "rate" in encoding.told and family.link.name != "log":
        raise ModelError(f"rate() is for families with a log link; family={given!r} has {family.link.name}.")
    if unread := [name for name in family.columns if name not in encoding.told]:
        raise DataError(f"{family!r} reads {unread[0]!r}: write y | {unread[0]}(column) in the formula.")
    return encoding.cuts.family(family)
