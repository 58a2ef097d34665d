import datetime
import enum
import uuid
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

import hiertorch as ht
from hiertorch.data.spelling import clashes, spellings
from hiertorch.errors import DataError, SamplingWarning
from hiertorch.models import VaryingIntercepts


class Colour(enum.Enum):
    RED = "r"


ONE = uuid.UUID("12345678-1234-5678-1234-567812345678")
BERLIN = pd.Timestamp("2020-01-01 10:00", tz="Europe/Berlin")
ALIKE = [
    ("01001", 1001),
    ("01001", "1001"),
    (1.0, "1"),
    (1, "1.0"),
    (1, " 1 "),
    (0, "-0"),
    (False, 0),
    (True, "TRUE"),
    (np.bool_(False), "false"),
    (0.1, "0.10"),
    (0.1, np.float32(0.1)),
    (0.1, float(np.float32(0.1))),
    (0.3, 0.1 + 0.2),
    (1000, "1e3"),
    (1e30, "1e30"),
    (10**30, Decimal(10**30)),
    (1e-7, "0.0000001"),
    (Decimal("1.50"), 1.5),
    (Fraction(1, 2), "0.5"),
    (np.int8(5), "5"),
    ("a ", "A"),
    ("New  York", "new york\t"),
    ("New\u00a0York", "New York"),
    ("a\u200bb", "ab"),
    ("\u00e9", "e\u0301"),
    ("stra\u00dfe", "STRASSE"),
    ("\uff11\uff12", 12),
    ("\u0661", 1),
    ("a", b"a"),
    (b"01", 1),
    (pd.Timestamp("2020-01-01"), pd.Timestamp("2020-01-01", tz="UTC")),
    (pd.Timestamp("2020-01-01 10:00"), BERLIN),
    (pd.Timestamp("2020-01-01 09:00"), BERLIN),
    (BERLIN, "2020-01-01T09:00:00Z"),
    (BERLIN, "2020-01-01 10:00:00+01:00"),
    (pd.Timestamp("2020-01-01"), datetime.date(2020, 1, 1)),
    (datetime.date(2020, 1, 1), "2020-01-01"),
    (datetime.date(2020, 1, 1), "2020/1/1"),
    (datetime.date(2020, 1, 1), "2020-01-01 00:00:00"),
    (datetime.date(2020, 1, 1), 20200101),
    (datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), "2020-01-01"),
    (np.datetime64("2020-01-01"), datetime.date(2020, 1, 1)),
    (pd.Period("2020-01-01", "D"), "2020-01-01"),
    (pd.Period("2020", "Y"), 2020),
    (("CA", "01"), ("ca", 1)),
    (("CA", (1, "b")), ("CA", (1.0, "B"))),
    (ONE, str(ONE).upper()),
    (ONE, ONE.hex),
    (Colour.RED, "r"),
    (Colour.RED, "red"),
]
APART = [
    ("a", "b"),
    ("1", "10"),
    (1, 2),
    ("1a", 1),
    (0.1, 0.11),
    (2**53, 2**53 + 1),
    ("a-b", "a b"),
    (True, "yes"),
    (pd.Timestamp("2020-01-01"), pd.Timestamp("2020-01-02")),
    (BERLIN, BERLIN + pd.Timedelta("1h")),
    (BERLIN, pd.Timestamp("2020-01-01 10:00", tz="UTC")),
    (datetime.date(2020, 1, 1), "2020-01"),
    (("a", 1), ("a", 2)),
    ("\u00e9", "e"),
    ("1e999999999", 10),
]


def indices(one, other):
    return (pd.Index([label], dtype=object, tupleize_cols=False) for label in (one, other))


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_spellings_of_one_label(one, other):
    for known, fresh in ((one, other), (other, one)):
        a, b = indices(known, fresh)
        assert spellings(a, b) == {fresh: known}
        assert clashes(pd.Index([known, fresh], dtype=object, tupleize_cols=False)) == [(fresh, known)]


@pytest.mark.parametrize(("one", "other"), APART)
def test_labels_of_two_groups(one, other):
    for known, fresh in ((one, other), (other, one)):
        a, b = indices(known, fresh)
        assert spellings(a, b) == {}


def test_hours_with_a_time_zone_are_not_taken_for_one_another():
    hours = pd.date_range("2020-03-01", periods=2000, freq="h", tz="Europe/Berlin")  # through a change of the clock
    assert spellings(hours, hours + pd.Timedelta(days=90)) == {}
    assert clashes(pd.Index(hours.astype(object))) == []


RNG = np.random.default_rng(0)


def fit(labels, draws=100):
    groups = pd.Series(labels).take(np.repeat(np.arange(len(labels)), 30)).array
    y = np.repeat(np.linspace(-3, 3, len(labels)), 30) + RNG.normal(0, 0.3, 30 * len(labels))
    data = ht.Data.from_frame(pd.DataFrame({"g": groups, "y": y}), "y", ["g"], [])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two groups, and of short runs
        return ht.sample(VaryingIntercepts("g"), data, seed=1, chains=4, draws=draws, progress=False)


FRAMES = [
    (["01001", "01003"], [1001, 1003]),
    ([1.0, 2.0], ["1", "2"]),
    ([False, True], [0, 1]),
    (pd.to_datetime(["2020-01-01", "2020-01-02"]), pd.to_datetime(["2020-01-01", "2020-01-02"], utc=True)),
    (["north", "south"], ["north ", "South"]),
    (["\u00e9", "b"], ["e\u0301", "b"]),
    (pd.Categorical(["x", "y"]), ["X", "y"]),
    (["x", "y"], pd.Categorical(["X", "y"])),
    (np.array([0.1, 0.2], np.float32), [0.1, 0.2]),
]


