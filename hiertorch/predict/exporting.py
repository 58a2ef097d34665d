"""A posterior as one file from which `hiertorch.deploy` predicts with NumPy alone.

    draws/...    of the latents that predictions read, thinned, `(draws, size, *event)`
    labels/...   of groups
    facts/...    of groups: the parent that each lies in, columns that explain its effects
    program/...  of a model that the little language can't say: the likelihood, by `torch.export`
    header       how columns are made of a frame's, the linear predictor, priors of effects, mean and draws of a row

The format is that of all files (`hiertorch.draws.archive`).

Note [What is written has to predict the same]
    Before it is written, a model is read as `hiertorch.deploy` reads it and predicts some of the fitted rows, as they
    are and as rows of new groups. A subclass that overrides a likelihood whose structure says itself is found so.

docs/decisions.md: An exported model is text that is looked up, not run.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch import deploy
from hiertorch.arguments import check_count
from hiertorch.draws import archive
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.naming import encode_index
from hiertorch.draws.storage import as_bytes
from hiertorch.errors import DataError, ModelError
from hiertorch.families.portable import latent
from hiertorch.models.design import Designed, Population, design_of, family_of
from hiertorch.predict.programs import Input, normal, written
from hiertorch.predict.rehearsal import differing, read_in
from hiertorch.runtime.validating import validation

KIND = archive.Kind("hiertorch model", deploy.VERSION, "an exported model", "posterior.export(path)")

LABELS = (str, int, float, bool)


@dataclass
class Written:
    """What a file has of a model, its rows and draws apart.

    Attributes:
        lets: name -> text or program.
        outputs: kind of prediction -> text or program, or None.
        effects: of groupings: name, plate, mean, scale, root, and why there can be no new groups.
        checks: columns that are "positive" or "whole".
        valid: where rows have a likelihood; None if they always have.
        programs: by name, with what they are given.
        contents: by name, the programs.
    """

    lets: list[list[object]] = field(default_factory=list)
    outputs: dict[str, object] = field(default_factory=dict)
    effects: list[dict[str, object]] = field(default_factory=list)
    checks: list[tuple[str, str]] = field(default_factory=list)
    valid: str | None = None
    programs: dict[str, list[Input]] = field(default_factory=dict)
    contents: dict[str, Tensor] = field(default_factory=dict)


def export(path: str | os.PathLike[str], fit: Fit, *, draws: int | None = 1000) -> None:
    """Write a model to predict from. See `hiertorch.posterior.Posterior.export`."""
    check_count("draws", draws, none="for all")
    header, tensors = packed(fit, draws)
    archive.write(path, KIND, header, tensors)


def packed(fit: Fit, draws: int | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of the file.

    Raises:
        ModelError: for a term, prior or likelihood that can be written neither as text nor as a program.
        DataError: for labels that a file can't hold.
    """
    fitted = fit.readable
    step = 1 if draws is None else max(1, fit.chains * fit.n_draws // draws)
    few = _whole(fit.taken(draws=slice(None, None, step)))
    with torch.no_grad(), validation(False):
        said = _said(fitted, few)
        if said is not None:
            header, tensors = _file(few, fitted, said)
            if differing(few, fitted, header, tensors) is None:
                return header, tensors
        header, tensors = _file(few, fitted, written(Written(), few, fitted))
        if (why := differing(few, fitted, header, tensors)) is not None:
            raise ModelError(f"{type(fitted.model).__name__} can't be exported: {why}.")
    return header, tensors


def _whole(fit: Fit) -> Fit:
    """With draws of effects that were not stored."""
    if fit.unstored is None:
        return fit
    names = [name for name in fit.unstored.names if name not in fit.draws]
    if not names:
        return fit
    drawn = fit.unstored.draws(list(fit.unstored.names))
    return fit.changed(draws={**fit.draws, **drawn}, unstored=None)


# What is said


def _said(fitted: Fitted, fit: Fit) -> Written | None:
    """The model as text; None if its structure or family does not say itself."""
    model = fitted.model
    family, exported = family_of(model), model.exported(fitted.data) if isinstance(model, Designed) else None
    made = None if family is None else family.exported()
    if family is None or exported is None or made is None:
        return None
    lets = dict(exported.lets)
    own = {name: lets.pop(name, latent(name)) for name in family.latents}
    eta = lets.pop("eta")
    found = Written()
    found.lets = [[name, text] for name, text in own.items()]
    found.lets += [[name, text] for name, text in lets.items()]
    found.lets.append(["eta", eta if family.several else f"full({eta})"])
    found.lets += [[name, text] for name, text in made.lets]
    found.outputs = {"mean": made.mean, "response": made.response, "probability": made.probability}
    found.checks, found.valid = list(made.checks), made.valid or None
    for name, one in model.latents.items():
        if one.plate is not None and fitted.varies(one.plate) and not fitted.is_axis(one.plate):
            found.effects.append(_effects(fitted, fit, name, exported.populations.get(name)))
    return found


def _effects(fitted: Fitted, fit: Fit, name: str, said: Population | None) -> dict[str, object]:
    """The prior of effects: as it is said, or of groups without a population numbers."""
    told: dict[str, object] = {"name": name, "plate": fitted.model.latents[name].plate, "why": ""}
    held = {key: x.flatten(0, 1) for key, x in {**fit.more, **fit.draws}.items() if key in fitted.model.latents}
    ends = [{key: x[[at]] for key, x in held.items()} for at in (0, -1)]
    none = {"mean": None, "scale": None, "root": None}
    try:
        priors = [normal(fitted.model.prior(name, fitted.model.values(v), fitted.data)) for v in ends]
    except ModelError as error:
        return told | none | {"why": f"the prior of {name!r} {error}"}
    if said is None:
        if not all(torch.equal(one, other) for one, other in zip(*priors, strict=True)):
            return told | none | {"why": f"the structure does not say the prior of {name!r}"}
        said = Population(*map(_numbers, priors[0]))
    return told | {"mean": said.mean, "scale": said.scale, "root": said.root}


def _numbers(x: Tensor) -> str:
    """One number, or several that stand in a last axis."""
    each = [repr(one) for one in x.flatten().double().tolist()]
    return each[0] if len(each) == 1 else f"last({', '.join(each)})"


# The file


def _file(fit: Fit, fitted: Fitted, said: Written) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors; see the module."""
    data, family = fitted.data, family_of(fitted.model)
    texts = list(_texts([said.lets, said.outputs, said.effects]))
    reads = {table: {name for text in texts for name in read_in(text, table)} for table in ("v", "x", "g")}
    for table, name, _ in (one for inputs in said.programs.values() for one in inputs):
        reads[table].add(name)
    columns = {name: text for name, text in _columns(data).items() if name in reads["x"]}
    of = {plate: list(names) for plate, names in _plates(data).items()}
    plates = [plate for plate in data.plates if plate in reads["g"] or any(e["plate"] == plate for e in said.effects)]
    facts = _facts(fitted, plates, columns)
    latents = {name: x for name, x in _draws(fit, fitted, reads["v"]).items()}
    groups: dict[str, dict[str, Any]] = {
        plate: {
            "of": of.get(plate, [plate]),
            "new": fitted.varies(plate) and not fitted.is_axis(plate) and not fitted.across,
        }
        for plate in plates
    }
    needs = {name for text in columns.values() for table in ("c", "t") for name in read_in(text, table)}
    every = {**fitted.model.latents, **fitted.model.derived}
    header: dict[str, Any] = {
        "formula": _formula(fitted),
        "family": getattr(family, "name", "") or type(fitted.model).__name__,
        "response": data.name,
        "categories": _categories(fitted, said),
        "draws": fit.chains * fit.n_draws,
        "seed": fit.derived("deploy"),
        "needs": sorted({*needs, *(name for one in groups.values() for name in one["of"])}),
        "columns": columns,
        "groups": groups,
        "latents": {name: getattr(every[name], "plate", None) for name in latents},
        "lets": said.lets,
        "outputs": said.outputs,
        "effects": said.effects,
        "valid": said.valid,
        "checks": [list(pair) for pair in said.checks if pair[0] in columns],
        "facts": [list(key) for key in facts],
        "programs": said.programs,
    }
    tensors = {f"draws/{name}": x for name, x in latents.items()} | said.contents
    tensors |= {f"labels/{k}": as_bytes(_labels(plate, data.labels[plate])) for k, plate in enumerate(plates)}
    tensors |= {f"facts/{k}": x for k, x in enumerate(facts.values())}
    return header, tensors


def _formula(fitted: Fitted) -> str:
    """What was fitted, in one line."""
    told = getattr(fitted.model, "formula", None)
    if callable(told):
        return "; ".join(told())
    return told if isinstance(told, str) else type(fitted.model).__name__


def _texts(thing: object) -> Iterable[str]:
    """All text in lists and mappings, names included, which read nothing."""
    if isinstance(thing, str):
        yield thing
    elif isinstance(thing, Mapping):
        for part in thing.values():
            yield from _texts(part)
    elif isinstance(thing, list):
        for part in thing:
            yield from _texts(part)


def _columns(data: Any) -> dict[str, str]:
    """How columns are made of a frame's."""
    recipe = data.recipe
    if recipe.reader is not None:
        return dict(recipe.reader.recipes())
    found = {}
    for name, column in recipe.columns.items():
        base, _, level = str(column).partition("=")
        known = recipe.levels.get(base)
        found[name] = (
            f"c[{column!r}]"
            if known is None or level not in known
            else f"level({base!r}, t[{base!r}], {list(known)!r}, {level!r})"
        )
    return found


def _plates(data: Any) -> dict[str, tuple[str, ...]]:
    reader = data.recipe.reader
    if reader is not None:
        return {plate: tuple(names) for plate, names in reader.plates.items()}
    return {plate: (str(column),) for plate, column in data.recipe.groups.items()}


def _facts(fitted: Fitted, plates: list[str], columns: Mapping[str, str]) -> dict[tuple[str, str, str], Tensor]:
    """(plate, "group" or "column", name) -> what is known of each group, `(groups,)`, of structures that say so."""
    design, data, found = design_of(fitted.model), fitted.data, dict[tuple[str, str, str], Tensor]()
    if design is None or not fitted.has_rows:
        return found
    for plate, names in design.group_predictors.items():
        found |= {(plate, "column", name): data.group_values(name, plate).double() for name in names if name in columns}
    for parent, child in zip(design.nested[:-1], design.nested[1:], strict=True):
        found[child, "group", parent] = data.parents(child, parent).double()
    return {key: x for key, x in found.items() if key[0] in plates and (key[1] == "column" or key[2] in plates)}


def _draws(fit: Fit, fitted: Fitted, names: set[str]) -> dict[str, Tensor]:
    """Draws of latents and of what is derived from them, `(draws, size, *event)`."""
    held = {**fit.more, **fit.draws}
    if derived := names & {*fitted.model.derived}:
        made = fitted.derived({name: held[name] for name in fitted.model.latents if name in held})
        held |= {name: made[name] for name in derived if name in made}
    if lost := sorted(name for name in names if name not in held):
        raise DataError(
            f"the draws of {lost[0]!r} are needed, and the posterior does not hold them: name it in keep= of ht.sample."
        )
    return {name: held[name].flatten(0, 1).double() for name in sorted(names)}


def _labels(plate: str, labels: pd.Index) -> dict[str, Any]:
    """Labels as a file has them.

    Raises:
        DataError: for labels that are no text, numbers, truths or times without a zone.
    """
    told = encode_index(labels)
    plain = "times" in told and told["zone"] is None
    if not plain and not all(isinstance(x.item() if isinstance(x, np.generic) else x, LABELS) for x in labels):
        raise DataError(
            f"grouping {plate!r} has labels such as {labels[0]!r}, and an exported model has text, numbers, truths and "
            "times without a zone: make them text, with str, in the data."
        )
    return told


def _categories(fitted: Fitted, said: Written) -> list[object]:
    """Labels of the response's categories, if it has any."""
    family = family_of(fitted.model)
    return [*family.categories] if family is not None and said.outputs.get("probability") is not None else []
