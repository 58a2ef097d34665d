"""Labels in files: each comes back equal and of its type, or is refused in words."""

import datetime
import enum
import json
import math
import uuid
from collections.abc import Hashable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from dateutil import tz as dateutil

from hiertorch.draws.naming import decode_index, decode_label, encode_index, encode_label, label_text, unsavable
from hiertorch.draws.zones import decode_zone, encode_zone
from hiertorch.errors import DataError


class Colour(enum.Enum):
    RED = "r"
    BLUE = ("b", 1)


class Level(enum.IntEnum):
    LOW = 1


class Place(NamedTuple):
    """Not a label that a file keeps."""

    state: str
    county: str


BERLIN = ZoneInfo("Europe/Berlin")
FIXED = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
NAMED = datetime.timezone(datetime.timedelta(hours=-3), "Brasilia")
ZONES = [
    *(BERLIN, ZoneInfo("UTC"), datetime.UTC, FIXED, NAMED),
    *(dateutil.gettz("Europe/Berlin"), dateutil.tzutc(), dateutil.tzoffset("east", 3600), dateutil.tzoffset(None, -60)),
]
SUMMER, WINTER = datetime.datetime(2020, 10, 25, 2, 30), datetime.datetime(2020, 10, 25, 2, 30, fold=1)
LABELS: list[Hashable] = [
    *(3, -1, 2**70, "3", "", 'a "b"\n\\', "é\ud800", 2.5, -math.inf, 1e-300, True, False),
    *(np.int64(4), np.uint8(4), np.float32(0.1), np.float16(0.1), np.str_("x"), np.bool_(False), np.bytes_(b"a\0b")),
    *(np.datetime64("2020-01-01"), np.datetime64("2020-01-01T00:00:00.5", "ns"), np.timedelta64(3, "25m")),
    *(b"", b"\x00\xff", uuid.UUID(int=7), Decimal("1.10"), Decimal("-1E+9"), Fraction(1, 3), 1 - 2j),
    *(Colour.RED, Colour.BLUE, Level.LOW),
    *(pd.Timestamp("2020-01-01 03:04:05.000006"), pd.Timestamp("1677-09-22 00:12:43.145224193")),
    *(pd.Timestamp("1066-10-14").as_unit("s"), pd.Timestamp("2020-01-01").as_unit("ms")),
    *(pd.Timestamp("2020-07-01 12:00", tz=zone) for zone in ZONES),
    *(pd.Timestamp(clock, tz=BERLIN) for clock in (SUMMER, WINTER)),
    *(datetime.date(2020, 2, 29), datetime.datetime(2020, 2, 29, 1, 2, 3, 4)),
    *(clock.replace(tzinfo=zone) for clock in (SUMMER, WINTER) for zone in ZONES),
    *(datetime.time(1, 2, 3, 4), datetime.time(1, tzinfo=FIXED)),
    *(datetime.timedelta(days=-1, microseconds=7), pd.Timedelta("1 days 00:00:00.000000001"), pd.Timedelta(3, "s")),
    *(pd.Period("2020Q1"), pd.Period("2020-03", "M"), pd.Period("2020-03-04", "W-WED"), pd.Period("2020", "Y-JUN")),
    *(pd.Interval(0, 1), pd.Interval(0.5, 2.5, "left"), pd.Interval(0, 1, "both"), pd.Interval(0, 1, "neither")),
    pd.Interval(pd.Timestamp("2020", tz=BERLIN), pd.Timestamp("2021", tz=BERLIN), "left"),
    *((), ("MN", 1), ("MN", (1, None), pd.Interval(0, 1)), (Colour.RED, b"a")),
]


def through_json(encoded: Any) -> Any:
    return json.loads(json.dumps(encoded))


def same(label: Any, other: Any) -> bool:
    if isinstance(label, tuple) and isinstance(other, tuple):
        return len(label) == len(other) and all(map(same, label, other))
    return type(label) is type(other) and label == other and repr(label) == repr(other)


@pytest.mark.parametrize("label", LABELS, ids=repr)
def test_a_label_comes_back(label: Hashable) -> None:
    assert same(decode_label(through_json(encode_label(label))), label)
    found = decode_index(through_json(encode_index(pd.Index([label], dtype=object, tupleize_cols=False))))
    assert len(found) == 1 and same(found[0], label)


def test_times_of_an_hour_that_comes_twice_stay_apart() -> None:
    summer, winter = (pd.Timestamp(clock, tz=BERLIN) for clock in (SUMMER, WINTER))
    one, other = (decode_label(through_json(encode_label(x))) for x in (summer, winter))
    assert other - one == pd.Timedelta(1, "h") and (one.fold, other.fold) == (0, 1)


