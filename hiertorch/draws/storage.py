"""A posterior kept: as a file of `hiertorch.draws.archive`, or as ArviZ's type.

Note [What a file of a posterior has]
    Draws, what the sampler reports, what a run that starts from here needs (tuning, positions, draws of the population
    that are not shown), labels, and what was run. Tensors are named `draws/mu`; the header lists their names in order.
    Labels are JSON in a tensor of bytes, as there may be millions and a header of safetensors ends at 100 MB. Beside
    them is what model and data are made again from (`hiertorch.predict.keeping`), `source/...`.
"""

import json
import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.data.fingerprint import Fingerprint
from hiertorch.draws import archive
from hiertorch.draws.fit import Fit
from hiertorch.draws.labelled import Stats
from hiertorch.draws.naming import decode_index, decode_label, encode_index, encode_label, label_text
from hiertorch.errors import DataError

if TYPE_CHECKING:
    from xarray import DataTree


Kept = TypeVar("Kept", bound=Fit)
KIND = archive.Kind("hiertorch posterior", 3, "a posterior", "posterior.save(path)")


def save(path: str | os.PathLike[str], posterior: Fit, source: archive.Source | None = None) -> None:
    """Write a posterior, and what its model and data are made again from. See `Posterior.save`."""
    archive.write(path, KIND, *packed(posterior, source))


