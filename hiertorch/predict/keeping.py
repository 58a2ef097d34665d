"""What a file has beside draws, so that a posterior predicts where it is loaded: the model and its data, or without the
rows (`data=False`) what new ones are read by.

    model   formula   its text, family, priors and functions' names, and the columns that it reads
            class     its module and name, and the arguments that it was made with
    data    rows      response, columns, codes, labels and weights of a class's data
            outline   see `hiertorch.predict.outline`

Note [Made again, and held against what was fitted]
    What is to be written is made again from what the file will say, and has to have the same text, rows and density;
    so has what is loaded (`hiertorch.draws.attaching`; of an outline its `marks`). What can't be made again is no
    error: the draws are kept, and who asks for more is told why, and gives model and data.

docs/decisions.md: What a saved model is made again from.
"""

import json
import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.data.fingerprint import Fingerprint
from hiertorch.data.recipe import Reader
from hiertorch.data.remake import MAKERS, Remake, packed, unpacked
from hiertorch.data.table import Data, is_first, made_again
from hiertorch.draws import storage
from hiertorch.draws.archive import Source
from hiertorch.draws.attaching import attach, check_model
from hiertorch.draws.constructing import class_name, class_named, said, spelled
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.naming import encode_index
from hiertorch.errors import DataError, HiertorchError, ModelError, warn
from hiertorch.model.declaring import given
from hiertorch.model.model import Model
from hiertorch.predict import outline as outlines
from hiertorch.predict.scene import close
from hiertorch.runtime.silence import hushed
from hiertorch.runtime.validating import validation

ROWS = 1000
"""At whose densities a model that is made again is held against the one that was fitted."""

Kept = TypeVar("Kept", bound=Fit)


class Maker(Protocol):
    """A module among `hiertorch.data.remake.MAKERS`."""

    def noted(self, reader: Reader) -> tuple[pd.DataFrame, object]:
        """A frame that stands for the rows that a reader was made with, and what is known of them."""

    def from_notes(self, arguments: Mapping[str, object], frame: pd.DataFrame, notes: object) -> tuple[Model, Reader]:
        """A model, and what reads frames for it."""


def save(path: str | os.PathLike[str], fit: Fit, *, data: bool = True) -> None:
    """Write a posterior. See `hiertorch.posterior.Posterior.save`."""
    source = source_of(fit, data=data)
    storage.save(path, fit, source)
    if not data and fit.origin is not None and source is not None and "why" in source.header:
        warn(f"{os.fspath(path)} has the draws and predicts nothing without model and data: {source.header['why']}.")


def source_of(fit: Fit, *, data: bool) -> Source | None:
    """What a file has of model and data; None if they are not known."""
    if fit.origin is None:
        if fit.source is None or data or "outline" in fit.source.header:
            return fit.source
        return Source({"why": "it was saved without them"}, {})
    header, tensors, why = dict[str, Any](), dict[str, Tensor](), ""
    with hushed():  # what there was to warn of has been said
        try:
            header = _model_of(fit.origin, tensors)
        except Exception as error:  # of the model's own code
            why = _reason(error)
        try:
            header |= _with_rows(fit, header, tensors) if data else _outline_of(fit, header, tensors)
        except Exception as error:
            header, tensors, why = {}, {}, why or _reason(error)
    return Source(header | ({"why": why} if why else {}), tensors)