HOURS = pd.date_range("2020-10-25", periods=5, freq="h", tz="Europe/Berlin")  # one of them comes twice
INDEXES = [
    pd.RangeIndex(3),
    pd.Index([1970, 1971], dtype="int32", name="year"),
    pd.Index([2.5, -math.inf]),
    pd.Index([2**63], dtype="uint64"),
    pd.Index([True, False]),
    pd.Index([1, 2], dtype="Int64"),
    pd.Index([0.5], dtype="Float64"),
    pd.Index([True], dtype="boolean"),
    pd.Index(["a", "é"], name=("of", 2)),
    pd.Index(["a"], dtype="string"),
    pd.Index(["b", "a"], dtype=object),
    pd.Index(list(dict.fromkeys(LABELS)), dtype=object, tupleize_cols=False),
    pd.DatetimeIndex(["2020-01-01", "1999-12-31 23:59:59.999999999"]),
    pd.DatetimeIndex(["1066-10-14"]).as_unit("s"),
    HOURS.rename("hour"),
    *(HOURS.tz_convert(zone) for zone in ZONES),
    pd.TimedeltaIndex([pd.Timedelta(1), pd.Timedelta(-1, "D")]),
    pd.period_range("2020-03", periods=3, freq="Q-MAR", name="quarter"),
    pd.interval_range(0, 3),
    pd.IntervalIndex.from_breaks([0.0, 1.5, math.inf], closed="left", name="band"),
    pd.IntervalIndex.from_breaks(HOURS, closed="neither"),
    pd.IntervalIndex.from_breaks(HOURS.tz_convert(dateutil.gettz("Europe/Berlin"))),
    pd.IntervalIndex.from_breaks(pd.TimedeltaIndex([pd.Timedelta(1), pd.Timedelta(5)])),
    pd.Index([], dtype="int64"),
]


@pytest.mark.parametrize("index", INDEXES, ids=lambda index: f"{index.dtype} {index[:1].tolist()}"[:60])
def test_an_index_comes_back(index: pd.Index) -> None:
    found = decode_index(through_json(encode_index(index)))
    assert found.dtype == index.dtype and found.name == index.name
    assert all(same(*pair) for pair in zip(found, index, strict=True))
    assert list(found.get_indexer(index)) == list(range(len(index)))


@pytest.mark.parametrize("zone", ZONES, ids=repr)
def test_a_zone_comes_back(zone: datetime.tzinfo) -> None:
    found = decode_zone(through_json(encode_zone(zone)))
    assert type(found) is type(zone) and found == zone and str(found) == str(zone)


def test_zones_of_pytz_come_back() -> None:
    pytz = pytest.importorskip("pytz")
    berlin = pytz.timezone("Europe/Berlin")
    for zone in (berlin, pytz.utc, pytz.FixedOffset(90)):
        assert decode_zone(through_json(encode_zone(zone))) is zone
        stamp = pd.Timestamp("2020-07-01 12:00", tz=zone)
        assert same(decode_label(through_json(encode_label(stamp))), stamp)
    for summer in (True, False):
        label = berlin.localize(datetime.datetime(2020, 10, 25, 2, 30), is_dst=summer)
        assert same(decode_label(through_json(encode_label(label))), label)


def made_here() -> Hashable:
    class Local(enum.Enum):
        A = 1

    return Local.A


@pytest.mark.parametrize(
    ("label", "why"),
    [
        (made_here(), "module tests?.*which is not there: import it first"),
        (Place("MN", "Aitkin"), r"its type is \S*Place, and a file keeps text, numbers"),
        (frozenset((1, 2)), "its type is builtins.frozenset"),
        (np.longdouble(1) / 3, "its type is numpy.longdouble"),
        ((1, math.nan), "it would come back as"),
        (pd.Timestamp("2020", tz=dateutil.tzlocal()), "has no name or offset by which it could be found again"),
        (datetime.datetime(2020, 1, 1, tzinfo=dateutil.tzstr("EST5EDT")), "has no name or offset"),
    ],
)
def test_a_label_that_would_not_come_back_is_refused(label: Hashable, why: str) -> None:
    index = pd.Index([label], dtype=object, tupleize_cols=False)
    with pytest.raises(DataError, match=rf"can't save label.*{why}.*Make such labels text, with str, in the data"):
        encode_index(index)
    (found,) = unsavable({"fine": pd.Index([1, 2]), "odd": index}, {})
    assert found.startswith("grouping 'odd': can't save label")
    (found,) = unsavable({}, {"fine": [["x"], [1, 2]], "beta": [["x"], [label]]})
    assert found.startswith("the entries of 'beta': can't save label")


def test_an_enum_that_is_gone_is_named() -> None:
    encoded = encode_label(Colour.RED)
    assert encoded == {"enum": [__name__, "Colour", "RED"]}
    with pytest.raises(ValueError, match=r"a label is Shade.RED, of module shades, .* import it first"):
        decode_label({"enum": ["shades", "Shade", "RED"]})
    with pytest.raises(ValueError, match="import it first"):  # no class, and nothing is called
        decode_label({"enum": ["os", "system", "RED"]})


def test_what_is_no_label_of_ours() -> None:
    for encoded in ({"thing": 1}, {"numpy.ndarray": [1]}, {"numpy.load": "a"}):
        with pytest.raises(ValueError, match="a label of unknown type"):
            decode_label(encoded)


def test_labels_in_words() -> None:
    assert label_text(("MN", ("a", 2))) == "MN:a:2"
