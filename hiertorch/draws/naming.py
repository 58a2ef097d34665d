"""Labels of groups and entries: as text for people, and as JSON for files.

Note [Labels keep their type]
    JSON has strings, numbers, booleans and null. A label of another type is written as `{type: value}`, so that group
    3 does not come back as group "3", nor a date as text: a group is looked up by its label. Whole columns of times,
    periods and intervals are written as numbers with their unit, frequency and zone. What is written is read again and
    compared before anybody relies on it. An Enum's member is looked up by name in the modules that are loaded; a file
    never imports one.

docs/decisions.md: Labels are checked by reading them back.
"""

import datetime
import decimal
import enum
import fractions
import itertools
import json
import sys
import uuid
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from hiertorch.draws.zones import decode_zone, encode_zone
from hiertorch.errors import DataError

Unit = Literal["s", "ms", "us", "ns"]
PLAIN = frozenset((str, int, float, bool, type(None)))
KEPT = "text, numbers, booleans, bytes, dates, times, periods, intervals, UUIDs, Enum members and tuples of these"
ADVICE = "Make such labels text, with str, in the data."


def label_text(label: Hashable) -> str:
    """A label in words; the parts of a tuple are joined as in `state:county`."""
    return ":".join(map(label_text, label)) if isinstance(label, tuple) else str(label)


def parameter_texts(name: str, axes: Sequence[Iterable[Hashable]]) -> list[str]:
    """Parameters of a latent whose axes have these labels, in C order: mu, alpha[School 12], beta[SES], Omega[0, 1],
    alpha[CA:Alameda, SES]. Every table, figure and warning spells them so.
    """
    texts = [[label_text(label) for label in axis] for axis in axes]
    return [parameter_text(name, labels) for labels in itertools.product(*texts)]


def parameter_text(name: str, labels: Sequence[Hashable]) -> str:
    """One of them, by the label of each axis."""
    return f"{name}[{', '.join(map(label_text, labels))}]" if labels else name


def unsavable(labels: Mapping[str, pd.Index], event_labels: Mapping[str, Iterable[Iterable[Hashable]]]) -> list[str]:
    """A sentence for each grouping, and each latent, that has a label which a file can't hold."""
    every = [(f"grouping {plate!r}", index) for plate, index in labels.items()]
    for name, axes in event_labels.items():
        every += [(f"the entries of {name!r}", pd.Index([*axis], dtype=object, tupleize_cols=False)) for axis in axes]
    found: dict[str, str] = {}
    for what, index in every:
        try:
            if not set(map(type, index)) <= PLAIN:  # as millions may be
                encode_index(index)
        except DataError as error:
            found.setdefault(what, f"{what}: {error}")
    return list(found.values())


def encode_index(index: pd.Index) -> dict[str, object]:
    """An index of labels as JSON: its labels, their dtype and its name.

    Raises:
        DataError: for labels that would not come back as they are.
    """
    encoded = {**_encoded(index), "name": encode_label(index.name)}
    if set(map(type, index)) <= PLAIN:
        return encoded
    try:
        again = decode_index(json.loads(json.dumps(encoded)))
    except ValueError as error:
        raise DataError(f"can't save labels such as {index[0]!r}: {error}. {ADVICE}") from error
    for label, other in zip(index, again, strict=True):
        if type(label) is not type(other) or label != other:
            raise DataError(f"can't save label {label!r}: it would come back as {other!r}. {ADVICE}")
    return encoded


def _encoded(index: pd.Index) -> dict[str, object]:
    if isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex):
        zone = index.tz if isinstance(index, pd.DatetimeIndex) else None
        kind = "times" if isinstance(index, pd.DatetimeIndex) else "durations"
        try:
            return {kind: index.asi8.tolist(), "unit": index.unit, "zone": encode_zone(zone)}
        except ValueError as error:
            raise DataError(f"can't save labels such as {index[0]!r}: {error}. {ADVICE}") from error
    if isinstance(index, pd.PeriodIndex):
        return {"periods": index.asi8.tolist(), "frequency": index.freqstr}
    if isinstance(index, pd.IntervalIndex):
        ends = {"left": encode_index(index.left), "right": encode_index(index.right)}
        return {"intervals": ends, "closed": index.closed}
    return {"labels": [encode_label(label) for label in index], "dtype": str(index.dtype)}


def decode_index(content: object) -> pd.Index:
    """The index that `encode_index` was given."""
    encoded: Any = content
    name: Any = decode_label(encoded["name"])
    if "times" in encoded:
        times = pd.DatetimeIndex(np.array(encoded["times"], np.int64).view(f"M8[{encoded['unit']}]"), name=name)
        zone = decode_zone(encoded["zone"])
        return times if zone is None else times.tz_localize("UTC").tz_convert(zone)
    if "durations" in encoded:
        return pd.TimedeltaIndex(np.array(encoded["durations"], np.int64).view(f"m8[{encoded['unit']}]"), name=name)
    if "periods" in encoded:
        kept: Any = pd.PeriodIndex  # whose stubs lack this
        return kept.from_ordinals(encoded["periods"], freq=encoded["frequency"], name=name)
    if "intervals" in encoded:
        ends = encoded["intervals"]
        left, right = decode_index(ends["left"]), decode_index(ends["right"])
        return pd.IntervalIndex.from_arrays(left, right, closed=encoded["closed"], name=name)
    labels = [decode_label(label) for label in encoded["labels"]]
    return pd.Index(labels, dtype=encoded["dtype"], name=name, tupleize_cols=False)


