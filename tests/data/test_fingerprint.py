import datetime
import json
import pickle
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

import hiertorch as ht
from hiertorch.data.fingerprint import Fingerprint
from hiertorch.errors import DataError


def frame_of_rows(rows=40):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"y": rng.normal(size=rows), "x": rng.normal(size=rows), "g": rng.integers(5, size=rows)})
    return frame.assign(w=rng.integers(1, 3, rows))


def read(frame, **options):
    return ht.Data.from_frame(frame, "y", ["g"], ["x"], **({"weights": "w"} | options))


def mark(frame, **options):
    return read(frame, **options).fingerprint


def test_the_same_numbers_in_any_form_have_one_fingerprint():
    frame = frame_of_rows()
    data = read(frame)
    again = ht.Data(
        frame.y.tolist(),
        groups={"g": frame.g.astype(float).tolist()},
        weights=frame.w.to_numpy(),
        x=torch.tensor(frame.x),
    )
    assert data.fingerprint == again.fingerprint == pickle.loads(pickle.dumps(data)).fingerprint
    assert data.fingerprint == mark(frame.astype({"w": "Int8", "y": object}))
    assert data.fingerprint is data.fingerprint  # computed once


def test_rounding_for_a_run_keeps_the_fingerprint():
    frame = frame_of_rows()
    data = read(frame)
    one = data.to(dtype=torch.float32)
    assert one.y.dtype == torch.float32
    assert one.fingerprint == one.to(dtype=torch.float64).fingerprint == data.fingerprint
    assert mark(frame, dtype=torch.float32) == data.fingerprint
    assert data.take([0, 1, 2]).to(dtype=torch.float32).fingerprint == data.take([0, 1, 2]).fingerprint
    moved = data.to("meta")  # a device that can't be asked; what was known before stays known
    assert moved.fingerprint == moved.to(dtype=torch.float32).fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda f: f.assign(y=np.log1p(f.y**2)), "the response has other values, or its rows another order"),
        (lambda f: f.assign(y=np.nextafter(f.y, 9.0)), "the response has other values, or its rows another order"),
        (lambda f: f.assign(w=3 - f.w), "the row weights are others"),
        (lambda f: f[:-1], "there are 39 rows, not 40"),
        (lambda f: f.assign(x=-f.x), "column 'x' has other values"),
        (lambda f: f.assign(g=f.g + 1), "grouping 'g' has other labels, or other rows in its groups"),
        (lambda f: f.assign(g=f.g.astype(str)), "grouping 'g' has other labels, or other rows in its groups"),
        (lambda f: f.assign(g=np.roll(f.g, 1)), "grouping 'g' has other labels, or other rows in its groups"),
    ],
)
def test_any_change_is_found_and_named(change, found):
    frame = frame_of_rows()
    assert mark(frame).differences(mark(change(frame)))[0] == found
    assert mark(change(frame)).differences(mark(frame))


def test_shuffled_rows_differ_though_the_set_of_rows_does_not():
    frame = frame_of_rows()
    found = mark(frame).differences(mark(frame.sample(frac=1, random_state=0)))
    assert len(found) == 4  # response, weights, column, grouping


def test_what_only_the_others_have_is_no_difference():
    frame = frame_of_rows()
    more = ht.Data.from_frame(frame.assign(z=1.0, h="a"), "y", ["g", "h"], ["x", "z"], weights="w").fingerprint
    assert mark(frame).differences(more) == []
    assert more.differences(mark(frame)) == ["column 'z' is missing", "grouping 'h' is missing"]


def test_parts_and_replaced_responses_have_fingerprints_of_their_own():
    data = read(frame_of_rows())
    data.fingerprint  # noqa: B018, so that it is known
    marks = [data.fingerprint, data.rows(0, 5).fingerprint, data.take([1, 0]).fingerprint]
    marks += [data.replace(y=data.y + 1).fingerprint, data.replace(weights=data.weights + 1).fingerprint]
    assert len({(one.n_rows, one.response, one.weights) for one in marks}) == 5
    assert data.replace(weights=torch.ones(40)).fingerprint == mark(frame_of_rows(), weights=None)
    assert data.take(torch.arange(5)).fingerprint == data.rows(0, 5).fingerprint
    wide = ht.Data(torch.zeros(2, 6)).fingerprint
    assert wide.differences(ht.Data(torch.zeros(3, 6)).fingerprint)  # a chain more


LABELS = [
    [1, 2],
    [10**30, 2],
    [1.5, 2.0],
    ["1", "2"],
    ["12", ""],
    ["", "12"],
    [False, True],
    [("a", 1), ("a", 2)],
    [("a", "1"), ("a", 2)],
    pd.to_datetime(["2020-01-01", "2020-01-02"]),
    pd.to_datetime(["2020-01-01", "2020-01-02"], utc=True),
    [datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)],
    pd.period_range("2020-01-01", periods=2, freq="D"),
    [Decimal(1), Decimal(2)],
    [b"1", b"2"],
]


def test_labels_of_all_types_are_told_apart():
    marks = [ht.Data([0.0, 1.0], groups={"g": labels}).fingerprint.groups["g"] for labels in LABELS]
    again = [ht.Data([0.0, 1.0], groups={"g": labels}).fingerprint.groups["g"] for labels in LABELS]
    assert len(set(marks)) == len(LABELS)
    assert marks == again


def test_it_goes_through_json():
    known = mark(frame_of_rows())
    assert Fingerprint.from_json(json.loads(json.dumps(known.to_json()))) == known


@pytest.mark.parametrize("found", [None, 3, {}, [], {"rows": "1:a:b"}, {"rows": "x", "columns": {}, "groups": {}}])
def test_what_is_none_is_refused(found):
    with pytest.raises(DataError, match="expected a fingerprint of data"):
        Fingerprint.from_json(found)


def test_zero_has_no_sign():
    assert ht.Data([0.0, 1.0]).fingerprint == ht.Data([-0.0, 1.0]).fingerprint


def test_posteriors_and_criteria_carry_it():
    frame = frame_of_rows()
    data = read(frame)
    posterior = ht.sample(
        ht.models.VaryingIntercepts("g", priors="tutorial"), data, seed=1, chains=4, draws=50, progress=False
    )
    rounded = ht.sample(
        ht.models.VaryingIntercepts("g", priors="tutorial"),
        data,
        seed=1,
        chains=4,
        draws=50,
        progress=False,
        dtype=torch.float32,
    )
    assert posterior.fingerprint == rounded.fingerprint == data.fingerprint
    assert posterior.criterion().fingerprint == data.fingerprint
    assert posterior.kfold(2, chains=2, draws=25).fingerprint == data.fingerprint