@pytest.mark.parametrize(("fitted", "later"), FRAMES)
def test_a_known_group_in_another_spelling_is_no_new_group(fitted, later):
    posterior = fit(fitted, draws=20)
    rows = pd.DataFrame({"g": pd.Series(fitted)})
    assert posterior.predict(rows, new_groups="error").summary["mean"].round(0).tolist() == [-3.0, 3.0]
    rows = pd.DataFrame({"g": pd.Series(later), "y": 0.0})
    asks = [
        lambda f: posterior.predict(f[["g"]]),
        lambda f: posterior.predict(f[["g"]], new_groups="sample"),
        posterior.condition,
        posterior.update,
        lambda f: ht.monitor(posterior, f),
    ]
    for ask in asks:
        with pytest.raises(
            DataError, match=r"in the data that were fitted, in another spelling or type.*distinct=True"
        ):
            ask(rows)


def test_groups_that_differ_indeed():
    posterior, rows = fit(["north", "south"], draws=20), pd.DataFrame({"g": ["North"], "y": 0.0})
    found = posterior.predict(rows[["g"]], distinct=True, new_groups="sample")
    assert found.new["g"].tolist() == ["North"]
    assert posterior.condition(rows, distinct=True).labels["g"].tolist() == ["North"]
    with pytest.raises(DataError, match="distinct= is True or False; found 'yes'"):
        posterior.predict(rows[["g"]], distinct="yes")


def test_new_groups_are_warned_of():
    posterior = fit(["north", "south", "east", "west"])
    rows = pd.DataFrame({"g": ["up", "Up", "down", "north"], "y": 0.0})
    said = (
        r"^the rows have groups that were not fitted, 3 of 'g' \('up', 'Up', 'down'\): .*\. 'Up' and 'up' may be one "
        r"group\. If that is meant, pass new_groups="
    )
    for ask in (lambda f: posterior.predict(f[["g"]]), posterior.update, lambda f: ht.monitor(posterior, f)):
        with pytest.warns(SamplingWarning, match=said) as caught:
            ask(rows)
        assert {one.filename for one in caught if "not fitted" in str(one.message)} == {__file__}
    silent = [
        lambda: posterior.predict(rows[["g"]], new_groups="sample"),
        lambda: posterior.predict(rows[["g"]], new_groups="population"),
        lambda: posterior.predict(rows[["g"]][3:]),
        lambda: ht.monitor(posterior, rows, new_groups=0.1),
        lambda: posterior.update(rows, new_groups="sample"),
    ]
    for ask in silent:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ask()
        assert not [one for one in caught if "not fitted" in str(one.message)]
    with pytest.raises(DataError, match=r"new_groups='error', and the frame has new groups: g 'up', 'Up', 'down'"):
        posterior.update(rows, new_groups="error")
    with pytest.raises(DataError, match="new_groups= is one of sample, error; found 'population'"):
        posterior.update(rows, new_groups="population")


def findings(data):
    return data.check(VaryingIntercepts("g")).query("finding.str.contains('spelling|2\\^53')")


def test_labels_of_one_frame_that_clash_are_said():
    frame = pd.DataFrame({"g": ["a", "A ", "b", "01", "1"] * 6, "y": RNG.normal(size=30)})
    found = findings(ht.Data.from_frame(frame, "y", ["g"], []))
    assert found["severity"].tolist() == ["warning"]
    assert found["finding"].tolist() == [
        "labels '01' and '1' are two groups (with 1 further pair), and may be one in two spellings."
    ]
    assert findings(ht.Data.from_frame(frame.assign(g=list("abcde") * 6), "y", ["g"], [])).empty


def test_levels_of_a_predictor_that_clash_are_said():
    frame = pd.DataFrame({"g": list("abc") * 10, "y": RNG.normal(size=30), "level": ["2", "2 ", "3"] * 10})
    found = findings(ht.Data.from_frame(frame, "y", ["g"], ["level=2"]))
    assert found["about"].tolist() == ["level"]
    posterior = ht.sample(
        VaryingIntercepts("g", ["level=2"]),
        ht.Data.from_frame(frame.assign(level=["2", "3", "3"] * 10), "y", ["g"], ["level=2"]),
        seed=1,
        chains=4,
        draws=20,
        progress=False,
    )
    assert posterior.predict(pd.DataFrame({"g": ["a"], "level": [2]})).draws.isfinite().all()  # a whole number is "2"
    for other in (2.0, "2 ", "02"):
        with pytest.raises(DataError, match="which the data that were fitted do not have"):
            posterior.predict(pd.DataFrame({"g": ["a"], "level": [other]}))


@pytest.mark.parametrize("labels", [[1, True, 2], [0.0, 2, False], [("a", 1), ("a", True), ("b", 0)]])
def test_truth_values_among_numbers_are_refused(labels):
    with pytest.raises(DataError, match="which Python holds for one label"):
        ht.Data([0.0] * 3, groups={"g": pd.Series(labels, dtype=object)})


def test_truth_values_alone_are_labels():
    assert ht.Data([0.0] * 3, groups={"g": [True, False, True]}).labels["g"].tolist() == [False, True]
    assert len(ht.Data([0.0] * 3, groups={"g": pd.Series([True, "a", 2], dtype=object)}).labels["g"]) == 3


def test_float_labels_that_may_have_been_rounded_are_said():
    numbers = np.repeat([2.0**53, 2.0**53 + 2, 3.0], 10)
    found = findings(ht.Data(RNG.normal(size=30), groups={"g": numbers}))
    assert found["finding"].tolist() == ["label 9007199254740992.0 is a number beyond 2^53, which float64 rounds."]