def packed(posterior: Fit, source: archive.Source | None = None) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Header and tensors of a file of a posterior."""
    stats = posterior.stats
    kept = {
        "draws": posterior.draws,
        "more": posterior.more,
        "positions": posterior.positions,
        "labels": {plate: as_bytes(encode_index(index)) for plate, index in posterior.labels.items()},
        "acceptance": stats.acceptance,
    }
    header: dict[str, object] = {
        **{kind: list(values) for kind, values in kept.items()},
        "plates": posterior.plates,
        "redrawn": posterior.unstored_plates,
        "collapsed": posterior.collapsed,
        "event_labels": {
            name: [[encode_label(label) for label in axis] for axis in axes]
            for name, axes in posterior.event_labels.items()
        },
        "blocks": dict(stats.blocks),
        "nan": dict(stats.nan),
        "tuning": {move: list(parts) for move, parts in posterior.tuning.items()},
        "fingerprint": None if posterior.fingerprint is None else posterior.fingerprint.to_json(),
        "run": posterior.run,
        "interrupted": posterior.interrupted,
        "source": source and source.header,
    }
    tensors = {f"{kind}/{name}": x for kind, values in kept.items() for name, x in values.items()}
    tensors |= {f"tuning/{move}/{key}": x for move, parts in posterior.tuning.items() for key, x in parts.items()}
    tensors |= {f"source/{name}": x for name, x in (source.tensors if source else {}).items()}
    return header, {**tensors, "log_density": stats.log_density}


def load(path: str | os.PathLike[str], face: type[Kept]) -> Kept:
    """A saved posterior, as of a kind of fit, with its `source`. See `Posterior.load`."""
    return unpacked(path, face, *archive.read(path, KIND))


def unpacked(
    path: str | os.PathLike[str], face: type[Kept], content: Mapping[str, object], tensors: Mapping[str, Tensor]
) -> Kept:
    """What `packed` was given, from the file of a path."""
    header: dict[str, Any] = {**content}
    try:
        parts = {
            kind: {name: tensors[f"{kind}/{name}"] for name in header[kind]}
            for kind in ("draws", "more", "positions", "labels", "acceptance")
        }
        arguments: dict[str, Any] = {
            "labels": {plate: decode_index(from_bytes(held)) for plate, held in parts["labels"].items()},
            "event_labels": {
                name: tuple(tuple(decode_label(label) for label in axis) for axis in axes)
                for name, axes in header["event_labels"].items()
            },
            "stats": Stats(parts["acceptance"], header["blocks"], tensors["log_density"], header["nan"]),
            "tuning": {
                move: {key: tensors[f"tuning/{move}/{key}"] for key in keys} for move, keys in header["tuning"].items()
            },
            "fingerprint": None if (mark := header["fingerprint"]) is None else Fingerprint.from_json(mark),
            **{name: header[name] for name in ("plates", "redrawn", "collapsed", "run", "interrupted")},
        }
        held = {name.removeprefix("source/"): x for name, x in tensors.items() if name.startswith("source/")}
        source = archive.Source(header["source"], held) if header.get("source") else None
        if source is not None and "maker" in source.header and "by" not in source.header:  # of format 2
            source = archive.Source({**source.header, "by": "formula"}, {f"frame/{key}": x for key, x in held.items()})
        found = face(parts["draws"], more=parts["more"], positions=parts["positions"], **arguments)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError, OverflowError) as error:
        raise DataError(f"{path} can't be made a posterior again: {error}.") from error
    found.source = source
    return found


def as_bytes(content: object) -> Tensor:
    """Something that JSON can hold, as a tensor of bytes."""
    return torch.from_numpy(np.frombuffer(json.dumps(content).encode(), np.uint8).copy())


def from_bytes(tensor: Tensor) -> object:
    """What `as_bytes` was given."""
    return json.loads(tensor.numpy().tobytes())


def to_arviz(posterior: Fit) -> "DataTree":
    """A posterior as ArviZ's type. See `Posterior.to_arviz`."""
    import arviz_base  # takes a second, and few runs are exported

    stats = posterior.stats
    called = _without_paths({*posterior.names, *posterior})
    taken = {"chain", "draw", *called.values()}  # xarray can't have a variable and a dimension of one name
    plates = _without_paths(posterior.labels)
    plates = {plate: f"{name}_group" if name in taken else name for plate, name in plates.items()}
    coords: dict[Any, Any] = {plates[plate]: coordinates(index) for plate, index in posterior.labels.items()}
    dims = {}
    for name, axes in posterior.event_labels.items():
        plate = posterior.plates[name]
        own = called[name]
        events = {f"{own}_dim_{i}": coordinates(pd.Index(axis, tupleize_cols=False)) for i, axis in enumerate(axes)}
        dims[own] = [*([] if plate is None else [plates[plate]]), *events]
        coords |= events
    groups = {
        "posterior": {called[name]: posterior[name].cpu().numpy() for name in posterior},
        "sample_stats": {"lp": stats.log_density.cpu().numpy()},
    }
    attrs = {key: json.dumps(value) for key, value in posterior.run.items()}
    attrs |= {"inference_library": "hiertorch", "interrupted": json.dumps(posterior.interrupted)}
    tree = arviz_base.from_dict(groups, coords=coords, dims=dims, attrs={"posterior": attrs})
    rates = {f"acceptance_{name}": block for block, name in _without_paths(stats.acceptance).items()}
    tree["sample_stats"].update(
        arviz_base.dict_to_dataset(
            {variable: stats.acceptance[block].cpu().numpy() for variable, block in rates.items()},
            sample_dims=["chain"],
            dims={v: [plates[plate]] for v, block in rates.items() if (plate := stats.blocks[block]) is not None},
            coords=coords,
        )
    )
    return tree


def _without_paths(names: Collection[str]) -> dict[str, str]:
    """Name -> what a variable is called in a tree, where "/" is a path; no two of them the same."""
    found = dict[str, str]()
    for name in sorted(names, key=lambda name: ("/" in name, name)):
        own = name.replace("/", "_")
        while own in found.values():
            own += "_"
        found[name] = own
    return {name: found[name] for name in names}


def coordinates(index: pd.Index) -> np.ndarray:
    """Labels as xarray can index and store them: numbers and dates as they are, all else as text."""
    if isinstance(index.dtype, np.dtype) and index.dtype.kind in "biufM":
        return index.to_numpy()
    return np.array([label_text(label) for label in index], dtype=str)
