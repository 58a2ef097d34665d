"""Labels that are written in two ways: "01001" and 1001, "a " and "A", a day with a time zone and without.

Each label has keys, texts that are the same for all its spellings:

    text    without blanks around it, in one Unicode form and one case
    number  of any type, or text of a number, without zeros that say nothing; True is 1
    time    its day and hour; a date is its midnight. One with a time zone is itself in every zone, and a spelling of
            the time without a zone that its clock shows, or that of UTC
    others  their text; a tuple has the keys of its parts, joined

Two labels that share a key are most likely one group. So a new label that shares one with a known group is refused
unless the caller says that it is another, and labels of one data set that share one are said.

docs/decisions.md: Labels have keys.
"""

import datetime
import enum
import itertools
import re
import unicodedata
import uuid
from collections.abc import Hashable, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction

import numpy as np
import pandas as pd

from hiertorch import wording
from hiertorch.errors import DataError

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", re.ASCII)
"""Text of a number: 12, -0.5, 1e3."""

TIME = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([t ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?)? ?(z|utc|[+-]\d{2}(:?\d{2})?)?", re.ASCII
)
"""Text of a day, or of a time of a day: 2001-02-03, 2001/2/3 12:30Z."""

SIGNS = ("+", "-", ".")
"""With which the text of a number may begin."""

DIGITS = 12
"""Significant ones of a label that is no whole number: 0.1 + 0.2 is 0.3."""

TOGETHER = 16
"""Keys of a tuple at most; its parts rarely have more than two each."""


def keys(label: Hashable, *, asked: bool = False) -> tuple[str, ...]:
    """Texts that are the same for all spellings of a label.

    Args:
        label: of a group.
        asked: the keys to look for, in place of those to be found by, which differ for times: one without time zone
            and one with it are spellings of one another, two with it only if they are the same instant.
    """
    if isinstance(label, enum.Enum):
        return tuple(
            dict.fromkeys([*keys(label.value, asked=asked), *_text(label.name, asked), *_text(str(label), asked)])
        )
    if isinstance(label, str):
        return _text(label, asked)
    if isinstance(label, bytes):
        return _text(label.decode(errors="replace"), asked)
    if isinstance(label, np.float32 | np.float16):
        return (_float32(label),)
    if isinstance(label, int | float | Decimal | Fraction | np.number | np.bool_):
        return (_number(label.item() if isinstance(label, np.generic) else label),)
    if isinstance(label, datetime.date | np.datetime64):
        return _time(label, asked)
    if isinstance(label, uuid.UUID):
        return str(label), label.hex
    if isinstance(label, tuple):
        parts = itertools.product(*(keys(part, asked=asked) for part in label))
        return tuple("\x1f".join(each) for each in itertools.islice(parts, TOGETHER))
    return _text(str(label), asked)


def spellings(known: pd.Index, fresh: pd.Index) -> dict[Hashable, Hashable]:
    """Those of the fresh labels that are a known one in another spelling, each with the known one."""
    if not len(fresh) or (known.dtype == fresh.dtype and _has_one_spelling(known)):
        return {}
    places = {key: label for label in known for key in keys(label)}
    found = {label: _found(places, label) for label in fresh}
    return {label: other[0] for label, other in found.items() if other}


def clashes(labels: pd.Index) -> list[tuple[Hashable, Hashable]]:
    """Pairs of labels that are most likely one: a later one, and the first."""
    places: dict[str, Hashable] = {}
    found = []
    for label in () if _has_one_spelling(labels) else labels:
        found += [(label, other) for other in _found(places, label)]
        for key in keys(label):
            places.setdefault(key, label)
    return found


def _found(places: Mapping[str, Hashable], label: Hashable) -> list[Hashable]:
    """The label of which this is a spelling, if there is one."""
    return [places[key] for key in keys(label, asked=True) if key in places][:1]


def _has_one_spelling(labels: pd.Index) -> bool:
    """Whether labels are of one type in which two that differ are two things."""
    return isinstance(labels.dtype, np.dtype) and labels.dtype.kind in "biuMm"


def refuse_spellings(plate: str, known: pd.Index, fresh: pd.Index) -> None:
    """Raises a DataError for new labels of a grouping that are known ones in another spelling."""
    if found := spellings(known, fresh):
        label, other = next(iter(found.items()))
        more = f" (and {len(found) - 1} more likewise)" if len(found) > 1 else ""
        raise DataError(
            f"{plate} {wording.show(label)} of the frame is {wording.show(other)} in the data that were fitted, in "
            f"another spelling or type{more}: write it as it was there, or say by distinct=True that it is another "
            "group."
        )


def _text(text: str, asked: bool) -> tuple[str, ...]:
    """Of text: what it reads as, if it reads as a number, a truth value or a time, else its letters."""
    if text.isascii():  # as most labels are
        plain = " ".join(text.lower().split())
        if not plain[:1].isdecimal() and plain[:1] not in SIGNS and plain not in ("true", "false"):
            return (plain,)
    else:
        plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        plain = "".join(str(unicodedata.decimal(letter, letter)) for letter in plain if not _unseen(letter))
        plain = " ".join(plain.split())
    if plain in ("true", "false"):
        return (_number(plain == "true"),)
    if NUMBER.fullmatch(plain):
        return (_number(Decimal(plain)),)
    if TIME.fullmatch(plain):
        try:
            return _time(pd.Timestamp(plain.upper().replace("UTC", "Z")), asked)
        except (ValueError, OverflowError):
            pass
    return (plain,)


def _unseen(letter: str) -> bool:
    """Whether it is a mark that is not shown, such as a blank without width."""
    return unicodedata.category(letter) == "Cf"


def _number(number: float | Decimal | Fraction) -> str:
    """Of a number of any type: its digits, without zeros that say nothing."""
    if isinstance(number, float) and not number.is_integer():
        if float(np.float32(number)) == number:
            return _float32(np.float32(number))
        number = Decimal(f"{number:.{DIGITS}g}") if np.isfinite(number) else Decimal(number)
    elif isinstance(number, float):
        number = Decimal(repr(number))
    if isinstance(number, Fraction):
        number = number.numerator if number.denominator == 1 else Decimal(f"{float(number):.{DIGITS}g}")
    try:
        text = format(number if isinstance(number, Decimal) else Decimal(int(number)), "f")
    except (InvalidOperation, ValueError, OverflowError):
        return str(number)
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    whole, _, part = digits.partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    return f"{sign if (whole, part) != ('0', '') else ''}{whole}{'.' if part else ''}{part}"


def _float32(number: np.float32 | np.float16) -> str:
    """Of a number that was rounded: the shortest decimal that is rounded to it, as 0.1 is."""
    return _number(Decimal(str(number))) if np.isfinite(number) else str(number)


def _time(time: datetime.date | np.datetime64, asked: bool) -> tuple[str, ...]:
    """Of a date or time."""
    try:
        stamp = pd.Timestamp(time)
    except (ValueError, OverflowError):
        return (str(time),)
    if stamp.tz is None:
        day = stamp.isoformat().removesuffix("T00:00:00")
        return day, *([f"{day} on a clock"] if asked else []), *([day.replace("-", "")] if len(day) == 10 else [])
    utc = stamp.tz_convert("UTC").tz_localize(None).isoformat()
    clocks = [text.removesuffix("T00:00:00") for text in (stamp.tz_localize(None).isoformat(), utc)]
    return f"{utc}Z", *(clocks if asked else [f"{clock} on a clock" for clock in clocks])