def _with_rows(fit: Fit, header: Mapping[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The data; of those of which a file can't hold the rows, such as an update's, what new rows are read by."""
    before = dict(tensors)
    try:
        if header.get("by") == "formula":
            return _columns_of(fit, header, tensors)
        assert fit.origin is not None
        return _rows_of(fit.origin, tensors)
    except Exception as error:
        reason = _reason(error)
        tensors.clear()
        tensors |= before
        try:
            return _outline_of(fit, header, tensors) | {"rows_why": reason}
        except Exception:  # nor these
            raise error from None


def _reason(error: Exception) -> str:
    text = str(error).strip().rstrip(".")
    return text if isinstance(error, HiertorchError) else f"they can't be made again ({type(error).__name__}: {text})"


def restore(fit: Fit, model: Model | None = None, data: Data | None = None) -> None:
    """Gives a loaded posterior its model and data as far as they are given or its file has them, or notes why not.

    Args:
        fit: that was loaded, which is changed.
        model: in place of the file's, such as one whose class can't be found.
        data: likewise, with the model.

    Raises:
        ModelError, DataError: if the model that is given is not the one that was fitted.
    """
    source = fit.source
    if data is not None:
        return attach(fit, model, data)
    if model is not None:
        if source is None or not {"rows", "columns", "outline"} & source.header.keys():
            raise DataError(
                "this file has no data for a model: give both, ht.Posterior.load(path, model=..., data=...)."
            )
        return _restore(fit, source, model)
    if source is None:
        return
    try:
        with hushed():
            _restore(fit, source, None)
    except Exception as error:  # of the model's own code
        fit.lacks = _reason(error)


def _restore(fit: Fit, source: Source, model: Model | None) -> None:
    header, tensors = source
    if "outline" in header:
        fit.outline = _outline(fit, header, tensors, model)
        why = header.get("rows_why")
        fit.lacks = outlines.NO_ROWS if why is None else f"{why}: it predicts new ones and nothing else"
    elif (found := remade(source, model, fit.fingerprint)) is not None:
        attach(fit, *found)


def remade(source: Source, model: Model | None, mark: Fingerprint | None) -> tuple[Model, Data] | None:
    """Model and data as a file has them; None if it has none.

    Args:
        source: what the file has.
        model: in place of the file's.
        mark: of the data.

    Raises:
        DataError: that says why they can't be made again.
    """
    header, tensors = source
    if (why := header.get("rows_why") or (None if model is not None else header.get("why"))) is not None:
        raise DataError(why)
    if "columns" in header:
        made, data = _remake(header, tensors).again()
        assert isinstance(made, Model) and isinstance(data, Data)
        return made if model is None else model, data
    if "rows" in header:
        return _made(header, tensors) if model is None else model, _rows(header["rows"], tensors, mark)
    return None


# Models


def _model_of(fitted: Fitted, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """How the model is made."""
    model, reader = fitted.model, fitted.data.recipe.reader
    made = None if reader is None else reader.remake
    arrays, found = dict[str, Tensor](), dict[str, Any]()
    if made is not None and made.model == ".".join(class_name(type(model))):
        arguments = {key: spelled(x, f"{key}= of the formula", arrays) for key, x in made.arguments.items()}
        found = {"by": "formula", "maker": made.maker, "model": made.model, "arguments": arguments}
    else:
        arguments_given, name = given(model), type(model).__name__
        if arguments_given is None:
            raise DataError(f"it is not known how {name} was made, which was unpickled")
        args, kwargs = arguments_given
        held = [spelled(x, f"argument {k + 1} of {name}", arrays) for k, x in enumerate(args)]
        named = {key: spelled(x, f"argument {key!r} of {name}", arrays) for key, x in kwargs.items()}
        found = {"by": "class", "class": [*class_name(type(model))], "arguments": [held, named]}
        _check_class(fitted, found, {f"argument/{key}": x for key, x in arrays.items()})
    tensors |= {f"argument/{key}": x for key, x in arrays.items()}
    return found


def _made(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Model:
    """A model by its class."""
    kind: Any = class_named(header["class"], (Model,))
    args, kwargs = said(header["arguments"], _under("argument", tensors))
    try:
        return kind(*args, **kwargs)
    except Exception as error:
        raise ModelError(
            f"its class {kind.__qualname__} of the module {kind.__module__!r} does not take the arguments that it was "
            f"made with ({error})"
        ) from error


def _check_class(fitted: Fitted, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raises a DataError unless a class gives the model that was fitted again."""
    model, data = fitted.model, fitted.data
    again = Fitted(_made(json.loads(json.dumps(header)), tensors), data, data.y).model
    values, rows = fitted.reads.values, data.rows(0, min(data.n_rows, ROWS))
    with torch.no_grad(), validation(False):
        same = str(again) == str(model) and list(again.latents) == list(model.latents)
        same = same and close(model.log_prior(values, data), again.log_prior(values, data))
        same = same and close(model.log_likelihood(values, rows), again.log_likelihood(values, rows))
    if not same:
        raise DataError(f"{type(model).__name__} was changed after it was made, so that its arguments make another one")


def _remake(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Remake:
    """How a formula's model and data are made again."""
    frame = unpacked(header["columns"], _under("frame", tensors))
    if "index" in tensors:
        frame.index = _index_read(tensors["index"])
    arguments = said(header["arguments"], _under("argument", tensors))
    return Remake(header["maker"], header["model"], arguments, frame)


def _columns_of(fit: Fit, header: Mapping[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The columns that a formula reads; a DataError if they are not the data by now."""
    reader = fit.data.recipe.reader
    made = None if reader is None else reader.remake
    if made is None or fit.data.n_rows != len(made.frame):
        raise DataError("rows were added or left out since they were read by the formula")
    columns, arrays = packed(made.frame)
    tensors |= {f"frame/{key}": x for key, x in arrays.items()}
    tensors["index"] = storage.as_bytes(_index_of(fit.data))
    _, other = _remake(json.loads(json.dumps({**header, "columns": columns})), tensors).again()
    if not isinstance(other, Data) or (found := fit.data.fingerprint.differences(other.fingerprint)):
        raise DataError(f"the formula reads other data again ({'; '.join(found)})")
    return {"columns": columns}


# Rows


def _rows_of(fitted: Fitted, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The data of a model of a class."""
    data = fitted.data
    if not is_first(data):
        raise DataError("its rows are not all that were fitted first, such as those of an update or of a fold")
    if data.recipe.reader is not None:
        raise DataError(f"{type(fitted.model).__name__} was fitted to the data of a formula, and is not its model")
    tensors |= {"y": data.y} | ({} if data.weights is None else {"weights": data.weights})
    for kind, parts in (("column", data.columns), ("codes", data.codes)):
        tensors |= {f"{kind}/{k}": x for k, x in enumerate(parts.values())}
    tensors |= {f"labels/{k}": storage.as_bytes(encode_index(x)) for k, x in enumerate(data.labels.values())}
    tensors["index"] = storage.as_bytes(_index_of(data))
    recipe = outlines.recipe_written(data.recipe)
    return {"rows": {"name": data.name, "columns": [*data.columns], "plates": [*data.plates], "recipe": recipe}}


def _rows(header: Mapping[str, Any], tensors: Mapping[str, Tensor], mark: Fingerprint | None) -> Data:
    plates = header["plates"]
    return made_again(
        header["name"],
        tensors["y"],
        {name: tensors[f"column/{k}"] for k, name in enumerate(header["columns"])},
        {plate: tensors[f"codes/{k}"] for k, plate in enumerate(plates)},
        {plate: outlines.labels_read(tensors[f"labels/{k}"]) for k, plate in enumerate(plates)},
        outlines.recipe_read(header["recipe"]),
        weights=tensors.get("weights"),
        index=_index_read(tensors["index"]),
        mark=mark,
    )


def _index_of(data: Data) -> object:
    plain = isinstance(data.index, pd.RangeIndex) and data.index.equals(pd.RangeIndex(data.n_rows))
    return data.n_rows if plain else encode_index(data.index)


def _index_read(tensor: Tensor) -> pd.Index:
    found = storage.from_bytes(tensor)
    return pd.RangeIndex(found) if isinstance(found, int) else outlines.labels_read(tensor)


# Outlines


def _outline_of(fit: Fit, header: Mapping[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What new rows are read by."""
    fitted, found, arrays = fit.fitted, dict[str, Any](), dict[str, Tensor]()
    reader = fitted.data.recipe.reader
    if reader is not None and header.get("by") == "formula":
        assert reader.remake is not None
        frame, notes = _maker(reader.remake.maker).noted(reader)
        found["columns"], packs = packed(frame)
        noted = dict[str, Tensor]()
        found["notes"] = spelled(notes, "a transform of the formula", noted)
        arrays |= {f"frame/{key}": x for key, x in packs.items()} | {f"note/{key}": x for key, x in noted.items()}
    elif reader is not None:
        raise DataError("a formula is not kept without its rows where its model is another one")
    found["outline"] = outlines.written(fitted, arrays)
    tensors |= arrays
    model = None if "by" in header else fitted.model
    again = _drawn_up(fit, json.loads(json.dumps({**header, **found})), tensors, model)
    if reader is not None:
        _check_reader(reader, again.data.recipe.reader)
    outlines.check_faithful(fit, again)
    found["marks"] = again.marks
    return found


def _outline(fit: Fit, header: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Model | None) -> Fitted:
    """The outline in a file, or a sentence if its model is another one by now."""
    if model is None and "by" not in header:
        raise DataError(header["why"])
    found = _drawn_up(fit, header, tensors, model)
    check_model(fit, found.model)
    dtype = next(iter(fit.draws.values())).dtype
    if other := outlines.differing(found, header["marks"], dtype):
        raise ModelError(
            f"{type(found.model).__name__} has another density than when it was saved ({', '.join(other)}): its class "
            "was changed since"
        )
    return found


def _drawn_up(
    fit: Fit, header: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Model | None
) -> outlines.Outline:
    told, held = header["outline"], {**fit.more, **fit.draws}
    recipe = outlines.recipe_read(told["recipe"])
    if header.get("by") == "formula":
        frame = unpacked(header["columns"], _under("frame", tensors))
        arguments = said(header["arguments"], _under("argument", tensors))
        notes = said(header["notes"], _under("note", tensors))
        made, reader = _maker(header["maker"]).from_notes(arguments, frame, notes)
        return outlines.read(told, tensors, model or made, recipe._replace(reader=reader), held)
    return outlines.read(told, tensors, model or _made(header, tensors), recipe, held)


def _maker(name: str) -> Maker:
    if name not in MAKERS:
        raise DataError(f"the file says that {name!r} made its model, which is none of {', '.join(MAKERS)}.")
    found: Any = import_module(name)
    return found


def _check_reader(reader: Reader, other: Reader | None) -> None:
    """Raises a DataError unless both read the fitted rows alike, to the bit."""
    assert other is not None
    (columns, groups), (again, regrouped) = reader.rows(reader.frame), other.rows(reader.frame)
    both = [(reader.y(reader.frame), other.y(reader.frame))]
    both += [(x, again.get(name)) for name, x in columns.items()]
    both += [(x, regrouped.get(name)) for name, x in groups.items()]
    if any(not np.array_equal(np.asarray(one), np.asarray(two)) for one, two in both):
        raise DataError("terms of the formula can't be kept without the rows that they were computed of")


def _under(folder: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of one kind, by what follows in their names."""
    return {name.partition("/")[2]: x for name, x in tensors.items() if name.startswith(f"{folder}/")}