def encode_label(label: Hashable) -> object:
    """A label as JSON. Note [Labels keep their type].

    Raises:
        DataError: for a label of a type that this file format does not know.
    """
    kind = type(label)
    if kind in PLAIN:
        return label
    if kind is tuple:
        return {"tuple": [encode_label(part) for part in label]}  # type: ignore[attr-defined]
    for name, (known, encode, _) in TYPES.items():
        if kind is known:
            try:
                return {name: encode(label)}
            except ValueError as error:
                raise DataError(f"can't save label {label!r}: {error}. {ADVICE}") from error
    if isinstance(label, enum.Enum):
        return {"enum": [kind.__module__, kind.__qualname__, label.name]}
    if isinstance(label, np.datetime64 | np.timedelta64):  # the latter is an np.integer, too
        return {"numpy.time": [int(label.view(np.int64)), label.dtype.str]}
    if isinstance(label, np.str_ | np.bytes_ | np.bool_ | np.integer | np.floating) and kind is not np.longdouble:
        return {f"numpy.{kind.__name__}": encode_label(label.item())}
    what = f"its type is {kind.__module__}.{kind.__qualname__}, and a file keeps {KEPT}"
    raise DataError(f"can't save label {label!r}: {what}. {ADVICE}")


def decode_label(encoded: object) -> Hashable:
    """The label that `encode_label` was given.

    Raises:
        ValueError: if it can't be made again.
    """
    if not isinstance(encoded, dict):
        return encoded
    ((kind, value),) = encoded.items()
    if kind in TYPES:
        return TYPES[kind][2](value)
    if kind == "tuple":
        return tuple(decode_label(part) for part in value)
    if kind == "enum":
        return _member(*value)
    if kind == "numpy.time":
        number, dtype = value
        return np.array([number], np.int64).view(dtype)[0]
    scalar = getattr(np, kind.removeprefix("numpy."), None) if kind.startswith("numpy.") else None
    if isinstance(scalar, type) and issubclass(scalar, np.generic):
        return scalar(decode_label(value))
    raise ValueError(f"a label of unknown type {kind!r}")


def _member(module: str, qualname: str, name: str) -> enum.Enum:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, enum.EnumMeta) or name not in found.__members__:
        raise ValueError(f"a label is {qualname}.{name}, of module {module}, which is not there: import it first")
    return found[name]


def _timestamp(value: tuple[int, Unit, object]) -> pd.Timestamp:
    number, unit, encoded = value
    stamp, zone = pd.Timestamp(np.datetime64(number, unit)), decode_zone(encoded)
    return stamp if zone is None else stamp.tz_localize("UTC").tz_convert(zone)


def _datetime(value: tuple[str, int, object]) -> datetime.datetime:
    clock, fold, encoded = value
    naive = datetime.datetime.fromisoformat(clock).replace(fold=fold)
    zone: Any = decode_zone(encoded)
    if hasattr(zone, "localize"):  # pytz's zones have a part for each offset
        return zone.localize(naive, is_dst=not fold)
    return naive.replace(tzinfo=zone)


def _clock(label: datetime.datetime) -> list[object]:
    fold = int(not label.dst()) if hasattr(label.tzinfo, "localize") else label.fold
    return [label.replace(tzinfo=None, fold=0).isoformat(), fold, encode_zone(label.tzinfo)]


def _time(label: datetime.time) -> list[object]:
    return [label.replace(tzinfo=None, fold=0).isoformat(), label.fold, encode_zone(label.tzinfo)]


TYPES: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "timestamp": (
        pd.Timestamp,
        lambda x: [int(x.to_datetime64().view(np.int64)), x.unit, encode_zone(x.tz)],
        _timestamp,
    ),
    "timedelta": (
        pd.Timedelta,
        lambda x: [int(x.to_timedelta64().view(np.int64)), x.unit],
        lambda value: pd.Timedelta(np.timedelta64(*value)),
    ),
    "period": (
        pd.Period,
        lambda x: [x.ordinal, x.freqstr],
        lambda value: pd.Period(ordinal=value[0], freq=value[1]),
    ),
    "interval": (
        pd.Interval,
        lambda x: [encode_label(x.left), encode_label(x.right), x.closed],
        lambda value: pd.Interval(decode_label(value[0]), decode_label(value[1]), value[2]),
    ),
    "datetime": (datetime.datetime, _clock, _datetime),
    "date": (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "time": (
        datetime.time,
        _time,
        lambda value: datetime.time.fromisoformat(value[0]).replace(fold=value[1], tzinfo=decode_zone(value[2])),
    ),
    "duration": (
        datetime.timedelta,
        lambda x: [x.days, x.seconds, x.microseconds],
        lambda value: datetime.timedelta(*value),
    ),
    "uuid": (uuid.UUID, str, uuid.UUID),
    "decimal": (decimal.Decimal, str, decimal.Decimal),
    "fraction": (fractions.Fraction, str, fractions.Fraction),
    "complex": (complex, lambda x: [x.real, x.imag], lambda value: complex(*value)),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
}
"""Type in a file -> the type, a label of it as JSON, and back."""
