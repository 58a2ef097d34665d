"""Time zones as JSON and back. A zone comes back as the same library's: Python compares times of one zone by their
clocks and those of two by the instant.
"""

import datetime
from typing import Any
from zoneinfo import ZoneInfo

from dateutil import tz as dateutil


def encode_zone(zone: datetime.tzinfo | None) -> object:
    """A time zone as JSON, or None for none.

    Raises:
        ValueError: for a zone that can't be made again from its name or offset.
    """
    if zone is None:
        return None
    encoded = _encoded(zone)
    again = None if encoded is None else decode_zone(encoded)
    if again != zone and str(again) != str(zone):  # a zone of pytz has a part for each offset, unlike the whole
        raise ValueError(f"time zone {zone!r} has no name or offset by which it could be found again")
    return encoded


def decode_zone(content: object) -> datetime.tzinfo | None:
    """The zone that `encode_zone` was given."""
    encoded: Any = content
    if encoded is None:
        return None
    ((kind, value),) = encoded.items()
    if kind == "zoneinfo":
        return ZoneInfo(value)
    if kind == "offset":
        seconds, name = value
        offset = datetime.timedelta(seconds=seconds)
        if seconds == 0 and name is None:
            return datetime.UTC
        return datetime.timezone(offset) if name is None else datetime.timezone(offset, name)
    if kind == "dateutil":
        found = dateutil.tzutc() if value == "tzutc" else dateutil.gettz(value)
        if found is None:
            raise ValueError(f"this machine has no time zone {value!r}")
        return found
    if kind == "dateutil.tzoffset":
        name, seconds = value
        return dateutil.tzoffset(name, seconds)
    if kind in ("pytz", "pytz.FixedOffset"):
        import pytz  # a zone of it is there, or was: pandas asks for it no longer

        return pytz.timezone(value) if kind == "pytz" else pytz.FixedOffset(value)
    raise ValueError(f"a time zone of unknown kind {kind!r}")


def _encoded(zone: datetime.tzinfo) -> dict[str, object] | None:
    library = type(zone).__module__.partition(".")[0]
    if isinstance(zone, ZoneInfo):
        return None if zone.key is None else {"zoneinfo": zone.key}
    if isinstance(zone, datetime.timezone):
        offset = zone.utcoffset(None)
        name = zone.tzname(None)
        return {"offset": [offset.total_seconds(), None if name == datetime.timezone(offset).tzname(None) else name]}
    if isinstance(zone, dateutil.tzutc):
        return {"dateutil": "tzutc"}
    if isinstance(zone, dateutil.tzoffset):
        offset = zone.utcoffset(None)
        return None if offset is None else {"dateutil.tzoffset": [zone.tzname(None), offset.total_seconds()]}
    if isinstance(zone, dateutil.tzfile):  # which shows the file that it was read from
        file = repr(zone).removeprefix("tzfile(").removesuffix(")").strip("'\"")
        return {"dateutil": file.rpartition("zoneinfo/")[2]}
    if library == "pytz":
        if getattr(zone, "zone", None) is not None:
            return {"pytz": zone.zone}  # type: ignore[attr-defined]
        fixed = zone.utcoffset(None)
        return None if fixed is None else {"pytz.FixedOffset": int(fixed.total_seconds() // 60)}
    return None
